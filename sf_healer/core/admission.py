"""The safety valve: may this command be followed now? One function, `admit`, over one ledger.

The ledger is folded from `sf-healer-steps` alone, so a restarted actuator has neither forgotten a storm nor
refilled its budget. Time is an argument (append time of that log, epoch seconds), the numbers are policy.Limits, and
a change of them is a record of that log too. A refusal is a value with a named reason. Sources of the rules: Cluster
API's maxUnhealthy and maxInFlight, node-lifecycle's disruption modes, the Job controller's back-off, TCP's slow start;
see docs/decisions/0006.
"""

from collections.abc import Iterable
from enum import StrEnum
from math import inf

import msgspec

from sf_healer.core.commands import ALL_JOBS, REQUESTED_VERDICT, Command, Pause
from sf_healer.core.facts import Condition, JobFact
from sf_healer.core.groups import GroupLook, Idle
from sf_healer.core.policy import MOST_ATTEMPTS, Limits
from sf_healer.core.rollouts import NO_ROLLOUT, DuringRollout, RolloutView, retry_after, why_held
from sf_healer.core.steps import FleetCounts

# Commands kept until the fleet is counted or a group looked at; more are refused, for the ledger is one record.
HELD_COMMANDS = 64
# How many ids and uids of a Job's past are remembered: more than its attempts in any window.
REMEMBERED = MOST_ATTEMPTS
_COUNTS_RETRY_SECONDS = 5.0  # counts come this often
_IN_FLIGHT_RETRY_SECONDS = 10.0
_QUARANTINED_RETRY_SECONDS = 60.0
# A rate that allows none for long may be another one soon: a policy file is read again while we run.
_RATE_RETRY_SECONDS = 60.0
# A create that was refused holds all others back, for what refuses one may refuse every one; but no longer than this,
# for nobody may see to that Job: 0027.
REFUSED_CREATE_HOLDS_SECONDS = 3600.0


class Reason(StrEnum):
    """Why a command is refused, in the order of the checks; a metric label."""

    EXPIRED = "expired"
    PAUSED = "paused"
    DUPLICATE = "duplicate"
    EXEMPT = "exempt"
    SUPERSEDED = "superseded"
    IDLE = "idle"
    IDLE_UNKNOWN = "idle_unknown"
    ASKING = "asking"
    QUARANTINED = "quarantined"
    BACKOFF = "backoff"
    PLATFORM_ROLLOUT = "platform_rollout"
    CREATES_REFUSED = "creates_refused"
    COUNTS = "counts"
    STORM = "storm"
    RATE = "rate"
    IN_FLIGHT = "in_flight"


#: Refusals for want of a fact that is on its way: the command is held till it comes.
WAITS = frozenset({Reason.ASKING, Reason.COUNTS})


class Allowed(msgspec.Struct, frozen=True):
    """The command may be followed."""


class Refused(msgspec.Struct, frozen=True):
    """The command is not followed; ask again after `retry_after` seconds at the earliest."""

    reason: Reason
    retry_after: float
    detail: str


class Fleet(msgspec.Struct, frozen=True):
    """The Jobs of all evidence partitions together; `as_of` is the oldest count, 0 while one is missing.

    `suspected` of the unhealthy are silent consumers that may yet turn out to be idle.
    """

    base: int
    unhealthy: int
    sick: int
    as_of: float
    missing: int = 0
    suspected: int = 0


class History(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of the restarts of one Job; fields in wire order, add at the end only."""

    attempts: tuple[float, ...] = ()  # when its Job was touched, newest last
    ended_at: float = 0.0  # when the last attempt ended
    quarantined_at: float = 0.0  # 0: it is not
    sick_at: float = 0.0  # when a command last met the quarantine
    acted: tuple[str, ...] = ()  # ids of commands that touched the Job
    replaced: tuple[str, ...] = ()  # uids that we deleted
    withdrawn: tuple[tuple[str, float], ...] = ()  # ids taken back before their action was opened, and when decided


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """An admitted action that is not settled yet; fields in wire order, add at the end only."""

    key: str
    action_id: str
    at: float
    decided_at: float = 0.0  # of its command; 0: admitted by a release that did not say


class Inquiry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of the consumer group of a held command's Job; fields in wire order, add at the end only."""

    seq: int = 0  # of the look that comes next
    due_at: float = 0.0
    before: GroupLook | None = None
    idle: Idle = Idle.TO_ASK
    told: str = ""


class Phase(StrEnum):
    """How the fleet as a whole is seen."""

    CALM = "calm"
    STORM = "storm"  # too many turned unhealthy: nothing is restarted
    PROBING = "probing"  # after the hold: one canary, then more with each that works


class Ledger(msgspec.Struct, frozen=True, array_like=True):
    """What admission remembers of all Jobs together; fields in wire order, add at the end only."""

    version: int = 1
    offset: int = -1  # of the newest record of the steps log in it
    tokens: float = -1.0  # of the rate limit; -1: a bucket never used is full
    tokens_at: float = 0.0
    window: int = 1  # actions that may be in flight
    slots: tuple[Slot, ...] = ()
    phase: Phase = Phase.CALM
    phase_since: float = 0.0
    counted_at: float = 0.0  # when fresh counts were last seen
    counts: dict[int, FleetCounts] = {}
    pauses: dict[str, Pause] = {}
    held: tuple[Command, ...] = ()
    inquiries: dict[str, Inquiry] = {}  # by the id of a held command
    passed: bool = False  # the storm that is held for passed; the next is another one
    limits: Limits | None = None  # that were said last; None: none were yet
    rollout: RolloutView = NO_ROLLOUT  # of queue-manager, as last seen
    rollout_at: float = 0.0
    now: float = 0.0  # the newest time on the log when this was written


NO_HISTORY = History()


def admit(
    ledger: Ledger,
    command: Command,
    fleet: Fleet,
    limits: Limits,
    now: float,
    *,
    history: History = NO_HISTORY,
    job: JobFact | None = None,
    idle: Idle = Idle.NOT_ASKED,
    group: str = "",
    refused_create: str = "",
) -> Allowed | Refused:
    """Say whether a command may be followed now, and if not, the first reason in the order of `Reason`.

    `history` is what is remembered of the Job, `job` the newest fact about it where one is at hand; a command
    of a person passes the Job's own brakes (quarantine, back-off), never those of the fleet. `group` says in
    words what `idle` rests on, `refused_create` names another Job whose create was refused and what the API said.
    """
    refused = _unfit(ledger, command, now, history, job) or _not_needed(idle, group, limits)
    if refused is None and command.verdict != REQUESTED_VERDICT:
        refused = _tried_too_often(history, limits_of(command, limits), now)
    unhealthy_at = command.evidence.unhealthy_at or 0.0
    return (
        refused or _fleet_brakes(ledger, unhealthy_at, fleet, limits, now, refused_create=refused_create) or Allowed()
    )


def brake(ledger: Ledger, fleet: Fleet, limits: Limits, now: float, *, refused_create: str = "") -> Refused | None:
    """Say what refuses the restart of any Job now, whichever it is; None where that depends on the Job."""
    pause = pauses_that_hold(ledger.pauses, now).get(ALL_JOBS)
    return (
        _paused(pause)
        if pause is not None
        else _fleet_brakes(ledger, 0.0, fleet, limits, now, refused_create=refused_create)
    )


def allowed_now(ledger: Ledger, fleet: Fleet, limits: Limits, now: float, *, refused_create: str = "") -> int:
    """Say how many restarts may begin now, of Jobs that nothing of their own holds back."""
    if brake(ledger, fleet, limits, now, refused_create=refused_create) is not None:
        return 0
    return min(int(tokens_left(ledger, limits, now)), min(ledger.window, limits.in_flight) - len(ledger.slots))


def limits_of(command: Command, limits: Limits) -> Limits:
    """Give the limits as the policy of the command's Job has them."""
    return msgspec.structs.replace(limits, attempts=command.attempts) if command.attempts else limits


def reserve(ledger: Ledger, command: Command, limits: Limits, now: float) -> Ledger:
    """Spend a token and a slot on an admitted command."""
    return msgspec.structs.replace(
        ledger,
        tokens=tokens_left(ledger, limits, now) - 1.0,
        tokens_at=now,
        slots=(*ledger.slots, Slot(command.key, command.id, now, command.decided_at)),
    )


def change_limits(ledger: Ledger, limits: Limits, now: float) -> Ledger:
    """Go on by other numbers: what has been saved up by the old ones is kept as far as the new ones allow."""
    saved = ledger.tokens if ledger.limits is None else tokens_left(ledger, ledger.limits, now)
    return msgspec.structs.replace(
        ledger,
        limits=limits,
        tokens=min(saved, float(limits.rate_burst)),
        tokens_at=now if ledger.limits is not None else ledger.tokens_at,
        window=max(1, min(ledger.window, limits.in_flight)),
    )


#: A count from so far in the future is of a partition whose broker's clock was ahead.
_COUNTED_AHEAD_SECONDS = 60.0


def put_right(ledger: Ledger, now: float) -> Ledger:
    """Bring times that are still to come back to now, and forget counts of then: a clock that was ahead wrote them."""
    return msgspec.structs.replace(
        ledger,
        tokens_at=min(ledger.tokens_at, now),
        slots=tuple(msgspec.structs.replace(slot, at=min(slot.at, now)) for slot in ledger.slots),
        phase_since=min(ledger.phase_since, now),
        counted_at=min(ledger.counted_at, now),
        counts={partition: each for partition, each in ledger.counts.items() if each.at <= now},
    )


def put_history_right(history: History, now: float) -> History:
    """Bring times that are still to come back to now: no Job waits for the time of a clock that was ahead."""
    return msgspec.structs.replace(
        history,
        attempts=tuple(min(at, now) for at in history.attempts),
        ended_at=min(history.ended_at, now),
        quarantined_at=min(history.quarantined_at, now),
        sick_at=min(history.sick_at, now),
    )


def settle(ledger: Ledger, action_id: str, limits: Limits, now: float, *, repaired: bool | None) -> Ledger:
    """Give a slot back, and learn from a repair that worked (True) or did not (False)."""
    if all(slot.action_id != action_id for slot in ledger.slots):
        return ledger  # read a second time
    slots = tuple(slot for slot in ledger.slots if slot.action_id != action_id)
    ledger = msgspec.structs.replace(ledger, slots=slots)
    if repaired is None:
        return ledger
    if repaired:
        window = max(1, min(2 * ledger.window, limits.in_flight))
        phase = Phase.CALM if window >= limits.in_flight and ledger.phase is Phase.PROBING else ledger.phase
        return _moved(ledger, phase, now, window=window)
    phase = Phase.STORM if ledger.phase is Phase.PROBING else ledger.phase
    return _moved(ledger, phase, now, window=max(1, ledger.window // 2))


def count(ledger: Ledger, counts: FleetCounts, limits: Limits, now: float) -> Ledger:
    """Take in what one evidence partition counts, and see whether there is a storm."""
    known = {number: known for number, known in ledger.counts.items() if known.partitions == counts.partitions}
    older = known.get(counts.partition)
    if older is None or counts.at >= older.at or older.at > now + _COUNTED_AHEAD_SECONDS:
        known[counts.partition] = counts
    ledger = msgspec.structs.replace(ledger, counts=known)
    return watch_fleet(ledger, fleet_of(ledger), limits, now)


def watch_fleet(ledger: Ledger, fleet: Fleet, limits: Limits, now: float) -> Ledger:
    """Move between calm, storm and probing as the fleet stands; stale counts move nothing."""
    if not _is_fresh(fleet, limits, now):
        return ledger
    seen_without_break = now - ledger.counted_at <= limits.counts_stale_after_seconds
    ledger = msgspec.structs.replace(ledger, counted_at=now)
    stormy = _is_stormy(fleet, limits)
    calm = not stormy and (fleet.sick <= limits.storm_jobs or fleet.sick <= limits.storm_share / 2 * fleet.base)
    match ledger.phase:
        case Phase.CALM:
            return _moved(ledger, Phase.STORM, now, window=1) if stormy else ledger
        case Phase.STORM:
            if stormy and ledger.passed:  # another one
                return _moved(ledger, Phase.STORM, now, window=1, again=True)
            ledger = msgspec.structs.replace(ledger, passed=ledger.passed or calm)
            if not seen_without_break:
                return msgspec.structs.replace(ledger, phase_since=now, window=1)
            if now - ledger.phase_since < limits.storm_canary_after_seconds:
                return ledger
            return _moved(ledger, Phase.CALM if ledger.passed else Phase.PROBING, now, window=1)
        case Phase.PROBING:
            return _moved(ledger, Phase.CALM, now, window=ledger.window) if calm else ledger


def fleet_of(ledger: Ledger) -> Fleet:
    """Add up what the evidence partitions counted last."""
    counts = ledger.counts.values()
    missing = max((each.partitions for each in counts), default=1) - len(ledger.counts)
    return Fleet(
        base=sum(each.base for each in counts),
        unhealthy=sum(each.unhealthy for each in counts),
        sick=sum(each.sick for each in counts),
        as_of=0.0 if missing else min((each.at for each in counts), default=0.0),
        missing=missing,
        suspected=sum(each.suspected for each in counts),
    )


def quarantine_ends_at(history: History, limits: Limits, now: float) -> float:
    """When the quarantine of a Job ends if it stays well till then, epoch seconds; 0.0: there is none.

    `quarantined_at` (set by `quarantine`) keeps it while the attempts behind it fall out of their window.
    """
    since = history.quarantined_at
    if not since:
        if len(recent_attempts(history, limits, now)) < limits.attempts:
            return 0.0
        since = max(history.attempts[-1], history.ended_at)
    ends_at = max(since, history.sick_at, history.ended_at) + limits.healthy_period_seconds
    return ends_at if ends_at > now else 0.0


def acted(history: History, command: Command, *, touched_at: float, ended_at: float) -> History:
    """Note when a restart touched its Job and ended (epoch seconds), for which command, and whom it replaced."""
    return msgspec.structs.replace(
        history,
        attempts=(*history.attempts, touched_at)[-REMEMBERED:],
        ended_at=ended_at,
        acted=(*history.acted, command.id)[-REMEMBERED:],
        replaced=(*history.replaced, command.uid)[-REMEMBERED:],
    )


def quarantine(history: History, now: float) -> History:
    """Note that the Job is in quarantine, and that it is still sick now."""
    return msgspec.structs.replace(history, quarantined_at=history.quarantined_at or now, sick_at=now)


def still_sick(history: History, at: float) -> History:
    """Note that the Job in quarantine was sick at a time; nothing, where a person has ended that quarantine since."""
    began = history.quarantined_at or min(history.attempts, default=inf)
    if began > at:
        return history
    return msgspec.structs.replace(
        history, quarantined_at=history.quarantined_at or at, sick_at=max(history.sick_at, at)
    )


def recent_attempts(history: History, limits: Limits, now: float) -> tuple[float, ...]:
    """Give the attempts that still count."""
    return tuple(at for at in history.attempts if at > now - limits.attempts_window_seconds)


def is_withdrawn(history: History, command: Command) -> bool:
    """Return whether this sending of a command was taken back; the same judgement may be made again later.

    The one clock that tells sendings apart is that of the evidence, which dates decisions.
    """
    return any(known == command.id and at >= command.decided_at for known, at in history.withdrawn)


def pause_of(pauses: dict[str, Pause], command: Command, now: float) -> Pause | None:
    """Find the pause that holds for a command's Job."""
    holding = pauses_that_hold(pauses, now)
    return next((holding[scope] for scope in scopes_of(command) if scope in holding), None)


def pauses_that_hold(pauses: dict[str, Pause], now: float) -> dict[str, Pause]:
    """Leave out the pauses that have ended by themselves."""
    return {scope: pause for scope, pause in pauses.items() if pause.until is None or pause.until > now}


def scopes_of(command: Command) -> Iterable[str]:
    """Name the scopes a command's Job is in, the widest first."""
    return ALL_JOBS, f"target:{command.target}", f"queue:{command.queue_id}", f"job:{command.key}"


def _unfit(ledger: Ledger, command: Command, now: float, history: History, job: JobFact | None) -> Refused | None:
    """Refuse a command that is not, or no longer, about a Job that may be touched."""
    if now >= command.expires_at:
        return Refused(Reason.EXPIRED, 0.0, f"it was good until {command.expires_at:.0f}")
    pause = pause_of(ledger.pauses, command, now)
    if pause is not None:
        return _paused(pause)
    if any(slot.key == command.key for slot in ledger.slots):
        return Refused(Reason.DUPLICATE, 0.0, "an action for this Job is open")
    if command.id in history.acted:
        return Refused(Reason.DUPLICATE, 0.0, "this command has been followed")
    if job is not None and (job.skip or job.managed_by or not job.managed):
        return Refused(Reason.EXEMPT, 0.0, _exemption(job))
    if command.uid in history.replaced:
        return Refused(Reason.SUPERSEDED, 0.0, "this incarnation has been replaced")
    if is_withdrawn(history, command):
        return Refused(Reason.SUPERSEDED, 0.0, "the command was withdrawn")
    if job is not None and (job.uid != command.uid or job.condition is Condition.GONE):
        return Refused(Reason.SUPERSEDED, 0.0, "the Job is gone or another one has its name")
    return None


def _paused(pause: Pause) -> Refused:
    # Not until the pause would be over: a person may end it before, and the Job must be asked for then.
    return Refused(Reason.PAUSED, 0.0, f"{pause.scope}: {pause.reason}")


def _exemption(job: JobFact) -> str:
    if job.skip:
        return "annotation sf-healer.io/skip"
    return f"managed by {job.managed_by}" if job.managed_by else "not a Job of the platform"


def _not_needed(idle: Idle, group: str, limits: Limits) -> Refused | None:
    retry_after = limits.refused_retry_seconds
    if idle is Idle.IDLE:
        return Refused(Reason.IDLE, retry_after, group or "its consumer group lives and has no lag")
    if idle is Idle.UNKNOWN and not limits.idle_unknown_acts:
        return Refused(Reason.IDLE_UNKNOWN, retry_after, group or "its consumer group cannot be asked")
    if idle is Idle.TO_ASK:
        return Refused(Reason.ASKING, retry_after, group or "its consumer group has not been looked at")
    return None


def _tried_too_often(history: History, limits: Limits, now: float) -> Refused | None:
    """Refuse on account of the Job's own past restarts."""
    ends_at = quarantine_ends_at(history, limits, now)
    if ends_at:
        # No command for the healthy period is how we know that it is well, and a person may resume it at any time.
        retry_after = min(ends_at - now, limits.healthy_period_seconds / 4, _QUARANTINED_RETRY_SECONDS)
        detail = "until it is well for the healthy period, or a person resumes it"
        return Refused(Reason.QUARANTINED, retry_after, detail)
    tries = len(recent_attempts(history, limits, now))
    if tries:
        wait = min(limits.backoff_seconds * 2 ** (tries - 1), limits.backoff_limit_seconds)
        until = max(history.attempts[-1], history.ended_at) + wait
        if until > now:
            return Refused(Reason.BACKOFF, until - now, f"{wait:g} s after attempt {tries}")
    return None


def _fleet_brakes(
    ledger: Ledger, unhealthy_at: float, fleet: Fleet, limits: Limits, now: float, *, refused_create: str
) -> Refused | None:
    """Refuse on account of what happens to all Jobs together, a Job that turned unhealthy at that time."""
    rollout = rollout_in_the_way(ledger, now)
    if rollout and limits.platform_rollout is DuringRollout.HOLD:
        wait = retry_after(ledger.rollout, now, at_least=limits.refused_retry_seconds)
        return Refused(Reason.PLATFORM_ROLLOUT, wait, rollout)
    if refused_create:
        return Refused(Reason.CREATES_REFUSED, limits.refused_retry_seconds, refused_create)
    # A count older than the verdict does not know whether this Job is alone: a burst would slip through.
    if not _is_fresh(fleet, limits, now) or fleet.as_of < unhealthy_at:
        detail = f"{fleet.missing} partitions are not counted" if fleet.missing else "the counts are old"
        return Refused(Reason.COUNTS, _COUNTS_RETRY_SECONDS, detail)
    ledger = watch_fleet(ledger, fleet, limits, now)
    if ledger.phase is Phase.STORM:
        wait = ledger.phase_since + limits.storm_canary_after_seconds - now
        return Refused(Reason.STORM, max(wait, 0.0), f"{fleet.unhealthy} of {fleet.base} turned unhealthy together")
    if not _is_stormy(fleet, limits) and _exceeds(fleet.unhealthy, fleet, limits):
        detail = f"{fleet.suspected} silent consumers may be idle or a storm"
        return Refused(Reason.COUNTS, _COUNTS_RETRY_SECONDS, detail)
    tokens = tokens_left(ledger, limits, now)
    if tokens < 1.0:
        return Refused(Reason.RATE, _until_a_token(tokens, limits), f"{limits.rate_per_minute:g} a minute")
    window = min(ledger.window, limits.in_flight)
    if len(ledger.slots) >= window:
        detail = f"{len(ledger.slots)} of {window} under way"
        return Refused(Reason.IN_FLIGHT, _IN_FLIGHT_RETRY_SECONDS, detail)
    return None


def rollout_in_the_way(ledger: Ledger, now: float) -> str:
    """Say why a rollout of queue-manager speaks against restarts now, "" if none does; the policy says what follows."""
    return why_held(ledger.rollout, ledger.rollout_at, now)


def _is_fresh(fleet: Fleet, limits: Limits, now: float) -> bool:
    return not fleet.missing and now - fleet.as_of <= limits.counts_stale_after_seconds


def _is_stormy(fleet: Fleet, limits: Limits) -> bool:
    """Return whether too many are known to have turned unhealthy: drained consumers go silent together every day."""
    return _exceeds(fleet.unhealthy - fleet.suspected, fleet, limits)


def _exceeds(unhealthy: int, fleet: Fleet, limits: Limits) -> bool:
    return unhealthy > limits.storm_jobs and unhealthy > limits.storm_share * fleet.base


def tokens_left(ledger: Ledger, limits: Limits, now: float) -> float:
    """Say how many restarts the rate allows now; a clock that went back fills nothing, and a rate of 0 allows none."""
    if limits.rate_per_minute <= 0.0:
        return 0.0
    if ledger.tokens < 0.0:
        return float(limits.rate_burst)
    filled = max(0.0, now - ledger.tokens_at) * limits.rate_per_minute / 60.0
    return min(ledger.tokens + filled, float(limits.rate_burst))


def _until_a_token(tokens: float, limits: Limits) -> float:
    """Return the seconds after which it is worth while to ask again."""
    missing, rate = 1.0 - tokens, limits.rate_per_minute
    return _RATE_RETRY_SECONDS if missing * 60.0 >= _RATE_RETRY_SECONDS * rate else missing * 60.0 / rate


def _moved(ledger: Ledger, phase: Phase, now: float, *, window: int, again: bool = False) -> Ledger:
    if not again and phase is ledger.phase:
        return msgspec.structs.replace(ledger, window=window)
    return msgspec.structs.replace(ledger, phase=phase, phase_since=now, window=window, passed=False)
