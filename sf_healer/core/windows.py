"""The windowed sweep's calendar: which Jobs to look at when the watermark closes a window.

Each Job waits in the window of the moment it is next due. A report that makes it due later does not move it
(O(1) per report); one that makes it due earlier enters it there too. A window that closes hands out the Jobs
that still wait in it; the others go to the window of their new due time. Nothing is ever scanned.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterator

from sf_healer.core.state import JobState

NO_WINDOW = -1


class Windows:
    """Tumbling windows of `size_seconds` on the watermark; a Job's place is written into its state.

    Only keys are kept, for most Jobs are no objects (core/jobs.py): `waiting` gives the state of the Job of a key if it
    waits in a window, else None.
    """

    def __init__(self, size_seconds: float, waiting: Callable[[str, int], JobState | None]) -> None:
        self.size_seconds = size_seconds
        self._state_of = waiting
        self._waiting: dict[int, list[str]] = defaultdict(list)
        self._order: list[int] = []

    def enter(self, state: JobState, due_at: float) -> None:
        """Let a Job wait for `due_at` (epoch seconds), unless it waits in an earlier or the same window."""
        if due_at == math.inf:
            return
        window = math.floor(due_at / self.size_seconds)
        if state.window != NO_WINDOW and state.window <= window:
            return
        if window not in self._waiting:
            heapq.heappush(self._order, window)
        self._waiting[window].append(state.key)
        state.window = window

    def close(self, watermark: float) -> Iterator[JobState]:
        """Hand out every Job whose window has ended at the watermark; it then waits nowhere."""
        while self._order and (self._order[0] + 1) * self.size_seconds <= watermark:
            window = heapq.heappop(self._order)
            for key in self._waiting.pop(window):
                state = self._state_of(key, window)
                if state is not None:
                    state.window = NO_WINDOW
                    yield state

    def drop(self, state: JobState) -> None:
        """Let a Job wait nowhere; its place in the list is passed over when the window closes."""
        state.window = NO_WINDOW
