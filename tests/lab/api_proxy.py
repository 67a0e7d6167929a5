"""A proxy between a client and an API server, which does to requests what networks and busy servers do.

What goes wrong is data: `Fault` is one thing, `Weather` a seeded mixture of them. Each says whether the request goes
through, because a client cannot tell: for it a request that was never sent on and one whose answer was lost look
alike. Every request is written down with what became of it. Plain HTTP on loopback; the upstream may be HTTPS.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from tests.lab.ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path
    from typing import Any

START_SECONDS = 10.0
_LONGEST_LINE_BYTES = 8 * 1024 * 1024  # of a watch: one whole Job
# Of one hop only (RFC 9110 §7.6.1), or made anew by the next one.
_NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Asks(StrEnum):
    """What a request wants, as far as faults care."""

    READ = "read"
    WATCH = "watch"
    DELETE = "delete"
    CREATE = "create"  # of a Job
    REHEARSE = "rehearse"  # a create that the API is to judge and not to do (dryRun)
    OTHER = "other"  # Events, reviews


class Harm(StrEnum):
    """What is done to a request; the client sees no difference within each pair of `not_sent` and `answer_lost`."""

    NONE = "none"
    STATUS = "status"  # answered by us with an error; the API server never sees it
    RESET_NOT_SENT = "reset_not_sent"
    RESET_ANSWER_LOST = "reset_answer_lost"  # went through; the connection is reset before the answer
    SILENCE_NOT_SENT = "silence_not_sent"
    SILENCE_ANSWER_LOST = "silence_answer_lost"  # went through; the client waits until it gives up
    LATE = "late"  # goes through after `seconds`, whether or not the client still waits
    WATCH_CUT = "watch_cut"  # the connection is reset after `seconds`
    WATCH_FORGOTTEN = "watch_forgotten"  # after `seconds` the version asked for is no longer kept: 410


GOES_THROUGH = frozenset({Harm.NONE, Harm.RESET_ANSWER_LOST, Harm.SILENCE_ANSWER_LOST, Harm.LATE})
_ANSWER_LOST = frozenset({Harm.RESET_ANSWER_LOST, Harm.SILENCE_ANSWER_LOST})


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong; `reason` is that of the API's Status object."""

    harm: Harm
    status: int = 0
    reason: str = ""
    retry_after_seconds: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """Name it as it is counted."""
        return " ".join(filter(None, (self.harm.value, str(self.status or ""), self.reason)))


NO_FAULT = Fault(Harm.NONE)


class Weather(msgspec.Struct, frozen=True):
    """How often a request meets a fault, and which: by what it asks, each with its weight."""

    seed: int = 0
    chance: float = 0.0
    faults: Mapping[Asks, Mapping[Fault, float]] = {}


class Moment(StrEnum):
    """When a request is shown to the test."""

    ARRIVED = "arrived"  # not passed on yet
    ANSWERED = "answered"  # done by the API server; the client does not know yet


class Request(msgspec.Struct):
    """A request and what became of it."""

    asks: Asks
    method: str
    path: str
    at: float  # epoch seconds
    harm: Harm = Harm.NONE
    fault: str = ""
    status: int = 0  # the API server's answer; 0: it has not answered, or was not asked


class _Broken(Exception):  # noqa: N818  it says what is wanted
    """The connection of this request is to be reset."""


class ApiProxy:
    """A proxy on a port of its own, in a thread of its own.

    `watch_for` is called, off the loop, with every request at each Moment; the request waits for it.
    """

    def __init__(self, upstream: str, *, ca: Path | None = None) -> None:
        self.upstream = upstream.rstrip("/")
        self.requests: list[Request] = []
        self.watch_for: Callable[[Moment, Request], None] | None = None
        (self._port,) = free_ports(1)
        self._trust: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca is not None else False
        self._rng = random.Random()
        self._weather = Weather()
        self._next: list[tuple[Asks, Fault]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self._late: set[asyncio.Task[Any]] = set()
        self._transports: set[asyncio.BaseTransport] = set()

    @classmethod
    def before(cls, kubeconfig: Path) -> Self:
        """Make a proxy in front of the cluster of a kubeconfig that is written as JSON, as the lab's are."""
        cluster = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]
        ca = cluster.get("certificate-authority")
        return cls(cluster["server"], ca=None if ca is None else _path(kubeconfig, ca))

    @property
    def url(self) -> str:
        """Give the address clients use."""
        return f"http://{LOOPBACK}:{self._port}"

    def kubeconfig(self, of: Path, *, at: Path) -> Path:
        """Write a kubeconfig like `of`, for the same user, that goes through this proxy."""
        content = json.loads(of.read_text())
        content["clusters"][0]["cluster"] = {"server": self.url}
        at.touch(mode=0o600)
        at.write_text(json.dumps(content, indent=1))
        return at

    def change_weather(self, weather: Weather) -> None:
        """Have requests meet these faults from now on."""
        self._rng, self._weather = random.Random(weather.seed), weather

    def harm_next(self, asks: Asks, *faults: Fault) -> None:
        """Have the next requests that ask this meet these faults, one each."""
        self._next += [(asks, fault) for fault in faults]

    def go_away(self) -> None:
        """Refuse connections and reset those that are open, as when no API server is left."""
        self._run(self._close())

    def come_back(self) -> None:
        """Take connections again, on the same port."""
        self._run(self._listen())

    def counts(self) -> Counter[str]:
        """Count the faults that requests met."""
        return Counter(f"{request.asks}: {request.fault}" for request in list(self.requests) if request.fault)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    # ---- on the loop

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            read_bufsize=_LONGEST_LINE_BYTES,
        )
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, handle_signals=False)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, LOOPBACK, self._port, reuse_address=True)
        await self._site.start()

    async def _close(self) -> None:
        await self._site.stop()
        for transport in list(self._transports):
            _reset(transport)

    async def _end(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        for transport in list(self._transports):
            _reset(transport)
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        self._transports.add(transport)
        self._transports = {each for each in self._transports if not each.is_closing()}
        try:
            return await self._answer(request)
        except (_Broken, aiohttp.ClientError, ConnectionError):
            _reset(transport)
            raise asyncio.CancelledError from None  # nobody is there to be answered

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        noted = Request(_asks(request), request.method, request.path_qs, time.time())
        fault = self._choose(noted.asks)
        noted.harm, noted.fault = fault.harm, str(fault) if fault is not NO_FAULT else ""
        self.requests.append(noted)
        await self._show(Moment.ARRIVED, noted)
        if noted.asks is Asks.WATCH and fault.harm in {Harm.NONE, Harm.WATCH_CUT, Harm.WATCH_FORGOTTEN}:
            return await self._stream(request, noted, fault)
        if fault.harm is Harm.STATUS:
            return _refusal(fault)
        if fault.harm is Harm.RESET_NOT_SENT:
            raise _Broken
        if fault.harm is Harm.SILENCE_NOT_SENT:
            await asyncio.Event().wait()  # ends when the client hangs up
        if fault.harm is Harm.LATE:
            return await asyncio.shield(self._later(self._pass_on(request, body, noted, fault.seconds)))
        answer = await self._pass_on(request, body, noted)
        await self._show(Moment.ANSWERED, noted)
        if fault.harm is Harm.RESET_ANSWER_LOST:
            raise _Broken
        if fault.harm is Harm.SILENCE_ANSWER_LOST:
            await asyncio.Event().wait()
        return answer

    def _choose(self, asks: Asks) -> Fault:
        for position, (wanted, fault) in enumerate(self._next):
            if wanted is asks:
                del self._next[position]
                return fault
        choices = self._weather.faults.get(asks)
        if not choices or self._rng.random() >= self._weather.chance:
            return NO_FAULT
        return self._rng.choices(list(choices), list(choices.values()))[0]

    async def _show(self, moment: Moment, noted: Request) -> None:
        if self.watch_for is not None:
            await asyncio.to_thread(self.watch_for, moment, noted)

    def _later(self, work: Coroutine[Any, Any, web.Response]) -> asyncio.Task[web.Response]:
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    async def _pass_on(
        self, request: web.BaseRequest, body: bytes, noted: Request, after_seconds: float = 0.0
    ) -> web.Response:
        url, headers = self.upstream + request.raw_path, _passed_on(request.headers)
        await asyncio.sleep(after_seconds)
        async with self._session.request(request.method, _as_is(url), headers=headers, data=body) as upstream:
            content = await upstream.read()
            noted.status = upstream.status
            return web.Response(status=upstream.status, headers=_passed_on(upstream.headers), body=content)

    async def _stream(self, request: web.BaseRequest, noted: Request, fault: Fault) -> web.StreamResponse:
        """Pass a watch on, event by event; `fault` ends it in a way of its own."""
        url, headers = self.upstream + request.raw_path, _passed_on(request.headers)
        async with self._session.get(_as_is(url), headers=headers | {"Accept-Encoding": "identity"}) as upstream:
            noted.status = upstream.status
            response = web.StreamResponse(status=upstream.status, headers=_passed_on(upstream.headers))
            await response.prepare(request)
            try:
                async with asyncio.timeout(None if fault is NO_FAULT else fault.seconds):
                    async for line in upstream.content:
                        await response.write(line)
            except TimeoutError:
                if fault.harm is Harm.WATCH_CUT:
                    raise _Broken from None
                await response.write(_FORGOTTEN)
            await response.write_eof()
            return response


_FORGOTTEN = (
    json.dumps(
        {
            "type": "ERROR",
            "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"},
        }
    ).encode()
    + b"\n"
)


def _asks(request: web.BaseRequest) -> Asks:
    if request.method == "GET":
        return Asks.WATCH if request.query.get("watch", "").lower() in {"true", "1"} else Asks.READ
    if request.method == "DELETE":
        return Asks.DELETE
    if request.method == "POST" and request.path.endswith("/jobs"):
        return Asks.REHEARSE if "dryRun" in request.query else Asks.CREATE
    return Asks.OTHER


def _refusal(fault: Fault) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status, "message": "the proxy"}
    if fault.reason:
        status["reason"] = fault.reason
    headers = {"Retry-After": str(fault.retry_after_seconds)} if fault.retry_after_seconds else {}
    return web.json_response(status, status=fault.status, headers=headers)


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON}


def _as_is(url: str) -> URL:
    """Keep aiohttp from writing an escaped selector in another way."""
    return URL(url, encoded=True)


def _reset(transport: asyncio.BaseTransport) -> None:
    """Close a connection so that the other side sees a reset."""
    if transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


def _path(kubeconfig: Path, written: str) -> Path:
    return kubeconfig.parent / written  # an absolute one stays
