"""A policy file that changes is followed by all that holds policies; one that cannot be used by nothing."""

import asyncio
import os
from functools import partial
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

import tables.actions
import tables.policies
from agents import policies
from sf_healer.adapters import policy_file
from sf_healer.app import actuator, detector
from sf_healer.core.actuator import Actuator
from sf_healer.core.evidence import Fact, Mark
from sf_healer.core.partition import JUDGED_IN_A_STEP
from sf_healer.core.verdicts import Verdict
from tables.jobs import hot, new_partition
from tests.core.strategies import TOPIC, a_fact
from tests.lab.waiting import until_async

GOOD = "[admission]\nattempts = 2\n"
OTHER = '[[policy]]\nname = "off"\ntargets = ["loader"]\nexempt = true\n[admission]\nattempts = 5\n'
BAD = "[admission]\nattempts = 0\n"
NUMBER, AT = 0, 1_760_000_000.0


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    before = tables.policies.current
    monkeypatch.setattr(tables.policies, "current", policy_file.read(path))
    monkeypatch.setattr(policies, "LOOK_EVERY_SECONDS", 0.01)
    yield path
    hot.clear()
    policies.show(before)


@pytest.fixture
def reader(monkeypatch):
    limits = tables.policies.current.book.limits
    current = Actuator(worker="w1", limits=limits, observe_only=False)
    monkeypatch.setattr(tables.actions, "current", current)
    return current


async def look_twice():
    for _ in range(2):
        await policies.look()
        await policies.follow()


def a_partition(jobs=1):
    partition = hot[NUMBER] = new_partition(NUMBER)
    partition.restore(None, [])
    partition.apply(Mark(TOPIC, 1, ((0, AT),)), AT)
    for number in range(jobs):
        partition.apply(Fact(a_fact(f"stf/job-{number}")), AT)
    return partition


def shown(name):
    return [line for line in generate_latest().decode().splitlines() if line.startswith(name)]


async def test_the_sweeper_and_the_actuator_follow_a_changed_file(file, reader):
    partition = a_partition()
    file.write_text(OTHER)
    with capture_logs() as told:
        await look_twice()
    assert partition.jobs["stf/job-0"].verdict == Verdict.EXEMPT
    assert reader._asked_for.attempts == 5
    assert new_partition(1).policies is partition.policies
    assert [entry["event"] for entry in told] == ["policy_changed", "policies_followed"]
    assert shown("sf_healer_policy_refused") == ["sf_healer_policy_refused 0.0"]
    version = tables.policies.current.version
    assert shown("sf_healer_policy_version{") == [f'sf_healer_policy_version{{version="{version}"}} 1.0']
    assert policies.told() == {"version": version, "refused": ""}


async def test_a_bad_file_changes_nothing_and_is_told_once_in_the_log_and_by_a_metric(file, reader):
    partition = a_partition()
    before = tables.policies.current.book
    (refusals,) = shown("sf_healer_policy_refusals_total")
    file.write_text(BAD)
    with capture_logs() as told:
        await look_twice()
        await look_twice()
    assert partition.policies is before
    assert reader._asked_for.attempts == 2
    assert [(entry["event"], entry["log_level"]) for entry in told] == [("policy_refused", "error")]
    assert "attempts is not 1 to 8" in told[0]["reason"]
    assert shown("sf_healer_policy_refused") == ["sf_healer_policy_refused 1.0"]
    (refusals_now,) = shown("sf_healer_policy_refusals_total")
    assert float(refusals_now.split()[1]) == float(refusals.split()[1]) + 1
    assert "attempts is not 1 to 8" in policies.told()["refused"]
    file.write_text(GOOD)
    with capture_logs() as told:
        await look_twice()
    assert [entry["event"] for entry in told] == ["policy_accepted"]
    assert shown("sf_healer_policy_refused") == ["sf_healer_policy_refused 0.0"]


async def test_a_partition_that_was_rebuilt_meanwhile_follows_at_the_next_look(file):
    partition = a_partition()  # made with the policies before
    tables.policies.current = policy_file.read(_written(file, OTHER))
    await policies.follow()
    assert partition.policies is tables.policies.current.book


async def _has_other_policies(partition, before):
    return partition.policies is not before


def _written(path, text):
    path.write_text(text)
    return path


async def test_a_partition_that_is_revoked_meanwhile_is_not_judged_to_its_end(file):
    partition = a_partition(JUDGED_IN_A_STEP + 1)
    tables.policies.current = policy_file.read(_written(file, OTHER))
    following = asyncio.ensure_future(policies.follow())
    await asyncio.sleep(0)
    del hot[NUMBER]
    await following
    verdicts = [state.verdict for state in partition.jobs.values()]
    assert verdicts.count(Verdict.EXEMPT) == JUDGED_IN_A_STEP


async def test_a_disk_that_hangs_is_a_file_that_cannot_be_read(file, monkeypatch):
    monkeypatch.setattr(policies, "LOOK_LIMIT_SECONDS", 0.05)
    file.unlink()
    os.mkfifo(file)  # opening it for reading waits for who writes
    await policies.look()
    assert policies.told()["refused"] == "cannot be read: no answer within 0.05 s"
    os.close(os.open(file, os.O_RDWR))


async def test_one_watch_is_kept_though_two_apps_run_and_another_begins_when_it_ends(file):
    partition = a_partition()
    for text in (OTHER, GOOD):
        kept = asyncio.ensure_future(policies.watch(detector))
        await asyncio.sleep(0)
        await policies.watch(actuator)  # returns: there is one
        book = partition.policies
        file.write_text(text)
        await until_async(partial(_has_other_policies, partition, book), "the change to be followed", seconds=30.0)
        kept.cancel()
        with pytest.raises(asyncio.CancelledError):
            await kept


async def test_the_watch_ends_when_it_is_told_to_just_as_a_look_is_answered(file, monkeypatch):
    async def answered_as_the_watch_is_cancelled(look):
        watch.cancel()
        return look()

    monkeypatch.setattr(policies, "in_thread", answered_as_the_watch_is_cancelled)
    app = SimpleNamespace(should_stop=False, sleep=lambda _: asyncio.sleep(0))
    watch = asyncio.ensure_future(policies.watch(app))
    with pytest.raises(asyncio.CancelledError):
        await watch
