"""`make bench-smoke`: is sf-healer still near the floor? Small, for CI; fails only on a ratio measured in one run.

200,000 reports of 1,000 Jobs, the floor and the worker in turn, the best of two each: a busy machine must not turn
it red. Exit status 3 where the ratio of CPU per report is above the limit. Wall time decides nothing.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from benchmarks import laboratory
from benchmarks.engines import healer, peers
from benchmarks.sources import Source, preload

SOURCE = Source(200_000, 1_000)
TURNS = 2
#: Twice the target of docs/performance.md: so few reports hardly pay for the worker's ticks and first looks.
LIMIT = 6.0
EXIT_TOO_SLOW = 3


@click.command()
@click.option("--limit", default=LIMIT, show_default=True, help="CPU per report, as a multiple of the floor's.")
def main(*, limit: float) -> None:
    """Hold the CPU that a report costs against the floor's."""
    with (
        tempfile.TemporaryDirectory(prefix="sf-healer-smoke-") as name,
        laboratory.started(Path(name) / "kafka") as lab,
    ):
        asyncio.run(preload(lab.bootstrap, SOURCE))
        floors, ours = [], []
        for turn in range(TURNS):
            floors.append(asyncio.run(peers.floor(lab, SOURCE, Path(name))).cpu_per_million)
            run = asyncio.run(healer.drain(lab, SOURCE, Path(name) / str(turn), restores=False))
            ours.append(run.cpu_per_million)
    ratio = min(ours) / min(floors)
    click.echo(
        f"CPU-seconds per million: floor {min(floors):.2f}, sf-healer {min(ours):.2f}: {ratio:.1f} x (≤ {limit:g})"
    )
    sys.exit(0 if ratio <= limit else EXIT_TOO_SLOW)


if __name__ == "__main__":
    main()
