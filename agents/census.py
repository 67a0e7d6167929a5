"""What the inventory has learnt of the Jobs, and what it tells the evidence log of them.

Knows nothing of Faust or Kubernetes, so that tests/simulation can drive it: agents/inventory.py lists, watches
and lends it the log. Facts about a Job are written by the worker that owns its evidence partition; at every list
and whenever a partition is assigned a snapshot is written too, in as many records as it needs: what is absent from
it is gone. Of a list that interrupted a watch because a report asked for it, only what it changed is told. A worker
that ends between two of them leaves true what it has told; the worker that comes after it tells all again.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from agents.forwarding import Addressed
from sf_healer.core import evidence, partitioning
from sf_healer.core.facts import JobFact
from sf_healer.core.identity import JobIndex
from sf_healer.core.snapshots import SNAPSHOT_BYTES, Stretch, stretches

#: So many Jobs of a list are taken in before the event loop has its turn: some milliseconds.
JOBS_IN_A_STEP = 1_000

#: Of all Jobs, at every list.
partition_of = lru_cache(maxsize=200_000)(partitioning.partition_of)


class Ports(Protocol):
    """What the census needs of the world."""

    def clock(self) -> float:
        """Tell monotonic seconds."""

    def owned(self) -> set[int]:
        """Name the evidence partitions whose hot state this worker has now."""

    async def append(self, records: Sequence[Addressed]) -> None:
        """Send evidence, in order per partition; returns when the broker has acknowledged all of it."""


class Census:
    """The index as last listed, and which evidence partitions have been told of it."""

    def __init__(self, index: JobIndex, ports: Ports, *, partitions: int, snapshot_bytes: int = SNAPSHOT_BYTES) -> None:
        self.index = index
        self.version = 0  # of the last list
        self._partitions = partitions
        self._ports = ports
        self._snapshot_bytes = snapshot_bytes
        self._told: set[int] = set()
        self._keys: list[set[str]] = [set() for _ in range(partitions)]
        for fact in index.facts():
            self._keys[partition_of(fact.key, partitions)].add(fact.key)
        self._untold: dict[str, JobFact] = {}  # what a list has changed
        self._api_ahead: float | None = None  # the API server's clock less ours, at the latest list

    async def take_listing(
        self,
        facts: Sequence[JobFact],
        version: int,
        *,
        now: float,
        api_at: float = 0.0,
        only_changes: bool = False,
    ) -> None:
        """Take in all Jobs at one list of resourceVersion `version`; `now` in epoch seconds.

        `api_at`: the API server's clock when it answered, epoch seconds; 0 where it did not say. `only_changes`:
        an owner that has been told of the Jobs is told no more than what is new. With very many Jobs others have their
        turn in between; an agent that asks meanwhile is told by the names as far as they are taken in.
        """
        listed: set[str] = set()
        for step in _steps(facts):
            for fact in step:
                known = self.index.get(fact.key)
                self._put(fact, now=now, listed_at=version)
                self._note_change(fact.key, known)
                listed.add(fact.key)
            await asyncio.sleep(0)
        for step in _steps(self.index.facts()):
            self.index.mark_absent(listed, version, now=now, among=step)
            for fact in step:
                self._note_change(fact.key, fact)
            await asyncio.sleep(0)
        self.index.forget_gone(now=now)
        self.version = version
        self._api_ahead = api_at - self._ports.clock() if api_at else None
        if not only_changes:
            self.forget_told()

    def forget_told(self) -> None:
        """Take all partitions for not told: what was sent to them may not have arrived."""
        self._told.clear()
        self._untold.clear()

    async def take_change(self, fact: JobFact, *, now: float) -> None:
        """Take in one change, and tell the Job's evidence partition if it is ours."""
        self._put(fact, now=now)
        if partition_of(fact.key, self._partitions) in self._told:
            await self._ports.append([self._record_of(fact)])

    async def tell_owned(self) -> None:
        """Send all facts and a snapshot to the partitions of ours that have not had them since the last list."""
        owned = self._ports.owned()
        self._told &= owned
        await self._tell_changes()
        for partition in sorted(owned - self._told):
            await self._tell(partition)
            self._told.add(partition)

    async def _tell_changes(self) -> None:
        """Send what a list has changed to those who know the rest; the others will be told all."""
        records = [self._record_of(fact) for fact in self._untold.values()]
        told = [record for record in records if record.partition in self._told]
        if told:
            await self._ports.append(told)
        self._untold.clear()

    async def _tell(self, partition: int) -> None:
        """Send the facts and the snapshot of a partition, stretch by stretch: a list has one version for all of it."""
        version = self.version
        for stretch in stretches(self._facts_of(partition), limit_bytes=self._snapshot_bytes):
            await self._ports.append(self._records_of(stretch, partition, version))

    def _note_change(self, key: str, known: JobFact | None) -> None:
        fact = self.index.get(key)
        if fact is not None and fact != known:
            self._untold[key] = fact

    def _put(self, fact: JobFact, *, now: float, listed_at: int | None = None) -> None:
        if self.index.get(fact.key) is None:
            self._keys[partition_of(fact.key, self._partitions)].add(fact.key)
        if listed_at is None:
            self.index.put(fact, now=now)
        else:
            self.index.put_listed(fact, listed_at, now=now)

    def _facts_of(self, partition: int) -> list[JobFact]:
        """Give the facts of one partition in order of their keys; never a walk through all Jobs."""
        known = ((key, self.index.get(key)) for key in self._keys[partition])
        facts = {key: fact for key, fact in known if fact is not None}
        self._keys[partition] = set(facts)  # without those that the index has forgotten
        return [facts[key] for key in sorted(facts)]

    def _records_of(self, stretch: Stretch, partition: int, version: int) -> list[Addressed]:
        present = tuple((fact.key, fact.uid) for fact in stretch.facts if not self.index.is_gone(fact.key))
        snapshot = evidence.encode(stretch.record(version, present))
        return [*map(self._record_of, stretch.facts), Addressed(partition, snapshot)]

    def _record_of(self, fact: JobFact) -> Addressed:
        api_at = 0.0 if self._api_ahead is None else self._ports.clock() + self._api_ahead
        return Addressed(partition_of(fact.key, self._partitions), evidence.encode(evidence.Fact(fact, api_at)))


def _steps(facts: Sequence[JobFact]) -> Iterator[Sequence[JobFact]]:
    return (facts[first : first + JOBS_IN_A_STEP] for first in range(0, len(facts), JOBS_IN_A_STEP))
