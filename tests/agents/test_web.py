"""The views of one worker beside others: own Jobs shown, others' fetched, what cannot be reached said."""

import json
from typing import Any, Self

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, make_mocked_request
from faust.types import TP

from agents import inventory, telemetry, watchdog
from agents import web as module
from sf_healer import topics
from sf_healer.app import actuator, detector, settings
from sf_healer.core import evidence
from tables import actions
from tests.agents.recording import BROKER_EPOCH, edges, key_on
from tests.core.strategies import a_fact

OURS, THEIRS = 2, 5
JOB, ELSEWHERE = key_on(OURS), key_on(THEIRS)
NOBODY_LISTENS = "http://127.0.0.1:1"


class Metadata:
    """In the place of Faust's router: which worker has which partition of which changelog."""

    def __init__(self, *workers: tuple[str, str, list[int]]) -> None:
        self._workers = workers

    def tables_metadata(self) -> dict[str, dict[str, list[int]]]:
        return {url: {topic: partitions} for url, topic, partitions in self._workers}


class Peer:
    """Another worker: answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._server = TestServer(application)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/")).rstrip("/")

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        status, body = self.answers.get(request.path, (404, {}))
        return web.json_response(body, status=status)


@pytest.fixture
def edge():
    with edges() as around:
        yield around


@pytest.fixture
async def group(edge, monkeypatch):
    """Be one of a group of workers as the test says; ours has the partition OURS, with one Job."""
    (partition,) = edge.own(OURS)
    partition.apply(evidence.Fact(a_fact(JOB)), BROKER_EPOCH)
    async with ClientSession() as session:
        monkeypatch.setattr(detector, "_http_client", session)

        def of(*others: tuple[str, list[int]]) -> None:
            workers = [(str(detector.conf.canonical_url), [OURS]), *others]
            told = Metadata(*((url, topics.JOBS_CHANGELOG, partitions) for url, partitions in workers))
            monkeypatch.setitem(detector.__dict__, "router", told)

        of()
        yield of


async def get(view: Any, path: str, **match: str) -> tuple[int, Any]:
    shown = view(detector, detector.web) if isinstance(view, type) else view
    response = await shown.get(make_mocked_request("GET", path), **match)
    return response.status, json.loads(response.body)


def view_of(path: str) -> Any:
    (view,) = (view for view in detector.web.views.values() if view.view_path == path)
    return view


async def job_page(key: str, query: str = "") -> tuple[int, Any]:
    namespace, _, name = key.partition("/")
    return await get(module.Job, f"/jobs/{key}/{query}", namespace=namespace, name=name)


# ------------------------------------------------------------------ lists


async def test_the_list_is_that_of_all_workers_in_order_of_name(group):
    async with Peer() as peer:
        peer.answers["/jobs/"] = (200, {"jobs": [{"job": "stf/a"}, {"job": "stf/zz"}], "partitions": [0, 1, 3, 4, 5]})
        group((peer.url, [0, 1, 3, 4, 5]))
        status, body = await get(module.Jobs, "/jobs/")
        assert peer.asked == ["/jobs/?local=1"], "the other is asked for its own part only"
    assert status == 200
    assert [row["job"] for row in body["jobs"]] == ["stf/a", JOB, "stf/zz"]
    assert (body["unreachable"], body["partitions_missing"]) == ([], [])


async def test_asked_for_its_own_part_a_worker_asks_nobody(group):
    async with Peer() as peer:
        group((peer.url, [0]))
        _, body = await get(module.Jobs, "/jobs/?local=1")
        assert peer.asked == []
    assert ([row["job"] for row in body["jobs"]], body["partitions"]) == ([JOB], [OURS])


@pytest.mark.parametrize("view", [module.Jobs, module.Fleet])
async def test_a_worker_that_does_not_answer_is_named_with_the_partitions_that_are_missing(group, view):
    group((NOBODY_LISTENS, [0, 1, 3, 4, 5]))
    status, body = await get(view, "/")
    assert status == 200
    assert (body["unreachable"], body["partitions_missing"]) == ([NOBODY_LISTENS], [0, 1, 3, 4, 5])


async def test_a_worker_that_answers_with_an_error_is_named_too(group):
    async with Peer() as peer:
        peer.answers["/jobs/"] = (500, {})
        group((peer.url, [0]))
        _, body = await get(module.Jobs, "/jobs/")
        assert body["unreachable"] == [peer.url]


async def test_a_partition_that_nobody_has_right_now_is_said_to_be_missing(group):
    _, body = await get(module.Jobs, "/jobs/")
    assert body["partitions_missing"] == [number for number in range(settings.partitions) if number != OURS]


async def test_the_fleet_adds_up_the_verdicts_and_lists_every_partition(group):
    theirs = {"verdicts": {"healthy": 3, "stuck": 1}, "jobs": 4, "partitions": [{"partition": 0}, {"partition": 5}]}
    async with Peer() as peer:
        peer.answers["/fleet/"] = (200, theirs)
        group((peer.url, [0, 5]))
        _, body = await get(module.Fleet, "/fleet/")
    (ours,) = {key: count for key, count in body["verdicts"].items() if key not in theirs["verdicts"]}.items()
    assert body["verdicts"] == {**theirs["verdicts"], ours[0]: 1}
    assert body["jobs"] == 5
    assert [row["partition"] for row in body["partitions"]] == [0, OURS, 5]


# ------------------------------------------------------------------ one Job


async def test_a_job_of_ours_is_shown(group):
    status, body = await job_page(JOB)
    assert (status, body["job"], body["partition"]) == (200, JOB, OURS)
    assert body["why"]["rule"]


async def test_a_job_of_another_worker_is_fetched_from_it_with_its_status(group):
    async with Peer() as peer:
        group((peer.url, [THEIRS]))
        peer.answers[f"/jobs/{ELSEWHERE}/"] = (200, {"job": ELSEWHERE})
        assert await job_page(ELSEWHERE) == (200, {"job": ELSEWHERE})
        peer.answers[f"/jobs/{ELSEWHERE}/"] = (404, {"error": "no such Job"})
        assert await job_page(ELSEWHERE) == (404, {"error": "no such Job"})


async def test_two_workers_that_take_each_other_for_the_owner_do_not_ask_in_circles(group):
    async with Peer() as peer:
        group((peer.url, [THEIRS]))
        await job_page(ELSEWHERE)
        assert peer.asked == [f"/jobs/{ELSEWHERE}/?local=1"]
        status, body = await job_page(ELSEWHERE, "?local=1")
        assert len(peer.asked) == 1
    assert status == 503
    assert "does not have" in body["error"]


async def test_an_owner_that_does_not_answer_is_named(group):
    group((NOBODY_LISTENS, [THEIRS]))
    status, body = await job_page(ELSEWHERE)
    assert status == 503
    assert NOBODY_LISTENS in body["error"]


async def test_a_job_whose_partition_nobody_has_cannot_be_told_right_now(group):
    status, body = await job_page(ELSEWHERE)
    assert status == 503
    assert "no worker owns" in body["error"]


async def test_an_unknown_job_of_ours_is_not_found_only_when_we_are_ready(group, monkeypatch):
    unknown = key_on(OURS, "stf/unknown")
    status, body = await job_page(unknown)
    assert (status, "recovering" in body["error"]) == (503, True)
    monkeypatch.setattr(watchdog, "ready", lambda: True)
    status, body = await job_page(unknown)
    assert (status, body) == (404, {"error": f"no Job {unknown} is known"})


# ------------------------------------------------------------------ actions and health


async def test_actions_are_fetched_from_the_worker_that_has_the_steps_log(group, monkeypatch):
    view = view_of("/actions/")
    async with Peer() as peer:
        peer.answers["/actions/"] = (200, {"actions": {"stf/a": {}}})
        told = Metadata((peer.url, topics.ACTIONS_CHANGELOG, [0]))
        monkeypatch.setitem(actuator.__dict__, "router", told)
        assert await get(view, "/actions/") == (200, {"actions": {"stf/a": {}}})
        assert peer.asked == ["/actions/?local=1"]


async def test_actions_that_nobody_has_right_now_are_said_to_be_so(group, monkeypatch):
    view = view_of("/actions/")
    monkeypatch.setitem(actuator.__dict__, "router", Metadata())
    status, body = await get(view, "/actions/")
    assert (status, "no worker owns" in body["error"]) == (503, True)
    mine = Metadata((str(actuator.conf.canonical_url), topics.ACTIONS_CHANGELOG, [0]))
    monkeypatch.setitem(actuator.__dict__, "router", mine)
    status, body = await get(view, "/actions/")
    assert (status, "recovering" in body["error"]) == (503, True)


async def test_actions_of_this_worker_are_shown_without_asking_anybody(group, monkeypatch):
    view = view_of("/actions/")
    monkeypatch.setattr(actions, "shown_jobs", lambda: {"stf/a": {"state": "x"}})
    monkeypatch.setattr(actions, "shown_admission", lambda: {"phase": "calm"})
    shown = {"actions": {"stf/a": {"state": "x"}}, "admission": {"phase": "calm"}}
    assert await get(view, "/actions/") == (200, shown)


async def test_a_worker_that_has_not_joined_is_alive_and_says_why_it_is_not_ready(edge):
    status, body = await get(view_of("/readyz"), "/readyz")
    assert (status, body["ready"]) == (503, False)
    assert "the Jobs of the cluster have not been listed yet" in body["problems"]
    inventory.first_list.set()
    _, body = await get(view_of("/readyz"), "/readyz")
    assert "the Jobs of the cluster have not been listed yet" not in body["problems"]
    assert body["problems"]
    assert await get(view_of("/livez"), "/livez") == (200, {"alive": True, "problems": []})


async def test_a_worker_whose_broker_does_not_answer_is_alive_and_not_ready(edge, monkeypatch):
    inventory.first_list.set()
    monkeypatch.setattr(detector, "rebalancing", False)
    monkeypatch.setattr(type(detector), "in_recovery", False, raising=False)
    monkeypatch.setattr(detector.assignor, "assigned_actives", lambda: {TP(topics.EVIDENCE, OURS)})
    monkeypatch.setattr(watchdog, "_actuator_problems", list)
    assert watchdog.not_ready() == ["no mark has been made yet"]
    assert await telemetry.forwarding.mark() == 0  # nothing of ours to mark, and nobody who did not answer
    assert watchdog.not_ready() == []
    telemetry.forwarding.marked_at -= settings.feed_gap_seconds + 1.0
    (problem,) = watchdog.not_ready()
    assert "the broker does not answer" in problem
    assert watchdog.not_alive() == []


async def test_metrics_are_prometheus_text(edge):
    response = await view_of("/metrics").get(make_mocked_request("GET", "/metrics"))
    assert response.headers["Content-Type"].startswith("text/plain")
    assert b"sf_healer_build_info" in response.body
