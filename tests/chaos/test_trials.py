"""A trial changes an engine in its times alone, and names probes that the engine has."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.chaos import litmus
from tests.chaos.engines import LITMUS, documents
from tests.chaos.game_day import TRIALS
from tests.chaos.trials import TIMES, quicker

if TYPE_CHECKING:
    from tests.chaos.trials import Trial


def engines_of(trial: Trial) -> list[dict[str, Any]]:
    return documents(LITMUS / "engines" / f"{trial.engine}.yaml")


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out how long the fault holds, how often a probe is tried and how long it may take."""
    left = copy.deepcopy(document)
    (experiment,) = left["spec"]["experiments"]
    env = experiment["spec"]["components"]["env"]
    experiment["spec"]["components"]["env"] = [each for each in env if each["name"] not in TIMES]
    for probe in experiment["spec"]["probe"]:
        del probe["runProperties"]["attempt"], probe["runProperties"]["probeTimeout"]
    return left


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_what_is_asked_and_hit_is_what_is_shipped(trial: Trial):
    for document in engines_of(trial):
        changed = quicker(copy.deepcopy(document), trial.patience)
        assert without_times(changed) == without_times(document)
        before, after = litmus.parse(document), litmus.parse(changed)
        assert isinstance(before, litmus.ChaosEngine)
        assert isinstance(after, litmus.ChaosEngine)
        assert all(
            float(after.settings[name]) <= float(before.settings[name]) for name in TIMES if name in after.settings
        )


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS if trial.shows])
def test_a_negative_control_is_seen_by_probes_of_its_engine(trial: Trial):
    (experiment,) = engines_of(trial)[-1]["spec"]["experiments"]
    assert set(trial.shows) <= {probe["name"] for probe in experiment["spec"]["probe"]}
