"""README shows what there is: its links lead somewhere, its picture is of today's commands and small."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sf_healer.commands import jobs
from tests.docs.screenshot import PICTURE, drawn

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
PAGES = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").glob("*.md"))
MOST_BYTES = 60_000


def test_every_link_within_the_repository_leads_somewhere():
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if link and not (REPOSITORY / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_page_of_the_docs_is_linked(page: Path):
    assert f"]({page})" in README


def test_the_picture_is_small_and_loads_nothing():
    picture = PICTURE.read_text()
    assert len(picture) < MOST_BYTES
    ET.fromstring(picture)
    addresses = set(re.findall(r"\bhttps?://[^\"' )<]+", picture))
    assert addresses <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}  # a name, and rich's comment
    assert f"]({PICTURE.relative_to(REPOSITORY)})" in README


def test_the_picture_shows_what_the_commands_print_today():
    words = "".join(ET.fromstring(PICTURE.read_text()).itertext()).replace("\xa0", " ")
    for word in (*jobs._COLUMNS, "loading_stopped", "restart before", "because", "stuck: silence"):
        assert word in words, "run: make screenshot"


def test_a_picture_of_the_same_text_is_the_same():
    assert drawn("$ a\nstuck\n") == drawn("$ a\nstuck\n")
