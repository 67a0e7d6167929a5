"""Restarts as trees of text: what was asked for, below it each step with its time, and what became of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sf_healer.core.actions import State
from sf_healer.views.actions import waits_for_a_person
from sf_healer.views.lines import beside_of, clock, grounds_in_short, moment, span, verdict_of, why_of
from sf_healer.views.words import STATES


class Branch(NamedTuple):
    """A line of a tree: what was reached, when, how long after the beginning, and what that means."""

    what: str
    at: str
    after: str
    meaning: str


def draw_trees(records: Mapping[str, Mapping[str, Any]], now: float | None) -> Iterator[str]:
    """Draw the restarts in the records of `/actions/`, the newest first; `now` is the log's time, epoch seconds."""
    trees = [tree for job, record in records.items() for tree in _trees(job, record, now)]
    for number, (_, root, branches) in enumerate(sorted(trees, key=lambda tree: tree[0], reverse=True)):
        if number:
            yield ""
        yield root
        yield from _drawn(branches)


def _trees(job: str, record: Mapping[str, Any], now: float | None) -> Iterator[tuple[float, str, list[Branch]]]:
    """Give for each restart of a Job when it was last heard of, its root and its branches."""
    outcomes: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in record.get("recent", []):
        outcomes.setdefault(outcome["command_id"], []).append(outcome)
    action = record.get("action")
    if action is not None:
        command = action["command"]
        told = outcomes.pop(command["id"], [])
        branches = [*_steps(action["steps"]), *_ends(told, action["steps"]), _going_on(action, now)]
        yield action["since"], _root(job, command["id"], command), branches
    for command_id, told in outcomes.items():
        steps = told[-1]["steps"]
        yield told[-1]["at"], _root(job, command_id, told[-1]), [*_steps(steps), *_ends(told, steps)]


def _root(job: str, command_id: str, told: Mapping[str, Any]) -> str:
    return f"{job}  {verdict_of(told)}: {grounds_in_short(told['evidence'])}  (action {command_id})"


def _steps(steps: Sequence[Sequence[Any]]) -> Iterator[Branch]:
    for number, (name, at) in enumerate(steps):
        if name != State.DONE:  # how it ended is told below
            after = _after(at, steps) if number else moment(at).partition(" ")[0]
            yield Branch(name, clock(at), after, STATES.get(name, ""))


def _ends(outcomes: Sequence[Mapping[str, Any]], steps: Sequence[Sequence[Any]]) -> Iterator[Branch]:
    for outcome in outcomes:
        meaning = ", ".join([why_of(outcome), *beside_of(outcome)])
        yield Branch(outcome["result"], clock(outcome["at"]), _after(outcome["at"], steps), meaning)


def _going_on(action: Mapping[str, Any], now: float | None) -> Branch:
    told = [f"{action['state']} for {span(max(0.0, now - action['since']))}" if now else f"{action['state']}"]
    if action["call"] is not None:
        step, _worker, at = action["call"]
        told.append(f"{step} asked for at {clock(at)}")
    if action["tries"]:
        told.append(f"{action['tries']} answers led nowhere")
    if action["refusal"]:
        told.append(f"the API said: {action['refusal']}")
    if waits_for_a_person(action):
        told.append("it waits for a person: `sf-healer resolve`")
    return Branch("now", "" if now is None else clock(now), "", ", ".join(told))


def _after(at: float, steps: Sequence[Sequence[Any]]) -> str:
    """Say how long after the first step."""
    return f"+{at - steps[0][1]:.1f}s" if steps else ""


def _drawn(branches: Sequence[Branch]) -> Iterator[str]:
    widths = [max((len(branch[column]) for branch in branches), default=0) for column in range(3)]
    for number, branch in enumerate(branches):
        knee = "└─" if number == len(branches) - 1 else "├─"
        cells = [text.ljust(width) for text, width in zip(branch, widths, strict=False)]
        yield "  ".join([f"{knee} {cells[0]}", *cells[1:], branch.meaning]).rstrip()
