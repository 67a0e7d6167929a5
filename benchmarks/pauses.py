"""How often a worker's event loop pauses while it knows many Jobs and some of them report at a steady rate."""

import asyncio
import random
import time
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from benchmarks.results import LONG_PAUSE_SECONDS
from benchmarks.sources import PARTITIONS, batches, report_around
from tests.lab.worker import Worker

RATE = 20_000
SECONDS = 40.0
#: So many of the Jobs report; the others are silent, and not for so long that they are due.
REPORTING = 20_000
_BATCHES_A_SECOND = 20
_SEED = 42


class Pauses(NamedTuple):
    """Looks at an event loop, and those that came late by more than LONG_PAUSE_SECONDS."""

    looks: int
    long: int


def so_far(worker: Worker) -> Pauses:
    """Ask a worker how it was since it started."""
    found = worker.metrics()
    name = "sf_healer_event_loop_pause_seconds"
    looks = found[f"{name}_count", ""]
    return Pauses(round(looks), round(looks - found[f"{name}_bucket", str(LONG_PAUSE_SECONDS)]))


def between(before: Pauses, after: Pauses) -> Pauses:
    """Give what came in between."""
    return Pauses(*(now - then for then, now in zip(before, after, strict=True)))


async def load(bootstrap: str, topic: str, jobs: int) -> None:
    """Send RATE reports a second of REPORTING of so many Jobs, for SECONDS."""
    around = [report_around(number) for number in range(min(jobs, REPORTING))]
    draw = random.Random(_SEED)  # not for secrets
    clock = asyncio.get_running_loop().time
    sent, began = 0, clock()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1_000_000) as producer:
        while (elapsed := clock() - began) < SECONDS:
            due = int(elapsed * RATE)
            values: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
            for number in range(sent, due):
                before, behind = draw.choice(around)
                values[number % PARTITIONS].append(b"%b%.3f%b" % (before, time.time(), behind))
            for partition in range(PARTITIONS):
                for future in [await batch for batch in batches(producer, topic, partition, values[partition])]:
                    await future
            sent = due
            await asyncio.sleep(1 / _BATCHES_A_SECOND)
