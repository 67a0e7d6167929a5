"""A question asked on the consumer's thread: its answer, its end, and a thread that ends before it is asked."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError

from sf_healer.transport.poll import ConsumerThread
from tests.lab.waiting import until_async

SECONDS = 30.0


class Thread:
    """An event loop in a thread of its own, as the consumer's is."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    async def ask(self, question) -> object:
        return await ConsumerThread._ask(SimpleNamespace(thread_loop=self.loop), question)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


@pytest.fixture
def thread() -> Iterator[Thread]:
    gc.collect()  # what tests before left behind is not this one's
    made = Thread()
    yield made
    if made.loop.is_running():
        made.end()
    made.loop.close()


async def test_a_question_is_answered_on_the_thread(thread):
    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert await thread.ask(where) is thread.loop


async def test_what_a_question_raises_is_raised_to_who_asked(thread):
    async def fails() -> None:
        raise KafkaConnectionError("no broker")

    with pytest.raises(KafkaConnectionError, match="no broker"):
        await thread.ask(fails)


async def test_a_question_that_nobody_waits_for_any_more_is_ended(thread):
    begun, ended = threading.Event(), threading.Event()

    async def lasts() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    asking = asyncio.create_task(thread.ask(lasts))

    async def has_begun() -> bool:
        return begun.is_set()

    await until_async(has_begun, "the question to be asked", seconds=SECONDS)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    async def has_ended() -> bool:
        return ended.is_set()

    await until_async(has_ended, "the question to end", seconds=SECONDS)


async def never_asked() -> None:
    """Be the question of a worker that ends."""


@pytest.mark.parametrize("closed", [True, False])
async def test_a_thread_that_has_ended_is_a_broker_that_cannot_be_asked_and_leaves_no_question(thread, closed, recwarn):
    thread.end()
    if closed:
        thread.loop.close()
    with pytest.raises(KafkaConnectionError, match="ended"):
        await asyncio.wait_for(thread.ask(never_asked), SECONDS)
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def test_a_thread_that_ends_before_it_comes_to_a_question_leaves_none_behind(thread, recwarn):
    busy, go_on = threading.Event(), threading.Event()

    def end_when_told() -> None:
        busy.set()
        go_on.wait(SECONDS)
        thread.loop.stop()

    thread.loop.call_soon_threadsafe(end_when_told)
    await asyncio.to_thread(busy.wait, SECONDS)
    asked = asyncio.create_task(thread.ask(never_asked))
    await asyncio.sleep(0)
    go_on.set()
    thread._thread.join()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    thread.loop.close()  # drops what it never came to
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
