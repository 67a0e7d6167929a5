"""A worker that is killed comes back with the state it had, and with no verdict that it had not."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.commands.shared import read_policies
from sf_healer.core.commands import Command, decode_action
from sf_healer.topics import ACTIONS
from tests.broker.brokers import BROKERS, with_topics
from tests.lab.waiting import until_async
from tests.lab.worker import Answer, Worker, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kafka import KafkaCluster

pytestmark = pytest.mark.timeout(240)

POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 5
startup_threshold_seconds = 20
error_grace_seconds = 1
"""
SEEN_SECONDS = 60.0
STOPPED_SECONDS = 10.0
REPORT_EVERY_SECONDS = 0.3
#: What each Job says; the first goes on saying the last of it for ever.
LIVES = {
    "well": ["started", "loading"],
    "hangs": ["started", "loading"],
    "fails": ["started", "loading", "error"],
    "stops": ["loading", "interrupted", "finished"],
    "ends": ["loading", "finished"],
}
VERDICTS = {"well": "healthy", "hangs": "stuck", "fails": "failed", "stops": "stopped", "ends": "completed"}
SICK = {"stuck", "failed", "never_started"}


def queue_of(name: str) -> str:
    return f"loader-btcusdt-api-trades-2025-06-01-{name}"


def key_of(name: str) -> str:
    return f"stf/{queue_of(name)}-arango-connector"


def report(name: str, status: str) -> bytes:
    named = {"queue_id": queue_of(name), "producer": f"arango-connector__{name}", "status": status}
    return json.dumps({**named, "finished": status == "error"}).encode()


SICK_JOBS = {(key_of(name), verdict) for name, verdict in VERDICTS.items() if verdict in SICK}


@pytest.fixture(params=BROKERS)
def bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    with with_topics(request) as bootstrap:
        yield bootstrap


#: Kafka takes no shorter session than six seconds; the embedded broker keeps who comes back waiting for several.
SESSION_SECONDS = {"embedded": 3, "kafka_single": 6}


@pytest.fixture
def worker(request: pytest.FixtureRequest, bootstrap: str, tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "policy.toml").write_text(POLICY)
    with Worker(
        "killed",
        tmp_path,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=tmp_path / "policy.toml",
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=SESSION_SECONDS[request.node.callspec.params["bootstrap"]],
        broker_heartbeat_seconds=0.5,
    ) as made:
        yield made.wait_until_ready()


async def rows_of(worker: Worker) -> dict[str, dict[str, Any]]:
    rows = await asyncio.to_thread(worker.jobs)
    return {name: rows[key_of(name)] for name in LIVES if key_of(name) in rows}


async def until_judged(worker: Worker) -> dict[str, dict[str, Any]]:
    """Wait for every Job's verdict; on the way there none that is well may be called sick."""

    async def all_judged() -> dict[str, dict[str, Any]]:
        rows = await rows_of(worker)
        well = rows.get("well", {}).get("verdict")
        assert well not in SICK, rows["well"]
        return rows if {name: row["verdict"] for name, row in rows.items()} == VERDICTS else {}

    return await until_async(all_judged, "the verdicts", seconds=SEEN_SECONDS)


async def until_probes_are_answered(worker: Worker) -> None:
    """Wait until a worker that joins its groups and recovers answers; it is alive and says why it is not ready."""

    async def is_answered() -> bool:
        ready, alive = await asyncio.to_thread(worker.get, "/readyz"), await asyncio.to_thread(worker.get, "/livez")
        if ready is None or alive is None:
            return False
        assert alive == Answer(200, {"alive": True, "problems": []})
        assert ready.status == 503
        assert ready.body["problems"]
        return True

    await until_async(is_answered, "the probes to be answered", seconds=SEEN_SECONDS)


async def commanded(bootstrap: str) -> set[tuple[str, str]]:
    found = [decode_action(record.value) for record in await records_of(bootstrap, ACTIONS)]
    return {(command.key, command.verdict) for command in found if isinstance(command, Command)}


async def until_commanded(bootstrap: str) -> None:
    """Wait for the commands: a page shows silence at once, a command waits for its window."""

    async def all_commanded() -> bool:
        return await commanded(bootstrap) == SICK_JOBS

    await until_async(all_commanded, "a command for each sick Job", seconds=SEEN_SECONDS)


async def keep_reporting(bootstrap: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await send(bootstrap, [report("well", "loading")])
        await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=REPORT_EVERY_SECONDS)


@pytest.mark.parametrize("bootstrap", ["kafka_single"], indirect=True)
async def test_a_worker_outlives_a_broker_that_goes_away_and_says_so(
    kafka_single: KafkaCluster, bootstrap: str, worker: Worker
):
    for name, words in LIVES.items():
        await send(bootstrap, [report(name, word) for word in words])
    stop = asyncio.Event()
    reporting = asyncio.create_task(keep_reporting(bootstrap, stop))
    await until_judged(worker)
    await until_commanded(bootstrap)
    stop.set()
    await reporting

    await asyncio.to_thread(kafka_single.kill, 0)

    async def says_so() -> bool:
        ready, alive = await asyncio.to_thread(worker.get, "/readyz"), await asyncio.to_thread(worker.get, "/livez")
        assert alive == Answer(200, {"alive": True, "problems": []})
        assert ready is not None
        return any("the broker does not answer" in problem for problem in ready.body["problems"])

    await until_async(says_so, "/readyz to say that the broker does not answer", seconds=SEEN_SECONDS)
    await asyncio.to_thread(kafka_single.restart, 0)
    stop = asyncio.Event()
    reporting = asyncio.create_task(keep_reporting(bootstrap, stop))
    await asyncio.to_thread(worker.wait_until_ready)
    await until_judged(worker)
    stop.set()
    await reporting
    assert await commanded(bootstrap) == SICK_JOBS, "what happened while nobody could report is nobody's silence"
    assert worker.server.is_alive


async def test_a_killed_worker_comes_back_with_its_state_from_its_store_and_from_the_changelog(
    bootstrap: str, worker: Worker
):
    checkpoint_seconds = read_policies(worker.directory.parent / "policy.toml").checkpoint_seconds
    for name, words in LIVES.items():
        await send(bootstrap, [report(name, word) for word in words])
    stop = asyncio.Event()
    reporting = asyncio.create_task(keep_reporting(bootstrap, stop))
    before = await until_judged(worker)
    await until_commanded(bootstrap)

    for wiped in (False, True):
        await asyncio.to_thread(worker.server.kill)
        if wiped:
            shutil.rmtree(Path(worker.environment["SF_HEALER_DATA_DIR"]))
        worker.start()
        await until_probes_are_answered(worker)
        await asyncio.to_thread(worker.wait_until_ready)
        after = await until_judged(worker)
        for name in LIVES:
            earlier, later = before[name]["last_seen_at"], after[name]["last_seen_at"]
            assert later >= earlier, f"{name} is seen earlier than it was"
            if name != "well":
                assert later <= earlier + checkpoint_seconds, f"{name} is seen later than a checkpoint allows"

    stop.set()
    await reporting
    assert await commanded(bootstrap) == SICK_JOBS
    child = worker.server._child
    assert child is not None
    child.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(child.wait, STOPPED_SECONDS) == 0, worker.tail()
