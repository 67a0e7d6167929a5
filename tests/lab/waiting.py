"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.05

T = TypeVar("T")


class NotInTime(AssertionError):  # noqa: N818 - it says what happened
    """A condition did not come true before its deadline."""


def until(condition: Callable[[], T], what: str, *, seconds: float, every_seconds: float = POLL_SECONDS) -> T:
    """Ask `condition` until it gives something true, and give that; raise NotInTime naming `what`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise NotInTime(f"waited {seconds:g} s for {what}")
        time.sleep(every_seconds)
    return found


async def until_async(condition: Callable[[], Awaitable[T]], what: str, *, seconds: float) -> T:
    """Do the same with a condition that is awaited."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise NotInTime(f"waited {seconds:g} s for {what}")
        await asyncio.sleep(POLL_SECONDS)
    return found
