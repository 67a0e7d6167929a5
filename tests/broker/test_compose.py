"""docker-compose.yml says what works: each service's command and environment, run as processes on the lab's Kafka."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sf_healer import __version__, settings, topics
from sf_healer.adapters import kafka as kafka_admin
from sf_healer.local.services import SERVICES, Dialect
from tests.broker.composed_kafka import composed
from tests.lab.captures import generate_capture, write_capture
from tests.lab.kafka.installation import VERSION
from tests.lab.process import Server
from tests.lab.waiting import until, until_async
from tests.lab.worker import Worker, drop_topics
from tests.manifests.built import Strict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kafka import KafkaCluster

NAMED = {Dialect.STATUS, Dialect.STATUS_WITHOUT_ARANGO, Dialect.STATUS_DUMMY}
COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
INSIDE = "kafka:19092"  # the address at which the services find Kafka
WORKERS = {"detector": 6066, "actuator": 6067}
BROKERS = {"kafka": 9092, "kafka-2": 9094, "kafka-3": 9095}
READY_SECONDS = 120.0
OBSERVABILITY = {"kafka-ui", "prometheus", "grafana"}
#: Made beside this; its own tests say what is in it.
DASHBOARD = "manifests/observability/grafana-dashboard.json"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.load(COMPOSE.read_text(), Loader=Strict)["services"]  # a safe loader


def test_every_image_is_pinned_and_kafkas_to_the_version_that_the_lab_tests(services: dict[str, Any]):
    images = {name: service["image"] for name, service in services.items()}
    assert {images[name] for name in BROKERS} == {f"apache/kafka:{VERSION}"}
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", images[name]) for name in images), images
    built = {name for name, service in services.items() if "build" in service}
    assert built == {"topics", *WORKERS}
    assert {images[name] for name in built} == {f"sf-healer:{__version__}"}


def test_only_what_is_asked_for_is_started(services: dict[str, Any]):
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert {name for name, asked in profiles.items() if asked == ["three-brokers"]} == BROKERS.keys() - {"kafka"}
    assert {name for name, asked in profiles.items() if asked == ["observability"]} == OBSERVABILITY
    assert len(profiles) == len(BROKERS) - 1 + len(OBSERVABILITY)


def test_what_is_mounted_is_in_the_repository(services: dict[str, Any]):
    for name, service in services.items():
        for source in (mount.partition(":")[0] for mount in service.get("volumes", []) if mount.startswith("./")):
            assert (COMPOSE.parent / source).is_file(), name


def test_prometheus_asks_every_worker_where_it_answers(services: dict[str, Any]):
    (job,) = yaml.safe_load((COMPOSE.parent / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    (targets,) = job["static_configs"]
    assert targets["targets"] == [f"{name}:{port}" for name, port in WORKERS.items()]
    assert job["metrics_path"] == "/metrics"


def test_grafana_finds_prometheus_and_the_dashboard(services: dict[str, Any]):
    there = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    places = COMPOSE.parent / "compose" / "grafana"
    (source,) = yaml.safe_load((places / "datasources.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((places / "dashboards.yml").read_text())["providers"]
    assert Path(there[f"./{DASHBOARD}"]).parent == Path(provider["options"]["path"])


def test_servers_tell_their_health_and_what_needs_them_waits_for_it(services: dict[str, Any]):
    checks = {name: service["healthcheck"] for name, service in services.items() if "healthcheck" in service}
    assert checks.pop("topics") == {"disable": True}, "the image's own asks a worker"
    assert checks.keys() == BROKERS.keys() | WORKERS.keys()
    for check in checks.values():
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries"} <= check.keys()
    healthy = {"condition": "service_healthy"}
    of_profile = healthy | {"required": False}
    assert services["topics"]["depends_on"] == {"kafka": healthy, "kafka-2": of_profile, "kafka-3": of_profile}
    for name, port in WORKERS.items():
        assert f"127.0.0.1:{port}/readyz" in checks[name]["test"][-1]
        assert services[name]["environment"]["SF_HEALER_WEB_PORT"] == str(port)
        assert services[name]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_the_brokers_listeners_are_those_that_clients_are_told_to_use(services: dict[str, Any]):
    for service, port in BROKERS.items():
        kafka = services[service]["environment"]
        listeners = dict(part.split("://") for part in kafka["KAFKA_LISTENERS"].split(","))
        advertised = dict(part.split("://") for part in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
        assert advertised == {"INSIDE": f"{service}:19092", "OUTSIDE": f"localhost:{port}"}
        for name, address in advertised.items():
            assert listeners[name].rpartition(":")[2] == address.rpartition(":")[2]
        assert services[service]["ports"] == [f"127.0.0.1:{port}:{port}"]
    for name in ("topics", *WORKERS):
        assert services[name]["environment"]["SF_HEALER_BROKER_URL"] == f"kafka://{INSIDE}"


def test_the_brokers_are_one_cluster_with_one_controller(services: dict[str, Any]):
    told = [services[name]["environment"] for name in BROKERS]
    assert len({each["CLUSTER_ID"] for each in told}) == 1
    assert [each["KAFKA_NODE_ID"] for each in told] == ["1", "2", "3"]
    assert [each["KAFKA_PROCESS_ROLES"] for each in told] == ["broker,controller", "broker", "broker"]
    assert {each["KAFKA_CONTROLLER_QUORUM_VOTERS"] for each in told} == {"1@kafka:9093"}


def test_every_setting_is_one_that_there_is(services: dict[str, Any]):
    for service in services.values():
        told = service.get("environment", {})
        assert all(isinstance(value, str) for value in told.values()), (
            "YAML would turn other values into something else"
        )
        settings.load({name: value for name, value in told.items() if name.startswith("SF_HEALER_")})


def test_ports_are_published_on_loopback_only(services: dict[str, Any]):
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_workers_observe_ask_no_cluster_and_are_one_of_each_role(services: dict[str, Any]):
    for name in WORKERS:
        environment = services[name]["environment"]
        assert environment["SF_HEALER_MODE"] == "observe"
        assert environment["SF_HEALER_IDENTITY"] == "convention"
        assert environment["SF_HEALER_ROLE"] == name
        assert services[name]["read_only"] is True
        (mounted,) = (mount.partition(":")[2] for mount in services[name]["volumes"])
        assert environment["SF_HEALER_DATA_DIR"] == mounted


@pytest.fixture
def kafka(kafka_single: KafkaCluster) -> Iterator[KafkaCluster]:
    """Lend the broker as compose's own is: without our topics. Nothing is left on it for the next test."""
    asyncio.run(drop_topics(kafka_single.bootstrap))
    yield kafka_single
    asyncio.run(drop_topics(kafka_single.bootstrap))


@pytest.mark.timeout(200)
def test_a_capture_fed_to_the_composed_services_is_judged(
    services: dict[str, Any], kafka: KafkaCluster, tmp_path: Path
):
    created = _run(services["topics"]["command"], _environment(services["topics"], kafka, tmp_path))
    assert created.returncode == 0, created.stdout + created.stderr
    detector, actuator = (_worker(services, name, kafka, tmp_path) for name in WORKERS)
    with detector, actuator:
        for worker in (detector, actuator):
            _until_healthy(services[worker.server.name]["healthcheck"], worker)
        capture = generate_capture(7, with_garbage=False)
        file = write_capture(tmp_path, "fed", capture)
        # As the first lines of docker-compose.yml say it, with the lab's address.
        fed = _run(["sf-healer", "feed", str(file), "--bootstrap", kafka.bootstrap], {"PATH": os.environ["PATH"]})
        assert fed.returncode == 0, fed.stderr
        assert f"{len(capture.lines)} records sent to queue-events" in fed.stderr
        ended = {
            f"stf/{name}"
            for name, row in capture.truth["jobs"].items()
            # without a cluster a Job has its whole name only if its reports say queue and producer
            if row["verdict"] == "completed" and SERVICES[row["service"]].dialect in NAMED
        }
        assert ended

        def judged() -> bool:
            rows = detector.jobs()
            return ended <= rows.keys() and {rows[job]["verdict"] for job in ended} == {"completed"}

        until(judged, "the Jobs that ended to be listed as completed", seconds=60)
        assert actuator.server.is_alive, actuator.tail()


@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_with_the_profile_topics_have_three_replicas(services: dict[str, Any], tmp_path: Path):
    with composed({name: services[name]["environment"] for name in BROKERS}, tmp_path) as bootstrap:
        service = services["topics"]
        environment = {"PATH": os.environ["PATH"], **service["environment"]}
        environment["SF_HEALER_BROKER_URL"] = environment["SF_HEALER_BROKER_URL"].replace(INSIDE, bootstrap)
        told = settings.load({name: value for name, value in environment.items() if name.startswith("SF_HEALER_")})

        async def all_are_there() -> bool:  # compose waits for their health checks
            async with kafka_admin.admin(told) as admin:
                return await admin.broker_count() == len(BROKERS)

        await until_async(all_are_there, "three brokers in one cluster", seconds=READY_SECONDS)
        created = await asyncio.to_thread(_run, service["command"], environment)
        assert created.returncode == 0, created.stdout + created.stderr
        async with kafka_admin.admin(told) as admin:
            found = await admin.describe([spec.name for spec in topics.specs(told, len(BROKERS))])
        assert {each.replication_factor for each in found.values()} == {len(BROKERS)}
        assert {each.configs["min.insync.replicas"] for each in found.values()} == {"2"}


def _worker(services: dict[str, Any], name: str, kafka: KafkaCluster, directory: Path) -> Worker:
    """Compose the process that a service would be."""
    worker = Worker(name, directory, bootstrap=kafka.bootstrap)
    worker.environment = _environment(services[name], kafka, worker.directory, port=worker.port)
    variables = [f"{key}={value}" for key, value in worker.environment.items()]
    worker.server = Server(name, ["env", "-i", *variables, *_here(services[name]["command"])], log=worker.log)
    return worker


def _until_healthy(check: dict[str, Any], worker: Worker) -> None:
    """Ask as compose asks, with the container's python and port made local."""
    port = WORKERS[worker.server.name]
    command = [part.replace(f":{port}", f":{worker.port}") for part in check["test"][1:]]
    command[0] = sys.executable
    until(
        lambda: subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0,
        "the health check to succeed",
        seconds=90,
    )


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_here(command), env=environment, capture_output=True, text=True, check=False, timeout=60)


def _here(command: list[str]) -> list[str]:
    return [str(Path(sys.executable).with_name(command[0])), *command[1:]]


def _environment(
    service: dict[str, Any], kafka: KafkaCluster, directory: Path, *, port: int | None = None
) -> dict[str, str]:
    """Give the service's environment with what a container would have of its own made local."""
    local = {name: value.replace(INSIDE, kafka.bootstrap) for name, value in service["environment"].items()}
    if port is not None:
        local |= {
            "SF_HEALER_WEB_HOST": "127.0.0.1",
            "SF_HEALER_WEB_PORT": str(port),
            "SF_HEALER_WEB_ADVERTISED_URL": f"http://127.0.0.1:{port}",
            "SF_HEALER_DATA_DIR": str(directory / "data"),
        }
    return {"PATH": os.environ["PATH"], "HOME": str(directory), **local}
