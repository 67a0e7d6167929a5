"""The actuator is killed at every boundary between two steps while fifty Jobs are restarted: each comes back once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.scenarios.ground import kill_at_each
from tests.scenarios.restarts import BOUNDARIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.ground import Ground

pytestmark = [pytest.mark.kafka, pytest.mark.kube, pytest.mark.timeout(1800)]


async def test_the_actuator_killed_at_every_boundary_loses_no_job(ground: Ground, tell: Callable[[str], None]) -> None:
    traps = list(BOUNDARIES)
    random.Random(ground.seed).shuffle(traps)
    await kill_at_each(ground, traps, tell)
