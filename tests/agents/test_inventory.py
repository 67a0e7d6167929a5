"""Which Jobs there are: a snapshot at assignment and at every list, facts only to the partitions that are ours."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
import structlog
from aiokafka.errors import NotEnoughReplicasError

from agents import inventory, looking
from agents.forwarding import Looked
from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import ApiFailure, Change, Failure, Listing
from sf_healer.app import settings
from sf_healer.core import steps
from sf_healer.core.commands import Command, Grounds
from sf_healer.core.events import Kind, Report
from sf_healer.core.evidence import Fact, Snapshot, SnapshotPart, decode, encode
from sf_healer.core.facts import JobFact, gone
from sf_healer.core.groups import Neighbours
from sf_healer.core.identity import REMEMBER_GONE_SECONDS
from sf_healer.core.partitioning import partition_of
from sf_healer.topics import EVIDENCE, STEPS
from tables import policies
from tables.jobs import hot
from tests.agents.recording import BROKER_EPOCH, WAIT_SECONDS, edges, key_on
from tests.core.strategies import a_fact
from tests.lab.waiting import until_async

OURS, THEIRS = 1, 4


class ScriptedCluster:
    """In the place of the API server: what a list gives, and a watch that brings what the test puts into it."""

    def __init__(self, *jobs: JobFact) -> None:
        self.jobs = list(jobs)
        self.version = 100
        self.api_at = 0.0
        self.listings = self.asked = 0
        self.may_list = threading.Event()
        self.may_list.set()
        self.failures: list[ApiFailure] = []
        self.watches: list[threading.Event] = []
        self._changes: list[Change | ApiFailure] = []
        self._news = threading.Condition()

    def list_jobs(self) -> Listing | ApiFailure:
        self.asked += 1
        self.may_list.wait(WAIT_SECONDS)
        if self.failures:
            return self.failures.pop(0)
        self.listings += 1
        version = str(self.version)
        return Listing(tuple(self.jobs), version, version, BROKER_EPOCH, api_at=self.api_at)

    def server_time(self) -> float:
        return self.api_at

    def tell(self, *changes: Change | ApiFailure) -> None:
        with self._news:
            self._changes += changes
            self._news.notify_all()

    def watch(self, _listing: Listing, stop: threading.Event) -> Iterator[Change | ApiFailure]:
        self.watches.append(stop)
        while not stop.is_set():
            with self._news:
                self._news.wait_for(lambda: self._changes, timeout=0.02)
                change = self._changes.pop(0) if self._changes else None
            if change is not None:
                yield change
            if isinstance(change, ApiFailure):
                return


@pytest.fixture
def edge(monkeypatch):
    monkeypatch.setattr(inventory, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(looking, "LOOK_AGAIN_EVERY_SECONDS", 0.1)
    with edges() as around:
        monkeypatch.setattr(inventory, "_inventory", inventory._Inventory(around.names))
        yield around


@pytest.fixture
def logged():
    with structlog.testing.capture_logs() as entries:
        yield entries


def looks_failed() -> float:
    return metrics.LOOKS_FAILED.collect()[0].samples[0].value


async def look_again(partition: int) -> Looked:
    """Ask for the Job of a partition as a report of it does."""
    known = job(partition)
    return await inventory.look_again([Report(Kind.LOADING, known.producer_id, known.queue_id)])


@pytest.fixture
async def following(edge):
    """Follow a cluster until the test is over."""
    tasks: list[tuple[asyncio.Task[None], ScriptedCluster]] = []

    def follow(cluster: ScriptedCluster) -> ScriptedCluster:
        tasks.append((asyncio.create_task(inventory._inventory.run(cluster)), cluster))
        return cluster

    yield follow
    for task, _ in tasks:
        inventory._inventory.stop_watching.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def job(partition: int, **changes: object) -> JobFact:
    key = key_on(partition)
    return a_fact(key, **{"uid": f"uid-{key}", "producer_id": f"{key}__x", **changes})


def facts(edge) -> list[tuple[int, JobFact]]:
    return [(partition, entry.fact) for partition, entry in edge.producer.evidence() if isinstance(entry, Fact)]


def snapshots(edge) -> list[tuple[int, Snapshot]]:
    return [(partition, entry) for partition, entry in edge.producer.evidence() if isinstance(entry, Snapshot)]


async def until_snapshots(edge, count: int) -> None:
    async def are_there() -> bool:
        return len(snapshots(edge)) >= count

    await until_async(are_there, f"{count} snapshots", seconds=WAIT_SECONDS)


async def until_facts(edge, count: int) -> None:
    async def are_there() -> bool:
        return len(facts(edge)) >= count

    await until_async(are_there, f"{count} facts", seconds=WAIT_SECONDS)


async def test_the_first_list_lets_reports_be_named_and_names_all_jobs(edge, following):
    following(ScriptedCluster(job(OURS), job(THEIRS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    assert {fact.key for fact in edge.names.facts()} == {key_on(OURS), key_on(THEIRS)}


async def test_a_partition_of_ours_is_told_its_jobs_and_then_all_uids_there_are(edge, following):
    edge.own(OURS)
    following(ScriptedCluster(job(OURS), job(THEIRS)))
    await until_snapshots(edge, 1)
    assert facts(edge) == [(OURS, job(OURS))]
    assert snapshots(edge) == [(OURS, Snapshot(100, ((key_on(OURS), f"uid-{key_on(OURS)}"),)))]
    assert isinstance(edge.producer.evidence()[-1][1], Snapshot), "the snapshot comes after the facts"


async def test_a_partition_of_more_jobs_than_one_record_can_name_is_told_all_of_them(edge, following):
    edge.own(OURS)
    names = (f"stf/{'long-' * 40}{number}" for number in itertools.count())
    ours = itertools.islice((key for key in names if partition_of(key, settings.partitions) == OURS), 5_000)
    jobs = [a_fact(key, uid=f"uid-{key}") for key in ours]
    following(ScriptedCluster(*jobs))

    async def are_told() -> bool:
        return OURS in inventory._inventory.census._told

    await until_async(are_told, "the partition to be told", seconds=WAIT_SECONDS)
    parts = [entry for _, entry in edge.producer.evidence() if isinstance(entry, SnapshotPart)]
    assert [key for part in parts for key, _ in part.jobs] == sorted(job.key for job in jobs)
    assert all(len(encode(part)) <= edge.producer.max_request_size / 2 for part in parts)


async def test_a_partition_is_told_only_when_the_broker_has_every_part_of_its_snapshot(edge, following, monkeypatch):
    monkeypatch.setattr(inventory._inventory.census, "_snapshot_bytes", 200)
    edge.own(OURS)
    keys = (key for key in (f"stf/job-{number}" for number in itertools.count()))
    ours = list(itertools.islice((key for key in keys if partition_of(key, settings.partitions) == OURS), 20))
    refusals = [NotEnoughReplicasError()]

    def refuse(record):
        entry = decode(record.value)
        last = isinstance(entry, SnapshotPart) and entry.up_to is None
        return refusals.pop() if last and refusals else None

    edge.producer.refuse = refuse
    cluster = ScriptedCluster(*(a_fact(key, uid=f"uid-{key}") for key in ours))
    monkeypatch.setattr(inventory.Cluster, "connect", lambda **_: cluster)
    task = asyncio.create_task(inventory.follow_cluster())
    try:

        async def are_told() -> bool:
            return OURS in inventory._inventory.census._told

        await until_async(are_told, "the partition to be told", seconds=WAIT_SECONDS)
        first = [part.after for _, part in edge.producer.evidence() if isinstance(part, SnapshotPart)].count(None)
        assert (refusals, first, cluster.listings) == ([], 2, 2), "all of it is told again"
    finally:
        inventory._inventory.stop_watching.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_partition_assigned_later_is_told_then(edge, following):
    following(ScriptedCluster(job(OURS), job(THEIRS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    edge.own(THEIRS)
    await until_snapshots(edge, 1)
    assert [partition for partition, _ in snapshots(edge)] == [THEIRS]
    assert facts(edge) == [(THEIRS, job(THEIRS))]


async def test_a_partition_that_left_and_came_back_is_told_again(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS)))
    await until_snapshots(edge, 1)
    del hot[OURS]
    cluster.tell(Change(job(THEIRS)))  # something to take notice by

    async def is_forgotten() -> bool:
        return OURS not in inventory._inventory.census._told

    await until_async(is_forgotten, "the partition to be forgotten", seconds=WAIT_SECONDS)
    edge.own(OURS)
    await until_snapshots(edge, 2)


async def test_a_change_is_told_to_its_partition_only_if_that_is_ours(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS), job(THEIRS)))
    await until_snapshots(edge, 1)
    changed = job(OURS, resource_version=500, attempt=1)
    cluster.tell(Change(job(THEIRS, resource_version=499)), Change(changed))
    await until_facts(edge, 2)
    assert facts(edge)[1:] == [(OURS, changed)]
    assert edge.names.get(key_on(THEIRS)).resource_version == 499, "every worker's index has it"


async def test_a_fact_says_what_the_clock_of_the_api_server_shows_when_it_is_told(edge, following, monkeypatch):
    clock = {"now": 1000.0}
    monkeypatch.setattr(inventory._inventory.census._ports, "clock", lambda: clock["now"], raising=False)
    edge.own(OURS)
    cluster = ScriptedCluster(job(OURS))
    cluster.api_at = BROKER_EPOCH - 60
    following(cluster)
    await until_facts(edge, 1)
    clock["now"] = 1007.0
    cluster.tell(Change(job(OURS, resource_version=500)))
    await until_facts(edge, 2)
    told = [entry.api_at for _, entry in edge.producer.evidence() if isinstance(entry, Fact)]
    assert told == [BROKER_EPOCH - 60, BROKER_EPOCH - 53]


async def test_a_job_that_is_gone_is_told_and_left_out_of_the_next_snapshot(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS)))
    await until_snapshots(edge, 1)
    cluster.jobs, cluster.version = [], 600
    cluster.tell(Change(gone(job(OURS), 550)), ApiFailure(Failure.GONE, 410, "too old"))
    await until_snapshots(edge, 2)
    assert facts(edge)[1][1].condition == "gone"
    assert snapshots(edge)[-1] == (OURS, Snapshot(600, ()))


async def test_a_job_that_is_gone_is_forgotten_in_time_though_no_list_is_made(edge, following, monkeypatch):
    cluster = following(ScriptedCluster(job(OURS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    cluster.tell(Change(gone(job(OURS), 550)))

    async def is_gone() -> bool:
        return edge.names.is_gone(key_on(OURS))

    await until_async(is_gone, "the Job to be gone", seconds=WAIT_SECONDS)
    now = time.time()
    monkeypatch.setattr(inventory.time, "time", lambda: now + REMEMBER_GONE_SECONDS + 5.0)

    async def is_forgotten() -> bool:
        return edge.names.get(key_on(OURS)) is None

    await until_async(is_forgotten, "the Job to be forgotten", seconds=WAIT_SECONDS)
    assert cluster.listings == 1


async def test_a_watch_that_breaks_lists_again(edge, following):
    cluster = following(ScriptedCluster(job(OURS)))
    cluster.tell(ApiFailure(Failure.GONE, 410, "too old"))

    async def listed_twice() -> bool:
        return cluster.listings == 2

    await until_async(listed_twice, "a second list", seconds=WAIT_SECONDS)
    assert all(stop.is_set() for stop in cluster.watches[:-1]), "the old watch is over"


async def test_a_list_that_fails_is_asked_for_again_and_nothing_is_taken_for_gone(edge, following):
    edge.own(OURS)
    cluster = ScriptedCluster(job(OURS))
    cluster.failures = [ApiFailure(Failure.UNREACHABLE, 0, "refused"), ApiFailure(Failure.SERVER, 500, "no")]
    following(cluster)
    await until_snapshots(edge, 1)
    assert cluster.failures == []
    assert len(facts(edge)) == 1


async def test_a_cluster_that_does_not_answer_is_a_problem_until_it_does_again(edge, following):
    cluster = following(ScriptedCluster(job(OURS)))
    assert inventory.problems() == ["the Jobs of the cluster have not been listed yet"]
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    assert inventory.problems() == []
    cluster.failures = [ApiFailure(Failure.UNREACHABLE, 0, "connection refused")] * 3
    cluster.tell(ApiFailure(Failure.UNREACHABLE, 0, "connection refused"))

    async def is_said() -> bool:
        return inventory.problems() == ["the Jobs of namespace stf cannot be listed: connection refused"]

    await until_async(is_said, "the problem to be said", seconds=WAIT_SECONDS)

    async def is_over() -> bool:
        return inventory.problems() == []

    await until_async(is_over, "the problem to be over", seconds=WAIT_SECONDS)
    assert cluster.failures == []


async def test_an_unknown_name_brings_a_fresh_list(edge, following):
    cluster = following(ScriptedCluster(job(OURS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    cluster.jobs.append(job(THEIRS))
    assert await look_again(THEIRS) is Looked.LISTED
    assert cluster.listings == 2
    assert edge.names.get(key_on(THEIRS)) is not None


async def test_a_name_that_a_list_did_not_bring_brings_no_other_list(following):
    cluster = following(ScriptedCluster(job(OURS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    assert await look_again(THEIRS) is Looked.LISTED
    assert await look_again(THEIRS) is Looked.LISTED
    assert cluster.listings == 2


async def test_a_list_that_is_slow_is_waited_for(edge, following):
    cluster = following(ScriptedCluster(job(OURS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    cluster.may_list.clear()
    askers = [asyncio.create_task(look_again(THEIRS)) for _ in range(2)]

    async def is_asked() -> bool:
        return cluster.asked == 2

    await until_async(is_asked, "a list", seconds=WAIT_SECONDS)
    later = asyncio.create_task(look_again(THEIRS))  # of another source partition, while the list is on its way
    await asyncio.sleep(0)
    cluster.jobs.append(job(THEIRS))
    cluster.may_list.set()
    assert await asyncio.gather(*askers, later) == [Looked.LISTED] * 3
    assert edge.names.get(key_on(THEIRS)) is not None
    assert cluster.listings == 2


async def test_a_list_that_a_report_asked_for_tells_what_it_has_changed_and_nothing_else(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS)))
    await until_snapshots(edge, 1)
    keys = (f"stf/new-{number}" for number in itertools.count())
    key = next(key for key in keys if partition_of(key, settings.partitions) == OURS)
    new = a_fact(key, uid="new", producer_id="loader__new", resource_version=150)
    cluster.jobs, cluster.version = [new], 200
    report = Report(Kind.LOADING, "loader__new", "")
    assert await inventory.look_again([report]) is Looked.LISTED
    await until_facts(edge, 3)
    assert facts(edge)[1:] == [(OURS, new), (OURS, gone(job(OURS), 200))]
    assert len(snapshots(edge)) == 1


async def test_while_the_jobs_cannot_be_listed_reports_wait_and_that_is_said_once(following, logged):
    cluster = following(ScriptedCluster(job(OURS)))
    await asyncio.wait_for(inventory.first_list.wait(), WAIT_SECONDS)
    assert not inventory.reports_wait()
    away = ApiFailure(Failure.UNREACHABLE, 0, "connection refused")
    cluster.failures = [away] * 3
    failed = looks_failed()

    async def keep_asking() -> Looked:
        while (looked := await look_again(THEIRS)) is Looked.AWAY:
            assert inventory.problems() == ["the Jobs of namespace stf cannot be listed: connection refused"]
        return looked

    asker = asyncio.create_task(keep_asking())

    async def is_said() -> bool:
        return any("wait for that" in problem for problem in inventory.problems())

    await until_async(is_said, "the reports to be said to wait", seconds=WAIT_SECONDS)
    assert inventory.reports_wait()
    cluster.jobs.append(job(THEIRS))
    assert await asyncio.wait_for(asker, WAIT_SECONDS) is Looked.LISTED
    assert (cluster.failures, inventory.reports_wait()) == ([], False)
    assert looks_failed() == failed + 3
    assert [entry["event"] for entry in logged if entry["event"].startswith("reports_")] == [
        "reports_wait",
        "reports_go_on",
    ]


async def test_what_a_broker_did_not_acknowledge_is_told_again(edge, following, monkeypatch):
    edge.own(OURS)
    cluster = ScriptedCluster(job(OURS))
    monkeypatch.setattr(inventory.Cluster, "connect", lambda **_: cluster)
    refusals = [NotEnoughReplicasError(), NotEnoughReplicasError()]
    edge.producer.refuse = lambda record: refusals.pop() if refusals and record.topic == EVIDENCE else None
    task = asyncio.create_task(inventory.follow_cluster())
    try:
        await until_snapshots(edge, 2)
        assert refusals == []
    finally:
        inventory._inventory.stop_watching.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_becomes_of_a_job_that_we_created_is_told_to_the_actuator_by_its_owner(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS)))
    await until_snapshots(edge, 1)
    again = job(OURS, uid="u-2", resource_version=700, attempt=1, action_id="a1")
    cluster.tell(Change(job(THEIRS, resource_version=701, action_id="a2")), Change(again))
    await until_facts(edge, 2)

    async def told() -> bool:
        return bool(edge.producer.to(STEPS))

    await until_async(told, "the actuator to be told", seconds=WAIT_SECONDS)
    assert [steps.decode(record.value).fact for record in edge.producer.to(STEPS)] == [again]


async def test_a_job_that_has_gone_is_told_to_the_actuator_for_a_restart_may_wait_for_that(edge, following):
    edge.own(OURS)
    cluster = following(ScriptedCluster(job(OURS), job(THEIRS)))
    await until_snapshots(edge, 1)
    cluster.tell(Change(gone(job(THEIRS), 701)), Change(job(OURS, resource_version=702)), Change(gone(job(OURS), 703)))
    await until_facts(edge, 3)

    async def told() -> bool:
        return bool(edge.producer.to(STEPS))

    await until_async(told, "the actuator to be told", seconds=WAIT_SECONDS)
    assert [steps.decode(record.value).fact for record in edge.producer.to(STEPS)] == [gone(job(OURS), 703)]


async def test_a_consumers_command_says_where_the_other_jobs_of_its_queue_run_once_they_are_listed(edge, following):
    own, sibling, loader = (
        a_fact(f"stf/{name}", target=target, pod_ip=f"10.0.0.{number}", producer_id=f"{target}__x")
        for number, (name, target) in enumerate(
            [("own", "arango-connector"), ("sibling", "graph-builder"), ("loader", "loader-producer")]
        )
    )
    other_queue = a_fact("stf/other", queue_id="another", target="graph-builder", pod_ip="10.0.0.9")
    command = Command(
        id="c1",
        key=own.key,
        namespace="stf",
        name="own",
        uid=own.uid,
        verdict="stuck",
        evidence=Grounds(),
        decided_at=BROKER_EPOCH,
        expires_at=BROKER_EPOCH + 60.0,
        queue_id=own.queue_id,
        consumer=True,
    )
    book = policies.current.book
    inventory.first_list.clear()
    assert inventory.with_neighbours(command, book) == command
    following(ScriptedCluster(own, sibling, loader, other_queue))
    async with asyncio.timeout(WAIT_SECONDS):
        await inventory.first_list.wait()
    known = Neighbours(consumers=1, addresses=("10.0.0.1", "10.0.0.2"))
    assert inventory.with_neighbours(command, book) == msgspec.structs.replace(command, neighbours=known)
    of_a_loader = msgspec.structs.replace(command, consumer=False)
    assert inventory.with_neighbours(of_a_loader, book) == of_a_loader
