"""What a million Jobs have in common, kept once: otherwise every decoded value would be a separate object.

Only objects that nobody changes are shared: strings, times, empty labels. Nothing here changes what a state says.
"""

import sys
from collections.abc import Iterable

from sf_healer.core.facts import share_fact
from sf_healer.core.state import JobState


def share_texts(state: JobState) -> JobState:
    """Let a state that was just decoded share its texts, and those of its fact; returns the same state."""
    state.key = sys.intern(state.key)  # the index that names Jobs has it too
    if state.fact is not None:
        share_fact(state.fact, state.key)
    state.verdict = sys.intern(state.verdict)
    return state


def share_times(states: Iterable[JobState]) -> None:
    """Let states share their times: Jobs checkpointed together have many in common."""
    times: dict[float, float] = {}
    kept = times.setdefault
    for state in states:
        state.loading_at = kept(state.loading_at, state.loading_at)
        state.progress_at = kept(state.progress_at, state.progress_at)
        state.running_at = kept(state.running_at, state.running_at)
        state.seen_at = kept(state.seen_at, state.seen_at)
        state.condition_at = kept(state.condition_at, state.condition_at)
