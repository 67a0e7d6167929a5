"""Processes of the simulated world end as real ones do: at once, and without a word."""

import asyncio
import gc
import warnings
from asyncio import events

from tests.simulation.clock import Process, Scheduler


def _process(scheduler: Scheduler) -> Process:
    def failed(_process: Process, error: BaseException) -> None:
        raise error

    return Process(scheduler, "w0", failed)  # type: ignore[abstract]


def test_a_killed_process_does_nothing_more_and_leaves_no_coroutine_unawaited() -> None:
    scheduler = Scheduler(0.0)
    process = _process(scheduler)
    done = []

    async def sleeper() -> None:
        await process.sleep(1.0)
        done.append("slept")

    async def child() -> None:
        done.append("ran")

    async def parent() -> None:
        asyncio.create_task(child())  # noqa: RUF006  it never runs
        process.kill()
        await process.never()

    scheduler.at(0.0, lambda: process.spawn(sleeper()))
    scheduler.at(0.0, lambda: process.spawn(parent()))
    gc.collect()  # what other tests left is not ours
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        scheduler.run(10.0)
        gc.collect()
    assert [str(warning.message) for warning in said if "never awaited" in str(warning.message)] == []
    assert done == []


def test_a_process_that_goes_on_leaves_no_loop_running() -> None:
    scheduler = Scheduler(0.0)
    process = _process(scheduler)
    scheduler.at(0.0, process.stop)
    scheduler.at(1.0, int, owner=process)
    scheduler.run(2.0)
    process.go_on()
    assert events._get_running_loop() is None


def test_a_stopped_process_catches_up_in_order_when_it_goes_on() -> None:
    scheduler = Scheduler(0.0)
    process = _process(scheduler)
    seen: list[tuple[float, int]] = []

    async def counting() -> None:
        for number in range(3):
            await process.sleep(1.0)
            seen.append((scheduler.now, number))

    scheduler.at(0.0, lambda: process.spawn(counting()))
    scheduler.at(1.5, process.stop)
    scheduler.at(60.0, process.go_on)
    scheduler.run(100.0)
    assert seen == [(1.0, 0), (60.0, 1), (61.0, 2)]
