"""What test_endurance.py tries, for as long and as large as the issue asks; each tells what it came to.

The healer's own times are those of production: a session of 30 s, a heartbeat every 3 s, a mark every second. Only
the thresholds of the Jobs are shorter, so that every fault is longer than they are.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from sf_healer.local.reports import Story
from tests.scenarios.backlog import Backlog, feed_dated_now, feed_dated_then
from tests.scenarios.endurance import Pace, Trial, alongside, trial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.soak, pytest.mark.timeout(1800)]

JOBS = 200
BROKERS = range(3)
PACE = Pace(silence=30.0, window=5.0, session=30.0, heartbeat=3.0)
#: Consumers say `error` for a bad record and go on: their grace is their threshold.
PACE_OF_CONSUMERS = Pace(silence=30.0, grace=30.0, window=5.0, session=30.0, heartbeat=3.0)
OUTAGE_SECONDS = 600.0
FROZEN_SECONDS = 60.0
KILLS = 10
ROUNDS = 2
STORIES = {
    Story.HEALTHY: 700,
    Story.BAD_RECORDS: 200,
    Story.SILENCE: 25,
    Story.FATAL: 25,
    Story.STOP: 25,
    Story.FINISH: 25,
}


@pytest.fixture
def judge(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[Trial], Awaitable[None]]:
    """Give what judges a trial and tells of it, whatever pytest captures."""

    async def judged(run: Trial) -> None:
        judgement = await run.judged()
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {judgement}; workers restarted: {run.kubelet.restarts.total()}\n")
        assert judgement.flawless, judgement

    return judged


async def test_all_brokers_away_for_ten_minutes(kafka_three: KafkaCluster, tmp_path: Path, judge) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=3, pace=PACE) as run:
        await run.fleet.fail(2)
        run.fleet.silence(2)
        await asyncio.gather(*(asyncio.to_thread(kafka_three.kill, broker) for broker in BROKERS))
        await run.lasting(OUTAGE_SECONDS)
        await asyncio.to_thread(kafka_three.make_whole)
        await run.ready()
        await run.calm()
        await run.fleet.fail(2)
        run.fleet.silence(2)
        await judge(run)


@pytest.mark.parametrize("feed_at_once", [feed_dated_then, feed_dated_now])
@pytest.mark.parametrize("away", [True, False], ids=["workers_away", "workers_at_work"])
async def test_two_hours_of_lag_of_a_thousand_jobs(
    kafka_three: KafkaCluster, tmp_path: Path, judge, feed_at_once, *, away: bool
) -> None:
    async with trial(kafka_three, tmp_path, jobs=20, workers=3, pace=PACE_OF_CONSUMERS) as run:
        if away:
            await run.end_workers()
        backlog = Backlog(STORIES, hours=2, gap_seconds=20)
        await feed_at_once(kafka_three.bootstrap, backlog.said)
        run.fleet.take_over(backlog)
        run.fleet.silence(2)
        if away:
            await run.lasting(PACE.silence + PACE.report)
            run.start_workers()
        await run.ready()
        await run.calm()
        await judge(run)


async def test_frozen_workers_wake_up_as_zombies(kafka_three: KafkaCluster, tmp_path: Path, judge) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=3, pace=PACE) as run:
        for frozen in (run.workers[:1], run.workers[:2], run.workers):
            run.fleet.silence(2)
            for worker in frozen:
                worker.server.pause()
            await run.lasting(FROZEN_SECONDS)
            await run.fleet.fail(2)
            for worker in frozen:
                worker.server.resume()
            await run.ready()
            await run.calm()
        await judge(run)


async def test_workers_killed_again_and_again_and_rolled(kafka_three: KafkaCluster, tmp_path: Path, judge) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=3, pace=PACE) as run:
        for number in range(KILLS):
            run.fleet.silence(1)
            await run.fleet.fail(1)
            await run.kubelet.kill(run.workers[number % len(run.workers)])
            await run.ready()
        for _ in range(ROUNDS):
            run.fleet.silence(1)
            await run.roll()
        await run.calm()
        await judge(run)


async def test_brokers_rolled_killed_and_frozen(kafka_three: KafkaCluster, tmp_path: Path, judge) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=3, pace=PACE) as run:
        for broker in BROKERS:
            run.fleet.silence(1)
            await asyncio.to_thread(kafka_three.restart, broker)
            await run.calm()
            await asyncio.to_thread(kafka_three.kill, broker)
            await run.calm()
            await asyncio.to_thread(kafka_three.make_whole)
            kafka_three.pause(broker)
            await run.lasting(FROZEN_SECONDS)
            kafka_three.resume(broker)
            await run.ready()
            await run.calm()
            await run.fleet.fail(1)
        await judge(run)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("life", [10.0, 20.0])
async def test_a_stuck_job_beside_a_worker_in_a_crash_loop(
    kafka_three: KafkaCluster, tmp_path: Path, judge, workers: int, life: float
) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=workers, pace=PACE, restart_pause=0.1) as run:
        async with alongside(run.crash_for_ever(run.workers[0], life=life)):
            await run.fleet.fail(2)
            run.fleet.silence(2)
            await run.found(run.fleet.sick.keys(), seconds=10 * PACE.silence)
        await run.ready()
        await run.calm()
        await judge(run)
