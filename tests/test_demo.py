"""`sf-healer demo` as a user runs it: it shows what it should, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sf_healer.local.ports import KERNEL_RANGE, free_port_with_free_neighbour
from tests.lab.waiting import until

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

COMMAND = [str(Path(sys.executable).with_name("sf-healer")), "demo"]
#: Broker and worker; then a pod for each of five Jobs.
SERVERS, EVERYBODY = 2, 7
STARTED_SECONDS = 60.0
ENDED_SECONDS = 40.0
PARENT, START_TIME = 1, 19  # positions in /proc/PID/stat after the command's closing bracket (proc(5))

Process = tuple[int, str]  # id and start time: an id alone may come to mean another process


def test_the_demo_heals_the_two_sick_jobs_and_no_other(tmp_path: Path):
    with _demo(tmp_path) as demo:
        seen = _followed(demo, tmp_path)
        told = (tmp_path / "demo.log").read_text()
        assert demo.returncode == 0, told
    assert told.partition("What happened")[2].count(" yes ") == 5
    assert len(seen) >= EVERYBODY
    assert _alive(seen) == set()
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left in the directory for temporary files"


def test_the_pages_have_ports_that_no_outgoing_connection_takes_meanwhile():
    first_outgoing = int(KERNEL_RANGE.read_text().split()[0])
    assert all(free_port_with_free_neighbour() + 1 < first_outgoing for _ in range(100))


@pytest.mark.parametrize(("how", "once"), [(signal.SIGINT, EVERYBODY), (signal.SIGTERM, SERVERS)])
def test_told_to_end_the_demo_ends_and_every_process_of_it(tmp_path: Path, how: signal.Signals, once: int):
    with _demo(tmp_path) as demo:
        until(lambda: len(_family(demo.pid)) >= once, f"{once} processes to be there", seconds=STARTED_SECONDS)
        seen = _family(demo.pid)
        demo.send_signal(how)
        assert demo.wait(ENDED_SECONDS) == 130, (tmp_path / "demo.log").read_text()
    until(lambda: not _alive(seen), "every process to be gone", seconds=10)
    assert "Traceback" not in (tmp_path / "demo.log").read_text()
    assert list((tmp_path / "tmp").iterdir()) == []


@contextlib.contextmanager
def _demo(directory: Path):
    (directory / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(directory / "tmp")}
    with (directory / "demo.log").open("w") as output:
        demo = subprocess.Popen(COMMAND, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield demo
        finally:
            demo.kill()
            demo.wait()


def _followed(demo: subprocess.Popen[bytes], directory: Path) -> set[Process]:
    """Wait for the end of the demo; gives every process that was seen to descend from it."""
    seen: set[Process] = set()

    def has_ended() -> bool:
        seen.update(_family(demo.pid))
        return demo.poll() is not None

    until(has_ended, f"the demo to end, see {directory / 'demo.log'}", seconds=170)
    return seen


def _family(ancestor: int) -> set[Process]:
    """Find the processes that descend from one, themselves and through others."""
    children: dict[int, list[Process]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and (fields := _stat(int(directory.name))):
            children.setdefault(int(fields[PARENT]), []).append((int(directory.name), fields[START_TIME]))
    found: set[Process] = set()
    waiting = [ancestor]
    while waiting:
        of_this = set(children.get(waiting.pop(), ())) - found
        found |= of_this
        waiting += [pid for pid, _ in of_this]
    return found


def _alive(processes: set[Process]) -> set[Process]:
    return {
        (pid, started)
        for pid, started in processes
        if (fields := _stat(pid)) and fields[START_TIME] == started and fields[0] != "Z"
    }


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []  # it ended while we looked
