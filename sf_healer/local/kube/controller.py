"""The Job controller and the garbage collector: makes pods, counts how they ended, lets what is deleted go.

Works as the real ones do: told that something about a Job changed, it looks at the Job and its pods as they
are now and does what is missing. Simplified: completions are counted, not indexed; no success or failure
policies; no activeDeadlineSeconds.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from typing import Any

from sf_healer.local.kube.objects import (
    ENDED_PHASES,
    FOREGROUND_FINALIZER,
    JOB,
    ORPHAN_FINALIZER,
    POD,
    TRACKING_FINALIZER,
    Kind,
    Object,
    edited,
    epoch,
    finalizers_of,
    has_condition,
    is_deleting,
    name_of,
    namespace_of,
    owner_of,
    timestamp,
    uid_of,
    without_finalizers,
)
from sf_healer.local.kube.store import Change, Store

_SUFFIX_CHARACTERS, _SUFFIX_ALPHABET = 5, "bcdfghjklmnpqrstvwxz2456789"
_LONGEST_BASE = 63 - _SUFFIX_CHARACTERS
_LONGEST_BACKOFF = 36  # times the first; Kubernetes goes from 10 s to 6 min
_OURS = ("", "kubernetes.io/job-controller")  # managedBy: any other leaves the Job to somebody else

_FINISHED = ("Complete", "Failed")


class JobController:
    """Keeps pods and status of all Jobs as their specs want them."""

    def __init__(self, store: Store, *, backoff_seconds: float) -> None:
        self._store = store
        self._backoff_seconds = backoff_seconds
        self._loop = asyncio.get_running_loop()
        self._due: set[tuple[str, str]] = set()
        self._retry_at: dict[str, float] = {}  # by uid, on the loop's clock
        self._withheld: dict[tuple[str, str], int] = {}
        self._without_pods: set[str] = set()  # uids
        self._random = random.Random()  # noqa: S311  # names of pods
        store.listen(self._notice)

    def withhold_pods(self, namespace: str, name: str) -> None:
        """Give the next Job of this name no pods, as a known fault of Kubernetes can for minutes."""
        key = (namespace, name)
        self._withheld[key] = self._withheld.get(key, 0) + 1

    def _notice(self, kind: Kind, change: Change) -> None:
        if kind == JOB:
            self._plan(namespace_of(change.object), name_of(change.object))
        elif kind == POD:
            for version in (change.object, change.before):
                owner = owner_of(version) if version is not None else None
                if owner is not None:
                    self._plan(namespace_of(change.object), owner["name"])

    def _plan(self, namespace: str, name: str, *, in_seconds: float = 0.0) -> None:
        if in_seconds > 0:
            self._loop.call_later(in_seconds, self._plan, namespace, name)
            return
        if not self._due:
            self._loop.call_soon(self._work)
        self._due.add((namespace, name))

    def _work(self) -> None:
        due, self._due = self._due, set()
        for namespace, name in sorted(due):
            self._sync(namespace, name)

    def _sync(self, namespace: str, name: str) -> None:
        job = self._store.get(JOB, namespace, name)
        pods = []
        for pod in self._store.all_of(POD, namespace):
            owner = owner_of(pod)
            if owner is not None and owner["name"] == name:
                if job is not None and owner["uid"] == uid_of(job):
                    pods.append(pod)
                else:
                    self._collect(pod)
        if job is None or job["spec"].get("managedBy", "") not in _OURS:
            return
        if is_deleting(job):
            self._let_go(job, pods)
        else:
            self._run(job, pods)

    # ---- deletion

    def _collect(self, pod: Object) -> None:
        """Delete a pod whose Job is gone; nobody counts it any more."""
        pod = self._store.put(POD, without_finalizers(pod, TRACKING_FINALIZER))
        self._delete(pod)

    def _delete(self, pod: Object) -> None:
        if is_deleting(pod):
            return
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        self._store.put(POD, edited(pod, lambda copied: mark_deleting(copied, grace, time.time())))

    def _let_go(self, job: Object, pods: Sequence[Object]) -> None:
        """Do what the Job's finalizers ask for, then take it out."""
        wanted = finalizers_of(job)
        done = []
        # Pods count to the last: a Job without retries may turn Failed on its way out.
        status = self._counted(job, pods, dict(job["status"]))
        if not has_condition(job, *_FINISHED):
            status |= _end(job, status) or {}
        pods = [self._released(pod) if pod["status"]["phase"] in ENDED_PHASES else pod for pod in pods]
        if FOREGROUND_FINALIZER in wanted:
            for pod in pods:
                self._delete(pod)
            if not pods:
                done.append(FOREGROUND_FINALIZER)
        if ORPHAN_FINALIZER in wanted:
            for pod in pods:
                self._orphan(pod)
            done.append(ORPHAN_FINALIZER)
        if set(wanted) <= set(done):
            self._store.remove(JOB, job)
            self._without_pods.discard(uid_of(job))
            self._retry_at.pop(uid_of(job), None)
        else:
            self._store.put(JOB, _with_status(without_finalizers(job, *done), status | _pod_counts(pods)))

    def _orphan(self, pod: Object) -> None:
        pod = without_finalizers(pod, TRACKING_FINALIZER)
        self._store.put(POD, edited(pod, lambda copied: copied["metadata"].pop("ownerReferences", None)))

    def _released(self, pod: Object) -> Object:
        return self._store.put(POD, without_finalizers(pod, TRACKING_FINALIZER))

    # ---- running

    def _run(self, job: Object, pods: Sequence[Object]) -> None:
        status: dict[str, Any] = dict(job["status"])
        if not has_condition(job, *_FINISHED):
            status = self._counted(job, pods, status)
        pods = [self._released(pod) if pod["status"]["phase"] in ENDED_PHASES else pod for pod in pods]
        active = [pod for pod in pods if _is_active(pod)]
        if has_condition(job, *_FINISHED):
            for pod in active:
                self._delete(pod)
            self._remove_after_its_time(job)
            return
        if (end := _end(job, status)) is not None:
            status |= end
        elif job["spec"]["suspend"]:
            for pod in active:
                self._delete(self._released(pod))  # uncounted: they did not fail
            status = _suspended(status)
        else:
            status = _going_on(status)
            pods = [*pods, *self._missing_pods(job, len(active), status)]
        self._store.put(JOB, _with_status(job, status | _pod_counts(pods)))

    def _counted(self, job: Object, pods: Sequence[Object], status: dict[str, Any]) -> dict[str, Any]:
        """Count pods that ended since the last look: those that still have the tracking finalizer."""
        for pod in pods:
            if pod["status"]["phase"] in ENDED_PHASES and TRACKING_FINALIZER in finalizers_of(pod):
                outcome = "succeeded" if pod["status"]["phase"] == "Succeeded" else "failed"
                status = status | {outcome: status.get(outcome, 0) + 1}
                if outcome == "failed":
                    waits = min(2 ** (status["failed"] - 1), _LONGEST_BACKOFF) * self._backoff_seconds
                    self._retry_at[uid_of(job)] = self._loop.time() + waits
        return status

    def _missing_pods(self, job: Object, active: int, status: dict[str, Any]) -> list[Object]:
        uid, key = uid_of(job), (namespace_of(job), name_of(job))
        if "ready" not in job["status"] and self._withheld.get(key, 0) > 0:  # the first look at this Job
            self._withheld[key] -= 1
            self._without_pods.add(uid)
        if uid in self._without_pods:
            return []
        spec = job["spec"]
        wanted = min(spec["parallelism"], spec["completions"] - status.get("succeeded", 0)) - active
        wait = self._retry_at.get(uid, 0.0) - self._loop.time()
        if wanted > 0 and wait > 0:
            self._plan(*key, in_seconds=wait)
            return []
        return [self._store.put(POD, self._new_pod(job)) for _ in range(wanted)]

    def _new_pod(self, job: Object) -> Object:
        suffix = "".join(self._random.choices(_SUFFIX_ALPHABET, k=_SUFFIX_CHARACTERS))
        template = job["spec"]["template"]
        now = timestamp(time.time())
        metadata = {
            **template.get("metadata", {}),
            "name": f"{name_of(job)[: _LONGEST_BASE - 1]}-{suffix}",
            "generateName": f"{name_of(job)[: _LONGEST_BASE - 1]}-",
            "namespace": namespace_of(job),
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now,
            "generation": 1,
            "finalizers": [TRACKING_FINALIZER],
            "ownerReferences": [
                {
                    "apiVersion": JOB.api_version,
                    "kind": JOB.name,
                    "name": name_of(job),
                    "uid": uid_of(job),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        }
        pod = {
            "apiVersion": POD.api_version,
            "kind": POD.name,
            "metadata": metadata,
            "spec": template["spec"],
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        }
        return edited(pod, lambda _: None)  # shares nothing with the Job

    def _remove_after_its_time(self, job: Object) -> None:
        """Delete a finished Job once its ttlSecondsAfterFinished is over, in the foreground."""
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None:
            return
        finished = next(item for item in job["status"]["conditions"] if item["type"] in _FINISHED)
        left = epoch(finished["lastTransitionTime"]) + ttl - time.time()
        if left > 0:
            self._plan(namespace_of(job), name_of(job), in_seconds=left)
            return

        def delete(copied: Object) -> None:
            copied["metadata"]["finalizers"] = [*finalizers_of(copied), FOREGROUND_FINALIZER]
            mark_deleting(copied, 0, time.time())

        self._store.put(JOB, edited(job, delete))


def mark_deleting(item: Object, grace_seconds: int, now: float) -> None:
    """Note on an object that it is to go; a second time changes nothing."""
    metadata = item["metadata"]
    if "deletionTimestamp" not in metadata:
        metadata["deletionTimestamp"] = timestamp(now + grace_seconds)
        metadata["deletionGracePeriodSeconds"] = grace_seconds
        metadata["generation"] = metadata.get("generation", 0) + 1


def _is_active(pod: Object) -> bool:
    return pod["status"]["phase"] not in ENDED_PHASES and not is_deleting(pod)


def _with_status(job: Object, status: dict[str, Any]) -> Object:
    shown = {name: value for name, value in status.items() if name != "active" or value}  # the API omits a 0
    return edited(job, lambda copied: copied.update(status=shown))


def _pod_counts(pods: Sequence[Object]) -> dict[str, Any]:
    active = [pod for pod in pods if _is_active(pod)]
    terminating = [pod for pod in pods if is_deleting(pod) and pod["status"]["phase"] not in ENDED_PHASES]
    ready = sum(pod["status"]["phase"] == "Running" for pod in active)
    return {
        "active": len(active),
        "ready": ready,
        "terminating": len(terminating),
        "uncountedTerminatedPods": {},
    }


def _end(job: Object, status: dict[str, Any]) -> dict[str, Any] | None:
    """Give the conditions of a Job that has come to its end; None while it has not."""
    if status.get("succeeded", 0) >= job["spec"]["completions"]:
        reason, message = "CompletionsReached", "Reached expected number of succeeded pods"
        conditions = [
            _condition("SuccessCriteriaMet", reason, message),
            _condition("Complete", reason, message),
        ]
        return {"conditions": conditions, "completionTime": timestamp(time.time())}
    if status.get("failed", 0) > job["spec"]["backoffLimit"]:
        reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        return {
            "conditions": [
                _condition("FailureTarget", reason, message),
                _condition("Failed", reason, message),
            ]
        }
    return None


def _suspended(status: dict[str, Any]) -> dict[str, Any]:
    if any(item["type"] == "Suspended" and item["status"] == "True" for item in status.get("conditions", ())):
        return status
    return {key: value for key, value in status.items() if key != "startTime"} | {
        "conditions": [_condition("Suspended", "JobSuspended", "Job suspended")]
    }


def _going_on(status: dict[str, Any]) -> dict[str, Any]:
    if any(item["type"] == "Suspended" and item["status"] == "True" for item in status.get("conditions", ())):
        resumed = _condition("Suspended", "JobResumed", "Job resumed") | {"status": "False"}
        status = status | {"conditions": [resumed]}
    return {"startTime": timestamp(time.time())} | status


def _condition(type_: str, reason: str, message: str) -> Object:
    now = timestamp(time.time())
    return {
        "type": type_,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }
