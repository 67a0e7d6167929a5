"""What Litmus says of an engine: has it ended, and how. From ChaosEngine and ChaosResult as the API serves them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

_ENDED = frozenset({"completed", "stopped"})


class Verdict(StrEnum):
    """Of a ChaosResult."""

    PASS = "Pass"  # noqa: S105  no password
    FAIL = "Fail"
    STOPPED = "Stopped"
    ERROR = "Error"
    AWAITED = "Awaited"


class ProbeTold(msgspec.Struct, frozen=True):
    """What became of a probe."""

    name: str
    type: str
    mode: str
    verdict: str
    description: str = ""


class Told(msgspec.Struct, frozen=True):
    """What became of an engine."""

    verdict: Verdict
    phase: str
    success_percentage: str
    probes: tuple[ProbeTold, ...]


def has_ended(engine: Mapping[str, Any]) -> bool:
    """Return whether the operator is done with an engine."""
    return (engine.get("status") or {}).get("engineStatus") in _ENDED


def result_name(engine: str, experiment: str) -> str:
    """Name the ChaosResult of an engine's experiment."""
    return f"{engine}-{experiment}"


def told(result: Mapping[str, Any] | None) -> Told:
    """Read a ChaosResult; none, or one without a verdict that we know, is an Error: nothing was proved."""
    status = (result or {}).get("status") or {}
    experiment = status.get("experimentStatus") or {}
    verdict = experiment.get("verdict", "")
    return Told(
        verdict=Verdict(verdict) if verdict in set(Verdict) else Verdict.ERROR,
        phase=str(experiment.get("phase", "")),
        success_percentage=str(experiment.get("probeSuccessPercentage", "")),
        probes=tuple(
            ProbeTold(
                name=str(each.get("name", "")),
                type=str(each.get("type", "")),
                mode=str(each.get("mode", "")),
                verdict=str((each.get("status") or {}).get("verdict", "")),
                description=str((each.get("status") or {}).get("description", "")),
            )
            for each in status.get("probeStatuses") or ()
        ),
    )
