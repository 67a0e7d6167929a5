"""The pages as people meet them: a real Chromium, with scripts and without, light and dark, on a desk and on a phone.

What is drawn is a small fleet (tests/core/shown.py) behind a server of the test's, with the headers of a worker; the
list of 10,000 Jobs comes from a worker's own views. Pictures go to SF_LAB_SCREENSHOTS (default build/screenshots).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from agents import web as views
from sf_healer import topics
from sf_healer.app import detector, settings
from sf_healer.core import evidence
from sf_healer.core.partitioning import partition_of
from sf_healer.views.pages import assets, shell
from sf_healer.views.selection import MOST_ROWS
from tests.agents.recording import BROKER_EPOCH, edges
from tests.agents.test_web import Metadata
from tests.core.strategies import a_fact
from tests.core.test_pages import an_overview, every_page
from tests.lab.browser import axe
from tests.lab.browser.chromium import Tab, a_tab
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SCREENSHOTS = Path(os.environ.get("SF_LAB_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots")
PAGES = sorted(every_page())
DESK, PHONE = 1280, 360
MANY = 10_000
#: A refresh comes every five seconds.
REFRESHED_SECONDS = 60.0


class Site:
    """Serves pages by name, and counts what was asked for."""

    def __init__(self) -> None:
        self.pages = every_page()
        self.asked: Counter[str] = Counter()
        application = web.Application()
        application.router.add_get("/assets/{name}", self._asset)
        application.router.add_get("/", self._overview)
        application.router.add_get("/page/{name}", self._page)
        self.server = TestServer(application)

    def url(self, name: str) -> str:
        return str(self.server.make_url(f"/page/{name}"))

    async def _page(self, request: web.Request) -> web.Response:
        return self._html(request, self.pages[request.match_info["name"]])

    async def _overview(self, request: web.Request) -> web.Response:
        return self._html(request, self.pages["overview"])

    def _html(self, request: web.Request, page: str) -> web.Response:
        self.asked[request.path_qs] += 1
        return web.Response(text=page, content_type="text/html", headers=shell.HEADERS)

    async def _asset(self, request: web.Request) -> web.Response:
        asset = assets.BY_NAME[request.match_info["name"]]
        return web.Response(body=asset.content, content_type=asset.content_type, headers=shell.HEADERS)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    opened = Site()
    await opened.server.start_server()
    yield opened
    await opened.server.close()


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with a_tab(tmp_path) as opened:
        yield opened


def keep(picture: bytes, name: str, *about: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / f"{'-'.join([*name.split(), *about])}.png").write_bytes(picture)


async def text_of(tab: Tab) -> str:
    return " ".join((await tab.ask("document.body.innerText")).split())


async def faults_in(tab: Tab) -> list[str]:
    """Have axe-core look at what is shown."""
    await tab.ask(axe().read_text() + "; 0")
    result: dict[str, Any] = await tab.ask("axe.run()")
    assert result["passes"], "axe has looked"
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes']]}"
        for each in result["violations"]
    ]


# ---- every page, as everybody sees it


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_axe_finds_nothing_on_any_page(site: Site, tab: Tab, *, dark: bool):
    await tab.be(dark=dark)
    found: dict[str, list[str]] = {}
    for name in PAGES:
        await tab.open(site.url(name))
        keep(await tab.screenshot(), name, "dark" if dark else "light")
        faults = await faults_in(tab)
        found |= {name: faults} if faults else {}
    assert found == {}
    assert tab.complaints == []


async def test_what_is_broken_is_seen_to_be(site: Site, tab: Tab):
    await tab.be(width=PHONE)
    picture = '<svg role="img" width="700" height="9"></svg>'
    site.pages["broken"] = site.pages["overview"].replace("<main", f"{picture}<script>alert(1)</script><main")
    await tab.open(site.url("broken"))
    assert [fault for fault in await faults_in(tab) if fault.startswith("svg-img-alt")]
    assert await tab.ask("document.documentElement.scrollWidth") > PHONE
    assert [told for told in tab.complaints if "Content Security Policy" in told]


async def test_light_and_dark_are_the_readers_own_choice(site: Site, tab: Tab):
    grounds = []
    for dark in (False, True):
        await tab.be(dark=dark)
        await tab.open(site.url("overview"))
        colour = await tab.ask("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    light, dark_ground = grounds
    assert light > 3 * 200
    assert dark_ground < 3 * 60


async def test_nothing_is_wider_than_a_phone(site: Site, tab: Tab):
    await tab.be(width=PHONE)
    too_wide = {}
    for name in PAGES:
        await tab.open(site.url(name))
        keep(await tab.screenshot(), name, "phone")
        assert await tab.ask("window.innerWidth") == PHONE
        width = await tab.ask("document.documentElement.scrollWidth")
        too_wide |= {name: width} if width > PHONE else {}
    assert too_wide == {}


# ---- with scripts and without


async def test_pages_work_without_javascript(site: Site, tab: Tab):
    await tab.be(scripts=False)
    await tab.open(str(site.server.make_url("/")))
    assert "What holds restarts back" in await text_of(tab)
    assert await tab.ask("document.querySelector('header button')") is None
    await tab.ask("document.querySelector('main form [name=text]').value = 'btc'; 0")
    await tab.ask("document.querySelector('main form button').scrollIntoView(); 0")
    place = await tab.ask(
        "(() => { const box = document.querySelector('main form button').getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        await tab.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
    await tab.loaded()
    assert "text=btc" in await tab.ask("location.search")
    assert tab.complaints == []


async def test_a_page_is_refreshed_in_place(site: Site, tab: Tab):
    await tab.be()
    await tab.open(str(site.server.make_url("/")))
    assert "Everything is new" not in await text_of(tab)
    await tab.ask("window.same = true; document.querySelector('main form [name=text]').value = 'typed'; 0")
    site.pages["overview"] = an_overview(restarts={"error": "Everything is new"})

    async def is_new() -> bool:
        return "Everything is new" in await text_of(tab)

    await until_async(is_new, "the page to be refreshed", seconds=REFRESHED_SECONDS)
    assert await tab.ask("window.same"), "the page was not loaded anew"
    assert await tab.ask("document.querySelector('main form [name=text]').value") == "typed"
    assert tab.complaints == []


async def test_a_page_that_is_not_refreshed_says_so(site: Site, tab: Tab):
    await tab.be()
    await tab.open(str(site.server.make_url("/")))
    await site.server.close()

    async def says_so() -> bool:
        return "Not refreshed" in await text_of(tab)

    await until_async(says_so, "the page to say that it is old", seconds=REFRESHED_SECONDS)


# ---- very many Jobs


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestServer]:
    """Serve a worker's own views of 10,000 Jobs."""
    with edges() as edge:
        owned = dict(enumerate(edge.own(*range(settings.partitions))))
        for number in range(MANY):
            key = f"stf/loader-{number:05d}"
            owned[partition_of(key, settings.partitions)].apply(evidence.Fact(a_fact(key)), BROKER_EPOCH)
        mine = (str(detector.conf.canonical_url), topics.JOBS_CHANGELOG, sorted(owned))
        monkeypatch.setitem(detector.__dict__, "router", Metadata(mine))
        application = web.Application()
        for path, view in (("/", views.Overview), ("/jobs/", views.Jobs)):
            application.router.add_get(path, view(detector, detector.web).get)
        application.router.add_get("/assets/{name}", Site()._asset)
        async with ClientSession() as session:
            monkeypatch.setattr(detector, "_http_client", session)
            server = TestServer(application)
            await server.start_server()
            yield server
            await server.close()


async def test_ten_thousand_jobs_are_a_page_with_parts_and_a_filter(many: TestServer, tab: Tab):
    await tab.be()
    await tab.open(str(many.make_url("/")))
    keep(await tab.screenshot(), "ten thousand")
    assert "10,000 Jobs" in await text_of(tab)
    assert 0 < await tab.ask("document.querySelectorAll('#listed tbody tr').length") <= MOST_ROWS
    first = await tab.ask("document.querySelector('#listed tbody th').innerText")
    await tab.ask("document.querySelector('#parts a').click(); 0")
    await tab.loaded()
    assert await tab.ask("document.querySelector('#listed tbody th').innerText") != first
    await tab.open(str(many.make_url("/jobs/?text=loader-0999")))
    assert await tab.ask("document.querySelectorAll('#listed tbody tr').length") == 10
    assert tab.complaints == []
