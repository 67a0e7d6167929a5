"""The steps log's topic goes away and comes back: whoever should read it says so meanwhile, and reads it again soon."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.app import METADATA_AGE_SECONDS
from sf_healer.settings import Settings
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

SEEN_SECONDS = 60.0
#: Until the clients look, and a rebalance; far less than the five minutes after which Kafka's look by themselves.
READ_AGAIN_SECONDS = METADATA_AGE_SECONDS + 30.0


async def test_a_steps_log_that_was_away_is_read_again_within_seconds_and_the_worker_is_not_ready_meanwhile(
    kafka_single: KafkaCluster, tmp_path: Path
):
    bootstrap = kafka_single.bootstrap
    await make_topics(bootstrap)
    worker = Worker(
        "reading",
        tmp_path,
        bootstrap=bootstrap,
        role="actuator",
        identity="convention",
        broker_session_timeout_seconds=6,
        broker_heartbeat_seconds=1,
    )

    async def is_read() -> bool:
        read_at = (await asyncio.to_thread(worker.metrics))["sf_healer_steps_read_timestamp_seconds", ""]
        return time.time() - read_at < 3.0

    async def is_missed() -> bool:
        answer = await asyncio.to_thread(worker.get, "/readyz")
        return answer is not None and any("no worker reads" in problem for problem in answer.body["problems"])

    with worker:
        await asyncio.to_thread(worker.wait_until_ready)
        await until_async(is_read, "the steps log to be read", seconds=SEEN_SECONDS)
        await drop_topics(bootstrap, [topics.STEPS])
        await until_async(is_missed, "the worker to say that nobody reads the log", seconds=SEEN_SECONDS)
        await _make_again(bootstrap)
        await until_async(is_read, "the steps log to be read again", seconds=READ_AGAIN_SECONDS)
        await asyncio.to_thread(worker.wait_until_ready)
        assert worker.server.is_alive
    await drop_topics(bootstrap)


async def _make_again(bootstrap: str) -> None:
    wanted = Settings(broker_url=f"kafka://{bootstrap}")
    async with kafka.admin(wanted) as admin:
        await admin.create([spec for spec in topics.specs(wanted, 1) if spec.name == topics.STEPS])
