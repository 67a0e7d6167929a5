"""The evidence log is deleted and created again, alone: what is stored from then on is what counts.

Its offsets begin anew, below those of all that was stored before.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.core.commands import Command, decode_action
from sf_healer.core.evidence import EMPTY
from sf_healer.settings import Settings
from tests.lab.waiting import until
from tests.lab.worker import Worker, drop_topics, make_topics, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 15
startup_threshold_seconds = 60
"""
SEEN_SECONDS = 60.0
#: So many records the log has that is lost, in each partition: more than a test writes.
RECORDS = 5_000
QUEUE = "loader-btcusdt-api-trades-2025-06-01-a"
JOB = f"stf/{QUEUE}-arango-connector"


@pytest.fixture
def bootstrap(kafka_single: KafkaCluster) -> Iterator[str]:
    asyncio.run(make_topics(kafka_single.bootstrap))
    asyncio.run(fill(kafka_single.bootstrap))
    yield kafka_single.bootstrap
    asyncio.run(drop_topics(kafka_single.bootstrap))


def specs_of(bootstrap: str) -> tuple[Settings, topics.Spec]:
    settings = Settings(broker_url=f"kafka://{bootstrap}")
    return settings, next(spec for spec in topics.specs(settings, 1) if spec.name == topics.EVIDENCE)


async def fill(bootstrap: str) -> None:
    _, spec = specs_of(bootstrap)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for partition in range(spec.partitions):
            sent = [await producer.send(topics.EVIDENCE, EMPTY, partition=partition) for _ in range(RECORDS)]
            await asyncio.gather(*sent)


async def make_evidence_anew(bootstrap: str) -> None:
    settings, spec = specs_of(bootstrap)
    await drop_topics(bootstrap, [topics.EVIDENCE])
    async with kafka.admin(settings) as admin:
        await admin.create([spec])


def say(bootstrap: str, status: str) -> None:
    report = {"queue_id": QUEUE, "producer": "arango-connector__a", "status": status, "finished": False}
    asyncio.run(send(bootstrap, [json.dumps(report).encode()]))


def until_it_is(worker: Worker, verdict: str) -> None:
    until(
        lambda: worker.jobs().get(JOB, {}).get("verdict") == verdict,
        f"the Job to be {verdict}\n{worker.tail()}",
        seconds=SEEN_SECONDS,
    )


def until_it_is_noticed(worker: Worker) -> None:
    until(
        lambda: "evidence_began_anew" in worker.log.read_text(),
        f"the worker to see that the log began anew\n{worker.tail()}",
        seconds=SEEN_SECONDS,
    )


@pytest.mark.parametrize("while_it_runs", [False, True])
def test_a_job_that_stopped_after_the_log_was_made_anew_is_not_taken_for_well_by_who_takes_over(
    bootstrap: str, tmp_path: Path, *, while_it_runs: bool
):
    (tmp_path / "policy.toml").write_text(POLICY)
    worker = Worker(
        "w",
        tmp_path,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=tmp_path / "policy.toml",
        mark_interval_seconds=0.5,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=6,
        broker_heartbeat_seconds=0.5,
    )
    with worker:
        worker.wait_until_ready()
        say(bootstrap, "started")
        say(bootstrap, "loading")
        until_it_is(worker, "healthy")
        if while_it_runs:
            asyncio.run(make_evidence_anew(bootstrap))
    if not while_it_runs:
        asyncio.run(make_evidence_anew(bootstrap))
    with worker:
        worker.wait_until_ready()
        say(bootstrap, "loading")
        say(bootstrap, "interrupted")
        until_it_is(worker, "stopped")
    until_it_is_noticed(worker)
    shutil.rmtree(worker.environment["SF_HEALER_DATA_DIR"])
    with worker:
        worker.wait_until_ready()
        assert worker.jobs()[JOB]["verdict"] == "stopped"
    sent = [decode_action(record.value or b"") for record in asyncio.run(records_of(bootstrap, topics.ACTIONS))]
    assert not [action for action in sent if isinstance(action, Command)]
