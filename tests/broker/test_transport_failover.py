"""Three brokers: reading and asking go on when the leader of a partition dies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.broker.transport_lab import Reader, admin, create_topic, producer, running

if TYPE_CHECKING:
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
