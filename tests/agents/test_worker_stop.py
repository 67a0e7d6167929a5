"""A worker ends when it is told to or has crashed, whatever hangs; test_endurance_soak.py has it for real."""

from __future__ import annotations

import subprocess
import sys

CRASHED = 1
HANGS_SECONDS = 30.0

HANGS = """
import asyncio, os, signal
from mode import Service, Worker
from sf_healer.worker import _Together

class Hangs(Service):
    async def on_started(self):
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)

    async def on_stop(self):
        await asyncio.Event().wait()

Worker(_Together([Hangs()], stop_limit_seconds=0.5), quiet=True).execute_from_commandline()
"""


def test_a_worker_that_hangs_while_it_stops_is_ended_all_the_same() -> None:
    command = [sys.executable, "-c", HANGS]
    done = subprocess.run(command, timeout=HANGS_SECONDS, check=False, capture_output=True, text=True)
    assert done.returncode == CRASHED
    assert "stop_hangs" in done.stdout + done.stderr
