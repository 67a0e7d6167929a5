"""How far clocks are apart, as well as two messages can tell: bounds, not numbers."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import msgspec

from sf_healer.checks.findings import About, Finding, State

#: The clocks of one cluster are milliseconds apart where they are set at all. Up to here nothing of ours minds: an
#: API server's Date is told to the second, and "right after" in a report's own time means two.
LIMIT_SECONDS = 2.0


class Clock(msgspec.Struct, frozen=True):
    """How far a clock is ahead of this machine's, in seconds: between `low` and `high`."""

    name: str
    low: float
    high: float


HERE = Clock("this machine", 0.0, 0.0)


def seen(name: str, at: float, *, asked_at: float, answered_at: float, resolution_seconds: float) -> Clock:
    """Give the bounds of a clock that said `at`, cut off to its resolution, between two moments of ours."""
    return Clock(name, at - answered_at, at + resolution_seconds - asked_at)


def compare(clocks: Sequence[Clock]) -> Iterator[Finding]:
    """Compare every two of the clocks; one that is off shows in each line it is in."""
    for one, other in combinations(clocks, 2):
        # how far `other` is ahead of `one`
        low, high = other.low - one.high, other.high - one.low
        certain = max(low, -high, 0.0)
        middle, doubt = (low + high) / 2, (high - low) / 2
        said = f"{other.name} is {abs(middle):.1f} s {'ahead of' if middle >= 0 else 'behind'} {one.name}"
        what = f"{said} (give or take {doubt:.1f} s)"
        if certain <= LIMIT_SECONDS:
            yield Finding(About.CLOCKS, State.OK, what)
        else:
            yield Finding(About.CLOCKS, State.WRONG, what, "timedatectl set-ntp true, on the one that is off")
