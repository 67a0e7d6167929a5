"""What was handed over of one partition, and how much of it is acknowledged.

Pure bookkeeping: no Faust, no aiokafka, no clock. A position is the offset of the next record to read, and
every delivery covers a half-open range of positions, so that control records, aborted transactions and
compaction gaps belong to a range without being counted anywhere.
"""

from __future__ import annotations

from collections import deque
from typing import Final


class Delivery:
    """One thing handed to an agent: the positions from `start` up to, not including, `end`."""

    __slots__ = ("abandoned", "acknowledged", "end", "let_go", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start: Final = start
        self.end: Final = end
        self.acknowledged = False
        self.abandoned = False
        #: Its records take no room any more, though it is not acknowledged yet.
        self.let_go = False


class Ledger:
    """Deliveries of one partition in the order they were handed over.

    One ledger lives from one seek to the next. A seek starts a new one, and the deliveries of the
    old one count for nothing from then on: their records are going to be read again.
    """

    __slots__ = ("_open", "_position", "_untouched")

    def __init__(self, position: int | None = None, *, starts_over: bool = False) -> None:
        self._position = position
        self._open: deque[Delivery] = deque()
        self._untouched = starts_over

    @property
    def position(self) -> int | None:
        """Where reading goes on: the end of what was handed over; None before it is known."""
        return self._position

    def begin_at(self, position: int) -> None:
        """Learn where reading began, when nothing was known before."""
        assert self._position is None, f"already at {self._position}"
        self._position = position

    def deliver(self, end: int) -> Delivery:
        """Hand over everything from the position up to `end`."""
        assert self._position is not None
        assert end > self._position, f"{end} is not after {self._position}"
        delivery = Delivery(self._position, end)
        self._open.append(delivery)
        self._position = end
        return delivery

    def pass_over(self, end: int) -> None:
        """Go on to `end`, with no record in between: only control records and gaps."""
        assert self._position is not None
        assert end >= self._position, f"{end} is before {self._position}"
        self._position = end

    def start_over(self, position: int) -> Ledger:
        """Go on where a reset has put the reader; returns the ledger of that place.

        Further on what is in flight is still to be acknowledged. Further back, or from nowhere, is another log: that of
        what is in flight is no more.
        """
        if self._position is not None and self._position <= position:
            self.pass_over(position)
            return self
        self.abandon()
        return Ledger(position, starts_over=True)

    def abandon(self) -> None:
        """Note that what is in flight means nothing any more: it will be read again, or is of a log that is no more."""
        for delivery in self._open:
            delivery.abandoned = True

    @property
    def acknowledged(self) -> int | None:
        """Everything before this position was handed over and acknowledged; None before it is known."""
        while self._open and self._open[0].acknowledged:
            self._open.popleft()
            self._untouched = False
        return self._open[0].start if self._open else self._position

    @property
    def to_commit(self) -> int | None:
        """The offset to commit; None while what is committed is to stand.

        That is what is acknowledged: Kafka's committed offset is the next one to read. But where a reset has put the
        reader into another log, nothing is committed of that before a delivery is acknowledged: until then the agent
        may not have dealt with the reset, and whoever reads in its place is to find it too.
        """
        acknowledged = self.acknowledged
        return None if self._untouched else acknowledged

    @property
    def in_flight(self) -> int:
        """How many deliveries are neither acknowledged nor let go."""
        return sum(not (delivery.acknowledged or delivery.let_go) for delivery in self._open)
