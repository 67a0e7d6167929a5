"""Tables whose writes are on the changelog before they count, and are read back in the order of their log.

Faust's `table[key] = value` puts the changelog record into a buffer and drops its future: a worker that dies
before the buffer is flushed has lost the write although its event may be acknowledged (seen on
faust-streaming 0.15.3: tables/table.py on_key_set, transport/producer.py flush_atmost). Here the record is
sent first, awaited until the broker acknowledged it, and only then stored.

Values begin with the offset of the newest record of the log in them, and recovery keeps the highest:
core/changelog.py says why. Recovery reads the changelog in fetch batches: sf_healer/transport/recovery.py.

For apps with `TableManager=BatchTableManager` and a `batch://` broker; keys and values are bytes, the encoding is ours
(the core's). Writes belong inside the event whose partition owns the keys.
"""

import gc
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, cast

import faust
from faust.exceptions import ImproperlyConfigured
from faust.types import TP, StoreT
from faust.types.topics import TopicT
from yarl import URL

from sf_healer.adapters import metrics
from sf_healer.core.changelog import InOrder, persisted_after
from sf_healer.transport import RESTORE_LIMITS, Appended, Batch, BatchTableManager, ToSend, batched_topic, send_together
from tables.stores import ROCKSDB_OPTIONS, PartitionStore, RocksStore, partition_store


class Restored(NamedTuple):
    """How far the recovery of a table is, in records of its changelog; both 0 while there is none."""

    records: int
    of: int


class OrderedTable(faust.Table[bytes, bytes]):
    """A table of msgpack arrays `[version, offset of the log, ...]`; recovery keeps the highest offset."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.restored = Restored(0, 0)
        self._restoring: dict[TP, tuple[PartitionStore, InOrder]] = {}

    def store_of(self, partition: int) -> PartitionStore:
        """Open the local store of a partition that is assigned to this worker."""
        return partition_store(self.data, TP(self.changelog_topic_name, partition))

    def _new_store_by_url(self, url: str | URL) -> StoreT[Any, Any]:
        if URL(url).scheme != "rocksdb":
            return super()._new_store_by_url(url)
        return RocksStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=self.options,
        )

    # ---- what recovery calls

    def begin_restore(self, tps: AbstractSet[TP]) -> None:
        """Forget what was seen of changelogs before."""
        gc.freeze()  # else the cycle collector walks all that start-up made for every few batches
        self._end_restore()
        for tp in tps:
            store = self.store_of(tp.partition)
            self._restoring[tp] = store, InOrder(None if store.is_empty() else store.get)

    def restore(self, batch: Batch) -> None:
        """Write recovered records, without those that a late writer put on top of newer ones.

        Raises TypeError for a record without a key: it is none of ours.
        """
        store, order = self._restoring[batch.tp]
        changes = order.newest([(_key_of(record), record.value) for record in batch])
        store.write_restored(changes, persisted=batch.next_position - 1)
        metrics.RESTORED_RECORDS.labels(table=self.name).inc(len(batch))

    def note_restored(self, restored: int, total: int) -> None:
        """Keep how far recovery is, for the probes and metrics."""
        self.restored = Restored(restored, total)
        metrics.RESTORE_REMAINING.labels(table=self.name).set(total - restored)
        if not total:
            self._end_restore()

    def _end_restore(self) -> None:
        """Put on disk what was restored: from now on there may be writes that survive a crash."""
        for store, _ in self._restoring.values():
            store.flush()
        self._restoring = {}

    def _new_changelog_topic(self, **_: Any) -> TopicT:
        name = self._changelog_topic_name()
        return batched_topic(
            self.app,
            name,
            limits=RESTORE_LIMITS,
            partitions=self.partitions,
            compacting=True,
            acks=False,
            internal=True,
        )


def ordered_table(app: faust.App, name: str, *, partitions: int, help: str) -> OrderedTable:  # noqa: A002  Faust's word
    """Declare an OrderedTable of bytes on an app; raises ImproperlyConfigured where that has another TableManager."""
    if not isinstance(app.tables, BatchTableManager):
        raise ImproperlyConfigured(f"app {app.conf.id!r} needs TableManager=BatchTableManager for ordered tables")
    table = OrderedTable(
        app,
        name=name,
        partitions=partitions,
        help=help,
        key_type=bytes,
        value_type=bytes,
        beacon=app.tables.beacon,
        options=dict(ROCKSDB_OPTIONS),
    )
    return cast("OrderedTable", app.tables.add(table))


async def put(table: OrderedTable, key: bytes, value: bytes) -> None:
    """Store one value; returns when its changelog record is acknowledged (acks=all).

    Raises what the producer raises when the broker does not acknowledge within its request timeout, and
    TypeError outside of an event. Nothing is stored then; the caller must not let its event end.
    """
    await write(table, {key: value})


async def delete(table: OrderedTable, key: bytes) -> None:
    """Remove one key; returns when its tombstone is acknowledged. Raises as `put` does."""
    await write(table, {key: None})


async def write(table: OrderedTable, changes: Mapping[bytes, bytes | None]) -> None:
    """Store several values (None removes the key) in one round trip to the broker. Raises as `put` does.

    The changelog may have received a part of them when it raises: the values of one event must be written so
    that folding the event again gives the same.
    """
    if not changes:
        return
    partition = table.partition_for_key(next(iter(changes)))  # raises outside of an event and on a partition mismatch
    assert partition is not None, "our tables are divided as their source is"
    records = (ToSend(key, value) for key, value in changes.items())
    topic = table.changelog_topic.get_topic_name()
    written = await (await send_together(table.app, topic, partition, records))
    store = table.store_of(partition)
    store.write(changes, persisted=_persisted(store, written))


def _persisted(store: PartitionStore, written: Sequence[Appended]) -> int | None:
    """Return from which offset recovery may read once these records are stored; None: as before."""
    before = offset = store.persisted_offset()
    for appended in written:
        offset = persisted_after(offset, appended.offset, appended.count)
    return None if offset == before else offset


def _key_of(record: Any) -> bytes:
    if record.key is None:
        raise TypeError(f"a changelog record without a key at offset {record.offset}")
    return cast("bytes", record.key)
