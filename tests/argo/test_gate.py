"""The gate `platform_rollout`: a worker that heals, a Rollout that moves, both real, on one control plane.

What is played: kwok's Pods, the Job's process, and a Prometheus that has seen nothing, so that the canary stays at its
first step. The ten minutes after an abort are made short by dating the abort back.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sf_healer.adapters.cluster import Cluster
from sf_healer.core.commands import Result
from sf_healer.core.facts import PodState
from sf_healer.core.rollouts import AFTER_ABORT_SECONDS
from tests.argo.controlled import controlled
from tests.argo.files import build, composed
from tests.argo.scenario import Scenario, canary_of, commands, platform
from tests.lab.beside import Served, answer_json
from tests.lab.kube.rules import RULES
from tests.lab.mount import Mount
from tests.lab.sick import Sick
from tests.lab.waiting import until, until_async
from tests.lab.worker import Worker, drop_topics, make_topics
from tests.manifests.built import Name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster
    from tests.lab.kube import ControlPlane

pytestmark = [pytest.mark.kafka, pytest.mark.kube, pytest.mark.crds, pytest.mark.argo, pytest.mark.timeout(900)]

FILE = "policy.toml"
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 4
startup_threshold_seconds = 120

[admission]
platform_rollout = "{during}"
rate_per_minute = 6000
rate_burst = 100
backoff_seconds = 1
refused_retry_seconds = 2
"""
SEEN_SECONDS = 120.0
COMMAND_SECONDS = 60.0
#: How much of the time after the abort is left when it is dated back.
HELD_SECONDS = 60.0
#: The API server's clock is told in whole seconds.
SLACK_SECONDS = 2.0


class SeenNothing(BaseHTTPRequestHandler):
    """A Prometheus without a sample."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        answer_json(self, {"status": "success", "data": {"resultType": "vector", "result": []}})

    def log_message(self, *_: object) -> None:
        pass


class Platform:
    """queue-manager under its Rollout, in the namespace of the Jobs."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self.scenario = Scenario("gate")

    def migrate(self, prometheus: str, at: Path) -> None:
        """Put the shipped overlay beside the platform's Deployment, and wait until it serves."""
        deployed = [
            each | {"metadata": each["metadata"] | {"namespace": self.namespace}} for each in platform(self.scenario)
        ]
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(deployed))
        at.mkdir()
        template = build("traefik")[Name("AnalysisTemplate", "queue-manager-traffic")]
        place = [each["name"] for each in template["spec"]["args"]].index("prometheus")
        address = [{"op": "replace", "path": f"/spec/args/{place}/value", "value": prometheus}]
        soon = [{"op": "replace", "path": "/spec/minReadySeconds", "value": 1}]
        patches = [
            {"target": {"kind": "AnalysisTemplate", "name": "queue-manager-traffic"}, "patch": yaml.safe_dump(address)},
            {"target": {"kind": "Rollout"}, "patch": yaml.safe_dump(soon)},
        ]
        content = {"namespace": self.namespace, "resources": ["ARGO"], "patches": patches}
        composed(yaml.safe_dump(content), at)
        self.plane.kubectl("apply", "-k", str(at))
        until(lambda: self.status().get("phase") == "Healthy", "the Rollout to serve", seconds=SEEN_SECONDS)

    def status(self) -> dict[str, Any]:
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{self.namespace}/rollouts/queue-manager"
        status: dict[str, Any] = self.plane.call("GET", path).body.get("status", {})
        return status

    def try_version(self, image: str) -> None:
        """Let a new version begin."""
        patch = canary_of(self.scenario)
        patch["spec"]["template"]["spec"]["containers"][0]["image"] = image
        self.plane.kubectl("-n", self.namespace, "patch", "deploy", "queue-manager", "-p", json.dumps(patch))
        until(lambda: self.status().get("phase") in {"Progressing", "Paused"}, "it to begin", seconds=SEEN_SECONDS)

    def abort(self) -> float:
        """Take the new version back as the page says it, a while ago; gives until when that holds (epoch seconds)."""
        (words,) = [each for each in commands("A rollout by hand") if '{"status":{"abort":true}}' in each]
        ago = datetime.fromtimestamp(time.time() - AFTER_ABORT_SECONDS + HELD_SECONDS, UTC)
        patch = {"status": {"abort": True, "abortedAt": ago.strftime("%Y-%m-%dT%H:%M:%SZ")}}
        words = [json.dumps(patch) if word.startswith("{") else word for word in words]
        self.plane.kubectl(*[self.namespace if word == "stf" else word for word in words])
        until(lambda: self.status().get("phase") == "Degraded", "it to be taken back", seconds=SEEN_SECONDS)
        assert self.status()["abortedAt"] == patch["status"]["abortedAt"], "the controller keeps what it finds"
        return ago.timestamp() + AFTER_ABORT_SECONDS


@pytest.fixture
def bootstrap(kafka_single: KafkaCluster) -> Iterator[str]:
    asyncio.run(make_topics(kafka_single.bootstrap))
    yield kafka_single.bootstrap
    asyncio.run(drop_topics(kafka_single.bootstrap))


def seen(worker: Worker) -> str:
    """Give what `sf-healer fleet` says of the rollout."""
    done = worker.healer("fleet", "--url", f"http://127.0.0.1:{worker.port}", seconds=COMMAND_SECONDS)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    found = [line for line in lines if line.startswith("rollout of queue-manager")]
    return found[0].removeprefix("rollout of queue-manager ") if found else ""


def until_seen(worker: Worker, *words: str) -> None:
    until(lambda: all(word in seen(worker) for word in words), f"fleet to say {words}", seconds=SEEN_SECONDS)


async def a_silent_job(cluster: Cluster, bootstrap: str) -> tuple[Sick, str]:
    """Make a Job that reports once; gives the uid of its first incarnation too."""
    job = Sick(cluster, bootstrap)
    await asyncio.to_thread(job.create)

    def uid() -> str:
        found = job.look()
        return found.fact.uid if found is not None and found.fact.pod is PodState.RUNNING else ""

    first = await until_async(partial(asyncio.to_thread, uid), "the Job to run", seconds=SEEN_SECONDS)
    await job.says("started", "loading")
    return job, first


async def until_held(job: Sick, detail: str) -> None:
    async def is_held() -> bool:
        outcomes = await job.outcomes()
        return any(each.reason == "platform_rollout" and detail in each.detail for each in outcomes)

    await until_async(is_held, f"the Job to be held: {detail}", seconds=SEEN_SECONDS)


async def until_healed(job: Sick, first: str) -> float:
    """Wait for the restart; gives when the new incarnation was created (epoch seconds)."""

    async def is_healed() -> bool:
        found = await asyncio.to_thread(job.look)
        if found is not None and found.fact.uid != first and found.fact.pod is PodState.RUNNING:
            await job.says("loading")
        return Result.RESTARTED in await job.results()

    await until_async(is_healed, "the Job to be healed", seconds=SEEN_SECONDS)
    found = await asyncio.to_thread(job.look)
    assert found is not None
    return found.fact.created_at


async def test_while_a_version_is_tried_or_was_just_taken_back_restarts_are_held_or_only_warned_of(
    cluster: ControlPlane, bootstrap: str, tmp_path: Path
):
    namespace = await asyncio.to_thread(cluster.create_namespace)
    queue_manager = Platform(cluster, namespace)
    admin = await asyncio.to_thread(lambda: Cluster.connect(namespace=namespace, kubeconfig=str(cluster.kubeconfig)))
    policy = Mount(tmp_path / "etc", {FILE: POLICY.format(during="hold")})
    with ExitStack() as running:
        running.callback(admin.close)
        running.callback(cluster.kubectl, "delete", "namespace", namespace, "--wait=false")
        nothing = running.enter_context(Served(SeenNothing))
        running.enter_context(controlled(cluster, tmp_path, f"{nothing.address}/told"))
        await asyncio.to_thread(queue_manager.migrate, nothing.address, tmp_path / "quick")
        account = await asyncio.to_thread(cluster.service_account, namespace, "healer", RULES)
        worker = running.enter_context(
            Worker(
                "heals",
                tmp_path,
                bootstrap=bootstrap,
                mode="heal",
                namespace=namespace,
                kubeconfig=account,
                policy_file=policy / FILE,
                mark_interval_seconds=0.3,
                sweep_window_seconds=0.5,
            )
        )
        await asyncio.to_thread(worker.wait_until_ready)
        await asyncio.to_thread(until_seen, worker, "Healthy")

        await asyncio.to_thread(queue_manager.try_version, "queue-manager:1.1.0")
        await asyncio.to_thread(until_seen, worker, "is being tried", "restarts are held")
        held, first = await a_silent_job(admin, bootstrap)
        await until_held(held, "is being tried")

        until_ = await asyncio.to_thread(queue_manager.abort)
        await asyncio.to_thread(until_seen, worker, "was taken back", "restarts are held")
        await until_held(held, "was taken back")
        assert await until_healed(held, first) >= until_ - SLACK_SECONDS, "not before that time was over"
        await asyncio.to_thread(until_seen, worker, "Degraded")

        policy.publish({FILE: POLICY.format(during="warn")})
        await asyncio.to_thread(queue_manager.try_version, "queue-manager:1.2.0")
        await asyncio.to_thread(until_seen, worker, "is being tried", "a warning, nothing is held")
        warned, second = await a_silent_job(admin, bootstrap)
        await until_healed(warned, second)
        assert queue_manager.status()["phase"] in {"Progressing", "Paused"}, "it is tried still"
        assert await warned.results() == {Result.RESTARTED}
