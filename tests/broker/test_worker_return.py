"""A worker that was killed and comes back is let in by its group at once, whatever its session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.lab.worker import Worker, drop_topics, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

SESSION_SECONDS = 120
#: To start, join and recover, on two busy cores; far from a session.
BACK_SECONDS = 60.0


@pytest.fixture
def bootstrap(kafka_single: KafkaCluster) -> Iterator[str]:
    asyncio.run(make_topics(kafka_single.bootstrap))
    yield kafka_single.bootstrap
    asyncio.run(drop_topics(kafka_single.bootstrap))


def test_a_killed_worker_that_comes_back_does_not_wait_for_its_own_session_to_end(bootstrap: str, tmp_path: Path):
    with Worker(
        "killed",
        tmp_path,
        bootstrap=bootstrap,
        identity="convention",
        broker_session_timeout_seconds=SESSION_SECONDS,
        broker_heartbeat_seconds=1,
    ) as worker:
        worker.wait_until_ready()
        for _ in range(2):
            worker.server.kill()
            worker.start()
            worker.wait_until_ready(BACK_SECONDS)
