"""Is this Job well? One function, `judge`, over one state: which rule holds, its numbers, when to look again.

Time is an argument: `now` is the watermark of the Job's evidence partition, never a wall clock, so a detector
that lags, restarts or loses its broker sees no silence (docs/architecture.md). Which verdicts are acted on:
RESTARTABLE. What may then still stop the act is admission's business.

Rules, in this order (docs/verdicts.md, and the platform's facts):
- gone, deleting, foreign, exempt, suspended Jobs are not judged;
- the Job's own `interrupted` wins over a `finished` that follows it: the user stopped it;
- an end that was said before the pod that runs now began, which has not spoken yet, is none of the Job's;
- `finished` is an end, even at zero records, unless it comes within RIGHT_AFTER_SECONDS of an `error`, or
  ever so late after one that was final: then the Job failed, or it went on and its silence tells;
- Complete is an end, unless an `error` was the last word: the platform's services exit with 0 after one;
- for a while after a stop command for its queue a Job is left alone, whatever it says;
- the Job's condition Failed is a failure;
- an `error` with no sign of life after it is a failure at once if it is final (`finished: true`, or the Job is
  Complete), when the pod has ended and the Job controller starts no other, else after the grace; a consumer says one
  for each bad record and goes on, so after the grace it is as silent as one that said none: a look that finds its
  consumer group idle excuses the errors before it. Where the policy gives no grace at all every `error` of this
  incarnation is a failure, whatever follows it short of an end;
- silence is measured from the newest of `loading`, `started`, the start of the running pod, and the last look
  that found the Job's consumer group idle;
- where the policy asks for it, `loading` that goes on with the same `records_written` is no progress.

A failure counts when the watermark has passed everything it rests on: until then a word of another source
partition may still be on its way (`interrupted`, the `started` of a second pod) that tells another story.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from sf_healer.core.cadence import error_grace, silence_threshold
from sf_healer.core.events import Kind
from sf_healer.core.facts import Condition, PodState
from sf_healer.core.policy import Policy
from sf_healer.core.state import (
    NEVER,
    JobState,
    error_open_since,
    has_open_error,
    has_said_error,
    is_doubtful_error,
    is_error_excused,
    is_from_before,
    perhaps_after,
    surely_after,
    time_of,
)
from sf_healer.core.watermark import Gaps

#: `finished` this close to an `error`, in source time, belongs to it: recorded gaps are 3 to 43 ms. Either
#: may come first where a producer's clock stepped, or where source time is arrival time (a capture).
RIGHT_AFTER_SECONDS = 2.0
#: A `loading` may come this much later than it was said: the platform's producers give a report up after 40 s. Under a
#: clock that is ahead its time tells no better.
LATE_SECONDS = 45.0
#: The Job controller starts a pod again 10 s after the first has failed (Kubernetes: pod backoff failure policy), and
#: our log hears of it within this time.
POD_RETRY_SECONDS = 15.0
#: The Job controller makes a Job's first pod at once.
FIRST_POD_SECONDS = 10.0
#: It makes the next pod as soon as one is being deleted (podReplacementPolicy: TerminatingOrFailed), and that one has
#: its terminationGracePeriodSeconds, 30 by default, for its last words. The rest is for clocks of two machines.
TAKEN_AWAY_SECONDS = 40.0
#: Clocks of two machines are apart by less, and a timestamp of the API is cut to whole seconds.
CLOCKS_APART_SECONDS = 5.0
NO_LOOK = float("inf")


class Verdict(StrEnum):
    """What a Job is judged to be."""

    STUCK = "stuck"
    NEVER_STARTED = "never_started"
    FAILED = "failed"
    STALLED = "stalled"
    HEALTHY = "healthy"
    IDLE = "idle"
    STARTING = "starting"
    HELD = "held"
    NOT_RUNNING = "not_running"
    MUTE = "mute"
    COMPLETED = "completed"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    EXEMPT = "exempt"
    FOREIGN = "foreign"
    GONE = "gone"
    UNKNOWN = "unknown"


#: A consumer that is one of these may be idle, as one that failed after a grace may: its group has to be looked at.
SILENT = frozenset({Verdict.STUCK, Verdict.NEVER_STARTED})
RESTARTABLE = frozenset({Verdict.STUCK, Verdict.NEVER_STARTED, Verdict.FAILED, Verdict.STALLED})


class Rule(StrEnum):
    """Which rule gave a verdict; the words are shown to people and counted by metrics."""

    NO_FACT = "no_fact"
    NOT_MANAGED = "not_managed"
    ABSENT = "absent"
    SKIP_ANNOTATION = "skip_annotation"
    MANAGED_BY_ANOTHER = "managed_by_another"
    EXEMPT_BY_POLICY = "exempt_by_policy"
    JOB_SUSPENDED = "job_suspended"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    ERROR_THEN_FINISHED = "error_then_finished"
    JOB_FAILED = "job_failed"
    JOB_COMPLETE = "job_complete"
    ERROR_FINAL = "error_final"
    ERROR_AND_POD_ENDED = "error_and_pod_ended"
    ERROR_GRACE_OVER = "error_grace_over"
    STOP_COMMAND = "stop_command"
    POD_NOT_RUNNING = "pod_not_running"
    LOADING_STOPPED = "loading_stopped"
    STARTED_ONLY = "started_only"
    NO_REPORT = "no_report"
    NOT_DECLARED = "not_declared"
    SILENCE_NOT_JUDGED = "silence_not_judged"
    NO_PROGRESS = "no_progress"
    REPORTS = "reports"
    GROUP_IDLE = "group_idle"


class Judgement(msgspec.Struct, frozen=True):
    """A verdict with the rule and the numbers behind it.

    `since` is the moment the measured silence (or grace) counts from, `silence` what of it counts when feed
    gaps are taken out, `threshold` what it is held against; seconds. `look_at` is when, on the watermark, the
    verdict can next change by the passing of time alone.
    """

    verdict: Verdict
    rule: Rule
    look_at: float = NO_LOOK
    since: float = NEVER
    silence: float = 0.0
    threshold: float = 0.0

    @property
    def restartable(self) -> bool:
        """Whether a Job so judged may be restarted."""
        return self.verdict in RESTARTABLE

    @property
    def grace_over(self) -> bool:
        """Whether a failure rests on what did not follow an `error`; a grace of 0 asks for nothing to follow."""
        return self.rule is Rule.ERROR_GRACE_OVER and self.threshold > 0.0

    @property
    def rests_on_silence(self) -> bool:
        """Whether it is what a Job has not said that makes it sick: its group may excuse a consumer."""
        return self.verdict in SILENT or self.grace_over


def judge(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Judge one Job at the watermark `now` (epoch seconds)."""
    plain = plainly_healthy(state, now, policy, gaps)
    if plain is None:
        return _by_the_rules(state, now, policy, gaps)
    since, silence, threshold = plain
    return Judgement(Verdict.HEALTHY, Rule.REPORTS, now + threshold - silence, since, silence, threshold)


def plainly_healthy(state: JobState, now: float, policy: Policy, gaps: Gaps) -> tuple[float, float, float] | None:
    """Judge the Job that most are: running, reporting in time, nothing else said of it; None where there is more to it.

    Gives since when it is silent, the silence that counts, and its threshold. What the rules below would say of it, at
    a fraction of their cost: a sweep or a restore judges a million of them.
    """
    fact, seldom = state.fact, state.seldom
    if (
        fact is None
        or not fact.managed
        or fact.condition is not Condition.ACTIVE
        or fact.pod is not PodState.RUNNING
        or fact.skip
        or fact.managed_by
        or state.loading_at == NEVER
        or state.error_source
        or (
            seldom is not None
            and (
                seldom.finished_source
                or seldom.interrupted_source
                or seldom.hold_at
                or seldom.idle_at
                or seldom.doubtful_life_at
            )
        )
        or not policy.judge_silence
        or policy.exempt
        or policy.stall_threshold_seconds
    ):
        return None
    since = max(state.loading_at, state.started_at, state.running_at)
    threshold = silence_threshold(None if seldom is None else seldom.cadence, policy)
    silence = gaps.silence(since, now)
    return None if silence > threshold else (since, silence, threshold)


def _by_the_rules(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    return (
        _not_judged(state, policy)
        or _ended(state)
        or _held(state, now, policy)
        or _failed(state, now, policy, gaps)
        or _silent(state, now, policy, gaps)
    )


def _not_judged(state: JobState, policy: Policy) -> Judgement | None:
    fact = state.fact
    if fact is None:
        return Judgement(Verdict.UNKNOWN, Rule.NO_FACT)
    if fact.condition in {Condition.GONE, Condition.DELETING}:
        return Judgement(Verdict.GONE, Rule.ABSENT)
    if not fact.managed:
        return Judgement(Verdict.FOREIGN, Rule.NOT_MANAGED)
    if fact.skip:
        return Judgement(Verdict.EXEMPT, Rule.SKIP_ANNOTATION)
    if fact.managed_by:
        return Judgement(Verdict.EXEMPT, Rule.MANAGED_BY_ANOTHER)
    if policy.exempt:
        return Judgement(Verdict.EXEMPT, Rule.EXEMPT_BY_POLICY)
    if fact.condition is Condition.SUSPENDED:
        return Judgement(Verdict.SUSPENDED, Rule.JOB_SUSPENDED)
    return None


def _ended(state: JobState) -> Judgement | None:
    """Judge what the Job said of its own end, and what Kubernetes says of it."""
    assert state.fact is not None
    if _stands(state, Kind.INTERRUPTED):
        return Judgement(Verdict.STOPPED, Rule.INTERRUPTED)
    if _stands(state, Kind.FINISHED) and not _finished_with_error(state) and not _finished_after_final_error(state):
        return Judgement(Verdict.COMPLETED, Rule.FINISHED)
    if state.fact.condition is Condition.COMPLETE and not has_open_error(state):
        return Judgement(Verdict.COMPLETED, Rule.JOB_COMPLETE)
    return None


def _stands(state: JobState, end: Kind) -> bool:
    """Say whether the Job said this end of itself and no sign of life that is clearly newer reopened it.

    Clearly, for order between partitions means nothing. `started` is the first word of a process, and so of another
    one than that which has ended; a `loading` may have been late, also where a mark raised it and not the end, or where
    its clock is ahead of the broker's, whose time bounds an end, and no longer what is read when it has come there. An
    end that may be of the incarnation before was said by another clock than what this one says, so only the bounded
    times order the two.
    """
    ended = time_of(state, end)
    if ended.bounded == NEVER:
        return False
    if is_from_before(state, ended.said):
        ended = as_said = ended._replace(said=NEVER)
    else:
        as_said = ended._replace(said=ended.said or ended.bounded)
    if _is_of_the_pod_before(state, end):
        return False
    started, loading = time_of(state, Kind.STARTED), time_of(state, Kind.LOADING)
    if state.loading_at > loading.bounded + LATE_SECONDS and not loading.said:
        loading = loading._replace(said=loading.bounded)  # no clock but its producer's has dated it, nor its end
    return perhaps_after(ended, started, RIGHT_AFTER_SECONDS) and perhaps_after(as_said, loading, LATE_SECONDS)


def _is_of_the_pod_before(state: JobState, end: Kind) -> bool:
    """Say whether another pod began to run after this end was said, and has not said that it started.

    Some services say an end when their pod is taken away (a drain, a suspension). A pod is told by its creation, which
    a fact that flickers or comes late does not change. An end that the newest pod may have said itself stands: it ran
    when that came, or has spoken, or was made too long before.
    """
    fact = state.fact
    assert fact is not None
    if fact.pod_created_at <= state.created_at + FIRST_POD_SECONDS:
        return False
    is_failed = fact.condition is Condition.FAILED
    seen_at = state.condition_at if is_failed else state.running_at
    ended_at = state.finished_at if end is Kind.FINISHED else state.interrupted_at
    began = min(fact.pod_created_at, seen_at)  # the API server's clock may be ahead
    if seen_at <= ended_at or state.started_source >= began - CLOCKS_APART_SECONDS:
        return False
    return time_of(state, end).bounded < began + TAKEN_AWAY_SECONDS


def _finished_with_error(state: JobState) -> bool:
    """Say whether `finished` came together with an `error`: then it is no proof that the Job did its work.

    The times as said tell, for one process said both by one clock. A mark that raised one of them, or both, tells when
    they came to the source: a `finished` may have been on its way for as long as its producer tries.
    """
    if NEVER in {state.finished_source, state.error_source}:
        return False
    return abs(_finished_said_at(state) - _error_said_at(state)) <= RIGHT_AFTER_SECONDS


def _finished_after_final_error(state: JobState) -> bool:
    """Say whether `finished` followed an `error` that was the end already, with nothing between them."""
    return state.error_finished and has_open_error(state) and _finished_said_at(state) >= _error_said_at(state)


def _finished_said_at(state: JobState) -> float:
    return state.finished_said or state.finished_source


def _error_said_at(state: JobState) -> float:
    return state.error_said or state.error_source


def _finished_by_error(state: JobState) -> bool:
    """Say whether the Job ended by an `error`: `finished` came with it, and surely no sign of life after them.

    If one may have come after them, or they may be of the incarnation before, the Job may have gone on: its silence
    will tell.
    """
    return (
        _finished_with_error(state)
        and not is_doubtful_error(state)
        and all(
            surely_after(time_of(state, end), time_of(state, life), RIGHT_AFTER_SECONDS)
            for end in (Kind.FINISHED, Kind.ERROR)
            for life in (Kind.LOADING, Kind.STARTED)
        )
    )


def _held(state: JobState, now: float, policy: Policy) -> Judgement | None:
    """Leave a Job alone that may have been told to stop; after the hold only its own `interrupted` counts.

    Feed gaps are no matter here: a hold that was over must not begin again with the next of them.
    """
    if state.hold_at == NEVER:
        return None
    threshold, held = policy.stop_hold_seconds, now - state.hold_at
    if held >= threshold:
        return None
    look_at = now + threshold - held
    return Judgement(Verdict.HELD, Rule.STOP_COMMAND, look_at, state.hold_at, held, threshold)


class _Failure(NamedTuple):
    """A failure that needs no grace."""

    rule: Rule
    proven_at: float  # the append time of the last piece of its evidence
    waits: float = 0.0  # for how long after it somebody else may mend it, seconds

    def due_in(self, now: float, gaps: Gaps) -> float:
        """Return in how many seconds it counts; not above 0: it does."""
        return max(self.proven_at - now, self.waits - gaps.silence(self.proven_at, now) if self.waits else 0.0)


def _failed(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement | None:
    """Judge a failure; None where there is none, or the watermark or the grace are not over."""
    failure = _failure(state)
    if failure is not None and failure.due_in(now, gaps) <= 0.0:
        return Judgement(Verdict.FAILED, failure.rule, since=failure.proven_at)
    if not _has_grace(state, policy) or (failure is not None and now < failure.proven_at):
        return None
    since, grace = _grace_since(state, policy), error_grace(state.cadence, policy)
    waited = gaps.silence(since, now)
    if waited < grace:
        return None
    return Judgement(Verdict.FAILED, Rule.ERROR_GRACE_OVER, since=since, silence=waited, threshold=grace)


def _failure(state: JobState) -> _Failure | None:
    """Name a failure that needs no grace."""
    assert state.fact is not None
    error_at, is_open = error_open_since(state), has_open_error(state)
    if _finished_by_error(state):
        return _Failure(Rule.ERROR_THEN_FINISHED, max(error_at, state.finished_at))
    if is_open and state.fact.condition is Condition.COMPLETE:
        return _Failure(Rule.ERROR_AND_POD_ENDED, max(error_at, state.condition_at))
    if state.fact.condition is Condition.FAILED:
        return _Failure(Rule.JOB_FAILED, state.condition_at)
    if is_open and state.error_finished:
        return _Failure(Rule.ERROR_FINAL, error_at)
    if is_open and state.fact.pod is PodState.ENDED and not _speaks_from_another_pod(state):
        return _Failure(Rule.ERROR_AND_POD_ENDED, max(error_at, state.pod_ended_at), POD_RETRY_SECONDS)
    return None


def _speaks_from_another_pod(state: JobState) -> bool:
    """Say whether it spoke after its pod had ended: then another one runs, and the inventory is late."""
    return max(state.life_source, state.error_source) > state.pod_ended_at + RIGHT_AFTER_SECONDS


def _failure_look_at(state: JobState, now: float, policy: Policy, gaps: Gaps) -> float:
    """Return when a failure that is none yet may become one; asked only where `_failed` found none."""
    failure = _failure(state)
    look_at = now + failure.due_in(now, gaps) if failure is not None else NO_LOOK
    if not _has_grace(state, policy) or (failure is not None and now < failure.proven_at):
        return look_at
    grace = error_grace(state.cadence, policy)
    return min(look_at, now + grace - gaps.silence(_grace_since(state, policy), now))


def _has_grace(state: JobState, policy: Policy) -> bool:
    """Say whether the grace of an open error runs, or is over; where there is none, of any error."""
    assert state.fact is not None
    if not has_open_error(state):
        return _is_literal(policy) and has_said_error(state)
    if not _is_as_good_as_silence(policy):
        return True
    return state.fact.pod is PodState.RUNNING and not is_error_excused(state)


def _grace_since(state: JobState, policy: Policy) -> float:
    """Return the append time that the grace of an error counts from.

    A sign of life that came to our log later may have been said later as well: a mark bounds a slow clock only so far.
    Nobody speaks while a Job is suspended. The next pod of a consumer goes on with the next record, so it has the grace
    for itself; that of any other has to undo an end, and pods that end again and again must not hold that off.
    """
    if _is_literal(policy) and has_said_error(state):
        return max(state.first_error_at, state.condition_at)
    since = max(error_open_since(state), state.life_at, state.condition_at)
    return max(since, state.running_at) if _is_as_good_as_silence(policy) else since


def _is_as_good_as_silence(policy: Policy) -> bool:
    """Say whether an `error` is to be expected now and then, and only what does not follow it is a failure."""
    return policy.consumer and not _is_literal(policy)


def _is_literal(policy: Policy) -> bool:
    """Say whether every `error` is a failure, and no sign of life after it an answer."""
    return policy.error_grace_seconds == 0.0


#: The rules of verdicts that hold because a clock has not run out.
_EXCUSES = {Verdict.HEALTHY: Rule.REPORTS, Verdict.IDLE: Rule.GROUP_IDLE}


class _Clock(NamedTuple):
    """Since when a Job is expected to do something, how long it may take, and what it is called then."""

    since: float
    threshold: float
    rule: Rule
    too_late: Verdict
    in_time: Verdict


def _silent(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Judge silence, the last rule: everything that could excuse it has been looked at."""
    look_at = _failure_look_at(state, now, policy, gaps)
    if not policy.judge_silence:
        return Judgement(Verdict.MUTE, Rule.SILENCE_NOT_JUDGED, look_at)
    clock = _clock(state, policy)
    if clock is None:
        return Judgement(Verdict.MUTE, Rule.NOT_DECLARED, look_at)
    silence = gaps.silence(clock.since, now)
    if silence > clock.threshold:
        look_at = NO_LOOK if clock.too_late in RESTARTABLE else look_at
        return Judgement(clock.too_late, clock.rule, look_at, clock.since, silence, clock.threshold)
    rule = _EXCUSES.get(clock.in_time, clock.rule)
    look_at = min(look_at, now + clock.threshold - silence)
    if policy.stall_threshold_seconds and clock.rule is Rule.LOADING_STOPPED and state.progress_at != NEVER:
        stalled = _stalled(state, now, policy, gaps)
        if stalled.restartable:
            return stalled
        look_at = min(look_at, stalled.look_at)
    return Judgement(clock.in_time, rule, look_at, clock.since, silence, clock.threshold)


def _stalled(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Judge whether a Job that reports gets on; one that has said nothing since its progress is merely silent."""
    since, threshold = max(state.progress_at, state.started_at, state.running_at), policy.stall_threshold_seconds
    waited = gaps.silence(since, now)
    if waited > threshold and state.loading_at > since:
        return Judgement(Verdict.STALLED, Rule.NO_PROGRESS, NO_LOOK, since, waited, threshold)
    # A `loading` that moves nothing makes nobody look: where one may come, look once in a threshold.
    look_at = now + (threshold - waited if waited <= threshold else threshold)
    return Judgement(Verdict.HEALTHY, Rule.REPORTS, look_at, since, waited, threshold)


def _clock(state: JobState, policy: Policy) -> _Clock | None:
    """Choose the clock that runs for a Job; None for one of a target that may never report."""
    assert state.fact is not None
    running_at = max(state.running_at, state.doubtful_life_at)
    silence, startup = silence_threshold(state.cadence, policy), policy.startup_threshold_seconds
    if state.fact.pod is not PodState.RUNNING:
        threshold = policy.not_running_threshold_seconds
        return _Clock(state.idle_pod_at, threshold, Rule.POD_NOT_RUNNING, Verdict.NOT_RUNNING, Verdict.STARTING)
    in_time = Verdict.IDLE if state.idle_at > state.life_at else Verdict.HEALTHY
    if state.loading_at != NEVER:
        since = max(state.life_at, running_at, state.idle_at)
        return _Clock(since, silence, Rule.LOADING_STOPPED, Verdict.STUCK, in_time)
    if not policy.reporting:
        return None
    if state.started_at != NEVER:
        since = max(state.started_at, running_at, state.idle_at)
        return _Clock(since, silence, Rule.STARTED_ONLY, Verdict.STUCK, in_time)
    in_time = Verdict.IDLE if state.idle_at > running_at else Verdict.STARTING
    since = max(running_at, state.idle_at)
    return _Clock(since, startup, Rule.NO_REPORT, Verdict.NEVER_STARTED, in_time)
