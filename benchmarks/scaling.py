"""`python -m benchmarks.scaling`: what sf-healer costs at sizes nobody can run here; `--write` writes the page.

Measured are the costs of one of each thing (the real core, some seconds of one thread) and the worker as a whole
(docs/performance.md, which `make bench` writes); simulated are marks and sweeps (scaling_simulation.py). All else is
multiplied (scaling_model.py), and every table says which of these its numbers are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import click
import msgspec

from benchmarks import machine, page, scaling_measures, scaling_simulation
from benchmarks.scaling_measures import Units
from benchmarks.scaling_model import (
    BUSY_SHARE,
    CLUSTER_PODS,
    FETCH_WAIT_SECONDS,
    MOST_PARTITIONS,
    NAMES_KEPT,
    PAIRS_KEPT,
    SEND_SECONDS,
    Engine,
    Scale,
    cells_of,
    engine_of,
    gib,
    jobs_within,
    snapshot_records,
    workers_for,
)
from benchmarks.scaling_simulation import Marked, Swept
from sf_healer.core.policy import Limits

FILE = machine.REPOSITORY / "docs" / "scaling.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
REPORT_EVERY_SECONDS = 10.0
#: What a pod of a worker is likely to get.
WORKER_GIB = 4.0
#: An assumption, to set the rate of restarts against: how often a Job falls ill.
DAYS_BETWEEN_FAILURES = 30.0
_MINUTES_A_DAY = 1440.0
WEEK_SECONDS = 7 * 86_400.0
#: Jobs of each evidence partition where all of them are simulated at once.
FEW_JOBS = 20
_MS, _US, _MB = 1e3, 1e6, 1e-6


class Limit(NamedTuple):
    """Something that ends somewhere: from how many Jobs on, and what then."""

    jobs: float
    what: str
    then: str
    way_out: str


@click.command()
@click.option("--write", is_flag=True, help="Put the tables into docs/scaling.md.")
def main(*, write: bool) -> None:
    """Measure, simulate and extrapolate; prints the tables as markdown. Takes about a minute."""
    text = "\n".join(tables())
    print(text)
    if write:
        before, _, rest = FILE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        FILE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def scales(engine: Engine) -> tuple[Scale, ...]:
    """Give the sizes and what each is to be set to; 1 M and 100 M Jobs as one installation, to see what it does."""
    chosen = (
        Scale(name="10 k", jobs=10_000, sources=3, partitions=6, workers=2),
        Scale(name="150 k, a cluster", jobs=CLUSTER_PODS, sources=6, partitions=24, workers=2),
        Scale(name="1 M in one", jobs=1_000_000, sources=12, partitions=120, workers=2),
        Scale(
            name="100 M in one",
            jobs=100_000_000,
            sources=1_000,
            partitions=MOST_PARTITIONS,
            workers=2,
            mark_interval_seconds=5.0,
        ),
    )
    return tuple(
        msgspec.structs.replace(scale, workers=min(scale.sources, workers_for(engine.cores(scale), scale.partitions)))
        for scale in chosen
    )


def tables() -> Iterator[str]:
    """Measure and simulate everything; yields the generated part of the page."""
    units = scaling_measures.measure()
    engine = msgspec.structs.replace(
        engine_of(page.FILE.read_text()), unnamed_cpu_seconds=units.combine_new - units.combine_known
    )
    all_scales = scales(engine)
    *_, whole = all_scales
    yield f"Written by `python -m benchmarks.scaling --write` on {machine.describe()}, at commit {machine.commit()}."
    yield from _section("Units", _units(units, engine))
    yield from _section("The model", _model(all_scales, units, engine))
    yield from _section("Settings", _settings(all_scales, units, engine))
    yield from _section("What breaks first", _limits(units, engine))
    yield from _section("Simulated: marks", _marks([(scale, scaling_simulation.marks(scale)) for scale in all_scales]))
    full = scaling_simulation.sweeps(jobs=round(whole.jobs_in_a_partition), partitions=1)
    spread = scaling_simulation.sweeps(jobs=FEW_JOBS, partitions=whole.partitions)
    yield from _section("Simulated: sweeps", _sweeps(full, spread, whole))
    yield from _section("Simulated: fleet counts", _counts(all_scales))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"### {title}"
    yield ""
    yield from lines


def _units(units: Units, engine: Engine) -> Iterator[str]:
    yield "Measured just now with the core alone (CPU of one thread, nothing sent), but for the last two rows:"
    yield ""
    rows = [
        ("combine a report whose name is known", _us(units.combine_known), "report"),
        ("combine a report whose name is not among those kept", _us(units.combine_new), "report"),
        ("encode, read and fold a bundle, without its beats", _us(units.bundle), "bundle"),
        ("encode, read and fold a beat", f"{_us(units.beat)}, {units.beat_bytes:.0f} B", "beat"),
        ("a changelog record, made", f"{_us(units.change)}, {units.change_bytes:.0f} B", "record"),
        ("restore, from bytes to hot state", _us(units.restore), "Job"),
        ("look at a Job that is well", _us(units.look), "look"),
        ("condemn a Job and make its command", f"{_us(units.command)}, {units.command_bytes:.0f} B", "command"),
        ("a Job's hot state", f"{units.state_bytes:,.0f} B", "Job"),
        ("the index of `identity = cluster`", f"{_us(units.put)}, {units.index_bytes:,.0f} B", "Job, in every worker"),
        ("an entry of a snapshot", f"{units.snapshot_bytes:.0f} B", "Job"),
        (
            "tell an evidence partition of a list, to its records",
            _us(units.told),
            "Job of the partition",
        ),
        ("find the evidence partition of a Job met for the first time", _us(units.hashed), "Job, in every worker"),
        (
            f"CPU of a worker, {engine.few_jobs:,} and {engine.many_jobs:,} Jobs (docs/performance.md)",
            f"{_us(engine.few_cpu_seconds)}, {_us(engine.many_cpu_seconds)}",
            "report",
        ),
        (
            f"memory of a worker, {engine.few_jobs:,} to {engine.most_jobs:,} Jobs (docs/performance.md)",
            f"{engine.job_bytes:,.0f} B",
            "Job",
        ),
    ]
    yield from _table(("what", "costs", "for each"), rows)


def _model(all_scales: Sequence[Scale], units: Units, engine: Engine) -> Iterator[str]:
    yield (
        "Extrapolated: units times numbers. A Job reports every 10 s; thresholds, checkpoints and windows as shipped. "
        f"CPU for a report beyond {engine.many_jobs:,} Jobs is taken to stay what it is there, and to grow by a name's "
        f"cost beyond {NAMES_KEPT:,}; that is not verified."
    )
    yield ""
    rows = [(what, how, *map(value, all_scales)) for what, how, value in _terms(units, engine)]
    yield from _table(("what", "how", *(scale.name for scale in all_scales)), rows)


def _terms(units: Units, engine: Engine) -> Iterator[tuple[str, str, Callable[[Scale], str]]]:
    yield "**per report**: reports/s", "Jobs / 10 s", lambda s: f"{s.reports_a_second:,.0f}"
    yield (
        "CPU of one",
        "worker as a whole + name not kept + a record to each evidence partition (estimate)",
        lambda s: _us(engine.cpu_seconds(s.jobs) + s.spreading_seconds),
    )
    yield "cores for all of it", "product", lambda s: f"{engine.cores(s):,.2f}"
    yield (
        "cores if some Job comes or goes all the time",
        "the same, no name kept: each new name forgets all names (`identity = cluster`)",
        lambda s: f"{_cores_unnamed(engine, s):,.2f}",
    )
    yield (
        "GB of evidence in 7 days, at most",
        "reports/s x beat, one replica, not compressed",
        lambda s: f"{s.reports_a_second * units.beat_bytes * WEEK_SECONDS * 1e-9:,.0f}",
    )
    yield "**per Job**: changelog records/s", "Jobs / checkpoint", lambda s: f"{s.checkpoints_a_second:,.0f}"
    yield "changelog MB/s", "x unit", lambda s: f"{s.checkpoints_a_second * units.change_bytes * _MB:,.2f}"
    yield "looks/s of sweeps", "Jobs / (threshold - half a report)", lambda s: f"{s.looks_a_second:,.0f}"
    yield "cores for sweeps", "x unit", lambda s: f"{s.looks_a_second * units.look:.4f}"
    yield "GiB of a worker", "its Jobs x unit", lambda s: f"{gib(engine.worker_bytes(s)):.2f}"
    yield (
        "GiB of the index on top, in each worker",
        "all Jobs x unit, `identity = cluster`",
        lambda s: f"{gib(s.jobs * units.index_bytes):,.2f}",
    )
    yield "s to restore all, one core", "Jobs x unit (core alone)", lambda s: f"{s.jobs * units.restore:,.1f}"
    yield "**per evidence partition**: Jobs", "Jobs / evidence partitions", lambda s: f"{s.jobs_in_a_partition:,.0f}"
    yield (
        "CPU of a list in each worker, s",
        "all Jobs x index + own Jobs x telling; others have their turn in between",
        lambda s: f"{s.jobs * units.put + s.jobs / s.workers * units.told:,.2f}",
    )
    yield (
        "pause if all its Jobs fall silent in one window, s",
        "its Jobs x unit",
        lambda s: f"{s.jobs_in_a_partition * units.command:,.2f}",
    )
    yield "counts to the actuator/s", "evidence partitions / 5 s", lambda s: f"{s.counts_a_second:,.1f}"
    yield (
        "GiB of marks in a worker that lags",
        f"{PAIRS_KEPT:,} x evidence partitions x {units.w_bytes:.0f} B",
        lambda s: f"{gib(PAIRS_KEPT * s.partitions * units.w_bytes):.3f}",
    )
    yield "**marks**: in an interval", "source x evidence partitions", lambda s: f"{s.claims:,}"
    yield "records with them", "workers x evidence partitions", lambda s: f"{s.mark_records:,}"
    yield (
        "a worker's core for sending them",
        f"evidence partitions x {SEND_SECONDS * _US:.0f} µs / interval (estimate)",
        lambda s: f"{s.mark_sending():.2%}",
    )
    yield (
        "**if all fall silent**: MB of commands",
        "Jobs x unit, to one partition, again each 30 s",
        lambda s: f"{s.jobs * units.command_bytes * _MB:,.0f}",
    )
    yield (
        "cores of sweepers meanwhile",
        "Jobs x unit / 30 s",
        lambda s: f"{s.jobs * units.command / Limits().refused_retry_seconds:,.2f}",
    )


def _settings(all_scales: Sequence[Scale], units: Units, engine: Engine) -> Iterator[str]:
    small, cell, million, whole = all_scales
    few, many = cells_of(million.jobs, cell.jobs), cells_of(whole.jobs, cell.jobs)
    columns: tuple[tuple[str, Scale, int], ...] = (
        ("10 k", small, 1),
        (f"1 M: {few} cells of {cell.jobs:,}", cell, few),
        ("1 M in one", million, 1),
        (f"100 M: {many} cells of {cell.jobs:,}", cell, many),
        ("100 M in one (do not)", whole, 1),
    )
    wanted: tuple[tuple[str, Callable[[Scale], str]], ...] = (
        ("partitions of the source", lambda s: f"{s.sources:,}"),
        ("SF_HEALER_PARTITIONS", lambda s: f"{s.partitions:,}"),
        (
            "records of a snapshot of each evidence partition",
            lambda s: f"{snapshot_records(s.jobs_in_a_partition, units.snapshot_bytes):,}",
        ),
        ("clusters that hold so many pods", lambda s: f"{cells_of(s.jobs, CLUSTER_PODS):,}"),
        ("workers (each 1 core, half of it busy)", lambda s: f"{s.workers:,}"),
        (
            "GiB of a worker, index included",
            lambda s: f"{gib(engine.worker_bytes(s) + s.jobs * units.index_bytes):,.1f}",
        ),
        ("SF_HEALER_MARK_INTERVAL_SECONDS", lambda s: f"{s.mark_interval_seconds:g}"),
        ("SF_HEALER_SWEEP_WINDOW_SECONDS", lambda s: f"{s.window_seconds:g}"),
        ("verdict after its threshold, at most, no lag, s", lambda s: f"{s.slowest_verdict_seconds():g}"),
        (
            "`rate_per_minute` for a failure a month and Job",
            lambda s: f"{s.jobs / DAYS_BETWEEN_FAILURES / _MINUTES_A_DAY:,.1f}",
        ),
    )
    rows = [(what, *(value(scale) for _, scale, _ in columns)) for what, value in wanted]
    rows.append(("workers in all", *(f"{scale.workers * count:,}" for _, scale, count in columns)))
    yield "Chosen by hand: partitions and intervals. Extrapolated: the rest. For each installation:"
    yield ""
    yield from _table(("Jobs", *(name for name, _, _ in columns)), rows)


def limits(units: Units, engine: Engine) -> list[Limit]:
    """Give what ends where, in the order in which a growing fleet meets it."""
    rate = Limits().rate_per_minute
    memory = WORKER_GIB / gib(1)
    found = [
        Limit(
            CLUSTER_PODS,
            "pods of one Kubernetes cluster, by its own documentation",
            "no place for them",
            "a cell for each cluster",
        ),
        Limit(
            NAMES_KEPT,
            "names kept in a worker; each worker sees all Jobs, for the source has no keys",
            f"combining costs {_us(units.combine_new)} a report instead of {_us(units.combine_known)}",
            "cells, or a larger cache; more workers do not help",
        ),
        Limit(
            rate * _MINUTES_A_DAY * DAYS_BETWEEN_FAILURES,
            f"{rate:g} restarts a minute, if each Job falls ill once in {DAYS_BETWEEN_FAILURES:g} days",
            "sick Jobs wait their turn, refused with `rate`",
            "`rate_per_minute` in the policy",
        ),
        Limit(
            jobs_within(
                BUSY_SHARE * REPORT_EVERY_SECONDS,
                engine.many_cpu_seconds,
                engine.many_cpu_seconds + engine.unnamed_cpu_seconds,
            ),
            f"half a core of one worker, a report each {REPORT_EVERY_SECONDS:g} s",
            "less is left for catching up; from about twice that on it lags for good: no verdicts, so no false ones",
            "workers, up to the partitions of the source",
        ),
        Limit(
            (memory - engine.idle_bytes) / engine.job_bytes,
            f"{WORKER_GIB:g} GiB of one worker",
            "killed for want of memory, and so is who takes over",
            "workers, up to SF_HEALER_PARTITIONS",
        ),
        Limit(
            memory / units.index_bytes,
            f"{WORKER_GIB:g} GiB for the index of all Jobs, in every worker",
            "the same, and more workers do not help",
            "cells",
        ),
    ]
    return sorted(found)


def _limits(units: Units, engine: Engine) -> Iterator[str]:
    yield "Extrapolated from the units, in the order in which a growing fleet meets them:"
    yield ""
    rows = [(f"{limit.jobs:,.0f}", *limit[1:]) for limit in limits(units, engine)]
    yield from _table(("Jobs", "what ends there", "and then", "way out"), rows)


def _marks(found: Sequence[tuple[Scale, Marked]]) -> Iterator[str]:
    yield (
        "Simulated whole: every worker's Forwarding, every source and evidence partition, one interval, no report. CPU "
        "is of the core; sending by Faust and the broker's share are not in it. Bytes are of the values."
    )
    yield ""
    terms: tuple[tuple[str, Callable[[Scale, Marked], str]], ...] = (
        ("source x evidence partitions", lambda s, _: f"{s.sources:,} x {s.partitions:,}"),
        ("workers", lambda s, _: f"{s.workers:,}"),
        ("interval s", lambda s, _: f"{s.mark_interval_seconds:g}"),
        ("marks", lambda _, m: f"{m.claims:,}"),
        ("records with them", lambda _, m: f"{m.records:,}"),
        ("empty records, to learn the broker's time", lambda _, m: f"{m.empties:,}"),
        ("MB on the evidence log", lambda _, m: f"{m.value_bytes * _MB:,.3f}"),
        ("ms of each worker to make them", lambda s, m: f"{m.sending_seconds / s.workers * _MS:,.2f}"),
        ("ms of each evidence partition to fold them", lambda s, m: f"{m.folding_seconds / s.partitions * _MS:,.2f}"),
        ("cores, all workers", lambda s, m: f"{_cores(s, m):,.4f}"),
        ("changelog MB, one batch in each partition", lambda _, m: f"{m.meta_bytes * _MB:,.3f}"),
        (
            f"changelog MB/s, a batch each {FETCH_WAIT_SECONDS:g} s (extrapolated: the most)",
            lambda _, m: f"{m.meta_bytes * _MB / FETCH_WAIT_SECONDS:,.2f}",
        ),
        ("watermarks that moved", lambda s, m: f"{m.advanced:,} of {s.partitions:,}"),
        ("feed gaps", lambda _, m: str(m.gaps)),
        ("oldest watermark s", lambda _, m: f"{m.oldest_seconds:.2f}"),
    )
    rows = [(what, *(value(scale, marked) for scale, marked in found)) for what, value in terms]
    yield from _table(("in one interval", *(scale.name for scale, _ in found)), rows)


def _cores(scale: Scale, marked: Marked) -> float:
    spent = marked.sending_seconds + marked.folding_seconds + marked.storing_seconds
    return spent / scale.mark_interval_seconds


def _sweeps(full: Swept, spread: Swept, whole: Scale) -> Iterator[str]:
    yield (
        f"Simulated: {full.partitions} of {whole.partitions:,} evidence partitions of 100 M Jobs with all its Jobs, "
        "and all of them with few. All are well and report once a minute; one threshold (300 s), a watermark each 5 s."
    )
    yield ""
    terms: tuple[tuple[str, Callable[[Swept], str]], ...] = (
        ("looks", lambda swept: f"{swept.looks:,}"),
        ("commands", lambda swept: str(swept.commands)),
        ("CPU of a look, its share of the marks included", lambda swept: _us(swept.look_seconds / swept.looks)),
        ("most looks at one watermark of a partition", lambda swept: f"{swept.most_looks:,}"),
        ("longest of them, ms", lambda swept: f"{swept.longest_seconds * _MS:.2f}"),
        ("CPU of folding a beat", lambda swept: _us(swept.fold_seconds / swept.beats)),
        ("changelog records", lambda swept: f"{swept.changes:,}"),
        ("CPU of encoding one", lambda swept: _us(swept.change_seconds / swept.changes)),
    )
    heads = ("evidence partitions x Jobs", *(f"{each.partitions:,} x {each.jobs:,}" for each in (full, spread)))
    yield from _table(heads, [(what, value(full), value(spread)) for what, value in terms])
    yield ""
    looks = full.looks / full.partitions * whole.partitions / whole.threshold_seconds
    yield (
        f"Extrapolated from the first row to all {whole.partitions:,} partitions: {looks:,.0f} looks/s, "
        f"{looks * full.look_seconds / full.looks:.2f} cores in all workers together."
    )


def _counts(all_scales: Sequence[Scale]) -> Iterator[str]:
    yield (
        "Each evidence partition tells the one partition of the actuator what it counts, every 5 s (every second while "
        "a Job is sick); the ledger, with the counts of all, is written for each. Simulated whole, one round:"
    )
    yield ""
    rows = []
    for scale in all_scales:
        seconds, size = scaling_measures.counting(scale.partitions)
        rows.append((f"{scale.partitions:,}", f"{seconds * _MS:,.2f}", f"{size * _MB:,.2f}", f"{size * _MB / 5:,.2f}"))
    yield from _table(
        ("evidence partitions", "ms of the actuator", "changelog MB a round: MB/s while a Job is sick", "MB/s else"),
        rows,
    )


def _cores_unnamed(engine: Engine, scale: Scale) -> float:
    seconds = engine.many_cpu_seconds + engine.unnamed_cpu_seconds + scale.spreading_seconds
    return scale.reports_a_second * seconds


def _us(seconds: float) -> str:
    return f"{seconds * _US:.2f} µs"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
