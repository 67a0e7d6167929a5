"""A loop that a test leaves running is that test's failure, and not that of all tests after it."""

import asyncio
from asyncio import events

import pytest

from tests.lab.loops import LeftRunningError, leave_none_running


async def _nothing() -> None:
    """Need a loop to run in."""


def test_a_loop_left_running_is_named_and_the_next_test_can_begin() -> None:
    loop = asyncio.new_event_loop()
    events._set_running_loop(loop)
    try:
        with pytest.raises(LeftRunningError, match="running event loop of this thread"):
            leave_none_running()
        asyncio.run(_nothing())
    finally:
        events._set_running_loop(None)
        loop.close()


def test_where_none_is_left_nothing_is_said() -> None:
    asyncio.run(_nothing())
    leave_none_running()
