"""The safety valve: every reason to refuse, their order, and how the ledger learns."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import admission
from sf_healer.core.admission import (
    Allowed,
    Fleet,
    History,
    Idle,
    Ledger,
    Phase,
    Reason,
    Refused,
    Slot,
    admit,
    change_limits,
    count,
    fleet_of,
    quarantine,
    quarantine_ends_at,
    reserve,
    settle,
    tokens_left,
    watch_fleet,
)
from sf_healer.core.commands import REQUESTED_VERDICT, Command, Grounds, Pause
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.policy import Limits
from sf_healer.core.rollouts import NO_ROLLOUT, RolloutView
from sf_healer.core.steps import FleetCounts

NOW = 1_000_000.0
LIMITS = Limits()
WELL = Fleet(base=100, unhealthy=1, sick=1, as_of=NOW)


def a_command(**changes):
    known = {
        "id": "c1",
        "key": "stf/a",
        "namespace": "stf",
        "name": "a",
        "uid": "u1",
        "verdict": "stuck",
        "evidence": Grounds(unhealthy_at=NOW - 5.0),
        "decided_at": NOW - 1.0,
        "expires_at": NOW + 59.0,
        "target": "loader-producer",
        "queue_id": "q1",
    }
    return Command(**{**known, **changes})


def a_fact(**changes):
    known = {"uid": "u1", "resource_version": 1, "target": "", "queue_id": "", "producer_id": "", "kafka_topic": ""}
    known |= {"created_at": 0.0, "condition": Condition.ACTIVE, "pod": PodState.RUNNING, "managed": True}
    return JobFact(key="stf/a", **known | changes)


def ask(ledger=None, command=None, fleet=WELL, now=NOW, **more):
    return admit(ledger or Ledger(), command or a_command(), fleet, LIMITS, now, **more)


def counts(at=NOW, *, partition=0, partitions=1, base=100, unhealthy=0, sick=0):
    return FleetCounts(partition=partition, partitions=partitions, at=at, base=base, unhealthy=unhealthy, sick=sick)


def test_a_command_with_nothing_against_it_is_allowed():
    assert ask() == Allowed()


PAUSED = Ledger(pauses={"*": Pause(scope="*", reason="maintenance")})
BUSY = Ledger(slots=(Slot("stf/b", "c0", NOW),))
EMPTY_BUCKET = Ledger(tokens=0.0, tokens_at=NOW)
STORM = Ledger(phase=Phase.STORM, phase_since=NOW - 60.0, counted_at=NOW)
THREE = History(attempts=(NOW - 900.0, NOW - 600.0, NOW - 300.0), ended_at=NOW - 200.0)
ONE = History(attempts=(NOW - 5.0,), ended_at=NOW - 4.0)
TRIED = Ledger(rollout=RolloutView(progressing=True, phase="Paused"), rollout_at=NOW)

EVERY_REASON = {
    Reason.EXPIRED: {"now": NOW + 59.0},
    Reason.PAUSED: {"ledger": PAUSED},
    Reason.DUPLICATE: {"history": History(acted=("c1",))},
    Reason.EXEMPT: {"job": a_fact(skip=True)},
    Reason.SUPERSEDED: {"job": a_fact(uid="u2")},
    Reason.IDLE: {"idle": Idle.IDLE},
    Reason.IDLE_UNKNOWN: {"idle": Idle.UNKNOWN},
    Reason.ASKING: {"idle": Idle.TO_ASK},
    Reason.QUARANTINED: {"history": THREE},
    Reason.BACKOFF: {"history": ONE},
    Reason.PLATFORM_ROLLOUT: {"ledger": TRIED},
    Reason.CREATES_REFUSED: {"refused_create": "stf/b: denied by a policy"},
    Reason.COUNTS: {"fleet": msgspec.structs.replace(WELL, missing=1, as_of=0.0)},
    Reason.STORM: {"ledger": STORM},
    Reason.RATE: {"ledger": EMPTY_BUCKET},
    Reason.IN_FLIGHT: {"ledger": BUSY},
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_refuses_and_says_so(reason):
    answer = ask(**EVERY_REASON[reason])
    assert isinstance(answer, Refused)
    assert answer.reason is reason
    assert answer.detail
    assert answer.retry_after >= 0.0


def test_the_reasons_are_checked_in_the_order_of_the_enum():
    """Take away the first obstacle again and again: the next reason is the next of the enum."""
    ledger = Ledger(
        pauses=PAUSED.pauses,
        tokens=0.0,
        tokens_at=NOW,
        slots=(Slot("stf/b", "c0", NOW),),
        phase=Phase.STORM,
        phase_since=NOW,
        counted_at=NOW,
        rollout=TRIED.rollout,
        rollout_at=NOW,
    )
    history = msgspec.structs.replace(THREE, acted=("c1",), replaced=("u1",))
    arguments = {
        "ledger": ledger,
        "command": a_command(expires_at=NOW),
        "fleet": msgspec.structs.replace(WELL, as_of=NOW - 31.0),
        "history": history,
        "job": a_fact(skip=True),
        "idle": Idle.IDLE,
        "refused_create": "stf/b: denied by a policy",
    }
    remedies = {
        Reason.EXPIRED: lambda a: a | {"command": a_command()},
        Reason.PAUSED: lambda a: a | {"ledger": msgspec.structs.replace(a["ledger"], pauses={})},
        Reason.DUPLICATE: lambda a: a | {"history": msgspec.structs.replace(a["history"], acted=())},
        Reason.EXEMPT: lambda a: a | {"job": a_fact()},
        Reason.SUPERSEDED: lambda a: a | {"history": msgspec.structs.replace(a["history"], replaced=())},
        Reason.IDLE: lambda a: a | {"idle": Idle.UNKNOWN},
        Reason.IDLE_UNKNOWN: lambda a: a | {"idle": Idle.TO_ASK},
        Reason.ASKING: lambda a: a | {"idle": Idle.BUSY},
        Reason.QUARANTINED: lambda a: a | {"history": ONE},
        Reason.BACKOFF: lambda a: a | {"history": History()},
        Reason.PLATFORM_ROLLOUT: lambda a: a | {"ledger": msgspec.structs.replace(a["ledger"], rollout=NO_ROLLOUT)},
        Reason.CREATES_REFUSED: lambda a: a | {"refused_create": ""},
        Reason.COUNTS: lambda a: a | {"fleet": WELL},
        Reason.STORM: lambda a: a | {"ledger": msgspec.structs.replace(a["ledger"], phase=Phase.CALM)},
        Reason.RATE: lambda a: a | {"ledger": msgspec.structs.replace(a["ledger"], tokens=1.0)},
        Reason.IN_FLIGHT: lambda a: a | {"ledger": msgspec.structs.replace(a["ledger"], slots=())},
    }
    met = []
    while isinstance(answer := ask(**arguments), Refused):
        met.append(answer.reason)
        arguments = remedies[answer.reason](arguments)
    assert met == list(Reason)


# ---- one Job


@pytest.mark.parametrize("scope", ["*", "job:stf/a", "queue:q1", "target:loader-producer"])
def test_a_pause_holds_the_jobs_of_its_scope(scope):
    ledger = Ledger(pauses={scope: Pause(scope=scope, reason="maintenance", until=NOW + 30.0)})
    answer = ask(ledger)
    assert answer.reason is Reason.PAUSED
    assert answer.detail == f"{scope}: maintenance"
    assert ask(ledger, now=NOW + 30.0, fleet=msgspec.structs.replace(WELL, as_of=NOW + 30.0)) == Allowed()


def test_a_paused_job_is_asked_about_again_before_the_pause_is_over_for_a_person_may_end_it():
    answer = ask(Ledger(pauses={"*": Pause(scope="*", reason="maintenance", until=NOW + 3600.0)}))
    assert (answer.reason, answer.retry_after) == (Reason.PAUSED, 0.0)


@pytest.mark.parametrize("scope", ["job:stf/b", "queue:q2", "target:loader-ws", "stf/a"])
def test_a_pause_of_others_holds_nobody_else(scope):
    assert ask(Ledger(pauses={scope: Pause(scope=scope, reason="x")})) == Allowed()


def test_an_open_action_of_the_same_job_is_a_duplicate():
    assert ask(Ledger(slots=(Slot("stf/a", "c0", NOW),), window=8)).reason is Reason.DUPLICATE


@pytest.mark.parametrize(
    "job", [a_fact(skip=True), a_fact(managed_by="kueue"), a_fact(managed=False)], ids=["skip", "managedBy", "foreign"]
)
def test_an_exempt_job_is_refused(job):
    assert ask(job=job).reason is Reason.EXEMPT


def test_a_job_that_is_gone_or_replaced_is_superseded():
    assert ask(job=a_fact(condition=Condition.GONE)).reason is Reason.SUPERSEDED
    assert ask(job=a_fact(uid="u2")).reason is Reason.SUPERSEDED
    assert ask(history=History(replaced=("u1",))).reason is Reason.SUPERSEDED


def test_a_withdrawn_command_is_superseded_until_the_judgement_is_made_again():
    history = History(withdrawn=(("c1", NOW - 0.5),))
    assert ask(history=history).reason is Reason.SUPERSEDED
    assert ask(command=a_command(decided_at=NOW - 0.1), history=history) == Allowed()


def test_whether_an_unknown_consumer_group_may_be_restarted_is_for_the_policy_to_say():
    assert ask(idle=Idle.UNKNOWN).reason is Reason.IDLE_UNKNOWN
    acts = Limits(idle_unknown_acts=True)
    assert admit(Ledger(), a_command(), WELL, acts, NOW, idle=Idle.UNKNOWN) == Allowed()
    assert ask(idle=Idle.BUSY) == Allowed()


def test_a_refusal_says_what_the_consumer_group_showed():
    assert ask(idle=Idle.IDLE, group="its group g has no lag").detail == "its group g has no lag"


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_policy_may_allow_its_jobs_more_or_fewer_attempts(attempts):
    history = History(attempts=tuple(NOW - 900.0 + n for n in range(attempts - 1)), ended_at=NOW - 800.0)
    command = a_command(attempts=attempts)
    assert ask(command=command, history=history) == Allowed()
    history = msgspec.structs.replace(history, attempts=(*history.attempts, NOW - 800.0))
    assert ask(command=command, history=history).reason is Reason.QUARANTINED


def test_backoff_doubles_from_ten_seconds_to_six_minutes():
    limits = Limits(attempts=99, attempts_window_seconds=1e9)
    waits = []
    for tries in range(1, 9):
        history = History(attempts=tuple(NOW - 1 - n for n in range(tries)), ended_at=NOW)
        waits.append(admit(Ledger(), a_command(), WELL, limits, NOW, history=history).retry_after)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 360.0, 360.0]


def test_attempts_older_than_an_hour_no_longer_count():
    old = History(attempts=(NOW - 3601.0, NOW - 3700.0, NOW - 3800.0), ended_at=NOW - 3601.0)
    assert ask(history=old) == Allowed()


def test_a_quarantine_ends_an_hour_after_the_job_was_last_seen_sick():
    history = quarantine(THREE, NOW)
    assert quarantine_ends_at(history, LIMITS, NOW) == NOW + 3600.0
    later = quarantine(history, NOW + 3000.0)
    assert later.quarantined_at == NOW
    assert quarantine_ends_at(later, LIMITS, NOW + 3600.0) == NOW + 6600.0
    assert quarantine_ends_at(later, LIMITS, NOW + 6600.0) == 0.0


def test_a_job_in_quarantine_is_asked_about_every_minute_for_a_person_may_resume_it():
    answer = ask(history=THREE)
    assert (answer.reason, answer.retry_after) == (Reason.QUARANTINED, 60.0)


def test_a_person_passes_the_brakes_of_the_job_but_not_those_of_the_fleet():
    person = a_command(verdict=REQUESTED_VERDICT, requested_by="ada")
    assert ask(command=person, history=THREE) == Allowed()
    assert ask(command=person, history=ONE) == Allowed()
    for reason in (Reason.PAUSED, Reason.STORM, Reason.RATE, Reason.IN_FLIGHT, Reason.COUNTS):
        assert ask(**EVERY_REASON[reason] | {"command": person}).reason is reason


# ---- the fleet


def test_counts_hold_until_every_partition_has_counted_since_the_job_turned_unhealthy():
    ledger = Ledger()
    for partition in range(3):
        assert ask(ledger, fleet=fleet_of(ledger)).reason is Reason.COUNTS
        ledger = count(ledger, counts(NOW, partition=partition, partitions=3), LIMITS, NOW)
    assert ask(ledger, fleet=fleet_of(ledger)) == Allowed()
    late = a_command(evidence=Grounds(unhealthy_at=NOW + 0.1))
    assert ask(ledger, late, fleet=fleet_of(ledger)).reason is Reason.COUNTS


def test_counts_that_stopped_coming_hold():
    ledger = count(Ledger(), counts(), LIMITS, NOW)
    command = a_command(expires_at=NOW + 999)
    assert ask(ledger, command, fleet=fleet_of(ledger), now=NOW + 30.0) == Allowed()
    assert ask(ledger, command, fleet=fleet_of(ledger), now=NOW + 30.1).reason is Reason.COUNTS


def test_counts_are_added_up_over_partitions_and_an_older_one_is_no_news():
    ledger = Ledger()
    for partition, at in ((0, NOW), (1, NOW - 2.0), (0, NOW - 5.0)):
        one = counts(at, partition=partition, partitions=2, base=10, unhealthy=3, sick=2)
        ledger = count(ledger, one, LIMITS, NOW)
    assert fleet_of(ledger) == Fleet(base=20, unhealthy=6, sick=4, as_of=NOW - 2.0)


def test_a_count_of_a_clock_that_was_ahead_gives_way_to_one_that_is_right():
    ledger = count(Ledger(), counts(NOW + 7200, sick=9), LIMITS, NOW)
    ledger = count(ledger, counts(NOW + 1, sick=1), LIMITS, NOW + 1)
    assert (fleet_of(ledger).sick, fleet_of(ledger).as_of) == (1, NOW + 1)


def test_counts_of_another_number_of_partitions_replace_those_before():
    ledger = count(Ledger(), counts(partition=5, partitions=6), LIMITS, NOW)
    ledger = count(ledger, counts(NOW + 1, partition=0, partitions=1), LIMITS, NOW + 1)
    assert set(ledger.counts) == {0}
    assert fleet_of(ledger).missing == 0


@pytest.mark.parametrize(
    ("base", "unhealthy", "stormy"),
    [(100, 41, True), (100, 40, False), (3, 2, False), (3, 3, True), (0, 2, False), (0, 3, True), (5, 2, False)],
)
def test_a_storm_is_more_than_two_jobs_and_more_than_two_fifths_of_the_base(base, unhealthy, stormy):
    fleet = Fleet(base=base, unhealthy=unhealthy, sick=unhealthy, as_of=NOW)
    answer = ask(fleet=fleet)
    assert (answer == Allowed()) is not stormy
    if stormy:
        assert (answer.reason, answer.retry_after) == (Reason.STORM, 600.0)


def watched(ledger, seconds, *, unhealthy, sick, base=100, start=NOW):
    """Count every five seconds for a while; gives the ledger and the time."""
    now = start
    while now < start + seconds:
        now += 5.0
        ledger = count(ledger, counts(now, base=base, unhealthy=unhealthy, sick=sick), LIMITS, now)
    return ledger, now


def in_storm():
    ledger = count(Ledger(window=8), counts(unhealthy=60, sick=60), LIMITS, NOW)
    assert (ledger.phase, ledger.window) == (Phase.STORM, 1)
    return ledger


def test_a_storm_holds_for_ten_minutes_then_lets_one_canary_through():
    ledger, now = watched(in_storm(), 595.0, unhealthy=60, sick=60)
    assert ledger.phase is Phase.STORM
    ledger, now = watched(ledger, 5.0, unhealthy=0, sick=60, start=now)
    assert (ledger.phase, ledger.window) == (Phase.PROBING, 1)
    first = a_command(expires_at=now + 60)
    assert admit(ledger, first, fleet_of(ledger), LIMITS, now) == Allowed()
    ledger = reserve(ledger, first, LIMITS, now)
    second = a_command(key="stf/b", id="c2", expires_at=now + 60)
    assert admit(ledger, second, fleet_of(ledger), LIMITS, now).reason is Reason.IN_FLIGHT


def test_a_storm_is_never_for_ever_although_jobs_keep_turning_unhealthy():
    ledger, _ = watched(in_storm(), 600.0, unhealthy=60, sick=60)
    assert ledger.phase is Phase.PROBING


def probing():
    ledger, now = watched(in_storm(), 600.0, unhealthy=0, sick=60)
    return ledger, now


def test_after_a_storm_each_verified_repair_doubles_what_is_let_through():
    ledger, now = probing()
    for window in (2, 4, 8):
        ledger = settle(reserve(ledger, a_command(), LIMITS, now), "c1", LIMITS, now, repaired=True)
        assert ledger.window == window
    assert ledger.phase is Phase.CALM


def test_a_failed_canary_brings_the_hold_back():
    ledger, now = probing()
    ledger = settle(reserve(ledger, a_command(), LIMITS, now), "c1", LIMITS, now, repaired=False)
    assert (ledger.phase, ledger.phase_since, ledger.window) == (Phase.STORM, now, 1)


def test_the_ten_minutes_of_a_storm_begin_again_when_counts_were_missing():
    ledger, now = watched(in_storm(), 500.0, unhealthy=60, sick=60)
    ledger, now = watched(ledger, 100.0, unhealthy=60, sick=60, start=now + 120.0)
    assert ledger.phase is Phase.STORM
    ledger, _ = watched(ledger, 600.0, unhealthy=60, sick=60, start=now)
    assert ledger.phase is Phase.PROBING


def test_a_storm_that_passed_by_itself_is_over_after_its_hold():
    ledger, _ = watched(in_storm(), 600.0, unhealthy=0, sick=1)
    assert ledger.phase is Phase.CALM


def test_a_storm_that_follows_one_that_passed_has_ten_minutes_of_its_own():
    ledger, now = watched(in_storm(), 400.0, unhealthy=0, sick=0)
    ledger, second = watched(ledger, 5.0, unhealthy=60, sick=60, start=now)
    ledger, now = watched(ledger, 595.0, unhealthy=60, sick=60, start=second)
    assert (ledger.phase, ledger.phase_since) == (Phase.STORM, second)
    ledger, _ = watched(ledger, 5.0, unhealthy=60, sick=60, start=now)
    assert ledger.phase is Phase.PROBING


def test_a_storm_that_passed_has_passed_although_counts_were_missing_after_it():
    ledger, now = watched(in_storm(), 100.0, unhealthy=0, sick=0)
    ledger, now = watched(ledger, 400.0, unhealthy=0, sick=30, start=now + 120.0)
    ledger, second = watched(ledger, 5.0, unhealthy=60, sick=90, start=now)
    ledger, now = watched(ledger, 595.0, unhealthy=60, sick=90, start=second)
    assert (ledger.phase, ledger.phase_since) == (Phase.STORM, second)
    ledger, _ = watched(ledger, 5.0, unhealthy=60, sick=90, start=now)
    assert ledger.phase is Phase.PROBING


def test_a_storm_that_begins_when_the_hold_of_one_that_passed_ends_is_not_probed():
    ledger, now = watched(in_storm(), 590.0, unhealthy=0, sick=0)
    ledger, now = watched(ledger, 10.0, unhealthy=30, sick=30, start=now)
    assert (ledger.phase, ledger.window) == (Phase.CALM, 1)
    ledger, _ = watched(ledger, 5.0, unhealthy=60, sick=60, start=now)
    assert ledger.phase is Phase.STORM


def test_a_storm_that_goes_down_by_half_and_up_again_is_the_same_storm():
    ledger, now = watched(in_storm(), 400.0, unhealthy=30, sick=30)
    ledger, _ = watched(ledger, 200.0, unhealthy=60, sick=60, start=now)
    assert ledger.phase is Phase.PROBING


def test_a_fleet_that_recovers_while_it_is_probed_is_calm():
    ledger, now = probing()
    ledger, _ = watched(ledger, 5.0, unhealthy=0, sick=21, start=now)
    assert ledger.phase is Phase.PROBING
    ledger, _ = watched(ledger, 5.0, unhealthy=0, sick=20, start=now + 5)
    assert ledger.phase is Phase.CALM


def test_stale_counts_move_nothing():
    ledger = in_storm()
    stale = Fleet(base=100, unhealthy=0, sick=0, as_of=NOW)
    assert watch_fleet(ledger, stale, LIMITS, NOW + 9999.0) == ledger


def test_six_a_minute_with_a_burst_of_three():
    limits = Limits(in_flight=64)
    ledger, now, allowed = Ledger(window=64), NOW, []
    for second in range(180):
        now = NOW + second
        command = a_command(id=f"c{second}", key=f"stf/j{second}", expires_at=now + 60)
        if admit(ledger, command, msgspec.structs.replace(WELL, as_of=now), limits, now) == Allowed():
            ledger = reserve(ledger, command, limits, now)
            allowed.append(second)
    assert allowed[:4] == [0, 1, 2, 10]
    assert len(allowed) == 3 + 17
    assert {after - before for before, after in itertools.pairwise(allowed[3:])} == {10}


def test_a_rate_refusal_says_when_the_next_token_comes():
    assert ask(EMPTY_BUCKET).retry_after == pytest.approx(10.0)


def test_what_is_in_flight_doubles_with_repairs_that_work_and_halves_with_one_that_does_not():
    ledger, windows = Ledger(), []
    for repaired in (True, True, True, True, False, False, None, False, False):
        ledger = settle(reserve(ledger, a_command(), LIMITS, NOW), "c1", LIMITS, NOW, repaired=repaired)
        windows.append(ledger.window)
    assert windows == [2, 4, 8, 8, 4, 2, 2, 1, 1]
    assert ledger.slots == ()


def test_an_action_settled_twice_counts_once():
    ledger = settle(reserve(Ledger(), a_command(), LIMITS, NOW), "c1", LIMITS, NOW, repaired=True)
    assert settle(ledger, "c1", LIMITS, NOW, repaired=True) == ledger


# ---- whatever happens

_events = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.sampled_from([True, False, None])),
        st.tuples(st.just("wait"), st.floats(0.0, 120.0)),
        st.tuples(st.just("count"), st.integers(0, 100)),
    ),
    max_size=120,
)


@given(_events)
def test_no_sequence_of_events_passes_the_budget(events):
    ledger, now, admitted = Ledger(), NOW, []
    fleet = Fleet(base=100, unhealthy=0, sick=0, as_of=now)
    for kind, value in events:
        if kind == "wait":
            now += value
        elif kind == "count":
            one = counts(now, unhealthy=value, sick=value)
            ledger = count(ledger, one, LIMITS, now)
            fleet = fleet_of(ledger)
        elif kind == "settle" and ledger.slots:
            ledger = settle(ledger, ledger.slots[0].action_id, LIMITS, now, repaired=value)
        elif kind == "ask":
            command = a_command(
                id=f"c{value}-{now}", key=f"stf/j{value}", expires_at=now + 60, evidence=Grounds(unhealthy_at=now)
            )
            if admit(ledger, command, fleet, LIMITS, now) == Allowed():
                assert fleet.as_of >= now
                assert not (fleet.unhealthy > 2 and fleet.unhealthy > 40 and ledger.phase is Phase.CALM)
                assert ledger.phase is not Phase.STORM
                ledger = reserve(ledger, command, LIMITS, now)
                admitted.append(now)
        assert len(ledger.slots) <= LIMITS.in_flight
        assert len({slot.key for slot in ledger.slots}) == len(ledger.slots)
        assert 1 <= ledger.window <= LIMITS.in_flight
    for at in admitted:
        in_a_minute = [each for each in admitted if at <= each < at + 60.0]
        assert len(in_a_minute) <= LIMITS.rate_burst + LIMITS.rate_per_minute


def test_the_ledger_survives_its_own_bytes():
    ledger = reserve(in_storm(), a_command(), LIMITS, NOW)
    ledger = msgspec.structs.replace(ledger, pauses=PAUSED.pauses, held=(a_command(),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=Ledger) == ledger
    assert admission.Ledger() == msgspec.msgpack.decode(msgspec.msgpack.encode(Ledger()), type=Ledger)


# ---- silent consumers that may be idle


def test_silent_consumers_that_may_be_idle_are_no_storm_and_let_nobody_through_either():
    fleet = Fleet(base=5, unhealthy=3, sick=3, as_of=NOW, suspected=3)
    assert watch_fleet(Ledger(), fleet, LIMITS, NOW).phase is Phase.CALM
    assert ask(fleet=fleet).reason is Reason.COUNTS
    assert "may be idle" in ask(fleet=fleet).detail
    found_idle = Fleet(base=2, unhealthy=0, sick=0, as_of=NOW)
    assert ask(fleet=found_idle) == Allowed()
    found_stuck = Fleet(base=5, unhealthy=3, sick=3, as_of=NOW)
    assert ask(fleet=found_stuck).reason is Reason.STORM


def test_a_few_silent_consumers_among_many_hold_nobody():
    assert ask(fleet=Fleet(base=100, unhealthy=30, sick=30, as_of=NOW, suspected=30)) == Allowed()


def test_suspects_are_added_up_over_the_partitions():
    ledger = Ledger()
    for partition, suspected in enumerate((1, 2)):
        made = msgspec.structs.replace(counts(partition=partition, partitions=2, unhealthy=3), suspected=suspected)
        ledger = count(ledger, made, LIMITS, NOW)
    fleet = fleet_of(ledger)
    assert (fleet.unhealthy, fleet.suspected) == (6, 3)


# ---- other limits


def allowed_by(limits, ledger=None, now=NOW):
    return admit(ledger or Ledger(), a_command(expires_at=now + 60.0), WELL_AT(now), limits, now)


def WELL_AT(now):  # noqa: N802  WELL at another time
    return msgspec.structs.replace(WELL, as_of=now)


@pytest.mark.parametrize("ledger", [Ledger(), EMPTY_BUCKET], ids=["a bucket never used", "an empty one"])
@pytest.mark.parametrize("rate", [0.0, 1e-300, 0.01])
def test_a_rate_of_none_or_nearly_none_refuses_and_asks_again_soon(ledger, rate):
    """Soon the policy may be another one."""
    limits = Limits(rate_per_minute=rate)
    empty = msgspec.structs.replace(ledger, tokens=0.0, tokens_at=NOW)
    answer = allowed_by(limits, ledger if rate == 0.0 else empty)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.retry_after) == (Reason.RATE, 60.0)


def test_a_limit_of_none_at_once_allows_none_and_a_later_one_allows_again():
    none, some = Limits(in_flight=0), Limits(in_flight=4)
    answer = allowed_by(none)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.detail) == (Reason.IN_FLIGHT, "0 of 0 under way")
    busy = Ledger(slots=(Slot("stf/b", "c0", NOW),))
    ledger = change_limits(settle(busy, "c0", none, NOW, repaired=True), some, NOW)
    assert allowed_by(some, ledger) == Allowed()


def test_fewer_at_once_hold_for_what_is_asked_next_and_what_is_under_way_goes_on():
    slots = tuple(Slot(f"stf/{name}", name, NOW) for name in "bcd")
    ledger = change_limits(Ledger(window=8, slots=slots), Limits(in_flight=2), NOW)
    assert (ledger.window, ledger.slots) == (2, slots)
    assert isinstance(allowed_by(Limits(in_flight=2), ledger), Refused)


@given(
    st.floats(0.0, 100.0),
    st.integers(0, 20),
    st.floats(0.0, 1000.0),
    st.integers(0, 20),
    st.floats(0.0, 3600.0),
)
def test_other_limits_give_away_no_more_than_the_old_ones_had_saved_and_the_new_ones_keep(
    rate, burst, new_rate, new_burst, later
):
    old, new = Limits(rate_per_minute=rate, rate_burst=burst), Limits(rate_per_minute=new_rate, rate_burst=new_burst)
    ledger = change_limits(Ledger(tokens=0.0, tokens_at=NOW), old, NOW)
    saved = tokens_left(ledger, old, NOW + later)
    changed = change_limits(ledger, new, NOW + later)
    assert tokens_left(changed, new, NOW + later) <= min(saved, new_burst)


# ---- how many restarts may begin now

STORMY = Ledger(phase=Phase.STORM, phase_since=NOW - 60.0)
ROLLING = Ledger(rollout=RolloutView(progressing=True, phase="Progressing"), rollout_at=NOW)


@pytest.mark.parametrize(
    ("ledger", "fleet", "reason"),
    [
        (PAUSED, WELL, Reason.PAUSED),
        (ROLLING, WELL, Reason.PLATFORM_ROLLOUT),
        (Ledger(), Fleet(base=100, unhealthy=1, sick=1, as_of=0.0, missing=2), Reason.COUNTS),
        (STORMY, WELL, Reason.STORM),
        (EMPTY_BUCKET, WELL, Reason.RATE),
        (BUSY, WELL, Reason.IN_FLIGHT),
    ],
)
def test_while_something_holds_every_job_back_no_restart_is_allowed_whatever_the_budget(ledger, fleet, reason):
    assert admission.brake(ledger, fleet, LIMITS, NOW).reason is reason
    assert admission.allowed_now(ledger, fleet, LIMITS, NOW) == 0
    assert isinstance(ask(ledger, fleet=fleet), Refused)


@pytest.mark.parametrize(
    ("ledger", "allowed"),
    [
        (Ledger(), 1),
        (Ledger(window=8), 3),
        (Ledger(window=8, tokens=2.9, tokens_at=NOW), 2),
        (Ledger(window=2, slots=(Slot("stf/b", "c0", NOW),)), 1),
        (Ledger(pauses={"target:x": Pause(scope="target:x", reason="new image")}), 1),
        (Ledger(pauses={"*": Pause(scope="*", reason="over", until=NOW - 1.0)}), 1),
    ],
)
def test_without_a_brake_as_many_are_allowed_as_the_budget_and_what_is_under_way_leave(ledger, allowed):
    assert admission.brake(ledger, WELL, LIMITS, NOW) is None
    assert admission.allowed_now(ledger, WELL, LIMITS, NOW) == allowed
