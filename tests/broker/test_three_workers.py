"""Three workers on three brokers: each answers for every Job, and the others go on when one is killed."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from sf_healer.core.commands import Command, decode_action
from sf_healer.topics import ACTIONS
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

PARTITIONS = 6
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 8
startup_threshold_seconds = 20
error_grace_seconds = 1
"""
NAMES = [f"w{number:04d}x" for number in range(40)]
#: The first of them fall silent, the next fail, the others go on.
HANGING, FAILED, WELL = NAMES[:4], NAMES[4:8], NAMES[8:]
SICK = {"stuck", "failed", "never_started"}
SEEN_SECONDS = 60.0
SESSION_SECONDS = 6.0
#: From the kill to the last answer: the session of the killed one, then the join and the recovery of the others.
TAKE_OVER_SECONDS = SESSION_SECONDS + 15.0
REPORT_EVERY_SECONDS = 0.5


def queue_of(name: str) -> str:
    return f"loader-btcusdt-api-trades-2025-06-01-{name}"


def key_of(name: str) -> str:
    return f"stf/{queue_of(name)}-arango-connector"


def report(name: str, status: str) -> bytes:
    named = {"queue_id": queue_of(name), "producer": f"arango-connector__{name}", "status": status}
    return json.dumps({**named, "finished": status == "error"}).encode()


KEYS = {key_of(name) for name in NAMES}
VERDICTS = {
    **{key_of(name): "stuck" for name in HANGING},
    **{key_of(name): "failed" for name in FAILED},
    **{key_of(name): "healthy" for name in WELL},
}


@pytest.fixture
def workers(kafka_three: KafkaCluster, tmp_path: Path) -> Iterator[list[Worker]]:
    asyncio.run(make_topics(kafka_three.bootstrap))
    (tmp_path / "policy.toml").write_text(POLICY)
    three = [
        Worker(
            f"worker-{number}",
            tmp_path,
            bootstrap=kafka_three.bootstrap,
            identity="convention",
            policy_file=tmp_path / "policy.toml",
            mark_interval_seconds=0.5,
            sweep_window_seconds=1,
            broker_session_timeout_seconds=SESSION_SECONDS,
            broker_heartbeat_seconds=1,
        )
        for number in range(3)
    ]
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
        asyncio.run(drop_topics(kafka_three.bootstrap))


async def test_each_of_three_workers_answers_for_every_job_also_when_one_is_killed(
    kafka_three: KafkaCluster, workers: list[Worker]
):
    bootstrap = kafka_three.bootstrap
    for partition in range(3):
        await send(bootstrap, [report(name, "loading") for name in NAMES[partition::3]], partition=partition)
    await send(bootstrap, [report(name, "error") for name in FAILED])
    stop = asyncio.Event()
    reporting = asyncio.create_task(keep_reporting(bootstrap, stop))
    try:
        await until_all_answer(workers, seconds=SEEN_SECONDS)
        owned = [await asyncio.to_thread(partitions_of, worker) for worker in workers]
        assert sorted(number for numbers in owned for number in numbers) == list(range(PARTITIONS)), "one owner each"
        assert all(owned), "each has its share"
        sick = {(key, verdict) for key, verdict in VERDICTS.items() if verdict in SICK}

        async def all_commanded() -> bool:
            return await commanded(bootstrap) == sick  # a page shows silence at once, a command waits for its window

        await until_async(all_commanded, "a command for each sick Job", seconds=SEEN_SECONDS)

        victim, *survivors = workers
        await asyncio.to_thread(victim.server.kill)
        killed_at = time.monotonic()
        await until_all_answer(survivors, seconds=TAKE_OVER_SECONDS)
        assert time.monotonic() - killed_at < TAKE_OVER_SECONDS
        assert await commanded(bootstrap) == sick

        victim.start()
        await asyncio.to_thread(victim.wait_until_ready)
        await until_all_answer(workers, seconds=SEEN_SECONDS)
        assert await commanded(bootstrap) == sick
    finally:
        stop.set()
        await reporting


async def until_all_answer(workers: list[Worker], *, seconds: float) -> None:
    """Wait until each worker's own pages give every Job with its verdict; none that is well is ever called sick."""

    async def all_answer() -> bool:
        answers = await asyncio.gather(*(asyncio.to_thread(answered, worker) for worker in workers))
        for jobs in answers:
            wrong = {key for key, verdict in jobs.items() if verdict in SICK and VERDICTS[key] == "healthy"}
            assert not wrong, wrong
        return all(jobs == VERDICTS for jobs in answers)

    await until_async(all_answer, "every worker to answer for every Job", seconds=seconds)


def answered(worker: Worker) -> dict[str, str]:
    """Give the verdicts on which a worker's list and its page of each Job agree; empty if its list is not whole."""
    listed = worker.get("/jobs/")
    if listed is None or listed.status != 200 or listed.body["unreachable"] or listed.body["partitions_missing"]:
        return {}
    rows = {row["job"]: row["verdict"] for row in listed.body["jobs"]}
    if rows.keys() != KEYS:
        return {}
    with ThreadPoolExecutor(max_workers=8) as pool:
        pages = dict(zip(rows, pool.map(lambda key: worker.get(f"/jobs/{key}/"), rows), strict=True))
    return {
        key: page.body["verdict"]
        for key, page in pages.items()
        if page is not None and page.status == 200 and page.body["job"] == key and page.body["verdict"] == rows[key]
    }


def partitions_of(worker: Worker) -> list[int]:
    answer = worker.get("/fleet/?local=1")
    assert answer is not None
    return [row["partition"] for row in answer.body["partitions"]]


async def commanded(bootstrap: str) -> set[tuple[str, str]]:
    found = [decode_action(record.value) for record in await records_of(bootstrap, ACTIONS)]
    return {(command.key, command.verdict) for command in found if isinstance(command, Command)}


async def keep_reporting(bootstrap: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await send(bootstrap, [report(name, "loading") for name in WELL])
        await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=REPORT_EVERY_SECONDS)
