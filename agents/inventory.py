"""Which Jobs there are: the list and watch behind agents/census.py, which says what is told of them.

Every worker lists and watches all Jobs of the namespace for its index.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from weakref import WeakSet

import msgspec
import structlog
from aiokafka.errors import KafkaError

from agents import topics
from agents.census import Census
from agents.forwarding import Addressed, Looked
from agents.looking import Looks
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import ApiFailure, Change, Cluster, Listing
from sf_healer.adapters.threads import in_thread
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import steps
from sf_healer.core.commands import Command
from sf_healer.core.events import Report
from sf_healer.core.facts import Condition, JobFact
from sf_healer.core.groups import neighbours_of
from sf_healer.core.identity import ConventionIndex, JobIndex
from sf_healer.core.partition import Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.policy import PolicyBook
from sf_healer.core.steps import Seen
from sf_healer.settings import Identity
from tables.jobs import JOBS_IN_A_STEP, hot

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 30.0

names: JobIndex | ConventionIndex = (
    JobIndex() if settings.identity is Identity.CLUSTER else ConventionIndex(settings.namespace)
)
#: Set when reports can be named: after the first list.
first_list = asyncio.Event()

#: Hot states whose Jobs the names were told of; one that is rebuilt is another.
_remembered: WeakSet[Partition] = WeakSet()
_remembering = asyncio.Lock()


class _Faust:
    """The ports of the census on this app's topics and table."""

    def clock(self) -> float:
        return time.monotonic()

    def owned(self) -> set[int]:
        return set(hot)

    async def append(self, records: Sequence[Addressed]) -> None:
        await acknowledged(Outgoing(topics.evidence_log, record.value, record.partition) for record in records)


class _Inventory:
    """Lists and watches, and tells the census."""

    def __init__(self, index: JobIndex) -> None:
        self.census = Census(index, _Faust(), partitions=settings.partitions)
        self.looks = Looks(index, clock=time.monotonic, wake=self._stop_watching)
        self.stop_watching = threading.Event()
        #: Why the last list failed; None if it did not.
        self.problem: str | None = None
        self._reports_wait = False  # for lists that fail, and this has been said

    def _stop_watching(self) -> None:
        self.stop_watching.set()

    async def run(self, cluster: Cluster) -> None:
        """List, tell, watch; begin again when the watch ends."""
        pause, is_asked_for = RETRY_SECONDS, False
        while not app.should_stop:
            self.looks.begin()
            listing = await in_thread(lambda: _list(cluster))
            if isinstance(listing, ApiFailure):
                self.problem = f"the Jobs of namespace {settings.namespace} cannot be listed: {listing.message}"
                metrics.CLUSTER_FAILURES.labels(kind=listing.kind).inc()
                log.warning("list_failed", kind=listing.kind, error=listing.message, retry_seconds=pause)
                self._say_that_reports_wait(listing)
                self.looks.failed()
                await app.sleep(listing.retry_after_seconds or pause)
                pause, is_asked_for = min(pause * 2, LONGEST_RETRY_SECONDS), False
                continue
            self.problem, pause = None, RETRY_SECONDS
            await self._take_listing(listing, only_changes=is_asked_for)
            is_asked_for = await self._follow(cluster, listing)

    async def _take_listing(self, listing: Listing, *, only_changes: bool) -> None:
        version = int(listing.jobs_version or 0)
        await self.census.take_listing(
            listing.facts, version, now=time.time(), api_at=listing.api_at, only_changes=only_changes
        )
        first_list.set()
        self.looks.listed()
        log.info("jobs_listed", jobs=len(listing.facts), version=self.census.version)
        if self._reports_wait:
            self._reports_wait = False
            log.info("reports_go_on")

    def _say_that_reports_wait(self, failure: ApiFailure) -> None:
        if self.looks.waiting and not self._reports_wait:
            self._reports_wait = True
            log.warning("reports_wait", partitions=self.looks.waiting, kind=failure.kind, error=failure.message)

    async def _follow(self, cluster: Cluster, listing: Listing) -> bool:
        """Put every change on the log until the watch breaks, or a report asks for a fresh list: then True."""
        is_asked_for = False
        self.stop_watching = stop = threading.Event()
        changes: asyncio.Queue[Change | ApiFailure | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        reader = asyncio.create_task(in_thread(lambda: _read(cluster.watch(listing, stop), changes, loop)))
        try:
            while not app.should_stop:
                await self.census.tell_owned()
                self.census.index.forget_gone(now=time.time())
                if is_asked_for := self.looks.is_due():
                    break
                change = await _next(changes, settings.mark_interval_seconds)
                if isinstance(change, ApiFailure):
                    # A list tells what was missed, and whether the cluster answers at all.
                    metrics.CLUSTER_FAILURES.labels(kind=change.kind).inc()
                    log.info("watch_broken", kind=change.kind, error=change.message)
                    await app.sleep(RETRY_SECONDS)  # one that breaks at once must not list without a pause
                    break
                if change is not None:
                    await self.census.take_change(change.fact, now=time.time())
                    await self._tell_actuator(change.fact)
                elif reader.done():
                    break
        finally:
            stop.set()
        await reader
        return is_asked_for

    @staticmethod
    async def _tell_actuator(fact: JobFact) -> None:
        """Put on the steps log what became of a Job that we created, and that a Job has gone.

        A create must never be repeated blindly, and a restart that waits for its old Job to go looks at once.
        """
        is_news = fact.action_id or fact.condition is Condition.GONE
        if is_news and partition_of(fact.key, settings.partitions) in hot:
            await acknowledged([Outgoing(topics.steps_of_detector, steps.encode(Seen(fact=fact)), partition=0)])


_inventory = _Inventory(names) if isinstance(names, JobIndex) else None


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def follow_cluster() -> None:
    """Keep the index and the facts on the log as the cluster is."""
    if _inventory is None:
        first_list.set()  # identity = convention: reports name their Jobs themselves
        return
    cluster = await in_thread(lambda: Cluster.connect(namespace=settings.namespace, kubeconfig=settings.kubeconfig))
    while not app.should_stop:
        try:
            await _inventory.run(cluster)
        except KafkaError as error:
            log.warning("facts_not_sent", error=str(error) or type(error).__name__)
            _inventory.census.forget_told()
            await app.sleep(RETRY_SECONDS)


async def look_again(reports: Sequence[Report]) -> Looked:
    """Wait for a fresh list of the Jobs, for nobody knows whom these reports name; says whether there was one."""
    if _inventory is None:
        return Looked.LISTED
    with metrics.SOURCE_PARTITIONS_WAITING.track_inprogress():
        looked = await _inventory.looks.look(reports)
    if looked is Looked.AWAY:
        metrics.LOOKS_FAILED.inc()
    return looked


def reports_wait() -> bool:
    """Return whether reports wait for a list of the Jobs, as all do for the first."""
    return not first_list.is_set() or (_inventory is not None and _inventory.looks.waiting > 0)


def tell_again() -> None:
    """Tell our evidence partitions all that is known of their Jobs once more: what one was told is lost."""
    if _inventory is not None:
        _inventory.census.forget_told()


def problems() -> list[str]:
    """Say why the Jobs are not known as they are now; nothing when they are."""
    if not first_list.is_set():
        return ["the Jobs of the cluster have not been listed yet"]
    if _inventory is None or _inventory.problem is None:
        return []
    waits = "; reports that name a Job nobody knows wait for that, and all verdicts" if reports_wait() else ""
    return [_inventory.problem + waits]


def take_assumed() -> list[JobFact]:
    """Hand out the facts made up for Jobs that reports named, with `identity = convention`."""
    return names.take_new() if isinstance(names, ConventionIndex) else []


def with_neighbours(command: Command, policies: PolicyBook) -> Command:
    """Say in a consumer's command where the other Jobs of its queue run: whose a consumer group is, that may tell."""
    if not command.consumer or not isinstance(names, JobIndex) or not first_list.is_set():
        return command
    queue = names.of_queue(command.queue_id)
    neighbours = neighbours_of(command.key, queue, lambda fact: policies.for_job(fact).consumer)
    return msgspec.structs.replace(command, neighbours=neighbours)


async def remember_stored() -> None:
    """Have the names of the Jobs of our partitions known that the table holds, with `identity = convention`.

    Otherwise a worker that starts would take a report that lacks a name for one of a new Job, and call the old one
    silent.
    """
    if not isinstance(names, ConventionIndex):
        return
    for partition in [each for each in hot.values() if each not in _remembered]:
        async with _remembering:
            if partition in _remembered:
                continue
            keys = iter(partition.jobs)
            while step := list(islice(keys, JOBS_IN_A_STEP)):
                for fact in map(partition.jobs.fact_of, step):
                    if fact is not None:
                        names.remember(fact)
                await asyncio.sleep(0)
            _remembered.add(partition)


def _list(cluster: Cluster) -> Listing | ApiFailure:
    """List the Jobs, and read the server's clock as well as can be: an `error` counts that much later (core/state)."""
    listing = cluster.list_jobs()
    if isinstance(listing, ApiFailure):
        return listing
    return msgspec.structs.replace(listing, api_at=cluster.server_time() or listing.api_at)


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
        async with asyncio.timeout(seconds):
            return await changes.get()
    except TimeoutError:
        return None
