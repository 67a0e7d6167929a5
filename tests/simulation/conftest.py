"""Which seeds the tests run.

SF_LAB_SIMULATION_SEEDS is how many worlds there are in all (default: 4); most of them are always the same, a fifth
is fresh in each run: from SIMULATION_FRESH_FROM on, which tests/conftest.py chooses. CI runs fifty more by
`make simulate`, and so does who looks for what nobody has seen yet.
"""

import os

import pytest

from tests.simulation.seeds import silence

_SEEDS = int(os.environ.get("SF_LAB_SIMULATION_SEEDS", "4"))
_FIXED = range(_SEEDS - -(-_SEEDS // 5))
_FRESH_FROM = int(os.environ["SIMULATION_FRESH_FROM"])
_FRESH = range(_FRESH_FROM, _FRESH_FROM + _SEEDS - len(_FIXED))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, seeds in (("fixed_seed", _FIXED), ("fresh_seed", _FRESH)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, seeds)


@pytest.fixture(autouse=True)
def _silent() -> None:
    """Let the code under test log nothing: a world has thousands of lines."""
    silence()
