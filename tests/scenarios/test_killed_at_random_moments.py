"""The actuator is killed at random moments while fifty Jobs are restarted: each comes back once."""

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


@pytest.mark.timeout(1800)
async def test_the_actuator_killed_at_twenty_random_moments_loses_no_job(
    ground: Ground, tell: Callable[[str], None]
) -> None:
    await kill_at_each(ground, random_moments(20, random.Random(ground.seed)), tell)


@pytest.mark.soak
@pytest.mark.timeout(14400)
async def test_the_actuator_killed_at_every_boundary_and_at_two_hundred_random_moments_loses_no_job(
    ground: Ground, tell: Callable[[str], None]
) -> None:
    rng = random.Random(ground.seed)
    traps = [*BOUNDARIES, *random_moments(200, rng)]
    rng.shuffle(traps)
    await kill_at_each(ground, traps, tell)
