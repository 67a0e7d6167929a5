"""A worker on Apache Kafka tells drained consumers from those that hang, by their own consumer groups."""

from __future__ import annotations

import json
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.lab.waiting import until
from tests.lab.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

SILENCE_SECONDS = 4
POLICY = f"""
[[policy]]
name = "consumers"
targets = ["arango-connector"]
reporting = true
consumer = true
silence_threshold_seconds = {SILENCE_SECONDS}
error_grace_seconds = 4

[admission]
idle_look_seconds = 2
storm_jobs = 9
in_flight = 8
refused_retry_seconds = 5
"""
DRAINED, HANGS, WORKS, LEFT = "drained", "hangs", "works", "left"
FOUND_SECONDS = 60.0


def queue_of(name: str) -> str:
    return f"loader-{name}-api-trades-2025-06-01-W0001x"


def key_of(name: str) -> str:
    return f"stf/{queue_of(name).lower()}-arango-connector"


@pytest.fixture
def worker(kafka_single: KafkaCluster, tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "policy.toml").write_text(POLICY)
    made = Worker(
        "worker",
        tmp_path,
        bootstrap=kafka_single.bootstrap,
        identity="convention",
        policy_file=tmp_path / "policy.toml",
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
        feed_gap_seconds=10,
    )
    created = subprocess.run(
        made.command("topics", "--create", "--create-platform"), capture_output=True, text=True, check=False
    )
    assert created.returncode == 0, created.stdout + created.stderr
    with made:
        yield made.wait_until_ready()


def outcome_of(worker: Worker, name: str) -> dict[str, Any]:
    answer = worker.get(f"/jobs/{key_of(name)}/")
    return (answer.body.get("last_outcome") or {}) if answer is not None and answer.status == 200 else {}


async def test_drained_and_slow_consumers_are_idle_and_those_that_hang_or_left_are_found(
    kafka_single: KafkaCluster, worker: Worker
):
    bootstrap = kafka_single.bootstrap
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(queue_of(name), 1, 1) for name in (DRAINED, HANGS, WORKS, LEFT)])
    await admin.close()
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(AIOKafkaProducer(bootstrap_servers=bootstrap))
        members = {}
        for name in (DRAINED, HANGS, WORKS):
            await producer.send_and_wait(queue_of(name), b"{}")
            members[name] = await stack.enter_async_context(_member(bootstrap, queue_of(name)))
            await members[name].getone()
            await members[name].commit()
        async with _member(bootstrap, queue_of(LEFT)):
            pass
        for name in (HANGS, WORKS):
            for _ in range(1000):
                await producer.send(queue_of(name), b"{}")
            await producer.flush()
        for name in (DRAINED, HANGS, WORKS, LEFT):
            await producer.send_and_wait("queue-events", _loading(name))

        waited = {}
        while len(waited) < 4:  # the one that works goes on while the worker looks, and never runs out of work
            await producer.send_and_wait(queue_of(WORKS), b"{}")
            await members[WORKS].getone()
            await members[WORKS].commit()
            waited |= {name: told for name in (DRAINED, HANGS, WORKS, LEFT) if (told := outcome_of(worker, name))}

    assert (waited[DRAINED]["result"], waited[DRAINED]["reason"]) == ("refused", "idle")
    assert (waited[WORKS]["result"], waited[WORKS]["reason"]) == ("refused", "idle")
    assert (waited[HANGS]["result"], waited[HANGS]["reason"]) == ("would_restart", "observe_mode")
    assert (waited[LEFT]["result"], waited[LEFT]["reason"]) == ("would_restart", "observe_mode")
    log = worker.log.read_text()
    assert f"arango-connector-consumer-{queue_of(DRAINED)} has 1 live member and no lag" in log
    until(
        lambda: "committed none between two looks" in _actions(worker), "the looks to be shown", seconds=FOUND_SECONDS
    )


def _actions(worker: Worker) -> str:
    answer = worker.get("/actions/")
    return "" if answer is None else json.dumps(answer.body)


def _member(bootstrap: str, queue: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        queue,
        bootstrap_servers=bootstrap,
        group_id=f"arango-connector-consumer-{queue}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )


def _loading(name: str) -> bytes:
    queue = queue_of(name)
    report = {
        "event": "loading",
        "status": "loading",
        "queue_id": queue,
        "producer": f"arango-connector__{queue.rpartition('-')[2]}",
        "finished": False,
        "records_written": 100,
    }
    return json.dumps(report).encode()
