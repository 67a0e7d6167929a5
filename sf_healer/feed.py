"""Captures sent to a broker (`feed`) and recorded from one (`capture`), byte for byte.

What a capture looks like as a file is captures.py's.
"""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from sf_healer.adapters import kafka
from sf_healer.captures import CaptureError, Line
from sf_healer.past import NoTopicError, ago
from sf_healer.settings import Settings

# Above any broker's limit: what a broker refuses it shall refuse itself, and say so.
_LARGEST_RECORD_BYTES = 64 * 1024 * 1024
_LINGER_MS = 5
_IN_FLIGHT = 5_000  # records sent and not yet acknowledged
_POLL_MS = 200
_HELD_PER_PARTITION = 10_000  # records read ahead of a slower partition before we stop reading this one
_POLLS_WITHOUT_HOPE = 5
_MS = 1000


async def feed(settings: Settings, lines: Iterable[Line], *, topic: str, speed: float | None = None) -> int:
    """Send a capture to a topic and return how many records the broker acknowledged.

    `speed` 1 is real time, 10 ten times faster, None as fast as it goes. Records keep their partition modulo
    the topic's partition count, and have neither key nor headers, as the platform sends them. Their timestamps are of
    now: a broker would throw away at once what is older than the topic's retention. Raises NoTopicError, and
    CaptureError for a record that the broker refused.
    """
    partitions = await _partition_count(settings, topic)
    async with kafka.producer(settings, linger_ms=_LINGER_MS, max_request_size=_LARGEST_RECORD_BYTES) as producer:
        sending = _Sending(producer, topic)
        async for line in _paced(lines, speed):
            await sending.send(line.value, line.partition % partitions)
        await sending.settle()
        return sending.acknowledged


async def capture(
    settings: Settings,
    write: Callable[[Line], object],
    *,
    topic: str,
    stop: asyncio.Event,
    since_seconds: float = 0.0,
    limit: int | None = None,
) -> int:
    """Record a topic from `since_seconds` ago on until `stop` is set or `limit` is reached; return the count.

    What was on the topic before is put into the order of its timestamps; what arrives meanwhile is written
    as it arrives. Raises NoTopicError.
    """
    places = [TopicPartition(topic, number) for number in range(await _partition_count(settings, topic))]
    async with kafka.consumer(settings) as consumer:
        consumer.assign(places)
        await _seek(consumer, places, since_seconds)
        ends = await consumer.end_offsets(places)
        merge = _Merge({place: end for place, end in ends.items() if await consumer.position(place) < end})
        count = 0
        while not stop.is_set() and count != limit:
            merge.add(await consumer.getmany(timeout_ms=_POLL_MS))
            _throttle(consumer, merge.full())
            for line in itertools.islice(merge.ready(), None if limit is None else limit - count):
                write(line)
                count += 1
        return count


class _Sending:
    """Records on their way to a broker: not more than it can be asked to hold, none forgotten."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self.acknowledged = 0
        self._producer = producer
        self._topic = topic
        self._waiting: deque[asyncio.Future[object]] = deque()

    async def send(self, value: bytes | None, partition: int) -> None:
        key = b"" if value is None else None  # the client sends no record that has neither
        try:
            self._waiting.append(await self._producer.send(self._topic, value, key=key, partition=partition))
        except TopicAuthorizationFailedError:
            raise
        except KafkaError as problem:
            raise CaptureError(f"record {self._next_number()} was not sent: {problem}") from problem
        if len(self._waiting) > _IN_FLIGHT:
            await self.settle(keep=_IN_FLIGHT // 2)

    async def settle(self, *, keep: int = 0) -> None:
        """Wait until no more than `keep` records are unacknowledged."""
        while len(self._waiting) > keep:
            try:
                await self._waiting.popleft()
            except TopicAuthorizationFailedError:
                await asyncio.gather(*self._waiting, return_exceptions=True)
                raise
            except KafkaError as problem:
                await asyncio.gather(*self._waiting, return_exceptions=True)  # one failure is enough to tell
                raise CaptureError(f"record {self.acknowledged + 1} was refused: {problem}") from problem
            self.acknowledged += 1

    def _next_number(self) -> int:
        return self.acknowledged + len(self._waiting) + 1


class _Merge:
    """Puts several partitions into one order of time, as long as they have a past to catch up with.

    A partition that has not reached the end it had at the start holds back the others.
    """

    def __init__(self, ends: Mapping[TopicPartition, int]) -> None:
        self._behind = dict(ends)
        self._held: defaultdict[TopicPartition, deque[ConsumerRecord]] = defaultdict(deque)
        self._empty_polls = 0

    def add(self, fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        for place, records in fetched.items():
            self._held[place].extend(records)
            if records[-1].offset + 1 >= self._behind.get(place, 0):
                self._behind.pop(place, None)
        self._empty_polls = 0 if fetched else self._empty_polls + 1
        if self._empty_polls >= _POLLS_WITHOUT_HOPE:
            # What is missing up to an end was compacted away, or is the marker of a transaction.
            self._behind.clear()

    def ready(self) -> Iterator[Line]:
        """Give what nothing earlier can come before any more."""
        while all(self._held[place] for place in self._behind):
            place = min(
                (place for place, records in self._held.items() if records),
                key=lambda place: self._held[place][0].timestamp,
                default=None,
            )
            if place is None:
                return
            yield _line(self._held[place].popleft())

    def full(self) -> frozenset[TopicPartition]:
        """Name the partitions that are far ahead of a slower one."""
        return frozenset(place for place, held in self._held.items() if len(held) > _HELD_PER_PARTITION)


async def _partition_count(settings: Settings, topic: str) -> int:
    async with kafka.admin(settings) as admin:
        found = await admin.describe([topic], without_configs=[topic])
    if topic not in found:
        raise NoTopicError(f"topic {topic} does not exist")
    return found[topic].partitions


async def _paced(lines: Iterable[Line], speed: float | None) -> AsyncIterator[Line]:
    """Give each line when it is due; the first one is due at once."""
    clock = asyncio.get_running_loop().time
    began, first_at = clock(), None
    for line in lines:
        first_at = line.at if first_at is None else first_at
        if speed is not None and (wait_seconds := began + (line.at - first_at) / speed - clock()) > 0:
            await asyncio.sleep(wait_seconds)
        yield line


async def _seek(consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since_seconds: float) -> None:
    await consumer.seek_to_end(*places)
    if since_seconds > 0:
        since_ms = int(ago(since_seconds) * _MS)
        for place, found in (await consumer.offsets_for_times(dict.fromkeys(places, since_ms))).items():
            if found is not None:
                consumer.seek(place, found.offset)


def _throttle(consumer: AIOKafkaConsumer, full: frozenset[TopicPartition]) -> None:
    paused = consumer.paused()
    consumer.pause(*(full - paused))
    consumer.resume(*(paused - full))


def _line(record: ConsumerRecord) -> Line:
    return Line(
        at=record.timestamp / _MS,
        partition=record.partition,
        key=None if record.key is None else record.key.decode(errors="replace"),
        value=record.value,
        headers=tuple(record.headers) or msgspec.UNSET,
    )
