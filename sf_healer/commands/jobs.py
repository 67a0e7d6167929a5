"""`sf-healer jobs`: all Jobs with their verdicts, as any worker tells them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import click

from sf_healer.cli import ExitCode, Fit, say
from sf_healer.commands.reading import (
    JOB_COLUMN,
    Reading,
    Table,
    Worker,
    reading_option,
    show,
    url_option,
    watch,
    watch_option,
    worker,
)
from sf_healer.core.verdicts import RESTARTABLE, Verdict
from sf_healer.views.holding import held_by
from sf_healer.views.lines import in_short, missing_notes, moment, span

_COLUMNS = (JOB_COLUMN, "VERDICT", "WHY", "SILENT", "LIMIT", "RESTARTS")
_HELD_BY = "HELD BY"
_MORE_COLUMNS = ("TARGET", "QUEUE", "LAST LOADING", "PARTITION")
#: Of -o wide nothing is left out: it was asked for.
_FIT = Fit(whole=frozenset({JOB_COLUMN}), droppable=("RESTARTS", "WHY", "LIMIT", "SILENT"))


class Sort(StrEnum):
    """In which order Jobs are listed."""

    NAME = "name"
    SILENCE = "silence"
    VERDICT = "verdict"


@click.command()
@click.option(
    "--verdict",
    "verdicts",
    type=click.Choice(Verdict, case_sensitive=False),
    multiple=True,
    help="Only Jobs with this verdict; may be repeated.",
)
@click.option("--sick", is_flag=True, help="Only those that are to be restarted.")
@click.option("--target", "targets", multiple=True, help="Only Jobs of this target; may be repeated.")
@click.option("--queue", "queues", multiple=True, help="Only Jobs of this queue; may be repeated.")
@click.option("-n", "--namespace", help="Only Jobs of this namespace.")
@click.option(
    "--sort",
    type=click.Choice([order.value for order in Sort]),
    help="In order of name, of silence (the longest first; so with --sick), or of verdict (the sick first).",
)
@click.option("--check", is_flag=True, help="End with exit code 3 when a Job that is shown is sick.")
@reading_option
@watch_option
@url_option
def command(
    *,
    verdicts: tuple[Verdict, ...],
    sick: bool,
    targets: tuple[str, ...],
    queues: tuple[str, ...],
    namespace: str | None,
    sort: str | None,
    check: bool,
    output: Reading,
    watching: bool,
    url: str | None,
) -> ExitCode:
    """List the Jobs: what each is judged to be, by which rule, and how long it has been silent.

    Silence is counted on the log, not on the clock. HELD BY, with --sick and -o wide, says what holds the restart of a
    sick Job back. With --check the exit code is 3 when a Job that is shown is
    sick, and 5 when none is but some Jobs are not in the list, because a worker does not answer.
    """
    if watching and check:
        raise click.UsageError("--watch never ends, --check wants an end: give one of them")
    asked, settings = worker(url)
    wanted = frozenset(verdicts) | (RESTARTABLE if sick else frozenset())

    def is_wanted(row: Mapping[str, Any]) -> bool:
        return (
            (not wanted or row["verdict"] in wanted)
            and (not targets or row["target"] in targets)
            and (not queues or row["queue_id"] in queues)
            and (namespace is None or row["namespace"] == namespace)
        )

    is_wide = output is Reading.WIDE
    columns = (*_COLUMNS, *(_MORE_COLUMNS if is_wide else []), *([_HELD_BY] if sick or is_wide else []))
    order = Sort(sort) if sort else Sort.SILENCE if sick else Sort.NAME

    def make() -> Table:
        page = asked.read("/jobs/")
        rows = sorted((row for row in page["jobs"] if is_wanted(row)), key=lambda row: _place(row, order))
        valve, notes = _admission(asked) if _HELD_BY in columns else (None, [])
        if _HELD_BY in columns:
            rows = [{**row, "held_by": held_by(row, valve)} for row in rows]
        now = valve["at"] if valve is not None else None
        cells = [[_cells(row, now)[name] for name in columns] for row in rows]
        fit = _FIT._replace(droppable=()) if is_wide else _FIT
        notes = [*missing_notes(page), *notes]
        return Table({**page, "jobs": rows}, columns, cells, notes, fit, settings.namespace)

    if watching:
        watch(make, output)
    table = make()
    show(table, output)
    return _answer(table.data) if check else ExitCode.OK


def _answer(page: Mapping[str, Any]) -> ExitCode:
    sick = [row["job"] for row in page["jobs"] if row["verdict"] in RESTARTABLE]
    if sick:
        say(f"{len(sick)} sick: {', '.join(sick)}")
        return ExitCode.NO
    if page.get("partitions_missing"):
        return ExitCode.UNREACHABLE
    return ExitCode.OK


def _admission(asked: Worker) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Give what admission shows; without it the last answers are all that is known, and that is noted."""
    try:
        return asked.read("/actions/?last=1")["admission"], []
    except ConnectionError as problem:  # the detector answers for itself
        return None, [f"{_HELD_BY} is the last answer to each Job, not what holds now: {problem}"]


def _place(row: Mapping[str, Any], order: Sort) -> tuple[object, ...]:
    """Give what a row is sorted by; a verdict without a silence comes after those that have one."""
    match order:
        case Sort.NAME:
            return (row["job"],)
        case Sort.SILENCE:
            return (-row["silence_seconds"] if row["threshold_seconds"] else 1.0, row["job"])
        case Sort.VERDICT:
            return (row["verdict"] not in RESTARTABLE, row["verdict"], row["job"])


def _cells(row: Mapping[str, Any], now: float | None) -> dict[str, object]:
    return {
        JOB_COLUMN: row["job"],
        "VERDICT": row["verdict"],
        "WHY": row["rule"],
        "SILENT": span(row["silence_seconds"]) if row["threshold_seconds"] else "-",
        "LIMIT": span(row["threshold_seconds"]) if row["threshold_seconds"] else "-",
        "RESTARTS": row["attempt"],
        _HELD_BY: in_short(row.get("held_by"), now),
        "TARGET": row["target"] or "-",
        "QUEUE": row["queue_id"] or "-",
        "LAST LOADING": moment(row["last_loading_at"]),
        "PARTITION": row["partition"],
    }
