"""Tables whose writes are on the changelog before they count, and are read back in the order of their log.

Faust's `table[key] = value` puts the changelog record into a buffer and drops its future: a worker that dies
before the buffer is flushed has lost the write although its event may be acknowledged (seen on
faust-streaming 0.15.3: tables/table.py on_key_set, transport/producer.py flush_atmost). Here the record is
sent first, awaited until the broker acknowledged it, and only then stored.

Values begin with the offset of the newest record of the log in them, and recovery keeps the highest:
core/changelog.py says why.

For tables with `key_type=bytes, value_type=bytes`, inside the event whose partition owns the keys.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import faust
from faust.types import EventT, RecordMetadata, StoreT, TableT

from sf_healer.core.changelog import InOrder, persisted_after
from sf_healer.transport import ToSend, send_together

# What a Faust table of ours is: bytes to bytes, the encoding is ours (the core's).
BytesTable = TableT[bytes, bytes]


class OrderedTable(faust.Table[bytes, bytes]):
    """A table of msgpack arrays `[version, offset of the log, ...]`; recovery keeps the highest offset."""

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Apply recovered records, without those that a late writer put on top of newer ones."""
        super().apply_changelog_batch(self._in_order(batch))

    def _in_order(self, batch: Iterable[EventT[Any]]) -> Iterator[EventT[Any]]:
        order = InOrder(cast("StoreT[bytes, bytes]", self.data).get)
        return (event for event in batch if order.counts(cast("bytes", event.message.key), event.message.value))


def ordered_table(app: faust.App, name: str, *, partitions: int, help: str) -> OrderedTable:  # noqa: A002  Faust's word
    """Declare an OrderedTable of bytes on an app."""
    table = OrderedTable(
        app,
        name=name,
        partitions=partitions,
        help=help,
        key_type=bytes,
        value_type=bytes,
        beacon=app.tables.beacon,
    )
    return cast("OrderedTable", app.tables.add(table))


async def put(table: BytesTable, key: bytes, value: bytes) -> None:
    """Store one value; returns when its changelog record is acknowledged (acks=all).

    Raises what the producer raises when the broker does not acknowledge within its request timeout, and
    TypeError outside of an event. Nothing is stored then; the caller must not let its event end.
    """
    await write(table, {key: value})


async def delete(table: BytesTable, key: bytes) -> None:
    """Remove one key; returns when its tombstone is acknowledged. Raises as `put` does."""
    await write(table, {key: None})


async def write(table: BytesTable, changes: Mapping[bytes, bytes | None]) -> None:
    """Store several values (None removes the key) in one round trip to the broker. Raises as `put` does.

    The changelog may have received a part of them when it raises: the values of one event must be written so
    that folding the event again gives the same.
    """
    if any(value == b"" for value in changes.values()):
        raise ValueError("an empty value: Faust drops it in a changelog batch that also deletes the key")
    if not changes:
        return
    partition = table.partition_for_key(next(iter(changes)))  # raises outside of an event and on a partition mismatch
    assert partition is not None, "our tables are divided as their source is"
    records = (ToSend(key, value) for key, value in changes.items())
    topic = table.changelog_topic.get_topic_name()
    written = await (await send_together(table.app, topic, partition, records))
    store = cast("StoreT[bytes, bytes]", table.data)  # not the table: it would send the record again
    for key, value in changes.items():
        if value is not None:
            store[key] = value
        elif key in store:
            del store[key]
    # After the values: a crash between the two must let recovery read the records again, not skip them.
    _note_persisted(store, written)


def _note_persisted(store: "StoreT[bytes, bytes]", written: Sequence[RecordMetadata]) -> None:
    """Move the offset from which recovery reads, where that is safe."""
    tp = written[0].topic_partition
    known = offset = store.persisted_offset(tp)
    for metadata in written:
        offset = persisted_after(offset, metadata.offset)
    if offset is not None and offset != known:
        store.set_persisted_offset(tp, offset)
