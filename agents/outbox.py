"""Telling without waiting: what is put here is delivered in the background, one after another.

Whoever puts something never waits and never fails: what does not fit is dropped and said so, and a delivery that
raises is one delivery lost. What is in here when the process dies is lost (docs/decisions/0012-notifications.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Loss(StrEnum):
    """Why something was not delivered; a metric label."""

    QUEUE_FULL = "queue_full"
    FAULT = "fault"  # the delivery raised what nobody expects
    STOPPED = "stopped"


class Outbox(Generic[T]):
    """A bounded queue with a task behind it that lives as long as something is in it."""

    def __init__(
        self, deliver: Callable[[T], Awaitable[None]], lost: Callable[[T, Loss, str], None], *, limit: int
    ) -> None:
        self._deliver = deliver
        self._lost = lost
        self._limit = limit
        self._waiting: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: T) -> None:
        """Have something delivered; returns at once. Call within the event loop."""
        if len(self._waiting) >= self._limit:
            self._lost(item, Loss.QUEUE_FULL, "")
            return
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._deliver_all())

    async def close(self, grace_seconds: float) -> None:
        """Deliver what can be within the grace, and drop the rest."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace_seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        while self._waiting:
            self._lost(self._waiting.popleft(), Loss.STOPPED, "")

    async def _deliver_all(self) -> None:
        while self._waiting:
            try:
                await self._deliver(self._waiting[0])
            except Exception as error:  # noqa: BLE001  to tell of a restart must never end the process that restarts
                self._lost(self._waiting[0], Loss.FAULT, type(error).__name__)
            self._waiting.popleft()
        self._task = None


class Recently:
    """Remembers for a while what was told, so that it is not told again; bounded."""

    def __init__(self, seconds: float, *, limit: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._told: dict[Hashable, float] = {}

    def first(self, what: Hashable) -> bool:
        """Return whether this was not told in the last while, and note that it is now."""
        now = self._clock()
        told_at = self._told.get(what)
        if told_at is not None and now - told_at < self._seconds:
            return False
        self._told.pop(what, None)  # the order is that of the times
        self._told[what] = now
        if len(self._told) > self._limit:
            del self._told[next(iter(self._told))]
        return True
