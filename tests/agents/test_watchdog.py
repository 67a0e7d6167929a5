"""A worker whose work stands still says so and ends; one that is only behind, alone or without a broker does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from faust.assignor.client_assignment import ClientAssignment
from faust.types import TP

from agents import inventory, sweeper, telemetry, watchdog
from agents.watchdog import StalledError, Watch, _of_detector, _partitions, watch_until_stalled
from sf_healer.adapters import metrics
from sf_healer.app import actuator, detector, settings
from sf_healer.core.events import Kind, Report
from sf_healer.core.progress import STALLED_AFTER_SECONDS, Progress
from sf_healer.topics import ACTIONS, EVIDENCE, STEPS
from tables import jobs
from tables.durable import Restored
from tests.agents.recording import Driven, edges, evidence_of
from tests.agents.test_web import get, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.agents.recording import Edges

REPORTS = TP(settings.source_topic, 0)
LOG = TP(EVIDENCE, 3)


class Looking:
    """A watch over the detector, and its clock."""

    def __init__(self, edge: Edges) -> None:
        self.watch = Watch(detector, jobs.jobs, _of_detector)
        self.watch.is_assigned = True
        self.edge = edge
        self.now = 1000.0

    async def look(self, seconds: float = 0.0) -> list[str]:
        self.now += seconds
        return await self.watch.look(clock=lambda: self.now)

    async def stand_still(self) -> list[str]:
        """Look now, and again after more than may pass."""
        await self.look()
        return await self.look(STALLED_AFTER_SECONDS + 1.0)


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Edges]:
    with edges() as around:
        inventory.first_list.set()
        monkeypatch.setattr(detector, "rebalancing", False)
        monkeypatch.setattr(type(detector), "in_recovery", False, raising=False)
        monkeypatch.setattr(sweeper, "folded_at", {})
        monkeypatch.setattr(telemetry, "marks_tried", 0)
        yield around


@pytest.fixture
def looking(edge: Edges) -> Looking:
    return Looking(edge)


def standing(edge: Edges, tp: TP, position: int | None, end: int) -> None:
    edge.consumer.more_places[tp] = position
    edge.consumer.ends[tp] = end


async def test_a_partition_that_stands_still_before_its_end_is_named(looking):
    standing(looking.edge, LOG, 5, 9)
    assert await looking.stand_still() == [f"{EVIDENCE} 3 has not moved for 61 s"]


async def test_each_partition_is_watched_for_itself(looking):
    standing(looking.edge, LOG, 5, 9)
    standing(looking.edge, TP(EVIDENCE, 4), 5, 9)
    await looking.look()
    standing(looking.edge, TP(EVIDENCE, 4), 6, 9)
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == [f"{EVIDENCE} 3 has not moved for 61 s"]


async def test_a_worker_that_is_behind_and_moves_is_alive(looking):
    for position in range(30):
        standing(looking.edge, LOG, position, 1_000_000)
        assert await looking.look(10.0) == []


async def test_a_partition_at_its_end_is_alive(looking):
    standing(looking.edge, LOG, 9, 9)
    assert await looking.stand_still() == []


async def test_a_source_partition_whose_log_goes_on_above_what_can_be_read_is_alive(looking, monkeypatch):
    standing(looking.edge, REPORTS, 16, 16)
    looking.edge.consumer.unreplicated[REPORTS] = 56
    await looking.look()
    monkeypatch.setattr(telemetry, "marks_tried", 1)
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == []


async def test_a_partition_of_which_no_fetch_has_said_anything_is_named_even_if_it_is_empty(looking):
    standing(looking.edge, LOG, None, 0)
    assert await looking.stand_still() == [f"{EVIDENCE} 3 has not moved for 61 s"]


async def test_a_rebalance_is_no_stall_and_time_counts_anew_after_it(looking, monkeypatch):
    standing(looking.edge, LOG, 5, 9)
    await looking.look()
    monkeypatch.setattr(detector, "rebalancing", True)
    assert await looking.look(STALLED_AFTER_SECONDS * 10) == []
    monkeypatch.setattr(detector, "rebalancing", False)
    assert await looking.look() == []
    assert await looking.look(STALLED_AFTER_SECONDS - 1.0) == []
    assert await looking.look(2.0) == [f"{EVIDENCE} 3 has not moved for 61 s"]


async def test_without_an_assignment_nothing_is_anybodys_stall(looking):
    standing(looking.edge, LOG, 5, 9)
    await looking.look()
    looking.watch.is_assigned = False
    assert await looking.look(STALLED_AFTER_SECONDS * 10) == []


async def test_a_broker_that_does_not_answer_is_no_stall(looking):
    standing(looking.edge, LOG, 5, 9)
    await looking.look()
    looking.edge.consumer.does_not_answer = True
    assert await looking.look(STALLED_AFTER_SECONDS * 10) == []
    looking.edge.consumer.does_not_answer = False
    assert await looking.look() == []


async def test_reports_wait_for_the_first_list_and_evidence_does_not(looking):
    inventory.first_list.clear()
    standing(looking.edge, REPORTS, 5, 9)
    standing(looking.edge, LOG, 5, 9)
    assert await looking.stand_still() == [f"{EVIDENCE} 3 has not moved for 61 s"]


async def test_reports_that_wait_for_a_list_are_nobodys_stall_and_evidence_and_marks_go_on(looking, monkeypatch):
    """The API server is away for an hour: a worker that ends for it would mend nothing, and end again."""
    standing(looking.edge, REPORTS, 5, 9)
    monkeypatch.setattr(inventory._inventory.looks, "_wake", lambda: None)
    asker = asyncio.create_task(inventory.look_again([Report(Kind.LOADING, "loader__new", "")]))
    await asyncio.sleep(0)
    await looking.look()
    for _ in range(60):
        telemetry.marks_tried += 1
        assert await looking.look(60.0) == []
    standing(looking.edge, LOG, 5, 9)
    telemetry.marks_tried += 1
    await looking.look()
    told = await looking.look(STALLED_AFTER_SECONDS + 1.0)
    assert told == [f"{EVIDENCE} 3 has not moved for 61 s", "the making of marks has not moved for 61 s"]
    inventory._inventory.looks.begin()
    inventory._inventory.looks.listed()
    await asker
    await looking.look()
    assert f"{REPORTS.topic} 0 has not moved for 61 s" in await looking.look(STALLED_AFTER_SECONDS + 1.0)


async def test_marks_that_are_not_made_any_more_are_named(looking):
    standing(looking.edge, REPORTS, 9, 9)
    await looking.look()
    telemetry.marks_tried += 1
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == []
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == ["the making of marks has not moved for 61 s"]


async def test_a_sweep_that_does_not_come_although_our_own_record_is_on_the_log_is_named(looking):
    """The end of the log is not asked for here: a broker that tells a wrong one hides nothing."""
    looking.edge.own(3, 4)
    sweeper.folded_at |= {3: 900.0, 4: 900.0}
    telemetry.forwarder.acknowledged(3, appended_at=1.0, sent_at=950.0)
    telemetry.forwarder.acknowledged(4, appended_at=1.0, sent_at=850.0)
    telemetry.forwarder.acknowledged(5, appended_at=1.0, sent_at=950.0)  # another worker's partition
    assert await looking.stand_still() == ["the sweep of partition 3 has not moved for 61 s"]


async def test_a_batch_that_was_folded_counts_as_a_sweep(edge):
    edge.own(3)
    async with sweeper.sweeper.test_context() as driven:
        await Driven(driven).take(evidence_of(b"no evidence", partition=3))
    assert sweeper.folded_at.keys() == {3}


async def test_a_table_whose_restoring_stands_still_is_named(looking, monkeypatch):
    monkeypatch.setattr(type(detector), "in_recovery", True, raising=False)
    monkeypatch.setattr(jobs.jobs, "restored", Restored(10, 100))
    standing(looking.edge, LOG, None, 9)
    await looking.look()
    monkeypatch.setattr(jobs.jobs, "restored", Restored(20, 100))
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == []
    assert await looking.look(STALLED_AFTER_SECONDS + 1.0) == ["the restoring of table jobs has not moved for 61 s"]


def test_the_steps_log_is_watched_like_any_other_partition():
    assert _partitions({TP(STEPS, 0): 7}, {TP(STEPS, 0): 12}) == {f"{STEPS} 0": (7, 12)}
    assert [watch.app.conf.id for watch in watchdog._watches] == ["sf-healer-detector", "sf-healer-actuator"]


URL, OTHER = "http://10.0.0.1:6067", "http://10.0.0.2:6067"
LOGGED, UNLOGGED = {ACTIONS: [0], STEPS: [0]}, {ACTIONS: [0]}


@pytest.mark.parametrize(
    ("mine", "group", "told"),
    [
        pytest.param(LOGGED, {URL: LOGGED, OTHER: {}}, False, id="mine"),
        pytest.param({}, {URL: {}, OTHER: LOGGED}, False, id="another's"),
        pytest.param({}, {}, False, id="not joined"),
        pytest.param(UNLOGGED, {URL: UNLOGGED, OTHER: {}}, True, id="the rest is mine"),
        pytest.param({}, {URL: {}, OTHER: UNLOGGED}, True, id="the rest is another's"),
        pytest.param({}, {URL: {}}, False, id="two workers with one address, of which the owner's word is lost"),
    ],
)
def test_a_worker_is_not_ready_while_nobody_reads_the_steps_log(monkeypatch, mine, group, told):
    """Faust's assignor leaves out a topic that is missing when the group divides its topics."""
    monkeypatch.setattr(actuator.assignor, "_assignment", ClientAssignment(actives=mine, standbys={}))
    monkeypatch.setattr(actuator.assignor, "_external_topic_distribution", group)
    said = [problem for problem in watchdog.not_ready() if f"no worker reads {STEPS}" in problem]
    assert bool(said) is told


async def test_a_worker_that_stands_still_is_not_alive_and_ends_itself(edge, monkeypatch):
    watch = watchdog._watches[0]
    monkeypatch.setattr(watch, "progress", Progress())
    monkeypatch.setattr(watch, "is_assigned", True)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_SECONDS", 0.0)
    standing(edge, LOG, 5, 9)
    watch.progress.note({f"{EVIDENCE} 3": (5, 9)}, now=0.0)  # the clock is that of the machine
    ended: list[BaseException] = []

    async def crash(reason: BaseException) -> None:
        ended.append(reason)

    monkeypatch.setattr(detector, "crash", crash)
    await watch_until_stalled(watch)
    assert [type(reason) for reason in ended] == [StalledError]
    assert str(ended[0]).startswith(f"{EVIDENCE} 3 has not moved for")
    status, body = await get(view_of("/livez"), "/livez")
    assert (status, body["alive"]) == (503, False)


class Looks:
    """An app that is told to stop after so many looks, with a clock by which each takes so long."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self._now = 0.0
        self._is_look = False

    @property
    def should_stop(self) -> bool:
        return not self._seconds

    def clock(self) -> float:
        if self._is_look:
            self._now += self._seconds.pop(0)
        self._is_look = not self._is_look
        return self._now


async def test_a_pause_of_the_event_loop_is_measured_without_the_time_between_two_looks(monkeypatch):
    monkeypatch.setattr(watchdog, "PAUSE_LOOK_SECONDS", 0.0625)
    before = pauses()
    looks = Looks(0.0625, 0.0625 + 0.375, 0.03)
    await watchdog.watch_pauses(looks, clock=looks.clock)
    told = {name: value - before[name] for name, value in pauses().items()}
    assert told["sf_healer_event_loop_pause_seconds_count"] == 3
    assert told["sf_healer_event_loop_pause_seconds_sum"] == pytest.approx(0.375)


def pauses() -> dict[str, float]:
    (family,) = metrics.EVENT_LOOP_PAUSES.collect()
    return {sample.name: sample.value for sample in family.samples if sample.name.endswith(("_count", "_sum"))}
