"""`sf-healer fleet`: all Jobs counted, how far the logs are read, and what holds restarts back."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from sf_healer.commands.reading import Reading, Table, reading_option, show, url_option, watch, watch_option, worker
from sf_healer.views.lines import (
    admission_lines,
    all_dead_letters,
    dead_letter_lines,
    missing_notes,
    moment,
    policy_file_lines,
)


@click.command()
@reading_option
@watch_option
@url_option
def command(*, output: Reading, watching: bool, url: str | None) -> None:
    """Count the Jobs by verdict, and show what admission sees and what holds restarts back."""
    asked, _ = worker(url)

    def make() -> Table:
        page = asked.read("/fleet/")
        try:
            restarts, notes = asked.read("/actions/"), []
        except ConnectionError as problem:  # the detector answers for itself
            restarts, notes = {"admission": None}, [str(problem)]
        letters = all_dead_letters(page, restarts)
        data = {**page, "admission": restarts["admission"], "dead_letters": letters}
        return Table(
            data, ("WHAT", "VALUE"), list(_rows(data, wide=output is Reading.WIDE)), missing_notes(page) + notes
        )

    if watching:
        watch(make, output)
    show(make(), output)


def _rows(data: Mapping[str, Any], *, wide: bool) -> Iterator[tuple[str, object]]:
    yield "jobs", data["jobs"]
    for verdict, count in sorted(data["verdicts"].items(), key=lambda item: -item[1]):
        yield f"  {verdict}", count
    marks = [partition["watermark"] for partition in data["partitions"]]
    yield "watermark", moment(None if None in marks or not marks else min(marks))
    if wide:
        for partition in data["partitions"]:
            told = f"{moment(partition['watermark'])}  {partition['jobs']} Jobs  {partition['feed_gaps']} feed gaps"
            yield f"  partition {partition['partition']}", told
    yield from dead_letter_lines(data["dead_letters"])
    yield from policy_file_lines(data.get("policies", ()))
    if data["admission"] is not None:
        yield from admission_lines(data["admission"], wide=wide)
