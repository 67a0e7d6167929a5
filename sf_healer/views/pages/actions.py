"""Restarts: a table of the last ones, and a page for each with its steps as a tree, as they were taken."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sf_healer.views.actions import list_actions, waits_for_a_person
from sf_healer.views.lines import all_dead_letters, answer_of, beside_of, grounds_in_short, grounds_lines, span
from sf_healer.views.pages.markup import (
    Child,
    Html,
    action_path,
    element,
    fragment,
    job_path,
    link,
    table,
    verdict_mark,
    words,
)
from sf_healer.views.pages.shell import Frame, dead_letters, described, draw, notice, section, time_of
from sf_healer.views.words import STATES, explained

_COLUMNS = ("When", "Job", "Verdict", "What became of it", "Evidence", "Attempt")
#: More would make a page that nobody reads; the JSON twin has them all.
MOST_LISTED = 200


def draw_actions(data: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw the restarts under way and lately; `data` is what the JSON twin shows."""
    listed = list_actions(data["actions"])
    left_out = len(listed) - MOST_LISTED
    return draw(
        "Actions",
        section(
            "actions",
            "Restarts under way and lately",
            notice(f"{left_out} older ones are in the JSON only") if left_out > 0 else None,
            dead_letters(all_dead_letters(data)),
            actions_table(listed[:MOST_LISTED], now=frame.now, has_jobs=frame.has_jobs),
        ),
        frame=frame,
    )


def actions_table(listed: Sequence[Mapping[str, Any]], *, now: float, has_jobs: bool = True) -> Html:
    """Draw restarts as rows, each with the way to its own page."""
    if not listed:
        return element("p", "Nothing was restarted or refused lately.")
    return table("Restarts, the newest first", _COLUMNS, (_row(entry, now, has_jobs=has_jobs) for entry in listed),
                 class_="stack")  # fmt: skip


def _row(entry: Mapping[str, Any], now: float, *, has_jobs: bool) -> Iterable[Child]:
    waits = element("strong", "waits for a person:", class_="sick") if entry["waits_for_a_person"] else None
    under_way = "under way:" if entry["is_open"] and waits is None else None
    meaning: Child = explained(entry["reason"], entry["detail"]) or STATES.get(entry["state"], "")
    state = element("strong", entry["state"])
    reason = f"({entry['reason']})" if entry["reason"] else None
    return (
        link(time_of(entry["at"], now), action_path(entry["id"])),
        _job(entry["job"], has_jobs=has_jobs),
        words(verdict_mark(entry["verdict"]), f"by {entry['requested_by']}" if entry["requested_by"] else None),
        fragment(words(waits, under_way, state, reason), ": " if meaning else None, meaning),
        grounds_in_short(entry["evidence"]),
        entry["attempt"],
    )


def _job(key: str, *, has_jobs: bool) -> Child:
    return link(key, job_path(key)) if has_jobs else key


def draw_action(data: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw one restart; `data` is what the JSON twin shows."""
    action, outcomes = data["action"], data["outcomes"]
    told = action["command"] if action is not None else outcomes[-1]
    command_lines = [
        ("action", data["id"]),
        ("verdict", told["verdict"]),
        ("policy", told["policy"] or "-"),
        ("incarnation", told["uid"]),
        ("asked for by", told["requested_by"] or "the detector"),
    ]
    return draw(
        f"Restart of {data['job']}",
        section(
            "what",
            "What was asked for",
            element("p", "The Job: ", _job(data["job"], has_jobs=frame.has_jobs)),
            described(command_lines),
            element("h3", "Evidence"),
            described(list(grounds_lines(told["evidence"]))),
        ),
        section("steps", "Steps", *_how_it_stands(action), _tree(data, frame.now)),
        frame=frame,
    )


def _how_it_stands(action: Mapping[str, Any] | None) -> Iterator[Child]:
    if action is None:
        return
    if waits_for_a_person(action):
        yield notice("it waits for a person; `sf-healer resolve` tells what can be done")
    if action["refusal"]:
        yield notice(f"the API said: {action['refusal']}")


def _tree(data: Mapping[str, Any], now: float) -> Html:
    """Draw the command, below it each step with its time and how long it took, and what became of it."""
    action, outcomes = data["action"], data["outcomes"]
    steps = action["steps"] if action is not None else outcomes[-1]["steps"]
    branches = [_step(steps, number) for number in range(len(steps))]
    if action is not None:
        branches.append(element("li", words(*_going_on(action, now))))
    branches += [_outcome(outcome, now) for outcome in outcomes]
    told = action["command"] if action is not None else outcomes[-1]
    root = element("li", words("restart, for it was", verdict_mark(told["verdict"])), element("ol", *branches))
    return element("ol", root, class_="tree")


def _step(steps: Sequence[Sequence[Any]], number: int) -> Html:
    name, at = steps[number]
    after = f"+{at - steps[0][1]:.1f} s"
    took = f"for {steps[number + 1][1] - at:.1f} s" if number + 1 < len(steps) else None
    meaning = element("span", STATES.get(name, ""), class_="quiet")
    return element("li", words(element("span", name, class_="step"), time_of(at), after, took, meaning))


def _going_on(action: Mapping[str, Any], now: float) -> Iterator[Child]:
    yield element("span", "now", class_="step")
    yield f"{action['state']} for {span(max(0.0, now - action['since']))}"
    if action["call"] is not None:
        step, _worker, at = action["call"]
        yield fragment(", ", step, " asked for at ", time_of(at))
    if action["tries"]:
        yield f", {action['tries']} answers led nowhere"


def _outcome(outcome: Mapping[str, Any], now: float) -> Html:
    beside = ", ".join(beside_of(outcome))
    return element(
        "li",
        words(element("span", outcome["result"], class_="step"), time_of(outcome["at"], now)),
        element("div", answer_of(outcome)),
        element("div", beside, class_="quiet") if beside else None,
    )
