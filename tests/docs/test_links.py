"""Every link between our pages leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "argo/**/*.md", "litmus/**/*.md", "manifests/**/*.md")
    for page in REPOSITORY.glob(pattern)
)


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchor_of(heading: str) -> str:
    """Give the anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    return {anchor_of(each) for each in re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)}


def dead_links(page: Path) -> list[str]:
    found = []
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text()))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_link_of_a_page_is_dead(page: Path):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path):
    (tmp_path / "there.md").write_text("# What is *there*: `all`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#what-is-there-all) [b](gone.md) [c](there.md#nowhere) [d](https://e.org/x) `[e](no)`\n"
    )
    assert dead_links(page) == ["gone.md", "there.md#nowhere"]
