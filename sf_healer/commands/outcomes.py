"""`sf-healer outcomes`: what became of every command, refusals too, for as long as the topic keeps it."""

import asyncio

import click
import msgspec

from sf_healer.adapters import kafka
from sf_healer.cli import Fit, Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.options import bootstrap_option, seconds_of, since_option, with_bootstrap
from sf_healer.commands.reading import JOB_COLUMN, job_key
from sf_healer.core.commands import Result
from sf_healer.outcomes import Told, find
from sf_healer.past import NoTopicError
from sf_healer.views.lines import moment, verdict_of
from sf_healer.views.words import explained

_COLUMNS = ("AT", JOB_COLUMN, "VERDICT", "RESULT", "REASON", "TIMES", "SINCE", "DETAIL")
_FIT = Fit(whole=frozenset({JOB_COLUMN}))


@click.command()
@click.argument("job", required=False)
@since_option
@click.option("--result", type=click.Choice(Result, case_sensitive=False), help="Only those that ended so.")
@click.option(
    "--last", "newest", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="Show the last N."
)
@bootstrap_option
@output_option
def command(
    *, job: str | None, since: str, result: Result | None, newest: int, bootstrap: str | None, output: Output
) -> None:
    """Tell what became of commands, the newest first: of all Jobs, or of JOB (a name, or namespace/name).

    A refusal that was told TIMES times, one after the other since SINCE, is one line. Read from Kafka.
    """
    since_seconds = seconds_of(since, option="--since")
    settings = with_bootstrap(settings_for_a_command(), bootstrap)
    key = None if job is None else job_key(job, settings)
    try:
        found = asyncio.run(find(settings, since_seconds=since_seconds, newest=newest, job=key, result=result))
    except (kafka.BrokerRefusedError, NoTopicError) as problem:
        raise click.ClickException(str(problem)) from problem
    if found.told or output is not Output.TABLE:
        emit(found, output, columns=_COLUMNS, rows=map(_row, found.told), fit=_FIT)
    else:
        say(f"no outcome since {moment(found.since)}")
    if found.left_out:
        say(f"{found.left_out:,} older ones since {moment(found.since)} are left out; --last N shows more")
    if found.unreadable:
        say(f"{found.unreadable:,} records of the topic could not be read: a later release may have written them")


def _row(told: Told) -> tuple[object, ...]:
    outcome = told.outcome
    return (
        moment(outcome.at),
        outcome.key,
        verdict_of(msgspec.structs.asdict(outcome)) or "-",
        outcome.result,
        outcome.reason,
        told.times,
        moment(told.first_at) if told.times > 1 else "-",
        explained(outcome.reason, outcome.detail) or "-",
    )
