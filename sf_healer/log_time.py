"""When the lines of a capture arrived, where their dates contradict each other. Pure: it reads no file.

A producer's clock dates what it sends (CreateTime), so a line may be dated far ahead of those around it, or far
behind. Which of them are wrong no single line tells: most lines are dated rightly, and those are the longest row of
lines whose dates do not go back. A line that is dated after a later one of that row is dated ahead, and arrived when
that one did at the latest. One dated before an earlier one of the row came late, which is nothing unusual.

Dates a few seconds apart are those of any capture that was merged from several partitions; they stay as they are.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from math import inf

from sf_healer.captures import CaptureError, Line

#: A line dated ahead of later ones by no more than this stays as it is.
AHEAD_SECONDS = 5.0
#: So many lines have to follow before one is judged, or the end of the capture.
LINES_AHEAD = 2048
#: So many lines at the end may be of a clock that is ahead, with none behind them that shows it.
_LAST_LINES = 8


class Arrivals:
    """The lines of a capture with the time of the log at each (epoch seconds), in their order.

    Lines whose dates never go back arrived when they are dated. So did a last line that no other contradicts, unless
    it is as far ahead as lines before it were.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._held: list[Line] = []
        self._now = -inf  # the newest date that is right
        self._farthest = 0.0
        self._problem: CaptureError | None = None
        self.dated_ahead = 0

    def __iter__(self) -> Iterator[tuple[float, Line]]:
        """Give them; raises CaptureError behind those that could be read."""
        while True:
            is_end = self._read()
            times = self._times(is_end=is_end)
            count = len(times) if is_end else LINES_AHEAD
            ready, self._held = self._held[:count], self._held[count:]
            for at, line in zip(times, ready, strict=False):
                if line.at > at:
                    self.dated_ahead += 1
                yield at, line
            if is_end:
                break
        if self._problem is not None:
            raise self._problem

    def _read(self) -> bool:
        """Read on, until enough follow; says whether that is all."""
        wanted = 2 * LINES_AHEAD - len(self._held)
        try:
            for line in islice(self._lines, wanted):
                self._held.append(line)
                wanted -= 1
        except CaptureError as problem:
            self._problem = problem
        return wanted > 0

    def _times(self, *, is_end: bool) -> list[float]:
        """Say when those held arrived; what is known of the second half is not told before more follow."""
        dates = [line.at for line in self._held]
        count = len(dates) if is_end else LINES_AHEAD
        if not dates or (dates[0] >= self._now and not self._farthest and all(a <= b for a, b in pairwise(dates))):
            self._now = dates[count - 1] if dates else self._now
            return dates
        row = _longest_row(dates, self._now)
        times = self._bounded(dates, row, count)
        if is_end and self._farthest and (end := self._trusted(dates, row)) < len(row):
            row = row[:end]
            times = self._bounded(dates, row, count)
        self._now = max((dates[number] for number in row if number < count), default=self._now)
        return times

    def _bounded(self, dates: list[float], row: list[int], count: int) -> list[float]:
        """Let no line be dated ahead of the next one of the row; behind its end there is nothing to come."""
        times = list(dates)
        following = reversed(row)
        bound, place = dates[row[-1]] if row else self._now, next(following, -1)
        for number in reversed(range(len(dates))):
            if number == place:
                bound, place = dates[number], next(following, -1)
            elif dates[number] > bound + AHEAD_SECONDS:
                times[number] = bound
        ahead = (date - at for date, at in zip(dates[:count], times, strict=False) if date > at)
        self._farthest = max(self._farthest, *ahead, 0.0)
        return times

    def _trusted(self, dates: list[float], row: list[int]) -> int:
        """Say how long the row is without last lines that are as far ahead as others were: none contradicts them."""
        for end in range(max(1, len(row) - _LAST_LINES), len(row)):
            if dates[row[end]] - dates[row[end - 1]] > max(AHEAD_SECONDS, self._farthest / 2):
                return end
        return len(row)


def _longest_row(dates: list[float], not_before: float) -> list[int]:
    """Give the places of the longest row of dates that do not go back, of those the one with the earliest end."""
    ends: list[float] = []  # by length of a row: the earliest end it can have
    places: list[int] = []
    before: list[int] = []
    for place, date in enumerate(dates):
        length = bisect_right(ends, date) if date >= not_before else -1
        if length < 0:
            before.append(-1)
            continue
        before.append(places[length - 1] if length else -1)
        if length == len(ends):
            ends.append(date)
            places.append(place)
        else:
            ends[length], places[length] = date, place
    row = []
    place = places[-1] if places else -1
    while place >= 0:
        row.append(place)
        place = before[place]
    return row[::-1]
