"""The `jobs` table: last-seen `loading` of every Job, durable in its changelog, hot in memory.

The table (RocksDB, changelog) is what survives; `hot` is what the agents work on: one core Partition for each
evidence partition this worker owns. Hot state is dropped when a partition is revoked and rebuilt from the
table when it is assigned and recovered, and only from the active partitions: Faust's stores keep keys of
revoked ones with frozen times, and a sweep over those would call healthy Jobs stuck.
"""

import asyncio
from itertools import islice
from typing import Any

import structlog
from faust.types import TP

from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core.changelog import UnknownVersion, meta_key, meta_of, states_of, writes_of
from sf_healer.core.partition import Changes, Meta, Partition
from tables import durable, policies

log = structlog.get_logger(__name__)

jobs = durable.ordered_table(
    app,
    "jobs",
    partitions=settings.partitions,
    help="Last-seen loading of every Job: namespace/name to its state.",
)

hot: dict[int, Partition] = {}

#: So many Jobs are read from the store before the event loop has its turn: some milliseconds.
JOBS_IN_A_STEP = 1_000

#: Partitions of ours whose hot state is being rebuilt. One that is revoked meanwhile is taken out again.
_rebuilding: set[int] = set()


class StateMismatchError(Exception):
    """The stored state cannot be used by this worker as it is set; the message says what to do."""


async def store(partition: int, changes: Changes, offset: int) -> None:
    """Write what an event changed; returns when the changelog has it. Call within the event.

    `offset` is that of the newest evidence in it: it tells which of two records is older, should a worker that
    was paused write late.
    """
    writes = writes_of(partition, changes, offset)
    if writes:
        await durable.write(jobs, writes)


@app.on_partitions_revoked.connect  # type: ignore[arg-type]  # it asks for a name that it never passes by
async def drop_revoked(_app: Any, revoked: set[TP], **_: Any) -> None:
    """Forget the hot state of partitions that are no longer ours."""
    numbers = {tp.partition for tp in revoked if tp.topic == topics.EVIDENCE}
    _rebuilding.difference_update(numbers)
    dropped = [hot.pop(number) for number in numbers & hot.keys()]
    while dropped:
        number = dropped.pop().number
        metrics.forget_partition(number)
        log.info("partition_dropped", partition=number)
        await asyncio.sleep(0)  # to free 100,000 Jobs takes 40 ms


@jobs.on_recover
async def rebuild() -> None:
    """Rebuild the hot state of the partitions that were assigned; the table is recovered when this is called.

    Raises StateMismatchError for what this worker cannot read.
    """
    owned = {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == topics.EVIDENCE}
    for number in hot.keys() - owned:
        del hot[number]
        metrics.forget_partition(number)
    _rebuilding.update(owned - hot.keys())
    try:
        for number in sorted(_rebuilding):
            partition = await _read_partition(number) if number in _rebuilding else None
            if partition is not None and number in _rebuilding:  # else revoked: another worker writes it now
                _rebuilding.discard(number)
                hot[number] = partition
                metrics.WATERMARK.labels(partition=str(number)).set(partition.watermark.value)
                log.info("partition_rebuilt", partition=number, jobs=len(partition.jobs))
    finally:
        _rebuilding.clear()


def restoring() -> str | None:
    """Say how far the table is in being restored; None when it is."""
    if jobs.restored.of:
        return f"{jobs.restored.records:,} of {jobs.restored.of:,} records of its changelog are read"
    if _rebuilding:
        return f"the Jobs of {len(_rebuilding)} partitions are still to be read from the local store"
    return None


async def _read_partition(number: int) -> Partition:
    store = jobs.store_of(number)
    partition = new_partition(number)
    try:
        meta = meta_of(store.get(meta_key(number)))
        _check_partitions(number, meta)
        partition.restore_meta(meta)
        items = iter(store.items())
        while step := list(islice(items, JOBS_IN_A_STEP)):
            partition.restore_jobs(states_of(step))
            await asyncio.sleep(0)
    except UnknownVersion as error:
        raise StateMismatchError(str(error)) from None
    return partition


def new_partition(number: int) -> Partition:
    """Make the empty hot state of an evidence partition."""
    return Partition(
        number,
        partitions=settings.partitions,
        policies=policies.current.book,
        window_seconds=settings.sweep_window_seconds,
        feed_gap_seconds=settings.feed_gap_seconds,
        source_topic=settings.source_topic,
    )


def _check_partitions(number: int, meta: Meta | None) -> None:
    if meta is not None and meta.partitions != settings.partitions:
        raise StateMismatchError(
            f"partition {number} was written with SF_HEALER_PARTITIONS={meta.partitions}, now it is "
            f"{settings.partitions}: Jobs would move and look silent. Set it back, or stop every worker, delete "
            f"{topics.EVIDENCE} and {topics.JOBS_CHANGELOG} and create them anew with `sf-healer topics --create`"
        )
