"""Latency between a client and its brokers, away from a cluster: by toxiproxy, one proxy for each broker.

What Litmus' netem does to what a Pod sends, a `latency` toxic does here to what a client sends (`upstream`): each
packet waits for the latency, give or take the jitter. The delay is measured at each proxy, with a question that a
broker answers to anybody (ApiVersions); where it is not there the fault was not injected. That no client can go round
its proxies is for who sets the brokers up: each must advertise its own.
"""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from sf_healer.adapters.http import WorkerRefusedError, WorkerUnreachableError, delete, get_json, post_json
from sf_healer.adapters.threads import in_thread

TOXIC = "sf-healer-chaos-latency"
#: A question to a broker may take this long beyond the latency.
ANSWER_SECONDS = 10.0
_API_VERSIONS = 18


class LatencyError(Exception):
    """The latency is not there, or could not be taken back."""


class Latency(msgspec.Struct, frozen=True):
    """How long each packet waits, in milliseconds; uniform within the jitter on both sides."""

    milliseconds: int
    jitter: int


@asynccontextmanager
async def slowed(toxiproxy: str, proxies: Sequence[str], latency: Latency) -> AsyncIterator[dict[str, str]]:
    """Slow the proxies while the context lasts; gives what was measured. Raises LatencyError."""
    slow: list[str] = []
    try:
        before = await _measured(toxiproxy, proxies)
        for name in proxies:
            slow.append(name)  # also when nobody answers: it may have happened
            await _ask(lambda name=name: post_json(f"{toxiproxy}/proxies/{name}/toxics", _toxic(latency)))
        measured = await _measured(toxiproxy, proxies, (latency.milliseconds + latency.jitter) / 1000)
        for name in proxies:
            least = (latency.milliseconds - latency.jitter) / 1000
            if measured[name] < least:
                raise LatencyError(f"{name} answers after {measured[name]:.3f} s, not after {least:g} s at least")
        yield {
            f"seconds to an answer through {name}": f"{before[name]:.3f} before, {measured[name]:.3f} meanwhile"
            for name in proxies
        }
    finally:
        await _take_back(toxiproxy, slow)


async def _take_back(toxiproxy: str, slow: Sequence[str]) -> None:
    """Take the toxics away, each of them, whatever happens at another."""
    trouble = ""
    for name in slow:
        try:
            await _ask(lambda name=name: delete(f"{toxiproxy}/proxies/{name}/toxics/{TOXIC}"))
        except LatencyError as problem:
            trouble = trouble or f"{name} may still be slow: {problem}"
    if trouble:
        raise LatencyError(trouble)


def _toxic(latency: Latency) -> dict[str, object]:
    attributes = {"latency": latency.milliseconds, "jitter": latency.jitter}
    return {"name": TOXIC, "type": "latency", "stream": "upstream", "toxicity": 1.0, "attributes": attributes}


async def _measured(toxiproxy: str, proxies: Sequence[str], latency_seconds: float = 0.0) -> dict[str, float]:
    """Measure through all proxies at once; with a latency of a minute one after the other would last minutes."""
    answers = await asyncio.gather(*(_answer_seconds(toxiproxy, name, latency_seconds) for name in proxies))
    return dict(zip(proxies, answers, strict=True))


async def _answer_seconds(toxiproxy: str, name: str, latency_seconds: float) -> float:
    """Measure how long a broker takes to answer through a proxy."""
    proxy = await _ask(lambda: get_json(f"{toxiproxy}/proxies/{name}"))
    try:
        host, _, port = proxy["listen"].rpartition(":")
        async with asyncio.timeout(latency_seconds + ANSWER_SECONDS):
            return await _api_versions(host, int(port))
    except (OSError, EOFError, TimeoutError, KeyError, ValueError) as problem:
        raise LatencyError(f"the broker behind {name} gives no answer: {problem or type(problem).__name__}") from None


async def _api_versions(host: str, port: int) -> float:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        client = b"sf-healer-chaos"
        request = struct.pack(f">hhih{len(client)}s", _API_VERSIONS, 0, 1, len(client), client)
        began = time.monotonic()
        writer.write(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        await reader.readexactly(size)
        return time.monotonic() - began
    finally:
        writer.close()


async def _ask(question: Any) -> Any:
    try:
        return await in_thread(question)
    except (WorkerUnreachableError, WorkerRefusedError) as problem:
        raise LatencyError(f"toxiproxy: {problem}") from None
