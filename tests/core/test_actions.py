"""The restart protocol, its table row by row (test_actuator.py: as a whole, with crashes anywhere)."""

import msgspec
import pytest

from sf_healer.core.actions import (
    LATE_DELETE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LOST_POD_SECONDS,
    MOVES,
    SIGNS_OF,
    STEP_OF,
    Action,
    Pace,
    State,
    advance,
    answer_to,
    holds_slot,
    is_lost,
    manifest_to_create,
    manifest_to_rehearse,
    next_step,
    open_action,
    resource_version_to_delete,
)
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Grounds,
    ProofOfLife,
    Resolve,
    Result,
    Withdraw,
)
from sf_healer.core.facts import SKIP_ANNOTATION, Condition, JobFact, Loss, PodState
from sf_healer.core.policy import Limits
from sf_healer.core.steps import Announced, Resulted, Seen, Step, StepResult, What

LIMITS = Limits()
PACE = Pace()
MANIFEST = {"metadata": {"name": "a", "namespace": "stf"}, "spec": {"template": {"spec": {}}}}


def a_command(**changes):
    known = {
        "id": "c1",
        "key": "stf/a",
        "namespace": "stf",
        "name": "a",
        "uid": "u1",
        "verdict": "stuck",
        "evidence": Grounds(unhealthy_at=900.0),
        "decided_at": 1000.0,
        "expires_at": 1060.0,
    }
    return Command(**{**known, **changes})


def found(uid="u1", **more):
    return StepResult(What.FOUND, uid=uid, resource_version="5", manifest=MANIFEST, **more)


class Walk:
    """Walks one action through answers, announcing each step as the actuator would."""

    def __init__(self, command=None, *, observe_only=False, limits=LIMITS):
        self.now = 1001.0
        self.limits = limits
        self.action = open_action(command or a_command(), self.now, observe_only=observe_only)
        self.outcomes = []
        self.steps = []

    @property
    def outcome(self):
        return self.outcomes[-1]

    def event(self, event, **more):
        move = advance(self.action, event, self.now, self.limits, PACE, **more)
        self.action = move.action
        if move.outcome is not None:
            self.outcomes.append(move.outcome)
        return move

    def announce(self, worker="w1", **more):
        step = next_step(self.action, self.now)
        assert step is not None, f"{self.action.state} has nothing to do at {self.now}"
        seq = self.action.seq + 1
        return self.event(Announced(key="stf/a", action_id=self.action.id, seq=seq, step=step, worker=worker), **more)

    def answer(self, result, **more):
        if self.action.call is None:
            self.now = max(self.now, self.action.due_at)
            assert self.announce().perform is not None
        self.steps.append(self.action.call.step)
        self.now += 0.1
        return self.event(answer_to(self.action, self.action.call.step, result), **more)

    def to(self, state):
        """Walk the good path to a state."""
        path = {
            State.ADMITTED: [],
            State.SAVED: [found()],
            State.DELETING: [found(), DONE],
            State.RECHECKING: [found(), UNKNOWN],
            State.GONE: [found(), DONE, ABSENT],
            State.UNSURE: [found(), DONE, ABSENT, UNKNOWN],
            State.VERIFYING: [found(), DONE, ABSENT, CREATED],
            State.RESTORING: [found(), DONE, ABSENT, REFUSED],
        }
        for result in path[state]:
            self.answer(result)
        assert self.action.state is state
        return self


def as_stored_before(field, action):
    """Give an action as it is read where a release stored it that did not know this field yet, nor those behind it."""
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(action))
    known = stored[: Action.__struct_fields__.index(field)]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(known), type=Action)


DONE = StepResult(What.DONE)
CREATED = StepResult(What.DONE, uid="u2", action_id="c1")
ABSENT = StepResult(What.ABSENT)
LINGERING = StepResult(What.ABSENT, pods=1)
UNKNOWN = StepResult(What.UNKNOWN, message="timed out")
REFUSED = StepResult(What.REFUSED, status=422, message="spec.x: invalid")
LATER = StepResult(What.LATER, status=429, retry_after_seconds=7.0)
CONFLICT = StepResult(What.CONFLICT, status=409)
MISSING = StepResult(What.MISSING, status=404)
EXISTS = StepResult(What.EXISTS, status=409)
LEAVING = found(condition=Condition.DELETING, pods=1)
OTHER = found("u9", action_id="")
OTHER_LEAVING = found("u9", action_id="", condition=Condition.DELETING)
OURS = found("u2", action_id="c1", pods=1)


# ---- the table


@pytest.mark.parametrize("state", STEP_OF)
def test_every_answer_to_every_step_has_a_row_and_no_row_is_unreachable(state):
    looked = SIGNS_OF[Step.LOOK] if state is State.RESTORING else frozenset()
    assert set(MOVES[state]) == SIGNS_OF[STEP_OF[state]] | looked


def test_only_what_has_a_step_has_rows():
    assert set(MOVES) == set(STEP_OF)
    assert set(State) - set(MOVES) == {State.STRANDED, State.DONE}


def test_the_good_path_observes_deletes_waits_creates_and_verifies():
    walk = Walk().to(State.VERIFYING)
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    assert walk.steps == [Step.OBSERVE, Step.DELETE, Step.LOOK, Step.CREATE]
    assert walk.outcome.result is Result.RESTARTED
    assert (walk.outcome.uid, walk.outcome.new_uid, walk.outcome.attempt) == ("u1", "u2", 1)
    assert walk.outcome.final
    assert [name for name, _ in walk.outcome.steps] == [
        "admitted",
        "saved",
        "deleting",
        "gone",
        "verifying",
        "done",
    ]


def test_a_step_is_taken_only_when_its_announcement_is_read_back():
    walk = Walk()
    assert next_step(walk.action, walk.now) is Step.OBSERVE
    assert walk.action.call is None
    move = walk.announce()
    assert move.perform is Step.OBSERVE
    assert next_step(walk.action, walk.now) is None


def test_of_two_announcements_the_first_on_the_log_is_taken():
    walk = Walk()
    assert walk.announce(worker="w1").perform is Step.OBSERVE
    late = Announced(key="stf/a", action_id="c1", seq=1, step=Step.OBSERVE, worker="w2")
    assert walk.event(late).perform is None
    assert walk.action.call.worker == "w1"


def test_an_announcement_of_another_step_or_action_is_not_taken():
    walk = Walk()
    for event in (
        Announced(key="stf/a", action_id="c1", seq=1, step=Step.DELETE, worker="w1"),
        Announced(key="stf/a", action_id="c0", seq=1, step=Step.OBSERVE, worker="w1"),
        Announced(key="stf/a", action_id="c1", seq=2, step=Step.OBSERVE, worker="w1"),
    ):
        assert walk.event(event).perform is None


def test_a_second_answer_changes_nothing():
    walk = Walk().to(State.SAVED)
    before = walk.action
    walk.event(Resulted(key="stf/a", action_id="c1", seq=1, step=Step.OBSERVE, result=ABSENT))
    assert walk.action == before


def test_a_call_without_an_answer_is_lost_after_longer_than_any_call_takes():
    walk = Walk()
    walk.announce()
    assert not is_lost(walk.action, walk.now + 15.0, PACE)
    assert is_lost(walk.action, walk.now + 15.1, PACE)


# ---- a clock that was ahead and has been put right

A_DAY = 86_400.0


def answered_a_day_ahead(walk, result):
    """Have one answer stamped a day ahead, and the clock put right after it."""
    walk.announce()
    walk.now += A_DAY
    walk.answer(result)
    walk.now -= A_DAY
    return walk


def announced_a_day_ahead(walk):
    walk.now += A_DAY
    walk.announce()
    walk.now -= A_DAY
    return walk


def test_a_step_that_is_due_farther_ahead_than_any_pause_is_due_now():
    walk = answered_a_day_ahead(Walk().to(State.GONE), LATER)
    assert next_step(walk.action, walk.now) is Step.CREATE


def test_a_call_announced_by_a_clock_that_was_ahead_is_lost():
    walk = announced_a_day_ahead(Walk().to(State.GONE))
    assert is_lost(walk.action, walk.now, PACE)


def test_times_that_are_still_to_come_are_not_waited_for():
    walk = announced_a_day_ahead(Walk(a_command(expires_at=1e6)).to(State.SAVED))
    walk.answer(DONE)
    while not walk.outcomes:
        walk.answer(LEAVING)
    assert walk.outcome.reason == "delete_overdue"
    assert walk.now < 1400.0


def test_a_delete_announced_by_a_clock_that_was_ahead_may_yet_come_for_as_long_as_any_other():
    walk = announced_a_day_ahead(Walk(a_command(expires_at=1e6)).to(State.SAVED))
    walk.answer(UNKNOWN)
    since = walk.now
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    while not walk.outcomes:
        walk.answer(found())
    assert LATE_DELETE_SECONDS - 1.0 < walk.now - since < LATE_DELETE_SECONDS + 31.0
    assert walk.outcome.reason == "superseded"


def test_a_create_announced_by_a_clock_that_was_ahead_is_uncertain_since_the_step_before_it():
    walk = announced_a_day_ahead(Walk().to(State.GONE))
    gone_at = walk.action.since
    walk.now += 901.0  # all workers were away
    walk.answer(UNKNOWN)
    assert walk.action.create_unsure_since == gone_at
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED


# ---- before anything is touched


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ABSENT, "superseded"),
        (LINGERING, "superseded"),
        (OTHER, "superseded"),
        (LEAVING, "superseded"),
        (OTHER_LEAVING, "superseded"),
        (found("u9", action_id="c1"), "superseded"),
        (found(condition=Condition.COMPLETE), "superseded"),
        (found(condition=Condition.FAILED), "superseded"),
        (found(condition=Condition.SUSPENDED), "exempt"),
        (found(skip=True), "exempt"),
        (found(managed_by="kueue"), "exempt"),
        (found(managed=False), "exempt"),
    ],
)
def test_a_job_that_is_not_as_it_was_judged_is_not_touched(result, reason):
    walk = Walk()
    walk.answer(result)
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, reason)
    assert walk.outcome.attempt == 0
    assert walk.action.state is State.DONE


@pytest.mark.parametrize("condition", [Condition.FAILED, Condition.COMPLETE])
def test_a_job_judged_after_its_end_is_restarted(condition):
    walk = Walk(a_command(verdict="failed", evidence=Grounds(condition=condition.value)))
    walk.answer(found(condition=condition))
    assert walk.action.state is State.SAVED


def test_observe_mode_reports_and_touches_nothing():
    walk = Walk(observe_only=True)
    walk.answer(found())
    assert walk.outcome.result is Result.WOULD_RESTART
    assert walk.steps == [Step.OBSERVE]


# ---- what the API says of the Job that would be made, before anything is deleted

UNWANTED = "ValidatingAdmissionPolicy 'images' denied request: only images of the new registry"


def test_a_job_that_the_api_would_not_take_again_is_not_touched_and_is_asked_about_again_without_a_person():
    walk = Walk()
    walk.answer(found(refusal=UNWANTED))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "would_be_refused")
    assert walk.outcome.detail == UNWANTED
    assert walk.outcome.retry_after == 300.0
    assert (walk.outcome.final, walk.outcome.quarantined, walk.outcome.attempt) == (True, False, 0)
    assert walk.steps == [Step.OBSERVE]


def test_what_the_job_itself_says_comes_before_what_the_api_says():
    walk = Walk()
    walk.answer(found(skip=True, refusal=UNWANTED))
    assert walk.outcome.reason == "exempt"


def test_a_delete_without_an_answer_is_not_sent_again_where_the_api_would_not_take_the_job_again():
    walk = Walk(a_command(expires_at=1e6)).to(State.RECHECKING)
    since, before = walk.now, len(walk.steps)
    while not walk.outcomes:
        walk.answer(found(refusal=UNWANTED))
    assert set(walk.steps[before:]) == {Step.OBSERVE}
    assert walk.now - since > LATE_DELETE_SECONDS - 1.0  # the one that was sent may come for so long
    assert (walk.outcome.reason, walk.outcome.retry_after, walk.outcome.attempt) == ("would_be_refused", 300.0, 0)


def test_a_delete_without_an_answer_is_sent_again_once_the_api_takes_the_job_again():
    walk = Walk().to(State.RECHECKING)
    walk.answer(found(refusal=UNWANTED))
    walk.answer(found())
    assert walk.action.state is State.SAVED


def test_an_empty_job_that_the_api_would_not_take_again_is_watched_on():
    walk = Walk().to(State.VERIFYING)
    while not walk.outcomes:
        walk.answer(msgspec.structs.replace(OURS, pods=0, refusal=UNWANTED))
    assert walk.steps.count(Step.DELETE) == 1
    assert (walk.outcome.reason, walk.outcome.detail) == ("no_sign_of_life", f"not made again: {UNWANTED}")


def test_a_delete_of_an_empty_job_is_not_sent_again_where_the_api_would_not_take_it_again():
    walk = an_empty_job_being_replaced()
    walk.answer(UNKNOWN)
    walk.answer(found("u2", refusal=UNWANTED))
    assert walk.action.state is State.RECHECKING
    walk.now += LATE_DELETE_SECONDS
    walk.answer(found("u2", refusal=UNWANTED))
    assert walk.action.state is State.VERIFYING


def test_what_is_rehearsed_is_what_will_be_created():
    walk = Walk()
    rehearsed = manifest_to_rehearse(walk.action, found(attempt=1))
    walk.answer(found(attempt=1))
    assert rehearsed == manifest_to_create(walk.action, Step.CREATE)
    assert rehearsed["metadata"]["annotations"]["sf-healer.io/attempt"] == "2"
    walk = Walk().to(State.VERIFYING)
    rehearsed = manifest_to_rehearse(walk.action, msgspec.structs.replace(OURS, pods=0))
    assert rehearsed == manifest_to_create(an_empty_job_being_replaced().action, Step.CREATE)


@pytest.mark.parametrize(
    ("walk", "seen"),
    [
        (Walk(observe_only=True), found()),
        (Walk(), found("u9")),
        (Walk(), found(skip=True)),
        (Walk(), found(condition=Condition.COMPLETE)),
        (Walk(), ABSENT),
        (Walk().to(State.DELETING), found()),
        (Walk().to(State.UNSURE), OURS),
        (Walk().to(State.VERIFYING), OURS),
        (Walk().to(State.VERIFYING), msgspec.structs.replace(OURS, pods=0, condition=Condition.SUSPENDED)),
    ],
)
def test_where_nothing_is_to_be_deleted_nothing_is_rehearsed(walk, seen):
    assert manifest_to_rehearse(walk.action, seen) is None


def test_a_cluster_that_cannot_be_read_is_tried_until_the_command_expires():
    walk = Walk()
    while not walk.outcomes:
        walk.answer(UNKNOWN)
    assert walk.now >= 1060.0
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "expired")
    assert 4 < len(walk.steps) < 12


def test_a_job_read_too_late_is_not_touched():
    walk = Walk()
    walk.announce()
    walk.now = 1060.0
    walk.answer(found())
    assert walk.outcome.reason == "expired"


def test_no_rights_to_read_are_a_refusal_that_touched_nothing_and_is_asked_about_again_without_a_person():
    walk = Walk()
    walk.answer(StepResult(What.REFUSED, status=403, message="forbidden"))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "forbidden")
    assert walk.outcome.retry_after == 300.0
    assert not walk.outcome.quarantined


@pytest.mark.parametrize("state", [State.ADMITTED, State.SAVED])
def test_a_withdrawal_stops_what_has_not_touched_the_job(state):
    walk = Walk().to(state)
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "superseded")
    assert walk.outcome.detail == "reports"


def test_a_withdrawal_during_the_observation_waits_for_its_answer():
    walk = Walk()
    walk.announce()
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    assert not walk.outcomes
    walk.answer(found())
    assert walk.outcome.reason == "superseded"


def test_a_withdrawal_of_another_command_is_none():
    walk = Walk()
    walk.event(Withdraw(id="c0", key="stf/a"))
    assert not walk.outcomes


def test_a_sign_of_life_of_the_judged_incarnation_stops_the_action():
    walk = Walk().to(State.SAVED)
    walk.event(Alive(key="stf/a", uid="u1", at=999.0))
    assert not walk.outcomes
    walk.event(Alive(key="stf/a", uid="u1", at=1000.5))
    assert walk.outcome.reason == "superseded"


def test_a_pause_stops_an_action_right_before_its_delete():
    walk = Walk().to(State.SAVED)
    assert walk.announce(paused="*: maintenance").perform is None
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "paused")


# ---- the delete


def test_every_delete_asks_for_the_version_that_was_read_last():
    walk = Walk().to(State.SAVED)
    assert resource_version_to_delete(walk.action) == "5"
    walk.answer(UNKNOWN)
    walk.answer(msgspec.structs.replace(found(), resource_version="6"))
    assert walk.action.state is State.SAVED
    assert resource_version_to_delete(walk.action) == "6"


def test_a_job_changed_since_it_was_saved_is_observed_again():
    walk = Walk().to(State.SAVED)
    walk.answer(CONFLICT)
    assert walk.action.state is State.ADMITTED
    walk.answer(found(skip=True))
    assert (walk.outcome.reason, walk.outcome.attempt) == ("exempt", 0)


def test_a_job_that_somebody_deleted_before_us_is_not_created_again():
    walk = Walk().to(State.SAVED)
    walk.answer(MISSING)
    walk.answer(ABSENT)
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "superseded")


def test_a_job_gone_after_an_uncertain_delete_is_created_again():
    walk = Walk().to(State.RECHECKING)
    walk.answer(found())
    walk.answer(MISSING)
    assert walk.action.state is State.RECHECKING
    walk.answer(ABSENT)
    assert walk.action.state is State.GONE


@pytest.mark.parametrize("event", [Withdraw(id="c1", key="stf/a"), Alive(key="stf/a", uid="u1", at=2000.0)])
@pytest.mark.parametrize("state", [State.RECHECKING, State.DELETING, State.GONE, State.UNSURE])
def test_nothing_calls_an_action_off_once_a_delete_may_have_happened(state, event):
    walk = Walk().to(state)
    before = len(walk.outcomes)
    walk.event(event)
    assert walk.action.state is state
    assert len(walk.outcomes) == before


@pytest.mark.parametrize("late", [UNKNOWN, LATER, REFUSED, CONFLICT, MISSING])
def test_after_an_uncertain_delete_no_answer_ends_the_action(late):
    walk = Walk().to(State.RECHECKING)
    walk.answer(found())
    assert walk.announce().perform is Step.DELETE
    walk.now = 5000.0  # long expired
    walk.answer(late)
    assert walk.action.state in {State.RECHECKING, State.SAVED}
    assert all(not outcome.final for outcome in walk.outcomes)


def withdrawn(walk):
    walk.event(Withdraw(id="c1", key="stf/a", reason="it reports again"))
    return walk.announce()


def alive(walk):
    walk.event(Alive(key="stf/a", uid="u1", at=1030.0))
    return walk.announce()


def expired(walk):
    walk.now = walk.action.command.expires_at
    return walk.announce()


@pytest.mark.parametrize(
    ("announced", "reason"),
    [
        (withdrawn, "superseded"),
        (alive, "superseded"),
        (expired, "expired"),
        (lambda walk: walk.announce(paused="*: maintenance"), "paused"),
        (lambda walk: walk.announce(storm="too many"), "storm"),
    ],
)
def test_what_speaks_against_a_delete_before_it_is_sent_again_stops_it(announced, reason):
    walk = Walk().to(State.RECHECKING)
    walk.answer(found())
    assert announced(walk).perform is None
    assert walk.action.state is State.RECHECKING
    brakes = {"paused": {"paused": "*: maintenance"}, "storm": {"storm": "too many"}}.get(reason, {})
    while walk.action.state is not State.DONE:
        walk.now = max(walk.now, walk.action.due_at)
        assert walk.announce(**brakes).perform is Step.OBSERVE
        walk.answer(found(), **brakes)
    assert walk.now > walk.action.delete_sent_at + LATE_DELETE_SECONDS
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, reason)


def test_a_throttled_delete_waits_as_long_as_the_api_asks():
    walk = Walk().to(State.SAVED)
    walk.answer(LATER)
    assert walk.action.due_at == pytest.approx(walk.now + 7.0)
    assert walk.action.state is State.SAVED
    assert walk.action.touched_at == 0.0


def test_a_throttled_delete_is_given_up_when_the_command_expires_or_is_withdrawn():
    walk = Walk().to(State.SAVED)
    walk.announce()
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    walk.answer(LATER)
    assert (walk.outcome.reason, walk.outcome.attempt) == ("superseded", 0)
    walk = Walk().to(State.SAVED)
    walk.now = 1059.99
    walk.answer(LATER)
    assert (walk.outcome.reason, walk.outcome.attempt) == ("expired", 0)


def test_a_delete_put_off_after_one_without_an_answer_is_sent_again_only_if_nothing_speaks_against_it_by_then():
    walk = Walk().to(State.RECHECKING)
    walk.answer(found())
    walk.answer(LATER)
    walk.event(Alive(key="stf/a", uid="u1", at=2000.0))
    before = len(walk.steps)
    while walk.action.state is not State.DONE:
        walk.answer(found())
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "superseded")
    assert set(walk.steps[before:]) == {Step.OBSERVE}


def test_people_are_told_of_a_delete_that_is_put_off_for_too_long_after_one_without_an_answer():
    walk = Walk().to(State.RECHECKING)
    walk.answer(found())
    while not walk.outcomes:
        assert walk.now < 1500.0
        walk.answer(LATER)
    assert (walk.outcome.reason, walk.outcome.final) == ("delete_overdue", False)
    assert not holds_slot(walk.action)


def test_a_forbidden_delete_touches_nothing_and_is_asked_about_again_without_a_person():
    walk = Walk().to(State.SAVED)
    walk.answer(StepResult(What.REFUSED, status=403, message="no rights"))
    assert (walk.outcome.result, walk.outcome.reason, walk.outcome.attempt) == (Result.REFUSED, "forbidden", 0)
    assert walk.outcome.retry_after == 300.0
    assert not walk.outcome.quarantined


def test_a_delete_that_did_not_happen_is_sent_again():
    walk = Walk().to(State.DELETING)
    walk.answer(found())
    assert walk.action.state is State.RECHECKING
    walk.answer(found())
    assert walk.action.state is State.SAVED


@pytest.mark.parametrize("seen", [LEAVING, LINGERING, UNKNOWN])
def test_a_delete_past_its_limit_asks_for_a_person_gives_its_slot_back_and_goes_on(seen):
    walk = Walk().to(State.DELETING)
    while not walk.outcomes:
        walk.answer(seen)
    assert walk.now - walk.action.deleting_since > 300.0
    assert (walk.outcome.result, walk.outcome.reason) == (Result.FAILED, "delete_overdue")
    assert walk.outcome.needs_person
    assert not walk.outcome.final
    assert not holds_slot(walk.action)
    walk.answer(seen)
    assert len(walk.outcomes) == 1
    for result in (ABSENT, CREATED):
        walk.answer(result)
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    assert (walk.outcome.result, walk.outcome.final) == (Result.RESTARTED, True)


SKIPPED_LEAVING = found(condition=Condition.DELETING, skip=True)


@pytest.mark.parametrize("step", [Step.CREATE, Step.RESTORE])
@pytest.mark.parametrize(
    ("looks", "skips"),
    [
        ([SKIPPED_LEAVING], True),
        ([SKIPPED_LEAVING, UNKNOWN, LINGERING], True),
        ([LEAVING, SKIPPED_LEAVING], True),
        ([SKIPPED_LEAVING, LEAVING], False),
        ([LEAVING], False),
    ],
)
def test_an_exemption_put_on_while_the_job_leaves_is_kept_and_one_taken_back_is_not(looks, skips, step):
    walk = Walk().to(State.DELETING)
    for result in (*looks, ABSENT):
        walk.answer(result)
    annotations = manifest_to_create(walk.action, step)["metadata"].get("annotations", {})
    assert annotations.get("sf-healer.io/skip") == ("true" if skips else None)
    assert "annotations" not in MANIFEST["metadata"]


def test_an_exemption_that_is_kept_replaces_one_that_said_no():
    declined = {"metadata": {"name": "a", "annotations": {"sf-healer.io/skip": "false", "x": "y"}}, "spec": {}}
    walk = Walk()
    for result in (msgspec.structs.replace(found(), manifest=declined), DONE, SKIPPED_LEAVING, ABSENT):
        walk.answer(result)
    for step in (Step.CREATE, Step.RESTORE):
        annotations = manifest_to_create(walk.action, step)["metadata"]["annotations"]
        assert (annotations["sf-healer.io/skip"], annotations["x"]) == ("true", "y")


def test_a_restart_of_a_recreated_job_that_was_exempted_while_it_was_replaced_keeps_that():
    walk = an_empty_job_being_replaced()
    for result in (DONE, found("u2", condition=Condition.DELETING, skip=True), ABSENT):
        walk.answer(result)
    assert manifest_to_create(walk.action, Step.CREATE)["metadata"]["annotations"]["sf-healer.io/skip"] == "true"


def test_an_action_that_an_earlier_release_stored_is_read():
    action = Walk().to(State.DELETING).action
    assert as_stored_before("restore_unsure", action) == action


def test_gone_means_the_job_and_all_its_pods():
    walk = Walk().to(State.DELETING)
    walk.answer(LINGERING)
    assert walk.action.state is State.DELETING
    walk.answer(ABSENT)
    assert walk.action.state is State.GONE


@pytest.mark.parametrize("state", [State.RECHECKING, State.DELETING, State.UNSURE])
def test_a_job_that_somebody_else_made_meanwhile_is_left_to_them(state):
    walk = Walk().to(state)
    walk.answer(OTHER)
    assert (walk.outcome.result, walk.outcome.reason) == (Result.FAILED, "namesake")
    assert walk.outcome.needs_person
    assert walk.action.state is State.DONE


@pytest.mark.parametrize("state", [State.RECHECKING, State.DELETING, State.UNSURE, State.RESTORING])
def test_a_namesake_that_is_being_deleted_leaves_the_manifest_to_a_person(state):
    walk = Walk().to(state)
    if state is State.RESTORING:
        walk.answer(EXISTS)
    walk.answer(OTHER_LEAVING)
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.needs_person) == ("namesake", False, True)
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)
    assert not holds_slot(walk.action)
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.CREATE, by="ada"))
    assert (walk.action.create_id, walk.action.manifest) == ("c1-1", MANIFEST)


# ---- the create


def test_the_new_job_says_whose_place_it_takes():
    walk = Walk().to(State.GONE)
    manifest = manifest_to_create(walk.action, Step.CREATE)
    assert manifest["metadata"]["annotations"] == {
        "sf-healer.io/attempt": "1",
        "sf-healer.io/replaces-uid": "u1",
        "sf-healer.io/action-id": "c1",
        "sf-healer.io/reason": "stuck",
    }
    assert manifest["spec"] == MANIFEST["spec"]


def test_attempts_count_on_over_incarnations():
    walk = Walk()
    walk.answer(found(attempt=2))
    assert walk.action.attempt == 3


@pytest.mark.parametrize("result", [EXISTS, UNKNOWN])
def test_a_create_that_found_our_own_job_is_a_success(result):
    walk = Walk().to(State.GONE)
    walk.answer(result)
    walk.answer(OURS)
    assert (walk.action.state, walk.action.new_uid) == (State.VERIFYING, "u2")


def test_a_create_while_the_old_job_still_leaves_waits_for_it():
    walk = Walk().to(State.GONE)
    walk.answer(EXISTS)
    walk.answer(LEAVING)
    assert walk.action.state is State.DELETING


def test_a_create_that_did_not_happen_is_sent_again_for_a_quarter_of_an_hour():
    walk = Walk().to(State.UNSURE)
    since = walk.action.create_unsure_since
    while not walk.outcomes:
        walk.answer(ABSENT)
        if walk.action.state is State.GONE:
            walk.answer(UNKNOWN)
    assert 900.0 < walk.now - since < 960.0
    assert walk.action.state is State.STRANDED
    assert (walk.outcome.reason, walk.outcome.needs_person, walk.outcome.final) == (
        "create_uncertain",
        True,
        False,
    )
    assert walk.action.manifest == MANIFEST


@pytest.mark.parametrize("state", [State.UNSURE, State.RESTORING])
def test_a_create_without_an_answer_is_not_sent_again_once_its_job_may_have_been_removed_by_its_ttl(state):
    manifest = {"spec": {"ttlSecondsAfterFinished": 30}}
    walk = Walk().to(state)
    walk.action = msgspec.structs.replace(walk.action, manifest=manifest)
    if state is State.RESTORING:
        walk.answer(UNKNOWN)
    walk.answer(ABSENT)
    assert walk.action.state is not State.STRANDED
    walk.now = walk.action.create_unsure_since + 31.0
    assert walk.announce().perform is None
    walk.answer(ABSENT)
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, manifest)
    assert walk.outcome.needs_person


def test_a_job_that_is_kept_for_longer_than_a_create_may_be_uncertain_changes_nothing_about_that():
    walk = Walk().to(State.UNSURE)
    walk.action = msgspec.structs.replace(walk.action, manifest={"spec": {"ttlSecondsAfterFinished": 3600}})
    walk.now = walk.action.create_unsure_since + 899.0
    walk.answer(ABSENT)
    walk.now = walk.action.create_unsure_since + 901.0
    assert walk.announce().perform is None


def test_a_create_announced_too_late_is_not_sent():
    walk = Walk().to(State.UNSURE)
    walk.answer(ABSENT)
    walk.now += 901.0
    assert walk.announce().perform is None
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED


@pytest.mark.parametrize("state", [State.GONE, State.UNSURE])
def test_a_create_whose_job_has_spoken_is_not_sent_again(state):
    """Its answer was lost, and a person deleted the Job before the API could be asked. Found by the simulation."""
    walk = Walk().to(state)
    walk.announce()
    walk.event(Alive(key="stf/a", uid="u2", at=1030.0))
    if state is State.GONE:
        walk.answer(UNKNOWN)
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED
    assert walk.outcome.needs_person


def test_what_is_heard_of_another_job_before_a_create_is_sent_holds_it_up_no_longer():
    walk = Walk().to(State.GONE)
    walk.event(Alive(key="stf/a", uid="u2", at=1030.0))
    assert walk.announce().perform is Step.CREATE


def test_a_create_whose_job_was_seen_once_is_not_sent_again():
    walk = Walk().to(State.UNSURE)
    walk.event(Seen(fact=a_fact("u2", action_id="c1")))
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED


def test_creates_refused_for_the_moment_are_no_uncertain_ones():
    walk = Walk().to(State.GONE)
    for _ in range(200):
        walk.answer(LATER)
    assert walk.now > 2500.0
    walk.answer(CREATED)
    assert walk.action.state is State.VERIFYING


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (State.GONE, StepResult(What.LATER, status=409, message="a webhook denied it")),
        (State.UNSURE, StepResult(What.REFUSED, status=403, message="jobs is forbidden")),
        (State.UNSURE, StepResult(What.LATER, message="nobody there")),
        (State.UNSURE, UNKNOWN),
    ],
)
def test_a_job_that_is_gone_for_longer_than_a_create_may_take_asks_for_a_person_once_and_is_created_when_it_can(
    state, answer
):
    walk = Walk().to(state)
    gone_at = walk.action.gone_at
    while not walk.outcomes:
        assert walk.now - gone_at < 960.0
        walk.answer(answer)
    assert walk.now - gone_at > 900.0
    assert (walk.outcome.result, walk.outcome.reason) == (Result.FAILED, "create_overdue")
    assert (walk.outcome.needs_person, walk.outcome.final) == (True, False)
    assert walk.outcome.detail == answer.message
    assert not holds_slot(walk.action)
    walk.answer(answer)
    assert len(walk.outcomes) == 1
    walk.answer(CREATED if state is State.GONE else OURS)
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    assert (walk.outcome.result, walk.outcome.final, walk.outcome.needs_person) == (Result.RESTARTED, True, False)


def test_people_are_told_of_a_create_that_is_said_to_exist_and_is_not_there_without_end():
    walk = Walk().to(State.GONE)
    while not walk.outcomes:
        assert walk.now < 2000.0
        walk.answer(EXISTS)
        walk.answer(ABSENT)
    assert walk.outcome.reason == "create_overdue"


def test_a_delete_that_was_overdue_asks_for_nobody_once_the_job_is_gone_and_its_create_has_its_own_limit():
    walk = Walk().to(State.DELETING)
    while not walk.outcomes:
        walk.answer(LEAVING)
    walk.answer(ABSENT)
    assert holds_slot(walk.action)
    while len(walk.outcomes) < 2:
        walk.answer(LATER)
    assert [outcome.reason for outcome in walk.outcomes] == ["delete_overdue", "create_overdue"]


def test_a_person_abandons_a_create_that_is_overdue():
    walk = Walk().to(State.UNSURE)
    while not walk.outcomes:
        walk.answer(LATER)
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.ABANDON, by="ada"))
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.needs_person) == ("abandoned", True, False)


def test_a_job_that_an_earlier_release_saw_gone_is_counted_from_its_state():
    walk = Walk().to(State.GONE)
    walk.action = as_stored_before("gone_at", walk.action)
    walk.answer(LATER)
    assert not walk.outcomes
    walk.now += 900.0
    walk.answer(LATER)
    assert walk.outcome.reason == "create_overdue"


@pytest.mark.parametrize("asked", [86_400.0, 1e12])
@pytest.mark.parametrize("state", [State.GONE, State.UNSURE])
def test_no_answer_puts_the_next_try_off_for_longer_than_a_minute(state, asked):
    walk = Walk().to(state)
    walk.answer(StepResult(What.LATER, status=429, retry_after_seconds=asked))
    assert walk.action.due_at == walk.now + LONGEST_PAUSE_SECONDS


def assert_put_back(walk):
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.new_uid) == ("refused_by_api", True, "u3")


def test_what_the_api_refuses_is_put_back_as_it_was_and_the_job_quarantined():
    walk = Walk().to(State.RESTORING)
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.quarantined) == (
        "refused_by_api",
        False,
        True,
    )
    assert not holds_slot(walk.action)
    assert manifest_to_create(walk.action, Step.RESTORE) == MANIFEST
    walk.answer(REFUSED)
    walk.answer(UNKNOWN)
    walk.answer(ABSENT)
    walk.answer(StepResult(What.DONE, uid="u3"))
    assert_put_back(walk)
    assert walk.outcome.quarantined
    assert walk.outcome.result is Result.FAILED


def test_a_restore_that_finds_somebody_elses_job_leaves_it_alone():
    walk = Walk().to(State.RESTORING)
    walk.answer(EXISTS)
    assert walk.action.state is State.RESTORING
    walk.answer(OTHER)
    assert walk.steps[-2:] == [Step.RESTORE, Step.LOOK]
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.needs_person) == ("namesake", True, True)


def test_what_is_said_to_exist_where_it_is_put_back_and_is_not_there_is_put_back():
    """An API server says so of a namesake that is just being deleted, too."""
    walk = Walk().to(State.RESTORING)
    walk.answer(EXISTS)
    walk.answer(ABSENT)
    assert not walk.outcome.final
    walk.answer(StepResult(What.DONE, uid="u3"))
    assert walk.steps[-3:] == [Step.RESTORE, Step.LOOK, Step.RESTORE]
    assert_put_back(walk)


def test_after_a_restore_without_an_answer_a_look_tells_whether_it_is_back():
    walk = Walk().to(State.RESTORING)
    walk.answer(UNKNOWN)
    walk.answer(LATER)
    walk.answer(found("u3"))
    assert walk.steps[-3:] == [Step.RESTORE, Step.LOOK, Step.LOOK]
    assert_put_back(walk)


@pytest.mark.parametrize("theirs", [OTHER, OTHER_LEAVING])
def test_a_create_without_an_answer_makes_no_namesake_what_was_put_back(theirs):
    """The create would have made a Job with our marks."""
    walk = Walk().to(State.UNSURE)
    for result in (ABSENT, REFUSED, EXISTS, theirs):
        walk.answer(result)
    assert (walk.outcome.reason, walk.outcome.needs_person) == ("namesake", True)


def test_what_was_put_back_without_an_answer_and_is_being_deleted_is_not_said_to_be_back():
    walk = Walk().to(State.RESTORING)
    walk.answer(UNKNOWN)
    walk.answer(found("u3", condition=Condition.DELETING))
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)
    assert walk.outcome.needs_person


def test_only_a_restore_of_this_refusal_may_have_put_back_what_is_there():
    walk = Walk().to(State.RESTORING)
    walk.answer(UNKNOWN)
    walk.now += 901.0
    walk.answer(ABSENT)
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.CREATE, by="ada"))
    for result in (REFUSED, EXISTS, OTHER):
        walk.answer(result)
    assert (walk.outcome.reason, walk.outcome.needs_person) == ("namesake", True)


def test_what_may_have_been_put_back_before_all_workers_were_away_for_an_hour_is_not_put_back_again():
    walk = Walk().to(State.RESTORING)
    walk.answer(UNKNOWN)
    walk.answer(ABSENT)
    walk.now += 3600.0
    assert walk.announce().perform is None
    walk.answer(ABSENT)
    assert walk.steps[-2:] == [Step.LOOK, Step.LOOK]
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)


def test_a_create_that_was_refused_and_is_there_after_all_is_watched():
    walk = Walk().to(State.RESTORING)
    walk.answer(EXISTS)
    walk.answer(OURS)
    assert (walk.action.state, walk.action.new_uid) == (State.VERIFYING, "u2")


def test_a_restore_refused_for_a_quarter_of_an_hour_strands_with_the_manifest():
    walk = Walk().to(State.RESTORING)
    while walk.action.state is State.RESTORING:
        walk.answer(REFUSED)
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)
    assert walk.outcome.needs_person


def test_what_is_put_back_waits_for_an_api_that_is_away_for_an_hour():
    walk = Walk().to(State.RESTORING)
    while walk.now < 4600.0:
        walk.answer(LATER)
    walk.answer(StepResult(What.DONE, uid="u3"))
    assert_put_back(walk)


def test_what_may_have_been_put_back_a_quarter_of_an_hour_ago_is_not_put_back_again():
    walk = Walk().to(State.RESTORING)
    walk.answer(UNKNOWN)
    while walk.action.state is State.RESTORING:
        assert walk.now < 2000.0
        walk.answer(LATER)
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)


def test_a_person_lets_a_stranded_action_create_under_a_new_id():
    walk = Walk().to(State.RESTORING)
    while walk.action.state is State.RESTORING:
        walk.answer(REFUSED)
    assert next_step(walk.action, walk.now + 9999) is None
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.CREATE, by="ada"))
    walk.answer(ABSENT)
    assert (walk.action.state, walk.action.create_id) == (State.GONE, "c1-1")
    walk.answer(StepResult(What.DONE, uid="u2", action_id="c1-1"))
    assert walk.action.state is State.VERIFYING


def a_stranded_action_that_is_to_create():
    walk = Walk().to(State.UNSURE)
    walk.event(Seen(fact=a_fact("u2", action_id="c1")))
    walk.answer(LINGERING)
    assert walk.action.state is State.STRANDED
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.CREATE, by="ada"))
    return walk


def test_what_a_person_lets_create_waits_for_the_pods_of_the_job_that_was_there():
    walk = a_stranded_action_that_is_to_create()
    for _ in range(5):
        walk.answer(LINGERING)
    walk.answer(ABSENT)
    walk.answer(StepResult(What.DONE, uid="u3", action_id="c1-1"))
    assert walk.steps[-7:] == [*[Step.LOOK] * 6, Step.CREATE]
    assert walk.action.state is State.VERIFYING


def test_what_a_person_lets_create_leaves_alone_what_somebody_has_made_meanwhile():
    walk = a_stranded_action_that_is_to_create()
    walk.answer(OTHER)
    assert (walk.outcome.reason, walk.steps.count(Step.CREATE)) == ("namesake", 1)


def test_a_person_is_asked_again_where_pods_stay():
    walk = a_stranded_action_that_is_to_create()
    since = walk.now
    while walk.action.state is State.UNSURE:
        walk.answer(LINGERING)
    assert 900.0 < walk.now - since < 960.0
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, MANIFEST)
    assert (walk.outcome.needs_person, walk.outcome.final, walk.outcome.detail) == (True, False, "1 pods are left")


def test_a_create_that_is_uncertain_is_not_sent_again_beside_pods_of_the_job_it_may_have_made():
    walk = Walk().to(State.UNSURE)
    walk.answer(LINGERING)
    assert walk.action.state is State.UNSURE
    walk.answer(ABSENT)
    assert walk.action.state is State.GONE


def test_after_looks_without_an_answer_a_job_that_is_away_is_made_again_as_soon_as_one_says_so():
    walk = Walk().to(State.UNSURE)
    for _ in range(8):
        walk.answer(UNKNOWN)
        assert walk.action.due_at - walk.now <= 10.0
    walk.answer(ABSENT)
    assert (walk.action.state, next_step(walk.action, walk.now + 1.0)) == (State.GONE, Step.CREATE)


def test_a_person_abandons_a_stranded_action():
    walk = Walk().to(State.UNSURE)
    walk.event(Seen(fact=a_fact("u2", action_id="c1")))
    walk.answer(ABSENT)
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.ABANDON, by="ada"))
    assert (walk.outcome.reason, walk.outcome.final) == ("abandoned", True)


def test_a_person_cannot_resolve_what_is_going_well():
    walk = Walk().to(State.GONE)
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.ABANDON))
    assert walk.action.state is State.GONE


# ---- the proof


def test_a_sign_of_life_that_came_before_the_answer_of_the_create_counts():
    walk = Walk().to(State.GONE)
    walk.announce()
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    walk.answer(CREATED)
    assert walk.outcome.result is Result.RESTARTED


def test_a_target_that_does_not_report_is_verified_by_its_running_pod():
    walk = Walk(a_command(proof_of_life=ProofOfLife.POD)).to(State.VERIFYING)
    walk.answer(msgspec.structs.replace(OURS, pod=PodState.PENDING))
    assert not walk.outcomes
    walk.answer(msgspec.structs.replace(OURS, pod=PodState.RUNNING))
    assert walk.outcome.result is Result.RESTARTED


def test_a_running_pod_alone_proves_nothing_for_a_target_that_reports():
    walk = Walk().to(State.VERIFYING)
    walk.answer(msgspec.structs.replace(OURS, pod=PodState.RUNNING))
    assert not walk.outcomes


def test_a_new_job_that_completes_is_well():
    walk = Walk().to(State.VERIFYING)
    walk.answer(msgspec.structs.replace(OURS, condition=Condition.COMPLETE))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.RESTARTED, "completed")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (msgspec.structs.replace(OURS, condition=Condition.FAILED), "job_failed"),
        (ABSENT, "vanished"),
        (LINGERING, "vanished"),
        (OTHER, "namesake"),
        (OTHER_LEAVING, "namesake"),
    ],
)
def test_a_new_job_that_does_not_stay_is_a_failure(result, reason):
    walk = Walk().to(State.VERIFYING)
    walk.answer(result)
    assert (walk.outcome.result, walk.outcome.reason, walk.outcome.attempt) == (Result.FAILED, reason, 1)


@pytest.mark.parametrize("seen", [OURS, UNKNOWN, LATER, found("u2", condition=Condition.DELETING)])
def test_a_new_job_without_a_sign_of_life_within_its_startup_threshold_failed(seen):
    walk = Walk(a_command(startup_seconds=100.0)).to(State.VERIFYING)
    since = walk.now
    while not walk.outcomes:
        walk.answer(seen)
    assert walk.outcome.reason == "no_sign_of_life"
    assert 100.0 < walk.now - since < 131.0


def test_a_job_recreated_without_pods_is_deleted_and_created_again_under_a_new_id():
    walk = Walk().to(State.VERIFYING)
    since = walk.now
    empty = msgspec.structs.replace(OURS, pods=0, attempt=1)
    while walk.action.state is State.VERIFYING:
        walk.answer(empty)
    assert 60.0 < walk.now - since < 63.0
    assert (walk.action.state, walk.action.uid) == (State.SAVED, "u2")
    walk.answer(UNKNOWN)
    walk.answer(empty)
    walk.answer(DONE)
    walk.answer(ABSENT)
    manifest = manifest_to_create(walk.action, Step.CREATE)
    assert manifest["metadata"]["annotations"]["sf-healer.io/action-id"] == "c1-1"
    assert manifest["metadata"]["annotations"]["sf-healer.io/attempt"] == "1"
    walk.answer(StepResult(What.DONE, uid="u3", action_id="c1-1"))
    walk.event(Alive(key="stf/a", uid="u3", at=walk.now))
    assert (walk.outcome.result, walk.outcome.new_uid) == (Result.RESTARTED, "u3")


def test_a_job_that_stays_without_pods_is_given_up_after_two_replacements():
    walk = Walk().to(State.VERIFYING)
    for number in (2, 3, 4):
        empty = found(f"u{number}", pods=0)
        while walk.action.state is State.VERIFYING:
            walk.answer(empty)
        if walk.outcomes:
            break
        for result in (DONE, ABSENT, StepResult(What.DONE, uid=f"u{number + 1}")):
            walk.answer(result)
    assert (walk.outcome.reason, walk.outcome.new_uid) == ("no_pods", "u4")


def test_a_pod_that_came_and_went_is_no_empty_job():
    walk = Walk(a_command(startup_seconds=100.0)).to(State.VERIFYING)
    walk.answer(OURS)
    while not walk.outcomes:
        walk.answer(msgspec.structs.replace(OURS, pods=0))
    assert walk.outcome.reason == "no_sign_of_life"


def a_fact(uid, **more):
    known = {"resource_version": 9, "target": "t", "queue_id": "q", "producer_id": "t__q", "kafka_topic": ""}
    known |= {"condition": Condition.ACTIVE, "pod": PodState.RUNNING, "created_at": 0.0, "key": "stf/a"}
    return JobFact(uid=uid, **known | more)


def test_a_fact_about_the_job_makes_the_next_look_due_at_once():
    walk = Walk().to(State.VERIFYING)
    walk.answer(OURS)
    assert next_step(walk.action, walk.now) is None
    walk.event(Seen(fact=a_fact("u2", action_id="c1")))
    assert next_step(walk.action, walk.now) is Step.LOOK


# ---- what is found out late. Found by the simulation


@pytest.mark.parametrize("pod", [PodState.PENDING, PodState.RUNNING])
@pytest.mark.parametrize("state", [State.ADMITTED, State.RECHECKING])
def test_a_job_that_was_judged_by_a_pod_that_had_ended_is_left_alone_once_another_has_started(state, pod):
    walk = Walk(a_command(evidence=Grounds(unhealthy_at=900.0, pod_ended=True), expires_at=2000.0)).to(state)
    walk.now += LATE_DELETE_SECONDS  # a delete without an answer cannot come any more
    walk.answer(found(pod=pod, pods=1))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "superseded")
    assert "another pod" in walk.outcome.detail


def test_a_job_without_another_pod_is_restarted_for_the_one_that_ended():
    walk = Walk(a_command(evidence=Grounds(unhealthy_at=900.0, pod_ended=True)))
    walk.answer(found(pod=PodState.ENDED, pods=1))
    assert walk.action.state is State.SAVED


LOST = [(Loss.BEING_DELETED, "is being deleted"), (Loss.NODE_GONE, "node")]


@pytest.mark.parametrize(("loss", "words"), LOST)
@pytest.mark.parametrize("pod", [PodState.RUNNING, PodState.PENDING])
@pytest.mark.parametrize("state", [State.ADMITTED, State.RECHECKING])
def test_a_job_with_a_lost_pod_is_left_to_kubernetes(state, pod, loss, words):
    walk = Walk(a_command(expires_at=2000.0)).to(state)
    walk.now += LATE_DELETE_SECONDS
    walk.answer(found(pod=pod, pods=1, loss=loss, lost_seconds=LOST_POD_SECONDS))
    assert (walk.outcome.result, walk.outcome.reason) == (Result.REFUSED, "superseded")
    assert words in walk.outcome.detail
    assert walk.outcome.retry_after == 60.0
    assert walk.outcome.attempt == 0


@pytest.mark.parametrize("loss", [Loss.BEING_DELETED, Loss.NODE_GONE])
def test_a_pod_that_was_lost_for_longer_than_kubernetes_takes_holds_nothing_up(loss):
    walk = Walk()
    walk.answer(found(pod=PodState.RUNNING, pods=1, loss=loss, lost_seconds=LOST_POD_SECONDS + 1.0))
    assert walk.action.state is State.SAVED


def test_kubernetes_has_time_to_evict_the_pods_of_a_node_and_to_start_others():
    toleration, queue_and_grace = 300.0, 60.0
    assert toleration + queue_and_grace < LOST_POD_SECONDS


@pytest.mark.parametrize("condition", [Condition.FAILED, Condition.COMPLETE])
def test_a_job_that_has_ended_gets_no_other_pod_so_a_lost_one_holds_nothing_up(condition):
    """Since Kubernetes 1.31 its pods are on their way out while it is so."""
    walk = Walk(a_command(verdict="failed", evidence=Grounds(condition=condition.value)))
    walk.answer(found(condition=condition, pods=1, loss=Loss.BEING_DELETED))
    assert walk.action.state is State.SAVED


def test_a_pod_that_had_ended_and_another_that_is_being_deleted_are_told_as_they_are():
    walk = Walk(a_command(evidence=Grounds(unhealthy_at=900.0, pod_ended=True)))
    walk.answer(found(pod=PodState.PENDING, pods=1, loss=Loss.BEING_DELETED))
    assert "is being deleted" in walk.outcome.detail


def test_a_delete_is_not_sent_for_a_command_that_has_expired_meanwhile():
    walk = Walk().to(State.SAVED)
    walk.now = 1061.0  # nobody read the log for a minute
    walk.announce()
    assert (walk.outcome.reason, walk.outcome.attempt) == ("expired", 0)


def test_a_delete_is_not_sent_into_a_storm():
    walk = Walk().to(State.SAVED)
    walk.announce(storm="6 of 10 turned unhealthy together")
    assert (walk.outcome.reason, walk.outcome.attempt) == ("storm", 0)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (found(), "expired"),
        (found(skip=True), "exempt"),
        (found(condition=Condition.SUSPENDED), "exempt"),
        (found(condition=Condition.COMPLETE), "superseded"),
    ],
)
def test_an_action_whose_delete_cannot_have_happened_ends_where_something_speaks_against_it(seen, reason):
    walk = Walk(a_command() if reason == "expired" else a_command(expires_at=2000.0)).to(State.RECHECKING)
    if reason == "expired":
        walk.now = 1060.0
    while not walk.outcomes:
        walk.answer(seen)
    assert walk.now > 1001.0 + LATE_DELETE_SECONDS, "a delete that was sent may yet come"
    assert (walk.outcome.result, walk.outcome.reason, walk.outcome.attempt) == (Result.REFUSED, reason, 0)


@pytest.mark.parametrize("on_the_way", [[], [LEAVING], [LINGERING], [LEAVING, UNKNOWN, LEAVING]])
@pytest.mark.parametrize(
    "last",
    [
        found(condition=Condition.COMPLETE),
        found(condition=Condition.FAILED),
        found(condition=Condition.SUSPENDED),
        found(skip=True),
        found(managed_by="kueue"),
    ],
)
def test_a_job_that_is_gone_after_it_spoke_against_its_restart_is_not_created_without_a_person(last, on_the_way):
    """A TTL shorter than what a late delete is waited for, or a person, may have removed it."""
    as_seen = {"metadata": {"name": "a", "annotations": {"seen": "last"}}, "spec": {}}
    walk = Walk(a_command(expires_at=2000.0)).to(State.RECHECKING)
    for result in (msgspec.structs.replace(last, manifest=as_seen), *on_the_way, ABSENT):
        walk.answer(result)
    assert (walk.action.state, walk.action.manifest) == (State.STRANDED, as_seen)
    assert (walk.outcome.reason, walk.outcome.final, walk.outcome.needs_person) == ("create_uncertain", False, True)
    assert Step.CREATE not in walk.steps
    walk.event(Resolve(key="stf/a", action_id="c1", decision=Decision.CREATE, by="ada"))
    for result in (EXISTS, LEAVING, ABSENT, StepResult(What.DONE, uid="u2", action_id="c1-1")):
        walk.answer(result)
    assert walk.action.state is State.VERIFYING


@pytest.mark.parametrize(
    "event", [Withdraw(id="c1", key="stf/a", reason="reports"), Alive(key="stf/a", uid="u1", at=1000.5)]
)
def test_what_else_speaks_against_a_job_that_has_ended_does_not_hide_its_end(event):
    walk = Walk().to(State.RECHECKING)
    walk.event(event)
    walk.now = 1070.0  # expired
    walk.answer(found(condition=Condition.COMPLETE))
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED


def test_a_job_whose_exemption_was_taken_back_before_it_was_gone_is_created_again():
    walk = Walk(a_command(expires_at=2000.0)).to(State.RECHECKING)
    for result in (found(skip=True), found(), UNKNOWN, ABSENT, CREATED):
        walk.answer(result)
    assert walk.action.state is State.VERIFYING


def test_an_expired_command_or_a_pause_speaks_not_against_creating_what_a_late_delete_took():
    walk = Walk().to(State.RECHECKING)
    walk.now = 1060.0
    for result in (found(), ABSENT, CREATED):
        walk.answer(result)
    assert walk.action.state is State.VERIFYING


def test_a_sign_of_life_after_an_uncertain_delete_lets_the_job_live_if_it_is_still_there():
    walk = Walk().to(State.RECHECKING)
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    walk.now += LATE_DELETE_SECONDS
    walk.answer(found())
    assert (walk.outcome.reason, walk.outcome.detail) == ("superseded", "reports")


def test_a_sign_of_life_after_an_uncertain_delete_comes_too_late_if_the_job_is_gone():
    walk = Walk().to(State.RECHECKING)
    walk.event(Withdraw(id="c1", key="stf/a", reason="reports"))
    walk.answer(ABSENT)
    assert walk.action.state is State.GONE


def an_empty_job_being_replaced():
    walk = Walk().to(State.VERIFYING)
    while walk.action.state is State.VERIFYING:
        walk.answer(msgspec.structs.replace(OURS, pods=0, resource_version="77"))
    return walk


def test_an_empty_job_is_deleted_only_as_it_was_seen():
    walk = an_empty_job_being_replaced()
    assert resource_version_to_delete(walk.action) == "77"
    walk.answer(CONFLICT)
    assert (walk.action.state, walk.action.new_uid) == (State.VERIFYING, "u2")


@pytest.mark.parametrize(("answer", "seconds"), [(CONFLICT, 0.0), (UNKNOWN, LATE_DELETE_SECONDS)])
def test_an_empty_job_that_gets_its_pod_after_all_is_let_live(answer, seconds):
    walk = an_empty_job_being_replaced()
    walk.answer(answer)
    since = walk.now
    while walk.action.state is not State.VERIFYING:
        walk.answer(OURS)
    assert walk.now - since >= seconds - 1.0, "a delete that was sent may yet come"
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    assert (walk.outcome.result, walk.outcome.new_uid) == (Result.RESTARTED, "u2")


EMPTY = found("u2", action_id="c1")
SPARED = [
    found("u2", action_id="c1", skip=True),
    found("u2", action_id="c1", managed_by="kueue"),
    found("u2", action_id="c1", condition=Condition.SUSPENDED),
]


@pytest.mark.parametrize("seen", SPARED)
def test_an_empty_job_that_people_have_put_out_of_reach_is_not_replaced(seen):
    walk = Walk(a_command(startup_seconds=200.0)).to(State.VERIFYING)
    while not walk.outcomes:
        walk.answer(seen)
    assert walk.steps.count(Step.DELETE) == 1
    assert (walk.outcome.reason, walk.outcome.new_uid) == ("no_sign_of_life", "u2")


@pytest.mark.parametrize("seen", [*SPARED, found("u2", action_id="c1", condition=Condition.FAILED)])
def test_a_delete_of_an_empty_job_is_not_sent_again_once_something_speaks_against_it(seen):
    walk = an_empty_job_being_replaced()
    walk.answer(UNKNOWN)
    before = len(walk.steps)
    since = walk.now
    while walk.action.state is State.RECHECKING:
        walk.answer(seen)
    assert walk.now - since > LATE_DELETE_SECONDS - 1.0, "a delete that was sent may yet come"
    assert set(walk.steps[before:]) == {Step.OBSERVE}
    assert (walk.action.state, walk.action.new_uid) == (State.VERIFYING, "u2")


@pytest.mark.parametrize("seen", SPARED)
def test_an_empty_job_that_people_put_out_of_reach_and_that_is_gone_then_is_not_run_again(seen):
    walk = an_empty_job_being_replaced()
    walk.answer(UNKNOWN)
    walk.answer(seen)
    walk.answer(ABSENT)
    assert walk.action.state is State.STRANDED
    assert (walk.outcome.reason, walk.outcome.needs_person) == ("create_uncertain", True)
    annotations = manifest_to_create(walk.action, Step.CREATE)["metadata"]["annotations"]
    assert (SKIP_ANNOTATION in annotations) is seen.skip


@pytest.mark.parametrize("answer", [CONFLICT, UNKNOWN])
def test_an_empty_job_that_has_done_its_work_is_not_run_again(answer):
    walk = an_empty_job_being_replaced()
    walk.answer(answer)
    walk.answer(found("u2", action_id="c1", condition=Condition.COMPLETE))
    assert (walk.outcome.result, walk.outcome.reason, walk.outcome.new_uid) == (Result.RESTARTED, "completed", "u2")


@pytest.mark.parametrize("answers", [[MISSING], [LATER, MISSING], [CONFLICT]])
def test_an_empty_job_that_is_gone_without_a_delete_of_ours_is_not_created_again(answers):
    walk = an_empty_job_being_replaced()
    for answer in [*answers, ABSENT]:
        walk.answer(answer)
    assert (walk.outcome.reason, walk.outcome.new_uid, walk.outcome.final) == ("vanished", "u2", True)


BRAKES = [{"paused": "job:stf/a: let me look"}, {"storm": "6 of 10 turned unhealthy together"}]


@pytest.mark.parametrize("brake", BRAKES)
def test_an_empty_job_is_not_deleted_while_restarts_are_held_back(brake):
    walk = an_empty_job_being_replaced()
    assert walk.announce(**brake).perform is None
    assert (walk.action.state, walk.action.new_uid) == (State.VERIFYING, "u2")
    walk.now += 100.0
    walk.announce()
    looked = Resulted(key="stf/a", action_id="c1", seq=walk.action.seq, step=Step.LOOK, result=EMPTY)
    walk.event(looked, **brake)
    assert (walk.action.state, walk.outcomes) == (State.VERIFYING, [])
    walk.answer(EMPTY)
    assert walk.announce().perform is Step.DELETE


@pytest.mark.parametrize("brake", BRAKES)
def test_a_delete_of_an_empty_job_is_not_sent_again_while_restarts_are_held_back(brake):
    walk = an_empty_job_being_replaced()
    walk.answer(UNKNOWN)
    walk.answer(EMPTY)
    assert walk.announce(**brake).perform is None
    assert walk.action.state is State.RECHECKING
    walk.answer(ABSENT)
    assert walk.action.state is State.GONE, "the delete came through, and the action goes forward"


@pytest.mark.parametrize("answer", [REFUSED, LATER, CONFLICT])
def test_an_empty_job_that_cannot_be_deleted_is_left_where_it_is_and_told_of(answer):
    walk = an_empty_job_being_replaced()
    while not walk.outcomes:
        assert walk.now < 2000.0
        walk.answer(answer if next_step(walk.action, walk.action.due_at) is Step.DELETE else EMPTY)
    assert (walk.outcome.reason, walk.outcome.new_uid, walk.outcome.final) == ("no_pods", "u2", True)
    assert walk.steps.count(Step.CREATE) == 1


@pytest.mark.parametrize(
    "event", [Withdraw(id="c1", key="stf/a", reason="reports"), Alive(key="stf/a", uid="u1", at=5000.0)]
)
def test_what_is_said_of_the_job_that_was_deleted_does_not_call_the_replacement_off(event):
    walk = an_empty_job_being_replaced()
    before = walk.action
    walk.event(event)
    assert (walk.action, walk.outcomes) == (before, [])


def test_an_empty_job_that_speaks_before_its_delete_is_sent_is_let_live():
    walk = an_empty_job_being_replaced()
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    assert walk.announce().perform is None
    assert (walk.outcome.result, walk.outcome.new_uid) == (Result.RESTARTED, "u2")


def test_an_empty_job_that_spoke_while_it_was_to_be_replaced_is_a_success():
    walk = an_empty_job_being_replaced()
    walk.answer(UNKNOWN)
    walk.event(Alive(key="stf/a", uid="u2", at=walk.now))
    while not walk.outcomes:
        walk.answer(OURS)
    assert (walk.outcome.result, walk.outcome.new_uid) == (Result.RESTARTED, "u2")
