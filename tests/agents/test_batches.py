"""Batches of several partitions go side by side, those of one in their order, or together where the work wants it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import pytest

from agents.batches import Inbox, WorkBrokenOffError, side_by_side
from tests.lab.waiting import until_async


class Batch(NamedTuple):
    partition: int
    number: int


async def given(batches: Iterable[Batch], then: asyncio.Event | None = None) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch
    if then is not None:
        await then.wait()


def partition_of(batch: Batch) -> int:
    return batch.partition


async def test_one_partition_does_not_wait_for_another_and_keeps_its_order() -> None:
    batches = [Batch(0, 0), Batch(0, 1), Batch(1, 0), Batch(1, 1)]
    done: list[Batch] = []
    go_on = asyncio.Event()

    async def work(batch: Batch, _: Inbox[Batch]) -> None:
        if batch == Batch(0, 0):
            await go_on.wait()
        done.append(batch)
        if batch == Batch(1, 1):
            go_on.set()

    await asyncio.wait_for(side_by_side(given(batches), work, partition_of=partition_of), 5)

    assert done == [Batch(1, 0), Batch(1, 1), Batch(0, 0), Batch(0, 1)]


async def test_work_takes_along_what_waits_of_its_partition_as_long_as_it_is_wanted() -> None:
    batches = [Batch(0, 0), Batch(1, 1), Batch(0, 1), Batch(0, 2), Batch(0, 4)]
    taken: list[list[int]] = []

    async def work(batch: Batch, inbox: Inbox[Batch]) -> None:
        mine = [batch.number]
        while (following := await inbox.next_within(0.0, wanted=lambda each: each.number == mine[-1] + 1)) is not None:
            mine.append(following.number)
        taken.append(mine)

    await asyncio.wait_for(side_by_side(given(batches), work, partition_of=partition_of), 5)

    assert sorted(taken) == [[0, 1, 2], [1], [4]]


async def test_what_raises_ends_all_other_work_and_is_what_is_raised() -> None:
    never, cancelled = asyncio.Event(), asyncio.Event()

    async def work(batch: Batch, _: Inbox[Batch]) -> None:
        if batch.partition == 1:
            raise LookupError
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(LookupError):
        await side_by_side(given([Batch(0, 0), Batch(1, 0)], never), work, partition_of=partition_of)
    assert cancelled.is_set()


async def test_work_that_ends_because_what_it_waited_for_was_cancelled_is_an_error() -> None:
    """A task group takes it for an end: the partition would never be read again, and nobody would know."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.cancel()

    async def work(_batch: Batch, _inbox: Inbox[Batch]) -> None:
        await answer

    with pytest.raises(WorkBrokenOffError):
        await asyncio.wait_for(side_by_side(given([Batch(0, 0)]), work, partition_of=partition_of), 5)


async def test_who_is_cancelled_from_outside_is_cancelled() -> None:
    never = asyncio.Event()

    async def work(_batch: Batch, _inbox: Inbox[Batch]) -> None:
        await never.wait()

    working = asyncio.create_task(side_by_side(given([Batch(0, 0)], never), work, partition_of=partition_of))
    for _ in range(5):
        await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


def wanted(_: int) -> bool:
    return True


async def test_the_next_one_is_taken_when_it_comes() -> None:
    inbox: Inbox[int] = Inbox()
    waiting = asyncio.create_task(inbox.next_within(60.0, wanted=wanted))
    await asyncio.sleep(0)
    inbox.put(7)
    assert await asyncio.wait_for(waiting, 5) == 7


async def test_what_does_not_come_in_time_or_is_not_wanted_is_none_and_stays() -> None:
    inbox: Inbox[int] = Inbox()
    assert await inbox.next_within(0.001, wanted=wanted) is None
    inbox.put(7)
    assert await inbox.next_within(60.0, wanted=lambda number: number != 7) is None
    assert await inbox.next() == 7


async def test_who_is_cancelled_while_it_waits_takes_nothing() -> None:
    inbox: Inbox[int] = Inbox()
    waiting = asyncio.create_task(inbox.next_within(60.0, wanted=wanted))
    await asyncio.sleep(0)
    inbox.put(7)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await inbox.next() == 7


async def test_once_no_more_will_come_nobody_waits() -> None:
    inbox: Inbox[int] = Inbox()
    waiting = [asyncio.create_task(inbox.next()), asyncio.create_task(inbox.next_within(60.0, wanted=wanted))]
    await asyncio.sleep(0)
    inbox.close()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [None, None]
    inbox.put(7)
    assert [await inbox.next(), await inbox.next()] == [7, None]


async def test_a_partition_that_comes_later_is_worked_on_as_well() -> None:
    done: list[Batch] = []
    more = asyncio.Event()

    async def batches() -> AsyncIterator[Batch]:
        yield Batch(0, 0)
        await more.wait()
        yield Batch(5, 0)

    async def work(batch: Batch, _: Inbox[Batch]) -> None:
        done.append(batch)

    working = asyncio.create_task(side_by_side(batches(), work, partition_of=partition_of))

    async def is_first_done() -> bool:
        return done == [Batch(0, 0)]

    await until_async(is_first_done, "the first batch", seconds=5)
    more.set()
    await asyncio.wait_for(working, 5)
    assert done == [Batch(0, 0), Batch(5, 0)]
