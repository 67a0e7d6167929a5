"""What README.md and docs/performance.md say in words is what the measured part of the page says in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.page import BEGIN, END

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "performance.md").read_text()
MEASURED = PAGE.split(BEGIN, 1)[1].split(END, 1)[0]
#: Lines are wrapped; a sentence is one line here.
WORDS = " ".join(PAGE.split(END, 1)[1].split())
PROMISE = " ".join((REPOSITORY / "README.md").read_text().split("3. **It finds", 1)[1].split("\n\n", 1)[0].split())


def ratios() -> dict[str, float]:
    found = re.findall(r"^\| ([^|]+) \| [^|]+ \| (1/)?([\d.]+)(?: x)? \|", MEASURED, flags=re.MULTILINE)
    return {what: 1 / float(number) if inverse else float(number) for what, inverse, number in found}


def cells(jobs: str, engine: str) -> list[str]:
    section = MEASURED.split(f"\n### {jobs} Jobs\n", 1)[1].split("\n### ", 1)[0]
    return next(line for line in section.splitlines() if line.startswith(f"| {engine} |")).split(" | ")


@pytest.mark.parametrize("jobs", ["1,000", "100,000"])
def test_up_to_100_000_jobs_a_report_costs_a_third_to_a_fifth_of_kafka_streams(jobs):
    said = "up to 100,000 jobs a report costs a third to a fifth of kafka streams' cpu"
    assert said in WORDS.lower()
    assert said in PROMISE.lower()
    assert 1 / 6 < ratios()[f"CPU per report against Kafka Streams, {jobs} Jobs"] < 1 / 2.75


def test_at_a_million_jobs_the_two_are_on_par():
    ours, theirs = cells("1,000,000", "**sf-healer**"), cells("1,000,000", "Kafka Streams, 1 thread")
    assert "at a million Jobs the two are on par" in PROMISE
    assert f"on par ({float(ours[4]):.1f} and {float(theirs[4]):.1f} CPU-seconds per million, one run of each)" in WORDS
    assert (ours[1], theirs[1]) == ("1", "1")
    assert 0.8 < float(ours[4]) / float(theirs[4]) < 1.25
    assert "Kafka Streams reads more reports a second there" in WORDS
    assert float(theirs[3].replace(",", "")) > float(ours[3].replace(",", ""))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("restore against Kafka Streams, 1,000,000 Jobs", "**Restore of a million Jobs**: {:.1f} times Kafka Streams'"),
        ("reports/s against plain Faust, 1,000 Jobs", "**Plain Faust**: {:.0f} times where 200 are asked for"),
    ],
)
def test_a_number_in_words_is_that_of_the_table(what, said):
    assert said.format(ratios()[what]) in WORDS


def test_what_misses_its_target_is_said_in_words():
    missed = re.findall(r"^\| ([^|]+) against [^|]+, ([\d,]+ Jobs) \|.*\*\*missed\*\*", MEASURED, flags=re.MULTILINE)
    section = WORDS.split("What misses its target, and why:", 1)[1].split("What is met with little to spare", 1)[0]
    assert len(missed) == section.count("- **")
    assert [jobs for _, jobs in missed if jobs not in section] == []


def test_the_model_of_detection_stands_beside_what_was_measured():
    scaling = " ".join((REPOSITORY / "docs" / "scaling.md").read_text().split())
    section = MEASURED.split("### Detection under a steady load", 1)[1]
    ours = next(line for line in section.splitlines() if line.startswith("| **sf-healer** |")).split(" | ")
    assert f"a measured p99 of {ours[3]} s" in scaling
