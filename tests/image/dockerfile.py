"""A Dockerfile as a list of instructions, its stages apart, and what .dockerignore leaves of the repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One line of a Dockerfile, continued lines joined."""

    word: str
    rest: str


def instructions() -> list[list[Instruction]]:
    """Read the Dockerfile; one list for each stage, its FROM first."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    stages: list[list[Instruction]] = []
    for line in (each for each in joined.splitlines() if each.strip()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, " ".join(rest.split())))
    return stages


def send_context(to: Path) -> None:
    """Copy what a builder is sent: everything is left out but what .dockerignore lets in by name."""
    first, *others = (REPOSITORY / ".dockerignore").read_text().split()
    assert first == "*"
    to.mkdir()
    for pattern in others:
        if not pattern.startswith("!"):
            assert pattern == "**/__pycache__", pattern
            continue
        source = REPOSITORY / pattern.removeprefix("!")
        if source.is_dir():
            shutil.copytree(source, to / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / source.name)
