"""The views of one worker beside others: own Jobs shown, others' fetched, what cannot be reached said."""

import asyncio
import json
from typing import Any, Self

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, make_mocked_request
from faust.types import TP
from prometheus_client import Counter

from agents import inventory, telemetry, watchdog
from agents import web as module
from sf_healer import topics
from sf_healer.app import actuator, detector, settings
from sf_healer.core import evidence
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Command, Grounds
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts
from sf_healer.settings import Role
from tables import actions
from tests.agents.recording import BROKER_EPOCH, edges, key_on
from tests.core.strategies import a_fact, a_well_state

OURS, THEIRS = 2, 5
JOB, ELSEWHERE = key_on(OURS), key_on(THEIRS)
#: What Firefox sends.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
NOBODY_LISTENS = "http://127.0.0.1:1"


class Metadata:
    """In the place of Faust's router: which worker has which partition of which changelog."""

    def __init__(self, *workers: tuple[str, str, list[int]]) -> None:
        self._workers = workers

    def tables_metadata(self) -> dict[str, dict[str, list[int]]]:
        return {url: {topic: partitions} for url, topic, partitions in self._workers}


#: A Job as every worker has ever listed it, but for its name.
OLD_ROW = {
    "namespace": "stf",
    "name": "z",
    "verdict": "stuck",
    "rule": "loading_stopped",
    "target": "loader",
    "queue_id": "q",
    "last_loading_at": None,
    "last_seen_at": None,
    "silence_seconds": 1.0,
    "threshold_seconds": 2.0,
    "attempt": 0,
    "partition": 5,
}


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


class Together(Peer):
    """Another worker that answers only when so many questions wait."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._waiting = asyncio.Barrier(questions)

    async def _answer(self, request: web.Request) -> web.Response:
        await self._waiting.wait()
        return await super()._answer(request)


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


async def get_page(view: Any, path: str, **match: str) -> tuple[int, str]:
    shown = view(detector, detector.web) if isinstance(view, type) else view
    response = await shown.get(make_mocked_request("GET", path, headers={"Accept": BROWSER}), **match)
    assert response.content_type == "text/html"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    return response.status, response.text


def own_the_steps_log(monkeypatch) -> Command:
    """Have the steps log, with a restart of JOB that has just been admitted."""
    current = Actuator(worker="w", limits=Limits(), observe_only=False)
    namespace, _, name = JOB.partition("/")
    known = {"id": "c-1", "key": JOB, "namespace": namespace, "name": name, "uid": "u1", "verdict": "stuck"}
    at = BROKER_EPOCH
    command = Command(**known, evidence=Grounds(unhealthy_at=at), decided_at=at, expires_at=at + 60.0)
    counts = FleetCounts(partition=0, partitions=1, at=at, base=10, unhealthy=1, sick=1)
    waiting, offset = [counts, command], 0
    while waiting:
        effects = current.apply(waiting.pop(0), offset, at)
        waiting, offset = [*effects.sends, *waiting], offset + 1
    monkeypatch.setattr(actions, "current", current)
    return command


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


async def test_who_looks_at_the_views_wakes_no_job_that_is_at_rest(group, edge):
    well, sick = key_on(OURS, "stf/well"), JOB
    (partition,) = edge.own(OURS)
    partition.restore_jobs([a_well_state(well)])
    partition.apply(evidence.Fact(a_fact(sick)), BROKER_EPOCH)
    _, listed = await get(module.Jobs, "/jobs/?local=1")
    assert {row["job"]: row["verdict"] for row in listed["jobs"]}[well] == "healthy"
    status, shown = await job_page(well)
    assert (status, shown["job"], shown["verdict"]) == (200, well, "healthy")
    await get_page(module.Jobs, "/jobs/")
    _, fleet = await get(module.Fleet, "/fleet/")
    assert fleet["jobs"] == len(listed["jobs"]) == 2
    assert partition.jobs.at_rest == 1


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


async def test_a_worker_that_knows_no_parts_of_lists_has_its_whole_list_counted(group):
    theirs = [
        {**OLD_ROW, "job": f"stf/z{n}", "verdict": verdict} for n, verdict in enumerate(["stuck", "stuck", "mute"])
    ]
    async with Peer() as peer:
        peer.answers["/jobs/"] = (200, {"jobs": theirs, "partitions": [5]})
        peer.answers["/fleet/"] = (200, {"verdicts": {"stuck": 2, "mute": 1}, "partitions": []})
        group((peer.url, [5]))
        status, body = await get(module.Jobs, "/jobs/?rows=1&verdict=stuck")
        assert (status, [row["job"] for row in body["jobs"]], body["total"]) == (200, ["stf/z0"], 2)
        status, body = await get(module.Overview, "/")
        assert (status, body["jobs"]["total"], body["jobs"]["unreachable"]) == (200, 4, [])
        assert (await get_page(module.Overview, "/"))[0] == 200


@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"jobs": [{"name": "of another version"}], "partitions": [5]},
        {"jobs": [{**OLD_ROW, "job": "stf/z"}], "partitions": [5], "total": 1},
        {"jobs": None, "partitions": [5], "total": 1, "ahead": 0},
        {"jobs": [], "partitions": None, "total": 0, "ahead": 0},
    ],
)
async def test_a_list_of_another_version_is_named_as_missing_and_the_rest_is_shown(group, theirs):
    async with Peer() as peer:
        peer.answers["/jobs/"], peer.answers["/fleet/"] = (200, theirs), (200, {"verdicts": {}, "partitions": []})
        group((peer.url, [5]))
        status, part = await get(module.Jobs, "/jobs/?rows=50")
        assert (status, [row["job"] for row in part["jobs"]], part["total"]) == (200, [JOB], 1)
        assert part["unreachable"] == [peer.url]
        assert 5 in part["partitions_missing"]
        status, overview = await get(module.Overview, "/")
        assert (status, overview["jobs"]["unreachable"]) == (200, [peer.url])
        status, page = await get_page(module.Overview, "/")
        assert (status, f"no answer from {peer.url}" in page.lower()) == (200, True)


@pytest.mark.parametrize("theirs", [{}, {"verdicts": 3, "partitions": []}, {"verdicts": {}, "partitions": [{}]}])
async def test_a_fleet_of_another_version_is_named_as_missing_and_the_rest_is_counted(group, theirs):
    async with Peer() as peer:
        peer.answers["/fleet/"] = (200, theirs)
        group((peer.url, [5]))
        status, fleet = await get(module.Fleet, "/fleet/")
        assert (status, fleet["jobs"], fleet["unreachable"]) == (200, 1, [peer.url])
        assert 5 in fleet["partitions_missing"]


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


async def test_the_fleet_adds_up_the_dead_letters_by_their_reasons(group, monkeypatch):
    told = Counter("letters", "Of this test.", ["reason"], registry=None)
    told.labels(reason="not_json").inc(2)
    told.labels(reason="null").inc(0)
    monkeypatch.setattr(module.metrics, "DEAD_LETTERS", told)
    theirs = {"verdicts": {}, "partitions": [], "dead_letters": {"not_json": 3, "unresolved_unknown_queue": 4}}
    async with Peer() as peer:
        peer.answers["/fleet/"] = (200, theirs)
        group((peer.url, [5]))
        _, body = await get(module.Fleet, "/fleet/")
    assert body["dead_letters"] == {"not_json": 5, "unresolved_unknown_queue": 4}


@pytest.mark.parametrize(("role", "letters"), [(Role.ACTUATOR, {"not_a_pause": 1}), (Role.ALL, {})])
async def test_an_actuator_alone_tells_its_dead_letters_with_the_restarts(group, monkeypatch, role, letters):
    """Beside a detector they are counted with the fleet: twice would be wrong."""
    own_the_steps_log(monkeypatch)
    told = Counter("letters", "Of this test.", ["reason"], registry=None)
    told.labels(reason="not_a_pause").inc()
    monkeypatch.setattr(module.metrics, "DEAD_LETTERS", told)
    monkeypatch.setattr(module, "settings", msgspec.structs.replace(settings, role=role))
    _, body = await get(view_of("/actions/"), "/actions/")
    assert body["dead_letters"] == letters
    _, page = await get_page(view_of("/actions/"), "/actions/")
    assert ("1 message could not be read (1 not_a_pause)" in page) is bool(letters)


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
    command = own_the_steps_log(monkeypatch)
    status, body = await get(view_of("/actions/"), "/actions/")
    assert (status, body["admission"]["phase"]) == (200, "calm")
    assert body["actions"][JOB]["action"]["command"]["id"] == command.id


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


# ------------------------------------------------------------------ restarts, one by one


async def test_restarts_are_narrowed_to_a_job_or_to_the_last(group, monkeypatch):
    own_the_steps_log(monkeypatch)
    view = view_of("/actions/")
    for query, shown in ((f"?job={JOB}", {JOB}), ("?job=stf/other", set()), ("?last=1", {JOB})):
        _, body = await get(view, f"/actions/{query}")
        assert set(body["actions"]) == shown, query
    status, body = await get(view, "/actions/?last=many")
    assert (status, "last must be a number" in body["error"]) == (400, True)


async def test_the_question_for_some_restarts_is_passed_on_to_the_owner_of_the_steps_log(group, monkeypatch):
    async with Peer() as peer:
        peer.answers["/actions/"] = (200, {"actions": {}})
        monkeypatch.setitem(actuator.__dict__, "router", Metadata((peer.url, topics.ACTIONS_CHANGELOG, [0])))
        await get(view_of("/actions/"), "/actions/?last=3&format=json")
        assert peer.asked == ["/actions/?local=1&last=3"]


async def test_a_restart_is_told_by_its_id_here_or_by_the_owner_of_the_steps_log(group, monkeypatch):
    view = view_of("/actions/{action_id}/")
    async with Peer() as peer:
        peer.answers["/actions/c-9/"] = (200, {"id": "c-9"})
        monkeypatch.setitem(actuator.__dict__, "router", Metadata((peer.url, topics.ACTIONS_CHANGELOG, [0])))
        assert await get(view, "/actions/c-9/", action_id="c-9") == (200, {"id": "c-9"})
        assert peer.asked == ["/actions/c-9/?local=1"]
        status, body = await get(view, "/actions/c-9/?local=1", action_id="c-9")
        assert (status, len(peer.asked)) == (503, 1)
    own_the_steps_log(monkeypatch)
    status, body = await get(view, "/actions/c-1/", action_id="c-1")
    assert (status, body["job"], body["action"]["state"]) == (200, JOB, "admitted")
    status, body = await get(view, "/actions/c-9/", action_id="c-9")
    assert (status, "no restart c-9" in body["error"]) == (404, True)


# ------------------------------------------------------------------ parts of the list


async def test_a_part_of_the_list_is_made_of_the_parts_of_all_workers(group):
    theirs = [{"job": f"stf/z{n}", "verdict": "stuck", "last_seen_at": None} for n in (1, 2)]
    async with Peer() as peer:
        peer.answers["/jobs/"] = (200, {"jobs": theirs, "partitions": [5], "total": 7, "ahead": 0})
        group((peer.url, [5]))
        status, body = await get(module.Jobs, "/jobs/?rows=2&verdict=stuck&verdict=starting")
        assert peer.asked == ["/jobs/?local=1&verdict=stuck&verdict=starting&rows=2"]
    assert status == 200
    assert [row["job"] for row in body["jobs"]] == ["stf/z1", "stf/z2"], "the sick first, wherever they are"
    assert (body["first"], body["before"], body["after"]) == (1, None, "0:0.0:stf/z2")
    assert body["total"] == 7 + len((await get(module.Jobs, "/jobs/?verdict=starting"))[1]["jobs"])


async def test_asked_for_its_own_part_a_worker_counts_what_lies_before_it(group):
    (partition,) = [module.hot[OURS]]
    for name in "abc":
        partition.apply(evidence.Fact(a_fact(f"stf/{name}")), BROKER_EPOCH)
    _, body = await get(module.Jobs, "/jobs/?local=1&rows=1&after=1:0.0:stf/a")
    assert ([row["job"] for row in body["jobs"]], body["total"], body["ahead"]) == (["stf/b"], 4, 1)


@pytest.mark.parametrize(("view", "path"), [(module.Jobs, "/jobs/"), (module.Overview, "/")])
async def test_a_query_that_means_nothing_is_answered_with_what_is_wrong_with_it(group, view, path):
    status, body = await get(view, f"{path}?verdict=ill")
    assert (status, "no verdict: 'ill'" in body["error"]) == (400, True)
    status, page = await get_page(view, f"{path}?verdict=<script>")
    assert (status, "no verdict" in page, "?verdict=&lt;script" in page) == (400, True, False)


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize("path", ["/", "/jobs/", "/fleet/", "/actions/", "/actions/c-1/", f"/jobs/{JOB}/"])
async def test_every_page_has_its_twin_in_json_under_the_same_address(group, monkeypatch, path):
    own_the_steps_log(monkeypatch)
    namespace, _, name = JOB.partition("/")
    view, match = {
        "/": (view_of("/"), {}),
        "/actions/c-1/": (view_of("/actions/{action_id}/"), {"action_id": "c-1"}),
        f"/jobs/{JOB}/": (view_of("/jobs/{namespace}/{name}/"), {"namespace": namespace, "name": name}),
    }.get(path, (None, {}))
    view = view or view_of(path)
    status, page = await get_page(view, path, **match)
    assert status == 200
    assert f'href="{path}?format=json"' in page
    status, body = await get(view, path, **match)
    assert (status, type(body)) == (200, dict)
    response = await view.get(make_mocked_request("GET", f"{path}?format=json", headers={"Accept": BROWSER}), **match)
    assert json.loads(response.body).keys() == body.keys()
    assert (await view.get(make_mocked_request("GET", f"{path}?format=html"), **match)).content_type == "text/html"
    other = await view.get(make_mocked_request("GET", f"{path}?local=1", headers={"Accept": BROWSER}), **match)
    assert other.content_type == "application/json", "that is another worker"


async def test_the_dashboard_shows_the_fleet_the_jobs_and_the_last_restarts(group, monkeypatch):
    own_the_steps_log(monkeypatch)
    status, body = await get(module.Overview, "/")
    assert (status, body["fleet"]["jobs"], body["jobs"]["total"]) == (200, 1, 1)
    assert body["restarts"]["actions"].keys() == {JOB}
    _, page = await get_page(module.Overview, "/")
    assert f'<a href="/jobs/{JOB}/">{JOB}</a>' in page
    assert '<a href="/actions/c-1/">' in page


async def test_the_page_of_jobs_says_what_holds_the_sick_back_as_admission_shows_it(group, monkeypatch):
    own_the_steps_log(monkeypatch)
    theirs = {**OLD_ROW, "job": "stf/z"}
    async with Peer() as peer:
        peer.answers["/jobs/"] = (200, {"jobs": [theirs], "partitions": [5], "total": 1, "ahead": 0})
        group((peer.url, [5]))
        _, page = await get_page(module.Jobs, "/jobs/?verdict=sick")
    assert "Held by" in page
    assert "in flight: 1 of 1" not in page
    assert ">in flight<" in page


async def test_the_page_of_jobs_asks_for_the_jobs_and_for_admission_at_once(group, monkeypatch):
    """Else an actuator that hangs makes it wait twice."""
    async with Together(2) as peer:
        theirs = {**OLD_ROW, "job": "stf/z"}
        peer.answers["/jobs/"] = (200, {"jobs": [theirs], "partitions": [5], "total": 1, "ahead": 0})
        peer.answers["/actions/"] = (503, {"error": "recovering"})
        group((peer.url, [5]))
        monkeypatch.setitem(actuator.__dict__, "router", Metadata((peer.url, topics.ACTIONS_CHANGELOG, [0])))
        _, page = await get_page(module.Jobs, "/jobs/")
    assert "stf/z" in page


async def test_the_dashboard_is_shown_although_nobody_has_the_steps_log_and_a_worker_is_away(group, monkeypatch):
    group((NOBODY_LISTENS, [5]))
    monkeypatch.setitem(actuator.__dict__, "router", Metadata())
    status, page = await get_page(module.Overview, "/")
    assert status == 200
    assert "no worker owns the steps log right now" in page
    assert f"no answer from {NOBODY_LISTENS}" in page
    assert JOB in page


async def test_a_job_is_drawn_from_what_its_owner_tells(group, monkeypatch):
    _, body = await job_page(JOB)
    own_the_steps_log(monkeypatch)
    namespace, _, name = ELSEWHERE.partition("/")
    async with Peer() as peer:
        group((peer.url, [THEIRS]))
        peer.answers[f"/jobs/{ELSEWHERE}/"] = (200, {**body, "job": ELSEWHERE})
        status, page = await get_page(module.Job, f"/jobs/{ELSEWHERE}/", namespace=namespace, name=name)
    assert status == 200
    assert f"<h1>{ELSEWHERE}</h1>" in page


async def test_a_job_whose_owner_is_away_is_a_page_with_the_state_of_its_partition(group):
    group((NOBODY_LISTENS, [THEIRS]))
    namespace, _, name = ELSEWHERE.partition("/")
    status, page = await get_page(module.Job, f"/jobs/{ELSEWHERE}/", namespace=namespace, name=name)
    assert status == 503
    assert f"<dd>{THEIRS}</dd>" in page
    assert f"<dd>{NOBODY_LISTENS}</dd>" in page
    assert "does not answer" in page
    status, body = await job_page(ELSEWHERE)
    assert (status, body["partition"]["number"], body["partition"]["owner"]) == (503, THEIRS, NOBODY_LISTENS)


async def test_a_job_that_its_owner_is_still_restoring_is_a_page_that_says_how_far_it_is(group):
    unknown = key_on(OURS, "stf/unknown")
    namespace, _, name = unknown.partition("/")
    status, page = await get_page(module.Job, f"/jobs/{unknown}/", namespace=namespace, name=name)
    assert (status, "still recovering" in page) == (503, True)
    assert "the Jobs of the cluster have not been listed yet" in page


async def test_what_pages_load_is_served_with_its_type_and_may_be_kept(edge):
    view = view_of("/assets/{name}")
    for name, kind in (("style.css", "text/css"), ("refresh.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        response = await view.get(make_mocked_request("GET", f"/assets/{name}"), name=name)
        assert (response.status, response.content_type) == (200, kind)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await get(view, "/assets/other", name="other"))[0] == 404


async def test_the_page_that_was_at_ui_is_at_the_root(edge):
    response = await view_of("/ui/").get(make_mocked_request("GET", "/ui/"))
    assert (response.status, response.headers["Location"]) == (302, "/")


async def an_answer(_):
    return web.Response()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("/jobs/stf/a", "/jobs/stf/a/"),
        ("/jobs/stf/a?format=json", "/jobs/stf/a/?format=json"),
        ("/jobs", "/jobs/"),
        ("//elsewhere.example/jobs", None),
        ("/other", None),
        ("/livez", None),
    ],
)
async def test_an_address_without_its_last_slash_leads_to_the_one_with_it(asked, found):
    application = web.Application(middlewares=[module.WITH_LAST_SLASH])
    for path in ("/jobs/", "/jobs/{namespace}/{name}/", "/livez"):
        application.router.add_get(path, an_answer)
    async with TestServer(application) as server, ClientSession() as session:
        response = await session.get(f"{str(server.make_url('/')).rstrip('/')}{asked}", allow_redirects=False)
    assert response.headers.get("Location") == found
    assert response.status == (302 if found else 200 if asked == "/livez" else 404)


@pytest.mark.parametrize("app", [detector, actuator])
def test_workers_of_every_role_mend_an_address_without_its_last_slash(app):
    assert module.WITH_LAST_SLASH in app.web.web_app.middlewares
