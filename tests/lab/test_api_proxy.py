"""The fault proxy does to each request what it says, and knows what the client cannot: whether it went through."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sf_healer.adapters import cluster as adapter
from sf_healer.adapters.cluster import ApiFailure, Change, Cluster, Failure, Listing, LiveJob
from sf_healer.local.cluster import LocalCluster
from tests.lab.api_proxy import GOES_THROUGH, ApiProxy, Asks, Fault, Harm, Moment, Request, Weather
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane

SECONDS = 10.0
NEVER_ENDS = ("sleep", "600")


@pytest.fixture(scope="module")
def plane() -> Iterator[LocalCluster]:
    with LocalCluster(command=NEVER_ENDS) as started:
        yield started


@pytest.fixture
def proxy(plane: LocalCluster) -> Iterator[ApiProxy]:
    with ApiProxy.before(plane.kubeconfig) as started:
        yield started


@pytest.fixture
def through(plane: LocalCluster, proxy: ApiProxy, tmp_path: Path) -> Iterator[Cluster]:
    kubeconfig = proxy.kubeconfig(plane.kubeconfig, at=tmp_path / "kubeconfig")
    cluster = Cluster.connect(namespace=plane.create_namespace(), kubeconfig=str(kubeconfig))
    yield cluster
    cluster.close()


@pytest.fixture
def direct(plane: LocalCluster, through: Cluster) -> Iterator[Cluster]:
    cluster = Cluster.connect(namespace=through.namespace, kubeconfig=str(plane.kubeconfig))
    yield cluster
    for fact in listed(cluster).facts:
        cluster.delete_job(cluster.namespace, fact.key.split("/")[1], fact.uid)
    cluster.close()


def a_job(name: str = "one") -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "registry.example/c:1"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }


def listed(cluster: Cluster) -> Listing:
    answer = cluster.list_jobs()
    assert isinstance(answer, Listing), answer
    return answer


def names(cluster: Cluster) -> list[str]:
    return [fact.key.split("/")[1] for fact in listed(cluster).facts]


def test_what_meets_no_fault_is_passed_on_as_it_is(through: Cluster, direct: Cluster):
    made = through.create_job(through.namespace, a_job())
    assert isinstance(made, LiveJob)
    passed_on, asked = (cluster.read_job(cluster.namespace, "one") for cluster in (through, direct))
    assert isinstance(passed_on, LiveJob)
    assert isinstance(asked, LiveJob)
    assert passed_on == replace(asked, api_at=passed_on.api_at)  # the server's clock goes on between two answers
    assert made.api_at <= passed_on.api_at <= asked.api_at
    assert through.delete_job(through.namespace, "one", made.fact.uid) is None


@pytest.mark.kube
def test_a_real_api_server_takes_what_comes_through(control_plane: ControlPlane, tmp_path: Path):
    with ApiProxy.before(control_plane.kubeconfig) as proxy:
        kubeconfig = proxy.kubeconfig(control_plane.kubeconfig, at=tmp_path / "kubeconfig")
        cluster = Cluster.connect(namespace=control_plane.create_namespace(), kubeconfig=str(kubeconfig))
        made = cluster.create_job(cluster.namespace, a_job())
        assert isinstance(made, LiveJob)
        assert names(cluster) == ["one"]
        assert cluster.delete_job(cluster.namespace, "one", made.fact.uid) is None
        until(lambda: names(cluster) == [], "the end of the Job", seconds=SECONDS)
        cluster.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(Harm.STATUS, 409, "Conflict"), Failure.CONFLICT),
        (Fault(Harm.STATUS, 409, "AlreadyExists"), Failure.ALREADY_EXISTS),
        (Fault(Harm.STATUS, 422, "Invalid"), Failure.INVALID),
        (Fault(Harm.STATUS, 500, "InternalError"), Failure.SERVER),
        (Fault(Harm.STATUS, 503, "ServiceUnavailable"), Failure.SERVER),
        (Fault(Harm.RESET_NOT_SENT), Failure.BROKEN_OFF),
        (Fault(Harm.RESET_ANSWER_LOST), Failure.BROKEN_OFF),
        (Fault(Harm.SILENCE_NOT_SENT), Failure.TIMEOUT),
        (Fault(Harm.SILENCE_ANSWER_LOST), Failure.TIMEOUT),
        (Fault(Harm.LATE, seconds=0.1), None),
    ],
    ids=str,
)
def test_a_create_that_fails_went_through_if_and_only_if_the_proxy_says_so(
    through: Cluster, direct: Cluster, proxy: ApiProxy, monkeypatch, *, fault: Fault, expected: Failure | None
):
    monkeypatch.setattr(adapter, "CALL_SECONDS", 1.0)
    proxy.harm_next(Asks.CREATE, fault)
    answer = through.create_job(through.namespace, a_job())
    assert (answer.kind if isinstance(answer, ApiFailure) else None) is expected
    assert names(direct) == (["one"] if fault.harm in GOES_THROUGH else [])
    [asked] = [request for request in proxy.requests if request.asks is Asks.CREATE]
    assert (asked.harm, asked.status) == (fault.harm, 201 if fault.harm in GOES_THROUGH else 0)
    assert proxy.counts() == {f"create: {fault}": 1}


def test_a_create_that_is_only_rehearsed_is_none(through: Cluster, direct: Cluster, proxy: ApiProxy):
    proxy.harm_next(Asks.CREATE, Fault(Harm.STATUS, 422, "Invalid"))
    assert not isinstance(through.rehearse_create(through.namespace, a_job()), ApiFailure)
    assert [request.asks for request in proxy.requests] == [Asks.REHEARSE]
    assert names(direct) == []


def test_a_throttled_client_is_told_how_long_to_wait(through: Cluster, proxy: ApiProxy):
    proxy.harm_next(Asks.READ, Fault(Harm.STATUS, 429, "TooManyRequests", retry_after_seconds=7))
    answer = through.read_job(through.namespace, "one")
    assert isinstance(answer, ApiFailure)
    assert (answer.kind, answer.retry_after_seconds) == (Failure.THROTTLED, 7.0)


def test_a_late_create_is_done_after_the_client_has_given_up(
    through: Cluster, direct: Cluster, proxy: ApiProxy, monkeypatch
):
    monkeypatch.setattr(adapter, "CALL_SECONDS", 0.3)
    proxy.harm_next(Asks.CREATE, Fault(Harm.LATE, seconds=1.0))
    answer = through.create_job(through.namespace, a_job())
    assert isinstance(answer, ApiFailure)
    assert answer.kind is Failure.TIMEOUT
    assert names(direct) == []
    until(lambda: names(direct) == ["one"], "the late create", seconds=SECONDS)


def test_an_api_that_is_away_refuses_connections_and_comes_back_on_its_port(through: Cluster, proxy: ApiProxy):
    listed(through)
    proxy.go_away()
    for _ in range(2):  # the first may find the connection of before, and that it was reset
        answer = through.list_jobs()
        assert isinstance(answer, ApiFailure)
    assert answer.kind is Failure.UNREACHABLE
    proxy.come_back()
    listed(through)


def test_a_request_is_shown_before_and_after_it_is_passed_on_and_waits_meanwhile(
    through: Cluster, direct: Cluster, proxy: ApiProxy
):
    shown: list[tuple[Moment, list[str]]] = []

    def look(moment: Moment, request: Request) -> None:
        if request.asks is Asks.CREATE:
            shown.append((moment, names(direct)))

    proxy.watch_for = look
    through.create_job(through.namespace, a_job())
    assert shown == [(Moment.ARRIVED, []), (Moment.ANSWERED, ["one"])]


def test_a_seeded_mixture_is_the_same_each_time_for_the_same_requests(through: Cluster, proxy: ApiProxy):
    faults = {Fault(Harm.STATUS, 500): 2.0, Fault(Harm.STATUS, 503): 1.0}
    runs = []
    for _ in range(2):
        proxy.change_weather(Weather(seed=1, chance=0.5, faults={Asks.READ: faults}))
        before = len(proxy.requests)
        for _ in range(20):
            through.pods_of(through.namespace, "one", "u1")
        runs.append([request.fault for request in proxy.requests[before:]])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"", "status 500", "status 503"}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(Harm.WATCH_CUT, seconds=1.5), Failure.BROKEN_OFF),
        (Fault(Harm.WATCH_FORGOTTEN, seconds=1.5), Failure.GONE),
    ],
    ids=str,
)
def test_a_watch_streams_until_its_fault_and_says_which(
    through: Cluster, direct: Cluster, proxy: ApiProxy, fault: Fault, expected: Failure
):
    listing, stop = listed(through), threading.Event()
    seen: list[Change | ApiFailure] = []
    proxy.harm_next(Asks.WATCH, fault, fault)  # of Jobs and of pods
    thread = threading.Thread(target=lambda: seen.extend(through.watch(listing, stop)))
    thread.start()
    try:
        until(lambda: proxy.counts()[f"watch: {fault}"] == 2, "both watches", seconds=SECONDS)
        direct.create_job(direct.namespace, a_job())
        until(lambda: [each for each in seen if isinstance(each, ApiFailure)], "the fault", seconds=SECONDS)
    finally:
        stop.set()
        thread.join(SECONDS)
    assert isinstance(seen[0], Change)  # it came at once, not when the watch ended
    assert seen[0].fact.key == f"{direct.namespace}/one"
    assert {each.kind for each in seen if isinstance(each, ApiFailure)} == {expected}
