"""What people ask of a running worker: pause, resume, restart, skip; the real worker, broker and cluster small."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.cli import ExitCode
from sf_healer.control import person
from sf_healer.core.facts import PodState
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from tests.cluster.small import IDLE_PODS, Attended, a_healer, a_loader, connected, must
from tests.lab.waiting import until
from tests.lab.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]

SECONDS = 60.0
NAME = "loader-btcusdt-api-trades-2025-06-01-p4ntkv-loader-ws"
QUEUE = "loader-btcusdt-api-trades-2025-06-01-P4nTkv"
POLICY = """\
[admission]
rate_per_minute = 6000
rate_burst = 100
in_flight = 8
"""


class Stage(Attended):
    """One Job in a small cluster, a worker that heals it, and the command line of a person."""

    def __init__(self, worker: Worker, cluster: Cluster, bootstrap: str) -> None:
        super().__init__(worker, cluster)
        self.bootstrap = bootstrap

    def pauses(self) -> list[str]:
        return [pause["scope"] for pause in self.worker.admission().get("pauses", [])]

    def uid(self) -> str:
        job = self.cluster.read_job(self.cluster.namespace, NAME)
        return "" if isinstance(job, ApiFailure) else job.fact.uid


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("people")
    with EmbeddedBroker() as broker, LocalCluster(command=IDLE_PODS) as plane, connected(plane) as cluster:
        worker = a_healer(directory, broker.bootstrap, cluster, plane.kubeconfig, POLICY)
        made = Stage(worker, cluster, broker.bootstrap)
        created = made.healer("topics", "--create", "--create-platform")
        assert created.returncode == 0, created.stdout + created.stderr
        must(cluster.create_job(cluster.namespace, a_loader(NAME, QUEUE)))
        with worker:
            worker.wait_until_ready()
            until(lambda: made.page(NAME).get("incarnation"), "the Job to be known", seconds=SECONDS)
            until(made.worker.has_counted, "the fleet to be counted", seconds=SECONDS)
            yield made


def test_a_restart_that_a_person_asks_for_is_carried_out_and_told(stage: Stage):
    before = stage.uid()
    done = stage.healer("restart", NAME, "--reason", "looks odd")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "this is attempt 1 of 3 within 1h; those that people ask for count too" in done.stderr
    assert "restarted, verified: the new incarnation gave a sign of life" in done.stderr
    assert stage.uid() != before
    job = stage.cluster.read_job(stage.cluster.namespace, NAME)
    assert job.fact.attempt == 1
    assert job.manifest["metadata"]["annotations"]["sf-healer.io/reason"] == "requested: looks odd"
    assert job.fact.pod is PodState.RUNNING
    (row,) = stage.healer("actions", NAME).stdout.splitlines()[1:]
    told = f"{stage.cluster.namespace}/{NAME} requested by {person()} restarted verified"
    assert " ".join(row.split()[2:]).startswith(told)


def test_a_pause_holds_restarts_survives_the_worker_and_ends_when_resumed(stage: Stage):
    before = stage.uid()
    paused = stage.healer("pause", "--job", NAME, "--reason", "maintenance", "--for", "1h")
    assert paused.returncode == ExitCode.OK, paused.stderr
    assert "1 known Jobs are in it" in paused.stderr
    scope = f"job:{stage.cluster.namespace}/{NAME}"
    until(lambda: scope in stage.pauses(), "the pause to hold", seconds=SECONDS)
    refused = stage.healer("restart", NAME, "--reason", "all the same")
    assert refused.returncode == ExitCode.REFUSED, refused.stderr
    assert f"refused, paused: {scope}: maintenance" in refused.stderr
    assert "paused" in stage.healer("fleet").stdout

    stage.worker.server.kill()
    stage.worker.start().wait_until_ready()
    until(lambda: scope in stage.pauses() and stage.worker.has_counted(), "the pause to hold still", seconds=SECONDS)
    assert stage.healer("restart", NAME, "--reason", "again").returncode == ExitCode.REFUSED
    assert stage.uid() == before

    assert stage.healer("resume", "--job", NAME).returncode == ExitCode.OK
    until(lambda: not stage.pauses(), "the pause to end", seconds=SECONDS)
    again = stage.healer("resume", "--job", f"nobody-{NAME}")
    assert again.returncode == ExitCode.REFUSED, again.stderr
    assert f"nothing was paused: job:{stage.cluster.namespace}/nobody-{NAME}" in again.stderr
    done = stage.healer("restart", NAME, "--reason", "now")
    assert done.returncode == ExitCode.OK, done.stderr
    assert stage.uid() != before


def test_a_pause_ends_by_itself(stage: Stage):
    assert stage.healer("pause", "--all", "--reason", "a moment", "--for", "4s").returncode == ExitCode.OK
    until(lambda: "*" in stage.pauses(), "the pause to hold", seconds=SECONDS)
    until(lambda: not stage.pauses(), "the pause to end", seconds=SECONDS)


def test_a_job_that_is_skipped_is_exempt_and_refused_until_it_is_watched_again(stage: Stage):
    before = stage.uid()
    skipped = stage.healer("skip", NAME)
    assert skipped.returncode == ExitCode.OK, skipped.stderr
    until(lambda: stage.page(NAME).get("verdict") == "exempt", "the Job to be exempt", seconds=SECONDS)
    refused = stage.healer("restart", NAME, "--reason", "no")
    assert refused.returncode == ExitCode.REFUSED, refused.stderr
    assert "annotation sf-healer.io/skip" in refused.stderr
    assert f"`sf-healer unskip {stage.cluster.namespace}/{NAME}`" in refused.stderr
    assert stage.uid() == before
    assert stage.healer("unskip", NAME).returncode == ExitCode.OK
    until(lambda: stage.page(NAME).get("verdict") != "exempt", "the Job to be watched", seconds=SECONDS)
    nobody = stage.healer("skip", "nobody")
    assert nobody.returncode == ExitCode.ERROR
    assert "nobody" in nobody.stderr


async def test_people_see_the_job_and_its_numbers(stage: Stage):
    async with AIOKafkaProducer(bootstrap_servers=stage.bootstrap) as producer:
        report = {"event": "loading", "status": "loading", "queue_id": QUEUE, "producer": "loader-ws__P4nTkv"}
        report |= {"finished": False, "records_written": 7}
        await producer.send_and_wait("queue-events", json.dumps(report).encode())
    until(lambda: stage.page(NAME).get("verdict") == "healthy", "the Job to be healthy", seconds=SECONDS)
    shown = stage.healer("job", NAME)
    assert shown.returncode == ExitCode.OK, shown.stderr
    assert "healthy (reports: it reports)" in shown.stdout
    assert "records written" in shown.stdout
    checked = stage.healer("jobs", "--check")
    assert checked.returncode == ExitCode.OK, checked.stderr
    assert NAME in checked.stdout
    assert "mode" in stage.healer("fleet").stdout


async def test_a_job_that_has_finished_is_run_again_only_where_that_is_meant(stage: Stage):
    before = stage.uid()
    async with AIOKafkaProducer(bootstrap_servers=stage.bootstrap) as producer:
        report = {"event": "finished", "status": "finished", "queue_id": QUEUE, "producer": "loader-ws__P4nTkv"}
        await producer.send_and_wait("queue-events", json.dumps(report | {"finished": True}).encode())
    until(lambda: stage.page(NAME).get("verdict") == "completed", "the Job to be completed", seconds=SECONDS)
    refused = stage.healer("restart", NAME, "--reason", "no")
    assert refused.returncode == ExitCode.REFUSED, refused.stderr
    assert "it has finished at" in refused.stderr
    assert stage.uid() == before
    done = stage.healer("restart", NAME, "--reason", "the file was wrong", "--even-if-ended")
    assert done.returncode == ExitCode.OK, done.stderr
    assert stage.uid() != before


def test_a_missing_topic_is_told_with_what_makes_it(tmp_path: Path):
    with EmbeddedBroker() as broker:
        worker = Worker("nobody", tmp_path, bootstrap=broker.bootstrap)
        done = subprocess.run(
            worker.command("pause", "--all", "--reason", "x"), capture_output=True, text=True, check=False
        )
    assert done.returncode == ExitCode.ERROR
    assert "topic sf-healer-control does not exist; `sf-healer topics --create` makes it" in done.stderr
