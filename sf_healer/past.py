"""What lies on a topic since a moment, read once for a person's command. Nothing here changes anything."""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from sf_healer.adapters import kafka
from sf_healer.settings import Settings

T = TypeVar("T")

_POLL_MS = 200
_MS = 1000


class NoTopicError(RuntimeError):
    """There is no such topic; the message says what makes it."""


class Newest(Generic[T]):
    """The newest of what is read, at most so many; of two of one moment the one that was read later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()  # no two are the same, so what is kept need not be comparable

    def add(self, at: float, item: T) -> None:
        """Take one in, which is of that moment (epoch seconds)."""
        heapq.heappush(self._kept, (at, next(self._numbers), item))
        if len(self._kept) > self._most:
            heapq.heappop(self._kept)

    def newest_first(self) -> list[T]:
        """Give what is kept."""
        return [item for _, _, item in sorted(self._kept, reverse=True)]


def ago(seconds: float) -> float:
    """Give the moment so long ago, epoch seconds."""
    return max(0.0, time.time() - seconds)  # Kafka knows no time before 1970


async def places_of(settings: Settings, topic: str) -> list[TopicPartition]:
    """Name the partitions of a topic; raises NoTopicError."""
    async with kafka.admin(settings) as admin:
        found = await admin.describe([topic], without_configs=[topic])
    if topic not in found:
        raise NoTopicError(f"topic {topic} does not exist; fix: sf-healer topics --create")
    return [TopicPartition(topic, number) for number in range(found[topic].partitions)]


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer; raises BrokerUnreachableError where the broker goes away within."""
    try:
        async with kafka.consumer(settings, auto_offset_reset="earliest") as consumer:
            yield consumer
    except (KafkaError, TimeoutError) as problem:
        servers = ",".join(settings.bootstrap_servers)
        raise kafka.BrokerUnreachableError(servers, kafka.in_words(problem)) from problem


async def records(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: float
) -> AsyncIterator[ConsumerRecord]:
    """Give what lies there now, of that time or later; raises TimeoutError where nothing comes any more."""
    begins = await begins_of(consumer, places, since)
    ends = await consumer.end_offsets(list(begins))
    consumer.assign(list(begins))
    for place, offset in begins.items():
        consumer.seek(place, offset)
    told: set[TopicPartition] = set()
    clock = asyncio.get_running_loop().time
    heard_at = clock()
    while [place for place in begins if await consumer.position(place) < ends[place]]:
        fetched = await consumer.getmany(timeout_ms=_POLL_MS)
        if fetched:
            heard_at = clock()
        elif clock() - heard_at > kafka.REQUEST_TIMEOUT_SECONDS:
            raise TimeoutError
        for place, those in fetched.items():
            if place not in told:  # a fetch knows the end better than who was asked for it (docs/decisions/0004)
                told.add(place)
                ends[place] = max(ends[place], consumer.highwater(place) or 0)
            for record in those:
                if record.offset < ends[place] and record.timestamp >= since * _MS:
                    yield record


async def begins_of(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: float
) -> dict[TopicPartition, int]:
    """Give where each partition has something of that time or later; one that has nothing is left out."""
    found = await consumer.offsets_for_times(dict.fromkeys(places, int(since * _MS)))
    return {place: each.offset for place, each in found.items() if each is not None}
