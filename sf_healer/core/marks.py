"""Marks on the sending side: when may this worker claim that everything up to a moment is on the log?

Each mark interval the telemetry agent (1) notes W, the broker's append time of its own newest acknowledged record
in each evidence partition, then (2) reads the end E of each of its source partitions, and notes the pair here.
Once everything up to E is forwarded and acknowledged, W may be claimed. The order of (1) and (2) is the point:
whatever was appended to the source before W is below E. A lagging worker claims late, never too much; a worker
that is never quite caught up claims all the same (a rule "position equals end now" starves under steady load).

The same pairs bound the source times of reports: a record below E existed when E was read, a record at or
above E did not. So a producer with a wrong clock cannot move its words by more than a mark interval.
"""

from collections import deque

import msgspec

PAIRS_KEPT = 600


class Noted(msgspec.Struct):
    """One or more polls of a source partition that found the same end.

    `w` is the newest W per evidence partition, `not_before` the broker's time before the newest poll and
    `not_after` its time after the oldest one; epoch seconds.
    """

    end: int
    w: dict[int, float]
    not_before: float
    not_after: float
    claimed: bool = False


class SourceMarks:
    """The pairs of one source partition, oldest first."""

    def __init__(self) -> None:
        self._pairs: deque[Noted] = deque(maxlen=PAIRS_KEPT)

    def note(self, end: int, w: dict[int, float], *, not_before: float, not_after: float) -> None:
        """Take in one poll: the end offset and the W that was noted before it was read."""
        newest = self._pairs[-1] if self._pairs else None
        if newest is not None and newest.end == end:
            newest.w, newest.not_before, newest.claimed = w, not_before, False
        elif newest is not None and end < newest.end:
            self._pairs.clear()  # the topic was made anew: its offsets started over
            self._pairs.append(Noted(end, w, not_before, not_after))
        else:
            self._pairs.append(Noted(end, w, not_before, not_after))

    def claim(self, position: int) -> dict[int, float] | None:
        """Return the newest W that may be claimed when everything below `position` is acknowledged.

        None where nothing new may be claimed since the last call.
        """
        best: Noted | None = None
        for pair in self._pairs:
            if pair.end > position:
                break
            best = pair
        if best is None or best.claimed:
            return None
        best.claimed = True
        while self._pairs[0] is not best:
            self._pairs.popleft()  # what bounds later offsets from below is `best` itself
        return best.w

    def bounds(self, offset: int) -> tuple[float, float]:
        """Return the earliest and latest source time (epoch seconds) that a record at `offset` can have."""
        low, high = 0.0, float("inf")
        for pair in self._pairs:
            if pair.end > offset:
                high = pair.not_after
                break
            low = pair.not_before
        return low, high

    def bounds_hold_until(self, offset: int) -> int:
        """Return the first offset above `offset` that may have other bounds."""
        for pair in self._pairs:
            if pair.end > offset:
                return pair.end
        return 2**63 - 1
