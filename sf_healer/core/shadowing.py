"""Policies that no Job can ever get, because those before them match all that they match: as far as texts tell.

Of two globs it is decided only where one is a prefix with a star, or where one is no glob at all.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import msgspec

from sf_healer.core.policy import Match, PolicyBook

_SPECIAL = frozenset("*?[")


class Shadowed(msgspec.Struct, frozen=True):
    """A policy that never applies, and those before it that take all its Jobs; places count from 0."""

    place: int
    name: str
    by: tuple[str, ...]


def shadowed(book: PolicyBook) -> Iterator[Shadowed]:
    """Find the policies of a book that never apply."""
    before: list[tuple[str, Match]] = []
    for place, policy in enumerate(book.policies()):
        match = book.match_of(policy)
        if match is None:
            continue  # what is left for the default may well be nothing
        takers = _takers(match, before)
        if takers:
            yield Shadowed(place, policy.name, takers)
        before.append((policy.name, match))


def _takers(match: Match, before: Sequence[tuple[str, Match]]) -> tuple[str, ...]:
    """Name the policies that together take all Jobs of a match, target by target; none if one target is left."""
    takers: dict[str, None] = {}
    for target in match.targets or (None,):
        taker = next((name for name, earlier in before if _takes(earlier, match, target)), None)
        if taker is None:
            return ()
        takers[taker] = None
    return tuple(takers)


def _takes(earlier: Match, match: Match, target: str | None) -> bool:
    """Return whether a policy surely matches every Job of this target that another one matches."""
    return (
        (not earlier.targets or target in earlier.targets)
        and earlier.labels.items() <= match.labels.items()
        and (not earlier.names or all(_covered(glob, earlier.names) for glob in match.names or ("*",)))
    )


def _covered(glob: str, by: Sequence[str]) -> bool:
    return any(glob == wider or _is_within(glob, wider) for wider in by)


def _is_within(glob: str, wider: str) -> bool:
    if not _SPECIAL & set(glob):
        return fnmatchcase(glob, wider)
    prefix = wider.removesuffix("*")
    return wider.endswith("*") and not _SPECIAL & set(prefix) and _literal_beginning(glob).startswith(prefix)


def _literal_beginning(glob: str) -> str:
    return glob[: next(place for place, letter in enumerate(glob) if letter in _SPECIAL)]
