"""Blocking calls beside the event loop, in threads that do not hold up the end of the process."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")

#: What is still to be written goes to a pipe that is read, or to nobody.
FLUSH_SECONDS = 1.0


def leave(status: int) -> NoReturn:
    """End the process with a status, and nothing after it.

    Threads of `in_thread` may be in the middle of a call. An interpreter that ends around them takes what they use
    from under them, RocksDB's library its own threads: on a busy machine a worker that had stopped in good order
    aborted then (SIGABRT), which Kubernetes takes for a crash.
    """
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(FLUSH_SECONDS)
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call in a thread of its own; the interpreter does not wait for it when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  handed to the waiting side whole
            _hand_over(loop, future, None, error)
        else:
            _hand_over(loop, future, result, None)

    threading.Thread(target=run, name="blocking-call", daemon=True).start()
    return await future


def _hand_over(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", result: T | None, error: BaseException | None
) -> None:
    if not loop.is_closed():  # else nobody waits any more, and nobody will
        loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[T]", result: T | None, error: BaseException | None) -> None:
    if future.done():
        return  # nobody waits any more
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]  # T may itself be None
