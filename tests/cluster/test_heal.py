"""A Job healed end to end: reports in, the sick ones deleted and created again, the others and everything else left.

The deployed worker on the embedded broker and the local cluster, and on Apache Kafka and a real control plane as a
ServiceAccount with the rights it is given in production. The test plays the loaders: who runs, reports.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sf_healer import topics
from sf_healer.adapters.cluster import Cluster, LiveJob
from sf_healer.core import commands
from sf_healer.core.commands import Outcome, Result
from sf_healer.core.facts import PodState
from sf_healer.core.manifest import sanitize
from sf_healer.local import launcher
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from tests.cluster.small import IDLE_PODS, must
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 4
startup_threshold_seconds = 30
error_grace_seconds = 1

[admission]
rate_per_minute = 6000
rate_burst = 100
backoff_seconds = 1
refused_retry_seconds = 2
attempts = 8
"""
SEEN_SECONDS = 90.0
REPORT_EVERY_SECONDS = 0.4
STOPPED_SECONDS = 10.0
#: What the detector and the actuator may do, and nothing else.
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]
#: What the first incarnation of each says, once; later ones, and the one that is well, go on and on.
FIRST_WORDS = {"well": [], "hangs": ["started", "loading"], "fails": ["started", "loading", "error"]}
SICK = {"hangs": "stuck", "fails": "failed"}


class Ground(msgspec.Struct):
    """Where a test heals: a broker, a namespace, and who may do what in it."""

    bootstrap: str
    cluster: Cluster  # the test's own, with every right
    kubeconfig: Path  # the worker's
    get: Callable[[str], dict[str, Any]]  # from the API server
    honours_log_append_time: bool
    session_seconds: float


@contextmanager
def small(tmp_path: Path) -> Iterator[Ground]:
    with EmbeddedBroker() as broker, LocalCluster(command=IDLE_PODS) as plane:
        asyncio.run(make_topics(broker.bootstrap))
        cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(plane.kubeconfig))

        def get(path: str) -> dict[str, Any]:
            with urllib.request.urlopen(plane.url + path, timeout=10.0) as answer:
                return json.load(answer)

        yield Ground(broker.bootstrap, cluster, plane.kubeconfig, get, honours_log_append_time=False, session_seconds=3)
        cluster.close()


@contextmanager
def real(kafka_single: Any, control_plane: Any) -> Iterator[Ground]:
    asyncio.run(make_topics(kafka_single.bootstrap))
    namespace = control_plane.create_namespace()
    cluster = Cluster.connect(namespace=namespace, kubeconfig=str(control_plane.kubeconfig))
    healer = control_plane.service_account(namespace, "healer", RULES)

    def get(path: str) -> dict[str, Any]:
        answer = control_plane.call("GET", path)
        assert answer.status == 200, answer
        return answer.body

    yield Ground(kafka_single.bootstrap, cluster, healer, get, honours_log_append_time=True, session_seconds=6)
    cluster.close()
    asyncio.run(drop_topics(kafka_single.bootstrap))


@pytest.fixture(
    params=[
        pytest.param("small", marks=pytest.mark.embedded),
        pytest.param("real", marks=[pytest.mark.kafka, pytest.mark.kube]),
    ]
)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "small":
        with small(tmp_path) as made:
            yield made
        return
    with real(request.getfixturevalue("kafka_single"), request.getfixturevalue("control_plane")) as made:
        yield made


class Loaders:
    """The Jobs, and what their processes report: who runs speaks, each incarnation on its own."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.queues = {role: launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", role) for role in FIRST_WORDS}
        self.names = {role: launcher.job_name(queue.id, "arango-connector") for role, queue in self.queues.items()}
        self.first: dict[str, LiveJob] = {}
        self._spoken: set[str] = set()

    def key(self, role: str) -> str:
        return f"{self.ground.cluster.namespace}/{self.names[role]}"

    def create(self) -> None:
        namespace = self.ground.cluster.namespace
        for role, queue in self.queues.items():
            env = launcher.environment(queue, "arango-connector")
            manifest = launcher.job_manifest(queue, "arango-connector", env, namespace=namespace)
            manifest["metadata"]["annotations"] = {"note": role}
            manifest["metadata"]["labels"] = {"team": "data"}
            self.first[role] = must(self.ground.cluster.create_job(namespace, manifest))

    def now(self) -> dict[str, LiveJob]:
        """Give the Jobs as they are; one that is being restarted may not be there."""
        found = {
            role: self.ground.cluster.read_job(self.ground.cluster.namespace, self.names[role]) for role in self.names
        }
        return {role: job for role, job in found.items() if isinstance(job, LiveJob)}

    async def report(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for role, job in (await asyncio.to_thread(self.now)).items():
                # A creation is told in whole seconds, and clocks are compared to a third of one: an error that comes
                # sooner could be of the Job before it.
                if job.fact.pod is not PodState.RUNNING or time.time() < job.fact.created_at + 2.0:
                    continue
                uid, first = job.fact.uid, self.first[role].fact.uid
                words = FIRST_WORDS[role] if uid == first else []
                if not words:
                    await send(self.ground.bootstrap, [self._says(role, "loading")])
                elif uid not in self._spoken:
                    self._spoken.add(uid)
                    await send(self.ground.bootstrap, [self._says(role, word) for word in words])
            await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=REPORT_EVERY_SECONDS)

    def _says(self, role: str, status: str) -> bytes:
        queue = self.queues[role]
        named = {"queue_id": queue.id, "producer": launcher.telemetry_id("arango-connector", queue.short)}
        return json.dumps({**named, "status": status, "event": status, "finished": status == "error"}).encode()


async def outcomes_of(ground: Ground) -> list[Outcome]:
    records = await records_of(ground.bootstrap, topics.OUTCOMES)
    found = [commands.decode_outcome(record.value) for record in records]
    assert all(isinstance(outcome, Outcome) for outcome in found)
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


def worker_of(ground: Ground, directory: Path, mode: str) -> Worker:
    (directory / "policy.toml").write_text(POLICY)
    settings: dict[str, Any] = {} if ground.honours_log_append_time else {"demo_accept_create_time": "true"}
    return Worker(
        f"worker-{mode}",
        directory,
        bootstrap=ground.bootstrap,
        mode=mode,
        namespace=ground.cluster.namespace,
        kubeconfig=ground.kubeconfig,
        policy_file=directory / "policy.toml",
        data_dir=directory / "data",
        mark_interval_seconds=0.3,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=ground.session_seconds,
        broker_heartbeat_seconds=0.5,
        **settings,
    )


def end(worker: Worker) -> None:
    child = worker.server._child
    assert child is not None
    child.send_signal(signal.SIGTERM)
    assert child.wait(STOPPED_SECONDS) == 0, worker.tail()


async def test_the_stuck_and_the_failed_job_are_made_again_once_and_the_one_that_is_well_is_left_alone(
    ground: Ground, tmp_path: Path
):
    loaders = Loaders(ground)
    loaders.create()
    stop = asyncio.Event()
    reporting = asyncio.create_task(loaders.report(stop))
    try:
        await _observed(ground, loaders, tmp_path)
        await _healed(ground, loaders, tmp_path)
    finally:
        stop.set()
        await reporting


async def _observed(ground: Ground, loaders: Loaders, directory: Path) -> None:
    """With `mode = observe` everything is decided and reported, and nothing is touched."""
    with worker_of(ground, directory, "observe") as worker:
        await asyncio.to_thread(worker.wait_until_ready)

        async def decided() -> set[str]:
            rows = await asyncio.to_thread(worker.jobs)
            assert worker.server.is_alive, worker.tail()
            found = {outcome.key for outcome in await outcomes_of(ground) if outcome.result is Result.WOULD_RESTART}
            sick = {role: rows.get(loaders.key(role), {}).get("verdict") for role in SICK}
            return found if sick == SICK else set()  # the second may have to wait for its turn: one at a time

        would = await until_async(decided, "both to be found and one to be decided", seconds=SEEN_SECONDS)
        assert would <= {loaders.key(role) for role in SICK}
        await asyncio.to_thread(end, worker)
    assert loaders.key("well") not in {outcome.key for outcome in await outcomes_of(ground)}
    assert {role: job.manifest["metadata"]["uid"] for role, job in loaders.now().items()} == {
        role: job.fact.uid for role, job in loaders.first.items()
    }
    assert events_of(ground) == []


async def _healed(ground: Ground, loaders: Loaders, directory: Path) -> None:
    with worker_of(ground, directory, "heal") as worker:
        await asyncio.to_thread(worker.wait_until_ready)

        async def restarted() -> bool:
            assert worker.server.is_alive, worker.tail()
            final = [outcome for outcome in await outcomes_of(ground) if outcome.result is Result.RESTARTED]
            return {outcome.key for outcome in final} == {loaders.key(role) for role in SICK}

        await until_async(restarted, "both to be restarted and verified", seconds=SEEN_SECONDS)

        async def all_well() -> bool:
            rows = await asyncio.to_thread(worker.jobs)
            return {rows[loaders.key(role)]["verdict"] for role in FIRST_WORDS} == {"healthy"}

        await until_async(all_well, "all three to be healthy", seconds=SEEN_SECONDS)
        await until_async(lambda: _events_there(ground), "the Events", seconds=SEEN_SECONDS)
        await asyncio.to_thread(end, worker)

    now = loaders.now()
    assert now["well"].fact.uid == loaders.first["well"].fact.uid
    assert "sf-healer.io/attempt" not in now["well"].manifest["metadata"]["annotations"]
    for role in SICK:
        check_restarted(loaders.first[role], now[role])
    check_told(ground, loaders, now, await outcomes_of(ground))


def check_restarted(before: LiveJob, after: LiveJob) -> None:
    """The same Job in a new incarnation: its name, its spec and what people wrote on it are as they were."""
    assert after.fact.key == before.fact.key
    assert after.fact.uid != before.fact.uid
    annotations = after.manifest["metadata"]["annotations"]
    assert annotations["sf-healer.io/attempt"] == "1"
    assert annotations["sf-healer.io/replaces-uid"] == before.fact.uid
    assert annotations["note"] == before.manifest["metadata"]["annotations"]["note"]
    manifests = [sanitize(job.manifest) for job in (before, after)]
    for manifest in manifests:
        del manifest["metadata"]["annotations"]
    assert manifests[0] == manifests[1]


def check_told(ground: Ground, loaders: Loaders, now: dict[str, LiveJob], outcomes: list[Outcome]) -> None:
    """Each restart is one outcome in the audit and one Event on the new incarnation."""
    restarted = [outcome for outcome in outcomes if outcome.result is Result.RESTARTED]
    assert sorted((outcome.key, outcome.verdict, outcome.uid, outcome.new_uid) for outcome in restarted) == sorted(
        (loaders.key(role), verdict, loaders.first[role].fact.uid, now[role].fact.uid) for role, verdict in SICK.items()
    )
    assert all(outcome.final and outcome.evidence.watermark for outcome in restarted)
    assert loaders.key("well") not in {outcome.key for outcome in outcomes}
    assert sorted(event["involvedObject"]["uid"] for event in events_of(ground)) == sorted(
        now[role].fact.uid for role in SICK
    )
    for event in events_of(ground):
        assert (event["reason"], event["type"], event["involvedObject"]["kind"]) == ("JobHealed", "Normal", "Job")
        assert "silent for" in event["message"] or "failed" in event["message"]


def events_of(ground: Ground) -> list[dict[str, Any]]:
    """Give the Events that say how a restart ended."""
    events = ground.get(f"/api/v1/namespaces/{ground.cluster.namespace}/events")["items"]
    told = [event for event in events if event.get("message", "").startswith("sf-healer")]
    return [event for event in told if event["reason"] not in {"JobStuck", "JobFailed", "HealingRefused"}]


async def _events_there(ground: Ground) -> bool:
    return len(await asyncio.to_thread(events_of, ground)) == len(SICK)
