"""Marks on the sending side: when this worker may claim that everything up to a moment is on the log.

Each mark interval the telemetry agent (1) notes W, the broker's append time of its own newest acknowledged
record in each evidence partition, then (2) reads the end E of each of its source partitions, and notes the
pair here. Once everything up to E is forwarded and acknowledged, W may be claimed. The order of (1) and (2)
is the point: whatever was appended to the source before W is below E. A lagging worker claims late, never too
much; a worker that is never quite caught up claims all the same (a rule "position equals end now" starves
under steady load).

E is the end of the leader's log, not of what can be read of it (docs/decisions/0029): where replicas are missing,
reports are acknowledged above the high watermark, and nobody reads them for as long as that stands. What is not
replicated may be lost with its leader, and then the log ends before an earlier E: the lower end takes its place.

The same polls bound the source times of reports. A record that could be read existed then; one at or above E did
not. So a producer with a wrong clock cannot move its words by more than a mark interval.
"""

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

import msgspec

#: More than an hour of polls at one a second. A worker further behind keeps every second of them, then every
#: fourth, and so on: were only the newest kept, it would never pass the end of one, and claim nothing.
PAIRS_KEPT = 4096
_FOR_EVER = 2**63 - 1


class Ends(NamedTuple):
    """Where a source partition ends, asked of its leader."""

    log: int  # whatever was appended lies below
    readable: int  # the high watermark: what lies below can be read, and outlives its leader


class Noted(msgspec.Struct):
    """One or more polls of a source partition that found the same end.

    `w` is the newest W per evidence partition, `not_before` the broker's time before the newest poll and
    `not_after` its time after the oldest one that found `readable`; epoch seconds.
    """

    end: int
    readable: int
    w: dict[int, float]
    not_before: float
    not_after: float
    claimed: bool = False


class SourceMarks:
    """The pairs of one source partition, oldest first; their ends grow, and what is readable does not shrink."""

    def __init__(self, *, pairs_kept: int = PAIRS_KEPT) -> None:
        self._pairs: list[Noted] = []
        self._pairs_kept = pairs_kept
        self._stride = 1  # polls to a pair
        self._polls_in_newest = 0

    @property
    def readable(self) -> int:
        """Up to where the newest poll found that it can be read; 0 before the first."""
        return self._pairs[-1].readable if self._pairs else 0

    def note(self, ends: Ends, w: dict[int, float], *, not_before: float, not_after: float) -> int:
        """Take in one poll: the ends, and the W that was noted before they were read.

        Returns how many offsets the log is shorter than it was: they are lost.
        """
        end, readable = ends
        newest = self._pairs[-1] if self._pairs else None
        if newest is not None and newest.end == end and newest.readable <= readable:
            if newest.readable < readable:
                newest.readable, newest.not_after = readable, not_after
            newest.w, newest.not_before, newest.claimed = w, not_before, False
            return 0
        lost = 0
        if newest is not None and (end < newest.end or readable < newest.readable):
            lost = max(0, newest.end - end)
            self._pairs.clear()  # its offsets started over, or it lost its tail: what was noted is of another log
        elif newest is not None and not newest.claimed and self._polls_in_newest < self._stride:
            self._pairs.pop()
        else:
            self._polls_in_newest = 0
        self._pairs.append(Noted(end, readable, w, not_before, not_after))
        self._polls_in_newest += 1
        if len(self._pairs) > self._pairs_kept:
            self._pairs = self._pairs[::2]
            self._stride *= 2
        return lost

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
        above, read = self._first_above(offset), self._first_to_read(offset)
        low = self._pairs[above - 1].not_before if above else 0.0
        high = self._pairs[read].not_after if read < len(self._pairs) else float("inf")
        return low, high

    def bounds_hold_until(self, offset: int) -> int:
        """Return the first offset above `offset` that may have other bounds."""
        above, read = self._first_above(offset), self._first_to_read(offset)
        until = self._pairs[above].end if above < len(self._pairs) else _FOR_EVER
        return min(until, self._pairs[read].readable) if read < len(self._pairs) else until

    def _first_above(self, offset: int) -> int:
        return bisect_right(self._pairs, offset, key=attrgetter("end"))

    def _first_to_read(self, offset: int) -> int:
        return bisect_right(self._pairs, offset, key=attrgetter("readable"))
