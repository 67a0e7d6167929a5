"""Is this worker alive, is it ready? Asked by the probes; answered from what the agents have got done.

Ready: partitions are assigned, the tables are recovered, the Jobs are listed, marks are made. Alive: no reader
stands still for a minute with something to read. A broker or cluster that is away, or a rebalance, makes a worker
not ready, never not alive: restarting it would mend nothing. A worker that is not alive also ends itself, for where
no probe does.
"""

import gc
import time
from typing import Any, cast

import faust
import structlog
from aiokafka.errors import KafkaError

from agents import inventory, telemetry
from sf_healer import preflight
from sf_healer.adapters import kafka
from sf_healer.app import actuator, detector, settings, turned_away
from sf_healer.core.progress import Progress
from sf_healer.settings import Role, SettingsError
from sf_healer.transport import end_offsets, positions
from tables import actions, jobs

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 5.0

_progress = Progress()
_no_marks_because: str | None = None  # as last found out


class StalledError(Exception):
    """A reader of this worker stands still although there is something to read."""


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
    stalled = _progress.stalled(now=time.monotonic())
    return [f"{reader} has not moved for {seconds:.0f} s" for reader, seconds in stalled.items()]


@detector.task  # type: ignore[untyped-decorator]  # Faust's
async def watch_progress() -> None:
    """Look every few seconds whether the batched topics are being read, and end the process when they are not."""
    frozen = False
    while not detector.should_stop:
        await detector.sleep(LOOK_EVERY_SECONDS)
        if not frozen and ready():
            gc.freeze()  # what start-up made stays; looking through it again and again is half the CPU of a batch
            frozen = True
        if detector.rebalancing or detector.in_recovery or not inventory.first_list.is_set():
            _progress.forget()
            continue
        reached = positions(detector)
        try:
            ends = await end_offsets(detector, reached)
        except KafkaError:
            _progress.forget()
            continue
        readers = {f"{tp.topic} {tp.partition}": (position, ends[tp]) for tp, position in reached.items()}
        _progress.note(readers, now=time.monotonic())
        problems = not_alive()
        if problems:
            log.critical("stalled", problems=problems)
            await detector.crash(StalledError("; ".join(problems)))
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
    if actions.owns_log() and actions.current is None:
        problems.append("the steps log is ours and its table is not recovered yet")
    return problems


def _turned_away(app: faust.App) -> list[str]:
    reason = turned_away(app)
    return [] if reason is None else [reason]
