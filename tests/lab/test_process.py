"""The lab leaves no process behind and ends none that is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.lab import cache
from tests.lab.process import Recorded, Server, StartFailed, end_recorded
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTER = textwrap.dedent("""
    import sys, threading
    from pathlib import Path
    from tests.lab.process import Server
    server = Server("sleeper", ["sleep", "600"], log=Path(sys.argv[1]))
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    print(server.pid, flush=True)
    sys.stdin.read()
""")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Server]:
    server = Server("sleeper", ["sleep", "600"], log=tmp_path / "log")
    server.start()
    yield server
    server.kill()


def test_servers_end_with_the_process_that_started_them_even_when_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, tmp_path / "log"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        server = os.pidfd_open(int(starter.stdout.readline()))
        assert not _is_gone(server), "a server outlives the thread that started it"
        starter.kill()

    until(lambda: _is_gone(server), "the server to end", seconds=10)


def test_a_process_that_got_the_id_of_a_recorded_one_is_left_alone(sleeper: Server) -> None:
    recorded = sleeper.recorded()

    end_recorded([Recorded(recorded.name, recorded.pid, recorded.started_ticks - 1)])
    assert sleeper.is_alive

    end_recorded([recorded])
    assert not sleeper.is_alive


def test_a_paused_server_can_be_resumed_and_stopped(sleeper: Server) -> None:
    sleeper.pause()
    assert sleeper.is_paused
    sleeper.resume()
    assert not sleeper.is_paused

    sleeper.pause()
    sleeper.stop()
    assert not sleeper.is_alive


def test_a_server_that_ends_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = Server("broken", ["sh", "-c", "echo no such luck; exit 3"], log=tmp_path / "log")
    server.start()

    with pytest.raises(StartFailed, match=r"(?s)broken ended with 3.*no such luck"):
        server.wait_until(lambda: False, seconds=10)


def test_an_interrupted_build_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SF_HEALER_LAB_CACHE", str(tmp_path))

    def interrupted(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build_once("thing", interrupted)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []

    assert cache.build_once("thing", lambda directory: (directory / "whole").touch())
    assert not cache.build_once("thing", interrupted), "what is there is not built again"
    assert (tmp_path / "thing" / "whole").exists()


def _is_gone(handle: int) -> bool:
    try:
        signal.pidfd_send_signal(handle, 0)
    except ProcessLookupError:
        return True
    return False
