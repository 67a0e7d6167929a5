"""The files of litmus/: strict, without faults, one truth in several places, and counting on what exists."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sf_healer import __version__
from sf_healer.chaos import lints, litmus
from sf_healer.commands import metrics
from tests.chaos.engines import ENGINE_FILES, ENGINES, FILES, LITMUS, documents, engines_of
from tests.manifests.built import MANIFESTS, kustomize

CRONJOB = documents(LITMUS / "schedule" / "cronjob.yaml")[0]
KUSTOMIZATION = documents(LITMUS / "kustomization.yaml")[0]
#: Of kafka_exporter, which Strimzi deploys, and of Prometheus itself.
FOREIGN = {
    "kafka_brokers": set(),
    "kafka_topic_partition_under_replicated_partition": {"topic", "partition"},
    "kafka_topic_partition_in_sync_replica": {"topic", "partition"},
    "kafka_topic_partition_current_offset": {"topic", "partition"},
    "kafka_consumergroup_lag": {"consumergroup", "topic", "partition"},
    "ALERTS": {"alertname", "alertstate", "severity"},
}
#: Not on the schedule: it takes the reports of the whole fleet away.
BY_HAND = {"network-latency-fleet.yaml"}
BACKOFF_LIMIT, BACKOFF_SECONDS = 4, 10  # StreamForge's Jobs; the Job controller's first wait, doubled each time


def shown(path: Path) -> str:
    return str(path.relative_to(LITMUS))


def named(engine: litmus.ChaosEngine) -> str:
    return engine.metadata.name


def queries() -> list[tuple[str, str]]:
    return [
        (f"{engine.metadata.name}/{probe.name}", probe.prometheus.query)
        for engine in ENGINES
        for probe in engine.experiment.spec.probe
        if probe.prometheus is not None
    ]


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_document_is_strict_yaml_and_without_faults_if_it_is_of_litmus(path: Path):
    for document in documents(path):
        assert {"apiVersion", "kind"} <= document.keys()
        if document["apiVersion"] == litmus.API_VERSION:
            assert [str(fault) for fault in lints.faults(litmus.parse(document))] == []


@pytest.mark.parametrize("engine", ENGINES, ids=named)
def test_an_engine_is_taken_by_every_generation_of_the_crds(engine: litmus.ChaosEngine):
    assert litmus.taken_by(engine.spec) == litmus.GENERATIONS


def test_every_hypothesis_has_an_engine_and_every_experiment_that_was_asked_for():
    told = {engine.metadata.name: engine.metadata.annotations[lints.HYPOTHESIS] for engine in ENGINES}
    assert {text.partition(":")[0] for text in told.values()} == {"H1", "H2", "H3", "H3b", "H4"}
    assert {"pod-delete-loader", "pod-delete-arango-connector", "kafka-broker-failure"} <= told.keys()
    assert {engine.experiment.name for engine in ENGINES} == {lints.POD_DELETE, lints.NETWORK_LATENCY}


@pytest.mark.parametrize("engine", ENGINES, ids=named)
def test_what_an_engine_names_as_its_proof_is_asked(engine: litmus.ChaosEngine):
    proof = engine.metadata.annotations[lints.PROOF]
    probes = {probe.name: probe for probe in engine.experiment.spec.probe}
    claimed = {
        word for word in re.findall(r"\b[a-z]+(?:-[a-z]+)+\b", proof) if word not in {"queue-manager", "go-runner"}
    }
    assert claimed
    assert claimed <= probes.keys()
    assert all(probes[name].mode is not litmus.Mode.SOT for name in claimed), "a proof is looked at after the fault"
    for name, probe in probes.items():
        assert name in proof or probe.mode is litmus.Mode.SOT or name in OF_ALL, f"{name} proves what?"


#: Asked by every engine; a proof need not repeat them.
OF_ALL = {
    "watermark-moves",
    "healer-lives",
    "nothing-left-open",
    "job-is-there",
    "no-person-needed",
    "lag-drains",
    "no-dead-letters",
}


@pytest.mark.parametrize("engine", ENGINES, ids=named)
def test_an_engine_fails_when_there_is_no_healer(engine: litmus.ChaosEngine):
    """The negative control, on paper: without the healer's series at least one proof does not hold."""
    blind = [
        probe for probe in engine.experiment.spec.probe if probe.prometheus and "sf_healer_" in probe.prometheus.query
    ]
    modes = {probe.mode for probe in blind}
    assert {litmus.Mode.SOT, litmus.Mode.CONTINUOUS, litmus.Mode.EOT} <= modes  # none passes: lint silence-is-no-pass


@pytest.mark.parametrize(("probe", "query"), queries())
def test_a_query_counts_on_metrics_that_exist_their_labels_and_values(probe: str, query: str):
    known = {name: set(labels) for name, labels in FOREIGN.items()}
    for each in metrics.described():
        suffixes = ("_bucket", "_count", "_sum") if each.type == "histogram" else ("",)
        known |= {f"{each.name}{suffix}": {*each.labels, *(["le"] if suffix else [])} for suffix in suffixes}
    used = re.findall(r"\b((?:sf_healer|kafka)_[a-z_]+|ALERTS)\b(?:\{([^}]*)\})?", query)
    assert used
    for name, selector in used:
        assert name in known, name
        asked = re.findall(r"([a-z_]+)(?:=~|!~|!=|=)'([^']*)'", selector)
        assert {label for label, _ in asked} <= known[name]
        for label, value in asked:
            for each in value.split("|"):
                assert label not in VALUES or each in VALUES[label], f"{label}={each}"
    for grouped in re.findall(r"\b(?:by|without) \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= set().union(*(known[name] for name, _ in used))


VALUES = {
    "phase": {"calm", "storm", "probing"},
    "result": {"restarted", "failed", "refused", "would_restart"},
    "verdict": {"stuck", "failed"},
    "le": {"0.25"},
}


def test_the_values_that_queries_select_are_those_of_the_code():
    from sf_healer.adapters import metrics as defined  # noqa: PLC0415  the registry
    from sf_healer.core.admission import Phase  # noqa: PLC0415
    from sf_healer.core.commands import Result  # noqa: PLC0415
    from sf_healer.core.verdicts import Verdict  # noqa: PLC0415

    assert VALUES["phase"] == {each.value for each in Phase}
    assert VALUES["result"] == {each.value for each in Result}
    assert VALUES["verdict"] <= {each.value for each in Verdict}
    assert {float(each) for each in VALUES["le"]} <= set(defined.SWEEP_SECONDS._upper_bounds)


def test_the_pages_that_probes_ask_are_served_where_they_ask():
    service = documents(MANIFESTS / "worker" / "service.yaml")[0]
    worker = documents(MANIFESTS / "worker" / "deployment.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
    urls = {probe.http.url for engine in ENGINES for probe in engine.experiment.spec.probe if probe.http is not None}
    port = service["spec"]["ports"][0]["port"]
    assert urls == {
        f"http://{service['metadata']['name']}.kafka.svc:{port}{worker['livenessProbe']['httpGet']['path']}"
    }
    (policy,) = documents(LITMUS / "network-policy.yaml")
    assert policy["metadata"]["namespace"] == "kafka"
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= _labels_of_the_worker().items()
    assert [each["port"] for each in policy["spec"]["ingress"][0]["ports"]] == [port]


def _labels_of_the_worker() -> dict[str, str]:
    found: dict[str, str] = documents(MANIFESTS / "worker" / "deployment.yaml")[0]["spec"]["template"]["metadata"][
        "labels"
    ]
    return found


def test_one_prometheus_is_asked():
    asked = {
        probe.prometheus.endpoint
        for engine in ENGINES
        for probe in engine.experiment.spec.probe
        if probe.prometheus is not None
    }
    assert asked == {"http://prometheus-prometheus.monitoring.svc:9090"}
    assert asked.pop() in (LITMUS / "README.md").read_text(), "the page says where it is set"


def test_five_kills_exceed_the_backoff_limit_and_each_waits_for_the_next_pod():
    kills = engines_of(LITMUS / "engines" / "exhaust-loader.yaml")
    assert [each.metadata.name for each in kills] == [f"exhaust-loader-{n}" for n in range(1, BACKOFF_LIMIT + 2)]
    for number, each in enumerate(kills[:-1]):
        assert int(each.settings["CHAOS_INTERVAL"]) > BACKOFF_SECONDS * 2**number
    (once,) = [probe for probe in kills[-1].experiment.spec.probe if probe.name == "healed-once"]
    assert once.prometheus is not None
    window = litmus.seconds(re.findall(r"\[(\w+)\]", once.prometheus.query)[0])
    assert window > int(kills[-1].settings["CHAOS_INTERVAL"]), "the restart is in the window"


def test_latency_lies_between_a_fetch_and_a_stuck_job_or_beyond_it():
    for engine in ENGINES:
        if engine.experiment.name == lints.NETWORK_LATENCY:
            told = engine.settings
            whole_fleet = engine.metadata.annotations[lints.HYPOTHESIS].startswith("H3b")
            assert (int(told["TOTAL_CHAOS_DURATION"]) > STUCK_SECONDS) is whole_fleet
            assert (int(told["NETWORK_LATENCY"]) > REQUEST_MILLISECONDS) is whole_fleet


STUCK_SECONDS, REQUEST_MILLISECONDS = 300, 40_000  # the shipped policy; aiokafka's request_timeout_ms


# ------------------------------------------------------------------ the schedule


def container() -> dict[str, Any]:
    (found,) = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def test_the_schedule_submits_every_engine_but_those_by_hand_from_the_files_it_is_given():
    _chaos, _submit, *files = container()["args"]
    (mount,) = container()["volumeMounts"]
    assert {Path(each).parent for each in files} == {Path(mount["mountPath"])}
    assert {Path(each).name for each in files} == {path.name for path in ENGINE_FILES} - BY_HAND
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert {Path(each).name for each in generated["files"]} == {path.name for path in ENGINE_FILES}
    listed = documents(LITMUS / "engines" / "kustomization.yaml")[0]["resources"]
    assert set(listed) == {path.name for path in ENGINE_FILES}
    volume = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][0]
    assert volume["configMap"]["name"] == generated["name"]


def test_two_runs_never_overlap_and_one_that_failed_is_not_repeated():
    spec = CRONJOB["spec"]
    assert (spec["concurrencyPolicy"], spec["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)
    kept = sum(float(engine.settings["TOTAL_CHAOS_DURATION"]) for engine in ENGINES)
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 2 * kept
    assert spec["suspend"] is False


def test_the_workflow_runs_what_the_cronjob_runs():
    (workflow,) = documents(LITMUS / "schedule" / "cronworkflow.yaml")
    spec, (template,) = workflow["spec"], workflow["spec"]["workflowSpec"]["templates"]
    for key in ("command", "args", "volumeMounts"):
        assert template["container"][key] == container()[key]
    assert template["container"]["image"] == f"sf-healer:{__version__}"
    assert spec["schedule"] == CRONJOB["spec"]["schedule"]
    assert spec["concurrencyPolicy"] == "Forbid"


def test_the_chaos_schedule_is_the_engine_it_repeats():
    (schedule,) = documents(LITMUS / "schedule" / "chaosschedule.yaml")
    (engine,) = documents(LITMUS / "engines" / f"{schedule['metadata']['name']}.yaml")
    assert schedule["spec"]["engineTemplateSpec"] == engine["spec"]
    assert engine["metadata"]["annotations"]["chaos.sf-healer.io/pick"] == "none", "nobody picks for a ChaosSchedule"


# ------------------------------------------------------------------ rights


def test_nobody_has_rights_in_the_whole_cluster_to_secrets_to_exec_or_to_everything():
    kinds = {document["kind"] for path in FILES for document in documents(path)}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
    for role in roles():
        for rule in role["rules"]:
            assert not {"*", "secrets", "pods/exec"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        if role["metadata"]["namespace"] != "litmus":
            verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
            assert verbs <= {"get", "list", "delete"}, "where the targets are nothing is made or changed"


def roles() -> list[dict[str, Any]]:
    return [each for each in documents(LITMUS / "rbac.yaml") if each["kind"] == "Role"]


def test_every_account_that_is_named_is_there_and_bound_where_its_targets_are():
    listed = documents(LITMUS / "rbac.yaml")
    accounts = {each["metadata"]["name"] for each in listed if each["kind"] == "ServiceAccount"}
    used = {engine.spec.chaos_service_account for engine in ENGINES}
    used.add(CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"])
    assert used == accounts
    for binding in (each for each in listed if each["kind"] == "RoleBinding"):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": binding["metadata"]["name"], "namespace": "litmus"}
        ]
        assert binding["roleRef"]["name"] == binding["metadata"]["name"]
    places = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in roles()}
    assert places == {(namespace, account) for namespace in ("litmus", "stf", "kafka") for account in accounts}


def test_an_experiment_says_what_it_needs_and_has_it():
    granted = next(each for each in roles() if each["metadata"] | {"labels": 0} == OWN)["rules"]
    for path in sorted((LITMUS / "experiments").glob("pod-*.yaml")):
        (experiment,) = documents(path)
        for need in experiment["spec"]["definition"]["permissions"]:
            elsewhere = need["apiGroups"] == ["apps"]  # read where the targets are
            assert elsewhere or need in [rule | {"verbs": sorted(rule["verbs"])} for rule in granted], need


OWN = {"name": "sf-chaos", "namespace": "litmus", "labels": 0}


# ------------------------------------------------------------------ what kustomize makes of them


@pytest.mark.kube
def test_what_is_applied_holds_no_engine_but_their_files():
    built = list(yaml.safe_load_all(kustomize(LITMUS)))
    kinds = {each["kind"] for each in built}
    assert "ChaosEngine" not in kinds
    (files,) = [each for each in built if each["kind"] == "ConfigMap"]
    (job,) = [each for each in built if each["kind"] == "CronJob"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == files["metadata"]["name"]
    assert pod["containers"][0]["image"] == f"sf-healer:{__version__}"
    for name, text in files["data"].items():
        assert text == (LITMUS / "engines" / name).read_text()


@pytest.mark.kube
def test_chaoscenter_picks_the_jobs_pod_itself_and_no_other_generation_takes_it():
    built = [litmus.parse(each) for each in yaml.safe_load_all(kustomize(LITMUS / "chaoscenter"))]
    assert [str(fault) for each in built for fault in lints.faults(each)] == []
    of_jobs = {
        each.metadata.name
        for each in built
        if isinstance(each, litmus.ChaosEngine) and each.spec.appinfo is not None and each.spec.appinfo.appkind == "job"
    }
    assert of_jobs == {each.metadata.name for each in ENGINES if each.metadata.name.startswith(("pod-", "exhaust-"))}
    for each in built:
        assert isinstance(each, litmus.ChaosEngine)
        only = [generation.name for generation in litmus.taken_by(each.spec)] == ["chaoscenter-3.31"]
        assert only is (each.metadata.name in of_jobs)


@pytest.mark.kube
def test_k3s_has_its_runtime_elsewhere(tmp_path: Path):
    there = os.path.relpath(LITMUS, tmp_path.resolve())
    text = f"resources: ['{there}']\ncomponents: ['{there}/k3s']\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    built = [each for each in yaml.safe_load_all(kustomize(tmp_path)) if each["kind"] == "ChaosExperiment"]
    sockets = {
        variable["value"]
        for each in built
        for variable in each["spec"]["definition"]["env"]
        if variable["name"] == "SOCKET_PATH"
    }
    assert sockets == {"/run/k3s/containerd/containerd.sock"}


def test_the_page_names_every_engine_generation_and_lint():
    page = (LITMUS / "README.md").read_text()
    for path in ENGINE_FILES:
        assert f"`{path.stem}`" in page
    for generation in litmus.GENERATIONS:
        assert f"| {generation.name} |" in page
    for lint in lints.names():
        assert lint in page
