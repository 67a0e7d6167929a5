"""docker-compose.yml says what works: each service's command and environment, run as processes on the lab's Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sf_healer.local.captures import generate_capture, write_capture
from tests.lab.process import Server
from tests.lab.waiting import until
from tests.lab.worker import READY_SECONDS, Worker

if TYPE_CHECKING:
    from tests.lab.kafka import KafkaCluster

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


def test_every_image_is_pinned_and_every_server_tells_its_health(services: dict[str, Any]):
    for name, service in services.items():
        assert "build" in service or service["image"].rpartition(":")[2] not in {"", "latest", service["image"]}, name
    assert {name for name, service in services.items() if "healthcheck" in service} == {"kafka", "worker"}


def test_ports_are_published_on_loopback_only(services: dict[str, Any]):
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_worker_observes_and_asks_no_cluster(services: dict[str, Any]):
    environment = services["worker"]["environment"]
    assert environment["SF_HEALER_MODE"] == "observe"
    assert environment["SF_HEALER_IDENTITY"] == "convention"


@pytest.mark.timeout(200)
def test_a_capture_fed_to_the_composed_services_is_judged(
    services: dict[str, Any], kafka_single: KafkaCluster, tmp_path: Path
):
    created = subprocess.run(
        _here(services["topics"]["command"]),
        env=_environment(services["topics"], kafka_single, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert created.returncode == 0, created.stdout + created.stderr
    worker = Worker("composed", tmp_path, bootstrap=kafka_single.bootstrap)
    worker.environment = _environment(services["worker"], kafka_single, tmp_path, port=worker.port)
    variables = [f"{name}={value}" for name, value in worker.environment.items()]
    worker.server = Server("composed", ["env", "-i", *variables, *_here(services["worker"]["command"])], log=worker.log)
    with worker:
        worker.wait_until_ready(READY_SECONDS)
        capture = generate_capture(7, with_garbage=False)
        file = write_capture(tmp_path, "fed", capture)
        fed = subprocess.run(
            _here(["sf-healer", "feed", str(file), "--bootstrap", kafka_single.bootstrap]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert fed.returncode == 0, fed.stderr
        # Without a cluster a Job's name is known only if its reports carry both its queue and its producer.
        spoken = {
            f"stf/{name}"
            for name, row in capture.truth["jobs"].items()
            if row["verdict"] == "completed" and row["service"] in {"loader-ws-candles", "gnn-trainer", "visualizer"}
        }
        assert spoken
        until(lambda: spoken <= worker.jobs().keys(), "the Jobs of the capture to be listed", seconds=60)
        until(
            lambda: {worker.jobs()[job]["verdict"] for job in spoken} == {"completed"},
            "the ended Jobs to be judged so",
            seconds=60,
        )


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
