"""What a million Jobs have in common, kept once: otherwise every decoded value would be a separate object.

Only objects that nobody changes are shared: strings, times, empty labels. Nothing here changes what a state says.
"""

import sys

from sf_healer.core.facts import share_fact
from sf_healer.core.state import JobState


class Common:
    """The times that were seen in the states of one reading: Jobs checkpointed together have many in common."""

    def __init__(self) -> None:
        self._times: dict[float, float] = {}

    def share(self, state: JobState) -> JobState:
        """Let a state that was just decoded share what it can; returns the same state."""
        state.key = sys.intern(state.key)  # the index that names Jobs has it too
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
