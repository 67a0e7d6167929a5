"""Marks and sweeps of a large installation, simulated: the real core on a clock of its own, no broker, one thread.

Marks: as many Forwardings (agents/forwarding.py) as there are workers, all source and all evidence partitions, and a
Partition (core) for each of the latter that folds what came. Nobody reports, which is the dearest case for marks: each
worker also has to put an empty record into each evidence partition, for nothing else tells the broker's time.

Sweeps: one evidence partition with all the Jobs it would have, or all partitions with few Jobs each.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from agents.forwarding import Addressed, Appended, Forwarding, Looked, SourceBatch
from benchmarks.scaling_measures import T0, TOPIC_ID, fact_of, mark, partition_of_many, policies, report, timed
from benchmarks.scaling_model import Scale
from sf_healer.core import evidence
from sf_healer.core.changelog import writes_of
from sf_healer.core.combine import Rejected
from sf_healer.core.events import Report
from sf_healer.core.facts import JobFact
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import JobIndex
from sf_healer.core.marks import Ends
from sf_healer.core.partition import Meta, Partition
from sf_healer.settings import Settings

#: The loop sleeps an interval and then works: a little more than an interval passes.
_LATE = 1.001
_STEP_SECONDS = 5.0
#: Each simulated Job reports every so many steps: once a minute.
_STEPS_OF_A_REPORT = 12
#: Steps in a threshold: the Jobs begin spread over it, and are then looked at once in it.
_STEPS_OF_A_THRESHOLD = 60


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """One mark interval of a whole installation."""

    records: int
    empties: int
    claims: int
    value_bytes: int
    sending_seconds: float  # CPU of all workers' Forwardings
    folding_seconds: float  # CPU of all evidence partitions
    storing_seconds: float
    meta_bytes: int  # changelog, if each partition takes the interval's records as one batch
    advanced: int  # evidence partitions whose watermark moved
    gaps: int
    oldest_seconds: float  # age of the oldest watermark at the end of the interval


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """One threshold of the sweeps of some evidence partitions in which all Jobs are well."""

    jobs: int
    partitions: int
    looks: int
    commands: int
    look_seconds: float
    longest_seconds: float  # one watermark of one partition
    most_looks: int  # in it
    fold_seconds: float
    beats: int
    change_seconds: float
    changes: int
    change_bytes: int


class _Identity(NamedTuple):
    topic_id: str
    partitions: int


class _Log:
    """The evidence log: what each partition was sent since it was last read, and the broker's clock."""

    def __init__(self, partitions: int) -> None:
        self.now = 1.0
        self.records: list[list[tuple[bytes, float]]] = [[] for _ in range(partitions)]


class _Ports:
    """One worker's world: it is never behind, and the broker answers at once."""

    def __init__(self, scale: Scale, owned: range, log: _Log) -> None:
        self._log, self._owned = log, owned
        self._identity = _Identity(TOPIC_ID, scale.sources)
        self._reports_a_second = scale.reports_a_second / scale.sources

    def clock(self) -> float:
        return self._log.now

    async def pause(self, seconds: float) -> None:
        raise NotImplementedError

    def positions(self) -> dict[int, int]:
        return dict.fromkeys(self._owned, int(self._log.now * self._reports_a_second))

    def handed_over(self, source_partition: int) -> int:
        return self.positions()[source_partition]

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        at = self.positions()
        return {partition: Ends(at[partition], at[partition]) for partition in source_partitions}

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        raise NotImplementedError

    async def identity(self, *, max_age_seconds: float) -> _Identity:  # noqa: ARG002  it is always of now
        return self._identity

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        at = T0 + self._log.now
        for record in records:
            self._log.records[record.partition].append((record.value, at))
        return [Appended(record.partition, at) for record in records]

    async def bury(self, batch: SourceBatch, rejected: Sequence[Rejected]) -> None:
        raise NotImplementedError

    async def look_again(self, reports: Sequence[Report]) -> Looked:  # noqa: ARG002  all are known
        return Looked.LISTED

    def take_assumed(self) -> list[JobFact]:
        return []


def marks(scale: Scale, *, intervals: int = 1) -> Marked:
    """Mark an installation for some intervals after the one that begins it; tells of the last."""
    log, book = _Log(scale.partitions), policies()
    workers = [_worker(scale, number, log) for number in range(scale.workers)]
    partitions = [
        Partition(
            number,
            partitions=scale.partitions,
            policies=book,
            window_seconds=scale.window_seconds,
            feed_gap_seconds=Settings(mark_interval_seconds=scale.mark_interval_seconds).feed_gap_seconds,
        )
        for number in range(scale.partitions)
    ]
    for partition in partitions:
        partition.restore_meta(_stored(scale))
    marked = _interval(scale, workers, partitions, log)  # begins everything: no W is known yet
    for _ in range(intervals):
        marked = _interval(scale, workers, partitions, log)
    return marked


def _stored(scale: Scale) -> Meta:
    """Give a partition that has heard from every source partition: their offsets are stored with the marks."""
    forwarded = tuple((TOPIC_ID, source, 10**9) for source in range(scale.sources))
    return Meta(scale.partitions, T0, TOPIC_ID, scale.sources, {}, (), forwarded, T0)


def _worker(scale: Scale, number: int, log: _Log) -> Forwarding:
    share = scale.sources / scale.workers
    owned = range(round(number * share), round((number + 1) * share))
    forwarder = Forwarder(JobIndex(), partitions=scale.partitions)
    return Forwarding(forwarder, _Ports(scale, owned, log), mark_interval_seconds=scale.mark_interval_seconds)


def _interval(scale: Scale, workers: Sequence[Forwarding], partitions: Sequence[Partition], log: _Log) -> Marked:
    """Let each worker mark once, one after the other within the interval, and fold all that came of it."""
    step = scale.mark_interval_seconds * _LATE / len(workers)

    async def send() -> None:
        for worker in workers:
            log.now += step
            await worker.mark()

    sending = timed(lambda: asyncio.run(send()))
    before = [(partition.watermark.value, len(partition.watermark.gaps.as_tuple())) for partition in partitions]
    sent, log.records = log.records, [[] for _ in partitions]
    storing, meta_bytes = 0.0, 0
    folding = timed(lambda: _fold(partitions, sent))
    for partition in partitions:
        writes: dict[bytes, bytes | None] = {}
        storing += timed(lambda partition=partition, writes=writes: writes.update(_writes(partition)))  # type: ignore[misc]
        meta_bytes += _size(writes)
    values = [value for records in sent for value, _ in records]
    empties = sum(value == evidence.EMPTY for value in values)
    after = [(partition.watermark.value, len(partition.watermark.gaps.as_tuple())) for partition in partitions]
    return Marked(
        records=len(values) - empties,
        empties=empties,
        claims=sum(len(entry.sources) for entry in map(evidence.decode, values) if isinstance(entry, evidence.Mark)),
        value_bytes=sum(map(len, values)),
        sending_seconds=sending,
        folding_seconds=folding,
        storing_seconds=storing,
        meta_bytes=meta_bytes,
        advanced=sum(new > old for (old, _), (new, _) in zip(before, after, strict=True)),
        gaps=sum(new - old for (_, old), (_, new) in zip(before, after, strict=True)),
        oldest_seconds=T0 + log.now - min(value for value, _ in after),
    )


def _fold(partitions: Sequence[Partition], sent: Sequence[Sequence[tuple[bytes, float]]]) -> None:
    for partition, records in zip(partitions, sent, strict=True):
        for value, at in records:
            partition.apply(evidence.decode(value), at)


def _writes(partition: Partition) -> dict[bytes, bytes | None]:
    return writes_of(partition.number, partition.take(), 1)


def _size(writes: dict[bytes, bytes | None]) -> int:
    return sum(len(key) + len(value or b"") for key, value in writes.items())


def sweeps(*, jobs: int, partitions: int) -> Swept:
    """Sweep partitions of `jobs` Jobs each for one threshold, after one in which the Jobs begin one by one."""
    fleet = [(partition_of_many(number), _jobs_of(number, jobs)) for number in range(partitions)]
    found = Swept(
        jobs=jobs,
        partitions=partitions,
        looks=0,
        commands=0,
        look_seconds=0.0,
        longest_seconds=0.0,
        most_looks=0,
        fold_seconds=0.0,
        beats=0,
        change_seconds=0.0,
        changes=0,
        change_bytes=0,
    )
    for partition, facts in fleet:
        for step in range(2 * _STEPS_OF_A_THRESHOLD):
            counts = step >= _STEPS_OF_A_THRESHOLD
            found = _step(found, partition, facts, step) if counts else _begin(found, partition, facts, step)
    return found


def _begin(found: Swept, partition: Partition, facts: Sequence[JobFact], step: int) -> Swept:
    for fact in facts[step::_STEPS_OF_A_THRESHOLD]:
        partition.apply(evidence.Fact(fact), T0 + step * _STEP_SECONDS)
    _step(found, partition, facts, step)
    return found


def _step(found: Swept, partition: Partition, facts: Sequence[JobFact], step: int) -> Swept:
    """Let those speak whose turn it is, move the watermark by a window, and store what changed."""
    at = T0 + step * _STEP_SECONDS
    beats = tuple(
        evidence.Beat(fact.key, at, step * len(facts) + number, step)
        for number, fact in enumerate(_speaking(facts, step))
    )
    bundle = evidence.Bundle(TOPIC_ID, 0, beats, ())
    fold_seconds = timed(lambda: partition.apply(bundle, at))
    look_seconds = timed(lambda: mark(partition, at))
    changes = partition.take()
    writes: dict[bytes, bytes | None] = {}
    change_seconds = timed(lambda: writes.update(writes_of(partition.number, changes, step)))
    return msgspec.structs.replace(
        found,
        looks=found.looks + changes.swept,
        commands=found.commands + len(changes.effects),
        look_seconds=found.look_seconds + look_seconds,
        longest_seconds=max(found.longest_seconds, look_seconds),
        most_looks=max(found.most_looks, changes.swept),
        fold_seconds=found.fold_seconds + fold_seconds,
        beats=found.beats + len(beats),
        change_seconds=found.change_seconds + change_seconds,
        changes=found.changes + len(changes.jobs),
        change_bytes=found.change_bytes + _size(writes),
    )


def _speaking(facts: Sequence[JobFact], step: int) -> Iterator[JobFact]:
    """Name the Jobs that have begun and whose turn it is: each began in its step, and speaks once a minute since."""
    for begun in range(step % _STEPS_OF_A_REPORT, min(step + 1, _STEPS_OF_A_THRESHOLD), _STEPS_OF_A_REPORT):
        yield from facts[begun::_STEPS_OF_A_THRESHOLD]


def _jobs_of(partition: int, jobs: int) -> list[JobFact]:
    first = fact_of(report(0), 0)
    return [
        msgspec.structs.replace(first, key=f"stf/job-{partition}-{number}", uid=f"uid-{partition}-{number}")
        for number in range(jobs)
    ]
