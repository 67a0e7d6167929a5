"""What a Rollout of queue-manager shows, and what that means for restarts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sf_healer.core import rollouts, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.admission import Allowed, Ledger, Reason, Refused, admit
from sf_healer.core.policy import Limits, PolicyError, parse
from sf_healer.core.rollouts import NO_ROLLOUT, DuringRollout, RolloutView, view, why_held
from sf_healer.core.steps import RolloutSeen
from sf_healer.views.admission import build_admission
from sf_healer.views.lines import admission_lines
from sf_healer.views.pages.fleet import _held_back
from tests.core.test_admission import LIMITS, NOW, WELL, a_command

TRIED = RolloutView(progressing=True, phase="Paused")
TAKEN_BACK = RolloutView(aborted_at=NOW - 60.0, phase="Degraded")


def seen(status: object) -> RolloutView:
    return view({"metadata": {"name": "queue-manager"}, "status": status})


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (None, NO_ROLLOUT),
        ({}, NO_ROLLOUT),
        ({"phase": "Healthy", "currentPodHash": "a", "stableRS": "a"}, RolloutView(phase="Healthy")),
        ({"phase": "Progressing", "currentPodHash": "a"}, RolloutView(progressing=True, phase="Progressing")),
        ({"phase": "Paused", "currentPodHash": "b", "stableRS": "a"}, RolloutView(progressing=True, phase="Paused")),
        # A Pod of the only version was evicted: nothing is being tried.
        ({"phase": "Progressing", "currentPodHash": "a", "stableRS": "a"}, RolloutView(phase="Progressing")),
        (
            {"phase": "Degraded", "currentPodHash": "b", "stableRS": "a", "abort": True, "message": "RolloutAborted: m",
             "abortedAt": "1970-01-01T00:16:40Z"},
            RolloutView(aborted_at=1000.0, phase="Degraded", message="RolloutAborted: m"),
        ),
        ({"abort": True, "abortedAt": "soon", "currentPodHash": "b"}, NO_ROLLOUT),
    ],
)  # fmt: skip
def test_what_a_rollout_shows(status, said):
    assert seen(status) == said


def test_what_is_tried_holds_while_it_is_seen_and_what_was_taken_back_for_ten_minutes():
    assert "is being tried (Paused)" in why_held(TRIED, NOW, NOW)
    assert why_held(TRIED, NOW - 60.0, NOW)
    assert not why_held(TRIED, NOW - 61.0, NOW), "nobody looks any more"
    assert "taken back 60 s ago" in why_held(TAKEN_BACK, NOW - 3600.0, NOW)
    assert why_held(TAKEN_BACK, NOW, NOW + 539.0)
    assert not why_held(TAKEN_BACK, NOW, NOW + 540.0)
    assert not why_held(NO_ROLLOUT, NOW, NOW)


def ask(view_: RolloutView, limits: Limits = LIMITS, **more: object) -> Allowed | Refused:
    ledger = Ledger(rollout=view_, rollout_at=NOW)
    return admit(ledger, a_command(**more), WELL, limits, NOW)


@pytest.mark.parametrize("view_", [TRIED, TAKEN_BACK])
def test_restarts_are_held_meanwhile_unless_the_policy_only_warns(view_):
    answer = ask(view_)
    assert isinstance(answer, Refused)
    assert answer.reason is Reason.PLATFORM_ROLLOUT
    assert answer.detail == why_held(view_, NOW, NOW)
    warns = msgspec.structs.replace(LIMITS, platform_rollout=DuringRollout.WARN)
    assert ask(view_, warns) == Allowed()


def test_it_is_worth_asking_again_when_the_time_after_an_abort_is_over():
    assert ask(TAKEN_BACK).retry_after == 540.0
    assert ask(TRIED).retry_after == LIMITS.refused_retry_seconds


def test_the_policy_says_hold_or_warn():
    assert parse("").limits.platform_rollout is DuringRollout.HOLD
    assert parse('[admission]\nplatform_rollout = "warn"\n').limits.platform_rollout is DuringRollout.WARN
    with pytest.raises(PolicyError, match="line 2"):
        parse('[admission]\nplatform_rollout = "ignore"\n')


def test_a_record_of_it_is_read_back_from_the_log_as_it_was_written():
    record = RolloutSeen(view=TAKEN_BACK)
    assert steps.decode(steps.encode(record)) == record
    assert steps.key_of(record) == ""
    assert rollouts.NAME == "queue-manager"


def the_valve(view_: RolloutView, during: DuringRollout = DuringRollout.HOLD) -> dict[str, Any]:
    actuator = Actuator(worker="w", limits=Limits(platform_rollout=during), observe_only=False)
    actuator.apply(RolloutSeen(view=view_), 0, NOW)
    return build_admission(actuator)


@pytest.mark.parametrize(
    ("view_", "during", "told"),
    [
        (TRIED, DuringRollout.HOLD, "a new version of queue-manager is being tried (Paused): restarts are held"),
        (
            TRIED,
            DuringRollout.WARN,
            "a new version of queue-manager is being tried (Paused): a warning, nothing is held",
        ),
        (TAKEN_BACK, DuringRollout.HOLD, "a new version of queue-manager was taken back 60 s ago: restarts are held"),
        (RolloutView(phase="Healthy"), DuringRollout.HOLD, "Healthy"),
    ],
)  # fmt: skip
def test_the_fleet_tells_of_it(view_, during, told):
    assert dict(admission_lines(the_valve(view_, during), wide=False))["  rollout of queue-manager"] == told


def test_without_a_rollout_and_of_an_older_worker_the_fleet_tells_nothing_of_it():
    valve = build_admission(Actuator(worker="w", limits=Limits(), observe_only=False))
    assert valve["rollout"] is None
    del valve["rollout"]
    assert "  rollout of queue-manager" not in dict(admission_lines(valve, wide=False))
    assert not list(_held_back(valve))


def test_on_the_dashboard_it_cannot_be_overlooked():
    assert list(_held_back(the_valve(TRIED))) == ["a new version of queue-manager is being tried (Paused)"]
    assert list(_held_back(the_valve(RolloutView(phase="Healthy")))) == []
