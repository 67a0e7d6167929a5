"""Looks for what an engine wishes for, and fills it in; what was picked for one engine may be wanted for the next."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sf_healer.adapters.cluster import NO_ANSWER, ApiFailure, Cluster, Failure
from sf_healer.chaos.picking import Candidate, PickError, Wanted, Wish, choose, filled, wish_of
from sf_healer.core.facts import Condition, PodState

T = TypeVar("T")

_RUNNING = "Running"
#: Failures that pass by themselves.
PASSING = NO_ANSWER | {Failure.SERVER, Failure.THROTTLED}


class Targets:
    """Picks by a seed. `connect` gives the client for a namespace as the engine calls it."""

    def __init__(self, connect: Callable[[str], Cluster], seed: int) -> None:
        self._connect = connect
        self._known: dict[str, Cluster] = {}
        self._chance = random.Random(seed)  # noqa: S311  a choice, no secret
        self._same: dict[str, Candidate] = {}

    def at(self, namespace: str) -> Cluster:
        """Give the client for a namespace, one for each."""
        if namespace not in self._known:
            self._known[namespace] = self._connect(namespace)
        return self._known[namespace]

    def fill(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Pick for an engine and fill it in; raises PickError, and ConnectionError if nobody answers."""
        moment = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
        wish = wish_of(document["metadata"].get("annotations", {}))
        return filled(document, self._picked(wish), run=moment)

    def _picked(self, wish: Wish) -> tuple[Candidate, ...]:
        if wish.wanted is Wanted.NONE:
            return ()
        if before := self._same.get(wish.same_as):
            return (Candidate(self._pod_of(wish.namespace, before.job), before.job, before.uid),)
        picked = choose(wish, self._candidates(wish), self._chance)
        if wish.same_as:
            self._same[wish.same_as] = picked[0]
        return picked

    def _candidates(self, wish: Wish) -> list[Candidate]:
        at = self.at(wish.namespace)
        if wish.wanted is Wanted.POD:
            pods = or_raise(at.list_pods(wish.labels), PickError)
            return [Candidate(pod.name) for pod in pods if pod.phase == _RUNNING and not pod.deleting]
        jobs = [
            fact
            for fact in or_raise(at.list_jobs(), PickError).facts
            if fact.condition is Condition.ACTIVE and fact.pod is PodState.RUNNING and not fact.skip
        ]
        found = [(fact.key.partition("/")[2], fact.uid) for fact in jobs]
        return [Candidate(pod, name, uid) for name, uid in found for pod in self._pods_of(wish.namespace, name, uid)]

    def _pod_of(self, namespace: str, job: str) -> str:
        facts = or_raise(self.at(namespace).list_jobs(), PickError).facts
        for uid in (fact.uid for fact in facts if fact.key.endswith(f"/{job}")):
            for pod in self._pods_of(namespace, job, uid):
                return pod
        raise PickError(f"{namespace}/{job} has no Pod that runs")

    def _pods_of(self, namespace: str, job: str, uid: str) -> list[str]:
        at = self.at(namespace)
        pods = or_raise(at.pods_of(at.namespace, job, uid), PickError)
        return [pod.name for pod in pods if pod.phase == _RUNNING and not pod.deleting]


def or_raise(answer: T | ApiFailure, refused: Callable[[str], Exception]) -> T:
    """Give what the API gave; raises ConnectionError for a failure that passes by itself, else what `refused` makes."""
    if not isinstance(answer, ApiFailure):
        return answer
    if answer.kind in PASSING:
        raise ConnectionError(answer.message)
    raise refused(answer.message)
