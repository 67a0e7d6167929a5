"""The measured part of docs/performance.md, written from the results; the rest of the page is people's."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from benchmarks import machine
from benchmarks.pauses import RATE
from benchmarks.results import LONG_PAUSE_SECONDS, Delays, Recreations, Results, Run

FILE = machine.REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEALER, FLOOR, FAUST = "sf-healer", "floor", "plain_faust"
_MEGABYTE = 1_000_000

_WORDS = {
    HEALER: "**sf-healer**",
    "streams-1": "Kafka Streams, 1 thread",
    "streams-2": "Kafka Streams, 2 threads",
    "quix": "Quix Streams",
    FAUST: "plain Faust",
    FLOOR: "floor: consume, decode, dict",
}

#: (Jobs, CPU against Kafka Streams, CPU against the floor, reports/s against Kafka Streams): what must be reached.
_MUST = ((1_000, 1 / 4, 2.5, 2.0), (100_000, 1 / 5, 5.0, 2.0))
_MUST_AGAINST_FAUST = 200.0
_MUST_MEMORY_MIB, _MUST_RESTORE = 1_200, 3.0
MILLION = 1_000_000


def write(results: Results) -> None:
    """Put the results into the page, between its two marks."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(_page(results))
    FILE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _page(results: Results) -> Iterator[str]:
    commits = sorted({run.commit for run in results.runs if run.commit})
    neighbours = [run.neighbours for run in results.runs]
    yield f"Measured by `make bench` on {machine.describe()}; {machine.versions()}; commit {', '.join(commits)}."
    yield (
        f"The broker and every engine share this machine. Others used {median(neighbours):.1f} cores of it "
        f"({min(neighbours):.1f} to {max(neighbours):.1f}); CPU is the process's own, caches and time are shared."
    )
    yield ""
    yield "### Ratios"
    yield ""
    yield from _table(("what", "must", "measured", ""), list(_ratios(results)))
    for jobs in sorted({run.jobs for run in results.runs}):
        yield ""
        yield f"### {jobs:,} Jobs"
        yield ""
        yield from _engines(results, jobs)
        yield from _pauses(results, jobs)
    if results.delays:
        yield ""
        yield "### Detection under a steady load"
        yield ""
        yield from _detection(results.delays)
    if results.recreations:
        yield ""
        yield "### From a command to the new Job"
        yield ""
        yield from _recreations(results.recreations)
    if results.sweeps:
        yield ""
        yield "### Sweeps"
        yield ""
        yield from _sweeps(results)


def _ratios(results: Results) -> Iterator[tuple[str, ...]]:
    for jobs, cpu_streams, cpu_floor, rate_streams in _MUST:
        ours, streams = results.of(HEALER, jobs), results.of(results.best_streams(jobs) or "", jobs)
        floor = results.of(FLOOR, jobs)
        if ours and streams:
            ratio = _median(ours, _cpu) / _median(streams, _cpu)
            what = f"CPU per report against Kafka Streams, {jobs:,} Jobs"
            yield what, f"≤ 1/{1 / cpu_streams:g}", f"1/{1 / ratio:.1f}", _met(ratio <= cpu_streams)
            ratio = _median(ours, _rate) / _median(streams, _rate)
            what = f"reports/s against Kafka Streams, {jobs:,} Jobs"
            yield what, f"≥ {rate_streams:g} x", f"{ratio:.1f} x", _met(ratio >= rate_streams)
        if ours and floor:
            ratio = _median(ours, _cpu) / _median(floor, _cpu)
            what = f"CPU per report against the floor, {jobs:,} Jobs"
            yield what, f"≤ {cpu_floor:g} x", f"{ratio:.1f} x", _met(ratio <= cpu_floor)
    yield from _ratio_to_faust(results)
    yield from _ratios_of_a_million(results)


def _ratio_to_faust(results: Results) -> Iterator[tuple[str, ...]]:
    ours, theirs = results.of(HEALER, _MUST[0][0]), results.of(FAUST, _MUST[0][0])
    if ours and theirs:
        ratio = _median(ours, _rate) / _median(theirs, _rate)
        must = _MUST_AGAINST_FAUST
        yield "reports/s against plain Faust, 1,000 Jobs", f"≥ {must:g} x", f"{ratio:.0f} x", _met(ratio >= must)


def _ratios_of_a_million(results: Results) -> Iterator[tuple[str, ...]]:
    ours = results.of(HEALER, MILLION)
    streams = [run for run in results.runs if run.jobs == MILLION and run.engine.startswith("streams-")]
    if not ours:
        return
    memory = max(run.memory_mib for run in ours)
    yield "memory, 1,000,000 Jobs", f"≤ {_MUST_MEMORY_MIB:,} MiB", f"{memory:,} MiB", _met(memory <= _MUST_MEMORY_MIB)
    mine, theirs = ([run.restore_seconds for run in runs if run.restore_seconds] for runs in (ours, streams))
    if mine and theirs:
        ratio = median(mine) / median(theirs)
        what = "restore against Kafka Streams, 1,000,000 Jobs"
        yield what, f"≤ {_MUST_RESTORE:g} x", f"{ratio:.1f} x", _met(ratio <= _MUST_RESTORE)


def _met(is_met: bool) -> str:  # noqa: FBT001  a cell
    return "met" if is_met else "**missed**"


def _engines(results: Results, jobs: int) -> Iterator[str]:
    heads = (
        "engine",
        "runs",
        "reports",
        "reports/s",
        "CPU-s per million",
        "of the broker",
        "peak MiB",
        "changelog MB",
        "repartition MB",
        "restore s",
        "start to ready s",
        "others' cores",
    )
    rows = []
    for engine, words in _WORDS.items():
        runs = results.of(engine, jobs)
        if not runs:
            continue
        rows.append(
            (
                words,
                str(len(runs)),
                f"{runs[0].reports:,}",
                _spread(runs, _rate, "{:,.0f}"),
                _spread(runs, _cpu, "{:.2f}"),
                _spread(runs, lambda run: run.broker_cpu_seconds / run.reports * 1e6, "{:.2f}"),
                _spread(runs, lambda run: run.memory_mib, "{:,.0f}"),
                _spread(runs, lambda run: _megabytes(run.changelog_bytes), "{:,.1f}"),
                _spread(runs, lambda run: _megabytes(run.repartition_bytes), "{:,.0f}"),
                _spread(runs, lambda run: run.restore_seconds, "{:.1f}"),
                _spread(runs, lambda run: run.start_to_ready_seconds, "{:.1f}"),
                _spread(runs, lambda run: run.neighbours, "{:.1f}"),
            )
        )
    yield from _table(heads, rows)


def _pauses(results: Results, jobs: int) -> Iterator[str]:
    for run in results.of(HEALER, jobs):
        if run.looks:
            yield ""
            yield _paused(f"with these Jobs restored and {RATE:,} reports/s of some of them", run)


def _paused(when: str, found: Run | Delays) -> str:
    late = f"{found.long_pauses} of them later than {LONG_PAUSE_SECONDS * 1000:.0f} ms"
    return f"sf-healer's event loop {when}: {found.looks:,} looks, {late}."


def _detection(found: Sequence[Delays]) -> Iterator[str]:
    first = found[0]
    yield (
        f"{first.rate:,} reports/s of {first.jobs:,} Jobs, of which some fall silent; threshold "
        f"{first.threshold_seconds:g} s. Delay: from the last report plus threshold to the command on its topic."
    )
    yield ""
    rows = [
        (
            _WORDS[each.engine],
            str(len(each.delays)),
            f"{_quantile(each.delays, 0.5):.1f}",
            f"{_quantile(each.delays, 0.99):.1f}",
            str(each.missed),
            str(each.false_commands),
        )
        for each in found
    ]
    yield from _table(("engine", "silent Jobs", "delay p50 s", "delay p99 s", "missed", "false commands"), rows)
    for each in found:
        if each.looks:
            yield ""
            yield _paused("under that load", each)
        if each.lone:
            yield (
                f"A lone report, from being sent to being seen in the view of its Job: p50 "
                f"{_quantile(each.lone, 0.5) * 1000:.0f} ms, p99 {_quantile(each.lone, 0.99) * 1000:.0f} ms of "
                f"{len(each.lone)}."
            )


def _recreations(found: Recreations) -> Iterator[str]:
    yield (
        f"{len(found.ours)} Jobs, one after the other, on a real API server whose pods end at once. By hand: deleted "
        "in the foreground, created when a watch tells that it is gone. sf-healer: from the command on its topic to "
        "the new Job."
    )
    yield ""
    rows = [
        (words, *(f"{_quantile(seconds, share) * 1000:.0f}" for share in (0.5, 0.9)), f"{seconds[-1] * 1000:.0f}")
        for words, seconds in ((_WORDS[HEALER], found.ours), ("by hand, over an open connection", found.by_hand))
    ]
    yield from _table(("who", "p50 ms", "p90 ms", "longest ms"), rows)


def _sweeps(results: Results) -> Iterator[str]:
    rows = [
        (
            f"{each.jobs:,}",
            f"{each.due:,}",
            f"{each.seconds / each.due * 1e6:.1f}",
            f"{each.idle_seconds * 1e6:.0f}",
            ", ".join(
                f"{run.scan_seconds * 1000:,.0f}"
                for run in results.runs
                if run.jobs == each.jobs and run.engine == "streams-1" and run.scan_seconds
            )
            or "—",
        )
        for each in results.sweeps
    ]
    heads = (
        "Jobs",
        "due",
        "ms per 1,000 due Jobs",
        "µs where none is due",
        "Kafka Streams: ms per scan of one task's store (while it drained)",
    )
    yield from _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _spread(runs: Sequence[Run], value: Callable[[Run], float | None], form: str) -> str:
    """Give the median, and the least and the most where there are several."""
    values = [known for run in runs if (known := value(run)) is not None]
    if not values:
        return "—"
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return median(value(run) for run in runs)


def _cpu(run: Run) -> float:
    return run.cpu_per_million


def _rate(run: Run) -> float:
    return run.rate


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / _MEGABYTE


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
