"""The commands by which people act, against pages that the real views made: what is said first, what is refused."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from sf_healer.adapters import kafka
from sf_healer.cli import ExitCode, run
from sf_healer.core.commands import Resume
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Hold, HoldCause
from sf_healer.core.facts import Condition
from sf_healer.settings import Settings
from sf_healer.views.jobs import build_job
from sf_healer.views.lines import moment
from tests.core.served import PAGES, Pages, served
from tests.core.strategies import JOB, T0, Driver

NOW = 10_000.0
NAME = JOB.partition("/")[2]
RESTART = ["restart", JOB, "--reason", "looks odd", "--dry-run"]


@pytest.fixture
def sent(monkeypatch) -> list[Resume]:
    """Keep what `resume` sends, in the place of Kafka."""
    kept: list[Resume] = []

    async def keep(_settings: Settings, resume: Resume) -> None:
        kept.append(resume)

    monkeypatch.setattr("sf_healer.commands.resume.send_control", keep)
    return kept


@pytest.fixture
def pages(monkeypatch) -> Iterator[Pages]:
    monkeypatch.setenv("SF_HEALER_BROKER_URL", "kafka://127.0.0.1:1")
    monkeypatch.setattr("sf_healer.commands.resume.time", SimpleNamespace(time=lambda: NOW + 2.0))
    monkeypatch.setattr("sf_healer.commands.pause.time", SimpleNamespace(time=lambda: NOW))
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


def restarts(pages, *, attempts=(), pauses=(), at=NOW, **history) -> None:
    """Serve what the actuator knows, by default at NOW: when a Job was restarted, and which pauses hold."""
    admission = json.loads(msgspec.json.encode(PAGES["/actions/"][1]))["admission"]
    record = {"history": {"attempts": attempts, "ended_at": 0.0, "quarantined_at": 0.0, "sick_at": 0.0, **history}}
    valve = {**admission, "at": at, "pauses": list(pauses)}
    pages.put("/actions/", {"actions": {JOB: record} if attempts or history else {}, "admission": valve})


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


def test_a_job_that_was_told_to_stop_is_restarted_only_where_that_is_meant(pages, capsys):
    """Else a restart revives within the hold what its user stops."""
    driver = Driver()
    driver.fact()
    driver.run(60)
    driver.apply(Hold(JOB, HoldCause.STOP_COMMAND))
    driver.run(5)
    pages.put(f"/jobs/{JOB}/", build_job(driver.partition, driver.state()))
    assert run(RESTART) == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    stopped = f"{JOB}: its queue was told to stop at {moment(T0 + 60)}, and until {moment(T0 + 90)} it may be stopping"
    assert f"{stopped}; --even-if-ended restarts it all the same" in printed.err
    assert run([*RESTART, "--even-if-ended"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["key"] == JOB
    assert f"{JOB} is held: a stop command went to its queue" in printed.err


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
        (
            [NOW - 900.0, NOW - 600.0, NOW - 300.0],
            "which does not hold for what people ask for; this is attempt 4, and 3 are allowed within 1h",
        ),
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
    restarts(pages, attempts=[NOW - 300.0])
    assert run(RESTART) == ExitCode.OK
    assert "this is attempt 2, and 1 is allowed within 1h" in capsys.readouterr().err


def test_where_the_actuator_does_not_answer_that_is_told_and_the_restart_asked_for(pages, capsys):
    a_job(pages, Kind.LOADING)
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(RESTART) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["key"] == JOB
    assert "how many attempts it has used cannot be told: " in printed.err
    assert "no worker owns the steps log" in printed.err


# ---- resume


FIRST_OF_THREE = "the next is 1 of 3 within 1h"
NUMBERS_GO_ON = "ATTEMPT of `sf-healer actions` numbers all its restarts and goes on"


def a_pause(scope: str, *, until: float | None = None, reason: str = "maintenance", by: str = "ann@box") -> dict:
    return {"scope": scope, "reason": reason, "by": by, "at": NOW - 60.0, "until": until}


SINCE = moment(NOW - 60.0)
FOR_ALL, OF_A_QUEUE, OF_A_TARGET = a_pause("*"), a_pause("queue:q1", until=NOW + 600.0), a_pause("target:loader")


@pytest.mark.parametrize("options", [["--queue", "Q1"], ["--target", "other"], ["--all"], ["--job", JOB]])
def test_what_was_not_paused_is_not_said_to_be_resumed_and_what_is_paused_is_told(pages, sent, capsys, options):
    """Its end is sent all the same: the pause may be on its way to the worker that is asked."""
    a_job(pages)
    restarts(pages, pauses=[OF_A_QUEUE, OF_A_TARGET])
    assert run(["resume", *options]) == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *others = printed.err.splitlines()
    assert first.startswith("nothing was paused: ")
    assert first.endswith(f"; as of {moment(NOW)} these pauses hold:")
    assert others == [
        f"  queue:q1 until {moment(NOW + 600.0)}: maintenance by ann@box, since {SINCE}",
        f"  target:loader until resumed: maintenance by ann@box, since {SINCE}",
    ]
    (resume,) = sent
    assert first.startswith(f"nothing was paused: {resume.scope}; ")


def test_where_nothing_is_paused_at_all_that_is_told(pages, sent, capsys):
    restarts(pages)
    assert run(["resume", "--queue", "q1"]) == ExitCode.REFUSED
    assert capsys.readouterr().err == f"nothing was paused: queue:q1; as of {moment(NOW)} no pause holds\n"
    assert [resume.scope for resume in sent] == ["queue:q1"]


def test_the_end_of_the_pause_of_all_jobs_names_what_is_still_paused(pages, capsys):
    restarts(pages, pauses=[FOR_ALL, OF_A_QUEUE, OF_A_TARGET])
    assert run(["resume", "--all", "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().err.splitlines() == [
        "would be resumed: *",
        f"still paused: queue:q1 until {moment(NOW + 600.0)}: maintenance by ann@box, since {SINCE}",
        f"still paused: target:loader until resumed: maintenance by ann@box, since {SINCE}",
    ]


def test_of_one_job_only_the_pauses_are_named_that_hold_for_it(pages, capsys):
    a_job(pages)
    restarts(pages, pauses=[OF_A_QUEUE, OF_A_TARGET, a_pause(f"job:{JOB}")])
    assert run(["resume", "--job", JOB, "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().err.splitlines() == [
        f"would be resumed: job:{JOB}",
        f"still paused: target:loader until resumed: maintenance by ann@box, since {SINCE}",
    ]


def test_the_end_of_a_quarantine_says_when_it_is_looked_at_again_and_what_counts_from_now(pages, capsys):
    a_job(pages, attempt=3)
    page = json.loads(pages.pages[f"/jobs/{JOB}/"][1])
    pages.put(f"/jobs/{JOB}/", page | {"not_again_before": NOW + 60.0})
    restarts(pages, attempts=[NOW - 900.0, NOW - 600.0, NOW - 300.0], quarantined_at=NOW - 200.0)
    assert run(["resume", "--job", JOB, "--dry-run"]) == ExitCode.OK
    assert capsys.readouterr().err.splitlines() == [
        f"would be resumed: job:{JOB}",
        f"its quarantine ends: not again before {moment(NOW + 60.0)}, and only if it is still sick",
        f"its attempts count from zero: {FIRST_OF_THREE}; {NUMBERS_GO_ON} after 3",
    ]


def test_attempts_that_are_not_used_up_are_forgotten_too(pages, capsys):
    a_job(pages, attempt=1)
    restarts(pages, attempts=[NOW - 900.0])
    assert run(["resume", "--job", JOB, "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr().err
    assert "its attempts count from zero: the next is 1 of 3 within 1h" in printed
    assert "quarantine" not in printed


def test_a_quarantine_is_ended_although_the_detector_does_not_answer(pages, capsys):
    restarts(pages, attempts=[NOW - 900.0, NOW - 600.0, NOW - 300.0])
    assert run(["resume", "--job", JOB, "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr().err
    assert "its quarantine ends, and it is restarted only if it is still sick" in printed
    assert "its attempts count from zero: the next is 1 of 3 within 1h" in printed


def test_where_nobody_tells_what_is_paused_the_pause_is_ended_and_that_is_told(pages, capsys):
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(["resume", "--queue", "q1", "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["scope"] == "queue:q1"
    assert printed.err.splitlines()[0] == "would be resumed: queue:q1"
    assert "whether it was paused, and what still is, cannot be told: " in printed.err
    assert "no worker owns the steps log" in printed.err


@pytest.mark.parametrize("body", [{}, [], None, "x", {"actions": {}, "admission": {}}])
def test_the_end_of_a_pause_is_sent_although_what_answers_is_no_worker(pages, sent, capsys, body):
    pages.put("/actions/", body)
    assert run(["resume", "--queue", "q1"]) == ExitCode.OK
    assert [resume.scope for resume in sent] == ["queue:q1"]
    assert "is no worker of sf-healer" in capsys.readouterr().err


@pytest.mark.parametrize(("at", "told"), [(NOW - 60.0, f"it as it was at {moment(NOW - 60.0)}"), (None, "nothing yet")])
def test_a_worker_that_lags_does_not_tell_what_is_paused(pages, capsys, at, told):
    restarts(pages, at=at)
    assert run(["resume", "--queue", "q1", "--dry-run"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["scope"] == "queue:q1"
    assert f"cannot be told: {pages.url} shows {told}" in printed.err


def test_resume_asks_the_worker_that_is_named(pages, sent, monkeypatch):
    monkeypatch.setenv("SF_HEALER_URL", "http://127.0.0.1:1")
    restarts(pages)
    assert run(["resume", "--queue", "q1", "--url", pages.url]) == ExitCode.REFUSED
    assert "/actions/" in pages.asked


def test_the_reason_of_a_pause_makes_no_line_of_its_own(pages, capsys):
    restarts(pages, pauses=[a_pause("queue:q1", reason="x\x1b[2J\nresumed: *")])
    assert run(["resume", "--all", "--dry-run"]) == ExitCode.REFUSED
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert r"x\x1b[2J\nresumed: *" in told[1]


# ---- pause

FOR_TEN_MINUTES = ["pause", "--queue", "q1", "--reason", "looks odd", "--for", "10m", "--dry-run"]


def test_a_pause_ends_by_the_clock_of_the_log_and_a_clock_that_is_behind_it_is_told(pages, capsys):
    """By the clock of a laptop that is fifteen minutes behind it would be over before it is read."""
    restarts(pages, at=NOW + 900.0)
    assert run(FOR_TEN_MINUTES) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["until"] == NOW + 900.0 + 600.0
    first, second, *_ = printed.err.splitlines()
    assert first.startswith(f"would be paused: queue:q1 until {moment(NOW + 1500.0)}")
    assert second == "Careful: the clock here is 15m behind that of the log, by which a pause ends"


def test_a_pause_is_no_shorter_than_asked_where_the_log_is_read_late_or_the_clock_here_is_ahead(pages, capsys):
    restarts(pages, at=NOW - 900.0)
    assert run(FOR_TEN_MINUTES) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["until"] == NOW + 600.0
    assert printed.err.splitlines()[1] == (
        "Careful: the log, by whose clock a pause ends, is shown as it was 15m ago: it is read late, or the "
        "clock here is ahead and the pause that much longer"
    )


@pytest.mark.parametrize("at", [NOW - 2.0, NOW + 2.0, None])
def test_of_clocks_that_agree_nothing_is_said(pages, capsys, at):
    restarts(pages, at=at)
    assert run(FOR_TEN_MINUTES) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["until"] == max(at or NOW, NOW) + 600.0
    assert "clock" not in printed.err


def test_where_nobody_tells_the_time_of_the_log_a_pause_ends_by_the_clock_here_and_that_is_told(pages, capsys):
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(FOR_TEN_MINUTES) == ExitCode.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["until"] == NOW + 600.0
    second = printed.err.splitlines()[1]
    assert second.startswith("the end is by the clock here, for that of the log cannot be told: ")


def test_a_pause_without_an_end_asks_nobody_for_the_time(pages, capsys):
    assert run(["pause", "--queue", "q1", "--reason", "looks odd", "--dry-run"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["until"] is None
    assert "/actions/" not in pages.asked


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_a_pause_that_no_worker_would_read_is_neither_sent_nor_said_to_hold(pages, capsys, dry_run):
    """A worker counts such a record as a dead letter, and nothing is paused."""
    restarts(pages, at=1e12)
    assert run(["pause", "--queue", "q1", "--reason", "x", "--for", "10m", *dry_run]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error: no worker would take that: Expected `float` <= 1000000000000.0 - at `$.until`\n" in printed.err


@pytest.mark.parametrize("arguments", [["pause", "--reason", "x"], ["resume"]])
def test_what_is_no_text_is_not_sent(pages, capsys, arguments):
    restarts(pages)
    assert run([*arguments, "--target", "caf\udce9", "--dry-run"]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error: 'caf\\udce9' is no text in UTF-8\n" in printed.err.replace("target:", "")


# ---- resolve


def test_a_name_that_is_none_keeps_all_decisions_from_being_sent(pages, capsys):
    assert run(["resolve", "sick", "a/b/c", "--abandon"]) == ExitCode.USAGE
    assert "'a/b/c' is neither NAME nor NAMESPACE/NAME" in capsys.readouterr().err
    assert pages.asked == []


# ---- reasons


@pytest.mark.parametrize("reason", ["", "  "])
@pytest.mark.parametrize("arguments", [["pause", "--all"], ["restart", JOB]])
def test_a_reason_says_something(pages, capsys, arguments, reason):
    assert run([*arguments, "--reason", reason, "--dry-run"]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--reason: it is empty; say why" in printed.err.replace("'", "")


# ---- no broker


@pytest.mark.parametrize("arguments", [["pause", "--all", "--reason", "x"], ["resume", "--all"]])
def test_without_a_broker_one_sentence_says_so_and_what_looks_further(pages, capsys, monkeypatch, arguments):
    monkeypatch.setattr("sf_healer.adapters.kafka.wait_for_broker", patient(0.5, kafka.wait_for_broker))
    restarts(pages, pauses=[FOR_ALL])
    assert run(arguments) == ExitCode.UNREACHABLE
    told = "Error: Kafka at 127.0.0.1:1: connection refused; `sf-healer doctor` looks further\n"
    assert capsys.readouterr().err == told


def patient(seconds: float, wait):
    """Try for a shorter time than a person would have to wait."""

    async def for_a_moment(settings, *, patience_seconds=None):
        del patience_seconds
        await wait(settings, patience_seconds=seconds)

    return for_a_moment


# ---- no cluster


@pytest.mark.parametrize("arguments", [["skip", JOB], ["unskip", JOB]])
def test_without_a_cluster_it_is_told_that_nothing_was_changed(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.setenv("SF_HEALER_KUBECONFIG", kubeconfig_for(tmp_path, "http://127.0.0.1:1"))
    assert run(arguments) == ExitCode.UNREACHABLE
    told = "Error: the cluster was not reached: nothing listens at 127.0.0.1:1; nothing was changed\n"
    assert capsys.readouterr().err == told


def test_a_cluster_that_hears_and_does_not_answer_may_have_changed_the_job(tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        hanging_up = threading.Thread(target=hang_up, args=(server,))
        hanging_up.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("SF_HEALER_KUBECONFIG", kubeconfig_for(tmp_path, url))
        assert run(["skip", JOB]) == ExitCode.UNREACHABLE
        hanging_up.join()
    looked = f"`kubectl --namespace stf get job {NAME} -o yaml` tells what it did"
    assert capsys.readouterr().err == f"Error: the cluster was asked and did not answer; {looked}\n"


def hang_up(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)


def kubeconfig_for(directory: Path, url: str) -> str:
    path = directory / "kubeconfig"
    path.write_text(
        f'apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: "{url}"}}}}]\n'
        "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n"
    )
    return str(path)
