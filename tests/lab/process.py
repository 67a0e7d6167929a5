"""One server process of the lab: started, watched, broken on purpose, ended by its recorded id.

Nothing here knows Kafka or Kubernetes, and no process is ever looked up by name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tests.lab.ports import is_answering
from tests.lab.waiting import POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SIGNAL_SECONDS = 10.0
LINES_OF_LOG_SHOWN = 25
POSITION_OF_START_TIME = 19  # in /proc/PID/stat after the command's closing bracket (proc(5), field 22)


class StartFailed(RuntimeError):  # noqa: N818 - it says what happened
    """A server ended, or was not ready in time; the message carries the tail of its log."""


class Recorded(msgspec.Struct, frozen=True):
    """A running process as `up` writes it down for `down`: the start time tells a reused id apart."""

    name: str
    pid: int
    started_ticks: int


class Server:
    """A server process in a session of its own, its output appended to `log`.

    With `outlives_us` it goes on after this interpreter; otherwise it ends with it, even by SIGKILL.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, outlives_us: bool = False) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.outlives_us = outlives_us
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """Give the process id; the server must have been started."""
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Say whether the process exists, paused or not."""
        return self._child is not None and self._child.poll() is None

    @property
    def is_paused(self) -> bool:
        """Say whether the process is stopped by SIGSTOP."""
        return self.is_alive and _stat_fields(self.pid)[0] == "T"

    def start(self) -> None:
        """Start the process; it must not be running."""
        assert not self.is_alive, f"{self.name} is running already"
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle, not the server's
            )
        if not self.outlives_us:
            _reaper.watch(self._child.pid)

    def start_answering(self, port: int, *, seconds: float) -> None:
        """Start the process and wait until it accepts connections on a loopback port; raise StartFailed else."""
        self.start()
        self.wait_until(lambda: is_answering(port), seconds=seconds)

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()`; raise StartFailed when the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.is_alive:
                assert self._child is not None
                raise StartFailed(f"{self.name} ended with {self._child.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} was not ready in {seconds:.0f} s\n{self.tail()}")
            time.sleep(POLL_SECONDS)

    def wait_for_success(self, *, seconds: float) -> None:
        """Wait until a process that does one thing has done it; raise StartFailed unless it exits with 0."""
        assert self._child is not None, f"{self.name} was never started"
        try:
            status = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise StartFailed(f"{self.name} was not done in {seconds:.0f} s\n{self.tail()}") from None
        _reaper.forget(self._child.pid)
        if status != 0:
            raise StartFailed(f"{self.name} ended with {status}\n{self.tail()}")

    def output(self) -> str:
        """Give what the process printed since its last start."""
        with self.log.open("rb") as text:
            text.seek(self._log_start)
            return text.read().decode(errors="replace")

    def tail(self) -> str:
        """Give the last lines it printed, with the place of the whole log."""
        lines = self.output().splitlines()[-LINES_OF_LOG_SHOWN:]
        return "\n".join([f"--- the end of {self.log}", *lines])

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, nothing answers; returns when it stands."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until(lambda: self.is_paused, seconds=SIGNAL_SECONDS)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT); returns when it runs."""
        os.kill(self.pid, signal.SIGCONT)
        self.wait_until(lambda: not self.is_paused, seconds=SIGNAL_SECONDS)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would; returns when it is gone."""
        self._end(signal.SIGKILL, patience_seconds=10.0)

    def stop(self, *, patience_seconds: float = 15.0) -> None:
        """Ask the process to end (SIGTERM) and kill it when it has not after `patience_seconds`."""
        self._end(signal.SIGTERM, patience_seconds=patience_seconds)

    def recorded(self) -> Recorded:
        """Give what `end_recorded` needs to end this process from another interpreter."""
        return Recorded(self.name, self.pid, _started_ticks(self.pid))

    def _end(self, how: signal.Signals, *, patience_seconds: float) -> None:
        if self._child is None:
            return
        if self.is_alive:
            self._child.send_signal(how)
            self._child.send_signal(signal.SIGCONT)  # a paused process would take no SIGTERM
            try:
                self._child.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        _reaper.forget(self._child.pid)


def stop_together(servers: Iterable[Server], *, patience_seconds: float) -> None:
    """Ask all to end at once, then wait for each: they may need one another to end well."""
    servers = [server for server in servers if server.is_alive]
    for server in servers:
        os.kill(server.pid, signal.SIGTERM)
        os.kill(server.pid, signal.SIGCONT)
    deadline = time.monotonic() + patience_seconds
    for server in servers:
        server.stop(patience_seconds=max(0.0, deadline - time.monotonic()))


def end_recorded(processes: Sequence[Recorded], *, patience_seconds: float = 15.0) -> None:
    """End processes that another interpreter started and wrote down, unless their id is another's by now."""
    alive = [process for process in processes if _is_still(process)]
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in filter(_is_still, alive):
            os.kill(process.pid, how)
            os.kill(process.pid, signal.SIGCONT)
        deadline = time.monotonic() + patience_seconds
        while any(map(_is_still, alive)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _is_still(process: Recorded) -> bool:
    try:
        return _stat_fields(process.pid)[0] != "Z" and _started_ticks(process.pid) == process.started_ticks
    except FileNotFoundError:
        return False


def _started_ticks(pid: int) -> int:
    return int(_stat_fields(pid)[POSITION_OF_START_TIME])


def _stat_fields(pid: int) -> list[str]:
    # the command stands in brackets and may hold blanks and brackets itself
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class _Reaper:
    """This interpreter's end of the pipe to reaper.py, which is started with the first server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def watch(self, pid: int) -> None:
        with self._lock:
            if self._child is None:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py"))],
                    stdin=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                    start_new_session=True,
                )
            self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        with self._lock:
            if self._child is not None:
                self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(line)
        self._child.stdin.flush()


_reaper = _Reaper()
