"""Each lint finds its example, and nothing else finds it; what Litmus takes silently the schema refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sf_healer.chaos import lints, litmus
from tests.chaos.engines import LITMUS, documents

ENGINE = documents(LITMUS / "engines" / "pod-delete-loader.yaml")[0]
LATENCY = documents(LITMUS / "engines" / "network-latency-healer.yaml")[0]
EXPERIMENT = documents(LITMUS / "experiments" / "pod-delete.yaml")[0]
SCHEDULE = documents(LITMUS / "schedule" / "chaosschedule.yaml")[0]

PROM, K8S, CMD, HTTP = "quiet-before", "pod-runs-again", "one-pod-runs", "healer-lives"
SOT, WHILE, ON_CHAOS = "quiet-before", "watermark-moves", "job-is-there"


def probe_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    probes = document["spec"]["experiments"][0]["spec"]["probe"]
    return next(each for each in probes if each["name"] == name)


def setting(document: dict[str, Any], name: str, value: str | None) -> None:
    env = document["spec"]["experiments"][0]["spec"]["components"]["env"]
    env[:] = [each for each in env if each["name"] != name]
    if value is not None:
        env.append({"name": name, "value": value})


def put(document: dict[str, Any], place: str, value: Any) -> None:
    """Set what lies at a place, `probe:NAME.key.key` or `key.key`; None takes it away."""
    at: Any = document
    *way, last = place.split(".")
    if way and way[0].startswith("probe:"):
        at, way = probe_of(document, way[0].removeprefix("probe:")), way[1:]
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value


def broken(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for place, value in changes.items():
        if place.startswith("env:"):
            setting(changed, place.removeprefix("env:"), value)
        else:
            put(changed, place, value)
    return changed


JOB = {"spec.selectors": None, "env:PODS_AFFECTED_PERC": "0"}
LABEL = "batch.kubernetes.io/job-name=x"
DEPLOYED = {"appns": "stf", "appkind": "deployment", "applabel": "a=b"}
SECOND = {"name": "pod-delete", "spec": {"components": {"env": []}, "probe": []}}
BREAKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("one-fault", ENGINE, {"spec.experiments": [*ENGINE["spec"]["experiments"], SECOND]}),
    ("appinfo-whole", ENGINE, JOB | {"spec.appinfo": {"appns": "stf", "appkind": "deployment"}}),
    ("appinfo-whole", ENGINE, JOB | {"spec.appinfo": {"appns": "stf", "applabel": LABEL}}),
    ("appinfo-whole", ENGINE, JOB | {"spec.appinfo": {"appns": "stf"}}),
    ("appinfo-whole", ENGINE, JOB | {"spec.appinfo": {"appkind": "deployment", "applabel": "a=b"}}),
    ("one-way-to-aim", ENGINE, JOB),
    ("one-way-to-aim", ENGINE, {"spec.appinfo": DEPLOYED}),
    ("one-way-to-aim", LATENCY, {"spec.selectors.workloads.0.labels": "a=b"}),
    ("one-kill", ENGINE, {"env:CHAOS_INTERVAL": "10"}),
    ("one-kill", ENGINE, {"env:RANDOMNESS": "true"}),
    ("one-kill", ENGINE, {"spec.selectors.pods.0.names": "a,b"}),
    ("percentage-counts", ENGINE, {"env:PODS_AFFECTED_PERC": "50"}),
    ("percentage-counts", ENGINE, {"spec.selectors": None, "spec.appinfo": DEPLOYED}),
    ("known-settings", ENGINE, {"env:KILL_COUNT": "1"}),
    ("known-settings", ENGINE, {"env:RAMP_TIME": "5s"}),
    ("known-settings", LATENCY, {"env:DESTINATION_PORTS": "9093"}),
    ("own-health-check-off", ENGINE, {"spec.defaultHealthCheck": True}),
    ("own-health-check-off", ENGINE, {"spec.defaultHealthCheck": None}),
    ("own-names", ENGINE, {f"probe:{PROM}.name": "fleet-is-calm"}),
    ("whole-way", LATENCY, {"env:DESTINATION_HOSTS": "k3-kafka-bootstrap.kafka.svc|9093"}),
    ("whole-way", LATENCY, {"env:DESTINATION_HOSTS": "k3-kafka-bootstrap.kafka.svc,k3-kafka-brokers.kafka.svc"}),
    ("own-inputs", ENGINE, {f"probe:{PROM}.type": "cmdProbe"}),
    ("stops-before-it-starts", ENGINE, {f"probe:{SOT}.runProperties.stopOnFailure": None}),
    ("asked-meanwhile", ENGINE, {f"probe:{WHILE}.runProperties.probePollingInterval": None}),
    ("asked-meanwhile", ENGINE, {f"probe:{WHILE}.runProperties.probePollingInterval": "45s"}),
    ("no-delay-on-chaos", ENGINE, {f"probe:{ON_CHAOS}.runProperties.initialDelay": "5s"}),
    ("fails-for-an-answer", ENGINE, {f"probe:{K8S}.k8sProbe/inputs.resourceNames": "a"}),
    ("fails-for-an-answer", ENGINE, {f"probe:{ON_CHAOS}.k8sProbe/inputs.fieldSelector": None}),
    ("survives-the-shell", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": 'sum(up{job="a"}) or vector(-1)'}),
    ("survives-the-shell", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "sum(up{job='$a'}) or vector(-1)"}),
    ("survives-the-shell", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "sum(up{job='a}) or vector(-1)"}),
    ("one-row", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "up or vector(-1)"}),
    ("one-row", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "sum by (a) (up) or vector(-1)"}),
    ("one-row", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "sum(up)"}),
    ("silence-is-no-pass", ENGINE, {f"probe:{PROM}.promProbe/inputs.query": "sum(up) or vector(0)"}),
    ("comparable", ENGINE, {f"probe:{PROM}.promProbe/inputs.comparator.criteria": "equal"}),
    ("comparable", ENGINE, {f"probe:{PROM}.promProbe/inputs.comparator.value": "none"}),
    ("comparable", ENGINE, {f"probe:{CMD}.cmdProbe/inputs.comparator.value": "1.0"}),
    ("comparable", ENGINE, {f"probe:{HTTP}.httpProbe/inputs.method.get.criteria": "oneOf"}),
    ("command-looks", ENGINE, {f"probe:{CMD}.cmdProbe/inputs.command": "kubectl -n stf delete pods --all"}),
    ("command-looks", ENGINE, {f"probe:{CMD}.cmdProbe/inputs.command": "kubectl get pods; reboot"}),
    ("command-looks", ENGINE, {f"probe:{CMD}.cmdProbe/inputs.comparator.type": None}),
    ("in-time", ENGINE, {f"probe:{K8S}.runProperties.probeTimeout": "2m"}),
    ("said", ENGINE, {"metadata.annotations": {}}),
    ("said", SCHEDULE, {"metadata.annotations": {}}),
    ("everywhere", ENGINE, JOB | {"spec.appinfo": {"appns": "stf", "appkind": "job", "applabel": LABEL}}),
    ("everywhere", ENGINE, JOB | {"spec.appinfo": {"appns": "stf", "appkind": "strimzipodset", "applabel": LABEL}}),
    ("everywhere", SCHEDULE, {"spec.engineTemplateSpec.selectors.workloads.0.kind": "job"}),
    ("pinned-image", EXPERIMENT, {"spec.definition.image": "litmuschaos/go-runner:latest"}),
    ("pinned-image", EXPERIMENT, {"spec.definition.image": "litmuschaos.docker.scarf.sh/litmuschaos/go-runner"}),
    ("least-rights", EXPERIMENT, {"spec.definition.permissions.0.verbs": ["*"]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lint", "document", "changes"), BREAKS, ids=[f"{lint}-{n}" for n, (lint, _, _) in enumerate(BREAKS)]
)
def test_a_lint_finds_what_it_is_for(lint: str, document: dict[str, Any], changes: dict[str, Any]):
    assert lints.faults(litmus.parse(document)) == ()
    found = lints.faults(litmus.parse(broken(document, changes)))
    assert {fault.lint for fault in found} == {lint}, found
    assert all(lint in str(fault) and fault.where in str(fault) for fault in found)


def test_what_is_not_asked_before_meanwhile_or_after_is_found():
    for modes in ({"SOT", "Edge"}, {"OnChaos", "Continuous"}, {"EOT"}):
        changed = copy.deepcopy(ENGINE)
        spec = changed["spec"]["experiments"][0]["spec"]
        spec["probe"] = [each for each in spec["probe"] if each["mode"] not in modes]
        assert {fault.lint for fault in lints.faults(litmus.parse(changed))} == {"judged"}


def test_every_lint_has_an_example():
    assert {lint for lint, _, _ in BREAKS} | {"judged"} == lints.names()


@pytest.mark.parametrize(
    ("document", "changes", "said"),
    [
        (ENGINE, {f"probe:{PROM}.runProperties.probeTimeout": 5}, "Expected `str`, got `int`"),
        (ENGINE, {f"probe:{PROM}.runProperties.interval": "5"}, "matching regex"),
        (ENGINE, {f"probe:{PROM}.runProperties.attempt": "3"}, "Expected `int`, got `str`"),
        (ENGINE, {f"probe:{PROM}.runProperties.verbosity": "debug"}, "unknown field `verbosity`"),
        (ENGINE, {f"probe:{PROM}.runProperties.evaluationTimeout": "5s"}, "unknown field `evaluationTimeout`"),
        (ENGINE, {f"probe:{PROM}.type": "sloProbe"}, "Invalid enum value"),
        (ENGINE, {f"probe:{PROM}.mode": "onChaos"}, "Invalid enum value"),
        (ENGINE, {f"probe:{PROM}.promProbe/inputs.comparator.value": 0}, "Expected `str`, got `int`"),
        (ENGINE, {f"probe:{K8S}.k8sProbe/inputs.operation": "delete"}, "Invalid enum value"),
        (ENGINE, {f"probe:{HTTP}.httpProbe/inputs.method": {"post": {}}}, "`post`"),
        (ENGINE, {"spec.annotationCheck": "false"}, "unknown field `annotationCheck`"),
        (ENGINE, {"spec.engineState": "paused"}, "Invalid enum value"),
        (ENGINE, {"env:CHAOS_INTERVAL": 60}, "Expected `str`, got `int`"),
        (ENGINE, {"apiVersion": "litmuschaos.io/v1"}, "matching regex"),
        (ENGINE, {"kind": "ChaosResult"}, "Invalid value"),
        (EXPERIMENT, {"spec.definition.scope": "Cluster"}, "matching regex"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_litmus_takes_silently_or_reads_otherwise(document, changes, said):
    with pytest.raises(litmus.SchemaError, match=said):
        litmus.parse(broken(document, changes))
