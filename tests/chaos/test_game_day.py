"""The shipped engines on the stage: each passes with our healer, and fails with one that is off or wrong.

All trials share one stage; `make chaos` runs the slow ones too and leaves the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.game_day import QUICK, SLOW, line
from tests.chaos.stage import Stage
from tests.chaos.trials import play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.trials import Trial
    from tests.lab.kube import ControlPlane

pytestmark = [
    pytest.mark.kube,
    pytest.mark.kafka,
    pytest.mark.prometheus,
    pytest.mark.toxiproxy,
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(control_plane, tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.mark.parametrize(
    "trial",
    [
        *(pytest.param(trial, id=trial.name) for trial in QUICK),
        *(pytest.param(trial, id=trial.name, marks=pytest.mark.soak) for trial in SLOW),
    ],
)
def test_a_hypothesis_holds_of_our_healer_and_of_none_that_is_off_or_wrong(trial: Trial, stage: Stage, tmp_path: Path):
    played = play(trial, stage, tmp_path)
    assert played.is_right, f"{line(played)}\n{played.said}"
