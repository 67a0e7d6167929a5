"""What an engine is filled in with: by seed, by the end of a Job's name, and nothing left open."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.chaos.picking import PREFIX, Candidate, PickError, Wanted, Wish, choose, filled, wish_of
from tests.chaos.engines import ENGINES, LITMUS, documents

JOBS = [
    Candidate(f"pod-{n}", f"loader-btc-{n}-{suffix}", f"uid-{n}")
    for n, suffix in enumerate(["loader-ws", "arango-connector"] * 3)
]
LOADERS = Wish(Wanted.JOB, "stf", ("-loader-ws",))
(ENGINE,) = documents(LITMUS / "engines" / "pod-delete-loader.yaml")


@given(st.integers(0, 2**32), st.permutations(JOBS))
def test_a_seed_picks_the_same_whatever_the_order(seed: int, jobs: list[Candidate]):
    (one,) = choose(LOADERS, jobs, random.Random(seed))
    assert (one,) == choose(LOADERS, JOBS, random.Random(seed))
    assert one.job.endswith("-loader-ws"), "every Job's name begins with loader-"


def test_every_fitting_job_is_picked_by_some_seed():
    picked = {choose(LOADERS, JOBS, random.Random(seed))[0] for seed in range(50)}
    assert picked == {each for each in JOBS if each.job.endswith("-loader-ws")}


def test_too_few_are_refused_by_number():
    wish = Wish(Wanted.JOBS, "stf", ("-loader-ws",), at_least=4)
    with pytest.raises(PickError, match="3 in stf that run and fit -loader-ws, 4 wanted"):
        choose(wish, JOBS, random.Random(1))


def test_all_are_picked_where_all_are_wanted():
    wish = Wish(Wanted.JOBS, "stf", ("-loader-ws", "-arango-connector"), at_least=5)
    assert choose(wish, JOBS, random.Random(1)) == tuple(sorted(JOBS))


def test_names_are_filled_in_everywhere_and_the_engine_gets_a_name_of_its_own():
    made = filled(ENGINE, [JOBS[0]], run="20260102t030405")
    text = str(made)
    assert "PICKED-" not in text
    assert made["metadata"]["name"] == "pod-delete-loader-20260102t030405"
    assert made["spec"]["selectors"]["pods"] == [{"namespace": "stf", "names": "pod-0"}]
    assert JOBS[0].uid in text
    assert f"^job.batch/{JOBS[0].job}" in text
    assert "PICKED-POD" in str(ENGINE), "the file's own is left as it was"


def test_a_long_name_stays_a_label():
    long = ENGINE | {"metadata": ENGINE["metadata"] | {"name": "x" * 63}}
    assert len(filled(long, [JOBS[0]], run="20260102t030405")["metadata"]["name"]) == 63


def test_an_engine_with_a_name_left_open_is_refused():
    with pytest.raises(PickError, match="nothing was picked for PICKED-JOB, PICKED-POD, PICKED-UID"):
        filled(ENGINE, [], run="20260102t030405")
    with pytest.raises(PickError, match="PICKED-JOB"):
        filled(ENGINE, [Candidate("pod")], run="20260102t030405")


def test_pods_is_not_taken_for_pod():
    (fleet,) = documents(LITMUS / "engines" / "network-latency-fleet.yaml")
    made = filled(fleet, JOBS, run="1")
    assert made["spec"]["selectors"]["pods"][0]["names"] == ",".join(each.pod for each in JOBS)


def test_a_wish_that_cannot_be_read_is_refused():
    with pytest.raises(PickError, match="everything"):
        wish_of({f"{PREFIX}pick": "everything"})


def test_every_engine_wishes_for_what_it_has_to_be_filled_in_with():
    for engine in ENGINES:
        wish = wish_of(engine.metadata.annotations)
        assert (wish.wanted is Wanted.NONE) is ("PICKED-" not in repr(engine))
        assert wish.wanted is not Wanted.JOBS or wish.at_least > 2, "a storm takes more than two"
