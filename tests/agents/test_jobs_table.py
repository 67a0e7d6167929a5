"""The hot state comes back from what is stored of our own partitions; until then the worker says how far it is."""

import asyncio

import msgspec
import pytest
from faust.types import TP
from prometheus_client import generate_latest

from agents import watchdog
from sf_healer import topics
from sf_healer.app import detector, settings
from sf_healer.core.changelog import meta_key, writes_of
from sf_healer.core.partition import Changes, Meta
from tables import jobs as module
from tables.jobs import StateMismatchError, drop_revoked, hot, jobs, rebuild, restoring
from tests.agents.recording import BROKER_EPOCH, edges, key_on
from tests.core.strategies import a_fact, a_state

OURS, ALSO_OURS, THEIRS = 1, 2, 3


def evidence(*numbers):
    return {TP(topics.EVIDENCE, number) for number in numbers}


@pytest.fixture
def edge(monkeypatch):
    with edges() as around:
        monkeypatch.setattr(detector.assignor, "assigned_actives", lambda: evidence(OURS, ALSO_OURS))
        yield around


def a_meta(**changes):
    known = {"partitions": settings.partitions, "watermark": BROKER_EPOCH, "topic_id": "t", "source_partitions": 1}
    known |= {"marks": {0: BROKER_EPOCH}, "gaps": (), "forwarded": (), "last_at": BROKER_EPOCH}
    return Meta(**{**known, **changes})


def store(number, count, **changes):
    """Store so many Jobs of a partition, and its own state."""
    keys = [f"{key_on(number)}-{index}" for index in range(count)]
    states = {key: a_state(key=key, fact=a_fact(key)) for key in keys}
    writes = writes_of(number, Changes(states, (), a_meta(**changes), (), (), 0), 7)
    jobs.store_of(number).write(writes, persisted=None)
    return set(keys)


async def test_the_jobs_of_our_partitions_are_read_and_those_of_others_are_not(edge):
    ours, also_ours = store(OURS, 5), store(ALSO_OURS, 3)
    store(THEIRS, 4)
    await rebuild()
    assert {number: partition.jobs.keys() for number, partition in hot.items()} == {OURS: ours, ALSO_OURS: also_ours}
    assert hot[OURS].watermark.value == BROKER_EPOCH
    assert restoring() is None


async def test_others_have_their_turn_while_many_jobs_are_read(edge, monkeypatch):
    monkeypatch.setattr(module, "JOBS_IN_A_STEP", 2)
    store(OURS, 20)
    reading = asyncio.create_task(rebuild())
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    await reading
    assert turns > 10
    assert len(hot[OURS].jobs) == 20


async def test_a_partition_that_is_revoked_while_it_is_read_is_not_ours(edge, monkeypatch):
    """Another worker writes it from now on: what we have read is out of date when it comes back to us."""
    monkeypatch.setattr(module, "JOBS_IN_A_STEP", 2)
    store(OURS, 20)
    store(ALSO_OURS, 1)
    reading = asyncio.create_task(rebuild())
    await asyncio.sleep(0)
    assert "2 partitions" in restoring()
    await drop_revoked(detector, evidence(OURS))
    await reading
    assert hot.keys() == {ALSO_OURS}


async def test_a_partition_that_we_have_no_more_is_forgotten_and_one_that_stayed_is_not_read_again(edge):
    edge.own(ALSO_OURS, THEIRS)
    kept = hot[ALSO_OURS]
    await rebuild()
    assert hot.keys() == {OURS, ALSO_OURS}
    assert hot[ALSO_OURS] is kept


async def test_a_state_of_another_number_of_partitions_is_refused(edge):
    store(OURS, 1, partitions=settings.partitions + 1)
    with pytest.raises(StateMismatchError, match=f"SF_HEALER_PARTITIONS={settings.partitions + 1}"):
        await rebuild()


async def test_a_state_of_another_version_is_refused(edge):
    jobs.store_of(OURS).write({meta_key(OURS): msgspec.msgpack.encode((99, 7, {}))}, persisted=None)
    with pytest.raises(StateMismatchError, match="schema version 99"):
        await rebuild()


def test_a_worker_that_restores_its_table_is_not_ready_and_says_how_far_it_is(edge):
    jobs.note_restored(1_200, 5_000)
    try:
        assert "1,200 of 5,000" in restoring()
        assert any("1,200 of 5,000" in problem for problem in watchdog.not_ready())
        assert 'sf_healer_restore_remaining_records{table="jobs"} 3800.0' in generate_latest().decode()
        assert watchdog.not_alive() == []
    finally:
        jobs.note_restored(0, 0)
    assert restoring() is None
    assert 'sf_healer_restore_remaining_records{table="jobs"} 0.0' in generate_latest().decode()
