"""`sf-healer worker --role`: detector and actuator as two processes, each doing its own part and no other.

On the embedded broker and the local cluster, in heal mode. What a role does is read from what is on the topics.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters.cluster import Cluster, LiveJob
from sf_healer.core import commands, evidence, steps
from sf_healer.core.commands import Outcome, Result
from sf_healer.core.evidence import Bundle, Fact, Mark, Snapshot, SnapshotPart
from sf_healer.core.facts import PodState
from sf_healer.core.steps import FleetCounts, Seen, Tick
from sf_healer.local import launcher
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from sf_healer.settings import Role
from tests.lab.process import Server
from tests.lab.waiting import until, until_async
from tests.lab.worker import Worker, make_topics, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]

TARGET = "arango-connector"
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 4
startup_threshold_seconds = 60
error_grace_seconds = 1

[admission]
backoff_seconds = 1
refused_retry_seconds = 2
attempts = 8
"""
SEEN_SECONDS = 90.0
#: What only a detector writes: to the evidence, and to the steps log.
OF_DETECTOR = (Bundle, Mark, Fact, Snapshot, SnapshotPart)
COUNTS_AND_FACTS = (FleetCounts, Seen)


class Stage:
    """One Job on a small cluster, and everything on the topics as it is now."""

    def __init__(self, bootstrap: str, cluster: Cluster, kubeconfig: Path, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.cluster = cluster
        self.kubeconfig = kubeconfig
        self.directory = directory
        self.queue = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", "P4nTkv")
        self.name = launcher.job_name(self.queue.id, TARGET)
        self.key = f"{cluster.namespace}/{self.name}"

    def create(self) -> None:
        namespace = self.cluster.namespace
        env = launcher.environment(self.queue, TARGET)
        made = self.cluster.create_job(namespace, launcher.job_manifest(self.queue, TARGET, env, namespace=namespace))
        assert isinstance(made, LiveJob), made

    def job(self) -> LiveJob | None:
        answer = self.cluster.read_job(self.cluster.namespace, self.name)
        return answer if isinstance(answer, LiveJob) else None

    def worker(self, role: Role) -> Worker:
        directory = self.directory / role
        directory.mkdir(exist_ok=True)
        (directory / "policy.toml").write_text(POLICY)
        worker = Worker(
            role,
            directory,
            bootstrap=self.bootstrap,
            mode="heal",
            namespace=self.cluster.namespace,
            kubeconfig=self.kubeconfig,
            policy_file=directory / "policy.toml",
            mark_interval_seconds=0.3,
            sweep_window_seconds=0.5,
            broker_session_timeout_seconds=3,
            broker_heartbeat_seconds=0.5,
            demo_accept_create_time="true",
        )
        worker.server = Server(role, worker.command("worker", "--role", role), log=worker.log)
        return worker

    async def report(self, *words: str) -> None:
        named = {"queue_id": self.queue.id, "producer": launcher.telemetry_id(TARGET, self.queue.short)}
        says = [{**named, "status": word, "event": word, "finished": word == "error"} for word in words]
        await send(self.bootstrap, [json.dumps(each).encode() for each in says])

    async def evidence(self, *kinds: type) -> int:
        """Count the records of the evidence that are one of these kinds."""
        found = [evidence.decode(record.value) for record in await records_of(self.bootstrap, topics.EVIDENCE)]
        return sum(isinstance(each, kinds) for each in found)

    async def steps(self) -> set[type]:
        """Give the kinds of records on the steps log."""
        return {type(steps.decode(record.value)) for record in await records_of(self.bootstrap, topics.STEPS)}

    async def asked(self) -> int:
        return len(await records_of(self.bootstrap, topics.ACTIONS))

    async def results(self) -> list[Result]:
        found = [commands.decode_outcome(each.value) for each in await records_of(self.bootstrap, topics.OUTCOMES)]
        return [outcome.result for outcome in found if isinstance(outcome, Outcome)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    pods = (sys.executable, "-c", "import signal; signal.pause()")
    with EmbeddedBroker() as broker, LocalCluster(command=pods) as plane:
        asyncio.run(make_topics(broker.bootstrap))
        cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(plane.kubeconfig))
        yield Stage(broker.bootstrap, cluster, plane.kubeconfig, tmp_path)
        cluster.close()


async def test_a_detector_judges_and_asks_an_actuator_acts_and_only_both_together_heal(stage: Stage):
    stage.create()
    await asyncio.to_thread(until, lambda: _runs(stage), "the Job to run", seconds=SEEN_SECONDS)
    first = stage.job()
    assert first is not None
    await _actuator_alone(stage)
    await _detector_alone(stage)
    now = stage.job()
    assert now is not None
    assert now.fact.uid == first.fact.uid, "a detector touches nothing, an actuator nothing that nobody asked for"
    with stage.worker(Role.DETECTOR) as detector, stage.worker(Role.ACTUATOR) as actuator:
        for worker in (detector, actuator):
            await asyncio.to_thread(worker.wait_until_ready)

        async def healed() -> bool:
            for worker in (detector, actuator):
                assert worker.server.is_alive, worker.tail()
            job = await asyncio.to_thread(stage.job)
            if job is not None and job.fact.uid != first.fact.uid and job.fact.pod is PodState.RUNNING:
                await stage.report("loading")
            return Result.RESTARTED in await stage.results()

        await until_async(healed, f"the Job to be restarted\n{actuator.tail()}", seconds=SEEN_SECONDS)


async def test_of_two_actuators_without_a_detector_each_answers_for_the_restarts(tmp_path: Path):
    with EmbeddedBroker() as broker, ExitStack() as running:
        await make_topics(broker.bootstrap)
        workers = [
            Worker(
                f"actuator-{number}",
                tmp_path,
                bootstrap=broker.bootstrap,
                role=Role.ACTUATOR,
                identity="convention",
                broker_session_timeout_seconds=3,
                broker_heartbeat_seconds=0.5,
            )
            for number in (1, 2)
        ]
        for worker in workers:
            running.enter_context(worker)
        for worker in workers:
            await asyncio.to_thread(worker.wait_until_ready)

        async def both_answer() -> bool:
            answers = [await asyncio.to_thread(worker.get, "/actions/") for worker in workers]
            assert all(worker.server.is_alive for worker in workers)
            return all(answer is not None and answer.status == 200 and "admission" in answer.body for answer in answers)

        await until_async(both_answer, f"both to answer\n{workers[0].tail()}", seconds=SEEN_SECONDS)


async def _actuator_alone(stage: Stage) -> None:
    """An actuator ticks, and neither reads a report nor lists a Job."""
    with stage.worker(Role.ACTUATOR) as worker:
        await asyncio.to_thread(worker.wait_until_ready)
        await stage.report("started", "loading")

        async def ticks() -> bool:
            assert worker.server.is_alive, worker.tail()
            return Tick in await stage.steps()

        await until_async(ticks, "the actuator to tick", seconds=SEEN_SECONDS)
        assert _pages(worker) == {"/actions/": 200, "/jobs/": 404, "/fleet/": 404}
        assert _apps(worker) == ["sf-healer-actuator"]
    assert not await stage.evidence(*OF_DETECTOR)
    assert not await stage.asked()


async def _detector_alone(stage: Stage) -> None:
    """A detector finds the Job failed and asks; nobody follows."""
    before = len(await records_of(stage.bootstrap, topics.STEPS))
    with stage.worker(Role.DETECTOR) as worker:
        await asyncio.to_thread(worker.wait_until_ready)
        await asyncio.to_thread(until, lambda: _is_past_its_first_second(stage), "the clock", seconds=SEEN_SECONDS)
        await stage.report("started", "loading", "error")

        async def asks() -> bool:
            assert worker.server.is_alive, worker.tail()
            return await stage.asked() > 0

        await until_async(asks, "the detector to ask", seconds=SEEN_SECONDS)
        assert _pages(worker) == {"/actions/": 503, "/jobs/": 200, "/fleet/": 200}
        assert _apps(worker) == ["sf-healer-detector"]
    assert await stage.evidence(*OF_DETECTOR)
    written = [steps.decode(record.value) for record in (await records_of(stage.bootstrap, topics.STEPS))[before:]]
    assert {type(record) for record in written} <= set(COUNTS_AND_FACTS)
    assert await stage.results() == []


def _runs(stage: Stage) -> bool:
    job = stage.job()
    return job is not None and job.fact.pod is PodState.RUNNING


def _is_past_its_first_second(stage: Stage) -> bool:
    """A creation is told in whole seconds: an error within that second could be of the Job before it."""
    job = stage.job()
    assert job is not None
    return time.time() > job.fact.created_at + 1.5


def _pages(worker: Worker) -> dict[str, int]:
    answers = {path: worker.get(path) for path in ("/actions/", "/jobs/", "/fleet/")}
    return {path: answer.status for path, answer in answers.items() if answer is not None}


def _apps(worker: Worker) -> list[str]:
    (started,) = [line for line in worker.log.read_text().splitlines() if '"worker_starts"' in line]
    return json.loads(started)["apps"]
