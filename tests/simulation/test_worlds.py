"""Whole worlds, two simulated hours each: in none of them is a rule broken. docs/simulation.md has the rules."""

import os
import subprocess
import sys

import pytest

from tests.simulation import seeds
from tests.simulation.__main__ import seeds_of
from tests.simulation.world import World

#: What one core has to do in a minute, in simulated hours.
_HOURS_A_MINUTE = 20.0


def _breaks_no_rule(seed: int) -> None:
    ran = seeds.run(seed)
    if ran.failure:
        pytest.fail(f"seed {seed}: {ran.failure}\nrepeat it: {seeds.repeat(seed)}", pytrace=False)


def test_a_world_that_is_always_the_same_breaks_no_rule(fixed_seed: int) -> None:
    _breaks_no_rule(fixed_seed)


def test_a_world_that_nobody_has_seen_before_breaks_no_rule(fresh_seed: int) -> None:
    _breaks_no_rule(fresh_seed)


@pytest.mark.parametrize(
    ("fixed", "chosen"), [(0, [70, 71, 72, 73]), (3, [0, 1, 2, 70]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_of_so_many_worlds_as_many_as_asked_for_are_always_the_same(fixed: int, chosen: list[int]) -> None:
    assert seeds_of(4, fixed=fixed, first_fresh=70) == chosen


def test_a_seed_gives_the_same_world_in_another_process_whatever_its_hashes() -> None:
    seed = 1
    here = World(seed, tracing=True).run()
    there = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--trace"],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,  # a world in which a rule is broken repeats itself, too
    )
    assert there.stdout.splitlines()[: len(here.trace)] == here.trace
    assert len(here.trace) > 100


def test_one_core_runs_twenty_simulated_hours_a_minute() -> None:
    tries = (seeds.run(1).seconds for _ in range(3))  # who shares the core takes of its caches, too
    assert any(seeds.HOURS_OF_A_SEED / seconds * 60.0 > _HOURS_A_MINUTE for seconds in tries)
