"""The go command, as every piece of the lab that is built or fetched from Go modules runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

OLDEST_GO_MINOR = 21  # from here on go fetches the release that go.mod asks for by itself


def go(at: Path, *arguments: str, **environment: str) -> str:
    """Run one go command in a directory and give its output; a build is nice to its machine.

    Raises RuntimeError without Go, or when the command fails.
    """
    done = subprocess.run(
        ["nice", "-n", "5", go_command(), *arguments],
        cwd=at,
        env={**os.environ, "CGO_ENABLED": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"go {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def module(name: str, at: Path) -> Path:
    """Fetch a module (path@version) and give the place of its files; Go holds them against its checksum database."""
    return Path(json.loads(go(at, "mod", "download", "-json", name))["Dir"])


def go_command() -> str:
    """Give the go command; raises RuntimeError where there is none that is new enough."""
    command = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if command is None:
        raise RuntimeError("Go is needed for the Kubernetes control plane and for CRDs, there is none on PATH")
    version = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    major, minor, *_ = [*version.strip().removeprefix("go").split("."), "0"]
    if not (major == "1" and minor.isdigit() and int(minor) >= OLDEST_GO_MINOR):
        raise RuntimeError(f"Go 1.{OLDEST_GO_MINOR} or newer is needed, {command} is {version.strip()}")
    return command
