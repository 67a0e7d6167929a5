"""The steps of a restart as calls to Kubernetes: one step in, one result out. The only hands of the actuator.

Blocking; agents/journal.py calls it in a thread. What a result leads to is not known here (core/actions.py).
A write that gave no clear answer is UNKNOWN: a server may finish it after we gave up. One that was never sent is
LATER: an API server that is away for an hour leaves nothing in doubt.
"""

import re

import msgspec

from sf_healer.adapters.cluster import ApiFailure, Cluster, Failure, LiveJob
from sf_healer.core.actions import (
    Action,
    State,
    manifest_to_create,
    manifest_to_rehearse,
    resource_version_to_delete,
)
from sf_healer.core.facts import Condition, Loss, PodState
from sf_healer.core.manifest import Manifest, sanitize
from sf_healer.core.steps import Step, StepResult, What

#: A record must fit into a produce request of 1,000,000 bytes (sf_healer/app.py), and the table's into another; what
#: brokers take is a config of the topics (sf_healer/topics.py). Where they take less, agents/journal.py is told so.
LARGEST_MANIFEST_BYTES = 800_000

# It says who asks, not whether he may, or whether the Job is right: while the API server starts, or a token is rotated.
_UNAUTHORIZED = 401

# What the API server says for a webhook whose side effects forbid a dry run (apiserver's webhook/errors).
_TAKES_NO_DRY_RUN = "does not support dry run"
# What a ResourceQuota refuses: "exceeded quota: NAME, requested: A=1, used: A=5,B=2, limited: A=5,B=9".
_NO_ROOM = re.compile(r"exceeded quota: .*, used: (?P<used>\S+), limited: (?P<limited>\S+)")

_READS = {
    Failure.INVALID: What.REFUSED,
    Failure.FORBIDDEN: What.REFUSED,
    Failure.THROTTLED: What.LATER,
    Failure.UNREACHABLE: What.LATER,
}
_DELETES = _READS | {
    Failure.NOT_FOUND: What.MISSING,
    Failure.CONFLICT: What.CONFLICT,
    Failure.ALREADY_EXISTS: What.CONFLICT,
}
_CREATES = _READS | {
    Failure.ALREADY_EXISTS: What.EXISTS,
    Failure.CONFLICT: What.LATER,  # a quota was being written by somebody else: nothing was created
    Failure.NOT_FOUND: What.REFUSED,  # the namespace is gone
}


def take(cluster: Cluster | None, action: Action, step: Step, *, observe_only: bool = False) -> StepResult:
    """Take one step of an action and say what came of it; `observe_only`: this worker may delete and create nothing.

    Without a cluster (identity = convention) a Job can only be observed, and is what the command says.
    """
    if cluster is None:
        condition = Condition(action.command.evidence.condition)
        return StepResult(What.FOUND, uid=action.uid, condition=condition)
    match step:
        case Step.OBSERVE | Step.LOOK:
            return _look(cluster, action, step, observe_only=observe_only)
        case Step.DELETE:
            return _delete(cluster, action)
        case Step.CREATE | Step.RESTORE:
            return _create(cluster, action, step)


def _look(cluster: Cluster, action: Action, step: Step, *, observe_only: bool) -> StepResult:
    namespace, name = action.command.namespace, action.command.name
    answer = cluster.read_job(namespace, name)
    if isinstance(answer, LiveJob):
        found = _found(answer, step)
        manifest = None if observe_only else manifest_to_rehearse(action, found)
        return found if manifest is None else _rehearsed(cluster, action, found, manifest)
    if answer.kind is not Failure.NOT_FOUND:
        return _failed(answer, _READS)
    # The Job is gone; its pods may not be, and two incarnations must not run side by side.
    # Where a create may have happened, its Job may have come and gone: then they are of an incarnation nobody knows.
    is_known = action.state is not State.UNSURE
    pods = cluster.pods_of(namespace, name, action.new_uid or action.uid if is_known else "")
    if isinstance(pods, ApiFailure):
        return _failed(pods, _READS)
    return StepResult(What.ABSENT, pods=sum(is_known or pod.owned for pod in pods))


def _found(job: LiveJob, step: Step) -> StepResult:
    fact = job.fact
    manifest = sanitize(job.manifest) if step is Step.OBSERVE else None
    if manifest is not None and _size_of(manifest) > LARGEST_MANIFEST_BYTES:
        return too_large(manifest)
    return StepResult(
        What.FOUND,
        uid=fact.uid,
        resource_version=str(job.manifest["metadata"]["resourceVersion"]),
        condition=fact.condition,
        pod=fact.pod,
        pods=0 if fact.pod is PodState.NONE else 1,
        skip=fact.skip,
        managed=fact.managed,
        managed_by=fact.managed_by,
        attempt=fact.attempt,
        action_id=fact.action_id,
        manifest=manifest,
        loss=job.lost.loss if job.lost is not None else Loss.NONE,
        lost_seconds=max(0.0, job.api_at - job.lost.since) if job.lost is not None else 0.0,
    )


def too_large(manifest: Manifest) -> StepResult:
    """Refuse a Job for its manifest: what cannot be kept on the log first must not be deleted."""
    return StepResult(
        What.REFUSED, message=f"its manifest of {_size_of(manifest)} bytes is too large for the steps log"
    )


def _size_of(manifest: Manifest) -> int:
    return len(msgspec.json.encode(manifest))


def _rehearsed(cluster: Cluster, action: Action, found: StepResult, manifest: dict[str, object]) -> StepResult:
    """Add to what was found whether the API would take the Job again: what it would not must not be deleted."""
    failure = cluster.rehearse_create(action.command.namespace, manifest)
    if failure is None or failure.kind is Failure.ALREADY_EXISTS or _says_nothing_of_the_create(failure):
        return found
    answer = _failed(failure, _CREATES)
    return msgspec.structs.replace(found, refusal=answer.message) if answer.what is What.REFUSED else answer


def _says_nothing_of_the_create(failure: ApiFailure) -> bool:
    """Return whether a rehearsal was refused for what will not be there: the dry run, or the Job that is deleted first.

    A quota counts that Job. If more is used than the limit, as after the limit was lowered, there is no room without
    it either.
    """
    if failure.kind is Failure.INVALID and _TAKES_NO_DRY_RUN in failure.message:
        return True
    counted = _NO_ROOM.search(failure.message) if failure.kind is Failure.FORBIDDEN else None
    if counted is None:
        return False
    used, limited = (_numbers(counted[name]) for name in ("used", "limited"))
    return all(used[name] <= limited[name] for name in used.keys() & limited.keys())


def _numbers(amounts: str) -> dict[str, int]:
    """Read the counts of a quota, `name=number` with `,` between; other amounts, as of memory, are left out."""
    pairs = (amount.partition("=") for amount in amounts.split(","))
    return {name: int(number) for name, _, number in pairs if number.isdecimal()}


def _delete(cluster: Cluster, action: Action) -> StepResult:
    command = action.command
    failure = cluster.delete_job(command.namespace, command.name, action.uid, resource_version_to_delete(action))
    return StepResult(What.DONE) if failure is None else _failed(failure, _DELETES)


def _create(cluster: Cluster, action: Action, step: Step) -> StepResult:
    answer = cluster.create_job(action.command.namespace, manifest_to_create(action, step))
    if isinstance(answer, ApiFailure):
        return _failed(answer, _CREATES)
    return StepResult(What.DONE, uid=answer.fact.uid, action_id=answer.fact.action_id)


def _failed(failure: ApiFailure, meanings: dict[Failure, What]) -> StepResult:
    return StepResult(
        What.LATER if failure.status == _UNAUTHORIZED else meanings.get(failure.kind, What.UNKNOWN),
        status=failure.status,
        message=failure.message,
        retry_after_seconds=failure.retry_after_seconds or 0.0,
    )
