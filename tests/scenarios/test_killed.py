"""The actuator is killed between any two steps and at random moments while fifty Jobs are restarted: all come back."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.scenarios.ground import kill_at_each
from tests.scenarios.restarts import BOUNDARIES, random_moments

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.ground import Ground

pytestmark = [pytest.mark.kafka, pytest.mark.kube]


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(20, marks=pytest.mark.timeout(1800)),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(14400)]),
    ],
)
async def test_the_actuator_killed_at_every_boundary_and_at_random_moments_loses_no_job(
    moments: int, ground: Ground, tell: Callable[[str], None]
) -> None:
    rng = random.Random(ground.seed)
    traps = [*BOUNDARIES, *random_moments(moments, rng)]
    rng.shuffle(traps)
    await kill_at_each(ground, traps, tell)
