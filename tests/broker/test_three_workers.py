"""Three workers on three brokers: each answers for every Job, and the others go on when one is killed."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from tests.lab.waiting import until
from tests.lab.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

QUEUES = [f"loader-btcusdt-api-trades-2025-06-01-W{number:04d}x" for number in range(40)]
KEYS = {f"stf/{queue.lower()}-arango-connector" for queue in QUEUES}
TAKE_OVER_SECONDS = 60.0


@pytest.fixture
def workers(kafka_three: KafkaCluster, tmp_path: Path) -> Iterator[list[Worker]]:
    three = [
        Worker(f"worker-{number}", tmp_path, bootstrap=kafka_three.bootstrap, identity="convention")
        for number in range(3)
    ]
    created = subprocess.run(
        three[0].command("topics", "--create", "--create-platform"), capture_output=True, text=True, check=False
    )
    assert created.returncode == 0, created.stdout + created.stderr
    try:
        for worker in three:
            worker.start()
        for worker in three:
            worker.wait_until_ready()
        yield three
    finally:
        for worker in three:
            if worker.server.is_alive:
                worker.stop()


async def test_each_of_three_workers_answers_for_every_job_also_when_one_is_killed(
    kafka_three: KafkaCluster, workers: list[Worker]
):
    await _report(kafka_three.bootstrap)
    for worker in workers:
        until(lambda worker=worker: worker.jobs().keys() == KEYS, "every Job to be listed", seconds=30)
        assert _answered(worker) == KEYS
    owned = sorted(partition for worker in workers for partition in _partitions(worker))
    assert owned == list(range(6)), "every partition has one owner"

    victim, *survivors = workers
    victim.server.kill()
    for worker in survivors:
        until(
            lambda worker=worker: worker.jobs().keys() == KEYS and _answered(worker) == KEYS,
            "the survivors to answer for every Job",
            seconds=TAKE_OVER_SECONDS,
        )
        assert {row["verdict"] for row in worker.jobs().values()} == {"healthy"}


async def _report(bootstrap: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number, queue in enumerate(QUEUES):
            report = {
                "event": "loading",
                "status": "loading",
                "queue_id": queue,
                "producer": f"arango-connector__{queue.rpartition('-')[2]}",
                "finished": False,
                "records_written": 100,
            }
            await producer.send_and_wait("queue-events", json.dumps(report).encode(), partition=number % 3)


def _answered(worker: Worker) -> set[str]:
    """Give the Jobs for which the worker's own page answers with that very Job."""
    answers = {key: worker.get(f"/jobs/{key}/") for key in KEYS}
    return {key for key, answer in answers.items() if answer and answer.status == 200 and answer.body["job"] == key}


def _partitions(worker: Worker) -> list[int]:
    answer = worker.get("/fleet/?local=1")
    assert answer is not None
    return [row["partition"] for row in answer.body["partitions"]]
