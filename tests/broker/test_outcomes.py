"""`sf-healer outcomes`, from what lies on a broker."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.cli import ExitCode, run
from sf_healer.core.commands import Outcome, Result, encode
from sf_healer.outcomes import find
from tests.lab.worker import make_topics

if TYPE_CHECKING:
    from sf_healer.settings import Settings

pytestmark = pytest.mark.embedded

NOW = time.time()


def an_outcome(job: str, result: Result, reason: str, seconds: float, **changes: object) -> Outcome:
    known = {"id": f"{job}{seconds}", "command_id": "c", "key": f"stf/{job}", "uid": "u", "verdict": "stuck"}
    return Outcome(**{**known, "result": result, "reason": reason, "at": NOW - 100.0 + seconds, **changes})


async def tell(settings: Settings, *told: Outcome | bytes) -> None:
    await make_topics(settings.bootstrap_servers[0])
    async with kafka.producer(settings) as producer:
        for each in told:
            value = each if isinstance(each, bytes) else encode(each)
            await producer.send_and_wait(topics.OUTCOMES, value, partition=0)


NIGHT = (
    an_outcome("a", Result.REFUSED, "storm", 1.0, detail="8 of 10 turned unhealthy together"),
    an_outcome("b", Result.RESTARTED, "verified", 2.0),
    an_outcome("a", Result.REFUSED, "storm", 3.0, detail="7 of 10 turned unhealthy together"),
    an_outcome("a", Result.REFUSED, "paused", 4.0),
    an_outcome("a", Result.RESTARTED, "verified", 5.0),
    an_outcome("b", Result.RESTARTED, "verified", 6.0),
)


async def test_what_repeats_is_told_once_and_no_restart_is(settings: Settings):
    await tell(settings, *NIGHT, b"{later")
    found = await find(settings, since_seconds=3600.0, newest=100)
    told = [(each.outcome.key, each.outcome.result, each.outcome.reason, each.times) for each in found.told]
    assert told == [
        ("stf/b", "restarted", "verified", 1),
        ("stf/a", "restarted", "verified", 1),
        ("stf/a", "refused", "paused", 1),
        ("stf/a", "refused", "storm", 2),
        ("stf/b", "restarted", "verified", 1),
    ]
    storm = found.told[3]
    assert (storm.first_at, storm.outcome.detail) == (NIGHT[0].at, "7 of 10 turned unhealthy together")
    assert (found.left_out, found.unreadable) == (0, 1)


async def test_the_newest_of_one_job_or_one_result_are_kept(settings: Settings):
    await tell(settings, *NIGHT)
    found = await find(settings, since_seconds=3600.0, newest=1, job="stf/a")
    assert [(each.outcome.result, found.left_out) for each in found.told] == [(Result.RESTARTED, 2)]
    found = await find(settings, since_seconds=3600.0, newest=9, result=Result.REFUSED)
    assert [each.outcome.reason for each in found.told] == ["paused", "storm"]


def test_they_are_told_to_people_and_machines(settings: Settings, capsys: pytest.CaptureFixture[str]):
    assert run(["outcomes"]) == ExitCode.ERROR
    assert "healer-outcomes does not exist; fix: sf-healer topics --create" in capsys.readouterr().err
    asyncio.run(tell(settings, *NIGHT))
    assert run(["outcomes", "a", "--result", "refused"]) == ExitCode.OK
    head, paused, storm = capsys.readouterr().out.splitlines()
    assert head.split() == ["AT", "JOB", "VERDICT", "RESULT", "REASON", "TIMES", "SINCE", "DETAIL"]
    assert "stf/a" in paused
    assert "7 of 10 turned unhealthy together" in storm
    assert run(["outcomes", "--last", "1", "-o", "json"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert [each["outcome"]["key"] for each in json.loads(printed.out)["told"]] == ["stf/b"]
    assert "4 older ones" in printed.err
