"""A fleet of Jobs that report to `queue-events` as the platform's do: unkeyed, each at its own pace, never waiting.

What is true of each is known here, because it is done here: who was made to fall silent or to fail, and when.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import time
from typing import TYPE_CHECKING, Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.lab import loops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiokafka.structs import RecordMetadata

    from tests.scenarios.backlog import Backlog

TOPIC = "queue-events"
SOURCE_PARTITIONS = 3
#: A service of the platform does not wait longer for its client to take a report; the report is lost then.
PATIENCE_SECONDS = 2.0
#: Large enough for what the client holds back while no broker answers: one that is full would stop the fleet.
CLIENT_BATCH_BYTES = 1024 * 1024
NAP_SECONDS = 0.05
#: A Job's pauses lie this far around its own pace.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.7, 1.3


class Sickness(msgspec.Struct, frozen=True):
    """What became of a Job, and when (epoch seconds)."""

    verdict: str
    since: float


class Voice:
    """The reports of one Job, in the platform's commonest dialect."""

    def __init__(self, short_id: str, *, target: str = "arango-connector") -> None:
        self.queue_id = f"loader-btcusdt-api-trades-2025-06-01-{short_id}"
        self.producer = f"{target}__{short_id}"
        self.key = f"stf/{self.queue_id}-{target}"
        self._records = 0

    def loading(self) -> bytes:
        self._records += 100
        return self._say("loading")

    def error(self) -> bytes:
        return self._say("error", finished=True)

    def _say(self, status: str, *, finished: bool = False) -> bytes:
        told = {"queue_id": self.queue_id, "producer": self.producer, "event": status, "status": status}
        return json.dumps({**told, "finished": finished, "records_written": self._records}).encode()


class Fleet:
    """Jobs that report until they are made sick; within `async with` they do."""

    def __init__(self, bootstrap: str, voices: Iterable[Voice] = (), *, every_seconds: float, seed: int = 1) -> None:
        self.voices = {voice.key: voice for voice in voices}
        self.sick: dict[str, Sickness] = {}
        self.sent = self.lost = 0
        self.heard: set[str] = set()
        #: How late the fleet itself was at worst: on a machine where it falls silent nothing can be judged.
        self.late_seconds = 0.0
        self._say: dict[str, Callable[[], bytes]] = {key: voice.loading for key, voice in self.voices.items()}
        self._bootstrap = bootstrap
        self._every_seconds = every_seconds
        self._random = random.Random(seed)
        self._due: list[tuple[float, str]] = []
        self._unanswered: set[asyncio.Future[RecordMetadata]] = set()

    @property
    def well(self) -> frozenset[str]:
        """The Jobs that nothing is wrong with."""
        return frozenset(self._say.keys() - self.sick.keys())

    def join(self, key: str, say: Callable[[], bytes]) -> None:
        """Let a Job report from now on, with what `say` gives."""
        self._say[key] = say
        heapq.heappush(self._due, (time.monotonic() + self._random.uniform(0, self._every_seconds), key))

    def take_over(self, backlog: Backlog) -> None:
        """Go on where a backlog ends: who was well reports at our pace, who was sick is known to be."""
        self.sick |= backlog.sick
        for key, say in backlog.going_on.items():
            self.join(key, say)

    def silence(self, count: int) -> set[str]:
        """Have some Jobs never say a word again."""
        chosen = self._choose(count)
        self.sick |= dict.fromkeys(chosen, Sickness("stuck", time.time()))
        return chosen

    async def fail(self, count: int) -> set[str]:
        """Have some Jobs say `error` as their last word; it is on the source when this returns."""
        chosen = self._choose(count)
        self.sick |= dict.fromkeys(chosen, Sickness("failed", time.time()))
        if self._unanswered:
            await asyncio.wait(self._unanswered)  # a last `loading` on its way would come after the `error`
        for key in chosen:
            partition = self._random.randrange(SOURCE_PARTITIONS)
            await self._producer.send_and_wait(TOPIC, self.voices[key].error(), partition=partition)
        return chosen

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, linger_ms=20, max_batch_size=CLIENT_BATCH_BYTES
        )
        await self._producer.start()
        for key in list(self._say):
            self.join(key, self._say[key])
        self._reporting = asyncio.create_task(self._report())
        return self

    async def __aexit__(self, *_: object) -> None:
        await loops.end(self._reporting)
        await self._producer.stop()

    async def _report(self) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                due, key = heapq.heappop(self._due)
                if key in self.sick:
                    continue
                self.late_seconds = max(self.late_seconds, now - due)
                await self._send(key)
                pause = self._every_seconds * self._random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
                heapq.heappush(self._due, (now + pause, key))
            await asyncio.sleep(NAP_SECONDS)

    async def _send(self, key: str) -> None:
        value = self._say[key]()
        partition = self._random.randrange(SOURCE_PARTITIONS)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await self._producer.send(TOPIC, value, partition=partition)
        except (KafkaError, TimeoutError):
            self.lost += 1
            return
        self._unanswered.add(answer)
        answer.add_done_callback(lambda answer: self._count(key, answer))

    def _count(self, key: str, answer: asyncio.Future[RecordMetadata]) -> None:
        self._unanswered.discard(answer)
        if answer.cancelled() or answer.exception() is not None:
            self.lost += 1
        else:
            self.sent += 1
            self.heard.add(key)

    def _choose(self, count: int) -> set[str]:
        return set(self._random.sample(sorted(self.voices.keys() & self.well), count))
