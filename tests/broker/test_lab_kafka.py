"""The lab's Kafka does what our tests take for granted of it. Nothing of sf-healer is tested here."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.lab.kafka import KafkaCluster
from tests.lab.kafka.classes import archive
from tests.lab.kafka.cluster import SHORT_LIVED
from tests.lab.process import StartFailed
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiokafka import ConsumerRecord

pytestmark = pytest.mark.kafka

PARTITIONS = 3


async def test_one_broker_gives_back_what_it_was_given(kafka_single: KafkaCluster) -> None:
    topic = await _create_topic(kafka_single)
    async with _producer(kafka_single) as producer:
        for number in range(10):
            await producer.send_and_wait(topic, str(number).encode(), partition=0)

    records = await _read(kafka_single, topic, count=10)

    assert [record.value for record in records] == [str(number).encode() for number in range(10)]


async def test_log_append_time_replaces_the_producers_own_time(kafka_single: KafkaCluster) -> None:
    topic = await _create_topic(kafka_single, {"message.timestamp.type": "LogAppendTime"})
    before_ms = time.time_ns() // 1_000_000
    async with _producer(kafka_single) as producer:
        await producer.send_and_wait(topic, b"from 1970", partition=0, timestamp_ms=1_000)

    [record] = await _read(kafka_single, topic, count=1)

    assert before_ms <= record.timestamp <= time.time_ns() // 1_000_000
    assert record.timestamp_type == 1, "1 is LogAppendTime in Kafka's protocol"


async def test_three_brokers_share_topics_with_three_replicas(kafka_three: KafkaCluster) -> None:
    topic = await _create_topic(kafka_three)
    async with _producer(kafka_three) as producer:
        await producer.send_and_wait(topic, b"hello", partition=0)

    [record] = await _read(kafka_three, topic, count=1)

    assert record.value == b"hello"
    replicas = {replica for partition in await _partitions(kafka_three, topic) for replica in partition["replicas"]}
    assert replicas == {0, 1, 2}


async def test_deliveries_go_on_when_the_leader_of_three_is_killed(kafka_three: KafkaCluster) -> None:
    topic = await _create_topic(kafka_three)
    [leader] = [one["leader"] for one in await _partitions(kafka_three, topic) if one["partition"] == 0]
    async with _producer(kafka_three) as producer:
        await producer.send_and_wait(topic, b"before", partition=0)
        await asyncio.to_thread(kafka_three.kill, leader)
        await producer.send_and_wait(topic, b"after", partition=0)

    records = await _read(kafka_three, topic, count=2)

    assert [record.value for record in records] == [b"before", b"after"]
    assert kafka_three.running == tuple(index for index in range(3) if index != leader)


async def test_a_broker_killed_by_the_test_before_is_back(kafka_three: KafkaCluster) -> None:
    assert kafka_three.running == (0, 1, 2)


async def test_a_paused_broker_answers_again_when_resumed(kafka_single: KafkaCluster) -> None:
    topic = await _create_topic(kafka_single)
    async with _producer(kafka_single) as producer:
        await producer.send_and_wait(topic, b"hello", partition=0)
        await asyncio.to_thread(kafka_single.pause, 0)
        sent = await producer.send(topic, b"patience", partition=0)
        done, _ = await asyncio.wait([sent], timeout=0.5)
        assert not done
        await asyncio.to_thread(kafka_single.resume, 0)

        assert (await sent).offset == 1


def test_a_broker_that_cannot_start_shows_why(tmp_path: Path) -> None:
    with pytest.raises(StartFailed) as failure:
        KafkaCluster.start(directory=tmp_path, settings={"log.retention.ms": "soon"})

    assert "Invalid value soon for configuration log.retention.ms" in str(failure.value)


def test_a_broker_takes_its_classes_from_the_archive(tmp_path: Path) -> None:
    archive()
    loaded = tmp_path / "loaded.log"
    options = (*SHORT_LIVED, f"-Xlog:class+load:file={loaded}")

    KafkaCluster.start(directory=tmp_path / "kafka", java_options=options).stop()

    ours = [line for line in loaded.read_text().splitlines() if " kafka." in line and "$$Lambda" not in line]
    archived = [line for line in ours if "source: shared objects file" in line]
    assert len(archived) > 0.9 * len(ours) > 100


async def _create_topic(cluster: KafkaCluster, configs: dict[str, str] | None = None) -> str:
    name = f"lab-{uuid.uuid4()}"
    async with _admin(cluster) as admin:
        await admin.create_topics([NewTopic(name, PARTITIONS, len(cluster.ports), topic_configs=configs or {})])
    return name


async def _partitions(cluster: KafkaCluster, topic: str) -> list[dict[str, Any]]:
    async with _admin(cluster) as admin:

        async def led() -> list[dict[str, Any]]:
            # any broker may answer, and each learns of a new topic in its own time
            [description] = await admin.describe_topics([topic])
            found = [partition for partition in description["partitions"] if partition["leader"] >= 0]
            return found if len(found) == PARTITIONS else []

        return await until_async(led, f"every broker asked to know {topic}", seconds=30)


async def _read(cluster: KafkaCluster, topic: str, *, count: int) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


@asynccontextmanager
async def _producer(cluster: KafkaCluster) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _admin(cluster: KafkaCluster) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
