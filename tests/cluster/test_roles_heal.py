"""Detector and actuator as two processes under ServiceAccounts of their own, with the shipped rights and no others.

On Apache Kafka and a real control plane, through a proxy that writes down what each asks: with these rights a failed
Job is restarted, and none of them is spare.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from sf_healer import topics
from sf_healer.access import CORE, EVERYBODYS, Access, account_of, needed, rbac
from sf_healer.adapters.cluster import ApiFailure, Cluster, LiveJob
from sf_healer.core import commands
from sf_healer.core.commands import Outcome, Result
from sf_healer.core.facts import PodState
from sf_healer.local import launcher
from sf_healer.settings import Mode, Role
from tests.lab.api_proxy import ApiProxy
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, make_topics, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.api_proxy import Request
    from tests.lab.kafka import KafkaCluster
    from tests.lab.kube import ControlPlane

pytestmark = [pytest.mark.kafka, pytest.mark.kube, pytest.mark.timeout(400)]

TARGET = "arango-connector"
SIDES = (Role.DETECTOR, Role.ACTUATOR)
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 60
startup_threshold_seconds = 60
error_grace_seconds = 1

[admission]
backoff_seconds = 1
refused_retry_seconds = 2
attempts = 8
"""
SEEN_SECONDS = 120.0
FORBIDDEN = 403
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:alpha1)?(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?"
)
_VERBS = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
#: Whoever is authenticated may ask for it (system:public-info-viewer); the inventory reads the server's clock from it.
_VERSION = "/version/"


class Stage:
    """A Job that has failed, and two workers each with a proxy of its own before the API server."""

    def __init__(self, bootstrap: str, plane: ControlPlane, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.plane = plane
        self.directory = directory
        self.namespace = plane.create_namespace()
        self.cluster = Cluster.connect(namespace=self.namespace, kubeconfig=str(plane.kubeconfig))
        self.queue = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", "P4nTkv")
        self.name = launcher.job_name(self.queue.id, TARGET)
        self.key = f"{self.namespace}/{self.name}"

    def create(self) -> LiveJob:
        env = launcher.environment(self.queue, TARGET)
        manifest = launcher.job_manifest(self.queue, TARGET, env, namespace=self.namespace)
        made = self.cluster.create_job(self.namespace, manifest)
        assert isinstance(made, LiveJob), made
        return made

    def job(self) -> LiveJob | None:
        answer = self.cluster.read_job(self.namespace, self.name)
        if isinstance(answer, ApiFailure):
            assert answer.status == 404, answer
            return None
        return answer

    def account(self, role: Role, mode: Mode) -> Path:
        """Give a role the rights that are shipped for it; gives its kubeconfig."""
        self.plane.kubectl("apply", "-f", "-", stdin=rbac(role, mode, namespace=self.namespace))
        rights = [
            {"apiGroups": [need.access.group], "resources": [need.access.resource], "verbs": [need.access.verb]}
            for need in needed(role, mode)
        ]
        return self.plane.kubeconfig_of(self.namespace, account_of(role, self.namespace).name, rights)

    def worker(self, role: Role, mode: Mode, kubeconfig: Path) -> Worker:
        directory = self.directory / f"{role}-{mode}"
        directory.mkdir()
        (directory / "policy.toml").write_text(POLICY)
        return Worker(
            role,
            directory,
            bootstrap=self.bootstrap,
            role=role,
            mode=mode,
            namespace=self.namespace,
            kubeconfig=kubeconfig,
            policy_file=directory / "policy.toml",
            mark_interval_seconds=0.3,
            sweep_window_seconds=0.5,
            broker_session_timeout_seconds=6,
            broker_heartbeat_seconds=0.5,
        )

    async def report(self, *words: str) -> None:
        named = {"queue_id": self.queue.id, "producer": launcher.telemetry_id(TARGET, self.queue.short)}
        says = [{**named, "status": word, "event": word, "finished": word == "error"} for word in words]
        await send(self.bootstrap, [json.dumps(each).encode() for each in says])

    async def results(self) -> set[Result]:
        found = [commands.decode_outcome(each.value) for each in await records_of(self.bootstrap, topics.OUTCOMES)]
        return {outcome.result for outcome in found if isinstance(outcome, Outcome)}

    def events(self) -> list[str]:
        items = self.plane.call("GET", f"/api/v1/namespaces/{self.namespace}/events").body["items"]
        return [event["reason"] for event in items if event["message"].startswith("sf-healer")]


@pytest.fixture
def stage(kafka_single: KafkaCluster, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Stage]:
    asyncio.run(make_topics(kafka_single.bootstrap))
    made = Stage(kafka_single.bootstrap, control_plane, tmp_path)
    yield made
    made.cluster.close()
    asyncio.run(drop_topics(kafka_single.bootstrap))


async def test_with_exactly_their_rights_detector_and_actuator_observe_and_then_heal(stage: Stage):
    first = stage.create()

    async def has_failed() -> bool:
        job = await asyncio.to_thread(stage.job)
        assert job is not None
        # A creation is told in whole seconds: an error within that second could be of the Job before it.
        return job.fact.pod is PodState.RUNNING and time.time() > job.fact.created_at + 1.5

    await until_async(has_failed, "the Job to run", seconds=SEEN_SECONDS)
    await stage.report("started", "loading", "error")

    async def would_restart() -> bool:
        return Result.WOULD_RESTART in await stage.results()

    await _run_until(stage, Mode.OBSERVE, would_restart)
    now = stage.job()
    assert now is not None
    assert now.fact.uid == first.fact.uid

    async def restarted() -> bool:
        job = await asyncio.to_thread(stage.job)
        if job is not None and job.fact.uid != first.fact.uid and job.fact.pod is PodState.RUNNING:
            await stage.report("loading")
        return Result.RESTARTED in await stage.results() and "JobHealed" in await asyncio.to_thread(stage.events)

    await _run_until(stage, Mode.HEAL, restarted)


async def _run_until(stage: Stage, mode: Mode, happened) -> None:
    """Run both sides until something has happened, and look at what each has asked of the API server."""
    asked: dict[Role, list[Request]] = {}
    with ExitStack() as running:
        workers = []
        for role in SIDES:
            account = await asyncio.to_thread(stage.account, role, mode)
            proxy = running.enter_context(ApiProxy.before(account))
            asked[role] = proxy.requests
            through = proxy.kubeconfig(account, at=stage.directory / f"{role}-{mode}.kubeconfig")
            workers.append(running.enter_context(stage.worker(role, mode, through)))
        for worker in workers:
            await asyncio.to_thread(worker.wait_until_ready)

        async def is_over() -> bool:
            for worker in workers:
                assert worker.server.is_alive, worker.tail()
            return bool(await happened())

        tails = "\n".join(worker.tail() for worker in workers)
        await until_async(is_over, f"what both do together in mode {mode}\n{tails}", seconds=SEEN_SECONDS)
    for role in SIDES:
        of_resources = [request for request in asked[role] if urlsplit(request.path).path != _VERSION]
        used = {_access(request, stage.namespace) for request in of_resources} - EVERYBODYS
        assert used == {need.access for need in needed(role, mode)}, f"{role}, {mode}: what is used is what is given"
        assert [request for request in asked[role] if request.status == FORBIDDEN] == []


def _access(request: Request, namespace: str) -> Access:
    """Say which right a request takes; one in another namespace than the Jobs' is nobody's."""
    address = urlsplit(request.path)
    asked = _PATH.fullmatch(address.path)
    assert asked is not None, request.path
    assert asked["namespace"] in {namespace, None}, request.path
    group, resource = asked["group"] or CORE, asked["resource"]
    if request.method != "GET":
        return Access(group, resource, _VERBS[request.method])
    watches = parse_qs(address.query).get("watch", ["false"])[0].lower() == "true"
    return Access(group, resource, "get" if asked["name"] else "watch" if watches else "list")
