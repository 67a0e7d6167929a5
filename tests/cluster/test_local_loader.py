"""The loader that local pods run reports as the platform's services do, and lives the life it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kubernetes import client, config

from sf_healer.core.manifest import sanitize
from sf_healer.local import children, launcher
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LOADER, LocalCluster
from sf_healer.local.loader import Behaviour, Script
from sf_healer.local.reports import Story
from sf_healer.local.services import SERVICES
from tests.lab.waiting import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SECONDS = 60.0


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


class Topics:
    """What arrives on `queue-events` from now on, and a way to put commands on `queue-control`."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer("queue-events", bootstrap_servers=bootstrap, fetch_max_wait_ms=20)
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        self.records: list[Any] = []

    async def __aenter__(self) -> Self:
        await self._producer.start()
        for topic in ("queue-events", "queue-control"):
            await self._producer.send_and_wait(topic, b"{}")
        await self._consumer.start()
        await self._consumer.seek_to_end()
        await self._consumer.position(next(iter(self._consumer.assignment())))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            self.records.append(record)

    def kinds(self, env: dict[str, str]) -> list[tuple[str, bool | None]]:
        fields = [json.loads(record.value) for record in self.records]
        # Partitions are read in any order; one process's own clock puts its words right.
        fields.sort(key=lambda field: field.get("sent_at") or field["timestamp"])
        producer = env["TELEMETRY_PRODUCER_ID"]
        return [
            (field.get("status") or field["event"], field.get("finished"))
            for field in fields
            if producer in {field.get("producer"), field.get("producer_id")}
        ]

    async def until_said(self, env: dict[str, str], *kinds: tuple[str, bool | None]) -> None:
        """Wait until the last words are these."""

        async def said() -> bool:
            return self.kinds(env)[-len(kinds) :] == list(kinds)

        await until_async(said, f"{kinds} from {env['TELEMETRY_PRODUCER_ID']}", seconds=SECONDS)

    async def until_loading(self, env: dict[str, str], times: int = 3) -> None:
        async def loading() -> bool:
            return self.kinds(env).count(("loading", False)) >= times

        await until_async(loading, f"{env['TELEMETRY_PRODUCER_ID']} to load", seconds=SECONDS)

    async def order(self, env: dict[str, str], command: str) -> None:
        order = {"queue_id": env["QUEUE_ID"], "command": command, "sent_at": time.time()}
        await self._producer.send_and_wait("queue-control", json.dumps(order).encode())


@pytest.fixture
async def topics(broker: EmbeddedBroker) -> AsyncIterator[Topics]:
    async with Topics(broker.bootstrap) as opened:
        yield opened


_names = random.Random(20250601)


def env_of(broker: EmbeddedBroker, service: str, behaviour: str, **more: str) -> dict[str, str]:
    played = SERVICES[service]
    queue = launcher.Queue.launch("IDUSDT", played.type_, "2025-06-01", launcher.short_id(_names))
    local = {
        "SF_LOCAL_SERVICE": service,
        "SF_LOCAL_BEHAVIOUR": behaviour,
        "SF_LOCAL_CADENCE_SECONDS": "0.05",
        "SF_LOCAL_TURN_SECONDS": "0.3",
    }
    return launcher.environment(queue, played.target, bootstrap=broker.bootstrap, extra=local | more)


class Running:
    """Loader processes of one test, ended with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[children.Process] = []

    def start(self, env: dict[str, str]) -> children.Process:
        log = self._directory / f"{len(self._processes)}.log"
        process = children.start(LOADER, env={"PATH": os.environ["PATH"]} | env, log=log)
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            children.end(process, grace_seconds=0.0)


@pytest.fixture
def loaders(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.end()


def exit_code(process: children.Process) -> int:
    until(lambda: process.poll() is not None, "the process to end", seconds=SECONDS)
    return process.returncode


# ------------------------------------------------------------------ what it is told to do


def test_every_behaviour_can_be_played_by_every_service():
    for behaviour in Behaviour:
        for name, service in SERVICES.items():
            env = {"TELEMETRY_PRODUCER_ID": f"{service.target}__x", "SF_LOCAL_SERVICE": name}
            assert Script.read(env | {"SF_LOCAL_BEHAVIOUR": behaviour}).service is service


@pytest.mark.parametrize("behaviour", ["hangs", "errors", "crashes", "silent"])
def test_a_restart_heals_what_is_not_for_ever(behaviour: str):
    env = {"TELEMETRY_PRODUCER_ID": "loader-ws__x", "SF_LOCAL_BEHAVIOUR": behaviour}
    sick = Script.read(env | {"SF_LOCAL_INCARNATION": "1"}).story
    assert sick is not Story.HEALTHY
    assert Script.read(env | {"SF_LOCAL_INCARNATION": "2"}).story is Story.HEALTHY
    for_ever = env | {"SF_LOCAL_BEHAVIOUR": f"{behaviour}-forever", "SF_LOCAL_INCARNATION": "2"}
    assert Script.read(for_ever).story is sick


def test_an_unknown_behaviour_is_refused():
    with pytest.raises(ValueError, match="explodes"):
        Script.read({"TELEMETRY_PRODUCER_ID": "loader-ws__x", "SF_LOCAL_BEHAVIOUR": "explodes"})


def test_a_target_plays_the_service_of_its_usual_image():
    assert Script.read({"TELEMETRY_PRODUCER_ID": "arango-connector__x"}).service.name == "arango-connector"
    assert Script.read({"TELEMETRY_PRODUCER_ID": "loader-ws__x"}).service.name == "loader-ws-orderbook"


# ------------------------------------------------------------------ on a broker


@pytest.mark.embedded
async def test_its_reports_are_unkeyed_without_headers_and_carry_the_jobs_env(
    broker: EmbeddedBroker, topics: Topics, loaders: Running
):
    env = env_of(broker, "arango-connector", "healthy")
    loaders.start(env)
    await topics.until_loading(env)
    assert {(record.key, record.headers) for record in topics.records} == {(None, ())}
    fields = json.loads(topics.records[0].value)
    assert (fields["queue_id"], fields["symbol"], fields["kafka"]) == (
        env["QUEUE_ID"],
        "IDUSDT",
        broker.bootstrap,
    )
    assert abs(fields["sent_at"] - time.time()) < SECONDS


@pytest.mark.embedded
async def test_a_loader_that_hangs_lives_on_in_silence(broker: EmbeddedBroker, topics: Topics, loaders: Running):
    env = env_of(broker, "loader-ws-orderbook", "hangs")
    process = loaders.start(env)
    other = env_of(broker, "loader-ws-trades", "healthy")
    loaders.start(other)
    await topics.until_loading(env)
    await topics.until_loading(other, times=20)  # its turn has come and gone
    said = len(topics.kinds(env))
    await topics.until_loading(other, times=30)
    assert len(topics.kinds(env)) == said
    assert process.poll() is None


class Ending(NamedTuple):
    service: str
    behaviour: str
    last: list[tuple[str, bool]]
    code: int | None  # None: the process lives on


@pytest.mark.embedded
@pytest.mark.parametrize(
    "ending",
    [
        Ending("arango-connector", "errors", [("error", False), ("finished", True)], 0),
        Ending("arango-orderbook", "errors", [("error", False), ("finished", True)], None),
        Ending("loader-ws-orderbook", "errors", [("error", False)], None),
        Ending("loader-api-candles", "errors", [("error", False)], 0),
        Ending("loader-producer", "errors", [("error", True), ("finished", True)], None),
        Ending("dummy-service", "errors", [("error", True)], 1),
        Ending("loader-ws-trades", "crashes", [("error", False)], 1),
        Ending("loader-ws-trades", "finishes", [("finished", True)], 0),
        Ending("loader-producer", "finishes", [("finished", True)], None),
    ],
    ids=lambda ending: f"{ending.service} {ending.behaviour}",
)
async def test_endings_and_exit_codes_are_those_of_the_service(
    broker: EmbeddedBroker, topics: Topics, loaders: Running, ending: Ending
):
    env = env_of(broker, ending.service, ending.behaviour)
    process = loaders.start(env)
    await topics.until_said(env, *ending.last)
    if ending.code is None:
        assert process.poll() is None, "inside uvicorn a process outlives its work"
        process.send_signal(signal.SIGTERM)
        assert exit_code(process) == 0
    else:
        assert exit_code(process) == ending.code


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("service", "last"),
    [
        ("arango-trades", [("interrupted", True), ("interrupted", False), ("finished", True)]),
        ("loader-api-candles", [("interrupted", True), ("interrupted", False)]),
        ("loader-producer", [("interrupted", True), ("interrupted", True)]),
        ("dummy-service", [("interrupted", True), ("finished", True)]),
    ],
)
async def test_a_stop_command_for_its_queue_is_obeyed(
    broker: EmbeddedBroker, topics: Topics, loaders: Running, service: str, last: list[tuple[str, bool]]
):
    env, other = env_of(broker, service, "stoppable"), env_of(broker, service, "stoppable")
    loaders.start(env)
    stays = loaders.start(other)
    await topics.until_loading(env)
    await topics.until_loading(other)
    await topics.order(env, "stop")
    await topics.until_said(env, *last)
    said = len(topics.kinds(other))
    await topics.until_loading(other, times=said + 5)
    assert stays.poll() is None


@pytest.mark.embedded
async def test_errors_for_single_records_do_not_end_a_consumer(
    broker: EmbeddedBroker, topics: Topics, loaders: Running
):
    env = env_of(broker, "graph-builder", "error-per-record")
    loaders.start(env)
    await topics.until_loading(env, times=10)
    assert topics.kinds(env).count(("error", False)) >= 8


@pytest.mark.embedded
async def test_a_silent_loader_says_nothing_and_lives(broker: EmbeddedBroker, topics: Topics, loaders: Running):
    env, other = env_of(broker, "loader-producer", "silent"), env_of(broker, "loader-producer", "started-only")
    silent = loaders.start(env)
    loaders.start(other)
    await topics.until_said(other, ("started", False))
    assert topics.kinds(env) == []
    assert silent.poll() is None


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("service", "last"),
    [("arango-orderbook", ("finished", True)), ("loader-producer", ("interrupted", True))],
)
async def test_sigterm_is_heeded_by_services_inside_uvicorn_while_data_flows(
    broker: EmbeddedBroker, topics: Topics, loaders: Running, service: str, last: tuple[str, bool]
):
    env = env_of(broker, service, "healthy")
    process = loaders.start(env)
    await topics.until_loading(env)
    process.send_signal(signal.SIGTERM)
    await topics.until_said(env, last)
    assert exit_code(process) == 0


@pytest.mark.embedded
async def test_only_the_dummy_answers_a_ping(broker: EmbeddedBroker, topics: Topics, loaders: Running):
    env = env_of(broker, "dummy-service", "started-only")
    loaders.start(env)
    await topics.until_said(env, ("started", False))
    await topics.order(env, "ping")
    await topics.until_said(env, ("pong", None))


@pytest.mark.embedded
async def test_a_hanging_job_is_well_again_once_it_is_deleted_and_created_anew(broker: EmbeddedBroker, topics: Topics):
    env = env_of(broker, "loader-ws-orderbook", "hangs")
    queue = launcher.Queue.launch("IDUSDT", "ws_depth", "2025-06-01", env["QUEUE_ID"][-6:])
    body = launcher.job_manifest(queue, "loader-ws", env)
    name = body["metadata"]["name"]
    with LocalCluster(grace_limit_seconds=0.2) as local:
        configuration = client.Configuration()
        config.load_kube_config(str(local.kubeconfig), client_configuration=configuration)
        batch = client.BatchV1Api(client.ApiClient(configuration))
        await asyncio.to_thread(batch.create_namespaced_job, "stf", body)
        await topics.until_loading(env)
        (pod,) = local.pods()

        old = await asyncio.to_thread(batch.read_namespaced_job, name, "stf")
        again = sanitize(batch.api_client.sanitize_for_serialization(old))
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": old.metadata.uid}}
        await asyncio.to_thread(batch.delete_namespaced_job, name, "stf", body=options)
        await asyncio.to_thread(until, lambda: not local.pods(), "the old pod to end", seconds=SECONDS)
        topics.records.clear()
        await asyncio.to_thread(batch.create_namespaced_job, "stf", again)

        await topics.until_loading(env, times=20)
        assert topics.kinds(env)[0] == ("started", False)
        assert local.pods()[0].pid != pod.pid
        batch.api_client.close()


@pytest.mark.embedded
async def test_five_that_start_together_report_within_seconds(broker: EmbeddedBroker, topics: Topics, loaders: Running):
    envs = [env_of(broker, "arango-connector", "healthy") for _ in range(5)]
    began = time.monotonic()
    for env in envs:
        loaders.start(env)
    for env in envs:
        await topics.until_loading(env, times=1)
    assert time.monotonic() - began < 10.0  # 0.6 s on two idle cores


def test_without_a_broker_it_ends_with_an_error(tmp_path: Path):
    env = {
        "TELEMETRY_PRODUCER_ID": "loader-ws__x",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "QUEUE_CONTROL_TOPIC": "queue-control",
        "PATH": os.environ["PATH"],
    }
    process = children.start((sys.executable, "-m", "sf_healer.local.loader"), env=env, log=tmp_path / "log")
    assert exit_code(process) == 1
    assert "KafkaConnectionError" in (tmp_path / "log").read_text()
