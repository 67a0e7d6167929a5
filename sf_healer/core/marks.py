"""Marks on the sending side: when this worker may claim that everything up to a moment is on the log.

Each mark interval the telemetry agent (1) notes W, the broker's append time of its own newest acknowledged
record in each evidence partition, then (2) reads the end E of each of its source partitions, and notes the
pair here. Once everything up to E is forwarded and acknowledged, W may be claimed. The order of (1) and (2)
is the point: whatever was appended to the source before W is below E. A lagging worker claims late, never too
much; a worker that is never quite caught up claims all the same (a rule "position equals end now" starves
under steady load).

The same pairs bound the source times of reports: a record below E existed when E was read, a record at or
above E did not. So a producer with a wrong clock cannot move its words by more than a mark interval.
"""

from bisect import bisect_right

import msgspec

#: More than an hour of polls at one a second. A worker further behind keeps every second of them, then every
#: fourth, and so on: were only the newest kept, it would never pass the end of one, and claim nothing.
PAIRS_KEPT = 4096


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
    """The pairs of one source partition, oldest first; their ends grow."""

    def __init__(self, *, pairs_kept: int = PAIRS_KEPT) -> None:
        self._pairs: list[Noted] = []
        self._pairs_kept = pairs_kept
        self._stride = 1  # polls to a pair
        self._polls_in_newest = 0

    @property
    def end(self) -> int:
        """The end that the newest poll found: all below it was there; 0 before the first."""
        return self._pairs[-1].end if self._pairs else 0

    def note(self, end: int, w: dict[int, float], *, not_before: float, not_after: float) -> None:
        """Take in one poll: the end offset and the W that was noted before it was read."""
        newest = self._pairs[-1] if self._pairs else None
        if newest is not None and newest.end == end:
            newest.w, newest.not_before, newest.claimed = w, not_before, False
            return
        if newest is not None and end < newest.end:
            self._pairs.clear()  # the topic was recreated: its offsets started over
        elif newest is not None and not newest.claimed and self._polls_in_newest < self._stride:
            self._pairs.pop()
        else:
            self._polls_in_newest = 0
        self._pairs.append(Noted(end, w, not_before, not_after))
        self._polls_in_newest += 1
        if len(self._pairs) > self._pairs_kept:
            self._pairs = self._pairs[::2]
            self._stride *= 2

    def claim(self, position: int) -> dict[int, float] | None:
        """Return the newest W that may be claimed when everything below `position` is acknowledged.

        None where nothing new may be claimed since the last call.
        """
        passed = self._first_above(position)
        if passed == 0 or self._pairs[passed - 1].claimed:
            return None
        best = self._pairs[passed - 1]
        best.claimed = True
        del self._pairs[: passed - 1]  # what bounds later offsets from below is `best` itself
        if len(self._pairs) < self._pairs_kept // 4:
            self._stride = 1
        return best.w

    def bounds(self, offset: int) -> tuple[float, float]:
        """Return the earliest and latest source time (epoch seconds) that a record at `offset` can have."""
        above = self._first_above(offset)
        low = self._pairs[above - 1].not_before if above else 0.0
        high = self._pairs[above].not_after if above < len(self._pairs) else float("inf")
        return low, high

    def bounds_hold_until(self, offset: int) -> int:
        """Return the first offset above `offset` that may have other bounds."""
        above = self._first_above(offset)
        return self._pairs[above].end if above < len(self._pairs) else 2**63 - 1

    def _first_above(self, offset: int) -> int:
        return bisect_right(self._pairs, offset, key=_end_of)


def _end_of(pair: Noted) -> int:
    return pair.end
