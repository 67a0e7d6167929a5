"""Batches, a bundle topic and a table with a changelog together, on Apache Kafka and on the embedded broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.local.broker import BrokerNotInstalled, EmbeddedBroker
from sf_healer.transport import positions, topic_identity
from tests.broker.transport_lab import Reader, create_topic, running, send
from tests.broker.transport_pipeline import Pipeline
from tests.lab import wanting
from tests.lab.quick import QUICK_HEARTBEAT_SECONDS, QUICK_SESSION_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

QUICK = {
    "broker_session_timeout": QUICK_SESSION_TIMEOUT_SECONDS,
    "broker_heartbeat_interval": QUICK_HEARTBEAT_SECONDS,
}


@pytest.fixture(scope="module")
def embedded_bootstrap() -> Iterator[str]:
    try:
        broker = EmbeddedBroker()
    except BrokerNotInstalled as missing:
        wanting.without(str(missing))
    with broker:
        yield broker.bootstrap


@pytest.mark.kafka
async def test_the_table_counts_and_comes_back_on_kafka(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    await counts_and_comes_back(kafka_single.bootstrap, tmp_path)


@pytest.mark.embedded
async def test_the_table_counts_and_comes_back_on_the_embedded_broker(embedded_bootstrap: str, tmp_path: Path) -> None:
    await counts_and_comes_back(embedded_bootstrap, tmp_path, **QUICK)


async def counts_and_comes_back(bootstrap: str, directory: Path, **options: Any) -> None:
    pipeline = await Pipeline.create(bootstrap, directory, **options)
    await pipeline.counts_what_was_sent()
    await pipeline.comes_back_from_its_changelog()


@pytest.mark.embedded
async def test_two_apps_in_one_process_read_the_same_topic_each_in_its_own_way(
    embedded_bootstrap: str, tmp_path: Path
) -> None:
    topic = await create_topic(embedded_bootstrap, partitions=2)
    first = Reader(embedded_bootstrap, tmp_path, topic, **QUICK)
    second = Reader(embedded_bootstrap, tmp_path, await create_topic(embedded_bootstrap), **QUICK)
    singles: list[bytes] = []

    @second.app.agent(second.app.topic(topic, value_type=bytes, value_serializer="raw"))
    async def read_singly(stream: Any) -> None:
        async for value in stream:
            singles.append(value)  # noqa: PERF401 (it never ends)

    await send(embedded_bootstrap, topic, [b"a", b"b", b"c", b"d"], partitions=2)
    async with running(first, second):
        await first.until_positions({0: 2, 1: 2})
        await second.until_positions({0: 0})
        assert {tp.topic for tp in positions(second.app)} == {second.topic}
    assert sorted(singles) == [b"a", b"b", b"c", b"d"]


@pytest.mark.embedded
async def test_the_embedded_broker_answers_what_marks_ask(embedded_bootstrap: str, tmp_path: Path) -> None:
    topic = await create_topic(embedded_bootstrap, partitions=2)
    reader = Reader(embedded_bootstrap, tmp_path, topic, **QUICK)
    async with running(reader):
        for _ in range(3):
            await send(embedded_bootstrap, topic, [b"x", b"y"], partitions=2)
        await reader.until_positions({0: 3, 1: 3})
        assert await reader.ends([0, 1]) == {0: 3, 1: 3}
        identity = await topic_identity(reader.app, topic)
    assert identity.partitions == 2
    assert not identity.topic_id.startswith("name:")


@pytest.mark.embedded
async def test_the_end_counts_every_record_although_the_embedded_broker_counts_record_batches(
    embedded_bootstrap: str, tmp_path: Path
) -> None:
    topic = await create_topic(embedded_bootstrap)
    await send(embedded_bootstrap, topic, [b"x"] * 5)
    reader = Reader(embedded_bootstrap, tmp_path, topic, **QUICK)
    async with running(reader):
        await reader.until_positions({0: 5})
        assert await reader.ends([0]) == {0: 5}
