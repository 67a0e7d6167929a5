"""What people see of admission: what holds restarts back, for all Jobs together. Nothing here draws."""

from typing import Any

import msgspec

from sf_healer.core import admission
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Command
from sf_healer.core.rollouts import DuringRollout
from sf_healer.core.state import NEVER


def build_admission(actuator: Actuator) -> dict[str, Any]:
    """Build the state of the safety valve; times are epoch seconds of the steps log."""
    ledger, limits, now = actuator.ledger, actuator.limits, actuator.now
    fleet = admission.fleet_of(ledger)
    pauses = admission.pauses_that_hold(ledger.pauses, now)
    return {
        "at": now or None,
        "observe_only": actuator.observe_only,
        "phase": ledger.phase,
        "phase_since": ledger.phase_since or None,
        "in_flight": [{"job": slot.key, "action": slot.action_id, "since": slot.at} for slot in ledger.slots],
        "in_flight_limit": min(ledger.window, limits.in_flight),
        "restarts_allowed_now": round(admission.tokens_left(ledger, limits, now), 1),
        "held": [_held(actuator, command) for command in ledger.held],
        "pauses": [
            {key: value for key, value in msgspec.to_builtins(pause).items() if key not in {"kind", "schema_version"}}
            for _, pause in sorted(pauses.items())
        ],
        "rollout": _rollout(actuator),
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
