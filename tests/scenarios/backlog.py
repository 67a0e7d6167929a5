"""What a fleet has said for hours while nobody read it: the platform's own services, each with its story.

Made by the same code as the captures, for any length of time; who is sick at its end is known from the story.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from sf_healer.adapters import kafka
from sf_healer.captures import Line
from sf_healer.feed import feed
from sf_healer.local import launcher
from sf_healer.local.reports import Course, Process, Story, life
from sf_healer.local.services import CONSUMERS, SERVICES, Dialect
from sf_healer.settings import Settings
from tests.scenarios.fleet import SOURCE_PARTITIONS, TOPIC, Sickness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Those whose reports name their queue: with `identity = convention` nothing else tells their Jobs apart.
_DIALECTS = {Dialect.STATUS, Dialect.STATUS_WITHOUT_ARANGO, Dialect.STATUS_DUMMY}
TALKATIVE = sorted(
    service.name for service in SERVICES.values() if service.dialect in _DIALECTS and service.loading is not None
)
FINISHING = [name for name in TALKATIVE if SERVICES[name].finish]
FAILING = [name for name in TALKATIVE if SERVICES[name].fatal]
_SERVICES = {
    Story.HEALTHY: TALKATIVE,
    Story.BAD_RECORDS: sorted(CONSUMERS & set(TALKATIVE)),
    Story.SILENCE: TALKATIVE,
    Story.FATAL: FAILING,
    Story.STOP: [name for name in TALKATIVE if SERVICES[name].stop],
    Story.FINISH: FINISHING,
}
_GO_ON = (Story.HEALTHY, Story.BAD_RECORDS)
_SICK = {Story.SILENCE: "stuck", Story.FATAL: "failed"}
_MS = 1000


class Said(NamedTuple):
    """A report and when it was made (epoch seconds)."""

    at: float
    partition: int
    value: bytes


class Backlog:
    """Hours of reports of a fleet that end now."""

    def __init__(self, stories: dict[Story, int], *, hours: float, gap_seconds: float, seed: int = 1) -> None:
        self.said: list[Said] = []
        #: Those who go on reporting when it is over, and what they say then.
        self.going_on: dict[str, Callable[[], bytes]] = {}
        self.sick: dict[str, Sickness] = {}
        self._random = random.Random(seed)
        self._seconds = hours * 3600
        self._gap_seconds = gap_seconds
        began = time.time() - self._seconds
        for story, count in stories.items():
            for _ in range(count):
                self._live(story, began)
        self.said.sort()

    def _live(self, story: Story, began: float) -> None:
        service = SERVICES[self._random.choice(_SERVICES[story])]
        queue = launcher.Queue.launch("BTCUSDT", service.type_, "2025-06-01", launcher.short_id(self._random))
        env = launcher.environment(queue, service.target, type_=service.type_)
        process = Process(service, env)
        course = Course(
            epoch=began,
            turn_seconds=self._random.uniform(0.1, 0.9) * self._seconds,
            until_seconds=self._seconds,
            gap_seconds=self._gap_seconds,
        )
        said = [(began + at, value) for at, value in life(process, story, self._random, course)]
        self.said += [Said(at, self._random.randrange(SOURCE_PARTITIONS), value) for at, value in said]
        key = f"{launcher.NAMESPACE}/{launcher.job_name(env['QUEUE_ID'], service.target)}"
        if story in _GO_ON:
            self.going_on[key] = lambda: _loading(process)
        elif story in _SICK:
            self.sick[key] = Sickness(_SICK[story], said[-1][0])


def _loading(process: Process) -> bytes:
    value = process.loading(time.time())
    assert value is not None
    return value


async def feed_dated_now(bootstrap: str, said: Iterable[Said]) -> None:
    """Feed a backlog at once as `sf-healer feed` does: what took hours is dated within seconds."""
    lines = (Line(at=report.at, partition=report.partition, value=report.value) for report in said)
    await feed(Settings(broker_url=f"kafka://{bootstrap}"), lines, topic=TOPIC)


async def feed_dated_then(bootstrap: str, said: Iterable[Said]) -> None:
    """Feed a backlog at once with the times at which it was said, as a topic has it that nobody has read."""
    settings = Settings(broker_url=f"kafka://{bootstrap}")
    async with kafka.producer(settings, linger_ms=5, max_batch_size=256 * 1024) as producer:
        for report in said:
            await producer.send(TOPIC, report.value, partition=report.partition, timestamp_ms=int(report.at * _MS))
        await producer.flush()
