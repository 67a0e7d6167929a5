"""What is known of one Job, folded from evidence.

`fold_*` are joins: evidence applied twice, or in another order, gives the same state, so at-least-once
delivery is enough. Two clocks are kept apart on purpose:
- `*_at` are append times (the broker's, of the evidence log): silence is measured with them;
- `*_source` are source times (of the original report): they order what was said, so that a redelivered
  `error` of an old incarnation cannot kill the new one.

A state is owned by one evidence partition and changed in place: at 100,000 reports a second a new object per
report would be most of the cost.
"""

import msgspec

from sf_healer.core.events import Kind
from sf_healer.core.evidence import Beat, Hold, OutcomeSeen, Word
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.identity import order_of

NEVER = 0.0

# Kubernetes cuts creationTimestamp to whole seconds, so a word of the incarnation before may carry a time up to
# this much after it. A sign of life that early does no harm; an `error` or an end would.
CREATION_RESOLUTION_SECONDS = 1.0


class JobState(msgspec.Struct, array_like=True, gc=False):
    """Everything known of one Job; times are epoch seconds, NEVER (0) where a thing has not been seen.

    Field order is the wire order of the changelog: add at the end only.
    """

    key: str
    fact: JobFact | None = None
    #: When our log first showed a running pod of this incarnation that still runs.
    running_at: float = NEVER
    #: When our log first showed this incarnation without a running pod.
    idle_pod_at: float = NEVER
    loading_at: float = NEVER
    loading_source: float = NEVER
    started_at: float = NEVER
    started_source: float = NEVER
    error_at: float = NEVER
    error_source: float = NEVER
    error_finished: bool = False
    error_detail: str = ""
    finished_source: float = NEVER
    finished_at: float = NEVER
    interrupted_source: float = NEVER
    interrupted_at: float = NEVER
    records_written: int = -1
    hold_at: float = NEVER
    source_partition: int = -1
    source_offset: int = -1
    command_id: str = ""
    command_uid: str = ""
    command_verdict: str = ""
    command_source: float = NEVER
    command_deadline: float = NEVER
    retry_at: float = NEVER
    outcome: OutcomeSeen | None = None
    alive_uid: str = ""
    unhealthy_at: float = NEVER
    verdict: str = "unknown"
    #: Not in the changelog: the window the Job waits in.
    window: int = -1

    @property
    def created_at(self) -> float:
        """When this incarnation was created; 0 while no fact is known."""
        return self.fact.created_at if self.fact is not None else 0.0

    @property
    def life_source(self) -> float:
        """Source time of the newest sign of life."""
        return max(self.loading_source, self.started_source)

    @property
    def life_at(self) -> float:
        """Append time of the newest sign of life."""
        return max(self.loading_at, self.started_at)


def fold_beat(state: JobState, beat: Beat, *, at: float, source_partition: int) -> None:
    """Fold the newest `loading` of a batch.

    Its append time counts whatever its source time says, as long as it is of this incarnation: a producer
    whose clock steps back is alive all the same.
    """
    if beat.source_at < state.created_at:
        return
    state.loading_at = max(state.loading_at, at)
    if beat.source_at >= state.loading_source:
        state.loading_source = beat.source_at
        state.source_partition, state.source_offset = source_partition, beat.offset
        if beat.records_written >= 0:
            state.records_written = beat.records_written


def fold_word(state: JobState, word: Word, *, at: float, source_partition: int) -> bool:
    """Fold the newest report of another kind; returns whether it changed the state."""
    if word.source_at < state.created_at:
        return False
    if word.kind is Kind.STARTED:
        state.started_at = max(state.started_at, at)
        state.started_source = max(state.started_source, word.source_at)
        return True
    if word.source_at < _trusted_from(state.created_at) or word.kind is Kind.PONG:
        return False
    if word.kind is Kind.ERROR and (word.source_at, word.finished) > (state.error_source, state.error_finished):
        state.error_source, state.error_at = word.source_at, at
        state.error_finished, state.error_detail = word.finished, word.detail
        state.source_partition, state.source_offset = source_partition, word.offset
        return True
    if word.kind is Kind.FINISHED and word.source_at > state.finished_source:
        state.finished_source, state.finished_at = word.source_at, at
        return True
    if word.kind is Kind.INTERRUPTED and word.source_at > state.interrupted_source:
        state.interrupted_source, state.interrupted_at = word.source_at, at
        return True
    return False


def fold_fact(state: JobState, fact: JobFact, *, at: float) -> bool:
    """Fold a fact about the Job; returns whether it changed the state."""
    known = state.fact
    if known is not None:
        if order_of(fact) < order_of(known) or fact == known:
            return False
        if fact.uid != known.uid or fact.created_at > known.created_at:
            _start_incarnation(state, fact)
    else:
        _start_incarnation(state, fact)
    state.fact = fact
    if fact.pod is PodState.RUNNING:
        state.idle_pod_at = NEVER
        state.running_at = state.running_at or at
    else:
        state.running_at = NEVER
        state.idle_pod_at = state.idle_pod_at or at
    return True


def _start_incarnation(state: JobState, fact: JobFact) -> None:
    """Forget what an older incarnation said and did; what the new one said before its fact came stays."""
    created_at, trusted_from = fact.created_at, _trusted_from(fact.created_at)
    state.running_at = state.idle_pod_at = NEVER
    if state.loading_source < created_at:
        state.loading_at = state.loading_source = NEVER
        state.records_written = -1
    if state.started_source < created_at:
        state.started_at = state.started_source = NEVER
    if state.error_source < trusted_from:
        state.error_at = state.error_source = NEVER
        state.error_finished, state.error_detail = False, ""
    if state.finished_source < trusted_from:
        state.finished_at = state.finished_source = NEVER
    if state.interrupted_source < trusted_from:
        state.interrupted_at = state.interrupted_source = NEVER
    state.hold_at = state.retry_at = NEVER


def _trusted_from(created_at: float) -> float:
    """From when an end or an error is surely of this incarnation; a fractional time is exact already."""
    return created_at if created_at % 1 else created_at + CREATION_RESOLUTION_SECONDS * (created_at > 0)


def fold_hold(state: JobState, hold: Hold, *, at: float) -> bool:
    """Fold a hold; the newest counts."""
    del hold  # one cause so far; a second one is judged alike
    changed = at > state.hold_at
    state.hold_at = max(state.hold_at, at)
    return changed


def fold_outcome(state: JobState, outcome: OutcomeSeen, *, at: float, retry_seconds: float) -> bool:
    """Fold what became of a command; the newest outcome counts and closes the command it answers.

    The incarnation that was judged is not judged again for `retry_seconds`, or longer if the outcome says so.
    """
    if state.outcome is not None and outcome.at <= state.outcome.at:
        return False
    state.outcome = outcome
    if outcome.final and outcome.command_id == state.command_id:
        state.command_id = state.command_uid = state.command_verdict = ""
        state.command_deadline = NEVER
    if state.fact is not None and outcome.uid == state.fact.uid:
        state.retry_at = max(state.retry_at, at + max(outcome.retry_after, retry_seconds))
    return True


def mark_gone(state: JobState, version: int) -> bool:
    """Fold that a snapshot of resourceVersion `version` did not hold the Job; returns whether that is news."""
    fact = state.fact
    if fact is None or fact.condition is Condition.GONE or fact.resource_version > version:
        return False
    state.fact = msgspec.structs.replace(
        fact, condition=Condition.GONE, pod=PodState.NONE, resource_version=version
    )
    state.running_at = NEVER
    return True


def checkpoint_of(at: float, checkpoint_seconds: float) -> int:
    """Number the checkpoint that ends at or after a last-seen time; counted in milliseconds, so exact."""
    return -(-round(at * 1000) // round(checkpoint_seconds * 1000))


def durable(state: JobState, checkpoint_seconds: float) -> JobState:
    """Return the state as it is remembered: the last `loading` moved to the end of its checkpoint.

    The changelog is written once per checkpoint, so after a restore the Job may have been heard later than the
    record says, but never later than this: the verdict comes late by a checkpoint at most, never early.
    What was restored stays where it is when written again, else every restart would add a checkpoint.
    """
    if state.loading_at == NEVER:
        return msgspec.structs.replace(state, window=-1)
    end = checkpoint_of(state.loading_at, checkpoint_seconds) * round(checkpoint_seconds * 1000) / 1000
    return msgspec.structs.replace(state, loading_at=end, window=-1)
