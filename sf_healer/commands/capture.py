"""`sf-healer capture`: record a topic."""

import asyncio
import gzip
import os
import signal
from pathlib import Path

import click

from sf_healer.adapters import kafka
from sf_healer.captures import written
from sf_healer.cli import say, settings_for_a_command
from sf_healer.commands.options import bootstrap_option, topic_option, with_bootstrap
from sf_healer.commands.shared import NumberRange, refuse_special
from sf_healer.feed import capture
from sf_healer.past import NoTopicError

_MOST_RECORDS = 10**12  # more than any topic has; Python counts no further than 2**63 in one go


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@bootstrap_option
@topic_option("Topic to record")
@click.option("--limit", type=click.IntRange(min=1, max=_MOST_RECORDS), metavar="N", help="End after N records.")
@click.option("--seconds", type=NumberRange(min=0, min_open=True), metavar="S", help="End after S seconds.")
@click.option(
    "--since-seconds",
    type=NumberRange(min=0),
    default=0.0,
    metavar="S",
    help="Begin with what arrived in the last S seconds; without it, with what arrives from now on.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(
    *,
    file: Path,
    bootstrap: str | None,
    topic: str | None,
    limit: int | None,
    seconds: float | None,
    since_seconds: float,
    force: bool,
) -> None:
    """Record a topic into FILE (.jsonl or .jsonl.gz) until Ctrl-C or a limit; `feed` and `replay` read it."""
    refuse_special(file)
    if os.path.lexists(file) and not force:
        raise click.UsageError(f"{file} exists; --force overwrites it")
    settings = with_bootstrap(settings_for_a_command(), bootstrap)
    topic = topic or settings.source_topic
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        opened = gzip.open(unfinished, "wb") if file.suffix == ".gz" else unfinished.open("wb")  # noqa: SIM115  closed below
    except OSError as problem:
        raise click.ClickException(f"{file} cannot be written: {problem.strerror}") from None
    try:
        with opened as out:

            async def record() -> int:
                return await capture(
                    settings,
                    lambda line: out.write(written(line)),
                    topic=topic,
                    stop=_stop(seconds),
                    since_seconds=since_seconds,
                    limit=limit,
                )

            count = asyncio.run(record())
        unfinished.replace(file)
    except (kafka.BrokerRefusedError, NoTopicError) as problem:
        raise click.ClickException(str(problem)) from problem
    finally:
        unfinished.unlink(missing_ok=True)
    say(f"{count} records of {topic} in {file}")


def _stop(seconds: float | None) -> asyncio.Event:
    """Give the event that Ctrl-C, SIGTERM or the end of the time sets: the capture so far is kept."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signalled in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signalled, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    return stop
