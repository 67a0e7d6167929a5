"""Is this worker alive, is it ready? Asked by the probes; answered from what the agents have got done.

Ready: partitions are assigned, the tables are recovered, the Jobs are listed, marks are made. Alive: whatever has work
moves, looked at for each partition of each app (core/progress.py): its position against the end of its log, the last
mark, the last sweep, a table that is being restored. A broker or cluster that is away, or a rebalance, makes a worker
not ready, never not alive: restarting it would mend nothing. A worker that is not alive also ends itself, for where no
probe does.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from agents import inventory, sweeper, telemetry
from sf_healer import preflight
from sf_healer.adapters import kafka, metrics
from sf_healer.app import actuator, detector, settings, turned_away
from sf_healer.core.progress import UNREAD, Progress
from sf_healer.settings import Role, SettingsError
from sf_healer.topics import EVIDENCE, STEPS
from sf_healer.transport import end_offsets, reached
from tables import actions, jobs
from tables.durable import OrderedTable

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 5.0
#: A pause of the event loop is seen if it is longer than this; a look costs some microseconds.
PAUSE_LOOK_SECONDS = 0.05

Places = Mapping[TP, int | None]
Ends = Mapping[TP, int]


class Mover(NamedTuple):
    """Where something stands, and up to where there is work for it."""

    position: int
    end: int


_no_marks_because: str | None = None  # as last found out


class StalledError(Exception):
    """Something of this worker stands still although there is work for it."""


class Watch:
    """What of one app is watched."""

    def __init__(self, app: faust.App, table: OrderedTable, movers: Callable[[Places, Ends], dict[str, Mover]]) -> None:
        self.progress = Progress()
        self.app = app
        self._table = table
        self._movers = movers
        #: Between the end of one rebalance and the beginning of the next, as the app is told.
        self.is_assigned = False

    async def look(self, *, clock: Callable[[], float] = time.monotonic) -> list[str]:
        """Look once whether what has work moves; says what stands still for too long."""
        restored = self._table.restored
        if not self.is_assigned or (self._is_rebalancing() and not restored.of):
            self.progress.forget()
            return []
        places = reached(self.app)
        try:
            ends = await end_offsets(self.app, places)
        except KafkaError:
            self.progress.forget()  # a broker that is away is nobody's stall
            return []
        if restored.of:
            movers = {f"the restoring of table {self._table.name}": Mover(*restored)}
        elif self.is_assigned and not self._is_rebalancing():
            movers = self._movers(places, ends)
        else:
            movers = {}
        self.progress.note(movers, now=clock())
        return self.stalled(now=clock())

    def stalled(self, *, now: float) -> list[str]:
        """Say what stands still for too long."""
        return [
            f"{mover} has not moved for {seconds:.0f} s" for mover, seconds in self.progress.stalled(now=now).items()
        ]

    def _is_rebalancing(self) -> bool:
        return bool(self.app.rebalancing or self.app.in_recovery)


def _partitions(places: Places, ends: Ends) -> dict[str, Mover]:
    """Take each partition for a mover, one that was never read included: nothing may be arriving at all."""
    return {
        f"{tp.topic} {tp.partition}": Mover(UNREAD if position is None else position, max(ends.get(tp, 0), 0))
        for tp, position in places.items()
    }


def _of_detector(places: Places, ends: Ends) -> dict[str, Mover]:
    if not inventory.first_list.is_set():  # reports and stop commands wait for names, evidence does not
        places = {tp: position for tp, position in places.items() if tp.topic == EVIDENCE}
    waiting = {tp for tp in places if tp.topic == settings.source_topic} if inventory.reports_wait() else set()
    movers = _partitions({tp: position for tp, position in places.items() if tp not in waiting}, ends)
    if any(tp.topic == settings.source_topic for tp in places):
        movers["the making of marks"] = Mover(telemetry.marks_tried, telemetry.marks_tried + 1)
    for number, sent_at in telemetry.forwarder.newest_sent_at().items():
        if number in jobs.hot:
            folded_at = sweeper.folded_at.get(number, 0.0)
            movers[f"the sweep of partition {number}"] = Mover(_ms(folded_at), _ms(max(folded_at, sent_at)))
    return movers


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


_watches = (
    *([Watch(detector, jobs.jobs, _of_detector)] if settings.role is not Role.ACTUATOR else []),
    *([Watch(actuator, actions.actions, _partitions)] if settings.role is not Role.DETECTOR else []),
)


def not_ready() -> list[str]:
    """Say what is missing before this worker does its part; nothing when it is ready."""
    problems = []
    if settings.role is not Role.ACTUATOR:
        problems += _detector_problems()
    if settings.role is not Role.DETECTOR:
        problems += _actuator_problems()
    return problems


def ready() -> bool:
    """Whether this worker does its part."""
    return not not_ready()


def not_alive() -> list[str]:
    """Say why this process should be restarted; nothing when it should not."""
    return [problem for watch in _watches for problem in watch.stalled(now=time.monotonic())]


async def watch_until_stalled(watch: Watch) -> None:
    """Look every few seconds whether an app gets on, and end the process when it does not."""
    while not watch.app.should_stop:
        await watch.app.sleep(LOOK_EVERY_SECONDS)
        problems = await watch.look()
        if problems:
            log.critical("stalled", app=watch.app.conf.id, problems=problems)
            await watch.app.crash(StalledError("; ".join(problems)))
            return


def _begin(watch: Watch) -> None:
    app = watch.app

    @app.task  # type: ignore[untyped-decorator]  # Faust's
    async def watch_progress() -> None:
        await watch_until_stalled(watch)

    @app.on_partitions_revoked.connect  # type: ignore[arg-type]  # it asks for a name that it never passes by
    async def note_revoked(_app: Any, _revoked: set[TP], **_: Any) -> None:
        watch.is_assigned = False

    @app.on_partitions_assigned.connect  # type: ignore[arg-type]  # as above
    async def note_assigned(_app: Any, _assigned: set[TP], **_: Any) -> None:
        watch.is_assigned = True


for _watch in _watches:
    _begin(_watch)


async def watch_pauses(app: faust.App, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Measure how late the event loop is, for as long as an app runs; both apps share one loop."""
    while not app.should_stop:
        due = clock() + PAUSE_LOOK_SECONDS
        await asyncio.sleep(PAUSE_LOOK_SECONDS)
        metrics.EVENT_LOOP_PAUSES.observe(max(0.0, clock() - due))


@_watches[0].app.task  # type: ignore[untyped-decorator]  # Faust's
async def _watch_pauses() -> None:
    await watch_pauses(_watches[0].app)


@detector.task  # type: ignore[untyped-decorator]  # Faust's
async def freeze_what_stays() -> None:
    """Tell the garbage collector, once the worker is ready, that what start-up made stays.

    Looking through it again and again is half the CPU of a batch.
    """
    while not detector.should_stop:
        await detector.sleep(LOOK_EVERY_SECONDS)
        if ready():
            gc.freeze()
            return


@detector.task  # type: ignore[untyped-decorator]  # Faust's
async def find_out_why_there_are_no_marks() -> None:
    """Look at the broker as before the start while no marks are made: the clients only log why they cannot go on."""
    global _no_marks_because  # noqa: PLW0603  one a process, like the marks
    while not detector.should_stop:
        await detector.sleep(LOOK_EVERY_SECONDS)
        reason = await _reason_of_the_broker() if _mark_problems() else None
        if reason is not None and reason != _no_marks_because:
            log.error("no_marks", reason=reason)
        _no_marks_because = reason


async def _reason_of_the_broker() -> str | None:
    try:
        await kafka.wait_for_broker(settings, patience_seconds=0.0)
        return "; ".join(await preflight.kafka_problems(settings)) or None
    except (kafka.BrokerUnreachableError, SettingsError) as problem:
        return f"the broker does not answer ({problem})"


def _detector_problems() -> list[str]:
    problems = _turned_away(detector) + inventory.problems()
    restoring = jobs.restoring()
    if restoring is not None:
        problems.append(f"the jobs table is being restored: {restoring}")
    elif detector.rebalancing or detector.in_recovery:
        problems.append("the consumer group of the detector is rebalancing")
    if not (detector.consumer and detector.assignor.assigned_actives()):
        problems.append("no partition is assigned yet")
    return problems or _mark_problems()


def _mark_problems() -> list[str]:
    """Say so when marks do not come: nobody is judged meanwhile."""
    marked_at = telemetry.forwarding.marked_at
    if marked_at is None:
        return ["no mark has been made yet"]
    seconds = time.monotonic() - marked_at
    if seconds <= settings.feed_gap_seconds:
        return []
    reason = _no_marks_because or "the broker does not answer"
    return [f"{reason}: no mark for {seconds:.0f} s, and no verdict meanwhile"]


def _actuator_problems() -> list[str]:
    problems = _turned_away(actuator)
    if not cast("Any", actuator.tables).recovery.completed.is_set():
        problems.append("the actuator has not joined its consumer group and recovered its table yet")
    if actuator.rebalancing:
        problems.append("the consumer group of the actuator is rebalancing")
    if actuator.in_recovery:
        problems.append("the actions table is being recovered")
    if actions.nobody_owns_log():
        problems.append(f"no worker reads {STEPS}: it was away when the group divided its topics; no Job is restarted")
    if actions.owns_log() and actions.current is None:
        problems.append("the steps log is ours and its table is not recovered yet")
    return problems


def _turned_away(app: faust.App) -> list[str]:
    reason = turned_away(app)
    return [] if reason is None else [reason]
