"""Where the lab keeps what it built: outside the tree, one directory for each version, all or nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def root() -> Path:
    """Give the cache directory: SF_HEALER_LAB_CACHE, or ~/.cache/sf-healer-lab."""
    chosen = os.environ.get("SF_HEALER_LAB_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache" / "sf-healer-lab"


def build_once(name: str, build: Callable[[Path], None]) -> bool:
    """Fill the cache's directory `name` unless it is there; say whether anything was built.

    `build` fills a directory beside the final place, which is renamed only when complete: an interrupted
    build leaves nothing that looks finished. A second builder waits for the first.
    """
    final = root() / name
    with _only_one_builder(name):
        if final.is_dir():
            return False
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
        try:
            build(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(final)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return True


@contextmanager
def _only_one_builder(name: str) -> Iterator[None]:
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
