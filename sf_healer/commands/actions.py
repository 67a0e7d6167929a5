"""`sf-healer actions`: restarts under way and lately, with their steps."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from sf_healer.cli import Fit, say
from sf_healer.commands.options import seconds_of
from sf_healer.commands.reading import (
    JOB_COLUMN,
    Reading,
    Table,
    Worker,
    hint_for,
    job_key,
    reading_option,
    show,
    url_option,
    watch,
    watch_option,
    worker,
)
from sf_healer.core.wire import printable
from sf_healer.views.actions import waits_for_a_person
from sf_healer.views.lines import clock, dead_letter_lines, moment, verdict_of
from sf_healer.views.trees import draw_trees

_COLUMNS = ("SINCE", JOB_COLUMN, "VERDICT", "STATE", "REASON", "ATTEMPT", "DETAIL")
_WIDE_COLUMNS = (*_COLUMNS, "ACTION", "UID", "NEW UID", "STEPS")
_FIT = Fit(whole=frozenset({JOB_COLUMN}), droppable=("DETAIL", "ATTEMPT", "VERDICT"))


@click.command()
@click.argument("job", required=False)
@click.option("--open", "only_open", is_flag=True, help="Only those under way, and those that wait for a person.")
@click.option("--since", metavar="DURATION", help="Only what happened in the last 90s, 30m, 12h, 2d, 1w, ….")
@click.option("--tree", "as_trees", is_flag=True, help="Each restart as a tree of its steps, with their times.")
@reading_option
@watch_option
@url_option
def command(
    *,
    job: str | None,
    only_open: bool,
    since: str | None,
    as_trees: bool,
    output: Reading,
    watching: bool,
    url: str | None,
) -> None:
    """List restarts, the newest first: of all Jobs, or of JOB (a name, or namespace/name)."""
    if as_trees and (output is not Reading.TABLE or watching):
        raise click.UsageError("--tree goes with neither -o nor --watch")
    seconds = None if since is None else seconds_of(since, option="--since")
    asked, settings = worker(url)
    key = None if job is None else job_key(job, settings)

    def make() -> Table:
        page = asked.read("/actions/")
        notes = [] if key is None or key in page["actions"] else [_without_restarts(asked, key)]
        notes += [f"{what}: {told}" for what, told in dead_letter_lines(page.get("dead_letters", {}))]
        records = {
            name: {**record, "recent": []} if only_open else record
            for name, record in page["actions"].items()
            if key in {None, name} and (record.get("action") or not only_open)
        }
        if seconds is not None:
            records = _since(records, time.time() - seconds)
        columns = _WIDE_COLUMNS if output is Reading.WIDE else _COLUMNS
        rows = sorted((row for name, record in records.items() for row in _rows(name, record)), reverse=True)
        cells = [(moment(row[0]), *row[1 : len(columns)]) for row in rows]
        fit = _FIT._replace(droppable=()) if output is Reading.WIDE else _FIT
        return Table({**page, "actions": records}, columns, cells, notes, fit, settings.namespace)

    if as_trees:
        table = make()
        for line in draw_trees(table.data["actions"], (table.data["admission"] or {}).get("at")):
            click.echo(printable(line))
        for note in table.notes:
            say(note)
        return
    if watching:
        watch(make, output)
    show(make(), output)


def _without_restarts(asked: Worker, key: str) -> str:
    """Say that nothing is remembered of a Job; raises click.ClickException where there is no such Job."""
    known = asked.job_names()
    if known is None:
        return f"no restart of {key} is remembered; whether there is such a Job cannot be told here"
    if key in known:
        return f"{key} was neither restarted nor refused lately"
    raise click.ClickException(f"neither a Job nor a restart of {key} is known; {hint_for(key, known)}")


def _since(records: Mapping[str, Mapping[str, Any]], earliest: float) -> dict[str, Mapping[str, Any]]:
    """Leave out what was over before (epoch seconds); what is under way stays."""
    recent = {
        name: {**record, "recent": [outcome for outcome in record.get("recent", []) if outcome["at"] >= earliest]}
        for name, record in records.items()
    }
    return {name: record for name, record in recent.items() if record["recent"] or record.get("action")}


def _rows(job: str, record: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Give a row for the action that is open, and one for each outcome; the first cell is epoch seconds."""
    action = record.get("action")
    if action is not None:
        command = action["command"]
        waits = "waits for a person" if waits_for_a_person(action) else "under way"
        yield (
            action["since"],
            job,
            verdict_of(command),
            f"{waits}: {action['state']}",
            "-",
            action["attempt"],
            action["refusal"] or "-",
            command["id"],
            command["uid"],
            action["new_uid"] or "-",
            _steps(action["steps"]),
        )
    for outcome in record.get("recent", []):
        yield (
            outcome["at"],
            job,
            verdict_of(outcome),
            outcome["result"],
            outcome["reason"],
            outcome["attempt"],
            outcome["detail"] or "-",
            outcome["command_id"],
            outcome["uid"],
            outcome["new_uid"] or "-",
            _steps(outcome["steps"]),
        )


def _steps(steps: list[tuple[str, float]]) -> str:
    """Write the time of the first step, and the steps with the seconds since then."""
    if not steps:
        return "-"
    begun = steps[0][1]
    return " ".join([clock(begun), *(f"{name}+{at - begun:.1f}s" for name, at in steps)])
