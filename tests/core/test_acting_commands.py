"""The commands by which people act, against pages that the real views made: what is said first, what is refused."""

import json
from collections.abc import Iterator

import msgspec
import pytest

from sf_healer.cli import ExitCode, run
from sf_healer.core.events import Kind
from sf_healer.core.facts import Condition
from sf_healer.views.jobs import build_job
from sf_healer.views.lines import moment
from tests.core.served import PAGES, Pages, served
from tests.core.strategies import JOB, T0, Driver

NOW = 10_000.0
NAME = JOB.partition("/")[2]
RESTART = ["restart", JOB, "--reason", "looks odd", "--dry-run"]


@pytest.fixture
def pages(monkeypatch) -> Iterator[Pages]:
    monkeypatch.setenv("SF_HEALER_BROKER_URL", "kafka://127.0.0.1:1")
    with served() as opened:
        monkeypatch.setenv("SF_HEALER_URL", opened.url)
        yield opened


def a_job(pages, *said: Kind, **fact) -> None:
    """Serve the page of a Job of which this is known; it said these words 5 s ago."""
    driver = Driver()
    driver.fact(**fact)
    driver.run(60)
    for kind in said:
        driver.loading() if kind is Kind.LOADING else driver.says(kind)
    driver.run(5)
    pages.put(f"/jobs/{JOB}/", build_job(driver.partition, driver.state()))


def restarts(pages, *, attempts=(), key=JOB, pauses=(), **history) -> None:
    """Serve what the actuator knows at NOW: when a Job was restarted, and which pauses hold."""
    admission = json.loads(msgspec.json.encode(PAGES["/actions/"][1]))["admission"]
    record = {"history": {"attempts": attempts, "ended_at": 0.0, "quarantined_at": 0.0, "sick_at": 0.0, **history}}
    valve = {**admission, "at": NOW, "pauses": list(pauses)}
    pages.put("/actions/", {"actions": {key: record} if attempts or history else {}, "admission": valve})


# ---- restart


@pytest.mark.parametrize(
    ("said", "fact", "told"),
    [
        ([Kind.FINISHED], {}, f"{JOB}: it has finished at {moment(T0 + 60)}; --even-if-ended runs it again"),
        (
            [Kind.INTERRUPTED, Kind.FINISHED],
            {},
            f"{JOB}: it was stopped by its user at {moment(T0 + 60)}; --even-if-ended runs it again",
        ),
        ([], {"condition": Condition.COMPLETE}, "Kubernetes calls the Job Complete; --even-if-ended runs it again"),
    ],
)
def test_what_has_ended_is_run_again_only_where_that_is_meant(pages, capsys, said, fact, told):
    a_job(pages, *said, **fact)
    assert run(RESTART) == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    assert run([*RESTART, "--even-if-ended"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["key"] == JOB
    assert "would be asked for" in printed.err


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        ({"skip": True}, f"annotation sf-healer.io/skip says to leave it alone; `sf-healer unskip {JOB}`"),
        ({"managed_by": "example.org/queue"}, "spec.managedBy names another controller, example.org/queue"),
        (
            {"condition": Condition.SUSPENDED},
            f'it is suspended; `kubectl --namespace stf patch job {NAME} --patch \'{{"spec":{{"suspend":false}}}}\'`',
        ),
        ({"managed": False}, "it is no Job of the platform: its first container lacks QUEUE_ID or"),
        ({"condition": Condition.GONE}, "is gone, or is being deleted"),
        ({"condition": Condition.DELETING}, "is gone, or is being deleted"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--even-if-ended"]])
def test_what_may_not_be_touched_is_refused_with_what_to_undo(pages, capsys, fact, told, flags):
    a_job(pages, **fact)
    assert run([*RESTART, *flags]) == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err


def test_a_job_that_its_policy_exempts_is_refused_with_the_policy_s_name(pages, capsys):
    a_job(pages)
    page = json.loads(pages.pages[f"/jobs/{JOB}/"][1])
    page |= {"verdict": "exempt", "rule": "exempt_by_policy", "policy": {**page["policy"], "name": "leave-alone"}}
    pages.put(f"/jobs/{JOB}/", page)
    assert run(RESTART) == ExitCode.REFUSED
    assert f"{JOB}: its policy leave-alone says exempt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([Kind.LOADING], f"{JOB} is healthy: it reports; last `loading` 5s ago"),
        ([], f"{JOB} is starting: its pod runs, and it has not reported at all; no `loading` yet"),
    ],
)
def test_the_verdict_is_told_before_a_job_is_restarted(pages, capsys, said, told):
    a_job(pages, *said)
    assert run(RESTART) == ExitCode.OK
    assert capsys.readouterr().err.splitlines()[0] == told


QUARANTINE_FOLLOWS = "after this one it is in quarantine when it falls sick again"


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([], "this is attempt 1 of 3 within 1h; those that people ask for count too"),
        ([NOW - 7200.0, NOW - 600.0], "this is attempt 2 of 3 within 1h; those that people ask for count too"),
        ([NOW - 900.0, NOW - 600.0], f"this is attempt 3 of 3 within 1h: {QUARANTINE_FOLLOWS}"),
        ([NOW - 900.0, NOW - 600.0, NOW - 300.0], "in quarantine, which does not hold for what people ask for; "),
    ],
)
def test_it_is_told_how_many_attempts_a_job_has_used(pages, capsys, attempts, told):
    a_job(pages, Kind.LOADING)
    restarts(pages, attempts=attempts)
    assert run(RESTART) == ExitCode.OK
    assert told in capsys.readouterr().err


def test_a_policy_of_the_job_may_allow_other_attempts(pages, capsys):
    a_job(pages, Kind.LOADING)
    page = json.loads(pages.pages[f"/jobs/{JOB}/"][1])
    pages.put(f"/jobs/{JOB}/", page | {"policy": {**page["policy"], "attempts": 1}})
    restarts(pages)
    assert run(RESTART) == ExitCode.OK
    assert f"attempt 1 of 1 within 1h: {QUARANTINE_FOLLOWS}" in capsys.readouterr().err


def test_where_the_actuator_does_not_answer_that_is_told_and_the_restart_asked_for(pages, capsys):
    a_job(pages, Kind.LOADING)
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(RESTART) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["key"] == JOB
    assert "how many attempts it has used cannot be told: " in printed.err
    assert "no worker owns the steps log" in printed.err
