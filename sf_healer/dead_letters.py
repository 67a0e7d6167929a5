"""The dead letters as they lie on their topic: read for a person, and counted for a check.

What a letter's headers say is core/dead_letters.py's. Nothing here changes anything.
"""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from sf_healer.adapters import kafka
from sf_healer.core.dead_letters import DeadLetter, read
from sf_healer.settings import Settings
from sf_healer.topics import DEAD_LETTERS

_POLL_MS = 200
_MS = 1000
#: There are fewer than twenty; whoever may write to the topic may make up others.
_MOST_REASONS = 100
_OTHER_REASONS = "(other reasons)"


class NoDeadLettersError(RuntimeError):
    """There is no topic of dead letters; the message says what makes it."""


class Found(msgspec.Struct, frozen=True):
    """The dead letters of a time: how many of each reason, and the newest of them, the newest first."""

    since: float  # epoch seconds
    counts: dict[str, int]
    dead_letters: list[DeadLetter]


async def find(settings: Settings, *, since_seconds: float, newest: int, reason: str | None = None) -> Found:
    """Read what was buried in the last `since_seconds`: count all of it, keep the newest, with `reason` those alone.

    Holds `newest` letters and one fetch, however many there are. Raises BrokerUnreachableError, BrokerRefusedError,
    and NoDeadLettersError where there is no such topic.
    """
    since = _ago(since_seconds)
    counts: Counter[str] = Counter()
    kept: list[tuple[float, int, int, DeadLetter]] = []
    places = await _places(settings)
    async with _reader(settings) as consumer:
        async for record in _records(consumer, places, since):
            letter = read(record.timestamp / _MS, record.headers, record.value)
            counts[_countable(letter.reason, counts)] += 1
            if reason in {None, letter.reason}:
                entry = (letter.at, record.partition, record.offset, letter)  # no two have the same place
                heapq.heappush(kept, entry)
                if len(kept) > newest:
                    heapq.heappop(kept)
    return Found(since, dict(counts.most_common()), [letter for *_, letter in sorted(kept, reverse=True)])


async def count(settings: Settings, *, since_seconds: float) -> int:
    """Count by their offsets what was buried in the last `since_seconds`, reading none; raises as `find` does.

    A broker that looks up no offsets by time, as that of the demo, gives all there are.
    """
    places = await _places(settings)
    async with _reader(settings) as consumer:
        begins = await _begins(consumer, places, _ago(since_seconds))
        ends = await consumer.end_offsets(places)
        return sum(end - begins[place] for place, end in ends.items() if place in begins)


def _ago(seconds: float) -> float:
    return max(0.0, time.time() - seconds)  # Kafka knows no time before 1970


async def _places(settings: Settings) -> list[TopicPartition]:
    async with kafka.admin(settings) as admin:
        found = await admin.describe([DEAD_LETTERS], without_configs=[DEAD_LETTERS])
    if DEAD_LETTERS not in found:
        raise NoDeadLettersError(f"topic {DEAD_LETTERS} does not exist; fix: sf-healer topics --create")
    return [TopicPartition(DEAD_LETTERS, number) for number in range(found[DEAD_LETTERS].partitions)]


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer; raises BrokerUnreachableError where the broker goes away within."""
    try:
        async with kafka.consumer(settings, auto_offset_reset="earliest") as consumer:
            yield consumer
    except (KafkaError, TimeoutError) as problem:
        servers = ",".join(settings.bootstrap_servers)
        raise kafka.BrokerUnreachableError(servers, kafka.in_words(problem)) from problem


async def _records(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: float
) -> AsyncIterator[ConsumerRecord]:
    """Give what lies there now, of that time or later; raises TimeoutError where nothing comes any more."""
    begins = await _begins(consumer, places, since)
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
        for place, records in fetched.items():
            if place not in told:  # a fetch knows the end better than who was asked for it (docs/decisions/0004)
                told.add(place)
                ends[place] = max(ends[place], consumer.highwater(place) or 0)
            for record in records:
                if record.offset < ends[place] and record.timestamp >= since * _MS:
                    yield record


def _countable(reason: str, counts: Collection[str]) -> str:
    return reason if reason in counts or len(counts) < _MOST_REASONS else _OTHER_REASONS


async def _begins(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: float
) -> dict[TopicPartition, int]:
    """Give where each partition has something of that time or later; one that has nothing is left out."""
    found = await consumer.offsets_for_times(dict.fromkeys(places, int(since * _MS)))
    return {place: each.offset for place, each in found.items() if each is not None}
