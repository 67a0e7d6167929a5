"""The server of toxiproxy into the lab's cache, built from its Go module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab import cache
from tests.lab.golang import go

if TYPE_CHECKING:
    from pathlib import Path

#: `latest` of its module means 2.5.0: the tags after it are of a path without `/v2`.
VERSION = "2.12.0"
_MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"


def directory() -> Path:
    """Give the directory it is cached in, whether or not it is there."""
    return cache.root() / f"toxiproxy-{VERSION}"


def program() -> Path:
    """Give the path of the server, whether or not it is there."""
    return directory() / "toxiproxy-server"


def missing() -> str | None:
    """Give the reason why there are no slow networks here, None when there are."""
    return None if program().is_file() else "toxiproxy is not there: run `make lab`"


def install() -> bool:
    """Build it; say whether there was anything to do. Raises RuntimeError without Go, or where it cannot be built."""
    return cache.build_once(directory().name, _build)


def _build(at: Path) -> None:
    go(at, "install", _MODULE, GOBIN=str(at))
    (at / "server").rename(at / "toxiproxy-server")
