"""CRDs for the Litmus kinds, made from our own schema, and an operator that gives the verdicts it is told to.

Litmus' CRDs are in no package registry. An API server with these refuses whatever our schema refuses (types, patterns,
enums, unknown fields), which is more than one with Litmus' own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sf_healer.chaos import litmus
from tests.lab.beside import Looking

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.kube import ControlPlane

GROUP, VERSION = litmus.API_VERSION.split("/")
_LOOK_SECONDS = 0.1
_OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_KEPT = ("type", "pattern", "enum", "minLength", "maxLength", "minimum", "required")


def crds() -> list[dict[str, Any]]:
    """Make the CRDs of ChaosEngine, ChaosExperiment, ChaosSchedule and (open) ChaosResult."""
    made = []
    for struct in (litmus.ChaosEngine, litmus.ChaosExperiment, litmus.ChaosSchedule):
        _, components = msgspec.json.schema_components([struct])
        schema = _structural(components[struct.__name__], components)
        schema["properties"] |= {"metadata": {"type": "object"}, "kind": {"type": "string"}, "status": _OPEN}
        made.append(_crd(struct.__name__, schema))
    return [*made, _crd("ChaosResult", _OPEN)]


def _crd(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": f"{singular}s", "singular": singular, "listKind": f"{kind}List"},
            "versions": [
                {"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }


def _structural(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Rewrite JSON Schema as Kubernetes' structural one: no references, no null, no `additionalProperties: false`."""
    if "$ref" in schema:
        return _structural(components[schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        (only,) = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return _structural(only, components)
    made = {key: schema[key] for key in _KEPT if key in schema}
    if "pattern" in made:
        made["pattern"] = made["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    if "enum" in made:
        made["type"] = "string"
    if "properties" in schema:
        made["properties"] = {name: _structural(each, components) for name, each in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _structural(schema["additionalProperties"], components)
    if "items" in schema:
        made["items"] = _structural(schema["items"], components)
    return made


class Operator(Looking):
    """Stands in for chaos-operator and go-runner: takes engines one by one, hurts nothing, says what it is told."""

    def __init__(self, plane: ControlPlane, namespace: str, answer: Callable[[str], str | None]) -> None:
        super().__init__("litmus-operator", every_seconds=_LOOK_SECONDS)
        self._plane = plane
        self._base = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}"
        self._answer = answer  # the verdict for an engine's name; None: it never ends
        self.seen: list[dict[str, Any]] = []
        self.overlapped = False

    def engines(self) -> list[dict[str, Any]]:
        """List the engines there are."""
        items: list[dict[str, Any]] = self._plane.call("GET", f"{self._base}/chaosengines").body["items"]
        return items

    def look(self) -> None:
        """Take the engines that nobody has played yet."""
        going = [each for each in self.engines() if "status" not in each]
        self.overlapped |= len(going) > 1
        for engine in going:
            self._play(engine)

    def _play(self, engine: dict[str, Any]) -> None:
        name = engine["metadata"]["name"]
        if name not in [each["metadata"]["name"] for each in self.seen]:
            self.seen.append(engine)
        verdict = self._answer(re.sub(r"-\d+t\d+\Z", "", name))
        if verdict is None:
            return
        (experiment,) = engine["spec"]["experiments"]
        probes = [
            {
                "name": probe["name"],
                "type": probe["type"],
                "mode": probe["mode"],
                "status": {"verdict": "Passed" if verdict == "Pass" else "Failed", "description": "as told"},
            }
            for probe in experiment["spec"]["probe"]
        ]
        result = {
            "apiVersion": litmus.API_VERSION,
            "kind": "ChaosResult",
            "metadata": {"name": f"{name}-{experiment['name']}"},
            "status": {
                "experimentStatus": {"phase": "Completed", "verdict": verdict, "probeSuccessPercentage": "100"},
                "probeStatuses": probes,
            },
        }
        assert self._plane.call("POST", f"{self._base}/chaosresults", result).status == 201
        done = engine | {"status": {"engineStatus": "completed"}}
        self._plane.call("PUT", f"{self._base}/chaosengines/{name}", done)
