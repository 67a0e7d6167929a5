"""A report that names nobody is believed to be a stranger's only by a list that began after it was read."""

import asyncio

import pytest

from agents import looking
from agents.forwarding import Looked
from agents.looking import LOOK_AGAIN_EVERY_SECONDS, STRANGER_SECONDS, Looks
from sf_healer.core.events import Kind, Report
from sf_healer.core.identity import JobIndex
from tests.core.strategies import T0, a_fact

NEW = Report(Kind.LOADING, "loader__new", "q-new")
STRANGER = Report(Kind.LOADING, "loader__elsewhere", "q-elsewhere")


class Listing:
    """Looks, the index they are about, and whoever makes the lists."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.index = JobIndex()
        self.woken = 0
        self.looks = Looks(self.index, clock=lambda: self.now, wake=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def ask(self, *reports: Report) -> "asyncio.Task[Looked]":
        """Ask, and let the asker get as far as it does by itself."""
        asker = asyncio.create_task(self.looks.look(reports))
        await self.turns()
        return asker

    async def turns(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def take_in(self, report: Report) -> None:
        fact = a_fact("stf/new", uid="u", producer_id=report.producer, queue_id=report.queue_id)
        self.index.put(fact, now=T0)

    async def list(self, *found: Report) -> None:
        """Make a list that brings the Jobs of these reports."""
        self.looks.begin()
        await self.end(*found)

    async def end(self, *found: Report) -> None:
        for report in found:
            self.take_in(report)
        self.looks.listed()
        await self.turns()

    async def fail(self) -> None:
        self.looks.begin()
        self.looks.failed()
        await self.turns()


@pytest.fixture
def listing() -> Listing:
    return Listing()


async def test_an_unknown_name_is_listed_for_at_once_and_waited_for(listing):
    asker = await listing.ask(NEW)
    assert (listing.woken, listing.looks.is_due(), listing.looks.waiting, asker.done()) == (1, True, 1, False)
    await listing.list(NEW)
    assert (asker.result(), listing.looks.is_due(), listing.looks.waiting) == (Looked.LISTED, False, 0)


async def test_who_asks_while_a_list_is_under_way_waits_for_it_and_needs_no_other_if_it_brings_the_job(listing):
    listing.looks.begin()
    asker = await listing.ask(NEW)
    assert not asker.done()
    await listing.end(NEW)
    assert asker.result() is Looked.LISTED
    assert not listing.looks.is_due()


async def test_a_list_that_began_before_a_report_was_read_makes_nobody_a_stranger(listing):
    listing.looks.begin()
    asker = await listing.ask(NEW)
    await listing.end()
    assert not asker.done()
    listing.now += LOOK_AGAIN_EVERY_SECONDS
    assert listing.looks.is_due()
    await listing.list()
    assert asker.result() is Looked.LISTED


async def test_two_that_ask_are_answered_by_one_list(listing):
    first, second = await listing.ask(NEW), await listing.ask(STRANGER)
    await listing.list(NEW)
    assert (first.result(), second.result()) == (Looked.LISTED, Looked.LISTED)
    assert not listing.looks.is_due()


async def test_soon_after_a_list_another_one_waits_until_it_is_time(listing):
    await listing.list()
    asker = await listing.ask(NEW)
    assert (listing.woken, listing.looks.is_due()) == (0, False)
    listing.now += LOOK_AGAIN_EVERY_SECONDS
    assert listing.looks.is_due()
    assert not asker.done()


async def test_a_list_that_fails_is_told_and_decides_nothing(listing):
    for _ in range(3):
        asker = await listing.ask(NEW)
        await listing.fail()
        assert asker.result() is Looked.AWAY
    asker = await listing.ask(NEW)
    await listing.list(NEW)
    assert asker.result() is Looked.LISTED


async def test_who_asked_before_a_list_that_failed_is_answered_by_one_that_began_later(listing):
    listing.looks.begin()
    asker = await listing.ask(NEW)
    listing.looks.failed()
    await listing.turns()
    assert asker.result() is Looked.AWAY


async def test_a_name_that_a_list_did_not_bring_is_asked_for_once(listing):
    asker = await listing.ask(STRANGER)
    await listing.list()
    assert asker.result() is Looked.LISTED
    listing.now += STRANGER_SECONDS - 1.0
    assert (await listing.ask(STRANGER)).result() is Looked.LISTED
    assert not listing.looks.is_due()


async def test_every_list_is_of_all_strangers(listing):
    await listing.ask(STRANGER)
    await listing.list()
    listing.now += STRANGER_SECONDS - 1.0
    await listing.list()  # a watch broke
    listing.now += STRANGER_SECONDS - 1.0
    assert (await listing.ask(STRANGER)).result() is Looked.LISTED


async def test_a_stranger_is_asked_for_again_after_some_minutes(listing):
    await listing.ask(STRANGER)
    await listing.list()
    listing.now += STRANGER_SECONDS + 1.0
    asker = await listing.ask(STRANGER)
    assert listing.looks.is_due()
    assert not asker.done()
    await listing.list()
    assert asker.result() is Looked.LISTED


async def test_an_outage_keeps_nobody_waiting_for_an_old_stranger(listing):
    await listing.ask(STRANGER)
    await listing.list()
    listing.now += STRANGER_SECONDS + 1.0
    asker = await listing.ask(STRANGER)
    await listing.fail()
    assert asker.result() is Looked.LISTED
    listing.now += 3600.0
    assert (await listing.ask(STRANGER)).result() is Looked.LISTED
    waiting = await listing.ask(STRANGER, NEW)
    await listing.fail()
    assert waiting.result() is Looked.AWAY


async def test_a_job_that_is_known_by_now_needs_no_list(listing):
    listing.take_in(NEW)
    assert (await listing.ask(NEW)).result() is Looked.LISTED
    assert not listing.looks.is_due()


async def test_nobody_lists_for_one_that_asks_no_more(listing):
    asker = await listing.ask(NEW)
    asker.cancel()
    await asyncio.gather(asker, return_exceptions=True)
    assert (listing.looks.is_due(), listing.looks.waiting) == (False, 0)


async def test_so_many_strangers_are_remembered_and_no_more(listing, monkeypatch):
    monkeypatch.setattr(looking, "MOST_STRANGERS", 2)
    strangers = [Report(Kind.LOADING, f"loader__{number}", "") for number in range(3)]
    await listing.ask(*strangers)
    await listing.list()
    assert [(await listing.ask(each)).done() for each in strangers[::-1]] == [True, True, False]
