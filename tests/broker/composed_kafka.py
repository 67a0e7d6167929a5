"""The brokers of docker-compose.yml as processes: their own environment, read as the image's start script reads it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.lab.kafka.cluster import SHORT_LIVED
from tests.lab.kafka.installation import java_command
from tests.lab.ports import LOOPBACK, free_ports, is_answering
from tests.lab.process import Server, stop_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_SECONDS = 120.0
STOP_SECONDS = 20.0


@contextmanager
def composed(environments: Mapping[str, Mapping[str, str]], directory: Path) -> Iterator[str]:
    """Run brokers; gives the address of the first one's INSIDE listener. Only addresses and places are ours."""
    moved: dict[str, str] = {}
    for name, told in environments.items():
        for listener in told["KAFKA_LISTENERS"].split(","):
            port = listener.rpartition(":")[2]
            moved[f"{name}:{port}"] = f"{LOOPBACK}:{free_ports(1)[0]}"
    brokers = []
    for name, told in environments.items():
        home = directory / name
        home.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in _properties(name, told, moved).items()]
        (home / "server.properties").write_text("\n".join([*lines, f"log.dirs={home / 'data'}"]))
        _format(home, told["CLUSTER_ID"])
        command = [*java_command("-Xmx384m", *SHORT_LIVED), "kafka.Kafka", str(home / "server.properties")]
        brokers.append(Server(name, command, log=home / "broker.log"))
    try:
        for broker in brokers:
            broker.start()
        for broker in brokers:
            port = int(moved[f"{broker.name}:19092"].rpartition(":")[2])
            broker.wait_until(lambda port=port: is_answering(port), seconds=START_SECONDS)
        yield moved[f"{brokers[0].name}:19092"]
    finally:
        stop_together(brokers, patience_seconds=STOP_SECONDS)


def _properties(name: str, told: Mapping[str, str], moved: Mapping[str, str]) -> dict[str, str]:
    """Translate KAFKA_SOME_NAME to some.name, and every address to one on loopback."""
    found = {}
    for variable in (each for each in told if each.startswith("KAFKA_")):
        value = told[variable]
        if variable == "KAFKA_LISTENERS":
            value = re.sub(r"://:(\d+)", lambda match: f"://{moved[f'{name}:{match[1]}']}", value)
        value = value.replace("localhost:", f"{name}:")
        for address, local in moved.items():
            value = re.sub(rf"(?<![\w-]){re.escape(address)}\b", local, value)
        found[variable.removeprefix("KAFKA_").lower().replace("_", ".")] = value
    return found


def _format(home: Path, cluster: str) -> None:
    tool = [*java_command("-Xmx128m", *SHORT_LIVED), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
    formatting = Server("format", [*tool, f"--config={home / 'server.properties'}"], log=home / "format.log")
    formatting.start()
    formatting.wait_for_success(seconds=START_SECONDS)
