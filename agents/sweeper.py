"""Evidence in, commands out: fold each record into the `jobs` table, and sweep when the watermark closes a window.

Everything is the core's doing (core/partition.py). This agent only keeps the order that makes a crash harmless:
commands are acknowledged first, then the table's changelog, then the batch. What is repeated after a crash gives
the same command ids.
"""

import asyncio
import time

import msgspec
import structlog
from faust.types import StreamT

from agents import topics
from agents.batches import unacknowledged
from agents.sending import Outgoing, acknowledged
from agents.telemetry import dead_letter
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import commands, evidence, steps
from sf_healer.core.combine import Rejected
from sf_healer.core.partition import Changes, Effect, Partition
from sf_healer.core.watermark import Advance
from sf_healer.transport import Batch
from tables.jobs import hot, store

log = structlog.get_logger(__name__)

COUNTS_EVERY_SECONDS = 5.0
#: A command waits at admission until every partition has counted after its Job turned sick.
COUNTS_EVERY_SECONDS_WHILE_SICK = 1.0
#: Let the loop breathe while a long batch is folded: health checks and heartbeats share it.
YIELD_EVERY_RECORDS = 100


@app.agent(topics.evidence_log)
async def sweeper(stream: StreamT[Batch]) -> None:
    """Fold every batch of evidence of the partitions this worker owns."""
    async for event in unacknowledged(stream):
        batch: Batch = event.value
        partition = hot.get(batch.partition)
        if partition is None:
            continue  # revoked while the batch waited: its new owner reads it, so it must not be acknowledged
        await _fold(partition, batch)
        changes = partition.take()
        await acknowledged(_outgoing(effect) for effect in changes.effects)
        if hot.get(batch.partition) is not partition:
            continue  # revoked meanwhile: a write of ours would land on top of its new owner's
        await store(batch.partition, changes, batch.last_offset)
        _report(partition, changes)
        event.ack()


async def _fold(partition: Partition, batch: Batch) -> None:
    for number, record in enumerate(batch.records, start=1):
        try:
            entry = evidence.decode(record.value or b"")
        except msgspec.DecodeError as error:
            await acknowledged([dead_letter(batch, Rejected(record, "not_evidence", str(error)))])
            continue
        advance = partition.apply(entry, record.timestamp / 1000)
        if advance is not None:
            _note_advance(partition, advance)
        if number % YIELD_EVERY_RECORDS == 0:
            await asyncio.sleep(0)


def _outgoing(effect: Effect) -> Outgoing:
    return Outgoing(topics.commands, commands.encode(effect), partition=0, key=effect.key.encode())


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def count_loop() -> None:
    """Tell admission, every few seconds, how many Jobs of each partition are well and how many turned sick."""
    counted_at = 0.0
    while not app.should_stop:
        await app.sleep(COUNTS_EVERY_SECONDS_WHILE_SICK)
        sick = any(partition.counts().sick for partition in hot.values())
        due = sick or time.monotonic() - counted_at >= COUNTS_EVERY_SECONDS
        if due and not (app.rebalancing or app.in_recovery):
            counted_at = time.monotonic()
            await acknowledged(_counts_of(partition) for partition in list(hot.values()))


def _counts_of(partition: Partition) -> Outgoing:
    counts = partition.counts()
    record = steps.FleetCounts(
        partition=counts.partition,
        partitions=settings.partitions,
        at=counts.at,
        base=counts.base,
        unhealthy=counts.unhealthy,
        sick=counts.sick,
    )
    return Outgoing(topics.counts, steps.encode(record), partition=0)


def _note_advance(partition: Partition, advance: Advance) -> None:
    number = str(partition.number)
    metrics.WATERMARK.labels(partition=number).set(advance.to)
    if advance.gap:
        metrics.FEED_GAPS.labels(partition=number).inc()
        log.info("feed_gap", partition=partition.number, until=advance.to)


def _report(partition: Partition, changes: Changes) -> None:
    metrics.SWEPT_JOBS.inc(changes.swept)
    for state, judgement in changes.judged:
        metrics.VERDICTS.labels(verdict=judgement.verdict).inc()
        if judgement.restartable:
            log.warning(
                "job_sick",
                job=state.key,
                verdict=judgement.verdict,
                rule=judgement.rule,
                silence_seconds=round(judgement.silence, 3),
                threshold_seconds=judgement.threshold,
                watermark=partition.watermark.value,
            )
    for verdict, count in partition.counts_by_verdict.items():
        metrics.JOBS.labels(partition=str(partition.number), verdict=verdict).set(count)
    for effect in changes.effects:
        metrics.COMMANDS.labels(kind=type(effect).__name__.lower()).inc()
