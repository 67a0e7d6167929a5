"""The web views, read only, JSON: Faust pages on every worker, any of which answers for any Job.

`/jobs/{namespace}/{name}/` is fetched from the worker that has the Job's partition of the table, lists are gathered
from every worker of the group. Which worker has what is asked of Faust's table router; the partition is computed by
us, for the router would ask the producer, which knows only topics it has sent to. What a worker cannot reach is said
in the answer, never left out silently; `?local=1` is how workers ask one another, and is never passed on.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import faust
import msgspec
import structlog
from aiohttp import ClientError, ClientTimeout
from faust.web.base import Request, Response
from faust.web.views import View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

import tables.actions
from agents import watchdog
from sf_healer.app import actuator, detector, settings
from sf_healer.core.partitioning import partition_of
from sf_healer.views.jobs import build_fleet, build_job, build_jobs
from sf_healer.views.page import draw_jobs
from tables.jobs import hot, jobs

log = structlog.get_logger(__name__)

PEER_TIMEOUT = ClientTimeout(total=5.0)
_LOCAL = "local"
_encode = msgspec.json.Encoder().encode


def answer(view: View, data: object, *, status: int = 200) -> Response:
    """Answer with JSON."""
    return view.bytes(_encode(data), content_type="application/json", status=status)


@detector.page("/jobs/")
class Jobs(View):
    """All Jobs of the namespace; `?local=1` only those of this worker."""

    async def get(self, request: Request) -> Response:
        """List Jobs."""
        local = build_jobs(list(hot.values()))
        mine = {"jobs": local, "partitions": sorted(hot)}
        if _LOCAL in request.query:
            return answer(self, mine)
        answers, unreachable = await gather_peers("/jobs/")
        rows = {row["job"]: row for peer in [mine, *answers] for row in peer["jobs"]}
        return answer(
            self,
            {
                "jobs": [rows[job] for job in sorted(rows)],
                "unreachable": unreachable,
                "partitions_missing": _missing(number for peer in [mine, *answers] for number in peer["partitions"]),
            },
        )


@detector.page("/ui/")
class Page(View):
    """The Jobs of all workers as a page for people."""

    async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
        """Draw the Jobs."""
        answers, unreachable = await gather_peers("/jobs/")
        rows = {row["job"]: row for peer in answers for row in peer["jobs"]}
        rows |= {row["job"]: row for row in build_jobs(list(hot.values()))}
        return self.html(draw_jobs(list(rows.values()), unreachable=unreachable))


@detector.page("/jobs/{namespace}/{name}/")
class Job(View):
    """Everything known of one Job."""

    async def get(self, request: Request, namespace: str, name: str) -> Response:
        """Show a Job."""
        key = f"{namespace}/{name}"
        owner = owner_of(detector, jobs.changelog_topic_name, partition_of(key, settings.partitions))
        if owner is None:
            return answer(self, {"error": "no worker owns this Job's partition right now"}, status=503)
        if not _is_me(owner):
            return await _pass_on(self, request, owner)
        for partition in hot.values():
            state = partition.jobs.get(key)
            if state is not None:
                return answer(self, build_job(partition, state))
        if not watchdog.ready():
            return answer(self, {"error": "this worker owns the Job and is still recovering"}, status=503)
        return answer(self, {"error": f"no Job {key} is known"}, status=404)


@detector.page("/fleet/")
class Fleet(View):
    """Counts by verdict, and how far the watermark of each partition is."""

    async def get(self, request: Request) -> Response:
        """Show the fleet."""
        local = build_fleet(list(hot.values()))
        if _LOCAL in request.query:
            return answer(self, local)
        answers, unreachable = await gather_peers("/fleet/")
        verdicts: dict[str, int] = {}
        for fleet in [local, *answers]:
            for verdict, count in fleet["verdicts"].items():
                verdicts[verdict] = verdicts.get(verdict, 0) + count
        partitions = [row for fleet in [local, *answers] for row in fleet["partitions"]]
        return answer(
            self,
            {
                "verdicts": verdicts,
                "jobs": sum(verdicts.values()),
                "partitions": sorted(partitions, key=lambda row: row["partition"]),
                "unreachable": unreachable,
                "partitions_missing": _missing(row["partition"] for row in partitions),
            },
        )


def _actions_page(app: faust.App) -> None:
    @app.page("/actions/", name=f"actions-{app.conf.id}")
    class Actions(View):
        """Every restart under way and lately, by Job, and what holds others back; manifests are never shown."""

        async def get(self, request: Request) -> Response:
            """List actions."""
            shown = tables.actions.shown_jobs()
            if shown is not None:
                return answer(self, {"actions": shown, "admission": tables.actions.shown_admission()})
            owner = owner_of(actuator, tables.actions.actions.changelog_topic_name, 0)
            if owner is None:
                return answer(self, {"error": "no worker owns the steps log right now"}, status=503)
            if _is_me(owner, actuator):
                return answer(self, {"error": "this worker owns the steps log and is still recovering"}, status=503)
            return await _pass_on(self, request, owner)


def _health_pages(app: faust.App) -> None:
    @app.page("/livez", name=f"livez-{app.conf.id}")
    class Livez(View):
        """Whether this process should be restarted."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a liveness probe."""
            problems = watchdog.not_alive()
            return answer(self, {"alive": not problems, "problems": problems}, status=503 if problems else 200)

    @app.page("/readyz", name=f"readyz-{app.conf.id}")
    class Readyz(View):
        """Whether this worker does its part."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a readiness probe."""
            problems = watchdog.not_ready()
            return answer(self, {"ready": not problems, "problems": problems}, status=503 if problems else 200)

    @app.page("/metrics", name=f"metrics-{app.conf.id}")
    class Metrics(View):
        """Prometheus metrics of the process."""

        async def get(self, request: Request) -> Response:  # noqa: ARG002  Faust's signature
            """Answer a scrape."""
            return self.bytes(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


for _app in (detector, actuator):
    _health_pages(_app)
    _actions_page(_app)


async def gather_peers(path: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Ask every other worker of the group for its own part; returns the answers and who did not answer."""
    peers = [URL(host) for host in detector.router.tables_metadata() if not _is_me(URL(host))]
    results = await asyncio.gather(*(_ask(peer, path) for peer in peers))
    answers = [result for result in results if result is not None]
    return answers, [str(peer) for peer, result in zip(peers, results, strict=True) if result is None]


async def _ask(peer: URL, path: str) -> dict[str, Any] | None:
    try:
        async with detector.http_client.get(
            peer.with_path(path).with_query({_LOCAL: "1"}), timeout=PEER_TIMEOUT
        ) as response:
            body = await response.read()
            return msgspec.json.decode(body, type=dict[str, Any]) if response.status == 200 else None  # noqa: PLR2004
    except (ClientError, TimeoutError, msgspec.DecodeError) as error:
        log.info("peer_unreachable", peer=str(peer), error=str(error) or type(error).__name__)
        return None


async def _pass_on(view: View, request: Request, owner: URL) -> Response:
    """Have the owner answer; it does so itself or not at all, else two stale workers would ask in circles."""
    if _LOCAL in request.query:
        return answer(view, {"error": f"asked as the owner, and does not have it: {owner} does"}, status=503)
    address = owner.with_path(request.url.path).with_query({_LOCAL: "1"})
    try:
        async with detector.http_client.get(address, timeout=PEER_TIMEOUT) as response:
            return view.bytes(await response.read(), content_type="application/json", status=response.status)
    except (ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        return answer(view, {"error": f"its owner {owner} does not answer: {reason}"}, status=503)


def owner_of(app: faust.App, changelog: str, partition: int) -> URL | None:
    """Name the worker that has a partition of a table, as the group last agreed; None where nobody has it."""
    for url, topics in app.router.tables_metadata().items():
        if partition in topics.get(changelog, ()):
            return URL(str(url))
    return None


def _missing(answered: Iterable[int]) -> list[int]:
    """List the evidence partitions that no answer covers: their Jobs are not in it."""
    return sorted(set(range(settings.partitions)) - set(answered))


def _is_me(url: URL, app: faust.App = detector) -> bool:
    mine = URL(str(app.conf.canonical_url))
    return (url.host, url.port) == (mine.host, mine.port)
