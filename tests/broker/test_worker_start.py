"""How a worker starts: it waits for what is missing and says what that is, and refuses only wrong settings."""

from __future__ import annotations

import asyncio
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from sf_healer.topics import EVIDENCE
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.waiting import until
from tests.lab.worker import Answer, Worker, drop_topics, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kafka import KafkaCluster

SAID_SECONDS = 30.0
#: Between two looks of a worker that waits lie at most 15 s.
STARTED_SECONDS = 60.0
STOPPED_SECONDS = 10.0
QUICK = {"broker_session_timeout_seconds": 4, "broker_heartbeat_seconds": 1}


def problems(worker: Worker) -> list[str]:
    """Give what /readyz says; a worker that is not ready says why, and is alive."""
    answer = worker.get("/readyz")
    if answer is None:
        return []
    assert answer.status == (200 if answer.body["ready"] else 503)
    alive = worker.get("/livez")
    assert alive is None or alive == Answer(200, {"alive": True, "problems": []})
    return answer.body["problems"]


def until_said(worker: Worker, *words: str) -> list[str]:
    def is_said() -> list[str]:
        assert worker.server.is_alive, worker.tail()
        told = problems(worker)
        return told if all(any(word in problem for problem in told) for word in words) else []

    return until(is_said, f"/readyz to say {words}, it says {problems(worker)}", seconds=SAID_SECONDS)


@contextmanager
def door_to(bootstrap: str, port: int) -> Iterator[None]:
    """Let a port lead to a broker: a broker that appears under an address known before."""
    host, _, number = bootstrap.partition(":")

    class Door(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(number))) as behind:
                back = threading.Thread(target=_carry, args=(behind, self.request), daemon=True)
                back.start()
                _carry(self.request, behind)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((LOOPBACK, port), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has gone, and the other learns it by its own read


def ended(server: Server, how: signal.Signals, *, seconds: float = STOPPED_SECONDS) -> int:
    """Send a signal and give the exit status."""
    child = server._child
    assert child is not None
    child.send_signal(how)
    return child.wait(seconds)


def by_faust(worker: Worker) -> list[str]:
    """Compose Faust's own command line in the environment of a worker."""
    *environment, _ = worker.command()
    faust = str(Path(sys.executable).with_name("faust"))
    return [*environment, faust, "-A", "sf_healer.worker:detector", "worker"]


# ------------------------------------------------------------------ waiting for what is missing


@pytest.mark.embedded
@pytest.mark.timeout(180)
def test_a_worker_waits_for_broker_topics_and_cluster_says_what_is_missing_and_starts_when_all_is_there(tmp_path: Path):
    (port,) = free_ports(1)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(_kubeconfig_of(f"http://{LOOPBACK}:{free_ports(1)[0]}"))
    worker = Worker("waiting", tmp_path, bootstrap=f"{LOOPBACK}:{port}", kubeconfig=kubeconfig, partitions=3, **QUICK)
    with EmbeddedBroker() as broker, worker:
        until_said(worker, f"Kafka at {LOOPBACK}:{port}: connection refused", "cluster does not answer for the Jobs of")
        with door_to(broker.bootstrap, port):
            until_said(worker, "platform's topic queue-events does not exist", "sf-healer-evidence does not exist: run")
            asyncio.run(make_topics(broker.bootstrap))  # six partitions where the worker is set to three
            until_said(worker, "sf-healer-evidence: has 6 partitions instead of 3; fix:", "does not answer")
            asyncio.run(make_topics(broker.bootstrap, partitions=3))
            with LocalCluster() as cluster:
                kubeconfig.write_text(cluster.kubeconfig.read_text())
                worker.wait_until_ready(STARTED_SECONDS)
                assert worker.get("/livez") == Answer(200, {"alive": True, "problems": []})
                assert ended(worker.server, signal.SIGTERM) == 0, worker.tail()
    told = worker.log.read_text()
    assert told.count('"not_ready"') < 40, "it says what is missing, and does not flood the log with it"
    assert "Traceback" not in told.partition("worker_starts")[0]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_ends_when_it_is_told_to(tmp_path: Path, how: signal.Signals):
    worker = Worker("waiting", tmp_path, bootstrap=f"{LOOPBACK}:{free_ports(1)[0]}", identity="convention")
    with worker:
        until_said(worker, "connection refused")
        assert ended(worker.server, how) == 0, worker.tail()


def test_a_worker_answers_its_probes_while_the_broker_does_not_answer_at_all(tmp_path: Path):
    with socket.create_server((LOOPBACK, 0)) as silent:
        worker = Worker("waiting", tmp_path, bootstrap=f"{LOOPBACK}:{silent.getsockname()[1]}", identity="convention")
        with worker:
            until_said(worker, "have not answered yet")
            assert ended(worker.server, signal.SIGTERM) == 0, worker.tail()


@pytest.mark.timeout(180)
def test_topics_with_the_wrong_settings_are_named_with_what_mends_them(kafka_single: KafkaCluster, tmp_path: Path):
    bootstrap = kafka_single.bootstrap
    asyncio.run(make_topics(bootstrap))
    worker = Worker("waiting", tmp_path, bootstrap=bootstrap, identity="convention", broker_session_timeout_seconds=6)
    try:
        asyncio.run(_alter(bootstrap, EVIDENCE, "message.timestamp.type", "CreateTime"))
        with worker:
            (told,) = until_said(worker, "sf-healer-evidence: has message.timestamp.type=CreateTime")
            assert "instead of LogAppendTime; fix: kafka-configs.sh" in told
            asyncio.run(_alter(bootstrap, EVIDENCE, "message.timestamp.type", "LogAppendTime"))
            worker.wait_until_ready(STARTED_SECONDS)
    finally:
        asyncio.run(drop_topics(bootstrap))


@pytest.mark.timeout(180)
def test_a_session_timeout_that_the_broker_does_not_allow_is_named(kafka_single: KafkaCluster, tmp_path: Path):
    """Faust would wait for ever and tell nobody."""
    asyncio.run(make_topics(kafka_single.bootstrap))
    worker = Worker("waiting", tmp_path, bootstrap=kafka_single.bootstrap, identity="convention", **QUICK)
    try:
        with worker:
            until_said(worker, "does not allow SF_HEALER_BROKER_SESSION_TIMEOUT_SECONDS=4")
            until(lambda: "group_not_joined" in worker.log.read_text(), "the log to say so too", seconds=SAID_SECONDS)
            assert ended(worker.server, signal.SIGTERM) == 0, worker.tail()
    finally:
        asyncio.run(drop_topics(kafka_single.bootstrap))


# ------------------------------------------------------------------ wrong settings


WRONG = {
    "an unknown setting": ({"SF_HEALER_MARK_INTERVALL_SECONDS": "1"}, "SF_HEALER_MARK_INTERVALL_SECONDS: unknown"),
    "a duration with a unit": ({"SF_HEALER_MARK_INTERVAL_SECONDS": "1s"}, "SF_HEALER_MARK_INTERVAL_SECONDS: '1s'"),
    "a negative duration": ({"SF_HEALER_SWEEP_WINDOW_SECONDS": "-5"}, "SF_HEALER_SWEEP_WINDOW_SECONDS: '-5'"),
    "an unknown mode": ({"SF_HEALER_MODE": "kill"}, "SF_HEALER_MODE: 'kill' is not one of observe, heal"),
    "no policy file": ({"SF_HEALER_POLICY_FILE": "/nowhere/policy.toml"}, "SF_HEALER_POLICY_FILE: "),
    "a broken policy file": ({"SF_HEALER_POLICY_FILE": "BROKEN"}, "SF_HEALER_POLICY_FILE: "),
    "a misspelt policy": ({"SF_HEALER_POLICY_FILE": "MISSPELT"}, "silence_threshold_second"),
    "a broker without a scheme": ({"SF_HEALER_BROKER_URL": "localhost:9092"}, "SF_HEALER_BROKER_URL: "),
    "heal without a cluster": ({"SF_HEALER_MODE": "heal"}, "SF_HEALER_IDENTITY: convention works without a cluster"),
}


@pytest.mark.parametrize(
    ("by", "case"),
    [*(("cli", case) for case in WRONG), ("faust", "an unknown setting"), ("faust", "a misspelt policy")],
)
def test_a_wrong_setting_is_one_line_and_exit_status_2_before_anything_connects(tmp_path: Path, by: str, case: str):
    settings, told = WRONG[case]
    (tmp_path / "broken.toml").write_text("[defaults\n")
    (tmp_path / "misspelt.toml").write_text("[defaults]\nsilence_threshold_second = 3\n")
    files = {"BROKEN": str(tmp_path / "broken.toml"), "MISSPELT": str(tmp_path / "misspelt.toml")}
    with socket.create_server((LOOPBACK, 0)) as broker:
        broker.setblocking(False)  # noqa: FBT003
        bootstrap = f"{LOOPBACK}:{broker.getsockname()[1]}"
        worker = Worker("wrong", tmp_path, bootstrap=bootstrap, identity="convention")
        worker.environment |= {name: files.get(value, value) for name, value in settings.items()}
        line = worker.command("worker") if by == "cli" else by_faust(worker)
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        with pytest.raises(BlockingIOError):
            broker.accept()
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_taken_web_port_is_one_line_and_exit_status_2(tmp_path: Path):
    worker = Worker("taken", tmp_path, bootstrap=f"{LOOPBACK}:{free_ports(1)[0]}", identity="convention")
    for port in (worker.port, worker.port + 1):
        with socket.create_server((LOOPBACK, port)):
            done = subprocess.run(worker.command("worker"), capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"SF_HEALER_WEB_PORT: cannot listen on {LOOPBACK}:{port}" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


# ------------------------------------------------------------------ by Faust's own command


@pytest.mark.embedded
@pytest.mark.timeout(120)
def test_a_worker_starts_by_fausts_own_command_too(tmp_path: Path):
    with EmbeddedBroker() as broker:
        asyncio.run(make_topics(broker.bootstrap))
        worker = Worker(
            "by-faust", tmp_path, bootstrap=broker.bootstrap, identity="convention", role="detector", **QUICK
        )
        worker.server = Server("by-faust", by_faust(worker), log=worker.log)
        with worker:
            worker.wait_until_ready(STARTED_SECONDS)
            assert worker.jobs() == {}
            assert ended(worker.server, signal.SIGTERM) == 0, worker.tail()


def _kubeconfig_of(url: str) -> str:
    return f"""\
apiVersion: v1
kind: Config
clusters: [{{name: local, cluster: {{server: "{url}"}}}}]
users: [{{name: local, user: {{}}}}]
contexts: [{{name: local, context: {{cluster: local, user: local}}}}]
current-context: local
"""


async def _alter(bootstrap: str, topic: str, name: str, value: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])
    finally:
        await client.close()
