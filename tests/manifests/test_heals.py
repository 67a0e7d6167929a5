"""What is shipped heals: the overlay applied, its operators played, its Deployments' environment run as processes.

Three brokers that want TLS, a login and ACLs; a real API server; the ServiceAccount's own token. Only addresses, times
and the place of mounts are the test's.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.adapters.cluster import Cluster
from sf_healer.core.commands import Result
from sf_healer.core.facts import PodState
from sf_healer.settings import Settings
from sf_healer.topics import Spec
from tests.lab.kafka import OLDEST_VERSION, VERSION, KafkaCluster, acls_of, allow
from tests.lab.process import Server
from tests.lab.sick import Sick
from tests.lab.waiting import until, until_async
from tests.lab.worker import Worker
from tests.manifests.built import of_kind, settings_of
from tests.manifests.platform import JOBS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.manifests.platform import Platform

pytestmark = [pytest.mark.kafka, pytest.mark.kube, pytest.mark.crds, pytest.mark.timeout(600)]

#: The shipped policy waits five minutes before silence is sickness.
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 10
startup_threshold_seconds = 60

[admission]
backoff_seconds = 1
refused_retry_seconds = 2
"""
QUICK = {
    "SF_HEALER_MARK_INTERVAL_SECONDS": "0.3",
    "SF_HEALER_SWEEP_WINDOW_SECONDS": "0.5",
    "SF_HEALER_BROKER_SESSION_TIMEOUT_SECONDS": "10",
    "SF_HEALER_BROKER_HEARTBEAT_SECONDS": "2",
}
READY_SECONDS = 150.0
SEEN_SECONDS = 150.0
USERS = ("sf-healer", "sf-healer-detector", "sf-healer-actuator", "sf-healer-people")


class Operators:
    """Strimzi, played: topics and users as the API server has them, and the Secrets that Pods mount."""

    def __init__(self, platform: Platform, brokers: KafkaCluster, passwords: dict[str, str]) -> None:
        self.platform = platform
        self.brokers = brokers
        self.passwords = passwords

    async def make_topics(self) -> None:
        path = f"/apis/kafka.strimzi.io/v1/namespaces/{WORKERS}/kafkatopics"
        listed = (await asyncio.to_thread(self.platform.read, path))["items"]
        ours = [_spec(each) for each in listed]
        told = Settings(broker_url=f"kafka://{self.brokers.bootstrap}")
        async with kafka.admin(told) as admin:
            await admin.create([*ours, *topics.platform_specs(told, 3)])

    async def make_users(self) -> None:
        path = f"/apis/kafka.strimzi.io/v1/namespaces/{WORKERS}/kafkausers"
        for user in (await asyncio.to_thread(self.platform.read, path))["items"]:
            await allow(self.brokers.bootstrap, user["metadata"]["name"], acls_of(user))

    def mount(self, overlay: str, deployment: str, directory: Path) -> dict[str, Path]:
        """Write what a Pod has mounted; gives the place of each mount."""
        spec = of_kind(overlay, "Deployment")[deployment]["spec"]["template"]["spec"]
        volumes = {each["name"]: each for each in spec["volumes"]}
        places = {}
        for mount in spec["containers"][0]["volumeMounts"]:
            place = places[mount["mountPath"]] = directory / mount["name"]
            place.mkdir(parents=True)
            for name, content in self._files(overlay, volumes[mount["name"]]).items():
                (place / name).write_text(content)
        return places

    def _files(self, overlay: str, volume: dict[str, Any]) -> dict[str, str]:
        if "configMap" in volume:
            shipped = of_kind(overlay, "ConfigMap")[volume["configMap"]["name"]]["data"]
            return dict.fromkeys(shipped, POLICY)
        secret = volume.get("secret", {}).get("secretName")
        if secret == "k3-cluster-ca-cert":
            return {"ca.crt": self.brokers.ca_file.read_text()}
        return {"password": self.passwords[secret]} if secret else {}


def _spec(topic: dict[str, Any]) -> Spec:
    told = topic["spec"]
    return Spec(
        name=topic["metadata"]["name"],
        partitions=told["partitions"],
        replication_factor=told["replicas"],
        configs=told["config"],
    )


@pytest.fixture
def operators(platform: Platform, tmp_path: Path, version: str) -> Iterator[Operators]:
    passwords = {user: secrets.token_hex(12) for user in USERS}
    with KafkaCluster.start(brokers=3, directory=tmp_path / "kafka", users=passwords, version=version) as brokers:
        yield Operators(platform, brokers, passwords)


# The platform's own version, and the newest.
@pytest.mark.parametrize(("overlay", "version"), [("heal", OLDEST_VERSION), ("heal-split", VERSION)])
async def test_what_is_shipped_heals_a_stuck_job(operators: Operators, overlay: str, tmp_path: Path):
    platform, bootstrap = operators.platform, operators.brokers.bootstrap
    admin = await asyncio.to_thread(lambda: Cluster.connect(namespace=JOBS, kubeconfig=str(platform.plane.kubeconfig)))
    with ExitStack() as running:
        running.callback(admin.close)
        await asyncio.to_thread(running.enter_context, platform.applied(overlay))
        await operators.make_topics()
        await operators.make_users()
        workers = [_worker(operators, overlay, name, tmp_path) for name in of_kind(overlay, "Deployment")]
        for worker in workers:
            running.enter_context(worker)
        for worker in workers:
            await asyncio.to_thread(worker.wait_until_ready, READY_SECONDS)
        sick = Sick(admin, bootstrap)
        first = await asyncio.to_thread(sick.create)
        running.callback(platform.plane.kubectl, "delete", "job", "-n", JOBS, "--ignore-not-found", sick.name)

        async def reports() -> bool:
            job = await asyncio.to_thread(sick.look)
            return job is not None and job.fact.pod is PodState.RUNNING

        await until_async(reports, "the Job to run", seconds=SEEN_SECONDS)
        await sick.says("started", "loading")

        async def healed() -> bool:
            for worker in workers:
                assert worker.server.is_alive, worker.tail()
            job = await asyncio.to_thread(sick.look)
            if job is not None and job.fact.uid != first.fact.uid and job.fact.pod is PodState.RUNNING:
                await sick.says("loading")
            return Result.RESTARTED in await sick.results()

        tails = "\n".join(worker.tail() for worker in workers)
        await until_async(healed, f"the Job to be healed\n{tails}", seconds=SEEN_SECONDS)
        for worker in workers:
            assert "authorization" not in worker.log.read_text().lower()
            await asyncio.to_thread(_probes_are_green, overlay, worker)


def _worker(operators: Operators, overlay: str, deployment: str, directory: Path) -> Worker:
    """Compose the process that a Pod of this Deployment would be, with the ServiceAccount's own token."""
    spec = of_kind(overlay, "Deployment")[deployment]["spec"]["template"]["spec"]
    kubeconfig = operators.platform.plane.kubeconfig_of(WORKERS, spec["serviceAccountName"])
    places = operators.mount(overlay, deployment, directory / deployment)
    worker = Worker(deployment, directory, bootstrap=operators.brokers.secure_bootstrap)
    addresses = {name: worker.environment[name] for name in ("SF_HEALER_BROKER_URL", "SF_HEALER_WEB_PORT")}
    told = {name: _local(value, places) for name, value in settings_of(overlay, deployment).items()}
    addresses |= {
        "SF_HEALER_WEB_HOST": "127.0.0.1",
        "SF_HEALER_WEB_ADVERTISED_URL": f"http://127.0.0.1:{worker.port}",
        "SF_HEALER_KUBECONFIG": str(kubeconfig),
    }
    worker.environment.clear()
    worker.environment.update(told | addresses | QUICK)
    worker.server = Server(deployment, worker.command("worker"), log=worker.log)
    return worker


def _local(value: str, places: dict[str, Path]) -> str:
    path = Path(value)
    for mounted, place in places.items():
        if path.is_absolute() and path.is_relative_to(mounted):
            return str(place / path.relative_to(mounted))
    return value


def _probes_are_green(overlay: str, worker: Worker) -> None:
    (container,) = of_kind(overlay, "Deployment")[worker.server.name]["spec"]["template"]["spec"]["containers"]
    (scraped,) = of_kind(overlay, "PodMonitor")["sf-healer"]["spec"]["podMetricsEndpoints"]
    paths = [container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    for path in (*paths, scraped["path"]):
        until(partial(_is_green, worker, path), f"{path} to be green", seconds=SEEN_SECONDS)


def _is_green(worker: Worker, path: str) -> bool:
    answer = worker.get(path)
    return answer is not None and answer.status == 200
