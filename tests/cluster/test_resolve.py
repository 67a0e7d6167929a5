"""A restart that stopped half way is ended by a person, and only by one: the real worker, broker and cluster small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.cli import ExitCode
from sf_healer.core.facts import PodState
from sf_healer.core.manifest import sanitize
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from tests.cluster.small import IDLE_PODS, Attended, a_healer, a_loader, connected, must
from tests.lab.api_proxy import ApiProxy, Asks, Fault, Harm, Weather
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.worker import Worker

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]

SECONDS = 60.0
#: A create that is refused for longer than a second asks for a person.
POLICY = """\
[admission]
rate_per_minute = 6000
rate_burst = 100
in_flight = 8
create_deadline_seconds = 1
"""
NO_CREATES = Weather(chance=1.0, faults={Asks.CREATE: {Fault(Harm.STATUS, status=403, reason="Forbidden"): 1.0}})


class Stage(Attended):
    """A small cluster behind a proxy that can refuse creates, a worker, and the command line of a person."""

    def __init__(self, worker: Worker, cluster: Cluster, proxy: ApiProxy) -> None:
        super().__init__(worker, cluster)
        self.proxy = proxy

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
        must(self.cluster.create_job(self.cluster.namespace, a_loader(name, f"{name}-P4nTkv")))
        until(lambda: self.job(name).fact.pod is PodState.RUNNING, "its pod", seconds=SECONDS)
        until(lambda: self.page(name).get("incarnation"), "the Job to be known", seconds=SECONDS)
        before = self.job(name)
        self.proxy.change_weather(NO_CREATES)
        asked = self.healer("restart", name, "--reason", "to see", "--wait", "0")
        assert asked.returncode == ExitCode.OK, asked.stderr
        until(lambda: (self.action(name) or {}).get("state") == "stranded", "a person to be asked for", seconds=SECONDS)
        assert isinstance(self.job(name), ApiFailure)
        self.proxy.change_weather(Weather())
        return before.manifest


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("resolve")
    with (
        EmbeddedBroker() as broker,
        LocalCluster(command=IDLE_PODS) as plane,
        ApiProxy.before(plane.kubeconfig) as proxy,
        connected(plane) as cluster,
    ):
        kubeconfig = proxy.kubeconfig(plane.kubeconfig, at=directory / "through-the-proxy")
        worker = a_healer(directory, broker.bootstrap, cluster, kubeconfig, POLICY)
        made = Stage(worker, cluster, proxy)
        created = made.healer("topics", "--create", "--create-platform")
        assert created.returncode == 0, created.stderr
        with worker:
            worker.wait_until_ready()
            until(made.worker.has_counted, "the fleet to be counted", seconds=SECONDS)
            yield made


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
