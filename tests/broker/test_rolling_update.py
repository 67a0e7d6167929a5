"""A rolling update of three workers under load: each is replaced by a new one, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from sf_healer.core import evidence
from sf_healer.core.commands import Command, Outcome, Result, decode_action, decode_outcome
from sf_healer.core.evidence import Bundle
from sf_healer.topics import ACTIONS, DEAD_LETTERS, EVIDENCE, OUTCOMES
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

SOURCE = "queue-events"
WORKERS = 3
#: Nobody is asked about again, and nothing holds a restart back: what is done twice was decided twice.
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 25
startup_threshold_seconds = 600

[admission]
storm_share = 1
storm_jobs = 100000
rate_per_minute = 6000
rate_burst = 1000
refused_retry_seconds = 3600
outcome_deadline_seconds = 3600
"""
#: These report all the time.
WELL = [f"w{number:03d}x" for number in range(30)]
EVERY_SECONDS = 0.2
#: From the last word of a Job to its command: threshold, window, marks, and a rebalance that may be on.
COMMANDED_SECONDS = 120.0


class Load:
    """The platform at work: many Jobs go on, and every moment one more says a single word and falls silent."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.newest: dict[tuple[str, int], int] = {}  # offset of a Job's newest report, by source partition
        self.sent = 0
        self.said_once: list[str] = []
        self.goes_on_falling_silent = True
        self._stop = asyncio.Event()

    async def run(self) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for turn in itertools.count():
                names = list(WELL)
                if self.goes_on_falling_silent:
                    self.said_once.append(f"s{turn:04d}x")
                    names.append(self.said_once[-1])
                partitions = [(turn + place) % 3 for place in range(len(names))]
                sent = await asyncio.gather(
                    *(
                        producer.send_and_wait(SOURCE, report(name), partition=partition)
                        for name, partition in zip(names, partitions, strict=True)
                    )
                )
                for name, record in zip(names, sent, strict=True):
                    self.newest[key_of(name), record.partition] = record.offset
                self.sent += len(sent)
                if self._stop.is_set():
                    return
                await asyncio.wait([asyncio.ensure_future(self._stop.wait())], timeout=EVERY_SECONDS)

    def stop(self) -> None:
        self._stop.set()


def report(name: str) -> bytes:
    named = {"queue_id": queue_of(name), "producer": f"arango-connector__{name}", "status": "loading"}
    return json.dumps(named).encode()


def queue_of(name: str) -> str:
    return f"loader-btcusdt-api-trades-2025-06-01-{name}"


def key_of(name: str) -> str:
    return f"stf/{queue_of(name)}-arango-connector"


@pytest.fixture
def bootstrap(kafka_three: KafkaCluster) -> Iterator[str]:
    asyncio.run(make_topics(kafka_three.bootstrap))
    yield kafka_three.bootstrap
    asyncio.run(drop_topics(kafka_three.bootstrap))


def a_worker(name: str, directory: Path, bootstrap: str) -> Worker:
    return Worker(
        name,
        directory,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=directory / "policy.toml",
        mark_interval_seconds=0.5,
        sweep_window_seconds=1,
        broker_session_timeout_seconds=30,  # as shipped: nobody is missed, each says that it goes
    )


async def test_three_workers_are_replaced_under_load_and_nothing_is_lost_or_done_twice(bootstrap: str, tmp_path: Path):
    (tmp_path / "policy.toml").write_text(POLICY)
    running = [a_worker(f"old-{number}", tmp_path, bootstrap) for number in range(WORKERS)]
    load = Load(bootstrap)
    try:
        for worker in running:
            worker.start()
        for worker in running:
            await asyncio.to_thread(worker.wait_until_ready)
        loading = asyncio.create_task(load.run())
        try:
            await until_async(lambda: are_known(running[0], WELL), "the Jobs to be seen", seconds=60.0)
            for number in range(WORKERS):
                new = a_worker(f"new-{number}", tmp_path, bootstrap).start()  # maxSurge: 1, maxUnavailable: 0
                running.append(new)
                await asyncio.to_thread(new.wait_until_ready)
                old = running.pop(0)
                await asyncio.to_thread(old.stop)  # fails where it does not end in order
            load.goes_on_falling_silent = False

            async def all_commanded() -> bool:
                return {key_of(name) for name in load.said_once} <= commanded(await decided(bootstrap))

            await until_async(all_commanded, "a command for each Job that fell silent", seconds=COMMANDED_SECONDS)
            await until_async(
                lambda: are_known(running[0], [*WELL, *load.said_once]), "every Job to be shown", seconds=60.0
            )
            assert not loading.done(), "the load went on to the end"
        finally:
            load.stop()
            await loading
        await until_async(lambda: are_counted(bootstrap, load), "every report to be on the evidence", seconds=60.0)
        commands = await decided(bootstrap)
        silent = {key_of(name) for name in load.said_once}
        assert commanded(commands) - silent == set(), "a Job that is well is never commanded"
        ids = defaultdict(set)
        for command in commands:
            ids[command.key].add(command.id)
        assert {key: len(each) for key, each in ids.items() if len(each) > 1} == {}, "one command for each"
        assert len(silent) > 50, "there was a load"
        # While its partition moved one may be sent again, under its id; that is told, and the Job is restarted once.
        would_restart = {each.id: each for each in await outcomes(bootstrap) if each.result is Result.WOULD_RESTART}
        assert would_restart
        assert max(Counter(each.command_id for each in would_restart.values()).values()) == 1
        assert await records_of(bootstrap, DEAD_LETTERS) == []
    finally:
        for worker in running:
            if worker.server.is_alive:
                worker.stop()


async def are_known(worker: Worker, names: list[str]) -> bool:
    """Say whether a worker shows each of these Jobs; also that those which report are well."""
    jobs = await asyncio.to_thread(worker.jobs)
    sick = [name for name in WELL if jobs.get(key_of(name), {}).get("verdict") in {"stuck", "failed", "never_started"}]
    assert not sick
    return all(key_of(name) in jobs for name in names)


async def are_counted(bootstrap: str, load: Load) -> bool:
    """Say whether the newest report of each Job in each source partition is on the evidence log."""
    covered: dict[tuple[str, int], int] = {}
    for record in await records_of(bootstrap, EVIDENCE):
        entry = evidence.decode(record.value)
        if isinstance(entry, Bundle):
            for beat in entry.beats:
                place = (beat.key, entry.source_partition)
                covered[place] = max(beat.offset, covered.get(place, -1))
    return all(covered.get(place, -1) == offset for place, offset in load.newest.items())


async def outcomes(bootstrap: str) -> list[Outcome]:
    found = [decode_outcome(record.value) for record in await records_of(bootstrap, OUTCOMES)]
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


async def decided(bootstrap: str) -> list[Command]:
    found = [decode_action(record.value) for record in await records_of(bootstrap, ACTIONS)]
    return [command for command in found if isinstance(command, Command)]


def commanded(commands: list[Command]) -> set[str]:
    return {command.key for command in commands}
