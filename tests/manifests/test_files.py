"""The files of manifests/ as they are: strict YAML, made from the code where they repeat it, none forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sf_healer import topics
from sf_healer.adapters.policy_file import SHIPPED_POLICY
from sf_healer.settings import Settings
from tests.manifests.built import MANIFESTS, Strict

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(path for path in MANIFESTS.rglob("*.yaml"))
KUSTOMIZATIONS = [path for path in FILES if path.name == "kustomization.yaml"]


def shown(path: Path) -> str:
    return str(path.relative_to(MANIFESTS))


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_file_is_yaml_in_which_no_key_stands_twice(path: Path):
    documents = list(yaml.load_all(path.read_text(), Loader=Strict))  # a safe loader
    assert all(each is None or {"apiVersion", "kind"} <= each.keys() for each in documents)
    for patch in _kustomization(path).get("patches", []) if path in KUSTOMIZATIONS else []:
        assert yaml.load(patch["patch"], Loader=Strict)  # a safe loader


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=shown)
def test_a_component_is_called_one_and_nothing_else_is(path: Path):
    content = _kustomization(path)
    is_component = "components" in path.relative_to(MANIFESTS).parts
    assert content["kind"] == ("Component" if is_component else "Kustomization")
    assert content["apiVersion"] == f"kustomize.config.k8s.io/{'v1alpha1' if is_component else 'v1beta1'}"


def test_every_file_and_every_directory_is_part_of_an_overlay():
    reached: set[Path] = set()
    for overlay in (MANIFESTS / "overlays").iterdir():
        reached |= _reached_from(overlay)
    there = {shown(path) for path in MANIFESTS.rglob("*") if path.is_file()}
    assert there == {shown(path) for path in reached}


def test_the_topics_are_those_of_the_code():
    shipped = (MANIFESTS / "kafka" / "topics" / "topics.yaml").read_text()
    assert shipped == topics.kafka_topics(Settings()), "run: sf-healer topics --kafka-topics"


def test_the_policy_is_the_shipped_one():
    assert (MANIFESTS / "shared" / "policy.toml").read_text() == SHIPPED_POLICY.read_text(), (
        "copy sf_healer/policy.toml"
    )


def _reached_from(directory: Path) -> set[Path]:
    file = (directory / "kustomization.yaml").resolve()
    content, found = _kustomization(file), {file}
    generated = [name for each in content.get("configMapGenerator", []) for name in _sources(each)]
    for name in (*content.get("resources", []), *content.get("components", []), *generated):
        path = (directory / name).resolve()
        found |= _reached_from(path) if path.is_dir() else {path}
    return found


def _sources(generator: dict[str, Any]) -> list[str]:
    return [name.rpartition("=")[2] for name in (*generator.get("files", []), *generator.get("envs", []))]


def _kustomization(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load(path.read_text(), Loader=Strict)  # a safe loader
    return content
