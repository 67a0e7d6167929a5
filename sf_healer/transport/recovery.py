"""Table recovery in whole fetch batches: `faust.App(..., TableManager=BatchTableManager)`.

Faust makes a message, an event and a decoded pair of every changelog record, and a task to wait for each. Here the
changelog of a table is a batched topic: what one fetch brought of a partition is given to the table as it came, and
the table writes it as one. A table for it has the two methods of `RestoredTable`.

What is kept of Faust: the highwaters read at the start, the offsets that the stores have persisted, the order of
a rebalance, the callbacks. What is not:
- reading begins behind the persisted offset, not at it, and goes on from where the ledger stands, so that neither a
  batch of before a rebalance nor one that a seek overtook is taken for the next one;
- a changelog that ends in a commit marker, an aborted transaction or a gap left by compaction is restored when its
  end is reached (Faust waits for a record that never comes);
- a partition holds at most `RESTORE_LIMITS` in memory, whatever the size of Faust's buffers;
- there are no standbys.
Builds on private parts of Faust, whose version is pinned.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import structlog
from aiokafka.errors import IllegalStateError
from faust.exceptions import ConsistencyError, ImproperlyConfigured
from faust.tables import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from sf_healer.transport.batch import Batch, BatchLimits

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Set as AbstractSet

    from faust.types import TP, EventT
    from faust.types.tables import CollectionT
    from faust.types.transports import ConsumerT

    from sf_healer.transport.consumer import Consumer

log = structlog.get_logger(__name__)

#: One batch is written at once and without a pause: some ten milliseconds, so that the event loop goes on. Larger ones
#: are no faster and take more memory; with 2,000 records a million Jobs take half a second longer.
RESTORE_LIMITS: Final = BatchLimits(max_records=5_000, max_bytes=2560 * 1024, max_in_flight=2)

#: How long a changelog may be silent before its position is looked at: its end may hold no record.
LOOK_SECONDS: Final = 0.1


#: Whether the store or the log is right, no worker can tell: the log may have lost what is nowhere else.
AHEAD: Final = (
    "{} {}: the local store holds everything up to offset {}, and the changelog ends at {}: it was made anew, or has "
    "lost its end. To go on by the changelog delete the worker's data directory (in Kubernetes its Pod); what that "
    "means: docs/operations.md"
)


class RestoredTable(Protocol):
    """What recovery asks of a table."""

    def begin_restore(self, tps: AbstractSet[TP]) -> None:
        """Changelog partitions are about to be read; what was begun before is void."""

    def restore(self, batch: Batch) -> None:
        """Apply the next records of one changelog partition, and persist that everything before the next was."""

    def note_restored(self, restored: int, total: int) -> None:
        """Hear how many of the offsets to be read have been; both 0 when there is nothing to restore any more."""


class BatchRecovery(Recovery):
    """Faust's recovery, with a batch in the place of a record."""

    _missing_at_start = 0
    _began_at = 0.0

    @Service.task
    async def _restart_recovery(self) -> None:
        while not await self.wait_for_stopped(cast("Any", self.signal_recovery_start)):
            self.signal_recovery_start.clear()
            try:
                await self._recover(self._generation_id)
            except (RebalanceAgain, IllegalStateError):
                log.debug("rebalanced_while_restoring")
            except ServiceStopped:
                break

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Do nothing: `_restore` reads the changelogs, and only while they are to be read."""

    @Service.task
    async def _publish_stats(self) -> None:
        async for _ in self.itertimer(self.stats_interval, name="Recovery.stats"):
            if self._missing_at_start:
                self._say_progress()

    def flush_buffers(self) -> None:
        """Do nothing: what is taken is written at once."""

    async def _recover(self, generation_id: int) -> None:
        consumer = self.app.consumer
        timeout = self.app.conf.broker_request_timeout
        await self._wait(asyncio.sleep(self.recovery_delay))
        if not self.tables:
            await self._resume_streams(generation_id=generation_id)
            return
        self._set_recovery_started()
        producer = cast("Any", self.app)._producer  # noqa: SLF001  as Faust's own recovery does
        if producer is not None:
            await self._wait(producer.flush(), timeout=timeout)
        offsets, highwaters = self.active_offsets, self.active_highwaters
        await self._wait(self._build_highwaters(consumer, self.active_tps, highwaters, "active"), timeout=timeout)
        await self._wait(self._build_offsets(consumer, self.active_tps, offsets, "active"), timeout=timeout)
        self._check_consistency()
        if self.need_recovery():
            await self._wait(self._seek_offsets(consumer, self.active_tps, offsets, "active"), timeout=timeout)
            await self._wait(self._restore(consumer))
        await self._wait(self.on_recovery_completed(generation_id))

    def _check_consistency(self) -> None:
        for tp, highwater in self.active_highwaters.items():
            persisted = self.active_offsets[tp]
            if self.app.conf.recovery_consistency_check and persisted > highwater:
                log.critical("store_ahead", topic=tp.topic, partition=tp.partition, persisted=persisted, end=highwater)
                raise ConsistencyError(AHEAD.format(tp.topic, tp.partition, persisted, highwater))

    async def _seek_offsets(
        self,
        consumer: ConsumerT,
        tps: AbstractSet[TP],
        offsets: Counter[TP],
        title: str,  # noqa: ARG002  (Faust's)
    ) -> None:
        await consumer.seek_wait({tp: offsets[tp] + 1 for tp in tps})

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Call the tables' callbacks, and let the streams go on.

        A callback that raises ends the process, and one that a rebalance overtakes is cancelled: Faust lets the
        first go by and the second run on.
        """
        await asyncio.gather(
            *(
                table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
                for table in self.tables.values()
            )
        )
        self._set_recovery_ended()
        await self._resume_streams(generation_id=generation_id)

    # ---- reading

    async def _restore(self, consumer: ConsumerT) -> None:
        """Read the changelogs up to their highwaters."""
        self._begin()
        try:
            consumer.resume_partitions(self.active_tps)
            self.app.flow_control.resume()
            consumer.resume_flow()
            await cast("Any", self.app)._fetcher.maybe_start()  # noqa: SLF001  as Faust's own recovery does
            while self.need_recovery():
                event = await self._next_event()
                if event is not None:
                    self._apply(event)
                self._look_where_we_are(cast("Consumer", consumer))
            consumer.pause_partitions(self.active_tps)
            seconds = round(monotonic() - self._began_at, 1)
            log.info("restored", records=self._missing_at_start, seconds=seconds)
        finally:
            self._end()

    def _begin(self) -> None:
        self._began_at = monotonic()
        self._missing_at_start = self.active_remaining_total()
        for table, tps in self.actives_for_table.items():
            _restored(table).begin_restore(tps)
            self._tell(table)
        log.info("restore_begins", records=self._missing_at_start)

    def _end(self) -> None:
        self._missing_at_start = 0
        for table in self.actives_for_table:
            _restored(table).note_restored(0, 0)

    async def _next_event(self) -> EventT[Any] | None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return cast("EventT[Any]", await self.tables.changelog_queue.get())
        except TimeoutError:
            return None

    def _apply(self, event: EventT[Any]) -> None:
        batch = cast("Batch", event.message.value)
        is_ours = event.message.generation_id == self.app.consumer_generation_id and batch.tp in self.active_tps
        if is_ours and batch.next_position > self.active_offsets[batch.tp] + 1:
            table = self.tp_to_table[batch.tp]
            _restored(table).restore(batch)
            self.active_offsets[batch.tp] = batch.next_position - 1
            self._tell(table)
        event.ack()

    def _look_where_we_are(self, consumer: Consumer) -> None:
        """Take in what holds no record: the ledger stands behind it, and everything before is written."""
        for tp in self.active_tps:
            position = consumer.restored_position(tp)
            if position is not None:
                self.active_offsets[tp] = max(self.active_offsets[tp], position - 1)

    # ---- telling

    def _tell(self, table: CollectionT) -> None:
        remaining = self.active_remaining()
        total = sum(self.active_highwaters[tp] + 1 for tp in self.actives_for_table[table])
        _restored(table).note_restored(total - sum(remaining[tp] for tp in self.actives_for_table[table]), total)

    def _say_progress(self) -> None:
        remaining = self.active_remaining_total()
        done = self._missing_at_start - remaining
        seconds = monotonic() - self._began_at
        log.info(
            "restore_progress",
            records=self._missing_at_start,
            remaining=remaining,
            seconds_left=round(remaining * seconds / done) if done else None,
        )


class BatchTableManager(TableManager):
    """Faust's table manager with a recovery that reads batches."""

    @property
    def recovery(self) -> BatchRecovery:
        """Recovery service used by this table manager."""
        if self._recovery is None:
            self._recovery = BatchRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast("BatchRecovery", self._recovery)

    def add(self, table: CollectionT) -> CollectionT:
        """Add a table; raises ImproperlyConfigured for one that takes no batches, and where standbys are asked for."""
        if not hasattr(table, "restore"):
            raise ImproperlyConfigured(f"table {table.name!r} cannot be restored in batches")
        if self.app.conf.table_standby_replicas:
            raise ImproperlyConfigured("recovery in batches keeps no standbys: set table_standby_replicas = 0")
        return super().add(table)


def _restored(table: CollectionT) -> RestoredTable:
    return cast("RestoredTable", table)
