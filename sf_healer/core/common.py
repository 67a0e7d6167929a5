"""What a million Jobs have in common, kept once: every value that is decoded is an object of its own else.

Only objects that nobody changes are shared: strings, times, empty labels. Nothing here changes what a state says.
"""

import sys

import msgspec

from sf_healer.core.facts import JobFact
from sf_healer.core.state import NEVER, JobState

_NO_LABELS: dict[str, str] = {}
_set = msgspec.structs.force_setattr


def share_fact(fact: JobFact, key: str) -> JobFact:
    """Let the fact of a Job share its key with the Job's state, and the rest with the facts of others."""
    if fact.key is not key and fact.key == key:
        _set(fact, "key", key)
    _set(fact, "target", sys.intern(fact.target))
    if fact.kafka_topic == fact.queue_id:
        _set(fact, "kafka_topic", fact.queue_id)
    if not fact.labels:
        _set(fact, "labels", _NO_LABELS)
    if not fact.created_at:
        _set(fact, "created_at", NEVER)
    return fact


class Common:
    """The times that were seen in the states of one reading: Jobs checkpointed together have many in common."""

    def __init__(self) -> None:
        self._times: dict[float, float] = {}

    def share(self, state: JobState) -> JobState:
        """Let a state that was just decoded share what it can; returns the same state."""
        if state.fact is not None:
            share_fact(state.fact, state.key)
        state.verdict = sys.intern(state.verdict)
        kept = self._times.setdefault
        state.loading_at = kept(state.loading_at, state.loading_at)
        state.progress_at = kept(state.progress_at, state.progress_at)
        state.running_at = kept(state.running_at, state.running_at)
        state.seen_at = kept(state.seen_at, state.seen_at)
        state.condition_at = kept(state.condition_at, state.condition_at)
        return state
