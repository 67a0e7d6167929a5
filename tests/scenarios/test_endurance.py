"""Workers and brokers that freeze, die and come back: no Job that is well is told to restart, no other is missed.

Real processes throughout: three brokers, one to three workers. test_endurance_soak.py has what takes long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sf_healer.local.reports import Story
from tests.scenarios.backlog import Backlog, feed_dated_now, feed_dated_then
from tests.scenarios.endurance import Pace, alongside, trial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(480)]

JOBS = 200
BROKERS = range(3)
PACE = Pace()
#: Consumers say `error` for a bad record and go on: their grace is their threshold.
PACE_OF_CONSUMERS = Pace(grace=15.0)
#: Longer than the threshold and a pause: by the clock every Job has fallen silent.
AWAY_SECONDS = 30.0
#: A worker that dies this long after its start has joined, and has been at work for a moment.
LIFE_SECONDS = 8.0
STORIES = {
    Story.HEALTHY: 50,
    Story.BAD_RECORDS: 20,
    Story.SILENCE: 5,
    Story.FATAL: 5,
    Story.STOP: 5,
    Story.FINISH: 5,
}


async def test_workers_that_freeze_die_and_are_rolled_tell_nobody_who_is_well(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=3, pace=PACE) as run:
        frozen, killed, _ = run.workers
        run.fleet.silence(2)
        frozen.server.pause()
        await run.calm()  # the others have taken its partitions over: what wakes up is a zombie
        await run.fleet.fail(2)
        frozen.server.resume()
        await run.kubelet.kill(killed)
        await run.ready()
        await run.calm()
        run.fleet.silence(2)
        await run.roll()
        await run.calm()
        await run.fleet.fail(2)

        judgement = await run.judged()
        assert judgement.flawless, judgement


@pytest.mark.soak
async def test_brokers_that_are_rolled_and_then_all_away_cost_nobody_a_restart(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=2, pace=PACE) as run:
        run.fleet.silence(2)
        for broker in BROKERS:
            await asyncio.to_thread(kafka_three.restart, broker)
            await run.calm()
        await run.fleet.fail(2)
        run.fleet.silence(2)
        await asyncio.gather(*(asyncio.to_thread(kafka_three.kill, broker) for broker in BROKERS))
        await run.lasting(AWAY_SECONDS)
        await asyncio.to_thread(kafka_three.make_whole)
        await run.ready()
        await run.calm()
        await run.fleet.fail(2)

        judgement = await run.judged()
        assert judgement.flawless, judgement
        assert judgement.naive >= judgement.well, "the outage was long enough to deceive the clock"


@pytest.mark.parametrize("feed_at_once", [feed_dated_then, pytest.param(feed_dated_now, marks=pytest.mark.soak)])
async def test_of_two_hours_of_lag_only_who_is_sick_at_its_end_is_told(
    kafka_three: KafkaCluster, tmp_path: Path, feed_at_once
) -> None:
    async with trial(kafka_three, tmp_path, jobs=20, workers=1, pace=PACE_OF_CONSUMERS) as run:
        await run.end_workers()
        backlog = Backlog(STORIES, hours=2, gap_seconds=60)
        await feed_at_once(kafka_three.bootstrap, backlog.said)
        run.fleet.take_over(backlog)
        run.fleet.silence(2)
        await run.lasting(PACE.silence + PACE.report)
        run.start_workers()
        await run.ready()
        await run.calm()

        judgement = await run.judged()
        assert judgement.flawless, judgement
        assert judgement.naive > 0, "the worker was away for long enough to deceive the clock"


async def test_beside_a_worker_in_a_crash_loop_a_stuck_job_is_found_all_the_same(
    kafka_three: KafkaCluster, tmp_path: Path
) -> None:
    async with trial(kafka_three, tmp_path, jobs=JOBS, workers=2, pace=PACE, restart_pause=0.1) as run:
        async with alongside(run.crash_for_ever(run.workers[0], life=LIFE_SECONDS)):
            stuck = run.fleet.silence(2)
            failed = await run.fleet.fail(2)
            await run.found(stuck | failed, seconds=120)
        await run.ready()
        await run.calm()

        judgement = await run.judged()
        assert judgement.flawless, judgement
        assert run.kubelet.restarts.total() > 1, "it was a loop"
