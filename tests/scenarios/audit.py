"""The audit of a story: is every Job there once, as it was, restarted as often as it failed and no more?

What has happened is told by the API server (chronicle.py); what was said of it by the topics. Pure.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from sf_healer.core.commands import Outcome, Result
from tests.scenarios.chronicle import differences, marks

if TYPE_CHECKING:
    from tests.scenarios.chronicle import History, Life

_ID_CHARACTERS = 36  # of a UUID


class Told(msgspec.Struct):
    """What was said: each by the uid of the incarnation it is about."""

    failed: dict[str, list[str]]  # uids of the incarnations that failed, in order, by the name of the Job
    finals: dict[str, dict[str, Outcome]]  # final outcomes that are no refusals, by their ids: one told twice has one
    deleted_by: dict[str, set[str]]  # ids of the commands whose delete was accepted


def faults(history: History, told: Told, listed: dict[str, dict[str, Any]]) -> list[str]:
    """Say everything that is not as it must be; `listed` are the Jobs that exist, by name."""
    names = told.failed.keys()
    found = [f"{name}: pods of two incarnations at once" for name in history.side_by_side]
    found += [f"{name}: it is not there" for name in sorted(names - listed.keys())]
    found += [f"{name}: nobody knows it" for name in sorted((listed.keys() | history.lives.keys()) - names)]
    for name in sorted(names & listed.keys()):
        found += [f"{name}: {fault}" for fault in _faults_of(name, history, told, listed[name])]
    return found


def replaced_empty(history: History) -> int:
    """Count the Jobs that the Job controller overlooked."""
    return sum(_is_replaced_empty(history, life) for lives in history.lives.values() for life in lives)


def _faults_of(name: str, history: History, told: Told, listed: dict[str, Any]) -> list[str]:
    lives = [life for life in history.lives[name] if not _is_replaced_empty(history, life)]
    if [life.uid for life in lives[:-1]] != told.failed[name]:
        return [f"its incarnations were {[life.uid for life in lives]}, those that failed {told.failed[name]}"]
    found = [f"incarnation {life.uid} never ended" for life in lives[:-1] if not life.ended]
    if lives[-1].ended or listed["metadata"]["uid"] != lives[-1].uid:
        found.append("the incarnation that exists is not the last one created")
    for before, after in itertools.pairwise(lives):
        found += differences(before.manifest, after.manifest)
        found += _faults_of_restart(before, after, told)
    return found + differences(lives[-1].manifest, listed)


def _is_replaced_empty(history: History, life: Life) -> bool:
    """Say whether the Job controller overlooked this one (kubernetes #142142) and its action made it again."""
    action = _action(life.manifest)
    lives = history.lives[life.manifest["metadata"]["name"]]
    made_again = any(_action(other.manifest) == action for other in lives[lives.index(life) + 1 :])
    return bool(action) and made_again and life.uid not in history.running


def _faults_of_restart(before: Life, after: Life, told: Told) -> list[str]:
    """Compare what was told of a restart with what was done."""
    finals = list(told.finals.get(before.uid, {}).values())
    if len(finals) != 1:
        return [f"the restart of {before.uid} has {len(finals)} outcomes: {[_short(each) for each in finals]}"]
    [outcome] = finals
    deleted_by = told.deleted_by.get(before.uid, set())
    if deleted_by - {outcome.command_id}:
        return [f"{before.uid} was deleted by the commands {deleted_by}, its outcome is of {outcome.command_id}"]
    if outcome.new_uid != after.uid:
        return [f"{_short(outcome)} names {outcome.new_uid}, and {after.uid} is there"]
    if outcome.result is Result.RESTARTED:
        made, said = (
            (marks(after.manifest).get("replaces-uid"), _action(after.manifest)),
            (before.uid, outcome.command_id),
        )
        return [] if made == said else [f"made by {made}, told of {said}"]
    if outcome.reason == "refused_by_api":  # put back as it was, without new marks of ours
        return [] if marks(before.manifest) == marks(after.manifest) else ["put back with other marks"]
    return [f"the restart ended as {_short(outcome)}"]


def _action(manifest: dict[str, Any]) -> str:
    """Give the id of the command that made an incarnation; a create made again has a number after it."""
    return marks(manifest).get("action-id", "")[:_ID_CHARACTERS]


def _short(outcome: Outcome) -> str:
    return f"{outcome.result} ({outcome.reason}) {outcome.detail}"
