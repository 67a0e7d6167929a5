"""What tests on a cluster begin with: a client of their own, a worker that heals there, and a person beside it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sf_healer.adapters.cluster import ApiFailure, Cluster
from tests.lab.quick import QUICK_HEARTBEAT_SECONDS, QUICK_SESSION_TIMEOUT_SECONDS
from tests.lab.worker import Worker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from sf_healer.local.cluster import LocalCluster
    from tests.lab.kube import ControlPlane

#: What every pod runs: a process that does nothing until it is told to end.
IDLE_PODS = (sys.executable, "-c", "import signal; signal.pause()")
COMMAND_SECONDS = 150.0

T = TypeVar("T")


def must(answer: T | ApiFailure) -> T:
    assert not isinstance(answer, ApiFailure), answer
    return answer


@contextmanager
def connected(plane: LocalCluster | ControlPlane) -> Iterator[Cluster]:
    """A client in a namespace of its own; its Jobs are deleted at the end, for pods are processes."""
    cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(plane.kubeconfig))
    yield cluster
    for fact in must(cluster.list_jobs()).facts:
        cluster.delete_job(cluster.namespace, fact.key.split("/")[1], fact.uid)
    cluster.close()


class Attended:
    """A worker that heals in a small cluster, and the command line of a person."""

    def __init__(self, worker: Worker, cluster: Cluster) -> None:
        self.worker = worker
        self.cluster = cluster

    def healer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.worker.healer(*arguments, seconds=COMMAND_SECONDS)

    def page(self, name: str) -> dict[str, Any]:
        """Give what the worker shows of a Job; empty while it knows of none."""
        answer = self.worker.get(f"/jobs/{self.cluster.namespace}/{name}/")
        return answer.body if answer is not None and answer.status == 200 else {}


def a_healer(directory: Path, bootstrap: str, cluster: Cluster, kubeconfig: Path, policy: str) -> Worker:
    """A worker of both roles on the embedded broker that sees and decides quickly."""
    (directory / "policy.toml").write_text(policy)
    return Worker(
        "worker",
        directory,
        bootstrap=bootstrap,
        mode="heal",
        demo_accept_create_time="true",
        namespace=cluster.namespace,
        kubeconfig=kubeconfig,
        policy_file=directory / "policy.toml",
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
        feed_gap_seconds=10,
        broker_session_timeout_seconds=QUICK_SESSION_TIMEOUT_SECONDS,
        broker_heartbeat_seconds=QUICK_HEARTBEAT_SECONDS,
    )


def a_loader(name: str, queue: str) -> dict[str, Any]:
    """The manifest of a Job as the platform makes them, with a secret in its environment."""
    env = {"QUEUE_ID": queue, "TELEMETRY_PRODUCER_ID": "loader-ws__P4nTkv", "KAFKA_TOPIC": queue, "PASSWORD": "hunter2"}
    container = {
        "name": "loader",
        "image": "registry.example/loader:1",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    spec = {"backoffLimit": 4, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
