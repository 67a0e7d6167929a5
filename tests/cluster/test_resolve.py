"""A restart that stopped half way is ended by a person, and only by one: the real worker, broker and cluster small."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.cli import ExitCode
from sf_healer.core.facts import PodState
from sf_healer.core.manifest import sanitize
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from tests.lab.api_proxy import ApiProxy, Asks, Fault, Harm, Weather
from tests.lab.quick import QUICK_HEARTBEAT_SECONDS, QUICK_SESSION_TIMEOUT_SECONDS
from tests.lab.waiting import until
from tests.lab.worker import Worker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]

SECONDS = 60.0
COMMAND_SECONDS = 150.0
#: A create that is refused for longer than a second asks for a person.
POLICY = """\
[admission]
rate_per_minute = 6000
rate_burst = 100
in_flight = 8
create_deadline_seconds = 1
"""
NO_CREATES = Weather(chance=1.0, faults={Asks.CREATE: {Fault(Harm.STATUS, status=403, reason="Forbidden"): 1.0}})


class Stage:
    """A small cluster behind a proxy that can refuse creates, a worker, and the command line of a person."""

    def __init__(self, worker: Worker, cluster: Cluster, proxy: ApiProxy) -> None:
        self.worker = worker
        self.cluster = cluster
        self.proxy = proxy

    def healer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.worker.healer(*arguments, seconds=COMMAND_SECONDS)

    def job(self, name: str) -> Any:
        """Give the live Job, or the failure to read it."""
        return self.cluster.read_job(self.cluster.namespace, name)

    def actions(self) -> dict[str, Any]:
        answer = self.worker.get("/actions/")
        return answer.body if answer is not None and answer.status == 200 else {}

    def action(self, name: str) -> dict[str, Any] | None:
        record = self.actions().get("actions", {}).get(f"{self.cluster.namespace}/{name}", {})
        return record.get("action")

    def strand(self, name: str) -> dict[str, Any]:
        """Have a Job deleted, and its creation refused until a person is asked for; give what it was."""
        made = self.cluster.create_job(self.cluster.namespace, a_manifest(name))
        assert not isinstance(made, ApiFailure), made
        until(lambda: self.job(name).fact.pod is PodState.RUNNING, "its pod", seconds=SECONDS)
        until(lambda: self._is_known(name), "the Job to be known", seconds=SECONDS)
        before = self.job(name)
        self.proxy.change_weather(NO_CREATES)
        asked = self.healer("restart", name, "--reason", "to see", "--wait", "0")
        assert asked.returncode == ExitCode.OK, asked.stderr
        until(lambda: (self.action(name) or {}).get("state") == "stranded", "a person to be asked for", seconds=SECONDS)
        assert isinstance(self.job(name), ApiFailure)
        self.proxy.change_weather(Weather())
        return before.manifest

    def _is_known(self, name: str) -> bool:
        answer = self.worker.get(f"/jobs/{self.cluster.namespace}/{name}/")
        return answer is not None and answer.status == 200 and bool(answer.body.get("incarnation"))


def a_manifest(name: str) -> dict[str, Any]:
    env = {"QUEUE_ID": f"{name}-P4nTkv", "TELEMETRY_PRODUCER_ID": "loader-ws__P4nTkv", "PASSWORD": "hunter2"}
    container = {
        "name": "loader",
        "image": "registry.example/loader:1",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    spec = {"backoffLimit": 4, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("resolve")
    (directory / "policy.toml").write_text(POLICY)
    pods = (sys.executable, "-c", "import signal; signal.pause()")
    with EmbeddedBroker() as broker, LocalCluster(command=pods) as plane, ApiProxy.before(plane.kubeconfig) as proxy:
        cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(plane.kubeconfig))
        worker = Worker(
            "worker",
            directory,
            bootstrap=broker.bootstrap,
            mode="heal",
            demo_accept_create_time="true",
            namespace=cluster.namespace,
            kubeconfig=proxy.kubeconfig(plane.kubeconfig, at=directory / "through-the-proxy"),
            policy_file=directory / "policy.toml",
            mark_interval_seconds=0.2,
            sweep_window_seconds=0.5,
            feed_gap_seconds=10,
            broker_session_timeout_seconds=QUICK_SESSION_TIMEOUT_SECONDS,
            broker_heartbeat_seconds=QUICK_HEARTBEAT_SECONDS,
        )
        made = Stage(worker, cluster, proxy)
        created = made.healer("topics", "--create", "--create-platform")
        assert created.returncode == 0, created.stderr
        with worker:
            worker.wait_until_ready()
            until(made.worker.has_counted, "the fleet to be counted", seconds=SECONDS)
            yield made
        cluster.close()


def test_a_stranded_restart_is_ended_by_a_person_who_has_the_job_created(stage: Stage):
    before = stage.strand("loader-created")
    shown = stage.healer("actions", "--open")
    assert "waits for a person: stranded" in shown.stdout
    undecided = stage.healer("resolve", "loader-created")
    assert undecided.returncode == ExitCode.USAGE
    assert "give --create or --abandon" in undecided.stderr
    only_told = stage.healer("resolve", "loader-created", "--create", "--dry-run")
    assert only_told.returncode == ExitCode.OK, only_told.stderr
    assert isinstance(stage.job("loader-created"), ApiFailure)

    done = stage.healer("resolve", "loader-created", "--create")

    assert done.returncode == ExitCode.OK, done.stderr
    assert "restarted, verified: the new incarnation gave a sign of life" in done.stderr
    after = stage.job("loader-created")
    assert not isinstance(after, ApiFailure), after
    assert after.fact.pod is PodState.RUNNING
    assert sanitize(after.manifest)["spec"] == sanitize(before)["spec"]
    assert stage.action("loader-created") is None


def test_a_stranded_restart_that_is_abandoned_is_closed_and_nothing_comes_of_it(stage: Stage):
    stage.strand("loader-abandoned")
    done = stage.healer("resolve", "loader-abandoned", "--abandon")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "failed, abandoned: by " in done.stderr
    assert stage.action("loader-abandoned") is None
    assert isinstance(stage.job("loader-abandoned"), ApiFailure)


def test_where_nothing_waits_for_a_person_nothing_is_decided(stage: Stage):
    nothing = stage.healer("resolve", "loader-nobody", "loader-nobody-else", "--create")
    assert nothing.returncode == ExitCode.REFUSED
    assert nothing.stderr.count("`sf-healer actions --open` lists those that are") == 2
