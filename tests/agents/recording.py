"""The edge of the detector's agents: a broker that records, and acknowledges as a broker does or as the test says.

Everything between the edges is the real thing: the agents on their Faust app, the core, the table. The app is a
global of its module, so `edges()` puts every other global that a test may touch back to what a new process has.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import faust
import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.stores.memory import Store
from faust.types import TP, RecordMetadata
from mode.utils.locks import Event

from agents import inventory, telemetry
from agents.forwarding import Forwarding
from agents.looking import LOOK_AGAIN_EVERY_SECONDS, Looks
from sf_healer import topics
from sf_healer.app import PRODUCE_BATCH_BYTES, detector, settings
from sf_healer.core import evidence
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import JobIndex
from sf_healer.core.partition import Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.transport import Batch, TopicIdentity
from sf_healer.transport.consumer import Consumer
from tables.jobs import hot, jobs, new_partition
from tests.lab.waiting import until_async

WAIT_SECONDS = 30.0
#: The broker's clock at the first record; it goes on by a millisecond with each.
BROKER_EPOCH = 1_760_000_000.0
TOPIC_ID = "topic-1"
#: Where no test says how far a source reaches.
FAR_AHEAD = 2**62


class Sent(msgspec.Struct, frozen=True):
    """One record as it reached the broker; `at` is its LogAppendTime in epoch seconds."""

    topic: str
    partition: int
    offset: int
    at: float
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class RecordingProducer:
    """In the place of `app.producer`: keeps what is sent, and acknowledges each record unless told otherwise."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        #: How many milliseconds have passed on the broker's clock.
        self.passed_ms = 0
        self.starts = 0
        self.batches = 0
        #: Whether the broker says when it appended (LogAppendTime).
        self.dates = True
        self.max_request_size = PRODUCE_BATCH_BYTES
        #: Give an error to refuse a record with, when the broker is asked or already when it is handed over.
        self.refuse: Callable[[Sent], Exception | None] = lambda _: None
        self.refuse_to_take: Callable[[str], Exception | None] = lambda _: None
        self.holding = False
        self._held: list[tuple[asyncio.Future[RecordMetadata], list[Sent]]] = []
        self._ends: defaultdict[TP, int] = defaultdict(int)

    @property
    def started(self) -> bool:
        return self.starts > 0

    async def maybe_start(self) -> None:
        self.starts += 1

    def _ensure_producer(self) -> "RecordingProducer":
        return self  # aiokafka's, in Faust's

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(PRODUCE_BATCH_BYTES, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> Awaitable[RecordMetadata]:
        """Take a batch as aiokafka does, with its own refusals."""
        if error := self.refuse_to_take(topic):
            raise error
        tp = TP(topic, partition)
        self.batches += 1
        at = BROKER_EPOCH + self.passed_ms / 1000
        records = [
            Sent(topic, partition, self._ends[tp] + number, at, record.key, record.value, dict(record.headers))
            for number, record in enumerate(MemoryRecords(bytes(batch._build())).next_batch())
        ]
        self._ends[tp] += len(records)
        self.passed_ms += len(records)
        self.sent += records
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        if self.holding:
            self._held.append((future, records))
        else:
            self._answer(future, records)
        return future

    def release(self) -> None:
        """Acknowledge what was held back, and from now on at once."""
        self.holding = False
        held, self._held = self._held, []
        for future, records in held:
            self._answer(future, records)

    def to(self, topic: str) -> list[Sent]:
        return [record for record in self.sent if record.topic == topic]

    def evidence(self) -> list[tuple[int, Any]]:
        """Give the decoded evidence records with their partitions, in order; without those that say nothing."""
        return [(record.partition, evidence.decode(record.value or b"")) for record in self.telling()]

    def telling(self) -> list[Sent]:
        """Give the evidence records that do not just ask for the broker's time."""
        return [record for record in self.to(topics.EVIDENCE) if record.value != evidence.EMPTY]

    def _answer(self, future: asyncio.Future[RecordMetadata], records: list[Sent]) -> None:
        """Acknowledge a batch: the broker takes or refuses it whole, and says where its first record lies."""
        if errors := [error for record in records if (error := self.refuse(record))]:
            future.set_exception(errors[0])
            return
        tp = TP(records[0].topic, records[0].partition)
        at = int(records[0].at * 1000) if self.dates else -1
        future.set_result(RecordMetadata(*tp, tp, records[0].offset, at, 1))


class StandingConsumer(Consumer):
    """In the place of `app.consumer`: assigned and asked, but connected to nobody."""

    def __init__(self) -> None:
        super().__init__(
            detector.transport,
            callback=detector.topics.on_message,
            on_partitions_revoked=detector._on_partitions_revoked,
            on_partitions_assigned=detector._on_partitions_assigned,
        )
        self.places: dict[TP, int] = {}
        #: Where partitions stand of which no fetch has said anything, or that are not batched.
        self.more_places: dict[TP, int | None] = {}
        self.ends: dict[TP, int] = {}
        #: How many records lie above what can be read.
        self.unreplicated: dict[TP, int] = {}
        self.does_not_answer = False
        self.identity = TopicIdentity(TOPIC_ID, 3)
        self.asked: list[str] = []

    def positions(self) -> dict[TP, int]:
        return dict(self.places)

    def handed_over(self, tp: TP) -> int:
        return self.places.get(tp, 0)

    def reached(self) -> dict[TP, int | None]:
        return {**self.places, **self.more_places}

    async def end_offsets(self, tps: Iterable[TP], **_: float) -> dict[TP, int]:
        self.asked.append("ends")
        if self.does_not_answer:
            raise KafkaConnectionError
        return {tp: self.ends.get(tp, FAR_AHEAD) for tp in tps}

    async def log_ends(self, tps: Iterable[TP], **options: float) -> dict[TP, int]:
        ends = await self.end_offsets(tps, **options)
        self.asked[-1] = "log ends"
        return {tp: end + self.unreplicated.get(tp, 0) for tp, end in ends.items()}

    async def topic_identity(self, topic: str, **_: float) -> TopicIdentity:
        assert topic == settings.source_topic
        self.asked.append("identity")
        return self.identity

    def topic_partitions(self, _topic: str) -> int | None:
        return None  # not known yet, as before the first metadata


class Record(msgspec.Struct, frozen=True):
    """A record of a batch, as aiokafka hands it over."""

    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Edges:
    """What a test of an agent holds: the producer, the consumer, the names, and the partitions that are ours."""

    def __init__(self) -> None:
        self.producer = RecordingProducer()
        self.consumer = StandingConsumer()
        self.names = JobIndex()

    def own(self, *partitions: int) -> list[Partition]:
        """Be assigned evidence partitions, with nothing stored."""
        for number in partitions:
            hot[number] = new_partition(number)
            hot[number].restore(None, [])
            hot[number].take()
        return [hot[number] for number in partitions]


def _listing_at_once(names: JobIndex) -> inventory._Inventory:
    """Have whoever asks for a list of the Jobs find at once that it brings nothing new."""
    listing = inventory._Inventory(names)

    def list_jobs() -> None:
        listing.looks.begin()
        listing.looks.listed()

    listing.looks = Looks(names, clock=itertools.count(0, LOOK_AGAIN_EVERY_SECONDS).__next__, wake=list_jobs)
    return listing


@contextmanager
def edges() -> Iterator[Edges]:
    """Put a recording edge around the detector, and everything in between as after the start of a process."""
    edge = Edges()
    forwarder = Forwarder(edge.names, partitions=settings.partitions)
    with pytest.MonkeyPatch.context() as patch:
        # Faust's guard against a second start keeps its answer when an agent was stopped while it waited for it.
        detector.__dict__.pop("maybe_start_producer", None)
        patch.setattr(detector, "_producer", edge.producer)
        patch.setattr(detector, "_consumer", edge.consumer)
        # An event belongs to the loop it was first waited in; and an agent that raised has crashed its app.
        for state in ("_stopped", "_crashed"):
            patch.setattr(detector, state, Event())
        patch.setattr(jobs, "_data", Store("memory://", detector, jobs))
        patch.setattr(inventory, "names", edge.names)
        patch.setattr(inventory, "_inventory", _listing_at_once(edge.names))
        patch.setattr(inventory, "first_list", asyncio.Event())
        patch.setattr(inventory, "_remembering", asyncio.Lock())
        patch.setattr(telemetry, "forwarder", forwarder)
        patch.setattr(
            telemetry,
            "forwarding",
            Forwarding(forwarder, telemetry._Faust(), mark_interval_seconds=settings.mark_interval_seconds),
        )
        try:
            yield edge
        finally:
            hot.clear()


def batch(
    topic: str,
    partition: int,
    values: Iterable[bytes | None],
    *,
    first_offset: int = 0,
    dates: Iterable[float] | None = None,
    log_end: int | None = None,
) -> Batch:
    """Make a batch by hand, one record a value, dated by the second from BROKER_EPOCH on if no dates are given."""
    dated = zip(values, dates if dates is not None else itertools.count(BROKER_EPOCH), strict=False)
    records = [Record(first_offset + number, int(at * 1000), value) for number, (value, at) in enumerate(dated)]
    return Batch(
        TP(topic, partition),
        records,
        start_position=first_offset,
        next_position=first_offset + len(records),
        size_bytes=sum(len(record.value or b"") for record in records),
        log_end=log_end,
    )


def reports(values: Iterable[bytes | None], *, partition: int = 0, first_offset: int = 0) -> Batch:
    return batch(settings.source_topic, partition, values, first_offset=first_offset)


def evidence_of(*entries: Any, partition: int = 0, first_offset: int = 0, log_end: int | None = None) -> Batch:
    """Make a batch of the evidence log, of evidence or of bytes as they are."""
    values = [entry if isinstance(entry, bytes | None) else evidence.encode(entry) for entry in entries]
    dates = [
        max(w for _, w in entry.sources) if isinstance(entry, evidence.Mark) else BROKER_EPOCH + number
        for number, entry in enumerate(entries)  # a mark is appended no earlier than what it claims
    ]
    return batch(topics.EVIDENCE, partition, values, first_offset=first_offset, dates=dates, log_end=log_end)


class Driven:
    """One agent in Faust's test context, with what became of each batch."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def put(self, value: Batch) -> faust.Event:
        """Hand a batch over; returns at once."""
        return await self._agent.put(value, partition=value.partition, wait=False)

    async def take(self, value: Batch) -> faust.Event:
        """Hand a batch over and wait until it is acknowledged; raises what the agent raised."""
        event = await self.put(value)
        await until_async(lambda: self._settled(event), "the batch to be acknowledged", seconds=WAIT_SECONDS)
        if self._agent._crash_reason:
            raise self._agent._crash_reason
        return event

    async def _settled(self, event: faust.Event) -> bool:
        return is_acknowledged(event) or self._agent._crash_reason is not None


def is_acknowledged(event: faust.Event) -> bool:
    return bool(event.message.acked)


def key_on(partition: int, start: str = "stf/job") -> str:
    """Find a Job key that lives on an evidence partition."""
    return next(key for n in range(10_000) if partition_of(key := f"{start}-{n}", settings.partitions) == partition)
