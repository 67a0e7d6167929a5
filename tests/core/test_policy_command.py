"""`sf-healer policy check`: faults with their lines, the policies as they come out, and who gets which."""

import json

import pytest
import yaml

from sf_healer.adapters import policy_file
from sf_healer.adapters.policy_file import SHIPPED_POLICY
from sf_healer.cli import ExitCode, run
from sf_healer.core.policy import PolicyError

TEXT = """\
[defaults]
silence_threshold_seconds = 120

[[policy]]
name = "consumers"
targets = ["arango-connector", "graph-builder"]
names = ["loader-*"]
labels = {team = "data"}
consumer = true
attempts = 5
stall_threshold_seconds = 900

[admission]
rate_per_minute = 12
"""


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(TEXT)
    return file


def check(*arguments):
    return run(["policy", "check", *map(str, arguments)])


def test_the_shipped_policy_is_right(capsys):
    assert check(SHIPPED_POLICY) == ExitCode.OK
    printed = capsys.readouterr()
    assert "every other Job" in printed.out
    assert printed.err == "admission: every limit as by default\n"


def test_a_policy_is_printed_with_what_it_inherits(policy, capsys):
    assert check(policy) == ExitCode.OK
    printed = capsys.readouterr()
    header, consumers, default = printed.out.splitlines()
    assert header.split()[:2] == ["POLICY", "MATCHES"]
    assert "target arango-connector or graph-builder and name loader-* and label team=data" in consumers
    assert consumers.split()[-7:] == ["120s", "600s", "600s", "120s", "120s", "900s", "5"]
    assert default.split()[-7:] == ["120s", "600s", "600s", "60s", "120s", "off", "3"]
    assert printed.err == "admission: rate_per_minute 12 (default 6)\n"


def test_a_learned_threshold_is_told_with_its_bounds(policy, capsys):
    policy.write_text("[defaults]\nlearn_cadence = true\n")
    assert check(policy) == ExitCode.OK
    assert "300s, then learned: 60s to 1800s" in capsys.readouterr().out
    policy.write_text("[defaults]\nlearn_cadence = true\nconsumer = true\n")
    assert check(policy) == ExitCode.OK
    assert "300s, then as learned" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_a_policy_is_printed_for_machines(policy, capsys, output):
    assert check(policy, "-o", output) == ExitCode.OK
    told = yaml.safe_load(capsys.readouterr().out)
    first, last = told["policies"]
    assert (first["name"], first["attempts"], first["matches"]["labels"]) == ("consumers", 5, {"team": "data"})
    assert (last["name"], last["matches"]) == ("default", None)
    assert told["admission"]["rate_per_minute"] == 12


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (TEXT.replace("silence_threshold_seconds", "silence_treshold_seconds"), "line 2: "),
        (TEXT.replace("attempts = 5", 'attempts = "many"'), "line 10: "),
        (TEXT + "storm_share = -1\n", "line 15: admission: storm_share is negative"),
        ("[defaults\n", "line 1: not TOML"),
    ],
)
def test_a_fault_is_told_with_file_and_line_and_exit_code_3(policy, capsys, broken, told):
    policy.write_text(broken)
    assert check(policy) == ExitCode.NO
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{policy}: {told}")


SEVERAL = """\
[defaults]
silence_treshold_seconds = 120
startup_threshold_seconds = -1

[[policy]]
name = "loaders"
targets = "loader"
attempts = "many"

[[policy]]
targets = ["graph-builder"]

[admision]
rate_per_minute = 12
"""


def test_all_faults_are_told_in_one_run_each_with_its_line_and_what_was_meant(policy, capsys):
    policy.write_text(SEVERAL)
    assert check(policy) == ExitCode.NO
    assert capsys.readouterr().err.splitlines() == [
        f"{policy}: line {told}"
        for told in (
            "2: defaults: unknown field `silence_treshold_seconds`; did you mean silence_threshold_seconds?",
            "3: defaults: startup_threshold_seconds is negative",
            "7: policy 'loaders': targets must be a list of texts: [\"loader\"]",
            "8: policy 'loaders': attempts must be a whole number, not 'many'",
            "10: policy number 2 has no name",
            "13: unknown table `admision`; did you mean admission?",
        )
    ]


def test_a_worker_is_told_the_first_fault_and_how_many_more_there_are(policy):
    policy.write_text(SEVERAL)
    with pytest.raises(PolicyError, match=r"^line 2: .*threshold_seconds\? \(and 5 more\)$"):
        policy_file.read(policy)


def test_a_text_full_of_faults_is_told_up_to_a_number(policy, capsys):
    policy.write_text("[defaults]\n" + "".join(f"strange_{number} = 1\n" for number in range(2_000)))
    assert check(policy) == ExitCode.NO
    assert len(capsys.readouterr().err.splitlines()) == 50


def test_a_policy_that_can_never_be_used_is_a_warning(policy, capsys):
    policy.write_text('[[policy]]\nname = "all"\nnames = ["*"]\n\n[[policy]]\nname = "late"\ntargets = ["loader"]\n')
    assert check(policy) == ExitCode.OK
    told = "line 5: warning: policy 'late' is never used: 'all', before it, matches all its Jobs"
    assert capsys.readouterr().err.splitlines()[0] == f"{policy}: {told}"
    assert check(policy, "-o", "json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["warnings"] == [told]


def test_a_file_that_is_no_text_is_a_fault_and_one_that_is_missing_a_wrong_call(policy, capsys):
    policy.write_bytes(b"\xff\xfe")
    assert check(policy) == ExitCode.NO
    assert check(policy.with_name("nowhere.toml")) == ExitCode.USAGE


def env(target):
    return [{"name": "QUEUE_ID", "value": "q"}, {"name": "TELEMETRY_PRODUCER_ID", "value": f"{target}__abc"}]


def manifest(name, target, **labels):
    return {
        "metadata": {"name": name, "namespace": "stf", "labels": labels},
        "spec": {"template": {"spec": {"containers": [{"env": env(target)}]}}},
    }


def test_kubectls_jobs_are_told_their_policies_by_target_name_and_label(policy, tmp_path, capsys):
    jobs = tmp_path / "jobs.json"
    items = [
        manifest("loader-a", "graph-builder", team="data"),
        manifest("loader-b", "graph-builder"),
        manifest("other", "graph-builder", team="data"),
    ]
    jobs.write_text(json.dumps({"kind": "List", "items": items}))
    assert check(policy, "--jobs", jobs, "-o", "json") == ExitCode.OK
    assert [(row["job"], row["policy"]) for row in json.loads(capsys.readouterr().out)] == [
        ("stf/loader-a", "consumers"),
        ("stf/loader-b", "default"),
        ("stf/other", "default"),
    ]


def test_a_captures_jobs_are_told_their_policies_and_policies_for_nobody_are_named(tmp_path, capsys):
    jobs = tmp_path / "jobs.json"
    variables = {each["name"]: each["value"] for each in env("gnn-trainer")}
    jobs.write_text(json.dumps([{"name": "a", "uid": "u", "created_at": 1.0, "env": variables}]))
    assert check(SHIPPED_POLICY, "--jobs", jobs) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["stf/a", "gnn-trainer", "trainer"]
    assert "policy visualizer is that of none of these Jobs" in printed.err
    assert "policy trainer" not in printed.err


@pytest.mark.parametrize("content", ["{", '{"items": 7}', '{"items": [{}]}', '[{"name": 7}]', '{"items": [7]}'])
def test_a_file_of_jobs_that_cannot_be_read_is_told_with_its_name(tmp_path, capsys, content):
    jobs = tmp_path / "jobs.json"
    jobs.write_text(content)
    assert check(SHIPPED_POLICY, "--jobs", jobs) == ExitCode.ERROR
    assert str(jobs) in capsys.readouterr().err
