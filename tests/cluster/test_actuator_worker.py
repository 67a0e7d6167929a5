"""The real worker, `sf-healer worker --role actuator`, killed and frozen while it restarts Jobs.

Commands and counts are put on the topics by the test; everything behind them is the deployed thing. Small on the
embedded broker and the local cluster, larger on three brokers and the real control plane.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from sf_healer import topics
from sf_healer.core import commands, steps
from sf_healer.core.commands import Command, Grounds, ProofOfLife, Result
from sf_healer.core.facts import PodState
from sf_healer.core.manifest import sanitize
from sf_healer.core.steps import FleetCounts
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.rights import ACTUATOR_GROUP
from tests.cluster.small import connected, must
from tests.lab.waiting import NotInTime, until, until_async
from tests.lab.worker import Worker

SECONDS = 150.0
ASK_AGAIN_SECONDS = 1.0
POLICY = """\
[admission]
rate_per_minute = 6000
rate_burst = 100
in_flight = 32
"""


@pytest.fixture(scope="module")
def broker():
    with EmbeddedBroker() as running:
        yield running


def a_job(name):
    env = {"QUEUE_ID": f"{name}-P4nTkv", "TELEMETRY_PRODUCER_ID": "loader-ws__P4nTkv", "PASSWORD": "hunter2"}
    container = {"name": "loader", "image": "registry.example/loader:1"}
    container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": {"note": name}},
        "spec": {"backoffLimit": 4, "template": {"spec": pod}},
    }


def create_jobs(cluster, count):
    names = [f"loader-{number}" for number in range(count)]
    for name in names:
        must(cluster.create_job(cluster.namespace, a_job(name)))

    def all_run():
        return all(fact.pod is PodState.RUNNING for fact in must(cluster.list_jobs()).facts)

    until(all_run, "all pods", seconds=60.0)
    return [must(cluster.read_job(cluster.namespace, name)) for name in names]


class Stage:
    """The sweeper's part and the audience's: sends commands and counts, reads outcomes."""

    def __init__(self, bootstrap, producer, consumer):
        self.bootstrap = bootstrap
        self.producer = producer
        self.consumer = consumer
        self.outcomes = []

    async def ask(self, live):
        namespace, name = live.fact.key.split("/")
        now = time.time()
        command = Command(
            id=f"c-{name}-{live.fact.uid}",
            key=live.fact.key,
            namespace=namespace,
            name=name,
            uid=live.fact.uid,
            verdict="stuck",
            evidence=Grounds(condition=live.fact.condition.value),
            decided_at=now,
            expires_at=now + 120.0,
            proof_of_life=ProofOfLife.POD,
        )
        await self.producer.send_and_wait(topics.ACTIONS, commands.encode(command), key=command.key.encode())
        return command

    async def count(self):
        """Count the fleet every second, as the sweeper does."""
        while True:
            record = FleetCounts(partition=0, partitions=1, at=time.time(), base=1000, unhealthy=0, sick=0)
            await self.producer.send_and_wait(topics.STEPS, steps.encode(record))
            await asyncio.sleep(1.0)  # it is the sweeper's timer, and nobody waits for it

    async def read_outcomes(self):
        async for record in self.consumer:
            self.outcomes.append(commands.decode_outcome(record.value))

    async def until_restarted(self, olds, worker):
        """Ask again and again, as the sweeper does for a Job that stays sick, until each was restarted."""

        def still_open():
            return [old for old in olds if not self.is_restarted(old)]

        async def are_restarted():
            return not still_open()

        deadline = time.monotonic() + SECONDS
        while open_ := still_open():
            assert worker.server.is_alive, worker.tail()
            if time.monotonic() > deadline:
                raise NotInTime(f"not restarted: {[old.fact.key for old in open_]}\n{worker.tail()}")
            for old in open_:
                await self.ask(old)
            with suppress(NotInTime):
                await until_async(are_restarted, "outcomes", seconds=ASK_AGAIN_SECONDS)

    async def until_members(self, count):
        """Wait until the group of the actuators has so many members."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)

        async def are_so_many():
            (answer,) = await admin.describe_consumer_groups([ACTUATOR_GROUP])
            return [len(group["members"]) for group in answer.to_object()["groups"]] == [count]

        await admin.start()
        try:
            await until_async(are_so_many, f"{count} members of {ACTUATOR_GROUP}", seconds=SECONDS)
        finally:
            await admin.close()

    async def until_steps(self, more):
        """Wait until the steps log has so many records more than now."""
        place = TopicPartition(topics.STEPS, 0)

        async def end():
            return (await self.consumer.end_offsets([place]))[place]

        begun = await end()

        async def has_grown():
            return await end() >= begun + more

        await until_async(has_grown, f"{more} records more on the steps log", seconds=SECONDS)

    def is_restarted(self, old):
        return any(each.uid == old.fact.uid and each.result is Result.RESTARTED for each in self.outcomes)


@asynccontextmanager
async def stage(bootstrap):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(topics.OUTCOMES, 0)])
    played = Stage(bootstrap, producer, consumer)
    tasks = [asyncio.create_task(played.count()), asyncio.create_task(played.read_outcomes())]
    try:
        yield played
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await consumer.stop()
        await producer.stop()


def a_worker(name, directory, bootstrap, cluster, kubeconfig, **more):
    policy = directory / "policy.toml"
    policy.write_text(POLICY)
    return Worker(
        name,
        directory,
        bootstrap=bootstrap,
        role="actuator",
        mode="heal",
        namespace=cluster.namespace,
        kubeconfig=kubeconfig,
        policy_file=policy,
        **more,
    )


async def create_topics(worker):
    command = worker.command("topics", "--create", "--create-platform")
    process = await asyncio.create_subprocess_exec(*command, stdout=-3, stderr=-1)
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


def check(cluster, olds, outcomes):
    """Every Job exists exactly once, was restarted once, and is what it was."""
    assert len(must(cluster.list_jobs()).facts) == len(olds)
    for old in olds:
        name = old.fact.key.split("/")[1]
        new = must(cluster.read_job(cluster.namespace, name))
        annotations = new.manifest["metadata"].pop("annotations")
        marks = {key: value for key, value in annotations.items() if key.startswith("sf-healer.io/")}
        assert marks["sf-healer.io/replaces-uid"] == old.fact.uid
        assert marks["sf-healer.io/attempt"] == "1"
        assert {key: value for key, value in annotations.items() if key not in marks} == {"note": name}
        before = sanitize(old.manifest)
        before["metadata"].pop("annotations")
        assert sanitize(new.manifest) == before
        ended = {each.id: each for each in outcomes if each.final and each.key == old.fact.key}
        restarted = [each for each in ended.values() if each.result is not Result.REFUSED]
        assert [each.result for each in restarted] == [Result.RESTARTED], ended


@pytest.mark.embedded
@pytest.mark.timeout(240)
async def test_a_worker_fed_garbage_and_killed_while_it_restarts_jobs_is_continued_by_the_next(
    tmp_path, broker, local_cluster
):
    with connected(local_cluster) as cluster:
        olds = await asyncio.to_thread(create_jobs, cluster, 4)
        quick = {
            "broker_session_timeout_seconds": 3,
            "broker_heartbeat_seconds": 0.5,
            "demo_accept_create_time": "true",
        }
        worker = a_worker("one", tmp_path, broker.bootstrap, cluster, local_cluster.kubeconfig, **quick)
        await create_topics(worker)
        async with stage(broker.bootstrap) as played:
            with worker:
                await asyncio.to_thread(worker.wait_until_ready)
                for topic in (topics.ACTIONS, topics.STEPS, topics.CONTROL):
                    for garbage in (b"no json", b"\xff", None, b"[1]"):
                        await played.producer.send_and_wait(topic, garbage, key=b"\xff no key")
                for old in olds:
                    await played.ask(old)
                await asyncio.to_thread(until, lambda: changed(cluster, olds), "the first delete", seconds=60.0)
                worker.server.kill()
                worker.start()
                await played.until_restarted(olds, worker)
        check(cluster, olds, played.outcomes)


def changed(cluster, olds):
    """Say whether anything has been touched."""
    before = {(old.fact.uid, old.fact.condition) for old in olds}
    return {(fact.uid, fact.condition) for fact in must(cluster.list_jobs()).facts} != before


@pytest.mark.timeout(420)
async def test_three_workers_killed_and_frozen_at_random_lose_no_job(tmp_path, kafka_three, control_plane):
    """One of the workers is frozen for longer than its session and wakes up as somebody who owns nothing."""
    rng = random.Random(1)
    with connected(control_plane) as cluster:
        olds = await asyncio.to_thread(create_jobs, cluster, 20)
        workers = [
            a_worker(
                f"worker-{number}",
                tmp_path,
                kafka_three.bootstrap,
                cluster,
                control_plane.kubeconfig,
                broker_session_timeout_seconds=6,
                broker_heartbeat_seconds=1,
            )
            for number in range(3)
        ]
        await create_topics(workers[0])
        async with stage(kafka_three.bootstrap) as played:
            try:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    await asyncio.to_thread(worker.wait_until_ready)
                for old in olds:
                    await played.ask(old)
                await asyncio.to_thread(until, lambda: changed(cluster, olds), "the first delete", seconds=90.0)
                for worker in workers:
                    worker.server.pause()
                    await played.until_members(2)  # its session is over, and another one takes over
                    worker.server.resume()
                    await played.until_steps(rng.choice(range(1, 40)))
                    worker.server.kill()
                    worker.start()
                    await asyncio.to_thread(worker.wait_until_ready)
                await played.until_restarted(olds, workers[0])
            finally:
                for worker in workers:
                    worker.stop()
        check(cluster, olds, played.outcomes)
