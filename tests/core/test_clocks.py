"""A clock that is told in whole seconds becomes known more closely with every answer."""

from math import floor, inf

from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.clocks import ClockBound

T0 = 1_750_000_000.0
AHEAD = st.floats(-3600, 3600)
DELAYS = st.tuples(st.floats(0, 0.05), st.floats(0, 0.05))


def ask(bound: ClockBound, now: float, ahead: float, there: float = 0.0, back: float = 0.0) -> float:
    """Ask a clock that is `ahead`; returns when the answer is there."""
    bound.note(floor(now + there + ahead), asked_at=now, answered_at=now + there + back)
    return now + there + back


@given(ahead=AHEAD, questions=st.lists(st.tuples(st.floats(0, 10), DELAYS), min_size=1))
def test_the_bounds_hold_whenever_it_is_asked(ahead, questions) -> None:
    bound, now = ClockBound(), T0
    for pause, delays in questions:
        now = ask(bound, now + pause, ahead, *delays)
        assert bound.low - 1e-6 <= ahead <= bound.high + 1e-6


@given(ahead=AHEAD, delays=st.lists(DELAYS, min_size=4, max_size=4))
def test_three_answers_at_the_best_moments_leave_a_quarter_of_a_second_and_what_they_took(ahead, delays) -> None:
    bound, now = ClockBound(), T0
    assert bound.doubt == inf
    for there, back in delays[:3]:
        now = ask(bound, now, ahead, there, back)
        now += bound.best_asked_in(now)
    assert bound.doubt <= 0.25 + 2 * 0.1 + 1e-6


@given(ahead=AHEAD, step=st.floats(2.1, 1000))
def test_a_clock_that_was_set_is_believed_anew(ahead, step) -> None:
    bound = ClockBound()
    now = ask(bound, T0, ahead)
    ask(bound, now + 1.0, ahead + step)
    assert bound.low - 1e-6 <= ahead + step <= bound.high + 1e-6
