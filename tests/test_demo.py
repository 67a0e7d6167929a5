"""`sf-healer demo` as a user runs it: it shows what it should, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.waiting import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

COMMAND = [str(Path(sys.executable).with_name("sf-healer")), "demo"]
OURS = "SF_DEMO_TEST_MARK"


def test_the_demo_heals_the_two_sick_jobs_and_no_other(tmp_path: Path):
    mark = f"{os.getpid()}-{tmp_path.name}"
    ended = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=170, check=False, env=os.environ | {OURS: mark}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = ended.stdout.partition("What happened")[2]
    assert summary.count(" yes ") == 5
    assert _processes_with(mark) == []


def test_ctrl_c_ends_the_demo_and_every_process_of_it(tmp_path: Path):
    mark = f"{os.getpid()}-{tmp_path.name}"
    with (tmp_path / "demo.log").open("w+") as output:
        demo = subprocess.Popen(COMMAND, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {OURS: mark})
        until(lambda: len(_processes_with(mark)) > 2, "broker and worker to be there", seconds=30)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(40) == 130, (tmp_path / "demo.log").read_text()
    until(lambda: _processes_with(mark) == [], "every process to be gone", seconds=10)


def _processes_with(mark: str) -> list[int]:
    """Find the processes that inherited our mark in their environment."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                environment = (directory / "environ").read_bytes()
            except OSError:
                continue  # it ended while we looked, or is not ours to read
            if f"{OURS}={mark}".encode() in environment.split(b"\0"):
                found.append(int(directory.name))
    return found
