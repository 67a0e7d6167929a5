"""Drained consumers in heal mode, on Apache Kafka and a real control plane: nobody touches them, however many.

They fall silent together, as a backfill that is done makes them, and look like a storm of stuck Jobs. Their own
consumer groups tell them apart; the one beside them that hangs is restarted all the same.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sf_healer import topics
from sf_healer.adapters.cluster import Cluster, LiveJob
from sf_healer.core import commands
from sf_healer.core.commands import Outcome, Result
from sf_healer.local import launcher
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kafka, pytest.mark.kube, pytest.mark.timeout(300)]

TARGET = "arango-connector"
POLICY = f"""\
[[policy]]
name = "consumers"
targets = ["{TARGET}"]
reporting = true
consumer = true
silence_threshold_seconds = 6
startup_threshold_seconds = 30

[admission]
rate_per_minute = 6000
rate_burst = 100
backoff_seconds = 1
refused_retry_seconds = 3
idle_look_seconds = 2
storm_jobs = 2
"""
DRAINED = ("drained-1", "drained-2", "drained-3", "drained-4")
HANGS = "hangs"
SEEN_SECONDS = 120.0


class Consumers:
    """Consumer Jobs, whose processes the test plays: members of their groups, and reports."""

    def __init__(self, bootstrap: str, cluster: Cluster) -> None:
        self.bootstrap = bootstrap
        self.cluster = cluster
        self.queues = {
            name: launcher.Queue.launch("BTCUSDT", "api_trades", f"2025-06-{day:02}", f"Idle{day:02}")
            for day, name in enumerate((*DRAINED, HANGS), start=1)
        }
        self.first = {name: self._create(queue).fact.uid for name, queue in self.queues.items()}

    def _create(self, queue: launcher.Queue) -> LiveJob:
        env = launcher.environment(queue, TARGET)
        manifest = launcher.job_manifest(queue, TARGET, env, namespace=self.cluster.namespace)
        created = self.cluster.create_job(self.cluster.namespace, manifest)
        assert isinstance(created, LiveJob), created
        return created

    def key(self, name: str) -> str:
        return f"{self.cluster.namespace}/{launcher.job_name(self.queues[name].id, TARGET)}"

    def uid(self, name: str) -> str:
        job = self.cluster.read_job(self.cluster.namespace, launcher.job_name(self.queues[name].id, TARGET))
        return job.fact.uid if isinstance(job, LiveJob) else ""

    async def consume(self, stack: AsyncExitStack) -> None:
        """Read what there is and stop; of one that hangs more comes, and it reads nothing of it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(queue.id, 1, 1) for queue in self.queues.values()])
        await admin.close()
        producer = await stack.enter_async_context(AIOKafkaProducer(bootstrap_servers=self.bootstrap))
        for queue in self.queues.values():
            await producer.send_and_wait(queue.id, b"{}")
            member = await stack.enter_async_context(self._member(queue))
            await member.getone()
            await member.commit()
        for _ in range(100):
            await producer.send_and_wait(self.queues[HANGS].id, b"{}")

    def _member(self, queue: launcher.Queue) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            queue.id,
            bootstrap_servers=self.bootstrap,
            group_id=f"{TARGET}-consumer-{queue.id}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )

    async def report(self, *names: str) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for name in names:
                queue = self.queues[name]
                told = {"queue_id": queue.id, "producer": launcher.telemetry_id(TARGET, queue.short)}
                told |= {"status": "loading", "event": "loading", "finished": False, "records_written": 100}
                await producer.send_and_wait("queue-events", json.dumps(told).encode())


def worker_of(consumers: Consumers, kubeconfig: Path, directory: Path) -> Worker:
    (directory / "policy.toml").write_text(POLICY)
    return Worker(
        "worker",
        directory,
        bootstrap=consumers.bootstrap,
        mode="heal",
        namespace=consumers.cluster.namespace,
        kubeconfig=kubeconfig,
        policy_file=directory / "policy.toml",
        data_dir=directory / "data",
        mark_interval_seconds=0.3,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=6,
        broker_heartbeat_seconds=0.5,
    )


async def outcomes_of(bootstrap: str) -> list[Outcome]:
    found = [commands.decode_outcome(record.value) for record in await records_of(bootstrap, topics.OUTCOMES)]
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


async def test_of_many_silent_consumers_only_the_one_that_hangs_is_restarted(
    kafka_single: Any, control_plane: Any, tmp_path: Path
):
    await make_topics(kafka_single.bootstrap)
    namespace = control_plane.create_namespace()
    cluster = Cluster.connect(namespace=namespace, kubeconfig=str(control_plane.kubeconfig))
    consumers = Consumers(kafka_single.bootstrap, cluster)
    try:
        async with AsyncExitStack() as stack:
            await consumers.consume(stack)
            with worker_of(consumers, control_plane.kubeconfig, tmp_path) as worker:
                await asyncio.to_thread(worker.wait_until_ready)
                await consumers.report(*DRAINED, HANGS)
                await _healed(consumers, worker)
                await _all_looked_at(consumers)
        assert {name: consumers.uid(name) for name in DRAINED} == {name: consumers.first[name] for name in DRAINED}
        told = {
            outcome.key for outcome in await outcomes_of(consumers.bootstrap) if outcome.result is not Result.REFUSED
        }
        assert told == {consumers.key(HANGS)}
    finally:
        cluster.close()
        await drop_topics(kafka_single.bootstrap)


async def _healed(consumers: Consumers, worker: Worker) -> None:
    async def made_again() -> bool:
        assert worker.server.is_alive, worker.tail()
        uid = await asyncio.to_thread(consumers.uid, HANGS)
        return uid not in {"", consumers.first[HANGS]}

    await until_async(made_again, "the one that hangs to be made again", seconds=SEEN_SECONDS)
    await consumers.report(HANGS)

    async def verified() -> bool:
        outcomes = await outcomes_of(consumers.bootstrap)
        return any(outcome.result is Result.RESTARTED for outcome in outcomes)

    await until_async(verified, "the restart to be verified", seconds=SEEN_SECONDS)


async def _all_looked_at(consumers: Consumers) -> None:
    """All the others fell silent as well, and their groups spoke for them."""

    async def refused() -> bool:
        outcomes = await outcomes_of(consumers.bootstrap)
        idle = {outcome.key for outcome in outcomes if outcome.reason == "idle"}
        return idle == {consumers.key(name) for name in DRAINED}

    await until_async(refused, "every drained consumer to be found idle", seconds=SEEN_SECONDS)
