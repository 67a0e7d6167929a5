"""Driving a headless Chromium by its DevTools protocol, over the websocket that aiohttp brings: one page at a time.

The protocol: https://chromedevtools.github.io/devtools-protocol/. What a page complains of is kept in `complaints`.
"""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.lab.browser.installation import program
from tests.lab.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_SECONDS = 60.0
ANSWER_SECONDS = 60.0
_LISTENS = re.compile(r"DevTools listening on (ws://\S+)")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


class Refused(AssertionError):  # noqa: N818  it says what happened
    """Chromium did not do what it was told, or a script of ours failed in it."""


class Tab:
    """A page of the browser. Calls are made one after the other."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something; raises Refused."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        await self._socket.send_json(asked | ({"sessionId": self._session} if self._session else {}))
        async with asyncio.timeout(ANSWER_SECONDS):
            while (told := await self._next()).get("id") != self._number:
                pass
        if "error" in told:
            raise Refused(f"{method}: {told['error']}")
        return told["result"]

    async def open(self, url: str) -> None:
        """Go to an address; returns once all of the page is loaded."""
        self._events.clear()
        told = await self.call("Page.navigate", url=url)
        if "errorText" in told:
            raise Refused(f"{url}: {told['errorText']}")
        await self.loaded()

    async def loaded(self) -> None:
        """Wait until a page has been loaded since the last one was opened."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while not any(event["method"] == "Page.loadEventFired" for event in self._events):
                await self._next()
        self._events.clear()

    async def ask(self, script: str) -> Any:
        """Evaluate a script in the page, wait for its promise, and give its value; raises Refused."""
        told = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise Refused(f"{script[:200]}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def screenshot(self) -> bytes:
        """Give a picture of the whole page, as PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def be(self, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> None:
        """Be a window so wide (CSS pixels), of a reader who prefers dark or not, with scripts or without."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    async def _next(self) -> dict[str, Any]:
        told: dict[str, Any] = await self._socket.receive_json()
        method = told.get("method")
        if method == "Page.loadEventFired":
            self._events.append(told)
        elif method == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.complaints.append(f"{told['params']['entry']['text']} {told['params']['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["params"]["exceptionDetails"]))
        return told


@asynccontextmanager
async def a_tab(directory: Path) -> AsyncIterator[Tab]:
    """Start a Chromium whose profile is in the directory, and give its page; it ends by its process id."""
    found = program()
    assert found is not None
    log = directory / "chromium.log"
    command = [found, *_OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={directory / 'profile'}", "about:blank"]
    chromium = Server("chromium", command, log=log)
    chromium.start()
    try:
        listens = lambda: _LISTENS.search(chromium.output())  # noqa: E731
        await asyncio.to_thread(chromium.wait_until, lambda: bool(listens()), seconds=START_SECONDS)
        address = listens()
        assert address is not None
        async with aiohttp.ClientSession() as http, http.ws_connect(address[1], max_msg_size=0) as socket:
            browser = Tab(socket, "")
            target = await browser.call("Target.createTarget", url="about:blank")
            attached = await browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            tab = Tab(socket, attached["sessionId"])
            for domain in ("Page", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            yield tab
    finally:
        chromium.stop()
