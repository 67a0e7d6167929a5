"""A reader is stalled when there is something to read and it does not move; nothing else is a stall."""

from sf_healer.core.progress import STALLED_AFTER_SECONDS, Progress

LATER = STALLED_AFTER_SECONDS + 1.0


def test_a_reader_that_stands_still_with_something_to_read_is_stalled():
    progress = Progress()
    progress.note({"a": (5, 9)}, now=0.0)
    progress.note({"a": (5, 20)}, now=LATER)
    assert progress.stalled(now=LATER) == {"a": LATER}


def test_a_reader_that_moves_is_not_stalled_however_far_behind():
    progress = Progress()
    for second in range(0, 200, 5):
        progress.note({"a": (second, 1_000_000)}, now=float(second))
    assert progress.stalled(now=200.0) == {}


def test_a_reader_with_nothing_to_read_is_not_stalled():
    progress = Progress()
    progress.note({"a": (9, 9)}, now=0.0)
    progress.note({"a": (9, 9)}, now=LATER)
    assert progress.stalled(now=LATER) == {}


def test_standing_still_counts_from_when_there_was_something_to_read():
    progress = Progress()
    progress.note({"a": (9, 9)}, now=0.0)
    progress.note({"a": (9, 9)}, now=100.0)
    progress.note({"a": (9, 12)}, now=105.0)
    assert progress.stalled(now=110.0) == {}


def test_a_reader_that_went_away_is_forgotten_and_begins_anew():
    progress = Progress()
    progress.note({"a": (5, 9)}, now=0.0)
    progress.note({}, now=30.0)
    progress.note({"a": (5, 9)}, now=LATER)
    assert progress.stalled(now=LATER) == {}


def test_a_time_that_nobody_can_be_blamed_for_does_not_count():
    progress = Progress()
    progress.note({"a": (5, 9)}, now=0.0)
    progress.forget()
    progress.note({"a": (5, 9)}, now=LATER)
    assert progress.stalled(now=LATER) == {}
