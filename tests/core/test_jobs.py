"""The Jobs of a partition are a mapping, whoever is at rest: nothing of a Job is lost or changed by its rest."""

from copy import deepcopy

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sf_healer.core import lookup
from sf_healer.core.evidence import Beats
from sf_healer.core.jobs import Folded, Jobs
from sf_healer.core.state import NEVER, JobState, fields_of, fold_beat
from sf_healer.core.verdicts import Verdict
from sf_healer.core.windows import NO_WINDOW
from tests.core.strategies import T0, a_beat, a_fact, a_well_state

KEYS = [f"stf/{letter}" for letter in "abcdef"]
A, B, C = KEYS[:3]
WINDOW = 350_000_000


def a_well(key=A, **changes):
    """Make the state of a Job that is well and waits in a window: one that may rest."""
    return a_well_state(key, **{"window": WINDOW, **changes})


def jobs_of(*states):
    jobs = Jobs()
    for state in states:
        jobs[state.key] = state
    return jobs


def at_rest(*states):
    """Make Jobs that are all at rest."""
    jobs = jobs_of(*states)
    jobs.rest(states)
    assert jobs.at_rest == len(states)
    return jobs


def folded(jobs, *beats, at=T0 + 30, known=-1):
    """Fold beats into those at rest; all of the last ten seconds before T0 + 30 are of one checkpoint."""
    return jobs.fold_beats(
        Beats.of(beats),
        at=at,
        source_partition=0,
        known=known,
        not_before=NEVER,
        inside=(T0 + 10, T0 + 40),
        before=T0 + 9,
    )


# ---- a mapping


class Told:
    """Jobs beside a dict that is told the same; the dict's states are its own."""

    def __init__(self):
        self.jobs, self.known, self.told = Jobs(), {}, 0

    def known_anew(self, key):
        self.told += 1
        self.jobs[key] = a_well(key, source_offset=self.told)
        self.known[key] = a_well(key, source_offset=self.told)

    def known_to_be_sick(self, key):
        self.jobs[key] = a_well(key, error_source=T0)
        self.known[key] = a_well(key, error_source=T0)

    def forgotten(self, key):
        assert self.jobs.pop(key, None) == self.known.pop(key, None)

    def deleted(self, key):
        if key in self.known:
            del self.jobs[key], self.known[key]
            return
        with pytest.raises(KeyError):
            del self.jobs[key]

    def taken_out(self, key):
        if key in self.known:
            assert self.jobs[key] == self.known[key]
            return
        with pytest.raises(KeyError):
            self.jobs[key]

    def asked_for(self, key):
        assert self.jobs.get(key) == self.known.get(key)

    def looked_at(self, key):
        known, at_rest = self.known.get(key), self.jobs.at_rest
        assert (key in self.jobs) == (known is not None)
        assert self.jobs.copy_of(key) == known
        assert self.jobs.fact_of(key) == (known and known.fact)
        assert self.jobs.verdict_of(key) == (known and known.verdict)
        assert self.jobs.at_rest == at_rest

    def put_to_rest(self, keys):
        self.jobs.rest([self.jobs[key] for key in keys if key in self.known])
        event(f"at rest: {self.jobs.at_rest}")


CALLS = [name for name in vars(Told) if not name.startswith("_") and name != "put_to_rest"]
calls = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*CALLS, *["known_anew"] * 5]), st.sampled_from(KEYS)),
        st.tuples(st.just("put_to_rest"), st.just(KEYS) | st.lists(st.sampled_from(KEYS))),
    ),
    min_size=10,
    max_size=60,
)


@given(calls)
def test_whoever_is_at_rest_jobs_are_a_mapping_as_a_dict_is(sequence):
    told = Told()
    jobs, known = told.jobs, told.known
    for call, argument in sequence:
        getattr(told, call)(argument)
        assert len(jobs) == len(known)
        assert sorted(jobs) == sorted(known)
    assert {key: jobs.copy_of(key) for key in jobs} == known
    assert dict(jobs.items()) == known
    assert jobs.at_rest == 0


def test_a_state_that_was_taken_out_is_the_jobs_own():
    jobs = at_rest(a_well())
    jobs[A].records_written = 99
    assert jobs[A] is jobs.get(A)
    assert jobs[A].records_written == 99


def test_jobs_may_be_woken_and_deleted_while_their_keys_are_gone_through():
    jobs = at_rest(*(a_well(key) for key in KEYS))
    for number, key in enumerate(jobs):
        if number % 2:
            del jobs[key]
        else:
            assert jobs[key].key == key
    assert len(jobs) == len(KEYS) / 2


def test_a_state_that_is_put_in_the_place_of_one_at_rest_is_the_one_that_counts():
    jobs = at_rest(a_well(), a_well(B))
    jobs[A] = a_well(A, source_offset=8)
    assert (jobs.at_rest, len(jobs), jobs[A].source_offset) == (1, 2, 8)


# ---- what a row holds


times = st.just(NEVER) | st.floats(-1e12, 1e12, allow_nan=False) | st.floats(T0, T0 + 1e6)
numbers = st.integers(-1, 2**63 - 1)


@st.composite
def restful(draw):
    """Draw any state that may rest."""
    fact = a_fact(A, uid=draw(st.sampled_from(["", "u1"])), action_id=draw(st.sampled_from(["", "c1"])))
    alive_uid = draw(st.sampled_from(["", fact.uid])) if not fact.action_id else fact.uid
    return JobState(
        A,
        fact=fact,
        verdict=Verdict.HEALTHY,
        window=draw(st.integers(0, 2**62)),
        alive_uid=alive_uid,
        **{name: draw(times) for name in TIMES},
        **{name: draw(numbers) for name in ("records_written", "source_partition", "source_offset")},
    )


TIMES = (
    *("loading_at", "loading_source", "started_source", "progress_at", "running_at", "idle_pod_at", "started_at"),
    *("seen_at", "condition_at", "errors_from"),
)


@given(restful())
def test_a_job_wakes_as_it_was_put_to_rest(state):
    before = deepcopy(fields_of(state))
    jobs = at_rest(state, a_well(B))
    looked_at = fields_of(jobs.copy_of(A))
    assert jobs.at_rest == 2
    woken = jobs[A]
    assert jobs.at_rest == 1
    assert looked_at == fields_of(woken) == before
    assert list(map(type, fields_of(woken))) == list(map(type, before))


def test_every_field_of_a_state_is_known_to_be_in_a_row_or_to_keep_a_job_awake():
    """A field that is new is in neither: it would be lost by the first rest."""
    in_a_row = {"key", "fact", "window", "alive_uid", "records_written", "source_partition", "source_offset", *TIMES}
    keeps_awake = {"verdict", "error_source", "command_id", "seldom"}
    assert set(JobState.__struct_fields__) == in_a_row | keeps_awake


@pytest.mark.parametrize(
    "changes",
    [
        {"finished_source": T0},
        {"retry_at": T0},
        {"cadence": [1]},
        {"verdict": Verdict.STUCK},
        {"verdict": Verdict.HELD},
        {"verdict": "unknown"},
        {"command_id": "c1"},
        {"error_source": T0},
        {"window": NO_WINDOW},
        {"fact": None},
        {"alive_uid": "u0"},
        {"fact": a_fact(A, action_id="c1")},
        {"fact": a_fact(A, action_id="c1"), "alive_uid": "u0"},
    ],
    ids=" ".join,
)
def test_a_job_of_which_more_is_known_stays_awake(changes):
    state = a_well(**changes)
    jobs = jobs_of(state)
    jobs.rest([state])
    assert jobs.at_rest == 0
    assert jobs[A] is state
    assert Jobs().take_in([state], at_rest=True) == [state]


@given(restful(), st.sampled_from(["finished_at", "error_said", "doubtful_life_at"]))
def test_a_job_that_has_a_seldom_stays_awake_even_if_nothing_is_left_in_it(state, name):
    setattr(state, name, T0)
    setattr(state, name, NEVER)
    jobs = jobs_of(state)
    jobs.rest([state])
    assert jobs[A] is state


def test_only_a_state_that_is_a_jobs_own_is_put_to_rest_and_once():
    """What was taken out before the Job was forgotten and known again says nothing of it."""
    outdated, stranger = a_well(source_offset=1), a_well(B)
    jobs = jobs_of(outdated)
    jobs[A] = state = a_well(source_offset=2)
    jobs.rest([outdated, stranger])
    assert jobs.at_rest == 0
    jobs.rest([state, state])
    assert (jobs.at_rest, len(jobs), jobs[A].source_offset) == (1, 1, 2)


# ---- to look without waking


def test_who_only_looks_wakes_nobody():
    jobs = at_rest(a_well(), a_well(B))
    assert jobs.copy_of(A) == a_well()
    assert jobs.copy_of(A) is not jobs.copy_of(A)
    assert jobs.fact_of(A) == a_fact(A)
    assert jobs.verdict_of(A) == Verdict.HEALTHY
    assert jobs.waiting(A, WINDOW + 1) is None
    assert A in jobs
    assert list(jobs) == [A, B]
    assert len(jobs) == jobs.at_rest == 2


def test_a_copy_of_a_job_at_rest_that_is_changed_changes_nothing():
    jobs = at_rest(a_well())
    jobs.copy_of(A).records_written = 99
    assert jobs[A] == a_well()


def test_of_who_is_awake_the_state_itself_is_shown():
    jobs = jobs_of(state := a_well(verdict=Verdict.STUCK))
    assert jobs.copy_of(A) is state
    assert (jobs.fact_of(A), jobs.verdict_of(A)) == (state.fact, Verdict.STUCK)


def test_of_a_job_that_nobody_knows_there_is_nothing_to_see():
    jobs = at_rest(a_well())
    del jobs[A]
    for look in (jobs.get, jobs.copy_of, jobs.fact_of, jobs.verdict_of):
        assert look(A) is look("stf/nobody") is None
    assert jobs.waiting(A, WINDOW) is jobs.waiting("stf/nobody", NO_WINDOW) is None


def test_a_window_that_closes_wakes_the_jobs_that_wait_in_it_and_no_other():
    jobs = at_rest(a_well(), a_well(B, window=WINDOW + 1))
    assert jobs.waiting(B, WINDOW) is None
    assert jobs.at_rest == 2
    assert jobs.waiting(A, WINDOW) is jobs[A]
    assert jobs.at_rest == 1
    assert jobs.waiting(A, WINDOW) is jobs[A]
    assert jobs.waiting(A, WINDOW + 1) is None


# ---- rows


def test_a_row_is_used_again_for_the_next_job():
    jobs = at_rest(*(a_well(key) for key in KEYS))
    for generation in range(200):
        for key in KEYS:
            del jobs[f"{key}{generation - 1}" if generation else key]
        states = [a_well(f"{key}{generation}", source_offset=generation) for key in KEYS]
        jobs.take_in(states, at_rest=True)
        assert [jobs.copy_of(state.key) for state in states] == states
        assert len(jobs) == jobs.at_rest == len(KEYS)
    assert len(jobs._facts) == len(KEYS) + 1


def test_a_job_that_is_known_again_has_nothing_of_what_was_known_before():
    jobs = at_rest(a_well(started_at=T0 + 5, source_offset=99))
    del jobs[A]
    state = a_well(source_offset=1)
    jobs.take_in([state], at_rest=True)
    assert jobs[A] == a_well(source_offset=1)


def test_a_job_rests_and_wakes_in_one_row_and_no_report_is_folded_while_it_is_awake():
    jobs = at_rest(a_well())
    for offset in range(10, 20):
        state = jobs[A]
        assert folded(jobs, a_beat(T0 + offset + 10, key=A, offset=offset)) == Folded([0], [], 0, offset)
        assert jobs[A] is state
        jobs.rest([state])
        assert folded(jobs, a_beat(T0 + offset + 10, key=A, offset=offset)) == Folded([], [], 0, offset)
    assert len(jobs._facts) == 2


def test_thousands_of_jobs_are_taken_in_and_all_are_found():
    states = [a_well(f"stf/{number}", source_offset=number) for number in range(5000)]
    jobs = Jobs()
    for begin in range(0, len(states), 700):
        assert jobs.take_in(deepcopy(states[begin : begin + 700]), at_rest=True) == []
    assert jobs.at_rest == len(jobs) == len(states)
    assert [jobs.copy_of(state.key) for state in states] == states


def test_jobs_are_taken_in_awake_if_they_are_not_to_rest_or_must_not():
    well, sick = a_well(), a_well(B, verdict=Verdict.STUCK)
    jobs = Jobs()
    assert jobs.take_in([well, sick], at_rest=True) == [sick]
    assert (jobs.at_rest, len(jobs)) == (1, 2)
    assert jobs[B] is sick
    others = Jobs()
    assert others.take_in([well, sick], at_rest=False) == [well, sick]
    assert (others.at_rest, len(others)) == (0, 2)
    assert others[A] is well


# ---- folding


def test_a_bundle_is_folded_into_the_rows_of_all_that_are_at_rest_and_the_others_are_left():
    jobs = at_rest(a_well(), a_well(B))
    jobs[C] = a_well(C)
    beats = [
        a_beat(T0 + 25, key=A, offset=11, records_written=4),
        a_beat(T0 + 25, key=C, offset=12),
        a_beat(T0 + 25, key="stf/nobody", offset=13),
        a_beat(T0 + 15, key=B, offset=10),
        a_beat(T0 + 25, key="stf/known", offset=5),
    ]
    assert folded(jobs, *beats, known=9) == Folded([1, 2], [], 1, 13)
    assert jobs.at_rest == 2
    assert jobs[A] == a_well(
        loading_at=T0 + 30, loading_source=T0 + 25, records_written=4, progress_at=T0 + 30, source_offset=11
    )
    assert jobs[B] == a_well(B, loading_at=T0 + 30)  # it was late: the Job was heard, and has said nothing new
    assert jobs[C] == a_well(C)


def test_what_is_to_be_stored_of_a_checkpoint_before_is_told_and_what_may_be_is_left():
    jobs = at_rest(
        a_well(loading_at=T0 + 5),  # last heard in a checkpoint before
        a_well(B, loading_at=T0 + 20, progress_at=T0 + 5),  # heard since, and begins to get on again
        a_well(C, loading_at=T0 + 9.5),  # too near to the end of a checkpoint to say
    )
    beats = [a_beat(T0 + 25, key=key, offset=offset, records_written=99) for offset, key in enumerate((A, B, C))]
    assert folded(jobs, *beats) == Folded(left=[2], changed=[A, B], passed_over=0, highest=2)
    assert jobs.at_rest == 3
    for key in (A, B):
        state = jobs.copy_of(key)
        assert (state.loading_at, state.progress_at, state.records_written) == (T0 + 30, T0 + 30, 99)
    assert folded(jobs, a_beat(T0 + 26, key=A, offset=3, records_written=100)) == Folded([], [], 0, 3)


def test_nothing_is_folded_of_a_bundle_without_beats():
    assert folded(at_rest(a_well())) == Folded([], [], 0, -1)


#: Of what may rest: moments in a checkpoint, at its ends and about them, some of them at the very same.
about = st.sampled_from([T0 + 5, *(T0 + second for second in range(10, 31, 4)), T0 + 30, T0 + 31, T0 + 40, T0 + 41])
seldom = st.sampled_from([NEVER] * 5) | about
MOMENTS = {"loading_at": about, "loading_source": about, "progress_at": about}
SELDOM = dict.fromkeys(["started_source", "started_at", "seen_at"], seldom)


@settings(max_examples=600)
@given(
    st.fixed_dictionaries({**MOMENTS, **SELDOM}),
    seldom,
    st.builds(a_beat, about, key=st.just(A), offset=st.just(9), records_written=st.integers(-1, 3)),
    seldom,
)
def test_what_is_folded_at_rest_comes_to_what_the_long_way_comes_to(changes, created_at, beat, not_before):
    state = a_well(fact=a_fact(A, created_at=created_at), **changes)
    expected, jobs = deepcopy(state), at_rest(state)
    came = jobs.fold_beats(
        Beats.of((beat,)),
        at=T0 + 30,
        source_partition=1,
        known=8,
        not_before=not_before,
        inside=(T0 + 10, T0 + 40),
        before=T0 + 10,
    )
    event(f"{came}")
    if not came.left and not came.passed_over:
        heard_at, progress_at = expected.loading_at, expected.progress_at
        fold_beat(expected, beat, at=T0 + 30, source_partition=1, not_before=not_before)
        gets_on = progress_at not in {heard_at, expected.progress_at}
        is_stored = not T0 + 10 < heard_at < T0 + 40 or (gets_on and not T0 + 10 < progress_at < T0 + 40)
        assert came.changed == ([A] if is_stored else [])
    assert jobs.copy_of(A) == expected


@pytest.fixture
def hashes(monkeypatch):
    """Let the keys in this dict have these hashes, and all others their own."""
    known = {}
    monkeypatch.setattr(lookup, "hash", lambda key: known.get(key, hash(key)), raising=False)
    return known


def test_a_job_whose_key_has_the_hash_of_anothers_stays_awake_and_works(hashes):
    hashes.update({A: 5, B: 5})
    states = [a_well(), a_well(B, source_offset=2), a_well(C)]
    jobs = jobs_of(*states)
    for _ in range(3):
        jobs.rest(states)
        assert jobs.at_rest == 2
        assert jobs[B] is states[1]
        assert jobs.copy_of(A) == a_well()
    del jobs[A]
    jobs.rest([states[1]])
    assert jobs.at_rest == 2
    assert jobs[B] == a_well(B, source_offset=2)
    taken_in = Jobs()
    assert taken_in.take_in([a_well(), a_well(B)], at_rest=True) == [a_well(B)]
    del taken_in[B]
    assert list(taken_in) == [A]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C]),
            st.sampled_from(["rest", "wake", "forget", "know"]),
        ),
        max_size=30,
    )
)
def test_of_keys_of_one_hash_each_is_a_job_of_its_own(sequence):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "hash", lambda _: 5, raising=False)
        jobs, known = Jobs(), {}
        for number, (key, call) in enumerate(sequence):
            if call == "know":
                known[key] = number
                jobs[key] = a_well(key, source_offset=number)
            elif key in known and call == "forget":
                del known[key], jobs[key]
            elif key in known and call == "wake":
                assert jobs[key].source_offset == known[key]
            elif key in known:
                jobs.rest([jobs[key]])
            assert jobs.at_rest <= 1
            assert {each: jobs.copy_of(each).source_offset for each in jobs} == known


def test_what_a_job_says_whose_key_has_the_hash_of_one_at_rest_is_not_folded_into_that_one(hashes):
    hashes.update({A: 5, B: 5})
    jobs = at_rest(a_well())
    jobs[B] = a_well(B)
    assert folded(jobs, a_beat(T0 + 25, key=B, offset=11)).left == [0]
    assert jobs.copy_of(A) == a_well()
