"""What becomes of a test that lacks something of its surroundings, and where the recorded captures are.

A part that `make lab` or `make venv` sets up is wanted where CI=true: without it a test fails there, and is skipped
with the reason anywhere else. Recorded captures are not part of the repository: without them a test is skipped, and one
beside it makes the same demands of captures that are made up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI") == "true"
CAPTURES = "SF_HEALER_CAPTURES"
NO_CAPTURES = "no captures in"  # how the reason of such a skip begins

REPOSITORY = Path(__file__).parents[2]


def without(reason: str) -> NoReturn:
    """End a test whose component is missing: as failed where CI=true, else as skipped."""
    if IN_CI:
        pytest.fail(f"CI=true and the lab is not complete: {reason}", pytrace=False)
    pytest.skip(reason)


def captures() -> Path | None:
    """Give the directory of recorded captures, None where there is none; raise if one is named and not there."""
    if chosen := os.environ.get(CAPTURES):
        if not Path(chosen).is_dir():
            raise NotADirectoryError(f"{CAPTURES}: {chosen!r} is not a directory")
        return Path(chosen)
    beside = REPOSITORY.parent / "shared" / "data"
    return beside if beside.is_dir() else None


def without_captures() -> NoReturn:
    """Skip a test that needs recorded captures; the run's last lines count these."""
    pytest.skip(f"{NO_CAPTURES} ../shared/data ({CAPTURES} names another place)")
