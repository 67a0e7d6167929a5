"""What one of each thing costs, measured with the real core within seconds; no broker, no cluster, one thread.

Costs are the thread's CPU time, the least of a few runs: a lower bound for a worker whose caches others use too.
"""

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import msgspec

from agents.census import Census
from agents.forwarding import Addressed
from benchmarks.sources import report_around
from sf_healer.adapters.policy_file import SHIPPED_POLICY
from sf_healer.core import commands, evidence, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.changelog import states_of, writes_of
from sf_healer.core.combine import Combiner
from sf_healer.core.events import Report, decode
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.identity import JobIndex, sanitize, target_of
from sf_healer.core.marks import SourceMarks
from sf_healer.core.partition import Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.policy import Limits, PolicyBook, parse

T0 = 1_760_000_000.0
TOPIC_ID = "Zm9vYmFyYmF6cXV4cXV1eA"
JOBS = 10_000
_RUNS = 3
_FEW_BEATS, _MANY_BEATS = 1, 201
_STEP_SECONDS = 5.0


class Record(msgspec.Struct):
    """A record of the source topic."""

    offset: int
    timestamp: int
    value: bytes


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """CPU-seconds and bytes of one of each."""

    combine_known: float
    combine_new: float
    bundle: float
    beat: float
    beat_bytes: float
    change: float
    change_bytes: float
    restore: float
    look: float
    command: float
    command_bytes: float
    state_bytes: float
    index_bytes: float
    snapshot_bytes: float
    told: float
    hashed: float
    put: float
    w_bytes: float


def policies() -> PolicyBook:
    """Read the shipped policy."""
    return parse(SHIPPED_POLICY.read_text())


def partition_of_many(number: int = 0, *, partitions: int = 1) -> Partition:
    """Make an empty evidence partition with the default windows."""
    return Partition(
        number, partitions=partitions, policies=policies(), window_seconds=_STEP_SECONDS, feed_gap_seconds=15.0
    )


def report(number: int) -> bytes:
    """Give a Job's `loading`, as a loader sends it."""
    before, behind = report_around(number)
    return before + b"1760000000.0" + behind


def fact_of(value: bytes, number: int) -> JobFact:
    """Give the Job that a report speaks of, as a cluster would show it."""
    told = decode(value)
    assert isinstance(told, Report)
    return JobFact(
        key=f"stf/{sanitize(told.queue_id)}-{sanitize(target_of(told.producer))}",
        uid=f"00000000-0000-4000-8000-{number:012d}",
        created_at=T0 - 1000,
        resource_version=number + 1,
        target=target_of(told.producer),
        queue_id=told.queue_id,
        producer_id=told.producer,
        kafka_topic=told.queue_id,
        condition=Condition.ACTIVE,
        pod=PodState.RUNNING,
        managed=True,
    )


def measure() -> Units:
    """Measure all of it."""
    reports = [report(number) for number in range(JOBS)]
    facts = [fact_of(value, number) for number, value in enumerate(reports)]
    index_bytes, put, index = _index(facts)
    combine_new, combine_known = _combining(index, reports)
    few, many = _bundle(facts[:_FEW_BEATS]), _bundle(facts[:_MANY_BEATS])
    beat, beat_bytes = ((more - less) / (_MANY_BEATS - _FEW_BEATS) for less, more in zip(few, many, strict=True))
    state_bytes, sweeping = _sweeping(facts)
    snapshot = evidence.Snapshot(1, tuple((fact.key, fact.uid) for fact in facts))
    return Units(
        combine_known=combine_known,
        combine_new=combine_new,
        bundle=few[0] - beat,
        beat=beat,
        beat_bytes=beat_bytes,
        **sweeping,
        state_bytes=state_bytes,
        index_bytes=index_bytes,
        snapshot_bytes=len(evidence.encode(snapshot)) / JOBS,
        told=_telling(index),
        hashed=_hashing(facts),
        put=put,
        w_bytes=_w_bytes(),
    )


def timed(work: Callable[[], object]) -> float:
    """Give the CPU-seconds of this thread that something takes."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _index(facts: Sequence[JobFact]) -> tuple[float, float, JobIndex]:
    """Fill the index of `identity = cluster`: bytes of a Job beside its fact, CPU of a Job, the index."""

    def fill() -> JobIndex:
        index = JobIndex()
        for fact in facts:
            index.put(fact, now=T0)
        return index

    tracemalloc.start()
    copies = [
        msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=JobFact) for fact in facts
    ]  # strings of its own
    index = JobIndex()
    for fact in copies:
        index.put(fact, now=T0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(facts), min(timed(fill) for _ in range(_RUNS)) / len(facts), index


def _combining(index: JobIndex, reports: Sequence[bytes]) -> tuple[float, float]:
    """Combine a report of each Job, when no name is known and when all are."""
    records = [Record(offset, int(T0 * 1000), value) for offset, value in enumerate(reports)]
    combiner = Combiner(index, 6)

    def combine() -> None:
        combined = combiner.combine(records, topic_id=TOPIC_ID, source_partition=0, marks=SourceMarks())
        assert combined.folded == len(records)

    new = timed(combine)
    return new / len(records), min(timed(combine) for _ in range(_RUNS)) / len(records)


def _bundle(facts: Sequence[JobFact]) -> tuple[float, float]:
    """Encode, decode and fold a bundle with a beat of each Job: CPU-seconds and bytes of the whole."""
    partition = partition_of_many()
    for fact in facts:
        partition.apply(evidence.Fact(fact), T0)
    turns = 2_000 // len(facts)

    def fold(turn: int) -> int:
        beats = tuple(
            evidence.Beat(fact.key, T0 + turn, turn * len(facts) + number, turn) for number, fact in enumerate(facts)
        )
        value = evidence.encode(evidence.Bundle(TOPIC_ID, 0, beats, ()))
        partition.apply(evidence.decode(value), T0 + turn / 1000)
        return len(value)

    size = fold(1)
    seconds = [
        timed(lambda run=run: [fold(2 + run * turns + turn) for turn in range(turns)])  # type: ignore[misc]
        for run in range(_RUNS)
    ]
    return min(seconds) / turns, size


def _sweeping(facts: Sequence[JobFact]) -> tuple[float, dict[str, float]]:
    """Let a partition of Jobs be heard, checkpointed, restored, looked at, and fall silent all at once."""
    tracemalloc.start()
    partition = partition_of_many()
    for fact in facts:
        copy = evidence.decode(evidence.encode(evidence.Fact(fact)))
        partition.apply(copy, T0)
    hear(partition, facts, T0 + 1, offset=0)
    partition.take()
    state_bytes = tracemalloc.get_traced_memory()[0] / len(facts)
    tracemalloc.stop()
    mark(partition, T0 + 1)
    hear(partition, facts, T0 + 40, offset=len(facts))
    writes: dict[bytes, bytes | None] = {}
    change = timed(lambda: writes.update(writes_of(0, partition.take(), 1)))
    stored = [(key, value) for key, value in writes.items() if value is not None and not key.startswith(b"\x00")]
    assert len(stored) == len(facts)
    restore = min(timed(lambda: partition_of_many().restore_jobs(states_of(stored))) for _ in range(_RUNS))
    look = sum(timed(lambda at=at: mark(partition, at)) for at in _steps(T0 + 5, T0 + 320))  # type: ignore[misc]
    swept = partition.take().swept
    assert swept == len(facts)
    silent = sum(timed(lambda at=at: mark(partition, at)) for at in _steps(T0 + 325, T0 + 350))  # type: ignore[misc]
    sent = partition.take().effects
    assert len(sent) == len(facts)
    return state_bytes, {
        "change": change / len(facts),
        "change_bytes": sum(len(key) + len(value) for key, value in stored) / len(facts),
        "restore": restore / len(facts),
        "look": look / len(facts),
        "command": silent / len(facts),
        "command_bytes": sum(len(commands.encode(effect)) for effect in sent) / len(facts),
    }


def hear(partition: Partition, facts: Sequence[JobFact], at: float, *, offset: int) -> None:
    """Fold a sign of life of each Job, in one bundle."""
    beats = tuple(evidence.Beat(fact.key, at, offset + number, offset) for number, fact in enumerate(facts))
    partition.apply(evidence.Bundle(TOPIC_ID, 0, beats, ()), at)


def mark(partition: Partition, at: float) -> None:
    """Move the watermark, by the mark of one source partition."""
    partition.apply(evidence.Mark(TOPIC_ID, 1, ((0, at),)), at)


def _steps(first: float, last: float) -> Iterator[float]:
    while first <= last:
        yield first
        first += _STEP_SECONDS


class _Told:
    """The ports of a census that owns one partition and sends nowhere."""

    def clock(self) -> float:
        return 0.0

    def owned(self) -> set[int]:
        return {0}

    async def append(self, records: Sequence[Addressed]) -> None:
        pass


def _telling(index: JobIndex) -> float:
    """Tell a partition what there is: CPU of each of its Jobs."""
    census = Census(index, _Told(), partitions=1)

    def tell() -> None:
        census.forget_told()
        asyncio.run(census.tell_owned())

    tell()
    return min(timed(tell) for _ in range(_RUNS)) / len(index)


def _hashing(facts: Sequence[JobFact]) -> float:
    """Find the evidence partition of a Job that was not met before: CPU of each."""
    hashed = partition_of.__wrapped__
    return min(timed(lambda: [hashed(fact.key, 6) for fact in facts]) for _ in range(_RUNS)) / len(facts)


def _w_bytes() -> float:
    """Weigh the W of one evidence partition, as a pair keeps it."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = {partition: T0 + partition for partition in range(1_000)}
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(kept)


def counting(partitions: int) -> tuple[float, int]:
    """Let the actuator fold a count of each evidence partition: CPU-seconds and changelog bytes of one round."""
    actuator = Actuator(worker="worker", limits=Limits(), observe_only=True)

    def count(turn: int) -> int:
        written = 0
        for number in range(partitions):
            record = steps.FleetCounts(
                partition=number, partitions=partitions, at=T0 + turn, base=100_000, unhealthy=1, sick=1
            )
            read = steps.decode(steps.encode(record))
            assert isinstance(read, steps.FleetCounts)
            effects = actuator.apply(read, turn * partitions + number, T0 + turn)
            assert effects.write is not None
            assert effects.write[1] is not None
            written += len(effects.write[1])
        return written

    count(0)
    sizes: list[int] = []
    seconds = timed(lambda: sizes.append(count(1)))
    return seconds, sizes[0]
