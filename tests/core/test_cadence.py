"""A Job's own cadence: what it learns from its intervals, and the threshold that gives."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.cadence import LEAST_SAMPLES, error_grace, learn, p99_seconds, silence_threshold
from sf_healer.core.commands import Command
from sf_healer.core.events import Kind
from sf_healer.core.policy import Policy, parse
from sf_healer.core.verdicts import Verdict
from sf_healer.views.jobs import build_job
from sf_healer.views.lines import verdict_lines
from tests.core.strategies import POLICY, WINDOW_SECONDS, Driver, Stored, a_fact, a_partition

LEARNS = Policy(name="x", learn_cadence=True, learn_floor_seconds=60.0, learn_ceiling_seconds=900.0)
STEP = 2**0.25


def learned(*intervals):
    counts: list[int] | None = None
    for interval in intervals:
        counts = learn(counts, interval)
    return counts


def test_without_enough_intervals_the_policy_holds():
    counts = learned(*[10.0] * (LEAST_SAMPLES - 1))
    assert p99_seconds(counts) is None
    assert silence_threshold(counts, LEARNS) == LEARNS.silence_threshold_seconds
    assert silence_threshold(None, LEARNS) == LEARNS.silence_threshold_seconds


def test_the_threshold_is_one_and_a_half_times_the_p99_between_the_bounds():
    counts = learned(*[100.0] * LEAST_SAMPLES)
    assert 100.0 <= p99_seconds(counts) < 100.0 * STEP
    assert silence_threshold(counts, LEARNS) == 1.5 * p99_seconds(counts)
    assert silence_threshold(learned(*[0.1] * LEAST_SAMPLES), LEARNS) == 60.0
    assert silence_threshold(learned(*[3000.0] * LEAST_SAMPLES), LEARNS) == 900.0


def test_a_policy_that_does_not_learn_keeps_its_threshold():
    counts = learned(*[100.0] * LEAST_SAMPLES)
    assert silence_threshold(counts, Policy(name="x")) == 300.0


def test_one_long_interval_in_a_hundred_is_no_cadence_and_two_are():
    assert p99_seconds(learned(*[10.0] * 99, 1000.0)) < 10.0 * STEP
    assert p99_seconds(learned(*[10.0] * 98, 1000.0, 1000.0)) >= 1000.0


def test_what_a_job_did_long_ago_fades():
    counts = learned(*[500.0] * 2000, *[10.0] * 60_000)
    assert p99_seconds(counts) < 10.0 * STEP
    assert sum(counts) <= 2000


@given(st.lists(st.floats(0.001, 1e9), min_size=LEAST_SAMPLES, max_size=300))
def test_the_p99_is_never_shorter_than_it_was_and_at_most_a_bucket_longer(intervals):
    exact = sorted(intervals)[math.ceil(0.99 * len(intervals)) - 1]
    told = p99_seconds(learned(*intervals))
    assert exact <= told * (1 + 1e-9)
    assert told <= max(1.0, exact * STEP) * (1 + 1e-9)


def test_a_job_that_reports_every_two_and_a_half_hours_is_given_its_own_threshold():
    patient = msgspec.structs.replace(LEARNS, learn_ceiling_seconds=20_000.0)
    threshold = silence_threshold(learned(*[9000.0] * LEAST_SAMPLES), patient)
    assert 1.5 * 9000.0 <= threshold <= 1.5 * 9000.0 * STEP
    assert silence_threshold(learned(*[9000.0] * LEAST_SAMPLES), LEARNS) == 900.0


def test_a_silence_that_the_policy_itself_allows_is_not_cut_short_by_the_ceiling():
    allowing = msgspec.structs.replace(LEARNS, silence_threshold_seconds=3600.0)
    seldom, often = learned(*[2000.0] * LEAST_SAMPLES), learned(*[10.0] * LEAST_SAMPLES)
    assert 1.5 * 2000.0 <= silence_threshold(seldom, allowing) <= 3600.0
    assert silence_threshold(OF_OLD, allowing) == 3600.0
    assert silence_threshold(often, allowing) == 60.0


#: As older versions left it: whatever was longer than 3,444 s is counted in the last of 49 places.
OF_OLD = [*[0] * 48, LEAST_SAMPLES]


def test_intervals_of_which_nobody_knows_how_long_they_were_give_the_longest_threshold():
    patient = msgspec.structs.replace(LEARNS, learn_ceiling_seconds=20_000.0)
    assert silence_threshold(OF_OLD, patient) == 20_000.0
    assert silence_threshold(OF_OLD, LEARNS) == 900.0
    assert silence_threshold([10_000, *OF_OLD[1:]], patient) == 60.0  # one in a hundred does not count


def test_what_nobody_knows_is_learned_again():
    counts = list(OF_OLD)
    for _ in range(LEAST_SAMPLES):
        counts = learn(counts, 9000.0)
    assert sum(counts) == LEAST_SAMPLES
    assert 9000.0 <= p99_seconds(counts) <= 9000.0 * STEP


def test_an_older_version_finds_the_places_it_looks_for():
    assert len(learned(1.0)) == len(OF_OLD)
    assert learned(4000.0)[: len(OF_OLD)] == [0] * len(OF_OLD)


@pytest.mark.parametrize("interval", [10.0, 290.0])
def test_the_error_grace_of_a_consumer_is_its_learned_silence_threshold(interval):
    text = '[[policy]]\nname = "c"\ntargets = ["loader"]\nconsumer = true\nlearn_cadence = true\n'
    given, own = (parse(each).for_job(a_fact()) for each in (text, f"{text}error_grace_seconds = 70"))
    counts = learned(*[interval] * LEAST_SAMPLES)
    assert error_grace(counts, given) == silence_threshold(counts, given) != 300.0
    assert error_grace(None, given) == 300.0
    assert error_grace(counts, own) == error_grace(None, own) == 70.0


# ---- in a partition


def reporting(driver, *, every, times):
    for _ in range(times):
        driver.loading()
        driver.run(every)


def a_learner():
    driver = Driver()
    driver.fact(target="learner")
    driver.run(1)
    return driver


def test_a_job_that_reports_every_thirty_seconds_is_given_its_own_threshold():
    driver = a_learner()
    reporting(driver, every=30, times=LEAST_SAMPLES + 2)
    threshold = driver.judgement().threshold
    assert 45.0 <= threshold <= 45.0 * STEP
    shown = build_job(driver.partition, driver.state())["cadence"]
    assert shown["threshold_seconds"] == threshold
    assert shown["intervals"] >= LEAST_SAMPLES
    driver.effects()
    driver.run(threshold + 6 - 30)
    (command,) = driver.effects()
    assert isinstance(command, Command)
    assert command.evidence.threshold_seconds == threshold


def test_an_error_within_the_learned_silence_of_a_consumer_is_no_failure():
    text = POLICY.replace("consumer = true", "consumer = true\nlearn_cadence = true")
    driver = Driver(a_partition(text))
    driver.fact(target="consumer")
    driver.run(1)
    reporting(driver, every=38, times=LEAST_SAMPLES + 1)
    driver.loading()
    driver.run(10)
    driver.says(Kind.ERROR)
    driver.run(50)  # longer than 40 s, which hold before anything is learned
    assert driver.effects() == []
    driver.loading()
    driver.says(Kind.ERROR)
    driver.run(70 + WINDOW_SECONDS)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.grace_over) == ("failed", True)
    assert 57.0 <= command.evidence.threshold_seconds <= 57.0 * STEP


@pytest.mark.parametrize("silence_seconds", [1800, 7200])
def test_a_threshold_that_is_learned_shorter_is_held_against_the_very_next_silence(silence_seconds):
    policies = POLICY.replace('name = "learners"', f'name = "learners"\nsilence_threshold_seconds = {silence_seconds}')
    driver = Driver(a_partition(policies))
    driver.fact(target="learner")
    driver.run(1)
    reporting(driver, every=10, times=LEAST_SAMPLES + 2)
    assert driver.effects() == []
    driver.run(40 + WINDOW_SECONDS + 1 - 10)  # the floor of what is learned
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.threshold_seconds) == ("stuck", 40.0)


def test_a_job_that_learns_waits_in_one_window_while_its_threshold_stays():
    driver = a_learner()
    reporting(driver, every=30, times=LEAST_SAMPLES + 2)
    driver.take()
    reporting(driver, every=30, times=10)
    assert driver.take().swept <= 10


def test_reports_read_late_and_fast_are_as_far_apart_as_they_were_made():
    driver = a_learner()
    began = driver.now
    driver.now += 200 * 120.0  # the worker was away, nothing was marked meanwhile
    for number in range(LEAST_SAMPLES + 2):
        driver.loading(source_at=began + number * 120)
        driver.now += 2
    assert 120.0 <= p99_seconds(driver.state().cadence) <= 120.0 * STEP


def test_reports_made_often_and_sent_seldom_are_as_far_apart_as_they_come():
    driver = a_learner()
    for _ in range(LEAST_SAMPLES // 4 + 2):
        for number in range(4):
            driver.loading(source_at=driver.now - 30 + 10 * number)
            driver.run(0.25)
        driver.run(39)
    assert 39.0 <= p99_seconds(driver.state().cadence) <= 40.0 * STEP


def test_silence_in_which_a_job_was_sick_is_no_cadence():
    driver = a_learner()
    reporting(driver, every=30, times=5)
    driver.run(100)
    assert driver.judgement().verdict is Verdict.STUCK
    before = sum(driver.state().cadence)
    driver.loading()
    assert sum(driver.state().cadence) == before


def test_a_page_says_where_nobody_knows_how_long_intervals_were():
    driver = a_learner()
    driver.loading()
    driver.state().cadence = list(OF_OLD)
    shown = build_job(driver.partition, driver.state())
    assert shown["cadence"] == {"intervals": 100, "p99_seconds": None, "threshold_seconds": 1800.0}
    told = "100 intervals, nobody knows how long all were: silent after 1800 s"
    assert ("  cadence", told) in list(verdict_lines(shown))


def test_what_was_learned_outlives_a_restart_of_worker_and_job():
    driver = a_learner()
    stored = Stored()
    reporting(driver, every=30, times=LEAST_SAMPLES + 2)
    stored.store(driver.take())
    driver.partition = stored.restored()
    assert sum(driver.state().cadence) >= LEAST_SAMPLES
    driver.fact(uid="u2", created_at=driver.now, resource_version=99, target="learner")
    assert sum(driver.state().cadence) >= LEAST_SAMPLES


def test_a_job_whose_policy_does_not_learn_learns_nothing():
    driver = Driver()
    driver.fact()
    driver.run(1)
    reporting(driver, every=30, times=5)
    assert driver.state().cadence is None
    assert build_job(driver.partition, driver.state())["cadence"] is None


@pytest.mark.parametrize("interval", [0.0, 1e-9, 1e9])
def test_any_interval_finds_a_bucket(interval):
    assert sum(learned(interval)) == 1
