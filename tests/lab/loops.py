"""What a test leaves behind: no task of its own, and no running event loop, or no asyncio test after it could begin."""

from __future__ import annotations

import asyncio
from asyncio import events
from typing import Any


class LeftRunningError(AssertionError):
    """An event loop counts as running where none does; the message names it."""


def leave_none_running() -> None:
    """Take away what counts as this thread's running loop, so that the next test can begin; raise LeftRunningError."""
    left = events._get_running_loop()
    if left is not None:
        events._set_running_loop(None)
        raise LeftRunningError(f"left as the running event loop of this thread: {left!r}")


async def end(task: asyncio.Task[Any]) -> None:
    """End a task that never ends by itself; raises what it raised instead.

    A client of Kafka that reconnects just then may swallow one cancellation.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
    if not task.cancelled():
        task.result()
