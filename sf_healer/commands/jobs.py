"""`sf-healer jobs`: all Jobs with their verdicts, as any worker tells them."""

from collections.abc import Mapping
from typing import Any

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.reading import (
    Reading,
    Table,
    reading_option,
    show,
    url_option,
    watch,
    watch_option,
    worker,
)
from sf_healer.core.verdicts import RESTARTABLE, Verdict
from sf_healer.views.lines import missing_notes, moment, span

_COLUMNS = ("JOB", "VERDICT", "WHY", "SILENT", "LIMIT", "RESTARTS")
_WIDE_COLUMNS = (*_COLUMNS, "TARGET", "QUEUE", "LAST LOADING", "PARTITION")


@click.command()
@click.option(
    "--verdict", "verdicts", type=click.Choice(Verdict, case_sensitive=False), multiple=True, help="Only these."
)
@click.option("--sick", is_flag=True, help="Only those that are to be restarted.")
@click.option("--target", "targets", multiple=True, help="Only Jobs of this target; may be repeated.")
@click.option("--queue", "queues", multiple=True, help="Only Jobs of this queue; may be repeated.")
@click.option("-n", "--namespace", help="Only Jobs of this namespace.")
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
    check: bool,
    output: Reading,
    watching: bool,
    url: str | None,
) -> ExitCode:
    """List the Jobs: what each is judged to be, by which rule, and how long it has been silent.

    Silence is counted on the log, not on the clock. With --check the exit code is 3 when a Job that is shown is
    sick, and 5 when none is but some Jobs are not in the list, because a worker does not answer.
    """
    if watching and check:
        raise click.UsageError("--watch never ends, --check wants an end: give one of them")
    asked, _ = worker(url)
    wanted = frozenset(verdicts) | (RESTARTABLE if sick else frozenset())

    def is_wanted(row: Mapping[str, Any]) -> bool:
        return (
            (not wanted or row["verdict"] in wanted)
            and (not targets or row["target"] in targets)
            and (not queues or row["queue_id"] in queues)
            and (namespace is None or row["namespace"] == namespace)
        )

    def make() -> Table:
        page = asked.read("/jobs/")
        rows = [row for row in page["jobs"] if is_wanted(row)]
        columns = _WIDE_COLUMNS if output is Reading.WIDE else _COLUMNS
        cells = [_cells(row)[: len(columns)] for row in rows]
        return Table({**page, "jobs": rows}, columns, cells, missing_notes(page))

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


def _cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        row["job"],
        row["verdict"],
        row["rule"],
        span(row["silence_seconds"]) if row["threshold_seconds"] else "-",
        span(row["threshold_seconds"]) if row["threshold_seconds"] else "-",
        row["attempt"],
        row["target"] or "-",
        row["queue_id"] or "-",
        moment(row["last_loading_at"]),
        row["partition"],
    )
