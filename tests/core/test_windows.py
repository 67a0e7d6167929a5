"""The sweep's calendar loses no Job, hands out no Job before its time, and never one twice."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.state import JobState
from sf_healer.core.windows import NO_WINDOW, Windows
from tests.core.strategies import T0


def calendar(size=5.0, *states):
    """Make the calendar of these Jobs."""
    known = {state.key: state for state in states}
    return Windows(size, lambda key, window: known[key] if known[key].window == window else None)


def closed(windows, watermark):
    return [state.key for state in windows.close(watermark)]


def test_a_job_is_handed_out_when_its_window_has_ended():
    state = JobState("a")
    windows = calendar(5.0, state)
    windows.enter(state, T0 + 7)
    assert closed(windows, T0 + 9.9) == []
    assert closed(windows, T0 + 10) == ["a"]
    assert state.window == NO_WINDOW
    assert closed(windows, T0 + 1000) == []


def test_a_job_due_later_stays_where_it_waits_and_one_due_earlier_moves():
    state = JobState("a")
    windows = calendar(5.0, state)
    windows.enter(state, T0 + 7)
    windows.enter(state, T0 + 100)
    assert closed(windows, T0 + 10) == ["a"]
    windows.enter(state, T0 + 100)
    windows.enter(state, T0 + 17)
    assert closed(windows, T0 + 20) == ["a"]
    assert closed(windows, T0 + 200) == []


def test_a_job_with_nothing_to_wait_for_waits_nowhere():
    state = JobState("a")
    windows = calendar(5.0, state)
    windows.enter(state, math.inf)
    assert state.window == NO_WINDOW
    assert closed(windows, 1e12) == []


def test_windows_close_in_order_of_time():
    due = {"c": 30, "a": 3, "b": 12}
    states = [JobState(key) for key in due]
    windows = calendar(5.0, *states)
    for state in states:
        windows.enter(state, T0 + due[state.key])
    assert closed(windows, T0 + 100) == ["a", "b", "c"]


def test_a_dropped_job_is_passed_over():
    state = JobState("a")
    windows = calendar(5.0, state)
    windows.enter(state, T0 + 3)
    windows.drop(state)
    assert closed(windows, T0 + 100) == []


def test_a_job_may_enter_again_while_windows_close():
    """A sweep judges each Job as it comes and enters it again at once, several windows at a time."""
    state = JobState("a")
    windows = calendar(5.0, state)
    windows.enter(state, T0)
    seen = []
    for number, each in enumerate(windows.close(T0 + 50)):
        seen.append(each.key)
        windows.enter(each, T0 + 50 if number else T0 + 20)
    assert seen == ["a", "a"]
    assert closed(windows, T0 + 55) == ["a"]


def test_a_job_that_moved_often_is_handed_out_once():
    state = JobState("a")
    windows = calendar(5.0, state)
    for _ in range(10):
        windows.enter(state, T0 + 60)
        windows.enter(state, T0 + 5)
        assert closed(windows, T0 + 10) == ["a"]
    windows.enter(state, T0 + 60)
    assert closed(windows, T0 + 70) == ["a"]


@pytest.mark.parametrize("size", [5.0, 0.1, 1 / 3, 0.5])
@given(
    data=st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.integers(0, 5), st.floats(0, 60)),
            st.tuples(st.just("drop"), st.integers(0, 5), st.none()),
            st.tuples(st.just("close"), st.none(), st.floats(0, 80)),
        ),
        max_size=60,
    )
)
def test_every_job_that_waits_is_handed_out_once_and_within_a_window_of_its_due_time(size, data):
    states, due = [JobState(str(n)) for n in range(6)], {}
    windows = calendar(size, *states)
    now = 0.0
    for what, number, seconds in data:
        if what == "enter":
            windows.enter(states[number], T0 + seconds)
            known = due.get(number, math.inf)
            due[number] = min(known, T0 + seconds)
        elif what == "drop":
            windows.drop(states[number])
            due.pop(number, None)
        else:
            now = max(now, T0 + seconds)
            handed_out = [int(key) for key in closed(windows, now)]
            assert len(handed_out) == len(set(handed_out))
            for each in handed_out:
                # Not before its time; a move within one window keeps the place, so its start is what counts.
                assert due.pop(each) <= now
            overdue = {each for each, at in due.items() if at + size < now - 1e-6}
            assert not overdue
        for each, state in enumerate(states):
            assert (state.window != NO_WINDOW) is (each in due)
