"""The commands that read: jobs, job, actions, fleet, against pages that the real views made."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sf_healer import cli
from sf_healer.adapters import http
from sf_healer.cli import ExitCode, run
from sf_healer.commands import reading
from sf_healer.commands.reading import Worker, job_key
from sf_healer.core.wire import printable
from sf_healer.settings import Settings
from sf_healer.views.lines import clock, moment, span
from tests.core.served import PAGES, Pages, served
from tests.core.shown import IDLE, SECRET, SICK, WELL
from tests.core.strategies import T0, a_fact
from tests.lab.waiting import until

COMMAND_SECONDS = 60.0
#: As long as the platform's names are.
LONG = "stf/loader-btcusdt-api-trades-2025-06-01-fzpcd5-arango-connector"


@pytest.fixture
def pages(monkeypatch) -> Iterator[Pages]:
    with served() as opened:
        monkeypatch.setenv("SF_HEALER_URL", opened.url)
        yield opened


def rows(capsys):
    """Give the rows of the printed table by their first word, and what was said beside it."""
    printed = capsys.readouterr()
    return {line.strip().split("  ")[0]: line for line in printed.out.splitlines()[1:]}, printed.err


# ---- jobs


def test_jobs_are_listed_with_verdict_rule_and_silence(pages, capsys):
    assert run(["jobs"]) == ExitCode.OK
    table, said = rows(capsys)
    assert table[SICK].split() == [SICK, "stuck", "loading_stopped", "50s", "40s", "0"]
    assert table[WELL].split()[1:] == ["healthy", "reports", "20s", "40s", "0"]
    assert table[IDLE].split()[1:3] == ["idle", "group_idle"]
    assert said == ""


def test_wide_shows_more_columns(pages, capsys):
    assert run(["jobs", "-o", "wide"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert table[SICK].split()[6:8] == ["loader", a_fact().queue_id]
    assert moment(T0 + 31) in table[WELL]


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        (["--verdict", "stuck"], {SICK}),
        (["--verdict", "stuck", "--verdict", "idle"], {SICK, IDLE}),
        (["--sick"], {SICK}),
        (["--target", "consumer"], {IDLE}),
        (["--target", "loader", "--verdict", "idle"], set()),
        (["--queue", "q-well", "--queue", "q-idle"], {WELL, IDLE}),
        (["-n", "stf"], {SICK, WELL, IDLE}),
        (["-n", "other"], set()),
    ],
)
def test_jobs_are_filtered(pages, capsys, options, listed):
    assert run(["jobs", *options, "-o", "json"]) == ExitCode.OK
    assert {row["job"] for row in json.loads(capsys.readouterr().out)["jobs"]} == listed


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_jobs_are_printed_for_machines(pages, capsys, output, read):
    assert run(["jobs", "-o", output]) == ExitCode.OK
    assert read(capsys.readouterr().out) == json.loads(msgspec.json.encode(PAGES["/jobs/"][1]))


def test_check_ends_with_3_when_a_job_that_is_shown_is_sick(pages, capsys):
    assert run(["jobs", "--check"]) == ExitCode.NO
    assert f"1 sick: {SICK}" in capsys.readouterr().err
    assert run(["jobs", "--check", "--target", "consumer"]) == ExitCode.OK


def test_check_does_not_call_a_fleet_well_that_it_cannot_see(pages, capsys):
    pages.put("/jobs/", {"jobs": [], "unreachable": ["http://w2:6066"], "partitions_missing": [3, 4]})
    assert run(["jobs", "--check"]) == ExitCode.UNREACHABLE
    said = capsys.readouterr().err
    assert "no answer from http://w2:6066" in said
    assert "not in this list: the Jobs of partitions 3, 4" in said
    assert run(["jobs"]) == ExitCode.OK


@pytest.mark.parametrize(
    "arguments",
    [["jobs", "--watch", "--check"], ["jobs", "--verdict", "ill"], ["job"], ["job", "a/b/c"], ["job", "a/"]],
)
def test_a_wrong_call_is_exit_code_2(pages, arguments):
    assert run(arguments) == ExitCode.USAGE


def test_of_sick_jobs_it_is_told_what_holds_their_restart_back(pages, capsys):
    assert run(["jobs", "--sick"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert table[SICK].endswith("under way")
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(["jobs", "--sick", "-o", "json"]) == ExitCode.OK
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["jobs"]
    assert row["held_by"]["reason"] == "asked"
    assert "HELD BY is the last answer to each Job, not what holds now" in printed.err


@pytest.fixture
def fleet_of_sick(pages):
    """Let three Jobs be sick, with silences that are not in order of name, and long names as the platform has them."""
    (sick,) = [row for row in PAGES["/jobs/"][1]["jobs"] if row["job"] == SICK]
    named = [(LONG, "stuck", 50.0), (LONG.replace("btc", "eth"), "stuck", 90.0), ("stf/z", "failed", 0.0)]
    listed = [
        {**sick, "job": job, "verdict": verdict, "silence_seconds": silence, "threshold_seconds": min(silence, 40.0)}
        for job, verdict, silence in named
    ]
    valve = PAGES["/actions/"][1]["admission"] | {"pauses": [], "in_flight": []}
    valve |= {"quarantined": [{"job": LONG}], "restarts_held_by": {"reason": "storm", "until": T0, "detail": ""}}
    pages.put("/jobs/", {**PAGES["/jobs/"][1], "jobs": listed})
    pages.put("/actions/", {"actions": {}, "admission": valve})
    return [row["job"] for row in listed]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ([], [0, 1, 2]),
        (["--sick"], [1, 0, 2]),
        (["--sort", "silence"], [1, 0, 2]),
        (["--sick", "--sort", "name"], [0, 1, 2]),
        (["--sort", "verdict"], [2, 0, 1]),
    ],
)
def test_jobs_are_sorted_as_asked_and_the_sick_by_their_silence(fleet_of_sick, capsys, options, order):
    assert run(["jobs", *options, "-o", "json"]) == ExitCode.OK
    listed = [row["job"] for row in json.loads(capsys.readouterr().out)["jobs"]]
    assert listed == [fleet_of_sick[number] for number in order]


@pytest.fixture
def terminal(monkeypatch):
    """Draw tables as for a terminal of some width."""

    def of(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        for module in (cli, reading):
            monkeypatch.setattr(module, "terminal", lambda _: True)

    return of


@pytest.mark.parametrize("columns", [60, 80, 100, 112, 120, 160])
def test_on_a_terminal_names_are_whole_and_the_namespace_is_told_once(fleet_of_sick, terminal, capsys, columns):
    terminal(columns)
    assert run(["jobs", "--sick"]) == ExitCode.OK
    printed = capsys.readouterr()
    words = printed.out.split()
    for job in fleet_of_sick:
        assert job.removeprefix("stf/") in words
    assert "stf/" not in printed.out
    assert "all in namespace stf" in printed.err
    assert max(map(len, printed.out.splitlines())) <= max(columns, 80)
    assert "quarantined" in words
    assert "WHY" not in words or words.count("loading_stopped") == len(fleet_of_sick), "no word is broken"


def test_on_a_narrow_terminal_columns_are_left_out_by_their_weight_and_that_is_said(fleet_of_sick, terminal, capsys):
    heads, notes = {}, {}
    for columns in (80, 100, 200):
        terminal(columns)
        run(["jobs", "--sick"])
        printed = capsys.readouterr()
        heads[columns], notes[columns] = printed.out.splitlines()[0].split(), printed.err
    assert heads[80] == ["JOB", "VERDICT", "HELD", "BY"]
    assert heads[100] == ["JOB", "VERDICT", "SILENT", "LIMIT", "HELD", "BY"]
    assert heads[200] == ["JOB", "VERDICT", "WHY", "SILENT", "LIMIT", "RESTARTS", "HELD", "BY"]
    assert "a wider terminal shows WHY, RESTARTS too" in notes[100]
    assert "wider" not in notes[200]


def test_jobs_of_several_namespaces_are_named_with_it(fleet_of_sick, pages, terminal, capsys):
    rows = json.loads(pages.pages["/jobs/"][1])["jobs"]
    pages.put("/jobs/", {**PAGES["/jobs/"][1], "jobs": [*rows, {**rows[0], "job": "other/a", "namespace": "other"}]})
    terminal(200)
    assert run(["jobs"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert LONG in printed.out
    assert "all in namespace" not in printed.err


def test_names_that_the_settings_would_not_complete_keep_their_namespace(fleet_of_sick, monkeypatch, terminal, capsys):
    """Else a name that is copied into the next command names a Job of another namespace."""
    monkeypatch.setenv("SF_HEALER_NAMESPACE", "other")
    terminal(200)
    assert run(["jobs"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert set(fleet_of_sick) <= set(printed.out.split())
    assert "all in namespace" not in printed.err


# ---- job


def test_a_job_is_shown_with_why_and_what_follows(pages, capsys):
    assert run(["job", "sick"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert "stuck (loading_stopped: it sent `loading` and then nothing" in table["verdict"]
    assert "50s of 40s" in table["counted"]
    assert "under way: saved" in table["restart"]
    assert "[bold]maintenance" in table["paused"]
    assert "silence_threshold_seconds" in table
    assert "u-sick" in table["incarnation"]


def test_a_job_that_is_not_restarted_says_why_not(pages, capsys):
    assert run(["job", IDLE]) == ExitCode.OK
    table, _ = rows(capsys)
    assert "not needed" in table["restart"]
    assert "refused, idle: its group is idle" in table["last answer"]
    assert table["looks again"].endswith(moment(T0 + 51 + 40))


def test_a_job_that_was_restarted_says_why(pages, capsys):
    evidence = {"proof": "silence", "silence_seconds": 44.0, "threshold_seconds": 40.0, "last_seen": T0}
    past = {"at": T0 + 30.0, "result": "restarted", "reason": "verified", "verdict": "stuck", "evidence": evidence}
    pages.put("/actions/", PAGES["/actions/"][1] | {"actions": {WELL: {"action": None, "recent": [past]}}})
    assert run(["job", "well"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert "restarted, verified" in table["restart before"]
    assert table["because"].endswith(f"  stuck: silence, 44s of 40s, last seen {moment(T0)}")


def test_a_job_nobody_knows_is_an_error_with_a_hint(pages, capsys):
    assert run(["job", "nobody"]) == ExitCode.ERROR
    assert "no Job stf/nobody is known; `sf-healer jobs`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "stf/..",
        "../jobs",
        ".",
        f"{SICK}#x",
        f"{SICK}?x=1",
        f"{SICK}%2F",
        "stf/a b",
        "a" * 70_000,
        "a\x1b[2Jb",
        "a\udce9",
    ],
)
def test_a_name_is_no_way_to_another_page(pages, capsys, name):
    """An address is put right on its way: of `/jobs/stf/../` another page is read, of `NAME#x` that of NAME."""
    assert run(["job", name]) == ExitCode.ERROR
    key = name if "/" in name else f"stf/{name}"
    assert f"no Job {printable(key)} is known" in capsys.readouterr().err
    assert not {f"/jobs/{SICK}", f"/jobs/{SICK}/"} & {path.partition("?")[0] for path in pages.asked}


def test_a_page_of_another_job_is_not_taken_for_that_of_the_one_that_was_asked_for(pages, capsys):
    pages.pages[f"/jobs/{WELL}/"] = pages.pages[f"/jobs/{SICK}/"]
    assert run(["restart", "well", "--reason", "x", "--dry-run"]) == ExitCode.ERROR
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"no Job {WELL} is known" in printed.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("btcusdt", f"did you mean {LONG[4:]}?"),
        ("loader-btcusdt-api-trades-2025-06-01-FZPcd5-arango-conector", f"did you mean {LONG[4:]} or loader-eth"),
        (f"{LONG[4:]}-x7k2p", f"did you mean {LONG[4:]}?"),
        ("loader", f"did you mean {LONG[4:]} or {LONG[4:].replace('btc', 'eth')}?"),
        (f"other/{LONG[4:]}", f"did you mean {LONG}?"),
        ("nothing-like-it", "`sf-healer jobs` lists"),
    ],
)
def test_of_a_job_nobody_knows_the_nearest_known_ones_are_named(fleet_of_sick, capsys, name, hint):
    assert run(["job", name]) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert f"is known; {hint}" in said
    assert said.count("loader") <= 3


def test_a_job_is_shown_although_the_actuator_does_not_answer(pages, capsys):
    pages.put("/actions/", {"error": "no worker owns the steps log right now"}, 503)
    assert run(["job", "sick"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert "loading_stopped" in printed.out
    assert "no worker owns the steps log" in printed.err


def test_what_was_done_tonight_is_asked_for_by_a_duration(pages, capsys):
    old, new = ({"at": at, "command_id": name, "result": "restarted", "reason": "verified", "verdict": "stuck",
                 "attempt": 1, "detail": "", "uid": "u", "new_uid": "v", "steps": []}
                for at, name in ((time.time() - 7200.0, "old"), (time.time() - 60.0, "new")))  # fmt: skip
    known = {SICK: {"action": None, "recent": [old, new]}, WELL: {"action": None, "recent": [old]}}
    pages.put("/actions/", PAGES["/actions/"][1] | {"actions": known})
    assert run(["actions", "--since", "1h30m", "-o", "json"]) == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)["actions"]
    assert {job: [each["command_id"] for each in record["recent"]] for job, record in shown.items()} == {SICK: ["new"]}
    assert run(["actions", "--since", "tonight"]) == ExitCode.USAGE


# ---- pause


@pytest.mark.parametrize(("queue", "said"), [("q-well", "1 known Jobs are in it"), ("Q-WELL", "Capitals count")])
def test_a_pause_says_when_it_holds_nothing(pages, capsys, queue, said):
    assert run(["pause", "--queue", queue, "--reason", "x", "--dry-run"]) == ExitCode.OK
    told = capsys.readouterr().err
    assert said in told
    assert ("Careful" in told) is (queue == "Q-WELL")


# ---- actions, fleet


def test_the_fleet_tells_how_many_messages_could_not_be_read_and_what_shows_them(pages, capsys):
    assert run(["fleet"]) == ExitCode.OK
    assert "dead letters" not in capsys.readouterr().out
    letters = {"unresolved_unknown_producer": 1395, "not_json": 355}
    pages.put("/fleet/", {**PAGES["/fleet/"][1], "dead_letters": letters})
    assert run(["fleet"]) == ExitCode.OK
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "dead letters 1,750 since the workers started (1,395 unresolved_unknown_producer, 355 not_json); "
        "`sf-healer dead-letters` shows them"
    ) in told


def test_dead_letters_of_an_actuator_alone_are_added_to_those_of_the_fleet_and_told_with_the_restarts(pages, capsys):
    pages.put("/fleet/", {**PAGES["/fleet/"][1], "dead_letters": {"not_json": 2}})
    pages.put("/actions/", {**PAGES["/actions/"][1], "dead_letters": {"not_a_pause": 1}})
    assert run(["fleet", "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["dead_letters"] == {"not_json": 2, "not_a_pause": 1}
    assert run(["actions"]) == ExitCode.OK
    told = "dead letters: 1 since the workers started (1 not_a_pause); `sf-healer dead-letters` shows them"
    assert told in capsys.readouterr().err


def test_restarts_are_listed_with_their_state(pages, capsys):
    assert run(["actions"]) == ExitCode.OK
    table, _ = rows(capsys)
    (row,) = table.values()
    assert row.split()[2:7] == [SICK, "stuck", "under", "way:", "saved"]
    assert run(["actions", "-o", "wide", "sick"]) == ExitCode.OK
    assert "admitted+0.0s saved+0.0s" in capsys.readouterr().out
    assert run(["actions", "well"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[1:] == []


def test_an_ended_restart_is_listed_unless_only_open_ones_are_asked_for(pages, capsys):
    outcome = {"at": T0, "verdict": "stuck", "result": "restarted", "reason": "verified", "attempt": 1, "detail": ""}
    outcome |= {"command_id": "c", "uid": "u1", "new_uid": "u2", "steps": [["admitted", T0], ["gone", T0 + 1.25]]}
    pages.put("/actions/", {"actions": {"stf/a": {"history": {}, "recent": [outcome]}}, "admission": None})
    assert run(["actions", "-o", "wide"]) == ExitCode.OK
    assert "restarted  verified  1" in (shown_row := capsys.readouterr().out)
    assert "admitted+0.0s gone+1.2s" in shown_row
    assert run(["actions", "--open", "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["actions"] == {}


def test_restarts_are_drawn_as_trees_of_their_steps(pages, capsys):
    assert run(["actions", "--tree"]) == ExitCode.OK
    root, *branches = capsys.readouterr().out.splitlines()
    assert root.startswith(f"{SICK}  stuck: silence, 44s of 40s, ")
    assert [branch.split()[:2] for branch in branches] == [["├─", "admitted"], ["├─", "saved"], ["└─", "now"]]
    assert branches[1].endswith("  the Job is as it was judged, and its manifest is kept; the delete is next")
    assert "saved for 0s, " in branches[2]

    pages.put(
        "/actions/", {"actions": {"stf/a": {"history": {}, "recent": [an_asked_for_restart()]}}, "admission": None}
    )
    assert run(["actions", "--tree", "a"]) == ExitCode.OK
    root, *branches = capsys.readouterr().out.splitlines()
    assert root == "stf/a  requested by ann@box: silence, looks odd  (action c)"
    day, _, time_of_day = moment(T0).partition(" ")
    how = "verified: the new incarnation gave a sign of life, attempt 1, new incarnation u2"
    assert branches == [
        f"├─ admitted   {time_of_day}  {day}  admission let it pass; the Job is read next",
        f"├─ gone       {clock(T0 + 1.25)}  +1.2s       Job and pods are gone; the create is next",
        f"└─ restarted  {clock(T0 + 1.5)}  +1.5s       {how}",
    ]


def test_trees_are_for_people(pages, capsys):
    assert run(["actions", "--tree", "-o", "json"]) == ExitCode.USAGE
    assert "--tree goes with neither" in capsys.readouterr().err


def an_asked_for_restart(**changes):
    known = {"at": T0 + 1.5, "verdict": "requested", "result": "restarted", "reason": "verified", "attempt": 1}
    known |= {"detail": "", "command_id": "c", "uid": "u1", "new_uid": "u2", "requested_by": "ann@box"}
    return known | {"steps": [["admitted", T0], ["gone", T0 + 1.25]], "evidence": {"detail": "looks odd"}} | changes


def test_restarts_of_a_job_nobody_knows_are_an_error_and_of_one_that_was_left_alone_none(pages, capsys):
    assert run(["actions", "sik"]) == ExitCode.ERROR
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "neither a Job nor a restart of stf/sik is known; did you mean sick? `sf-healer jobs`" in printed.err
    assert run(["actions", "well"]) == ExitCode.OK
    assert f"{WELL} was neither restarted nor refused lately" in capsys.readouterr().err
    assert run(["actions", "sick", "--since", "1w"]) == ExitCode.OK
    assert "neither" not in capsys.readouterr().err
    pages.put("/jobs/", {"error": "not now"}, 503)
    assert run(["actions", "sik"]) == ExitCode.OK
    assert "no restart of stf/sik is remembered; whether there is such a Job cannot be told" in capsys.readouterr().err


def test_a_restart_that_a_person_asked_for_says_who(pages, capsys):
    command = {"verdict": "requested", "id": "c-2", "uid": "u2", "requested_by": "bob@box"}
    action = {**PAGES["/actions/"][1]["actions"][SICK]["action"], "command": command}
    shown = {"stf/a": {"history": {}, "recent": [an_asked_for_restart()], "action": action}}
    pages.put("/actions/", {"actions": shown, "admission": None})
    assert run(["actions"]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "requested by ann@box" in printed
    assert "requested by bob@box" in printed
    pages.put("/actions/", {"actions": {WELL: {"recent": [an_asked_for_restart()]}}, "admission": None})
    assert run(["job", "well"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert table["because"].endswith("requested by ann@box: silence, looks odd")


def test_wide_tells_the_time_of_day_of_the_first_step(pages, capsys):
    pages.put("/actions/", {"actions": {"stf/a": {"recent": [an_asked_for_restart()]}}, "admission": None})
    assert run(["actions", "-o", "wide"]) == ExitCode.OK
    assert f"{clock(T0)} admitted+0.0s gone+1.2s" in capsys.readouterr().out


def test_restarts_on_a_terminal_name_their_jobs_whole(pages, monkeypatch, terminal, capsys):
    shown = {LONG: {"history": {}, "recent": [an_asked_for_restart(), an_asked_for_restart(command_id="d")]}}
    pages.put("/actions/", {"actions": shown, "admission": None})
    terminal(90)
    assert run(["actions"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out.split().count(LONG.removeprefix("stf/")) == 2
    assert "all in namespace stf" in printed.err
    monkeypatch.setenv("SF_HEALER_NAMESPACE", "other")
    assert run(["actions"]) == ExitCode.OK
    assert capsys.readouterr().out.split().count(LONG) == 2


def test_the_fleet_is_counted_and_admission_told(pages, capsys):
    assert run(["fleet"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert table["jobs"].split()[-1] == "3"
    assert table["stuck"].split()[-1] == "1"
    assert "2 of 10 within 10m, 1 of them consumers that may be idle" in table["turned unhealthy"]
    assert table["admission"].split()[-1] == "calm"
    assert "1 of 1" in table["in flight"]
    assert f"target:loader until {moment(T0 + 51 + 600)}: [bold]maintenance by ann" in table["paused"]
    assert "limit attempts" not in table
    assert run(["fleet", "-o", "wide"]) == ExitCode.OK
    table, _ = rows(capsys)
    assert table["limit idle_unknown_acts"].endswith("as the mode says")
    assert "3 Jobs" in table["partition 0"]


LOUD = "\x1b[2Jgone\nverdict  healthy\r\x9b31m\u202eback\udce9"
QUIET = r"\x1b[2Jgone\nverdict  healthy\r\x9b31m\u202eback\udce9"


@pytest.mark.parametrize("arguments", [["job", "sick"], ["fleet"], ["actions"], ["actions", "--tree"]])
def test_what_others_wrote_does_nothing_to_the_terminal_and_makes_no_line_of_its_own(
    pages, monkeypatch, capsys, arguments
):
    told = {path: json.loads(msgspec.json.encode(body)) for path, (_, body) in PAGES.items()}
    told[f"/jobs/{SICK}/"]["said"] |= {"error_at": T0, "error": LOUD}
    told["/actions/"]["admission"]["pauses"][0] |= {"scope": "*", "reason": LOUD}
    told["/actions/"]["actions"][SICK]["recent"] = [an_asked_for_restart(detail=LOUD)]
    monkeypatch.setattr(reading, "get_json", lambda url: told[url.removeprefix(pages.url)])
    assert run(arguments) == ExitCode.OK
    printed = capsys.readouterr()
    assert QUIET in printed.out
    assert (printed.out + printed.err).replace("\n", "").isprintable()
    assert "\nverdict  healthy" not in printed.out


@pytest.mark.parametrize("arguments", [["jobs"], ["job", "sick"], ["actions"], ["fleet"]])
@pytest.mark.parametrize("output", ["wide", "json"])
def test_no_secret_is_printed(pages, capsys, arguments, output):
    assert run([*arguments, "-o", output]) == ExitCode.OK
    assert SECRET not in capsys.readouterr().out


# ---- which worker


def test_without_a_worker_the_exit_code_is_5_and_the_way_to_name_one_is_told(capsys):
    for arguments in (["jobs"], ["job", "a"], ["actions"], ["fleet"]):
        assert run([*arguments, "--url", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
        assert "name a worker with --url or SF_HEALER_URL" in capsys.readouterr().err


def test_a_worker_that_hangs_is_not_taken_for_a_wrong_address(monkeypatch, capsys):
    monkeypatch.setattr(reading, "get_json", partial(http.get_json, timeout_seconds=0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for arguments in (["fleet"], ["job", "a"]):
            assert run([*arguments, "--url", url]) == ExitCode.UNREACHABLE
            said = capsys.readouterr().err
            assert "gave no answer in 0.2 s" in said
            assert f"it may hang: look at its log, and at {url}/livez" in said
            assert "--url" not in said


FOREIGN = [None, 7, "x", [], {}, {"jobs": None}, {"jobs": [1]}, {"jobs": [{}]}, {"actions": []}, {"job": "stf/sick"}]


@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs"],
        ["jobs", "--check"],
        ["job", "sick"],
        ["actions"],
        ["actions", "--tree"],
        ["fleet"],
        ["restart", "sick", "--reason", "x"],
        ["resolve", "sick", "--abandon"],
    ],
)
def test_whoever_answers_and_is_no_worker_is_told_apart_in_one_line(pages, capsys, arguments, body):
    for page in pages.pages:
        pages.put(page, body)
    assert run(arguments) == ExitCode.ERROR
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"Error: {pages.url} answers, and is no worker of sf-healer of this version (")
    assert printed.err.count("\n") == 1


@given(data=st.data())
def test_no_wrong_value_in_a_page_ends_in_a_traceback(data):
    """What a command goes by is what is checked: at any place of a page another value is a clear line or no matter."""
    told = {path: json.loads(msgspec.json.encode(body)) for path, (_, body) in PAGES.items()}
    path = data.draw(st.sampled_from(["/jobs/", "/fleet/", "/actions/", f"/jobs/{SICK}/"]))
    place = data.draw(st.sampled_from(list(places_in(told[path]))))
    told[path] = changed(told[path], place, data.draw(st.sampled_from([None, 7, "x", [], {}, math.nan])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "get_json", lambda url: told[url.removeprefix("http://w:1").partition("?")[0]])
        for arguments in (["jobs", "--sick"], ["job", "sick"], ["actions", "--tree"], ["fleet", "-o", "wide"]):
            assert run([*arguments, "--url", "http://w:1"]) in {ExitCode.OK, ExitCode.ERROR}


def places_in(value, here=()):
    """Give the ways to every part of a page, and to the whole."""
    yield here
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places_in(part, (*here, name))


def changed(value, place, other):
    """Give the page with another value at that place."""
    if not place:
        return other
    name, *rest = place
    copied = value.copy()
    copied[name] = changed(value[name], rest, other)
    return copied


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://☃/", "http://w:0", "http://a\x01b", "http://w:99999"]
)
@pytest.mark.parametrize("arguments", [["jobs"], ["pause", "--all", "--reason", "x", "--dry-run"], ["resume", "--all"]])
def test_an_address_that_is_none_is_a_wrong_call_before_anything_is_done(capsys, arguments, url):
    assert run([*arguments, "--url", url]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Invalid value for --url: " in printed.err


def test_nothing_listens_where_nothing_listens(capsys):
    assert run(["fleet", "--url", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
    assert "nothing listens at 127.0.0.1:1;" in capsys.readouterr().err


def test_a_worker_that_recovers_is_not_reached_yet(pages, capsys):
    pages.put("/jobs/stf/sick/", {"error": "this worker owns the Job and is still recovering"}, 503)
    assert run(["job", "sick"]) == ExitCode.UNREACHABLE
    assert "still recovering" in capsys.readouterr().err


def test_an_address_without_a_scheme_is_a_wrong_call(capsys):
    assert run(["jobs", "--url", "localhost:6066"]) == ExitCode.USAGE
    assert "does not begin with http://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "settings", "asked"),
    [
        ("http://w:1/", {}, "http://w:1"),
        (None, {}, "http://127.0.0.1:6066"),
        (None, {"web_host": "0.0.0.0", "web_port": 7000}, "http://127.0.0.1:7000"),
        (None, {"web_host": "::1"}, "http://[::1]:6066"),
        (None, {"web_host": "::"}, "http://[::1]:6066"),
        (None, {"web_host": "[::]"}, "http://[::1]:6066"),
        (None, {"web_host": "fe80::1"}, "http://[fe80::1]:6066"),
        (None, {"web_advertised_url": "https://healer.example"}, "https://healer.example"),
    ],
)
def test_the_worker_is_the_one_named_else_the_one_of_the_settings(url, settings, asked):
    assert Worker(url, Settings(**settings)).url == asked


def test_a_worker_started_where_the_address_is_set_does_not_take_it_for_a_setting(monkeypatch, capsys):
    monkeypatch.setenv("SF_HEALER_URL", "http://w:1")
    assert run(["settings"]) == ExitCode.OK


# ---- watching


def test_watch_prints_again_when_something_changes_until_it_is_interrupted(pages):
    watching = subprocess.Popen(
        [sys.executable, "-c", "from sf_healer.cli import main; main()", "jobs", "--watch"],
        env={"PATH": os.environ["PATH"], "SF_HEALER_URL": pages.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: pages.asked, "the first question", seconds=COMMAND_SECONDS)
    pages.put("/jobs/", {"jobs": [], "unreachable": ["http://w2:1"], "partitions_missing": [0]})
    asked = len(pages.asked)
    until(lambda: len(pages.asked) >= asked + 2, "two more questions", seconds=COMMAND_SECONDS)
    watching.send_signal(signal.SIGINT)
    printed, said = watching.communicate(timeout=COMMAND_SECONDS)
    assert watching.returncode == ExitCode.INTERRUPTED
    assert printed.count("JOB ") == 2, "once more, and not again without a change"
    assert "no answer from http://w2:1" in said


def test_watch_waits_for_a_worker_that_goes_away_but_not_for_one_that_never_came(pages):
    watching = subprocess.Popen(
        [sys.executable, "-c", "from sf_healer.cli import main; main()", "fleet", "--watch"],
        env={"PATH": os.environ["PATH"], "SF_HEALER_URL": pages.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: pages.asked, "the first question", seconds=COMMAND_SECONDS)
    pages.put("/fleet/", {"error": "recovering"}, 503)
    asked = len(pages.asked)
    until(lambda: len(pages.asked) >= asked + 3, "more questions", seconds=COMMAND_SECONDS)
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=COMMAND_SECONDS)
    assert "as it was last told" in said


# ---- words


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "-"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "60s"),
        (119, "119s"),
        (120, "2m"),
        (302, "5m2s"),
        (3600, "1h"),
        (3660, "1h1m"),
        (90000, "1d1h"),
    ],
)
def test_a_span_is_written_as_kubectl_does(seconds, told):
    assert span(seconds) == told


def test_a_moment_is_utc_to_the_second():
    assert moment(1_750_000_000.9) == "2025-06-15 15:06:40Z"
    assert moment(None) == "-"


def test_a_name_is_completed_with_the_namespace_of_the_settings():
    assert job_key("a", Settings(namespace="other")) == "other/a"
    assert job_key("x/a", Settings()) == "x/a"
