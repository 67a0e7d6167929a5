"""The web views, read only: Faust pages on every worker, any of which answers for any Job; as JSON, or as a page.

`/jobs/{namespace}/{name}/` is fetched from the worker that has the Job's partition of the table, lists are gathered
from every worker of the group, restarts come from the worker that has the steps log. What a worker cannot reach is
said in the answer, never left out silently. A view finds the data; `reply` shows it to people or to machines.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import faust
import msgspec
from aiohttp import ClientError
from aiohttp.web import HTTPFound, normalize_path_middleware
from faust.web.base import Request, Response
from faust.web.views import View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

import tables.actions
from agents import peers, policies, watchdog
from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.app import actuator, detector, settings
from sf_healer.core.partitioning import partition_of
from sf_healer.settings import Role
from sf_healer.views.jobs import build_fleet, build_job, build_row
from sf_healer.views.lines import all_dead_letters
from sf_healer.views.pages import assets, shell
from sf_healer.views.pages.actions import draw_action, draw_actions
from sf_healer.views.pages.fleet import LAST, draw_fleet, draw_overview
from sf_healer.views.pages.job import draw_job
from sf_healer.views.pages.jobs import draw_jobs
from sf_healer.views.pages.negotiation import wants_page
from sf_healer.views.selection import MOST_ROWS, ROWS, Part, Selection, SelectionError, merge, number, select
from tables.jobs import JOBS_IN_A_STEP, hot, jobs

OK, NOT_UNDERSTOOD, NOT_FOUND, NOT_NOW = 200, 400, 404, 503
_ASSETS_KEPT_SECONDS = 86_400
#: An address that somebody typed without its last slash leads to the page; browsers do not keep that for ever.
WITH_LAST_SLASH = normalize_path_middleware(merge_slashes=False, redirect_class=HTTPFound)
_encode = msgspec.json.Encoder().encode


class Told(NamedTuple):
    """What a view found: a status, and the data or the problem."""

    status: int
    data: Any


def answer(view: View, data: object, *, status: int = OK) -> Response:
    """Answer with JSON."""
    return view.bytes(_encode(data), content_type="application/json", status=status, headers={"Vary": "Accept"})


def reply(view: View, request: Request, told: Told, draw: Callable[[shell.Frame], str]) -> Response:
    """Answer with the page where it is wanted, else with its JSON twin; a problem has a page of its own."""
    if not _wants_page(request):
        return answer(view, told.data, status=told.status)
    frame = shell.Frame(
        time.time(), str(request.rel_url.update_query({"format": "json"})), has_jobs=view.app is detector
    )
    drawn = draw(frame) if told.status == OK else shell.draw_problem(told.status, told.data, frame=frame)
    return view.html(drawn, status=told.status, headers=dict(shell.HEADERS))


def _wants_page(request: Request) -> bool:
    if peers.LOCAL in request.query:
        return False  # another worker asks
    return wants_page(request.headers.get("Accept", ""), request.query.get("format"))


# ---- lists


@detector.page("/")
class Overview(View):
    """The dashboard: the fleet, what holds restarts back, one part of the Jobs, the last restarts."""

    async def get(self, request: Request) -> Response:
        """Show how things are."""
        try:
            asked = Selection.of(request.query.items(), rows=ROWS)
        except SelectionError as problem:
            return reply(self, request, Told(NOT_UNDERSTOOD, {"error": str(problem)}), str)
        fleet, part, restarts = await asyncio.gather(
            fleet_of_all(), part_of_all(asked), restarts_told({"last": str(LAST)})
        )
        told = Told(OK, {"fleet": fleet, "jobs": part, "restarts": restarts.data})
        return reply(self, request, told, lambda frame: draw_overview(told.data, asked, frame=frame))


@detector.page("/jobs/")
class Jobs(View):
    """All Jobs of the namespace, or those that the query asks for; `?local=1` only those of this worker."""

    async def get(self, request: Request) -> Response:
        """List Jobs."""
        is_page = _wants_page(request)
        try:
            asked = Selection.of(request.query.items(), rows=ROWS if is_page else 0)
        except SelectionError as problem:
            return reply(self, request, Told(NOT_UNDERSTOOD, {"error": str(problem)}), str)
        if peers.LOCAL in request.query:
            return answer(self, await part_here(asked))
        listed = part_of_all(asked) if asked.rows else list_of_all(asked)
        if not is_page:
            return answer(self, await listed)
        data, restarts = await asyncio.gather(listed, restarts_told({"last": "1"}))
        valve = restarts.data.get("admission")
        return reply(self, request, Told(OK, data), lambda frame: draw_jobs(data, asked, frame=frame, valve=valve))


async def rows_here() -> list[dict[str, Any]]:
    """Build the rows of this worker's Jobs; with very many of them others have their turn in between."""
    rows: list[dict[str, Any]] = []
    for partition in list(hot.values()):
        keys = iter(partition.jobs)
        while step := list(islice(keys, JOBS_IN_A_STEP)):
            states = map(partition.jobs.copy_of, step)
            rows += [build_row(partition, state) for state in states if state is not None]
            await asyncio.sleep(0)
    return rows


async def part_here(asked: Selection) -> dict[str, Any]:
    """Give this worker's share of what is asked for, in the order asked for."""
    partitions = sorted(hot)
    part = select(await rows_here(), asked)
    share = {"jobs": part.jobs, "partitions": partitions}
    return {**share, "total": part.total, "ahead": part.ahead} if asked.rows else share


async def list_of_all(asked: Selection) -> dict[str, Any]:
    """List all Jobs that are asked for, of all workers, in order of name."""
    (answers, unreachable), mine = await asyncio.gather(
        peers.gather("/jobs/", asked.query(), read=_Share.read_list), part_here(asked)
    )
    shares = [_Share.read_list(mine), *answers]
    rows = {row["job"]: row for share in shares for row in share.part.jobs}
    return {
        "jobs": [rows[job] for job in sorted(rows)],
        "unreachable": unreachable,
        "partitions_missing": _missing(number for share in shares for number in share.partitions),
    }


async def part_of_all(asked: Selection) -> dict[str, Any]:
    """Give one part of the list of all Jobs that are asked for, and where the parts beside it begin."""
    query = [*asked.query(rows=0), ("rows", str(asked.rows))]

    def read(answer: dict[str, Any]) -> _Share:
        return _Share.read_part(answer, asked)

    (answers, unreachable), mine = await asyncio.gather(peers.gather("/jobs/", query, read=read), part_here(asked))
    shares = [read(mine), *answers]
    part = merge([share.part for share in shares], asked)
    first = part.ahead - len(part.jobs) if asked.before is not None else part.ahead
    is_last = first + len(part.jobs) >= part.total
    return {
        "jobs": part.jobs,
        "unreachable": unreachable,
        "partitions_missing": _missing(number for share in shares for number in share.partitions),
        "total": part.total,
        "first": first + 1,
        "before": str(asked.place_of(part.jobs[0])) if part.jobs and first > 0 else None,
        "after": str(asked.place_of(part.jobs[-1])) if part.jobs and not is_last else None,
    }


class _Share(NamedTuple):
    """What one worker knows of the list."""

    part: Part
    partitions: list[int]

    @classmethod
    def read_list(cls, answer: dict[str, Any]) -> "_Share":
        """Read a whole list; raises KeyError or TypeError for what is none."""
        rows = [row for row in answer["jobs"] if row["job"]]
        return cls(Part(rows, len(rows), 0), [int(number) for number in answer["partitions"]])

    @classmethod
    def read_part(cls, answer: dict[str, Any], asked: Selection) -> "_Share":
        """Read one part; of a worker that knows no parts, and lists all its Jobs, take the part that is asked for."""
        rows = [row for row in answer["jobs"] if asked.place_of(row)]
        told = Part(rows, answer["total"], answer["ahead"]) if "total" in answer else select(rows, asked)
        return cls(told, [int(number) for number in answer["partitions"]])


@detector.page("/fleet/")
class Fleet(View):
    """Counts by verdict, and how far the watermark of each partition is."""

    async def get(self, request: Request) -> Response:
        """Show the fleet."""
        if peers.LOCAL in request.query:
            return answer(self, fleet_here())
        fleet = await fleet_of_all()
        return reply(self, request, Told(OK, fleet), lambda frame: draw_fleet(fleet, frame=frame))


def fleet_here() -> dict[str, Any]:
    """Give what this worker counts, what it could not read since its start, and by which policies it goes."""
    return {**build_fleet(list(hot.values())), "dead_letters": _letters_here(), "policies": [policies.told()]}


def _letters_here() -> dict[str, int]:
    return metrics.counted(metrics.DEAD_LETTERS, "reason")


async def fleet_of_all() -> dict[str, Any]:
    """Add up what all workers count."""
    answers, unreachable = await peers.gather("/fleet/", read=_read_fleet)
    told = [fleet_here(), *answers]
    verdicts: dict[str, int] = {}
    for fleet in told:
        for verdict, count in fleet["verdicts"].items():
            verdicts[verdict] = verdicts.get(verdict, 0) + count
    partitions = [row for fleet in told for row in fleet["partitions"]]
    return {
        "verdicts": verdicts,
        "dead_letters": all_dead_letters(*told),
        "jobs": sum(verdicts.values()),
        "partitions": sorted(partitions, key=lambda row: row["partition"]),
        "policies": _different(file for fleet in told for file in fleet["policies"]),
        "unreachable": unreachable,
        "partitions_missing": _missing(row["partition"] for row in partitions),
    }


def _read_fleet(answer: dict[str, Any]) -> dict[str, Any]:
    """Read what one worker counts; raises KeyError, TypeError or ValueError for what cannot be added up."""
    return {
        "verdicts": {verdict: int(answer["verdicts"][verdict]) for verdict in answer["verdicts"]},
        "partitions": [{**row, "partition": int(row["partition"])} for row in answer["partitions"]],
        # An older worker says neither.
        "dead_letters": {str(reason): int(count) for reason, count in dict(answer.get("dead_letters", {})).items()},
        "policies": [
            {"version": str(it["version"]), "refused": str(it["refused"])} for it in answer.get("policies", ())
        ],
    }


def _different(files: Iterable[dict[str, str]]) -> list[dict[str, Any]]:
    """Say how many workers go by each of the policy files, that of the most first; all should go by one."""
    workers = Counter((file["version"], file["refused"]) for file in files)
    return [{"version": file[0], "refused": file[1], "workers": count} for file, count in workers.most_common()]


def _missing(answered: Iterable[int]) -> list[int]:
    """List the evidence partitions that no answer covers: their Jobs are not in it."""
    return sorted(set(range(settings.partitions)) - set(answered))


# ---- one Job


@detector.page("/jobs/{namespace}/{name}/")
class Job(View):
    """Everything known of one Job."""

    async def get(self, request: Request, namespace: str, name: str) -> Response:
        """Show a Job."""
        key = f"{namespace}/{name}"
        told = await job_told(key, request)
        restarts = (await restarts_told({"job": key})).data if _wants_page(request) and told.status == OK else {}
        return reply(self, request, told, lambda frame: draw_job(told.data, restarts, frame=frame))


async def job_told(key: str, request: Request) -> Told:
    """Find a Job here, or have its owner tell."""
    partition_number = partition_of(key, settings.partitions)
    place = _Place(detector, topics.EVIDENCE, partition_number)
    owner = peers.owner_of(detector, jobs.changelog_topic_name, partition_number)
    if owner is None:
        return place.not_now("no worker owns this Job's partition right now", owner)
    if not peers.is_me(owner, detector):
        return await _of_owner(request.url.path, owner, place, is_passed_on=peers.LOCAL in request.query)
    for partition in hot.values():
        state = partition.jobs.copy_of(key)
        if state is not None:
            return Told(OK, build_job(partition, state))
    if not watchdog.ready():
        return place.not_now("this worker owns the Job and is still recovering", owner)
    return Told(NOT_FOUND, {"error": f"no Job {key} is known"})


class _Place(NamedTuple):
    """The partition that a question is about, for an answer that says why there is none."""

    app: faust.App
    topic: str
    number: int

    def not_now(self, error: str, owner: URL | None) -> Told:
        """Say that it cannot be told right now, and what is known of the partition."""
        if owner is not None and peers.is_me(owner, self.app):
            state = "; ".join(watchdog.not_ready()) or "being recovered"
        elif self.app.rebalancing:
            state = "the group is agreeing who has which partition"
        else:
            state = error
        place = {
            "number": self.number,
            "topic": self.topic,
            "owner": None if owner is None else str(owner),
            "state": state,
            "asked": str(self.app.conf.canonical_url),
        }
        return Told(NOT_NOW, {"error": error, "partition": place})


async def _of_owner(path: str, owner: URL, place: _Place, *, is_passed_on: bool, query: peers.Query = ()) -> Told:
    """Have the owner answer; it does so itself or not at all, else two stale workers would ask in circles."""
    if is_passed_on:
        return place.not_now(f"asked as the owner, and does not have it: {owner} does", owner)
    try:
        return Told(*await peers.fetch(owner, path, query))
    except (ClientError, TimeoutError, msgspec.DecodeError) as error:
        reason = str(error) or type(error).__name__
        return place.not_now(f"its owner {owner} does not answer: {reason}", owner)


# ---- restarts


async def restarts_told(query: Mapping[str, str], *, is_passed_on: bool = False) -> Told:
    """Tell the restarts under way and lately and what holds others back; of one `job`, or of the `last` so many."""
    asked = {name: query[name] for name in ("job", "last") if query.get(name)}
    try:
        last = number("last", asked["last"], most=MOST_ROWS) if "last" in asked else 0
    except SelectionError as problem:
        return Told(NOT_UNDERSTOOD, {"error": str(problem)})
    shown = tables.actions.shown_jobs(job=asked.get("job", ""), last=last)
    if shown is not None:
        letters = _letters_here() if settings.role is Role.ACTUATOR else {}  # else the fleet counts them
        return Told(OK, {"actions": shown, "admission": tables.actions.shown_admission(), "dead_letters": letters})
    return await _of_steps_log("/actions/", asked.items(), is_passed_on=is_passed_on)


async def action_told(action_id: str, *, is_passed_on: bool = False) -> Told:
    """Tell one restart."""
    shown = tables.actions.shown_action(action_id)
    if shown is not None:
        return Told(OK, shown)
    if tables.actions.current is not None:
        return Told(NOT_FOUND, {"error": f"no restart {action_id} is remembered; of each Job the last few are"})
    return await _of_steps_log(f"/actions/{action_id}/", is_passed_on=is_passed_on)


async def _of_steps_log(path: str, query: peers.Query = (), *, is_passed_on: bool) -> Told:
    place = _Place(actuator, topics.STEPS, 0)
    owner = peers.owner_of(actuator, tables.actions.actions.changelog_topic_name, 0)
    if owner is None:
        return place.not_now("no worker owns the steps log right now", owner)
    if peers.is_me(owner, actuator):
        return place.not_now("this worker owns the steps log and is still recovering", owner)
    return await _of_owner(path, owner, place, is_passed_on=is_passed_on, query=query)


def _actions_pages(app: faust.App) -> None:
    @app.page("/actions/", name=f"actions-{app.conf.id}")
    class Actions(View):
        """Every restart under way and lately, by Job, and what holds others back; manifests are never shown."""

        async def get(self, request: Request) -> Response:
            """List actions."""
            told = await restarts_told(request.query, is_passed_on=peers.LOCAL in request.query)
            return reply(self, request, told, lambda frame: draw_actions(told.data, frame=frame))

    @app.page("/actions/{action_id}/", name=f"action-{app.conf.id}")
    class Action(View):
        """One restart, with its steps."""

        async def get(self, request: Request, action_id: str) -> Response:
            """Show an action."""
            told = await action_told(action_id, is_passed_on=peers.LOCAL in request.query)
            return reply(self, request, told, lambda frame: draw_action(told.data, frame=frame))


# ---- what belongs to pages, and to the process


def _asset_pages(app: faust.App) -> None:
    @app.page("/assets/{name}", name=f"assets-{app.conf.id}")
    class Asset(View):
        """A file that pages load, from inside the package."""

        async def get(self, request: Request, name: str) -> Response:  # noqa: ARG002  Faust's signature
            """Give the file; its address changes with its content, so browsers may keep it."""
            asset = assets.BY_NAME.get(name)
            if asset is None:
                return answer(self, {"error": f"no asset {name}"}, status=NOT_FOUND)
            headers = {**shell.HEADERS, "Cache-Control": f"max-age={_ASSETS_KEPT_SECONDS}"}
            return self.bytes(asset.content, content_type=asset.content_type, headers=headers)


def _redirect(app: faust.App, path: str, *, to: str) -> None:
    @app.page(path, name=f"redirect-{path.strip('/')}-{app.conf.id}")
    class Redirect(View):
        """An address that is another one now."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Say where it is."""
            return self.text("", status=302, headers={"Location": to})


def _health_pages(app: faust.App) -> None:
    @app.page("/livez", name=f"livez-{app.conf.id}")
    class Livez(View):
        """Whether this process should be restarted."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a liveness probe."""
            problems = watchdog.not_alive()
            return answer(self, {"alive": not problems, "problems": problems}, status=NOT_NOW if problems else OK)

    @app.page("/readyz", name=f"readyz-{app.conf.id}")
    class Readyz(View):
        """Whether this worker does its part."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a readiness probe."""
            problems = watchdog.not_ready()
            return answer(self, {"ready": not problems, "problems": problems}, status=NOT_NOW if problems else OK)

    @app.page("/metrics", name=f"metrics-{app.conf.id}")
    class Metrics(View):
        """Prometheus metrics of the process."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a scrape."""
            return self.bytes(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


for _app in (detector, actuator):
    _health_pages(_app)
    _actions_pages(_app)
    _asset_pages(_app)
    _app.web.web_app.middlewares.append(WITH_LAST_SLASH)  # type: ignore[attr-defined]  # it is aiohttp's driver
_redirect(detector, "/ui/", to="/")
_redirect(actuator, "/", to="/actions/")  # its workers do not know the Jobs
