"""docs/policy.md and docs/operations.md say what the code says: every name, every default, every reason."""

import re
import shlex
from pathlib import Path

import click
import pytest
from prometheus_client import generate_latest

from sf_healer.cli import COMMANDS, cli
from sf_healer.commands import metrics
from sf_healer.core.admission import Reason
from sf_healer.core.commands import Result
from sf_healer.core.events import MalformedReason
from sf_healer.core.identity import UnresolvedReason
from sf_healer.core.policy import Expectations, Limits, Match, Policy
from sf_healer.core.verdicts import Verdict
from sf_healer.views import words

DOCS = Path(__file__).parents[2] / "docs"
POLICY = (DOCS / "policy.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()


def rows(page, heading):
    """Give the rows of the first table under a heading, as cells by the name in the first."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {cell[0].strip("`| "): cell[1:] for cell in cells}


def test_every_test_that_the_transports_promises_name_is_there():
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "transport.md").read_text()))
    sources = [
        path.read_text() for room in ("agents", "broker") for path in (DOCS.parent / "tests" / room).glob("*.py")
    ]
    there = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(sources), flags=re.MULTILINE))
    assert named
    assert named <= there, named - there


def test_every_reason_of_a_dead_letter_is_explained_in_the_same_words():
    table = rows((DOCS / "reports.md").read_text(), "Dead letters")
    assert {name: meaning for name, (meaning,) in table.items()} == dict(words.DEAD_LETTERS)
    assert {*MalformedReason, *(f"unresolved_{reason}" for reason in UnresolvedReason)} <= table.keys()


def test_every_field_that_matches_jobs_is_explained():
    assert set(rows(POLICY, "Which Jobs: `[[policy]]`")) == {"name", *Match.__struct_fields__}


def test_every_expectation_is_explained_with_its_default():
    table = rows(POLICY, "What is expected: `[defaults]` and `[[policy]]`")
    assert list(table) == list(Expectations.__struct_fields__)
    default = Policy(name="default")
    for name, (told, meaning) in table.items():
        value = getattr(default, name)
        assert told == ("that of `[admission]`" if value is None else as_written(value)), name
        assert meaning


def test_every_limit_is_explained_with_its_default():
    table = rows(POLICY, "The safety valve: `[admission]`")
    assert list(table) == list(Limits.__struct_fields__)
    for name, (told, meaning) in table.items():
        value = getattr(Limits(), name)
        assert told == ("as the mode says" if value is None else as_written(value)), name
        assert meaning


def as_written(value):
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


@pytest.mark.parametrize(
    ("heading", "said"), [("What a refusal means", words.REASONS), ("How a restart ends", words.CAUSES)]
)
def test_every_reason_is_explained_as_the_commands_do(heading, said):
    table = rows(OPERATIONS, heading)
    assert list(table) == [str(reason) for reason in said]
    assert {name: cells[0] for name, cells in table.items()} == {str(reason): told for reason, told in said.items()}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_page_names_no_command_that_there_is_not(page):
    text = page.read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL))
    assert set(re.findall(r"(?:^|`)sf-healer ([a-z][a-z-]*)", code, flags=re.MULTILINE)) <= set(COMMANDS)


def questions():
    section = OPERATIONS.split("\n## Ten questions at night\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {question: re.findall(r"`sf-healer ([^`]+)`", answer) for question, answer in rows}


def test_ten_questions_are_answered_in_two_commands_at_most():
    assert len(questions()) == 10
    assert all(1 <= len(commands) <= 2 for commands in questions().values())


@pytest.mark.parametrize("told", sorted({told for commands in questions().values() for told in commands}))
def test_a_command_that_answers_a_question_is_understood(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(told)
    for file in re.findall(r"\S+\.(?:gz|toml|json)", told):
        (tmp_path / file).touch()
    command = cli.get_command(click.Context(cli), name)
    with command.make_context(name, arguments) as understood:
        assert understood.params


def test_every_metric_is_explained():
    assert (DOCS / "metrics.md").read_text() == metrics.markdown(), (
        "run: sf-healer metrics --markdown > docs/metrics.md"
    )


@pytest.mark.parametrize(
    ("series", "values"),
    [
        ("sf_healer_verdicts_total{verdict", Verdict),
        ("sf_healer_outcomes_total{result", Result),
        ("sf_healer_refusals_total{reason", Reason),
    ],
)
def test_what_has_not_happened_yet_is_scraped_as_nothing_so_that_its_first_time_is_seen(series, values):
    scraped = generate_latest().decode()
    assert [value for value in values if f'{series}="{value}"}}' not in scraped] == []


def test_the_metrics_are_named_as_a_scrape_shows_them():
    scraped = {line.split(" ")[2] for line in generate_latest().decode().splitlines() if line.startswith("# TYPE ")}
    named = {each.name for each in metrics.described()}
    assert named
    assert named <= scraped
    assert {name for name in scraped if name.startswith("sf_healer_") and not name.endswith("_created")} == named
