"""Which Jobs of a long list are asked for, in which order, and which part of it: the question of an address's query.

A part begins after a place or ends before one, not at a number: Jobs come and go between two pages, workers each know
some of the Jobs, and none of them has to send more than one part. The sick come first. Nothing here draws.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

import msgspec

from sf_healer.core.verdicts import RESTARTABLE, Verdict

#: Of a page for people, unless it is asked for another.
ROWS = 100
MOST_ROWS = 1_000
#: In place of a verdict: every one that is to be restarted.
SICK = "sick"


class SelectionError(ValueError):
    """The query cannot be understood; the message says which part of it."""


class Order(StrEnum):
    """How Jobs follow each other within the sick, and within the others."""

    NAME = "name"
    SILENCE = "silence"  # the last sign of life: those that gave none first, then the oldest


class Place(NamedTuple):
    """Where a Job stands in the list; places are compared field by field."""

    is_well: bool
    last_seen_at: float  # epoch seconds; 0 in order of name
    job: str

    def __str__(self) -> str:
        """Write it for a query."""
        return f"{int(self.is_well)}:{self.last_seen_at!r}:{self.job}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `str` wrote; raises SelectionError."""
        well, _, rest = text.partition(":")
        at, _, job = rest.partition(":")
        try:
            return cls(bool(int(well)), float(at), job)
        except ValueError:
            raise SelectionError(f"no place in the list: {text!r}") from None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """A question; the empty one asks for all Jobs, in order of name whatever their verdict, as one part."""

    verdicts: tuple[str, ...] = ()  # as asked for: verdicts, or SICK
    targets: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    namespace: str = ""
    text: str = ""  # in the Job's name, its target or its queue; upper or lower case
    order: Order = Order.NAME
    rows: int = 0  # 0: all
    after: Place | None = None
    before: Place | None = None

    @classmethod
    def of(cls, query: Iterable[tuple[str, str]], *, rows: int = 0) -> Self:
        """Read the query of an address; raises SelectionError. Empty values, as forms send them, ask for nothing."""
        told: dict[str, list[str]] = {}
        for name, value in query:
            if value.strip():
                told.setdefault(name, []).append(value.strip())
        verdicts = tuple(told.get("verdict", ()))
        for verdict in verdicts:
            if verdict != SICK and verdict not in set(Verdict):
                raise SelectionError(f"no verdict: {verdict!r}; there are {SICK}, {', '.join(Verdict)}")
        orders = told.get("order", [Order.NAME])
        if orders[-1] not in set(Order):
            raise SelectionError(f"no order: {orders[-1]!r}; there are {', '.join(Order)}")
        after, before = told.get("after"), told.get("before")
        return cls(
            verdicts=verdicts,
            targets=tuple(told.get("target", ())),
            queues=tuple(told.get("queue", ())),
            namespace=told.get("namespace", [""])[-1],
            text=told.get("text", [""])[-1],
            order=Order(orders[-1]),
            rows=number("rows", told["rows"][-1], most=MOST_ROWS) if "rows" in told else rows,
            after=Place.read(after[-1]) if after else None,
            before=Place.read(before[-1]) if before and not after else None,
        )

    def query(self, **changes: Any) -> list[tuple[str, str]]:
        """Write it as a query, with some fields changed; without what asks for nothing."""
        asked = msgspec.structs.replace(self, **changes)
        written = [("verdict", each) for each in asked.verdicts]
        written += [("target", each) for each in asked.targets]
        written += [("queue", each) for each in asked.queues]
        written += [("namespace", asked.namespace), ("text", asked.text)]
        written += [("order", asked.order)] if asked.order is not Order.NAME else []
        written += [("rows", str(asked.rows))] if asked.rows not in {0, ROWS} else []
        written += [(name, str(place)) for name, place in (("after", asked.after), ("before", asked.before)) if place]
        return [(name, value) for name, value in written if value]

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is asked for, by its own fields."""
        verdict = row["verdict"]
        return (
            (not self.verdicts or verdict in self.verdicts or (SICK in self.verdicts and verdict in RESTARTABLE))
            and (not self.targets or row["target"] in self.targets)
            and (not self.queues or row["queue_id"] in self.queues)
            and (not self.namespace or row["namespace"] == self.namespace)
            and (not self.text or _holds(row, self.text.casefold()))
        )

    def place_of(self, row: Mapping[str, Any]) -> Place:
        """Give the place of a row in this order."""
        seen_at = (row["last_seen_at"] or 0.0) if self.order is Order.SILENCE else 0.0
        return Place(row["verdict"] not in RESTARTABLE, seen_at, row["job"])


class Part(msgspec.Struct):
    """A part of the list, as one worker knows it or as all do; JSON when workers ask one another."""

    jobs: list[dict[str, Any]]
    total: int  # that are asked for, in this part or not
    ahead: int  # of them, those up to `after`, or before `before`


def select(rows: Iterable[dict[str, Any]], asked: Selection) -> Part:
    """Take the part that is asked for of some rows."""
    wanted = [(asked.place_of(row), row) for row in rows if asked.wants(row)]
    if asked.after is not None:
        inside = [each for each in wanted if each[0] > asked.after]
    elif asked.before is not None:
        inside = [each for each in wanted if each[0] < asked.before]
    else:
        inside = wanted
    ahead = len(inside) if asked.before is not None else len(wanted) - len(inside)
    return Part([row for _, row in _first(inside, asked)], len(wanted), ahead)


def merge(parts: Sequence[Part], asked: Selection) -> Part:
    """Make one part of those of several workers; a Job that two of them know, for a moment, is shown once."""
    rows = {row["job"]: row for part in parts for row in part.jobs}
    jobs = [row for _, row in _first([(asked.place_of(row), row) for row in rows.values()], asked)]
    ahead = sum(part.ahead for part in parts)
    return Part(jobs, sum(part.total for part in parts), ahead)


def _first(placed: list[tuple[Place, dict[str, Any]]], asked: Selection) -> list[tuple[Place, dict[str, Any]]]:
    rows = asked.rows or len(placed)
    if asked.before is not None:
        return heapq.nlargest(rows, placed, key=lambda each: each[0])[::-1]
    return heapq.nsmallest(rows, placed, key=lambda each: each[0])


def _holds(row: Mapping[str, Any], text: str) -> bool:
    return any(text in str(row[field]).casefold() for field in ("job", "target", "queue_id"))


def number(name: str, text: str, *, most: int) -> int:
    """Read a number of a query, 1 to `most`; raises SelectionError."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not digits or not 0 < int(text) <= most:
        raise SelectionError(f"{name} must be a number from 1 to {most}: {text!r}")
    return int(text)
