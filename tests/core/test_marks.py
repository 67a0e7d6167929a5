"""A claim is never more than the truth, and comes however far the worker is behind."""

import itertools
import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sf_healer.core.marks import PAIRS_KEPT, Ends, SourceMarks
from tests.core.strategies import T0


def poll(marks, end, w, *, partition=0):
    """Take in a poll that took no time."""
    return marks.note(Ends(end, end), {partition: w}, not_before=w, not_after=w)


def test_nothing_is_claimed_before_the_first_poll():
    marks = SourceMarks()
    assert marks.claim(10**6) is None
    assert marks.bounds(5) == (0.0, math.inf)


def test_w_may_be_claimed_when_everything_below_the_end_is_forwarded():
    marks = SourceMarks()
    poll(marks, 10, T0)
    assert marks.claim(9) is None
    assert marks.claim(10) == {0: T0}


def test_an_empty_source_partition_is_claimed_by_the_plain_position():
    marks = SourceMarks()
    poll(marks, 0, T0)
    assert marks.claim(0) == {0: T0}


def test_a_claim_is_made_once():
    marks = SourceMarks()
    poll(marks, 10, T0)
    assert marks.claim(10) == {0: T0}
    assert marks.claim(11) is None


def test_an_idle_source_partition_is_claimed_anew_with_each_poll():
    marks = SourceMarks()
    for second in range(5):
        poll(marks, 10, T0 + second)
        assert marks.claim(10) == {0: T0 + second}


def test_the_newest_of_several_ends_that_were_passed_is_claimed():
    marks = SourceMarks()
    for second in range(5):
        poll(marks, 10 * second, T0 + second)
    assert marks.claim(25) == {0: T0 + 2}
    assert marks.claim(29) is None
    assert marks.claim(100) == {0: T0 + 4}


def test_a_worker_that_is_never_quite_caught_up_claims_all_the_same():
    """The rule "position equals end now" starves under steady load."""
    marks, claims = SourceMarks(), []
    for second in range(60):
        poll(marks, 1000 * second, T0 + second)
        claims.append(marks.claim(1000 * second - 500))
    assert claims[1:] == [{0: T0 + second - 1} for second in range(1, 60)]


def test_a_worker_that_stays_hours_behind_claims_all_the_same():
    """As many polls are kept as can be, evenly, not just the newest: those lie beyond its position."""
    marks, behind = SourceMarks(), 3 * PAIRS_KEPT
    claimed = []
    for second in range(5 * PAIRS_KEPT):
        poll(marks, 10 * second, T0 + second)
        w = marks.claim(10 * (second - behind))
        if w is not None:
            claimed.append((second - behind, w[0] - T0))
    assert all(w <= true for true, w in claimed)
    steps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(claimed)]
    assert claimed[-1][0] - claimed[0][0] > PAIRS_KEPT
    assert max(steps) <= 8  # seconds, with three hours of lag: still no feed gap
    assert len(marks._pairs) <= PAIRS_KEPT


def test_a_worker_that_has_caught_up_claims_every_second_again():
    marks = SourceMarks()
    for second in range(3 * PAIRS_KEPT):
        poll(marks, 10 * second, T0 + second)
    caught_up = 3 * PAIRS_KEPT
    marks.claim(10 * caught_up)
    for second in range(caught_up, caught_up + 10):
        poll(marks, 10 * second, T0 + second)
        assert marks.claim(10 * second) == {0: T0 + second}


def test_an_end_that_goes_back_means_a_topic_made_anew():
    marks = SourceMarks()
    poll(marks, 1000, T0)
    poll(marks, 3, T0 + 1)
    assert marks.claim(2) is None
    assert marks.claim(3) == {0: T0 + 1}
    assert marks.bounds(1) == (0.0, T0 + 1)


def test_while_what_is_in_the_log_cannot_be_read_nothing_is_claimed_and_afterwards_it_goes_on():
    """Too few replicas: reports are acknowledged above the high watermark, and who reads stands at it."""
    marks = SourceMarks()
    assert marks.note(Ends(16, 16), {0: T0}, not_before=T0, not_after=T0) == 0
    assert marks.claim(16) == {0: T0}
    for second in range(1, 60):
        marks.note(Ends(16 + second, 16), {0: T0 + second}, not_before=T0 + second, not_after=T0 + second)
        assert marks.claim(16) is None
    marks.note(Ends(75, 75), {0: T0 + 60}, not_before=T0 + 60, not_after=T0 + 60)
    assert marks.claim(75) == {0: T0 + 60}


def test_a_tail_that_is_lost_is_told_and_its_end_is_waited_for_no_longer():
    marks = SourceMarks()
    marks.note(Ends(16, 16), {0: T0}, not_before=T0, not_after=T0)
    marks.note(Ends(72, 16), {0: T0 + 1}, not_before=T0 + 1, not_after=T0 + 1)
    assert marks.note(Ends(20, 20), {0: T0 + 2}, not_before=T0 + 2, not_after=T0 + 2) == 52
    assert marks.claim(20) == {0: T0 + 2}, "an idle partition never comes to 72"
    assert poll(marks, 20, T0 + 3) == 0


def test_what_stood_in_a_tail_that_was_lost_bounds_nothing_in_its_place():
    """The log has grown past the end that was noted, so nothing tells that part of it is new."""
    marks = SourceMarks()
    marks.note(Ends(72, 16), {0: T0}, not_before=T0, not_after=T0 + 0.25)
    marks.note(Ends(80, 80), {0: T0 + 60}, not_before=T0 + 60, not_after=T0 + 60.25)
    assert marks.bounds(15) == (0.0, T0 + 0.25)
    assert marks.bounds(16) == (0.0, T0 + 60.25)
    assert marks.bounds(72) == (T0, T0 + 60.25)
    assert [marks.bounds_hold_until(offset) for offset in (15, 16, 72)] == [16, 72, 80]


def test_what_can_be_read_by_now_bounds_what_came_before_though_the_log_ends_where_it_did():
    marks = SourceMarks()
    marks.note(Ends(20, 10), {0: T0}, not_before=T0, not_after=T0 + 0.25)
    marks.note(Ends(20, 20), {0: T0 + 60}, not_before=T0 + 60, not_after=T0 + 60.25)
    marks.note(Ends(20, 20), {0: T0 + 90}, not_before=T0 + 90, not_after=T0 + 90.25)
    assert marks.bounds(19) == (0.0, T0 + 60.25)
    assert marks.bounds(20) == (T0 + 90, math.inf)


def test_bounds_come_from_the_polls_around_an_offset():
    marks = SourceMarks()
    marks.note(Ends(10, 10), {0: T0}, not_before=T0, not_after=T0 + 0.25)
    marks.note(Ends(20, 20), {0: T0 + 1}, not_before=T0 + 1, not_after=T0 + 1.25)
    assert marks.bounds(9) == (0.0, T0 + 0.25)
    assert marks.bounds(10) == (T0, T0 + 1.25)
    assert marks.bounds(20) == (T0 + 1, math.inf)
    assert marks.bounds_hold_until(9) == 10
    assert marks.bounds_hold_until(10) == 20
    assert marks.bounds_hold_until(20) > 10**15


def test_a_poll_that_finds_the_same_end_tightens_what_comes_after_it():
    marks = SourceMarks()
    marks.note(Ends(10, 10), {0: T0}, not_before=T0, not_after=T0 + 0.25)
    marks.note(Ends(10, 10), {0: T0 + 1}, not_before=T0 + 1, not_after=T0 + 1.25)
    assert marks.bounds(9) == (0.0, T0 + 0.25)
    assert marks.bounds(10) == (T0 + 1, math.inf)


class Following(RuleBasedStateMachine):
    """Polls, appends, replication, forwards and acknowledgements in any order, with calls that take their time.

    What is not modelled: a topic made anew that has grown past the old end before the next poll. The topic's
    id tells (watermark.py), not the offsets.
    """

    @initialize()
    def start(self):
        self.marks = SourceMarks()
        self.now = T0
        self.appended = []  # the true time of each source record
        self.readable = 0  # what lies below is replicated
        self.position = 0
        self.w = T0

    @rule(eighths=st.integers(0, 40))
    def time_passes(self, eighths):
        self.now += eighths / 8

    @rule(count=st.integers(1, 5))
    def reports_arrive(self, count):
        self.appended += [self.now] * count

    @precondition(lambda self: self.readable < len(self.appended))
    @rule(data=st.data())
    def reports_are_replicated(self, data):
        self.readable = data.draw(st.integers(self.readable, len(self.appended)))

    @rule(data=st.data())
    def the_leader_dies_with_what_was_not_replicated(self, data):
        del self.appended[data.draw(st.integers(self.readable, len(self.appended))) :]

    @rule()
    def evidence_is_acknowledged(self):
        self.w = self.now

    @rule(before=st.integers(0, 8), within=st.integers(0, 8), arriving=st.integers(0, 3))
    def ends_are_asked_for(self, before, within, arriving):
        """W is noted, then the ends are read, then the answer comes: reports may arrive in between."""
        w = self.w
        self.now += before / 8
        end = len(self.appended)
        self.appended += [self.now] * arriving
        readable = self.readable
        self.now += within / 8
        self.marks.note(Ends(end, readable), {0: w}, not_before=w, not_after=self.now)

    @precondition(lambda self: self.position < self.readable)
    @rule(data=st.data())
    def reports_are_forwarded(self, data):
        self.position = data.draw(st.integers(self.position, self.readable))

    @rule()
    def a_mark_is_sent(self):
        claimed = self.marks.claim(self.position)
        if claimed is not None:
            missing = self.appended[self.position :]
            assert all(at >= claimed[0] for at in missing)

    @rule()
    def the_topic_is_made_anew(self):
        self.appended, self.readable, self.position = [], 0, 0
        self.ends_are_asked_for(0, 0, 0)

    @invariant()
    def bounds_contain_the_true_time(self):
        for offset, at in enumerate(self.appended):
            low, high = self.marks.bounds(offset)
            assert low <= at <= high
            until = min(self.marks.bounds_hold_until(offset), len(self.appended))
            assert until > offset
            for later in range(offset, until):
                assert self.marks.bounds(later) == (low, high)


TestFollowing = Following.TestCase


class FollowingFarBehind(Following):
    """The same with room for four polls only, so that thinning out is part of every run."""

    @initialize()
    def start(self):
        super().start()
        self.marks = SourceMarks(pairs_kept=4)

    @invariant()
    def no_more_polls_are_kept_than_there_is_room_for(self):
        assert len(self.marks._pairs) <= 4


TestFollowingFarBehind = FollowingFarBehind.TestCase
