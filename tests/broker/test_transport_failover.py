"""Three brokers: what can be read, and what the log holds, when a replica of a partition dies."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.broker.transport_lab import SECONDS, Reader, admin, create_topic, producer, running
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = pytest.mark.kafka


async def test_batches_positions_and_ends_go_on_when_the_leader_is_killed(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_three.bootstrap, replicas=3)
    reader = Reader(kafka_three.bootstrap, tmp_path, topic)
    async with running(reader), producer(kafka_three.bootstrap) as client:
        await client.send_and_wait(topic, b"before", partition=0)
        await reader.until_positions({0: 1})
        async with admin(kafka_three.bootstrap) as asked:
            [description] = await asked.describe_topics([topic])
        await asyncio.to_thread(kafka_three.kill, description["partitions"][0]["leader"])
        await client.send_and_wait(topic, b"after", partition=0)
        await reader.until_positions({0: 2})
        assert await reader.ends([0]) == {0: 2}
    assert [value for _, _, value in reader.records] == [b"before", b"after"]


async def test_what_too_few_replicas_have_is_in_the_log_and_cannot_be_read(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    """What the platform's topics are made with: two replicas of which two must be there, and producers with acks=1."""
    async with two_replicas(kafka_three, tmp_path, min_in_sync=2) as (topic, leader, follower, reader, client):
        await client.send_and_wait(topic, b"before", partition=0)
        await reader.until_positions({0: 1})
        assert await reader.log_ends([0]) == await reader.ends([0]) == {0: 1}

        await asyncio.to_thread(kafka_three.kill, follower)
        for number in range(5):
            await client.send_and_wait(topic, b"%d" % number, partition=0)
        await until_in_sync(kafka_three, topic, [leader])
        await client.send_and_wait(topic, b"under min ISR", partition=0)
        assert await reader.ends([0]) == {0: 1}, "a consumer is told what it may read"
        assert reader.positions() == {0: 1}
        assert await reader.log_ends([0]) == {0: 7}

        await asyncio.to_thread(kafka_three.restart, follower)
        await reader.until_positions({0: 7})
        assert await reader.log_ends([0]) == await reader.ends([0]) == {0: 7}


async def test_under_a_new_leader_without_its_replica_nothing_but_the_end_of_the_log_is_known(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    async with two_replicas(kafka_three, tmp_path, min_in_sync=2) as (topic, leader, follower, reader, client):
        # The follower has what its leader has, and hears only with its next fetch that both have it.
        sent = [await client.send_and_wait(topic, b"%d" % number, partition=0) for number in range(20)]
        await asyncio.to_thread(kafka_three.kill, leader)
        await until_in_sync(kafka_three, topic, [follower])
        sent += [await client.send_and_wait(topic, b"%d" % number, partition=0) for number in range(5)]
        assert await reader.log_ends([0]) == {0: sent[-1].offset + 1}
        await asyncio.to_thread(kafka_three.restart, leader)
        await reader.until_positions({0: sent[-1].offset + 1})


async def test_the_log_ends_before_where_it_ended_when_a_leader_died_with_what_it_alone_had(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    async with two_replicas(kafka_three, tmp_path, min_in_sync=1) as (topic, leader, follower, reader, client):
        await client.send_and_wait(topic, b"before", partition=0)
        await reader.until_positions({0: 1})
        await asyncio.to_thread(kafka_three.pause, follower)
        for number in range(5):
            await client.send_and_wait(topic, b"%d" % number, partition=0)
        assert await reader.log_ends([0]) == {0: 6}
        assert await reader.ends([0]) == {0: 1}

        await asyncio.to_thread(kafka_three.kill, leader)
        await asyncio.to_thread(kafka_three.resume, follower)
        await until_in_sync(kafka_three, topic, [follower])
        end = (await reader.log_ends([0]))[0]
        assert 1 <= end < 6, "what had been on its way to the follower may have come there"
        await client.send_and_wait(topic, b"after", partition=0)
        await reader.until_positions({0: end + 1})
    assert [value for _, _, value in reader.records][end:] == [b"after"]


@asynccontextmanager
async def two_replicas(
    cluster: KafkaCluster, directory: Path, *, min_in_sync: int
) -> AsyncIterator[tuple[str, int, int, Reader, AIOKafkaProducer]]:
    """Give a topic of two replicas, the brokers that lead and follow, who reads it, and a producer with acks=1."""
    topic = await create_topic(cluster.bootstrap, replicas=2, min_insync_replicas=str(min_in_sync))
    leader, follower = await replicas_of(cluster, topic)
    reader = Reader(cluster.bootstrap, directory, topic)
    async with running(reader), AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as client:
        yield topic, leader, follower, reader, client


async def replicas_of(cluster: KafkaCluster, topic: str) -> tuple[int, int]:
    async with admin(cluster.bootstrap) as client:
        [description] = await client.describe_topics([topic])
    [partition] = description["partitions"]
    leader, follower = partition["leader"], next(one for one in partition["replicas"] if one != partition["leader"])
    return leader, follower


async def until_in_sync(cluster: KafkaCluster, topic: str, wanted: list[int]) -> None:
    async def in_sync() -> bool:
        try:
            async with admin(cluster.bootstrap) as client:
                [description] = await client.describe_topics([topic])
        except KafkaError:  # it asks any of the brokers, and one is away
            return False
        [partition] = description["partitions"]
        return bool(partition["isr"] == wanted and partition["leader"] in wanted)

    await until_async(in_sync, f"{topic} to be led with {wanted}", seconds=SECONDS)
