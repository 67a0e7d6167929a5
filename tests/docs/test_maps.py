"""The maps of README.md and docs/architecture.md name every room that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text()


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def named(table: str) -> list[str]:
    """Give what the first cells of a section's tables name."""
    rows = re.findall(r"^\| (`[^|]+) \|", table, flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row) if name != "sf_healer/"]


def modules(room: str) -> list[str]:
    return [path.stem for path in sorted((REPOSITORY / room).glob("*.py")) if not path.stem.startswith("__")]


def rooms(room: str) -> list[str]:
    """Give the directories of a directory that hold something of ours, not what was built or left behind."""
    ignored = {"__pycache__", "build", "dist", "htmlcov", "data"}
    found = [path for path in (REPOSITORY / room).iterdir() if path.is_dir() and path.name not in ignored]
    return sorted(
        path.name
        for path in found
        if path.name[0] != "." and path.suffix != ".egg-info" and not path.name.endswith("-data") and holds_files(path)
    )


def holds_files(directory: Path) -> bool:
    return any(path.is_file() and "__pycache__" not in path.parts for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("heading", "there"),
    [
        ("The pure core", modules("sf_healer/core")),
        ("The agents", modules("agents") + [f"tables/{name}" for name in modules("tables")]),
        ("The package", modules("sf_healer") + [f"{name}/" for name in rooms("sf_healer/")]),
    ],
)
def test_the_architecture_names_every_module_once(heading, there):
    assert sorted(named(section(ARCHITECTURE, heading))) == sorted(there)


def test_the_readme_names_every_room():
    table = named(section(README, "Where things are"))
    wanted = [name for name in rooms("") if name not in {"sf_healer", "tests"}]
    wanted += [f"sf_healer/{name}" for name in rooms("sf_healer/")] + [f"tests/{name}" for name in rooms("tests/")]
    assert len(wanted) > 20, "the walk must find them"
    assert sorted(table) == sorted(f"{name}/" for name in wanted)
