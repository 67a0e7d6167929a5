"""What was measured, kept as JSON under the lab's cache, so that work that was broken off goes on where it was."""

from pathlib import Path
from statistics import median
from typing import Self

import msgspec

from benchmarks.processes import Spent
from benchmarks.sources import Source

LONG_PAUSE_SECONDS = 0.2


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, once through one source."""

    engine: str
    reports: int
    jobs: int
    seconds: float
    cpu_seconds: float
    broker_cpu_seconds: float
    neighbours: float
    memory_mib: int
    commit: str = ""
    changelog_bytes: int | None = None
    repartition_bytes: int | None = None
    restore_seconds: float | None = None
    start_to_ready_seconds: float | None = None
    scan_seconds: float | None = None
    #: Of our worker's event loop when it was restored and some of the Jobs reported.
    looks: int | None = None
    long_pauses: int | None = None

    @classmethod
    def of(cls, engine: str, source: Source, spent: Spent, *, memory_mib: int, **rest: float | None) -> Self:
        """Put together what was spent on a source."""
        return msgspec.convert(
            {
                "engine": engine,
                "reports": source.reports,
                "jobs": source.jobs,
                **spent._asdict(),
                "memory_mib": memory_mib,
                **rest,
            },
            cls,
        )

    @property
    def rate(self) -> float:
        """Reports a second."""
        return self.reports / self.seconds

    @property
    def cpu_per_million(self) -> float:
        """CPU-seconds of the engine's own process for a million reports."""
        return self.cpu_seconds / self.reports * 1_000_000


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """How long after its threshold each silent Job was commanded, under a steady load; seconds, in order."""

    engine: str
    rate: int
    jobs: int
    threshold_seconds: float
    delays: list[float]
    missed: int
    false_commands: int
    commit: str = ""
    #: Of our worker's event loop under that load: how many looks at it, and how many of them came later than
    #: LONG_PAUSE_SECONDS.
    looks: int = 0
    long_pauses: int = 0
    #: With nothing else to do: from sending a report to its being seen in the table's view, seconds in order.
    lone: list[float] = []


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What it costs to judge the Jobs that are due, the others not being looked at."""

    jobs: int
    due: int
    seconds: float
    idle_seconds: float
    commit: str = ""


class Recreations(msgspec.Struct, frozen=True, kw_only=True):
    """How long it took to have Jobs deleted and created again, by hand and by sf-healer; seconds, in order."""

    by_hand: list[float]
    ours: list[float]
    commit: str = ""


class Results(msgspec.Struct):
    """All that has been measured so far."""

    runs: list[Run] = []
    delays: list[Delays] = []
    sweeps: list[Sweep] = []
    recreations: Recreations | None = None

    def of(self, engine: str, jobs: int) -> list[Run]:
        """Give an engine's runs with so many Jobs."""
        return [run for run in self.runs if run.engine == engine and run.jobs == jobs]

    def best_streams(self, jobs: int) -> str | None:
        """Name the Kafka Streams variant with more reports a second: one thread or two."""
        variants = {run.engine for run in self.runs if run.jobs == jobs and run.engine.startswith("streams-")}
        return max(variants, key=lambda name: median(run.rate for run in self.of(name, jobs)), default=None)


def load(file: Path) -> Results:
    """Read what was measured before; nothing where there is no such file."""
    return msgspec.json.decode(file.read_bytes(), type=Results) if file.exists() else Results()


def save(results: Results, file: Path) -> None:
    """Write everything, all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    unfinished.replace(file)
