"""Commands in, restarts and refusals out: the Faust side of agents/journal.py.

Three agents on one app, all of one-partition topics: two copy commands and pauses to the steps log, so that
there is one order of everything; the third reads that log. A tick a second makes time a record too.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

import tables.actions
from agents import topics
from agents.dead_letters import dead_letter
from agents.job_events import JobEvents
from agents.journal import Journal, copy_of_command, copy_of_pause
from agents.notifications import Notifier
from agents.rollout import LOOK_SECONDS, tell
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import Cluster
from sf_healer.adapters.groups import GroupReader
from sf_healer.app import actuator as app
from sf_healer.app import settings
from sf_healer.core import commands, evidence, steps
from sf_healer.core.actions import holds_slot
from sf_healer.core.actuator import Actuator
from sf_healer.core.admission import Phase, pauses_that_hold
from sf_healer.core.combine import Rejected
from sf_healer.core.commands import Outcome
from sf_healer.core.partitioning import partition_of
from sf_healer.core.steps import StepsRecord, Tick
from sf_healer.settings import Identity, Mode
from tables.actions import WORKER, owns_log, store

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
#: A worker that stops hands its log over this much later, if there is still something to tell.
TELLING_GRACE_SECONDS = 1.0
#: A log that is not being read gets no more ticks than this: they would only delay what comes after them.
_TICKS_UNREAD = 3


class _Faust:
    """The journal's ports on this app's topics and table."""

    async def append(self, records: Iterable[StepsRecord]) -> None:
        await acknowledged(_step(steps.encode(record), steps.key_of(record)) for record in records)

    async def publish(self, outcomes: Iterable[Outcome]) -> None:
        await acknowledged(record for outcome in outcomes for record in _published(outcome))

    async def store(self, key: bytes, value: bytes | None) -> None:
        await store(key, value)

    def owns_log(self) -> bool:
        return owns_log()

    def is_current(self, actuator: Actuator) -> bool:
        return tables.actions.current is actuator

    def crash(self, error: BaseException) -> None:
        log.critical("call_crashed", error=repr(error))
        asyncio.get_running_loop().create_task(app.crash(error))


class _Reader:
    """Which journal reads the log now, and how many of our ticks it has not read yet."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.groups = GroupReader(settings)
        self.audience: list[JobEvents | Notifier] = [Notifier(settings)]
        self.connected = asyncio.Event()
        self.journal: Journal | None = None
        self.unread_ticks = 0

    def current(self) -> Journal | None:
        """Give the journal of the present assignment."""
        actuator = tables.actions.current
        if actuator is None:
            self.journal = None
        elif self.journal is None or self.journal.actuator is not actuator:
            self.journal = Journal(actuator, self.cluster, _Faust(), groups=self.groups, audience=self.audience)
            self.unread_ticks = 0
        return self.journal


_reader = _Reader()


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def connect() -> None:
    """Prepare the cluster's client; without a cluster (identity = convention) Jobs are only observed."""
    if settings.identity is Identity.CLUSTER:
        _reader.cluster = await asyncio.to_thread(
            Cluster.connect, namespace=settings.namespace, kubeconfig=settings.kubeconfig
        )
        if settings.mode is Mode.HEAL:  # a worker that only observes may create no Events
            _reader.audience.append(JobEvents(_reader.cluster))
    _reader.connected.set()


@app.on_before_shutdown.connect  # type: ignore[arg-type]  # it asks for a name that it never passes by
async def disconnect(_app: Any, **_: Any) -> None:
    """Tell what is still to be told, and close the connections that looks and notifications have opened."""
    await asyncio.gather(*(listener.close(TELLING_GRACE_SECONDS) for listener in _reader.audience))
    await _reader.groups.close()


@app.agent(topics.steps)
async def actuator(stream: Any) -> None:
    """Read the steps log, one record at a time."""
    await _reader.connected.wait()
    async for event in stream.noack().events():
        journal = _reader.current()
        message = event.message
        if journal is None or not await journal.read(message.value, message.offset, message.timestamp):
            continue  # revoked while it waited: the new owner reads it again, so it must not be acknowledged
        metrics.STEPS_READ.set_to_current_time()
        if message.value == _TICK:
            _reader.unread_ticks = max(0, _reader.unread_ticks - 1)
        event.ack()


@app.agent(topics.healer_actions)
async def copy_commands(stream: Any) -> None:
    """Copy what the sweeper and people ask for to the steps log."""
    async for event in stream.noack().events():
        message = event.message
        copy = copy_of_command(message.value)
        if copy is not None:
            await acknowledged([_step(copy, (message.key or b"").decode(errors="replace"))])
        else:
            await _bury(message, "not_a_command")
        event.ack()


@app.agent(topics.pauses)
async def copy_pauses(stream: Any) -> None:
    """Copy pauses and their ends to the steps log."""
    async for event in stream.noack().events():
        message = event.message
        copy = copy_of_pause(message.key, message.value)
        if copy is not None:
            await acknowledged([_step(copy, "")])
        else:
            await _bury(message, "not_a_pause")
        event.ack()


async def _bury(message: Any, reason: str) -> None:
    """Send what cannot be read to the dead letters; returns when that is acknowledged."""
    reject = Rejected(message, reason)
    await acknowledged([dead_letter(topics.dead_letters_of_actuator, message.topic, message.partition, reject)])
    metrics.DEAD_LETTERS.labels(reason=reason).inc()


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def tick_loop() -> None:
    """Send a tick a second while the log is ours and being read."""
    while not app.should_stop:
        await app.sleep(TICK_SECONDS)
        show(tables.actions.current if owns_log() else None)
        if app.rebalancing or app.in_recovery or _reader.current() is None:
            continue
        if _reader.unread_ticks < _TICKS_UNREAD:
            _reader.unread_ticks += 1
            await acknowledged([_step(_TICK, "")])


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def rollout_loop() -> None:
    """Look at queue-manager's Rollout while the log is ours and being read."""
    while not app.should_stop:
        await app.sleep(LOOK_SECONDS)
        journal = None if app.rebalancing or app.in_recovery or not owns_log() else _reader.current()
        if journal is not None and _reader.cluster is not None:
            await tell(journal.actuator, _reader.cluster, _Faust().append)


def show(actuator: Actuator | None) -> None:
    """Show the actions and what holds restarts back as metrics; None where another worker reads the log."""
    metrics.ADMISSION_PHASE.clear()
    actions = actuator.open_actions().values() if actuator is not None else ()
    metrics.ACTIONS_WAITING.set(sum(each.asks_for_a_person for each in actions))
    metrics.ACTIONS_IN_FLIGHT.set(sum(holds_slot(each) for each in actions))
    metrics.PAUSES.set(len(pauses_that_hold(actuator.ledger.pauses, actuator.now)) if actuator is not None else 0)
    if actuator is not None:
        for phase in Phase:
            metrics.ADMISSION_PHASE.labels(phase=phase).set(phase is actuator.ledger.phase)


_TICK = steps.encode(Tick(worker=WORKER))


def _step(value: bytes, key: str) -> Outgoing:
    return Outgoing(topics.steps, value, partition=0, key=key.encode() or None)


def _published(outcome: Outcome) -> tuple[Outgoing, Outgoing]:
    partition = partition_of(outcome.key, settings.partitions)
    return (
        Outgoing(topics.outcomes, commands.encode(outcome), partition=0, key=outcome.key.encode()),
        Outgoing(topics.evidence, evidence.encode_outcome(outcome), partition=partition),
    )
