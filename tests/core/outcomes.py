"""An outcome as an actuator tells it."""

from sf_healer.core.commands import Grounds, Outcome, Result

RESTARTED = Outcome(
    id="o1",
    command_id="c1",
    key="stf/a",
    uid="u1",
    new_uid="u2",
    result=Result.RESTARTED,
    reason="verified",
    at=1000.0,
    attempt=1,
    verdict="stuck",
    evidence=Grounds(silence_seconds=312.4, threshold_seconds=300.0, detail="loading_stopped"),
)
