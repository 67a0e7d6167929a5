"""The simulation can fail: each known fault that is put in is found, and the same world without it breaks no rule."""

import os
import random
import secrets

import msgspec
import pytest

from tests.simulation import seeds
from tests.simulation.mutants import MUTANTS, Mutant

#: Set: so many of them, others in each run (tests/conftest.py prints the seed).
SOME = "SF_LAB_MUTANTS"


def _chosen() -> list[Mutant]:
    if SOME not in os.environ:
        return list(MUTANTS)
    return random.Random(int(os.environ["SIMULATION_FRESH_FROM"])).sample(MUTANTS, int(os.environ[SOME]))


@pytest.mark.apart
@pytest.mark.timeout(1800)  # a few seconds, at the lowest priority behind all else that .ci/run does
@pytest.mark.parametrize("mutant", _chosen(), ids=lambda mutant: mutant.name)
def test_a_known_fault_is_found_and_the_same_world_is_well_without_it(mutant: Mutant) -> None:
    _is_found(mutant)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_known_fault_is_found_in_worlds_that_nobody_has_seen_before(mutant: Mutant) -> None:
    first = secrets.randbelow(10**9)
    _is_found(msgspec.structs.replace(mutant, first_seed=first, seeds=40))


def _is_found(mutant: Mutant) -> None:
    tried, found = mutant.hunt()
    assert found is not None, f"not found in {tried} worlds from seed {mutant.first_seed}"
    assert found.violation is not None
    look = f"{seeds.PYTHON} -m tests.simulation --mutant '{mutant.name}' --seed {found.seed} --trace"
    assert found.violation.rule in mutant.shows, f"{found.violation}\nlook: {look}"
    without = mutant.without(found.seed).violation
    assert without is None, f"without the mutant: {without}\nlook: {look} --without"
