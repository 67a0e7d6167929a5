"""Reading batches so that only the agent moves the offset. Nothing else lives here."""

from collections.abc import AsyncIterator
from typing import Any, cast

import faust
from faust.types import EventT, StreamT

from sf_healer.transport import Batch


def unacknowledged(stream: StreamT[Batch]) -> AsyncIterator[EventT[Any]]:
    """Give the events of a stream; one counts as done when its `ack()` is called, never because an agent raised.

    Faust acknowledges an event when its agent is through with it, whatever happened meanwhile.
    """
    return cast("AsyncIterator[EventT[Any]]", cast("faust.Stream[Batch]", stream).noack().events())
