"""What nobody catches fails a test: an exception in a thread, or in a finalizer, and what is left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAULTS = {
    "a thread that raises": (
        "thread = threading.Thread(target=lambda: 1 / 0)\n    thread.start()\n    thread.join()",
        1,
    ),
    "a finalizer that raises": ("type('Bad', (), {'__del__': lambda self: 1 / 0})()", 1),
    "a file left open": ("open(__file__)", 1),
    "a socket left open": ("socket.create_server(('127.0.0.1', 0))", 1),
    "a loop of mode's, which closes none": ("get_event_loop_policy().set_event_loop(None)\n    get_event_loop()", 0),
}


@pytest.mark.parametrize(("body", "status"), FAULTS.values(), ids=FAULTS)
def test_what_nobody_catches_fails_the_test_it_happens_in(tmp_path: Path, body: str, status: int) -> None:
    test = tmp_path / "test_fault.py"
    test.write_text(
        "import gc, socket, threading\nfrom asyncio import get_event_loop_policy\n"
        f"from mode.utils.loops import get_event_loop\n\ndef test_it():\n    {body}\n\n"
        "def test_after_it():\n    get_event_loop_policy().set_event_loop(None)\n    gc.collect()\n"
    )
    configured = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *configured, str(test)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done.stdout
