"""A test leaves its thread without a running event loop: with one, no asyncio test after it could begin."""

from __future__ import annotations

from asyncio import events


class LeftRunningError(AssertionError):
    """An event loop counts as running where none does; the message names it."""


def leave_none_running() -> None:
    """Take away what counts as this thread's running loop, so that the next test can begin; raise LeftRunningError."""
    left = events._get_running_loop()
    if left is not None:
        events._set_running_loop(None)
        raise LeftRunningError(f"left as the running event loop of this thread: {left!r}")
