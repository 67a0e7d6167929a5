"""What the code points to is there: no text of the tree names a design that is not part of it."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROOMS = (".", "agents", "argo", "benchmarks", "compose", "docs", "litmus", "manifests", "sf_healer", "tables", "tests")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".java", ".go", ".sh", ""}
GONE = re.compile(r"\bdesign\.md\b|\bdesign §|\(design:|\border of the design\b|\bthe design says\b", re.IGNORECASE)


def texts() -> list[Path]:
    """Give every text of ours; of the root only the files that lie in it."""
    found = []
    for room in ROOMS:
        paths = (REPOSITORY / room).glob("*") if room == "." else (REPOSITORY / room).rglob("*")
        found += [path for path in paths if path.is_file() and path.suffix in SUFFIXES and path.name != ".git"]
    return [path for path in found if path != Path(__file__)]


def test_no_text_names_a_design_that_is_not_here():
    assert len(texts()) > 500, "the walk must find them"
    assert [str(path) for path in texts() if GONE.search(path.read_text(errors="replace"))] == []


def test_every_decision_that_is_named_is_there():
    there = {path.name[:4] for path in (REPOSITORY / "docs" / "decisions").glob("*.md")}
    named = {
        number: path.name
        for path in texts()
        for number in re.findall(r"decisions?/(\d{4})\b", path.read_text(errors="replace"))
    }
    assert len(named) > 10, "the walk must find them"
    assert {number: where for number, where in named.items() if number not in there} == {}
