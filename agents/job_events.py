"""Kubernetes Events beside Jobs, for `kubectl describe`: JobStuck, JobFailed, JobHealed, HealingFailed, HealingRefused.

Told by the worker that reads the steps log, which alone may create Events, and in heal mode alone. The same Event is
created once: its name is made of the incarnation and what it says, and the API server refuses the second one.
Whether it worked matters to nobody's restart.
"""

import time
from collections.abc import Callable

import msgspec
import structlog

from agents.outbox import Loss, Outbox, Recently
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import Cluster
from sf_healer.adapters.threads import in_thread
from sf_healer.core.admission import Fleet, Phase, Reason
from sf_healer.core.commands import REQUESTED_VERDICT, Command, Grounds, Outcome, Result
from sf_healer.core.verdicts import Verdict
from sf_healer.views.notices import describe, judged

log = structlog.get_logger(__name__)

QUEUE = 500
#: The API server keeps an Event for an hour by default; it is not asked more often than this to make it again.
REPEAT_SECONDS = 900.0
_REMEMBERED = 10_000

#: Refusals that time alone ends within minutes, or that say that the Job needs nothing: no Event.
_PASSING = frozenset(
    {
        Reason.EXPIRED,
        Reason.DUPLICATE,
        Reason.SUPERSEDED,
        Reason.ASKING,
        Reason.BACKOFF,
        Reason.COUNTS,
        Reason.RATE,
        Reason.IN_FLIGHT,
    }
)
_IDLE = frozenset({Reason.IDLE, Reason.IDLE_UNKNOWN})


class JobEvent(msgspec.Struct, frozen=True):
    """One Event to create; `once` tells it from others of its reason about the same incarnation."""

    key: str
    uid: str
    reason: str
    message: str
    once: str
    warns: bool


class JobEvents:
    """Hears what happens and puts Events beside the Jobs."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float] = time.monotonic, queue: int = QUEUE) -> None:
        self._cluster = cluster
        self._recently = Recently(REPEAT_SECONDS, limit=_REMEMBERED, clock=clock)
        self._outbox: Outbox[JobEvent] = Outbox(self._emit, _lost, limit=queue)

    def admitted(self, command: Command) -> None:
        """Say that a Job is sick and about to be restarted."""
        self._put(sick(command.key, command.uid, command.verdict, command.evidence))

    def ended(self, outcome: Outcome) -> None:
        """Say what became of a Job, and of one that is not restarted why."""
        for event in events_of(outcome):
            self._put(event)

    def fleet_moved(self, before: Phase, after: Phase, since: float, fleet: Fleet) -> None:
        """Say nothing: a storm is no Job's, and each Job that is refused for it has its own Event."""

    async def close(self, grace_seconds: float) -> None:
        """Create what can be created within the grace; the rest is dropped."""
        await self._outbox.close(grace_seconds)

    def _put(self, event: JobEvent | None) -> None:
        if event is not None and self._recently.first((event.uid, event.reason, event.once)):
            self._outbox.put(event)

    async def _emit(self, event: JobEvent) -> None:
        failure = await in_thread(
            lambda: self._cluster.emit_event(
                event.key,
                event.uid,
                reason=event.reason,
                message=event.message,
                once=event.once,
                type_="Warning" if event.warns else "Normal",
            )
        )
        metrics.JOB_EVENTS.labels(result="created" if failure is None else failure.kind).inc()
        if failure is not None:
            log.info("event_not_emitted", job=event.key, reason=event.reason, kind=failure.kind, error=failure.message)


def sick(key: str, uid: str, verdict: str, evidence: Grounds) -> JobEvent | None:
    """Give the Event about a Job that is stuck or failed; None where a person asked for the restart."""
    if verdict == REQUESTED_VERDICT:
        return None
    reason = "JobFailed" if verdict == Verdict.FAILED else "JobStuck"
    return JobEvent(key, uid, reason, f"sf-healer: {judged(verdict, evidence)}", verdict, warns=True)


def events_of(outcome: Outcome) -> list[JobEvent]:
    """Give the Events about an outcome, on the incarnation that people will look at."""
    if not (outcome.final or outcome.needs_person):
        return []
    uid = outcome.new_uid or outcome.uid
    message = describe(outcome)
    match outcome.result:
        case Result.RESTARTED:
            return [JobEvent(outcome.key, uid, "JobHealed", message, outcome.id, warns=False)]
        case Result.FAILED:
            return [JobEvent(outcome.key, uid, "HealingFailed", message, outcome.id, warns=True)]
        case Result.REFUSED if outcome.reason not in _PASSING:
            idle = outcome.reason in _IDLE
            refused = JobEvent(outcome.key, uid, "HealingRefused", message, outcome.reason, warns=not idle)
            found = None if idle else sick(outcome.key, outcome.uid, outcome.verdict, outcome.evidence)
            return [refused] if found is None else [found, refused]
    return []


def _lost(event: JobEvent, why: Loss, detail: str) -> None:
    metrics.JOB_EVENTS.labels(result=why).inc()
    log.info("event_not_emitted", job=event.key, reason=event.reason, kind=why, error=detail)
