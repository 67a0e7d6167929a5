"""Admission hears soon how the fleet stands where a command waits for it, and seldom else."""

import pytest

from agents.counting import COUNTS_EVERY_SECONDS, COUNTS_EVERY_SECONDS_WHILE_SICK, Counting

BEFORE, AFTER = {0: 100.0, 1: 100.5}, {0: 101.0, 1: 101.5}
SOON = COUNTS_EVERY_SECONDS_WHILE_SICK / 4


@pytest.fixture
def counting():
    made = Counting()
    made.counted(BEFORE, now=50.0)
    return made


def test_the_first_counts_are_due_at_once():
    assert Counting().is_due({}, sick=False, now=0.0)


def test_where_a_job_is_sick_counts_are_due_when_the_watermark_has_moved_everywhere(counting):
    assert not counting.is_due(BEFORE, sick=True, now=50.0 + SOON)
    assert not counting.is_due({**BEFORE, 0: 101.0}, sick=True, now=50.0 + SOON)
    assert counting.is_due(AFTER, sick=True, now=50.0 + SOON)


def test_a_partition_that_was_just_assigned_has_moved(counting):
    assert counting.is_due({**AFTER, 2: 99.0}, sick=True, now=50.0 + SOON)


def test_a_watermark_that_stands_still_does_not_keep_the_others_from_being_counted(counting):
    assert counting.is_due(BEFORE, sick=True, now=50.0 + COUNTS_EVERY_SECONDS_WHILE_SICK)


def test_where_nobody_is_sick_counts_are_due_every_few_seconds_whatever_moves(counting):
    assert not counting.is_due(AFTER, sick=False, now=50.0 + COUNTS_EVERY_SECONDS - SOON)
    assert counting.is_due(BEFORE, sick=False, now=50.0 + COUNTS_EVERY_SECONDS)
