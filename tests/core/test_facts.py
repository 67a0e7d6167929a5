"""What a Job's manifest and pods become as a fact, malformed ones included."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import evidence
from sf_healer.core.events import IDENTITY_CHARACTERS
from sf_healer.core.evidence import Fact
from sf_healer.core.facts import (
    Condition,
    JobFact,
    LostPod,
    PodState,
    epoch_seconds,
    fact_from_manifest,
    gone,
    lost_pod,
)
from sf_healer.local import launcher
from sf_healer.local.services import SERVICE_OF_TARGET, SERVICES

UID = "11111111-1111-1111-1111-111111111111"
OTHER_UID = "22222222-2222-2222-2222-222222222222"


def job(*, env=None, status=None, spec=None, **metadata):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "loader-btcusdt-p4ntkv-arango-connector",
            "namespace": "stf",
            "uid": UID,
            "resourceVersion": "40",
            "creationTimestamp": "2025-09-01T10:00:00Z",
            **metadata,
        },
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "loader",
                            "env": [{"name": name, "value": value} for name, value in (env or ENV).items()],
                        }
                    ]
                }
            },
            **(spec or {}),
        },
        "status": status or {},
    }


ENV = {
    "QUEUE_ID": "loader-btcusdt-api-trades-2025-06-01-P4nTkv",
    "TELEMETRY_PRODUCER_ID": "arango-connector__P4nTkv",
    "KAFKA_TOPIC": "loader-btcusdt-api-trades-2025-06-01-P4nTkv",
    "ARANGO_PASSWORD": "never in a fact",
}


def pod(phase, *, name="p", uid=UID, ip="", version="41", created="2025-09-01T10:00:01Z", owner=True, leaving=False):
    metadata = {"name": name, "resourceVersion": version, "creationTimestamp": created}
    if leaving:
        metadata["deletionTimestamp"] = LEAVING_AT
    if owner:
        metadata["ownerReferences"] = [{"kind": "Job", "uid": uid, "controller": True}]
    else:
        metadata["labels"] = {"batch.kubernetes.io/controller-uid": uid}
    return {"metadata": metadata, "status": {"phase": phase, "podIP": ip}}


LEAVING_AT = "2025-09-01T10:06:20Z"


def condition(kind, status="True"):
    return {"conditions": [{"type": kind, "status": status}]}


def test_a_streamforge_job_tells_who_it_is():
    fact = fact_from_manifest(job(labels={"app": "x"}), [pod("Running", ip="10.0.0.7")])
    assert fact == JobFact(
        key="stf/loader-btcusdt-p4ntkv-arango-connector",
        uid=UID,
        created_at=1756720800.0,
        resource_version=41,
        target="arango-connector",
        queue_id="loader-btcusdt-api-trades-2025-06-01-P4nTkv",
        producer_id="arango-connector__P4nTkv",
        kafka_topic="loader-btcusdt-api-trades-2025-06-01-P4nTkv",
        condition=Condition.ACTIVE,
        pod=PodState.RUNNING,
        pod_ip="10.0.0.7",
        managed=True,
        labels={"app": "x"},
        pod_created_at=1756720801.0,
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, PodState.NONE),
        ({"active": 0, "ready": 0, "terminating": 0}, PodState.NONE),
        ({"active": 1}, PodState.PENDING),
        ({"active": 2, "ready": 1}, PodState.RUNNING),
        ({"terminating": 1}, PodState.PENDING),
        ({"active": "1", "ready": None, "terminating": True}, PodState.NONE),
    ],
)
def test_a_job_of_which_no_pod_is_found_has_those_that_its_status_counts(status, expected):
    """With manualSelector nothing puts the labels on its pods by which pods are found."""
    assert fact_from_manifest(job(status=status), []).pod is expected


def test_pods_that_are_found_say_more_than_a_status_that_may_be_old():
    assert fact_from_manifest(job(status={"active": 1, "ready": 1}), [pod("Failed")]).pod is PodState.ENDED


def test_labels_that_the_server_puts_on_every_job_are_left_out():
    labels = {"app": "x", "job-name": "j", "batch.kubernetes.io/controller-uid": UID}
    assert fact_from_manifest(job(labels=labels), []).labels == {"app": "x"}


def test_a_fact_survives_the_wire():
    fact = fact_from_manifest(job(), [pod("Running")])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=JobFact) == fact


def test_no_password_of_the_env_reaches_a_fact():
    assert b"never in a fact" not in msgspec.json.encode(fact_from_manifest(job(), []))


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (job(), Condition.ACTIVE),
        (job(status=condition("Complete")), Condition.COMPLETE),
        (job(status=condition("Failed")), Condition.FAILED),
        (job(status=condition("Failed", "False")), Condition.ACTIVE),
        (job(status=condition("Failed", "Unknown")), Condition.ACTIVE),
        (job(status=condition("FailureTarget")), Condition.FAILED),
        (job(status=condition("FailureTarget", "False")), Condition.ACTIVE),
        (job(status=condition("SuccessCriteriaMet")), Condition.COMPLETE),
        (job(status=condition("SuccessCriteriaMet", "False")), Condition.ACTIVE),
        (job(spec={"suspend": True}, status=condition("SuccessCriteriaMet")), Condition.COMPLETE),
        (job(deletionTimestamp="2025-09-01T11:00:00Z", status=condition("SuccessCriteriaMet")), Condition.DELETING),
        (job(spec={"suspend": True}), Condition.SUSPENDED),
        (job(status=condition("Suspended")), Condition.SUSPENDED),
        (job(spec={"suspend": False}), Condition.ACTIVE),
        (job(deletionTimestamp="2025-09-01T11:00:00Z"), Condition.DELETING),
        (job(deletionTimestamp="2025-09-01T11:00:00Z", status=condition("Failed")), Condition.DELETING),
        (job(spec={"suspend": True}, status=condition("Complete")), Condition.COMPLETE),
    ],
)
def test_the_condition_is_what_kubernetes_says_of_the_job(manifest, expected):
    assert fact_from_manifest(manifest, []).condition is expected


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([], PodState.NONE),
        (["Pending"], PodState.PENDING),
        (["Unknown"], PodState.PENDING),
        (["Running"], PodState.RUNNING),
        (["Succeeded"], PodState.ENDED),
        (["Failed"], PodState.ENDED),
        (["Failed", "Pending"], PodState.PENDING),
        (["Failed", "Running"], PodState.RUNNING),
        (["Failed", "Failed", "Succeeded"], PodState.ENDED),
    ],
)
def test_the_pods_of_a_job_are_told_together(phases, expected):
    pods = [pod(phase, name=f"p{index}") for index, phase in enumerate(phases)]
    assert fact_from_manifest(job(), pods).pod is expected


def test_an_indexed_job_runs_while_any_of_its_pods_runs():
    pods = [
        pod("Succeeded", name="i-0"),
        pod("Running", name="i-1", ip="10.0.0.1"),
        pod("Pending", name="i-2"),
    ]
    fact = fact_from_manifest(job(spec={"completionMode": "Indexed", "completions": 3, "parallelism": 3}), pods)
    assert (fact.pod, fact.pod_ip) == (PodState.RUNNING, "10.0.0.1")


def test_the_address_is_that_of_the_youngest_running_pod():
    pods = [
        pod("Running", name="new", ip="10.0.0.2", created="2025-09-01T10:05:00Z"),
        pod("Running", name="old", ip="10.0.0.1"),
        pod("Failed", name="newest", ip="10.0.0.3", created="2025-09-01T10:09:00Z"),
    ]
    assert fact_from_manifest(job(), pods).pod_ip == "10.0.0.2"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], PodState.PENDING),  # there is a pod, and nothing that runs counts
        (["Pending"], PodState.PENDING),
        (["Running"], PodState.RUNNING),
        (["Failed"], PodState.PENDING),  # an old failure beside it: the last pod has not ended yet
    ],
)
@pytest.mark.parametrize("phase", ["Running", "Pending"])
def test_a_pod_that_is_being_deleted_does_not_run(phase, others, expected):
    """The Job controller does not count it either (IsPodActive), and starts another."""
    pods = [pod(phase, name="old", ip="10.0.0.1", leaving=True), *(pod(each, name="new") for each in others)]
    assert fact_from_manifest(job(), pods).pod is expected


def test_a_pod_that_has_ended_has_ended_also_while_it_is_being_deleted():
    assert fact_from_manifest(job(), [pod("Failed", leaving=True)]).pod is PodState.ENDED


def test_a_pod_that_is_being_deleted_has_no_address_to_tell():
    youngest = pod("Running", name="old", ip="10.0.0.1", created="2025-09-01T10:05:00Z", leaving=True)
    assert fact_from_manifest(job(), [youngest]).pod_ip == ""
    assert fact_from_manifest(job(), [youngest, pod("Running", name="new", ip="10.0.0.2")]).pod_ip == "10.0.0.2"


def on_a_node(ready, *, reason=None, containers="True", **known):
    """Give a running pod as its kubelet, or the node controller, says it is."""
    conditions = [{"type": "Ready", "status": ready, "lastTransitionTime": "2025-09-01T10:02:00Z"}]
    if reason is not None:
        conditions[0]["reason"] = reason
    if containers is not None:
        conditions.append({"type": "ContainersReady", "status": containers})
    found = pod("Running", **known)
    found["status"]["conditions"] = conditions
    return found


NODE_GONE_AT = 1756720920.0
ALL_READY = [{"ready": True, "state": {"running": {}}}]
ONE_NOT_READY = [*ALL_READY, {"ready": False, "state": {"running": {}}}]
ONE_ENDED = [*ALL_READY, {"ready": False, "state": {"terminated": {}}}]


@pytest.mark.parametrize(
    ("found", "is_lost"),
    [
        (on_a_node("True"), False),
        (on_a_node("False"), True),
        (on_a_node("False", reason=""), True),
        (on_a_node("False", reason="ContainersNotReady", containers="False"), False),  # a readiness probe that fails
        (on_a_node("False", containers="False"), False),
        (on_a_node("False", reason="ReadinessGatesNotReady"), False),
        (on_a_node("Unknown"), False),
        (on_a_node("False", containers=None), False),
        (on_a_node("False", containers=None) | {"status": {"phase": "Running"}}, False),
        (pod("Running"), False),
    ],
)
def test_the_node_of_a_pod_is_gone_where_only_the_node_controller_says_not_ready(found, is_lost):
    lost = lost_pod([found], UID)
    assert lost == (LostPod("node_gone", NODE_GONE_AT) if is_lost else None)


@pytest.mark.parametrize(("containers", "is_lost"), [(ALL_READY, True), (ONE_NOT_READY, False), (ONE_ENDED, False)])
def test_where_a_kubelet_sums_its_containers_up_for_nobody_they_tell_themselves(containers, is_lost):
    found = on_a_node("False", containers=None)
    found["status"]["containerStatuses"] = containers
    assert (lost_pod([found], UID) is not None) is is_lost


def test_a_pod_that_is_being_deleted_is_lost_until_it_has_ended():
    assert lost_pod([pod("Running", leaving=True)], UID) == LostPod("being_deleted", epoch_seconds(LEAVING_AT))
    assert lost_pod([pod("Pending", leaving=True)], UID) is not None
    assert lost_pod([pod("Failed", leaving=True)], UID) is None
    assert lost_pod([pod("Running", leaving=True, uid=OTHER_UID)], UID) is None


def test_of_several_lost_pods_the_last_one_counts_and_live_ones_beside_them_are_no_comfort():
    pods = [on_a_node("False", name="a"), pod("Running", name="b", leaving=True), on_a_node("True", name="c")]
    assert lost_pod(pods, UID) == LostPod("being_deleted", epoch_seconds(LEAVING_AT))


@pytest.mark.parametrize("owner", [True, False])
def test_a_pod_of_another_incarnation_is_not_counted(owner):
    fact = fact_from_manifest(job(), [pod("Running", uid=OTHER_UID, ip="10.0.0.9", version="99", owner=owner)])
    assert (fact.pod, fact.pod_ip, fact.resource_version) == (PodState.NONE, "", 40)


def test_the_newest_version_of_job_and_pods_orders_the_fact():
    assert fact_from_manifest(job(resourceVersion="50"), [pod("Running", version="41")]).resource_version == 50
    assert fact_from_manifest(job(), [pod("Running", version="77")]).resource_version == 77


def test_env_by_reference_names_nothing():
    manifest = job()
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": "QUEUE_ID", "valueFrom": {"configMapKeyRef": {"name": "queue", "key": "id"}}},
        {"name": "TELEMETRY_PRODUCER_ID", "value": "loader-ws__abc"},
    ]
    fact = fact_from_manifest(manifest, [])
    assert (fact.queue_id, fact.target, fact.managed) == ("", "loader-ws", False)


def test_only_the_first_container_counts():
    manifest = job(env={"OTHER": "x"})
    manifest["spec"]["template"]["spec"]["containers"].append(
        {"name": "side", "env": [{"name": "QUEUE_ID", "value": "q"}]}
    )
    assert fact_from_manifest(manifest, []).queue_id == ""


@pytest.mark.parametrize(
    ("producer_id", "target"),
    [("loader-ws__abc", "loader-ws"), ("a__b__c", "a__b"), ("loader-ws", ""), ("", ""), ("__abc", "")],
)
def test_the_target_is_what_stands_before_the_short_id(producer_id, target):
    assert fact_from_manifest(job(env={"TELEMETRY_PRODUCER_ID": producer_id}), []).target == target


def test_annotations_tell_skip_attempt_and_action():
    fact = fact_from_manifest(
        job(
            annotations={
                "sf-healer.io/skip": "true",
                "sf-healer.io/attempt": "2",
                "sf-healer.io/action-id": "a-1",
            },
            spec={"managedBy": "kueue.x-k8s.io/multikueue"},
        ),
        [],
    )
    assert (fact.skip, fact.attempt, fact.action_id, fact.managed_by) == (
        True,
        2,
        "a-1",
        "kueue.x-k8s.io/multikueue",
    )


def test_a_job_of_the_built_in_controller_is_nobody_elses():
    """`spec.managedBy` may name it by its reserved value (KEP-4368)."""
    assert fact_from_manifest(job(spec={"managedBy": "kubernetes.io/job-controller"}), []).managed_by == ""


@pytest.mark.parametrize("attempt", ["two", "-1", "1.5", "", "²"])
def test_an_attempt_that_is_no_number_is_no_attempt(attempt):
    assert fact_from_manifest(job(annotations={"sf-healer.io/attempt": attempt}), []).attempt == 0


@pytest.mark.parametrize("attempt", ["9" * 10, "9" * 30, "9" * 5000])
def test_an_attempt_longer_than_ours_are_is_none(attempt):
    """Python reads no more than 4,300 digits, and no record holds a number of more than 64 bits."""
    fact = fact_from_manifest(job(annotations={"sf-healer.io/attempt": attempt}), [])
    assert fact.attempt == 0
    assert evidence.decode(evidence.encode(Fact(fact))) == Fact(fact)


@pytest.mark.parametrize("name", ["QUEUE_ID", "TELEMETRY_PRODUCER_ID"])
def test_a_name_longer_than_any_report_may_have_makes_a_job_a_stranger(name):
    fact = fact_from_manifest(job(env={**ENV, name: "x" * (IDENTITY_CHARACTERS + 1)}), [])
    assert not fact.managed


def test_whatever_somebody_writes_into_a_job_its_fact_fits_into_a_record():
    long = "x" * 900_000
    labels = {f"{'x' * 250}/{number}": "y" * 63 for number in range(4000)}
    env = {"QUEUE_ID": long, "TELEMETRY_PRODUCER_ID": f"loader__{long}", "KAFKA_TOPIC": long}
    annotations = {"sf-healer.io/action-id": long, "sf-healer.io/attempt": long}
    fact = fact_from_manifest(job(env=env, labels=labels, annotations=annotations, spec={"managedBy": long}), [])
    assert len(evidence.encode(Fact(fact))) < 2_000


def test_labels_of_ordinary_number_are_kept_all():
    labels = {f"example.org/label-{number}": "y" * 63 for number in range(100)}
    assert fact_from_manifest(job(labels=labels), []).labels == labels


def test_a_job_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"metadata\.name"):
        fact_from_manifest({"metadata": {"uid": UID}}, [])


def test_a_job_of_nothing_but_a_name_is_a_foreign_active_job():
    fact = fact_from_manifest({"metadata": {"name": "x"}}, [{}])
    assert (fact.key, fact.uid, fact.created_at, fact.resource_version) == ("default/x", "", 0.0, 0)
    assert (fact.condition, fact.pod, fact.managed) == (Condition.ACTIVE, PodState.PENDING, False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=12,
)
metadata_like = st.fixed_dictionaries(
    {"name": st.just("x")},
    optional=dict.fromkeys(
        (
            "namespace",
            "uid",
            "labels",
            "annotations",
            "creationTimestamp",
            "deletionTimestamp",
            "resourceVersion",
            "ownerReferences",
        ),
        json_values,
    ),
)
status_like = st.fixed_dictionaries(
    {},
    optional={
        "conditions": json_values
        | st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["Ready", "ContainersReady"]), "status": st.sampled_from(["False", "True"])}
            )
        ),
        "containerStatuses": json_values,
        "phase": json_values | st.just("Running"),
        "podIP": json_values,
    },
)
pod_like = st.fixed_dictionaries({}, optional={"metadata": metadata_like | json_values, "status": status_like})


@given(
    metadata=metadata_like,
    status=status_like | json_values,
    spec=json_values
    | st.fixed_dictionaries(
        {
            "template": st.fixed_dictionaries(
                {"spec": st.fixed_dictionaries({"containers": st.lists(json_values, max_size=2) | json_values})}
            )
        }
    ),
    pods=st.lists(pod_like, max_size=3),
)
def test_no_manifest_with_a_name_breaks_the_reading(metadata, status, spec, pods):
    fact = fact_from_manifest({"metadata": metadata, "status": status, "spec": spec}, pods)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=JobFact) == fact
    lost_pod(pods, "")


def test_gone_keeps_who_it_was_and_never_goes_back_in_order():
    fact = fact_from_manifest(job(), [pod("Running", ip="10.0.0.7", version="90")])
    last = gone(fact, at_resource_version=80)
    assert (last.condition, last.pod, last.pod_ip) == (Condition.GONE, PodState.NONE, "")
    assert (last.key, last.uid, last.resource_version) == (fact.key, fact.uid, 90)
    assert gone(fact, at_resource_version=95).resource_version == 95


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-09-01T10:00:00Z", 1756720800.0),
        ("2025-09-01T10:00:00.250000Z", 1756720800.25),
        ("2025-09-01T12:00:00+02:00", 1756720800.0),
        ("2025-09-01T10:00:00", 1756720800.0),
        ("yesterday", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_timestamps_are_epoch_seconds_or_nothing(text, seconds):
    assert epoch_seconds(text) == seconds


def test_every_recorded_target_is_recognised(captures_dir):
    for name, entry in json.loads((captures_dir / "jobs.json").read_text())["targets"].items():
        fact = fact_from_manifest(entry["manifest"], [])
        assert fact.target in name
        assert (fact.queue_id, fact.kafka_topic) == (
            entry["queue"]["queue_id"],
            entry["queue"]["kafka_topic"],
        )
        assert fact.managed


@pytest.mark.parametrize("target", sorted(SERVICE_OF_TARGET))
def test_every_target_that_the_launcher_knows_is_recognised(target):
    queue = launcher.Queue.launch("BTCUSDT", SERVICES[SERVICE_OF_TARGET[target]].type_, "2025-06-01", "P4nTkv")
    fact = fact_from_manifest(launcher.job_manifest(queue, target, launcher.environment(queue, target)), [])
    assert (fact.target, fact.queue_id, fact.kafka_topic) == (target, queue.id, queue.id)
    assert fact.managed
