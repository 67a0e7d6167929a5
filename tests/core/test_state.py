"""What is known of a Job is a join: in whatever order evidence comes, and however often, it ends the same."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sf_healer.core import policy
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Hold, HoldCause
from sf_healer.core.facts import Condition, PodState, gone
from sf_healer.core.remembered import Remembered, checkpoint_of, durable, recalled, remembered
from sf_healer.core.state import (
    NEVER,
    WIRE_NAMES,
    JobState,
    Seldom,
    error_open_since,
    fold_beat,
    fold_fact,
    fold_hold,
    fold_outcome,
    fold_word,
    has_open_error,
    mark_gone,
    put_right,
)
from sf_healer.core.verdicts import judge
from sf_healer.core.watermark import Gaps
from tests.core.strategies import (
    JOB,
    POLICY,
    T0,
    a_beat,
    a_fact,
    a_state,
    a_word,
    an_outcome,
    beats,
    facts,
    moments,
    with_fields,
    words,
)

LATER = T0 + 1000  # an append time that clamps nothing


def loading(state, source_at, *, at=None, offset=0, partition=0):
    return fold_beat(
        state, a_beat(source_at, offset=offset), at=source_at if at is None else at, source_partition=partition
    )


def word(state, kind, source_at, *, at=None, offset=0, partition=0, finished=False, detail=""):
    said = a_word(kind, source_at, offset=offset, finished=finished, detail=detail)
    return fold_word(state, said, at=source_at if at is None else at, source_partition=partition)


# ---- signs of life


def test_loading_moves_last_seen_in_append_time():
    state = a_state()
    assert loading(state, T0 + 5, at=T0 + 7)
    assert (state.loading_at, state.loading_source, state.life_at, state.life_source) == (
        T0 + 7,
        T0 + 5,
        T0 + 7,
        T0 + 5,
    )


def test_a_producer_whose_clock_steps_back_is_alive_all_the_same():
    state = a_state()
    loading(state, T0 + 50)
    assert loading(state, T0 + 20, at=T0 + 60)
    assert (state.loading_at, state.loading_source) == (T0 + 60, T0 + 50)


def test_a_producers_fast_clock_counts_up_to_the_append_time_at_most():
    """Else an `error` an hour ahead would condemn every incarnation of the next hour."""
    state = a_state()
    word(state, Kind.ERROR, T0 + 3600, at=T0 + 5)
    loading(state, T0 + 3600, at=T0 + 6)
    word(state, Kind.STARTED, T0 + 3600, at=T0 + 7)
    assert (state.error_source, state.loading_source, state.started_source) == (T0 + 5, T0 + 6, T0 + 7)


def test_the_same_loading_twice_is_no_news():
    state = a_state()
    assert loading(state, T0 + 5)
    assert not loading(state, T0 + 5)


def test_where_the_newest_sign_of_life_was_read_is_kept():
    state = a_state()
    loading(state, T0 + 5, offset=7, partition=2)
    assert (state.source_partition, state.source_offset) == (2, 7)
    loading(state, T0 + 4, offset=8, partition=1)
    assert (state.source_partition, state.source_offset) == (2, 7)
    word(state, Kind.STARTED, T0 + 6, offset=3, partition=1)
    assert (state.source_partition, state.source_offset) == (1, 3)


def test_a_count_is_that_of_the_newest_loading_that_told_one():
    state = a_state()
    fold_beat(state, a_beat(T0 + 5, records_written=100), at=T0 + 5, source_partition=0)
    fold_beat(state, a_beat(T0 + 6, records_written=-1), at=T0 + 6, source_partition=0)
    fold_beat(state, a_beat(T0 + 4, records_written=50), at=T0 + 7, source_partition=0)
    assert state.records_written == 100


def test_a_sign_of_life_that_looks_older_than_the_incarnation_proves_nothing_but_delays_silence():
    """It is the old incarnation's, or this one's under a slow clock: only a later verdict is safe for both."""
    state = a_state(fact=a_fact(created_at=T0 + 100))
    assert loading(state, T0 + 99, at=T0 + 130)
    assert word(state, Kind.STARTED, T0 + 99, at=T0 + 131)
    assert not loading(state, T0 + 99, at=T0 + 131)
    assert (state.loading_at, state.started_at, state.doubtful_life_at) == (NEVER, NEVER, T0 + 131)


# ---- words


@pytest.mark.parametrize("kind", [Kind.FINISHED, Kind.INTERRUPTED])
def test_the_newest_word_of_each_kind_in_source_time_is_kept(kind):
    state = a_state()
    name = kind.name.lower()
    assert word(state, kind, T0 + 9)
    assert not word(state, kind, T0 + 8, at=T0 + 20)
    assert not word(state, kind, T0 + 9, at=T0 + 20)
    assert (getattr(state, f"{name}_source"), getattr(state, f"{name}_at")) == (T0 + 9, T0 + 9)


def test_started_counts_even_when_a_newer_loading_came_first():
    state = a_state()
    loading(state, T0 + 9)
    assert word(state, Kind.STARTED, T0 + 2, at=T0 + 10)
    assert (state.started_source, state.started_at, state.life_source) == (T0 + 2, T0 + 10, T0 + 9)
    assert not word(state, Kind.STARTED, T0 + 2, at=T0 + 10)


def test_the_newest_error_is_kept_with_what_it_told():
    state = a_state()
    assert word(state, Kind.ERROR, T0 + 5, offset=7, partition=2, detail="first")
    assert word(state, Kind.ERROR, T0 + 5, finished=True, offset=8, partition=1, detail="final")
    assert not word(state, Kind.ERROR, T0 + 4, at=T0 + 20, detail="older")
    assert (state.error_source, state.error_finished, state.error_detail) == (T0 + 5, True, "final")
    assert (state.error_partition, state.error_offset) == (1, 8)


def test_a_pong_is_no_word_of_a_job():
    assert not word(a_state(), Kind.PONG, T0 + 5)


@pytest.mark.parametrize("kind", [Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED])
def test_an_end_or_error_within_the_second_of_creation_is_not_surely_of_this_incarnation(kind):
    """Kubernetes cuts creationTimestamp to whole seconds: the old one may have said it."""
    state = a_state()
    assert not word(state, kind, T0 + 0.999)
    assert word(state, kind, T0 + 1)


@pytest.mark.parametrize("kind", [Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED])
def test_a_creation_time_with_a_fraction_is_exact(kind):
    state = a_state(fact=a_fact(created_at=T0 + 0.25))
    assert not word(state, kind, T0 + 0.125)
    assert word(state, kind, T0 + 0.25)


def test_a_word_that_comes_before_any_fact_is_kept():
    state = JobState(JOB)
    assert word(state, Kind.ERROR, T0 + 5)
    fold_fact(state, a_fact(), at=T0 + 6)
    assert state.error_source == T0 + 5


# ---- open errors


def test_an_error_is_open_until_a_newer_sign_of_life():
    state = a_state()
    assert not has_open_error(state)
    word(state, Kind.ERROR, T0 + 5)
    assert has_open_error(state)
    loading(state, T0 + 4, at=T0 + 6)
    assert has_open_error(state)
    loading(state, T0 + 6)
    assert not has_open_error(state)


def test_started_answers_an_error_too():
    state = a_state()
    word(state, Kind.ERROR, T0 + 5)
    word(state, Kind.STARTED, T0 + 6)
    assert not has_open_error(state)


def test_of_three_reports_of_one_moment_the_last_in_the_source_partition_decides():
    state = a_state()
    word(state, Kind.ERROR, T0 + 5, offset=7)
    loading(state, T0 + 5, offset=8)
    assert word(state, Kind.ERROR, T0 + 5, offset=9)
    assert has_open_error(state)


@pytest.mark.parametrize(("error_first", "is_open"), [(True, False), (False, True)])
def test_at_equal_source_times_the_order_in_the_source_partition_decides(error_first, is_open):
    state = a_state()
    word(state, Kind.ERROR, T0 + 5, offset=7 if error_first else 8)
    loading(state, T0 + 5, offset=8 if error_first else 7)
    assert has_open_error(state) is is_open


@pytest.mark.parametrize(
    ("life", "finished", "is_open"),
    [
        (Kind.LOADING, False, False),
        (Kind.LOADING, True, True),
        (Kind.STARTED, False, False),
        (Kind.STARTED, True, False),
    ],
)
@pytest.mark.parametrize("error_first", [True, False])
def test_at_equal_source_times_from_two_partitions_it_is_no_matter_which_was_read_first(
    life, finished, is_open, error_first
):
    """Two reports of a slow clock, both raised to the mark before them (simulation, seed 3012; a property below).

    A process says a final `error` last, so a `loading` of that moment was said before it; `started` may be another's.
    """
    state = a_state()
    error_at, life_at = (T0 + 6, T0 + 7) if error_first else (T0 + 7, T0 + 6)

    def tell_error():
        word(state, Kind.ERROR, T0 + 5, at=error_at, offset=9, partition=0, finished=finished)

    def tell_life():
        if life is Kind.LOADING:
            loading(state, T0 + 5, at=life_at, offset=1, partition=1)
        else:
            word(state, Kind.STARTED, T0 + 5, at=life_at, offset=1, partition=1)

    for tell in (tell_error, tell_life) if error_first else (tell_life, tell_error):
        tell()
    assert has_open_error(state) is is_open


def test_the_grace_counts_from_the_first_error_of_a_row():
    """Else a Job that fails again and again, a little faster than the grace, would never have failed."""
    state = a_state()
    for second in (5, 25, 45):
        word(state, Kind.ERROR, T0 + second)
    assert error_open_since(state) == T0 + 5


def test_the_grace_counts_anew_after_a_sign_of_life_whenever_that_is_read():
    early, late = a_state(), a_state()
    word(early, Kind.ERROR, T0 + 5)
    loading(early, T0 + 10)
    word(early, Kind.ERROR, T0 + 20)
    word(late, Kind.ERROR, T0 + 5)
    word(late, Kind.ERROR, T0 + 20)
    loading(late, T0 + 10, at=T0 + 30)
    assert error_open_since(early) == error_open_since(late) == T0 + 20


# ---- facts and incarnations


def test_a_fact_twice_is_no_news_and_an_older_one_is_passed_over():
    state = JobState(JOB)
    newer = a_fact(resource_version=20, pod=PodState.PENDING)
    assert fold_fact(state, newer, at=T0 + 1)
    assert not fold_fact(state, newer, at=T0 + 2)
    assert not fold_fact(state, a_fact(resource_version=19), at=T0 + 3)
    assert (state.fact, state.idle_pod_at) == (newer, T0 + 1)


def test_the_first_sight_of_a_running_pod_is_kept_while_it_runs():
    state = JobState(JOB)
    fold_fact(state, a_fact(resource_version=1, pod=PodState.PENDING), at=T0 + 1)
    assert (state.running_at, state.idle_pod_at) == (NEVER, T0 + 1)
    fold_fact(state, a_fact(resource_version=2), at=T0 + 2)
    fold_fact(state, a_fact(resource_version=3, pod_ip="10.0.0.1"), at=T0 + 3)
    assert (state.running_at, state.idle_pod_at) == (T0 + 2, NEVER)
    assert state.pod_ended_at == NEVER
    fold_fact(state, a_fact(resource_version=4, pod=PodState.ENDED), at=T0 + 4)
    fold_fact(state, a_fact(resource_version=5, pod=PodState.NONE), at=T0 + 5)
    assert (state.running_at, state.idle_pod_at) == (NEVER, T0 + 4)
    assert state.pod_ended_at == T0 + 4
    fold_fact(state, a_fact(resource_version=6), at=T0 + 6)
    assert (state.running_at, state.idle_pod_at) == (T0 + 6, NEVER)


def test_another_running_pod_than_before_runs_since_our_log_first_showed_it():
    """One was swapped for another between two facts: the new one is owed the time to speak that any has."""
    state = JobState(JOB)
    fold_fact(state, a_fact(resource_version=1, pod_ip="10.0.0.1"), at=T0 + 1)
    fold_fact(state, a_fact(resource_version=2, pod_ip="10.0.0.2"), at=T0 + 2)
    assert state.running_at == T0 + 2
    fold_fact(state, a_fact(resource_version=3, pod_ip="10.0.0.2", skip=True), at=T0 + 3)
    fold_fact(state, a_fact(resource_version=4), at=T0 + 4)  # which one is not told
    fold_fact(state, a_fact(resource_version=5, pod_ip="10.0.0.2"), at=T0 + 5)
    assert state.running_at == T0 + 2


def test_the_first_sight_of_a_condition_is_kept_while_it_holds():
    state = JobState(JOB)
    fold_fact(state, a_fact(resource_version=1), at=T0 + 1)
    fold_fact(state, a_fact(resource_version=2, pod=PodState.ENDED), at=T0 + 2)
    assert state.condition_at == T0 + 1
    fold_fact(state, a_fact(resource_version=3, condition=Condition.FAILED), at=T0 + 3)
    fold_fact(state, a_fact(resource_version=4, condition=Condition.FAILED, pod=PodState.NONE), at=T0 + 4)
    assert state.condition_at == T0 + 3


def everything_said(state, source_at):
    word(state, Kind.STARTED, source_at)
    loading(state, source_at)
    word(state, Kind.ERROR, source_at, finished=True, detail="old")
    word(state, Kind.FINISHED, source_at)
    word(state, Kind.INTERRUPTED, source_at)


def test_a_new_incarnation_has_said_nothing_of_what_the_old_one_said():
    state = JobState(JOB)
    fold_fact(state, a_fact(), at=T0 + 1)
    everything_said(state, T0 + 5)
    fold_hold(state, Hold(JOB, HoldCause.STOP_COMMAND), at=T0 + 5)
    fold_outcome(state, an_outcome("c1", at=T0 + 6, retry_after=900.0), at=T0 + 6, retry_seconds=1)
    outcome = state.outcome
    new = a_fact(uid="u2", created_at=T0 + 60, resource_version=30, pod=PodState.PENDING)
    fold_fact(state, new, at=T0 + 61)
    assert remembered(state) == Remembered(
        JOB,
        fact=new,
        idle_pod_at=T0 + 61,
        seen_at=T0 + 61,
        condition_at=T0 + 61,
        outcome=outcome,
    )


def test_what_the_new_incarnation_said_before_its_fact_came_stays():
    state = JobState(JOB)
    fold_fact(state, a_fact(), at=T0 + 1)
    everything_said(state, T0 + 5)
    everything_said(state, T0 + 62)
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 60, resource_version=30), at=T0 + 63)
    assert {
        state.loading_source,
        state.started_source,
        state.error_source,
        state.finished_source,
        state.interrupted_source,
    } == {T0 + 62}


def test_a_job_made_again_within_one_second_is_a_new_incarnation():
    state = JobState(JOB)
    fold_fact(state, a_fact(uid="z", resource_version=5), at=T0 + 1)
    loading(state, T0 + 0.5, at=T0 + 1)
    assert fold_fact(state, a_fact(uid="a", resource_version=9), at=T0 + 2)
    assert (state.fact.uid, state.seen_at) == ("a", T0 + 2)


def test_a_late_fact_does_not_bring_an_old_incarnation_back():
    state = JobState(JOB)
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 60, resource_version=30), at=T0 + 61)
    assert not fold_fact(state, a_fact(condition=Condition.GONE, resource_version=99), at=T0 + 62)
    assert state.fact.uid == "u2"


def test_a_late_word_of_the_old_incarnation_does_not_condemn_the_new_one():
    state = a_state(fact=a_fact(uid="u2", created_at=T0 + 60))
    assert not word(state, Kind.ERROR, T0 + 59, at=T0 + 90, finished=True)
    assert not has_open_error(state)


def test_an_api_server_whose_clock_is_ahead_costs_the_job_none_of_its_words():
    """Its creation cannot be later than our log first showed it."""
    state = JobState(JOB)
    fold_fact(state, a_fact(created_at=T0 + 30), at=T0 + 1.5)
    assert word(state, Kind.ERROR, T0 + 3, finished=True)
    assert loading(state, T0 + 4)
    assert state.loading_source == T0 + 4


def test_an_api_server_whose_clock_is_behind_does_not_condemn_the_new_incarnation():
    """What a command answered was said by the incarnation that was judged, whatever its creation time says."""
    state = JobState(JOB)
    fold_fact(state, a_fact(), at=T0 + 1)
    word(state, Kind.ERROR, T0 + 50, finished=True)
    word(state, Kind.FINISHED, T0 + 50.125)
    state.command_source = T0 + 50.125
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 45, resource_version=30), at=T0 + 53)
    assert not has_open_error(state)
    assert state.finished_source == NEVER
    assert not word(state, Kind.ERROR, T0 + 50, at=T0 + 60, finished=True)  # read a second time
    assert word(state, Kind.ERROR, T0 + 55, finished=True)


def test_an_error_before_an_incarnation_under_a_slow_clock_of_the_api_does_not_condemn_it():
    state = a_state()
    word(state, Kind.ERROR, T0 + 100, finished=True)
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 60), at=T0 + 121, behind_seconds=61)  # it began at T0 + 120
    assert not has_open_error(state)
    assert not word(state, Kind.ERROR, T0 + 119, at=T0 + 122, finished=True)
    assert word(state, Kind.ERROR, T0 + 125, at=T0 + 125, finished=True)
    assert has_open_error(state)


def test_an_incarnation_dated_before_the_one_that_is_gone_takes_its_place_for_good():
    """The clock of the API server was ahead when the one before was made, or another server of it answers."""
    state = JobState(JOB)
    ahead = a_fact(uid="ahead", created_at=T0 + 3600, resource_version=100)
    after = a_fact(uid="after", created_at=T0 + 2, resource_version=200)
    assert fold_fact(state, ahead, at=T0)
    assert not fold_fact(state, after, at=T0 + 3)  # a late fact, as far as one can tell
    assert fold_fact(state, gone(ahead, 150), at=T0 + 3)
    assert fold_fact(state, after, at=T0 + 4)
    assert (state.fact.uid, state.seen_at, state.created_at) == ("after", T0 + 4, T0 + 4)
    assert not fold_fact(state, after, at=T0 + 5)
    assert fold_fact(state, a_fact(uid="after", created_at=T0 + 2, resource_version=210, skip=True), at=T0 + 5)
    assert not fold_fact(state, ahead, at=T0 + 6)
    assert state.fact.uid == "after"
    assert state.seen_at == T0 + 4


@pytest.mark.parametrize(
    ("kind", "source"), [(Kind.FINISHED, "finished_source"), (Kind.INTERRUPTED, "interrupted_source")]
)
def test_an_end_before_an_incarnation_under_a_slow_clock_of_the_api_does_not_excuse_it(kind, source):
    state = a_state()
    word(state, kind, T0 + 100, at=T0 + 100, finished=True)
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 60), at=T0 + 121, behind_seconds=61)  # it began at T0 + 120
    assert getattr(state, source) == NEVER
    assert not word(state, kind, T0 + 119, at=T0 + 122, finished=True)
    assert word(state, kind, T0 + 125, at=T0 + 125, finished=True)


# ---- holds and outcomes


def test_the_newest_hold_counts():
    state = a_state()
    hold = Hold(JOB, HoldCause.STOP_COMMAND)
    assert fold_hold(state, hold, at=T0 + 5)
    assert not fold_hold(state, hold, at=T0 + 5)
    assert not fold_hold(state, hold, at=T0 + 4)
    assert state.hold_at == T0 + 5


def told_to_stop(offset: int, source_at: float, *, partition: int = 0) -> Hold:
    return Hold(JOB, HoldCause.STOP_COMMAND, partition, offset, source_at)


def test_a_stop_command_that_is_read_again_holds_nobody_for_longer():
    state = a_state()
    first, second, elsewhere = told_to_stop(7, T0), told_to_stop(8, T0 + 1), told_to_stop(3, T0 + 2, partition=1)
    assert all(fold_hold(state, hold, at=T0 + 5) for hold in (first, second, elsewhere))
    for late in range(3):
        assert not any(fold_hold(state, hold, at=T0 + 50 + late) for hold in (first, second, elsewhere))
    assert state.hold_at == T0 + 5


def test_a_stop_command_that_is_read_again_does_not_hold_the_next_incarnation():
    state = a_state()
    hold = told_to_stop(7, T0)
    fold_hold(state, hold, at=T0 + 5)
    fold_fact(state, a_fact(uid="u2", created_at=T0 + 60), at=T0 + 60)
    assert not fold_hold(state, hold, at=T0 + 70)
    assert state.hold_at == NEVER


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(told_to_stop(2, T0 + 100), id="of a topic made anew"),
        pytest.param(told_to_stop(8, T0 - 100), id="under a clock that was set back"),
    ],
)
def test_another_stop_command_holds_anew(later):
    state = a_state()
    fold_hold(state, told_to_stop(7, T0), at=T0 + 5)
    assert fold_hold(state, later, at=T0 + 90)
    assert state.hold_at == T0 + 90


def test_a_hold_that_came_after_the_creation_stays_when_the_fact_comes_late():
    state = JobState(JOB)
    fold_hold(state, Hold(JOB, HoldCause.STOP_COMMAND), at=T0 + 61)
    fold_fact(state, a_fact(created_at=T0 + 60), at=T0 + 62)
    assert state.hold_at == T0 + 61


def commanded(**changes):
    return a_state(command_id="c1", command_uid="u1", command_verdict="stuck", command_deadline=T0 + 120, **changes)


def test_a_final_outcome_closes_the_command_it_answers():
    state = commanded()
    assert fold_outcome(state, an_outcome("c1", at=T0 + 5), at=T0 + 6, retry_seconds=30)
    assert (state.command_id, state.command_uid, state.command_verdict) == ("", "", "")
    assert state.command_deadline == NEVER


@pytest.mark.parametrize("outcome", [an_outcome("other", at=T0 + 5), an_outcome("c1", at=T0 + 5, final=False)])
def test_another_commands_outcome_and_one_that_is_not_final_leave_the_command_open(outcome):
    state = commanded()
    assert fold_outcome(state, outcome, at=T0 + 6, retry_seconds=30)
    assert (state.command_id, state.command_deadline) == ("c1", T0 + 120)
    assert state.outcome == outcome


def test_the_judged_incarnation_is_left_alone_for_as_long_as_the_outcome_says_at_least_a_while():
    for retry_after, expected in ((0.0, 30), (900.0, 900)):
        state = a_state()
        fold_outcome(state, an_outcome("c1", at=T0 + 5, retry_after=retry_after), at=T0 + 6, retry_seconds=30)
        assert state.retry_at == T0 + 6 + expected


def test_an_outcome_about_an_older_incarnation_does_not_protect_the_new_one():
    state = a_state(fact=a_fact(uid="u2"))
    fold_outcome(state, an_outcome("c1", uid="u1", at=T0 + 5, retry_after=900.0), at=T0 + 6, retry_seconds=30)
    assert state.retry_at == NEVER


def test_a_command_is_closed_even_if_a_later_outcome_was_read_before():
    """Two actuators, one after the other, have two clocks; a takeover may also publish out of order."""
    state = commanded(outcome=an_outcome("c0", at=T0 + 9))
    assert fold_outcome(state, an_outcome("c1", at=T0 + 5), at=T0 + 10, retry_seconds=30)
    assert state.command_id == ""
    assert state.outcome.command_id == "c0"


def test_of_two_outcomes_of_one_moment_the_final_one_stays():
    asks, ends = an_outcome("c1", at=T0 + 5, final=False), an_outcome("c1", at=T0 + 5)
    for order in ((asks, ends), (ends, asks)):
        state = commanded()
        for outcome in order:
            fold_outcome(state, outcome, at=T0 + 6, retry_seconds=30)
        assert (state.outcome, state.command_id) == (ends, "")


# ---- gone


def test_a_job_that_a_list_does_not_hold_is_gone():
    state = a_state(fact=a_fact(resource_version=10))
    assert mark_gone(state, 15)
    assert (state.fact.condition, state.fact.pod, state.fact.resource_version) == (
        Condition.GONE,
        PodState.NONE,
        15,
    )
    assert state.running_at == NEVER
    assert not mark_gone(state, 16)


def test_a_list_says_nothing_of_a_job_that_is_newer_or_unknown():
    assert not mark_gone(a_state(fact=a_fact(resource_version=16)), 15)
    assert not mark_gone(JobState(JOB), 15)


def test_a_fact_from_before_the_list_does_not_bring_the_job_back_and_one_from_after_it_does():
    state = a_state(fact=a_fact(resource_version=10), loading_at=T0 + 5, loading_source=T0 + 5)
    mark_gone(state, 15)
    assert not fold_fact(state, a_fact(resource_version=12), at=T0 + 50)
    assert fold_fact(state, a_fact(resource_version=16), at=T0 + 60)
    assert (state.running_at, state.loading_at) == (T0 + 60, T0 + 5)


def test_a_new_incarnation_of_the_same_second_is_not_older_than_the_list_that_held_it():
    state = a_state(fact=a_fact(uid="u1", resource_version=10))
    mark_gone(state, 15, replaced=True)
    assert fold_fact(state, a_fact(uid="u2", resource_version=12), at=T0 + 2)
    assert state.fact.uid == "u2"


# ---- what is stored


def test_last_seen_is_stored_as_the_end_of_its_checkpoint():
    state = a_state(loading_at=T0 + 1.5, loading_source=T0 + 1.5, window=7)
    stored = durable(state, 30.0)
    assert (stored.loading_at - T0) % 30 == 30 - (T0 % 30) if T0 % 30 else 0
    assert T0 + 1.5 <= stored.loading_at < T0 + 31.5
    assert stored.window == -1
    assert stored.loading_source == T0 + 1.5
    assert state.loading_at == T0 + 1.5


def test_a_job_never_heard_of_is_stored_as_such():
    assert durable(a_state(window=7), 30.0) == a_state()
    assert durable(a_state(window=7, retry_at=T0), 30.0) == remembered(a_state(retry_at=T0))


def test_a_state_that_is_stored_with_every_sign_of_life_is_stored_exactly():
    state = a_state(loading_at=T0 + 1.5)
    assert durable(state, 30.0, exact=True).loading_at == T0 + 1.5


CHECKPOINTS = st.sampled_from([0.001, 0.25, 1.0, 4.0, 30.0, 180.0])


@given(st.integers(1_700_000_000_000, 1_900_000_000_000), CHECKPOINTS)
def test_the_stored_time_is_never_early_late_by_a_checkpoint_at_most_and_stays_when_stored_again(
    milliseconds, checkpoint
):
    at = milliseconds / 1000
    once = durable(a_state(loading_at=at), checkpoint)
    assert at <= once.loading_at < at + checkpoint
    assert durable(once, checkpoint).loading_at == once.loading_at


@given(st.integers(1_700_000_000_000, 1_900_000_000_000), st.integers(0, 60_000), st.sampled_from([1.0, 4.0, 30.0]))
def test_times_of_one_checkpoint_are_stored_alike(milliseconds, later, checkpoint):
    first, second = milliseconds / 1000, (milliseconds + later) / 1000
    if checkpoint_of(first, checkpoint) == checkpoint_of(second, checkpoint):
        stored = durable(a_state(loading_at=first), checkpoint).loading_at
        assert stored == durable(a_state(loading_at=second), checkpoint).loading_at >= second


def test_a_state_survives_its_own_bytes():
    state = a_state(
        loading_at=T0, outcome=an_outcome("c1", at=T0), error_detail="told", error_since_at=T0 + 1, seen_at=T0
    )
    assert recalled(msgspec.msgpack.decode(msgspec.msgpack.encode(remembered(state)), type=Remembered)) == state


def test_a_state_that_a_newer_worker_stored_with_a_field_we_do_not_know_is_read():
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(remembered(a_state())))
    newer = msgspec.msgpack.encode({**fields, "a field of the future": [1, 2]})
    assert recalled(msgspec.msgpack.decode(newer, type=Remembered)) == a_state()


def test_every_field_of_a_state_is_remembered_in_its_place_with_its_default():
    seldom = msgspec.structs.fields(Seldom)
    every = [field for field in msgspec.structs.fields(JobState) if field.name != "seldom"]
    kept = [(field.name, field.type, field.default) for field in msgspec.structs.fields(Remembered)]
    assert kept == [(field.name, field.type, field.default) for field in (*every, *seldom)]


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(Seldom)])
def test_a_field_that_is_seldom_set_is_one_of_the_state(name):
    state, default = JobState(JOB), getattr(Seldom(), name)
    assert getattr(state, name) == default
    setattr(state, name, default)
    assert state.seldom is None
    setattr(state, name, 7)
    assert (getattr(state, name), getattr(state.seldom, name)) == (7, 7)
    assert state != JobState(JOB)
    setattr(state, name, default)
    assert state == JobState(JOB)


# ---- a clock that was ahead


def test_every_time_of_a_job_that_is_of_the_log_is_put_right():
    times = [name for name in WIRE_NAMES if name.endswith(("_at", "_source", "_from", "_deadline"))]
    state = a_state(**dict.fromkeys(times, T0 + 7200), dated={Kind.ERROR: (T0 - 50, T0 + 7200)})
    assert put_right(state, T0, 7200.0)
    assert {name: getattr(state, name) for name in times} == dict.fromkeys(times, T0)
    assert state.dated == {Kind.ERROR: (T0 - 50, T0)}
    assert not put_right(state, T0, 7200.0)


def test_what_silence_counts_from_is_brought_to_now_and_what_tells_an_order_keeps_it():
    state = a_state(loading_at=T0 + 100, error_source=T0 + 100, loading_source=T0 + 110, retry_at=T0 + 900)
    put_right(state, T0, 200.0)
    assert (state.loading_at, state.error_source, state.loading_source) == (T0, T0 - 100, T0 - 90)
    assert state.retry_at == T0 + 700


def test_a_later_outcome_counts_though_a_clock_was_ahead_at_the_one_before():
    state = a_state(outcome=an_outcome("c1", at=T0 + 7200))
    assert put_right(state, T0, 7200.0)
    assert fold_outcome(state, an_outcome("c2", at=T0 + 1), at=T0 + 1, retry_seconds=30.0)


# ---- any order, any number of times

SAID = st.lists(st.tuples(st.one_of(beats(), words()), moments(200, 400), st.integers(0, 2)), max_size=12)
SHUFFLED = SAID.flatmap(lambda said: st.tuples(st.just(said), st.permutations(said)))
BOOK = policy.parse(POLICY)


def told(said):
    state = a_state()
    for each, at, partition in said:
        fold = fold_beat if hasattr(each, "records_written") else fold_word
        fold(state, each, at=at, source_partition=partition)
    return state


def comparable(state):
    """Leave out what only people see, and what depends on order but then comes late, never early.

    The start of a row of errors: its order is checked by judgement. Progress: that a number is another one.
    """
    return with_fields(
        state,
        records_written=-1,
        progress_at=NEVER,
        error_detail="",
        error_since_at=NEVER,
        error_since_source=NEVER,
        first_error_at=float(state.first_error_at != NEVER),
        error_at=NEVER,
        finished_at=NEVER,
        interrupted_at=NEVER,
    )


@given(SHUFFLED)
def test_reports_give_the_same_state_in_any_order(orders):
    """Where two differ in the broker's time of what was said at one moment, the first read is kept."""
    first, second = (told(said) for said in orders)
    assert comparable(first) == comparable(second)


@given(SAID)
def test_reports_read_twice_give_the_same_state(said):
    once, twice = told(said), told([*said, *said])
    if not has_open_error(once):  # the row of errors is over, where it began no longer matters
        twice.error_since_at, twice.error_since_source = once.error_since_at, once.error_since_source
    assert comparable(once) == comparable(twice)


@pytest.mark.parametrize("target", ["loader", "literal"])
@given(SAID, st.data())
def test_a_report_read_late_never_makes_the_verdict_earlier_than_read_in_time(target, said, data):
    assume(said)
    in_time = [
        (each, T0 + 205 + 5 * number, partition)
        for number, (each, _, partition) in enumerate(sorted(said, key=lambda each: each[0].source_at))
    ]
    late = data.draw(st.integers(0, len(said) - 1))
    each, _, partition = in_time[late]
    # What one partition says at one moment is told apart by its offsets, which are read in their order.
    tied = [other for other, _, place in said if place == partition and other.source_at == each.source_at]
    assume(len(tied) == 1)
    end = T0 + 205 + 5 * len(said)
    postponed = [*in_time[:late], *in_time[late + 1 :], (each, end, partition)]
    now = end + data.draw(st.integers(0, 60))
    expected = BOOK.for_job(a_fact(target=target))
    first, second = (judge(told(order), now, expected, Gaps()) for order in (in_time, postponed))
    assert first.restartable or not second.restartable, (first, second)


@given(st.lists(facts(), max_size=6).flatmap(lambda known: st.tuples(st.just(known), st.permutations(known))))
def test_facts_give_the_same_incarnation_in_any_order(orders):
    states = []
    for order in orders:
        state = JobState(JOB)
        for number, fact in enumerate(order):
            fold_fact(state, fact, at=LATER + number)
        states.append(state)
    first, second = states
    if first.fact is not None:
        assert (first.fact.uid, first.fact.resource_version) == (second.fact.uid, second.fact.resource_version)


@given(st.lists(facts(), max_size=6), SAID)
def test_facts_and_reports_read_twice_give_the_same_state(known, said):
    once, twice = JobState(JOB), JobState(JOB)
    for state, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            for number, fact in enumerate(known):
                fold_fact(state, fact, at=LATER + number)
            for each, at, partition in said:
                fold = fold_beat if hasattr(each, "records_written") else fold_word
                fold(state, each, at=at, source_partition=partition)
    if not has_open_error(once):
        twice.error_since_at, twice.error_since_source = once.error_since_at, once.error_since_source
    assert comparable(once) == comparable(twice)


OUTCOMES = st.lists(
    st.builds(
        an_outcome,
        command_id=st.sampled_from(["c1", "c2"]),
        uid=st.sampled_from(["u1", "u0"]),
        at=st.integers(0, 5).map(lambda second: T0 + second),
        final=st.booleans(),
        reason=st.sampled_from(["idle", "storm"]),
    ),
    max_size=6,
    unique_by=lambda outcome: (outcome.command_id, outcome.at, outcome.final),
)


@given(OUTCOMES.flatmap(lambda known: st.tuples(st.just(known), st.permutations(known))))
def test_outcomes_give_the_same_state_in_any_order_and_twice(orders):
    states = []
    for order in (*orders, [*orders[0], *orders[0]]):
        state = commanded()
        for outcome in order:
            fold_outcome(state, outcome, at=LATER, retry_seconds=30)
        states.append(with_fields(state, retry_at=NEVER))
    assert states[0] == states[1] == states[2]
