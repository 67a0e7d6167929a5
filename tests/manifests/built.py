"""What the overlays come to: strict YAML in, kustomize of the lab's kubectl, objects by kind and name out."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.lab.kube.installation import binary

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
#: What acts, and with which roles.
HEALS = frozenset({"heal", "heal-split"})


class Name(NamedTuple):
    """How an object is found."""

    kind: str
    name: str


class Strict(yaml.CSafeLoader):
    """YAML without the silent overwriting of a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  PyYAML's signature
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # merged ones may be overwritten
        keys = [self.construct_object(key, deep=True) for key in own]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


@functools.cache
def text_of(overlay: str) -> str:
    """Build an overlay as `kubectl apply -k` does."""
    return kustomize(MANIFESTS / "overlays" / overlay)


def kustomize(directory: Path) -> str:
    """Build a directory."""
    command = [str(binary()), "kubectl", "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(overlay: str) -> dict[Name, dict[str, Any]]:
    """Give an overlay's objects."""
    listed = [each for each in yaml.load_all(text_of(overlay), Loader=Strict) if each]  # a safe loader
    found = {Name(each["kind"], each["metadata"]["name"]): each for each in listed}
    assert len(found) == len(listed), "no two objects of one kind and name"
    return found


def of_kind(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    """Give an overlay's objects of a kind by name."""
    return {name.name: each for name, each in build(overlay).items() if name.kind == kind}


def settings_of(overlay: str, deployment: str) -> dict[str, str]:
    """Give the environment of a Deployment's container, without what only a Pod knows."""
    (container,) = of_kind(overlay, "Deployment")[deployment]["spec"]["template"]["spec"]["containers"]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {each["name"]: each["value"] for each in container["env"] if "value" in each}
