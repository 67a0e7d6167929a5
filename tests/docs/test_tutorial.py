"""docs/tutorial.md is true: its commands are run in order, and print what it says they print.

A fenced block that begins with the word `console` is run: lines with `$` are commands, those below are what is
printed, in order, with `…` for anything and any lines between. The words after `console` say how.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "tutorial.md"
ALONE, REPEATED, ONCE = "in a terminal of its own", "until it shows", ""
#: Generous: machines of CI are slow. The page takes less than a minute on two busy cores.
DEMO_SECONDS, SHOWN_SECONDS, COMMAND_SECONDS, ENDED_SECONDS = 150.0, 90.0, 60.0, 40.0
#: A reader is not faster, and each command is a process that the demo has to share the cores with.
REPEATED_SECONDS = 1.0
END = "--- that was it, with status "

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(600)]


class Step(NamedTuple):
    """A command of the page and the lines it is to print."""

    how: str
    command: str
    expected: tuple[str, ...]


def steps_of(page: str) -> Iterator[Step]:
    for how, body in re.findall(r"^```console *([^\n]*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        for block in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, *expected = block.rstrip("\n").split("\n")
            yield Step(how, command, tuple(expected))


def is_told(printed: str, expected: tuple[str, ...]) -> bool:
    """Say whether the expected lines are among the printed ones, in order; blanks count as one."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        pieces = [re.escape(" ".join(piece.split())) for piece in line.split("…")]
        pattern = re.compile(r".*".join(rf"\s*{piece}\s*" for piece in pieces))
        if not any(pattern.fullmatch(printed_line) for printed_line in lines):
            return False
    return True


class Shell:
    """A reader's second terminal: one bash, so that what a command sets is there for the next."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def run(self, command: str) -> str:
        """Run a command and give what it prints, on stdout or stderr."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f'{command}\nstatus=$?; echo; echo "{END}$status"; (exit $status)\n')
        self._bash.stdin.flush()
        printed: list[str] = []
        while not printed or not printed[-1].startswith(END):
            try:
                printed.append(self._lines.get(timeout=COMMAND_SECONDS))
            except Empty:
                pytest.fail(f"$ {command}\nprinted nothing more for {COMMAND_SECONDS:g} s after\n{''.join(printed)}")
        return "".join(printed[:-1])

    def close(self) -> None:
        """End it."""
        self._bash.kill()
        self._bash.wait()
        self._reader.join()
        for stream in (self._bash.stdin, self._bash.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            self._lines.put(line)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a checkout with a build directory of its own, so that nobody's demo is disturbed."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    for entry in REPOSITORY.iterdir():
        if entry.name not in {"build", ".venv"}:
            (directory / entry.name).symlink_to(entry)
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give the environment of a reader: nothing of `make test`, none of our settings."""
    (tmp_path / "tmp").mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("SF_HEALER_", "MAKE", "MFLAGS"))}
    return kept | {"TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "200"}


@pytest.fixture
def shell(checkout: Path, environment: dict[str, str]) -> Iterator[Shell]:
    opened = Shell(checkout, environment)
    yield opened
    opened.close()


@pytest.mark.apart
def test_each_command_of_the_tutorial_prints_what_the_page_says(
    tmp_path: Path, checkout: Path, environment: dict[str, str], shell: Shell
):
    first, *steps = steps_of(PAGE.read_text())
    assert first.how == ALONE
    assert [step.how for step in steps if step.how not in {ONCE, REPEATED}] == []
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            ["bash", "-c", first.command],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def is_up() -> bool:
            assert demo.poll() is None, log.read_text()
            return is_told(log.read_text(), first.expected)

        until(is_up, f"the demo to print what the page says, see {log}", seconds=DEMO_SECONDS)
        for step in steps:
            follow(step, shell)
        os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does: to all of the terminal's foreground
        demo.wait(ENDED_SECONDS)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (checkout / "build" / "demo.env").exists()


def follow(step: Step, shell: Shell) -> None:
    """Do one step of the page, again and again where it says so."""
    printed = shell.run(step.command)
    if step.how == REPEATED:
        told = [printed]

        def shows() -> bool:
            told.append(shell.run(step.command))
            return is_told(told[-1], step.expected)

        if not is_told(printed, step.expected):
            try:
                until(shows, "what the page says", seconds=SHOWN_SECONDS, every_seconds=REPEATED_SECONDS)
            except AssertionError:
                pytest.fail(f"$ {step.command}\n{told[-1]}\nnever became\n" + "\n".join(step.expected))
    else:
        assert is_told(printed, step.expected), f"$ {step.command}\n{printed}\nis not\n" + "\n".join(step.expected)


@pytest.mark.parametrize(
    ("printed", "expected", "told"),
    [
        ("a  b   c\n", ("a b c",), True),
        ("a 1 c\nd\ne\n", ("a … c", "e"), True),
        ("e\na 1 c\n", ("a … c", "e"), False),
        ("a b c d\n", ("a b c",), False),
        ("", (), True),
    ],
)
def test_what_is_printed_is_compared_line_by_line(printed, expected, told):
    assert is_told(printed, expected) is told


def test_the_page_shows_what_a_reader_is_to_learn():
    commands = " ; ".join(step.command for step in steps_of(PAGE.read_text()))
    for command in ("make demo", "jobs", "jobs --sick", "job loader-", "actions", "pause --queue", "restart", "resume"):
        assert command in commands
