"""`sf-healer job NAME`: everything known of one Job, and why it is, or is not, restarted."""

import click

from sf_healer.commands.reading import (
    Reading,
    Table,
    job_key,
    reading_option,
    show,
    url_option,
    watch,
    watch_option,
    worker,
)
from sf_healer.views.holding import held_by, pauses_of
from sf_healer.views.lines import job_lines


@click.command()
@click.argument("job")
@reading_option
@watch_option
@url_option
def command(*, job: str, output: Reading, watching: bool, url: str | None) -> None:
    """Show everything known of JOB (a name, or namespace/name): what it said, why it is judged so, what follows."""
    asked, settings = worker(url)
    key = job_key(job, settings)

    def make() -> Table:
        page = asked.read_job(key)
        try:
            restarts = asked.read("/actions/")
            record, valve, notes = restarts["actions"].get(key), restarts["admission"], []
        except ConnectionError as problem:  # the detector answers for itself
            record, valve, notes = None, None, [str(problem)]
        data = {**page, "restarts": record, "pauses": pauses_of(page, valve), "held_by": held_by(page, valve)}
        return Table(data, ("WHAT", "VALUE"), list(job_lines(data)), notes)

    if watching:
        watch(make, output)
    show(make(), output)
