"""Reads one fetch answer of one partition in large pieces.

aiokafka makes an object with eleven fields for each record, in Python: more time than everything else between
the socket and the agent. Its C records already carry what an agent needs, and whole record batches of them
can be taken at once.
"""

# ruff: noqa: SLF001 (takes the place of a private part of aiokafka; its version is pinned)

from __future__ import annotations

from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import CorruptRecordException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiokafka.consumer.fetcher import PartitionRecords

    from sf_healer.transport.batch import Record

_value_of = attrgetter("value")


class RecordReader:
    """Takes the place of aiokafka's reader in a FetchResult, which only looks at `next_fetch_offset`."""

    def __init__(self, source: PartitionRecords) -> None:
        self._source = source
        # A generator that refers to its owner: with it the whole answer would stay until the cycle collector runs.
        source._records_iterator = None
        self._batch: Any = None  # the record batch being read
        self._unread: Iterator[Record] = iter(())
        self.next_fetch_offset: int = source.next_fetch_offset
        self.exhausted = False

    def take(self, max_records: int, max_bytes: int) -> tuple[list[Record], int]:
        """Take the next records; returns them and the bytes of their values.

        Never more than `max_records`; ends with the record batch that reaches `max_bytes`, so that something
        is always taken. Raises CorruptRecordException where checksums are asked for and one is wrong.
        """
        records: list[Record] = []
        size_bytes = 0
        while len(records) < max_records and size_bytes < max_bytes:
            if self._batch is None and not self._open_next_batch():
                self.exhausted = True
                break
            taken = self._take_from_batch(max_records - len(records))
            records += taken
            size_bytes += sum([len(value) for value in map(_value_of, taken) if value])
        return records, size_bytes

    def _take_from_batch(self, most: int) -> list[Record]:
        taken: list[Record] = list(islice(self._unread, most))
        is_read = len(taken) < most
        if taken:
            if taken[0].offset < self.next_fetch_offset:  # a fetch from its middle brings the whole record batch
                taken = [record for record in taken if record.offset >= self.next_fetch_offset]
            if taken:
                self.next_fetch_offset = taken[-1].offset + 1
        if is_read:
            self._pass(self._batch)
            self._batch = None
        return taken

    def _open_next_batch(self) -> bool:
        """Go to the next record batch with something to read; False: there is none left."""
        source = self._source
        while source._records.has_next():
            batch = source._records.next_batch()
            if source._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"wrong checksum at {source._tp}, offset {batch.base_offset}")
            if not self._is_aborted(batch) and not batch.is_control_batch:
                self._batch, self._unread = batch, chain(batch)  # the batch itself allows iter() only once
                return True
            self._pass(batch)
        return False

    def _pass(self, batch: Any) -> None:
        # Behind what compaction left out at its end too; and never back, whatever an answer begins with.
        self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _is_aborted(self, batch: Any) -> bool:
        source = self._source
        if source._isolation_level != READ_COMMITTED or batch.producer_id is None:
            return False
        source._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch:
            if source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            return False
        return batch.is_transactional and batch.producer_id in source._aborted_producers
