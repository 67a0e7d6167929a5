"""The table that is asked for many names at once answers as a dict does, whatever was added and removed before."""

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from sf_healer.core import lookup as module
from sf_healer.core.lookup import NOBODY, Lookup

NAMES = [f"stf/job-{number}" for number in range(12)]


class Told:
    """A Lookup beside a dict that is told the same; slots are given out as Jobs gives them, those left free first."""

    def __init__(self):
        self.lookup = Lookup()
        self.slots = {}
        self.free = []
        self.given = 0

    def slot(self):
        if self.free:
            return self.free.pop()
        self.given += 1
        return self.given

    def add(self, names):
        names = [name for name in dict.fromkeys(names) if name not in self.slots]
        slots = [self.slot() for _ in names]
        taken = self.lookup.add(names, slots)
        for name, slot, is_taken in zip(names, slots, taken, strict=True):
            if is_taken:
                self.slots[name] = slot
            else:
                self.free.append(slot)
        return taken

    def remove(self, name):
        slot = self.slots.pop(name, None)
        if slot is not None:
            self.lookup.remove(slot)
            self.free.append(slot)

    def check(self, names):
        assert self.lookup.find(names).tolist() == [self.slots.get(name, NOBODY) for name in names]


@pytest.fixture
def hashes(monkeypatch):
    """Let the names in this dict have these hashes, and all others their own."""
    given_hashes = {}
    monkeypatch.setattr(module, "hash", lambda name: given_hashes.get(name, hash(name)), raising=False)
    return given_hashes


names = st.sampled_from(NAMES)
calls = st.one_of(
    st.tuples(st.just("add"), st.lists(names, max_size=6)),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("check"), st.lists(names, max_size=15)),
)


@given(st.lists(calls, max_size=40))
def test_any_calls_are_answered_as_a_dict_answers_them(sequence):
    told = Told()
    for call, argument in sequence:
        getattr(told, call)(argument)
    told.check([*NAMES, "stf/nobody", ""])
    event(f"slots that are free: {bool(told.free)}")


@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 500), st.integers(0, 3000)), min_size=1, max_size=8),
)
def test_a_table_that_grows_and_is_made_anew_forgets_nobody(rounds):
    told, fresh = Told(), 0
    for more, fewer, first in rounds:
        told.add(f"stf/{number}" for number in range(fresh, fresh + more))
        fresh += more
        for number in range(first, first + fewer):
            told.remove(f"stf/{number}")
    told.check([f"stf/{number}" for number in range(fresh + 100)])


def test_thousands_of_names_come_and_go_in_the_slots_of_each_other():
    told = Told()
    for generation in range(12):
        told.add(f"stf/{generation}-{number}" for number in range(2000))
        told.check([f"stf/{each}-{number}" for each in (generation - 1, generation) for number in range(0, 2000, 7)])
        for number in range(2000):
            if number % 5:
                told.remove(f"stf/{generation}-{number}")
    assert told.given < 7000
    told.check([f"stf/{generation}-{number}" for generation in range(12) for number in range(2000)])


def test_a_batch_of_names_of_none_is_found_to_be_of_nobody():
    told = Told()
    told.check(NAMES)
    told.check([])
    assert told.add([]) == []


def test_a_name_may_be_asked_for_several_times_at_once():
    told = Told()
    told.add(NAMES)
    told.check(NAMES * 3)


def test_of_two_names_of_one_hash_the_second_is_refused_and_the_first_stays(hashes):
    hashes.update(dict.fromkeys(["first", "second"], 2**40 + 7))
    told = Told()
    assert told.add(["before", "first"]) == [True, True]
    assert told.add(["second", "behind"]) == [False, True]
    told.check(["before", "first", "behind"])


def test_of_two_names_of_one_hash_that_come_together_only_the_first_is_taken_in(hashes):
    hashes.update(dict.fromkeys(["first", "second", "third"], -5))
    told = Told()
    assert told.add(["before", "first", "second", "between", "third"]) == [True, True, False, True, False]
    told.check(["before", "first", "between"])


def test_a_name_that_was_refused_is_taken_in_once_the_other_of_its_hash_is_gone(hashes):
    hashes.update(dict.fromkeys(["first", "second"], 99))
    told = Told()
    told.add(["first"])
    told.add(["second"])
    told.remove("first")
    assert told.add(["second"]) == [True]
    told.check(["second", "before"])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 299)), max_size=400), st.sampled_from([2**20, 2**54, -(2**32)]))
def test_names_whose_hashes_differ_only_where_the_table_does_not_look_are_told_apart(steps, apart):
    """All of them are looked for from three places on, of which the last is the first of the table again."""
    digests = {f"stf/{number}": (number // 3 + 1) * apart + (1022 + number % 3) for number in range(300)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hash", digests.__getitem__, raising=False)
        told = Told()
        told.add(list(digests)[::2])
        for is_new, number in steps:
            if is_new:
                told.add([f"stf/{number}"])
            else:
                told.remove(f"stf/{number}")
        told.check(list(digests))


def test_what_is_found_can_be_used_as_places_of_rows():
    told = Told()
    told.add(NAMES)
    rows = np.arange(100)
    assert rows[told.lookup.find(NAMES[3:5])].tolist() == [4, 5]
