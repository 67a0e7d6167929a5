"""A TOML text that a person wrote: its tables read field by field, so that every fault is found, each with its line.

What the tables mean is not known here.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from enum import EnumType
from types import NoneType
from typing import Generic, NamedTuple, TypeVar, get_args, get_origin

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST_VALUE = 40
_LONG_NUMBER = 10**18


class Place(NamedTuple):
    """A place in a text: a table, which one of several, and a key in it ("": the table itself)."""

    table: str
    number: int = 0
    key: str = ""


class Read(NamedTuple, Generic[T]):
    """A table: what could be read of it, None where a required field is missing, and (key, fault) for the rest."""

    value: T | None
    faults: list[tuple[str, str]]


def read_table(table: Mapping[str, object], type_: type[T]) -> Read[T]:
    """Read a table into a struct; a key with a fault is left out."""
    fields = {field.name: field for field in msgspec.structs.fields(type_)}
    good: dict[str, object] = {}
    faults: list[tuple[str, str]] = []
    for key, value in table.items():
        if key not in fields:
            faults.append((key, unknown(key, fields)))
            continue
        try:
            good[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            faults.append((key, _misfit(key, value, fields[key].type, str(error))))
    missing = [name for name, field in fields.items() if field.required and name not in good]
    faults += [("", f"has no {name}") for name in missing if name not in table]
    return Read(None if missing else type_(**good), faults)


def unknown(key: str, known: Mapping[str, object] | list[str], *, what: str = "field") -> str:
    """Say that a key is none that is known, and which one it may have meant."""
    near = get_close_matches(key, list(known), n=1)
    return f"unknown {what} `{key[:_LONGEST_VALUE]}`" + (f"; did you mean {near[0]}?" if near else "")


def _misfit(key: str, value: object, type_: object, told: str) -> str:
    """Say what a value must be; what only the library knows is said in its words."""
    if get_origin(type_) is tuple:
        example = value if isinstance(value, str) else "…"
        return f'{key} must be a list of texts: ["{example[:_LONGEST_VALUE]}"]'
    if get_origin(type_) is dict:
        return f'{key} must be a table of texts: {{name = "value"}}'
    (wanted,) = [each for each in get_args(type_) or (type_,) if each is not NoneType]
    if isinstance(wanted, EnumType):
        words: list[object] = list(wanted)
        return f"{key} must be {' or '.join(repr(str(word)) for word in words)}, not {_brief(value)}"
    if type(value) is int and wanted in {int, float}:
        return f"{key}: {told}"  # it is a number, and none that can be taken
    return f"{key} must be {_WORDS[wanted]}, not {_brief(value)}"


_WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}


def _brief(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and abs(value) >= _LONG_NUMBER:
        return "a number as long as that"  # Python itself writes none of many digits
    told = repr(value[:_LONGEST_VALUE]) if isinstance(value, str) else str(value)
    return f"{told[:_LONGEST_VALUE]}…" if len(told) > _LONGEST_VALUE + len("''") else told


_HEADER = re.compile(r"\s*(\[\[?)\s*(\w+)\s*(?:\.\s*(\w+)\s*)?\]")
_KEY = re.compile(r"\s*[\"']?(\w+)[\"']?\s*[.=]")


def line_of(place: Place, text: str) -> int:
    """Find the line of a place: that of its key, else of its table, else the first that has the word."""
    lines = text.split("\n")
    header_at, tables, inside = 0, -1, False
    for number, line in enumerate(lines, start=1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None and header[3] is None:
            if header[2] == place.table:
                tables += 1
            inside = header[2] == place.table and tables == place.number
            header_at = number if inside else header_at
        here = header[3] if header is not None else key[1] if key is not None else None
        if inside and place.key and here == place.key:
            return number
    if header_at:
        return header_at
    word = place.key or place.table
    return next((number for number, line in enumerate(lines, start=1) if word in line), 1)
