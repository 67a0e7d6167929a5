"""The arithmetic of docs/scaling.md: what is multiplied with what, and where a fleet meets its limits."""

import msgspec
import pytest

from agents.topics import REPORTS_IN_A_BATCH
from benchmarks import page, scaling
from benchmarks.scaling_model import (
    BATCH_REPORTS,
    NAMES_KEPT,
    Engine,
    Scale,
    cells_of,
    engine_of,
    gib,
    jobs_within,
    snapshot_records,
    workers_for,
)
from benchmarks.sources import report_around
from sf_healer.app import FETCH_BYTES

FLEET = Scale(name="a fleet", jobs=1_000_000, sources=12, partitions=100, workers=4)
ENGINE = Engine(
    few_jobs=1_000,
    few_cpu_seconds=4e-6,
    few_bytes=100e6,
    many_jobs=100_000,
    many_cpu_seconds=13e-6,
    most_jobs=101_000,
    most_bytes=300e6,
    unnamed_cpu_seconds=10e-6,
)


def test_marks_are_sources_times_evidence_partitions_and_travel_in_one_record_of_each_worker():
    assert (FLEET.claims, FLEET.mark_records) == (1_200, 400)


def test_reports_looks_and_checkpoints_grow_with_the_jobs_alone():
    wider = msgspec.structs.replace(FLEET, partitions=200, workers=8)
    for scale in (FLEET, wider):
        assert scale.reports_a_second == 100_000
        assert scale.checkpoints_a_second == pytest.approx(1_000_000 / 30)
        assert scale.looks_a_second == pytest.approx(1_000_000 / 295)


def test_a_job_that_reports_seldom_is_checkpointed_at_each_report():
    seldom = msgspec.structs.replace(FLEET, report_every_seconds=100.0)
    assert seldom.checkpoints_a_second == 10_000


def test_a_report_costs_what_was_measured_for_few_and_for_many_and_a_name_more_where_names_are_not_kept():
    assert ENGINE.cpu_seconds(1_000) == 4e-6
    assert ENGINE.cpu_seconds(NAMES_KEPT) == 13e-6
    assert ENGINE.cpu_seconds(NAMES_KEPT + 1) == pytest.approx(23e-6)


def test_every_evidence_partition_more_costs_every_full_batch_a_record():
    narrow = msgspec.structs.replace(FLEET, partitions=1)
    assert ENGINE.cores(FLEET) - ENGINE.cores(narrow) == pytest.approx(100_000 * 99 * 100e-6 / BATCH_REPORTS)


def test_a_full_batch_is_what_a_fetch_brings_of_the_benchmarks_reports():
    before, behind = report_around(0)
    size = len(before) + len(f"{1_700_000_000:.3f}") + len(behind)
    assert min(FETCH_BYTES // size, REPORTS_IN_A_BATCH) == pytest.approx(BATCH_REPORTS, rel=0.05)


def test_memory_of_a_worker_is_that_of_its_share_of_the_jobs():
    assert ENGINE.job_bytes == 2_000
    assert ENGINE.worker_bytes(FLEET) == pytest.approx(98e6 + 250_000 * 2_000)
    assert gib(2**31) == 2


def test_workers_are_half_busy_and_two_at_least_and_never_more_than_partitions():
    assert [workers_for(cores, 6) for cores in (0.01, 1.2, 40.0)] == [2, 3, 6]


def test_records_of_a_snapshot_and_cells_are_rounded_up():
    assert [snapshot_records(jobs, 100.0) for jobs in (0, 2_000, 3_000)] == [1, 1, 2]
    assert cells_of(1_000_000, 150_000) == 7


@pytest.mark.parametrize(
    ("named", "unnamed", "jobs"),
    [(1e-5, 1e-3, 100_000), (1e-7, 1e-3, NAMES_KEPT), (1e-7, 1e-6, 1_000_000)],
)
def test_a_limit_is_met_where_names_are_kept_or_when_they_are_no_longer_or_beyond(named, unnamed, jobs):
    assert jobs_within(1.0, named, unnamed) == pytest.approx(jobs)


ROWS = {
    1_000: "3 | 2,000,000 | 109,557 (98,410 to 124,608) | 3.96 (3.89 to 4.15) | 2 | 140 (139 to 141)",
    100_000: "1 | 2,000,000 | 38,065 | 12.84 | 2.74 | 414 | 167.5",
    1_000_000: "1 | 2,000,000 | 26,535 | 42.22 | 3.85 | 1,115 | 790.2",
}


def page_of(*sizes):
    rows = (
        f"### {jobs:,} Jobs\n| floor | 1 | 9 | 9 | 9.9 | 9 | 999 | 9 |\n| **sf-healer** | {ROWS[jobs]} |\n"
        for jobs in sizes
    )
    return "".join(rows)


def test_cpu_is_read_from_the_most_jobs_that_spoke_often_and_memory_from_the_most():
    engine = engine_of(page_of(1_000, 100_000, 1_000_000))
    assert (engine.few_jobs, engine.few_cpu_seconds, engine.few_bytes) == (1_000, pytest.approx(3.96e-6), 140 * 2**20)
    assert (engine.many_jobs, engine.many_cpu_seconds) == (100_000, pytest.approx(12.84e-6))
    assert (engine.most_jobs, engine.most_bytes) == (1_000_000, 1_115 * 2**20)


@pytest.mark.parametrize("sizes", [(), (1_000,)])
def test_a_page_without_two_sizes_is_refused(sizes):
    with pytest.raises(ValueError, match="no two rows"):
        engine_of(page_of(*sizes))


def test_the_pages_of_the_repository_have_what_the_command_reads_and_writes():
    assert engine_of(page.FILE.read_text()).job_bytes > 0
    text = scaling.FILE.read_text()
    assert text.count(scaling.BEGIN) == text.count(scaling.END) == 1


def test_every_installation_has_a_source_partition_for_each_worker():
    for scale in scaling.scales(ENGINE):
        assert 2 <= scale.workers <= min(scale.sources, scale.partitions)
