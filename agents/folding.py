"""What the sweeper does with a batch of evidence, in which order, and what it awaits.

Knows nothing of Faust, so that tests/simulation can drive it: agents/sweeper.py lends it the topics and the
table. Everything is decided by the core (core/partition.py); here is only the order that makes a crash
harmless: commands are acknowledged first, then the table's changelog, then the batch. What is repeated after a
crash gives the same command ids. A log that has begun anew is noted in the table before anything of it is folded.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from sf_healer.core import evidence
from sf_healer.core.combine import Rejected, SourceRecord
from sf_healer.core.evidence import Bundle, PackedBundle
from sf_healer.core.partition import Changes, Effect, Partition
from sf_healer.core.watermark import Advance

#: Let the loop breathe while a long batch is folded: health checks and heartbeats share it. A record counts as one, and
#: a bundle as much as it says; some milliseconds.
YIELD_EVERY = 2_000


class EvidenceBatch(Protocol):
    """Consecutive records of one evidence partition."""

    @property
    def partition(self) -> int:
        """Its number."""

    @property
    def records(self) -> Sequence[SourceRecord]:
        """In order of their offsets; timestamps are the broker's."""

    @property
    def last_offset(self) -> int:
        """The offset of the last one."""

    @property
    def log_end(self) -> int | None:
        """Where the partition ended when they were read; None where that is not known."""


class Ports(Protocol):
    """What folding needs of the world; each send returns when the broker has acknowledged."""

    def hot(self, number: int) -> Partition | None:
        """Give the hot state of an evidence partition, None where it is not ours (any more)."""

    async def command(self, effects: Sequence[Effect]) -> None:
        """Send commands, withdrawals and signs of life to `healer-actions`, in this order."""

    async def bury(self, batch: EvidenceBatch, reject: Rejected) -> None:
        """Send a record that is no evidence to the dead letters."""

    async def store(self, number: int, changes: Changes, offset: int) -> None:
        """Write what changed into the `jobs` table; `offset` is that of the newest evidence in it."""

    def advanced(self, partition: Partition, advance: Advance) -> None:
        """Take notice that a watermark moved."""

    def began_anew(self, partition: Partition) -> None:
        """Take notice that a partition's log has begun anew: what was on it and not folded yet is lost."""


async def fold(batch: EvidenceBatch, ports: Ports) -> Changes | None:
    """Fold a batch and do what follows; None: the partition was revoked, and the batch must not be acknowledged."""
    partition = ports.hot(batch.partition)
    if partition is None:
        return None  # revoked while the batch waited: its new owner reads it
    first = batch.records[0]
    anew = partition.note_log(batch.log_end, first.offset, first.timestamp / 1000)
    if anew is not None:
        ports.began_anew(partition)
        await ports.store(batch.partition, anew, first.offset)
        if ports.hot(batch.partition) is not partition:
            return None
    since_yield = 0
    for record in batch.records:
        try:
            entry = evidence.decode_packed(record.value or b"")
        except msgspec.DecodeError as error:
            await ports.bury(batch, Rejected(record, "not_evidence", str(error)))
            continue
        advance = partition.apply(entry, record.timestamp / 1000, record.offset)
        if advance is not None:
            ports.advanced(partition, advance)
        since_yield += 1 + (entry.size if isinstance(entry, Bundle | PackedBundle) else 0)
        if since_yield >= YIELD_EVERY:
            since_yield = 0
            await asyncio.sleep(0)
    changes = partition.take()
    await ports.command(changes.effects)
    if ports.hot(batch.partition) is not partition:
        return None  # revoked meanwhile: a write of ours would land on top of its new owner's
    await ports.store(batch.partition, changes, batch.last_offset)
    return changes
