"""The reader of a fetch answer gives every record once, whatever the limits and whatever lies in between."""

from __future__ import annotations

import gc
import weakref
from typing import NamedTuple

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.transport.reader import RecordReader

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
CONTROL_BIT = 0x20
ABORT_KEY, COMMIT_KEY = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"
LIMITLESS = 10**9


class Wire(NamedTuple):
    """One record batch as a broker would send it."""

    base: int
    values: list[bytes | None]
    holes: int = 0  # offsets at its end that compaction left without a record
    control: bytes | None = None
    producer_id: int = -1

    @property
    def end(self) -> int:
        return self.base + (1 if self.control else len(self.values)) + self.holes

    def encode(self) -> bytes:
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=int(self.producer_id >= 0),
            producer_id=self.producer_id,
            producer_epoch=0,
            base_sequence=0,
            batch_size=LIMITLESS,
        )
        if self.control is not None:
            builder.append(0, 1_000, self.control, b"\x00\x00\x00\x00\x00\x00", [])
        for index, value in enumerate(self.values):
            builder.append(index, 1_000, None, value, [])
        raw = bytearray(builder.build())
        raw[0:8] = self.base.to_bytes(8, "big")
        if self.control is not None:
            raw[22] |= CONTROL_BIT
        raw[23:27] = (self.end - self.base - 1).to_bytes(4, "big")  # last offset delta
        return bytes(raw)


def reader(*batches: Wire, fetched_at: int = 0, isolation: int = READ_UNCOMMITTED, aborted=()):
    records = MemoryRecords(b"".join(batch.encode() for batch in batches))
    tp = TopicPartition("t", 0)
    return RecordReader(
        PartitionRecords(tp, records, aborted, fetched_at, None, None, check_crcs=False, isolation_level=isolation)
    )


def drain(source: RecordReader, max_records: int = LIMITLESS, max_bytes: int = LIMITLESS):
    takes = []
    while not source.exhausted:
        records, _ = source.take(max_records, max_bytes)
        takes.append([record.offset for record in records])
    return takes


def test_a_commit_marker_at_the_end_moves_the_position_and_gives_no_record() -> None:
    source = reader(Wire(0, [b"a", b"b"]), Wire(2, [], control=COMMIT_KEY, producer_id=7))
    assert drain(source) == [[0, 1]]
    assert source.next_fetch_offset == 3


def test_a_gap_that_compaction_left_at_the_end_moves_the_position() -> None:
    source = reader(Wire(10, [b"a"], holes=5), fetched_at=10)
    assert drain(source) == [[10]]
    assert source.next_fetch_offset == 16


def test_an_answer_that_begins_before_the_position_gives_nothing_twice() -> None:
    source = reader(Wire(0, [b"a", b"b", b"c", b"d"]), fetched_at=2)
    assert drain(source) == [[2, 3]]


def test_an_answer_that_holds_only_older_records_still_moves_the_position() -> None:
    source = reader(Wire(0, [b"a", b"b"], holes=8), fetched_at=5)
    assert drain(source) == [[]]
    assert source.next_fetch_offset == 10


def test_no_more_than_max_records_are_taken_and_the_rest_comes_next() -> None:
    source = reader(Wire(0, [b"x"] * 5), Wire(5, [b"x"] * 2))
    assert drain(source, max_records=3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_ends_with_the_record_batch_that_reaches_max_bytes() -> None:
    source = reader(Wire(0, [b"x" * 60]), Wire(1, [b"x" * 60]), Wire(2, [b"x" * 60]))
    records, size_bytes = source.take(LIMITLESS, 100)
    assert [record.offset for record in records] == [0, 1]
    assert size_bytes == 120


def test_a_giant_record_is_taken_although_it_is_larger_than_max_bytes() -> None:
    source = reader(Wire(0, [b"x" * 1_000]), Wire(1, [b"small"]))
    assert drain(source, max_bytes=10) == [[0], [1]]


def test_tombstones_and_empty_values_are_records() -> None:
    records, size_bytes = reader(Wire(0, [None, b"", b"x"])).take(LIMITLESS, LIMITLESS)
    assert [record.value for record in records] == [None, b"", b"x"]
    assert size_bytes == 1


def test_an_aborted_transaction_is_seen_uncommitted_but_not_committed() -> None:
    aborted = Wire(0, [b"a", b"b"], producer_id=7)
    marker = Wire(2, [], control=ABORT_KEY, producer_id=7)
    later = Wire(3, [b"c"], producer_id=7)

    assert drain(reader(aborted, marker, later)) == [[0, 1, 3]]
    source = reader(aborted, marker, later, isolation=READ_COMMITTED, aborted=[(7, 0)])
    assert drain(source) == [[3]]
    assert source.next_fetch_offset == 4


def test_a_wrong_checksum_is_an_error_where_checksums_are_asked_for() -> None:
    wire = bytearray(Wire(0, [b"intact"]).encode())
    wire[-3] ^= 1
    records = MemoryRecords(bytes(wire))
    source = PartitionRecords(
        TopicPartition("t", 0), records, (), 0, None, None, check_crcs=True, isolation_level=READ_UNCOMMITTED
    )
    with pytest.raises(CorruptRecordException):
        RecordReader(source).take(LIMITLESS, LIMITLESS)


@st.composite
def logs(draw) -> list[Wire]:
    log: list[Wire] = []
    base = 0
    for _ in range(draw(st.integers(1, 8))):
        base += draw(st.integers(0, 3))
        if draw(st.booleans()):
            batch = Wire(base, draw(st.lists(st.binary(max_size=9), min_size=1, max_size=9)), draw(st.integers(0, 3)))
        else:
            batch = Wire(base, [], control=COMMIT_KEY, producer_id=1)
        log.append(batch)
        base = batch.end
    return log


@given(logs(), st.integers(0, 30), st.integers(1, 12), st.integers(1, 40))
def test_every_record_comes_once_in_order_and_the_position_ends_at_the_log_end(
    log: list[Wire], start: int, max_records: int, max_bytes: int
) -> None:
    source = reader(*log, fetched_at=start)
    takes = drain(source, max_records, max_bytes)

    there = [batch.base + index for batch in log for index in range(len(batch.values))]
    assert [offset for take in takes for offset in take] == [offset for offset in there if offset >= start]
    assert all(len(take) <= max_records for take in takes)
    assert source.next_fetch_offset == max(log[-1].end, start)


@given(logs(), st.integers(1, 12))
def test_the_position_is_always_behind_the_last_record_taken_and_not_beyond_the_next(
    log: list[Wire], max_records: int
) -> None:
    source = reader(*log)
    there = [batch.base + index for batch in log for index in range(len(batch.values))]
    taken = 0
    while not source.exhausted:
        records, _ = source.take(max_records, LIMITLESS)
        taken += len(records)
        if records:
            assert source.next_fetch_offset > records[-1].offset
        if taken < len(there):
            assert source.next_fetch_offset <= there[taken]


def test_a_finished_answer_is_freed_without_the_cycle_collector() -> None:
    gc.disable()
    try:
        source = reader(Wire(0, [b"a"]))
        answer = weakref.ref(source._source)
        drain(source)
        del source
        assert answer() is None
    finally:
        gc.enable()
