"""Shell completion: the scripts are printed, a shell takes them, and a Tab imports no command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sf_healer.cli import COMMANDS, ExitCode, run
from sf_healer.commands.completion import SHELLS

SECONDS = 60.0


def completed(shell: str, words: str, position: int) -> str:
    """Ask as the script of a shell does; gives what it is answered."""
    code = (
        "import sys\nfrom sf_healer.cli import main\n"
        "try:\n  main()\n"
        "finally:\n  print('IMPORTED', [name for name in sys.modules if name.startswith('sf_healer.commands.')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "_SF_HEALER_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": words.split(" ")[position] if shell == "fish" else str(position),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_asks_our_program(shell, capsys):
    assert run(["completion", shell]) == ExitCode.OK
    script = capsys.readouterr().out
    assert f"_SF_HEALER_COMPLETE={shell}_complete" in script
    assert "sf-healer" in script


def test_a_shell_that_there_is_not_is_a_wrong_call(capsys):
    assert run(["completion", "csh"]) == ExitCode.USAGE
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_offered_and_none_is_imported_for_it(shell):
    answer = completed(shell, "sf-healer ", 1)
    for name in COMMANDS:
        assert name in answer
    assert "IMPORTED []" in answer


def test_zsh_and_fish_are_told_what_a_command_does():
    for shell in ("zsh", "fish"):
        assert COMMANDS["fleet"] in completed(shell, "sf-healer fl", 1)


@pytest.mark.parametrize("shell", SHELLS)
def test_options_and_their_values_are_offered(shell):
    assert "--output" in completed(shell, "sf-healer settings --o", 2)
    assert "yaml" in completed(shell, "sf-healer settings -o y", 3)


def test_bash_completes_a_command_by_the_script(capsys, tmp_path):
    bash = shutil.which("bash")
    assert bash is not None, "make itself needs bash"
    assert run(["completion", "bash"]) == ExitCode.OK
    (tmp_path / "script").write_text(capsys.readouterr().out)
    typed = (
        'source "$1"; COMP_WORDS=(sf-healer comp); COMP_CWORD=1; '
        '$(complete -p sf-healer | sed "s/.*-F \\([^ ]*\\).*/\\1/") sf-healer comp sf-healer; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", typed, "bash", str(tmp_path / "script")],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.split() == ["completion"], done
