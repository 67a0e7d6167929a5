"""Restarts on a cluster, through the journal that the agent uses; only the steps log is in memory.

The same against the local cluster and the real control plane.
"""

import asyncio
import copy
import random
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import msgspec
import pytest

from agents.journal import Journal
from sf_healer.adapters.cluster import ApiFailure, Cluster, Failure
from sf_healer.core import steps
from sf_healer.core.actions import Pace, State
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Alive, Command, Decision, Grounds, ProofOfLife, Resolve, Result, Withdraw
from sf_healer.core.facts import Condition, Loss, PodState
from sf_healer.core.manifest import sanitize
from sf_healer.core.policy import Limits
from sf_healer.core.steps import Admitted, Announced, FleetCounts, Resulted, Step, Tick, What
from sf_healer.local.kube.api import Fault
from tests.cluster.small import connected, must
from tests.lab.api_proxy import ApiProxy
from tests.lab.waiting import NotInTime, until, until_async

SECONDS = 40.0
PACE = Pace(
    look_seconds=0.1,
    slow_look_seconds=0.3,
    retry_seconds=0.1,
    retry_limit_seconds=1.0,
    lost_call_seconds=1.5,
)
LIMITS = Limits(in_flight=64, rate_burst=64, rate_per_minute=6000.0, backoff_seconds=0.0)


@pytest.fixture(params=["local_cluster", pytest.param("control_plane", marks=pytest.mark.kube)])
def cluster(request):
    with connected(request.getfixturevalue(request.param)) as cluster:
        yield cluster


@pytest.fixture
def local(local_cluster):
    with connected(local_cluster) as cluster:
        local_cluster._alive.call(lambda parts: parts.api.faults.clear())
        yield cluster
        local_cluster._alive.call(lambda parts: parts.api.faults.clear())


@pytest.fixture
def real(control_plane):
    with connected(control_plane) as cluster:
        yield cluster


def a_job(name="loader-a", annotations=None, **spec):
    env = {"QUEUE_ID": "loader-a-P4nTkv", "TELEMETRY_PRODUCER_ID": "loader-ws__P4nTkv", "PASSWORD": "hunter2"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "backoffLimit": 4,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "loader",
                            "image": "registry.example/loader:1",
                            "env": [{"name": key, "value": value} for key, value in env.items()],
                        }
                    ],
                }
            },
            **spec,
        },
    }


def create(cluster, manifest=None):
    live = must(cluster.create_job(cluster.namespace, manifest or a_job()))
    name = live.manifest["metadata"]["name"]
    if not live.manifest["spec"].get("suspend"):
        until(lambda: read(cluster, name).fact.pod is PodState.RUNNING, f"a pod of {name}", seconds=SECONDS)
    return read(cluster, name)


def read(cluster, name="loader-a"):
    return must(cluster.read_job(cluster.namespace, name))


def exists(cluster, name="loader-a"):
    answer = cluster.read_job(cluster.namespace, name)
    if isinstance(answer, ApiFailure):
        assert answer.kind is Failure.NOT_FOUND, answer
        return False
    return True


def a_command(live, **changes):
    namespace, name = live.fact.key.split("/")
    now = time.time()
    known = {
        "id": f"c-{name}-{live.fact.uid}",
        "key": live.fact.key,
        "namespace": namespace,
        "name": name,
        "uid": live.fact.uid,
        "verdict": "stuck",
        "evidence": Grounds(condition=live.fact.condition.value),
        "decided_at": now,
        "expires_at": now + 60.0,
        "proof_of_life": ProofOfLife.POD,
    }
    return Command(**{**known, **changes})


class Desk:
    """A steps log and a table in memory, and one journal after the other that works on them."""

    def __init__(self, cluster, *, limits=LIMITS, pace=PACE, observe_only=False):
        self.cluster = cluster
        self.options = {"limits": limits, "pace": pace, "observe_only": observe_only}
        self.log = []
        self.table = {}
        self.outcomes = []
        self.crashes = []
        self.position = 0
        self.reading = False
        self.journal = None
        self.workers = 0
        self.grown = asyncio.Event()  # the log, or what crashed
        #: Where a process is killed: behind so many records read, and while the log grows to so many.
        self.killed_at = frozenset()
        self.killed_as_it_grows = frozenset()
        self.audience = []

    async def append(self, records):
        before = len(self.log)
        self.log += [(steps.encode(record), time.time()) for record in records]
        self.grown.set()
        if not self.killed_as_it_grows.isdisjoint(range(before + 1, len(self.log) + 1)):
            self.kill()

    async def publish(self, outcomes):
        self.outcomes += outcomes

    async def store(self, key, value):
        self.table.pop(key, None) if value is None else self.table.update({key: value})

    def owns_log(self):
        return True

    def is_current(self, actuator):
        return self.journal is not None and self.journal.actuator is actuator

    def crash(self, error):
        self.crashes.append(error)
        self.grown.set()

    def start(self):
        """Let a new process take the log over."""
        self.workers += 1
        actuator = Actuator(worker=f"w{self.workers}", **self.options)
        actuator.restore(self.table.items())
        actuator.ledger = type(actuator.ledger)(*_with_window(actuator.ledger, 64))
        self.journal = Journal(actuator, self.cluster, self, audience=self.audience)

    def kill(self):
        """Kill the process: what it was doing is lost, calls that are with the API server go on there."""
        for call in self.journal._calls:
            call.cancel()
        self.journal = None
        self.start()

    async def work(self):
        while True:
            while self.position < len(self.log):
                value, at = self.log[self.position]
                self.reading = True
                is_done = await self.journal.read(value, self.position, at)
                self.reading = False
                if not is_done:  # killed meanwhile: the next process reads it again
                    continue
                self.position += 1
                if self.position in self.killed_at:
                    self.kill()
            assert not self.crashes, self.crashes
            self.grown.clear()
            await self.grown.wait()

    async def tick(self):
        while True:
            await self.append([Tick(worker="w")])
            await asyncio.sleep(0.1)  # it is the worker's timer, and nobody waits for it

    async def ask(self, *commands):
        now = time.time()
        counts = FleetCounts(partition=0, partitions=1, at=now, base=1000, unhealthy=0, sick=0)
        await self.append([counts, *commands])

    async def until(self, condition, what):
        async def holds():
            return condition()

        try:
            return await until_async(holds, what, seconds=SECONDS)
        except NotInTime as late:
            raise NotInTime(f"{late}; log: {self.story()}") from None

    async def outcome(self, command=None):
        def ended():
            """What follows from an outcome is done once its record is read: the audience is told last."""
            if self.reading:
                return []
            return [each for each in self.outcomes if each.final and (command is None or each.command_id == command.id)]

        return (await self.until(ended, "an outcome"))[-1]

    def records(self, kind):
        return [record for value, _ in self.log if isinstance(record := steps.decode(value), kind)]

    def story(self):
        return [(each.step.value, each.result.what.value, each.result.message) for each in self.records(Resulted)]

    def steps_taken(self):
        return [each.step for each in self.records(Resulted) if each.step is not Step.LOOK]

    def state(self, key=None):
        actions = self.journal.actuator.open_actions()
        return next((action.state for k, action in actions.items() if key in {None, k}), None)


def _with_window(ledger, window):
    fields = {field: getattr(ledger, field) for field in ledger.__struct_fields__}
    return ({**fields, "window": window}).values()


@asynccontextmanager
async def working(cluster, **options):
    desk = Desk(cluster, **options)
    desk.start()
    tasks = [asyncio.create_task(desk.work()), asyncio.create_task(desk.tick())]
    try:
        yield desk
        for task in tasks:
            assert not task.done() or task.exception() is None, task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def without_marks(manifest):
    """What must be the same in two incarnations."""
    kept = sanitize(copy.deepcopy(manifest))
    annotations = kept["metadata"].get("annotations", {})
    kept["metadata"]["annotations"] = {k: v for k, v in annotations.items() if not k.startswith("sf-healer.io/")}
    return kept


def left_as_it_is(old, now):
    """Hold that nobody touched a Job; its status goes on by itself."""
    assert (now.fact.uid, now.manifest["spec"]) == (old.fact.uid, old.manifest["spec"])
    assert now.manifest["metadata"].get("annotations") == old.manifest["metadata"].get("annotations")


# ---- it works


async def test_a_stuck_job_is_deleted_and_created_again_under_its_name(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    new = read(cluster)
    assert outcome.result is Result.RESTARTED
    assert (outcome.uid, outcome.new_uid, outcome.attempt) == (old.fact.uid, new.fact.uid, 1)
    assert new.fact.uid != old.fact.uid
    assert without_marks(new.manifest) == without_marks(old.manifest)
    assert new.manifest["metadata"]["annotations"] == {
        "sf-healer.io/attempt": "1",
        "sf-healer.io/replaces-uid": old.fact.uid,
        "sf-healer.io/action-id": outcome.command_id,
        "sf-healer.io/reason": "stuck",
    }
    assert must(cluster.pods_of(cluster.namespace, "loader-a", old.fact.uid)) == ()
    assert desk.steps_taken() == [Step.OBSERVE, Step.DELETE, Step.CREATE]


async def test_a_second_restart_counts_on(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster) as desk:
        for attempt in (1, 2):
            command = a_command(old)
            await desk.ask(command)
            outcome = await desk.outcome(command)
            assert (outcome.result, outcome.attempt) == (Result.RESTARTED, attempt)
            old = read(cluster)
    assert old.fact.attempt == 2


FULL = {
    "suspend": False,
    "completionMode": "Indexed",
    "completions": 2,
    "parallelism": 2,
    "backoffLimitPerIndex": 1,
    "maxFailedIndexes": 1,
    "activeDeadlineSeconds": 86400,
    "podReplacementPolicy": "Failed",
    "podFailurePolicy": {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        ]
    },
}


async def test_nothing_of_an_elaborate_job_is_lost(cluster):
    manifest = a_job(**FULL)
    manifest["metadata"] |= {"labels": {"app": "streamforge"}, "annotations": {"note": "kept", "empty": ""}}
    template = manifest["spec"]["template"]
    template["metadata"] = {"labels": {"queue": "q1"}, "annotations": {"prometheus.io/scrape": "true"}}
    template["spec"] |= {
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    template["spec"]["containers"][0] |= {
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "command": ["python", "-m", "app"],
    }
    old = await asyncio.to_thread(create, cluster, manifest)
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.RESTARTED
    assert without_marks(read(cluster).manifest) == without_marks(old.manifest)
    assert old.manifest["spec"]["podFailurePolicy"] == FULL["podFailurePolicy"]


async def test_a_manual_selector_stays(cluster):
    labels = {"mine": "loader-a"}
    manifest = a_job(manualSelector=True, selector={"matchLabels": labels})
    manifest["spec"]["template"]["metadata"] = {"labels": {**labels, "batch.kubernetes.io/job-name": "loader-a"}}
    old = await asyncio.to_thread(create, cluster, manifest)
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.RESTARTED
    assert without_marks(read(cluster).manifest) == without_marks(old.manifest)


async def test_telemetry_of_the_new_incarnation_is_what_proves_a_target_that_reports(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster) as desk:
        await desk.ask(a_command(old, proof_of_life=ProofOfLife.TELEMETRY))
        await desk.until(lambda: desk.state() is State.VERIFYING, "the new Job")
        new = read(cluster)
        await desk.append([Alive(key=old.fact.key, uid=new.fact.uid, at=time.time())])
        assert (await desk.outcome()).reason == "verified"


# ---- what must not be touched


async def test_observe_mode_touches_nothing(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster, observe_only=True) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.WOULD_RESTART
    left_as_it_is(old, read(cluster))
    assert {each.step for each in desk.records(Announced)} == {Step.OBSERVE}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (a_job(annotations={"sf-healer.io/skip": "true"}), "exempt"),
        (a_job(managedBy="example.com/controller"), "exempt"),
        (a_job(suspend=True), "exempt"),
    ],
    ids=["skip", "managedBy", "suspended"],
)
async def test_an_exempt_job_is_not_touched(cluster, manifest, reason):
    old = must(await asyncio.to_thread(cluster.create_job, cluster.namespace, manifest))
    async with working(cluster) as desk:
        await desk.ask(a_command(old, evidence=Grounds(condition="active")))
        assert ((outcome := await desk.outcome()).result, outcome.reason) == (Result.REFUSED, reason)
    assert read(cluster).fact.uid == old.fact.uid


async def test_another_incarnation_than_the_one_judged_is_not_touched(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster) as desk:
        await desk.ask(a_command(old, uid="00000000-dead-beef-0000-000000000000"))
        assert (await desk.outcome()).reason == "superseded"
    assert read(cluster).manifest["metadata"]["uid"] == old.fact.uid


async def test_a_job_that_is_gone_is_not_brought_back(cluster):
    old = await asyncio.to_thread(create, cluster)
    assert cluster.delete_job(cluster.namespace, "loader-a", old.fact.uid) is None
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).reason == "superseded"
        await desk.until(lambda: not exists(cluster), "the end of the Job")


async def test_a_job_withdrawn_before_its_delete_is_not_touched(cluster):
    old = await asyncio.to_thread(create, cluster)
    command = a_command(old)
    async with working(cluster) as desk:
        await desk.ask(command, Withdraw(id=command.id, key=command.key, reason="reports"))
        assert (await desk.outcome()).reason == "superseded"
    assert read(cluster).fact.uid == old.fact.uid


async def test_a_job_that_somebody_made_in_between_is_left_alone(cluster):
    """The platform may create its Job while ours is between delete and create."""
    old = await asyncio.to_thread(create, cluster)
    theirs = a_job(annotations={"whose": "theirs"})
    make = Cluster.create_job

    class Overtaken(Cluster):
        def create_job(self, namespace, manifest):
            must(make(self, namespace, theirs))
            return make(self, namespace, manifest)

    cluster.__class__ = Overtaken
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.result, outcome.reason, outcome.needs_person) == (Result.FAILED, "namesake", True)
    assert read(cluster).manifest["metadata"]["annotations"] == {"whose": "theirs"}


async def test_a_job_whose_manifest_cannot_be_kept_on_the_log_is_not_deleted(cluster):
    """Annotations may have 256 KiB, but an object may have 1.5 MiB and a record of the log 1 MB."""
    manifest = a_job()
    filler = [{"name": f"FILLER_{number}", "value": "x" * 10_000} for number in range(82)]
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] += filler
    old = must(await asyncio.to_thread(cluster.create_job, cluster.namespace, manifest))
    async with working(cluster) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.result, outcome.reason, outcome.attempt) == (Result.REFUSED, "forbidden", 0)
    assert "too large" in outcome.detail
    assert read(cluster).fact.uid == old.fact.uid


# ---- kill -9 between any two records

RECORDS_OF_A_RESTART = 12  # at least, on the steps log


async def test_a_worker_killed_after_any_record_is_continued_by_the_next(local):
    """One Job for each boundary; the calls that were under way are lost with the worker."""
    for boundary in range(1, 99):
        name = f"loader-{boundary}"
        old = await asyncio.to_thread(create, local, a_job(name))
        async with working(local) as desk:
            desk.killed_at = {boundary}
            await desk.ask(a_command(old))
            outcome = await desk.outcome()
            assert outcome.result is Result.RESTARTED, (boundary, desk.story())
        new = read(local, name)
        assert new.fact.attempt == 1
        assert without_marks(new.manifest) == without_marks(old.manifest)
        if desk.workers == 1:
            break  # it was over before that
    assert boundary > RECORDS_OF_A_RESTART


async def test_a_worker_killed_while_it_reads_a_command_leaves_it_to_the_next(cluster):
    old = await asyncio.to_thread(create, cluster)
    async with working(cluster) as desk:
        append = desk.append

        async def append_and_die(records):
            records = list(records)
            await append(records)
            if any(isinstance(record, Admitted) for record in records):
                desk.append = append
                desk.kill()

        desk.append = append_and_die
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.RESTARTED
        assert desk.workers == 2


@pytest.mark.parametrize("seed", range(2))
async def test_many_jobs_survive_a_worker_killed_at_random_moments(cluster, seed):
    rng = random.Random(seed)
    olds = [await asyncio.to_thread(create, cluster, a_job(f"loader-{number}")) for number in range(12)]
    pace = Pace(look_seconds=0.2, slow_look_seconds=0.5, retry_seconds=0.1, lost_call_seconds=1.5)
    async with working(cluster, pace=pace) as desk:
        kills, records = 5, range(2, RECORDS_OF_A_RESTART * len(olds))
        desk.killed_at = set(rng.sample(records, kills))
        desk.killed_as_it_grows = set(rng.sample(records, kills))
        await desk.ask(*(a_command(old) for old in olds))
        for old in olds:
            assert (await desk.outcome(a_command(old))).result is Result.RESTARTED
        await desk.until(lambda: desk.position > records.stop, "the last kill")
        assert desk.workers > 1 + kills  # as the log grows by several records at once it is one
    live = {fact.key: fact for fact in must(cluster.list_jobs()).facts}
    assert len(live) == len(olds)
    for old in olds:
        new = read(cluster, old.fact.key.split("/")[1])
        assert new.manifest["metadata"]["annotations"]["sf-healer.io/replaces-uid"] == old.fact.uid
        assert (new.fact.attempt, without_marks(new.manifest)) == (1, without_marks(old.manifest))


# ---- the API misbehaves


HANG_UP = 0  # the request is carried out and the answer never comes


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, method="GET", times=2),
        Fault(status=429, method="GET", retry_after_seconds=1),
        Fault(status=429, method="DELETE", retry_after_seconds=1),
        Fault(status=500, method="DELETE"),
        Fault(status=HANG_UP, method="DELETE"),
        Fault(status=409, method="DELETE"),
        Fault(status=429, method="POST", path="/jobs", dry_run=False, retry_after_seconds=1),
        Fault(status=500, method="POST", path="/jobs", dry_run=False, times=2),
        Fault(status=HANG_UP, method="POST", path="/jobs", dry_run=False),
        Fault(status=409, method="POST", path="/jobs", dry_run=False),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'hang-up'}",
)
async def test_a_fault_of_the_api_is_outlived(local, local_cluster, fault):
    old = await asyncio.to_thread(create, local)
    async with working(local) as desk:
        local_cluster.answer_next(fault)
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert outcome.result is Result.RESTARTED, desk.story()
    new = read(local)
    assert new.fact.uid == outcome.new_uid
    assert without_marks(new.manifest) == without_marks(old.manifest)


async def test_an_api_that_is_away_before_the_create_for_longer_than_a_create_may_be_in_doubt_needs_no_person(
    local, local_cluster, tmp_path
):
    old = await asyncio.to_thread(create, local)
    with ApiProxy.before(local_cluster.kubeconfig) as proxy:

        class Deserted(Cluster):
            tries = 0

            def create_job(self, namespace, manifest):
                Deserted.tries += 1
                if Deserted.tries == 1:
                    proxy.go_away()
                return super().create_job(namespace, manifest)

        kubeconfig = proxy.kubeconfig(local_cluster.kubeconfig, at=tmp_path / "kubeconfig")
        through = Deserted.connect(namespace=local.namespace, kubeconfig=str(kubeconfig))
        limits = Limits(create_deadline_seconds=1.0, rate_per_minute=6000.0)
        async with working(through, limits=limits) as desk:
            await desk.ask(a_command(old))
            await desk.until(lambda: Deserted.tries > 6, "creates that nobody heard")
            await asyncio.to_thread(proxy.come_back)
            assert (await desk.outcome()).result is Result.RESTARTED, desk.story()
    assert without_marks(read(local).manifest) == without_marks(old.manifest)


@pytest.mark.parametrize("status", [403, 422])
async def test_a_refused_create_puts_back_what_was_there(local, local_cluster, status):
    old = await asyncio.to_thread(create, local)
    local_cluster.answer_next(Fault(status=status, method="POST", path="/jobs", dry_run=False, times=3))
    async with working(local) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.result, outcome.reason, outcome.quarantined) == (Result.FAILED, "refused_by_api", True)
    assert [each.final for each in desk.outcomes] == [False, True]
    new = read(local)
    assert new.fact.action_id == ""
    assert sanitize(new.manifest) == sanitize(old.manifest)


@pytest.mark.parametrize("status", [403, 422])
async def test_a_job_that_would_be_refused_is_not_touched_and_is_restarted_once_the_policy_is_mended(
    local, local_cluster, status
):
    old = await asyncio.to_thread(create, local)
    local_cluster.answer_next(Fault(status=status, method="POST", path="/jobs", dry_run=True))
    async with working(local) as desk:
        await desk.ask(a_command(old))
        refused = await desk.outcome()
        assert (refused.result, refused.reason) == (Result.REFUSED, "would_be_refused")
        left_as_it_is(old, read(local))
        again = a_command(old, decided_at=time.time())
        await desk.ask(again)
        await desk.until(lambda: desk.outcomes[-1] is not refused, "the second outcome")
    assert desk.outcomes[-1].result is Result.RESTARTED, desk.story()


async def test_an_api_that_cannot_say_whether_it_would_take_the_job_is_asked_again(local, local_cluster):
    old = await asyncio.to_thread(create, local)
    for status in (500, 429):
        local_cluster.answer_next(Fault(status=status, method="POST", path="/jobs", dry_run=True))
    async with working(local) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.RESTARTED, desk.story()
    assert [each.result.what for each in desk.records(Resulted)][:3] == [What.UNKNOWN, What.LATER, What.FOUND]


async def test_a_refused_delete_leaves_the_job_as_it_is(local, local_cluster):
    old = await asyncio.to_thread(create, local)
    local_cluster.answer_next(Fault(status=403, method="DELETE"))
    async with working(local) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.result, outcome.reason, outcome.attempt) == (Result.REFUSED, "forbidden", 0)
    left_as_it_is(old, read(local))


async def test_a_create_refused_for_too_long_waits_for_a_person_with_its_manifest(local, local_cluster):
    old = await asyncio.to_thread(create, local)
    local_cluster.answer_next(Fault(status=422, method="POST", path="/jobs", dry_run=False, times=1000))
    limits = Limits(create_deadline_seconds=1.0, rate_per_minute=6000.0)
    async with working(local, limits=limits) as desk:
        command = a_command(old)
        await desk.ask(command)
        await desk.until(lambda: [each for each in desk.outcomes if each.needs_person], "a person to be asked for")
        assert desk.state() is State.STRANDED
        assert not exists(local)
        await asyncio.to_thread(_clear_faults, local_cluster)
        await desk.append([Resolve(key=command.key, action_id=command.id, decision=Decision.CREATE, by="ada")])
        assert (await desk.outcome()).result is Result.RESTARTED
    assert without_marks(read(local).manifest) == without_marks(old.manifest)


def _clear_faults(local_cluster):
    local_cluster._alive.call(lambda parts: parts.api.faults.clear())


async def test_a_job_recreated_without_pods_is_recreated_once_more(local, local_cluster):
    """kubernetes #142142: the Job controller may overlook a Job that takes the place of another."""
    old = await asyncio.to_thread(create, local)
    local_cluster.withhold_pods(local.namespace, "loader-a")
    limits = Limits(pod_deadline_seconds=1.0, rate_per_minute=6000.0)
    async with working(local, limits=limits) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert outcome.result is Result.RESTARTED, desk.story()
    assert desk.steps_taken().count(Step.CREATE) == 2
    new = read(local)
    assert new.fact.action_id == f"{outcome.command_id}-1"
    assert (new.fact.uid, new.fact.attempt) == (outcome.new_uid, 1)
    assert without_marks(new.manifest) == without_marks(old.manifest)


async def test_a_job_whose_pods_no_label_names_is_not_taken_for_empty_and_deleted_once_more(cluster):
    """With manualSelector nothing puts job-name on a pod; its Job's status counts it."""
    labels = {"mine": "loader-a"}
    manifest = a_job(manualSelector=True, selector={"matchLabels": labels})
    manifest["spec"]["template"]["metadata"] = {"labels": labels}
    old = await asyncio.to_thread(create, cluster, manifest)
    assert old.fact.pod in {PodState.PENDING, PodState.RUNNING}
    limits = msgspec.structs.replace(LIMITS, pod_deadline_seconds=0.5)
    async with working(cluster, limits=limits) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.result, outcome.reason) == (Result.RESTARTED, "verified"), desk.story()
    assert desk.steps_taken().count(Step.DELETE) == 1


# ---- what the real API server would not take

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
ONLY_NEW_IMAGES = {
    "metadata": {"name": "only-new-images"},
    "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
            ]
        },
        "matchConditions": [{"name": "here", "expression": ""}],
        "validations": [
            {
                "expression": "object.spec.template.spec.containers.all(c, !c.image.startsWith('registry.example/'))",
                "message": "only images of the new registry",
            }
        ],
    },
}


@contextmanager
def only_new_images(control_plane, cluster):
    """Let the real API server refuse the images of our Jobs, in this namespace."""
    policy = copy.deepcopy(ONLY_NEW_IMAGES)
    policy["spec"]["matchConditions"][0]["expression"] = f"request.namespace == '{cluster.namespace}'"
    binding = {
        "metadata": {"name": "only-new-images"},
        "spec": {"policyName": "only-new-images", "validationActions": ["Deny"]},
    }
    for path, made in ((POLICIES, policy), (BINDINGS, binding)):
        answer = control_plane.call("POST", path, made)
        assert answer.status == 201, answer.body

    def holds():
        failure = cluster.rehearse_create(cluster.namespace, a_job())
        return failure is not None and failure.kind is not Failure.ALREADY_EXISTS

    try:
        until(holds, "the policy to hold", seconds=SECONDS)
        yield
    finally:
        control_plane.call("DELETE", f"{BINDINGS}/only-new-images")
        control_plane.call("DELETE", f"{POLICIES}/only-new-images")


async def test_a_job_that_a_new_policy_would_not_take_again_stays_as_it_is(control_plane, real):
    old = await asyncio.to_thread(create, real)
    with only_new_images(control_plane, real):
        async with working(real) as desk:
            await desk.ask(a_command(old))
            outcome = await desk.outcome()
    assert (outcome.result, outcome.reason) == (Result.REFUSED, "would_be_refused")
    assert "only images of the new registry" in outcome.detail
    left_as_it_is(old, read(real))
    assert [step.value for step in desk.steps_taken()] == ["observe"]


async def test_a_quota_that_is_full_with_the_job_itself_is_no_reason_against_its_restart(control_plane, real):
    old = await asyncio.to_thread(create, real)
    quotas = f"/api/v1/namespaces/{real.namespace}/resourcequotas"
    control_plane.call("POST", quotas, {"metadata": {"name": "jobs"}, "spec": {"hard": {"count/jobs.batch": "1"}}})

    def is_full():
        failure = real.rehearse_create(real.namespace, a_job())
        return failure is not None and "exceeded quota" in failure.message

    await asyncio.to_thread(until, is_full, "the quota to be full", seconds=SECONDS)
    async with working(real) as desk:
        await desk.ask(a_command(old))
        assert (await desk.outcome()).result is Result.RESTARTED, desk.story()


# ---- deletes that take their time, on the real control plane


async def test_a_finalizer_that_stays_asks_for_a_person_and_the_job_comes_back_when_it_is_cleared(control_plane, real):
    cluster = real
    manifest = a_job()
    manifest["metadata"]["finalizers"] = ["example.com/mine"]
    old = await asyncio.to_thread(create, cluster, manifest)
    limits = Limits(delete_deadline_seconds=1.0, rate_per_minute=6000.0)
    async with working(cluster, limits=limits) as desk:
        await desk.ask(a_command(old))
        await desk.until(lambda: desk.outcomes, "the overdue delete")
        assert (desk.outcomes[0].reason, desk.outcomes[0].final) == ("delete_overdue", False)
        assert desk.outcomes[0].needs_person
        await asyncio.to_thread(
            control_plane.kubectl,
            *("-n", cluster.namespace, "patch", "job", "loader-a", "--type=merge"),
            *("-p", '{"metadata":{"finalizers":null}}'),
        )
        outcome = await desk.outcome()
    assert outcome.result is Result.RESTARTED
    assert without_marks(read(cluster).manifest) == without_marks(old.manifest)


def its_pods(plane, cluster, name="loader-a"):
    return plane.call("GET", f"/api/v1/namespaces/{cluster.namespace}/pods?labelSelector=job-name={name}").body["items"]


def change_status(plane, pod, change):
    """Write into a pod's status as a kubelet or the node controller does."""
    changed = copy.deepcopy(pod)
    change(changed["status"])
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
    answer = plane.call("PUT", path, changed)
    assert answer.status == 200, answer


def lose_node(status):
    """Do what the node controller does to a pod whose node does not answer (MarkPodsNotReady)."""
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    ready |= {"status": "False", "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def without_a_kubelet(manifest):
    """Let nobody confirm for a long time that the pods of a Job have ended."""
    manifest["spec"]["template"]["metadata"] = {"annotations": {"kubelab.io/stop-delay": "600s"}}
    return manifest


async def ready_pods(cluster, number):
    """Wait until the Job controller has counted so many."""

    def is_counted():
        return read(cluster).manifest["status"].get("ready") == number

    await asyncio.to_thread(until, is_counted, f"{number} ready pods", seconds=SECONDS)


async def test_a_job_whose_node_has_died_is_left_to_the_job_controller_which_mends_it(control_plane, real):
    """The node is taken for dead at 50 s and its pods are evicted 300 s later; a Job is stuck at 300 s."""
    old = await asyncio.to_thread(create, real, without_a_kubelet(a_job()))
    [pod] = its_pods(control_plane, real)
    async with working(real) as desk:
        change_status(control_plane, pod, lose_node)
        command = a_command(old)
        await desk.ask(command)
        outcome = await desk.outcome(command)
        assert (outcome.result, outcome.reason, outcome.retry_after) == (Result.REFUSED, "superseded", 60.0)
        assert "node" in outcome.detail
        control_plane.call("DELETE", f"/api/v1/namespaces/{real.namespace}/pods/{pod['metadata']['name']}")
        await desk.until(lambda: len(its_pods(control_plane, real)) == 2, "another pod beside the one that stays")
        await desk.until(lambda: read(real).fact.pod is PodState.RUNNING, "that one to run")
        again = msgspec.structs.replace(command, id="again", decided_at=time.time(), expires_at=time.time() + 60.0)
        await desk.ask(again)
        outcome = await desk.outcome(again)
    assert (outcome.reason, "is being deleted" in outcome.detail) == ("superseded", True)
    now = read(real)
    assert (now.fact.uid, now.fact.condition) == (old.fact.uid, Condition.ACTIVE)
    assert now.fact.pod_ip != old.fact.pod_ip
    assert desk.steps_taken() == [Step.OBSERVE, Step.OBSERVE]


async def test_a_job_whose_node_has_died_is_left_alone_by_any_restart_until_kubernetes_has_mended_it(
    local_cluster, local
):
    old = await asyncio.to_thread(create, local)
    [pod] = must(local.pods_of(local.namespace, "loader-a", old.fact.uid))
    local_cluster.lose_node_of(local.namespace, pod.name)
    async with working(local) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
        assert (outcome.result, outcome.reason) == (Result.REFUSED, "superseded")
        assert must(local.list_jobs()).facts[0].pod is PodState.RUNNING
        assert local.delete_pod(pod.name, at_once=False) is None
        await desk.until(lambda: len(must(local.pods_of(local.namespace, "loader-a", ""))) == 2, "another pod")
    assert read(local).fact.uid == old.fact.uid
    left = {each.name: each.deleting for each in must(local.pods_of(local.namespace, "loader-a", ""))}
    assert left.pop(pod.name)
    assert list(left.values()) == [False]


@pytest.mark.soak
def test_kubernetes_tells_of_a_dead_node_what_we_read_of_it(control_plane, real):
    """What lose_node writes, by the node controller itself: that takes 50 s."""
    create(real)
    control_plane.silence_node()
    try:
        lost = until(lambda: read(real).lost, "the node to be taken for dead", seconds=3 * SECONDS)
    finally:
        control_plane.make_whole()
    assert lost.loss is Loss.NODE_GONE
    assert 0.0 <= time.time() - lost.since < SECONDS


async def test_a_node_that_dies_between_the_last_look_and_the_delete_is_noticed(control_plane, real):
    """The Job's status counts the pods that are ready, so the Job is another version of itself."""

    await asyncio.to_thread(create, real)
    await ready_pods(real, 1)
    old = read(real)
    change_status(control_plane, its_pods(control_plane, real)[0], lose_node)
    await ready_pods(real, 0)
    version = old.manifest["metadata"]["resourceVersion"]
    failure = real.delete_job(real.namespace, "loader-a", old.fact.uid, version)
    assert failure is not None
    assert failure.kind is Failure.CONFLICT


@pytest.mark.parametrize(
    ("policy", "phase", "expected"),
    [
        ({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}, "Succeeded", Condition.COMPLETE),
        ({"backoffLimit": 0}, "Failed", Condition.FAILED),
    ],
)
async def test_a_job_has_come_to_its_end_while_pods_of_it_are_still_going(control_plane, real, policy, phase, expected):
    """Kubernetes 1.31 and later: Complete, or Failed, comes with the end of the last pod."""
    manifest = without_a_kubelet(a_job(completionMode="Indexed", completions=2, parallelism=2, **policy))
    old = await asyncio.to_thread(create, real, manifest)
    await ready_pods(real, 2)
    first = next(each for each in its_pods(control_plane, real) if "-0-" in each["metadata"]["name"])

    def end(status):
        code = 0 if phase == "Succeeded" else 1
        status["phase"] = phase
        for container in status["containerStatuses"]:
            container |= {"ready": False, "state": {"terminated": {"exitCode": code}}}

    change_status(control_plane, first, end)
    await asyncio.to_thread(until, lambda: read(real).fact.condition is expected, "its end", seconds=SECONDS)
    now = read(real)
    told = {each["type"] for each in now.manifest["status"]["conditions"] if each["status"] == "True"}
    assert told in ({"SuccessCriteriaMet"}, {"FailureTarget"})
    assert now.manifest["status"]["terminating"] == 1
    async with working(real) as desk:
        await desk.ask(a_command(old))
        outcome = await desk.outcome()
    assert (outcome.reason, outcome.detail) == ("superseded", f"the Job is {expected} meanwhile")


async def test_the_new_pod_never_runs_beside_the_old_one(control_plane, real):
    manifest = a_job()
    manifest["spec"]["template"]["metadata"] = {"annotations": {"kubelab.io/stop-delay": "2s"}}
    old = await asyncio.to_thread(create, real, manifest)

    def incarnations():
        pods = control_plane.call("GET", f"/api/v1/namespaces/{real.namespace}/pods").body["items"]
        return {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods}

    seen = []
    async with working(real) as desk:
        await desk.ask(a_command(old))
        await desk.until(lambda: seen.append(incarnations()) or any(e.final for e in desk.outcomes), "an outcome")
    assert desk.outcomes[-1].result is Result.RESTARTED
    assert max(len(uids) for uids in seen) == 1
    assert seen[0] == {old.fact.uid}
    assert seen[-1] == {read(real).fact.uid}
