"""Many worlds, one process for each core; what became of each comes back as soon as it is known."""

import gc
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import NamedTuple

import structlog

from tests.simulation.world import SECONDS, World

HOURS_OF_A_SEED = SECONDS / 3600.0
#: As one would type it: a seed that fails is repeated by the command that is printed.
PYTHON = os.path.relpath(sys.executable)


class Ran(NamedTuple):
    """What became of one seed; `seconds` is the processor's time it took."""

    seed: int
    failure: str
    seconds: float


def silence() -> None:
    """Let the code under test log nothing."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def repeat(seed: int) -> str:
    """Give the command that repeats a seed."""
    return f"{PYTHON} -m tests.simulation --seed {seed} --trace"


def run(seed: int) -> Ran:
    """Run the world of a seed; a crash of the code under test is a failure of the seed, like a rule broken."""
    began, failure = time.process_time(), ""
    try:
        result = World(seed).run()
    except Exception as error:  # noqa: BLE001  whatever the code under test raised
        failure = f"crash: {type(error).__name__}: {error}"
    else:
        failure = str(result.violation or "")
    gc.collect(0)
    return Ran(seed, failure, time.process_time() - began)


def run_all(seeds: Iterable[int], *, processes: int) -> Iterator[Ran]:
    """Run worlds on so many cores, in no order; whoever stops asking stops the rest."""
    if processes == 1:
        yield from map(run, seeds)
        return
    # Spawned: a fork would take over whatever threads hold in the process that asks.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=silence) as pool:
        running: list[Future[Ran]] = [pool.submit(run, seed) for seed in seeds]
        try:
            for future in as_completed(running):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
