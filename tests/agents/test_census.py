"""A census of very many Jobs: what it takes in and tells never keeps the event loop for all of them."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from agents import census
from agents.census import Census
from agents.forwarding import Addressed
from sf_healer.core import evidence
from sf_healer.core.evidence import Fact, Snapshot
from sf_healer.core.facts import Condition, gone
from sf_healer.core.identity import REMEMBER_GONE_SECONDS, JobIndex
from sf_healer.core.partitioning import partition_of
from tests.core.strategies import T0, a_fact

PARTITIONS = 4
JOBS = [a_fact(f"stf/job-{number}", uid=f"u{number}") for number in range(40)]


class Log:
    """The ports of a census whose worker owns one partition."""

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.told: list[object] = []

    def clock(self) -> float:
        return 0.0

    def owned(self) -> set[int]:
        return {self.partition}

    async def append(self, records: Sequence[Addressed]) -> None:
        assert {record.partition for record in records} == {self.partition}
        self.told += [evidence.decode(record.value) for record in records]


async def turns_during(work) -> int:
    """Count how often somebody else had his turn while something ran."""
    turns = 0
    task = asyncio.create_task(work)
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    return turns


async def test_a_long_list_is_taken_in_step_by_step_and_others_have_their_turn(monkeypatch):
    monkeypatch.setattr(census, "JOBS_IN_A_STEP", 4)
    told = Census(JobIndex(), Log(), partitions=PARTITIONS)
    assert await turns_during(told.take_listing(JOBS, 15, now=T0)) >= 2 * len(JOBS) / 4
    assert await turns_during(told.take_listing(JOBS[:10], 25, now=T0)) >= 10 / 4
    assert {fact.key for fact in told.index.facts() if not told.index.is_gone(fact.key)} == {
        fact.key for fact in JOBS[:10]
    }
    assert told.version == 25


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_partition_is_told_of_its_own_jobs_without_a_look_at_any_other(partition, monkeypatch):
    log = Log(partition)
    told = Census(JobIndex(), log, partitions=PARTITIONS)
    await told.take_listing(JOBS, 15, now=T0)

    def all_of_them() -> None:
        raise AssertionError("the whole index was walked through")

    monkeypatch.setattr(told.index, "facts", all_of_them)
    await told.tell_owned()
    ours = sorted((job for job in JOBS if partition_of(job.key, PARTITIONS) == partition), key=lambda job: job.key)
    assert [entry.fact for entry in log.told[:-1]] == ours
    assert log.told[-1] == Snapshot(15, tuple((job.key, job.uid) for job in ours))


async def test_an_index_that_is_filled_already_is_told_whole():
    index = JobIndex()
    for job in JOBS:
        index.put(job, now=T0)
    log = Log()
    await Census(index, log, partitions=1).tell_owned()
    assert {entry.fact.key for entry in log.told if isinstance(entry, Fact)} == {job.key for job in JOBS}


async def test_a_job_that_is_forgotten_is_told_no_more_until_it_is_back():
    log = Log()
    told = Census(JobIndex(), log, partitions=1)
    await told.take_listing(JOBS[:2], 15, now=T0)
    await told.take_listing(JOBS[:1], 25, now=T0)
    await told.tell_owned()
    assert [entry.fact.condition for entry in log.told[:-1]] == [Condition.ACTIVE, Condition.GONE]
    log.told.clear()
    await told.take_listing(JOBS[:1], 35, now=T0 + REMEMBER_GONE_SECONDS + 1)
    await told.tell_owned()
    assert [entry.fact.key for entry in log.told[:-1]] == [JOBS[0].key]
    log.told.clear()
    back = a_fact(JOBS[1].key, uid="again", resource_version=45)
    await told.take_change(back, now=T0 + REMEMBER_GONE_SECONDS + 2)
    assert [entry.fact for entry in log.told] == [back]
    told.forget_told()
    await told.tell_owned()
    assert [entry.fact.key for entry in log.told[1:-1]] == [JOBS[0].key, JOBS[1].key]


async def test_a_job_that_a_list_shows_under_an_earlier_date_is_told_as_the_one_that_is_there():
    """The API server's clock was ahead when the one before was made."""
    log = Log()
    told = Census(JobIndex(), log, partitions=1)
    await told.take_listing([a_fact("stf/a", uid="ahead", created_at=T0 + 3600, resource_version=5)], 15, now=T0)
    await told.take_listing([a_fact("stf/a", uid="after", created_at=T0 + 2, resource_version=20)], 25, now=T0)
    await told.tell_owned()
    assert [entry.fact.uid for entry in log.told[:-1]] == ["after"]
    assert log.told[-1] == Snapshot(25, (("stf/a", "after"),))


async def test_of_a_list_that_a_report_asked_for_only_what_it_has_changed_is_told():
    log = Log()
    told = Census(JobIndex(), log, partitions=1)
    await told.take_listing(JOBS, 15, now=T0)
    await told.tell_owned()
    log.told.clear()
    await told.take_listing(JOBS, 16, now=T0, only_changes=True)
    await told.tell_owned()
    assert log.told == []
    changed = msgspec.structs.replace(JOBS[0], resource_version=17)
    new = a_fact("stf/new", uid="new", resource_version=17)
    await told.take_listing([changed, *JOBS[2:], new], 18, now=T0, only_changes=True)
    await told.tell_owned()
    assert [entry.fact for entry in log.told] == [changed, new, gone(JOBS[1], 18)]
    await told.tell_owned()
    assert len(log.told) == 3


async def test_what_a_list_has_changed_is_told_again_with_all_the_rest_if_it_may_not_have_arrived():
    log = Log()
    told = Census(JobIndex(), log, partitions=1)
    await told.take_listing(JOBS[:1], 15, now=T0)
    await told.tell_owned()
    await told.take_listing(JOBS[:2], 16, now=T0, only_changes=True)
    told.forget_told()
    log.told.clear()
    await told.tell_owned()
    assert [entry.fact for entry in log.told[:-1]] == JOBS[:2]
    assert isinstance(log.told[-1], Snapshot)


async def test_a_partition_assigned_after_a_list_that_a_report_asked_for_is_told_all():
    log = Log(partition=0)
    told = Census(JobIndex(), log, partitions=PARTITIONS)
    await told.take_listing(JOBS[:20], 15, now=T0)
    await told.tell_owned()
    await told.take_listing(JOBS, 16, now=T0, only_changes=True)
    log.partition = 1
    log.told.clear()
    await told.tell_owned()
    ours = {job.key for job in JOBS if partition_of(job.key, PARTITIONS) == 1}
    assert {entry.fact.key for entry in log.told[:-1]} == ours
    assert isinstance(log.told[-1], Snapshot)
