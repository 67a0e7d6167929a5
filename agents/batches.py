"""Reading batches so that only the agent moves the offset. Nothing else lives here."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from faust.types import StreamT

from sf_healer.transport import Batch

if TYPE_CHECKING:
    import faust


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
