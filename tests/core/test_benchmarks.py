"""What `make bench` writes into docs/performance.md follows from what was measured."""

import pytest

from benchmarks import page, results
from benchmarks.results import Results, Run


def a_run(engine, jobs=1_000, *, seconds=10.0, cpu_seconds=10.0, **known):
    whole = {"reports": 2_000_000, "broker_cpu_seconds": 1.0, "neighbours": 0.1, "memory_mib": 100, **known}
    return Run(engine=engine, jobs=jobs, seconds=seconds, cpu_seconds=cpu_seconds, **whole)


def ratios(*runs):
    return {what: (measured, met) for what, _, measured, met in page._ratios(Results(runs=list(runs)))}


def test_a_ratio_is_of_medians_and_says_whether_it_is_met():
    ours = [a_run("sf-healer", cpu_seconds=cpu) for cpu in (9.0, 10.0, 90.0)]
    told = ratios(*ours, a_run("streams-1", cpu_seconds=50.0), a_run("floor", cpu_seconds=2.0))
    assert told["CPU per report against Kafka Streams, 1,000 Jobs"] == ("1/5.0", "met")
    assert told["CPU per report against the floor, 1,000 Jobs"] == ("5.0 x", "**missed**")


def test_kafka_streams_counts_with_the_threads_that_made_it_faster():
    found = Results(runs=[a_run("streams-1", seconds=40.0), a_run("streams-2", seconds=20.0)])
    assert found.best_streams(1_000) == "streams-2"
    told = ratios(*found.runs, a_run("sf-healer", seconds=10.0))
    assert told["reports/s against Kafka Streams, 1,000 Jobs"] == ("2.0 x", "met")


def test_what_was_measured_comes_back_from_its_file(tmp_path):
    found = Results(runs=[a_run("floor", restore_seconds=1.5)])
    results.save(found, tmp_path / "deep" / "results.json")
    assert results.load(tmp_path / "deep" / "results.json") == found
    assert results.load(tmp_path / "none.json") == Results()


def test_the_page_keeps_what_people_wrote_around_the_numbers(tmp_path, monkeypatch):
    file = tmp_path / "performance.md"
    file.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    monkeypatch.setattr(page, "FILE", file)
    page.write(Results(runs=[a_run("floor")]))
    text = file.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| floor: consume, decode, dict | 1 | 2,000,000 | 200,000 | 5.00 |" in text


def test_the_page_of_the_repository_has_a_place_for_the_numbers():
    text = page.FILE.read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1


@pytest.mark.parametrize(("values", "told"), [([1.0], "1.0"), ([1.0, 3.0, 2.0], "2.0 (1.0 to 3.0)"), ([None], "—")])
def test_several_runs_are_told_as_their_median_with_least_and_most(values, told):
    runs = [a_run("floor", restore_seconds=value) for value in values]
    assert page._spread(runs, lambda run: run.restore_seconds, "{:.1f}") == told
