"""Two policies over one capture: only what differs is told."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.adapters.policy_file import SHIPPED_POLICY
from sf_healer.backtest import Change, Difference, Restarts, differences, restarts
from sf_healer.captures import Line, written
from sf_healer.cli import ExitCode, run
from sf_healer.replay import Decision, Truth, TruthRow, percentile, score

T0 = 1_750_000_000.0
QUEUE = "loader-btcusdt-api-trades-2025-06-01-aaaaaa"
JOB = f"stf/{QUEUE}-arango-connector"
STUCK = ("stuck", "restart", "loading_stopped")
REFUSED = ("stuck", "refuse", "storm")


def a_decision(at, kind=STUCK, job=JOB):
    verdict, decision, reason = kind
    return Decision(at=at, job=job, verdict=verdict, decision=decision, reason=reason, attempt=0, evidence={})


def short(found):
    return [(each.change, each.at, each.seconds) for each in found]


def test_the_same_decisions_differ_in_nothing():
    same = [a_decision(1.0), a_decision(2.0, REFUSED), a_decision(3.0)]
    assert differences(same, same) == []


@pytest.mark.parametrize(
    ("new", "old", "told"),
    [
        ([(1.0, STUCK)], [], [(Change.ADDED, 1.0, 0.0)]),
        ([], [(1.0, STUCK)], [(Change.GONE, 1.0, 0.0)]),
        ([(1.0, STUCK)], [(4.5, STUCK)], [(Change.MOVED, 1.0, -3.5)]),
        ([(1.0, STUCK)], [(1.0, REFUSED)], [(Change.ADDED, 1.0, 0.0), (Change.GONE, 1.0, 0.0)]),
        ([(1.0, STUCK)], [(0.5, REFUSED), (1.0, STUCK)], [(Change.GONE, 0.5, 0.0)]),
        ([(1.0, STUCK), (9.0, STUCK)], [(1.0, STUCK)], [(Change.ADDED, 9.0, 0.0)]),
    ],
)
def test_a_decision_is_added_gone_or_moved(new, old, told):
    assert short(differences([a_decision(*each) for each in new], [a_decision(*each) for each in old])) == told


def test_jobs_are_compared_each_for_itself_and_told_in_order_of_time():
    new = [a_decision(5.0, job="stf/a"), a_decision(6.0, job="stf/b")]
    old = [a_decision(1.0, job="stf/b"), a_decision(5.0, job="stf/a"), a_decision(2.0, job="stf/c")]
    assert [(each.job, each.change) for each in differences(new, old)] == [
        ("stf/c", Change.GONE),
        ("stf/b", Change.MOVED),
    ]


DECISIONS = st.lists(
    st.builds(
        a_decision, st.integers(0, 9).map(float), st.sampled_from([STUCK, REFUSED]), st.sampled_from(["stf/a", "stf/b"])
    ),
    max_size=6,
)


@given(DECISIONS, DECISIONS)
def test_the_differences_make_the_one_out_of_the_other(new, old):
    rebuilt = list(old)
    for each in differences(new, old):
        if each.old is not None:
            rebuilt.remove(each.old)
        if each.new is not None:
            rebuilt.append(each.new)
    kind = msgspec.json.encode
    assert sorted(map(kind, rebuilt)) == sorted(map(kind, new))


def test_what_a_person_asks_for_is_how_many_jobs_more_and_how_much_later():
    new = [a_decision(5.0, job="stf/a"), a_decision(50.0, job="stf/b"), a_decision(9.0, REFUSED, job="stf/c")]
    old = [a_decision(1.0, job="stf/a"), a_decision(7.0, job="stf/c"), a_decision(99.0, job="stf/a")]
    assert restarts(new, old) == Restarts(more=1, fewer=1, both=1, earlier=0, later=1, median_seconds=4.0)
    assert restarts(old, new).median_seconds == -4.0
    assert restarts([], old) == Restarts(more=0, fewer=2, both=0, earlier=0, later=0, median_seconds=0.0)


# ---- the command


@pytest.fixture
def capture(tmp_path):
    """Make a capture whose one Job is silent for 200 s, then speaks for a while."""

    def loading(at):
        value = {"queue_id": QUEUE, "producer": "arango-connector__aaaaaa", "status": "loading", "event": "loading"}
        return Line(at=T0 + at, value=json.dumps(value).encode())

    lines = [loading(0.0), *(loading(200.0 + 30.0 * number) for number in range(10))]
    file = tmp_path / "capture.jsonl"
    file.write_bytes(b"".join(written(line) for line in lines))
    (tmp_path / "short.toml").write_text("[defaults]\nsilence_threshold_seconds = 60\n")
    return file


def test_against_prints_only_what_differs_and_ends_with_0(capture, capsys):
    short_policy = str(capture.parent / "short.toml")
    assert run(["replay", str(capture), "--policy", short_policy, "--against", short_policy]) == ExitCode.OK
    assert "stuck" not in capsys.readouterr().out
    arguments = ["replay", str(capture), "--policy", short_policy, "--against", str(SHIPPED_POLICY)]
    assert run([*arguments, "-o", "jsonl"]) == ExitCode.OK
    (line,) = capsys.readouterr().out.splitlines()
    difference = msgspec.json.decode(line, type=Difference)
    assert (difference.change, difference.job, difference.new.verdict) == (Change.ADDED, JOB, "stuck")
    assert run(arguments) == ExitCode.OK
    printed = capsys.readouterr()
    assert "added" in printed.out
    counts, asked, *_ = printed.err.splitlines()
    assert counts.endswith(f"1 differences (1 added), 1 decisions by {short_policy}, 0 by {SHIPPED_POLICY}")
    assert asked == f"1 Job more, 0 fewer would be restarted by {short_policy} than by {SHIPPED_POLICY}; none by both"


def test_that_the_same_jobs_are_restarted_earlier_is_said(capture, capsys):
    slower = capture.parent / "slower.toml"
    slower.write_text("[defaults]\nsilence_threshold_seconds = 120\n")
    arguments = ["replay", str(capture), "--policy", str(slower), "--against", str(slower)]
    assert run([*arguments, "--silence-threshold", "60"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert (
        f"by {slower} with --silence-threshold 60 than by {slower}; "
        "1 by both: 1 earlier, 0 later, the median 60.0 s earlier\n" in printed.err
    )
    assert "moved" in printed.out
    assert run(arguments) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "0 differences, " in printed.err
    assert "0 Jobs more, 0 fewer would be restarted" in printed.err
    assert "1 by both: 0 earlier, 0 later\n" in printed.err


def test_a_score_names_the_policies_it_is_of(capture, capsys):
    truth = capture.parent / "truth.json"
    truth.write_text(json.dumps({"jobs": {JOB.partition("/")[2]: {"verdict": "healthy"}}}))
    base = ["replay", str(capture), "--truth", str(truth)]
    for options, name in (
        ([], "the shipped policies"),
        (["--silence-threshold", "60"], "the shipped policies with --silence-threshold 60"),
        (["--policy", str(capture.parent / "short.toml")], str(capture.parent / "short.toml")),
    ):
        run([*base, *options])
        assert f"\nby {name}:\n" in capsys.readouterr().err


def test_another_silence_threshold_is_asked_for_without_a_policy_file(capture, capsys):
    rules = '[defaults]\nsilence_threshold_seconds = 600\n[[policy]]\nname = "a"\ntargets = ["arango-connector"]\n'
    policy = capture.parent / "rules.toml"
    policy.write_text(f"{rules}silence_threshold_seconds = 500\n")
    arguments = ["replay", str(capture), "--policy", str(policy), "--against", str(policy), "-o", "jsonl"]
    assert run([*arguments, "--silence-threshold", "120"]) == ExitCode.OK
    (line,) = capsys.readouterr().out.splitlines()
    difference = msgspec.json.decode(line, type=Difference)
    assert (difference.change, difference.new.evidence["threshold_seconds"]) == (Change.ADDED, 120.0)
    assert run(arguments) == ExitCode.OK
    assert capsys.readouterr().out == ""


def test_against_with_a_truth_scores_both_and_answers_for_the_new_one(capture, capsys):
    truth = capture.parent / "truth.json"
    truth.write_text(json.dumps({"jobs": {JOB.partition("/")[2]: {"verdict": "healthy"}}}))
    short_policy, shipped = str(capture.parent / "short.toml"), str(SHIPPED_POLICY)
    base = ["replay", str(capture), "--truth", str(truth)]
    assert run([*base, "--policy", short_policy, "--against", shipped]) == ExitCode.NO
    told = capsys.readouterr().err
    assert f"by {SHIPPED_POLICY}:\n1 of 1 firm Jobs as the truth says: holds\n" in told
    assert "stuck: precision 0.000 (0 of 1 found)  recall - (0 of 0 sick)" in told
    assert run([*base, "--policy", shipped, "--against", short_policy]) == ExitCode.OK


# ---- precision, recall and delay


def test_each_verdict_has_its_precision_recall_and_delays():
    sick = {"verdict": "stuck", "not_before": 10.0, "not_after": 20.0}
    truth = Truth(
        jobs={
            "in-time": TruthRow(**sick),
            "late": TruthRow(**sick),
            "missed": TruthRow(**sick),
            "misnamed": TruthRow(**sick),
            "well": TruthRow(verdict="healthy"),
            "well-refused": TruthRow(verdict="healthy"),
            "soft": TruthRow(**sick, firm=False),
            "left-alone": TruthRow(verdict="mute"),
        }
    )
    failed = ("failed", "restart", "error_final")
    decisions = [
        a_decision(12.0, job="stf/in-time"),
        a_decision(21.0, job="stf/late"),
        a_decision(15.0, failed, job="stf/misnamed"),
        a_decision(15.0, job="stf/well"),
        a_decision(15.0, REFUSED, job="stf/well-refused"),
        a_decision(15.0, job="stf/soft"),
    ]
    result = score(decisions, truth)
    stuck, failed_ones = result.verdicts["stuck"], result.verdicts["failed"]
    assert (stuck.found_rightly, stuck.found, stuck.sick) == (1, 4, 4)
    assert (stuck.precision, stuck.recall, stuck.delay_seconds) == (0.25, 0.25, [2.0])
    assert (failed_ones.precision, failed_ones.recall) == (0.0, None)
    assert result.verdicts.keys() == {"stuck", "failed"}
    assert not result.holds


def test_a_verdict_that_is_never_given_has_no_precision():
    result = score([], Truth(jobs={"a": TruthRow(verdict="stuck", not_before=1.0, not_after=2.0)}))
    assert (result.verdicts["stuck"].precision, result.verdicts["stuck"].recall) == (None, 0.0)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_a_value_that_occurred(share, value):
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value
    assert percentile([7.0], share) == 7.0
