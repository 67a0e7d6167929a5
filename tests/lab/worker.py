"""sf-healer workers as the processes a user runs, for tests against a real or embedded broker.

Nothing here looks inside a worker: it is asked over its web views and judged by its exit status, its log and what
is on its topics.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.settings import Settings
from tests.lab.ports import free_port_with_free_neighbour
from tests.lab.process import Server
from tests.lab.waiting import POLL_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiokafka import ConsumerRecord

READY_SECONDS = 90.0
TOPICS_SECONDS = 30.0
STOP_SECONDS = 20.0
GET_SECONDS = 10.0
# A worker that is killed is missed after the session timeout; a test does not wait Kafka's usual 45 s.
SESSION_TIMEOUT_SECONDS = 10.0
HEARTBEAT_SECONDS = 2.0


class Answer(msgspec.Struct, frozen=True):
    """What a view answered."""

    status: int
    body: Any


SF_HEALER = (str(Path(sys.executable).with_name("sf-healer")),)


class Worker:
    """One `sf-healer worker`; `settings` are SF_HEALER_* without the prefix.

    `program` is what is run in the place of `sf-healer`, with its arguments.
    """

    def __init__(
        self, name: str, directory: Path, *, bootstrap: str, program: Sequence[str] = SF_HEALER, **settings: object
    ) -> None:
        self._program = program
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port_with_free_neighbour()
        self.environment = {
            "SF_HEALER_BROKER_URL": f"kafka://{bootstrap}",
            "SF_HEALER_WEB_PORT": str(self.port),
            "SF_HEALER_DATA_DIR": str(self.directory / "data"),
            "SF_HEALER_BROKER_SESSION_TIMEOUT_SECONDS": str(SESSION_TIMEOUT_SECONDS),
            "SF_HEALER_BROKER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            **{f"SF_HEALER_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self.log = self.directory / "worker.log"
        self.server = Server(name, self.command("worker"), log=self.log)

    def command(self, *arguments: str) -> list[str]:
        """Compose the command line of `sf-healer` in this worker's environment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SF_HEALER_")}
        variables = [f"{name}={value}" for name, value in (inherited | self.environment).items()]
        return ["env", "-i", *variables, *self._program, *arguments]

    def start(self) -> Self:
        """Start the process; it may not be ready yet."""
        self.server.start()
        return self

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Self:
        """Return once /readyz is green; fails with the end of the log when the process has ended."""
        until(self._is_ready, f"{self.server.name} to be ready\n{self.tail()}", seconds=seconds)
        return self

    def get(self, path: str, *, accept: str = "*/*") -> Answer | None:
        """Ask a view; None when nobody listens."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(asked, timeout=GET_SECONDS) as answer:
                return Answer(answer.status, _body(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, _body(error.read()))
        except OSError:
            return None

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Give the rows of /jobs/ by Job; empty while nobody listens."""
        answer = self.get("/jobs/")
        return {} if answer is None or answer.status != 200 else {row["job"]: row for row in answer.body["jobs"]}

    def metrics(self) -> Counter[tuple[str, str]]:
        """Give the samples of /metrics by name and the values of the labels, joined with blanks."""
        answer = self.get("/metrics")
        assert answer is not None
        assert answer.status == 200, answer
        samples: Counter[tuple[str, str]] = Counter()
        for family in text_string_to_metric_families(answer.body):
            for sample in family.samples:
                samples[sample.name, " ".join(sample.labels.values())] += sample.value
        return samples

    def healer(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command of `sf-healer` as a person beside the worker does."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=seconds, check=False)

    def admission(self) -> dict[str, Any]:
        """Give what holds restarts back; empty while nobody tells."""
        answer = self.get("/actions/")
        return (answer.body.get("admission") or {}) if answer is not None and answer.status == 200 else {}

    def has_counted(self) -> bool:
        """Say whether every partition has been counted: before that every restart waits."""
        fleet = self.admission().get("fleet", {"partitions_not_counted": 1, "counted_at": None})
        return not fleet["partitions_not_counted"] and fleet["counted_at"] is not None

    def stop(self) -> None:
        """End the process politely, within STOP_SECONDS."""
        self.server.stop(patience_seconds=STOP_SECONDS)

    def tail(self, lines: int = 40) -> str:
        """Give the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        assert self.server.is_alive, f"{self.server.name} has ended:\n{self.tail()}"
        answer = self.get("/readyz")
        return answer is not None and answer.status == 200


async def make_topics(bootstrap: str, **settings: Any) -> None:
    """Make the topics of sf-healer and of the platform, empty: those of an earlier test are removed first."""
    wanted = Settings(broker_url=f"kafka://{bootstrap}", **settings)
    async with kafka.admin(wanted) as admin:
        brokers = await admin.broker_count()
        specs = [*topics.specs(wanted, brokers), *topics.platform_specs(wanted, brokers)]
    await drop_topics(bootstrap, [spec.name for spec in specs])
    async with kafka.admin(wanted) as admin:
        await admin.create(specs)


async def drop_topics(bootstrap: str, names: Iterable[str] | None = None) -> None:
    """Remove topics, those of sf-healer and of the platform if none are named; returns when they are gone."""
    ours = Settings(broker_url=f"kafka://{bootstrap}")
    specs = [*topics.specs(ours, 1), *topics.platform_specs(ours, 1)]
    unwanted = set(names if names is not None else (spec.name for spec in specs))
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        if there := unwanted & set(await client.list_topics()):
            await client.delete_topics(sorted(there))
        async with asyncio.timeout(TOPICS_SECONDS):
            while unwanted & set(await client.list_topics()):  # noqa: ASYNC110  a broker gives no event of its own
                await asyncio.sleep(POLL_SECONDS)
    finally:
        await client.close()


async def send(
    bootstrap: str,
    values: Iterable[bytes | None],
    *,
    topic: str = "queue-events",
    partition: int = 0,
    timestamp_ms: int | None = None,
) -> list[int]:
    """Send values to a partition as the platform does, without keys; give their offsets."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=16 * 1024 * 1024) as producer:
        offsets = []
        for value in values:
            key = None if value is not None else b""  # a client sends no record that has neither
            sent = await producer.send_and_wait(topic, value, key=key, partition=partition, timestamp_ms=timestamp_ms)
            offsets.append(sent.offset)
        return offsets


async def records_of(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Read a topic from its beginning to the end it has now; in order of partition and offset."""
    settings = Settings(broker_url=f"kafka://{bootstrap}")
    async with kafka.admin(settings) as admin:
        count = (await admin.describe([topic]))[topic].partitions
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        places = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(TOPICS_SECONDS):
            while [place for place, end in ends.items() if await consumer.position(place) < end]:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))


def _body(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return content.decode(errors="replace")
