"""When the lines of a capture arrived: as they are dated, but for those whose clock was ahead."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.captures import CaptureError, Line
from sf_healer.log_time import AHEAD_SECONDS, LINES_AHEAD, Arrivals


def times(*dates: float) -> list[float]:
    return [at for at, _ in Arrivals(map(Line, dates))]


@given(st.lists(st.floats(0, 1e9)).map(sorted))
def test_lines_in_order_arrive_when_they_are_dated(dates):
    assert times(*dates) == dates


def test_a_line_that_is_dated_ahead_arrives_with_the_next_one():
    assert times(0, 10, 900, 30, 40) == [0, 10, 30, 30, 40]
    assert times(900, 10, 20) == [10, 10, 20]


def test_a_line_that_came_late_stays_as_it_is():
    assert times(0, 100, 200, 50, 300, 310) == [0, 100, 200, 50, 300, 310]


def test_lines_a_few_seconds_out_of_order_stay_as_they_are():
    assert times(0, 10 + AHEAD_SECONDS, 10, 20) == [0, 10 + AHEAD_SECONDS, 10, 20]


def test_a_last_line_is_ahead_if_others_were_as_far():
    assert times(0, 10, 710, 20, 30, 740) == [0, 10, 20, 20, 30, 30]
    assert times(0, 10, 20, 30, 740) == [0, 10, 20, 30, 740]


def test_a_line_is_judged_by_those_that_follow_and_no_more_are_held():
    read = []
    lines = Arrivals(read.append(number) or Line(float(number)) for number in range(10 * LINES_AHEAD))
    assert len(list(islice(lines, 3))) == 3
    assert len(read) == 2 * LINES_AHEAD


@pytest.mark.parametrize("place", [1, LINES_AHEAD - 1, LINES_AHEAD, 3 * LINES_AHEAD - 1, 5 * LINES_AHEAD])
def test_a_line_is_found_ahead_wherever_it_is(place):
    dates = [float(number) for number in range(5 * LINES_AHEAD + 7)]
    dates[place] += 90_000.0
    expected = [*range(place), place + 1, *range(place + 1, len(dates))]
    lines = Arrivals(map(Line, dates))
    assert [at for at, _ in lines] == expected
    assert lines.dated_ahead == 1


def test_what_could_be_read_comes_before_what_could_not():
    def lines():
        yield Line(1.0)
        raise CaptureError("broken")

    given_out = iter(Arrivals(lines()))
    assert next(given_out) == (1.0, Line(1.0))
    with pytest.raises(CaptureError, match="broken"):
        next(given_out)
