"""What is put on the steps log of queue-manager's Rollout: what is new, and what goes on."""

from __future__ import annotations

import pytest

from agents import rollout
from sf_healer.adapters.cluster import ApiFailure, Failure
from sf_healer.core.actuator import Actuator
from sf_healer.core.policy import Limits
from sf_healer.core.rollouts import NO_ROLLOUT, RolloutView
from sf_healer.core.steps import RolloutSeen, Tick

TRIED = {"status": {"phase": "Paused", "currentPodHash": "b", "stableRS": "a"}}
HEALTHY = {"status": {"phase": "Healthy", "currentPodHash": "b", "stableRS": "b"}}


class Cluster:
    """Answers with what the test puts in."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def read_object(self, kind: object, name: str) -> object:
        assert (kind, name) == (rollout.ROLLOUTS, "queue-manager")
        return self.answer


class Log:
    """The steps log and its fold."""

    def __init__(self) -> None:
        self.actuator = Actuator(worker="w", limits=Limits(), observe_only=False)
        self.told: list[RolloutView] = []
        self._offset = 0

    async def append(self, records) -> None:
        for record in records:
            self.told.append(record.view)
            self.apply(record, self.actuator.now)

    def apply(self, record, at: float) -> None:
        self._offset += 1
        self.actuator.apply(record, self._offset, at)


def failure(kind: Failure) -> ApiFailure:
    return ApiFailure(kind, 0, "no")


async def test_it_is_told_when_it_changes_and_again_while_it_goes_on():
    log, cluster = Log(), Cluster(HEALTHY)
    log.apply(Tick(worker="w"), 1000.0)
    await rollout.tell(log.actuator, cluster, log.append)
    await rollout.tell(log.actuator, cluster, log.append)
    assert [each.phase for each in log.told] == ["Healthy"]
    cluster.answer = TRIED
    for at in (1010.0, 1020.0, 1030.0, 1040.0):
        log.apply(Tick(worker="w"), at)
        await rollout.tell(log.actuator, cluster, log.append)
    assert [each.phase for each in log.told] == ["Healthy", "Paused", "Paused"]
    assert log.actuator.ledger.rollout_at == 1030.0


@pytest.mark.parametrize("kind", [Failure.NOT_FOUND, Failure.FORBIDDEN])
async def test_without_a_rollout_or_the_right_to_look_nothing_is_written_and_nothing_held(kind: Failure):
    log = Log()
    await rollout.tell(log.actuator, Cluster(failure(kind)), log.append)
    assert log.told == []
    assert log.actuator.ledger.rollout == NO_ROLLOUT


@pytest.mark.parametrize("kind", [Failure.TIMEOUT, Failure.UNREACHABLE, Failure.SERVER])
async def test_an_api_server_that_does_not_answer_changes_nothing(kind: Failure):
    log = Log()
    log.apply(RolloutSeen(view=RolloutView(progressing=True, phase="Paused")), 1000.0)
    await rollout.tell(log.actuator, Cluster(failure(kind)), log.append)
    assert log.told == []
    assert log.actuator.ledger.rollout.progressing


async def test_a_rollout_that_was_deleted_is_forgotten():
    log = Log()
    log.apply(RolloutSeen(view=RolloutView(progressing=True, phase="Paused")), 1000.0)
    await rollout.tell(log.actuator, Cluster(failure(Failure.NOT_FOUND)), log.append)
    assert log.told == [NO_ROLLOUT]


async def test_what_was_seen_survives_a_change_of_the_worker():
    log = Log()
    log.apply(RolloutSeen(view=RolloutView(progressing=True, phase="Paused")), 1000.0)
    effects = log.actuator.apply(RolloutSeen(view=RolloutView(progressing=True, phase="Progressing")), 99, 1001.0)
    other = Actuator(worker="v", limits=Limits(), observe_only=False)
    other.restore([effects.write])
    assert other.ledger.rollout.phase == "Progressing"
    assert other.ledger.rollout_at == 1001.0
