"""Litmus' comparators, odd corners included: an engine must get the same verdict from us as from go-runner.

Source: litmus-go 3.31, pkg/probe/comparator. Both sides are text; text that is no number counts as 0, a list of one
value is no list (so `oneOf` never holds for it), and white space around the expected value is kept unless it is a list.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from sf_healer.chaos.litmus import ComparedAs

_N = TypeVar("_N", int, float)

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a > b or a == b,
    "<=": lambda a, b: a < b or a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_ONE_OF = ("oneOf", "OneOf")
_BETWEEN = ("between", "Between")
_TEXT: Mapping[str, Callable[[str, str], bool]] = {
    "equal": lambda a, b: a == b,
    "notEqual": lambda a, b: a != b,
    "contains": lambda a, b: b in a,
    "matches": lambda a, b: re.search(b, a) is not None,
    "notMatches": lambda a, b: re.search(b, a) is None,
}

#: Which criteria each reading knows.
CRITERIA: Mapping[ComparedAs, frozenset[str]] = {
    ComparedAs.INT: frozenset({*_ORDER, *_ONE_OF, *_BETWEEN}),
    ComparedAs.FLOAT: frozenset({*_ORDER, *_ONE_OF, *_BETWEEN}),
    ComparedAs.STRING: frozenset({*_TEXT, *(name[0].upper() + name[1:] for name in _TEXT), *_ONE_OF}),
}


def holds(compared_as: ComparedAs, actual: str, criteria: str, expected: str) -> bool:
    """Return whether a comparison holds; criteria that the reading does not know never do, as in Litmus.

    A regular expression is Python's, not RE2; one that neither can read does not hold.
    """
    if criteria not in CRITERIA[compared_as]:
        return False
    if compared_as is ComparedAs.STRING:
        return _text_holds(actual, criteria, expected)
    if compared_as is ComparedAs.INT:
        return _number_holds(actual, criteria, expected, integer)
    return _number_holds(actual, criteria, expected, number)


def integer(text: str) -> int:
    """Read a whole number as strconv.Atoi does, 0 for what is none."""
    return int(text) if _INTEGER.fullmatch(text) else 0


def number(text: str) -> float:
    """Read a number as strconv.ParseFloat does in what Prometheus prints (NaN and Inf too), 0 for what is none."""
    if not text or text != text.strip():
        return 0.0
    try:
        return float(text)
    except ValueError:
        return 0.0


def listed(expected: str) -> list[str]:
    """Give the values of a list; a single value is none."""
    values = expected.strip().split(",")
    return values if len(values) > 1 else []


def _number_holds(actual: str, criteria: str, expected: str, read: Callable[[str], _N]) -> bool:
    found, several = read(actual), [read(each) for each in listed(expected)]
    if criteria in _ONE_OF:
        return found in several
    if criteria in _BETWEEN:
        return bool(several) and several[0] <= found <= several[1]
    return _ORDER[criteria](found, read("0" if several else expected))


def _text_holds(actual: str, criteria: str, expected: str) -> bool:
    several = listed(expected)
    if criteria in _ONE_OF:
        return actual in several
    try:
        compare = _TEXT[criteria[0].lower() + criteria[1:]]
        # Litmus forgets the value when it looks like a list.
        return compare(actual, "" if several else expected)
    except re.error:
        return False
