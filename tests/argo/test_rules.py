"""What Argo's own code says of our Rollouts and templates, and of every result a query can have."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.argo.files import ARGO, OVERLAYS, PLATFORM, Object, ask_argo, build, documents

pytestmark = [pytest.mark.kube, pytest.mark.argo]

RESULTS = {
    "no row": [],
    "NaN": ["NaN"],
    "Inf": ["Inf"],
    "-Inf": ["-Inf"],
    "0": ["0"],
    "0.01": ["0.01"],
    "0.05": ["0.05"],
    "0.2": ["0.2"],
    "1.5": ["1.5"],
    "2": ["2"],
    "29": ["29"],
    "30": ["30"],
    "60": ["60"],
}
OK, NO, OPEN = "Successful", "Failed", "Inconclusive"
UNSEEN = {"no row": NO, "NaN": NO, "Inf": NO, "-Inf": NO}
UNDECIDED = {"no row": OPEN, "NaN": OPEN, "Inf": NO, "-Inf": OPEN}
#: Of a ratio limited to 0.05, of a multiple limited to 1.5, of samples from 30 or 60 on.
RATIO = {"0": OK, "0.01": OK, "0.05": OK, "0.2": NO, "1.5": NO, "2": NO, "29": NO, "30": NO, "60": NO}
TIMES = RATIO | {"0.2": OK, "1.5": OK}
ENOUGH = {"0": NO, "0.01": NO, "0.05": NO, "0.2": NO, "1.5": NO, "2": NO, "29": NO, "30": OK, "60": OK}
TRUTH = {
    "queue-manager-traffic": {"samples": UNSEEN | ENOUGH},
    "queue-manager-slo": {
        "error-ratio": UNDECIDED | RATIO,
        "slow-ratio": UNDECIDED | RATIO,
        "p95-times-stable": UNDECIDED | TIMES,
    },
    "queue-manager-gate": {
        "samples": UNSEEN | ENOUGH | {"30": NO},
        "error-ratio": UNSEEN | RATIO,
        "slow-ratio": UNSEEN | RATIO,
        "p95-times-stable": UNSEEN | TIMES,
    },
}


def given(overlay: str = "traefik") -> list[Object]:
    """Give an overlay with the platform's Deployment: what Argo is asked about."""
    return [*build(overlay).values(), documents(PLATFORM)[0]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_argo_finds_no_fault_in_an_overlay(overlay: str):
    assert ask_argo(given(overlay))["faults"] == []


def test_every_condition_comes_to_what_it_should_for_every_result():
    assert ask_argo(given(), RESULTS)["phases"] == TRUTH


def test_what_others_write_is_blind_or_an_error_so_the_table_tells_something():
    template = copy.deepcopy(documents(ARGO / "base" / "analysis-gate.yaml")[0])
    template["spec"]["metrics"] = [
        {"name": name, "successCondition": condition, "provider": template["spec"]["metrics"][0]["provider"]}
        for name, condition in (
            ("plain", "result[0] <= 0.05"),
            ("default", "default(result, [0.0])[0] <= 0.05"),
            ("lenient", "len(result) == 0 || isNaN(result[0]) || result[0] <= 0.05"),
        )
    ]
    told = ask_argo([template], {name: RESULTS[name] for name in ("no row", "NaN")})["phases"]["queue-manager-gate"]
    assert told["plain"] == {"no row": "Error", "NaN": NO}
    assert told["default"] == {"no row": "Error", "NaN": NO}
    assert told["lenient"] == {"no row": OK, "NaN": OK}


def _rollout(objects: list[Object]) -> Any:
    (found,) = [each for each in objects if each["kind"] == "Rollout"]
    return found["spec"]


def _template(objects: list[Object], name: str) -> Any:
    (found,) = [each for each in objects if each["metadata"]["name"] == name and each["kind"] == "AnalysisTemplate"]
    return found["spec"]


def _without_an_argument(objects: list[Object]) -> None:
    del _rollout(objects)["strategy"]["canary"]["steps"][1]["analysis"]["args"]


def _without_an_argument_in_the_background(objects: list[Object]) -> None:
    del _rollout(objects)["strategy"]["canary"]["analysis"]["args"][1]


def _with_an_unknown_template(objects: list[Object]) -> None:
    _rollout(objects)["strategy"]["canary"]["analysis"]["templates"][0]["templateName"] = "queue-manager-slow"


def _with_a_gate_that_never_ends(objects: list[Object]) -> None:
    for metric in _template(objects, "queue-manager-gate")["metrics"]:
        del metric["count"]


def _with_a_service_of_others(objects: list[Object]) -> None:
    (stable,) = [each for each in objects if each["metadata"]["name"] == "queue-manager-stable"]
    stable["spec"]["selector"]["app"] = "other"


def _without_a_router_and_a_delay(objects: list[Object]) -> None:
    del _rollout(objects)["strategy"]["canary"]["trafficRouting"]


def _with_limits_that_cancel_each_other(objects: list[Object]) -> None:
    del _template(objects, "queue-manager-traffic")["metrics"][0]["consecutiveSuccessLimit"]


def _with_two_metrics_of_one_name(objects: list[Object]) -> None:
    metrics = _template(objects, "queue-manager-slo")["metrics"]
    metrics[1]["name"] = metrics[0]["name"]


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (_without_an_argument, "canary-hash"),
        (_without_an_argument_in_the_background, "stable-hash"),
        (_with_an_unknown_template, "no AnalysisTemplate queue-manager-slow"),
        (_with_a_gate_that_never_ends, "runs indefinitely"),
        (_with_a_service_of_others, "unmatch label"),
        (_without_a_router_and_a_delay, "scaleDownDelaySeconds can only be used with traffic routing"),
        (_with_limits_that_cancel_each_other, "cannot both be disabled"),
        (_with_two_metrics_of_one_name, "duplicate name"),
    ],
)
def test_argo_finds_what_is_broken(breaks, said):
    objects = copy.deepcopy(given())
    breaks(objects)
    assert any(said in fault for fault in ask_argo(objects)["faults"])
