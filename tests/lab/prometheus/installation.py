"""Debian's package `prometheus`, fetched by apt and unpacked beside the other components."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab import cache

NAME = "prometheus-debian"
_PACKAGE = "prometheus"


def program(name: str) -> Path:
    """Give the path of `prometheus` or `promtool`, whether or not it is there."""
    return cache.root() / NAME / "usr" / "bin" / name


def missing() -> str | None:
    """Give the reason why neither can be run here, None when both can."""
    if all(program(name).is_file() for name in ("prometheus", "promtool")):
        return None
    return "Prometheus is not installed: run `make lab`"


def install() -> bool:
    """Unpack the package into the cache; say whether there was anything to do.

    Raises RuntimeError where there is no apt, or it cannot fetch the package.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("Prometheus comes from a Debian package, and there is no apt-get here")
    return cache.build_once(NAME, _unpack)


def _unpack(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as downloads:
        Path(downloads).chmod(0o755)  # apt fetches as a user of its own
        fetch = ["apt-get", "download", "--quiet", _PACKAGE]
        done = subprocess.run(fetch, cwd=downloads, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # the lists of packages may be missing or of yesterday
            subprocess.run(["apt-get", "update", "--quiet"], capture_output=True, check=False)
            done = subprocess.run(fetch, cwd=downloads, capture_output=True, text=True, check=False)
        found = list(Path(downloads).glob("*.deb"))
        if done.returncode != 0 or not found:
            raise RuntimeError(f"apt-get could not fetch {_PACKAGE}:\n{done.stdout}{done.stderr}")
        subprocess.run(["dpkg-deb", "--extract", str(found[0]), str(directory)], check=True, capture_output=True)
