"""`sf-healer feed`: send a capture to a broker."""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sf_healer.adapters import kafka
from sf_healer.captures import CaptureError, decompressed, read
from sf_healer.cli import say, settings_for_a_command, terminal
from sf_healer.commands.options import bootstrap_option, topic_option, with_bootstrap
from sf_healer.commands.shared import NumberRange
from sf_healer.feed import feed
from sf_healer.past import NoTopicError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@bootstrap_option
@topic_option("Topic to send to")
@click.option("--real-time", is_flag=True, help="Send as the records once arrived.")
@click.option(
    "--speed",
    type=NumberRange(min=0, min_open=True),
    metavar="N",
    help="Send N times faster than they arrived; without it, as fast as it goes.",
)
def command(*, file: Path, bootstrap: str | None, topic: str | None, real_time: bool, speed: float | None) -> None:
    """Send the capture FILE (.jsonl or .jsonl.gz) to a topic: same partitions, no keys, no headers, timestamped now."""
    if real_time and speed is not None:
        raise click.UsageError("--real-time is --speed 1: give one of them")
    settings = with_bootstrap(settings_for_a_command(), bootstrap)
    topic = topic or settings.source_topic
    began = time.monotonic()
    try:
        with _opened(file) as source:
            sent = asyncio.run(feed(settings, read(source), topic=topic, speed=1.0 if real_time else speed))
    except (kafka.BrokerRefusedError, NoTopicError) as problem:
        raise click.ClickException(str(problem)) from problem
    except (CaptureError, OSError) as problem:
        if isinstance(problem, ConnectionError):
            raise
        raise click.ClickException(f"{file}: {problem}") from problem
    say(f"{sent} records sent to {topic} in {time.monotonic() - began:.1f} s")


@contextmanager
def _opened(file: Path) -> Iterator[Iterable[bytes]]:
    """Open a capture, compressed or not, with a progress bar where there is a terminal to draw it on."""
    from rich.console import Console  # noqa: PLC0415  only when drawn
    from rich.progress import Progress  # noqa: PLC0415

    with (
        Progress(console=Console(stderr=True), disable=not terminal(sys.stderr), transient=True) as progress,
        progress.open(file, "rb", description=file.name) as raw,
        decompressed(raw) as lines,
    ):
        yield lines
