"""Does a worker get on? Something is stalled when there is work for it and it has not moved for too long. Pure.

Faust's consumers have been seen to stop for good while everything looks well (faust-streaming #175, #523, #640);
its own check only logs. Lag alone is no stall: a worker that catches up moves.

A partition moves by its position, and has work up to the end of its log. Marks and sweeps move with each that is done.
"""

from collections.abc import Mapping

STALLED_AFTER_SECONDS = 60.0


#: Where a partition stands of which nothing was ever read: before any end, even that of an empty log.
UNREAD = -1


class Progress:
    """When each mover last moved, or last had nothing to do; clock readings are monotonic seconds."""

    def __init__(self) -> None:
        self._moved: dict[str, tuple[int, float]] = {}

    def note(self, movers: Mapping[str, tuple[int, int]], *, now: float) -> None:
        """Take in `(position, end)` of every mover there is; one that is not named is forgotten."""
        moved: dict[str, tuple[int, float]] = {}
        for mover, (position, end) in movers.items():
            known = self._moved.get(mover)
            stands_still = known is not None and known[0] == position and end > position
            moved[mover] = known if stands_still and known is not None else (position, now)
        self._moved = moved

    def forget(self) -> None:
        """Start anew: nobody can be blamed for the time up to now (a rebalance, a broker that is away)."""
        self._moved = {}

    def stalled(self, *, now: float) -> dict[str, float]:
        """Name what stands still for too long, with the seconds it does."""
        return {mover: now - since for mover, (_, since) in self._moved.items() if now - since > STALLED_AFTER_SECONDS}
