"""One record of the steps log at a time: fold it, send what follows, store the state, take the steps.

The order makes a crash harmless (core/actuator.py): outcomes and records are acknowledged first, then the
table is written, then calls and looks begin. What came of them goes back to the log, so nobody waits here.
Knows nothing of Faust: agents/actuator.py lends it the log, the table and the topics.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from math import inf
from typing import Protocol, TypeVar

import msgspec
import structlog
from aiokafka.errors import MessageSizeTooLargeError

from agents.cluster_steps import take, too_large
from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import Cluster
from sf_healer.adapters.threads import in_thread
from sf_healer.core import commands, steps
from sf_healer.core.actions import CALL_SECONDS, FENCE_SECONDS, answer_to
from sf_healer.core.actuator import Actuator, Effects, Look, Task
from sf_healer.core.admission import Fleet, Phase, fleet_of
from sf_healer.core.commands import Command, Outcome, Result, Resume, Unreadable
from sf_healer.core.evidence import UnknownSchema
from sf_healer.core.groups import GroupLook, Neighbours
from sf_healer.core.policy import Limits
from sf_healer.core.steps import (
    Admitted,
    Announced,
    GroupLooked,
    LimitsChanged,
    Step,
    StepResult,
    StepsRecord,
    What,
)

log = structlog.get_logger(__name__)

#: So many announcements are remembered before those that can no longer be read back are forgotten.
_MOST_ANNOUNCED = 1_000
#: A command or pause has some hundred bytes, with a long reason some thousand. What is copied goes into records of the
#: steps log and of the table that hold more than it, and one that they do not take would end each worker that reads it.
LARGEST_COMMAND_BYTES = 64 * 1024
_WRITES = frozenset({Step.DELETE, Step.CREATE, Step.RESTORE})

T = TypeVar("T")


class Ports(Protocol):
    """What the journal needs of the world; each returns when the broker has acknowledged."""

    async def append(self, records: Iterable[StepsRecord]) -> None:
        """Send records to the steps log, in this order; raises MessageSizeTooLargeError for one it does not take."""

    async def publish(self, outcomes: Iterable[Outcome]) -> None:
        """Send outcomes to the audit and to the evidence of their Jobs."""

    async def store(self, key: bytes, value: bytes | None) -> None:
        """Write the actions table."""

    def owns_log(self) -> bool:
        """Return whether the steps log is assigned to this worker right now."""

    def is_current(self, actuator: Actuator) -> bool:
        """Return whether this state is still the one of the present assignment."""

    def crash(self, error: BaseException) -> None:
        """End the process on purpose, so that what was not done is read again."""


class Groups(Protocol):
    """Looks at consumer groups (sf_healer/adapters/groups.py)."""

    async def look(self, *, queue_id: str, topic: str, pod_ip: str, neighbours: Neighbours | None) -> GroupLook:
        """Look at the group of the Job of this queue, topic and pod; says so when there is no answer."""


class Audience(Protocol):
    """Whoever is told what happens. Hears each thing after it is safe, and must return at once."""

    def admitted(self, command: Command) -> None:
        """Hear that a restart of a sick Job begins; not in observe mode."""

    def ended(self, outcome: Outcome) -> None:
        """Hear what became of a command."""

    def fleet_moved(self, before: Phase, after: Phase, since: float, fleet: Fleet) -> None:
        """Hear that the fleet went from one phase to another."""


class InThread(Protocol):
    """Runs a blocking call beside the event loop."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """Return what the call returns; raises what it raises."""


class Journal:
    """Reads the steps log for one assignment of it. A new assignment makes a new one."""

    def __init__(
        self,
        actuator: Actuator,
        cluster: Cluster | None,
        ports: Ports,
        *,
        groups: Groups | None = None,
        audience: Sequence[Audience] = (),
        clock: Callable[[], float] = time.monotonic,
        in_thread: InThread = in_thread,
    ) -> None:
        self.actuator = actuator
        self._cluster = cluster
        self._ports = ports
        self._groups = groups
        self._audience = audience
        self._clock = clock  # goes on while the process is stopped
        self._in_thread = in_thread
        self._calls: set[asyncio.Task[None]] = set()
        #: When this worker sent the announcements that it has not read back (its clock), by Job, action and number. Of
        #: one that was sent again the first time counts, for it may be the first that is read.
        self._announced: dict[tuple[str, str, int], float] = {}

    async def read(self, value: bytes | None, offset: int, at: float) -> bool:
        """Fold one record appended at `at` (epoch seconds) and do what follows; False: the log was lost.

        Then, and when it raises (what the ports raise, or UnknownSchema for a record of a later version), the
        record must not be acknowledged.
        """
        record = steps.decode(value)
        if isinstance(record, Unreadable):
            if record.reason == "unknown_version":
                raise UnknownSchema(f"steps log, offset {offset}: {record.detail}")
            metrics.UNREADABLE_RECORDS.labels(topic=topics.STEPS).inc()
            log.error("steps_record_unreadable", offset=offset, reason=record.reason, detail=record.detail)
            return True
        phase, limits = self.actuator.ledger.phase, self.actuator.ledger.limits
        effects = self.actuator.apply(record, offset, at)
        self._note_announced(effects.sends)
        await asyncio.gather(self._ports.publish(effects.outcomes), self._ports.append(effects.sends))
        if not self._ports.is_current(self.actuator):
            return False  # a write of ours would land on top of the new owner's
        if effects.write is not None:
            await self._ports.store(*effects.write)
        if isinstance(record, LimitsChanged) and limits not in {None, record.limits}:
            log.info("limits_changed", worker=record.worker, limits=_other(limits, record.limits))
        self._tell_audience(record, effects, phase)
        for task in effects.tasks:
            number = (task.action.command.key, task.action.id, task.action.seq)
            self._begin(self._take(task, self._announced.pop(number, -inf)))
        for look in effects.looks:
            self._begin(self._look(look))
        return True

    def _note_announced(self, sends: Iterable[StepsRecord]) -> None:
        """Record when each announcement was sent; one without a record counts as late."""
        now = self._clock()
        for record in sends:
            if isinstance(record, Announced):
                self._announced.setdefault((record.key, record.action_id, record.seq), now)
        if len(self._announced) > _MOST_ANNOUNCED:
            self._announced = {number: at for number, at in self._announced.items() if self._may_come(*number)}

    def _may_come(self, key: str, action_id: str, seq: int) -> bool:
        """Return whether an announcement would have its turn if it were read now."""
        job = self.actuator.jobs.get(key)
        return job is not None and job.action is not None and (job.action.id, job.action.seq) == (action_id, seq - 1)

    def _begin(self, work: "Coroutine[None, None, None]") -> None:
        call = asyncio.create_task(work)
        self._calls.add(call)
        call.add_done_callback(self._ended)

    def _ended(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            self._ports.crash(error)

    async def _take(self, task: Task, announced_at: float) -> None:
        """Take a step in a thread and put what came of it on the log; `announced_at` by our clock."""
        action, step = task.action, task.step

        def guarded() -> StepResult:
            late = self._clock() - announced_at > FENCE_SECONDS
            if step in _WRITES and (late or not self._ports.owns_log()):
                return StepResult(What.LATER, message="this worker was late, or the log is another's now")
            return take(self._cluster, action, step, observe_only=self.actuator.observe_only)

        try:
            async with asyncio.timeout(CALL_SECONDS):
                result = await self._in_thread(guarded)
        except TimeoutError:
            result = StepResult(What.UNKNOWN, message=f"no answer within {CALL_SECONDS:g} s")
        metrics.STEPS.labels(step=step, result=result.what).inc()
        log.info(
            "step_taken",
            job=action.command.key,
            action=action.id,
            step=step,
            result=result.what,
            message=result.message,
        )
        try:
            await self._ports.append([answer_to(action, step, result)])
        except MessageSizeTooLargeError as error:
            if result.manifest is None:
                raise
            log.warning("manifest_not_kept", job=action.command.key, action=action.id, error=str(error))
            await self._ports.append([answer_to(action, step, too_large(result.manifest))])

    async def _look(self, look: Look) -> None:
        """Look at the consumer group of a silent consumer and put what it shows on the log."""
        command = look.command
        seen = GroupLook(unknown="nobody here looks at groups")
        if self._groups is not None:
            seen = await self._groups.look(
                queue_id=command.queue_id,
                topic=command.kafka_topic,
                pod_ip=command.pod_ip,
                neighbours=command.neighbours,
            )
        metrics.GROUP_LOOKS.labels(result="unknown" if seen.unknown else "seen").inc()
        log.info(
            "group_looked_at",
            job=command.key,
            command=command.id,
            look=look.seq,
            group=seen.group,
            members=seen.members,
            committed=seen.committed,
            lag=seen.lag,
            unknown=seen.unknown,
            elsewhere=seen.elsewhere,
        )
        await self._ports.append([GroupLooked(key=command.key, command_id=command.id, seq=look.seq, look=seen)])

    def _tell_audience(self, record: StepsRecord, effects: Effects, phase: Phase) -> None:
        """Say what has happened, now that all of it is safe."""
        ledger = self.actuator.ledger
        if ledger.phase is not phase:
            fleet = fleet_of(ledger)
            log.log(
                logging.INFO if ledger.phase is Phase.CALM else logging.WARNING,
                "fleet_moved",
                before=phase,
                phase=ledger.phase,
                base=fleet.base,
                unhealthy=fleet.unhealthy,
                suspected=fleet.suspected,
            )
            for listener in self._audience:
                listener.fleet_moved(phase, ledger.phase, ledger.phase_since, fleet)
        if isinstance(record, Admitted) and not record.observe_only and effects.write is not None:
            for listener in self._audience:
                listener.admitted(record.command)
        for outcome in effects.outcomes:
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        metrics.OUTCOMES.labels(result=outcome.result).inc()
        if outcome.result is Result.REFUSED:
            metrics.REFUSALS.labels(reason=outcome.reason).inc()
        grounds = outcome.evidence
        log.log(
            logging.WARNING if outcome.needs_person or outcome.result is Result.FAILED else logging.INFO,
            "outcome",
            job=outcome.key,
            command=outcome.command_id,
            result=outcome.result,
            reason=outcome.reason,
            detail=outcome.detail,
            verdict=outcome.verdict,
            silence_seconds=grounds.silence_seconds,
            threshold_seconds=grounds.threshold_seconds,
            group=grounds.group,
            policy=outcome.policy,
            uid=outcome.uid,
            new_uid=outcome.new_uid,
            attempt=outcome.attempt,
            requested_by=outcome.requested_by,
            final=outcome.final,
            needs_person=outcome.needs_person,
            quarantined=outcome.quarantined,
            retry_after_seconds=outcome.retry_after,
            steps=took(outcome),
        )
        for listener in self._audience:
            listener.ended(outcome)


def _other(before: Limits | None, limits: Limits) -> dict[str, float | bool | None]:
    """Give the limits that are not as before."""
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value != getattr(before, name)}


def took(outcome: Outcome) -> dict[str, float]:
    """Give the seconds from the admission of an action to each of its states."""
    return {name: round(at - outcome.steps[0][1], 3) for name, at in outcome.steps}


def copy_of_command(value: bytes | None) -> bytes | None:
    """Give what the steps log gets of a record of `healer-actions`; None for what cannot be read."""
    return _checked(commands.decode_action(value), value, topics.ACTIONS)


def copy_of_pause(key: bytes | None, value: bytes | None) -> bytes | None:
    """Give what the steps log gets of a record of `sf-healer-control`; a tombstone ends its pause."""
    if value is None and key and len(key) <= LARGEST_COMMAND_BYTES:
        return commands.encode(Resume(scope=key.decode(errors="replace"), reason="removed from the topic"))
    return _checked(commands.decode_control(value), value, topics.CONTROL)


def _checked(record: object, value: bytes | None, topic: str) -> bytes | None:
    if not isinstance(record, Unreadable) and len(value or b"") > LARGEST_COMMAND_BYTES:
        record = Unreadable("too_large", f"{len(value or b'')} bytes, where {LARGEST_COMMAND_BYTES} are taken")
    if isinstance(record, Unreadable):
        if record.reason == "unknown_version":
            raise UnknownSchema(record.detail)
        metrics.UNREADABLE_RECORDS.labels(topic=topic).inc()
        log.error("command_unreadable", reason=record.reason, detail=record.detail)
        return None
    return value
