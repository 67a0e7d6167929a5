"""Reading batches: only the agent moves the offset, and one that waits for a broker holds up only its own partition."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from faust.types import StreamT

from sf_healer.transport import Batch

if TYPE_CHECKING:
    import faust


Event = TypeVar("Event")


class BatchEvent(Protocol):
    """A batch, and the way to say that it is dealt with."""

    @property
    def value(self) -> Batch:
        """The batch."""
        ...

    def ack(self) -> bool:
        """Let the offset move past the batch."""
        ...


def unacknowledged(stream: StreamT[Batch]) -> AsyncIterator[BatchEvent]:
    """Give the events of a stream; one counts as done when its `ack()` is called, never because an agent raised.

    Faust acknowledges an event when its agent is through with it, whatever happened meanwhile.
    """
    events: Any = cast("faust.Stream[Batch]", stream).noack().events()
    return cast("AsyncIterator[BatchEvent]", events)


class WorkBrokenOffError(Exception):
    """What a work waited for was cancelled, as happens when a client's thread ends."""


class Inbox(Generic[Event]):
    """The batches of one partition that nobody works on yet."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._came = asyncio.Event()
        self._is_closed = False

    def put(self, event: Event) -> None:
        """Have it wait."""
        self._waiting.append(event)
        self._came.set()

    def close(self) -> None:
        """Say that no more will come."""
        self._is_closed = True
        self._came.set()

    async def next(self) -> Event | None:
        """Take the first one, or wait for it; None once there will be no more."""
        while not self._waiting:
            if self._is_closed:
                return None
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    async def next_within(self, seconds: float, *, wanted: Callable[[Event], bool]) -> Event | None:
        """Take the first one, if it comes within so many seconds and is wanted; else it is left where it is."""
        await asyncio.sleep(0)  # an agent that takes one after the other lets others have their turn
        if not self._waiting and not self._is_closed:
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._came.wait()
        return self._waiting.popleft() if self._waiting and wanted(self._waiting[0]) else None


Work = Callable[[Event, Inbox[Event]], Awaitable[None]]


async def side_by_side(
    events: AsyncIterator[Event], work: Work[Event], *, partition_of: Callable[[Event], int]
) -> None:
    """Work on batches of several partitions at the same time, and on those of one partition one after the other.

    Work may take the next ones of its partition along, out of the inbox. How many are there is the consumer's to bound
    (BatchLimits.max_in_flight, of each partition), but for those that work has let go. Raises what the first work that
    failed raised; by then all other work has been cancelled.
    """
    inboxes: dict[int, Inbox[Event]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            async for event in events:
                inbox = inboxes.get(partition_of(event))
                if inbox is None:
                    inbox = inboxes[partition_of(event)] = Inbox()
                    group.create_task(_one_after_the_other(inbox, work))
                inbox.put(event)
            for inbox in inboxes.values():
                inbox.close()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _one_after_the_other(inbox: Inbox[Event], work: Work[Event]) -> None:
    task = asyncio.current_task()
    assert task is not None
    while (event := await inbox.next()) is not None:
        try:
            await work(event, inbox)
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            # Of what it waited for, not of the work: a task group would take that for the work's end, and go on.
            raise WorkBrokenOffError from None
