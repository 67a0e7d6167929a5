"""Facts about a Job as Kubernetes tells them: the types, and the one pure way from the API's JSON to a fact.

No client lives here and nothing is asked of a cluster: `adapters/cluster.py` brings the JSON.
Nothing here judges.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from sf_healer.core.events import IDENTITY_CHARACTERS
from sf_healer.core.wire import Count, Moment, Offset

SKIP_ANNOTATION = "sf-healer.io/skip"
ATTEMPT_ANNOTATION = "sf-healer.io/attempt"
ACTION_ID_ANNOTATION = "sf-healer.io/action-id"

# Kubernetes 1.27 prefixed the label and kept the old name beside it; older Jobs carry only the second.
CONTROLLER_UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")
JOB_NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")
# The server puts them on every Job; they say no more than its name and uid.
_CONTROLLERS_OWN = frozenset(CONTROLLER_UID_LABELS + JOB_NAME_LABELS)

# Since Kubernetes 1.31 the Job controller says at once how a Job ends, and Complete or Failed when its last pod has
# gone (kubernetes #123775); what it has said so it does not take back.
_SUCCEEDED = ("SuccessCriteriaMet", "Complete")
_FAILED = ("FailureTarget", "Failed")
# What `spec.managedBy` calls the controller that Kubernetes has built in (batch/v1 JobControllerName).
_BUILT_IN_CONTROLLER = "kubernetes.io/job-controller"

_ENDED = frozenset({"Succeeded", "Failed"})
# A kubelet's reason for a pod that waits for somebody else than its containers (readinessGates).
_GATES_NOT_READY = "ReadinessGatesNotReady"

_TARGET_SEPARATOR = "__"
# Whoever may create Jobs writes what he likes into them, and a fact must fit into a record of the evidence log.
_ATTEMPT_DIGITS = 9
_VERSION_DIGITS = 18
_LABELS_CHARACTERS = 64 * 1024


class PodState(StrEnum):
    """What the pods of a Job do, taken together."""

    NONE = "none"
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


class Condition(StrEnum):
    """What Kubernetes says of the Job itself."""

    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "failed"
    SUSPENDED = "suspended"
    DELETING = "deleting"
    GONE = "gone"


class JobFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One Job as the cluster shows it at `resource_version`; fields in wire order, so add at the end only."""

    key: str  # namespace/name
    uid: str
    created_at: Moment  # 0.0 when the manifest has none
    resource_version: Offset  # the newest of the Job and its pods: one etcd revision orders them all
    target: str  # "" when TELEMETRY_PRODUCER_ID names none
    queue_id: str
    producer_id: str
    kafka_topic: str
    condition: Condition
    pod: PodState
    pod_ip: str = ""
    managed: bool = False
    skip: bool = False
    managed_by: str = ""
    labels: dict[str, str] = {}
    attempt: Count = 0
    action_id: str = ""
    pod_created_at: Moment = 0.0  # of the youngest pod, whatever has become of it; epoch seconds, 0: there is none


class Loss(StrEnum):
    """Why Kubernetes may replace a pod by itself; on the steps log."""

    NONE = ""
    BEING_DELETED = "being_deleted"  # evicted, or by a person
    NODE_GONE = "node_gone"  # its node does not answer: it will be evicted


class LostPod(NamedTuple):
    """A pod that Kubernetes has given up, or is about to; `since`: epoch seconds by the cluster's clocks, 0.0 unknown.

    One that is being deleted is so since its grace was over.
    """

    loss: Loss
    since: float


_NO_LABELS: dict[str, str] = {}
_NO_TIME = 0.0
_set = msgspec.structs.force_setattr


def share_fact(fact: JobFact, key: str) -> JobFact:
    """Let the fact of a Job share its key with the Job's state, and the rest with the facts of others."""
    if fact.key is not key and fact.key == key:
        _set(fact, "key", key)
    _set(fact, "target", sys.intern(fact.target))
    _set(fact, "queue_id", sys.intern(fact.queue_id))  # the index that names Jobs has it too
    if fact.kafka_topic == fact.queue_id:
        _set(fact, "kafka_topic", fact.queue_id)
    if not fact.labels:
        _set(fact, "labels", _NO_LABELS)
    if not fact.created_at:
        _set(fact, "created_at", _NO_TIME)
    if not fact.pod_created_at:
        _set(fact, "pod_created_at", _NO_TIME)
    return fact


def fact_from_manifest(job: Mapping[str, object], pods: Sequence[Mapping[str, object]]) -> JobFact:
    """Read a Job manifest and the pods found for it, both as the API's JSON, into a fact.

    Fields that are missing or of the wrong type count as not set: a manifest may come from a file. Pods of
    another incarnation (same Job name, other uid) are left out. Raises ValueError when the Job has no name,
    for then there is no Job to speak of.
    """
    metadata = _mapping(job.get("metadata"))
    spec = _mapping(job.get("spec"))
    name = _text(metadata.get("name"))
    if not name:
        raise ValueError("a Job manifest without metadata.name")
    annotations = _strings(metadata.get("annotations"))
    env = _plain_env(spec)
    producer_id, queue_id = _short(env.get("TELEMETRY_PRODUCER_ID", "")), _short(env.get("QUEUE_ID", ""))
    fact = JobFact(
        key=f"{_text(metadata.get('namespace')) or 'default'}/{name}",
        uid=_text(metadata.get("uid")),
        created_at=epoch_seconds(metadata.get("creationTimestamp")),
        resource_version=resource_version(job),
        target=_target(producer_id),
        queue_id=queue_id,
        producer_id=producer_id,
        kafka_topic=_short(env.get("KAFKA_TOPIC", "")),
        condition=_condition(metadata, spec, _mapping(job.get("status"))),
        pod=PodState.NONE,
        managed=bool(queue_id and producer_id),
        skip=annotations.get(SKIP_ANNOTATION, "").lower() == "true",
        managed_by=_managed_by(spec),
        labels=_labels(metadata),
        attempt=_count(annotations.get(ATTEMPT_ANNOTATION, ""), _ATTEMPT_DIGITS),
        action_id=_short(annotations.get(ACTION_ID_ANNOTATION, "")),
    )
    fact = with_pods(fact, pods)
    if fact.pod is not PodState.NONE:
        return fact
    return msgspec.structs.replace(fact, pod=_pod_counted(_mapping(job.get("status"))))


def with_pods(fact: JobFact, pods: Sequence[Mapping[str, object]]) -> JobFact:
    """Join a fact with the pods found for its Job; those of another incarnation are left out.

    One that is being deleted does not run, as it does not count for the Job controller (IsPodActive).
    """
    own = [pod for pod in pods if belongs_to(pod, fact.uid)]
    return msgspec.structs.replace(
        fact,
        pod=_pod_state(own),
        pod_ip=_pod_ip(own),
        pod_created_at=max(map(_created_at, own), default=_NO_TIME),
        resource_version=max([fact.resource_version, *map(resource_version, own)]),
    )


def lost_pod(pods: Sequence[Mapping[str, object]], job_uid: str) -> LostPod | None:
    """Name the pod of a Job that was lost last, even if other pods are alive; None if no pod was lost.

    A kubelet that is away does not confirm the end of such a pod, and a Job that is deleted waits for it.
    """
    lost = [_loss(pod) for pod in pods if belongs_to(pod, job_uid)]
    return max((each for each in lost if each is not None), key=lambda each: each.since, default=None)


def gone(fact: JobFact, at_resource_version: int) -> JobFact:
    """Turn the last fact of a Job into the fact that it no longer exists."""
    return msgspec.structs.replace(
        fact,
        condition=Condition.GONE,
        pod=PodState.NONE,
        pod_ip="",
        resource_version=max(fact.resource_version, at_resource_version),
    )


def controller_uid(pod: Mapping[str, object]) -> str:
    """Name the uid of the Job that controls a pod, by ownerReference, else by label; "" without."""
    metadata = _mapping(pod.get("metadata"))
    for reference in _mappings(metadata.get("ownerReferences")):
        if reference.get("controller") is True and reference.get("kind") == "Job":
            return _text(reference.get("uid"))
    return _first(_strings(metadata.get("labels")), CONTROLLER_UID_LABELS)


def belongs_to(pod: Mapping[str, object], job_uid: str) -> bool:
    """Tell whether a pod found under a Job's name is of this incarnation; one that says nothing is taken."""
    owner = controller_uid(pod)
    return not owner or not job_uid or owner == job_uid


def resource_version(manifest: Mapping[str, object]) -> int:
    """Read metadata.resourceVersion as the number it is (KEP-5504 makes it comparable); 0 when it is none."""
    return _count(_text(_mapping(manifest.get("metadata")).get("resourceVersion")), _VERSION_DIGITS)


def epoch_seconds(timestamp: object) -> float:
    """Read an RFC 3339 timestamp of the API as epoch seconds; 0.0 when it is none."""
    try:
        moment = datetime.fromisoformat(_text(timestamp))
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def transitions(job: Mapping[str, object]) -> tuple[tuple[float, Condition], ...]:
    """Read when a Job was suspended or resumed (ACTIVE), came to its end and was deleted, as far as its manifest tells.

    Epoch seconds, in order. What is dated after something that must have come later is left out.
    """
    status = _mapping(job.get("status"))
    since = {
        (_text(condition.get("type")), _text(condition.get("status"))): epoch_seconds(
            condition.get("lastTransitionTime")
        )
        for condition in _mappings(status.get("conditions"))
    }
    resumed = 0.0
    if ("Suspended", "False") in since and _mapping(job.get("spec")).get("suspend") is not True:
        resumed = since["Suspended", "False"] or epoch_seconds(status.get("startTime"))
    met, complete = (since.get((kind, "True"), 0.0) for kind in _SUCCEEDED)
    completed = met or epoch_seconds(status.get("completionTime")) or complete
    ended = completed or next(filter(None, (since.get((kind, "True")) for kind in _FAILED)), 0.0)
    deleted = epoch_seconds(_mapping(job.get("metadata")).get("deletionTimestamp"))
    found: list[tuple[float, Condition]] = []
    for at, condition in (
        (deleted, Condition.DELETING),
        (ended, Condition.COMPLETE if completed else Condition.FAILED),
        (resumed, Condition.ACTIVE),
        (since.get(("Suspended", "True"), 0.0), Condition.SUSPENDED),
    ):
        if at and (not found or at <= found[-1][0]):
            found.append((at, condition))
    return tuple(reversed(found))


def _condition(metadata: Mapping[str, object], spec: Mapping[str, object], status: Mapping[str, object]) -> Condition:
    # Deletion comes first: whatever else such a Job is, nobody may touch it any more.
    if metadata.get("deletionTimestamp"):
        return Condition.DELETING
    met = {
        _text(condition.get("type"))
        for condition in _mappings(status.get("conditions"))
        if condition.get("status") == "True"
    }
    if not met.isdisjoint(_SUCCEEDED):
        return Condition.COMPLETE
    if not met.isdisjoint(_FAILED):
        return Condition.FAILED
    if spec.get("suspend") is True or "Suspended" in met:
        return Condition.SUSPENDED
    return Condition.ACTIVE


def _managed_by(spec: Mapping[str, object]) -> str:
    name = _text(spec.get("managedBy"))[:IDENTITY_CHARACTERS]
    return "" if name == _BUILT_IN_CONTROLLER else name


def _pod_state(pods: Sequence[Mapping[str, object]]) -> PodState:
    if not pods:
        return PodState.NONE
    phases = {_phase(pod) for pod in pods if not _is_leaving(pod)}
    if "Running" in phases:
        return PodState.RUNNING
    if phases <= _ENDED and not any(map(_is_leaving, pods)):
        return PodState.ENDED
    return PodState.PENDING


def _is_leaving(pod: Mapping[str, object]) -> bool:
    """Say whether a pod is being deleted and has not ended; a finalizer or a dead kubelet may keep it so for ever."""
    return _phase(pod) not in _ENDED and bool(_mapping(pod.get("metadata")).get("deletionTimestamp"))


def _loss(pod: Mapping[str, object]) -> LostPod | None:
    if _is_leaving(pod):
        return LostPod(Loss.BEING_DELETED, epoch_seconds(_mapping(pod.get("metadata")).get("deletionTimestamp")))
    status = _mapping(pod.get("status"))
    conditions = {_text(condition.get("type")): condition for condition in _mappings(status.get("conditions"))}
    ready = conditions.get("Ready", {})
    if (
        status.get("phase") != "Running"
        or ready.get("status") != "False"
        or ready.get("reason") == _GATES_NOT_READY
        or not _are_containers_ready(status, conditions)
    ):
        return None
    return LostPod(Loss.NODE_GONE, epoch_seconds(ready.get("lastTransitionTime")))


def _are_containers_ready(status: Mapping[str, object], conditions: Mapping[str, Mapping[str, object]]) -> bool:
    """Say whether a kubelet last called all containers of a pod ready.

    When it stops to answer, the node controller has the pod's Ready turn False, and this stays as it was
    (kubernetes: MarkPodsNotReady). Of a readiness probe that fails the kubelet tells in both.
    """
    if summed_up := conditions.get("ContainersReady"):
        return summed_up.get("status") == "True"
    containers = list(_mappings(status.get("containerStatuses")))
    return bool(containers) and all(
        each.get("ready") is True and "running" in _mapping(each.get("state")) for each in containers
    )


def _pod_counted(status: Mapping[str, object]) -> PodState:
    """Say what the pods do that a Job's status counts, for one of which none is found.

    Pods are found by a label, which manualSelector leaves to whoever wrote the Job.
    """
    active, ready, leaving = (
        number if isinstance(number := status.get(name), int) and not isinstance(number, bool) else 0
        for name in ("active", "ready", "terminating")
    )
    if ready:
        return PodState.RUNNING
    return PodState.PENDING if active or leaving else PodState.NONE


def _pod_ip(pods: Sequence[Mapping[str, object]]) -> str:
    """Give the address of the youngest running pod: an indexed Job has several, a retried one old ones."""
    running = [pod for pod in pods if _phase(pod) == "Running" and not _is_leaving(pod)]
    if not running:
        return ""
    youngest = max(running, key=lambda pod: (_created_at(pod), _name(pod)))
    return _text(_mapping(youngest.get("status")).get("podIP"))


def _plain_env(spec: Mapping[str, object]) -> dict[str, str]:
    """Collect the first container's env as plain values; valueFrom points to what we may not read."""
    pod_spec = _mapping(_mapping(spec.get("template")).get("spec"))
    first = next(_mappings(pod_spec.get("containers")), {})
    return {
        _text(entry.get("name")): _text(entry.get("value"))
        for entry in _mappings(first.get("env"))
        if entry.get("name") and "valueFrom" not in entry
    }


def _target(producer_id: str) -> str:
    target, separator, _short_id = producer_id.rpartition(_TARGET_SEPARATOR)
    return target if separator else ""


def _phase(pod: Mapping[str, object]) -> str:
    return _text(_mapping(pod.get("status")).get("phase"))


def _created_at(pod: Mapping[str, object]) -> float:
    return epoch_seconds(_mapping(pod.get("metadata")).get("creationTimestamp"))


def _name(pod: Mapping[str, object]) -> str:
    return _text(_mapping(pod.get("metadata")).get("name"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())


def _strings(value: object) -> dict[str, str]:
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(text: str, digits: int) -> int:
    """Read a number of up to so many digits; 0 for what is none, or longer than ours are."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else 0


def _short(text: str) -> str:
    """Take a name for not set that is longer than any report may have (IDENTITY_CHARACTERS)."""
    return text if len(text) <= IDENTITY_CHARACTERS else ""


def _labels(metadata: Mapping[str, object]) -> dict[str, str]:
    """Collect the labels somebody has set; none where they are too many to be told."""
    labels = {name: value for name, value in _strings(metadata.get("labels")).items() if name not in _CONTROLLERS_OWN}
    characters = sum(len(name) + len(value) for name, value in labels.items())
    return labels if characters <= _LABELS_CHARACTERS else {}


def _first(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
