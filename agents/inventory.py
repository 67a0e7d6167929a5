"""Which Jobs there are: the index that names reports, and facts about Jobs on the evidence log.

Every worker lists and watches all Jobs of the namespace for its index; facts about a Job are written by the
worker that owns its evidence partition. At every list and whenever a partition is assigned it writes a snapshot
too: what is absent from it is gone.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator

import structlog
from aiokafka.errors import KafkaError

from agents import topics
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import ApiFailure, Change, Cluster, Listing
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import evidence
from sf_healer.core.facts import JobFact
from sf_healer.core.identity import ConventionIndex, JobIndex
from sf_healer.core.partitioning import partition_of
from sf_healer.settings import Identity
from tables.jobs import hot

log = structlog.get_logger(__name__)

#: An unknown name asks for a fresh list at most this often, and waits for it at most that long.
LOOK_AGAIN_EVERY_SECONDS = 10.0
LOOK_AGAIN_LIMIT_SECONDS = 5.0
RETRY_SECONDS = 2.0

names: JobIndex | ConventionIndex = (
    JobIndex() if settings.identity is Identity.CLUSTER else ConventionIndex(settings.namespace)
)
#: Set when reports can be named: after the first list.
first_list = asyncio.Event()


class _Inventory:
    """The index as last listed, and which evidence partitions have been told of it."""

    def __init__(self, index: JobIndex) -> None:
        self.index = index
        self.version = 0
        self.told: set[int] = set()
        self.asked_at = float("-inf")
        self.listing_done = asyncio.Event()
        self.stop_watching = threading.Event()

    async def run(self, cluster: Cluster) -> None:
        """List, tell, watch; begin again when the watch ends."""
        while not app.should_stop:
            listing = await asyncio.to_thread(cluster.list_jobs)
            if isinstance(listing, ApiFailure):
                metrics.CLUSTER_FAILURES.labels(kind=listing.kind).inc()
                log.warning("list_failed", kind=listing.kind, error=listing.message)
                await app.sleep(listing.retry_after_seconds or RETRY_SECONDS)
                continue
            self._take_listing(listing)
            await self._follow(cluster, listing)

    def _take_listing(self, listing: Listing) -> None:
        now = time.time()
        self.version = int(listing.jobs_version or 0)
        listed = {fact.key for fact in listing.facts}
        for fact in listing.facts:
            self.index.put(fact, now=now)
        self.index.mark_absent(listed, self.version, now=now)
        self.index.forget_gone(now=now)
        self.told.clear()
        first_list.set()
        self.listing_done.set()
        log.info("jobs_listed", jobs=len(listing.facts), version=self.version)

    async def _follow(self, cluster: Cluster, listing: Listing) -> None:
        """Put every change on the log until the watch ends or somebody asks for a fresh list."""
        self.stop_watching = threading.Event()
        changes: asyncio.Queue[Change | ApiFailure | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        reader = asyncio.create_task(
            asyncio.to_thread(_read, cluster.watch(listing, self.stop_watching), changes, loop)
        )
        try:
            while not app.should_stop:
                await self._tell_owned()
                change = await _next(changes, settings.mark_interval_seconds)
                if isinstance(change, ApiFailure):
                    metrics.CLUSTER_FAILURES.labels(kind=change.kind).inc()
                    log.info("watch_broken", kind=change.kind, error=change.message)
                elif change is not None:
                    await self._take_change(change.fact)
                elif reader.done():
                    return
        finally:
            self.stop_watching.set()
            await reader

    async def _take_change(self, fact: JobFact) -> None:
        self.index.put(fact, now=time.time())
        if partition_of(fact.key, settings.partitions) in self.told:
            await acknowledged([fact_record(fact)])

    async def _tell_owned(self) -> None:
        """Send all facts and a snapshot to the partitions of ours that have not had them since the last list."""
        owned = set(hot)
        self.told &= owned
        for partition in sorted(owned - self.told):
            await acknowledged(self._snapshot_of(partition))
            self.told.add(partition)

    def _snapshot_of(self, partition: int) -> Iterable[Outgoing]:
        facts = [fact for fact in self.index.facts() if partition_of(fact.key, settings.partitions) == partition]
        present = tuple((fact.key, fact.uid) for fact in facts if not self.index.is_gone(fact.key))
        yield from (fact_record(fact) for fact in facts)
        yield Outgoing(topics.evidence_log, evidence.encode(evidence.Snapshot(self.version, present)), partition)


_inventory = _Inventory(names) if isinstance(names, JobIndex) else None


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def follow_cluster() -> None:
    """Keep the index and the facts on the log as the cluster is."""
    if _inventory is None:
        first_list.set()  # identity = convention: reports name their Jobs themselves
        return
    cluster = await asyncio.to_thread(Cluster.connect, namespace=settings.namespace, kubeconfig=settings.kubeconfig)
    while not app.should_stop:
        try:
            await _inventory.run(cluster)
        except KafkaError as error:
            log.warning("facts_not_sent", error=str(error) or type(error).__name__)
            _inventory.told.clear()
            await app.sleep(RETRY_SECONDS)


async def look_again() -> bool:
    """Ask for one fresh list because a report named nobody we know; returns whether there was one.

    At most one in LOOK_AGAIN_EVERY_SECONDS: a stranger that reports all day must not list all day.
    """
    if _inventory is None or time.monotonic() - _inventory.asked_at < LOOK_AGAIN_EVERY_SECONDS:
        return False
    _inventory.asked_at = time.monotonic()
    _inventory.listing_done.clear()
    _inventory.stop_watching.set()
    try:
        await asyncio.wait_for(_inventory.listing_done.wait(), LOOK_AGAIN_LIMIT_SECONDS)
    except TimeoutError:
        return False
    return True


def take_assumed() -> list[JobFact]:
    """Hand out the facts made up for Jobs that reports named, with `identity = convention`."""
    return names.take_new() if isinstance(names, ConventionIndex) else []


def fact_record(fact: JobFact) -> Outgoing:
    """Address a fact to the evidence partition of its Job."""
    return Outgoing(
        topics.evidence_log,
        evidence.encode(evidence.Fact(fact)),
        partition_of(fact.key, settings.partitions),
    )


def _read(
    watch: Iterator[Change | ApiFailure],
    changes: "asyncio.Queue[Change | ApiFailure | None]",
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Carry changes from the watching thread to the event loop."""
    for change in watch:
        loop.call_soon_threadsafe(changes.put_nowait, change)
    loop.call_soon_threadsafe(changes.put_nowait, None)


async def _next(changes: "asyncio.Queue[Change | ApiFailure | None]", seconds: float) -> Change | ApiFailure | None:
    try:
        return await asyncio.wait_for(changes.get(), seconds)
    except TimeoutError:
        return None
