"""Is a new version of queue-manager being tried? What its Argo Rollout shows, and until when that holds restarts back.

queue-manager launches the Jobs: while two versions of it serve, and for a while after one was taken back, many Jobs may
turn sick for its sake, and restarting them would blame and load the wrong side. Nothing is asked here.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from sf_healer.core.wire import Moment

#: The Rollout of argo/, in the namespace of the Jobs.
NAME = "queue-manager"
#: A rollout that goes on is seen again and again; not seen for longer it holds nothing: nobody looks any more.
STALE_AFTER_SECONDS = 60.0
AFTER_ABORT_SECONDS = 600.0
_LONGEST_MESSAGE = 300  # characters: it is kept in the ledger


class DuringRollout(StrEnum):
    """What a rollout means for restarts, `platform_rollout` in [admission] of the policy."""

    HOLD = "hold"
    WARN = "warn"  # told in `fleet`, and nothing is held


class RolloutView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Rollout as it was seen.

    `progressing`: two versions serve, or the first is not ready yet; a pause between steps is part of it.
    `aborted_at`: when the newest version was taken back, epoch seconds of the API server; 0.0: it was not.
    """

    progressing: bool = False
    aborted_at: Moment = 0.0
    phase: str = ""
    message: str = ""


#: There is no Rollout, or nobody may look.
NO_ROLLOUT = RolloutView()


def view(manifest: Mapping[str, Any]) -> RolloutView:
    """Read a Rollout as the API server gives it (argoproj.io/v1alpha1); never raises for what is missing."""
    status = manifest.get("status") or {}
    aborted = bool(status.get("abort"))
    wanted, serving = str(status.get("currentPodHash", "")), str(status.get("stableRS", ""))
    return RolloutView(
        progressing=bool(wanted) and wanted != serving and not aborted,
        aborted_at=_epoch(str(status.get("abortedAt", ""))) if aborted else 0.0,
        phase=str(status.get("phase", "")),
        message=str(status.get("message", ""))[:_LONGEST_MESSAGE],
    )


def why_held(seen: RolloutView, seen_at: float, now: float) -> str:
    """Say why restarts should wait at `now`, "" if they need not; all times in epoch seconds."""
    if seen.progressing and now - seen_at <= STALE_AFTER_SECONDS:
        return f"a new version of {NAME} is being tried ({seen.phase or 'begun'})"
    if seen.aborted_at and now < seen.aborted_at + AFTER_ABORT_SECONDS:
        return f"a new version of {NAME} was taken back {max(0.0, now - seen.aborted_at):.0f} s ago"
    return ""


def retry_after(seen: RolloutView, now: float, *, at_least: float) -> float:
    """Give the seconds until it is worth asking again: the end of the time after an abort, if that is known."""
    if seen.progressing or not seen.aborted_at:
        return at_least
    return max(at_least, seen.aborted_at + AFTER_ABORT_SECONDS - now)


def _epoch(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
