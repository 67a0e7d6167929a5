"""A whole evidence partition: what the log does to it, what survives a crash, and what it asks for."""

import itertools
from contextlib import contextmanager
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sf_healer.core import partition as partition_module
from sf_healer.core.commands import Alive, Command, ProofKind, ProofOfLife, Withdraw
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Beat, Bundle, Fact, Hold, HoldCause, Mark, OutcomeSeen, Snapshot, Word
from sf_healer.core.facts import Condition, PodState
from sf_healer.core.partition import FORGET_GONE_SECONDS, JUDGED_IN_A_STEP, STRAYING_SECONDS, Meta, Partition
from sf_healer.core.policy import Limits, parse
from sf_healer.core.state import NEVER, JobState, fold_beat_of_well
from sf_healer.core.verdicts import NO_LOOK, RESTARTABLE, Rule, Verdict, judge
from sf_healer.core.windows import NO_WINDOW
from tests.core.strategies import (
    FEED_GAP_SECONDS,
    JOB,
    POLICY,
    T0,
    TOPIC,
    WINDOW_SECONDS,
    Driver,
    Stored,
    a_beat,
    a_bundle,
    a_fact,
    a_mark,
    a_partition,
    a_state,
    a_word,
    an_outcome,
    beats,
    facts,
    with_fields,
    words,
)

# Of a loader (strategies.POLICY); the deadlines are the shipped ones (policy.Limits).
SILENCE, STARTUP, GRACE, HOLD = 40, 70, 25, 30
OUTCOME_DEADLINE, RETRY = 120, 30
SLACK = WINDOW_SECONDS + 1  # a verdict comes within a window and a mark


def commands_of(changes):
    return [effect for effect in changes.effects if isinstance(effect, Command)]


def a_driver():
    """Make a partition that knows one loader, running since a second ago."""
    driver = Driver()
    driver.fact()
    driver.run(1)
    return driver


def a_stuck_driver():
    """Make a partition that has just sent a command for a silent loader; hands out the command too."""
    driver = a_driver()
    driver.loading()
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    return driver, command


# ---- facts that come with what their Jobs say


def test_a_job_that_is_assumed_with_its_first_report_is_judged_once_and_stored_once():
    driver = Driver()
    driver.take()
    driver.apply(msgspec.structs.replace(a_bundle(a_beat(T0)), facts=(a_fact(),)))
    changes = driver.take()
    assert [(state.key, judgement.verdict) for state, judgement in changes.judged] == [(JOB, Verdict.HEALTHY)]
    assert list(changes.jobs) == [JOB]
    driver.run(SILENCE + SLACK)
    assert [command.key for command in commands_of(driver.take())] == [JOB]


OTHER = "stf/other-producer"
SAID = st.lists(beats(st.sampled_from([JOB, OTHER])) | words(st.sampled_from([JOB, OTHER])), max_size=4)
FACTS = st.lists(facts() | facts(OTHER), max_size=2, unique_by=lambda fact: fact.key)


@given(SAID, SAID, FACTS)
def test_facts_within_a_bundle_come_to_what_they_come_to_before_it(earlier, said, assumed):
    together, apart = a_partition(), a_partition()
    for partition in (together, apart):
        partition.apply(a_mark(T0 - 1), T0 - 1)
        partition.apply(a_bundle(*earlier, partition=1), T0 + 100)
        partition.take()
    together.apply(msgspec.structs.replace(a_bundle(*said), facts=tuple(assumed)), T0 + 101)
    for fact in assumed:
        apart.apply(Fact(fact), T0 + 101)
    apart.apply(a_bundle(*said), T0 + 101)
    for partition in (together, apart):
        check_counts(partition)
        partition.apply(a_mark(T0 + 102), T0 + 102)
    # A sick Job has the verdict that it had until it is swept: that is none at all where it was never judged well.
    assert states_of(together, verdict="") == states_of(apart, verdict="")
    assert together.take().jobs.keys() == apart.take().jobs.keys()
    for seconds in range(103, 400):
        for partition in (together, apart):
            partition.apply(a_mark(T0 + seconds), T0 + seconds)
        one, other = ({each.key: each for each in commands_of(by.take())} for by in (together, apart))
        assert one == other
    assert states_of(together) == states_of(apart)


def states_of(partition, **changes):
    """Give the states but for the windows in which Jobs wait: one that is looked at too early only waits again."""
    return {key: with_fields(state, window=NO_WINDOW, **changes) for key, state in partition.jobs.items()}


# ---- silence becomes a command


def test_a_silent_job_is_commanded_once_within_a_window_of_its_threshold():
    driver = a_driver()
    driver.loading()
    heard_at = driver.now
    driver.run(SILENCE)
    assert driver.effects() == []
    driver.run(SLACK)
    (command,) = driver.effects()
    assert isinstance(command, Command)
    assert (command.key, command.uid, command.verdict) == (JOB, "u1", "stuck")
    assert heard_at + SILENCE < command.decided_at <= heard_at + SILENCE + WINDOW_SECONDS
    assert command.expires_at == command.decided_at + 60
    driver.run(10)
    assert driver.effects() == []


@pytest.mark.parametrize("lives", [Driver.loading, lambda driver: driver.says(Kind.STARTED)])
def test_where_no_grace_is_given_a_sign_of_life_does_not_hide_an_error(lives):
    """Nor one that goes on and on, and says more errors meanwhile: the newest are never behind the watermark."""
    driver = Driver()
    driver.fact(target="literal")
    driver.run(1)
    erred_at = driver.now
    for _ in range(int(SLACK)):
        for _ in range(2):
            driver.says(Kind.ERROR)
            lives(driver)
        driver.run(1)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.base) == ("failed", erred_at)
    for _ in range(20):
        driver.loading()
        driver.run(1)
    assert driver.effects() == []  # not withdrawn
    driver.fact(uid="u2", created_at=driver.now, resource_version=20, target="literal")
    driver.take()
    driver.loading()
    driver.run(SILENCE)
    assert driver.effects() == []


def test_a_command_carries_its_evidence_in_numbers():
    driver = a_driver()
    driver.apply(a_bundle(a_beat(T0 + 0.5, offset=77), partition=3))
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    evidence = command.evidence
    assert (evidence.proof, evidence.detail) == (ProofKind.SILENCE, "loading_stopped")
    assert (evidence.last_seen, evidence.base, evidence.source_at) == (T0 + 1, T0 + 1, T0 + 0.5)
    assert (evidence.source_topic, evidence.source_partition, evidence.source_offset) == ("queue-events", 3, 77)
    assert evidence.silence_seconds == command.decided_at - (T0 + 1)
    assert evidence.threshold_seconds == SILENCE
    assert evidence.watermark == evidence.unhealthy_at == command.decided_at
    assert (command.policy, command.target, command.attempt) == ("loaders", "loader", 0)
    assert (command.startup_seconds, command.proof_of_life) == (STARTUP, ProofOfLife.TELEMETRY)


def test_an_errors_command_names_the_error_and_where_it_was_read():
    driver = a_driver()
    driver.apply(a_bundle(a_word(Kind.ERROR, T0 + 1, offset=5, finished=True, detail="boom"), partition=2))
    driver.loading(source_at=T0 + 0.25)  # older, read later
    driver.run(SLACK)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.proof) == ("failed", ProofKind.ERROR)
    assert command.evidence.detail == "error_final: boom"
    assert (command.evidence.source_partition, command.evidence.source_offset) == (2, 5)
    assert command.evidence.source_at == T0 + 1


def test_a_job_that_kubernetes_calls_failed_is_commanded_for_that():
    driver = a_driver()
    driver.fact(resource_version=11, condition=Condition.FAILED, pod=PodState.ENDED)
    driver.run(SLACK)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.proof) == ("failed", ProofKind.CONDITION)
    assert (command.evidence.condition, command.evidence.detail) == ("failed", "job_failed")


def test_a_job_that_never_reported_is_commanded_after_its_startup():
    driver = a_driver()
    driver.run(STARTUP - 2)
    assert driver.effects() == []
    driver.run(SLACK + 2)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.proof) == ("never_started", ProofKind.STARTUP)
    assert command.evidence.last_seen is None


def test_a_job_that_may_not_report_is_shown_to_live_by_its_pod():
    driver = Driver()
    driver.fact(target="new")
    driver.loading()
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    assert command.proof_of_life is ProofOfLife.POD


def test_the_same_judgement_gives_the_same_command_id_and_another_one_another():
    ids = set()
    for heard in (0.5, 0.5, 0.75):
        driver = a_driver()
        driver.now += heard
        driver.loading()
        driver.run(SILENCE + SLACK)
        ids.add(driver.effects()[0].id)
    assert len(ids) == 2


def test_a_job_that_reports_is_never_commanded():
    driver = a_driver()
    for _ in range(50):
        driver.loading()
        driver.run(7)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.HEALTHY


def test_a_job_that_reports_is_looked_at_once_a_threshold_not_at_each_report():
    driver = a_driver()
    driver.take()
    for _ in range(400):
        driver.loading()
        driver.run(1)
    assert driver.take().swept <= 400 / SILENCE + 1


def test_evidence_of_a_job_without_a_fact_is_kept_and_judged_when_the_fact_comes():
    driver = Driver()
    driver.loading()
    driver.run(SILENCE + SLACK)
    assert driver.effects() == []
    assert driver.judgement().rule is Rule.NO_FACT
    driver.fact()
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    assert command.evidence.last_seen == T0


# ---- what lag, feed gaps and new topics do


def test_silence_is_measured_on_the_log_not_on_the_clock():
    """The detector lags for an hour: no marks, so no verdict; then reports and marks come together."""
    driver = a_driver()
    driver.loading()
    driver.now += 3600
    driver.loading(source_at=T0 + 30)
    driver.run(SILENCE - 1)
    assert driver.effects() == []


def test_after_a_feed_gap_a_silent_job_has_its_whole_threshold_again():
    driver = a_driver()
    driver.loading()
    driver.run(SILENCE - 5)
    driver.now += 600
    driver.run(SILENCE)
    assert driver.effects() == []
    driver.run(SLACK + 1)
    assert len(driver.effects()) == 1


def test_a_worker_in_a_crash_loop_does_not_hide_a_stuck_job():
    driver = a_driver()
    driver.loading()
    driver.run(1)
    for _ in range(12):
        driver.now += FEED_GAP_SECONDS + 2
        driver.run(6)
    assert len(driver.effects()) == 1


def test_a_topic_made_anew_rebases_silence_once():
    driver = a_driver()
    driver.loading()
    driver.run(SILENCE - 1)
    driver.now += 1
    driver.apply(a_mark(driver.now, topic_id="topic-2"))
    for _ in range(SILENCE):
        driver.now += 1
        driver.apply(a_mark(driver.now, topic_id="topic-2"))
    assert driver.effects() == []


def test_a_report_appended_after_the_watermark_counts_before_the_watermark_gets_there():
    driver = a_driver()
    driver.loading()
    driver.run(SILENCE - 1)
    driver.apply(a_bundle(a_beat(driver.now, offset=99)), at=driver.now + 3)
    driver.run(SILENCE)
    assert driver.effects() == []


def test_append_times_that_step_back_are_made_monotonic():
    """A new leader of the evidence partition may have another clock."""
    driver = a_driver()
    driver.loading()
    driver.apply(a_bundle(a_beat(T0 + 2, offset=5)), at=T0 - 500)
    assert driver.state().loading_at == T0 + 1
    assert driver.partition.last_at == T0 + 1


AHEAD = 7200.0


def numbered(driver, *, first=0):
    """Have each record come with its offset, as from a log."""
    offsets, apply = itertools.count(first), driver.partition.apply
    driver.partition.apply = lambda evidence, at: apply(evidence, at, next(offsets))
    return driver


def taken_over(driver, stored):
    """Have another worker go on with what is stored; the last record is delivered to it again."""
    stored.store(driver.take())
    return numbered(Driver(stored.restored(), now=driver.now), first=driver.partition.meta().folded_to)


def under_a_clock_that_is_ahead(driver, *, seconds, meanwhile=lambda: None):
    """Let the broker's clock be two hours ahead for a while; a mark each second, with W by that clock."""
    for _ in range(seconds):
        driver.now += 1
        driver.partition.apply(a_mark(driver.now + AHEAD), driver.now + AHEAD)
        driver.now += AHEAD
        meanwhile()
        driver.now -= AHEAD


@pytest.mark.parametrize("seconds", [1, 30])
@pytest.mark.parametrize("crashing", [False, True])
def test_a_clock_that_was_ahead_delays_a_verdict_by_no_more_than_a_feed_gap_does(seconds, crashing):
    driver = numbered(a_driver())
    driver.loading()
    driver.run(10)
    under_a_clock_that_is_ahead(driver, seconds=seconds)
    if crashing:
        driver = taken_over(driver, Stored())
    driver.run(SILENCE + SLACK + 3)
    (command,) = commands_of(driver.take())
    assert command.verdict is Verdict.STUCK
    assert command.decided_at <= driver.now
    assert driver.partition.watermark.value == driver.partition.last_at == driver.now


def test_one_record_under_a_clock_that_is_ahead_holds_up_nobody():
    """No W was read then: all watermarks are right, and only the log's own time would be wrong for two hours."""
    driver = numbered(a_driver())
    driver.loading()
    driver.run(10)
    driver.apply(Bundle("", -1, (), ()), at=driver.now + AHEAD)
    driver.run(1)
    driver.says(Kind.ERROR, finished=True)
    driver.run(SLACK + 2)
    assert [command.verdict for command in commands_of(driver.take())] == [Verdict.FAILED]


def test_what_the_last_record_before_a_new_owner_dated_ahead_is_put_right_by_that_one():
    """No other record tells of that clock, and what a Job is known by is stored with its time."""
    driver, stored = numbered(a_driver()), Stored()
    driver.loading()
    driver.run(10)
    stored.store(driver.take())
    driver.apply(a_bundle(a_beat(driver.now, offset=1)), at=driver.now + AHEAD)
    driver = taken_over(driver, stored)
    driver.run(SILENCE + SLACK + 3)
    assert driver.state().loading_at <= driver.now
    assert [command.verdict for command in commands_of(driver.take())] == [Verdict.STUCK]


def test_a_job_that_reports_is_well_before_and_after_a_clock_that_was_ahead_is_right_again():
    driver = numbered(a_driver())
    driver.loading()
    driver.run(SILENCE - 5)
    driver.loading()
    under_a_clock_that_is_ahead(driver, seconds=SILENCE + 20, meanwhile=driver.loading)
    driver.run(SILENCE - 5)
    driver.loading()
    driver.run(SILENCE - 5)
    assert driver.effects() == []
    assert driver.judgement().verdict is Verdict.HEALTHY
    assert driver.state().life_source <= driver.now


def test_what_was_said_under_a_clock_that_was_ahead_keeps_its_order_and_its_distances():
    """A mark of that clock has raised both; brought to one moment, an `error` that was answered would stand."""
    driver = numbered(a_driver())
    driver.loading()
    driver.run(10)
    under_a_clock_that_is_ahead(driver, seconds=1, meanwhile=lambda: driver.says(Kind.ERROR, finished=True))
    under_a_clock_that_is_ahead(driver, seconds=9)
    under_a_clock_that_is_ahead(driver, seconds=1, meanwhile=lambda: driver.says(Kind.STARTED, partition=1))
    driver.run(1)
    state = driver.state()
    assert state.started_source - state.error_source == 10
    driver.run(SILENCE - 2)
    assert commands_of(driver.take())[1:] == []  # the one for the error itself was withdrawn


def test_records_that_are_read_again_tell_nothing_of_the_brokers_clock():
    """Commits may fail for long: what was stored may be minutes ahead of what is read first."""
    driver = numbered(a_driver())
    driver.loading()
    driver.run(100)
    driver.loading()
    meta = driver.partition.meta()
    driver.partition.restore_meta(meta)
    Partition.apply(driver.partition, a_mark(T0 + 2), T0 + 2, 3)
    assert (driver.partition.last_at, driver.partition.watermark.value) == (meta.last_at, meta.watermark)
    assert driver.state().loading_at == driver.now


def test_a_claim_by_the_time_of_a_clock_that_was_ahead_moves_nothing():
    """A worker that lags claims late what it noted then: it may have come far, or not at all."""
    driver = numbered(a_driver())
    driver.run(10)
    driver.apply(Mark(TOPIC, 2, ((0, driver.now), (1, driver.now))))
    driver.now += 5
    driver.apply(Mark(TOPIC, 2, ((0, driver.now), (1, driver.now + AHEAD))))
    assert driver.partition.watermark.value == driver.now - 5
    driver.apply(Mark(TOPIC, 2, ((1, driver.now),)))
    assert driver.partition.watermark.value == driver.now


# ---- an evidence log that begins anew


class Log:
    """The evidence log of a driver: its offsets, and what is stored of what is folded, as agents/folding.py does it."""

    def __init__(self, driver):
        self.driver, self.end, self.stored = driver, 0, Stored()
        driver.apply = self.append
        self.take_over(driver.partition)

    def take_over(self, partition=None):
        """Have another worker fold it from what is stored; or this partition."""
        self.partition = self.stored.restored() if partition is None else partition
        self._apply = self.partition.apply
        self.partition.apply = lambda evidence, at: self.append(evidence, at=at)
        self.driver.partition = self.partition

    def append(self, evidence, *, at=None):
        at = self.driver.now if at is None else at
        self.end += 1
        if anew := self.partition.note_log(self.end, self.end - 1, at):
            self.stored.store(anew)
        self._apply(evidence, at, self.end - 1)

    def store(self):
        changes = self.driver.take()
        self.stored.store(changes)
        return changes

    def epoch(self):
        return self.driver.partition.meta().log_epoch


def a_log():
    driver = a_driver()
    log = Log(driver)
    driver.run(20)
    driver.loading()
    assert log.store().log_epoch == 0
    return driver, log


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_log_that_ends_before_what_was_folded_is_of_the_next_epoch(taken_over):
    driver, log = a_log()
    log.end = 0
    if taken_over:
        log.take_over()
    driver.run(1)
    assert log.epoch() == 1
    assert log.store().log_epoch == 1
    driver.run(100)
    assert log.epoch() == 1
    log.take_over()
    driver.run(1)
    assert log.epoch() == 1
    log.end = 3
    driver.run(1)
    assert log.epoch() == 2


@pytest.mark.parametrize("again", range(5))
def test_a_log_that_is_read_again_after_a_crash_has_not_begun_anew(again):
    driver, log = a_log()
    log.take_over()
    at = driver.now - 4 + again
    assert log.partition.note_log(log.end + again, log.end - 5 + again, at) is None
    log._apply(a_mark(at), at, log.end - 5 + again)
    assert log.epoch() == 0


def test_a_log_that_has_grown_as_far_again_has_begun_anew_if_it_was_written_since():
    """As while nobody owned the partition: the others write on."""
    driver, log = a_log()
    log.take_over()
    end = log.end
    assert log.partition.note_log(end + 100, 0, driver.now) is None
    assert log.partition.note_log(end + 100, end, driver.now + 60) is None
    assert log.partition.note_log(end + 100, 0, driver.now + 60) is not None
    assert log.epoch() == 1


def test_where_the_log_ends_may_be_unknown():
    driver, log = a_log()
    assert log.partition.note_log(None, 0, driver.now) is None
    assert log.epoch() == 0
    assert log.partition.note_log(None, 0, driver.now + 1) is not None
    assert log.epoch() == 1


def test_the_epoch_is_stored_before_anything_that_is_of_it():
    """A crash in between: who takes over would else go on in the epoch before, and lose against what was stored."""
    driver, log = a_log()
    log.end = 0
    driver.run(1)
    driver.loading()
    log.take_over()  # of that nothing is stored yet
    assert log.epoch() == 1
    log.end = 100  # and by now it has outgrown the old one
    driver.run(1)
    assert log.store().log_epoch == 1


@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("left", [0, 12])
def test_what_was_said_on_a_log_that_is_lost_is_nobodys_silence(taken_over, left):
    """It was acknowledged and will not be told again. `left`: so many records of the log are left, and read again."""
    driver, log = a_log()
    known = log.end
    driver.run(SILENCE - 5)
    driver.now += 4  # what the Job says here is lost; no feed gap
    log.end = left
    if taken_over:
        log.store()
        log.take_over()
    assert known > left
    driver.run(SILENCE - 2)
    assert driver.effects() == []
    assert driver.judgement().verdict is Verdict.HEALTHY
    driver.run(SLACK + 4)
    assert [command.verdict for command in commands_of(driver.take())] == [Verdict.STUCK]


def test_a_claim_of_before_the_log_was_found_anew_does_not_end_what_is_lost():
    """A worker that lags claims late what it noted then, and what it forwarded since may be lost as well."""
    driver, log = a_log()
    driver.run(SILENCE - 5)
    log.end = 0
    driver.now += 9
    for behind in (8, 4, 2):
        driver.now += 1
        driver.partition.apply(a_mark(driver.now - behind), driver.now)
    driver.run(SILENCE - 4)
    assert driver.effects() == []


def test_old_records_that_are_read_again_after_the_log_lost_its_tail_do_not_turn_time_back():
    driver, log = a_log()
    driver.run(300)
    driver.loading()
    driver.take()
    now, heard_at = driver.now, driver.state().loading_at
    log.end = 50
    assert log.partition.note_log(log.end, 0, T0) is not None
    for offset in range(50):
        log._apply(a_mark(T0 + offset), T0 + offset, offset)
    assert driver.partition.last_at == now
    assert driver.state().loading_at == heard_at
    driver.run(SILENCE - 2)
    assert driver.effects() == []


def test_a_clock_that_was_ahead_and_is_right_again_with_a_new_log_holds_up_nobody():
    driver, log = a_log()
    under_a_clock_that_is_ahead(driver, seconds=3)
    log.end = 0
    driver.run(3)
    assert driver.partition.last_at == driver.now
    driver.run(SILENCE + SLACK)
    assert [command.verdict for command in commands_of(driver.take())] == [Verdict.STUCK]


# ---- redelivery


def test_a_redelivered_loading_does_not_hide_a_stuck_job():
    driver = a_driver()
    bundle = a_bundle(a_beat(T0 + 1, offset=10))
    driver.apply(bundle)
    driver.run(SILENCE - 1)
    driver.apply(bundle)
    driver.run(SLACK + 1)
    assert len(driver.effects()) == 1


def test_a_redelivered_error_does_not_kill_the_new_incarnation():
    driver = a_driver()
    bundle = a_bundle(a_word(Kind.ERROR, T0 + 3600, offset=10, finished=True))  # a clock an hour ahead
    driver.apply(bundle)
    driver.run(SLACK)
    driver.fact(uid="u2", created_at=driver.now, resource_version=30)
    driver.effects()
    driver.run(1)
    driver.apply(bundle)
    driver.apply(a_bundle(a_word(Kind.ERROR, T0 + 3600, offset=9, finished=True)))
    driver.loading()
    driver.run(SLACK)
    assert driver.effects() == []


def test_a_mark_claims_no_more_than_the_moment_it_was_appended():
    """W is the time of an earlier record of this very log; one beyond it would end all judging until it is reached."""
    driver = Driver()
    driver.fact()
    driver.loading()
    driver.apply(a_mark(driver.now + 1e9))
    assert driver.partition.watermark.value == driver.now
    driver.run(seconds=30.0)
    assert driver.partition.watermark.value == driver.now
    assert driver.judgement().verdict is Verdict.HEALTHY


def test_a_slow_clock_that_no_worker_bounds_is_bounded_by_the_sources_last_mark():
    """A worker that has just taken over knows no end of the source. Found by the simulation (seed 1178)."""
    driver = a_driver()
    driver.run(60)
    driver.loading()
    driver.run(30)
    driver.says(Kind.FINISHED, source_at=T0 + 50, finished=True)  # its clock is 41 s slow, and nothing bounds it
    driver.run(SILENCE + SLACK)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.COMPLETED


def test_a_slow_clock_in_a_topic_made_anew_is_bounded_by_what_was_marked_of_the_one_before():
    driver = a_driver()
    driver.run(60)
    driver.loading()
    driver.run(30)
    word = a_word(Kind.FINISHED, T0 + 50, offset=0, finished=True)
    driver.apply(a_bundle(word, topic_id="topic-2"))
    driver.run(SILENCE + SLACK)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.COMPLETED


def test_offsets_of_other_source_partitions_and_topics_are_no_redelivery():
    driver = a_driver()
    driver.apply(a_bundle(a_beat(T0 + 1, offset=10)))
    driver.run(5)
    driver.apply(a_bundle(a_beat(T0 + 5, offset=3), partition=1))
    assert driver.state().loading_at == T0 + 6
    driver.run(5)
    driver.apply(a_bundle(a_beat(T0 + 10, offset=2), topic_id="topic-2"))
    assert driver.state().loading_at == T0 + 11


def test_offsets_are_remembered_of_two_topics_at_most():
    driver = a_driver()
    for number in range(20):
        driver.apply(a_bundle(a_beat(T0 + 1, offset=10), topic_id=f"topic-{number}"))
    driver.apply(a_bundle(a_beat(T0 + 1, offset=10), partition=1))
    assert {topic for topic, _, _ in driver.partition.meta().forwarded} == {TOPIC, "topic-19"}


# ---- offsets that start over under one topic id


def a_driver_whose_source_starts_over(end, *, told=True, known=5_000_000):
    """Make a partition that knows offsets up to 5,000,000, and whose source has only some again."""
    driver = a_driver()
    driver.apply(a_bundle(a_beat(T0 + 1, offset=known)))
    driver.run(5)
    starts_over = ((0, end),) if told else ()
    driver.apply(Mark(TOPIC, 1, ((0, driver.now),), (0,), starts_over))
    driver.run(1)
    return driver


def test_reports_count_though_the_offsets_of_their_source_start_over():
    """A lost disk, an unclean election, or a broker without topic ids whose topic was made anew."""
    driver = a_driver_whose_source_starts_over(3)
    for offset in range(3, 3 + 2 * SILENCE):
        driver.apply(a_bundle(a_beat(driver.now, offset=offset)))
        driver.run(1)
    assert driver.effects() == []
    assert driver.state().loading_at == driver.now - 1


def test_what_the_source_held_when_a_reset_was_told_is_passed_over_still():
    """It may be what is left of it, and folded: an `error` read again would seem to be said after what came since."""
    driver = a_driver_whose_source_starts_over(3)
    driver.loading(partition=1)
    driver.apply(a_bundle(a_word(Kind.ERROR, T0 + 1, offset=2, finished=True)))
    assert driver.state().error_at == NEVER
    driver.apply(a_bundle(a_word(Kind.ERROR, driver.now, offset=3, finished=True)))
    assert driver.state().error_at == driver.now


def test_a_reset_whose_offsets_go_on_leaves_what_was_folded_alone():
    """Retention has overtaken a reader: what it reads again after that, from what it had committed, is redelivered."""
    driver = a_driver_whose_source_starts_over(3, told=False)
    driver.apply(a_bundle(a_beat(driver.now, offset=4_999_999)))
    assert driver.state().loading_at == T0 + 1


def test_a_reset_that_is_told_late_takes_nothing_back():
    """Whoever was paused tells where the source ends by then; that far others have told of it meanwhile, or nearly."""
    driver = a_driver_whose_source_starts_over(3)
    driver.apply(a_bundle(a_beat(driver.now, offset=40)))
    heard_at = driver.now
    driver.run(5)
    driver.apply(Mark(TOPIC, 1, (), (0,), ((0, 41),)))
    driver.apply(a_bundle(a_beat(driver.now, offset=40)))
    assert driver.state().loading_at == heard_at


def test_a_worker_that_still_tells_the_offsets_of_before_hides_nothing_that_is_told_after():
    driver = a_driver_whose_source_starts_over(3)
    driver.apply(a_bundle(a_beat(driver.now, offset=3)))
    driver.apply(a_bundle(a_beat(driver.now, offset=5_000_020)))  # it was fetched before
    driver.run(5)
    driver.partition.restore_meta(msgspec.msgpack.decode(msgspec.msgpack.encode(driver.partition.meta()), type=Meta))
    driver.apply(a_bundle(a_beat(driver.now, offset=5_000_021)))
    driver.run(5)
    driver.apply(a_bundle(a_beat(driver.now, offset=4)))
    assert driver.state().loading_at == driver.now


def test_redelivery_is_known_again_once_nobody_tells_the_offsets_of_before_any_more():
    driver = a_driver_whose_source_starts_over(3)
    driver.run(STRAYING_SECONDS)
    driver.apply(a_bundle(a_beat(driver.now, offset=5_000_021)))
    heard_at = driver.now
    driver.run(5)
    driver.apply(a_bundle(a_beat(driver.now, offset=5_000_021)))
    assert driver.state().loading_at == heard_at


def test_redelivery_is_known_again_when_the_source_has_nearly_as_many_as_before():
    driver = a_driver_whose_source_starts_over(990_000, known=1_000_000)
    for offset in (990_002, 1_000_002):
        driver.apply(a_bundle(a_beat(driver.now, offset=offset)))
    heard_at = driver.now
    driver.run(5)
    driver.apply(a_bundle(a_beat(driver.now, offset=1_000_001)))
    assert driver.state().loading_at == heard_at


def test_where_a_topic_that_is_no_more_started_over_changes_nothing():
    driver = a_driver()
    driver.apply(a_bundle(a_beat(T0 + 1, offset=10)))
    driver.apply(a_mark(driver.now, topic_id="topic-2"))
    driver.run(1)
    driver.apply(Mark(TOPIC, 1, (), (0,), ((0, 3),)))
    assert (TOPIC, 0, 10) in driver.partition.meta().forwarded


# ---- a command that is open


def test_a_sign_of_life_withdraws_an_open_command():
    driver, command = a_stuck_driver()
    driver.loading()
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="reports")]
    assert driver.state().command_id == ""
    driver.run(SILENCE + SLACK)
    (again,) = driver.effects()
    assert again.id != command.id


def test_a_doubtful_sign_of_life_withdraws_an_open_command_too():
    driver, command = a_stuck_driver()
    driver.loading(source_at=T0 - 5)
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="reports")]


def test_a_late_report_that_is_no_sign_of_life_withdraws_nothing():
    driver, _ = a_stuck_driver()
    driver.says(Kind.ERROR)
    driver.run(SLACK)
    assert driver.effects() == []


@pytest.mark.parametrize("kind", [Kind.INTERRUPTED, Kind.FINISHED])
def test_the_jobs_own_end_withdraws_an_open_command(kind):
    driver, command = a_stuck_driver()
    driver.says(kind)
    (withdraw,) = driver.effects()
    assert (withdraw.id, withdraw.reason) == (command.id, kind.name.lower())


def test_a_stop_command_withdraws_and_the_job_is_commanded_after_the_hold():
    driver, command = a_stuck_driver()
    driver.apply(Hold(JOB, HoldCause.STOP_COMMAND))
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="stop_command")]
    driver.run(HOLD - 1)
    assert driver.effects() == []
    driver.run(SLACK + 1)
    assert len(driver.effects()) == 1


def test_a_stop_command_and_an_outcome_that_are_read_again_change_nothing():
    """The agent's batch is read again after a crash, with the append times it had."""
    driver, command = a_stuck_driver()
    outcome = an_outcome(command.id, at=driver.now)
    for evidence in (Hold(JOB, HoldCause.STOP_COMMAND), outcome):
        driver.apply(evidence)
        driver.take()
        driver.apply(evidence)
        assert driver.take().jobs == {}


def test_an_opt_out_withdraws():
    driver, command = a_stuck_driver()
    driver.fact(resource_version=12, skip=True)
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="skip_annotation")]
    driver.run(500)
    assert driver.effects() == []


def test_a_command_without_an_outcome_is_sent_again_after_its_deadline():
    driver, command = a_stuck_driver()
    driver.run(OUTCOME_DEADLINE - SLACK)
    assert driver.effects() == []
    driver.run(2 * SLACK)
    (again,) = driver.effects()
    assert again.id == command.id
    assert again.decided_at >= command.decided_at + OUTCOME_DEADLINE
    assert again.evidence.unhealthy_at == command.evidence.unhealthy_at


def test_since_when_a_command_waits_for_its_outcome_is_known_however_often_it_is_sent_again():
    driver, command = a_stuck_driver()
    driver.run(3 * OUTCOME_DEADLINE)
    assert len(driver.effects()) >= 2
    assert driver.partition.unanswered_since() == command.decided_at
    driver.apply(an_outcome(command.id, at=driver.now, final=False))
    assert driver.partition.unanswered_since() == command.decided_at
    driver.apply(an_outcome(command.id, at=driver.now))
    assert driver.partition.unanswered_since() == NEVER
    driver.run(RETRY + SLACK)
    (again,) = driver.effects()
    assert driver.partition.unanswered_since() == again.decided_at
    driver.loading()
    driver.run(1)
    assert driver.partition.unanswered_since() == NEVER, "the Job spoke"


def test_a_worker_that_is_started_anew_still_knows_since_when_a_command_waits():
    """One in a crash loop would wait for no outcome longer than it lives."""
    driver, command = a_stuck_driver()
    stored = Stored()
    for changes in driver.taken:
        stored.store(changes)
    assert stored.restored().unanswered_since() == command.evidence.unhealthy_at


@pytest.mark.parametrize(("retry_after", "expected"), [(0.0, RETRY), (300.0, 300)])
def test_a_refused_command_is_sent_again_when_the_refusal_allows(retry_after, expected):
    driver, command = a_stuck_driver()
    driver.apply(an_outcome(command.id, at=driver.now, retry_after=retry_after))
    driver.run(expected - 1)
    assert driver.effects() == []
    driver.run(SLACK + 1)
    assert len(driver.effects()) == 1


def test_an_outcome_that_is_not_final_keeps_the_command_open():
    driver, command = a_stuck_driver()
    driver.apply(an_outcome(command.id, at=driver.now, final=False))
    driver.run(OUTCOME_DEADLINE - SLACK)
    assert driver.effects() == []
    driver.run(2 * SLACK)
    assert len(driver.effects()) == 1


def test_an_outcome_of_a_job_nobody_knows_does_no_harm():
    driver = Driver()
    driver.apply(an_outcome("c1", at=T0))
    driver.run(500)
    assert driver.effects() == []


# ---- a new incarnation


def restarted(driver, command, *, seconds=10.0, **changes):
    """Let the actuator's work show: the Job is deleted, then made again under its name."""
    driver.fact(resource_version=20, condition=Condition.DELETING)
    driver.run(seconds)
    driver.fact(
        **{
            "uid": "u2",
            "created_at": driver.now,
            "resource_version": 30,
            "pod": PodState.PENDING,
            "attempt": 1,
            "action_id": command.id,
            **changes,
        }
    )


def test_the_first_sign_of_life_of_a_restarted_job_is_told_once():
    driver, command = a_stuck_driver()
    restarted(driver, command)
    driver.fact(uid="u2", created_at=driver.now, resource_version=31, action_id=command.id)
    driver.effects()
    driver.run(3)
    driver.loading()
    driver.loading()
    assert driver.effects() == [Alive(key=JOB, uid="u2", at=driver.now)]


def test_a_restarted_job_that_spoke_before_its_fact_came_is_told_too():
    driver, command = a_stuck_driver()
    driver.run(2)
    driver.says(Kind.STARTED)
    driver.effects()
    driver.apply(
        Fact(a_fact(uid="u2", created_at=driver.now - 1, resource_version=30, action_id=command.id)),
    )
    assert Alive(key=JOB, uid="u2", at=driver.now) in driver.effects()


def test_a_late_report_of_the_old_incarnation_does_not_show_that_the_new_one_lives():
    driver, command = a_stuck_driver()
    restarted(driver, command)
    driver.effects()
    driver.loading(source_at=driver.now - 20)
    assert driver.effects() == []


def test_a_job_that_nobody_restarted_is_not_told_of():
    driver = a_driver()
    driver.loading()
    assert driver.effects() == []


@pytest.mark.parametrize("outcome_first", [True, False])
def test_the_outcome_and_the_new_incarnation_may_come_in_any_order(outcome_first):
    driver, command = a_stuck_driver()
    outcome = an_outcome(command.id, at=driver.now + 5, result="restarted", new_uid="u2", retry_after=900.0, attempt=1)
    if outcome_first:
        driver.apply(outcome)
        restarted(driver, command, pod=PodState.RUNNING)
    else:
        restarted(driver, command, pod=PodState.RUNNING)
        driver.apply(outcome)
    driver.effects()
    state = driver.state()
    assert (state.command_id, state.retry_at, state.outcome) == ("", NEVER, outcome)
    driver.run(STARTUP + SLACK)
    (again,) = driver.effects()
    assert (again.uid, again.verdict) == ("u2", "never_started")


def test_a_new_incarnation_that_is_sick_at_once_does_not_wait_for_the_old_ones_command():
    driver, command = a_stuck_driver()
    driver.fact(
        uid="u2",
        created_at=driver.now,
        resource_version=30,
        condition=Condition.FAILED,
        pod=PodState.ENDED,
    )
    driver.run(SLACK)
    (again,) = commands_of(driver.take())
    assert again.uid == "u2"
    assert again.id != command.id


def test_the_error_that_was_answered_by_a_restart_does_not_condemn_the_new_incarnation():
    """The API server's clock is ten seconds behind the broker's: the creation looks older than the error."""
    driver = a_driver()
    driver.loading()
    driver.run(20)
    driver.says(Kind.ERROR, finished=True)
    driver.says(Kind.FINISHED, finished=True)
    driver.run(SLACK)
    (command,) = driver.effects()
    restarted(driver, command, seconds=3, created_at=driver.now - 10, pod=PodState.RUNNING)
    driver.effects()
    driver.run(SLACK)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.STARTING


def test_late_words_of_the_old_incarnation_condemn_nobody():
    driver, command = a_stuck_driver()
    old = driver.now - 1
    restarted(driver, command, pod=PodState.RUNNING)
    driver.run(2)
    for kind in (Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED):
        driver.says(kind, source_at=old, finished=True)
    driver.effects()
    driver.run(10)
    assert driver.effects() == []
    assert driver.judgement().verdict is Verdict.STARTING


# ---- deletions, lists, forgetting


def test_a_job_that_a_list_does_not_hold_is_gone_and_never_judged():
    driver = a_driver()
    driver.loading()
    driver.apply(Snapshot(15, ()))
    driver.run(500)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.GONE


def test_a_list_from_before_a_job_was_created_does_not_take_it_away():
    driver = a_driver()
    driver.fact(resource_version=16)
    driver.apply(Snapshot(15, ()))
    assert driver.state().fact.condition is Condition.ACTIVE
    driver.run(STARTUP + SLACK)
    assert len(driver.effects()) == 1


def test_a_list_that_holds_the_job_leaves_it_alone_and_unknown_names_too():
    driver = a_driver()
    driver.loading(key="stf/stranger")
    driver.take()
    driver.apply(Snapshot(15, ((JOB, "u1"),)))
    assert driver.take().jobs == {}


def test_a_list_that_holds_a_new_incarnation_of_the_same_second_does_not_hide_it():
    driver = a_driver()
    driver.apply(Snapshot(15, ((JOB, "u2"),)))
    assert driver.state().fact.condition is Condition.GONE
    driver.fact(uid="u2", resource_version=12)
    assert driver.judgement().verdict is Verdict.STARTING


def test_a_job_made_again_under_an_earlier_date_is_judged_once_a_list_has_shown_it():
    """The clock of the API server was ahead; the worker that tells of it has not known the one before."""
    driver = Driver()
    driver.fact(uid="ahead", created_at=T0 + 3600)
    driver.run(10)
    for _ in range(2):  # a list
        driver.fact(uid="after", created_at=T0 + 8, resource_version=200)
        driver.apply(Snapshot(205, ((JOB, "after"),)))
    driver.run(STARTUP + SLACK)
    (command,) = commands_of(driver.take())
    assert command.uid == "after"


def test_a_job_that_is_gone_and_back_is_judged_from_when_it_is_back():
    driver = a_driver()
    driver.loading()
    driver.apply(Snapshot(15, ()))
    driver.run(100)
    driver.fact(resource_version=16)
    driver.run(SILENCE - 1)
    assert driver.effects() == []
    driver.run(SLACK + 1)
    assert len(driver.effects()) == 1


def test_a_job_that_has_been_gone_for_long_is_forgotten_with_its_record():
    driver = a_driver()
    driver.loading()
    driver.fact(resource_version=20, condition=Condition.GONE)
    driver.run(100)
    driver.take()
    driver.now += FORGET_GONE_SECONDS
    driver.run(1)
    assert driver.take().forgotten == (JOB,)
    assert driver.partition.jobs == {}
    assert +driver.partition.counts_by_verdict == {}


def test_a_job_that_came_back_and_went_again_is_kept_for_the_whole_time():
    driver = a_driver()
    driver.fact(resource_version=20, condition=Condition.GONE)
    driver.now += FORGET_GONE_SECONDS - 10
    driver.fact(uid="u2", created_at=driver.now, resource_version=30)
    driver.fact(uid="u2", created_at=driver.now, resource_version=31, condition=Condition.GONE)
    driver.run(100)
    assert JOB in driver.partition.jobs
    driver.now += FORGET_GONE_SECONDS
    driver.run(1)
    assert driver.partition.jobs == {}


def test_a_job_that_takes_an_hour_to_be_deleted_is_forgotten_an_hour_after():
    driver = a_driver()
    driver.fact(resource_version=20, condition=Condition.DELETING)
    driver.now += FORGET_GONE_SECONDS + 10
    driver.run(10)
    driver.fact(resource_version=21, condition=Condition.GONE)
    assert JOB in driver.partition.jobs
    driver.now += FORGET_GONE_SECONDS + 10
    driver.run(10)
    assert driver.partition.jobs == {}


def test_a_name_that_never_gets_a_fact_is_forgotten_once_nobody_speaks_of_it():
    driver = Driver()
    driver.loading(key="stf/ghost")
    driver.apply(an_outcome("c1", key="stf/phantom", at=T0))
    driver.now += FORGET_GONE_SECONDS - 10
    driver.loading(key="stf/ghost")
    driver.run(20)
    assert set(driver.partition.jobs) == {"stf/ghost"}
    driver.now += 2 * FORGET_GONE_SECONDS
    driver.run(20)
    assert driver.partition.jobs == {}
    assert set(driver.take().forgotten) == {"stf/ghost", "stf/phantom"}


def test_a_job_that_is_forgotten_and_heard_of_again_at_once_is_stored_not_removed():
    driver = a_driver()
    driver.fact(resource_version=20, condition=Condition.GONE)
    driver.run(1)
    driver.take()
    driver.now += FORGET_GONE_SECONDS
    driver.run(1)
    driver.fact(uid="u2", created_at=driver.now, resource_version=30)
    changes = driver.take()
    assert changes.forgotten == ()
    assert changes.jobs[JOB].fact.uid == "u2"


# ---- what is stored, and what comes of it after a crash


def test_a_report_that_changes_nothing_in_kind_is_not_stored():
    driver = a_driver()
    driver.loading()
    driver.take()
    stores = 0
    for _ in range(100):
        driver.run(0.125)
        driver.loading()
        stores += len(driver.take().jobs)
    assert stores <= 100 * 0.125 / (SILENCE / 10) + 2


def test_the_count_of_partitions_is_stored_with_the_first_event():
    partition = a_partition()
    partition.restore(None, [])
    meta = partition.take().meta
    assert (meta.partitions, meta.watermark) == (1, 0.0)


@pytest.mark.parametrize(
    "mark",
    [
        Mark(TOPIC, 2, ((0, T0 + 2),)),
        Mark(TOPIC, 1, (), (0,)),
        Mark("topic-2", 2, ((0, T0 + 2),)),
    ],
    ids=["a partition more", "an offset reset", "a topic made anew"],
)
def test_what_holds_the_watermark_back_or_makes_a_gap_survives_a_crash(mark):
    driver, stored = a_driver(), Stored()
    driver.apply(mark)
    assert driver.take().meta is not None
    stored.store(driver.take())
    driver.apply(mark)  # nothing new, so nothing to store
    assert driver.take().meta is None
    stored.meta = msgspec.msgpack.encode(driver.partition.meta())
    restored = stored.restored()
    for each in (a_mark(T0 + 3), a_mark(T0 + 3, topic_id="topic-2", partitions=2)):
        assert restored.apply(each, T0 + 3) == driver.partition.apply(each, T0 + 3)
    assert restored.meta() == driver.partition.meta()


def test_a_gap_that_lost_reports_is_one_after_a_crash_too():
    driver, stored = a_driver(), Stored()
    driver.run(9)
    driver.now += 1
    driver.apply(Mark(TOPIC, 1, ((0, driver.now),), (0,)))
    told_at = driver.now
    driver.run(9)
    stored.store(driver.take())
    restored = stored.restored().watermark
    assert restored.gaps.silence(T0 - 5, driver.now) == driver.now - told_at
    assert restored.lost_through == told_at


def test_a_job_is_not_judged_earlier_after_a_crash_for_reports_that_were_not_stored():
    driver, stored = a_driver(), Stored()
    driver.loading()
    stored.store(driver.take())
    driver.run(2)
    driver.loading()
    heard_at = driver.now
    stored.store(driver.take())
    driver.partition = stored.restored()
    driver.run(SILENCE - 1)
    assert driver.effects() == []
    driver.run(SLACK + SILENCE / 10)
    (command,) = driver.effects()
    assert heard_at + SILENCE < command.decided_at


def test_a_job_that_reported_before_its_fact_came_is_one_that_has_reported_after_a_crash_too():
    """Of two reports in one checkpoint the first may be of the incarnation before: its fact makes nothing of that."""
    driver, stored = Driver(), Stored()
    for _ in range(2):
        driver.run(1)
        driver.loading()
        stored.store(driver.take())
    driver.partition = stored.restored()
    driver.fact(created_at=T0 + 2)
    assert driver.judgement().rule is Rule.REPORTS
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    assert command.verdict == Verdict.STUCK


def test_an_error_answered_just_after_a_crash_is_answered_after_the_next_one_too():
    """Last-seen was restored as the end of its checkpoint: a report before that end is news all the same."""
    driver, stored = a_driver(), Stored()
    driver.run(2)
    driver.loading()
    driver.says(Kind.ERROR)
    stored.store(driver.take())
    driver.partition = stored.restored()
    driver.run(0.5)
    driver.loading()
    stored.store(driver.take())
    driver.partition = stored.restored()
    driver.run(GRACE + SLACK)
    assert driver.effects() == []


def test_a_sign_of_life_just_after_a_crash_withdraws_an_open_command():
    driver, stored = a_driver(), Stored()
    driver.run(2)
    driver.loading()
    driver.says(Kind.ERROR, finished=True)
    driver.run(3)
    driver.loading(source_at=T0 + 2, partition=1)  # older than the error; moves last-seen
    driver.run(SLACK)
    changes = driver.take()
    (command,) = changes.effects
    stored.store(changes)
    driver.partition = stored.restored()
    driver.run(0.5)
    driver.loading()
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="reports")]


def test_an_error_that_only_an_unstored_report_had_answered_is_given_its_whole_grace_after_a_crash():
    """Last-seen is stored once a checkpoint, and the source time of the reports between is lost with them.

    An `error` from a source partition that lags looks unanswered then; the next `loading` settles it.
    """
    driver, stored = a_driver(), Stored()
    driver.run(4)
    driver.loading()
    stored.store(driver.take())
    driver.run(2)
    driver.loading()
    stored.store(driver.take())
    driver.partition = stored.restored()
    driver.says(Kind.ERROR, source_at=driver.now - 1, partition=1)
    driver.run(GRACE - 1)
    driver.loading()
    driver.run(GRACE)
    assert driver.effects() == []


def test_a_crash_withdraws_no_command_for_a_job_that_stays_silent():
    """Were its last-seen moved to the end of the checkpoint now, it would look well again for a while."""
    driver, stored = a_driver(), Stored()
    driver.run(3.25)
    driver.loading()
    driver.run(SILENCE + 1)
    changes = driver.take()
    assert len(changes.effects) == 1
    stored.store(changes)
    driver.partition = stored.restored()
    driver.run(20)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.STUCK


def test_a_redelivered_word_is_known_after_a_crash_although_no_watermark_came_between():
    driver, stored = a_driver(), Stored()
    stored.store(driver.take())
    driver.apply(a_bundle(a_word(Kind.ERROR, T0 + 1, offset=10)))
    driver.run(0.5)
    driver.loading(partition=1)
    stored.store(driver.take())
    driver.partition = stored.restored()
    driver.run(5)
    # Its time is bounded anew, by a worker that has polled nothing yet: now it looks newer than the answer.
    driver.apply(a_bundle(a_word(Kind.ERROR, T0 + 3600, offset=10)))
    driver.run(GRACE + SLACK)
    assert driver.effects() == []
    assert driver.state().error_source == T0 + 1


def test_the_state_of_the_partition_itself_survives_its_own_bytes():
    driver = a_driver()
    driver.loading()
    driver.now += 60
    driver.run(3)
    meta = driver.partition.meta()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(meta), type=Meta) == meta
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(meta))[:8])
    assert msgspec.msgpack.decode(older, type=Meta) == meta


def test_a_restored_partition_counts_as_the_one_that_was_stored():
    driver, stored = Driver(), Stored()
    for number, condition in enumerate((Condition.ACTIVE, Condition.FAILED, Condition.GONE)):
        driver.fact(key=f"stf/job-{number}", condition=condition)
    driver.loading(key="stf/stranger")
    driver.run(SLACK)
    stored.store(driver.take())
    assert stored.restored().counts() == driver.partition.counts()
    restored = stored.restored()
    restored.apply(a_mark(driver.now + 2 * FORGET_GONE_SECONDS), driver.now + 2 * FORGET_GONE_SECONDS)
    assert set(restored.jobs) == {"stf/job-0", "stf/job-1"}


# ---- counts for admission


# ---- progress


def a_stepper():
    driver = Driver()
    driver.fact(target="stepper")
    driver.run(1)
    return driver


def loads(driver, records, *, times, every=5):
    for _ in range(times):
        driver.apply(a_bundle(a_beat(driver.now, offset=next(driver.offsets), records_written=records)))
        driver.run(every)


def test_a_job_that_reports_without_progress_is_commanded_once_and_spared_when_it_gets_on():
    driver = a_stepper()
    loads(driver, 100, times=12)
    assert driver.effects() == []
    loads(driver, 100, times=3)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.proof, command.attempts) == ("stalled", ProofKind.PROGRESS, 2)
    assert command.evidence.silence_seconds > command.evidence.threshold_seconds == 60
    loads(driver, 100, times=3)
    assert driver.effects() == []
    loads(driver, 101, times=1)
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="reports")]


def test_a_job_that_gets_on_is_not_commanded_however_rarely():
    driver = a_stepper()
    for records in range(10):
        loads(driver, records, times=1, every=35)
    assert driver.effects() == []


def test_a_stalled_job_is_found_after_a_crash_and_progress_that_was_not_stored_makes_it_late_not_early():
    driver = a_stepper()
    stored = Stored()
    loads(driver, 100, times=4)
    stored.store(driver.take())
    loads(driver, 101, times=1, every=1)  # in a checkpoint that is stored already, or the first of the next one
    progressed_at = driver.now - 1
    stored.store(driver.take())
    driver.partition = stored.restored()
    loads(driver, 101, times=14)
    (command,) = driver.effects()
    assert progressed_at + 60 < command.decided_at <= progressed_at + 60 + SLACK + 4


def test_beats_store_progress_once_a_checkpoint():
    driver = a_stepper()
    driver.take()
    stored = 0
    for records in range(40):  # ten checkpoints of four seconds
        loads(driver, records, times=1, every=1)
        stored += JOB in driver.take().jobs
    assert stored <= 12


# ---- idle consumers


def a_silent_consumer():
    """Make a partition that has just sent a command for a silent consumer; hands out the command too."""
    driver = Driver()
    driver.fact(target="consumer", pod_ip="10.0.0.1")
    driver.run(1)
    driver.loading()
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    return driver, command


def found_idle(driver, command):
    driver.apply(an_outcome(command.id, at=driver.now, reason="idle", retry_after=RETRY))


def a_consumer_after_an_error():
    """Make a partition that has just sent a command for a consumer that had a bad record; hands out the command too."""
    driver = Driver()
    driver.fact(target="consumer", pod_ip="10.0.0.1")
    driver.run(1)
    driver.loading()
    for _ in range(2):
        driver.run(10)
        driver.says(Kind.ERROR)
        driver.run(1)
        driver.loading()
    driver.says(Kind.ERROR)
    driver.run(SILENCE + SLACK)
    (command,) = driver.effects()
    return driver, command


def test_the_command_for_a_consumer_whose_error_nothing_followed_says_so():
    driver, command = a_consumer_after_an_error()
    assert (command.verdict, command.evidence.grace_over) == ("failed", True)
    assert (driver.partition.counts().unhealthy, driver.partition.counts().suspected) == (1, 1)
    driver.run(2 * Limits().idle_look_seconds)
    assert (driver.partition.counts().unhealthy, driver.partition.counts().suspected) == (1, 0)


def test_a_consumer_found_idle_after_an_error_is_idle_and_then_as_silent_as_any():
    driver, command = a_consumer_after_an_error()
    found_idle(driver, command)
    assert driver.judgement().verdict is Verdict.IDLE
    driver.run(SILENCE - 1)
    assert driver.effects() == []
    driver.run(SLACK)
    (again,) = driver.effects()
    assert (again.verdict, again.evidence.grace_over) == ("stuck", False)
    found_idle(driver, again)
    assert driver.judgement().verdict is Verdict.IDLE


def test_a_consumers_command_says_where_its_group_is_found():
    _, command = a_silent_consumer()
    assert (command.consumer, command.pod_ip) == (True, "10.0.0.1")
    assert command.kafka_topic == a_fact().kafka_topic
    _, other = a_stuck_driver()
    assert not other.consumer


def test_a_consumer_found_idle_is_idle_until_it_has_been_silent_for_its_threshold_again():
    driver, command = a_silent_consumer()
    found_idle(driver, command)
    assert driver.judgement().verdict is Verdict.IDLE
    driver.run(SILENCE)
    assert driver.effects() == []
    driver.run(SLACK)
    (again,) = driver.effects()
    assert (again.id, again.verdict) == (command.id, "stuck")
    found_idle(driver, again)
    assert driver.judgement().verdict is Verdict.IDLE


def test_an_idle_consumer_survives_a_restart_of_its_worker():
    driver, command = a_silent_consumer()
    found_idle(driver, command)
    stored = Stored()
    for changes in [*driver.taken, driver.take()]:
        stored.store(changes)
    restored = stored.restored()
    assert restored.judgement(restored.jobs[JOB]).verdict is Verdict.IDLE


def test_an_idle_consumer_is_counted_neither_well_nor_unhealthy():
    driver, command = a_silent_consumer()
    found_idle(driver, command)
    counts = driver.partition.counts()
    assert (counts.base, counts.unhealthy, counts.sick, counts.suspected) == (0, 0, 0, 0)


def test_a_silent_consumer_is_suspected_until_its_group_has_had_time_to_be_looked_at():
    driver, _ = a_silent_consumer()
    assert (driver.partition.counts().unhealthy, driver.partition.counts().suspected) == (1, 1)
    driver.run(2 * Limits().idle_look_seconds)
    assert (driver.partition.counts().unhealthy, driver.partition.counts().suspected) == (1, 0)


def test_a_silent_loader_and_a_consumer_that_says_error_are_suspected_of_nothing():
    driver, _ = a_stuck_driver()
    assert driver.partition.counts().suspected == 0
    driver = Driver()
    driver.fact(target="consumer")
    driver.run(1)
    driver.says(Kind.ERROR, finished=True)
    driver.run(SLACK)
    assert driver.judgement().verdict is Verdict.FAILED
    assert driver.partition.counts().suspected == 0


def test_the_new_incarnation_of_an_idle_job_is_judged_on_its_own():
    driver, command = a_silent_consumer()
    found_idle(driver, command)
    driver.fact(uid="u2", created_at=driver.now, resource_version=20, target="consumer")
    assert driver.state().idle_at == NEVER
    found_idle(driver, command)  # late, of the incarnation before
    assert driver.state().idle_at == NEVER


def test_the_fleet_is_counted_without_mute_ended_and_gone_jobs_and_with_those_being_restarted():
    driver = Driver()
    for number in range(6):
        driver.fact(key=f"stf/job-{number}")
    driver.fact(key="stf/mute", target="visualizer")
    driver.fact(key="stf/done", condition=Condition.COMPLETE)
    driver.fact(key="stf/job-0", resource_version=11, condition=Condition.FAILED)
    driver.run(SLACK)
    counts = driver.partition.counts()
    assert (counts.base, counts.unhealthy, counts.sick) == (6, 1, 1)
    assert counts.by_verdict == {"starting": 5, "failed": 1, "mute": 1, "completed": 1}
    driver.fact(key="stf/job-0", resource_version=12, condition=Condition.DELETING)
    counts = driver.partition.counts()
    assert (counts.base, counts.unhealthy, counts.sick) == (6, 1, 0)


def test_a_job_counts_as_turned_unhealthy_for_the_storm_window_only():
    driver = a_driver()
    driver.fact(resource_version=11, condition=Condition.FAILED)
    driver.run(SLACK)
    assert driver.partition.counts().unhealthy == 1
    driver.now += 600
    driver.run(10)
    counts = driver.partition.counts()
    assert (counts.unhealthy, counts.sick, counts.base) == (0, 1, 1)


def test_verdicts_that_are_news_are_handed_out_once():
    driver, _ = a_stuck_driver()
    (judged,) = [changes.judged for changes in driver.taken]
    assert [judgement.verdict for _, judgement in judged][-1] is Verdict.STUCK
    assert driver.take().judged == ()


def test_a_view_judges_a_job_that_has_just_spoken_as_of_its_report():
    driver = a_driver()
    driver.loading()
    driver.run(SILENCE + SLACK)
    driver.now += 5
    driver.loading()
    assert driver.judgement().verdict is Verdict.HEALTHY
    assert driver.judgement().silence == 0.0


# ---- any log at all

KEYS = ("stf/a", "stf/b", "stf/c")
TARGETS = {"stf/a": "loader", "stf/b": "consumer", "stf/c": "new", "stf/d": "literal"}


class World:
    """Writes logs that could have come about: append time moves on, offsets grow, marks tell the truth.

    Within one Job reports come in order of their source times, as from one process whose source partitions
    are read in step; `late` ones (of an old incarnation, or redelivered) come among them.
    """

    def __init__(self):
        self.now = T0
        self.offsets = {0: itertools.count(), 1: itertools.count()}
        self.versions = itertools.count(10)
        self.uids = itertools.count(1)
        self.facts = {}
        self.bundles = []
        self.commands = []
        self.log = [(a_mark(T0, partitions=2), T0)]

    def append(self, evidence):
        self.log.append((evidence, self.now))

    def step(self, what, number, seconds):
        key = KEYS[number % len(KEYS)]
        self.now += seconds / 8
        getattr(self, what)(key, number)

    def fact(self, key, **changes):
        known = self.facts.get(key) or a_fact(
            key, uid=f"u{next(self.uids)}", created_at=float(int(self.now)), target=TARGETS[key]
        )
        self.facts[key] = msgspec.structs.replace(known, resource_version=next(self.versions), **changes)
        self.append(Fact(self.facts[key]))

    def runs(self, key, _number):
        self.fact(key, pod=PodState.RUNNING, condition=Condition.ACTIVE)

    def waits(self, key, number):
        self.fact(key, pod=(PodState.PENDING, PodState.ENDED, PodState.NONE)[number % 3])

    def changes(self, key, number):
        self.fact(key, condition=(Condition.COMPLETE, Condition.FAILED, Condition.SUSPENDED)[number % 3])

    def vanishes(self, key, _number):
        self.fact(key, condition=Condition.GONE, pod=PodState.NONE)

    def is_made_again(self, key, number):
        known = self.facts.get(key)
        if known is None:
            return
        created_at = known.created_at if number % 7 == 0 else max(float(int(self.now)), known.created_at)
        self.facts[key] = msgspec.structs.replace(
            known, uid=f"u{next(self.uids)}", created_at=created_at, action_id="c1" if number % 2 else ""
        )
        self.runs(key, number)

    def late_fact(self, key, number):
        old = [entry for entry, _ in self.log if isinstance(entry, Fact) and entry.fact.key == key]
        if old:
            self.append(old[number % len(old)])

    def is_listed(self, _key, number):
        """Take a list, now or a while ago, of which some Jobs may be missing."""
        present = [fact for fact in self.facts.values() if number % 5 or fact.key != KEYS[0]]
        version = next(self.versions) - (number % 3)
        self.append(Snapshot(version, tuple((fact.key, fact.uid) for fact in present)))

    def said(self, key, number, kind, skew=0.0):
        partition = number % 2
        offset = next(self.offsets[partition])
        source_at = self.now - (number % 4) / 8 + skew
        if kind is Kind.LOADING:
            said = Beat(key, source_at, offset, number)
        else:
            said = Word(key, kind, source_at, offset, finished=number % 5 == 0, detail="")
        bundle = a_bundle(said, partition=partition)
        self.bundles.append(bundle)
        self.append(bundle)

    def loads(self, key, number):
        self.said(key, number, Kind.LOADING)

    def starts(self, key, number):
        self.said(key, number, Kind.STARTED)

    def errs(self, key, number):
        self.said(key, number, Kind.ERROR)

    def ends(self, key, number):
        self.said(key, number, (Kind.FINISHED, Kind.INTERRUPTED)[number % 2])

    def speaks_with_a_fast_clock(self, key, number):
        self.said(key, number, (Kind.LOADING, Kind.ERROR)[number % 2], skew=3600.0)

    def speaks_with_a_slow_clock(self, key, number):
        self.said(key, number, Kind.LOADING, skew=-3600.0)

    def is_redelivered(self, _key, number):
        if self.bundles:
            self.append(self.bundles[number % len(self.bundles)])

    def is_told_to_stop(self, key, number):
        self.append(Hold(key, HoldCause.STOP_COMMAND, number % 2, number, self.now))

    def is_answered(self, key, number):
        """An outcome of some command for this Job; which one, the run that reads the log knows."""
        self.append(
            OutcomeSeen(
                key,
                "the open one" if number % 4 else "another",
                self.facts[key].uid if key in self.facts and number % 3 else "u0",
                "refused",
                "backoff",
                self.now,
                float(number % 50),
                0,
                final=number % 5 != 0,
            )
        )

    def is_marked(self, _key, _number):
        self.append(a_mark(self.now, partitions=2))

    def is_marked_in_part(self, _key, number):
        reset = (number % 2,) if number % 11 == 0 else ()
        self.append(Mark(TOPIC, 2, ((number % 2, self.now - 0.5),), reset))

    def time_passes_quietly(self, _key, number):
        for _ in range(number % 12):
            self.now += 4
            self.append(a_mark(self.now, partitions=2))

    def feed_is_silent(self, _key, _number):
        self.now += 20
        self.append(a_mark(self.now, partitions=2))


STEPS = [name for name in vars(World) if not name.startswith("_") and name not in {"append", "step", "fact", "said"}]
# What makes verdicts is drawn more often than what disturbs them.
WEIGHTED = [*STEPS, *["loads", "runs", "is_marked", "time_passes_quietly"] * 3, "errs", "starts"]
LOGS = st.lists(st.tuples(st.sampled_from(WEIGHTED), st.integers(0, 100), st.integers(0, 40)), min_size=5, max_size=60)


def written(steps):
    world = World()
    for key in KEYS:
        world.runs(key, 0)
    for what, number, seconds in steps:
        world.step(what, number, seconds)
    world.time_passes_quietly("", 11)
    world.time_passes_quietly("", 11)
    return world.log


def answered(partition, evidence):
    """Let an outcome answer the command that is open, as the actuator's does."""
    if isinstance(evidence, OutcomeSeen) and evidence.command_id == "the open one":
        state = partition.jobs.get(evidence.key)
        return msgspec.structs.replace(evidence, command_id=state.command_id if state else "")
    return evidence


def check_calendar(partition):
    """No Job is lost: who can change by time alone waits for it, who is sick waits or has been commanded."""
    for state in partition.jobs.values():
        assert (state.command_id != "") <= (state.command_deadline != NEVER)
        if state.fact is None:
            continue
        now = max(partition.watermark.value, partition.last_at)  # evidence is judged as of its append time
        judgement = judge(state, now, partition.policy_of(state), partition.watermark.gaps)
        if not judgement.restartable and judgement.look_at == NO_LOOK:
            continue
        if judgement.verdict is Verdict.STARTING and state.verdict == Verdict.NOT_RUNNING:
            continue  # a feed gap came after people were told; nothing is acted upon
        assert state.window != NO_WINDOW
        due_at = now if judgement.restartable else judgement.look_at
        has_command = state.command_id and state.command_uid == state.fact.uid
        deadline = state.command_deadline if has_command else NEVER
        assert state.window * WINDOW_SECONDS <= max(due_at, deadline, state.retry_at)


def check_counts(partition):
    by_verdict = {}
    for state in partition.jobs.values():
        by_verdict[str(state.verdict)] = by_verdict.get(str(state.verdict), 0) + 1
    assert {str(k): v for k, v in (+partition.counts_by_verdict).items()} == by_verdict


@given(LOGS)
def test_no_log_makes_the_sweep_lose_a_job(steps):
    partition = a_partition()
    for evidence, at in written(steps):
        partition.apply(answered(partition, evidence), at)
        check_calendar(partition)
        check_counts(partition)


@given(LOGS)
def test_no_log_makes_a_command_for_a_job_that_must_not_be_touched_or_a_silence_that_was_none(steps):
    partition, heard, runs_since = a_partition(), {}, {}
    commanded = {}
    for evidence, at in written(steps):
        partition.apply(answered(partition, evidence), at)
        if isinstance(evidence, Bundle):
            for said in evidence.beats:
                heard[said.key] = max(heard.get(said.key, 0.0), at)
        if isinstance(evidence, Fact) and evidence.fact.pod is PodState.RUNNING:
            runs_since.setdefault((evidence.fact.key, evidence.fact.uid), at)
        for effect in partition.take().effects:
            if not isinstance(effect, Command):
                continue
            fact = partition.jobs[effect.key].fact
            assert fact.uid == effect.uid
            assert fact.managed
            assert fact.condition not in {Condition.GONE, Condition.DELETING, Condition.SUSPENDED}
            assert effect.decided_at == partition.watermark.value
            if effect.verdict in {"stuck", "never_started"}:
                last = max(partition.jobs[effect.key].life_at, runs_since[effect.key, effect.uid])
                assert partition.watermark.value - last > effect.evidence.threshold_seconds
            before = commanded.get((effect.key, effect.uid), -1e9)
            assert effect.decided_at > before
            commanded[effect.key, effect.uid] = effect.decided_at


@given(LOGS)
def test_a_log_replayed_gives_the_same_commands_in_the_same_order_and_the_same_changelog(steps):
    runs = []
    for _ in range(2):
        partition, changes = a_partition(), []
        for evidence, at in written(steps):
            partition.apply(answered(partition, evidence), at)
            taken = partition.take()
            changes.append((list(taken.jobs.items()), taken.forgotten, taken.meta, taken.effects))
        runs.append(changes)
    assert runs[0] == runs[1]


@contextmanager
def folding_by(fold):
    """Have `fold` in the place of fold_beat_of_well; gives what it answered."""
    answers = []

    def answering(*told):
        answers.append(fold(*told))
        return answers[-1]

    with mock.patch.object(partition_module, "fold_beat_of_well", answering):
        yield answers


#: What may be odd about a Job that is well: restarted, sick, told of, heard by another clock.
ODDITIES = {
    "verdict": ["healthy", "stuck", "starting"],
    "started_source": [T0 + 4, T0 + 7],
    "error_source": [T0 + 1, T0 + 4, T0 + 7],
    "command_id": ["c1"],
    "window": [NO_WINDOW],
    "loading_at": [T0 + 1, T0 + 4, T0 + 7, T0 + 8],
    "loading_source": [T0 + 1, T0 + 6, T0 + 7],
    "progress_at": [NEVER, T0 + 1, T0 + 4.5],
    "fact": [a_fact(action_id="a1"), a_fact(target="learner"), a_fact(target="stepper")],
    "alive_uid": ["u1", "u0"],
    "doubtful_life_at": [T0 + 5],
}
BEATS = [
    Beat(JOB, source_at, offset, records_written, said_at)
    for source_at in (T0 + 4, T0 + 6, T0 + 6.5, T0 + 9)
    for offset in (0, 5)
    for records_written in (-1, 100, 200)
    for said_at in (None, T0 - 3600)
]


def folded(state, beat, marked_at, policies):
    """Fold a report, appended at 6.5 s, of a Job; what came of it."""
    partition = Partition(0, partitions=1, policies=policies, window_seconds=5.0, feed_gap_seconds=15.0)
    partition.jobs[JOB] = state
    partition.counts_by_verdict[state.verdict] += 1
    partition.watermark.topic_id, partition.watermark.marks = TOPIC, {0: marked_at}
    partition.apply(a_bundle(beat), T0 + 6.5)
    return partition.take(), state


@pytest.mark.parametrize("field", ODDITIES)
def test_the_short_way_to_fold_a_sign_of_life_comes_to_what_the_long_way_comes_to(field):
    policies = parse(POLICY)
    heard = {  # in the checkpoint from 4 to 8 s
        "seen_at": T0,
        "loading_at": T0 + 5,
        "loading_source": T0 + 5,
        "progress_at": T0 + 5,
        "records_written": 100,
        "source_partition": 1,
        "source_offset": 4,
        "verdict": "healthy",
        "window": 9,
    }
    for value, beat, marked_at in itertools.product(ODDITIES[field], BEATS, (NEVER, T0 + 5, T0 + 6.25)):
        short = folded(a_state(**(heard | {field: value})), beat, marked_at, policies)
        with folding_by(lambda *_: None):
            long = folded(a_state(**(heard | {field: value})), beat, marked_at, policies)
        assert short == long, (value, beat, marked_at)


def test_of_a_job_that_is_well_all_reports_but_the_first_of_a_checkpoint_take_the_short_way():
    driver = Driver()
    driver.fact()
    driver.loading()
    checkpoint_seconds = round(driver.partition.policies.checkpoint_seconds)
    with folding_by(fold_beat_of_well) as answers:
        for _ in range(5 * checkpoint_seconds):
            driver.run(1)
            driver.loading()
    assert answers.count(1.0) == len(answers) - 5


@given(LOGS, st.integers(1, 7))
def test_it_makes_no_difference_how_many_records_are_taken_at_once(steps, size):
    """The agent takes after each fetched batch; which records share one is chance."""
    runs = []
    for batch in (1, size):
        partition, effects, stored = a_partition(), [], Stored()
        for number, (evidence, at) in enumerate(written(steps), start=1):
            partition.apply(answered(partition, evidence), at)
            if number % batch == 0:
                changes = partition.take()
                effects += changes.effects
                stored.store(changes)
        changes = partition.take()
        effects += changes.effects
        stored.store(changes)
        runs.append((effects, {key: msgspec.msgpack.decode(value) for key, value in stored.jobs.items()}))
    (effects, jobs), (other_effects, other_jobs) = runs
    assert effects == other_effects
    assert jobs.keys() == other_jobs.keys()


def verdicts_of(partition):
    """Who is restartable now, and the verdict; what a view and the next sweep would say."""
    found = {}
    for state in partition.jobs.values():
        judgement = partition.judgement(state)
        if judgement.restartable:
            found[state.key, state.fact.uid] = judgement.verdict
    return found


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(LOGS, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3)), max_size=4), st.integers(1, 5))
def test_a_crash_at_any_point_makes_no_verdict_that_would_not_have_been_given(steps, crashes, size):
    """Records are applied in batches; a crash comes after a batch, with its changes stored in part or not at all.

    Then the state is restored and the batch is read again. At every moment the run with crashes finds no Job
    sick that the run without does not; and within a checkpoint it finds every one.
    """
    log = written(steps)
    batches = [log[start : start + size] for start in range(0, len(log), size)]
    crash_at = {number % len(batches): kept for number, kept in crashes}
    smooth, rough, stored = a_partition(), a_partition(), Stored()
    answers, commanded = a_partition(), []  # one answer for both runs: what the smooth one asked
    for number, batch in enumerate(batches):
        concrete = []
        for evidence, at in batch:
            entry = answered(answers, evidence)
            answers.apply(entry, at)
            concrete.append((entry, at))
        for entry, at in concrete:
            smooth.apply(entry, at)
        for entry, at in concrete:
            rough.apply(entry, at)
        if number in crash_at:
            stored.store(rough.take(), only_first=crash_at[number])
            rough = stored.restored()
            for entry, at in concrete:
                rough.apply(entry, at)
        changes = rough.take()
        commanded += commands_of(changes)
        stored.store(changes)
        if number in crash_at:
            rough = stored.restored()
        sick, wrongly = verdicts_of(smooth), verdicts_of(rough)
        assert wrongly.keys() <= sick.keys(), (number, wrongly, sick)
        check_calendar(rough)
        check_counts(rough)
    assert smooth.watermark.value == rough.watermark.value


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(LOGS, st.lists(st.integers(0, 200), max_size=3))
def test_a_sick_job_is_found_in_spite_of_crashes(steps, crashes):
    """After the log there are only marks: whoever is sick without crashes is found with them, a checkpoint later."""
    smooth, rough, stored = a_partition(), a_partition(), Stored()
    log = written(steps)
    for number, (evidence, at) in enumerate(log):
        entry = answered(smooth, evidence)
        smooth.apply(entry, at)
        rough.apply(entry, at)
        if number in {crash % len(log) for crash in crashes}:
            stored.store(rough.take())
            rough = stored.restored()
            stored.store(rough.take())
    now = log[-1][1]
    smooth.take()
    rough.take()
    found = {"smooth": set(), "rough": set()}
    for _ in range(30):  # longer than every threshold, deadline and retry_after above
        now += 8
        for name, partition in (("smooth", smooth), ("rough", rough)):
            partition.apply(a_mark(now, partitions=2), now)
            found[name] |= {(command.key, command.uid) for command in commands_of(partition.take())}
    assert found["smooth"] == found["rough"]
    for partition in (smooth, rough):
        for state in partition.jobs.values():
            if state.fact is not None and partition.judgement(state).restartable:
                assert state.command_id or (state.key, state.fact.uid) in found["smooth"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 300), st.integers(0, 1)), max_size=30))
def test_beats_alone_never_cost_more_than_one_look_a_threshold(beats):
    driver = Driver()
    for key in KEYS:
        driver.fact(key=key)
    driver.take()
    for key, eighths, partition in beats:
        driver.run(eighths / 80)
        driver.loading(key=key, partition=partition)
    elapsed = driver.now - T0
    assert driver.take().swept <= len(KEYS) * (elapsed / (SILENCE - WINDOW_SECONDS) + 2)


def test_the_state_of_a_job_is_a_plain_record():
    assert JobState(JOB).verdict == Verdict.UNKNOWN
    assert frozenset({"stuck", "never_started", "failed", "stalled"}) == RESTARTABLE


# ---- other policies while it runs

#: As strategies.POLICY, but for the thresholds of who has no policy of its own.
LONGER = POLICY.replace("silence_threshold_seconds = 40", "silence_threshold_seconds = 400").replace(
    "stall_threshold_seconds = 60", "stall_threshold_seconds = 600"
)
SHORTER = POLICY.replace("silence_threshold_seconds = 40", "silence_threshold_seconds = 20")
EXEMPT = POLICY.replace('targets = ["loader"]\n', 'targets = ["loader"]\nexempt = true\n')


def change_policies(driver, text):
    return list(driver.partition.change_policies(parse(text)))


def test_a_job_that_is_silent_for_too_long_by_other_policies_is_found_by_the_next_sweep():
    driver = a_driver()
    driver.loading()
    driver.run(30)
    assert driver.effects() == []
    change_policies(driver, SHORTER)
    driver.run(SLACK)
    (command,) = driver.effects()
    assert (command.verdict, command.evidence.threshold_seconds) == ("stuck", 20.0)


def test_a_job_that_is_well_by_other_policies_has_its_command_withdrawn_at_once():
    driver, command = a_stuck_driver()
    change_policies(driver, LONGER)
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="reports")]
    driver.run(400)
    (command,) = driver.effects()
    assert command.evidence.threshold_seconds == 400.0


def test_a_job_that_is_exempt_by_other_policies_is_left_alone():
    driver, command = a_stuck_driver()
    change_policies(driver, EXEMPT)
    assert driver.effects() == [Withdraw(id=command.id, key=JOB, reason="exempt_by_policy")]
    driver.run(1000)
    assert driver.effects() == []
    assert driver.state().verdict == Verdict.EXEMPT


def test_policies_that_change_nothing_for_a_job_change_nothing():
    driver, _ = a_stuck_driver()
    driver.take()
    before = with_fields(driver.state(), window=NO_WINDOW)
    assert change_policies(driver, POLICY + "# a comment\n") == [1]
    changes = driver.take()
    assert (changes.effects, changes.jobs, changes.judged) == ((), {}, ())
    assert with_fields(driver.state(), window=NO_WINDOW) == before


def test_a_refused_job_is_asked_about_again_soon_when_the_limits_are_other_ones():
    driver, command = a_stuck_driver()
    driver.apply(
        an_outcome(command.id, at=driver.now, uid=command.uid, result="refused", reason="rate", retry_after=600.0)
    )
    driver.run(RETRY + SLACK)
    assert driver.effects() == []
    change_policies(driver, POLICY + "\n[admission]\nrate_per_minute = 60\n")
    driver.run(RETRY + SLACK)
    (again,) = driver.effects()
    assert again.id == command.id


def test_jobs_are_judged_anew_in_steps_and_what_comes_between_them_counts():
    driver = Driver()
    keys = [f"stf/job-{number}" for number in range(JUDGED_IN_A_STEP + 1)]
    for key in keys:
        driver.fact(key=key)
    driver.run(1)
    driver.take()
    steps = driver.partition.change_policies(parse(EXEMPT))
    assert next(steps) == JUDGED_IN_A_STEP
    driver.fact(key="stf/job-new")
    assert list(steps) == [JUDGED_IN_A_STEP + 1]
    assert {driver.state(key).verdict for key in (*keys, "stf/job-new")} == {Verdict.EXEMPT}


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "at a restart"])
@pytest.mark.parametrize("other", [LONGER, SHORTER.replace("= 20", "= 30")], ids=["longer", "shorter, no divisor"])
def test_a_checkpoint_of_another_length_makes_no_job_look_more_silent_after_a_crash(restarted, other):
    """What was stored ended a checkpoint of the old length; in one of the new length later reports are kept back."""
    driver, stored = a_driver(), Stored()
    driver.loading()  # T0 + 1: stored as the end of a checkpoint of 4 s
    stored.store(driver.take())
    if restarted:
        driver.partition = stored.restored(other)
    else:
        change_policies(driver, other)
    for _ in range(20):
        driver.run(1)
        driver.loading()
        stored.store(driver.take())
        assert stored.restored(other).jobs[JOB].loading_at >= driver.now


def test_a_checkpoint_of_another_length_makes_no_progress_look_older_after_a_crash():
    steppers = POLICY.replace("stall_threshold_seconds = 60", "stall_threshold_seconds = 600")
    other = steppers.replace("silence_threshold_seconds = 40", "silence_threshold_seconds = 400")
    driver, stored = Driver(), Stored()
    driver.fact(target="stepper")
    driver.apply(a_bundle(a_beat(T0 + 1, offset=1, records_written=1)), at=T0 + 1)
    stored.store(driver.take())
    change_policies(driver, other)
    for written in range(2, 20):
        driver.now += 1
        driver.apply(a_bundle(a_beat(driver.now, offset=written, records_written=written)))
        stored.store(driver.take())
        assert stored.restored(other).jobs[JOB].progress_at >= driver.now


def test_after_a_change_of_the_checkpoint_each_job_is_stored_once_more_and_then_as_seldom_as_ever():
    driver = a_driver()
    driver.loading()
    driver.take()
    change_policies(driver, LONGER)
    stores = 0
    for _ in range(30):
        driver.run(1)
        driver.loading()
        stores += len(driver.take().jobs)
    assert stores <= 30 / parse(LONGER).checkpoint_seconds + 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["loading", "crash", "gap"]),
            st.sampled_from([POLICY, LONGER, SHORTER, EXEMPT]),
            st.integers(1, 45),
        ),
        max_size=40,
    )
)
def test_no_change_of_policies_and_no_crash_makes_a_job_look_more_silent_than_it_is(story):
    """Whatever happens in whichever order, a command rests on a silence that there was, by the threshold that held."""
    driver, stored, text = a_driver(), Stored(), POLICY
    stored.store(driver.take())
    heard_at = None
    for happens in story:
        if happens == "loading":
            driver.loading()
            heard_at = driver.now
        elif happens == "crash":
            driver.partition = stored.restored(text)
        elif happens == "gap":
            driver.now += 60
            driver.run(1)
        elif isinstance(happens, int):
            driver.run(happens)
        else:
            text = happens
            change_policies(driver, text)
        changes = driver.take()
        stored.store(changes)
        for command in commands_of(changes):
            silence = command.decided_at - (heard_at or T0)
            assert silence > command.evidence.threshold_seconds - 1e-6
            assert command.evidence.threshold_seconds in {20.0, 40.0, 400.0, float(STARTUP)}
