"""The fold of the steps log: admission, actions and ledger together, with crashes between any two steps."""

import copy
import random

import msgspec
import pytest

from sf_healer.core import actions, actuator, steps
from sf_healer.core.actions import (
    CALL_SECONDS,
    FENCE_SECONDS,
    State,
    answer_to,
    manifest_to_create,
    resource_version_to_delete,
)
from sf_healer.core.actuator import LEDGER_KEY, Actuator, decode_job_record, decode_ledger, shown
from sf_healer.core.admission import reserve
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Grounds,
    Outcome,
    Pause,
    Resolve,
    Result,
    Resume,
    Unreadable,
    Withdraw,
)
from sf_healer.core.evidence import UnknownSchema
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.groups import GroupLook
from sf_healer.core.manifest import sanitize
from sf_healer.core.policy import Limits
from sf_healer.core.steps import (
    Admitted,
    Announced,
    FleetCounts,
    GroupLooked,
    LimitsChanged,
    Resulted,
    Seen,
    Settled,
    Step,
    StepResult,
    StillSick,
    Tick,
    What,
)
from sf_healer.views.admission import build_admission

START = 1_000_000.0


def a_command(name="a", uid="u-a", **changes):
    known = {
        "id": f"c-{name}-{uid}",
        "key": f"stf/{name}",
        "namespace": "stf",
        "name": name,
        "uid": uid,
        "verdict": "stuck",
        "evidence": Grounds(unhealthy_at=START),
        "decided_at": START,
        "expires_at": START + 60.0,
        "target": "loader-producer",
        "queue_id": "q1",
    }
    return Command(**{**known, **changes})


def counts(at=START, *, base=100, unhealthy=1, sick=1, partition=0, partitions=1):
    return FleetCounts(partition=partition, partitions=partitions, at=at, base=base, unhealthy=unhealthy, sick=sick)


class Log:
    """A steps log in memory with one actuator that reads it; sends come back in order."""

    def __init__(self, **options):
        known = {"worker": "w1", "limits": Limits(), "observe_only": False}
        self.options = {**known, **options}
        self.actuator = Actuator(**self.options)
        self.now = START
        self.records = []
        self.read = 0
        self.table = {}
        self.outcomes = []
        self.tasks = []
        self.looks = []

    def append(self, *records):
        self.records += [(record, self.now) for record in records]
        return self

    def drain(self):
        while self.read < len(self.records):
            record, at = self.records[self.read]
            effects = self.actuator.apply(record, self.read, at)
            self.outcomes += effects.outcomes
            self.append(*effects.sends)
            if effects.write is not None:
                key, value = effects.write
                self.table.pop(key, None) if value is None else self.table.update({key: value})
            self.tasks += effects.tasks
            self.looks += effects.looks
            self.read += 1
        return self

    def tick(self, seconds=1.0):
        self.now += seconds
        return self.append(Tick(worker="w1")).drain()

    def answer(self, result):
        while not self.tasks:
            self.tick()
        task = self.tasks.pop(0)
        return self.append(answer_to(task.action, task.step, result)).drain()

    def restart(self, *, log_end=None):
        self.actuator = Actuator(**self.options)
        self.actuator.restore(self.table.items(), log_end=log_end)
        return self

    @property
    def ledger(self):
        return self.actuator.ledger

    def heal(self, name="a", uid="u-a", new_uid="n-a"):
        """Take one command through to a verified restart."""
        evidence = Grounds(unhealthy_at=self.now)
        command = a_command(name, uid, decided_at=self.now, expires_at=self.now + 60, evidence=evidence)
        self.append(counts(self.now), command).drain()
        for result in (found(uid), DONE, ABSENT, StepResult(What.DONE, uid=new_uid)):
            self.answer(result)
        self.append(Alive(key=f"stf/{name}", uid=new_uid, at=self.now)).drain()
        self.tasks.clear()  # a look at what is settled meanwhile
        return self


def found(uid, **more):
    return StepResult(What.FOUND, uid=uid, resource_version="5", manifest={"spec": {"x": uid}}, **more)


DONE = StepResult(What.DONE)
ABSENT = StepResult(What.ABSENT)
REFUSED = StepResult(What.REFUSED, status=422, message="invalid")


# ---- a create that was refused

REFUSED_RESTORE = StepResult(What.REFUSED, status=403, message="denied by a policy")


def with_a_refused_create(*others):
    """A log on which Job `a` was deleted and its create refused; commands of others were admitted before."""
    log = Log(limits=Limits(in_flight=8, rate_burst=8)).append(counts())
    log.actuator.ledger = msgspec.structs.replace(log.ledger, window=8)
    log.append(a_command(), *others).drain()
    of_others = [task for task in log.tasks if task.action.command.name != "a"]
    log.tasks = [task for task in log.tasks if task.action.command.name == "a"]
    for result in (found("u-a"), DONE, ABSENT, REFUSED_RESTORE):
        log.answer(result)
    assert log.actuator.open_actions()["stf/a"].state is State.RESTORING
    log.tasks += of_others
    return log


def asked_for(log, name):
    """Ask for another restart now; return why it is refused, "" if it is not."""
    evidence = Grounds(unhealthy_at=log.now)
    told = len(log.outcomes)
    command = a_command(name, f"u-{name}-{log.now}", decided_at=log.now, expires_at=log.now + 60.0, evidence=evidence)
    log.append(counts(log.now), command).drain()
    return next((each.reason for each in log.outcomes[told:] if each.command_id == command.id), "")


def test_while_a_refused_create_is_open_no_other_restart_is_admitted_and_the_refusal_says_of_whom():
    log = with_a_refused_create()
    assert asked_for(log, "b") == "creates_refused"
    assert log.outcomes[-1].detail == "stf/a: denied by a policy"
    assert asked_for(log.restart(), "c") == "creates_refused"
    shown = build_admission(log.actuator)
    assert (shown["restarts_held_by"]["reason"], shown["restarts_allowed_now"]) == ("creates_refused", 0)
    assert shown["restarts_held_by"]["detail"] == "stf/a: denied by a policy"


def test_once_the_refused_job_is_put_back_restarts_go_on():
    log = with_a_refused_create()
    log.answer(StepResult(What.DONE, uid="n-a"))
    assert asked_for(log, "b") == ""


def test_once_a_person_has_resolved_it_restarts_go_on():
    log = with_a_refused_create()
    log.append(Resolve(key="stf/a", action_id=a_command().id, decision=Decision.ABANDON, by="ada")).drain()
    assert asked_for(log, "b") == ""


def test_one_job_that_nobody_sees_to_does_not_hold_the_others_for_longer_than_an_hour():
    log = with_a_refused_create()
    since = log.now
    while log.actuator.open_actions()["stf/a"].state is not State.STRANDED:
        log.answer(REFUSED_RESTORE)
    log.tick(since + 3599.0 - log.now)
    assert asked_for(log, "b") == "creates_refused"
    log.tick(2.0)
    assert asked_for(log, "c") == ""


def test_a_restart_that_was_admitted_before_another_create_was_refused_deletes_nothing():
    log = with_a_refused_create(a_command("b", "u-b"))
    (look,) = [task for task in log.tasks if task.action.command.name == "b"]
    log.tasks = [task for task in log.tasks if task.action.command.name == "a"]
    log.append(answer_to(look.action, look.step, found("u-b"))).drain()
    refused = [each for each in log.outcomes if each.key == "stf/b"]
    assert [(each.result, each.reason, each.attempt) for each in refused] == [(Result.REFUSED, "creates_refused", 0)]
    assert all(task.action.command.name == "a" for task in log.tasks)


def test_a_command_becomes_an_action_once_the_fleet_is_counted():
    log = Log().append(a_command()).drain()
    assert log.ledger.held == (a_command(),)
    assert not log.outcomes
    log.append(counts(START - 1.0)).drain()  # counted before this Job turned unhealthy
    assert log.ledger.held
    log.append(counts(START)).drain()
    assert not log.ledger.held
    assert [task.step for task in log.tasks] == [Step.OBSERVE]
    assert [type(record) for record, _ in log.records[3:]] == [Admitted, Announced]


def test_an_admission_by_a_worker_that_was_paused_opens_nothing():
    """Whoever has read the log since took no slot for it, or has given it back. Found by the simulation."""
    log = Log().append(counts(), Admitted(command=a_command("a"), observe_only=False)).drain()
    assert log.actuator.open_actions() == {}
    assert not log.tasks


# ---- idle or stuck

DRAINED = GroupLook(group="g", members=1, committed=10)
BEHIND = GroupLook(group="g", members=1, committed=10, lag=5)
WORKING = GroupLook(group="g", members=1, committed=11, lag=4)
NO_RIGHTS = GroupLook(unknown="no rights")


def a_silent_consumer(name="a", **changes):
    return a_command(name, consumer=True, kafka_topic="q1", pod_ip="10.0.0.1", **changes)


def see(log, look):
    """Answer the look that is under way."""
    (asked,) = log.looks
    log.looks.clear()
    return log.append(GroupLooked(key=asked.command.key, command_id=asked.command.id, seq=asked.seq, look=look)).drain()


def consumer_log(**options):
    return Log(**options).append(counts(), a_silent_consumer()).drain()


def test_a_silent_consumer_is_held_until_its_group_was_looked_at():
    log = consumer_log()
    assert [look.command for look in log.looks] == [a_silent_consumer()]
    assert not log.tasks
    assert not log.outcomes
    see(log, DRAINED)
    (outcome,) = log.outcomes
    assert (outcome.result, outcome.reason) == (Result.REFUSED, "idle")
    assert outcome.detail == outcome.evidence.group == "its group g has 1 live member and no lag"
    assert log.ledger.held == ()
    assert log.ledger.inquiries == {}


def test_a_consumer_that_is_behind_is_looked_at_twice_and_is_idle_if_it_moved():
    log = see(consumer_log(), BEHIND)
    assert not log.looks
    assert not log.outcomes
    log.tick(14.0)
    assert not log.looks
    log.tick(1.0)
    see(log, WORKING)
    assert [outcome.reason for outcome in log.outcomes] == ["idle"]


def test_a_consumer_that_is_behind_and_stands_still_is_restarted_and_the_outcome_says_so():
    log = see(consumer_log(), BEHIND)
    log.tick(15.0).append(counts(log.now)).drain()
    see(log, BEHIND)
    for result in (found("u-a"), DONE, ABSENT, StepResult(What.DONE, uid="n-a")):
        log.answer(result)
    log.append(Alive(key="stf/a", uid="n-a", at=log.now)).drain()
    (outcome,) = log.outcomes
    assert outcome.result is Result.RESTARTED
    assert (
        outcome.evidence.group
        == "its group g has 1 live member, 5 records of lag, and committed none between two looks"
    )


def test_a_consumer_without_a_live_member_is_restarted_after_one_look():
    log = see(consumer_log(), GroupLook(group="g"))
    assert [task.step for task in log.tasks] == [Step.OBSERVE]


def test_an_unknown_group_stops_a_restart_unless_the_policy_says_otherwise():
    log = see(consumer_log(), NO_RIGHTS)
    (outcome,) = log.outcomes
    assert (outcome.reason, outcome.retry_after) == ("idle_unknown", 30.0)
    assert "no rights" in outcome.detail
    acting = see(consumer_log(limits=Limits(idle_unknown_acts=True)), NO_RIGHTS)
    assert [task.step for task in acting.tasks] == [Step.OBSERVE]


def test_in_observe_mode_an_unknown_group_is_no_reason_to_say_less_unless_the_policy_says_so():
    observing = see(consumer_log(observe_only=True), NO_RIGHTS)
    assert [task.step for task in observing.tasks] == [Step.OBSERVE]
    strict = see(consumer_log(observe_only=True, limits=Limits(idle_unknown_acts=False)), NO_RIGHTS)
    assert [outcome.reason for outcome in strict.outcomes] == ["idle_unknown"]


def test_a_consumer_of_which_nothing_was_ever_heard_is_looked_at_too():
    """Its first words may be older than what the source topic keeps. Found by the simulation."""
    log = see(Log().append(counts(), a_silent_consumer(verdict="never_started")).drain(), DRAINED)
    assert [outcome.reason for outcome in log.outcomes] == ["idle"]


def test_a_consumer_that_failed_because_nothing_followed_its_error_is_looked_at_too():
    """One bad record among its last hundred, and then its topic is drained: it says no more."""
    grounds = Grounds(unhealthy_at=START, grace_over=True)
    log = Log().append(counts(), a_silent_consumer(verdict="failed", evidence=grounds)).drain()
    assert not log.tasks
    see(log, DRAINED)
    assert [outcome.reason for outcome in log.outcomes] == ["idle"]


@pytest.mark.parametrize("changes", [{"verdict": "failed"}, {"verdict": "requested"}])
def test_only_silence_is_excused_by_a_group(changes):
    log = Log().append(counts(), a_silent_consumer(**changes)).drain()
    assert not log.looks
    assert [task.step for task in log.tasks] == [Step.OBSERVE]


def test_a_command_that_is_refused_anyway_is_not_looked_into():
    log = Log().append(counts(), Pause(scope="*", reason="maintenance"), a_silent_consumer()).drain()
    assert not log.looks
    assert [outcome.reason for outcome in log.outcomes] == ["paused"]


def test_a_consumer_that_is_not_idle_waits_for_the_counts_without_being_looked_at_again():
    log = see(Log().append(a_silent_consumer()).drain(), GroupLook(group="g"))
    assert log.ledger.held
    log.append(counts(START - 1.0)).drain()
    log.tick()
    assert not log.looks
    log.append(counts()).drain()
    assert [task.step for task in log.tasks] == [Step.OBSERVE]


def test_a_look_that_is_not_answered_is_taken_again_and_only_one_answer_counts():
    log = consumer_log()
    (first,) = log.looks
    log.looks.clear()
    log.tick(9.0)
    assert not log.looks
    log.tick(1.0)
    (second,) = log.looks
    assert first == second
    see(log, BEHIND)
    late = GroupLooked(key="stf/a", command_id=first.command.id, seq=first.seq, look=DRAINED)
    log.append(late).drain()
    assert not log.outcomes
    log.tick(15.0)
    assert [look.seq for look in log.looks] == [1]


def test_another_worker_takes_the_looks_over():
    log = see(consumer_log(), BEHIND).restart()
    log.tick(15.0)
    see(log, WORKING)
    assert [outcome.reason for outcome in log.outcomes] == ["idle"]


def test_a_consumer_whose_group_is_not_looked_at_in_time_is_refused_as_expired():
    log = consumer_log()
    log.tick(60.0)
    assert [outcome.reason for outcome in log.outcomes] == ["expired"]
    assert log.ledger.inquiries == {}


def test_a_consumer_that_speaks_while_its_group_is_looked_at_is_left_alone():
    log = consumer_log()
    log.append(Withdraw(id=a_silent_consumer().id, key="stf/a", reason="reports")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["superseded"]
    see(log, GroupLook(group="g"))
    assert not log.tasks
    assert log.ledger.inquiries == {}


def test_more_consumers_than_can_be_held_are_refused_and_come_again():
    log = Log().append(counts())
    for number in range(70):
        log.append(a_silent_consumer(f"j{number}", uid=f"u{number}"))
    log.drain()
    assert len(log.looks) == 64
    assert [outcome.reason for outcome in log.outcomes] == ["asking"] * 6


def test_a_burst_of_drained_consumers_is_found_idle_and_holds_nobody():
    log = Log(limits=Limits(in_flight=8))
    suspects = msgspec.structs.replace(counts(base=6, unhealthy=4, sick=4), suspected=4)
    log.append(suspects)
    for number in range(3):
        log.append(a_silent_consumer(f"j{number}", uid=f"u{number}"))
    log.append(a_command("stuck", "u-stuck")).drain()
    assert not log.tasks  # it may be a storm
    for asked in list(log.looks):
        log.append(GroupLooked(key=asked.command.key, command_id=asked.command.id, seq=asked.seq, look=DRAINED))
    log.drain()
    assert [outcome.reason for outcome in log.outcomes] == ["idle"] * 3
    log.append(counts(log.now, base=3, unhealthy=1, sick=1)).drain()
    assert [task.action.command.name for task in log.tasks] == ["stuck"]


def test_a_restart_end_to_end_leaves_no_action_no_slot_and_no_manifest():
    log = Log().heal()
    assert [outcome.result for outcome in log.outcomes] == [Result.RESTARTED]
    assert log.ledger.slots == ()
    assert log.ledger.window == 2
    record = decode_job_record(log.table[b"stf/a"])
    assert record.action is None
    assert record.history.acted == ("c-a-u-a",)
    assert b'"spec"' not in log.table[b"stf/a"]


def test_each_event_writes_at_most_one_key():
    log = Log()
    writes = []
    original = log.actuator._write

    def one(key, value, effects):
        writes.append(key)
        original(key, value, effects)

    log.actuator._write = one
    log.heal()
    assert set(writes) == {b"stf/a", LEDGER_KEY}


def test_a_storm_that_crosses_the_limit_lets_none_through():
    """Fifty Jobs fall silent together: the first command is on the log before any count."""
    log = Log()
    for number in range(50):
        log.append(a_command(f"j{number}", f"u{number}"))
    log.drain()
    assert not log.tasks
    log.append(counts(base=60, unhealthy=50, sick=50)).drain()
    assert not log.tasks
    assert {outcome.reason for outcome in log.outcomes} == {"storm"}
    assert len(log.outcomes) == 50


def test_more_commands_than_can_be_held_are_refused_for_lack_of_counts():
    log = Log()
    for number in range(70):
        log.append(a_command(f"j{number}", f"u{number}"))
    log.drain()
    assert len(log.ledger.held) == 64
    assert [outcome.reason for outcome in log.outcomes] == ["counts"] * 6


def test_a_held_command_expires_by_a_tick():
    log = Log().append(a_command()).drain()
    log.tick(60.0)
    assert [outcome.reason for outcome in log.outcomes] == ["expired"]
    assert not log.ledger.held


def test_a_held_command_can_be_withdrawn():
    log = Log().append(a_command(), Withdraw(id="c-a-u-a", key="stf/a", reason="reports")).drain()
    assert [(outcome.reason, outcome.detail) for outcome in log.outcomes] == [("superseded", "reports")]
    assert not log.append(counts()).drain().tasks


def test_a_command_withdrawn_before_its_action_was_opened_is_not_followed():
    log = Log().append(counts(), a_command(), Withdraw(id="c-a-u-a", key="stf/a")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["superseded"]
    assert not log.tasks
    assert log.ledger.slots == ()


@pytest.mark.parametrize("skew", [-3.0, 3.0])
def test_a_withdrawal_counts_though_the_clocks_of_the_two_logs_are_apart(skew):
    log = Log()
    log.now += skew
    log.append(counts(), a_command(), Withdraw(id="c-a-u-a", key="stf/a")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["superseded"]
    assert not log.tasks
    log.append(a_command(decided_at=START + 1.0)).drain()
    assert [task.step for task in log.tasks] == [Step.OBSERVE]


def test_a_slot_of_the_release_before_is_withdrawn_by_the_time_of_the_log():
    log = Log().append(counts(), a_command())
    while not log.ledger.slots:
        record, at = log.records[log.read]
        effects = log.actuator.apply(record, log.read, at)
        log.read += 1
    (slot,) = log.ledger.slots
    log.actuator.ledger = msgspec.structs.replace(log.ledger, slots=(msgspec.structs.replace(slot, decided_at=0.0),))
    log.append(Withdraw(id="c-a-u-a", key="stf/a"), *effects.sends).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["superseded"]
    assert not log.tasks


def test_the_same_judgement_made_again_after_a_withdrawal_is_followed():
    log = Log().append(counts(), a_command(), Withdraw(id="c-a-u-a", key="stf/a")).drain()
    log.now += 120.0
    again = a_command(decided_at=log.now, expires_at=log.now + 60.0)
    log.append(counts(log.now), again).drain()
    assert [task.step for task in log.tasks] == [Step.OBSERVE]


def test_the_same_command_again_is_passed_over_while_it_is_followed():
    log = Log().append(counts(), a_command(), a_command()).drain().append(a_command()).drain()
    assert not log.outcomes
    assert len(log.tasks) == 1


def test_another_command_for_a_job_with_an_open_action_is_a_duplicate():
    log = Log().append(counts(), a_command(), a_command(id="other")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["duplicate"]
    log.append(a_command(id="third")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["duplicate"] * 2


def test_a_command_that_was_followed_is_not_followed_again():
    log = Log().heal().append(counts(), a_command(uid="u-a", decided_at=START + 9, expires_at=START + 99)).drain()
    assert log.outcomes[-1].reason == "duplicate"


def test_a_late_command_about_the_incarnation_before_is_superseded():
    log = Log().heal()
    log.append(counts(log.now), a_command(id="late", expires_at=log.now + 9)).drain()
    assert log.outcomes[-1].reason == "superseded"


def test_observe_mode_needs_one_look_and_reports_the_same_job_with_growing_pauses():
    log = Log(observe_only=True)
    reasons = []
    for _ in range(6):
        log.append(counts(log.now, unhealthy=0), a_command(decided_at=log.now, expires_at=log.now + 60)).drain()
        if log.tasks:
            log.answer(found("u-a"))
        reasons.append(log.outcomes[-1].reason)
        log.now += 15.0
    assert reasons == [
        "observe_mode",
        "observe_mode",
        "backoff",
        "observe_mode",
        "quarantined",
        "quarantined",
    ]
    assert {record.step for record, _ in log.records if isinstance(record, Announced)} == {Step.OBSERVE}


def observed_from_now_on(log):
    """Have a worker take over whose mode is observe; what was under way is lost."""
    log.tasks.clear()
    log.options |= {"worker": "w2", "observe_only": True}
    return log.restart()


@pytest.mark.parametrize("answers", [[], [found("u-a"), StepResult(What.LATER, status=429)]])
def test_a_worker_in_observe_mode_sends_no_delete_for_what_was_admitted_in_heal_mode(answers):
    log = Log().append(counts(), a_command()).drain()
    for result in answers:
        log.answer(result)
    observed_from_now_on(log)
    while not log.outcomes:
        log.answer(found("u-a")) if log.tasks else log.tick()
        assert Step.DELETE not in {task.step for task in log.tasks}
    assert [(outcome.result, outcome.reason) for outcome in log.outcomes] == [(Result.WOULD_RESTART, "observe_mode")]
    assert log.outcomes[0].final
    assert log.ledger.slots == ()
    assert log.actuator.open_actions() == {}


def test_a_worker_in_observe_mode_repeats_no_delete_and_waits_until_the_one_sent_can_come_no_more():
    log = Log().append(counts(), a_command()).drain().answer(found("u-a"))
    began = log.now
    observed_from_now_on(log)
    while not log.outcomes:
        log.answer(found("u-a")) if log.tasks else log.tick()
        assert Step.DELETE not in {task.step for task in log.tasks}
    assert [(outcome.reason, outcome.detail) for outcome in log.outcomes] == [("superseded", "the mode is observe now")]
    assert log.now - began > actions.LATE_DELETE_SECONDS
    assert log.ledger.slots == ()


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_worker_in_observe_mode_creates_what_was_deleted_in_heal_mode(seen_before):
    log = Log().append(counts(), a_command()).drain().answer(found("u-a"))
    observed_from_now_on(log)
    if seen_before:
        log.answer(found("u-a"))  # and then the delete happens after all
    for result in (ABSENT, StepResult(What.DONE, uid="n-a")):
        log.answer(result)
    assert log.actuator.jobs["stf/a"].action.state is State.VERIFYING


def test_a_worker_in_observe_mode_does_not_replace_an_empty_job_and_watches_it_once_it_has_a_pod():
    log = Log().append(counts(), a_command(startup_seconds=900.0)).drain()
    for result in (found("u-a"), DONE, ABSENT, StepResult(What.DONE, uid="n-a")):
        log.answer(result)
    observed_from_now_on(log)
    empty, with_a_pod = found("n-a", action_id="c-a-u-a"), found("n-a", action_id="c-a-u-a", pods=1)
    for _ in range(120):
        log.answer(empty)
        assert Step.DELETE not in {task.step for task in log.tasks}
    while log.actuator.jobs["stf/a"].action.state is not State.VERIFYING:
        log.answer(with_a_pod)
    log.append(Alive(key="stf/a", uid="n-a", at=log.now)).drain()
    assert log.outcomes[-1].result is Result.RESTARTED


def test_an_announcement_of_the_release_before_is_one_in_heal_mode():
    announced = Announced(key="stf/a", action_id="c", seq=1, step=Step.DELETE, worker="w", observe_only=True)
    value = msgspec.json.decode(steps.encode(announced))
    assert value.pop("observe_only") is True
    assert steps.decode(msgspec.json.encode(value)).observe_only is False


def test_only_the_worker_that_announced_a_step_takes_it():
    log = Log().append(counts(), a_command()).drain()
    other = Actuator(worker="w2", limits=Limits(), observe_only=False)
    tasks = [task for n, (record, at) in enumerate(log.records) for task in other.apply(record, n, at).tasks]
    assert not tasks
    assert other.jobs["stf/a"].action == log.actuator.jobs["stf/a"].action


def test_a_worker_that_takes_over_waits_for_the_lost_call_and_goes_on():
    log = Log().append(counts(), a_command()).drain()
    log.tasks.clear()  # w1 died while it observed
    log.options["worker"] = "w2"
    log.restart()
    for _ in range(14):
        log.tick()
    assert not log.tasks
    for _ in range(6):
        log.tick()
    assert [task.step for task in log.tasks] == [Step.OBSERVE]
    assert log.actuator.jobs["stf/a"].action.call.worker == "w2"


def followed_again():
    """Follow a command to its delete, whose answer stays away until the command is refused and has come again."""
    log = Log().append(counts(), a_command()).drain().answer(found("u-a"))
    (late,) = log.tasks
    log.tasks.clear()
    log.append(Pause(scope="*", reason="maintenance")).tick(16.0)  # the call is lost
    while not log.outcomes:
        log.answer(found("u-a"))
    assert log.outcomes[-1].reason == "paused"
    log.append(Resume(scope="*"), counts(log.now))
    log.append(a_command(decided_at=log.now, expires_at=log.now + 60.0)).drain().answer(found("u-a"))
    (task,) = log.tasks
    assert (task.step, task.action.seq) == (late.step, late.action.seq) == (Step.DELETE, 2)
    return log, late.action


def test_a_late_answer_to_an_action_that_has_ended_is_not_taken_for_one_to_the_same_command_followed_again():
    log, ended = followed_again()
    refused = StepResult(What.CONFLICT, status=409)
    known = {"key": "stf/a", "action_id": ended.id, "seq": ended.seq, "step": Step.DELETE}
    log.append(Resulted(**known, result=refused, opened=ended.opened)).drain()
    assert log.actuator.jobs["stf/a"].action.call is not None
    for result in (DONE, ABSENT, StepResult(What.DONE, uid="n-a")):
        log.answer(result)
    log.append(Alive(key="stf/a", uid="n-a", at=log.now)).drain()
    assert log.outcomes[-1].result is Result.RESTARTED


def test_an_answer_from_the_release_before_counts_as_it_did():
    log, ended = followed_again()
    log.append(Resulted(key="stf/a", action_id=ended.id, seq=ended.seq, step=Step.DELETE, result=DONE)).drain()
    assert log.actuator.jobs["stf/a"].action.state is State.DELETING


def test_an_answer_counts_for_an_action_that_the_release_before_has_stored_since():
    log, _ = followed_again()
    record = log.actuator.jobs["stf/a"]
    stored = msgspec.structs.replace(record, action=msgspec.structs.replace(record.action, opened=-1))
    log.actuator.jobs["stf/a"] = stored
    log.answer(DONE)
    assert log.actuator.jobs["stf/a"].action.state is State.DELETING


def test_a_call_is_given_up_for_the_action_that_began_it():
    log, _ = followed_again()
    log.tick(16.0)
    assert log.records[-1][0].opened == log.actuator.jobs["stf/a"].action.opened > 0


def test_a_restarted_actuator_has_the_same_state_and_reads_no_record_twice():
    log = Log().append(counts(), a_command()).drain().answer(found("u-a"))
    before = (log.ledger, log.actuator.jobs)
    log.restart()
    assert (log.ledger, log.actuator.jobs) == before
    for offset, (record, at) in enumerate(log.records):
        effects = log.actuator.apply(record, offset, at)
        assert effects.write is None
    assert (log.ledger, log.actuator.jobs) == before


def test_a_restarted_actuator_has_not_refilled_its_budget():
    log = Log()
    for name in ("a", "b", "c"):
        log.heal(name, f"u-{name}", f"n-{name}")
    log.restart()
    evidence = Grounds(unhealthy_at=log.now)
    log.append(counts(log.now), a_command("d", "u-d", expires_at=log.now + 60, evidence=evidence)).drain()
    assert log.outcomes[-1].reason == "rate"


def test_a_steps_log_made_anew_is_read_from_its_start():
    log = Log().heal()
    log.records.clear()
    log.read = 0
    log.restart(log_end=0)
    assert log.heal("b", "u-b", "n-b").outcomes[-1].result is Result.RESTARTED


def test_a_steps_log_that_went_on_is_not_taken_for_a_new_one():
    log = Log().heal()
    offset = log.ledger.offset
    log.restart(log_end=len(log.records))
    assert log.ledger.offset == offset


def test_state_of_a_later_version_refuses_to_start():
    with pytest.raises(UnknownSchema):
        decode_ledger(msgspec.msgpack.encode([2, "whatever"]))
    with pytest.raises(UnknownSchema):
        decode_job_record(msgspec.msgpack.encode([2]))


def test_a_pause_holds_its_scope_until_it_is_resumed():
    for scope in ("*", "job:stf/a", "queue:q1", "target:loader-producer"):
        log = Log().append(counts(), Pause(scope=scope, reason="maintenance"), a_command()).drain()
        assert [outcome.reason for outcome in log.outcomes] == ["paused"]
        log.append(Resume(scope=scope), a_command()).drain()
        assert len(log.tasks) == 1


def test_a_pause_ends_by_itself():
    log = Log().append(counts(), Pause(scope="*", reason="x", until=START + 30.0), a_command()).drain()
    log.now += 31.0
    log.append(counts(log.now), a_command()).drain()
    assert len(log.tasks) == 1


def test_pauses_that_have_ended_are_not_kept():
    log = Log().append(Pause(scope="queue:q1", reason="x", until=START + 30.0)).drain()
    log.now += 31.0
    log.append(Pause(scope="queue:q2", reason="y")).drain()
    assert set(log.ledger.pauses) == {"queue:q2"}


@pytest.mark.parametrize("until", [None, START + 30.0], ids=["that holds", "that is over"])
@pytest.mark.parametrize("scope", ["*", "job:stf/a", "queue:q1", "target:loader-producer"])
def test_a_scope_that_is_resumed_and_paused_again_at_once_stays_paused(scope, until):
    """Both are on the log before either is read: what the first causes comes after the second."""
    log = Log().append(Pause(scope=scope, reason="first", until=until)).drain()
    log.now += 60.0
    log.append(Resume(scope=scope, by="ada"), Pause(scope=scope, reason="second", by="ada")).drain()
    assert [pause.reason for pause in log.ledger.pauses.values()] == ["second"]
    log.append(counts(log.now), a_command(expires_at=log.now + 60)).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["paused"]


def test_only_the_resumption_of_a_job_is_said_once_more_and_for_its_quarantine_alone():
    for scope in ("*", "queue:q1", "target:loader-producer"):
        log = Log().append(Pause(scope=scope, reason="x"), Resume(scope=scope)).drain()
        assert len(log.records) == 2
    resume = Resume(scope="job:stf/a", by="ada")
    log = Log().append(Pause(scope="job:stf/a", reason="x"), resume).drain()
    assert [record for record, _ in log.records[2:]] == [msgspec.structs.replace(resume, quarantine_only=True)]


def test_a_log_of_the_release_before_ends_pause_and_quarantine_as_it_did():
    """There the resumption came a second time as it was."""
    log = quarantined().append(Pause(scope="job:stf/a", reason="x")).drain()
    resume = Resume(scope="job:stf/a", by="ada")
    for record in (resume, resume):  # of the second alone the end of the quarantine follows
        log.append(record)
    while log.read < len(log.records):
        log.actuator.apply(log.records[log.read][0], log.read, log.now)
        log.read += 1
    assert log.ledger.pauses == {}
    assert not log.actuator.jobs["stf/a"].history.quarantined_at


def test_a_pause_stops_an_admitted_action_before_its_delete():
    log = Log().append(counts(), a_command()).drain()
    log.append(Pause(scope="*", reason="maintenance")).drain()
    log.answer(found("u-a"))
    assert log.outcomes[-1].reason == "paused"
    assert log.ledger.slots == ()


def fail_once(log, attempt, uid):
    """Restart a Job that then says nothing; returns the uid of its new incarnation."""
    log.now += 60.0
    command = a_command(uid=uid, id=f"c{attempt}", expires_at=log.now + 60, startup_seconds=30.0)
    log.append(counts(log.now), command).drain()
    new_uid = f"n{attempt}"
    for result in (found(uid, attempt=attempt - 1), DONE, ABSENT, StepResult(What.DONE, uid=new_uid)):
        log.answer(result)
    while log.outcomes[-1:] == [] or log.outcomes[-1].command_id != f"c{attempt}":
        log.answer(found(new_uid, pods=1))
    return new_uid


def test_who_takes_over_goes_on_by_the_newest_time_on_the_log_though_the_brokers_clock_was_set_back():
    """As one does who never died: history and budgets are a fold of the log. Found by the simulation."""
    log = Log().heal()
    newest = log.actuator.now
    log.now -= 60.0
    log.restart().tick()
    assert log.actuator.now == newest


def test_what_is_written_of_admission_alone_keeps_the_newest_time():
    log = Log().append(counts()).drain()
    log.now -= 60.0
    log.restart().tick()
    assert log.actuator.now == START


def test_a_time_that_a_wrong_clock_wrote_does_not_expire_all_commands_after_a_restart():
    log = Log()
    log.now += 86_400.0
    log.append(counts()).drain()
    log.now -= 86_400.0
    log.restart().tick()
    assert log.actuator.now == log.now
    assert [outcome.result for outcome in log.heal().outcomes] == [Result.RESTARTED]


def a_day_ahead(log, do):
    """Have what is done stamped a day ahead, and the clock put right after it."""
    log.now += 86_400.0
    do()
    log.now -= 86_400.0


@pytest.mark.parametrize("restarted", [False, True])
def test_an_open_action_goes_on_at_once_when_a_clock_that_was_a_day_ahead_is_put_right(restarted):
    log = Log().append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT):
        log.answer(result)
    a_day_ahead(log, lambda: log.answer(StepResult(What.LATER, status=429)))
    if restarted:
        log.restart()
    log.tick()
    assert [task.step for task in log.tasks] == [Step.CREATE]


def test_a_call_that_was_announced_by_a_clock_a_day_ahead_is_given_up_once_it_is_put_right():
    log = Log().append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE):
        log.answer(result)
    a_day_ahead(log, lambda: log.answer(ABSENT))
    log.tasks.clear()  # its worker died
    log.restart()
    for _ in range(5):
        log.tick()
    assert [task.step for task in log.tasks] == [Step.LOOK]


def test_commands_are_followed_as_soon_as_a_clock_that_was_a_day_ahead_is_put_right():
    log = Log()
    a_day_ahead(log, log.tick)
    log.tick()
    assert log.actuator.now == log.now
    assert log.actuator.open_actions() == {}
    assert [outcome.result for outcome in log.heal().outcomes] == [Result.RESTARTED]


@pytest.mark.parametrize("restarted", [False, True])
def test_budget_and_back_off_do_not_wait_for_a_time_that_a_wrong_clock_wrote(restarted):
    log = Log(limits=Limits(rate_burst=1)).heal()
    a_day_ahead(log, lambda: log.heal("b", "u-b", "n-b"))
    assert [outcome.result for outcome in log.outcomes] == [Result.RESTARTED] * 2
    if restarted:
        log.restart()
    log.tick().tick(30.0)
    for name in ("a", "b"):
        evidence = Grounds(unhealthy_at=log.now)
        command = a_command(name, f"n-{name}", expires_at=log.now + 60, decided_at=log.now, evidence=evidence)
        log.append(counts(log.now), command).drain()
        assert [task.action.id for task in log.tasks] == [command.id]
        for result in (found(f"n-{name}"), DONE, ABSENT, StepResult(What.DONE, uid=f"m-{name}")):
            log.answer(result)
        log.append(Alive(key=f"stf/{name}", uid=f"m-{name}", at=log.now)).drain()
        log.tasks.clear()
        log.tick(30.0)


def test_a_storm_is_not_held_for_longer_because_a_wrong_clock_wrote_when_it_began():
    log = Log()
    a_day_ahead(log, lambda: log.append(counts(log.now, base=10, unhealthy=9, sick=9)).drain())
    assert log.ledger.phase == "storm"
    log.tick()
    assert log.ledger.phase_since <= log.now


def test_three_failures_quarantine_a_job_until_a_person_resumes_it():
    log = Log(limits=Limits(backoff_seconds=0.0))
    uid = "u-a"
    for attempt in range(1, 4):
        uid = fail_once(log, attempt, uid)
    assert [outcome.reason for outcome in log.outcomes] == ["no_sign_of_life"] * 3
    assert [outcome.attempt for outcome in log.outcomes] == [1, 2, 3]
    assert [outcome.quarantined for outcome in log.outcomes] == [False, False, True]
    log.append(counts(log.now), a_command(uid=uid, id="c4", expires_at=log.now + 60)).drain()
    assert log.outcomes[-1].reason == "quarantined"
    log.append(Resume(scope="job:stf/a", by="ada"), a_command(uid=uid, id="c5", expires_at=log.now + 60)).drain()
    assert len(log.tasks) == 1


def test_after_a_quarantine_the_attempts_count_from_zero_and_the_numbers_of_restarts_go_on():
    log = Log(limits=Limits(backoff_seconds=0.0))
    uid = "u-a"
    for attempt in range(1, 7):
        uid = fail_once(log, attempt, uid)
        if attempt == 3:
            log.append(Resume(scope="job:stf/a", by="ada")).drain()
    assert [outcome.attempt for outcome in log.outcomes] == [1, 2, 3, 4, 5, 6]
    assert [outcome.quarantined for outcome in log.outcomes] == [False, False, True, False, False, True]


def test_a_quarantine_lasts_as_long_as_the_job_is_found_sick_and_ends_after_a_healthy_hour():
    log = Log().append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT, REFUSED, StepResult(What.DONE, uid="n1")):
        log.answer(result)
    assert log.outcomes[-1].quarantined
    for _ in range(120):
        log.now += 60.0
        log.append(counts(log.now), a_command(uid="n1", expires_at=log.now + 60)).drain()
        assert log.outcomes[-1].reason == "quarantined"
        assert log.outcomes[-1].retry_after == 60.0
    log.now += 3600.0
    log.append(counts(log.now), a_command(uid="n1", expires_at=log.now + 60)).drain()
    assert len(log.tasks) == 1


def quarantined(**options):
    """Have the Job put back as it was, which ends in quarantine; it goes by uid n1 then."""
    log = Log(**options).append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT, REFUSED, StepResult(What.DONE, uid="n1")):
        log.answer(result)
    assert log.outcomes[-1].quarantined
    return log


def sick_again(log, look, *, seconds=60.0):
    """Have the silent consumer found sick once more, and its group looked at until that is decided."""
    log.now += seconds
    log.append(counts(log.now), a_silent_consumer(uid="n1", expires_at=log.now + 60)).drain()
    while log.ledger.held:
        if log.looks:
            see(log, look)
        log.tick().append(counts(log.now)).drain()
    return log


def test_a_consumers_quarantine_lasts_as_long_as_it_is_found_sick():
    """Its command is always held for a look at its group, and refused when that has come."""
    log = quarantined()
    for _ in range(120):
        sick_again(log, BEHIND)
        assert log.outcomes[-1].reason == "quarantined"
        assert not log.tasks
    log.now += 3600.0
    sick_again(log, BEHIND)
    assert len(log.tasks) == 1


def test_a_consumer_with_nothing_to_do_leaves_its_quarantine_after_a_healthy_hour():
    log = quarantined()
    for _ in range(61):
        sick_again(log, DRAINED)
        assert log.outcomes[-1].reason == "idle"
        assert not log.tasks
    sick_again(log, BEHIND)
    assert len(log.tasks) == 1


def test_that_a_consumer_in_quarantine_is_still_sick_is_said_for_it_and_folded_where_it_is_read():
    log = sick_again(quarantined(), BEHIND)
    (said,) = [record for record, _ in log.records if isinstance(record, StillSick)]
    assert (said.key, log.actuator.jobs["stf/a"].history.sick_at) == ("stf/a", said.at)
    before = log.actuator.jobs["stf/a"].history
    log.tick(120.0).append(said).drain()  # said twice, after a crash
    assert log.actuator.jobs["stf/a"].history == before
    log.restart()
    assert log.actuator.jobs["stf/a"].history == before


def test_a_word_about_a_quarantine_that_a_person_has_ended_begins_none():
    """A worker that was paused says it late."""
    log = sick_again(quarantined(), BEHIND)
    (said,) = [record for record, _ in log.records if isinstance(record, StillSick)]
    log.append(Resume(scope="job:stf/a", by="ada"), said).drain()
    sick_again(log, BEHIND)
    assert len(log.tasks) == 1


def test_a_word_about_a_quarantine_dated_by_a_clock_that_was_ahead_makes_it_no_longer_than_said_now():
    log = quarantined().append(StillSick(key="stf/a", at=START + 86_400.0)).drain()
    assert log.actuator.jobs["stf/a"].history.sick_at == log.now


def test_an_action_that_waits_for_a_person_gives_its_slot_back():
    log = Log().append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT, REFUSED):
        log.answer(result)
    assert log.ledger.slots == ()
    assert log.actuator.jobs["stf/a"].action.state is State.RESTORING


def stranded():
    log = Log(limits=Limits(create_deadline_seconds=5.0)).append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT, *[REFUSED] * 5):
        log.answer(result)
    assert log.actuator.jobs["stf/a"].action.state is State.STRANDED
    return log


def test_a_stranded_action_waits_for_a_person_who_has_it_created():
    log = stranded()
    log.append(Resolve(key="stf/a", action_id="c-a-u-a", decision=Decision.CREATE, by="ada")).drain()
    assert [task.step for task in log.tasks] == [Step.LOOK]
    log.answer(ABSENT)
    while not log.tasks:
        log.tick()
    assert [task.step for task in log.tasks] == [Step.CREATE]


def test_a_stranded_action_makes_way_when_its_job_exists_again():
    log = stranded()
    log.now += 600.0
    evidence = Grounds(unhealthy_at=log.now)
    log.append(Resume(scope="job:stf/a"), counts(log.now))
    log.append(a_command(uid="u9", expires_at=log.now + 60, evidence=evidence)).drain()
    assert log.outcomes[-1].reason == "abandoned"
    assert [task.action.id for task in log.tasks] == ["c-a-u9"]


def test_a_create_that_is_overdue_gives_its_slot_back_and_a_person_may_abandon_it():
    log = Log(limits=Limits(create_deadline_seconds=5.0)).append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT):
        log.answer(result)
    while not log.outcomes:
        log.answer(StepResult(What.LATER, status=429))
    assert (log.outcomes[-1].reason, log.outcomes[-1].needs_person) == ("create_overdue", True)
    assert log.ledger.slots == ()
    log.append(Resolve(key="stf/a", action_id="c-a-u-a", decision=Decision.ABANDON, by="ada")).drain()
    assert (log.outcomes[-1].reason, log.outcomes[-1].final) == ("abandoned", True)
    assert log.actuator.open_actions() == {}


def stranded_after_its_job_was_seen():
    """Strand an action within seconds: its Job was seen, its create not answered, and nothing is there."""
    log = Log().append(counts(), a_command()).drain()
    for result in (found("u-a"), DONE, ABSENT):
        log.answer(result)
    log.append(Seen(fact=a_fact("stf/a", "n-a", "c-a-u-a"))).drain()
    for result in (StepResult(What.UNKNOWN), ABSENT):
        log.answer(result)
    assert log.actuator.jobs["stf/a"].action.state is State.STRANDED
    return log


def test_what_a_stranded_action_keeps_is_not_given_up_for_a_command_about_what_it_deleted():
    """Commands are copied again after a crash, and one that was refused before may be fit by now."""
    log = stranded_after_its_job_was_seen()
    log.append(a_command(id="c-early")).drain()
    assert [outcome.reason for outcome in log.outcomes] == ["create_uncertain", "superseded"]
    assert log.actuator.jobs["stf/a"].action.manifest is not None
    assert log.ledger.slots == ()
    log.append(Resolve(key="stf/a", action_id="c-a-u-a", decision=Decision.CREATE, by="ada")).drain()
    assert [task.step for task in log.tasks] == [Step.LOOK]


def test_what_a_stranded_action_keeps_is_not_given_up_for_what_the_release_before_admitted():
    log = stranded_after_its_job_was_seen()
    early = a_command(id="c-early")
    log.actuator.ledger = reserve(log.ledger, early, Limits(), log.now)
    log.append(Admitted(command=early, observe_only=False)).drain()
    assert log.actuator.jobs["stf/a"].action.id == "c-a-u-a"
    assert not log.tasks
    assert log.ledger.slots == ()


@pytest.mark.parametrize("counted", [True, False])
def test_a_command_is_withdrawn_though_an_action_before_it_waits_for_a_person(counted):
    log = stranded()
    log.now += 600.0
    command = a_command(uid="u9", decided_at=log.now, expires_at=log.now + 60, evidence=Grounds(unhealthy_at=log.now))
    log.append(Resume(scope="job:stf/a"), *([counts(log.now)] if counted else []), command)
    log.append(Withdraw(id=command.id, key="stf/a", reason="reports")).drain()
    log.append(counts(log.now)).drain()
    assert (log.outcomes[-1].command_id, log.outcomes[-1].reason) == (command.id, "superseded")
    assert not log.tasks
    assert log.ledger.slots == ()


def test_a_slot_whose_action_is_not_there_is_given_back():
    log = Log().append(counts(), a_command()).drain()
    log.table.pop(b"stf/a")
    log.restart()
    assert log.ledger.slots
    log.tick(61.0)
    assert log.ledger.slots == ()


def test_what_no_longer_matters_is_forgotten():
    log = Log().heal()
    log.tick(3500.0)
    assert b"stf/a" in log.table
    log.tick(200.0)
    assert b"stf/a" not in log.table
    assert not log.actuator.jobs


def test_what_is_shown_of_a_job_hides_its_env():
    log = Log().append(counts(), a_command()).drain()
    secret = {"name": "PASSWORD", "value": "s3cret"}
    manifest = {"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [secret]}]}}}}
    log.answer(msgspec.structs.replace(found("u-a"), manifest=manifest))
    document = shown(log.actuator.jobs["stf/a"])
    assert "s3cret" not in str(document)
    assert document["action"]["state"] == "saved"
    assert log.actuator.jobs["stf/a"].action.manifest == manifest


# ---- crashes anywhere


class ModelCluster:
    """Jobs by name as the API server and the Job controller treat them; each has an owner and a life."""

    def __init__(self, rng):
        self.rng = rng
        self.jobs = {}
        self.pods = {}
        self.uids = 0
        self.created = {}  # action id: uids of the creates of ours that happened
        self.deleted = []  # uid of every delete that happened

    def put(self, name, spec, annotations=None):
        self.uids += 1
        uid = f"uid{self.uids}"
        self.jobs[name] = {
            "uid": uid,
            "spec": copy.deepcopy(spec),
            "annotations": dict(annotations or {}),
            "leaving": False,
            "version": 1,
        }
        return uid

    def live(self):
        """Let the controllers do a bit of their work."""
        owned = {job["uid"] for job in self.jobs.values()}
        for uid in [uid for uid in self.pods if uid not in owned]:
            self.pods[uid] -= self.pods[uid] > 0 and self.rng.random() < 0.5
        for name, job in list(self.jobs.items()):
            if job["leaving"]:
                if self.pods.get(job["uid"]):
                    if self.rng.random() < 0.5:
                        self.pods[job["uid"]] -= 1
                elif self.rng.random() < 0.5:
                    del self.jobs[name]
            elif not self.pods.get(job["uid"]) and self.rng.random() < 0.3:
                self.pods[job["uid"]] = 1

    def perform(self, action, step):
        name = action.command.name
        job = self.jobs.get(name)
        match step:
            case Step.OBSERVE | Step.LOOK:
                return self._look(action, job, step)
            case Step.DELETE:
                version = resource_version_to_delete(action)
                if job is None:
                    return StepResult(What.MISSING)
                if job["uid"] != action.uid or (version is not None and version != str(job["version"])):
                    return StepResult(What.CONFLICT)
                if not job["leaving"]:
                    self.deleted.append(job["uid"])
                job["leaving"] = True
                return StepResult(What.DONE)
            case Step.CREATE | Step.RESTORE:
                if job is not None:
                    return StepResult(What.EXISTS)
                manifest = manifest_to_create(action, step)
                annotations = manifest["metadata"].get("annotations", {})
                uid = self.put(name, manifest["spec"], annotations)
                self.created.setdefault(annotations.get("sf-healer.io/action-id", ""), []).append(uid)
                return StepResult(What.DONE, uid=uid)

    def _look(self, action, job, step):
        watched = action.new_uid or action.uid
        if job is None:
            return StepResult(What.ABSENT, pods=self.pods.get(watched, 0))
        manifest = {
            "metadata": {
                "name": action.command.name,
                "namespace": "stf",
                "uid": job["uid"],
                "annotations": job["annotations"],
            },
            "spec": job["spec"],
            "status": {},
        }
        return StepResult(
            What.FOUND,
            uid=job["uid"],
            resource_version=str(job["version"]),
            condition=Condition.DELETING if job["leaving"] else Condition.ACTIVE,
            pods=self.pods.get(job["uid"], 0),
            attempt=int(job["annotations"].get("sf-healer.io/attempt", "0")),
            action_id=job["annotations"].get("sf-healer.io/action-id", ""),
            manifest=sanitize(manifest) if step is Step.OBSERVE else None,
        )


class Worker:
    """One process: what it has in memory is lost with it."""

    def __init__(self, name, table, log_end, position):
        self.name = name
        limits = Limits(in_flight=8, rate_burst=9, rate_per_minute=600.0)
        self.actuator = Actuator(worker=name, limits=limits, observe_only=False)
        self.actuator.restore(table.items(), log_end=log_end)
        self.actuator.ledger = msgspec.structs.replace(self.actuator.ledger, window=8)
        self.position = position
        self.owner = True
        self.alive = True


class World:
    """A log, a table, workers that die or stall between any two deeds, and calls that outlive them."""

    JOBS = ("a", "b", "c")

    def __init__(self, seed, *, faults=True, people=False):
        self.rng = random.Random(seed)
        self.faults = faults
        self.people = people
        self.now = START
        self.cluster = ModelCluster(self.rng)
        self.log = []
        self.table = {}
        self.committed = 0
        self.workers = []
        self.calls = []  # [task, begun at, worker, announced at]
        self.late = []  # [when, action, step]: requests a server finishes after their client gave up
        self.outcomes = {}
        self.specs = {}
        self.commands = {}
        self.told = set()
        self.made_by_people = set()
        self.deleted_by_people = set()
        for name in self.JOBS:
            self.specs[name] = {"image": name, "n": self.rng.randrange(9)}
            uid = self.cluster.put(name, self.specs[name])
            self.cluster.pods[uid] = 1
            self.commands[name] = a_command(name, uid)
        self.start_worker()
        self.append(counts(self.now))
        for command in self.commands.values():
            self.append(command)

    @property
    def actuator(self):
        return self.workers[-1].actuator

    def append(self, record):
        decoded = steps.decode(steps.encode(record))
        assert decoded == record
        self.log.append((record, self.now))

    def start_worker(self):
        """Let another worker take over; the one before is dead, or will wake up and find out later."""
        for worker in self.workers:
            worker.owner = False
            worker.alive = worker.alive and self.faults and self.rng.random() < 0.3
        name = f"w{len(self.workers) + 1}"
        self.workers.append(Worker(name, self.table, len(self.log), self.committed))

    def interrupted(self, chance=0.02):
        return self.faults and self.rng.random() < chance

    def read_one(self, worker):
        """Process one record as the agent does, and maybe die at any boundary within it."""
        if worker.position >= len(self.log) or not worker.alive:
            return
        record, at = self.log[worker.position]
        effects = worker.actuator.apply(record, worker.position, at)
        for deed in (*effects.outcomes, *effects.sends, effects.write, None):
            if self.interrupted():
                self.start_worker()
                if not worker.alive:
                    return
            if isinstance(deed, Outcome):
                self.outcomes[deed.id] = deed
            elif isinstance(deed, tuple):
                self.store(*deed)
            elif deed is not None:
                self.append(deed)
        worker.position += 1
        if worker.owner and (self.rng.random() < 0.5 or not self.faults):
            self.committed = worker.position
        self.calls += [[task, self.now, worker, at] for task in effects.tasks]

    def store(self, key, value):
        """Write the changelog; the value with more of the log in it wins (tables/actions.py)."""
        known = self.table.get(key)
        if value is None:
            self.table.pop(key, None)
        elif known is None or msgspec.msgpack.decode(value)[1] >= msgspec.msgpack.decode(known)[1]:
            self.table[key] = value

    def finish_call(self):
        if not self.calls:
            return
        task, begun, worker, announced_at = self.calls.pop(self.rng.randrange(len(self.calls)))
        if not worker.alive and (self.now - begun > CALL_SECONDS or self.rng.random() < 0.5):
            return  # it died before the request was sent
        if self.now - announced_at > FENCE_SECONDS:
            result = StepResult(What.LATER, message="too late")
        else:
            result = self.call(task)
        self.tell_facts()
        if worker.alive and not self.interrupted(0.05):
            self.append(answer_to(task.action, task.step, result))

    def call(self, task):
        fault = self.rng.random() if self.faults else 1.0
        if fault < 0.08:
            return StepResult(What.LATER, retry_after_seconds=1.0)
        if fault < 0.12:
            return StepResult(What.UNKNOWN, message="timed out before it happened")
        if fault < 0.18:
            self.late.append((self.now + self.rng.random() * 20.0, task.action, task.step))
            return StepResult(What.UNKNOWN, message="timed out and will happen")
        result = self.cluster.perform(task.action, task.step)
        return StepResult(What.UNKNOWN, message="timed out after it happened") if fault < 0.26 else result

    def finish_late(self):
        for call in [call for call in self.late if call[0] <= self.now]:
            self.late.remove(call)
            self.cluster.perform(call[1], call[2])
        self.tell_facts()

    def tell_facts(self):
        """Do as the inventory does: it sees every Job of ours appear."""
        for name, job in self.cluster.jobs.items():
            action_id = job["annotations"].get("sf-healer.io/action-id", "")
            if action_id and job["uid"] not in self.told:
                self.told.add(job["uid"])
                self.append(Seen(fact=a_fact(f"stf/{name}", job["uid"], action_id)))

    def speak(self):
        for name, job in self.cluster.jobs.items():
            if job["annotations"].get("sf-healer.io/action-id") and self.cluster.pods.get(job["uid"]):
                self.append(Alive(key=f"stf/{name}", uid=job["uid"], at=self.now))

    def meddle(self):
        """Do what people, the platform and controllers do to Jobs at the worst moment."""
        name = self.rng.choice(self.JOBS)
        job = self.cluster.jobs.get(name)
        deed = self.rng.random()
        if job is None:
            if deed < 0.3:
                self.made_by_people.add(self.cluster.put(name, {"image": "somebody else's"}))
        elif deed < 0.4:
            job["version"] += 1
        elif deed < 0.6 and job["uid"] == self.commands[name].uid and not job["leaving"]:
            job["version"] += 1
            job["spec"]["n"] += 1
            self.specs[name] = copy.deepcopy(job["spec"])
        elif deed < 0.7:
            self.append(Withdraw(id=self.commands[name].id, key=f"stf/{name}", reason="reports"))
        elif deed < 0.8 and not job["leaving"]:
            job["leaving"] = True
            self.deleted_by_people.add(job["uid"])
        elif deed < 0.9:
            self.deleted_by_people.add(job["uid"])
            self.made_by_people.add(self.cluster.put(name, {"image": "somebody else's"}))

    def step(self):
        self.now += 0.05
        if self.people and self.faults and self.rng.random() < 0.02:
            self.meddle()
        choice = self.rng.random()
        if choice < 0.5:
            self.read_one(self.rng.choice([*self.workers[-3:], self.workers[-1]]))
        elif choice < 0.75:
            self.finish_call()
        elif choice < 0.85:
            self.cluster.live()
            self.finish_late()
        elif choice < 0.90:
            self.append(Tick(worker=self.workers[-1].name))
            self.now += 1.0
        elif choice < 0.92:
            self.speak()
        elif choice < 0.93:
            self.append(counts(self.now))
        elif choice < 0.94 and self.faults:
            self.append(self.commands[self.rng.choice(self.JOBS)])  # delivered again
        for uids in self.cluster.created.values():
            # A server may finish a create long after its client gave up; only who deleted the one can tell.
            assert set(uids[:-1]) <= self.deleted_by_people, "one create happened twice"
        deleted = self.cluster.deleted
        assert len(deleted) == len(set(deleted)), "one Job was deleted twice"
        assert not self.made_by_people & set(deleted), "somebody else's Job was deleted"

    def settle(self):
        """Faults stop; everything must come to its end."""
        self.faults = False
        for worker in self.workers[:-1]:
            worker.alive = False
        for _ in range(30_000):
            self.step()
            open_ = [a for a in self.actuator.open_actions().values() if a.state is not State.STRANDED]
            idle = not open_ and not self.actuator.ledger.held and not self.actuator.ledger.slots
            if idle and self.workers[-1].position >= len(self.log) and not self.late:
                return
        raise AssertionError({key: action.state for key, action in self.actuator.open_actions().items()})


def a_fact(key, uid, action_id):
    known = {"resource_version": 1, "target": "", "queue_id": "", "producer_id": "", "kafka_topic": ""}
    known |= {"condition": Condition.ACTIVE, "pod": PodState.NONE, "created_at": START}
    return JobFact(key=key, uid=uid, action_id=action_id, **known)


def run(seed, *, people=False):
    world = World(seed, people=people)
    for _ in range(600):
        world.step()
    world.settle()
    return world


@pytest.mark.parametrize("seed", range(60))
def test_every_job_exists_once_with_its_spec_whatever_crashes(seed):
    check_that_nothing_is_lost(run(seed))


def check_that_nothing_is_lost(world):
    for name in World.JOBS:
        job, command = world.cluster.jobs[name], world.commands[name]
        assert job["spec"] == world.specs[name]
        assert not job["leaving"]
        finals = [each for each in world.outcomes.values() if each.key == command.key and each.final]
        touching = [each for each in finals if each.result is not Result.REFUSED]
        touched = command.uid in world.cluster.deleted
        assert finals, "a command without an outcome"
        assert len(touching) == (1 if touched else 0)
        if touched:
            assert job["annotations"]["sf-healer.io/replaces-uid"] == command.uid
            assert job["annotations"]["sf-healer.io/attempt"] == "1"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_people_do_meanwhile_their_jobs_are_left_alone_and_none_of_ours_is_lost(seed):
    check_that_people_are_respected(run(seed, people=True))


def check_that_people_are_respected(world):
    for name in World.JOBS:
        job, command = world.cluster.jobs.get(name), world.commands[name]
        unsure = any(
            isinstance(record, Resulted) and record.key == command.key and record.result.what is What.UNKNOWN
            for record, _ in world.log
        )
        if job is None:
            assert world.deleted_by_people or command.key in world.actuator.open_actions(), "a Job is lost"
        elif job["uid"] not in world.made_by_people and not unsure:
            assert job["spec"] == world.specs[name], "somebody's change is lost"
        assert any(outcome.key == command.key for outcome in world.outcomes.values())


def test_without_faults_every_job_is_restarted_once():
    world = World(1, faults=False)
    world.settle()
    assert sorted(world.cluster.deleted) == sorted(command.uid for command in world.commands.values())
    assert [outcome.result for outcome in world.outcomes.values()] == [Result.RESTARTED] * 3
    assert len(world.cluster.created) == 3


def test_a_leaked_settlement_of_an_unknown_action_changes_nothing():
    log = Log().append(counts())
    log.drain()
    before = log.ledger
    log.append(Settled(key="stf/x", action_id="x", repaired=False)).drain()
    assert msgspec.structs.replace(log.ledger, offset=before.offset) == before


def test_a_slot_stays_taken_though_its_action_was_opened_so_late_that_it_looked_leaked():
    """A log that is read slowly: the tick comes before the admission. Found by the simulation."""
    log = Log().append(counts(), a_command("a"))
    while not log.ledger.slots:
        record, at = log.records[log.read]
        (admitted,) = log.actuator.apply(record, log.read, at).sends or [None]
        log.read += 1
    (slot,) = log.ledger.slots
    log.append(admitted, Settled(key="stf/a", action_id=slot.action_id)).drain()
    assert list(log.actuator.open_actions()) == ["stf/a"]
    assert log.ledger.slots == (slot,)


# ---- the world above must find what it is there to find


def caught():
    for seed in range(400):
        try:
            check_that_nothing_is_lost(run(seed))
            check_that_people_are_respected(run(seed, people=True))
        except (AssertionError, KeyError):
            return True
    return False


def test_a_refusal_after_an_uncertain_delete_would_be_caught(monkeypatch):
    refuse = actions.MOVES[State.ADMITTED][actions.Sign.ABSENT]
    monkeypatch.setitem(actions.MOVES[State.SAVED], actions.Sign.UNKNOWN, refuse)
    assert caught()


def test_calls_that_are_never_given_up_would_be_caught(monkeypatch):
    monkeypatch.setattr(actuator, "is_lost", lambda *_: False)
    assert caught()


def test_a_delete_without_the_uid_precondition_would_be_caught(monkeypatch):
    perform = ModelCluster.perform

    def careless(self, action, step):
        job = self.jobs.get(action.command.name)
        if step is not Step.DELETE or job is None or job["leaving"]:
            return perform(self, action, step)
        job["leaving"] = True
        self.deleted.append(job["uid"])
        return StepResult(What.DONE)

    monkeypatch.setattr(ModelCluster, "perform", careless)
    assert caught()


def test_a_step_taken_before_its_announcement_is_read_back_would_be_caught(monkeypatch):
    append = World.append

    def hasty(self, record):
        if isinstance(record, Announced) and record.key in self.actuator.jobs:
            self.cluster.perform(self.actuator.jobs[record.key].action, record.step)
        append(self, record)

    monkeypatch.setattr(World, "append", hasty)
    assert caught()


def test_a_state_stored_before_what_it_caused_is_sent_would_be_caught(monkeypatch):
    apply = Actuator.apply

    def hasty(self, record, offset, at):
        effects = apply(self, record, offset, at)
        if effects.write is not None:
            effects.outcomes.insert(0, effects.write)
            effects.write = None
        return effects

    monkeypatch.setattr(Actuator, "apply", hasty)
    assert caught()


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"schema_version":1,"kind":"counts","partition":0,"partitions":1,"at":1.0,"base":%d,"unhealthy":0,"sick":0}'
        % 10**30,
        b'{"schema_version":1,"kind":"counts","partition":0,"partitions":1,"at":1e300,"base":1,"unhealthy":0,"sick":0}',
        b'{"schema_version":1,"kind":"withdraw","id":"c1","key":"*"}',
        b'{"schema_version":1,"kind":"settled","key":"stf/a/b","action_id":"c1"}',
    ],
)
def test_a_record_that_could_not_be_stored_or_would_take_the_ledgers_key_is_unreadable(hostile):
    assert isinstance(steps.decode(hostile), Unreadable)


# ---- the limits, a record like everything that decides


def test_the_first_tick_says_the_limits_of_the_file_and_no_other_does():
    log = Log().tick().tick().tick(60)
    said = [record for record, _ in log.records if isinstance(record, LimitsChanged)]
    assert said == [LimitsChanged(limits=Limits(), worker="w1")]
    assert log.ledger.limits == Limits()


def test_other_limits_hold_once_they_are_read_back_and_not_before():
    log = Log().tick()
    log.actuator.ask_for(Limits(rate_per_minute=0.0))
    assert log.actuator.limits == Limits()
    log.append(counts(log.now), a_command()).drain()
    assert len(log.ledger.slots) == 1
    log.tick()
    assert log.actuator.limits == Limits(rate_per_minute=0.0)
    evidence = Grounds(unhealthy_at=log.now)
    log.append(counts(log.now), a_command("b", "u-b", expires_at=log.now + 60, evidence=evidence)).drain()
    assert (log.outcomes[-1].reason, log.outcomes[-1].detail) == ("rate", "0 a minute")


def test_what_is_held_is_decided_anew_by_other_limits():
    log = Log(limits=Limits(counts_stale_after_seconds=0.0)).tick().append(counts(), a_command()).drain()
    assert log.ledger.held
    log.actuator.ask_for(Limits())
    log.tick()
    assert not log.ledger.held
    assert log.actuator.open_actions()


def test_a_worker_that_takes_over_with_another_file_goes_on_by_the_log_until_its_own_limits_are_on_it():
    log = Log().tick()
    log.options["limits"] = Limits(in_flight=2)
    log.restart()
    assert log.actuator.limits == Limits()
    log.tick()
    assert log.actuator.limits == Limits(in_flight=2)
    log.restart()
    assert log.actuator.limits == Limits(in_flight=2)


def test_limits_that_a_worker_said_late_are_corrected_by_who_reads_the_log():
    log = Log().tick().tick(60)
    log.append(LimitsChanged(limits=Limits(attempts=8), worker="w0")).drain()
    assert log.actuator.limits.attempts == 8
    log.tick()
    assert log.actuator.limits == Limits()


def test_an_observer_says_that_an_unknown_group_would_not_stop_it():
    log = Log(observe_only=True).tick()
    assert log.ledger.limits == Limits(idle_unknown_acts=True)


def test_whatever_is_asked_for_when_the_decisions_are_those_of_one_who_reads_the_log_with_any_file():
    """Replayable: the fold of the log by somebody with yet another file gives the same state."""
    rng = random.Random(7)
    choices = [
        Limits(),
        Limits(rate_per_minute=60.0, rate_burst=9, in_flight=1),
        Limits(in_flight=0),
        Limits(attempts=1, attempts_window_seconds=60.0),
        Limits(storm_jobs=0, storm_share=0.0),
    ]
    log = Log().tick()
    for number in range(60):
        log.actuator.ask_for(rng.choice(choices))
        if rng.random() < 0.2:
            log.restart()
        name = rng.choice("abcdef")
        evidence = Grounds(unhealthy_at=log.now)
        uid = f"u-{name}-{number}"
        log.append(
            counts(log.now, unhealthy=rng.randrange(4)),
            a_command(name, uid, decided_at=log.now, expires_at=log.now + 60, evidence=evidence),
        ).tick(rng.choice((1.0, 5.0, 20.0)))
        while log.tasks:
            log.answer(rng.choice((found(uid), DONE, ABSENT, REFUSED)))
    assert len({record.limits for record, _ in log.records if isinstance(record, LimitsChanged)}) == len(choices)
    assert len(log.outcomes) > 50
    reader = Actuator(worker="reader", limits=Limits(attempts=5), observe_only=False)
    for offset, (record, at) in enumerate(log.records):
        again = steps.decode(steps.encode(record))
        assert not isinstance(again, Unreadable)
        reader.apply(again, offset, at)
    assert reader.ledger == log.ledger
    assert {key: record.action for key, record in reader.jobs.items()} == {
        key: record.action for key, record in log.actuator.jobs.items()
    }


@pytest.mark.parametrize(
    "limits",
    [{"attempts": 0}, {"rate_per_minute": -1.0}, {"backoff_seconds": 1e300}, {"idle_look_seconds": 60.0}],
)
def test_limits_that_nobody_can_calculate_with_are_unreadable(limits):
    value = msgspec.json.encode({"schema_version": 1, "kind": "limits", "worker": "w1", "limits": limits})
    unreadable = steps.decode(value)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason == "invalid"
