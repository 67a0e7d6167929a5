"""Back-test: how the decisions of one policy differ from those of another over the same capture.

Pure: sf_healer/replay.py makes the decisions.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from enum import StrEnum

import msgspec

from sf_healer.replay import Decision, percentile


class Change(StrEnum):
    """How a decision differs."""

    ADDED = "added"  # only the new policy decides so
    GONE = "gone"  # only the old one does
    MOVED = "moved"  # both do, at another time


class Difference(msgspec.Struct, frozen=True):
    """One decision that is not the same; `seconds` is by how much the new one comes later (negative: earlier)."""

    change: Change
    job: str
    new: Decision | None
    old: Decision | None
    seconds: float = 0.0

    @property
    def at(self) -> float:
        """When it falls, by the new policy where that decides so."""
        decision = self.new or self.old
        assert decision is not None
        return decision.at


class Restarts(msgspec.Struct, frozen=True):
    """How many Jobs only one of two policies restarts, how many both, and by how much the new one does that later."""

    more: int
    fewer: int
    both: int
    earlier: int  # of `both`
    later: int
    median_seconds: float  # of `both`, to the first restart of each; negative: earlier, 0.0 where there is none


def restarts(new: Iterable[Decision], old: Iterable[Decision]) -> Restarts:
    """Compare the Jobs that are restarted at all."""
    now, then = _first_restarts(new), _first_restarts(old)
    both = now.keys() & then.keys()
    moved = [round(now[job] - then[job], 3) for job in both]
    return Restarts(
        more=len(now) - len(both),
        fewer=len(then) - len(both),
        both=len(both),
        earlier=sum(seconds < 0 for seconds in moved),
        later=sum(seconds > 0 for seconds in moved),
        median_seconds=percentile(moved, 0.5) if moved else 0.0,
    )


def _first_restarts(decisions: Iterable[Decision]) -> dict[str, float]:
    first: dict[str, float] = {}
    for decision in decisions:
        if decision.decision == "restart":
            first.setdefault(decision.job, decision.at)
    return first


def differences(new: Iterable[Decision], old: Iterable[Decision]) -> list[Difference]:
    """Give the decisions that differ, in order of time; equal ones in the same order of a Job are one decision."""
    by_job: dict[str, tuple[list[Decision], list[Decision]]] = {}
    for which, decisions in enumerate((new, old)):
        for decision in decisions:
            by_job.setdefault(decision.job, ([], []))[which].append(decision)
    found = [each for job, (now, then) in by_job.items() for each in _of_job(job, now, then)]
    return sorted(found, key=lambda each: (each.at, each.job, each.change))


def _of_job(job: str, new: list[Decision], old: list[Decision]) -> Iterable[Difference]:
    same = SequenceMatcher(None, [_kind(each) for each in old], [_kind(each) for each in new], autojunk=False)
    for tag, old_from, old_to, new_from, new_to in same.get_opcodes():
        if tag == "equal":
            for then, now in zip(old[old_from:old_to], new[new_from:new_to], strict=True):
                if then.at != now.at:
                    yield Difference(Change.MOVED, job, now, then, round(now.at - then.at, 3))
            continue
        yield from (Difference(Change.GONE, job, None, then) for then in old[old_from:old_to])
        yield from (Difference(Change.ADDED, job, now, None) for now in new[new_from:new_to])


def _kind(decision: Decision) -> tuple[str, str, str]:
    return decision.verdict, decision.decision, decision.reason
