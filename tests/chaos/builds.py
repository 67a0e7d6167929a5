"""`sf-healer` with a known fault put in, for negative controls: `python -m tests.chaos.builds FAULT worker`.

A hypothesis that also holds of such a build says nothing of ours. The faults are put in here, before the worker's
modules are read; the product knows no setting for any of them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from sf_healer.cli import main
from sf_healer.core import admission, verdicts
from sf_healer.core.state import NEVER
from sf_healer.core.verdicts import Judgement, Rule, Verdict

if TYPE_CHECKING:
    from sf_healer.core.admission import Fleet, Ledger, Refused
    from sf_healer.core.policy import Limits, Policy
    from sf_healer.core.state import JobState
    from sf_healer.core.watermark import Gaps


class Fault(StrEnum):
    """What is wrong with a build."""

    NO_POD_IS_A_FAILURE = "no-pod-is-a-failure"
    EVERY_SILENCE_FOR_ITSELF = "every-silence-for-itself"


_silent = verdicts._silent


def _failed_without_a_pod(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Take a Job that worked and has no pod for failed, as who does not know of the Job controller's next one does."""
    told = _silent(state, now, policy, gaps)
    if told.rule is Rule.POD_NOT_RUNNING and state.loading_at != NEVER:
        return Judgement(Verdict.FAILED, Rule.JOB_FAILED, since=told.since)
    return told


_fleet_brakes = admission._fleet_brakes


def _braked_without_slow_start(
    ledger: Ledger, unhealthy_at: float, fleet: Fleet, limits: Limits, now: float
) -> Refused | None:
    """Let as many restarts begin at once as may be under way, as if one had nothing to do with the next."""
    return _fleet_brakes(msgspec.structs.replace(ledger, window=limits.in_flight), unhealthy_at, fleet, limits, now)


def put_in(fault: Fault) -> None:
    """Put a fault into this process."""
    match fault:
        case Fault.NO_POD_IS_A_FAILURE:
            verdicts._silent = _failed_without_a_pod
        case Fault.EVERY_SILENCE_FOR_ITSELF:
            admission._is_stormy = lambda *_: False
            admission._exceeds = lambda *_: False
            admission._fleet_brakes = _braked_without_slow_start


if __name__ == "__main__":
    put_in(Fault(sys.argv.pop(1)))
    main()
