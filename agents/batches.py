"""Reading batches: only the agent moves the offset, and who waits for a broker holds up only its own partition."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

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


async def side_by_side(
    events: AsyncIterator[Event], work: Callable[[Event], Awaitable[None]], *, partition_of: Callable[[Event], int]
) -> None:
    """Work on batches of several partitions at the same time, and on those of one partition one after the other.

    How many are under way is the consumer's to bound (BatchLimits.max_in_flight, of each partition). Raises what the
    first work that failed raised; by then all other work has been cancelled.
    """
    last: dict[int, asyncio.Task[None]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            async for event in events:
                partition = partition_of(event)
                last[partition] = group.create_task(_behind(last.get(partition), work, event))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _behind(earlier: asyncio.Task[None] | None, work: Callable[[Event], Awaitable[None]], event: Event) -> None:
    if earlier is not None:
        await earlier
    await work(event)
