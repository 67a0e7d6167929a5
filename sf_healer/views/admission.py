"""What people see of admission: what holds restarts back, for all Jobs together. Nothing here draws."""

from typing import Any

import msgspec

from sf_healer.core import admission
from sf_healer.core.actuator import Actuator
from sf_healer.core.admission import Reason
from sf_healer.core.commands import ALL_JOBS, Command
from sf_healer.core.rollouts import AFTER_ABORT_SECONDS, DuringRollout
from sf_healer.core.state import NEVER
from sf_healer.views.holding import Held, held
from sf_healer.views.lines import number_of


def build_admission(actuator: Actuator) -> dict[str, Any]:
    """Build the state of the safety valve; times are epoch seconds of the steps log."""
    ledger, limits, now = actuator.ledger, actuator.limits, actuator.now
    fleet = admission.fleet_of(ledger)
    pauses = admission.pauses_that_hold(ledger.pauses, now)
    refused_create = actuator.refused_create()
    return {
        "at": now or None,
        "observe_only": actuator.observe_only,
        "phase": ledger.phase,
        "phase_since": ledger.phase_since or None,
        "in_flight": [{"job": slot.key, "action": slot.action_id, "since": slot.at} for slot in ledger.slots],
        "in_flight_limit": min(ledger.window, limits.in_flight),
        "restarts_allowed_now": admission.allowed_now(ledger, fleet, limits, now, refused_create=refused_create),
        "restarts_held_by": _held_by(actuator, fleet),
        "restarts_left_by_the_rate": round(admission.tokens_left(ledger, limits, now), 1),
        "held": [_held(actuator, command) for command in ledger.held],
        "pauses": [
            {key: value for key, value in msgspec.to_builtins(pause).items() if key not in {"kind", "schema_version"}}
            for _, pause in sorted(pauses.items())
        ],
        "rollout": _rollout(actuator),
        "quarantined": _quarantined(actuator),
        "waiting_for_a_person": [
            {"job": key, "action": action.id, "state": action.state, "since": action.since}
            for key, record in sorted(actuator.jobs.items())
            if (action := record.action) is not None and action.asks_for_a_person
        ],
        "fleet": {
            "base": fleet.base,
            "unhealthy": fleet.unhealthy,
            "suspected": fleet.suspected,
            "sick": fleet.sick,
            "counted_at": None if fleet.as_of == NEVER else fleet.as_of,
            "partitions_not_counted": fleet.missing,
        },
        "limits": msgspec.to_builtins(limits),
    }


def _held_by(actuator: Actuator, fleet: admission.Fleet) -> Held | None:
    """Say what holds every restart back now, None where nothing does; a storm is held until the first canary."""
    ledger, now = actuator.ledger, actuator.now
    refused = admission.brake(ledger, fleet, actuator.limits, now, refused_create=actuator.refused_create())
    match refused:
        case None:
            return None
        case admission.Refused(reason=Reason.PAUSED):
            return held(Reason.PAUSED, until=ledger.pauses[ALL_JOBS].until, detail=ALL_JOBS)
        case admission.Refused(reason=Reason.PLATFORM_ROLLOUT):
            ends_at = None if ledger.rollout.progressing else ledger.rollout.aborted_at + AFTER_ABORT_SECONDS
            return held(Reason.PLATFORM_ROLLOUT, until=ends_at, detail=refused.detail)
        case admission.Refused(reason=Reason.RATE) if not actuator.limits.rate_per_minute:
            return held(Reason.RATE, detail="rate_per_minute = 0: none at all")
        case admission.Refused(reason=Reason.STORM | Reason.RATE):
            return held(refused.reason, until=now + refused.retry_after, detail=refused.detail)
        case admission.Refused(reason=Reason.COUNTS) if fleet.missing:
            are = "is" if fleet.missing == 1 else "are"
            return held(Reason.COUNTS, detail=f"{number_of(fleet.missing, 'partition')} {are} not counted")
        case admission.Refused():
            return held(refused.reason, detail=refused.detail)


def _quarantined(actuator: Actuator) -> list[dict[str, Any]]:
    """List the Jobs in quarantine; it ends at `ends_at` if the Job stays well till then."""
    known = (
        (key, record.history, admission.quarantine_ends_at(record.history, actuator.limits, actuator.now))
        for key, record in sorted(actuator.jobs.items())
        if record.history.quarantined_at
    )
    return [
        {"job": key, "since": history.quarantined_at, "ends_at": ends_at} for key, history, ends_at in known if ends_at
    ]


def _rollout(actuator: Actuator) -> dict[str, Any] | None:
    ledger = actuator.ledger
    if not ledger.rollout_at:
        return None
    return {
        **msgspec.structs.asdict(ledger.rollout),
        "aborted_at": ledger.rollout.aborted_at or None,
        "seen_at": ledger.rollout_at,
        "in_the_way": admission.rollout_in_the_way(ledger, actuator.now) or None,
        "holds": actuator.limits.platform_rollout is DuringRollout.HOLD,
    }


def _held(actuator: Actuator, command: Command) -> dict[str, Any]:
    inquiry = actuator.ledger.inquiries.get(command.id)
    return {
        "job": command.key,
        "command": command.id,
        "verdict": command.verdict,
        "expires_at": command.expires_at,
        "group": inquiry.told if inquiry is not None else None,
    }
