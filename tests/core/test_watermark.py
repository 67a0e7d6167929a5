"""Up to where a log is complete, and what of a silence counts when the feed itself was silent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import watermark
from sf_healer.core.evidence import Mark
from sf_healer.core.watermark import GAPS_KEPT, Advance, Gaps, Watermark
from tests.core.strategies import FEED_GAP_SECONDS, T0, TOPIC, a_mark, moments


def a_watermark():
    return Watermark(feed_gap_seconds=FEED_GAP_SECONDS)


def a_running_watermark(*, partitions=1):
    """Make a watermark at T0 whose first gap lies behind it."""
    mark = a_watermark()
    mark.apply(a_mark(T0, partitions=partitions))
    return mark


def of(partitions, *sources, topic_id=TOPIC, reset=()):
    return Mark(topic_id, partitions, sources, reset)


# ---- the smallest W


def test_there_is_no_watermark_before_the_first_mark():
    assert a_watermark().value == 0.0


def test_there_is_no_watermark_before_every_source_partition_has_a_mark():
    mark = a_watermark()
    assert mark.apply(of(3, (0, T0), (2, T0))) is None
    assert mark.value == 0.0
    assert mark.apply(of(3, (1, T0 - 5))) == Advance(T0 - 5, gap=True)


def test_the_watermark_is_the_smallest_w_of_all_source_partitions():
    mark = a_running_watermark(partitions=2)
    assert mark.apply(of(2, (0, T0 + 3))) is None
    assert mark.apply(of(2, (1, T0 + 2))) == Advance(T0 + 2, gap=False)
    assert mark.value == T0 + 2


def test_an_older_mark_from_a_slower_worker_takes_nothing_back():
    mark = a_running_watermark()
    mark.apply(a_mark(T0 + 3))
    assert mark.apply(a_mark(T0 + 1)) is None
    assert mark.value == T0 + 3
    assert mark.marks == {0: T0 + 3}


def test_a_source_partition_added_later_holds_the_watermark_until_it_is_marked():
    mark = a_running_watermark(partitions=2)
    assert mark.apply(of(3, (0, T0 + 1), (1, T0 + 1))) is None
    assert mark.apply(of(2, (0, T0 + 2), (1, T0 + 2))) is None  # a worker that has not heard of it yet
    assert mark.apply(of(3, (2, T0 + 1))) == Advance(T0 + 1, gap=False)


def test_a_partition_beyond_the_count_in_the_mark_is_counted():
    """The count and the assignment may come from metadata of different age."""
    mark = a_running_watermark(partitions=2)
    assert mark.apply(of(2, (0, T0 + 1), (1, T0 + 1), (3, T0 + 1))) is None
    assert mark.partitions == 4


# ---- topics made anew


def test_a_topic_made_anew_replaces_the_set_of_partitions_and_is_a_gap():
    mark = a_running_watermark(partitions=3)
    assert mark.apply(of(1, (0, T0 + 1), topic_id="topic-2")) == Advance(T0 + 1, gap=True)
    assert mark.marks == {0: T0 + 1}


def test_a_topic_made_anew_with_more_partitions_waits_for_all_of_them():
    mark = a_running_watermark()
    assert mark.apply(of(2, (0, T0 + 1), topic_id="topic-2")) is None
    assert mark.apply(of(2, (1, T0 + 2), topic_id="topic-2")) == Advance(T0 + 1, gap=True)


def test_a_worker_that_still_knows_the_old_topic_changes_nothing():
    mark = a_running_watermark()
    mark.apply(a_mark(T0 + 1, topic_id="topic-2"))
    assert mark.apply(a_mark(T0 + 5, topic_id=TOPIC, reset=(0,))) is None
    assert mark.apply(a_mark(T0 + 2, topic_id="topic-2")) == Advance(T0 + 2, gap=False)


def test_a_bounded_number_of_old_topics_is_remembered():
    mark = a_watermark()
    for number in range(3 * watermark.TOPIC_IDS_REMEMBERED):
        mark.apply(a_mark(T0 + number, topic_id=f"topic-{number}"))
    assert len(mark.replaced_topic_ids) == watermark.TOPIC_IDS_REMEMBERED


# ---- gaps


def test_the_first_watermark_of_all_is_a_gap():
    assert a_watermark().apply(a_mark(T0)) == Advance(T0, gap=True)


@pytest.mark.parametrize(("seconds", "gap"), [(FEED_GAP_SECONDS, False), (FEED_GAP_SECONDS + 0.125, True)])
def test_two_watermarks_further_apart_than_allowed_are_a_gap(seconds, gap):
    mark = a_running_watermark()
    assert mark.apply(a_mark(T0 + seconds)) == Advance(T0 + seconds, gap=gap)
    assert mark.gaps.as_tuple()[1:] == (((T0, T0 + seconds),) if gap else ())


def test_an_offset_reset_is_a_gap_however_short():
    mark = a_running_watermark()
    assert mark.apply(a_mark(T0 + 1, reset=(0,))) == Advance(T0 + 1, gap=True)
    assert mark.apply(a_mark(T0 + 2)) == Advance(T0 + 2, gap=False)


def test_an_offset_reset_is_not_forgotten_while_the_watermark_waits():
    mark = a_running_watermark(partitions=2)
    assert mark.apply(of(2, (0, T0 + 1), reset=(0,))) is None
    assert mark.apply(of(2, (1, T0 + 1))) == Advance(T0 + 1, gap=True)


# ---- silence without gaps


def test_silence_without_a_gap_is_the_time_that_passed():
    assert Gaps().silence(T0, T0 + 30) == 30.0


def test_the_first_gap_of_a_silence_rebases_it_and_later_ones_are_subtracted():
    gaps = Gaps(((T0 + 10, T0 + 100),))
    assert gaps.silence(T0, T0 + 105) == 5.0
    gaps.add(T0 + 110, T0 + 150)
    assert gaps.silence(T0, T0 + 160) == 20.0
    assert gaps.silence(T0 + 105, T0 + 160) == 10.0
    assert gaps.silence(T0 + 120, T0 + 160) == 10.0
    assert gaps.silence(T0 + 155, T0 + 160) == 5.0


def test_a_gap_in_which_reports_were_lost_rebases_every_silence():
    """One of them may have been the sign of life that nobody will ever read. Found by the simulation."""
    gaps = Gaps(((T0 + 10, T0 + 100),))
    gaps.add(T0 + 110, T0 + 150, lost=True)
    assert gaps.silence(T0, T0 + 160) == 10.0
    gaps.add(T0 + 170, T0 + 180)
    assert gaps.silence(T0, T0 + 185) == gaps.silence(T0 + 120, T0 + 185) == 25.0
    assert gaps.silence(T0 + 160, T0 + 185) == 5.0
    assert gaps.silence(T0 + 182, T0 + 185) == 3.0


@pytest.mark.parametrize("loss", [{"reset": (0,)}, {"topic_id": "topic-2"}])
def test_of_the_gaps_resets_and_topics_made_anew_lose_reports(loss):
    mark = a_running_watermark()
    mark.apply(a_mark(T0 + 1, **loss))
    assert mark.gaps.lost_until == T0 + 1
    mark.apply(a_mark(T0 + 1 + 2 * FEED_GAP_SECONDS, topic_id=mark.topic_id))
    assert mark.gaps.lost_until == T0 + 1


def test_what_a_leading_source_partition_lost_is_a_gap_until_a_lagging_one_has_come_there():
    mark = a_running_watermark(partitions=2)
    mark.apply(of(2, (0, T0 + 60), (1, T0 + 1)), T0 + 61)
    mark.apply(of(2, (0, T0 + 100), reset=(0,)), T0 + 101)
    for seconds in range(2, 110):
        mark.apply(of(2, (0, T0 + 102 + seconds), (1, T0 + seconds)), T0 + 102 + seconds)
        assert mark.gaps.silence(T0 + 1, T0 + seconds) == max(0.0, seconds - 101)
    assert mark.gaps.as_tuple()[1:] == ((T0 + 1, T0 + 101),), "one gap, however many marks were made in it"


def test_a_loss_is_not_forgotten_before_its_gap_is():
    gaps = Gaps()
    gaps.add(T0, T0 + 1, lost=True)
    for number in range(1, GAPS_KEPT):
        gaps.add(T0 + 2 * number, T0 + 2 * number + 1)
    assert gaps.lost_until == T0 + 1
    gaps.add(T0 + 2 * GAPS_KEPT, T0 + 2 * GAPS_KEPT + 1)
    assert gaps.lost_until == 0.0


def test_a_worker_in_a_crash_loop_does_not_hide_a_silence_for_ever():
    gaps = Gaps()
    for number in range(40):
        gaps.add(T0 + 20 * number, T0 + 20 * number + 12)
    assert gaps.silence(T0 - 5, T0 + 800) == 40 * 8


def test_a_bounded_number_of_gaps_is_kept_and_dropping_the_oldest_makes_a_verdict_later():
    kept, forgetful = Gaps(), Gaps()
    for number in range(GAPS_KEPT + 10):
        start = T0 + 20 * number
        if number < GAPS_KEPT:
            kept.add(start, start + 12)
        forgetful.add(start, start + 12)
    assert len(forgetful.as_tuple()) == GAPS_KEPT
    now = T0 + 20 * (GAPS_KEPT + 10)
    assert forgetful.silence(T0 - 5, now) <= kept.silence(T0 - 5, now)


def test_gaps_survive_being_stored():
    gaps = Gaps(((T0, T0 + 1), (T0 + 2, T0 + 3)))
    assert Gaps(gaps.as_tuple()).silence(T0 - 1, T0 + 9) == gaps.silence(T0 - 1, T0 + 9)
    gaps.add(T0 + 4, T0 + 5, lost=True)
    gaps.add(T0 + 6, T0 + 7)
    stored = Gaps(gaps.as_tuple(), gaps.lost_until)
    assert stored.silence(T0 - 1, T0 + 9) == gaps.silence(T0 - 1, T0 + 9) == 3.0


#: Boundaries of gaps in order of time; gaps may touch.
GAPS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=8).map(
    lambda lengths: tuple(_laid_out(lengths))
)


def _laid_out(lengths):
    at = T0
    for pause, length in lengths:
        yield at + pause / 8, at + (pause + length) / 8
        at += (pause + length) / 8


@given(GAPS, st.integers(-20, 400), st.integers(0, 400))
def test_gaps_only_ever_take_from_a_silence(known, since_eighths, after):
    since = T0 + since_eighths / 8
    now = max([since, *(end for _, end in known)]) + after / 8
    counted = Gaps(known).silence(since, now)
    assert 0.0 <= counted <= now - since
    in_gaps = sum(max(0.0, min(end, now) - max(start, since)) for start, end in known)
    assert counted <= now - since - in_gaps


@given(GAPS, st.integers(-20, 400), st.integers(0, 100), st.integers(0, 400))
def test_a_later_sign_of_life_never_makes_a_silence_longer(known, since_eighths, later, after):
    since = T0 + since_eighths / 8
    now = max([since + later / 8, *(end for _, end in known)]) + after / 8
    gaps = Gaps(known)
    assert gaps.silence(since + later / 8, now) <= gaps.silence(since, now)


@given(GAPS, st.integers(-20, 400), st.integers(0, 400))
def test_one_more_gap_never_makes_a_silence_longer_nor_forgets_what_was_real(known, since_eighths, seconds):
    """While no gap is added, a silence grows as fast as time: a gap delays a verdict, it does not stop it."""
    since = T0 + since_eighths / 8
    now = max([since, *(end for _, end in known)])
    gaps = Gaps(known)
    assert gaps.silence(since, now + seconds) == gaps.silence(since, now) + seconds
    gaps.add(now, now + seconds)
    assert gaps.silence(since, now + seconds) <= Gaps(known).silence(since, now + seconds)


# ---- any marks at all

MARKS = st.builds(
    Mark,
    topic_id=st.sampled_from(["topic-1", "topic-2"]),
    partitions=st.integers(1, 3),
    sources=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 400).map(lambda eighth: T0 + eighth / 8)), max_size=3
    ).map(tuple),
    reset=st.sampled_from([(), (), (1,)]),
)


@given(st.lists(MARKS, max_size=40))
def test_the_watermark_only_grows_and_never_beyond_what_every_partition_was_marked_with(marks):
    mark, newest, before = a_watermark(), {}, 0.0
    for each in marks:
        if each.topic_id != mark.topic_id and each.topic_id not in mark.replaced_topic_ids:
            newest = {}
        if each.topic_id not in mark.replaced_topic_ids:
            for source, w in each.sources:
                newest[source] = max(w, newest.get(source, 0.0))
        advance = mark.apply(each)
        if advance is None:
            assert mark.value == before
            continue
        assert before < advance.to == mark.value == min(newest.values())
        assert len(newest) >= mark.partitions
        assert advance.gap or advance.to - before <= FEED_GAP_SECONDS
        before = mark.value


@given(st.lists(MARKS, max_size=30))
def test_every_mark_read_twice_changes_nothing_more(marks):
    once, twice = a_watermark(), a_watermark()
    for each in marks:
        once.apply(each)
        twice.apply(each)
        repeated = twice.apply(Mark(each.topic_id, each.partitions, each.sources))
        assert repeated is None
    assert (once.value, once.marks, once.gaps.as_tuple()) == (twice.value, twice.marks, twice.gaps.as_tuple())
    assert not math.isnan(once.value)


def test_a_reset_that_comes_without_a_claim_makes_the_next_step_a_gap():
    mark = a_running_watermark()
    assert mark.apply(of(1, reset=(3,)), T0 + 1) is None
    assert mark.apply(a_mark(T0 + 1), T0 + 1) == Advance(T0 + 1, gap=True)
    assert mark.apply(a_mark(T0 + 2), T0 + 2) == Advance(T0 + 2, gap=False)


def test_what_a_clock_that_was_ahead_has_dated_goes_back_and_the_next_step_is_a_gap_that_rebases():
    mark = a_running_watermark(partitions=2)
    mark.apply(of(2, (0, T0 + 5), (1, T0 + 7206)))
    mark.apply(of(2, (0, T0 + 7208)))
    assert mark.value == T0 + 7206
    mark.put_right(T0 + 9, 7199.0)
    assert (mark.value, mark.marks) == (T0 + 7, {0: T0 + 9, 1: T0 + 7})
    assert mark.gaps.as_tuple()[-1] == (T0 + 5, T0 + 7)
    assert mark.apply(of(2, (0, T0 + 10), (1, T0 + 10)), T0 + 10) == Advance(T0 + 10, gap=True)
    assert mark.gaps.lost_until == T0 + 10
    assert mark.apply(of(2, (0, T0 + 11), (1, T0 + 11)), T0 + 11) == Advance(T0 + 11, gap=False)


@given(st.lists(moments(), max_size=12).map(sorted), moments(), st.floats(60.0, 7200.0), st.booleans())
def test_gaps_stay_in_order_of_time_when_a_clock_is_put_right(times, now, ahead, lost):
    gaps = Gaps()
    for start, end in zip(times[::2], times[1::2], strict=False):
        gaps.add(start, end, lost=lost)
    right = gaps.put_right(now, ahead).as_tuple()
    flat = [at for gap in right for at in gap]
    assert flat == sorted(flat)
    assert len(right) == len(gaps.as_tuple())
    assert all(at <= max(now, times[-1] - ahead) for at in flat)
