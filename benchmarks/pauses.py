"""How often a worker's event loop pauses while it knows many Jobs and some of them report at a steady rate."""

import time
from typing import NamedTuple

from benchmarks.results import LONG_PAUSE_SECONDS
from benchmarks.sources import report_around, send_steadily
from tests.lab.worker import Worker

RATE = 20_000
SECONDS = 40.0
#: So many of the Jobs report; the others are silent, and not for so long that they are due.
REPORTING = 20_000


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
    now = b"%.3f" % time.time()
    reports = [before + now + behind for before, behind in around]
    await send_steadily(bootstrap, topic, reports, rate=RATE, seconds=SECONDS)
