"""Is this Job well? One row per rule, what wins over what, and when to look again."""

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sf_healer.core import policy, verdicts
from sf_healer.core.events import Kind
from sf_healer.core.facts import Condition, PodState, with_pods
from sf_healer.core.policy import Policy
from sf_healer.core.state import NEVER, JobState, fold_beat, fold_fact, fold_word
from sf_healer.core.verdicts import (
    LATE_SECONDS,
    NO_LOOK,
    POD_RETRY_SECONDS,
    RESTARTABLE,
    RIGHT_AFTER_SECONDS,
    TAKEN_AWAY_SECONDS,
    Rule,
    Verdict,
    judge,
)
from sf_healer.core.watermark import Gaps
from tests.core.strategies import JOB, POLICY, T0, a_beat, a_fact, a_state, a_word, beats, moments, words

BOOK = policy.parse(POLICY)
HOUR = 3600
# Of a loader (strategies.POLICY): the consumer's grace is its silence threshold.
SILENCE, STARTUP, NOT_RUNNING, GRACE, HOLD = 40, 70, 90, 25, 30


def judged(state, now, *, gaps=None):
    expected = BOOK.for_job(state.fact) if state.fact is not None else Policy(name="none")
    return judge(state, T0 + now, expected, gaps or Gaps())


def short(judgement):
    return judgement.verdict, judgement.rule


def said(*reports, **changes):
    """Make the state of a loader that said these things, each a kind, its time, and whether it was final."""
    state = a_state(**changes)
    for kind, seconds, *last in reports:
        at = T0 + seconds
        if kind is Kind.LOADING:
            fold_beat(state, a_beat(at, offset=int(seconds * 8)), at=at, source_partition=0)
        else:
            word = a_word(kind, at, offset=int(seconds * 8), finished=bool(last and last[0]))
            fold_word(state, word, at=at, source_partition=0)
    return state


STARTED, LOADING, ERROR, FINISHED, INTERRUPTED = (
    Kind.STARTED,
    Kind.LOADING,
    Kind.ERROR,
    Kind.FINISHED,
    Kind.INTERRUPTED,
)


# ---- Jobs that are not judged

FAILED_BADLY = ((LOADING, 5), (ERROR, 6, True))


def test_a_job_without_a_fact_is_unknown():
    assert short(judged(JobState(JOB), 500)) == (Verdict.UNKNOWN, Rule.NO_FACT)


@pytest.mark.parametrize(
    ("changes", "verdict", "rule"),
    [
        ({"condition": Condition.GONE}, Verdict.GONE, Rule.ABSENT),
        ({"condition": Condition.DELETING}, Verdict.GONE, Rule.ABSENT),
        ({"managed": False}, Verdict.FOREIGN, Rule.NOT_MANAGED),
        ({"skip": True}, Verdict.EXEMPT, Rule.SKIP_ANNOTATION),
        ({"managed_by": "kueue"}, Verdict.EXEMPT, Rule.MANAGED_BY_ANOTHER),
        ({"target": "off"}, Verdict.EXEMPT, Rule.EXEMPT_BY_POLICY),
        ({"condition": Condition.SUSPENDED}, Verdict.SUSPENDED, Rule.JOB_SUSPENDED),
    ],
)
def test_a_job_that_must_not_be_touched_is_not_judged_however_sick(changes, verdict, rule):
    judgement = judged(said(*FAILED_BADLY, fact=a_fact(**changes)), 5000)
    assert short(judgement) == (verdict, rule)
    assert judgement.look_at == NO_LOOK
    assert not judgement.restartable


# ---- ends

ENDS = [
    ([(LOADING, 5), (FINISHED, 9, True)], Verdict.COMPLETED, Rule.FINISHED),
    ([(FINISHED, 9, True)], Verdict.COMPLETED, Rule.FINISHED),  # zero records: an end all the same
    ([(LOADING, 5), (INTERRUPTED, 9, True)], Verdict.STOPPED, Rule.INTERRUPTED),
    ([(LOADING, 5), (INTERRUPTED, 9, True), (INTERRUPTED, 9.1), (FINISHED, 9.2, True)], Verdict.STOPPED, None),
    ([(LOADING, 5), (ERROR, 8), (INTERRUPTED, 9, True)], Verdict.STOPPED, Rule.INTERRUPTED),
    ([(LOADING, 5), (ERROR, 9, True), (INTERRUPTED, 8)], Verdict.STOPPED, Rule.INTERRUPTED),
    ([(LOADING, 5), (ERROR, 6), (FINISHED, 9, True)], Verdict.COMPLETED, Rule.FINISHED),
    ([(LOADING, 9), (FINISHED, 8.5, True)], Verdict.COMPLETED, Rule.FINISHED),  # out of order by milliseconds
    ([(LOADING, 9), (INTERRUPTED, 8.5, True)], Verdict.STOPPED, Rule.INTERRUPTED),
    ([(ERROR, 5), (LOADING, 6), (FINISHED, 30, True)], Verdict.COMPLETED, Rule.FINISHED),
]


@pytest.mark.parametrize(("reports", "verdict", "rule"), ENDS)
def test_a_job_that_came_to_its_end_is_never_sick(reports, verdict, rule):
    for now in (10, 100, 100_000):
        judgement = judged(said(*reports), now)
        assert judgement.verdict is verdict
        assert rule in {None, judgement.rule}
        assert judgement.look_at == NO_LOOK


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
@pytest.mark.parametrize(("life", "later"), [(STARTED, RIGHT_AFTER_SECONDS), (LOADING, LATE_SECONDS)])
def test_a_clearly_newer_sign_of_life_reopens_an_ended_job(end, life, later):
    state = said((LOADING, 5), (end, 9), (life, 9 + later))
    assert short(judged(state, 15 + later)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert short(judged(state, 100 + later))[0] is Verdict.STUCK


@pytest.mark.parametrize(("end", "verdict"), [(FINISHED, Verdict.COMPLETED), (INTERRUPTED, Verdict.STOPPED)])
def test_a_loading_that_was_long_on_its_way_reopens_nothing(end, verdict):
    state = said((LOADING, 5), (end, 9), (LOADING, 9 + 40))
    assert judged(state, 5000).verdict is verdict


def test_the_grace_of_an_error_begins_again_with_a_sign_of_life_that_may_have_been_said_after_it():
    state = said((LOADING, 5), (ERROR, 9))
    fold_beat(state, a_beat(T0 + 7, offset=900), at=T0 + 20, source_partition=1)
    assert not judged(state, 20 + GRACE - 1).restartable
    assert short(judged(state, 20 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_a_failed_job_that_goes_on_is_well_however_soon():
    state = said((ERROR, 9), (FINISHED, 9.1), (LOADING, 12))
    assert not judged(state, 20).restartable


@pytest.mark.parametrize("life", [LOADING, STARTED])
def test_a_failed_job_that_may_have_gone_on_and_is_silent_is_found(life):
    state = said((ERROR, 9), (FINISHED, 9.1), (life, 12))
    assert short(judged(state, 12 + SILENCE)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert judged(state, 12 + SILENCE + 1).verdict is Verdict.STUCK


def test_a_job_that_kubernetes_calls_complete_has_ended():
    state = said((LOADING, 5), fact=a_fact(condition=Condition.COMPLETE, pod=PodState.ENDED))
    assert short(judged(state, 5000)) == (Verdict.COMPLETED, Rule.JOB_COMPLETE)


# ---- the end of one pod is none of the next one's


BEGAN = 100  # when the pod after the first one was created


def next_pod(*reports, began=BEGAN, seen=BEGAN + 4, **changes):
    """Make the state of a Job another pod of which is seen running at a second, after or before its reports."""
    state = said()
    for kind, seconds in sorted([*reports, (None, seen)], key=lambda each: each[1]):
        at = T0 + seconds
        if kind is None:
            fact = a_fact(pod_created_at=T0 + began, resource_version=20, **changes)
            fold_fact(state, a_fact(pod=PodState.PENDING, resource_version=19), at=at - 0.1)
            fold_fact(state, fact, at=at)
        elif kind is Kind.LOADING:
            fold_beat(state, a_beat(at, offset=int(seconds * 8)), at=at, source_partition=0)
        else:
            fold_word(state, a_word(kind, at, offset=int(seconds * 8), finished=True), at=at, source_partition=0)
    return state


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
@pytest.mark.parametrize("seconds", [50, BEGAN - 1, BEGAN + 1, BEGAN + 3])
def test_an_end_that_a_pod_said_as_it_was_taken_away_does_not_excuse_the_next_one(end, seconds):
    """A drain or a suspension: the Job controller starts another pod, and that one hangs before its first word."""
    state = next_pod((STARTED, 2), (LOADING, 40), (end, seconds))
    assert short(judged(state, BEGAN + 4 + SILENCE)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert short(judged(state, BEGAN + 5 + SILENCE)) == (Verdict.STUCK, Rule.LOADING_STOPPED)


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_a_job_that_fails_by_the_pods_after_one_that_said_its_end_has_failed(end):
    state = next_pod((STARTED, 2), (LOADING, 40), (end, 99), condition=Condition.FAILED, pod=PodState.ENDED)
    assert short(judged(state, BEGAN + 5)) == (Verdict.FAILED, Rule.JOB_FAILED)


@pytest.mark.parametrize(
    ("reports", "began", "seen"),
    [
        pytest.param([(STARTED, 2), (FINISHED, 60)], 1, 70, id="the pod is the first, and its fact came late"),
        pytest.param([(STARTED, 2), (STARTED, 102), (FINISHED, 110)], BEGAN, 120, id="it has spoken itself"),
        pytest.param([(STARTED, 2), (FINISHED, 160)], BEGAN, 170, id="no pod that is taken away lives for so long"),
        pytest.param([(STARTED, 2), (FINISHED, 110)], BEGAN, 104, id="it ran when that was said"),
        pytest.param([(STARTED, 2), (FINISHED, 60)], 0, 70, id="a fact that tells of no creation"),
    ],
)
def test_an_end_that_the_running_pod_may_have_said_stands(reports, began, seen):
    state = next_pod(*reports, began=began, seen=seen)
    assert short(judged(state, 5000)) == (Verdict.COMPLETED, Rule.FINISHED)


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_a_fact_that_flickers_reopens_nothing(end):
    """A watch that begins again tells of the same pod, and of none in between."""
    state = next_pod((STARTED, 102), (LOADING, 150), (end, 200))
    for number in range(3):
        at, version = T0 + 300 + 10 * number, 30 + 2 * number
        fold_fact(state, a_fact(pod=PodState.NONE, resource_version=version), at=at)
        fold_fact(state, a_fact(pod_created_at=T0 + BEGAN, resource_version=version + 1), at=at + 5)
        assert not any(judged(state, now).restartable for now in (306 + 10 * number, 5000))
    assert judged(state, 5000).verdict in {Verdict.COMPLETED, Verdict.STOPPED}


def test_an_api_servers_clock_that_is_ahead_makes_no_pod_another_one():
    state = next_pod((STARTED, 102), (FINISHED, 110), began=BEGAN + HOUR, seen=103)
    assert judged(state, 5000).verdict is Verdict.COMPLETED


# ---- reports of long ago that come only now, through source partitions that raise them to their own marks

LONG_CREATED = a_fact(created_at=T0 - 2 * HOUR)


def dated_back(*reports):
    """Make the state of a loader whose reports were said an hour ago at these seconds, and raised to others."""
    state = a_state(fact=LONG_CREATED, running_at=T0 - 2 * HOUR)
    for offset, (kind, seconds, raised_to, *last) in enumerate(reports):
        said_at, at = T0 - HOUR + seconds, T0 + raised_to
        if kind is Kind.LOADING:
            fold_beat(state, a_beat(said_at, offset=offset), at=at, source_partition=offset, not_before=at)
        else:
            word = a_word(kind, said_at, offset=offset, finished=bool(last))
            fold_word(state, word, at=at, source_partition=offset, not_before=at)
    return state


@pytest.mark.parametrize(
    ("reports", "rule"),
    [
        ([(FINISHED, 50, 1), (LOADING, 49, 60)], Rule.FINISHED),
        ([(FINISHED, 50, 1), (STARTED, 20, 60)], Rule.FINISHED),
        ([(INTERRUPTED, 50, 1), (FINISHED, 50, 2), (LOADING, 49, 60)], Rule.INTERRUPTED),
        ([(LOADING, 50, 1), (ERROR, 20, 9, True)], Rule.REPORTS),
        ([(STARTED, 50, 1), (LOADING, 19, 2), (ERROR, 20, 9, True)], Rule.REPORTS),
        ([(LOADING, 50, 1), (ERROR, 20, 9), (FINISHED, 20, 9, True)], Rule.REPORTS),
        ([(STARTED, 1, 9), (ERROR, 20, 9), (FINISHED, 50, 9, True)], Rule.FINISHED),
        # Said in the order of the log as well: nothing is excused.
        ([(LOADING, 19, 1), (ERROR, 20, 9, True)], Rule.ERROR_FINAL),
        ([(FINISHED, 20, 1), (STARTED, 30, 60)], Rule.REPORTS),
        # What was raised to different marks came together all the same.
        ([(LOADING, 19, 1), (ERROR, 20, 9), (FINISHED, 20, 60, True)], Rule.ERROR_THEN_FINISHED),
    ],
)
def test_reports_of_long_ago_condemn_nobody_by_the_order_they_came_in(reports, rule):
    assert judged(dated_back(*reports), max(raised_to for _, _, raised_to, *_ in reports) + 1).rule is rule


@pytest.mark.parametrize("fact_first", [True, False])
@pytest.mark.parametrize("raised_by_the_worker", [True, False])
@pytest.mark.parametrize("reports", [[(ERROR, 20, True)], [(ERROR, 20), (FINISHED, 20.3, True)], [(ERROR, 20)]])
def test_what_the_incarnation_before_said_condemns_nobody_however_late_it_comes(
    reports, raised_by_the_worker, fact_first
):
    """A mark dates it after the creation of the Job that runs now. Found by the simulation: a mirror stood still."""
    state = JobState(JOB)
    fact = a_fact(created_at=T0 - 10)
    if fact_first:
        fold_fact(state, fact, at=T0 - 9)
    for offset, (kind, seconds, *last) in enumerate(reports):
        word = a_word(kind, T0 - HOUR + seconds, offset=offset, finished=bool(last))
        if raised_by_the_worker:
            word = msgspec.structs.replace(word, source_at=T0 + 1, said_at=word.source_at)
        fold_word(state, word, at=T0 + 2, source_partition=0, not_before=T0 + 1)
    if not fact_first:
        fold_fact(state, fact, at=T0 + 3)
    assert not any(judged(state, now).restartable for now in (4, 4 + GRACE))
    assert judged(state, 5000).restartable, "its own silence is judged as any other's"


def test_an_error_that_a_mark_raises_by_little_may_be_of_the_incarnation_before_as_well():
    state = JobState(JOB)
    fold_word(state, a_word(ERROR, T0, finished=True), at=T0 + 4, source_partition=0, not_before=T0 + 3)
    fold_fact(state, a_fact(created_at=T0 + 1), at=T0 + 5)
    assert not judged(state, 6).restartable


def test_the_grace_does_not_count_from_what_the_incarnation_before_said():
    state = JobState(JOB)
    fold_fact(state, a_fact(created_at=T0 - 10), at=T0 - 9)
    fold_word(state, a_word(ERROR, T0 + 1, said_at=T0 - HOUR), at=T0 + 2, source_partition=0, not_before=T0 + 1)
    fold_word(state, a_word(ERROR, T0 + 20, offset=1), at=T0 + 20, source_partition=0)
    assert not judged(state, 20 + GRACE - 1).restartable
    assert short(judged(state, 20 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


# What the incarnation before said last, an hour ago, and a mark raises; RAISED: by how much a mark raises what this one
# says, which is next to nothing for a report that was a little on its way.
RAISED = pytest.mark.parametrize("raised", [0.0, 0.02])


def told(state, kind, seconds, *, raised=0.0, offset=0, partition=0, finished=False):
    """Fold a report that a worker has raised by so many seconds."""
    said_at = T0 + seconds - raised if raised else None
    word = a_word(kind, T0 + seconds, offset=offset, finished=finished, said_at=said_at)
    fold_word(state, word, at=T0 + seconds, source_partition=partition)


def of_before(state, kind, seconds, *, finished=True):
    told(state, kind, seconds, raised=HOUR + seconds, offset=9, partition=1, finished=finished)


@RAISED
def test_what_the_incarnation_before_said_does_not_borrow_the_time_of_an_error_that_was_answered(raised):
    state = a_state()
    told(state, ERROR, 10, raised=raised)
    fold_beat(state, a_beat(T0 + 15, offset=1), at=T0 + 15, source_partition=0)
    of_before(state, ERROR, 20)
    assert short(judged(state, 21)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert not judged(state, 20 + GRACE).restartable


@RAISED
def test_what_the_incarnation_before_said_makes_no_error_final(raised):
    state = a_state()
    told(state, ERROR, 10, raised=raised)
    of_before(state, ERROR, 12)
    assert not judged(state, 13).restartable
    assert short(judged(state, 10 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


@RAISED
def test_what_the_incarnation_before_said_hides_no_failure(raised):
    state = a_state()
    told(state, ERROR, 20, raised=raised)
    told(state, FINISHED, 20.03, raised=raised, offset=1, finished=True)
    for kind in (ERROR, FINISHED):
        of_before(state, kind, 30)
    assert short(judged(state, 31)) == (Verdict.FAILED, Rule.ERROR_THEN_FINISHED)


@RAISED
def test_the_grace_of_an_error_that_a_mark_raised_does_not_count_from_the_incarnation_before_either(raised):
    state = a_state()
    of_before(state, ERROR, 2)
    told(state, ERROR, 20, raised=raised)
    assert not judged(state, 20 + GRACE - 1).restartable
    assert short(judged(state, 20 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


@pytest.mark.parametrize("error_first", [True, False])
def test_a_complete_job_whose_last_words_a_mark_made_one_moment_has_failed(error_first):
    """A clock that is two seconds behind; nobody said `finished`, and there will be no silence to judge."""
    state = a_state()
    folds = [
        lambda: told(state, ERROR, 100, raised=1.2, partition=1),
        lambda: fold_beat(state, a_beat(T0 + 100, said_at=T0 + 98.5), at=T0 + 101, source_partition=0),
    ]
    for fold in folds if error_first else folds[::-1]:
        fold()
    fold_fact(state, a_fact(condition=Condition.COMPLETE, pod=PodState.ENDED, resource_version=99), at=T0 + 104)
    assert short(judged(state, 105)) == (Verdict.FAILED, Rule.ERROR_AND_POD_ENDED)


@RAISED
def test_a_finished_that_a_mark_raised_a_little_does_not_excuse_another_process_under_a_slow_clock(raised):
    state = a_state(fact=LONG_CREATED)
    told(state, FINISHED, 20, raised=raised, finished=True)
    told(state, STARTED, 30, raised=600, partition=1)
    fold_beat(state, a_beat(T0 + 100, offset=1, said_at=T0 - 500), at=T0 + 100, source_partition=1)
    assert judged(state, 100 + SILENCE + 1).verdict is Verdict.STUCK


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_an_end_of_the_incarnation_before_does_not_excuse_this_one_whose_clock_is_slower(end):
    """The two said it by two clocks, 50 s apart, so what they said tells no order. Found by the simulation."""
    state = a_state()
    told(state, end, 5, raised=28)
    told(state, STARTED, 11, raised=62, offset=1)
    fold_beat(state, a_beat(T0 + 38, offset=2, said_at=T0 - 21), at=T0 + 38, source_partition=0)
    assert short(judged(state, 38 + SILENCE)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert short(judged(state, 38 + SILENCE + 1)) == (Verdict.STUCK, Rule.LOADING_STOPPED)


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_a_loading_that_comes_late_and_is_raised_does_not_reopen_an_end_that_is_not(end):
    """Of the end's source partition no mark was known yet. Found by the simulation: a mirror, and a topic made anew."""
    state = a_state(fact=LONG_CREATED)
    fold_word(state, a_word(end, T0 + 50), at=T0 + 97, source_partition=0)
    beat = a_beat(T0 + 97, offset=3, said_at=T0 + 11)
    fold_beat(state, beat, at=T0 + 99, source_partition=2)
    assert not any(judged(state, now).restartable for now in (100, 99 + SILENCE + 1, 5000))
    told(state, STARTED, 97, raised=20, partition=1)
    assert judged(state, 99 + SILENCE + 1).verdict is Verdict.STUCK, "that is another process"


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_a_loading_from_before_the_end_does_not_reopen_it_where_the_brokers_clock_is_behind(end):
    """It could not be read for eleven minutes; by then it was dated as it was said. Found by the simulation."""
    state = a_state(fact=LONG_CREATED)
    fold_word(state, a_word(end, T0 + 30, said_at=T0 + 103), at=T0 + 30, source_partition=3)
    fold_beat(state, a_beat(T0 + 96, offset=1), at=T0 + 690, source_partition=0)
    assert not any(judged(state, now).restartable for now in (691, 690 + SILENCE + 1, 5000))


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
@pytest.mark.parametrize(("seconds", "on_the_way"), [(96, 5), (104, 300)], ids=["read at once", "said after it"])
def test_a_loading_reopens_an_end_of_a_clock_that_was_ahead(end, seconds, on_the_way):
    state = a_state(fact=LONG_CREATED)
    fold_word(state, a_word(end, T0 + 30, said_at=T0 + 103), at=T0 + 30, source_partition=3)
    fold_beat(
        state,
        a_beat(T0 + seconds + LATE_SECONDS, offset=1),
        at=T0 + seconds + LATE_SECONDS + on_the_way,
        source_partition=0,
    )
    heard = seconds + LATE_SECONDS + on_the_way
    assert short(judged(state, heard + SILENCE + 1)) == (Verdict.STUCK, Rule.LOADING_STOPPED)


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_an_end_under_a_clock_that_was_slow_from_the_start_counts(end):
    """It is dated before the Job was created, as its first words are, and came after them."""
    state = a_state()
    told(state, STARTED, 5, raised=62)
    fold_beat(state, a_beat(T0 + 12, offset=1, said_at=T0 - 50), at=T0 + 12, source_partition=0)
    told(state, end, 20, raised=62, offset=2)
    assert not any(judged(state, now).restartable for now in (21, 20 + SILENCE, 5000))


def test_a_final_error_of_one_process_is_not_the_last_word_of_another():
    """It was half a minute on its way, and its mark is that of the next pod's `loading`."""
    state = a_state(fact=LONG_CREATED)
    told(state, STARTED, 20, partition=1)
    fold_beat(state, a_beat(T0 + 30, offset=1, said_at=T0 + 29.9), at=T0 + 30, source_partition=1)
    told(state, ERROR, 30, raised=25, finished=True)
    assert not judged(state, 31).restartable


def test_an_error_of_a_slow_clock_condemns_once_it_is_dated_after_the_creation():
    state = said((LOADING, 5), fact=a_fact(created_at=T0 - 60))
    fold_word(state, a_word(ERROR, T0 - 20, finished=True), at=T0 + 9, source_partition=1, not_before=T0 + 8)
    assert short(judged(state, 10)) == (Verdict.FAILED, Rule.ERROR_FINAL)


@pytest.mark.parametrize("raised", [False, True])
def test_a_finished_that_was_long_on_its_way_came_with_its_error_all_the_same(raised):
    """Its producer tried for 23 seconds, and a mark was made meanwhile. Found by the simulation."""
    state = said((LOADING, 5), (ERROR, 9))
    fold_word(
        state, a_word(FINISHED, T0 + 9.3, finished=True), at=T0 + 32, source_partition=1, not_before=T0 + 31 * raised
    )
    assert short(judged(state, 33)) == (Verdict.FAILED, Rule.ERROR_THEN_FINISHED)


@pytest.mark.parametrize("seconds", [RIGHT_AFTER_SECONDS + 0.1, 5, 30, 600])
def test_a_finished_however_late_does_not_excuse_a_final_error(seconds):
    state = said((LOADING, 5), (ERROR, 9, True), (FINISHED, 9 + seconds, True))
    assert short(judged(state, 10 + seconds)) == (Verdict.FAILED, Rule.ERROR_FINAL)


@pytest.mark.parametrize(
    "reports",
    [
        ((ERROR, 9), (FINISHED, 19, True)),  # one bad record, and the rest was well
        ((ERROR, 9, True), (STARTED, 12), (FINISHED, 19, True)),  # by another process
        ((ERROR, 9, True), (LOADING, 12), (FINISHED, 19, True)),
        ((FINISHED, 9, True), (ERROR, 19, True)),  # it had done its work before
    ],
)
def test_a_finished_excuses_any_other_error(reports):
    assert short(judged(said((LOADING, 5), *reports), 20)) == (Verdict.COMPLETED, Rule.FINISHED)


def test_an_error_and_its_finished_came_together_under_a_fast_clock_too():
    """A slow worker reads them in two batches, so each counts for when its batch came. Found by the simulation."""
    state = said((LOADING, 5))
    for offset, (kind, came_at) in enumerate(((ERROR, 9), (FINISHED, 13))):
        said_at = T0 + 50 + 0.2 * offset
        word = a_word(kind, T0 + came_at, offset=offset, finished=kind is FINISHED, said_at=said_at)
        fold_word(state, word, at=T0 + came_at, source_partition=0)
    assert short(judged(state, 14)) == (Verdict.FAILED, Rule.ERROR_THEN_FINISHED)


@pytest.mark.parametrize(("loading", "rule"), [(19, Rule.ERROR_GRACE_OVER), (21, Rule.REPORTS)])
def test_reports_of_long_ago_that_one_mark_raised_are_in_the_order_they_were_said_in(loading, rule):
    assert judged(dated_back((LOADING, loading, 9), (ERROR, 20, 9)), 9 + GRACE).rule is rule


#: To which second each source partition's newest mark had raised what was said an hour ago.
MARKS = st.lists(st.integers(0, 30), min_size=4, max_size=4)


@given(MARKS)
@example([0, 12, 9, 9])
@example([0, 12, 12, 9])
@example([0, 12, 9, 12])
def test_a_failure_of_long_ago_is_found_by_its_silence_at_the_latest_whatever_marks_make_of_its_order(marks):
    told = ((STARTED, 5), (LOADING, 19), (ERROR, 20), (FINISHED, 20))
    state = dated_back(*((kind, at, mark, True) for (kind, at), mark in zip(told, marks, strict=True)))
    assert judged(state, max(marks) + SILENCE + 1).restartable


@given(MARKS)
def test_a_job_that_did_its_work_long_ago_after_an_error_is_well_whatever_marks_make_of_its_order(marks):
    told = ((STARTED, 5), (ERROR, 9, True), (LOADING, 12), (FINISHED, 20, True))
    state = dated_back(*((kind, at, mark, *last) for (kind, at, *last), mark in zip(told, marks, strict=True)))
    assert not any(judged(state, now).restartable for now in (31, 31 + GRACE, 31 + SILENCE, 5000))


def test_a_clock_that_is_set_back_hides_no_error():
    state = said((LOADING, 5), fact=LONG_CREATED)
    for word in (a_word(ERROR, T0 - HOUR + 9), a_word(FINISHED, T0 - HOUR + 9, finished=True)):
        fold_word(state, word, at=T0 + 9, source_partition=1, not_before=T0 + 8)
    assert short(judged(state, 10)) == (Verdict.FAILED, Rule.ERROR_THEN_FINISHED)


def test_a_clock_that_is_set_back_hides_no_error_of_a_job_that_went_on():
    state = said((LOADING, 5), fact=LONG_CREATED)
    fold_beat(state, a_beat(T0 - HOUR + 8), at=T0 + 8, source_partition=1, not_before=T0 + 7)
    word = a_word(ERROR, T0 - HOUR + 9, offset=1, finished=True)
    fold_word(state, word, at=T0 + 9, source_partition=1, not_before=T0 + 8)
    assert short(judged(state, 10)) == (Verdict.FAILED, Rule.ERROR_FINAL)


def test_a_job_that_goes_on_under_a_right_clock_is_judged_as_before():
    state = dated_back((FINISHED, 50, 1), (LOADING, 49, 60))
    fold_beat(state, a_beat(T0 + 200, offset=900), at=T0 + 200, source_partition=0, not_before=T0 + 199)
    assert short(judged(state, 201)) == (Verdict.HEALTHY, Rule.REPORTS)


# ---- failures

FAILURES = [
    # reports, facts, rule, from which second on
    ([(LOADING, 5), (ERROR, 9, True)], {}, Rule.ERROR_FINAL, 9),
    ([(ERROR, 9, True)], {}, Rule.ERROR_FINAL, 9),
    ([(LOADING, 5), (ERROR, 9), (FINISHED, 9.04, True)], {}, Rule.ERROR_THEN_FINISHED, 9.04),
    ([(LOADING, 5), (ERROR, 9, True), (FINISHED, 9.04, True)], {}, Rule.ERROR_THEN_FINISHED, 9.04),
    ([(LOADING, 5), (ERROR, 9.04), (FINISHED, 9, True)], {}, Rule.ERROR_THEN_FINISHED, 9.04),
    ([(LOADING, 5), (ERROR, 9), (FINISHED, 11, True)], {}, Rule.ERROR_THEN_FINISHED, 11),
    (
        [(LOADING, 5), (ERROR, 9)],
        {"condition": Condition.COMPLETE, "pod": PodState.ENDED},
        Rule.ERROR_AND_POD_ENDED,
        12,
    ),
    ([(LOADING, 5), (ERROR, 9)], {"pod": PodState.ENDED}, Rule.ERROR_AND_POD_ENDED, 11 + POD_RETRY_SECONDS),
    ([(LOADING, 5)], {"condition": Condition.FAILED, "pod": PodState.ENDED}, Rule.JOB_FAILED, 12),
    ([], {"condition": Condition.FAILED, "pod": PodState.NONE}, Rule.JOB_FAILED, 12),
    ([(LOADING, 5), (ERROR, 9)], {}, Rule.ERROR_GRACE_OVER, 9 + GRACE),
    ([(ERROR, 9)], {}, Rule.ERROR_GRACE_OVER, 9 + GRACE),
]


@pytest.mark.parametrize(("reports", "changes", "rule", "since"), FAILURES)
def test_a_failure_counts_when_the_watermark_has_passed_everything_it_rests_on(reports, changes, rule, since):
    idle_pod_at = NEVER if changes.get("pod", PodState.RUNNING) is PodState.RUNNING else T0 + 11
    condition_at = T0 + 12 if "condition" in changes else T0
    times = {"idle_pod_at": idle_pod_at, "pod_ended_at": idle_pod_at, "condition_at": condition_at}
    state = said(*reports, fact=a_fact(**changes), **times)
    before, after = judged(state, since - 0.01), judged(state, since)
    assert not before.restartable
    assert before.look_at == pytest.approx(T0 + since)
    assert short(after) == (Verdict.FAILED, rule)
    assert after.restartable


@pytest.mark.parametrize(
    "reports",
    [
        pytest.param([(ERROR, 9), (STARTED, 21), (LOADING, 30), (ERROR, 40)], id="it began anew and had a bad record"),
        pytest.param([(LOADING, 5), (ERROR, 40)], id="its start was lost on the way"),
    ],
)
def test_an_error_said_after_the_pod_ended_is_of_another_pod_and_has_the_grace(reports):
    times = {"running_at": NEVER, "idle_pod_at": T0 + 11, "pod_ended_at": T0 + 11}
    state = said(*reports, fact=a_fact(pod=PodState.ENDED), **times)
    assert not judged(state, 40 + GRACE - 1).restartable
    assert short(judged(state, 40 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_time_that_nobody_followed_is_none_of_the_job_controllers():
    times = {"running_at": NEVER, "idle_pod_at": T0 + 11, "pod_ended_at": T0 + 11}
    state = said((LOADING, 5), (ERROR, 9), fact=a_fact(pod=PodState.ENDED), **times)
    gaps = Gaps(((T0 + 12, T0 + 30),))
    assert not judged(state, 30 + POD_RETRY_SECONDS - 1, gaps=gaps).restartable
    after = judged(state, 30 + POD_RETRY_SECONDS, gaps=gaps)
    assert short(after) == (Verdict.FAILED, Rule.ERROR_AND_POD_ENDED)


def test_pods_that_end_again_and_again_do_not_keep_an_error_open_for_ever():
    times = {"running_at": NEVER, "idle_pod_at": T0 + 8 + GRACE, "pod_ended_at": T0 + 8 + GRACE}
    state = said((LOADING, 5), (ERROR, 9), fact=a_fact(pod=PodState.ENDED), **times)
    assert judged(state, 8.5 + GRACE).look_at == pytest.approx(T0 + 9 + GRACE)
    assert short(judged(state, 9 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_a_job_that_is_silent_already_stays_stuck_while_an_error_waits_for_the_watermark():
    state = said((LOADING, 5), (ERROR, 60, True))
    assert judged(state, 50).verdict is Verdict.STUCK
    assert short(judged(state, 60)) == (Verdict.FAILED, Rule.ERROR_FINAL)


@pytest.mark.parametrize("life", [STARTED, LOADING])
def test_an_error_that_is_answered_by_a_sign_of_life_is_none(life):
    state = said((LOADING, 5), (ERROR, 9, True), (life, 9.5))
    assert short(judged(state, 30)) == (Verdict.HEALTHY, Rule.REPORTS)


def test_a_consumers_error_is_given_its_silence_threshold():
    state = said((LOADING, 5), (ERROR, 9), fact=a_fact(target="consumer"))
    assert judged(state, 9 + GRACE + 5).verdict is Verdict.HEALTHY
    assert short(judged(state, 46)) == (Verdict.STUCK, Rule.LOADING_STOPPED)  # silence comes first here
    state = said((LOADING, 5), (ERROR, 9), (ERROR, 20), fact=a_fact(target="consumer"))
    assert short(judged(state, 9 + SILENCE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


CONSUMER = a_fact(target="consumer")


def test_a_consumer_whose_group_was_found_idle_after_its_error_is_idle():
    """One bad record, then fewer than it reports of, then nothing: its topic is drained."""
    state = said((LOADING, 5), (ERROR, 9), fact=CONSUMER, idle_at=T0 + 50)
    for now in (50, 9 + SILENCE + 2, 50 + SILENCE):
        assert short(judged(state, now)) == (Verdict.IDLE, Rule.GROUP_IDLE)
    assert judged(state, 50).look_at == T0 + 50 + SILENCE
    assert short(judged(state, 51 + SILENCE)) == (Verdict.STUCK, Rule.LOADING_STOPPED)


def test_an_error_that_a_consumer_says_after_such_a_look_has_a_grace_of_its_own():
    state = said((LOADING, 5), (ERROR, 9), (ERROR, 20), fact=CONSUMER, idle_at=T0 + 50)
    for seconds in (60, 75):
        fold_word(state, a_word(ERROR, T0 + seconds, offset=900 + seconds), at=T0 + seconds, source_partition=0)
    short_grace = msgspec.structs.replace(BOOK.for_job(state.fact), error_grace_seconds=25.0)
    before = judge(state, T0 + 60 + GRACE - 1, short_grace, Gaps())
    assert (before.verdict, before.look_at) == (Verdict.IDLE, T0 + 60 + GRACE)
    after = judge(state, T0 + 60 + GRACE, short_grace, Gaps())
    assert short(after) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)
    assert after.rests_on_silence


@pytest.mark.parametrize(
    ("reports", "changes", "rule"),
    [
        ([(LOADING, 5), (ERROR, 9, True)], {}, Rule.ERROR_FINAL),
        ([(LOADING, 5), (ERROR, 9), (FINISHED, 9.04, True)], {}, Rule.ERROR_THEN_FINISHED),
        ([(LOADING, 5), (ERROR, 9)], {"pod": PodState.ENDED}, Rule.ERROR_AND_POD_ENDED),
        ([(LOADING, 5), (ERROR, 9)], {"condition": Condition.COMPLETE}, Rule.ERROR_AND_POD_ENDED),
        ([(LOADING, 5), (ERROR, 9)], {"condition": Condition.FAILED}, Rule.JOB_FAILED),
    ],
)
def test_no_group_excuses_a_failure_that_needs_no_grace(reports, changes, rule):
    times = {"idle_at": T0 + 50, "idle_pod_at": T0 + 11, "pod_ended_at": T0 + 11}
    state = said(*reports, fact=a_fact(target="consumer", **changes), **times)
    judgement = judged(state, 60)
    assert short(judgement) == (Verdict.FAILED, rule)
    assert not judgement.rests_on_silence


def test_a_loader_has_no_group_that_could_excuse_it():
    state = said((LOADING, 5), (ERROR, 9), idle_at=T0 + 33)
    assert short(judged(state, 9 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_a_grace_of_zero_is_the_literal_rule():
    state = said((LOADING, 5), (ERROR, 9))
    literal = msgspec.structs.replace(BOOK.for_job(state.fact), error_grace_seconds=0.0)
    assert judge(state, T0 + 8.9, literal, Gaps()).look_at == T0 + 9
    judgement = judge(state, T0 + 9, literal, Gaps())
    assert short(judgement) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)
    assert not judgement.rests_on_silence
    state = said((LOADING, 5), (ERROR, 9), fact=CONSUMER, idle_at=T0 + 50)
    literal = msgspec.structs.replace(BOOK.for_job(state.fact), error_grace_seconds=0.0)
    assert judge(state, T0 + 51, literal, Gaps()).verdict is Verdict.FAILED


LITERAL = a_fact(target="literal")


@pytest.mark.parametrize("life", [LOADING, STARTED])
@pytest.mark.parametrize("order", [1, -1])
def test_where_no_grace_is_given_no_sign_of_life_answers_an_error(life, order):
    state = said(*((LOADING, 5), (ERROR, 9), (life, 9.5), (LOADING, 300))[::order], fact=LITERAL)
    assert not judged(state, 8.9).restartable
    for now in (9.5, 301, 5000):
        judgement = judged(state, now)
        assert short(judgement) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)
        assert (judgement.since, judgement.rests_on_silence) == (T0 + 9, False)


def test_such_an_error_counts_when_the_watermark_has_passed_the_first_however_many_follow():
    state = said(*((kind, 10 + n) for n in range(40) for kind in (ERROR, LOADING)), fact=LITERAL)
    assert judged(state, 9).look_at == T0 + 10
    assert judged(state, 10).restartable


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [
        ([(FINISHED, 60, True)], Verdict.COMPLETED),
        ([(INTERRUPTED, 60)], Verdict.STOPPED),
    ],
)
def test_a_job_that_came_to_its_end_after_such_an_error_is_left_alone(reports, verdict):
    assert judged(said((ERROR, 9), (LOADING, 10), *reports, fact=LITERAL), 100).verdict is verdict


@pytest.mark.parametrize(
    "changes",
    [
        {"fact": a_fact(target="literal", created_at=T0 + 20)},  # it was said by the incarnation before
        {"fact": LITERAL, "command_source": T0 + 9},  # a command has answered it
        {"fact": LITERAL, "errors_from": T0 + 20},  # the API server's clock may be behind
    ],
)
def test_no_such_error_counts_that_is_of_before(changes):
    state = said((ERROR, 9), (LOADING, 30), (STARTED, 31), **changes)
    assert short(judged(state, 40)) == (Verdict.HEALTHY, Rule.REPORTS)


@pytest.mark.parametrize("fact_first", [True, False])
def test_nor_one_of_before_that_only_a_mark_dates_later(fact_first):
    state = said(fact=LITERAL)
    made_anew = a_fact(target="literal", uid="u2", created_at=T0 + 20, resource_version=20)
    said_before = a_word(ERROR, T0 + 15, offset=1)
    if fact_first:
        fold_fact(state, made_anew, at=T0 + 21)
    fold_word(state, said_before, at=T0 + 25, source_partition=0, not_before=T0 + 24)
    if not fact_first:
        fold_fact(state, made_anew, at=T0 + 26)
    fold_beat(state, a_beat(T0 + 30, offset=2), at=T0 + 30, source_partition=0)
    assert not judged(state, 40).restartable
    fold_word(state, a_word(ERROR, T0 + 45, offset=3), at=T0 + 45, source_partition=0)
    fold_beat(state, a_beat(T0 + 46, offset=4), at=T0 + 46, source_partition=0)
    assert not judged(state, 44).restartable
    assert judged(state, 46).since == T0 + 45


def test_an_answered_error_that_an_older_version_stored_condemns_nobody():
    """It may be hours old, and its Job went on."""
    state = said((ERROR, 9), (LOADING, 10), fact=LITERAL)
    state.first_error_at = NEVER
    assert judged(state, 20).verdict is Verdict.HEALTHY
    fold_word(state, a_word(ERROR, T0 + 22, offset=900), at=T0 + 22, source_partition=0)
    fold_beat(state, a_beat(T0 + 23, offset=901), at=T0 + 23, source_partition=0)
    assert judged(state, 24).since == T0 + 22


def test_such_an_error_counts_anew_from_a_resume():
    state = said((ERROR, 9), (LOADING, 10), fact=LITERAL, condition_at=T0 + 50)
    assert judged(state, 49).look_at == T0 + 50
    assert judged(state, 50).restartable


def test_errors_that_come_faster_than_the_grace_are_a_failure_all_the_same():
    state = said((LOADING, 5), *((ERROR, 10 + 5 * n) for n in range(6)))
    assert judged(state, 10 + GRACE - 1).verdict is Verdict.HEALTHY
    assert short(judged(state, 10 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_a_job_whose_silence_is_not_judged_fails_by_its_errors_all_the_same():
    state = said((STARTED, 5), (ERROR, 9), fact=a_fact(target="visualizer"))
    waiting = judged(state, 20)
    assert short(waiting) == (Verdict.MUTE, Rule.SILENCE_NOT_JUDGED)
    assert waiting.look_at == T0 + 9 + GRACE
    assert short(judged(state, 9 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_an_error_of_a_job_whose_pod_does_not_run_is_still_looked_at_when_its_grace_is_over():
    changes = {"fact": a_fact(pod=PodState.PENDING), "running_at": NEVER, "idle_pod_at": T0 + 1}
    state = said((ERROR, 95), **changes)
    waiting = judged(state, 100)
    assert short(waiting) == (Verdict.NOT_RUNNING, Rule.POD_NOT_RUNNING)
    assert waiting.look_at == T0 + 95 + GRACE
    assert short(judged(state, 95 + GRACE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


@pytest.mark.parametrize("target", ["loader", "consumer"])
def test_an_error_does_not_age_while_its_job_is_suspended(target):
    """Its pods are gone, and the one after the resume has said nothing yet."""
    state = said((LOADING, 5), (ERROR, 9), fact=a_fact(target=target))
    grace = BOOK.for_job(state.fact).error_grace_seconds
    fold_fact(
        state, a_fact(target=target, condition=Condition.SUSPENDED, pod=PodState.NONE, resource_version=11), at=T0 + 20
    )
    assert judged(state, HOUR).verdict is Verdict.SUSPENDED
    fold_fact(state, a_fact(target=target, pod=PodState.NONE, resource_version=12), at=T0 + HOUR)
    fold_fact(state, a_fact(target=target, resource_version=13), at=T0 + HOUR + 3)
    assert not any(judged(state, HOUR + after).restartable for after in (4, grace - 1))
    assert judged(state, HOUR + 3 + grace).restartable


def test_a_consumers_error_does_not_age_while_no_pod_of_it_runs():
    """Its node was drained after a bad record, and the image takes its time on the next one."""
    state = said((LOADING, 5), (ERROR, 9), fact=CONSUMER)
    fold_fact(state, a_fact(target="consumer", pod=PodState.PENDING, resource_version=11), at=T0 + 40)
    assert short(judged(state, 9 + SILENCE)) == (Verdict.STARTING, Rule.POD_NOT_RUNNING)
    assert short(judged(state, 41 + NOT_RUNNING)) == (Verdict.NOT_RUNNING, Rule.POD_NOT_RUNNING)
    fold_fact(state, a_fact(target="consumer", resource_version=12), at=T0 + 200)
    waiting = judged(state, 201)
    assert (waiting.verdict, waiting.look_at) == (Verdict.HEALTHY, T0 + 200 + SILENCE)
    assert short(judged(state, 200 + SILENCE)) == (Verdict.FAILED, Rule.ERROR_GRACE_OVER)


def test_a_consumer_whose_pods_end_again_and_again_after_an_error_is_found_all_the_same():
    state = said((LOADING, 5), (ERROR, 9), fact=CONSUMER)
    for number in range(3):  # the Job controller starts the next after 10, 20, 40 s
        began = T0 + 20 + 60 * number
        fold_fact(state, a_fact(target="consumer", resource_version=20 + 2 * number), at=began)
        ended = a_fact(target="consumer", pod=PodState.ENDED, resource_version=21 + 2 * number)
        fold_fact(state, ended, at=began + 5)
    assert short(judged(state, 145 + POD_RETRY_SECONDS)) == (Verdict.FAILED, Rule.ERROR_AND_POD_ENDED)


# ---- holds


@pytest.mark.parametrize(
    ("reports", "changes"),
    [
        ([(LOADING, 5)], {}),
        ([(STARTED, 5)], {}),
        ([], {}),
        ([(LOADING, 5), (ERROR, 6)], {}),
        ([(LOADING, 5), (ERROR, 6, True)], {}),
        ([(LOADING, 5), (ERROR, 6, True), (FINISHED, 6.1, True)], {}),
        ([(LOADING, 5)], {"condition": Condition.FAILED}),
        ([(LOADING, 5), (ERROR, 6)], {"condition": Condition.COMPLETE}),
    ],
)
def test_after_a_stop_command_a_job_is_left_alone_whatever_it_says_and_then_judged(reports, changes):
    state = said(*reports, fact=a_fact(**changes), hold_at=T0 + 100)
    held = judged(state, 100 + HOLD - 1)
    assert short(held) == (Verdict.HELD, Rule.STOP_COMMAND)
    assert held.look_at == T0 + 100 + HOLD
    assert judged(state, 100 + HOLD).restartable


@pytest.mark.parametrize("end", [FINISHED, INTERRUPTED])
def test_a_job_that_obeys_the_stop_command_has_ended_not_merely_held(end):
    assert not judged(said((LOADING, 5), (end, 101), hold_at=T0 + 100), 500).restartable
    assert judged(said((LOADING, 5), (end, 101), hold_at=T0 + 100), 102).verdict is not Verdict.HELD


def test_a_hold_that_is_over_does_not_begin_again_with_the_next_feed_gap():
    state = said((LOADING, 5), (ERROR, 6, True), hold_at=T0 + 100)
    gaps = Gaps(((T0 + 200, T0 + 500),))
    assert judged(state, 501, gaps=gaps).verdict is Verdict.FAILED


# ---- silence


class Silence(NamedTuple):
    """What a Job said, and what follows when it says no more from `since` (seconds after T0) on."""

    reports: list[tuple[Kind, float]]
    rule: Rule
    sick: Verdict
    since: float
    threshold: float = SILENCE
    well: Verdict = Verdict.HEALTHY
    target: str = "loader"


SILENCES = [
    Silence([(LOADING, 5)], Rule.LOADING_STOPPED, Verdict.STUCK, 5),
    Silence([(STARTED, 9), (LOADING, 5)], Rule.LOADING_STOPPED, Verdict.STUCK, 9),
    Silence([(LOADING, 5)], Rule.LOADING_STOPPED, Verdict.STUCK, 5, target="new"),
    Silence([(STARTED, 5)], Rule.STARTED_ONLY, Verdict.STUCK, 5),
    Silence([], Rule.NO_REPORT, Verdict.NEVER_STARTED, 1, threshold=STARTUP, well=Verdict.STARTING),
]


@pytest.mark.parametrize("row", SILENCES)
def test_silence_counts_from_the_last_sign_of_life_and_only_above_the_threshold(row):
    state = said(*row.reports, fact=a_fact(target=row.target))
    before = judged(state, row.since + row.threshold)
    after = judged(state, row.since + row.threshold + 0.125)
    assert before.verdict is row.well
    assert before.look_at == T0 + row.since + row.threshold
    assert (before.since, before.silence, before.threshold) == (T0 + row.since, row.threshold, row.threshold)
    assert short(after) == (row.sick, row.rule)
    assert after.silence == row.threshold + 0.125
    assert after.restartable


@pytest.mark.parametrize("reports", [[(LOADING, 5)], [(STARTED, 5)]])
def test_silence_counts_from_the_start_of_a_second_pod_if_that_is_later(reports):
    state = said(*reports, running_at=T0 + 50)
    assert judged(state, 50 + SILENCE).verdict is Verdict.HEALTHY
    assert judged(state, 51 + SILENCE).verdict is Verdict.STUCK


def a_pod(name, phase, *, leaving=False):
    metadata = {"name": name, "creationTimestamp": {"old": "2025-06-15T15:00:00Z", "new": "2025-06-15T15:07:00Z"}[name]}
    if leaving:
        metadata["deletionTimestamp"] = "2025-06-15T15:07:30Z"
    return {"metadata": metadata, "status": {"phase": phase, "podIP": f"ip of {name}"}}


def shown(state, *facts):
    """Fold facts of a Job: when our log shows each, and the pods that the cluster had then."""
    for seconds, *pods in facts:
        fact = with_pods(a_fact(resource_version=100 + int(seconds)), pods)
        fold_fact(state, fact, at=T0 + seconds)
    return state


OLD, LEAVING = a_pod("old", "Running"), a_pod("old", "Running", leaving=True)
EVICTED = (30, LEAVING, a_pod("new", "Pending"))


@pytest.mark.parametrize(
    "facts",
    [
        [EVICTED, (35, LEAVING, a_pod("new", "Running"))],  # a dead kubelet does not say that the old one has ended
        [EVICTED, (35, a_pod("new", "Running"))],
        [(35, LEAVING, a_pod("new", "Running"))],
        [(35, a_pod("new", "Running"))],  # a list after a watch that broke: nothing was seen of the change
    ],
)
def test_a_job_that_kubernetes_has_mended_has_its_whole_threshold_to_speak(facts):
    state = shown(said((LOADING, 5), running_at=NEVER), (1, OLD), *facts)
    assert short(judged(state, 35 + SILENCE)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert short(judged(state, 35 + SILENCE + 1)) == (Verdict.STUCK, Rule.LOADING_STOPPED)


def test_a_job_of_whose_pods_all_are_being_deleted_is_told_of_in_the_end_and_not_restarted():
    """Its pod is replaced at once, or once it has ended (podReplacementPolicy): the Job controller knows when."""
    state = shown(said((LOADING, 5), running_at=NEVER), (1, OLD), (30, LEAVING))
    assert short(judged(state, 30 + NOT_RUNNING)) == (Verdict.STARTING, Rule.POD_NOT_RUNNING)
    told = judged(state, 30 + NOT_RUNNING + 1)
    assert short(told) == (Verdict.NOT_RUNNING, Rule.POD_NOT_RUNNING)
    assert not told.restartable


@pytest.mark.parametrize("reports", [[(LOADING, 5)], [(STARTED, 5)], []])
def test_silence_counts_from_a_doubtful_sign_of_life_if_that_is_later(reports):
    state = said(*reports, doubtful_life_at=T0 + 500)
    assert judged(state, 500 + SILENCE).verdict in {Verdict.HEALTHY, Verdict.STARTING}
    assert judged(state, 501 + STARTUP).restartable


@pytest.mark.parametrize("reports", [[(LOADING, 5)], [(STARTED, 5)]])
def test_silence_counts_from_the_last_look_that_found_the_group_idle(reports):
    state = said(*reports, idle_at=T0 + 500)
    before, after = judged(state, 500 + SILENCE), judged(state, 501 + SILENCE)
    assert short(before) == (Verdict.IDLE, Rule.GROUP_IDLE)
    assert before.look_at == T0 + 500 + SILENCE
    assert not before.restartable
    assert after.verdict is Verdict.STUCK


def test_of_a_job_that_never_spoke_the_startup_counts_from_such_a_look():
    state = said(idle_at=T0 + 500)
    assert short(judged(state, 500 + STARTUP)) == (Verdict.IDLE, Rule.GROUP_IDLE)
    assert judged(state, 501 + STARTUP).verdict is Verdict.NEVER_STARTED


STALL = 60


def stepping(*loads, **changes):
    """Make the state of a Job whose progress is watched; each load is its time and the records written."""
    state = a_state(fact=a_fact(target="stepper"), **changes)
    for seconds, records in loads:
        at = T0 + seconds
        fold_beat(state, a_beat(at, offset=int(seconds * 8), records_written=records), at=at, source_partition=0)
    return state


def test_a_job_that_reports_but_does_not_get_on_is_stalled():
    state = stepping((10, 100), (40, 100), (69, 100))
    assert short(judged(state, 10 + STALL)) == (Verdict.HEALTHY, Rule.REPORTS)
    assert judged(state, 11).look_at == T0 + 10 + STALL
    after = judged(state, 11 + STALL)
    assert short(after) == (Verdict.STALLED, Rule.NO_PROGRESS)
    assert (after.since, after.silence, after.threshold) == (T0 + 10, 61, STALL)
    assert after.restartable


@pytest.mark.parametrize("records", [101, 5])  # fewer: a pod that was tried again begins anew
def test_any_other_number_of_records_is_progress(records):
    assert judged(stepping((10, 100), (69, records)), 80).verdict is Verdict.HEALTHY


def test_a_job_that_is_silent_since_its_progress_is_stuck_and_not_stalled():
    state = stepping((10, 100))
    assert judged(state, 10 + SILENCE).verdict is Verdict.HEALTHY
    assert judged(state, 11 + SILENCE).verdict is Verdict.STUCK


def test_a_job_that_never_counts_its_records_is_not_stalled():
    assert judged(stepping((10, -1), (50, -1), (80, -1)), 90).verdict is Verdict.HEALTHY


def test_a_feed_gap_and_a_second_pod_are_no_want_of_progress():
    assert judged(stepping((10, 100), (60, 100), running_at=T0 + 50), 80).verdict is Verdict.HEALTHY
    gaps = Gaps(((T0 + 20, T0 + 500),))
    assert judged(stepping((10, 100), (510, 100)), 520, gaps=gaps).verdict is Verdict.HEALTHY


def test_progress_is_not_asked_of_a_job_whose_policy_does_not_say_so():
    state = stepping((10, 100), (40, 100), (69, 100))
    state.fact = a_fact()
    assert judged(state, 90).verdict is Verdict.HEALTHY


def test_an_idle_job_that_reports_again_is_healthy():
    state = said((LOADING, 5), idle_at=T0 + 500)
    fold_beat(state, a_beat(T0 + 501), at=T0 + 501, source_partition=0)
    assert short(judged(state, 502)) == (Verdict.HEALTHY, Rule.REPORTS)


@pytest.mark.parametrize(
    ("reports", "changes", "rule"),
    [
        ([], {"target": "new"}, Rule.NOT_DECLARED),
        ([(STARTED, 5)], {"target": "new"}, Rule.NOT_DECLARED),
        ([(STARTED, 5)], {"target": "visualizer"}, Rule.SILENCE_NOT_JUDGED),
        ([(LOADING, 5)], {"target": "visualizer"}, Rule.SILENCE_NOT_JUDGED),
    ],
)
def test_a_job_that_may_be_silent_is_mute_and_never_restarted_for_it(reports, changes, rule):
    for now in (10, 100_000):
        judgement = judged(said(*reports, fact=a_fact(**changes)), now)
        assert short(judgement) == (Verdict.MUTE, rule)
        assert judgement.look_at == NO_LOOK


@pytest.mark.parametrize("pod", [PodState.NONE, PodState.PENDING, PodState.ENDED])
def test_a_job_without_a_running_pod_is_shown_and_not_restarted(pod):
    state = said((LOADING, 5), fact=a_fact(pod=pod), running_at=NEVER, idle_pod_at=T0 + 50)
    before, after = judged(state, 50 + NOT_RUNNING), judged(state, 51 + NOT_RUNNING)
    assert short(before) == (Verdict.STARTING, Rule.POD_NOT_RUNNING)
    assert before.look_at == T0 + 50 + NOT_RUNNING
    assert short(after) == (Verdict.NOT_RUNNING, Rule.POD_NOT_RUNNING)
    assert after.look_at == NO_LOOK
    assert not after.restartable


@pytest.mark.parametrize(("reports", "threshold"), [([(LOADING, 5)], SILENCE), ([], STARTUP)])
def test_a_feed_gap_is_nobodys_silence(reports, threshold):
    gaps = Gaps(((T0 + 20, T0 + 5000),))
    state = said(*reports)
    assert not judged(state, 5000 + threshold, gaps=gaps).restartable
    assert judged(state, 5001 + threshold, gaps=gaps).restartable


def test_a_feed_gap_is_no_part_of_the_grace():
    gaps = Gaps(((T0 + 20, T0 + 5000),))
    state = said((LOADING, 5), (ERROR, 9))
    assert not judged(state, 5000 + GRACE - 1, gaps=gaps).restartable
    assert judged(state, 5000 + GRACE, gaps=gaps).restartable


# ---- any state at all

STATES = st.builds(
    lambda changes, reports, fact: _folded(a_state(fact=a_fact(**fact), **changes), reports),
    st.fixed_dictionaries(
        {
            "running_at": moments(),
            "idle_pod_at": moments(),
            "pod_ended_at": st.just(NEVER) | moments(),
            "condition_at": moments(),
            "hold_at": st.just(NEVER) | moments(),
            "doubtful_life_at": st.just(NEVER) | moments(),
            "idle_at": st.just(NEVER) | moments(),
        }
    ),
    st.lists(beats() | words(), max_size=6),
    st.fixed_dictionaries(
        {
            "condition": st.sampled_from(Condition),
            "pod": st.sampled_from(PodState),
            "pod_created_at": st.just(NEVER) | moments(),
            "target": st.sampled_from(["loader", "consumer", "literal", "stepper", "visualizer", "off", "new"]),
            "skip": st.booleans(),
        }
    ),
)
GAPS = st.lists(st.integers(0, 400), max_size=6, unique=True).map(
    lambda edges: Gaps(
        tuple(
            (T0 + start / 2, T0 + end / 2) for start, end in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
        )
    )
)


def _folded(state, reports):
    for report in reports:
        fold = fold_beat if hasattr(report, "records_written") else fold_word
        fold(state, report, at=report.source_at, source_partition=0)
    return state


@given(STATES, GAPS, st.integers(0, 4000))
def test_a_verdict_does_not_change_by_time_alone_before_it_says_so(state, gaps, eighths):
    """The sweep looks at a Job no earlier: what it did not announce would be missed."""
    now = 200 + eighths / 8
    first = judged(state, now, gaps=gaps)
    if first.restartable:
        return
    assert first.look_at >= T0 + now
    for later in (0.125, 1, 5, 20, 60, 200):
        again = judged(state, now + later, gaps=gaps)
        if T0 + now + later < first.look_at:
            assert again.verdict is first.verdict
    if first.look_at != NO_LOOK:
        at_look = judged(state, first.look_at - T0 + 0.125, gaps=gaps)
        assert at_look.verdict is not first.verdict or at_look.look_at > first.look_at


@given(STATES, GAPS, st.integers(0, 4000))
def test_the_short_way_to_healthy_says_what_the_rules_say(state, gaps, eighths):
    now, expected = T0 + 200 + eighths / 8, BOOK.for_job(state.fact)
    if verdicts.plainly_healthy(state, now, expected, gaps) is not None:
        assert judge(state, now, expected, gaps) == verdicts._by_the_rules(state, now, expected, gaps)


def test_a_job_that_reports_takes_the_short_way():
    state = said((LOADING, 5))
    assert verdicts.plainly_healthy(state, T0 + 6, BOOK.for_job(state.fact), Gaps()) is not None


@given(STATES, GAPS, st.integers(0, 4000))
def test_a_sick_job_does_not_get_well_by_time_alone(state, gaps, eighths):
    now = 200 + eighths / 8
    if judged(state, now, gaps=gaps).restartable:
        assert judged(state, now + 100, gaps=gaps).restartable


@given(STATES, GAPS, st.integers(0, 4000))
def test_silence_is_a_verdict_only_when_so_much_really_passed(state, gaps, eighths):
    now = T0 + 200 + eighths / 8
    judgement = judged(state, now - T0, gaps=gaps)
    if judgement.verdict in {Verdict.STUCK, Verdict.NEVER_STARTED}:
        assert now - max(state.life_at, state.running_at) > judgement.threshold
        assert gaps.silence(judgement.since, now) == judgement.silence > judgement.threshold > 0


@given(STATES, GAPS, st.integers(0, 4000))
def test_only_a_managed_job_that_nobody_stopped_or_exempted_is_restartable(state, gaps, eighths):
    judgement = judged(state, 200 + eighths / 8, gaps=gaps)
    assert judgement.restartable is (judgement.verdict in RESTARTABLE)
    if judgement.restartable:
        fact = state.fact
        assert fact.managed
        assert not fact.skip
        assert fact.target != "off"
        assert fact.condition in {Condition.ACTIVE, Condition.FAILED, Condition.COMPLETE}
        is_another_pod = state.interrupted_source < fact.pod_created_at + TAKEN_AWAY_SECONDS
        assert is_another_pod or state.interrupted_source <= max(state.life_source - RIGHT_AFTER_SECONDS, NEVER)
        if fact.condition is Condition.COMPLETE:
            assert state.error_source != NEVER


@given(STATES, GAPS, st.integers(0, 4000), moments(400, 800))
def test_a_sign_of_life_now_makes_any_job_well_that_has_not_failed_in_kubernetes(state, gaps, eighths, at):
    fold_beat(state, a_beat(at, offset=2000, records_written=99), at=at, source_partition=0)
    judgement = judged(state, at - T0, gaps=gaps)
    if judgement.restartable and judgement.rule is not Rule.JOB_FAILED:
        assert (state.fact.target, judgement.rule) == ("literal", Rule.ERROR_GRACE_OVER)
        assert state.error_source != NEVER
