"""What a worker cannot deal with ends it, on purpose: the record stays where it is, and whoever comes back has it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.settings import Settings
from sf_healer.topics import DEAD_LETTERS
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = pytest.mark.timeout(300)

SEEN_SECONDS = 90.0
REPORT = {"status": "loading", "queue_id": "loader-a-P4nTkv", "producer": "loader-ws__P4nTkv"}
GARBAGE = b"no report"


async def test_a_record_that_cannot_be_buried_ends_the_worker_and_is_buried_by_the_next(
    kafka_single: KafkaCluster, tmp_path: Path
):
    bootstrap = kafka_single.bootstrap
    await make_topics(bootstrap)
    worker = Worker(
        "crashing",
        tmp_path,
        bootstrap=bootstrap,
        identity="convention",
        mark_interval_seconds=0.2,
        broker_session_timeout_seconds=6,
        broker_heartbeat_seconds=1,
    )
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)
        await drop_topics(bootstrap, [DEAD_LETTERS])
        await send(bootstrap, [GARBAGE, json.dumps(REPORT).encode()])

        async def has_ended() -> bool:
            return not worker.server.is_alive

        await until_async(has_ended, "the worker to end itself", seconds=SEEN_SECONDS)
    assert worker.server._child is not None
    assert worker.server._child.returncode == 1, worker.tail()
    await restore(bootstrap)
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)

        async def are_both_dealt_with() -> bool:
            letters = [record.value for record in await records_of(bootstrap, DEAD_LETTERS)]
            return letters == [GARBAGE] and len(await asyncio.to_thread(worker.jobs)) == 1

        await until_async(are_both_dealt_with, "both records to be dealt with", seconds=SEEN_SECONDS)
    await drop_topics(bootstrap)


async def restore(bootstrap: str) -> None:
    """Make the dead letters' topic again."""
    wanted = Settings(broker_url=f"kafka://{bootstrap}")
    async with kafka.admin(wanted) as admin:
        await admin.create([spec for spec in topics.specs(wanted, 1) if spec.name == DEAD_LETTERS])
