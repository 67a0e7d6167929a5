"""What people ask for: durations, the records that are made, and the commands that make them."""

import json

import pytest

from sf_healer import control
from sf_healer.cli import ExitCode, run
from sf_healer.control import RequestRefusedError, parse_duration, person, resolve_of, restart_of
from sf_healer.core.commands import (
    ALL_JOBS,
    Decision,
    Pause,
    ProofOfLife,
    Resolve,
    Resume,
    decode_action,
    decode_control,
    encode,
)
from sf_healer.core.facts import Condition
from sf_healer.views.jobs import build_job
from tests.core.strategies import JOB, Driver

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setenv("SF_HEALER_URL", NOWHERE)
    monkeypatch.setenv("SF_HEALER_BROKER_URL", "kafka://127.0.0.1:1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("30m", 1800.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("0.5h", 1800.0),
    ],
)
def test_a_duration_is_read_with_its_units(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "h", "1 h", "-1h", "1y", "1h30", "0s", "1e3s"])
def test_a_duration_without_units_or_length_is_none(text):
    with pytest.raises(ValueError, match=r"duration|over at once"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["11575d", "9" * 400 + "d"])
def test_a_duration_of_more_than_thirty_years_is_a_slip(text):
    with pytest.raises(ValueError, match="is more than 11,574 days"):
        parse_duration(text)


def test_a_person_is_named_by_user_and_machine_also_where_the_user_has_no_name(monkeypatch):
    monkeypatch.setattr(control.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(control.getpass, "getuser", lambda: "ann")
    assert person() == "ann@box"

    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(control.getpass, "getuser", nobody)
    monkeypatch.setattr(control.os, "getuid", lambda: 1234)
    assert person() == "uid 1234@box"


# ---- pause and resume


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        (["--all"], ALL_JOBS),
        (["--queue", "q1"], "queue:q1"),
        (["--target", "loader-ws"], "target:loader-ws"),
        (["--job", "a"], "job:stf/a"),
        (["--job", "other/a"], "job:other/a"),
    ],
)
def test_a_dry_run_prints_the_record_and_sends_nothing(capsys, options, scope):
    assert run(["pause", *options, "--reason", "maintenance", "--for", "1h", "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr()
    pause = decode_control(printed.out.encode())
    assert isinstance(pause, Pause)
    assert (pause.scope, pause.reason, pause.until - pause.at) == (scope, "maintenance", 3600.0)
    assert pause.by == person()
    assert printed.err.startswith(f"would be paused: {scope} until 2")
    assert run(["resume", *options, "--dry-run"]) == ExitCode.OK
    resume = decode_control(capsys.readouterr().out.encode())
    assert isinstance(resume, Resume)
    assert resume.scope == scope


def test_a_pause_without_an_end_lasts_until_resumed(capsys):
    assert run(["pause", "--all", "--reason", "x", "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["until"] is None
    paused, counted = printed.err.splitlines()
    assert paused == "would be paused: * until resumed"
    assert counted.startswith("how many Jobs are in it cannot be told: nothing listens at 127.0.0.1:1; ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["pause", "--reason", "x"],
        ["pause", "--all"],
        ["pause", "--all", "--job", "a", "--reason", "x"],
        ["pause", "--job", "a/b/c", "--reason", "x"],
        ["pause", "--all", "--reason", "x", "--for", "soon"],
        ["resume"],
        ["resume", "--all", "--queue", "q"],
        ["restart", "a"],
        ["restart", "--reason", "x"],
        ["skip"],
        ["unskip", "a/"],
    ],
)
def test_a_wrong_call_is_exit_code_2(arguments):
    assert run(arguments) == ExitCode.USAGE


@pytest.mark.parametrize(
    "arguments", [["pause", "--all", "--reason", "x"], ["resume", "--all"], ["restart", "a", "--reason", "x"]]
)
def test_without_broker_or_worker_nothing_is_asked_for_and_the_exit_code_is_5(monkeypatch, arguments, capsys):
    monkeypatch.setattr("sf_healer.adapters.kafka.wait_for_broker", once(control.kafka.wait_for_broker))
    assert run(arguments) == ExitCode.UNREACHABLE
    assert "127.0.0.1:1" in capsys.readouterr().err


def once(wait):
    """Ask for the broker once: these tests need not wait for one that will not come."""

    async def at_once(settings, *, patience_seconds=None):
        del patience_seconds
        await wait(settings, patience_seconds=0.0)

    return at_once


def test_skip_can_be_shown_as_kubectl_does_it(capsys):
    assert run(["skip", "a", "--dry-run"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert told == "kubectl --namespace stf annotate job a --overwrite sf-healer.io/skip=true\n"
    assert run(["unskip", "other/a", "--dry-run"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert told == "kubectl --namespace other annotate job a --overwrite sf-healer.io/skip-\n"


# ---- restart


def a_page(**changes):
    driver = Driver()
    driver.fact(**changes)
    driver.run(1)
    return build_job(driver.partition, driver.state())


def test_a_restart_is_asked_for_exactly_the_incarnation_that_was_seen():
    command = restart_of(a_page(attempt=2), reason="looks odd", by="ann@box", now=1000.0)
    assert (command.key, command.uid, command.verdict) == (JOB, "u1", "requested")
    assert (command.evidence.detail, command.evidence.condition) == ("looks odd", "active")
    assert (command.decided_at, command.expires_at, command.attempt) == (1000.0, 1060.0, 2)
    assert (command.policy, command.startup_seconds) == ("loaders", 70.0)
    assert (command.proof_of_life, command.requested_by) == (ProofOfLife.TELEMETRY, "ann@box")
    assert decode_action(json.dumps(json.loads(control.commands.encode(command))).encode()) == command


def test_each_request_is_another_one():
    page = a_page()
    ids = {restart_of(page, reason="x", by="a", now=now).id for now in (1000.0, 1000.5)}
    assert len(ids) == 2


def test_a_job_that_need_not_report_is_shown_to_live_by_its_pod():
    assert restart_of(a_page(target="new"), reason="x", by="a", now=1.0).proof_of_life is ProofOfLife.POD


@pytest.mark.parametrize("condition", [Condition.GONE, Condition.DELETING])
def test_a_job_that_is_not_there_cannot_be_restarted(condition):
    with pytest.raises(RequestRefusedError, match="gone"):
        restart_of(a_page(condition=condition), reason="x", by="a", now=1.0)


def test_a_name_that_only_reports_cannot_be_restarted():
    page = a_page() | {"incarnation": None, "policy": None}
    with pytest.raises(RequestRefusedError, match="gone"):
        restart_of(page, reason="x", by="a", now=1.0)


def an_action(state, **changes):
    return {"action": {"state": state, "overdue": False, "refusal": "", "command": {"id": "c1"}, **changes}}


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_names_the_action_that_waits_and_who_decided(decision):
    resolve = resolve_of("stf/a", an_action("stranded"), decision, by="ann@box", now=5.0)
    assert resolve == Resolve(key="stf/a", action_id="c1", decision=decision, by="ann@box", at=5.0)
    assert decode_action(encode(resolve)) == resolve


@pytest.mark.parametrize("record", [None, {"action": None}, {"history": {}}, an_action("deleting"), an_action("gone")])
@pytest.mark.parametrize("decision", Decision)
def test_where_nobody_is_asked_nobody_decides(record, decision):
    with pytest.raises(RequestRefusedError, match=r"no restart of stf/a is open|goes on by itself"):
        resolve_of("stf/a", record, decision, by="a", now=1.0)


@pytest.mark.parametrize("waiting", [an_action("deleting", overdue=True), an_action("restoring", refusal="quota")])
def test_what_has_not_given_up_can_be_abandoned_and_is_not_created_twice(waiting):
    assert resolve_of("stf/a", waiting, Decision.ABANDON, by="a", now=1.0).decision is Decision.ABANDON
    with pytest.raises(RequestRefusedError, match="has not given up yet"):
        resolve_of("stf/a", waiting, Decision.CREATE, by="a", now=1.0)
