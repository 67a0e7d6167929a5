"""The files of litmus/, read once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sf_healer.chaos import litmus
from tests.manifests.built import Strict

LITMUS = Path(__file__).parents[2] / "litmus"
FILES = sorted(LITMUS.rglob("*.yaml"))
ENGINE_FILES = sorted(path for path in (LITMUS / "engines").glob("*.yaml") if path.name != "kustomization.yaml")


def documents(path: Path) -> list[dict[str, Any]]:
    """Read the documents of a file."""
    return list(yaml.load_all(path.read_text(), Loader=Strict))  # a safe loader


def engines_of(path: Path) -> list[litmus.ChaosEngine]:
    """Read the engines of a file."""
    found = [litmus.parse(each) for each in documents(path)]
    return [each for each in found if isinstance(each, litmus.ChaosEngine)]


ENGINES = [engine for path in ENGINE_FILES for engine in engines_of(path)]
