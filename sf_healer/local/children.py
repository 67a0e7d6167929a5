"""Child processes that end with us: started on a leash, in a session of their own, ended by their id."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Process = subprocess.Popen[bytes]

_LEASH = Path(__file__).with_name("leash.py")

# The kernel's leash is tied to the *thread* that starts a child, so one thread starts them all: it lives
# until the interpreter ends, while a caller's may be one of asyncio.to_thread that ends any time.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="children")


def start(command: Sequence[str], *, env: Mapping[str, str], log: Path) -> Process:
    """Start a command, its output appended to `log`; command[0] is a path. Raises OSError."""
    return _starter.submit(_start, command, env, log).result()


def _start(command: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    with log.open("ab") as output:
        return subprocess.Popen(
            # -I -S: a quick start, and nothing from the environment between us and the command
            [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is ours to handle
        )


def end(process: Process, *, grace_seconds: float) -> None:
    """Ask the process to end (SIGTERM), kill it after the grace; returns when it is gone."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
