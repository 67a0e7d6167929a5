"""A ConfigMap or Secret as kubelet mounts it: the files are links through `..data`, which is swapped in one rename.

As its AtomicWriter does it (k8s.io/kubernetes, pkg/volume/util/atomic_writer.go): a directory with a time in its name
is written whole, `..data` comes to mean it, links of keys that are gone are removed, the old directory goes last.
"""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DATA, NEW_DATA = "..data", "..data_tmp"


class Mount:
    """A volume at `directory`; what reads it keeps the path of a file in it, such as `mount / "policy.toml"`."""

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self._numbers = itertools.count(1)
        self.publish(files)

    def __truediv__(self, name: str) -> Path:
        """Give the path of a file as a container names it."""
        return self.directory / name

    def publish(self, files: Mapping[str, str]) -> None:
        """Let the volume hold these files, all from one moment on."""
        data = self.directory / DATA
        old = data.resolve() if data.is_symlink() else None
        written = self.directory / f"..2026_01_01_00_00_00.{next(self._numbers):09}"
        written.mkdir()
        for name, content in files.items():
            (written / name).write_text(content)
        new = self.directory / NEW_DATA
        new.symlink_to(written.name)
        new.rename(data)
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"{DATA}/{name}")
        for link in self.directory.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if old is not None:
            shutil.rmtree(old)
