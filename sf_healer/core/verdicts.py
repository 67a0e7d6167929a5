"""Is this Job well? One function, `judge`, over one state: which rule holds, with its numbers, and when to look again.

Time is an argument: `now` is the watermark of the Job's evidence partition, never a wall clock, so a detector
that lags, restarts or loses its broker sees no silence (design §4). Which verdicts are acted on:
RESTARTABLE. What may then still stop the act is admission's business.

Rules, in this order (design §6 and the platform's facts):
- gone, deleting, foreign, exempt, suspended Jobs are not judged;
- the Job's own `interrupted` wins over a `finished` that follows it: the user stopped it;
- `finished` is an end, even at zero records, unless it comes within RIGHT_AFTER_SECONDS after an `error`;
- an `error` with no sign of life after it is a failure at once if it is final (`finished: true`, or the pod has
  ended), else after the grace;
- the Job's condition Failed is a failure, Complete an end, unless an `error` was its last word: the platform's
  services exit with 0 after an `error`;
- silence is measured from the newest of `loading`, `started` and the start of the running pod.
"""

from enum import StrEnum

import msgspec

from sf_healer.core.facts import Condition, PodState
from sf_healer.core.policy import Policy
from sf_healer.core.state import NEVER, JobState
from sf_healer.core.watermark import Gaps

#: `finished` this close to an `error`, in source time, belongs to it: recorded gaps are 3 to 43 ms. Either may come
#: first where a producer's clock stepped, or where source time is arrival time (a capture).
RIGHT_AFTER_SECONDS = 2.0
NO_LOOK = float("inf")


class Verdict(StrEnum):
    """What a Job is judged to be."""

    STUCK = "stuck"
    NEVER_STARTED = "never_started"
    FAILED = "failed"
    HEALTHY = "healthy"
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


RESTARTABLE = frozenset({Verdict.STUCK, Verdict.NEVER_STARTED, Verdict.FAILED})


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
    REPORTS = "reports"


class Judgement(msgspec.Struct, frozen=True):
    """A verdict with the rule and the numbers behind it.

    `since` is the moment the measured silence (or grace) counts from, `silence` what of it counts when feed
    gaps are taken out, `threshold` what it is held against; seconds. `look_at` is when, on the watermark, the
    verdict can next change by silence alone.
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


def judge(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Judge one Job at the watermark `now` (epoch seconds)."""
    return _not_judged(state, policy) or _ended(state) or _failed(state, now, policy, gaps) or _silent(
        state, now, policy, gaps
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
    # A sign of life reopens an ended Job only if it is clearly newer: order between partitions means nothing.
    ended_after = max(state.life_source - RIGHT_AFTER_SECONDS, NEVER)
    if state.interrupted_source > ended_after:
        return Judgement(Verdict.STOPPED, Rule.INTERRUPTED)
    if state.finished_source > ended_after:
        apart = abs(state.finished_source - state.error_source)
        if state.error_source > ended_after and apart <= RIGHT_AFTER_SECONDS:
            return _failure(state, Rule.ERROR_THEN_FINISHED)
        return Judgement(Verdict.COMPLETED, Rule.FINISHED)
    error_is_last_word = has_open_error(state)
    if state.fact.condition is Condition.COMPLETE:
        if error_is_last_word:
            return _failure(state, Rule.ERROR_AND_POD_ENDED)
        return Judgement(Verdict.COMPLETED, Rule.JOB_COMPLETE)
    if state.fact.condition is Condition.FAILED:
        return Judgement(Verdict.FAILED, Rule.JOB_FAILED, since=state.idle_pod_at)
    return None


def has_open_error(state: JobState) -> bool:
    """Say whether an `error` stands with no sign of life after it."""
    return state.error_source != NEVER and state.error_source >= state.life_source


def _failed(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement | None:
    """Judge an open `error`; None where there is none, or its grace is not over and silence decides."""
    assert state.fact is not None
    if not has_open_error(state):
        return None
    if state.error_finished:
        return _failure(state, Rule.ERROR_FINAL)
    if state.fact.pod is PodState.ENDED:
        return _failure(state, Rule.ERROR_AND_POD_ENDED)
    waited = gaps.silence(state.error_at, now)
    if waited >= policy.error_grace_seconds:
        return Judgement(
            Verdict.FAILED,
            Rule.ERROR_GRACE_OVER,
            since=state.error_at,
            silence=waited,
            threshold=policy.error_grace_seconds,
        )
    return None


def _failure(state: JobState, rule: Rule) -> Judgement:
    return Judgement(Verdict.FAILED, rule, since=state.error_at)


def _silent(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Judge silence, the last rule: everything that could excuse it has been looked at, or is looked at here."""
    assert state.fact is not None
    error_look = _error_look_at(state, now, policy, gaps)
    if state.hold_at != NEVER:
        held = gaps.silence(state.hold_at, now)
        if held < policy.stop_hold_seconds:
            look_at = now + policy.stop_hold_seconds - held
            return Judgement(Verdict.HELD, Rule.STOP_COMMAND, look_at, state.hold_at, held, policy.stop_hold_seconds)
    if not policy.judge_silence:
        return Judgement(Verdict.MUTE, Rule.SILENCE_NOT_JUDGED, error_look)
    if state.fact.pod is not PodState.RUNNING:
        threshold = policy.not_running_threshold_seconds
        return _over(state.idle_pod_at, threshold, now, gaps, error_look, Verdict.NOT_RUNNING, Rule.POD_NOT_RUNNING)
    if state.loading_at != NEVER:
        since, rule, verdict = max(state.life_at, state.running_at), Rule.LOADING_STOPPED, Verdict.STUCK
        threshold = policy.silence_threshold_seconds
    elif not policy.reporting:
        return Judgement(Verdict.MUTE, Rule.NOT_DECLARED, error_look)
    elif state.started_at != NEVER:
        since, rule, verdict = max(state.started_at, state.running_at), Rule.STARTED_ONLY, Verdict.STUCK
        threshold = policy.silence_threshold_seconds
    else:
        since, rule, verdict = state.running_at, Rule.NO_REPORT, Verdict.NEVER_STARTED
        threshold = policy.startup_threshold_seconds
    return _over(since, threshold, now, gaps, error_look, verdict, rule)


def _over(
    since: float, threshold: float, now: float, gaps: Gaps, error_look: float, verdict: Verdict, rule: Rule
) -> Judgement:
    silence = gaps.silence(since, now)
    if silence > threshold:
        return Judgement(verdict, rule, NO_LOOK, since, silence, threshold)
    look_at = min(now + threshold - silence, error_look)
    well = Verdict.STARTING if rule in {Rule.NO_REPORT, Rule.POD_NOT_RUNNING} else Verdict.HEALTHY
    return Judgement(well, Rule.REPORTS if well is Verdict.HEALTHY else rule, look_at, since, silence, threshold)


def _error_look_at(state: JobState, now: float, policy: Policy, gaps: Gaps) -> float:
    if not has_open_error(state):
        return NO_LOOK
    return now + policy.error_grace_seconds - gaps.silence(state.error_at, now)
