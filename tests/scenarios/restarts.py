"""Fifty Jobs fail and are restarted while workers are killed, brokers die and the API misbehaves; then the audit.

Everything is the deployed thing: reports go to `queue-events`, `sf-healer worker` processes judge and act, the Jobs
live on a kube-apiserver. The story plays the Jobs' processes and does the harm.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from sf_healer import topics
from sf_healer.core import commands, steps
from sf_healer.core.commands import Command, Outcome, Result
from sf_healer.core.steps import Admitted, Announced, Resulted, Settled, Step, Tick, What
from tests.lab.api_proxy import Asks, Moment, Request
from tests.lab.waiting import until_async
from tests.scenarios import audit
from tests.scenarios.audit import Told

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from tests.lab.worker import Worker
    from tests.scenarios.chronicle import Chronicle
    from tests.scenarios.jobs import Job

REPORT_EVERY_SECONDS = 1.0
#: A creation is told in whole seconds: what is said within that second could be of the Job before it.
SILENT_AFTER_CREATION_SECONDS = 1.5
#: An `error` is held against an incarnation only once its creation is surely over by the clocks of broker and API
#: server, which are compared in whole seconds too (core/state.py: errors_from).
WELL_AFTER_CREATION_SECONDS = 8.0
TRAP_POLL_SECONDS = 0.02
#: With fewer Jobs being restarted those that are back fail again: a kill must meet Jobs in every step.
FEWEST_UNDER_WAY = 20
# Deadlines are many times what two idle cores need: they only end a story that hangs.
#: From a start to a boundary reached: the session of the killed one, the join, the recovery, and a Job at that step.
BOUNDARY_SECONDS = 300.0
WAVE_SECONDS = 600.0
RUNNING_SECONDS = 300.0

#: Only silence is not what these Jobs are judged by, and limits are raised so that all of them are restarted at once.
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 3600
startup_threshold_seconds = 3600
error_grace_seconds = 1

[admission]
rate_per_minute = 60000
rate_burst = 1000
in_flight = 64
storm_share = 1.0
storm_jobs = 1000
attempts = 8
attempts_window_seconds = 1
healthy_period_seconds = 1
backoff_seconds = 0
refused_retry_seconds = 2
outcome_deadline_seconds = 30
"""


class Trap(msgspec.Struct, frozen=True):
    """A moment at which the actuator is killed: at a record, at a request, or after a while.

    `after_seconds` counts from the start of its process, or, if `at_work`, from the first record it puts on the log.
    """

    name: str
    record: Callable[[Any], bool] | None = None
    request: tuple[Moment, Asks] | None = None
    after_seconds: float = 0.0
    at_work: bool = False


def _announced(step: Step) -> Trap:
    return Trap(f"{step} announced", record=lambda each: isinstance(each, Announced) and each.step is step)


def _resulted(name: str, step: Step, *whats: What) -> Trap:
    def its_result(each: Any) -> bool:
        return isinstance(each, Resulted) and each.step is step and each.result.what in whats

    return Trap(name, record=its_result)


#: Every boundary between two steps, as the steps log and the API server see it pass.
BOUNDARIES = (
    Trap("command copied", record=lambda each: isinstance(each, Command)),
    Trap("command admitted", record=lambda each: isinstance(each, Admitted)),
    _announced(Step.OBSERVE),
    Trap("create rehearsed, not answered", request=(Moment.ANSWERED, Asks.REHEARSE)),
    _resulted("manifest saved", Step.OBSERVE, What.FOUND),
    _announced(Step.DELETE),
    Trap("delete asked, not passed on", request=(Moment.ARRIVED, Asks.DELETE)),
    Trap("delete done, not answered", request=(Moment.ANSWERED, Asks.DELETE)),
    _resulted("deleted", Step.DELETE, What.DONE),
    _resulted("the old pods still there", Step.LOOK, What.FOUND),
    _resulted("gone", Step.LOOK, What.ABSENT),
    _announced(Step.CREATE),
    Trap("create asked, not passed on", request=(Moment.ARRIVED, Asks.CREATE)),
    Trap("create done, not answered", request=(Moment.ANSWERED, Asks.CREATE)),
    _resulted("created", Step.CREATE, What.DONE),
    Trap("sign of life", record=lambda each: isinstance(each, commands.Alive)),
    Trap("settled", record=lambda each: isinstance(each, Settled)),
)


def random_moments(count: int, rng: random.Random) -> list[Trap]:
    """Choose moments: most while the actuator is at work, some while it starts, joins or recovers."""
    found = []
    for number in range(count):
        at_work = rng.random() < 0.75
        after = rng.uniform(0.0, 2.5 if at_work else 5.0)
        when = "of work" if at_work else "of its life"
        found.append(Trap(f"random {number}: {after:.2f} s {when}", after_seconds=after, at_work=at_work))
    return found


class Log:
    """A topic of one partition, read from its beginning for as long as the story lasts."""

    def __init__(self, bootstrap: str, topic: str, decode: Callable[[bytes | None], Any]) -> None:
        self.records: list[Any] = []
        self.told: list[Callable[[Any], None]] = []
        self._bootstrap, self._topic, self._decode = bootstrap, topic, decode

    def of(self, kind: type) -> list[Any]:
        """Give the records of one kind, in order."""
        return [record for record in self.records if isinstance(record, kind)]

    async def follow(self) -> None:
        """Read on until cancelled."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self._topic, 0)])
            async for message in consumer:
                record = self._decode(message.value)
                self.records.append(record)
                for tell in self.told:
                    tell(record)
        finally:
            await consumer.stop()


class Killer:
    """Kills the worker that owns the steps log when the trap that is set is sprung."""

    def __init__(self) -> None:
        self.kills: list[str] = []
        self.struck = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._set: tuple[Trap, Worker] | None = None

    def set(self, trap: Trap, victim: Worker) -> None:
        """Set a trap for a worker."""
        self.struck.clear()
        with self._lock:
            self._set = (trap, victim)

    @property
    def is_sprung(self) -> bool:
        """Say whether the trap that was set last has been sprung."""
        return self._set is None

    def spring(self) -> None:
        """Kill now, whatever the trap waits for."""
        self._strike(lambda _: True)

    def see_record(self, record: Any) -> None:
        """See a record pass on the steps log."""
        self._strike(lambda trap: trap.record is not None and trap.record(record))

    def see_request(self, moment: Moment, request: Request) -> None:
        """See a request at the API server's door; in another thread."""
        self._strike(lambda trap: trap.request == (moment, request.asks))

    def _strike(self, is_sprung: Callable[[Trap], bool]) -> None:
        with self._lock:
            if self._set is None or not is_sprung(self._set[0]):
                return
            trap, victim = self._set
            self._set = None
            victim.server.kill()
            self.kills.append(trap.name)
        self._loop.call_soon_threadsafe(self.struck.set)


class Story:
    """One namespace of Jobs, what they say, and what has become of them."""

    def __init__(self, bootstrap: str, chronicle: Chronicle, jobs: Sequence[Job], producer: AIOKafkaProducer) -> None:
        self.chronicle = chronicle
        self.jobs = {job.name: job for job in jobs}
        self.log = Log(bootstrap, topics.STEPS, steps.decode)
        self.outcomes = Log(bootstrap, topics.OUTCOMES, commands.decode_outcome)
        self.commands = Log(bootstrap, topics.ACTIONS, commands.decode_action)
        self.killer = Killer()
        self.log.told += [self.killer.see_record, self._note_worker]
        self.outcomes.told.append(self._note_outcome)
        self.failed: dict[str, list[str]] = {job.name: [] for job in jobs}  # uids that said `error`, in order
        #: What became of each incarnation that failed, by its uid; one told twice has one id.
        self.finals: dict[str, dict[str, Outcome]] = {}
        self._producer = producer
        self._sick: set[str] = set()
        self._worked: list[int] = []  # process ids of the workers that put something on the steps log, newest last

    def _note_worker(self, record: Any) -> None:
        if isinstance(record, Tick | Announced) and (not self._worked or self._worked[-1] != _pid(record.worker)):
            self._worked.append(_pid(record.worker))

    def _note_outcome(self, outcome: Any) -> None:
        if isinstance(outcome, Outcome) and outcome.final and outcome.result is not Result.REFUSED:
            self.finals.setdefault(outcome.uid, {})[outcome.id] = outcome

    # ---- what the Jobs' processes say

    async def report(self) -> None:
        """Let every incarnation that runs and is well say `loading`, again and again."""
        while True:
            await asyncio.gather(*(self._say_loading(name) for name in self.jobs if self._is_well(name)))
            await asyncio.sleep(REPORT_EVERY_SECONDS)

    async def fail_all(self) -> None:
        """Have every Job say `error`, once, and nothing more in this incarnation; first all must be well."""
        await until_async(self._all_may_fail, "every Job to run", seconds=RUNNING_SECONDS)
        await self._fail(list(self.jobs))

    async def _fail(self, names: Sequence[str]) -> None:
        for name in names:
            self.failed[name].append(self._uid(name))
            self._sick.add(self._uid(name))
        await asyncio.gather(*(self._say(name, "error") for name in names))

    async def _say_loading(self, name: str) -> None:
        if self._is_well(name):  # it may have failed since it was chosen: nothing may come after its `error`
            await self._say(name, "loading")

    def _may_fail(self) -> list[str]:
        under_way = self.open()
        well = (name for name in self.jobs if self._is_well(name, for_seconds=WELL_AFTER_CREATION_SECONDS))
        return [name for name in well if name not in under_way]

    async def _all_may_fail(self) -> bool:
        return len(self._may_fail()) == len(self.jobs)

    def _is_well(self, name: str, *, for_seconds: float = SILENT_AFTER_CREATION_SECONDS) -> bool:
        life = self.chronicle.current(name)
        if life is None or life.uid in self._sick or not self.chronicle.running.get(life.uid):
            return False
        created = datetime.fromisoformat(life.manifest["metadata"]["creationTimestamp"]).timestamp()
        return time.time() > created + for_seconds

    def _uid(self, name: str) -> str:
        life = self.chronicle.current(name)
        assert life is not None
        return life.uid

    async def _say(self, name: str, status: str) -> None:
        job = self.jobs[name]
        report = {"queue_id": job.queue_id, "producer": job.producer, "status": status, "event": status}
        value = json.dumps({**report, "finished": status == "error"}).encode()
        # One partition: a Job's words stay in their order.
        await self._producer.send_and_wait("queue-events", value, partition=0)

    # ---- how far it is

    def open(self) -> list[str]:
        """Name the Jobs that have failed and have no outcome yet."""
        return [name for name, uids in self.failed.items() if uids and uids[-1] not in self.finals]

    def restarts(self) -> int:
        """Count the failures, each of which must be one restart."""
        return sum(len(uids) for uids in self.failed.values())

    async def until_restarted(self, count: int) -> None:
        """Wait until so many Jobs are not, or no more, being restarted."""

        async def enough() -> bool:
            return len(self.jobs) - len(self.open()) >= count

        await until_async(enough, f"{count} Jobs to be restarted", seconds=WAVE_SECONDS)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Wait until every Job has its outcome and nothing is under way or about to be."""

        async def over() -> bool:
            for worker in workers:
                assert worker.server.is_alive, worker.tail()
            return not self.open()

        await until_async(over, "every outcome", seconds=WAVE_SECONDS)

        async def calm() -> bool:
            return await asyncio.to_thread(_nothing_under_way, workers, len(self.jobs))

        await until_async(calm, "all Jobs to be healthy and nothing under way", seconds=WAVE_SECONDS)

    def _missing(self) -> str:
        """Name the Jobs without an outcome, with the last step taken for each; for people."""
        taken = {each.key.split("/")[1]: each for each in self.log.of(Resulted)}
        lines = [
            f"{name}: {msgspec.structs.replace(taken[name].result, manifest=None) if name in taken else 'no step'}"
            for name in self.open()
        ]
        return "\n".join(lines)

    # ---- kills

    async def kill_at(self, trap: Trap, worker: Worker) -> None:
        """Kill a worker that has just been started at a moment of its work; more Jobs fail when few are left."""
        self.killer.set(trap, worker)
        deadline = time.monotonic() + BOUNDARY_SECONDS
        moment = None if trap.at_work else time.monotonic() + trap.after_seconds
        while not self.killer.struck.is_set():
            assert worker.server.is_alive or self.killer.is_sprung, worker.tail()
            assert time.monotonic() < deadline, f"{trap.name} never came\n{self._missing()}\n{worker.tail()}"
            if len(self.open()) < FEWEST_UNDER_WAY:
                await self._fail(self._may_fail())
            if trap.at_work and moment is None and worker.server.pid in self._worked[-1:]:
                moment = time.monotonic() + trap.after_seconds
            if trap.record is None and trap.request is None and moment is not None and time.monotonic() >= moment:
                self.killer.spring()
            await asyncio.sleep(TRAP_POLL_SECONDS)

    def owner_among(self, workers: Iterable[Worker]) -> Worker | None:
        """Find the worker that was the last to put something of its own on the steps log."""
        by_pid = {worker.server.pid: worker for worker in workers}
        return by_pid.get(self._worked[-1]) if self._worked else None

    # ---- the audit

    async def faults(self) -> list[str]:
        """Say everything that is not as it must be, once nothing is under way any more."""
        judged = {command.id: command.uid for command in self.commands.of(Command)}
        deleted_by: dict[str, set[str]] = {}
        for each in self.log.of(Resulted):
            if each.step is Step.DELETE and each.result.what is What.DONE:
                deleted_by.setdefault(judged[each.action_id], set()).add(each.action_id)
        told = Told(self.failed, self.finals, deleted_by)
        return audit.faults(self.chronicle, told, await self.chronicle.listed())


@asynccontextmanager
async def telling(bootstrap: str, chronicle: Chronicle, jobs: Sequence[Job]) -> AsyncIterator[Story]:
    """Begin a story on Jobs that exist: their processes report, and everything is written down."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5) as producer:
        story = Story(bootstrap, chronicle, jobs, producer)
        followed = (story.log.follow(), story.outcomes.follow(), story.commands.follow(), story.report())
        tasks = [asyncio.create_task(each) for each in followed]
        try:
            yield story
            for task in tasks:
                assert not task.done(), task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _nothing_under_way(workers: Sequence[Worker], jobs: int) -> bool:
    """Ask the views: every Job healthy, no action open, no command held."""
    answers = [worker.get("/actions/") for worker in workers]
    shown = [answer.body for answer in answers if answer is not None and answer.status == 200]
    admission = next((each["admission"] for each in shown if each.get("admission")), None)
    rows = next((rows for worker in workers if len(rows := worker.jobs()) == jobs), {})
    open_ = admission is None or admission["in_flight"] or admission["held"]
    return not open_ and bool(rows) and {row["verdict"] for row in rows.values()} == {"healthy"}


def _pid(worker: str) -> int:
    """Read the process id in a worker's name on the log: host-pid-random."""
    return int(worker.rsplit("-", 2)[1])
