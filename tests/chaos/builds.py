"""`sf-healer` with a known fault put in, for negative controls: `python -m tests.chaos.builds FAULT worker`.

A hypothesis that also holds of such a build says nothing of ours. The faults are put in here, before the worker's
modules are read; the product knows no setting for any of them.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING

from sf_healer.cli import main
from sf_healer.core import forwarder, verdicts
from sf_healer.core.evidence import Mark
from sf_healer.core.state import NEVER
from sf_healer.core.verdicts import Judgement, Rule, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sf_healer.core.policy import Policy
    from sf_healer.core.state import JobState
    from sf_healer.core.watermark import Gaps


class Fault(StrEnum):
    """What is wrong with a build."""

    MARKS_BY_THE_CLOCK = "marks-by-the-clock"
    NO_POD_IS_A_FAILURE = "no-pod-is-a-failure"


class MarksByTheClock(forwarder.Forwarder):
    """Claims that everything up to now is on the log, whatever is still on its way: its clock is all it goes by."""

    _now = 0.0

    def note_ends(self, ends: Mapping[int, int], w: dict[int, float], *, now: float) -> None:
        super().note_ends(ends, w, now=now)
        self._now = self.broker_time(now=now)

    def claims(self, positions: Mapping[int, int], source_partitions: int) -> dict[int, Mark]:
        super().claims(positions, source_partitions)
        sources = tuple((source, self._now) for source in sorted(positions))
        return {number: Mark(self.topic_id, source_partitions, sources) for number in range(self.partitions)}


_silent = verdicts._silent


def _failed_without_a_pod(state: JobState, now: float, policy: Policy, gaps: Gaps) -> Judgement:
    """Take a Job that worked and has no pod for failed, as who does not know of the Job controller's next one does."""
    told = _silent(state, now, policy, gaps)
    if told.rule is Rule.POD_NOT_RUNNING and state.loading_at != NEVER:
        return Judgement(Verdict.FAILED, Rule.JOB_FAILED, since=told.since)
    return told


def put_in(fault: Fault) -> None:
    """Put a fault into this process."""
    match fault:
        case Fault.MARKS_BY_THE_CLOCK:
            forwarder.Forwarder = MarksByTheClock  # type: ignore[misc]  # that is the fault
        case Fault.NO_POD_IS_A_FAILURE:
            verdicts._silent = _failed_without_a_pod


if __name__ == "__main__":
    put_in(Fault(sys.argv.pop(1)))
    main()
