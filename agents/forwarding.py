"""What the telemetry agent does, in which order, and what it awaits: batches become evidence, marks are made.

Knows nothing of Faust, so that tests/simulation can drive it: agents/telemetry.py lends it the topics. What is
decided is core/forwarder.py's.

What was told of a source partition is acknowledged by the broker before more of it is sent, so within one nothing
overtakes; several are forwarded side by side. A batch that names a Job nobody knows waits for a fresh list of the Jobs
(docs/decisions/0028). While many more records are known to follow, the batches of one partition are gathered and told
of together: of a Job there is one beat then, and not one for each batch. For a mark W is noted first and the ends are
read after it (core/marks.py has the rule).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from math import inf
from typing import NamedTuple, Protocol

import msgspec
from aiokafka.errors import KafkaError

from sf_healer.core import evidence
from sf_healer.core.combine import Combined, Gathered, Ignored, Rejected, SourceRecord
from sf_healer.core.events import Kind, Report
from sf_healer.core.evidence import Bundle
from sf_healer.core.facts import JobFact
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.marks import Ends
from sf_healer.core.partitioning import partition_of

#: A mark names the topic's id and partition count; metadata older than this may name a topic that is gone.
IDENTITY_AGE_SECONDS = 10.0
#: Below what producers (app.PRODUCE_BATCH_BYTES) and brokers (1 MiB) take, with room for a record's own overhead.
RECORD_BYTES = 900_000
#: Batches are gathered while the source is at least this many offsets ahead: another one is there or about to be.
FAR_BEHIND_RECORDS = 5_000
#: Gather for at most this long, or until there are this many beats and words. Where each fetch makes as many, gathering
#: spares little.
GATHER_SECONDS = 0.5
MOST_GATHERED = 10_000
#: Between two looks whether a batch may be told; a question to the brokers takes some seconds (sf_healer/transport).
ASK_AGAIN_SECONDS = 1.0
#: Nor is more gathered with so many that are evidence of nothing: each keeps its record, and they do not join.
MOST_REJECTED = 1_000


class Addressed(NamedTuple):
    """A record for one partition of the evidence log."""

    partition: int
    value: bytes


class Appended(NamedTuple):
    """Where and when (the broker's clock, epoch seconds) a record was appended."""

    partition: int
    at: float


class Looked(Enum):
    """What came of a look for Jobs that reports name and nobody knows."""

    LISTED = auto()  # a Job still unknown now is not one of ours
    AWAY = auto()  # the Jobs could not be listed, so nobody can tell


class Identity(Protocol):
    """Which topic the source's name means now."""

    @property
    def topic_id(self) -> str:
        """Kafka's id of it: another one after the topic was recreated."""

    @property
    def partitions(self) -> int:
        """How many partitions it has."""


class SourceBatch(Protocol):
    """Consecutive records of one source partition."""

    @property
    def partition(self) -> int:
        """Its number."""

    @property
    def records(self) -> Sequence[SourceRecord]:
        """In order of their offsets."""

    @property
    def is_gone(self) -> bool:
        """Whether the topic is known to have been recreated since they were read, or the partition was revoked."""

    def let_go(self) -> None:
        """Free the records: what they say is gathered. The next batch may be fetched in their place."""


#: Gives the next batch of the same source partition, which is then forwarded with those before it; None where there is
#: none within so many seconds, or it does not go on where the last one ended.
Following = Callable[[float], Awaitable[SourceBatch | None]]


async def nothing_follows(_seconds: float) -> SourceBatch | None:
    """Be a `Following` for a batch forwarded on its own."""
    return None


class Ports(Protocol):
    """What forwarding needs of the world."""

    def clock(self) -> float:
        """Give monotonic seconds."""

    async def pause(self, seconds: float) -> None:
        """Let some time pass."""

    def positions(self) -> dict[int, int]:
        """Tell up to where each source partition of ours is forwarded and acknowledged."""

    def handed_over(self, source_partition: int) -> int:
        """Tell up to where a source partition was handed over to us, forwarded or not; 0 if it is not ours."""

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        """Ask the leaders of source partitions where their logs end, and then up to where they can be read.

        Raises KafkaError, as under a new leader that too few replicas follow (KIP-207).
        """

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        """Hear that a source partition ends so many offsets before where it ended."""

    async def identity(self, *, max_age_seconds: float) -> Identity:
        """Say which topic the source is, from metadata no older than that. Raises KafkaError."""

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        """Send evidence, in order per partition; returns when the broker has acknowledged all of it."""

    async def bury(self, batch: SourceBatch, rejected: Sequence[Rejected]) -> None:
        """Send what is evidence of nothing to the dead letters; returns when that is acknowledged."""

    async def look_again(self, reports: Sequence[Report]) -> Looked:
        """Have the Jobs listed afresh, for these reports name nobody we know; returns when that is done, or failed."""

    def take_assumed(self) -> list[JobFact]:
        """Hand out facts made up for Jobs that reports named (`identity = convention`)."""


class Forwarding:
    """One worker's forwarding, over its core Forwarder."""

    def __init__(
        self,
        forwarder: Forwarder,
        ports: Ports,
        *,
        mark_interval_seconds: float,
        far_behind_records: int = FAR_BEHIND_RECORDS,
        columns_from: int = evidence.COLUMNS_FROM,
    ) -> None:
        self.forwarder = forwarder
        self._ports = ports
        self._mark_interval_seconds = mark_interval_seconds
        self._far_behind_records = far_behind_records
        self._columns_from = columns_from
        self._read_of: dict[int, str] = {}  # by source partition, the topic whose batches are being forwarded
        #: When `mark` last came through to its end (the ports' clock): the broker answered then.
        self.marked_at: float | None = None

    async def forward(self, batch: SourceBatch, following: Following = nothing_follows) -> Combined:
        """Put everything on the log that a batch says, and those that `following` gave for it.

        Returns what that was when all of it is acknowledged. That is nothing where the topic it was fetched from is no
        more, or whose partition is somebody else's by now: all of it is ignored, with what was gathered before.
        """
        forwarder, ports = self.forwarder, self._ports
        if forwarder.broker_time(now=ports.clock()) == inf:
            await self._append([Addressed(0, evidence.EMPTY)])  # without it nothing bounds what the first batch says
        gathered, records = forwarder.begin(), 0
        assumed: list[JobFact] = []  # taken before others have their turn, for they would tell of them elsewhere
        until = ports.clock() + GATHER_SECONDS
        next_batch: SourceBatch | None = batch
        while next_batch is not None:
            batch, end = next_batch, next_batch.records[-1].offset + 1
            records += len(batch.records)
            if not await self._is_of_the_topic(batch, end):
                return await self._ignore(records, assumed)
            known, read_at = len(gathered.rejected), ports.clock()
            forwarder.gather(batch.records, gathered, batch.partition, now=read_at)
            assumed += ports.take_assumed()
            if nobodys := gathered.unresolved(since=known):
                while await ports.look_again(nobodys) is Looked.AWAY and not batch.is_gone:
                    pass  # it may be a new Job's: the partition waits, and so do its marks
                forwarder.gather_unresolved(gathered, batch.partition, now=read_at)
                assumed += ports.take_assumed()
            next_batch, seconds = None, until - ports.clock()
            if seconds > 0 and self._may_gather(gathered, batch.partition, end):
                batch.let_go()
                next_batch = await following(seconds)
        if not await self._is_of_the_topic(batch, end):  # since others had their turn
            return await self._ignore(records, assumed)
        await self._tell(batch, combined := forwarder.combined(gathered, batch.partition), assumed)
        return combined

    def _may_gather(self, gathered: Gathered, source_partition: int, end: int) -> bool:
        return (
            gathered.size < MOST_GATHERED
            and len(gathered.rejected) < MOST_REJECTED
            and self.forwarder.behind(source_partition, end) >= self._far_behind_records
        )

    async def _ignore(self, records: int, assumed: Iterable[JobFact]) -> Combined:
        """Say nothing of what was read but what is assumed of new Jobs: they will not be new a second time."""
        await self._append([fact_record(fact, self.forwarder.partitions) for fact in assumed])
        return Combined({}, [], [0] * len(Kind), {Ignored.NOT_OURS: records})

    async def _tell(self, batch: SourceBatch, combined: Combined, assumed: Iterable[JobFact]) -> None:
        """Send what batches came to, the last of which is given; returns when it is acknowledged."""
        partitions = self.forwarder.partitions
        bundles, others = _with_facts(combined.bundles.values(), assumed)
        facts = [fact_record(fact, partitions) for fact in others]
        values = [
            Addressed(partition, value)
            for partition, bundle in zip(combined.bundles, bundles, strict=True)
            for value in within_limit(bundle, columns_from=self._columns_from)
        ]
        await self._append([*facts, *values])
        if combined.rejected:
            await self._ports.bury(batch, combined.rejected)

    async def _is_of_the_topic(self, batch: SourceBatch, end: int) -> bool:
        """Find out whether a batch, fetched some time ago, is of the topic that its reports will be told under.

        Otherwise old offsets told under a new id would have the new topic's reports passed over as told before.
        Whatever was handed over lies below the end of its topic; no broker can tell where the new topic has grown past
        that. A batch waits for as long as nobody answers, and its marks with it.
        It waits as well for the mark that tells that its offsets begin anew: were it told and committed before, and
        the worker killed then, the next one would be out of range no more, and nobody would know.
        `end` is the batch's own.
        """
        forwarder, ports = self.forwarder, self._ports
        while not batch.is_gone:
            if forwarder.starts_over(batch.partition):
                await ports.pause(ASK_AGAIN_SECONDS)
                continue
            try:
                if not forwarder.topic_id:
                    forwarder.topic_id = (await ports.identity(max_age_seconds=0.0)).topic_id
                topic_id = forwarder.topic_id
                if self._read_of.get(batch.partition) == topic_id:
                    return True
                known_end = max(ports.handed_over(batch.partition), end)
                ends = await ports.ends([batch.partition])
            except KafkaError:
                await ports.pause(ASK_AGAIN_SECONDS)
                continue
            if ends[batch.partition].readable < known_end:
                return False
            if forwarder.topic_id == topic_id:
                self._read_of[batch.partition] = topic_id
        return False

    async def mark(self) -> int:
        """Note W and the end of every source partition of ours, and claim what may be claimed by now.

        Returns how many marks were sent. Raises KafkaError.
        """
        sent = await self._mark()
        self.marked_at = self._ports.clock()
        return sent

    async def _mark(self) -> int:
        forwarder, ports = self.forwarder, self._ports
        owned, topic_id = ports.positions(), forwarder.topic_id
        if not owned and not forwarder.has_resets:
            return 0
        identity = await ports.identity(max_age_seconds=IDENTITY_AGE_SECONDS if topic_id else 0.0)
        stale = forwarder.stale(now=ports.clock(), interval=self._mark_interval_seconds)
        await self._append([Addressed(partition, evidence.EMPTY) for partition in stale])
        w = forwarder.w()
        starting_over = forwarder.starting_over(identity.partitions)
        asked = owned.keys() | starting_over.keys()
        ends = await ports.ends(asked) if asked else {}
        if forwarder.topic_id != topic_id or _is_beyond(ports.positions(), ends):
            return 0  # the topic was recreated meanwhile: which one is read will show at the next mark
        forwarder.topic_id = identity.topic_id
        lost = forwarder.note_ends({partition: ends[partition] for partition in owned}, w, now=ports.clock())
        for partition, offsets in lost.items():
            ports.tail_lost(partition, offsets=offsets)
        forwarder.note_starts_over(starting_over, ends)
        reached = {partition: at for partition, at in ports.positions().items() if partition in owned}
        marks = forwarder.claims(reached, identity.partitions)
        await self._append([Addressed(partition, evidence.encode(mark)) for partition, mark in marks.items()])
        forwarder.claimed()
        return len(marks)

    async def _append(self, records: Sequence[Addressed]) -> None:
        """Send evidence and note the broker's time of it, per evidence partition."""
        if not records:
            return
        sent_at = self._ports.clock()
        for appended in await self._ports.append(records):
            self.forwarder.acknowledged(appended.partition, appended_at=appended.at, sent_at=sent_at)


def _is_beyond(positions: Mapping[int, int], ends: Mapping[int, Ends]) -> bool:
    """Return whether a position lies behind what can be read of its log: it is one of a topic that is no more."""
    return any(position > ends[partition].readable for partition, position in positions.items() if partition in ends)


def _with_facts(bundles: Iterable[Bundle], facts: Iterable[JobFact]) -> tuple[list[Bundle], list[JobFact]]:
    """Put each fact into the first bundle that speaks of its Job; returns the bundles, and facts of Jobs in none."""
    waiting = {fact.key: fact for fact in facts}
    told = []
    for bundle in bundles:
        if waiting:
            keys = [beat.key for beat in bundle.beats] + [word.key for word in bundle.words]
            within = tuple(waiting.pop(key) for key in keys if key in waiting)
            told.append(msgspec.structs.replace(bundle, facts=within))
        else:
            told.append(bundle)
    return told, list(waiting.values())


def within_limit(bundle: Bundle, *, columns_from: int = evidence.COLUMNS_FROM) -> list[bytes]:
    """Encode a bundle as one record, or as several where one would be too large for the broker.

    With `columns_from` beats they are columns.
    Later records hold higher offsets only: what is not above all that was folded is passed over as redelivered. A fact
    is in the first of them that speaks of its Job.
    """
    value = evidence.encode(bundle, columns_from=columns_from)
    if len(value) <= RECORD_BYTES:
        return [value]
    offsets = sorted({beat.offset for beat in bundle.beats} | {word.offset for word in bundle.words})
    if len(offsets) == 1:
        return [value]
    middle = offsets[len(offsets) // 2]
    parts = [
        msgspec.structs.replace(
            bundle,
            beats=tuple(beat for beat in bundle.beats if (beat.offset < middle) is below),
            words=tuple(word for word in bundle.words if (word.offset < middle) is below),
            facts=(),
        )
        for below in (True, False)
    ]
    told, _ = _with_facts(parts, bundle.facts)
    return [value for part in told for value in within_limit(part, columns_from=columns_from)]


def fact_record(fact: JobFact, partitions: int) -> Addressed:
    """Address a fact to the evidence partition of its Job."""
    return Addressed(partition_of(fact.key, partitions), evidence.encode(evidence.Fact(fact)))
