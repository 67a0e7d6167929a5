"""Other workers: who has which partition, and what they answer when they are asked for their part.

Which worker has what is asked of Faust's table router; the partition is computed by us, for the router would ask the
producer, which knows only topics it has sent to. `?local=1` is how workers ask one another, and is never passed on.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import faust
import msgspec
import structlog
from aiohttp import ClientError, ClientTimeout
from yarl import URL

from sf_healer.app import detector

log = structlog.get_logger(__name__)

TIMEOUT = ClientTimeout(total=5.0)
LOCAL = "local"

Query = Iterable[tuple[str, str]]
Answer = TypeVar("Answer")


async def gather(
    path: str, query: Query = (), *, read: Callable[[dict[str, Any]], Answer]
) -> tuple[list[Answer], list[str]]:
    """Ask every other worker of the detector's group for its own part; returns the answers, and who gave none.

    While versions change an answer may lack what is asked for: `read` takes it, or raises KeyError, TypeError or
    ValueError, and then there is none.
    """
    asked = list(query)
    peers = [URL(host) for host in detector.router.tables_metadata() if not is_me(URL(host), detector)]
    results = await asyncio.gather(*(_ask(peer, path, asked, read) for peer in peers))
    answers = [result for result in results if result is not None]
    return answers, [str(peer) for peer, result in zip(peers, results, strict=True) if result is None]


async def _ask(peer: URL, path: str, query: Query, read: Callable[[dict[str, Any]], Answer]) -> Answer | None:
    try:
        status, body = await fetch(peer, path, query)
    except (ClientError, TimeoutError, msgspec.DecodeError) as error:
        log.info("peer_unreachable", peer=str(peer), error=str(error) or type(error).__name__)
        return None
    if status != 200 or not isinstance(body, dict):  # noqa: PLR2004
        return None
    try:
        return read(body)
    except (KeyError, TypeError, ValueError) as error:
        log.info("peer_unreachable", peer=str(peer), error=f"its answer is of another version: {error!r}")
        return None


async def fetch(peer: URL, path: str, query: Query = ()) -> tuple[int, Any]:
    """Ask one worker for its own part; raises aiohttp.ClientError, TimeoutError, msgspec.DecodeError."""
    address = peer.with_path(path).with_query([(LOCAL, "1"), *query])
    async with detector.http_client.get(address, timeout=TIMEOUT) as response:
        return response.status, msgspec.json.decode(await response.read())


def owner_of(app: faust.App, changelog: str, partition: int) -> URL | None:
    """Name the worker that has a partition of a table, as the group last agreed; None where nobody has it."""
    for url, topics in app.router.tables_metadata().items():
        if partition in topics.get(changelog, ()):
            return URL(str(url))
    return None


def is_me(url: URL, app: faust.App) -> bool:
    """Return whether an address is that of this worker's app."""
    mine = URL(str(app.conf.canonical_url))
    return (url.host, url.port) == (mine.host, mine.port)
