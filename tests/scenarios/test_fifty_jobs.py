"""No Job is lost half way: fifty are restarted while everything that can go wrong does, and each comes back once.

Real kube-apiserver, controller-manager and kwok, three real brokers, the deployed workers; the API server stands
behind a proxy that knows what went through. A seed chooses Jobs and moments; STORY_SEED=N plays a story again (the
machine's own timing is not in it).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.lab.api_proxy import ApiProxy, Asks, Fault, Harm, Weather
from tests.lab.kafka import KafkaCluster
from tests.lab.kube.rules import RULES
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, make_topics
from tests.scenarios import jobs as fifty
from tests.scenarios.audit import replaced_empty
from tests.scenarios.chronicle import Chronicle
from tests.scenarios.restarts import BOUNDARIES, POLICY, Story, Trap, random_moments, telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane
    from tests.scenarios.jobs import Job

pytestmark = [pytest.mark.kafka, pytest.mark.kube]

JOBS = 50
#: Admission starts with one restart at a time and doubles with each that worked: after these all go at once.
AT_ONCE_AFTER = 6
#: A killed worker is missed after this; Kafka's own least of 6 s would only make the test longer.
SESSION_SECONDS = 3.0
HEARTBEAT_SECONDS = 0.5
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
    Asks.CREATE: BUSY
    | BROKEN
    | CONFLICT
    | {Fault(Harm.STATUS, 409, "AlreadyExists"): 1.0, Fault(Harm.STATUS, 422, "Invalid"): 0.5},
    Asks.OTHER: BUSY | BROKEN,
}
CHANCE = 0.25


class Ground(msgspec.Struct):
    """Where a story plays."""

    kafka: KafkaCluster
    control_plane: ControlPlane
    proxy: ApiProxy
    namespace: str
    kubeconfig: Path  # of the workers: their own rights, through the proxy
    directory: Path
    seed: int

    def worker(self, name: str, *, session_seconds: float = SESSION_SECONDS, **settings: Any) -> Worker:
        policy = self.directory / "policy.toml"
        policy.write_text(POLICY)
        return Worker(
            name,
            self.directory,
            bootstrap=self.kafka.bootstrap,
            mode="heal",
            namespace=self.namespace,
            kubeconfig=self.kubeconfig,
            policy_file=policy,
            mark_interval_seconds=0.3,
            sweep_window_seconds=0.5,
            broker_session_timeout_seconds=session_seconds,
            broker_heartbeat_seconds=HEARTBEAT_SECONDS,
            **settings,
        )

    def create(self) -> list[Job]:
        owner = {"metadata": {"name": "owner"}}
        made = self._call("POST", f"/api/v1/namespaces/{self.namespace}/configmaps", owner)
        named = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": made["metadata"]["uid"]}
        made_jobs = fifty.make(JOBS, seed=self.seed, namespace=self.namespace, owner=named)
        for job in made_jobs:
            self._call("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", job.manifest)
        return made_jobs

    def remove(self) -> None:
        self._call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.control_plane.call(method, path, body)
        assert answer.status in {200, 201}, answer
        return answer.body


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    quick = {"group.min.session.timeout.ms": "1000"}
    with KafkaCluster.start(brokers=3, directory=tmp_path_factory.mktemp("brokers"), settings=quick) as cluster:
        yield cluster


@pytest.fixture
def ground(brokers: KafkaCluster, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Ground]:
    asyncio.run(make_topics(brokers.bootstrap))
    namespace = control_plane.create_namespace()
    own = control_plane.service_account(namespace, "healer", RULES)
    seed = int(os.environ.get("STORY_SEED") or random.SystemRandom().randrange(10**6))
    with ApiProxy.before(control_plane.kubeconfig) as proxy:
        kubeconfig = proxy.kubeconfig(own, at=tmp_path / "kubeconfig")
        ground = Ground(brokers, control_plane, proxy, namespace, kubeconfig, tmp_path, seed)
        yield ground
        brokers.make_whole()
        ground.remove()


@pytest.fixture
def tell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Write a line for people, past pytest's capture: the numbers of a run are its result.

    A process of pytest-xdist has no terminal: there they are with what the test printed.
    """
    reporter = request.config.pluginmanager.getplugin("terminalreporter")

    def line(text: str) -> None:
        told = f"{request.node.name}: {text}"
        if reporter is None:
            sys.stdout.write(f"{told}\n")
            return
        with capsys.disabled():
            reporter.write_line(told)

    return line


@asynccontextmanager
async def played(ground: Ground) -> AsyncIterator[Story]:
    """Play a story from the first report; ends with the audit."""
    async with Chronicle(ground.control_plane.kubeconfig, ground.namespace) as chronicle:
        jobs = await asyncio.to_thread(ground.create)
        async with telling(ground.kafka.bootstrap, chronicle, jobs) as story:
            ground.proxy.watch_for = story.killer.see_request
            yield story
            faults = await story.faults()
    assert not faults, "\n".join(faults)


@contextmanager
def running(*workers: Worker) -> Iterator[None]:
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        for worker in workers:
            worker.stop()


async def _killed_at(ground: Ground, traps: list[Trap], tell: Callable[[str], None]) -> None:
    """Restart fifty Jobs, again as often as it takes, and kill the actuator at each trap."""
    began = time.monotonic()
    tell(f"seed {ground.seed}, {len(traps)} kills")
    async with played(ground) as story:
        detector, actuator = ground.worker("detector", role="detector"), ground.worker("actuator", role="actuator")
        with running(detector, actuator):
            await asyncio.to_thread(detector.wait_until_ready)
            await asyncio.to_thread(actuator.wait_until_ready)
            await story.fail_all()
            await story.until_restarted(AT_ONCE_AFTER)
            for number, trap in enumerate(traps):
                await story.kill_at(trap, actuator)
                actuator.start()
                if number % 10 == 9:
                    tell(f"{number + 1} kills and {story.restarts()} restarts in {time.monotonic() - began:.0f} s")
            await story.finish([detector, actuator])
        tell(_summary(story, time.monotonic() - began))
        assert len(story.killer.kills) == len(traps)


def _summary(story: Story, seconds: float) -> str:
    empty = f", {count} overlooked by the Job controller" if (count := replaced_empty(story.chronicle)) else ""
    return f"{len(story.killer.kills)} kills, {JOBS} Jobs, {story.restarts()} restarts{empty}, {seconds:.0f} s"


@pytest.mark.timeout(1800)
async def test_the_actuator_killed_at_every_boundary_and_at_twenty_random_moments_loses_no_job(ground: Ground, tell):
    rng = random.Random(ground.seed)
    traps = [*BOUNDARIES, *random_moments(20, rng)]
    rng.shuffle(traps)
    await _killed_at(ground, traps, tell)


@pytest.mark.soak
@pytest.mark.timeout(14400)
async def test_the_actuator_killed_at_every_boundary_and_at_two_hundred_random_moments_loses_no_job(
    ground: Ground, tell
):
    rng = random.Random(ground.seed)
    traps = [*BOUNDARIES, *random_moments(200, rng)]
    rng.shuffle(traps)
    await _killed_at(ground, traps, tell)


# ---- workers, brokers and the API


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
    """Harm a quarter of all requests until every Job is back, each kind of request in each way at least once."""
    proxy = scene.ground.proxy
    for asks in (Asks.READ, Asks.DELETE, Asks.CREATE):
        proxy.harm_next(asks, *FAULTS[asks])
    proxy.change_weather(Weather(seed=scene.rng.randrange(10**6), chance=CHANCE, faults=FAULTS))
    await scene.story.until_restarted(JOBS)
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
        tell(_summary(story, time.monotonic() - began))
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
