"""docs/verdicts.md is the code: every verdict, every rule, and which of them go together."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.cli import ExitCode, run
from sf_healer.commands import verdicts
from sf_healer.core import verdicts as code
from sf_healer.core.verdicts import Rule, Verdict
from sf_healer.views import words
from tests.core.test_verdicts import GAPS, STATES, judged

PAGE = Path(__file__).parents[2] / "docs" / "verdicts.md"
GIVEN = {(verdict, rule) for rule, gives in verdicts.GIVES.items() for verdict in gives}


def named(node: ast.expr, enum: str) -> str | None:
    """Give the member of an enum that an expression names."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=member) if name == enum:
            return member
    return None


def pairs_written_out() -> set[tuple[Verdict, Rule]]:
    """Find every verdict that the code gives with a rule in one call; `_Failure` needs no verdict."""
    found: set[tuple[Verdict, Rule]] = set()
    for call in (node for node in ast.walk(ast.parse(Path(code.__file__).read_text())) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Name) or call.func.id not in {"Judgement", "_Clock", "_Failure"}:
            continue
        rules = [Rule[name] for each in call.args if (name := named(each, "Rule"))]
        gives = [Verdict[name] for each in call.args if (name := named(each, "Verdict"))]
        found |= {(verdict, rule) for rule in rules for verdict in gives or [Verdict.FAILED]}
    return found


def test_the_page_is_made_from_the_code():
    assert PAGE.read_text() == verdicts.markdown(), "run: sf-healer verdicts --markdown > docs/verdicts.md"


def test_every_verdict_and_every_rule_is_explained_and_has_something_to_do():
    assert set(words.VERDICTS) == set(Verdict)
    assert set(words.RULES) == set(words.TO_DO) == set(verdicts.GIVES) == set(Rule)
    assert {verdict for verdict, _ in GIVEN} == set(Verdict)
    told = [*words.VERDICTS.values(), *words.RULES.values(), *words.TO_DO.values()]
    assert [each for each in told if "|" in each or "\n" in each] == []
    assert [rule for rule, to_do in words.TO_DO.items() if not to_do.endswith((".", "?"))] == []


def test_a_rule_gives_the_verdicts_that_the_code_gives_with_it():
    written_out = pairs_written_out()
    assert len(written_out) > 20, "the walk must find them"
    assert written_out <= GIVEN
    excuses = set(code._EXCUSES.items())
    assert GIVEN - written_out - excuses == {(Verdict.STARTING, Rule.NO_REPORT)}  # a clock that has not run out


@given(STATES, GAPS, st.integers(0, 4000))
def test_whatever_a_job_said_its_verdict_and_rule_stand_in_one_row(state, gaps, eighths):
    judgement = judged(state, 200 + eighths / 8, gaps=gaps)
    assert (judgement.verdict, judgement.rule) in GIVEN


def test_the_command_lists_them(capsys):
    assert run(["verdicts", "-o", "json"]) == ExitCode.OK
    told = msgspec.json.decode(capsys.readouterr().out)
    assert {(each["verdict"], each["rule"]) for each in told} == GIVEN
    assert {each["verdict"] for each in told if each["restarted"]} == code.RESTARTABLE
