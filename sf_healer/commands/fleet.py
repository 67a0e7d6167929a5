"""`sf-healer fleet`: all Jobs counted, how far the logs are read, and what holds restarts back."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from sf_healer.commands.reading import (
    Reading,
    Table,
    missing_notes,
    moment,
    reading_option,
    show,
    url_option,
    watch,
    watch_option,
    worker,
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
            valve = asked.read("/actions/")["admission"]
            notes = []
        except ConnectionError as problem:  # the detector answers for itself
            valve, notes = None, [str(problem)]
        data = {**page, "admission": valve}
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
    if data["admission"] is not None:
        yield from _admission_rows(data["admission"], wide=wide)


def _admission_rows(valve: Mapping[str, Any], *, wide: bool) -> Iterator[tuple[str, object]]:
    fleet = valve["fleet"]
    yield "mode", "observe: nothing is touched" if valve["observe_only"] else "heal"
    since = f" since {moment(valve['phase_since'])}" if valve["phase_since"] else ""
    yield "admission", f"{valve['phase']}{since}"
    suspected = f", {fleet['suspected']} of them consumers that may be idle" if fleet["suspected"] else ""
    yield "  unhealthy", f"{fleet['unhealthy']} of {fleet['base']}{suspected}"
    missing = f", {fleet['partitions_not_counted']} partitions missing" if fleet["partitions_not_counted"] else ""
    yield "  counted", f"{moment(fleet['counted_at'])}{missing}"
    yield "  in flight", f"{len(valve['in_flight'])} of {valve['in_flight_limit']}"
    yield "  restarts allowed now", valve["restarts_allowed_now"]
    for held in valve["held"]:
        yield "  held", f"{held['job']} ({held['verdict']}){': ' + held['group'] if held['group'] else ''}"
    for pause in valve["pauses"]:
        until = f"until {moment(pause['until'])}" if pause["until"] else "until resumed"
        by = f" by {pause['by']}" if pause["by"] else ""
        yield "  paused", f"{pause['scope']} {until}: {pause['reason']}{by}"
    if wide:
        for name, value in valve["limits"].items():
            yield f"  limit {name}", "as the mode says" if value is None else value
