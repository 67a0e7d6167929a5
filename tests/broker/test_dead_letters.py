"""`sf-healer dead-letters` and the line of `doctor`, from letters that lie on a broker."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.captures import read
from sf_healer.checks import kafka as kafka_check
from sf_healer.checks.findings import State
from sf_healer.cli import ExitCode, run
from sf_healer.dead_letters import find
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.worker import make_topics

if TYPE_CHECKING:
    from pathlib import Path

    from sf_healer.settings import Settings

pytestmark = pytest.mark.embedded

UNREADABLE = "not_json"
STRANGER = "unresolved_unknown_producer"


async def bury(settings: Settings, reasons: list[str], *, age_seconds: float = 0.0) -> None:
    async with kafka.producer(settings) as producer:
        for number, reason in enumerate(reasons):
            headers = {
                "sf-healer-reason": reason,
                "sf-healer-detail": "malformed (byte 1)",
                "sf-healer-source-topic": "queue-events",
                "sf-healer-source-partition": "2",
                "sf-healer-source-offset": str(number),
            }
            await producer.send_and_wait(
                topics.DEAD_LETTERS,
                f"{{broken {number}\n".encode(),
                partition=0,
                headers=[(name, text.encode()) for name, text in headers.items()],
                timestamp_ms=int((time.time() - age_seconds) * 1000) + number,
            )


async def test_all_are_counted_and_the_newest_kept(settings: Settings):
    await make_topics(settings.bootstrap_servers[0])
    await bury(settings, [UNREADABLE] * 3, age_seconds=7200.0)
    await bury(settings, [UNREADABLE] * 5 + [STRANGER] * 2)

    found = await find(settings, since_seconds=3600.0, newest=3)
    assert found.counts == {UNREADABLE: 5, STRANGER: 2}
    assert [letter.source_offset for letter in found.dead_letters] == [6, 5, 4]

    found = await find(settings, since_seconds=1e10, newest=99, reason=UNREADABLE)
    assert found.counts == {UNREADABLE: 8, STRANGER: 2}
    assert {letter.reason for letter in found.dead_letters} == {UNREADABLE}
    assert len(found.dead_letters) == 8


async def test_a_burst_is_counted_whole_where_the_broker_tells_the_end_before_it(settings: Settings):
    """As that of the demo does: letters that were sent in one batch (docs/decisions/0004)."""
    await make_topics(settings.bootstrap_servers[0])
    await bury(settings, [STRANGER])
    async with kafka.producer(settings) as producer:
        batch = producer.create_batch()
        for _ in range(40):
            batch.append(key=None, value=b"x", timestamp=None, headers=[("sf-healer-reason", UNREADABLE.encode())])
        await (await producer.send_batch(batch, topics.DEAD_LETTERS, partition=0))
    found = await find(settings, since_seconds=3600.0, newest=3)
    assert found.counts == {UNREADABLE: 40, STRANGER: 1}


async def test_reasons_that_somebody_makes_up_take_no_more_memory_than_there_may_be(settings, monkeypatch):
    monkeypatch.setattr("sf_healer.dead_letters._MOST_REASONS", 2)
    await make_topics(settings.bootstrap_servers[0])
    await bury(settings, ["a", "b", "c", "d", "a"])
    assert (await find(settings, since_seconds=60.0, newest=0)).counts == {"a": 2, "b": 1, "(other reasons)": 2}


async def a_broker_with_letters(settings: Settings) -> None:
    await make_topics(settings.bootstrap_servers[0])
    await bury(settings, [UNREADABLE] * 3 + [STRANGER])


@pytest.fixture
def letters(settings: Settings) -> Settings:
    """A broker with four letters."""
    asyncio.run(a_broker_with_letters(settings))
    return settings


def test_the_command_counts_by_reason_and_shows_where_each_came_from(letters, capsys):
    assert run(["dead-letters", "--last", "2"]) is ExitCode.OK
    printed = capsys.readouterr()
    counts, newest = printed.out.split("\n\n")
    assert [line.split()[:2] for line in counts.splitlines()] == [
        ["COUNT", "REASON"],
        ["3", UNREADABLE],
        ["1", STRANGER],
    ]
    assert "the text is no JSON" in counts
    _, first, second = newest.splitlines()
    assert STRANGER in first
    assert second.split()[2:] == [UNREADABLE, "queue-events/2/2", "malformed", "(byte", "1)", "{broken", "2\\n"]
    assert "the newest 2 of 4 since " in printed.err


def test_the_command_for_machines_and_by_reason(letters, capsys):
    assert run(["dead-letters", "--reason", STRANGER, "-o", "json"]) is ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {UNREADABLE: 3, STRANGER: 1}
    (letter,) = told["dead_letters"]
    assert (letter["source_topic"], letter["source_offset"], letter["value"]) == ("queue-events", 3, "{broken 3\\n")
    assert run(["dead-letters", "--reason", "nonsense"]) is ExitCode.OK
    assert f"none of them has the reason nonsense; the reasons are {UNREADABLE}, {STRANGER}" in capsys.readouterr().err


def test_where_there_are_none_that_is_said_and_without_a_topic_what_makes_it(settings, capsys):
    assert run(["dead-letters"]) is ExitCode.ERROR
    assert "sf-healer topics --create" in capsys.readouterr().err
    assert run(["topics", "--create"]) in {ExitCode.OK, ExitCode.NO}
    capsys.readouterr()
    assert run(["dead-letters"]) is ExitCode.OK
    printed = capsys.readouterr()
    assert (printed.out, printed.err[:22]) == ("", "no dead letters since ")


def test_a_wrong_time_is_a_wrong_call_and_no_broker_is_not_reached(monkeypatch, capsys):
    assert run(["dead-letters", "--since", "yesterday"]) is ExitCode.USAGE
    monkeypatch.setattr(kafka, "admin", partial(kafka.admin, patience_seconds=0.0))
    monkeypatch.setenv("SF_HEALER_BROKER_URL", f"kafka://{LOOPBACK}:{free_ports(1)[0]}")
    assert run(["dead-letters"]) is ExitCode.UNREACHABLE
    assert "connection refused" in capsys.readouterr().err


async def test_doctor_warns_of_them_and_names_the_command(settings: Settings):
    await make_topics(settings.bootstrap_servers[0])
    looked = await kafka_check.check(settings)
    assert "no dead letters in the last hour" in [finding.what for finding in looked.findings]
    await bury(settings, [UNREADABLE] * 4)
    looked = await kafka_check.check(settings)
    (warning,) = [finding for finding in looked.findings if finding.state is not State.OK]
    assert (warning.state, warning.fix) == (State.WARNING, "sf-healer dead-letters --since 1h")
    follows = "a report that cannot be read or named counts as silence, such a command or pause is not followed"
    assert warning.what == f"4 dead letters in the last hour: {follows}"


def test_a_capture_of_them_keeps_their_headers(letters, tmp_path: Path):
    file = tmp_path / "letters.jsonl"
    options = ["--topic", topics.DEAD_LETTERS, "--since-seconds", "600", "--limit", "1"]
    assert run(["capture", str(file), *options]) is ExitCode.OK
    (line,) = read(file.read_bytes().splitlines())
    assert dict(line.headers)["sf-healer-reason"] == UNREADABLE.encode()
