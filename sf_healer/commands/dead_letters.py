"""`sf-healer dead-letters`: the records that could not be used, with why and where they came from."""

import asyncio

import click

from sf_healer.adapters import kafka
from sf_healer.cli import Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.options import bootstrap_option, seconds_of, since_option, with_bootstrap
from sf_healer.core.dead_letters import DeadLetter
from sf_healer.dead_letters import Found, find
from sf_healer.past import NoTopicError
from sf_healer.views.lines import moment
from sf_healer.views.words import DEAD_LETTERS

_COUNTS_COLUMNS = ("COUNT", "REASON", "MEANING")
_COLUMNS = ("AT", "REASON", "FROM", "DETAIL", "VALUE")
_VALUE_CHARACTERS = 120  # in a table; the other forms have all that was read


@click.command()
@since_option
@click.option("--reason", metavar="REASON", help="Show only letters with this reason; all are counted.")
@click.option(
    "--last", "newest", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="Show the last N."
)
@bootstrap_option
@output_option
def command(*, since: str, reason: str | None, newest: int, bootstrap: str | None, output: Output) -> None:
    """Count the records that could not be read or named, by reason, and show the newest with where they came from.

    FROM is topic/partition/offset. VALUE is the beginning of the record; `sf-healer capture` keeps whole ones.
    """
    since_seconds = seconds_of(since, option="--since")
    settings = with_bootstrap(settings_for_a_command(), bootstrap)
    try:
        found = asyncio.run(find(settings, since_seconds=since_seconds, newest=newest, reason=reason))
    except (kafka.BrokerRefusedError, NoTopicError) as problem:
        raise click.ClickException(str(problem)) from problem
    if output is Output.TABLE:
        _print_counts(found)
    if found.dead_letters or output is not Output.TABLE:
        emit(found, output, columns=_COLUMNS, rows=map(_row, found.dead_letters))
    _say_rest(found, reason)


def _print_counts(found: Found) -> None:
    if not found.counts:
        say(f"no dead letters since {moment(found.since)}")
        return
    rows = [(count, reason or "-", DEAD_LETTERS.get(reason, "-")) for reason, count in found.counts.items()]
    emit(found, Output.TABLE, columns=_COUNTS_COLUMNS, rows=rows)
    click.echo()


def _row(letter: DeadLetter) -> tuple[str, ...]:
    partition, offset = (
        "?" if number is None else number for number in (letter.source_partition, letter.source_offset)
    )
    return (
        moment(letter.at),
        letter.reason or "-",
        f"{letter.source_topic or '?'}/{partition}/{offset}",
        letter.detail or "-",
        "(none)" if letter.value is None else _brief(letter.value),
    )


def _brief(value: str) -> str:
    return value if len(value) <= _VALUE_CHARACTERS else f"{value[:_VALUE_CHARACTERS].rstrip('…')}…"


def _say_rest(found: Found, reason: str | None) -> None:
    """Say what was left out: of the reason asked for, where one was."""
    there = sum(found.counts.values()) if reason is None else found.counts.get(reason, 0)
    if there > len(found.dead_letters):
        say(f"the newest {len(found.dead_letters)} of {there:,} since {moment(found.since)}; --last N shows more")
    elif reason is not None and found.counts and not there:
        say(f"none of them has the reason {reason}; the reasons are {', '.join(found.counts)}")
