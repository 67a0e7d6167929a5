"""A worker tells no secret: neither its own password nor what is in the manifests that it keeps.

A Job is healed on a secured Kafka while everything that the worker prints (at DEBUG) and serves, all that the commands
print and all topics are searched for words that must not be there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters.cluster import Cluster, LiveJob
from sf_healer.core import commands
from sf_healer.core.commands import Outcome, Result
from sf_healer.core.manifest import HIDDEN
from sf_healer.local import launcher
from sf_healer.local.cluster import LocalCluster
from sf_healer.rights import Purpose
from tests.broker.scram import Secured, name_of
from tests.lab.waiting import until_async
from tests.lab.worker import records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiokafka import ConsumerRecord

    from tests.lab.worker import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

USER = name_of(Purpose.ALL)
TARGET = "arango-connector"
OF_THE_JOB = "hunter2-of-the-job"
FROM_A_SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "arango", "key": "token"}}}
KUBECTLS_COPY = "kubectl.kubernetes.io/last-applied-configuration"
READY_SECONDS = 120.0
SEEN_SECONDS = 120.0
#: Only these two may hold manifests; the ACLs let only an actuator read them (sf_healer/rights.py).
OF_THE_ACTUATOR = {topics.STEPS, topics.ACTIONS_CHANGELOG}
EVERY_TOPIC = [topics.EVIDENCE, topics.ACTIONS, topics.OUTCOMES, topics.CONTROL, topics.DEAD_LETTERS]
EVERY_TOPIC += [topics.JOBS_CHANGELOG, *sorted(OF_THE_ACTUATOR)]
#: Ours, and those that Faust has of its own.
PAGES = ["/", "/ui/", "/jobs/", "/jobs/?local=1", "/jobs/JOB/", "/fleet/", "/actions/", "/actions/?local=1", "/livez"]
PAGES += ["/readyz", "/metrics", "/tables/", "/table/actions/", "/table/actions/JOB/", "/router/", "/stats/", "/graph/"]
PAGES += ["/settings/", "/nowhere", "/jobs/no/body/"]
PAGES += [f"{page}?format=html" for page in ("/", "/jobs/", "/jobs/JOB/", "/fleet/", "/actions/")]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured.start(tmp_path_factory.mktemp("kafka-secrets")) as started:
        asyncio.run(started.prepare())
        yield started


@pytest.fixture
def plane() -> Iterator[LocalCluster]:
    with LocalCluster(command=(sys.executable, "-c", "import signal; signal.pause()")) as started:
        yield started


class Sick:
    """A Job that hangs until it is restarted, with a secret wherever a manifest has room for one."""

    def __init__(self, plane: LocalCluster, bootstrap: str) -> None:
        self.cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(plane.kubeconfig))
        self._bootstrap = bootstrap
        self._queue = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", "P4nTkv")
        self._first = self._create()

    @property
    def key(self) -> str:
        return f"{self.cluster.namespace}/{launcher.job_name(self._queue.id, TARGET)}"

    def _create(self) -> str:
        namespace = self.cluster.namespace
        env = launcher.environment(self._queue, TARGET, extra={"ARANGO_PASSWORD": OF_THE_JOB})
        manifest = launcher.job_manifest(self._queue, TARGET, env, namespace=namespace)
        manifest["metadata"]["annotations"] = {KUBECTLS_COPY: json.dumps(manifest)}
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        container["args"] = [f"--password={OF_THE_JOB}"]
        container["env"].append(FROM_A_SECRET)
        made = self.cluster.create_job(namespace, manifest)
        assert isinstance(made, LiveJob), made
        return made.fact.uid

    async def report(self, worker: Worker) -> bool:
        """Speak once at first, and as long as it is asked after the restart; tell whether that is verified."""
        assert worker.server.is_alive, worker.tail()
        row = (await asyncio.to_thread(worker.jobs)).get(self.key)
        live = await asyncio.to_thread(self.cluster.read_job, *self.key.split("/"))
        is_new = isinstance(live, LiveJob) and live.fact.uid != self._first
        if is_new or (row is not None and row["verdict"] not in {"healthy", "stuck"}):
            named = {"queue_id": self._queue.id, "producer": launcher.telemetry_id(TARGET, self._queue.short)}
            says = {**named, "status": "loading", "event": "loading", "finished": False}
            await send(self._bootstrap, [json.dumps(says).encode()])
        told = [commands.decode_outcome(each.value) for each in await records_of(self._bootstrap, topics.OUTCOMES)]
        return any(isinstance(outcome, Outcome) and outcome.result is Result.RESTARTED for outcome in told)


async def test_neither_the_password_nor_the_env_of_a_job_is_printed_served_or_sent_anywhere_else(
    secured: Secured, plane: LocalCluster, tmp_path: Path
):
    sick = Sick(plane, secured.cluster.bootstrap)
    password = secured.passwords[USER]
    worker = secured.worker(
        "discreet",
        tmp_path,
        mode="heal",
        identity="cluster",
        namespace=sick.cluster.namespace,
        kubeconfig=plane.kubeconfig,
        log_level="debug",
        **secured.login(USER),
    )
    with worker:
        await asyncio.to_thread(worker.wait_until_ready, READY_SECONDS)

        meanwhile: set[str] = set()

        async def is_restarted() -> bool:
            meanwhile.add(str(await asyncio.to_thread(worker.get, "/actions/")))
            return await sick.report(worker)

        await until_async(is_restarted, f"{sick.key} to be restarted\n{worker.tail()}", seconds=SEEN_SECONDS)
        served = await asyncio.to_thread(pages, worker, sick.key)
        assert await asyncio.to_thread(what_takes_writes, worker, sick.key) == []
        printed = {
            line: await asyncio.to_thread(run, secured, worker, tmp_path, line) for line in command_lines(sick.key)
        }
    live = sick.cluster.read_job(*sick.key.split("/"))
    sick.cluster.close()
    assert isinstance(live, LiveJob)
    (container,) = live.manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [f"--password={OF_THE_JOB}"]
    assert FROM_A_SECRET in container["env"], "a reference comes back as a reference"

    assert any(HIDDEN in page for page in meanwhile), "the manifest of an open restart is shown"
    assert served["/actions/ of 0"].count(sick.key) >= 1
    assert sick.key in printed[("jobs", "-o", "wide")]
    found = {
        "worker.log": worker.log.read_text(),
        "/actions/ meanwhile": "".join(meanwhile),
        **served,
        **{" ".join(line): text for line, text in printed.items()},
    }
    assert len(found["worker.log"].splitlines()) > 100
    assert [place for place, text in found.items() if password in text] == []
    assert [place for place, text in found.items() if OF_THE_JOB in text] == []

    records = {topic: await records_of(secured.cluster.bootstrap, topic) for topic in EVERY_TOPIC}
    assert {topic for topic, told in records.items() if holds(told, OF_THE_JOB)} == OF_THE_ACTUATOR
    assert [topic for topic, told in records.items() if holds(told, password)] == []


def command_lines(key: str) -> list[tuple[str, ...]]:
    forms = [(form,) for form in ("table", "json", "yaml")]
    lines = [("settings", "-o", *form) for form in forms]
    for words in (("jobs",), ("job", key), ("actions",), ("fleet",)):
        lines += [(*words, "-o", form) for form in ("wide", "json")]
    return [*lines, ("topics", "-o", "json")]


def run(secured: Secured, worker: Worker, directory: Path, line: tuple[str, ...]) -> str:
    """Run a command in the environment of the worker, and give all it prints."""
    where = {"web_port": worker.port} | secured.login(USER)
    done = secured.command(directory, *line, log_level="debug", **where)
    assert done.returncode in {0, 3}, done.stderr
    return done.stdout + done.stderr


def pages(worker: Worker, key: str) -> dict[str, str]:
    """Give what every page answers, at both ports; not found is an answer too."""
    found = {}
    for number in (0, 1):
        for page in PAGES:
            url = f"http://127.0.0.1:{worker.port + number}{page.replace('JOB', key)}"
            try:
                with urllib.request.urlopen(url, timeout=10.0) as answer:
                    found[f"{page} of {number}"] = answer.read().decode()
            except urllib.error.HTTPError as error:
                found[f"{page} of {number}"] = error.read().decode()
    return found


def what_takes_writes(worker: Worker, key: str) -> list[str]:
    """Name the pages that do anything but refuse a request to change something."""
    found = []
    for page, method in itertools.product(PAGES, ("POST", "PUT", "PATCH", "DELETE")):
        url = f"http://127.0.0.1:{worker.port}{page.replace('JOB', key)}"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10.0).close()
        except urllib.error.HTTPError as error:
            if error.code in {404, 405}:
                continue
        found.append(f"{method} {page}")
    return found


def holds(records: list[ConsumerRecord], word: str) -> bool:
    """Tell whether a word is anywhere in these records, their keys and headers."""
    sought = word.encode()
    return any(
        sought in part
        for record in records
        for part in (record.value or b"", record.key or b"", *(value for _, value in record.headers))
    )
