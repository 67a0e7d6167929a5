"""What a kubelet does for workers: one that has ended, by itself or killed, is started again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from tests.lab import loops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab.worker import Worker

LOOK_EVERY_SECONDS = 0.2


class Kubelet:
    """Within `async with`, workers that have ended are started again after `pause_seconds`."""

    def __init__(self, workers: Sequence[Worker], *, pause_seconds: float = 1.0) -> None:
        self.restarts: Counter[str] = Counter()
        self._workers = workers
        self._pause_seconds = pause_seconds
        self._left_alone: set[str] = set()

    @contextmanager
    def leaving_alone(self, worker: Worker) -> Iterator[None]:
        """Keep away from a worker that a test ends and starts itself."""
        self.leave_alone(worker)
        try:
            yield
        finally:
            self.look_after(worker)

    def leave_alone(self, worker: Worker) -> None:
        """Keep away from a worker."""
        self._left_alone.add(worker.server.name)

    def look_after(self, worker: Worker) -> None:
        """Start a worker whenever it has ended."""
        self._left_alone.discard(worker.server.name)

    async def kill(self, worker: Worker) -> None:
        """End a worker by SIGKILL; it is started again as any other that ends."""
        with self.leaving_alone(worker):
            await asyncio.to_thread(worker.server.kill)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        await loops.end(self._watching)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for worker in self._workers:
                if self._is_ours(worker):
                    await asyncio.sleep(self._pause_seconds)
                    if self._is_ours(worker):
                        worker.start()
                        self.restarts[worker.server.name] += 1

    def _is_ours(self, worker: Worker) -> bool:
        return worker.server.name not in self._left_alone and not worker.server.is_alive
