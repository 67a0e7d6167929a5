"""The command line itself: help without heavy imports, and every way to end with its exit code."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from pydantic_core import SchemaError

from sf_healer import cli
from sf_healer.cli import COMMANDS, ExitCode, Output, emit, run
from sf_healer.settings import SettingsError
from tests.lab.captures import generate_capture, write_capture

COMMAND_SECONDS = 60.0
HEAVY = ("faust", "aiokafka", "kubernetes", "structlog", "rich", "prometheus_client", "httpx")


def python(code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def healer(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return python("from sf_healer.cli import main; main()", *arguments, **environ)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Put one more command into the group, which does what the test says."""

    def put(body):
        made = click.Command("trial", callback=body)
        monkeypatch.setattr(cli, "COMMANDS", {**COMMANDS, "trial": "For a test."})
        monkeypatch.setitem(sys.modules, "sf_healer.commands.trial", type("Module", (), {"command": made}))

    return put


def test_help_names_every_command_and_exit_code_and_imports_none_of_them():
    done = python(
        "import sys\nfrom sf_healer.cli import run\n"
        "code = run(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('HEAVY', heavy, int(code))"
    )
    assert "HEAVY [] 0" in done.stdout
    for name, told in COMMANDS.items():
        assert name in done.stdout
        assert told.split()[0] in done.stdout
    for code in ExitCode:
        assert str(code.value) in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name, capsys):
    assert run([name, "--help"]) == ExitCode.OK
    assert f"Usage: sf-healer {name}" in capsys.readouterr().out


def test_the_version_is_told():
    done = healer("--version")
    assert (done.returncode, done.stdout) == (0, "sf-healer 0.1.0\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["topics", "--nosuch"],
        ["topics", "-o", "xml"],
        ["feed"],
        ["feed", "/nowhere.jsonl"],
        ["feed", __file__, "--speed", "0"],
        ["feed", __file__, "--speed", "2", "--real-time"],
        ["feed", __file__, "--bootstrap", "a:b"],
        ["capture", __file__],
    ],
)
def test_a_wrong_call_is_exit_code_2_and_prints_no_data(arguments):
    done = healer(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["feed", __file__, "--speed"],
        ["capture", "nowhere.jsonl", "--seconds"],
        ["capture", "nowhere.jsonl", "--since-seconds"],
        ["replay", __file__, "--until"],
        ["topics", "--wait-seconds"],
        ["restart", "loader", "--wait"],
        ["resolve", "loader", "--create", "--wait"],
        ["chaos", "submit", __file__, "--patience-seconds"],
        ["chaos", "submit", __file__, "--poll-seconds"],
    ],
)
def test_what_is_not_a_number_is_not_in_any_range(arguments, capsys):
    assert run([*arguments, "nan"]) == ExitCode.USAGE
    assert f"Invalid value for '{arguments[-1]}': nan is not a number." in capsys.readouterr().err


def put_in_the_way(path: Path, what: str) -> None:
    """Put there what a new file may not take the place of."""
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("what", ["pipe", "link"])
@pytest.mark.parametrize("arguments", [["capture", "--force"], ["demo", "--env-file"]])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, capsys, arguments, what):
    """As root, with a device in the place of the pipe, that would be the end of the device."""
    path = tmp_path / "there"
    put_in_the_way(path, what)
    before = path.lstat()
    assert run([*arguments, str(path)]) == ExitCode.USAGE
    assert f"Error: {path} is no regular file\n" in capsys.readouterr().err
    assert path.lstat() == before
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_the_demo_does_not_overwrite_a_file_that_it_did_not_write(tmp_path, capsys):
    mine = tmp_path / "mine.env"
    mine.write_text("export TOKEN=x\n")
    assert run(["demo", "--env-file", str(mine)]) == ExitCode.USAGE
    assert f"Error: {mine} exists, and no demo wrote it\n" in capsys.readouterr().err
    assert mine.read_text() == "export TOKEN=x\n"


@pytest.mark.parametrize("name", ["nowhere/x.jsonl", f"{'x' * 256}.jsonl", f"{'x' * 245}.jsonl.gz"])
def test_a_capture_that_cannot_be_written_is_one_clear_line_before_anything_connects(tmp_path, capsys, name):
    assert run(["capture", str(tmp_path / name)]) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path / name} cannot be written: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["file/x.env", "x" * 256])
def test_a_file_of_the_demo_that_cannot_be_written_is_one_clear_line_before_anything_starts(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    assert run(["demo", "--env-file", str(tmp_path / name)]) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path / name} cannot be written: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["feed", __file__], ["capture", "nowhere.jsonl"]])
def test_a_topic_without_a_name_is_not_taken_for_that_of_the_settings(arguments, capsys):
    assert run([*arguments, "--topic", ""]) == ExitCode.USAGE
    assert "'--topic': it has no name" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check"], ["submit", "--dry-run"], ["run", "--bindings", "{bindings}"]])
@pytest.mark.parametrize("text", ["", "---\n", "[]\n", "kind: ConfigMap\n"])
def test_a_chaos_file_with_nothing_in_it_is_a_wrong_call(tmp_path, capsys, monkeypatch, command, text):
    """Else a run that ran nothing has passed."""
    empty, bindings = tmp_path / "empty.yaml", tmp_path / "bindings.toml"
    empty.write_text(text)
    bindings.touch()
    monkeypatch.setattr("sf_healer.commands.chaos.read", lambda _: None)
    assert run(["chaos", *(each.format(bindings=bindings) for each in command), str(empty)]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error: there is nothing of Litmus in " in printed.err or "Error: there is no engine in " in printed.err


@pytest.mark.parametrize("command", ["check", "submit"])
def test_a_chaos_file_that_is_nested_too_deep_is_one_clear_line(tmp_path, capsys, command):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 20_000)
    assert run(["chaos", command, str(deep)]) == ExitCode.ERROR
    assert capsys.readouterr().err == f"Error: {deep}: it is nested too deep\n"


@pytest.mark.parametrize("output", list(Output))
def test_who_closes_stdout_gets_nothing_and_no_traceback(output):
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            '"$0" -c "from sf_healer.cli import main; main()" settings -o "$1" >&-',
            sys.executable,
            output,
        ],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [("jobs --url http://127.0.0.1:1", 5), ("settings", 0), ("nosuch", 2), ("settings -o json", 0)],
)
def test_a_stream_that_is_closed_changes_no_exit_code(closed, arguments, code):
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "from sf_healer.cli import main; main()" {arguments} {closed}', sys.executable],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == code


def test_more_records_than_can_be_counted_are_a_wrong_call(capsys):
    assert run(["capture", "nowhere.jsonl", "--limit", "99999999999999999999"]) == ExitCode.USAGE
    assert "'--limit'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "account", ["☃/x", 'stf/x"y', "stf/X", "stf/x\ny", f"{'a' * 64}/x", f"stf/{'a' * 254}", "stf/a/b"]
)
def test_an_account_that_kubernetes_would_not_have_is_in_no_manifest(account, capsys):
    assert run(["doctor", "--rbac", "--account", account]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "is no NAMESPACE/NAME of Kubernetes" in printed.err


def test_an_account_may_have_a_name_with_dots(capsys):
    assert run(["doctor", "--rbac", "--account", "other-ns/healer.example-1"]) == ExitCode.OK
    assert "healer.example-1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["skip", "loader"], ["unskip", "loader"]])
def test_a_kubeconfig_that_is_no_text_is_a_wrong_setting(tmp_path, monkeypatch, capsys, arguments):
    path = tmp_path / "kubeconfig"
    path.write_bytes(b"\x80\xff\x00")
    monkeypatch.setenv("SF_HEALER_KUBECONFIG", str(path))
    assert run(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("Error: SF_HEALER_KUBECONFIG: no cluster to talk to: ")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("jbos", "; did you mean jobs?"),
        ("jo", "; did you mean job or jobs?"),
        ("resum", "; did you mean resume?"),
        ("xyzzy", "."),
    ],
)
def test_a_command_that_there_is_not_has_the_nearest_ones_named(capsys, name, hint):
    assert run([name]) == ExitCode.USAGE
    assert f"Error: No such command '{name}'{hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["jobs", "job", "fleet", "actions", "topics", "doctor"])
def test_a_default_is_told_as_it_is_written(capsys, name):
    run([name, "--help"])
    assert "[default: table]" in capsys.readouterr().out


def test_a_wrong_setting_is_one_clear_line_and_exit_code_2_before_anything_connects():
    for arguments in (["topics"], ["settings"], ["feed", __file__], ["worker"]):
        done = healer(*arguments, SF_HEALER_MARK_INTERVAL_SECONDS="5s")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "Error: SF_HEALER_MARK_INTERVAL_SECONDS: '5s' is not a number of seconds, at least 0.05 and at most 60\n"
        )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (lambda: None, ExitCode.OK, ""),
        (lambda: ExitCode.NO, ExitCode.NO, ""),
        (lambda: ExitCode.REFUSED, ExitCode.REFUSED, ""),
        (lambda: raised(SettingsError("SF_HEALER_MODE", "bad")), ExitCode.USAGE, "Error: SF_HEALER_MODE: bad\n"),
        (lambda: raised(ConnectionError("gone")), ExitCode.UNREACHABLE, "Error: gone\n"),
        (lambda: raised(click.ClickException("broken")), ExitCode.ERROR, "Error: broken\n"),
        (lambda: raised(KeyboardInterrupt()), ExitCode.INTERRUPTED, "Interrupted.\n"),
        (
            lambda: raised(SchemaError('Error building "call" validator:\n  KeyboardInterrupt: \n')),
            ExitCode.INTERRUPTED,
            "Interrupted.\n",
        ),
    ],
)
def test_every_end_of_a_command_has_its_exit_code(command, capsys, body, code, said):
    command(body)
    assert run(["trial"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.lstrip("\n") == said


def raised(problem: BaseException):
    raise problem


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "no such file")])
def test_a_programming_error_is_not_hidden(command, error):
    command(lambda: raised(error))
    with pytest.raises(type(error)):
        run(["trial"])


def test_an_interrupted_command_ends_with_130():
    waiting = subprocess.Popen(
        [sys.executable, "-c", "from sf_healer.cli import main; main()", "topics", "--wait-seconds", "60"],
        env={"PATH": os.environ["PATH"], "SF_HEALER_BROKER_URL": "kafka://127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "connection refused" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    printed, _ = waiting.communicate(timeout=COMMAND_SECONDS)
    assert (waiting.returncode, printed) == (130, "")


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word():
    printing = subprocess.Popen(
        [sys.executable, "-c", "from sf_healer.cli import main; main()", "settings"],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    printing.stdout.close()
    said = printing.stderr.read()
    printing.stderr.close()
    assert (printing.wait(COMMAND_SECONDS), said) == (1, "")


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [("settings",), ("--help",), ("replay",), ("replay", "-o", "jsonl")])
def test_where_nothing_can_be_written_it_is_one_clear_line_and_exit_code_1(tmp_path, arguments):
    capture = [write_capture(tmp_path, "made-up", generate_capture(1000))] if "replay" in arguments else []
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from sf_healer.cli import main; main()", *arguments, *capture],
            env={"PATH": os.environ["PATH"]},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    told = "Error: not everything could be written: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_data_is_the_same_in_every_form(capsys):
    data = [{"topic": "a", "note": "αβ"}, {"topic": "b", "note": ""}]
    forms = {}
    for output in Output:
        emit(data, output, columns=("TOPIC", "NOTE"), rows=[(row["topic"], row["note"]) for row in data])
        forms[output] = capsys.readouterr().out
    assert json.loads(forms[Output.JSON]) == yaml.safe_load(forms[Output.YAML]) == data
    assert forms[Output.TABLE] == "TOPIC  NOTE\na      αβ\nb\n"


def test_a_table_in_a_pipe_is_neither_wrapped_nor_coloured(capsys):
    emit([], Output.TABLE, columns=("A", "B"), rows=[("x" * 300, "y")])
    assert capsys.readouterr().out == f"A{' ' * 299}  B\n{'x' * 300}  y\n"


def test_settings_are_shown_with_their_origin_and_without_secrets():
    done = healer(
        "settings",
        "-o",
        "json",
        SF_HEALER_MODE="heal",
        SF_HEALER_SASL_USERNAME="u",
        SF_HEALER_SASL_PASSWORD="hunter2",
    )
    shown = json.loads(done.stdout)
    assert shown["SF_HEALER_MODE"] == {"value": "heal", "from": "environment"}
    assert shown["SF_HEALER_NAMESPACE"] == {"value": "stf", "from": "default"}
    assert "hunter2" not in done.stdout + done.stderr
