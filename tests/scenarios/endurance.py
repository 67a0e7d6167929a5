"""The frame of the endurance tests: workers on three brokers, a fleet that reports, faults, and the judgement.

Judged is only what is on `healer-actions`: no command for a Job that is well, and one in time for each that is not.
Beside it stands what a plain rule would have done with the same reports: the clock minus last seen.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from sf_healer.core import evidence
from sf_healer.core.commands import Command, decode_action
from sf_healer.core.evidence import Bundle
from sf_healer.topics import ACTIONS, EVIDENCE
from tests.lab import loops
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of
from tests.scenarios.fleet import LONGEST_PAUSE, Fleet, Voice
from tests.scenarios.kubelet import Kubelet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
    from pathlib import Path

    from aiokafka import ConsumerRecord

    from tests.lab.kafka import KafkaCluster

log = logging.getLogger(__name__)

PARTITIONS = 6
#: Nothing here takes longer, however busy the machine.
SETTLED_SECONDS = 120.0
#: The age of the oldest watermark of a healer that is well.
YOUNG_SECONDS = 5.0
#: From a verdict that is due to its command on the topic: a mark, the watermark's own age, two busy cores.
SLACK_SECONDS = 6.0


class Pace(msgspec.Struct, frozen=True):
    """Thresholds and how often things happen, scaled together; seconds."""

    silence: float = 15.0
    grace: float = 2.0
    mark: float = 1.0
    window: float = 1.0
    #: Kafka takes no shorter one.
    session: float = 6.0
    heartbeat: float = 1.0
    #: A well Job's pause between two reports.
    report: float = 5.0

    def policy(self) -> str:
        """Give the policy file of it."""
        return (
            "[defaults]\n"
            "reporting = true\n"
            f"silence_threshold_seconds = {self.silence}\n"
            f"startup_threshold_seconds = {2 * self.silence}\n"
            f"error_grace_seconds = {self.grace}\n"
        )

    def threshold(self, verdict: str) -> float:
        """Give how long a Job is sick before it must be told."""
        return self.silence if verdict == "stuck" else self.grace


class Told(msgspec.Struct, frozen=True):
    """A command and when it was on the topic (epoch seconds)."""

    at: float
    command: Command


class Judgement(msgspec.Struct, frozen=True):
    """What a trial came to."""

    false: list[Told]
    missed: list[str]
    #: By sick Job: seconds from the moment at which its verdict was due to its command; less than 0: it was earlier.
    late: dict[str, float]
    naive: int
    well: int

    @property
    def flawless(self) -> bool:
        """Say whether nobody was told wrongly, and everybody in time who should be."""
        return not self.false and not self.missed

    def __str__(self) -> str:
        latest = max(self.late.values(), default=math.nan)
        return (
            f"{len(self.late)} sick Jobs found, {len(self.missed)} missed, the last {latest:+.1f} s from when it was "
            f"due; {len(self.false)} false commands; by the clock minus last seen {self.naive} false restarts of "
            f"{self.well} well Jobs"
        )


class Trial:
    """Workers with their fleet, what is done to them and what is asked of them."""

    def __init__(self, bootstrap: str, workers: list[Worker], fleet: Fleet, kubelet: Kubelet, pace: Pace) -> None:
        self.bootstrap = bootstrap
        self.workers = workers
        self.fleet = fleet
        self.kubelet = kubelet
        self.pace = pace
        #: Since when the healer is undisturbed (epoch seconds).
        self.calm_since = 0.0
        #: By Job, when it was first told (epoch seconds); as far as the topic has been followed.
        self.told: dict[str, float] = {}

    @staticmethod
    async def lasting(seconds: float) -> None:
        """Let a fault last."""
        over_at = time.monotonic() + seconds

        async def over() -> bool:
            return time.monotonic() >= over_at

        await until_async(over, "the fault to be over", seconds=seconds + SETTLED_SECONDS)

    async def ready(self, *workers: Worker) -> None:
        """Wait until workers are ready, all if none are named; one that ended meanwhile is back by then."""

        async def all_ready() -> bool:
            answers = [asyncio.to_thread(worker.get, "/readyz") for worker in workers or self.workers]
            return all(answer is not None and answer.status == 200 for answer in await asyncio.gather(*answers))

        await until_async(all_ready, "the workers to be ready", seconds=SETTLED_SECONDS)

    async def all_heard(self) -> None:
        """Wait until every Job of the fleet has reported: of one that never did nobody knows that it fell silent."""

        async def heard() -> bool:
            return self.fleet.heard >= self.fleet.voices.keys()

        await until_async(heard, "a report of each Job", seconds=SETTLED_SECONDS)

    async def calm(self) -> float:
        """Wait until every watermark is young again; give how long that took."""
        began = time.monotonic()

        async def young() -> bool:
            return await self.watermark_age() < YOUNG_SECONDS

        await until_async(young, "every watermark to be young", seconds=SETTLED_SECONDS)
        self.calm_since = time.time()
        took = time.monotonic() - began
        log.info("calm after %.1f s; restarts so far: %s", took, dict(self.kubelet.restarts))
        return took

    async def watermark_age(self) -> float:
        """Give the age of the oldest watermark; infinite while a partition has no owner that answers."""
        asked = [worker for worker in self.workers if worker.server.is_alive and not worker.server.is_paused]
        answers = await asyncio.gather(*(asyncio.to_thread(worker.get, "/fleet/?local=1") for worker in asked))
        newest: dict[int, float] = {}
        for answer in answers:
            for row in answer.body["partitions"] if answer is not None and answer.status == 200 else ():
                newest[row["partition"]] = max(row["watermark"] or 0.0, newest.get(row["partition"], 0.0))
        return time.time() - min(newest.values()) if len(newest) == PARTITIONS else math.inf

    async def roll(self) -> None:
        """Restart the workers one after the other, each told to end and ready again before the next."""
        for worker in self.workers:
            with self.kubelet.leaving_alone(worker):
                await asyncio.to_thread(worker.stop)
                worker.start()
            await self.ready(worker)

    async def end_workers(self) -> None:
        """Kill all workers; they stay away until `start_workers`."""
        for worker in self.workers:
            self.kubelet.leave_alone(worker)
        await asyncio.gather(*(asyncio.to_thread(worker.server.kill) for worker in self.workers))

    def start_workers(self) -> None:
        """Have the workers started that were ended."""
        for worker in self.workers:
            self.kubelet.look_after(worker)

    async def crash_for_ever(self, worker: Worker, *, life: float) -> None:
        """Kill a worker again and again, `life` seconds after it was started."""
        while True:
            await self.kubelet.kill(worker)
            began = self.kubelet.restarts[worker.server.name]

            async def started(began: int = began) -> bool:
                return self.kubelet.restarts[worker.server.name] > began

            await until_async(started, "the worker to be started again", seconds=SETTLED_SECONDS)
            await self.lasting(life)

    async def follow(self) -> None:
        """Follow the commands as they come, for ever."""
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition(ACTIONS, 0)])
            async for record in consumer:
                action = decode_action(record.value)
                if isinstance(action, Command):
                    self.told.setdefault(action.key, record.timestamp / 1000)

    async def found(self, keys: Collection[str], *, seconds: float) -> float:
        """Wait until each of these Jobs is told; give how long that took."""
        began = time.monotonic()

        async def all_found() -> bool:
            return self.told.keys() >= set(keys)

        await until_async(all_found, f"a command for each of {len(keys)} Jobs", seconds=seconds)
        return time.monotonic() - began

    async def judged(self) -> Judgement:
        """Wait until every sick Job is told or should have been, then judge all commands there ever were."""
        due = {key: self._due_at(key) for key in self.fleet.sick}
        deadline = max(due.values(), default=0.0) + 2 * self.pace.window + SLACK_SECONDS

        async def all_told() -> bool:
            return self.told.keys() >= due.keys() or time.time() > deadline

        await until_async(all_told, "the sick Jobs", seconds=max(0.0, deadline - time.time()) + SETTLED_SECONDS)
        silent_seconds = self.fleet.late_seconds + LONGEST_PAUSE * self.pace.report
        assert silent_seconds < self.pace.silence, "this machine is too slow: the fleet itself fell silent"
        return await self._judgement(due)

    async def _judgement(self, due: dict[str, float]) -> Judgement:
        actions = [(record, decode_action(record.value)) for record in await self._read(ACTIONS)]
        commands = [Told(record.timestamp / 1000, action) for record, action in actions if isinstance(action, Command)]
        first: dict[str, float] = {}
        for told in commands:
            first.setdefault(told.command.key, told.at)
        judgement = Judgement(
            false=[told for told in commands if not self._is_true(told)],
            missed=[key for key in due if key not in first],
            late={key: first[key] - at for key, at in due.items() if key in first},
            naive=await self._naive_restarts(),
            well=len(self.fleet.well),
        )
        log.info("%s; the fleet was late by %.1f s", judgement, self.fleet.late_seconds)
        for told in judgement.false:
            log.error("false at %.1f: %s", told.at, told.command)
        for key in judgement.missed:
            log.error("missed %s, due at %.1f: %s", key, due[key], await asyncio.to_thread(self._seen_of, key))
        return judgement

    def _seen_of(self, key: str) -> object:
        answers = (worker.get(f"/jobs/{key}/") for worker in self.workers if worker.server.is_alive)
        return next((answer.body for answer in answers if answer is not None), "nobody answers")

    async def _naive_restarts(self) -> int:
        """Count the restarts of well Jobs by who compares the clock with the last report that reached the log."""
        well = self.fleet.well
        heard: dict[str, list[float]] = defaultdict(list)
        for at, bundle in self._bundles(await self._read(EVIDENCE)):
            for beat in bundle.beats:
                if beat.key in well:
                    heard[beat.key].append(at)
        return sum(
            later - earlier > self.pace.silence
            for times in map(sorted, heard.values())
            for earlier, later in itertools.pairwise(times)
        )

    @staticmethod
    def _bundles(records: list[ConsumerRecord]) -> Iterator[tuple[float, Bundle]]:
        for record in records:
            entry = evidence.decode(record.value)
            if isinstance(entry, Bundle):
                yield record.timestamp / 1000, entry

    async def _read(self, topic: str) -> list[ConsumerRecord]:
        return await records_of(self.bootstrap, topic)

    def _due_at(self, key: str) -> float:
        sickness = self.fleet.sick[key]
        return max(sickness.since, self.calm_since) + self.pace.threshold(sickness.verdict)

    def _is_true(self, told: Told) -> bool:
        """Say whether a command is for who was sick by then; a silent Job's last word was up to a pause ago.

        Which sickness it names is not asked: a Job that failed has fallen silent too, and which of the two is seen
        first is left to the order of partitions where a flood of reports is dated alike.
        """
        sickness = self.fleet.sick.get(told.command.key)
        if sickness is None:
            return False
        if told.command.verdict != "stuck":
            return told.at >= sickness.since
        return told.at >= sickness.since - LONGEST_PAUSE * self.pace.report + self.pace.silence


@asynccontextmanager
async def trial(
    cluster: KafkaCluster, directory: Path, *, jobs: int, workers: int, pace: Pace, restart_pause: float = 1.0
) -> AsyncIterator[Trial]:
    """Start workers over empty topics and a fleet beside them; they are undisturbed when this is entered."""
    bootstrap = cluster.bootstrap
    await make_topics(bootstrap)
    (directory / "policy.toml").write_text(pace.policy())
    started = [_worker(number, directory, bootstrap, pace) for number in range(workers)]
    fleet = Fleet(bootstrap, [Voice(f"e{number:04d}x") for number in range(jobs)], every_seconds=pace.report)
    kubelet = Kubelet(started, pause_seconds=restart_pause)
    try:
        for worker in started:
            worker.start()
        async with kubelet, fleet:
            made = Trial(bootstrap, started, fleet, kubelet, pace)
            async with alongside(made.follow()):
                await made.ready()
                await made.all_heard()
                await made.calm()
                yield made
    finally:
        for worker in started:
            if worker.server.is_alive:
                await asyncio.to_thread(worker.stop)
    await drop_topics(bootstrap)


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let something go on that never ends by itself; it ends with this, and must not have failed by then."""
    task = asyncio.create_task(work)
    yield
    assert not task.done(), task.exception()
    await loops.end(task)


def _worker(number: int, directory: Path, bootstrap: str, pace: Pace) -> Worker:
    return Worker(
        f"worker-{number}",
        directory,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=directory / "policy.toml",
        mark_interval_seconds=pace.mark,
        sweep_window_seconds=pace.window,
        broker_session_timeout_seconds=pace.session,
        broker_heartbeat_seconds=pace.heartbeat,
    )
