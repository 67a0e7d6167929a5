"""Replay over recorded and made-up captures: the right verdicts in time, and the contract of the command."""

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from sf_healer.captures import Line, read_file, written
from sf_healer.cli import ExitCode, run
from sf_healer.commands.shared import read_policies
from sf_healer.replay import LONGEST_PAUSE_SECONDS, Decision, Replay, Truth, TruthRow, read_jobs, read_truth, score
from tests.lab.captures import generate_capture, write_capture

T0 = 1_750_000_000.0
THRESHOLD_SECONDS = 300.0
WINDOW_SECONDS = 5.0
QUEUE = "loader-btcusdt-api-trades-2025-06-01-{short}"
DECISION_KEYS = ["at", "job", "verdict", "decision", "reason", "attempt", "evidence"]


def report(short: str, status: str, **fields: object) -> bytes:
    queue = QUEUE.format(short=short)
    named = {"queue_id": queue, "producer": f"arango-connector__{short}", "status": status, "event": status}
    return json.dumps({**named, "sent_at": T0, "finished": False, **fields}).encode()


def name_of(short: str) -> str:
    return f"{QUEUE.format(short=short).lower()}-arango-connector"


def job(short: str, *, created_at: float = T0) -> dict[str, object]:
    env = {"QUEUE_ID": QUEUE.format(short=short), "TELEMETRY_PRODUCER_ID": f"arango-connector__{short}"}
    return {"name": name_of(short), "namespace": "stf", "uid": f"uid-{short}", "created_at": created_at, "env": env}


def every(seconds: float, short: str, *, start: float = T0, until: float) -> list[Line]:
    count = int((until - start) / seconds) + 1
    return [Line(at=start + number * seconds, value=report(short, "loading")) for number in range(count)]


def healthy(*shorts: str, until: float) -> list[Line]:
    return [line for short in shorts for line in every(60.0, short, until=until)]


def in_order(*lines: Line) -> list[Line]:
    return sorted(lines, key=lambda line: line.at)


#: Three are well to the end, one falls silent after a minute: within what admission's storm rule lets through.
END = T0 + 900.0
SILENT_SINCE = T0 + 60.0
LINES = in_order(*healthy("aaaaaa", "bbbbbb", "cccccc", until=END), *every(30.0, "dddddd", until=SILENT_SINCE))
JOBS = [job(short) for short in ("aaaaaa", "bbbbbb", "cccccc", "dddddd")]


def decisions_of(lines: list[Line], jobs: Path | None = None, **options: float) -> list[Decision]:
    facts = read_jobs(jobs) if jobs else None
    return list(Replay(lines, facts, read_policies(None), **options).decisions())


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    (tmp_path / "jobs.json").write_text(json.dumps(JOBS))
    (tmp_path / "truth.json").write_text(json.dumps(truth_with("stuck", 0.0)))
    file = tmp_path / "capture.jsonl"
    file.write_bytes(b"".join(map(written, LINES)))
    return file


def truth_with(verdict: str, late_seconds: float) -> dict[str, object]:
    due = SILENT_SINCE + THRESHOLD_SECONDS + late_seconds
    sick = {"verdict": verdict, "not_before": due, "not_after": due + 10.0, "firm": True}
    well = {"verdict": "healthy", "not_before": None, "not_after": None, "firm": True}
    rows = {name_of(short): well for short in ("aaaaaa", "bbbbbb", "cccccc")}
    return {"capture_end": END, "jobs": {**rows, name_of("dddddd"): sick}}


# ------------------------------------------------------------------ whole captures


def test_the_recorded_captures_give_the_verdicts_of_their_truths(captures_dir: Path):
    truths = sorted(captures_dir.rglob("*.truth.json"))
    assert truths
    wrong = {}
    for file in truths:
        truth, base = read_truth(file), file.name.removesuffix(".truth.json")
        replay = Replay(
            read_file(file.with_name(f"{base}.jsonl.gz")),
            read_jobs(file.with_name(f"{base}.jobs.json")),
            read_policies(None),
            until=truth.capture_end,
        )
        result = score(replay.decisions(), truth)
        if not result.holds or not result.jobs:
            wrong[base] = result
    assert not wrong


@pytest.mark.parametrize(("copies", "seed"), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (4, 5)])
def test_made_up_captures_give_the_verdicts_of_their_truths(tmp_path, seed, copies):
    file = write_capture(tmp_path, "made-up", generate_capture(1000 * copies + seed, copies=copies))
    truth = read_truth(tmp_path / "made-up.truth.json")
    replay = Replay(
        read_file(file), read_jobs(tmp_path / "made-up.jobs.json"), read_policies(None), until=truth.capture_end
    )
    result = score(replay.decisions(), truth)
    assert result.wrong == []
    assert result.jobs > 30 * copies
    assert replay.rejected  # there was garbage, and it harmed nobody


# ------------------------------------------------------------------ what is decided when


def test_a_silent_job_is_found_within_a_window_of_its_threshold_with_the_numbers_behind_it():
    (found,) = decisions_of(LINES)
    assert found.job == f"stf/{name_of('dddddd')}"
    assert (found.verdict, found.decision, found.reason, found.attempt) == ("stuck", "restart", "loading_stopped", 0)
    assert 0.0 < found.at - SILENT_SINCE - THRESHOLD_SECONDS <= WINDOW_SECONDS + 1.0
    assert found.evidence["last_seen"] == SILENT_SINCE
    assert found.evidence["threshold_seconds"] == THRESHOLD_SECONDS
    assert found.evidence["silence_seconds"] == pytest.approx(found.at - SILENT_SINCE)
    assert found.evidence["source_offset"] == max(place for place, line in enumerate(LINES) if b"dddddd" in line.value)


def test_a_capture_ends_with_its_last_arrival_and_no_verdict_falls_later():
    just_before = [line for line in LINES if line.at < SILENT_SINCE + THRESHOLD_SECONDS]
    assert decisions_of(just_before) == []


def test_until_goes_on_after_the_last_arrival_and_stops_before_it():
    short = [line for line in LINES if line.at <= SILENT_SINCE]
    assert {found.job for found in decisions_of(short, until=T0 + 600.0)} == {
        f"stf/{name_of(name)}" for name in ("aaaaaa", "bbbbbb", "cccccc", "dddddd")
    }
    assert decisions_of(LINES, until=SILENT_SINCE + THRESHOLD_SECONDS - 1.0) == []


def test_a_verdict_may_fall_at_until_itself():
    (found,) = decisions_of(LINES)
    assert decisions_of(LINES, until=found.at) == [found]
    assert decisions_of(LINES, until=found.at - 0.5) == []


def test_a_line_that_arrived_after_the_end_is_left_out():
    late = Line(END + 3600.0, value=report("aaaaaa", "loading"))
    replayed = Replay([*LINES, late, late], None, read_policies(None), until=END)
    assert list(replayed.decisions()) == decisions_of(LINES, until=END)
    assert (replayed.lines_left_out, replayed.lines_dated_ahead) == (2, 0)


@pytest.mark.parametrize("place", [0, 9, len(LINES) - 2])
@pytest.mark.parametrize("until", [END, END + 1800.0])
def test_a_line_that_is_dated_ahead_of_later_ones_makes_nobody_silent(place, until):
    """Nor does it hide one that is: what is dated ahead arrived with those behind it."""
    lines = in_order(*healthy("aaaaaa", "bbbbbb", "cccccc", until=until), *every(30.0, "dddddd", until=SILENT_SINCE))
    ahead = msgspec.structs.replace(lines[place], at=lines[place].at + 1500.0)
    replayed = Replay([*lines[:place], ahead, *lines[place + 1 :]], None, read_policies(None), until=until)
    (found,) = replayed.decisions()
    assert (found.job, found.verdict) == (f"stf/{name_of('dddddd')}", "stuck")
    assert 0.0 < found.at - SILENT_SINCE - THRESHOLD_SECONDS <= WINDOW_SECONDS + 1.0
    assert (replayed.lines_left_out, replayed.lines_dated_ahead) == (0, 1)


@pytest.mark.parametrize("until", [END, None])
@pytest.mark.parametrize("seconds", [700.0, -700.0])
def test_a_job_whose_clock_is_wrong_makes_nobody_silent_and_is_well_itself(seconds, until):
    well = [line for line in healthy("aaaaaa", "bbbbbb", "cccccc", "eeeeee", until=END) if line.at >= T0 + 60.0]
    lines = [
        msgspec.structs.replace(line, at=line.at + seconds) if b"eeeeee" in line.value else line
        for line in in_order(Line(T0, value=report("aaaaaa", "started")), *well)
    ]
    assert decisions_of(lines, until=until) == []


def test_a_job_that_was_created_after_the_last_arrival_does_not_lengthen_the_capture(tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps([*JOBS, job("mmmmmm", created_at=END + 3600.0)]))
    found = decisions_of(LINES, tmp_path / "jobs.json")
    assert [decision.job for decision in found] == [f"stf/{name_of('dddddd')}"]


def test_of_a_capture_without_lines_no_job_is_known_to_be_silent(tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps(JOBS))
    assert decisions_of([], tmp_path / "jobs.json", until=END) == []
    assert decisions_of(LINES, tmp_path / "jobs.json", until=T0 - 1.0) == []


def test_a_restarted_job_that_stays_silent_is_no_second_decision():
    silent_for_long = in_order(
        *healthy("aaaaaa", "bbbbbb", "cccccc", until=T0 + 7200.0), Line(T0, value=report("dddddd", "loading"))
    )
    assert [found.attempt for found in decisions_of(silent_for_long)] == [0]


def test_a_restarted_job_that_speaks_and_falls_silent_again_is_the_next_attempt():
    again = in_order(
        *healthy("aaaaaa", "bbbbbb", "cccccc", until=T0 + 3600.0),
        Line(T0, value=report("dddddd", "loading")),
        *every(10.0, "dddddd", start=T0 + 400.0, until=T0 + 700.0),
    )
    found = decisions_of(again)
    assert [(decision.verdict, decision.decision, decision.attempt) for decision in found] == [
        ("stuck", "restart", 0),
        ("stuck", "restart", 1),
    ]
    assert 1000.0 < found[1].at - T0 <= 1000.0 + WINDOW_SECONDS + 1.0


def test_what_a_job_said_before_its_restart_and_is_read_after_it_starts_no_other_pod():
    others = healthy("aaaaaa", "bbbbbb", "cccccc", until=T0 + 3600.0)
    failed = Line(T0 + 100.0, value=report("dddddd", "error", finished=True))
    late = Line(T0 + 99.5, partition=1, value=report("dddddd", "loading"))
    read_late = [*in_order(*(line for line in others if line.at < T0 + 112.0), failed), late]
    read_late += in_order(*(line for line in others if line.at >= T0 + 112.0))
    assert [(found.verdict, found.attempt) for found in decisions_of(read_late)] == [("failed", 0)]


def test_when_most_fall_silent_at_once_they_are_found_and_the_restarts_refused():
    shorts = [f"storm{letter}" for letter in "abcdefgh"]
    found = decisions_of([Line(T0, value=report(short, "loading")) for short in shorts], until=T0 + 320.0)
    assert {decision.job for decision in found} == {f"stf/{name_of(short)}" for short in shorts}
    assert {(decision.decision, decision.reason) for decision in found} == {("refuse", "storm")}


def test_one_line_is_given_per_change_of_decision_or_reason():
    found = decisions_of(
        [Line(T0, value=report(f"storm{letter}", "loading")) for letter in "abcdefgh"], until=T0 + 3600.0
    )
    told: dict[str, tuple[str, str]] = {}
    for decision in found:
        assert told.get(decision.job) != (decision.decision, decision.reason)
        told[decision.job] = (decision.decision, decision.reason)


def test_the_same_file_gives_the_same_decisions_twice(capture):
    jobs = capture.with_name("jobs.json")
    assert decisions_of(list(read_file(capture)), jobs) == decisions_of(list(read_file(capture)), jobs)


def test_a_job_of_the_inventory_that_never_speaks_is_never_started(tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps([*JOBS, job("mmmmmm", created_at=T0 + 100.0)]))
    found = [d for d in decisions_of(LINES, tmp_path / "jobs.json") if "mmmmmm" in d.job]
    assert [(decision.verdict, decision.evidence["uid"]) for decision in found] == [("never_started", "uid-mmmmmm")]
    assert 600.0 < found[0].at - T0 - 100.0 <= 600.0 + WINDOW_SECONDS + 1.0


def test_a_report_of_nobody_in_the_inventory_touches_no_job(tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps(JOBS[:3]))
    replay = Replay(LINES, read_jobs(tmp_path / "jobs.json"), read_policies(None))
    assert list(replay.decisions()) == []
    assert replay.rejected == {"unresolved_unknown_producer": 3}


def test_lines_a_little_out_of_order_are_taken_as_they_come():
    shuffled = [*LINES[:5], *reversed(LINES[5:8]), *LINES[8:]]
    assert [decision.job for decision in decisions_of(shuffled)] == [f"stf/{name_of('dddddd')}"]


def in_partition(partition: int, lines: list[Line]) -> list[Line]:
    return [msgspec.structs.replace(line, partition=partition) for line in lines]


@pytest.mark.parametrize("partition", [0, 7, 2**62])
@pytest.mark.parametrize("others", [0, 2])
def test_a_job_is_judged_alike_whatever_partition_its_reports_are_in(partition, others):
    """The broker's clock is set back by a minute: what is appended then is still later than what was marked."""
    well = in_partition(others, in_order(*healthy("aaaaaa", "bbbbbb", until=END)))
    speaks = in_partition(partition, every(20.0, "dddddd", until=T0 + 600.0))
    set_back = [
        *every(20.0, "dddddd", start=T0 + 560.0, until=T0 + 580.0),
        Line(T0 + 581.0, value=report("dddddd", "error")),
        Line(T0 + 581.02, value=report("dddddd", "finished")),
    ]
    before = in_order(*speaks, *(line for line in well if line.at <= T0 + 600.0))
    after = [line for line in well if line.at > T0 + 600.0]
    (found,) = decisions_of([*before, *in_partition(partition, set_back), *after])
    assert (found.verdict, found.reason) == ("failed", "error_then_finished")
    assert found.evidence["source_partition"] == partition


def test_the_first_report_of_a_partition_is_later_than_what_was_marked_before():
    speaks = in_order(*healthy("aaaaaa", "bbbbbb", until=T0 + 660.0), *every(20.0, "dddddd", until=T0 + 600.0))
    lines = [*speaks, Line(T0 + 560.0, 5, value=report("dddddd", "error", finished=True))]
    (found,) = decisions_of(lines, until=T0 + 700.0)
    assert (found.verdict, found.reason) == ("failed", "error_final")


def test_a_job_that_never_starts_is_found_from_the_beginning_though_the_first_record_comes_late(tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps([*JOBS, job("mmmmmm", created_at=T0 - 400.0)]))
    bounds = {"since": T0 - 500.0, "until": T0 + 250.0}
    early = [line for line in LINES if line.at <= T0 + 250.0]
    for lines in (early, []):
        (found,) = decisions_of(lines, tmp_path / "jobs.json", **bounds)
        assert (found.job, found.verdict) == (f"stf/{name_of('mmmmmm')}", "never_started")
        assert 600.0 < found.at - T0 + 400.0 <= 600.0 + WINDOW_SECONDS + 1.0
    assert decisions_of(early, tmp_path / "jobs.json", since=T0 + 100.0, until=T0 + 250.0) == []


def test_a_job_that_speaks_before_it_is_created_is_heard(tmp_path):
    """The API server's clock is ahead of the broker's."""
    (tmp_path / "jobs.json").write_text(json.dumps([*JOBS, job("mmmmmm", created_at=T0 + 160.0)]))
    said = [("started", 100.0), ("loading", 101.0), ("finished", 140.0)]
    words = [Line(T0 + seconds, value=report("mmmmmm", word)) for word, seconds in said]
    replayed = Replay(in_order(*LINES, *words), read_jobs(tmp_path / "jobs.json"), read_policies(None))
    assert [found.job for found in replayed.decisions()] == [f"stf/{name_of('dddddd')}"]
    assert (replayed.rejected, replayed.reports) == ({}, len(LINES) + len(words))


@pytest.mark.parametrize("said", [[("loading", 20.0), ("error", 150.0)], [("error", 150.0)]])
def test_what_an_incarnation_said_that_is_listed_no_more_is_not_of_the_one_in_its_place(tmp_path, said):
    (tmp_path / "jobs.json").write_text(json.dumps([*JOBS, job("mmmmmm", created_at=T0 + 160.0)]))
    words = [Line(T0 + seconds, value=report("mmmmmm", word, finished=word == "error")) for word, seconds in said]
    lives = every(10.0, "mmmmmm", start=T0 + 170.0, until=END)
    found = decisions_of(in_order(*LINES, *words, *lives), tmp_path / "jobs.json")
    assert [decision.job for decision in found] == [f"stf/{name_of('dddddd')}"]


def test_an_empty_capture_has_no_decisions():
    assert decisions_of([]) == []
    assert decisions_of([], until=T0) == []


# ------------------------------------------------------------------ without the Jobs


def of_loader(short: str, status: str, at: float) -> Line:
    """Say something in the dialect that names no queue."""
    return Line(at, value=json.dumps({"producer_id": f"loader-producer__{short}", "status": status}).encode())


def loading(short: str, *, start: float = T0, until: float) -> list[Line]:
    return [of_loader(short, "loading", start + seconds) for seconds in range(0, int(until - start) + 1, 30)]


def of_queue(short: str, status: str, at: float) -> Line:
    return Line(at, value=json.dumps({"queue_id": QUEUE.format(short=short), "status": status}).encode())


def test_a_silent_loader_whose_queue_nobody_names_is_not_hidden_by_those_that_speak():
    lines = in_order(*loading("aaaaaa", until=END), *loading("bbbbbb", until=END), *loading("cccccc", until=T0 + 60.0))
    (found,) = decisions_of(lines)
    assert (found.job, found.verdict) == ("stf/loader-producer--cccccc", "stuck")


def test_a_loader_whose_queue_is_named_later_is_one_job():
    well = healthy("aaaaaa", "bbbbbb", until=END + 600.0)
    later = [line for line in every(30.0, "cccccc", until=END + 600.0) if line.at > T0 + 120.0]
    assert decisions_of(in_order(*well, *later, *loading("cccccc", until=END + 600.0))) == []
    (found,) = decisions_of(in_order(*well, *later, *loading("cccccc", until=T0 + 600.0)))
    assert found.job == f"stf/{QUEUE.format(short='cccccc')}-loader-producer"
    assert 0.0 < found.at - T0 - 600.0 - THRESHOLD_SECONDS <= WINDOW_SECONDS + 1.0


def test_a_loader_that_was_restarted_before_its_queue_was_named_is_gone_under_the_name_it_had():
    well = healthy("aaaaaa", "bbbbbb", "dddddd", until=END)
    named = Line(T0 + 500.0, value=report("cccccc", "finished"))
    lines = in_order(*well, named, of_loader("cccccc", "loading", T0), *loading("cccccc", start=T0 + 510.0, until=END))
    replay = Replay(lines, None, read_policies(None))
    (found,) = replay.decisions()
    assert (found.job, found.at < T0 + 500.0) == ("stf/loader-producer--cccccc", True)
    assert replay._partition.jobs[found.job].verdict == "gone"


def test_two_jobs_that_name_themselves_once_are_kept_alive_by_what_names_their_queue_alone():
    said_once = [Line(T0, value=report("cccccc", "started")), of_loader("cccccc", "started", T0 + 1.0)]
    lines = in_order(
        *healthy("aaaaaa", "bbbbbb", until=END),
        *said_once,
        of_queue("cccccc", "error", T0 + 100.0),
        *(of_queue("cccccc", "loading", T0 + seconds) for seconds in range(10, 900, 30)),
    )
    assert decisions_of(lines) == []
    silent = [line for line in lines if line.at < T0 + 400.0 or b"cccccc" not in line.value]
    assert [found.job for found in decisions_of(silent)] == [
        f"stf/{QUEUE.format(short='cccccc')}-{target}" for target in ("arango-connector", "loader-producer")
    ]


def test_a_job_of_which_only_pongs_are_read_is_not_known_by_them():
    pongs = [Line(T0 + seconds, value=report("dddddd", "pong")) for seconds in range(5, 900, 30)]
    replayed = Replay(in_order(*healthy("aaaaaa", until=END), *pongs), None, read_policies(None))
    assert list(replayed.decisions()) == []
    assert (replayed.reports, replayed.rejected) == (16 + len(pongs), {})


# ------------------------------------------------------------------ the score


def found(short: str, at: float, decision: str = "restart", verdict: str = "stuck") -> Decision:
    return Decision(at, f"stf/{short}", verdict, decision, "any", 0, {})


ROWS = Truth(
    jobs={
        "sick": TruthRow("stuck", not_before=100.0, not_after=200.0),
        "well": TruthRow("healthy"),
        "unsure": TruthRow("stuck", not_before=100.0, not_after=200.0, firm=False),
    }
)


@pytest.mark.parametrize(
    ("decisions", "wrong"),
    [
        ([found("sick", 150.0)], []),
        ([found("sick", 150.0, "refuse")], []),
        ([found("sick", 150.0, "refuse"), found("sick", 900.0)], []),
        ([found("sick", 150.0), found("well", 150.0, "refuse")], []),
        ([], ["sick: stuck from 1970-01-01 00:01:40Z on, never found"]),
        (
            [found("sick", 99.0)],
            ["sick: found at 1970-01-01 00:01:39Z, right from 1970-01-01 00:01:40Z to 1970-01-01 00:03:20Z"],
        ),
        (
            [found("sick", 201.0)],
            ["sick: found at 1970-01-01 00:03:21Z, right from 1970-01-01 00:01:40Z to 1970-01-01 00:03:20Z"],
        ),
        ([found("sick", 150.0, verdict="failed")], ["sick: found as failed, truth says stuck"]),
        (
            [found("sick", 150.0), found("well", 7.0)],
            ["well: healthy, yet restarted at 1970-01-01 00:00:07Z as stuck (any)"],
        ),
    ],
)
def test_the_sick_are_to_be_found_in_time_and_the_others_never_to_be_restarted(decisions, wrong):
    result = score(decisions, ROWS)
    assert result.wrong == wrong
    assert result.holds is (not wrong)
    assert result.soft == ["unsure: stuck from 1970-01-01 00:01:40Z on, never found"]
    assert (result.right, result.jobs) == (2 - len(wrong), 2)


@pytest.mark.parametrize(
    ("decisions", "wrong"),
    [
        ([found("sick", 150.0)], []),
        ([found("sick", 9e9, "refuse")], []),
        ([found("sick", 99.0)], ["sick: found at 1970-01-01 00:01:39Z, right from 1970-01-01 00:01:40Z on"]),
        ([found("sick", 150.0, verdict="failed")], ["sick: found as failed, truth says stuck"]),
        ([], ["sick: stuck from 1970-01-01 00:01:40Z on, never found"]),
    ],
)
def test_a_window_without_an_end_is_open(decisions, wrong):
    result = score(decisions, Truth(jobs={"sick": TruthRow("stuck", not_before=100.0)}))
    assert result.wrong == wrong
    assert result.verdicts["stuck"].recall == (0.0 if wrong else 1.0)


def test_a_name_with_its_namespace_is_of_that_job_and_one_without_of_the_only_one():
    decisions, jobs = [found("sick", 150.0)], ["stf/sick", "other/sick"]
    right = score(decisions, Truth(jobs={"stf/sick": ROWS.jobs["sick"], "other/sick": ROWS.jobs["well"]}), jobs)
    assert (right.wrong, right.untold) == ([], [])
    assert score(decisions, ROWS, jobs).wrong == [
        "sick: the name of 2 Jobs (other/sick, stf/sick): the truth has to say of which"
    ]


def test_a_restart_of_a_job_that_the_truth_does_not_list_is_told_and_not_scored():
    result = score([found("sick", 150.0), found("other", 7.0)], ROWS)
    assert result.holds
    assert result.untold == ["stf/other: restarted at 1970-01-01 00:00:07Z as stuck (any)"]


# ------------------------------------------------------------------ the command


def replay(*arguments: object) -> ExitCode:
    return run(["replay", *map(str, arguments)])


def test_jsonl_is_one_object_per_decision_on_stdout_and_nothing_else(capture, capsys):
    code = replay(
        capture, "--jobs", capture.with_name("jobs.json"), "--truth", capture.with_name("truth.json"), "-o", "jsonl"
    )
    printed, told = capsys.readouterr()
    (only,) = map(json.loads, printed.splitlines())
    assert list(only) == DECISION_KEYS
    assert (only["job"], only["verdict"], only["decision"]) == (f"stf/{name_of('dddddd')}", "stuck", "restart")
    assert only["evidence"]["uid"] == "uid-dddddd"
    assert code is ExitCode.OK
    assert "4 of 4 firm Jobs as the truth says: holds" in told


@pytest.mark.parametrize(
    ("truth", "code"),
    [(truth_with("stuck", 0.0), 0), (truth_with("failed", 0.0), 3), (truth_with("stuck", 60.0), 3)],
)
@pytest.mark.parametrize("output", ["table", "jsonl"])
def test_a_truth_that_does_not_hold_is_exit_status_3(capture, capsys, truth, code, output):
    capture.with_name("truth.json").write_text(json.dumps(truth))
    assert replay(capture, "--truth", capture.with_name("truth.json"), "-o", output) == code
    assert ("DOES NOT HOLD" in capsys.readouterr().err) is (code == 3)


def test_the_end_is_that_of_the_truth_unless_until_says_otherwise(capture, capsys):
    early = truth_with("stuck", 0.0) | {"capture_end": SILENT_SINCE + 100.0}
    capture.with_name("truth.json").write_text(json.dumps(early))
    assert replay(capture, "--truth", capture.with_name("truth.json"), "-o", "jsonl") is ExitCode.NO
    assert capsys.readouterr().out == ""
    until = ("--until", str(END))
    assert replay(capture, "--truth", capture.with_name("truth.json"), *until, "-o", "jsonl") is ExitCode.OK
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_beginning_is_that_of_the_truth_unless_since_says_otherwise(capture, capsys):
    jobs = capture.with_name("jobs.json")
    jobs.write_text(json.dumps([*JOBS, job("mmmmmm", created_at=T0 - 400.0)]))
    truth = truth_with("stuck", 0.0) | {"capture_start": T0 - 400.0, "capture_end": T0 + 250.0}
    capture.with_name("truth.json").write_text(json.dumps(truth))
    replay(capture, "--jobs", jobs, "--truth", capture.with_name("truth.json"), "-o", "jsonl")
    assert [json.loads(line)["verdict"] for line in capsys.readouterr().out.splitlines()] == ["never_started"]
    replay(capture, "--jobs", jobs, "--truth", capture.with_name("truth.json"), "--since", T0 - 100.0, "-o", "jsonl")
    assert capsys.readouterr().out == ""


def test_a_packed_capture_is_read_like_a_plain_one(capture, capsys):
    packed = capture.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(capture.read_bytes()))
    outputs = []
    for file in (capture, packed):
        assert replay(file, "-o", "jsonl") is ExitCode.OK
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""


def test_the_table_has_a_row_per_decision_and_counts_in_plain_words(capture, capsys):
    capture.write_bytes(capture.read_bytes() + written(Line(END, value=b"{")) + written(Line(END, value=None)))
    assert replay(capture) is ExitCode.OK
    printed, told = capsys.readouterr()
    header, row = printed.splitlines()
    assert header.split() == ["AT", "JOB", "VERDICT", "DECISION", "REASON", "ATTEMPT", "SILENCE", "THRESHOLD"]
    assert row.split()[:6] == [
        *("2025-06-15", "15:12:45Z"),
        *(f"stf/{name_of('dddddd')}", "stuck", "restart", "loading_stopped"),
    ]
    assert told.splitlines()[0] == f"{len(LINES)} reports, 2 rejected (1 not_json, 1 null), 1 decisions"


def test_without_jobs_it_is_said_what_that_leaves_out(capture, capsys):
    assert replay(capture) is ExitCode.OK
    assert "without --jobs a Job is known by its reports alone: none is never_started" in capsys.readouterr().err
    assert replay(capture, "--jobs", capture.with_name("jobs.json")) is ExitCode.OK
    assert "without --jobs" not in capsys.readouterr().err


def as_kubectl_lists(row: dict[str, object], *, created_at: str, **metadata: object) -> dict[str, object]:
    env = [{"name": name, "value": value} for name, value in row["env"].items()]
    return {
        "metadata": {"name": row["name"], "namespace": "stf", "uid": "u", "creationTimestamp": created_at, **metadata},
        "spec": {"template": {"spec": {"containers": [{"env": env}]}}},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},  # by now
    }


def test_jobs_may_be_those_that_kubectl_lists(tmp_path):
    """They are older than the capture, and the last was quarantined long after it."""
    jobs = tmp_path / "jobs.json"
    rows = [*JOBS, job("mmmmmm")]
    items = [as_kubectl_lists(row, created_at="2025-05-01T00:00:00Z", labels={"team": "data"}) for row in rows]
    items[-1]["metadata"]["annotations"] = {"sf-healer.io/attempt": "3"}
    jobs.write_text(json.dumps({"kind": "List", "items": items}))
    found = decisions_of(LINES, jobs)
    assert [(d.job, d.verdict, d.decision) for d in found] == [
        (f"stf/{name_of('dddddd')}", "stuck", "restart"),
        (f"stf/{name_of('mmmmmm')}", "never_started", "restart"),
    ]
    assert 600.0 < found[1].at - T0 <= 600.0 + WINDOW_SECONDS + 1.0, "of the time before the capture nothing is known"
    assert read_jobs(jobs)[0].fact.labels == {"team": "data"}


def ended(row: dict[str, object], status: dict[str, object], *, created_at: str) -> dict[str, object]:
    return {**as_kubectl_lists(row, created_at=created_at), "status": status}


def failed(at: str, *, status: str = "True") -> dict[str, object]:
    return {"conditions": [{"type": "Failed", "status": status, "lastTransitionTime": at}]}


#: The capture begins at 15:06:40.
ENDED_BEFORE = [{"completionTime": "2025-06-08T00:00:00Z"}, failed("2025-06-15T15:06:39Z")]
STILL_THERE = [{"completionTime": "2025-06-15T15:06:40Z"}, failed("2025-06-16T00:00:00Z"), failed("", status="False")]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (ENDED_BEFORE, "2 Jobs had ended before the capture begins (2025-06-15 15:06:40Z) and are left out"),
        (ENDED_BEFORE[:1], "1 Job had ended before the capture begins (2025-06-15 15:06:40Z) and is left out"),
    ],
)
@pytest.mark.parametrize("output", ["table", "jsonl"])
def test_jobs_that_ended_before_the_capture_are_left_out_and_counted(capture, capsys, statuses, told, output):
    rows = [ended(job(f"old00{n}"), status, created_at="2025-06-01T00:00:00Z") for n, status in enumerate(statuses)]
    capture.with_name("jobs.json").write_text(json.dumps({"items": rows}))
    assert (
        replay(capture, "--jobs", capture.with_name("jobs.json"), "--until", T0 + 2000.0, "-o", output) is ExitCode.OK
    )
    printed = capsys.readouterr()
    assert "old00" not in printed.out
    assert told in printed.err.splitlines()


def test_jobs_that_ended_later_are_replayed(capture, capsys):
    rows = [ended(job(f"new00{n}"), status, created_at="2025-06-01T00:00:00Z") for n, status in enumerate(STILL_THERE)]
    capture.with_name("jobs.json").write_text(json.dumps({"items": rows}))
    assert replay(capture, "--jobs", capture.with_name("jobs.json"), "--until", T0 + 2000.0) is ExitCode.OK
    printed = capsys.readouterr()
    assert [name_of(f"new00{n}") in printed.out for n in range(3)] == [False, True, True], "the first ended in time"
    assert "left out" not in printed.err


# ------------------------------------------------------------------ what a list tells of the time of the capture


def at(seconds: float) -> str:
    """Write a moment after the capture's begin as the API does."""
    return datetime.fromtimestamp(T0 + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def turned(type_: str, status: str, seconds: float) -> dict[str, object]:
    return {"type": type_, "status": status, "lastTransitionTime": at(seconds)}


COMPLETE = {"completionTime": at(120.0), "conditions": [turned("Complete", "True", 120.0)]}
RESUMED = {"startTime": at(400.0), "conditions": [turned("Suspended", "False", 400.0)]}
RESUMED_UNDATED = {"startTime": at(400.0), "conditions": [{"type": "Suspended", "status": "False"}]}
NEVER_SUSPENDED = {"startTime": at(400.0), "conditions": []}
RESUMED_AT_ONCE = {"startTime": at(-10.0), "conditions": [turned("Suspended", "False", -10.0)]}
FAILED_BEFORE_IT_WAS_RESUMED = {"conditions": [turned("Failed", "True", 120.0), turned("Suspended", "False", 400.0)]}
COMPLETE_WHEN_ITS_PODS_HAD_GONE = {
    "completionTime": at(5000.0),
    "conditions": [turned("SuccessCriteriaMet", "True", 120.0), turned("Complete", "True", 5000.0)],
}
FAILED_WHEN_ITS_PODS_HAD_GONE = {
    "conditions": [turned("FailureTarget", "True", 120.0), turned("Failed", "True", 5000.0)]
}


def listed(file: Path, status: dict[str, object], **metadata: object) -> Path:
    """Write a list of the Jobs of LINES and of one that says nothing: created with the capture, in this status."""
    items = [as_kubectl_lists(row, created_at=at(0.0)) for row in [*JOBS, job("mmmmmm")]]
    items[-1]["status"] = status
    items[-1]["metadata"].update(metadata)
    file.write_text(json.dumps({"items": items}))
    return file


@pytest.mark.parametrize(
    ("status", "metadata", "found"),
    [
        (COMPLETE, {}, None),
        ({"completionTime": at(120.0)}, {}, None),
        ({"completionTime": at(0.0)}, {"creationTimestamp": at(1.0)}, None),
        ({"conditions": [turned("Failed", "True", 120.0)]}, {}, ("failed", "job_failed", 120.0)),
        ({"conditions": [turned("Failed", "False", 120.0)]}, {}, ("never_started", "no_report", 600.0)),
        ({"completionTime": at(5000.0)}, {}, ("never_started", "no_report", 600.0)),
        ({}, {"deletionTimestamp": at(120.0)}, None),
        ({"conditions": [turned("Failed", "True", 130.0)]}, {"deletionTimestamp": at(120.0)}, None),
        (RESUMED, {}, ("never_started", "no_report", 1000.0)),
        (RESUMED_UNDATED, {}, ("never_started", "no_report", 1000.0)),
        (NEVER_SUSPENDED, {}, ("never_started", "no_report", 600.0)),
        (RESUMED_AT_ONCE, {}, ("never_started", "no_report", 600.0)),
        (FAILED_BEFORE_IT_WAS_RESUMED, {}, ("failed", "job_failed", 120.0)),
        ({"conditions": [turned("SuccessCriteriaMet", "True", 120.0)]}, {}, None),
        (COMPLETE_WHEN_ITS_PODS_HAD_GONE, {}, None),
        ({"conditions": [turned("FailureTarget", "True", 120.0)]}, {}, ("failed", "job_failed", 120.0)),
        (FAILED_WHEN_ITS_PODS_HAD_GONE, {}, ("failed", "job_failed", 120.0)),
    ],
)
def test_what_became_of_a_listed_job_within_the_capture_is_replayed(tmp_path, status, metadata, found):
    decisions = decisions_of(LINES, listed(tmp_path / "jobs.json", status, **metadata), until=T0 + 1200.0)
    told = [decision for decision in decisions if "mmmmmm" in decision.job]
    assert [(decision.verdict, decision.reason) for decision in told] == ([found[:2]] if found else [])
    if found:
        assert 0.0 < told[0].at - T0 - found[2] <= WINDOW_SECONDS + 1.0


def test_a_job_that_is_complete_by_the_list_falls_silent_and_is_not_stuck(tmp_path):
    lines = in_order(*LINES, *every(30.0, "mmmmmm", until=T0 + 90.0))
    found = decisions_of(lines, listed(tmp_path / "jobs.json", COMPLETE))
    assert [decision.job for decision in found] == [f"stf/{name_of('dddddd')}"]
    error = Line(T0 + 119.0, value=report("mmmmmm", "error"))
    found = decisions_of(in_order(*lines, error), listed(tmp_path / "jobs.json", COMPLETE))
    assert ("failed", "error_and_pod_ended") in {(decision.verdict, decision.reason) for decision in found}


def test_a_job_that_was_restarted_and_speaks_is_complete_when_the_list_says_so(tmp_path):
    complete = {"conditions": [turned("Complete", "True", 601.0)]}
    spoke = [*every(10.0, "mmmmmm", until=T0 + 90.0), *every(10.0, "mmmmmm", start=T0 + 450.0, until=T0 + 600.0)]
    lines = in_order(*healthy("aaaaaa", "bbbbbb", "cccccc", "dddddd", until=T0 + 1500.0), *spoke)
    found = decisions_of(lines, listed(tmp_path / "jobs.json", complete))
    assert [(d.verdict, d.attempt) for d in found] == [("stuck", 0)]


def test_a_job_that_is_suspended_by_the_list_was_not_before(tmp_path):
    suspended = {"conditions": [turned("Suspended", "True", 700.0)]}
    found = decisions_of(LINES, listed(tmp_path / "jobs.json", suspended))
    assert "never_started" in {decision.verdict for decision in found if "mmmmmm" in decision.job}
    undated = {"conditions": [{"type": "Suspended", "status": "True"}]}
    found = decisions_of(LINES, listed(tmp_path / "jobs.json", undated))
    assert "mmmmmm" not in {decision.job for decision in found}
    assert [decision.job for decision in found] == [f"stf/{name_of('dddddd')}"]


def test_what_became_of_a_job_after_its_restart_was_of_no_concern_to_the_one_in_its_place(tmp_path):
    """The list tells of the Job as it went on without a restart."""
    late = {"conditions": [turned("Failed", "True", 1000.0)]}
    lines = in_order(*LINES, *healthy("aaaaaa", "bbbbbb", "cccccc", until=T0 + 1200.0))
    found = decisions_of(lines, listed(tmp_path / "jobs.json", late))
    assert [(d.verdict, d.attempt) for d in found if "mmmmmm" in d.job] == [("never_started", 0)]


@pytest.mark.parametrize(("late", "told"), [(1, "1 line is"), (2, "2 lines are")])
@pytest.mark.parametrize("output", ["table", "jsonl"])
def test_lines_dated_after_the_end_are_counted(capture, capsys, late, told, output):
    line = written(Line(END + 60.0, value=b""))
    plain = capture.read_bytes()
    capture.write_bytes(plain + line * late)
    assert replay(capture, "--until", END, "-o", output) is ExitCode.OK
    printed = capsys.readouterr()
    assert name_of("dddddd") in printed.out
    assert f"{told} dated after the end (2025-06-15 15:21:40Z) and left out" in printed.err.splitlines()
    assert replay(capture, "-o", output) is ExitCode.OK
    assert "left out" not in capsys.readouterr().err
    capture.write_bytes(line * late + plain)
    assert replay(capture, "--until", END, "-o", output) is ExitCode.OK
    assert (
        f"{told} dated ahead of later ones, and taken to have arrived with those"
        in capsys.readouterr().err.splitlines()
    )


@pytest.mark.parametrize("output", ["table", "jsonl"])
def test_a_line_that_is_no_record_is_told_with_file_and_number(capture, capsys, output):
    lines = capture.read_bytes().splitlines(keepends=True)
    capture.write_bytes(b"".join([*lines[:6], b'{"at": "soon"}\n', *lines[6:]]))
    assert replay(capture, "-o", output) is ExitCode.ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"Error: {capture}: line 7 is no record of a capture")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("option", ["--jobs", "--truth"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"jobs": {"a": {}}}', b'[{"name": "a"}]'])
def test_a_broken_file_beside_the_capture_is_told_with_its_name(capture, capsys, option, content):
    broken = capture.with_name("broken.json")
    broken.write_bytes(content)
    assert replay(capture, option, broken) is ExitCode.ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"Error: {broken}: ")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("option", ["--jobs", "--truth"])
def test_a_file_that_is_nested_too_deeply_is_told_with_its_name(capture, capsys, option):
    deep = capture.with_name("deep.json")
    deep.write_text('{"jobs": {}, "notes": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert replay(capture, option, deep) is ExitCode.ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"Error: {deep}: ")
    assert len(told.splitlines()) == 1


DAY_SECONDS = 86_400.0
IN_A_MONTH, LATER = END + 32 * DAY_SECONDS, END + 33 * DAY_SECONDS
BACK, LAST = Line(T0 + 1.0), len(LINES)
FIRST_PAUSE = f"line 2 is dated {T0:.0f}, 20,254.6 days (at most 31) after line 1"


@pytest.mark.parametrize(
    ("lines", "until", "told"),
    [
        ([Line(0.0), *LINES], (), FIRST_PAUSE),
        ([Line(0.0), *LINES], ("--until", END), FIRST_PAUSE),
        (
            [*LINES, BACK, Line(IN_A_MONTH)],
            (),
            f"line {LAST + 2} is dated {IN_A_MONTH:.0f}, 32.0 days (at most 31) after line {LAST}",
        ),
        (
            [*LINES, BACK, Line(LATER)],
            ("--until", IN_A_MONTH),
            f"line {LAST}, the newest, is dated {END:.0f}, 32.0 days (at most 31) before {IN_A_MONTH:.0f}",
        ),
    ],
)
def test_a_pause_of_more_than_a_month_is_a_wrong_date_and_told_with_file_and_line(capture, capsys, lines, until, told):
    capture.write_bytes(b"".join(map(written, lines)))
    assert replay(capture, *until) is ExitCode.ERROR
    assert capsys.readouterr().err == f"Error: {capture}: {told}\n"


def test_any_pause_can_be_read_and_one_of_a_month_replayed(capture):
    lines = [Line(0.0), Line(END), Line(T0), Line(END + 31 * DAY_SECONDS)]
    capture.write_bytes(b"".join(map(written, lines)))
    assert list(read_file(capture)) == lines
    capture.write_bytes(b"\n".join(map(written, lines[1:])))
    bounds = {"until": END + 62 * DAY_SECONDS, "longest_pause_seconds": LONGEST_PAUSE_SECONDS}
    assert list(read_file(capture, **bounds)) == lines[1:]


MILLISECONDS = END * 1000.0


@pytest.mark.parametrize("seconds", [MILLISECONDS, 1e300, -1.0])
@pytest.mark.parametrize("field", ["capture_end", "not_before", "not_after"])
def test_a_time_of_a_truth_that_is_none_in_seconds_is_told_with_its_file_and_field(capture, capsys, field, seconds):
    truth = truth_with("stuck", 0.0)
    (truth if field == "capture_end" else truth["jobs"][name_of("dddddd")])[field] = seconds
    file = capture.with_name("truth.json")
    file.write_text(json.dumps(truth))
    assert replay(capture, "--truth", file) is ExitCode.ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"Error: {file}: ")
    assert f"{field}`" in told


def test_a_window_with_an_end_and_no_beginning_is_told_with_its_file(capture, capsys):
    file = capture.with_name("truth.json")
    file.write_text(json.dumps({"jobs": {name_of("dddddd"): {"verdict": "stuck", "not_after": END}}}))
    assert replay(capture, "--truth", file) is ExitCode.ERROR
    assert capsys.readouterr().err == f"Error: {file}: `not_after` without `not_before` - at `$.jobs[...]`\n"


def test_a_window_that_ends_before_it_begins_is_told_with_its_file(capture, capsys):
    file = capture.with_name("truth.json")
    row = {"verdict": "stuck", "not_before": END, "not_after": T0}
    file.write_text(json.dumps({"jobs": {name_of("dddddd"): row}}))
    assert replay(capture, "--truth", file) is ExitCode.ERROR
    assert capsys.readouterr().err == f"Error: {file}: `not_after` before `not_before` - at `$.jobs[...]`\n"


@pytest.mark.parametrize("created_at", [MILLISECONDS, 253_370_764_800.0, 1e300, -1.0])
def test_a_job_created_at_no_time_is_told_with_its_file_and_field(capture, capsys, created_at):
    file = capture.with_name("jobs.json")
    file.write_text(json.dumps([*JOBS, job("mmmmmm", created_at=created_at)]))
    assert replay(capture, "--jobs", file) is ExitCode.ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"Error: {file}: ")
    assert "`$[4].created_at`" in told


@pytest.mark.parametrize("created_at", ["9999-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_listed_job_created_at_no_time_is_told_with_its_file_and_field(capture, capsys, created_at):
    file = capture.with_name("jobs.json")
    file.write_text(json.dumps({"items": [as_kubectl_lists(JOBS[0], created_at=created_at)]}))
    assert replay(capture, "--jobs", file) is ExitCode.ERROR
    told = f"metadata.creationTimestamp of stf/{name_of('aaaaaa')} is before 1970 or after 2099"
    assert capsys.readouterr().err == f"Error: {file}: {told}\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--until", value) for value in ("nan", "inf", "-inf", "-1", "1e300", str(MILLISECONDS))),
        *(("--silence-threshold", value) for value in ("nan", "inf", "-inf", "0", "1e300")),
    ],
)
def test_a_number_that_is_no_time_is_a_usage_error_that_names_its_option(capture, capsys, option, value):
    assert replay(capture, option, value) is ExitCode.USAGE
    told = capsys.readouterr()
    assert f"Error: Invalid value for '{option}': " in told.err
    assert not told.out


def test_another_policy_decides_otherwise_and_a_broken_one_is_a_usage_error(capture, capsys):
    policy = capture.with_name("policy.toml")
    policy.write_text("[defaults]\nreporting = true\nsilence_threshold_seconds = 700\n")
    assert replay(capture, "--policy", policy, "-o", "jsonl") is ExitCode.OK
    (only,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert only["evidence"]["threshold_seconds"] == 700.0
    policy.write_text("[defaults]\nsilence_threshold_second = 700\n")
    assert replay(capture, "--policy", policy) is ExitCode.USAGE
    assert "--policy" in capsys.readouterr().err


def test_a_capture_that_cannot_be_read_twice_is_not_compared(capture, capsys):
    pipe = capture.with_name("pipe")
    os.mkfifo(pipe)
    policy = capture.with_name("policy.toml")
    policy.write_text("")
    assert replay(pipe, "--against", policy) is ExitCode.USAGE
    assert f"{pipe} is no regular file: --against reads the capture twice" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path, capsys):
    assert replay(tmp_path / "nobody-wrote-this.jsonl") is ExitCode.USAGE
    assert "nobody-wrote-this.jsonl" in capsys.readouterr().err


def test_replay_needs_neither_kafka_nor_a_cluster(capture):
    look = (
        "import sys\nfrom sf_healer.cli import run\n"
        f"code = run(['replay', {str(capture)!r}, '-o', 'jsonl'])\n"
        "print(int(code), sorted(set(sys.modules) & {'aiokafka', 'faust', 'kubernetes', 'httpx'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"
    assert len(done.stdout.splitlines()) == 1
