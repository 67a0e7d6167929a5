"""A partition of more Jobs than one record can name: a producer with our limits and a broker take its snapshot."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.census import Census
from sf_healer.app import PRODUCE_BATCH_BYTES
from sf_healer.core import evidence
from sf_healer.core.evidence import Fact, Snapshot, SnapshotPart
from sf_healer.core.facts import Condition, JobFact
from sf_healer.core.identity import JobIndex
from tests.core.strategies import a_fact, a_partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agents.forwarding import Addressed

JOBS = 30_000
SECONDS = 120.0


class Log:
    """The ports of a census on a topic of one partition."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self.sent = 0
        self._producer, self._topic = producer, topic

    def clock(self) -> float:
        return time.monotonic()

    def owned(self) -> set[int]:
        return {0}

    async def append(self, records: Sequence[Addressed]) -> None:
        sent = [await self._producer.send(self._topic, record.value, partition=0) for record in records]
        await asyncio.gather(*sent)
        self.sent += len(records)


def a_job(number: int) -> JobFact:
    return a_fact(f"stf/queue-of-somebody-{number:05d}-loader-producer", uid=str(uuid.UUID(int=number)))


async def test_thirty_thousand_jobs_of_one_partition_are_told_and_only_the_absent_one_is_gone(bootstrap: str):
    topic = f"t-{uuid.uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    jobs = [a_job(number) for number in range(JOBS)]
    async with (
        asyncio.timeout(SECONDS),
        AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=PRODUCE_BATCH_BYTES) as producer,
    ):
        log = Log(producer, topic)
        census = Census(JobIndex(), log, partitions=1)
        await census.take_listing(jobs, 15, now=0.0)
        await census.tell_owned()
    partition = a_partition()
    partition.restore(None, [])
    absent = a_fact("stf/queue-of-somebody-15000-a", uid="u-absent")
    partition.apply(Fact(absent), 1.0)
    kinds: list[type] = []
    async with (
        asyncio.timeout(SECONDS),
        AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer,
    ):
        while len(kinds) < log.sent:
            record = evidence.decode((await consumer.getone()).value)
            kinds.append(type(record))
            partition.apply(record, 2.0)
    assert kinds.count(Fact) == JOBS
    assert kinds.count(SnapshotPart) > 1
    assert kinds.count(Snapshot) == 0
    gone = {key for key, state in partition.jobs.items() if state.fact.condition is Condition.GONE}
    assert (len(partition.jobs), gone) == (JOBS + 1, {absent.key})
