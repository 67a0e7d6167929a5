"""An engine that is a program of its own: started, its MARK lines read, its CPU and memory watched."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.laboratory import Laboratory
from benchmarks.processes import Watch


class Told(NamedTuple):
    """What a program said: moments by name (epoch seconds), other lines, and who watched it."""

    moments: dict[str, float]
    lines: list[str]
    watch: Watch


class EngineFailed(RuntimeError):  # noqa: N818  it says what happened
    """A program ended before it had done its work."""


def run(command: Sequence[str], lab: Laboratory, *, until: str) -> Told:
    """Run a program to its end. Raises EngineFailed unless it said the moment `until`."""
    moments: dict[str, float] = {}
    lines = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=Path.home())
        try:
            with Watch(process.pid, lab.broker_pid) as watch:
                assert process.stdout is not None
                for line in process.stdout:
                    _, is_mark, told = line.partition("MARK ")  # what moves a terminal's cursor may be before it
                    if is_mark:
                        name, at = told.split()
                        moments[name] = float(at)
                    else:
                        lines.append(line.strip())
        finally:
            process.kill()
            process.wait()
        if until not in moments:
            errors.seek(0)
            raise EngineFailed(f"{command[0]} … ended with {process.returncode}:\n{errors.read()[-4000:]}")
    return Told(moments, lines, watch)
