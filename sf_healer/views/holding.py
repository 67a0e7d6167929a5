"""What holds the restart of a sick Job back: the last answer to it, or what admission shows now. Nothing here draws.

What holds is `{"reason", "until", "detail"}`: a refusal's reason, or one of `Holding`; `until` in epoch seconds, None
where no time tells.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sf_healer.core.admission import Reason
from sf_healer.core.commands import ALL_JOBS
from sf_healer.core.verdicts import RESTARTABLE

Held = dict[str, Any]


class Holding(StrEnum):
    """What a sick Job waits for where it is no refusal."""

    ASKED = "asked"
    UNDER_WAY = "under_way"
    ASKED_AGAIN = "asked_again"
    WAITS_FOR_A_PERSON = "waits_for_a_person"


#: What holds all Jobs together, or may be ended by a person: what admission shows now counts, not the last answer.
_SHOWN_BY_ADMISSION = frozenset(
    {
        Reason.PAUSED,
        Reason.QUARANTINED,
        Reason.PLATFORM_ROLLOUT,
        Reason.CREATES_REFUSED,
        Reason.COUNTS,
        Reason.STORM,
        Reason.RATE,
        Reason.IN_FLIGHT,
    }
)


def held(reason: str, *, until: float | None = None, detail: str = "") -> Held:
    """Make what holds."""
    return {"reason": reason, "until": until, "detail": detail}


def pauses_of(row: Mapping[str, Any], valve: Mapping[str, Any] | None) -> list[Any]:
    """Give the pauses that hold for a Job; `valve` is what admission shows, None where it cannot be told."""
    scopes = {ALL_JOBS, f"job:{row['job']}", f"queue:{row['queue_id']}", f"target:{row['target']}"}
    return [] if valve is None else [pause for pause in valve["pauses"] if pause["scope"] in scopes]


def held_by(row: Mapping[str, Any], valve: Mapping[str, Any] | None) -> Held | None:
    """Say what holds the restart of a Job back, in the order of admission; None where nothing is known to.

    `row` is a row of the table of Jobs; without `valve` the last answer is all that is known.
    """
    own: Held | None = row.get("held_by")
    if row["verdict"] not in RESTARTABLE or valve is None:
        return own
    return _of_this_job(row["job"], valve) or _paused(row, valve) or _quarantined(row["job"], valve) or _now(own, valve)


def _of_this_job(job: str, valve: Mapping[str, Any]) -> Held | None:
    if any(each["job"] == job for each in valve.get("waiting_for_a_person", ())):
        return held(Holding.WAITS_FOR_A_PERSON)
    if any(each["job"] == job for each in valve["in_flight"]):
        return held(Holding.UNDER_WAY)
    return None


def _paused(row: Mapping[str, Any], valve: Mapping[str, Any]) -> Held | None:
    """Take the pause that holds longest."""
    pauses = pauses_of(row, valve)
    if not pauses:
        return None
    pause = max(pauses, key=lambda each: float("inf") if each["until"] is None else each["until"])
    return held(Reason.PAUSED, until=pause["until"], detail=pause["scope"])


def _quarantined(job: str, valve: Mapping[str, Any]) -> Held | None:
    is_in = any(each["job"] == job for each in valve.get("quarantined", ()))
    return held(Reason.QUARANTINED) if is_in else None


def _now(own: Held | None, valve: Mapping[str, Any]) -> Held | None:
    """Choose between the last answer to a Job and what holds all of them back now."""
    of_all: Held | None = valve.get("restarts_held_by")
    if own is not None and own["reason"] not in _SHOWN_BY_ADMISSION | {Holding.ASKED}:
        return own
    if of_all is not None or own is None or own["reason"] == Holding.ASKED or "restarts_held_by" not in valve:
        return of_all or own
    return held(Holding.ASKED_AGAIN, until=own["until"])
