"""The position reaches the log's end whatever lies there, and the broker's answers beside it are fresh."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition
from faust.types import TP

from sf_healer.transport import OffsetReset, end_offsets, on_reset, poll, topic_identity
from tests.broker.transport_lab import (
    SECONDS,
    Reader,
    admin,
    create_topic,
    producer,
    running,
    send,
    until_committed,
)
from tests.lab.kafka import KafkaCluster
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def quickly_cleaned_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Compacts within a second of a segment's end, not within half a minute."""
    settings = {"log.cleaner.backoff.ms": "100", "log.cleaner.min.cleanable.ratio": "0.01"}
    with KafkaCluster.start(directory=tmp_path_factory.mktemp("kafka-cleaned"), settings=settings) as cluster:
        yield cluster.bootstrap


async def test_empty_partitions_stand_at_their_beginning(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap, partitions=3)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader):
        await reader.until_positions({0: 0, 1: 0, 2: 0})
        assert await reader.ends(range(3)) == {0: 0, 1: 0, 2: 0}
    assert reader.batches == [], "a fetch that brings nothing wakes no agent"


async def test_a_commit_marker_and_an_aborted_transaction_at_the_end_are_passed_and_committed(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap, partitions=2)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader), producer(kafka_single.bootstrap, transactional_id=topic) as client:
        async with client.transaction():
            await client.send_and_wait(topic, b"committed", partition=0)
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted", partition=1)
        await client.abort_transaction()

        await reader.until_positions({0: 2, 1: 2})
        assert await reader.ends(range(2)) == {0: 2, 1: 2}
        await until_committed(kafka_single.bootstrap, reader.app.conf.id, {0: 2, 1: 2})
    assert [record for record in reader.records if record[2] == b"committed"] == [(0, 0, b"committed")]


async def test_an_aborted_transaction_gives_no_record_and_no_gap_where_only_committed_ones_are_read(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    reader.app.in_transaction = True  # what processing_guarantee="exactly_once" sets inside a worker
    async with producer(kafka_single.bootstrap, transactional_id=topic) as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted", partition=0)
        await client.abort_transaction()
        async with client.transaction():
            await client.send_and_wait(topic, b"committed", partition=0)
    async with running(reader):
        await reader.until_positions({0: 4})
        await until_committed(kafka_single.bootstrap, reader.app.conf.id, {0: 4})
    assert reader.records == [(0, 2, b"committed")]


async def test_compaction_gaps_are_passed(quickly_cleaned_kafka: str, tmp_path: Path) -> None:
    topic = await create_topic(
        quickly_cleaned_kafka, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01"
    )
    async with producer(quickly_cleaned_kafka) as client:
        for number in range(20):
            await client.send_and_wait(topic, str(number).encode(), key=b"same", partition=0)

    async def compacted() -> bool:
        async with producer(quickly_cleaned_kafka) as client:  # a new record ends an old segment
            await client.send_and_wait(topic, b"last", key=b"other", partition=0)
        reader = Reader(quickly_cleaned_kafka, tmp_path, topic)
        async with running(reader):
            end = (await reader.ends([0]))[0]
            await reader.until_positions({0: end})
            await until_committed(quickly_cleaned_kafka, reader.app.conf.id, {0: end})
            return len(reader.records) < 20

    await until_async(compacted, "the cleaner", seconds=90)


async def test_positions_wait_for_the_acknowledgement(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    await send(kafka_single.bootstrap, topic, [b"x"] * 10)
    go_on = asyncio.Event()
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, hold=lambda _: go_on.wait())
    async with running(reader):

        async def in_hand() -> bool:
            return bool(reader.batches)

        await until_async(in_hand, "a batch", seconds=SECONDS)
        assert reader.positions() == {0: 0}
        go_on.set()
        await reader.until_positions({0: 10})


async def test_records_that_retention_took_are_told_as_a_reset(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    await send(kafka_single.bootstrap, topic, [b"x"] * 10)
    first = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(first):
        await first.until_positions({0: 10})
        await until_committed(kafka_single.bootstrap, first.app.conf.id, {0: 10})
    await send(kafka_single.bootstrap, topic, [b"x"] * 10)
    async with admin(kafka_single.bootstrap) as client:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=15)})

    second = Reader(kafka_single.bootstrap, tmp_path, topic, app_id=first.app.conf.id)
    told: list[OffsetReset] = []
    on_reset(second.app, told.append)
    async with running(second):
        await second.until_positions({0: 20})
        await until_committed(kafka_single.bootstrap, first.app.conf.id, {0: 20})
    assert told == [OffsetReset(TP(topic, 0), 10, 15)]
    assert [offset for _, offset, _ in second.records] == [15, 16, 17, 18, 19]


async def test_a_topic_deleted_and_created_again_is_read_from_its_beginning(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    await send(kafka_single.bootstrap, topic, [b"old"] * 10)
    first = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(first):
        await first.until_positions({0: 10})
        await until_committed(kafka_single.bootstrap, first.app.conf.id, {0: 10})
        old = await topic_identity(first.app, topic)
    async with admin(kafka_single.bootstrap) as client:
        await client.delete_topics([topic])
    await create_topic(kafka_single.bootstrap, name=topic)
    await send(kafka_single.bootstrap, topic, [b"new"] * 3)

    second = Reader(kafka_single.bootstrap, tmp_path, topic, app_id=first.app.conf.id)
    async with running(second):
        await second.until_positions({0: 3})
        await until_committed(kafka_single.bootstrap, first.app.conf.id, {0: 3})
        new = await topic_identity(second.app, topic)
    assert [value for _, _, value in second.records] == [b"new"] * 3
    assert (old.partitions, new.partitions) == (1, 1)
    assert old.topic_id != new.topic_id
    assert not new.topic_id.startswith("name:")


async def test_the_topics_identity_is_asked_again_when_it_is_too_old(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader), admin(kafka_single.bootstrap) as client:
        assert (await topic_identity(reader.app, topic)).partitions == 1
        await client.create_partitions({topic: NewPartitions(3)})

        async def three() -> bool:
            return (await topic_identity(reader.app, topic, max_age_seconds=0.0)).partitions == 3

        await until_async(three, "three partitions", seconds=SECONDS)
        with pytest.raises(UnknownTopicOrPartitionError):
            await topic_identity(reader.app, "no-such-topic", timeout_seconds=1.0)


async def test_the_end_is_known_without_waiting_for_an_idle_fetch(
    kafka_single: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "FETCH_MAX_WAIT_MS", 5_000)
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader):
        await reader.until_positions({0: 0})
        await reader.ends([0])  # the first question opens the connection
        # Behind the fetches each would wait half of FETCH_MAX_WAIT_MS on average: 50 s together.
        async with asyncio.timeout(20.0):
            for _ in range(20):
                await reader.ends([0])


async def test_a_broker_that_does_not_answer_is_an_error_in_time(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader):
        await reader.until_positions({0: 0})
        await asyncio.to_thread(kafka_single.pause, 0)
        try:
            with pytest.raises(KafkaTimeoutError):
                await end_offsets(reader.app, [TP(topic, 0)], timeout_seconds=0.5)
        finally:
            await asyncio.to_thread(kafka_single.resume, 0)
        await reader.ends([0])
