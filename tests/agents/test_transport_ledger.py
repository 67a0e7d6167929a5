"""The ledger: a commit never passes what is in flight, and reaches the end when all is acknowledged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sf_healer.transport.ledger import Delivery, Ledger


def test_a_ledger_knows_nothing_before_reading_began() -> None:
    ledger = Ledger()
    assert ledger.position is None
    assert ledger.acknowledged is None


def test_an_empty_partition_is_acknowledged_up_to_where_reading_began() -> None:
    ledger = Ledger()
    ledger.begin_at(7)
    assert ledger.acknowledged == 7


def test_the_first_unacknowledged_delivery_holds_the_position_back() -> None:
    ledger = Ledger(100)
    first, second = ledger.deliver(110), ledger.deliver(120)
    second.acknowledged = True
    assert (ledger.acknowledged, ledger.position, ledger.in_flight) == (100, 120, 1)
    first.acknowledged = True
    assert (ledger.acknowledged, ledger.position, ledger.in_flight) == (120, 120, 0)


def test_control_records_at_the_end_are_acknowledged_with_what_is_before_them() -> None:
    ledger = Ledger(0)
    delivery = ledger.deliver(5)
    ledger.pass_over(8)
    assert ledger.acknowledged == 0
    delivery.acknowledged = True
    assert ledger.acknowledged == 8


def test_a_gap_before_a_delivery_belongs_to_the_delivery() -> None:
    ledger = Ledger(0)
    delivery = ledger.deliver(50)
    assert (delivery.start, delivery.end) == (0, 50)


def test_a_ledger_refuses_to_go_backwards() -> None:
    ledger = Ledger(10)
    with pytest.raises(AssertionError):
        ledger.deliver(10)
    with pytest.raises(AssertionError):
        ledger.pass_over(9)


class LedgerModel(RuleBasedStateMachine):
    """Any order of deliveries, gaps and acknowledgements, against a list that is searched anew each time."""

    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(0)
        self.delivered: list[Delivery] = []
        self.position = 0

    @rule(target=deliveries, length=st.integers(1, 50))
    def deliver(self, length: int) -> Delivery:
        self.position += length
        delivery = self.ledger.deliver(self.position)
        self.delivered.append(delivery)
        return delivery

    @rule(length=st.integers(0, 5))
    def pass_over(self, length: int) -> None:
        self.position += length
        self.ledger.pass_over(self.position)

    @rule(delivery=deliveries)
    def acknowledge(self, delivery: Delivery) -> None:
        delivery.acknowledged = True

    @rule(delivery=deliveries)
    def let_go(self, delivery: Delivery) -> None:
        delivery.let_go = True

    @rule()
    def acknowledge_all(self) -> None:
        for delivery in self.delivered:
            delivery.acknowledged = True

    @invariant()
    def is_never_beyond_what_is_in_flight_and_never_behind_what_is_done(self) -> None:
        in_flight = [delivery for delivery in self.delivered if not delivery.acknowledged]
        assert self.ledger.acknowledged == (in_flight[0].start if in_flight else self.position)
        assert self.ledger.in_flight == sum(not delivery.let_go for delivery in in_flight)


TestAnyOrderOfAcknowledgements = LedgerModel.TestCase


@given(st.lists(st.integers(1, 20), min_size=1), st.randoms(use_true_random=False))
def test_what_may_be_committed_only_grows_and_ends_at_the_end(lengths, random) -> None:
    ledger = Ledger(0)
    deliveries = [ledger.deliver((ledger.position or 0) + length) for length in lengths]
    committed = 0
    random.shuffle(deliveries)
    for delivery in deliveries:
        delivery.acknowledged = True
        assert ledger.acknowledged is not None
        assert ledger.acknowledged >= committed
        committed = ledger.acknowledged
    assert committed == sum(lengths)


def test_what_is_in_flight_can_be_abandoned_and_what_comes_later_is_not() -> None:
    ledger = Ledger(0)
    before = ledger.deliver(3)
    after = ledger.start_over(0).deliver(5)
    assert (before.abandoned, after.abandoned) == (True, False)


def test_what_is_in_flight_is_still_to_be_acknowledged_where_reading_goes_on_further_on() -> None:
    ledger = Ledger(0)
    before = ledger.deliver(3)
    assert ledger.start_over(7) is ledger
    assert (before.abandoned, ledger.acknowledged, ledger.position) == (False, 0, 7)


def test_of_another_log_nothing_is_committed_before_something_of_it_is_acknowledged() -> None:
    """Else a worker killed at once would leave an offset that is in range, and the next one would notice nothing."""
    ledger = Ledger(9).start_over(0)
    assert (ledger.acknowledged, ledger.to_commit) == (0, None)
    first, second = ledger.deliver(3), ledger.deliver(5)
    second.acknowledged = True
    assert (ledger.acknowledged, ledger.to_commit) == (0, None)
    first.acknowledged = True
    assert (ledger.acknowledged, ledger.to_commit) == (5, 5)


def test_what_is_committed_is_what_is_acknowledged_where_the_log_is_the_same() -> None:
    ledger = Ledger(0).start_over(7)
    assert ledger.to_commit == ledger.acknowledged == 7
