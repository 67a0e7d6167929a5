"""Who waits for a fresh list of the Jobs, and what was learnt by one: a report that names nobody may be of a new Job.

Knows nothing of Faust or Kubernetes, so that tests/simulation can drive it: agents/inventory.py makes the lists.
docs/decisions/0028 has the rules: only a list that began after a report was read makes its Job a stranger, and a
stranger is not asked for again for some minutes.
"""

import asyncio
from collections.abc import Callable, Sequence

from agents.forwarding import Looked
from sf_healer.core.events import Report
from sf_healer.core.identity import JobIndex, Unresolved

#: Minimum time between lists triggered by reports; with the list itself it stays below the shortest feed gap (10 s), so
#: waiting never causes one.
LOOK_AGAIN_EVERY_SECONDS = 5.0
#: Whoever a list did not bring is not asked for again for so long: less than any silence that a Job is restarted for,
#: for one may be made that has the name of a stranger.
STRANGER_SECONDS = 240.0
#: Some 300 bytes each; the oldest is forgotten, and asked for again.
MOST_STRANGERS = 10_000

_NEVER = float("-inf")
_Name = tuple[str, str]


class Looks:
    """The lists of one worker, numbered by their beginnings."""

    def __init__(self, index: JobIndex, *, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        """`clock` tells monotonic seconds, `wake` is called when a list is asked for and may begin at once."""
        self._index = index
        self._clock = clock
        self._wake = wake
        self._begun = self._listed = 0  # the newest list, and the newest one that was taken in
        self._began_at = self._listed_at = _NEVER  # when they began
        self._has_failed = False
        self._ended = asyncio.Event()  # the list under way, or the next one
        self._needed: list[int] = []  # for each that waits, the first list that can tell
        self._strangers: dict[_Name, None] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a list."""
        return len(self._needed)

    def is_due(self) -> bool:
        """Return whether a list is asked for and may begin now."""
        is_asked_for = max(self._needed, default=0) > self._begun
        return is_asked_for and self._clock() - self._began_at >= LOOK_AGAIN_EVERY_SECONDS

    def begin(self) -> None:
        """Note that a list begins."""
        self._begun += 1
        self._began_at = self._clock()

    def listed(self) -> None:
        """Note that the list under way is in the index."""
        self._listed, self._listed_at, self._has_failed = self._begun, self._began_at, False
        self._end()

    def failed(self) -> None:
        """Note that there is no list."""
        self._has_failed = True
        self._end()

    async def look(self, reports: Sequence[Report]) -> Looked:
        """Wait until a list tells whether the Jobs of these reports are strangers, or fails.

        One that was under way already tells of those that it brings; of the others the next one does.
        """
        needed = self._begun + 1
        self._needed.append(needed)
        try:
            while self._unknown(reports):
                ended = self._ended
                if self.is_due():
                    self._wake()
                await ended.wait()
                unknown = self._unknown(reports)
                if self._listed >= needed:
                    self._remember(unknown)
                    break
                if self._has_failed and unknown:
                    return Looked.AWAY
            return Looked.LISTED
        finally:
            self._needed.remove(needed)

    def _end(self) -> None:
        self._ended.set()
        self._ended = asyncio.Event()

    def _unknown(self, reports: Sequence[Report]) -> list[_Name]:
        """Name those that are neither known nor strangers."""
        held_for = self._clock() - self._listed_at
        believed = self._strangers if held_for <= STRANGER_SECONDS or self._has_failed else {}
        by_name = {(report.producer, report.queue_id): report for report in reports}
        return [
            name
            for name, report in by_name.items()
            if name not in believed and isinstance(self._index.resolve(report), Unresolved)
        ]

    def _remember(self, names: Sequence[_Name]) -> None:
        for name in names:
            self._strangers.pop(name, None)
            self._strangers[name] = None
        while len(self._strangers) > MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]
