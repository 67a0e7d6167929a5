"""Litmus' comparators, corner by corner (litmus-go 3.31, pkg/probe/comparator)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.chaos.comparators import CRITERIA, holds
from sf_healer.chaos.litmus import ComparedAs

INT, FLOAT, STRING = ComparedAs.INT, ComparedAs.FLOAT, ComparedAs.STRING


@pytest.mark.parametrize(
    ("compared_as", "actual", "criteria", "expected", "answer"),
    [
        (INT, "3", ">=", "3", True),
        (INT, "2", ">=", "3", False),
        (INT, "3", "!=", "4", True),
        (INT, "200", "oneOf", "200,204", True),
        (INT, "200", "oneOf", "200", False),  # a list of one is no list
        (INT, "5", "between", "1,5", True),
        (INT, "6", "Between", "1,5", False),
        (INT, "5", "between", "5", False),
        (INT, "1.5", "==", "0", True),  # Atoi of what is no whole number
        (INT, "many", "==", "0", True),
        (INT, "1", "equal", "1", False),  # not a comparison of numbers
        (FLOAT, "0.5", "<", "0.6", True),
        (FLOAT, "1e3", "==", "1000", True),
        (FLOAT, "NaN", "==", "NaN", False),
        (FLOAT, "NaN", "!=", "0", True),
        (FLOAT, "+Inf", ">", "9999", True),
        (FLOAT, "1", "between", "0.5,1.5", True),
        (FLOAT, "", "==", "0", True),
        (FLOAT, "1", "==", "1,2", False),  # a list where one value is compared: 0
        (FLOAT, "0", "==", "1,2", True),
        (STRING, "a", "equal", "a", True),
        (STRING, "a", "Equal", "a", True),
        (STRING, "a", "equal", " a", False),
        (STRING, "abc", "contains", "b", True),
        (STRING, "abc", "matches", "^a.c$", True),
        (STRING, "abc", "notMatches", "^b", True),
        (STRING, "abc", "matches", "(", False),
        (STRING, "abc", "notMatches", "(", False),
        (STRING, "b", "oneOf", "a,b", True),
        (STRING, "b", "oneOf", "b", False),
        (STRING, "a,b", "equal", "a,b", False),  # the value that looks like a list is forgotten
        (STRING, "anything", "contains", "a,b", True),
        (STRING, "1", "==", "1", False),
    ],
)
def test_a_comparison_has_litmus_answer(compared_as, actual, criteria, expected, answer):
    assert holds(compared_as, actual, criteria, expected) is answer


@given(st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_numbers_are_ordered_as_numbers(a: int, b: int):
    for compared_as in (INT, FLOAT):
        assert holds(compared_as, str(a), "<=", str(b)) is (a <= b)
        assert holds(compared_as, str(a), ">", str(b)) is not holds(compared_as, str(a), "<=", str(b))
        assert holds(compared_as, str(a), "between", f"{b},{b + 5}") is (b <= a <= b + 5)


@given(st.sampled_from(ComparedAs), st.text(), st.text(), st.text())
def test_unknown_criteria_never_hold(compared_as: ComparedAs, actual: str, criteria: str, expected: str):
    if criteria not in CRITERIA[compared_as]:
        assert not holds(compared_as, actual, criteria, expected)


@given(st.sampled_from(ComparedAs), st.data(), st.text(), st.text())
def test_every_known_comparison_has_an_answer(compared_as: ComparedAs, data, actual: str, expected: str):
    criteria = data.draw(st.sampled_from(sorted(CRITERIA[compared_as])))
    assert holds(compared_as, actual, criteria, expected) in {True, False}
