"""The files of argo/, built once for all tests, and Argo's own answers about them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.lab.argo import installation
from tests.manifests.built import Name, Strict, kustomize

ARGO = Path(__file__).parents[2] / "argo"
FILES = sorted(ARGO.rglob("*.yaml"))
OVERLAYS = tuple(sorted(path.name for path in (ARGO / "overlays").iterdir()))
#: The rest of the platform's queue-manager, as far as our files count on it.
PLATFORM = Path(__file__).with_name("platform.yaml")

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """Read the documents of a file."""
    return list(yaml.load_all(path.read_text(), Loader=Strict))  # a safe loader


@functools.cache
def text_of(overlay: str) -> str:
    """Build an overlay as `kubectl apply -k` does."""
    return kustomize(ARGO / "overlays" / overlay)


def objects(text: str) -> dict[Name, Object]:
    """Read what kustomize wrote, by kind and name."""
    listed = [each for each in yaml.load_all(text, Loader=Strict) if each]  # a safe loader
    found = {Name(each["kind"], each["metadata"]["name"]): each for each in listed}
    assert len(found) == len(listed), "no two objects of one kind and name"
    return found


def build(overlay: str) -> dict[Name, Object]:
    """Give an overlay's objects."""
    return objects(text_of(overlay))


def composed(text: str, at: Path) -> dict[Name, Object]:
    """Build a kustomization of somebody's own, which names ours as ARGO."""
    there = os.path.relpath(ARGO, at.resolve())
    (at / "kustomization.yaml").write_text(text.replace("ARGO", there))
    return objects(kustomize(at))


def ask_argo(given: list[Object], results: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Ask Argo's own code about Rollouts and AnalysisTemplates: tests/lab/argo/checks/main.go."""
    question = json.dumps({"objects": given, "results": results or {}})
    done = subprocess.run([installation.checks()], input=question, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
