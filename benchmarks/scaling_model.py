"""What an installation of any size costs, by arithmetic alone: measured costs of one thing times how many there are.

Pure. What is measured comes in (benchmarks/scaling_measures.py, docs/performance.md); nothing here is a measurement.
"""

import re
from math import ceil

import msgspec

from sf_healer.core.combine import CACHED_PLACES
from sf_healer.core.snapshots import SNAPSHOT_BYTES

#: A worker is one process and the event loop is one thread; the other half of the core drains what was left undone.
BUSY_SHARE = 0.5
#: Names a worker keeps with the partition they mean; what else it keeps of names reaches further (core/identity.py).
NAMES_KEPT = CACHED_PLACES
#: A run tells what a report costs if each Job spoke so often: a Job's first report costs three times any other.
REPORTS_OF_A_JOB = 10
#: Highest value of SF_HEALER_PARTITIONS.
MOST_PARTITIONS = 1_000
#: Pairs of W and E that a source partition keeps at most (core/marks.py).
PAIRS_KEPT = 4_096
#: Pods in one cluster, as far as Kubernetes is said to work: kubernetes.io/docs/setup/best-practices/cluster-large
CLUSTER_PODS = 150_000
#: docs/performance.md: what a record that is sent alone costs in Faust's send path.
SEND_SECONDS = 100e-6
#: A full batch of one source partition: what a fetch brings of it (sf_healer/app.py) in reports of 540 bytes.
BATCH_REPORTS = 3_800
#: How long a broker holds a fetch that has nothing new: batches come no oftener, but for a backlog.
FETCH_WAIT_SECONDS = 0.25
COUNTS_EVERY_SECONDS = 5.0
_GIB = 2**30


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """One installation: how large it is and how it is set."""

    name: str
    jobs: int
    sources: int  # partitions of the source topic
    partitions: int  # of the evidence log
    workers: int
    mark_interval_seconds: float = 1.0
    window_seconds: float = 5.0
    report_every_seconds: float = 10.0
    threshold_seconds: float = 300.0
    checkpoint_seconds: float = 30.0

    @property
    def reports_a_second(self) -> float:
        """Reports of all Jobs."""
        return self.jobs / self.report_every_seconds

    @property
    def jobs_in_a_partition(self) -> float:
        """Jobs of one evidence partition, on average."""
        return self.jobs / self.partitions

    @property
    def mark_records(self) -> int:
        """Records that carry marks, in one interval: one from each worker to each evidence partition."""
        return self.workers * self.partitions

    @property
    def claims(self) -> int:
        """Marks in one interval: source partitions x evidence partitions, whoever sends them."""
        return self.sources * self.partitions

    @property
    def looks_a_second(self) -> float:
        """Jobs a sweep looks at: a healthy one a threshold after it was last heard before the last look."""
        return self.jobs / (self.threshold_seconds - self.report_every_seconds / 2)

    @property
    def checkpoints_a_second(self) -> float:
        """Changelog records: a Job that reports is written once in each checkpoint."""
        return self.jobs / max(self.checkpoint_seconds, self.report_every_seconds)

    @property
    def counts_a_second(self) -> float:
        """Records that tell admission how many Jobs there are, while none is sick."""
        return self.partitions / COUNTS_EVERY_SECONDS

    @property
    def spreading_seconds(self) -> float:
        """CPU of a report for sending a record to each evidence partition, full batches; estimated by SEND_SECONDS."""
        return self.partitions * SEND_SECONDS / BATCH_REPORTS

    def mark_sending(self) -> float:
        """Share of one core that a worker spends on sending marks, at SEND_SECONDS a record; an estimate."""
        return self.partitions * SEND_SECONDS / self.mark_interval_seconds

    def slowest_verdict_seconds(self) -> float:
        """How long beyond its threshold silence may stay unseen, when nobody lags: a window, and marks of two ages."""
        return self.window_seconds + 2 * self.mark_interval_seconds


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as measured end to end in docs/performance.md.

    With few Jobs; with many, each of which spoke often; and with the most, whose memory counts and not their reports.
    """

    few_jobs: int
    few_cpu_seconds: float  # for one report
    few_bytes: float
    many_jobs: int
    many_cpu_seconds: float
    most_jobs: int
    most_bytes: float
    unnamed_cpu_seconds: float = 0.0  # more for a report whose name is not kept

    @property
    def job_bytes(self) -> float:
        """Memory of a worker for each Job more."""
        return (self.most_bytes - self.few_bytes) / (self.most_jobs - self.few_jobs)

    @property
    def idle_bytes(self) -> float:
        """Memory of a worker without Jobs."""
        return self.few_bytes - self.few_jobs * self.job_bytes

    def cpu_seconds(self, jobs: int) -> float:
        """CPU for one report in a fleet of so many Jobs; beyond what was measured that of the largest measured."""
        if jobs > NAMES_KEPT:  # each worker sees them all, for the source has no keys
            return self.many_cpu_seconds + self.unnamed_cpu_seconds
        return self.few_cpu_seconds if jobs <= self.few_jobs else self.many_cpu_seconds

    def cores(self, scale: Scale) -> float:
        """Cores that all workers together are busy with."""
        return scale.reports_a_second * (self.cpu_seconds(scale.jobs) + scale.spreading_seconds)

    def worker_bytes(self, scale: Scale) -> float:
        """Memory of one worker, its share of the Jobs in it; without the index of `identity = cluster`."""
        return self.idle_bytes + scale.jobs / scale.workers * self.job_bytes


def workers_for(cores: float, partitions: int) -> int:
    """Give how many workers that many busy cores need, at least two so that one may fail; more than partitions idle."""
    return min(max(2, ceil(cores / BUSY_SHARE)), partitions)


def snapshot_records(jobs: float, entry_bytes: float) -> int:
    """Give how many records a snapshot of an evidence partition needs (core/snapshots.py)."""
    return max(1, ceil(jobs * entry_bytes / SNAPSHOT_BYTES))


def jobs_within(limit: float, named: float, unnamed: float) -> float:
    """Give how many Jobs stay within a limit: one costs `named` while the names of all are kept, else `unnamed`."""
    jobs = limit / named
    return jobs if jobs <= NAMES_KEPT else max(NAMES_KEPT, limit / unnamed)


def cells_of(jobs: int, cell: int) -> int:
    """Give into how many installations of `cell` Jobs a fleet is divided."""
    return ceil(jobs / cell)


def gib(size: float) -> float:
    """Give bytes as GiB."""
    return size / _GIB


_ROW = re.compile(r"^### (?P<jobs>[\d,]+) Jobs$.*?^\| \*\*sf-healer\*\* (?P<row>\|.*?)$", re.MULTILINE | re.DOTALL)
_REPORTS_COLUMN, _CPU_COLUMN, _MEMORY_COLUMN = 2, 4, 6  # runs, reports, reports/s, CPU-s/M, of the broker, peak MiB


def engine_of(page: str) -> Engine:
    """Read the worker's rows from docs/performance.md; ValueError without two, or where no Job spoke often."""
    cpu_seconds, size = {}, {}
    for match in _ROW.finditer(page):
        cells = [cell.strip().partition(" ")[0].replace(",", "") for cell in match["row"].split("|")]
        jobs = int(match["jobs"].replace(",", ""))
        size[jobs] = float(cells[_MEMORY_COLUMN]) * 2**20
        if int(cells[_REPORTS_COLUMN]) >= REPORTS_OF_A_JOB * jobs:
            cpu_seconds[jobs] = float(cells[_CPU_COLUMN]) / 1e6
    if len(size) < 2 or not cpu_seconds:  # noqa: PLR2004  few and many
        raise ValueError(f"docs/performance.md has no two rows of sf-healer, one with {REPORTS_OF_A_JOB} reports a Job")
    few, many, most = min(cpu_seconds), max(cpu_seconds), max(size)
    return Engine(
        few_jobs=few,
        few_cpu_seconds=cpu_seconds[few],
        few_bytes=size[few],
        many_jobs=many,
        many_cpu_seconds=cpu_seconds[many],
        most_jobs=most,
        most_bytes=size[most],
    )
