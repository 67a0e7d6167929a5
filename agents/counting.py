"""When admission is told how the partitions of this worker stand: soon where a command waits for it."""

from collections.abc import Mapping

#: Where no Job is sick: often enough for the counts not to be old (core/admission.py).
COUNTS_EVERY_SECONDS = 5.0
#: A command waits until every partition has counted after its Job turned sick. The watermark has to move for that, so
#: they count when it has moved in all of them, at once; and after so long in any case, for one may stand still.
COUNTS_EVERY_SECONDS_WHILE_SICK = 1.0
#: How often to check whether counts are due.
LOOK_SECONDS = 0.2


class Counting:
    """What was counted last, and when."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._watermarks: Mapping[int, float] = {}

    def is_due(self, watermarks: Mapping[int, float], *, sick: bool, now: float) -> bool:
        """Return whether to count now (monotonic seconds), with the watermarks of the partitions as they are."""
        waited = now - self._at
        if not sick:
            return waited >= COUNTS_EVERY_SECONDS
        moved = all(at > self._watermarks.get(number, 0.0) for number, at in watermarks.items())
        return moved or waited >= COUNTS_EVERY_SECONDS_WHILE_SICK

    def counted(self, watermarks: Mapping[int, float], *, now: float) -> None:
        """Note that all partitions were counted."""
        self._at, self._watermarks = now, watermarks
