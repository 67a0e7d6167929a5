"""How far another machine's clock is ahead of ours, from answers that tell it in whole seconds."""

from math import inf

import msgspec


class ClockBound(msgspec.Struct):
    """The other clock is ahead of ours by `low` to `high` seconds; every answer narrows that."""

    low: float = -inf
    high: float = inf

    @property
    def doubt(self) -> float:
        """How far apart the bounds are, in seconds."""
        return self.high - self.low

    def note(self, said: float, *, asked_at: float, answered_at: float, resolution: float = 1.0) -> None:
        """Take in that it said `said`, cut off to its resolution, between two moments of ours (epoch seconds).

        An answer that contradicts those before it stands alone: a clock was set.
        """
        low, high = said - answered_at, said + resolution - asked_at
        if max(low, self.low) <= min(high, self.high):
            low, high = max(low, self.low), min(high, self.high)
        self.low, self.high = low, high

    def best_asked_in(self, now: float) -> float:
        """Return in how many seconds an answer halves the doubt: when it may or may not say the next whole second."""
        return -(now + (self.low + self.high) / 2) % 1.0
