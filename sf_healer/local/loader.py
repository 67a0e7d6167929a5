"""The process that a local pod runs: it reports on `queue-events` as one of StreamForge's services would.

`python -m sf_healer.local.loader`, configured by the env that the platform's launcher gives a Job, and by
SF_LOCAL_*: which service it plays and how its life goes. What services say is in services.py. Two things are
unlike the platform: it listens to `queue-control` without joining the group `control-listener-<queue_id>`
(joining takes seconds on the embedded broker), so a stop reaches every Job of a queue and not just one; and
no records flow, only the reports about them.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from sf_healer.local.reports import Process, Story, ending
from sf_healer.local.services import SERVICE_OF_TARGET, SERVICES, Line, Service

BEHAVIOUR = "SF_LOCAL_BEHAVIOUR"
CADENCE = "SF_LOCAL_CADENCE_SECONDS"  # from one `loading` to the next; 0: the service's own
TURN = "SF_LOCAL_TURN_SECONDS"  # from the start until it hangs, fails, finishes …
SERVICE = "SF_LOCAL_SERVICE"  # default: what the target's usual image runs
INCARNATION = "SF_LOCAL_INCARNATION"  # set by the local cluster: 1 for the first Job of a name, 2 …

_DEFAULT_CADENCE_SECONDS = 1.0
_DEFAULT_TURN_SECONDS = 5.0
_BETWEEN_LAST_WORDS_SECONDS = 0.03
_SEND_SECONDS = 10.0
_FETCH_MAX_WAIT_MS = 250  # the embedded broker looks again only then; to a real one each fetch is work


class Behaviour(StrEnum):
    """How the life of this process goes; the first four are well again after a restart."""

    HANGS = "hangs"  # `loading` for a while, then silence; the process lives
    ERRORS = "errors"  # the service's fatal error; it ends or stays up as the service does
    CRASHES = "crashes"  # the same, and exit code 1, so that Kubernetes tries again
    SILENT = "silent"  # never a word, as most loaders are shipped
    HANGS_FOREVER = "hangs-forever"
    ERRORS_FOREVER = "errors-forever"
    CRASHES_FOREVER = "crashes-forever"
    SILENT_FOREVER = "silent-forever"
    STARTED_ONLY = "started-only"  # `started`, then nothing
    HEALTHY = "healthy"
    STOPPABLE = "stoppable"  # as healthy: every process obeys a stop
    ERROR_PER_RECORD = "error-per-record"  # an error for a record now and then, and it goes on
    FINISHES = "finishes"


_HEALED_BY_A_RESTART = frozenset({Behaviour.HANGS, Behaviour.ERRORS, Behaviour.CRASHES, Behaviour.SILENT})
_STORY = {
    Behaviour.HANGS: Story.SILENCE,
    Behaviour.ERRORS: Story.FATAL,
    Behaviour.CRASHES: Story.FATAL,
    Behaviour.SILENT: Story.MUTE,
    Behaviour.STARTED_ONLY: Story.STARTED_ONLY,
    Behaviour.HEALTHY: Story.HEALTHY,
    Behaviour.STOPPABLE: Story.HEALTHY,
    Behaviour.ERROR_PER_RECORD: Story.BAD_RECORDS,
    Behaviour.FINISHES: Story.FINISH,
}


class Script(msgspec.Struct, frozen=True):
    """What this process is to do; times in seconds."""

    service: Service
    story: Story
    crashes: bool
    cadence_seconds: float
    turn_seconds: float

    @classmethod
    def read(cls, env: Mapping[str, str]) -> "Script":
        """Read SF_LOCAL_* and the target; raises ValueError for what is not known, KeyError likewise."""
        target = env["TELEMETRY_PRODUCER_ID"].rpartition("__")[0]
        service = SERVICES[env.get(SERVICE) or SERVICE_OF_TARGET[target]]
        behaviour = Behaviour(env.get(BEHAVIOUR, Behaviour.HEALTHY))
        if behaviour in _HEALED_BY_A_RESTART and int(env.get(INCARNATION, "1")) > 1:
            behaviour = Behaviour.HEALTHY
        first_time = Behaviour(behaviour.removesuffix("-forever"))
        return cls(
            service=service,
            story=_STORY[first_time],
            crashes=first_time is Behaviour.CRASHES,
            cadence_seconds=float(env.get(CADENCE, _DEFAULT_CADENCE_SECONDS)) or service.gap_seconds,
            turn_seconds=float(env.get(TURN, _DEFAULT_TURN_SECONDS)),
        )


class Loader:
    """One life, told on the topic as it goes; `run` gives the exit code. Made within the event loop."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._script = Script.read(env)
        self._process = Process(self._script.service, env, booted_at=time.time() - time.monotonic())
        self._random = random.Random(env["TELEMETRY_PRODUCER_ID"])  # noqa: S311  # it repeats, that is all
        self._producer = AIOKafkaProducer(bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"], acks="all")
        self._control = AIOKafkaConsumer(
            env["QUEUE_CONTROL_TOPIC"],
            bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"],
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        )
        self._orders: asyncio.Queue[Story] = asyncio.Queue()

    async def run(self) -> int:
        """Live until stopped, finished, failed or terminated."""
        async with self._producer, self._control:
            self._heed_sigterm()
            await self._control.seek_to_end()  # what was ordered before we were is not for us
            listening = asyncio.create_task(self._listen())
            try:
                return await self._live()
            finally:
                listening.cancel()
                with suppress(asyncio.CancelledError):
                    await listening

    async def _live(self) -> int:
        story = self._script.story
        order = await self._until_ordered(self._work(story))
        if order is None:
            await self._last_words(ending(self._script.service, story))
            if story is Story.FATAL:
                code = 1 if self._script.crashes else self._script.service.exit_code_after_fatal
                return code or await self._stay_up(0)
            if story is Story.FINISH:
                return await self._stay_up(0)
            order = await self._hang()
        await self._last_words(ending(self._script.service, order))
        return 0 if order is Story.TERMINATE else await self._stay_up(0)

    async def _hang(self) -> Story:
        """Live without data: still obeying a stop, but most look at SIGTERM only when a record arrives."""
        while True:
            order = await self._orders.get()
            if order is not Story.TERMINATE or self._script.service.terminates_idle:
                return order

    async def _stay_up(self, code: int) -> int:
        """Services inside uvicorn live on after their last word; only a signal ends them."""
        if self._script.service.stays_up:
            while await self._orders.get() is not Story.TERMINATE:
                continue
        return code

    async def _work(self, story: Story) -> None:
        """Tell of the work until the story takes its turn; without one, for ever."""
        if story is Story.MUTE:
            return
        await self._send(self._process.started(time.time()))
        if story is Story.STARTED_ONLY:
            return
        await self._send(self._process.opening(time.time()))
        turn = time.monotonic() + self._script.turn_seconds
        while story in {Story.HEALTHY, Story.BAD_RECORDS} or time.monotonic() < turn:
            await asyncio.sleep(self._script.cadence_seconds)
            if story is Story.BAD_RECORDS and self._script.service.bad_record:
                line = self._random.choice(self._script.service.bad_record)
                await self._send(self._process.say(line, time.time()))
            await self._send(self._process.loading(time.time()))

    async def _until_ordered(self, work: Coroutine[Any, Any, None]) -> Story | None:
        """Work on until that is done (None) or a stop or a signal comes first."""
        working = asyncio.create_task(work)
        ordered = asyncio.create_task(self._orders.get())
        await asyncio.wait({working, ordered}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, ordered):
            task.cancel()
        await asyncio.gather(working, ordered, return_exceptions=True)
        if ordered.cancelled():
            working.result()
            return None
        return ordered.result()

    async def _last_words(self, lines: tuple[Line, ...]) -> None:
        for line in lines:
            await self._send(self._process.say(line, time.time()))
            await asyncio.sleep(_BETWEEN_LAST_WORDS_SECONDS)

    async def _send(self, value: bytes | None) -> None:
        if value is None:
            return
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._producer.send_and_wait(self._env["QUEUE_EVENTS_TOPIC"], value)
        except (KafkaError, TimeoutError) as problem:  # the services swallow it too
            print(f"not sent: {problem!r}", file=sys.stderr, flush=True)  # noqa: T201  # the pod's log

    def _heed_sigterm(self) -> None:
        """Only services inside uvicorn and the dummy heed SIGTERM; as process 1 the others ignore it."""
        if self._script.service.terminate:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self._orders.put_nowait, Story.TERMINATE)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def _listen(self) -> None:
        """Take orders for this queue, and answer pings."""
        async for record in self._control:
            try:
                order = json.loads(record.value or b"")
            except ValueError:
                continue
            if not isinstance(order, dict) or order.get("queue_id") != self._env["QUEUE_ID"]:
                continue
            if order.get("command") == "stop":
                self._orders.put_nowait(Story.STOP)
            elif order.get("command") == "ping":
                await self._send(self._process.pong(time.time(), order.get("sent_at")))


async def main() -> int:
    """Run one loader from the process's env; the exit code of its life."""
    return await Loader(os.environ).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
