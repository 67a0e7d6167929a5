"""Which Job or Pod an engine hits: what the file wishes for, a choice by a seed, and the names filled in.

Litmus kills every Pod that is named, and looks for the same names again in its next round: so one is picked before the
engine is made. Pure: who asks the cluster is `commands/chaos.py`.
"""

import random
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

PREFIX = "chaos.sf-healer.io/"
_FILLED = re.compile(r"PICKED-(?:JOB|UID|PODS|POD)(?![A-Za-z0-9])")
_LEFT = re.compile(r"PICKED-[A-Z]+")
_NAME_LIMIT = 63  # characters of a name that becomes a label


class Wanted(StrEnum):
    """What is picked."""

    NONE = "none"  # the engine names its targets itself
    JOB = "job"  # one Job and its Pod
    JOBS = "jobs"  # the Pods of all Jobs that fit
    POD = "pod"  # one Pod by its labels


class Wish(msgspec.Struct, frozen=True):
    """What an engine's annotations ask for."""

    wanted: Wanted
    namespace: str = ""
    job_suffixes: tuple[str, ...] = ()
    labels: str = ""
    at_least: int = 1
    same_as: str = ""  # engines of one run with the same word here get the same Job


class Candidate(msgspec.Struct, frozen=True, order=True):
    """Something that runs: a Job with the Pod it has now, or a Pod alone (no job, no uid)."""

    pod: str
    job: str = ""
    uid: str = ""


class PickError(ValueError):
    """The wish cannot be read, or nothing fulfils it."""


def wish_of(annotations: Mapping[str, str]) -> Wish:
    """Read the annotations of an engine; raises PickError."""
    told = {name.removeprefix(PREFIX): value for name, value in annotations.items() if name.startswith(PREFIX)}
    try:
        return Wish(
            wanted=Wanted(told.get("pick", Wanted.NONE)),
            namespace=told.get("pick-namespace", ""),
            job_suffixes=tuple(each for each in told.get("pick-job-suffixes", "").split(",") if each),
            labels=told.get("pick-labels", ""),
            at_least=int(told.get("pick-at-least", "1")),
            same_as=told.get("same-pick", ""),
        )
    except ValueError as problem:
        raise PickError(f"annotations of the engine: {problem}") from None


def choose(wish: Wish, candidates: Sequence[Candidate], chance: random.Random) -> tuple[Candidate, ...]:
    """Choose one, or all for `jobs`; the same seed gives the same. Raises PickError if too few fit."""
    fitting = sorted(each for each in candidates if not wish.job_suffixes or each.job.endswith(wish.job_suffixes))
    if len(fitting) < wish.at_least:
        ends = " or ".join(wish.job_suffixes) or wish.labels
        raise PickError(f"{len(fitting)} in {wish.namespace} that run and fit {ends}, {wish.at_least} wanted")
    return tuple(fitting) if wish.wanted is Wanted.JOBS else (chance.choice(fitting),)


def filled(document: Mapping[str, Any], picked: Sequence[Candidate], *, run: str) -> dict[str, Any]:
    """Give the engine with the names filled in, and a name of its own: `run` (a moment) at its end.

    A ChaosResult outlives its engine: under the old name the old verdict would be read. Raises PickError if a
    `PICKED-…` is left.
    """
    first = picked[0] if picked else Candidate("")
    names = {
        "PICKED-JOB": first.job,
        "PICKED-UID": first.uid,
        "PICKED-POD": first.pod,
        "PICKED-PODS": ",".join(each.pod for each in picked),
    }
    made: dict[str, Any] = _replaced(document, {name: value for name, value in names.items() if value})
    metadata = made["metadata"]
    metadata["name"] = f"{metadata['name'][: _NAME_LIMIT - len(run) - 1]}-{run}"
    if left := sorted(set(_LEFT.findall(msgspec.json.encode(made).decode()))):
        raise PickError(f"{document['metadata']['name']}: nothing was picked for {', '.join(left)}")
    return made


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _FILLED.sub(lambda found: names.get(found[0], found[0]), value)
        case Mapping():
            return {key: _replaced(each, names) for key, each in value.items()}
        case list():
            return [_replaced(each, names) for each in value]
        case _:
            return value
