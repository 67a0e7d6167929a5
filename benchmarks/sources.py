"""The topics that every engine reads: filled once, never with a report more than is asked for.

The reports are the platform's own `loading`, as a loader sends it (540 bytes), without keys, dealt to the partitions
in turn. Each Job speaks once before any speaks again; after that who speaks is drawn, always by the same seed.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sf_healer.local.launcher import Queue, environment
from sf_healer.local.reports import Process
from sf_healer.local.services import SERVICES
from tests.lab.worker import drop_topics

PARTITIONS = 3
SERVICE = "loader-api-trades"
_SEED = 42
_MOMENT = b'"sent_at": '
_REPORTS_IN_A_ROUND = 60_000
#: A steady load is sent in so many batches a second; each is spread over the partitions.
_BATCHES_A_SECOND = 20


class Source(msgspec.Struct, frozen=True):
    """A topic of so many reports of so many Jobs."""

    reports: int
    jobs: int

    @property
    def topic(self) -> str:
        """Its name."""
        return f"reports-{self.reports}-of-{self.jobs}"


async def preload(bootstrap: str, source: Source) -> None:
    """Fill the topic of a source, unless it holds exactly that many reports already."""
    if await _held(bootstrap, source.topic) == source.reports:
        return
    await drop_topics(bootstrap, [source.topic])
    await make_topic(bootstrap, source.topic, PARTITIONS)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1_000_000) as producer:
        for values in _rounds(source):
            for partition in range(PARTITIONS):
                for future in [await batch for batch in batches(producer, source.topic, partition, values[partition])]:
                    await future
    assert await _held(bootstrap, source.topic) == source.reports


async def make_topic(bootstrap: str, name: str, partitions: int, **configs: str) -> None:
    """Make a topic of one replica."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await client.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
    finally:
        await client.close()


def batches(producer: AIOKafkaProducer, topic: str, partition: int, values: list[bytes]) -> Iterator[Any]:
    """Send values to a partition in as few record batches as they fit in; gives the coroutines to await."""
    batch = producer.create_batch()
    for value in values:
        if batch.append(key=None, value=value, timestamp=None) is None:  # full
            yield producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(key=None, value=value, timestamp=None)
    if batch.record_count():
        yield producer.send_batch(batch, topic, partition=partition)


async def send_steadily(
    bootstrap: str, topic: str, reports: list[bytes], *, rate: int, seconds: float
) -> tuple[int, float]:
    """Send reports, over and over, as many a second as are due by the clock, whatever was late before.

    Returns how many were acknowledged, and the seconds that took.
    """
    clock = asyncio.get_running_loop().time
    sent, began = 0, clock()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1_000_000) as producer:
        began = clock()
        acknowledged: list[asyncio.Future[object]] = []
        while (elapsed := clock() - began) < seconds:
            due = int(elapsed * rate)
            for partition in range(PARTITIONS):
                numbers = (number for number in range(sent, due) if number % PARTITIONS == partition)
                values = [reports[number % len(reports)] for number in numbers]
                acknowledged += [await batch for batch in batches(producer, topic, partition, values)]
            sent = due
            if len(acknowledged) > _BATCHES_A_SECOND:
                await asyncio.gather(*acknowledged)
                acknowledged.clear()
            await asyncio.sleep(1 / _BATCHES_A_SECOND)
        await asyncio.gather(*acknowledged)
    return sent, clock() - began


def report_around(number: int) -> tuple[bytes, bytes]:
    """Give a Job's `loading` in two parts: what is before and what is behind its moment."""
    queue = Queue.launch("BTCUSDT", "api_trades", "2025-06-01", f"{number:06d}")
    report = Process(SERVICES[SERVICE], environment(queue, SERVICE)).loading(0.0)
    assert report is not None
    before, _, rest = report.partition(_MOMENT)
    return before + _MOMENT, rest[rest.index(b",") :]


def _rounds(source: Source) -> Iterator[list[list[bytes]]]:
    around = [report_around(number) for number in range(source.jobs)]
    draw = random.Random(_SEED)  # not for secrets: every engine gets the same
    order = list(range(source.jobs))
    draw.shuffle(order)
    began = time.time()
    values: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for number in range(source.reports):
        job = order[number] if number < source.jobs else int(draw.random() * source.jobs)
        before, behind = around[job]
        # One a millisecond up to now: increasing, so that the newest is never in doubt.
        moment = began - (source.reports - number) / 1000
        values[number % PARTITIONS].append(b"%b%.3f%b" % (before, moment, behind))
        if (number + 1) % _REPORTS_IN_A_ROUND == 0:
            yield values
            values = [[] for _ in range(PARTITIONS)]
    yield values


async def _held(bootstrap: str, topic: str) -> int:
    return sum((await ends_of(bootstrap, topic, PARTITIONS)).values())


async def ends_of(bootstrap: str, topic: str, partitions: int) -> dict[TopicPartition, int]:
    """Give the end of each partition of a topic; none where it is not there."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        if topic not in await consumer.topics():
            return {}
        ends: dict[TopicPartition, int] = await consumer.end_offsets(
            [TopicPartition(topic, number) for number in range(partitions)]
        )
        return ends
