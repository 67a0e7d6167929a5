"""Names, ids and Job manifests as queue-manager's job launcher makes them. Pure.

Source: the launcher's own code (StreamForge at 01075c8, 2025-09-01), run. What the launched services then report
is in services.py and reports.py; nothing here talks to a cluster.
"""

import random
import re
from collections.abc import Mapping
from typing import Any, Self

import msgspec

NAMESPACE = "stf"
LONGEST_JOB_NAME = 63  # characters; the name becomes a container name and a label value of its pods

# shortuuid's alphabet: no 0 1 I O l.
SHORT_ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SHORT_ID_CHARACTERS = 6
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9-]")
_INTERVAL = re.compile(r"\d+[a-zA-Z]")

_IMAGES = "registry.example/streamforge"
_PASSWORD = "example-password"  # noqa: S105  # the platform puts it into the env in the clear


def sanitize(text: str) -> str:
    """Turn any text into a part of a Job name: lower case, `-` for what a name may not hold."""
    return _NOT_IN_A_NAME.sub("-", text.lower()).strip("-")


def short_id(random_source: random.Random) -> str:
    """Make the six characters that tell two queues of the same day apart."""
    return "".join(random_source.choices(SHORT_ID_ALPHABET, k=_SHORT_ID_CHARACTERS))


def queue_id(symbol: str, type_: str, day: str, short: str) -> str:
    """Name a queue: `loader-` whatever its services are; the case of the short id is kept."""
    return f"loader-{symbol.lower()}-{sanitize(type_)}-{day}-{short}"


def telemetry_id(target: str, short: str) -> str:
    """Name a Job's process in its reports; the target is that of the request, not the image."""
    return f"{target}__{short}"


def job_name(queue: str, target: str) -> str:
    """Name a Job and its container. No length limit here either: the API server refuses long ones."""
    return f"{sanitize(queue)}-{sanitize(target)}"


def collection_name(symbol: str, type_: str, day: str) -> str:
    """Name the ArangoDB collection that the services of a queue fill."""
    kind, *rest = type_.split("_")[1:] or [type_]
    words = [symbol.lower(), kind, *(word for word in rest[:1] if _INTERVAL.fullmatch(word))]
    return "_".join([*words, day.replace("-", "_")])


class Queue(msgspec.Struct, frozen=True):
    """One pipeline: what all its Jobs share."""

    symbol: str  # upper case
    type_: str  # of the pipeline's first service
    day: str  # YYYY-MM-DD
    short: str
    time_range: str = ""  # empty when the request had none

    @classmethod
    def launch(cls, symbol: str, type_: str, day: str, short: str, *, until: str = "") -> Self:
        """Take in a request; `until` is the last day of a time range."""
        return cls(
            symbol=symbol.upper(),
            type_=type_,
            day=day,
            short=short,
            time_range=f"{day}:{until}" if until else "",
        )

    @property
    def id(self) -> str:
        """The queue id, which is the name of its data topic too."""
        return queue_id(self.symbol, self.type_, self.day, self.short)


def environment(
    queue: Queue,
    target: str,
    *,
    type_: str | None = None,
    bootstrap: str = "k3-kafka-bootstrap.kafka:9093",
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Give a Job's env in the launcher's order; `extra` is what only some requests set (INTERVAL …)."""
    type_ = type_ or queue.type_
    env = {
        "QUEUE_ID": queue.id,
        "SYMBOL": queue.symbol,
        "TYPE": type_,
        "KAFKA_TOPIC": queue.id,
        "TELEMETRY_PRODUCER_ID": telemetry_id(target, queue.short),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_USER": "user-streamforge",
        "KAFKA_PASSWORD": _PASSWORD,
        "CA_PATH": "/usr/local/share/ca-certificates/ca.crt",
        "QUEUE_CONTROL_TOPIC": "queue-control",
        "QUEUE_EVENTS_TOPIC": "queue-events",
        "ARANGO_URL": "http://arango.example:8529",
        "ARANGO_DB": "streamforge",
        "ARANGO_USER": "root",
        "ARANGO_PASSWORD": _PASSWORD,
        "COLLECTION_NAME": collection_name(queue.symbol, type_, queue.day),
    }
    if queue.time_range:
        env["TIME_RANGE"] = queue.time_range
    if interval := _INTERVAL.search(type_.rpartition("_")[2]):
        env["INTERVAL"] = interval[0]
    return env | dict(extra or {})


def job_manifest(
    queue: Queue, target: str, env: Mapping[str, str], *, image: str = "", namespace: str = NAMESPACE
) -> dict[str, Any]:
    """Give the Job as the launcher creates it: one container, env in the clear, no labels, no probes."""
    name = job_name(queue.id, target)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "backoffLimit": 4,
            "template": {
                "spec": {
                    "containers": [
                        {
                            "env": [{"name": key, "value": value} for key, value in env.items()],
                            "image": image or f"{_IMAGES}/{target}:v0.1.0",
                            "imagePullPolicy": "Always",
                            "name": name,
                        }
                    ],
                    "restartPolicy": "Never",
                }
            },
            "ttlSecondsAfterFinished": 3600,
        },
    }
