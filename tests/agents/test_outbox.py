"""What is put into an outbox is delivered in order, or lost and said so; whoever puts it never waits."""

from __future__ import annotations

import asyncio

from agents.outbox import Loss, Outbox, Recently
from tests.lab.waiting import until_async

SECONDS = 10.0


class Box:
    """An outbox of texts, what was delivered from it and what was lost."""

    def __init__(self, *, limit: int = 3) -> None:
        self.delivered: list[str] = []
        self.lost: list[tuple[str, Loss, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.outbox: Outbox[str] = Outbox(self.deliver, lambda *told: self.lost.append(told), limit=limit)

    async def deliver(self, item: str) -> None:
        await self.open.wait()
        if item == "broken":
            raise KeyError(item)
        self.delivered.append(item)

    def put(self, *items: str) -> None:
        for item in items:
            self.outbox.put(item)

    async def emptied(self) -> None:
        async def is_empty() -> bool:
            return not len(self.outbox)

        await until_async(is_empty, "the outbox to be empty", seconds=SECONDS)


async def test_what_is_put_is_delivered_in_order_also_after_it_was_empty():
    box = Box()
    box.put("a", "b")
    await box.emptied()
    box.put("c")
    await box.emptied()
    assert box.delivered == ["a", "b", "c"]
    assert box.lost == []


async def test_what_does_not_fit_is_lost_and_whoever_put_it_did_not_wait():
    box = Box()
    box.open.clear()
    box.put("a", "b", "c", "d", "e")
    assert box.lost == [("d", Loss.QUEUE_FULL, ""), ("e", Loss.QUEUE_FULL, "")]
    box.open.set()
    await box.emptied()
    assert box.delivered == ["a", "b", "c"]


async def test_a_delivery_that_raises_is_one_delivery_lost_and_the_next_ones_follow():
    box = Box()
    box.put("a", "broken", "c")
    await box.emptied()
    assert box.delivered == ["a", "c"]
    assert box.lost == [("broken", Loss.FAULT, "KeyError")]


async def test_closed_it_delivers_what_it_can_and_loses_the_rest():
    quick, stuck = Box(), Box()
    quick.put("a", "b")
    await quick.outbox.close(SECONDS)
    assert (quick.delivered, quick.lost) == (["a", "b"], [])
    stuck.open.clear()
    stuck.put("a", "b")
    await stuck.outbox.close(0.0)
    assert stuck.delivered == []
    assert stuck.lost == [("a", Loss.STOPPED, ""), ("b", Loss.STOPPED, "")]


async def test_an_outbox_that_was_never_used_closes_at_once():
    box = Box()
    await box.outbox.close(SECONDS)
    assert box.lost == []


def test_what_was_told_is_not_told_again_for_a_while():
    now = [0.0]
    recently = Recently(60.0, limit=2, clock=lambda: now[0])
    assert recently.first("a")
    now[0] = 59.9
    assert not recently.first("a")
    assert recently.first("b")
    now[0] = 60.0
    assert recently.first("a")
    assert not recently.first("b")


def test_only_so_much_is_remembered_and_the_oldest_is_forgotten_first():
    now = [0.0]
    recently = Recently(60.0, limit=2, clock=lambda: now[0])
    for what in ("a", "b", "c"):
        assert recently.first(what)
    assert not recently.first("b")
    assert recently.first("a")
