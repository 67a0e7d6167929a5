"""A process for each Pod that kwok says is running: what a node does, and what an operator does for its brokers.

Pods of Jobs run a program with their container's env. Pods of brokers stand for the brokers of a KafkaCluster; they
come back under their names, as a StrimziPodSet has it. A Pod that is deleted takes its process along by SIGKILL,
whatever grace it was given: kwok gives none either. A process that ends by itself is not started again, and its Pod
stays as it is.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.lab.beside import Looking
from tests.lab.process import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster
    from tests.lab.kube import ControlPlane

LOOK_SECONDS = 0.25
#: Every Pod of a Job has this label.
OF_A_JOB = "batch.kubernetes.io/job-name"

Pod = dict[str, Any]


class JobPods(Looking):
    """The processes behind the Pods of a namespace's Jobs; `killed` names the Pods whose process was ended."""

    def __init__(self, plane: ControlPlane, namespace: str, command: Sequence[str], directory: Path) -> None:
        super().__init__("job-pods", every_seconds=LOOK_SECONDS)
        self.killed: list[str] = []
        self._plane, self._namespace, self._command, self._directory = plane, namespace, tuple(command), directory
        self._processes: dict[str, Server] = {}  # by the Pod's uid
        directory.mkdir(parents=True, exist_ok=True)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for process in self._processes.values():
            process.kill()

    def pids(self) -> dict[str, int]:
        """Give the processes that are alive, by the name of their Pod."""
        return {process.name: process.pid for process in list(self._processes.values()) if process.is_alive}

    def look(self) -> None:
        """Look once; where the API server does not answer, all stays as it is."""
        with suppress(OSError):
            running = {pod["metadata"]["uid"]: pod for pod in _running_pods(self._plane, self._namespace, OF_A_JOB)}
            for uid in self._processes.keys() - running.keys():
                process = self._processes.pop(uid)
                process.kill()
                self.killed.append(process.name)
            for uid in running.keys() - self._processes.keys():
                self._processes[uid] = self._start(running[uid])

    def _start(self, pod: Pod) -> Server:
        (container,) = pod["spec"]["containers"]
        env = [f"{each['name']}={each.get('value', '')}" for each in container.get("env", ())]
        name = pod["metadata"]["name"]
        process = Server(name, ["env", "-i", *env, *self._command], log=self._directory / f"{name}.log")
        process.start()
        return process


class BrokerPods(Looking):
    """The brokers of a KafkaCluster as Pods `NAME-0`, `NAME-1` …; one that was deleted comes back after `away_seconds`.

    Away that long a broker is missed by its cluster (9 s) before it is back, as one is that has to be scheduled, pulled
    and started. `killed` names the Pods whose broker was ended.
    """

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        cluster: KafkaCluster,
        *,
        name: str,
        labels: Mapping[str, str],
        name_label: str,
        away_seconds: float,
    ) -> None:
        super().__init__("broker-pods", every_seconds=LOOK_SECONDS)
        self.killed: list[str] = []
        self._plane, self._namespace, self._cluster = plane, namespace, cluster
        self._names = tuple(f"{name}-{index}" for index in range(len(cluster.ports)))
        self._labels, self._name_label = dict(labels), name_label
        self._away_seconds = away_seconds
        self._uids: dict[int, str] = {}  # of the Pods whose brokers run, by number
        self._back_at = dict.fromkeys(self._names, 0.0)  # monotonic seconds

    def look(self) -> None:
        """Look once; a broker that comes back is waited for."""
        with suppress(OSError):
            there = {pod["metadata"]["name"]: pod for pod in _pods(self._plane, self._namespace, self._name_label)}
            for index, name in enumerate(self._names):
                pod = there.get(name)
                uid = pod["metadata"]["uid"] if pod is not None and _is_running(pod) else None
                if self._uids.get(index, uid) != uid:
                    self._end(index)
                elif uid is not None and index not in self._uids:
                    self._bring_up(index, uid)
                if pod is None and time.monotonic() >= self._back_at[name]:
                    self._create(name)

    def are_all_up(self) -> bool:
        """Say whether every broker has its Pod and runs."""
        return len(self._uids) == len(self._names) == len(self._cluster.running)

    def _end(self, index: int) -> None:
        self._cluster.kill(index)
        del self._uids[index]
        self.killed.append(self._names[index])
        self._back_at[self._names[index]] = time.monotonic() + self._away_seconds

    def _bring_up(self, index: int, uid: str) -> None:
        if index not in self._cluster.running:
            self._cluster.restart(index)
        self._uids[index] = uid

    def _create(self, name: str) -> None:
        metadata = {"name": name, "labels": {**self._labels, self._name_label: name}}
        container = {"name": "kafka", "image": "example/kafka:1"}
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        self._plane.call("POST", path, {"metadata": metadata, "spec": {"containers": [container]}})


def _running_pods(plane: ControlPlane, namespace: str, selector: str) -> list[Pod]:
    return [pod for pod in _pods(plane, namespace, selector) if _is_running(pod)]


def _is_running(pod: Pod) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _pods(plane: ControlPlane, namespace: str, selector: str) -> list[Pod]:
    """List the Pods with a label; raises OSError when the API server has no answer."""
    answer = plane.call("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(selector)}")
    if answer.status != 200:
        raise OSError(f"Pods of {namespace}: {answer.status}")
    items: list[Pod] = answer.body["items"]
    return items
