"""Fifty Jobs are restarted while a worker and a broker die and the API misbehaves or is away: each comes back once."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.lab.api_proxy import Asks, Fault, Harm, Weather
from tests.lab.waiting import until_async
from tests.scenarios.ground import AT_ONCE_AFTER, JOBS, Ground, played, running, summary
from tests.scenarios.restarts import Story, Trap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.worker import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.kube]

#: With brokers that die. Kafka's least; in production it is longer than the 9 s in which a dead broker is noticed.
LONG_SESSION_SECONDS = 6.0
BROKER_AWAY_SECONDS = 12.0
API_AWAY_SECONDS = 10.0
TAKE_OVER_SECONDS = 60.0
#: What the API does wrong, each with its weight. No read is answered 4xx but 429: that would be a true answer.
BUSY = {
    Fault(Harm.STATUS, 429, "TooManyRequests", retry_after_seconds=1): 1.0,
    Fault(Harm.STATUS, 500, "InternalError"): 1.0,
    Fault(Harm.STATUS, 503, "ServiceUnavailable"): 1.0,
}
BROKEN = {
    Fault(Harm.RESET_NOT_SENT): 1.0,
    Fault(Harm.RESET_ANSWER_LOST): 1.0,
    Fault(Harm.LATE, seconds=2.0): 1.0,
    Fault(Harm.LATE, seconds=14.0): 0.5,  # the client gives up after 10 s
    Fault(Harm.SILENCE_NOT_SENT): 0.5,
    Fault(Harm.SILENCE_ANSWER_LOST): 0.5,
}
CONFLICT = {Fault(Harm.STATUS, 409, "Conflict"): 1.0}
FAULTS = {
    Asks.READ: BUSY | BROKEN,
    Asks.WATCH: {
        Fault(Harm.WATCH_CUT, seconds=2.0): 1.0,
        Fault(Harm.WATCH_FORGOTTEN, seconds=2.0): 1.0,
        Fault(Harm.STATUS, 410, "Expired"): 1.0,
        Fault(Harm.STATUS, 503, "ServiceUnavailable"): 1.0,
    },
    Asks.DELETE: BUSY | BROKEN | CONFLICT,
    Asks.REHEARSE: BUSY | BROKEN,
    Asks.CREATE: BUSY
    | BROKEN
    | CONFLICT
    | {Fault(Harm.STATUS, 409, "AlreadyExists"): 1.0, Fault(Harm.STATUS, 422, "Invalid"): 0.5},
    Asks.OTHER: BUSY | BROKEN,
}
CHANCE = 0.25
IN_BAD_WEATHER = JOBS - 5


class Scene(msgspec.Struct):
    """What a harm is done to."""

    ground: Ground
    story: Story
    workers: list[Worker]
    rng: random.Random

    async def after_a_while(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 4.0))


async def worker_killed(scene: Scene) -> None:
    """Kill the worker that owns the steps log, and start it again when another one has taken over."""
    await scene.after_a_while()
    victim = scene.story.owner_among(scene.workers)
    assert victim is not None
    scene.story.killer.set(Trap("owner of the steps log"), victim)
    scene.story.killer.spring()
    others = [worker for worker in scene.workers if worker is not victim]
    await until_async(
        lambda: _owned_by(scene.story, others), "another owner of the steps log", seconds=TAKE_OVER_SECONDS
    )
    victim.start()


async def _owned_by(story: Story, workers: list[Worker]) -> bool:
    return story.owner_among(workers) is not None


async def broker_killed(scene: Scene) -> None:
    """Kill one broker and start it again after Kafka has noticed."""
    await scene.after_a_while()
    number = scene.rng.randrange(3)
    await asyncio.to_thread(scene.ground.kafka.kill, number)
    await asyncio.sleep(BROKER_AWAY_SECONDS)
    await asyncio.to_thread(scene.ground.kafka.restart, number)


async def api_away(scene: Scene) -> None:
    """Have nobody answer for the API server for a while."""
    await scene.after_a_while()
    await asyncio.to_thread(scene.ground.proxy.go_away)
    await asyncio.sleep(API_AWAY_SECONDS)
    await asyncio.to_thread(scene.ground.proxy.come_back)


async def api_misbehaves(scene: Scene) -> None:
    """Harm a quarter of all requests until nearly every Job is back, each kind of request in each way at least once.

    The last ones are left in peace: they would show once more what the others have shown, a minute for each.
    """
    proxy = scene.ground.proxy
    for asks in (Asks.READ, Asks.DELETE, Asks.CREATE):
        proxy.harm_next(asks, *FAULTS[asks])
    proxy.change_weather(Weather(seed=scene.rng.randrange(10**6), chance=CHANCE, faults=FAULTS))
    await scene.story.until_restarted(IN_BAD_WEATHER)
    proxy.change_weather(Weather())
    met = proxy.counts()
    assert [
        fault for asks in (Asks.READ, Asks.DELETE, Asks.CREATE) for fault in FAULTS[asks] if not met[f"{asks}: {fault}"]
    ] == []


HARMS = (worker_killed, broker_killed, api_away, api_misbehaves)


async def _harmed_by(ground: Ground, harms: tuple[Any, ...], waves: int, tell: Callable[[str], None]) -> None:
    """Restart fifty Jobs some times on three workers, and do each harm once each time."""
    began = time.monotonic()
    tell(f"seed {ground.seed}, {waves} x {', '.join(harm.__name__ for harm in harms)}")
    async with played(ground) as story:
        workers = [ground.worker(f"worker-{number}", session_seconds=LONG_SESSION_SECONDS) for number in range(3)]
        scene = Scene(ground, story, workers, random.Random(ground.seed))
        with running(*workers):
            for worker in workers:
                await asyncio.to_thread(worker.wait_until_ready)
            for wave in range(waves):
                await story.fail_all()
                await story.until_restarted(0 if wave else AT_ONCE_AFTER)
                await asyncio.gather(*(harm(scene) for harm in harms))
                await story.until_restarted(JOBS)
                tell(f"wave {wave + 1} over after {time.monotonic() - began:.0f} s")
            await story.finish(workers)
        tell(summary(story, time.monotonic() - began))
        tell(f"faults met: {dict(sorted(ground.proxy.counts().items()))}")


@pytest.mark.timeout(1800)
async def test_with_a_worker_and_a_broker_killed_and_an_api_that_misbehaves_and_goes_away_no_job_is_lost(
    ground: Ground, tell
):
    await _harmed_by(ground, HARMS, 1, tell)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "harms", [*((harm,) for harm in HARMS), HARMS], ids=lambda harms: "-".join(h.__name__ for h in harms)
)
async def test_harm_done_again_and_again_loses_no_job(ground: Ground, harms: tuple[Any, ...], tell):
    await _harmed_by(ground, harms, 5, tell)
