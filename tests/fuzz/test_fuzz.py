"""Hostile messages by the thousand: nothing crashes, and each is accounted for.

CI sends 200,000 more by `make fuzz`, and `make soak` ten million.
"""

from __future__ import annotations

import logging
import os
import secrets

import pytest
import structlog

from sf_healer.core.events import Kind, Malformed, MalformedReason, decode
from tests.fuzz import corpus
from tests.fuzz.__main__ import MESSAGES_A_WORLD, run
from tests.fuzz.logs import fold_hostile_evidence, read_hostile_steps
from tests.fuzz.mutation import Mutator

MESSAGES = 2 * MESSAGES_A_WORLD  # one world names its Jobs by the cluster, one by convention
SOAK_MESSAGES = 10_000_000


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Keep the log to itself: thousands of Jobs turn sick on the way."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@pytest.fixture(scope="module")
def begun_with() -> corpus.Corpus:
    return corpus.load()


def test_the_same_seed_gives_the_same_messages(begun_with):
    first, again, other = (Mutator(begun_with, seed) for seed in ("1", "1", "2"))
    messages = [first.message() for _ in range(2_000)]
    assert messages == [again.message() for _ in range(2_000)]
    assert messages != [other.message() for _ in range(2_000)]


def test_the_messages_are_of_every_kind_and_broken_in_every_way_there_is_a_name_for(begun_with):
    mutator = Mutator(begun_with, "0")
    decoded = [decode(mutator.message()) for _ in range(50_000)]
    assert {said.kind for said in decoded if not isinstance(said, Malformed)} == set(Kind)
    assert {said.reason for said in decoded if isinstance(said, Malformed)} == set(MalformedReason)


@pytest.mark.timeout(600)
def test_forty_thousand_hostile_messages_crash_nothing_and_are_all_accounted_for():
    run(MESSAGES, seed=_seed())


@pytest.mark.timeout(300)
def test_hostile_records_on_our_own_logs_are_folded_stored_and_shown_or_refused():
    seed = _seed()
    assert 0 < fold_hostile_evidence(seed, 20_000) < 20_000
    assert 0 < read_hostile_steps(seed, 20_000) < 20_000


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_ten_million_hostile_messages_crash_nothing_and_are_all_accounted_for():
    run(SOAK_MESSAGES, seed=_seed())


def _seed() -> str:
    """Give the seed of SF_LAB_FUZZ_SEED, else a fresh one; a failure says which it was."""
    seed = os.environ.get("SF_LAB_FUZZ_SEED") or secrets.token_hex(4)
    print(f"SF_LAB_FUZZ_SEED={seed}")  # noqa: T201  pytest shows it with a failure
    return seed
