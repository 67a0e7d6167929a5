"""`make bench`: every engine through the same topics, side by side on one broker, and the page from what came out.

Each run is kept as it ends, so that work that was broken off goes on where it was; `--anew` forgets all. Engines take
turns within a round, so that a busy hour of the machine does not fall on one of them.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from rich.console import Console

from benchmarks import detection, installations, laboratory, machine, page, recreations, results, sweeps
from benchmarks.engines import healer, peers
from benchmarks.laboratory import Laboratory
from benchmarks.results import Results, Run
from benchmarks.sources import Source, preload

SIZES = (1_000, 100_000, 1_000_000)
REPORTS = 2_000_000
FAUST_REPORTS = 20_000
ROUNDS = 3
#: More than this is run once: a run of Kafka Streams takes minutes.
LARGE = 1_000_000
DUE = 1_000
ENGINES = ("floor", "sf-healer", "streams", "quix", "plain_faust")

console = Console(stderr=True)


class Task(NamedTuple):
    """One run that is wanted: an engine, a source, and which of its runs this is."""

    engine: str
    source: Source
    number: int


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Numbers of Jobs.")
@click.option("--engines", default=",".join(ENGINES), show_default=True, help="Which of them.")
@click.option("--reports", default=REPORTS, show_default=True, help="Reports on each topic.")
@click.option("--rounds", default=ROUNDS, show_default=True, help="Runs of each, but one from 1,000,000 Jobs on.")
@click.option("--anew", is_flag=True, help="Forget what was measured before.")
@click.option("--page-only", is_flag=True, help="Write the page from what was measured before.")
def main(*, sizes: str, engines: str, reports: int, rounds: int, anew: bool, page_only: bool) -> None:
    """Measure sf-healer beside Kafka Streams, Quix Streams, plain Faust and the floor; writes docs/performance.md."""
    file = installations.directory() / "results.json"
    if anew:
        file.unlink(missing_ok=True)
    found = results.load(file)
    if not page_only:
        wanted = tuple(engines.split(","))
        numbers = tuple(int(size) for size in sizes.split(","))
        with laboratory.started(installations.directory() / "kafka") as lab:
            for each in _measured(lab, found, numbers, wanted, reports=reports, rounds=rounds):
                console.print(each)
                results.save(found, file)
                page.write(found)
    page.write(found)
    console.print(f"written: {page.FILE.relative_to(machine.REPOSITORY)}")


def _measured(
    lab: Laboratory, found: Results, sizes: tuple[int, ...], engines: tuple[str, ...], *, reports: int, rounds: int
) -> Iterator[str]:
    """Do what is not done yet; yields a line about each result once it is in `found`."""
    for jobs in sizes:
        asyncio.run(preload(lab.bootstrap, Source(reports, jobs)))
        for number in range(1 if jobs >= LARGE else rounds):
            for engine in engines:
                for task in _tasks(found, engine, Source(reports, jobs), number):
                    run = msgspec.structs.replace(_run(lab, task), commit=machine.commit())
                    found.runs.append(run)
                    yield f"{run.engine:12} {jobs:9,} Jobs {run.rate:9,.0f}/s {run.cpu_per_million:7.2f} CPU-s/M"
        if not any(sweep.jobs == jobs for sweep in found.sweeps):
            found.sweeps.append(msgspec.structs.replace(sweeps.measure(jobs=jobs, due=DUE), commit=machine.commit()))
            yield f"sweep of {DUE:,} due of {jobs:,} Jobs: {found.sweeps[-1].seconds * 1000:.1f} ms"
    for name, measure in {"sf-healer": detection.healer, "streams-1": detection.streams}.items():
        if name.partition("-1")[0] in engines and not any(each.engine == name for each in found.delays):
            found.delays.append(msgspec.structs.replace(measure(lab), commit=machine.commit()))
            yield f"detection by {name}: {found.delays[-1].delays}"
    if "sf-healer" in engines and found.recreations is None:
        found.recreations = msgspec.structs.replace(recreations.measure(lab), commit=machine.commit())
        yield f"from a command to the new Job: {found.recreations}"


def _tasks(found: Results, engine: str, source: Source, number: int) -> Iterator[Task]:
    """Name what an engine still has to do in a round."""
    if engine == "streams":
        # One thread and two; then the one that was faster.
        best = found.best_streams(source.jobs)
        names = ["streams-1", "streams-2"] if number == 0 or best is None else [best]
    elif engine == "plain_faust":
        if source.jobs != min(SIZES):
            return
        names, source = [engine], Source(min(FAUST_REPORTS, source.reports), source.jobs)
    else:
        names = [engine]
    for name in names:
        if len(found.of(name, source.jobs)) <= number:
            yield Task(name, source, number)


def _run(lab: Laboratory, task: Task) -> Run:
    asyncio.run(preload(lab.bootstrap, task.source))
    directory = Path(tempfile.mkdtemp(prefix="sf-healer-bench-"))
    restores = task.number == 0
    engines: dict[str, Callable[[], Run]] = {
        "floor": lambda: asyncio.run(peers.floor(lab, task.source, directory)),
        "sf-healer": lambda: asyncio.run(healer.drain(lab, task.source, directory, restores=restores)),
        "streams-1": lambda: asyncio.run(peers.streams(lab, task.source, directory, threads=1, restores=restores)),
        "streams-2": lambda: asyncio.run(peers.streams(lab, task.source, directory, threads=2, restores=False)),
        "quix": lambda: asyncio.run(peers.quix(lab, task.source, directory)),
        "plain_faust": lambda: asyncio.run(peers.plain_faust(lab, task.source, directory)),
    }
    try:
        return engines[task.engine]()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
