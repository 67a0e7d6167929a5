"""The kubelet: a pod is a real process in a session of its own, started, watched and ended by its id.

The image is ignored; every pod runs the local cluster's one command with the env of its first container.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from sf_healer.local import children
from sf_healer.local.kube.objects import (
    ENDED_PHASES,
    JOB_NAME_LABELS,
    POD,
    Kind,
    Object,
    edited,
    finalizers_of,
    is_deleting,
    name_of,
    namespace_of,
    owner_of,
    timestamp,
    uid_of,
)
from sf_healer.local.kube.store import Change, Store

NODE = "local"
POD_IP = "127.0.0.1"
PENDING = "SF_LOCAL_PENDING_SECONDS"  # in a container's env: how long its pod stays Pending; "inf": for ever
INCARNATION = "SF_LOCAL_INCARNATION"  # given to the process: how many Jobs of this name have run so far

_KEPT_ENV = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_SIGNALLED = 128  # an exit code as shells and container runtimes tell the end by a signal


class LocalPod(msgspec.Struct, frozen=True):
    """A pod with its process, for people and tests to look at."""

    namespace: str
    name: str
    job: str
    pid: int
    log: Path


class _Running(msgspec.Struct):
    pod: LocalPod
    process: children.Process
    watch: int  # a pidfd, readable once the process has ended
    kill: asyncio.TimerHandle | None = None


class Kubelet:
    """Runs the pods of the only node."""

    def __init__(
        self,
        store: Store,
        command: Sequence[str],
        logs: Path,
        *,
        grace_limit_seconds: float,
        most_processes: int,
    ) -> None:
        self._store = store
        self._command = command
        self._logs = logs
        self._grace_limit_seconds = grace_limit_seconds
        self._most_processes = most_processes
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, _Running] = {}  # by uid
        self._pending_since: dict[str, float] = {}  # by uid, on the loop's clock
        self._incarnations: dict[tuple[str, str], list[str]] = {}
        self._lost: set[str] = set()  # uids
        store.listen(self._notice)

    def pods(self) -> tuple[LocalPod, ...]:
        """Give the pods that have a process now."""
        return tuple(running.pod for running in self._running.values())

    def log_of(self, pod: Object) -> Path:
        """Say where the output of a pod's process is."""
        return self._logs / f"{uid_of(pod)}.log"

    def lose_node_of(self, namespace: str, name: str) -> None:
        """Let a running pod's node die: its process is gone, nobody says so, and the node controller finds out."""
        pod = self._store.get(POD, namespace, name)
        assert pod is not None, f"there is no pod {namespace}/{name}"
        self._lost.add(uid_of(pod))
        self._running[uid_of(pod)].process.kill()
        self._store.put(POD, _not_ready(pod))

    def kill_all(self) -> None:
        """End every process; returns when they are gone."""
        running, self._running = list(self._running.values()), {}
        for each in running:
            self._loop.remove_reader(each.watch)
            os.close(each.watch)
            each.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_limit_seconds
        for each in running:
            children.end(each.process, grace_seconds=max(0.0, deadline - time.monotonic()))

    def _notice(self, kind: Kind, change: Change) -> None:
        if kind == POD:
            # Not from within the change: others have not heard of it yet.
            self._loop.call_soon(self._sync, namespace_of(change.object), name_of(change.object))

    def _sync(self, namespace: str, name: str) -> None:
        pod = self._store.get(POD, namespace, name)
        if pod is None or uid_of(pod) in self._lost:
            return
        running = self._running.get(uid_of(pod))
        if is_deleting(pod):
            if running is not None:
                self._terminate(pod, running)
            elif pod["status"]["phase"] not in ENDED_PHASES:
                self._store.put(POD, _ended(pod, _SIGNALLED + signal.SIGTERM))
            elif not finalizers_of(pod):
                self._store.remove(POD, pod)
        elif pod["status"]["phase"] == "Pending" and running is None:
            self._start_in_time(pod)

    # ---- starting

    def _start_in_time(self, pod: Object) -> None:
        if "startTime" not in pod["status"]:
            self._store.put(POD, _scheduled(pod))  # comes back here through the change
            return
        waits = float(_env_of(pod).get(PENDING, "0"))
        if waits == float("inf"):
            return
        left = self._pending_since.setdefault(uid_of(pod), self._loop.time()) + waits - self._loop.time()
        if left > 0:
            self._loop.call_later(left, self._sync, namespace_of(pod), name_of(pod))
        elif len(self._running) < self._most_processes:
            self._start(pod)
        # else it stays Pending until another pod's end makes room

    def _start(self, pod: Object) -> None:
        self._pending_since.pop(uid_of(pod), None)
        log = self.log_of(pod)
        job = pod["metadata"].get("labels", {}).get(JOB_NAME_LABELS[0], "")
        process = children.start(self._command, env=self._environment(pod, job), log=log)
        local = LocalPod(namespace=namespace_of(pod), name=name_of(pod), job=job, pid=process.pid, log=log)
        running = _Running(local, process, os.pidfd_open(process.pid))
        self._running[uid_of(pod)] = running
        self._loop.add_reader(running.watch, partial(self._ended, uid_of(pod)))
        self._store.put(POD, _started(pod))

    def _environment(self, pod: Object, job: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_ENV if name in os.environ}
        owner = (owner_of(pod) or {}).get("uid", "")
        incarnations = self._incarnations.setdefault((namespace_of(pod), job), [])
        if owner not in incarnations:
            incarnations.append(owner)
        number = incarnations.index(owner) + 1
        return kept | {"PYTHONUNBUFFERED": "1"} | _env_of(pod) | {INCARNATION: str(number)}

    # ---- ending

    def _terminate(self, pod: Object, running: _Running) -> None:
        """Ask the process to end, and kill it when the pod's grace, within our limit, is over."""
        if running.kill is not None:
            return
        grace = min(pod["metadata"]["deletionGracePeriodSeconds"], self._grace_limit_seconds)
        if grace > 0:
            running.process.send_signal(signal.SIGTERM)
        running.kill = self._loop.call_later(grace, running.process.kill)

    def _ended(self, uid: str) -> None:
        running = self._running.pop(uid)
        self._loop.remove_reader(running.watch)
        os.close(running.watch)
        if running.kill is not None:
            running.kill.cancel()
        code = running.process.wait()
        pod = self._store.get(POD, running.pod.namespace, running.pod.name)
        if pod is not None and uid_of(pod) == uid and uid not in self._lost:
            self._store.put(POD, _ended(pod, code if code >= 0 else _SIGNALLED - code))
        for waiting in self._store.all_of(POD):  # there is room for another
            if waiting["status"]["phase"] == "Pending":
                self._sync(namespace_of(waiting), name_of(waiting))


def _env_of(pod: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod["spec"]["containers"][0].get("env") or ()}


def _scheduled(pod: Object) -> Object:
    def change(copied: Object) -> None:
        copied["spec"]["nodeName"] = NODE
        copied["status"] |= {
            "startTime": timestamp(time.time()),
            "hostIP": POD_IP,
            "conditions": [_condition("PodScheduled", is_true=True), _condition("Ready", is_true=False)],
        }

    return edited(pod, change)


def _started(pod: Object) -> Object:
    def change(copied: Object) -> None:
        container = copied["spec"]["containers"][0]
        copied["status"] |= {
            "phase": "Running",
            "podIP": POD_IP,
            "podIPs": [{"ip": POD_IP}],
            "conditions": [_condition("PodScheduled", is_true=True), _condition("Ready", is_true=True)],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": timestamp(time.time())}},
                }
            ],
        }

    return edited(pod, change)


def _not_ready(pod: Object) -> Object:
    """Say of a pod what the node controller says when its node does not answer: what its containers did stays."""

    def change(copied: Object) -> None:
        copied["status"]["conditions"] = [_condition("PodScheduled", is_true=True), _condition("Ready", is_true=False)]

    return edited(pod, change)


def _ended(pod: Object, code: int) -> Object:
    def change(copied: Object) -> None:
        status = copied["status"]
        status["phase"] = "Failed" if code else "Succeeded"
        status["conditions"] = [_condition("PodScheduled", is_true=True), _condition("Ready", is_true=False)]
        for container in status.get("containerStatuses", ()):
            terminated = {"exitCode": code, "reason": "Error" if code else "Completed"}
            container |= {"ready": False, "state": {"terminated": terminated}}

    return edited(pod, change)


def _condition(type_: str, *, is_true: bool) -> Object:
    return {
        "type": type_,
        "status": "True" if is_true else "False",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(time.time()),
    }
