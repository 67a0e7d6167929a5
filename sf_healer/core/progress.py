"""Does a reader get on? It is stalled when there is something to read and it has not moved for too long. Pure.

Faust's consumers have been seen to stop for good while everything looks well (faust-streaming #175, #523, #640);
its own check only logs. Lag alone is no stall: a worker that catches up moves.
"""

from collections.abc import Mapping

STALLED_AFTER_SECONDS = 60.0


class Progress:
    """When each reader last moved, or last had nothing to read; clock readings are monotonic seconds."""

    def __init__(self) -> None:
        self._moved: dict[str, tuple[int, float]] = {}

    def note(self, readers: Mapping[str, tuple[int, int]], *, now: float) -> None:
        """Take in `(position, end)` of every reader there is; one that is not named is forgotten."""
        moved: dict[str, tuple[int, float]] = {}
        for reader, (position, end) in readers.items():
            known = self._moved.get(reader)
            stands_still = known is not None and known[0] == position and end > position
            moved[reader] = known if stands_still and known is not None else (position, now)
        self._moved = moved

    def forget(self) -> None:
        """Start anew: nobody can be blamed for the time up to now (a rebalance, a broker that is away)."""
        self._moved = {}

    def stalled(self, *, now: float) -> dict[str, float]:
        """Name the readers that stand still for too long, with the seconds they do."""
        return {
            reader: now - since for reader, (_, since) in self._moved.items() if now - since > STALLED_AFTER_SECONDS
        }
