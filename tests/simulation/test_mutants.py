"""The simulation can fail: each known fault that is put in is found, and the same world without it breaks no rule."""

import pytest

from tests.simulation.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_known_fault_is_found_and_the_same_world_is_well_without_it(mutant: Mutant) -> None:
    tried, found = mutant.hunt()
    assert found is not None, f"not found in {tried} worlds from seed {mutant.first_seed}"
    assert found.violation is not None
    assert found.violation.rule in mutant.shows, str(found.violation)
    assert mutant.without(found.seed).violation is None
