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

from sf_healer import settings
from sf_healer.local.captures import generate_capture, write_capture
from sf_healer.local.services import SERVICES, Dialect
from tests.lab.kafka.installation import VERSION
from tests.lab.process import Server
from tests.lab.waiting import until
from tests.lab.worker import Worker, drop_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kafka import KafkaCluster

NAMED = {Dialect.STATUS, Dialect.STATUS_WITHOUT_ARANGO, Dialect.STATUS_DUMMY}
COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
INSIDE = "kafka:19092"  # the address at which the services find Kafka


class _Strict(yaml.SafeLoader):
    """YAML without the silent overwriting of a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.load(COMPOSE.read_text(), Loader=_Strict)["services"]  # a safe loader


def test_every_image_is_pinned_to_the_version_that_the_lab_tests(services: dict[str, Any]):
    images = {name: service["image"] for name, service in services.items() if "build" not in service}
    assert images == {"kafka": f"apache/kafka:{VERSION}"}
    assert {name for name, service in services.items() if "build" in service} == {"topics", "worker"}


def test_the_image_built_here_stands_on_a_pinned_one_and_on_hashed_requirements():
    told = (COMPOSE.parent / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", told, flags=re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases
    assert "--require-hashes --requirement requirements.lock" in told
    assert "\nUSER " in told


def test_servers_tell_their_health_and_what_needs_them_waits_for_it(services: dict[str, Any]):
    assert {name for name, service in services.items() if "healthcheck" in service} == {"kafka", "worker"}
    for name in ("kafka", "worker"):
        check = services[name]["healthcheck"]
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries"} <= check.keys()
    assert "127.0.0.1:6066/readyz" in services["worker"]["healthcheck"]["test"][-1]
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_the_brokers_two_listeners_are_those_that_clients_are_told_to_use(services: dict[str, Any]):
    kafka = services["kafka"]["environment"]
    listeners = dict(part.split("://") for part in kafka["KAFKA_LISTENERS"].split(","))
    advertised = dict(part.split("://") for part in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised == {"INSIDE": INSIDE, "OUTSIDE": "localhost:9092"}
    for name, address in advertised.items():
        assert listeners[name].rpartition(":")[2] == address.rpartition(":")[2]
    assert "127.0.0.1:9092:9092" in services["kafka"]["ports"]
    for name in ("topics", "worker"):
        assert services[name]["environment"]["SF_HEALER_BROKER_URL"] == f"kafka://{INSIDE}"


def test_every_setting_is_one_that_there_is(services: dict[str, Any]):
    for service in services.values():
        told = service["environment"]
        assert all(isinstance(value, str) for value in told.values()), (
            "YAML would turn other values into something else"
        )
        settings.load({name: value for name, value in told.items() if name.startswith("SF_HEALER_")})


def test_ports_are_published_on_loopback_only(services: dict[str, Any]):
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_worker_observes_and_asks_no_cluster(services: dict[str, Any]):
    environment = services["worker"]["environment"]
    assert environment["SF_HEALER_MODE"] == "observe"
    assert environment["SF_HEALER_IDENTITY"] == "convention"


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
    worker = Worker("composed", tmp_path, bootstrap=kafka.bootstrap)
    worker.environment = _environment(services["worker"], kafka, tmp_path, port=worker.port)
    variables = [f"{name}={value}" for name, value in worker.environment.items()]
    worker.server = Server("composed", ["env", "-i", *variables, *_here(services["worker"]["command"])], log=worker.log)
    with worker:
        _until_healthy(services["worker"]["healthcheck"], worker)
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
            rows = worker.jobs()
            return ended <= rows.keys() and {rows[job]["verdict"] for job in ended} == {"completed"}

        until(judged, "the Jobs that ended to be listed as completed", seconds=60)


def _until_healthy(check: dict[str, Any], worker: Worker) -> None:
    """Ask as compose asks, with the container's python and port made local."""
    command = [part.replace(":6066", f":{worker.port}") for part in check["test"][1:]]
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
