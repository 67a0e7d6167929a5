"""The restart protocol: a table of states and moves, and the one function `advance` that walks it.

An action is folded from `sf-healer-steps`. A state is a fact that is on the log; STEP_OF says what comes next
from it, and MOVES what each possible answer leads to. Every answer of the cluster to every step has a row:
what is not in the table cannot happen, and a test holds the table to that.

A step is announced on the log and taken only when the announcement is read back as the next in sequence: by
then the manifest and everything before it are durable, and of two workers that both think they own the log
only one is the announcer. A call whose answer does not come is over after `Pace.lost_call_seconds`, longer
than any call takes; its result is then UNKNOWN, and UNKNOWN always leads to a look at the cluster.

Once a delete may have happened the action goes forward only, for between delete and create the Job exists only
here; unless it turns out that none has happened or can happen any more. Why these rules: docs/decisions/0006.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from sf_healer.core.admission import Reason
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Outcome,
    ProofOfLife,
    Resolve,
    Result,
    Withdraw,
    outcome_id,
)
from sf_healer.core.facts import Condition, Loss, PodState
from sf_healer.core.manifest import Manifest, Stamp, exempt, kept_when_finished, stamp
from sf_healer.core.policy import Limits
from sf_healer.core.steps import Announced, Resulted, Seen, Step, StepResult, What

# An empty Job is replaced this often: kubernetes #142142 was seen once per recreation, not for ever.
EMPTY_REPLACEMENTS = 2
# A Job still there this long after a delete was sent will not be deleted by it: an API server gives a request up
# after a minute (kube-apiserver --request-timeout).
LATE_DELETE_SECONDS = 75.0
# Whatever the API or a proxy before it asks for (Retry-After): between delete and create there is no Job.
LONGEST_PAUSE_SECONDS = 60.0
# A lost pod is left to Kubernetes for so long. From a node that does not answer it evicts pods after 300 s
# (kube-apiserver --default-unreachable-toleration-seconds), and starts others at once; as long again for its queues
# and the grace of a pod (docs/decisions/0026).
LOST_POD_SECONDS = 600.0
_LOST_POD_RETRY_SECONDS = 60.0
_LOSSES = {
    Loss.BEING_DELETED: "a pod of it is being deleted: the Job controller starts another",
    Loss.NODE_GONE: "the node of its pod does not answer: Kubernetes evicts the pod",
}
# Whom the API refuses is asked about again: rights and policies are mended without our being told. Each time costs a
# token of the rate, which others need as well.
REFUSED_BY_API_RETRY_SECONDS = 300.0


_CREATES = frozenset({Step.CREATE, Step.RESTORE})
# The condition in which a Job of ours without pods is made again.
_EMPTY = Condition.ACTIVE


class State(StrEnum):
    """What is known to have happened."""

    ADMITTED = "admitted"
    SAVED = "saved"  # the manifest is on the log
    RECHECKING = "rechecking"  # a delete may have happened
    DELETING = "deleting"  # the delete was accepted; Job or pods are still there
    GONE = "gone"  # Job and pods are gone
    UNSURE = "unsure"  # a create may have happened
    VERIFYING = "verifying"  # the new incarnation exists
    RESTORING = "restoring"  # our create was refused: what was there is put back
    STRANDED = "stranded"  # a person must decide; the manifest is kept
    DONE = "done"


STEP_OF = {
    State.ADMITTED: Step.OBSERVE,
    State.SAVED: Step.DELETE,
    State.RECHECKING: Step.OBSERVE,
    State.DELETING: Step.LOOK,
    State.GONE: Step.CREATE,
    State.UNSURE: Step.LOOK,
    State.VERIFYING: Step.LOOK,
    State.RESTORING: Step.RESTORE,
}


class Cause(StrEnum):
    """Why an action ended as it did; Reason has the words for refusals. A metric label."""

    VERIFIED = "verified"
    COMPLETED = "completed"
    OBSERVE_MODE = "observe_mode"
    NO_SIGN_OF_LIFE = "no_sign_of_life"
    NO_PODS = "no_pods"
    JOB_FAILED = "job_failed"
    VANISHED = "vanished"  # the new incarnation was deleted by somebody else
    NAMESAKE = "namesake"  # somebody else made a Job of this name meanwhile
    FORBIDDEN = "forbidden"  # the API refused us before anything was touched; the result is `refused`
    WOULD_BE_REFUSED = "would_be_refused"  # the API would not take the Job again, so it was not touched; `refused`
    REFUSED_BY_API = "refused_by_api"  # the API refused the new Job
    DELETE_OVERDUE = "delete_overdue"
    CREATE_OVERDUE = "create_overdue"
    CREATE_UNCERTAIN = "create_uncertain"
    ABANDONED = "abandoned"


#: A call of the Kubernetes API has ended after this long, whatever became of it.
CALL_SECONDS = 10.0
#: No step that changes something begins later than this after its announcement was sent: a worker that was paused, or
#: cut off from its broker, must find out that another one took over. It was appended no earlier than that, and this is
#: shorter than `Pace.lost_call_seconds` by more than a call takes.
FENCE_SECONDS = 4.0


class Pace(msgspec.Struct, frozen=True):
    """How often the cluster is asked; seconds."""

    look_seconds: float = 1.0
    slow_look_seconds: float = 10.0  # once there is nothing to wait for but telemetry, or a person
    retry_seconds: float = 1.0  # doubling
    retry_limit_seconds: float = 10.0  # there may be no Job meanwhile, and few are restarted at a time
    lost_call_seconds: float = 15.0  # longer than FENCE_SECONDS and CALL_SECONDS together


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A step that is being taken."""

    step: Step
    worker: str
    at: float  # when its announcement was appended


class Action(msgspec.Struct, frozen=True, array_like=True):
    """One restart, from admission to outcome; fields in wire order, add at the end only."""

    command: Command
    observe_only: bool
    state: State
    since: float  # when the state was entered
    due_at: float  # when its step may be announced
    seq: int = 0  # announcements read back so far
    call: Call | None = None
    tries: int = 0  # answers in this state that led nowhere
    uid: str = ""  # the incarnation to delete, or deleted last
    resource_version: str = ""
    manifest: Manifest | None = None
    attempt: int = 0  # of the new incarnation
    touched_at: float = 0.0  # when a delete was first announced
    deleting_since: float = 0.0
    overdue: bool = False  # the delete, or the create, is past its limit, and people know
    creates: int = 0  # creates given up before this one: each has its own id
    create_unsure_since: float = 0.0  # when the first create whose result is unknown was announced
    create_seen: bool = False  # a Job with the current create's id was seen, or one has spoken
    new_uid: str = ""
    pod_seen: bool = False
    alive_uid: str = ""
    withdrawn: str = ""
    refusal: str = ""  # what the API said to our create
    steps: tuple[tuple[str, float], ...] = ()
    delete_sent_at: float = 0.0  # when a delete was last announced
    look_first: bool = False  # where what was there is put back, something exists, or may: whose, a look tells
    gone_at: float = 0.0  # when Job and pods were found gone, or a person had it created
    restore_unsure: bool = False  # since the refusal, a restore had no answer: a Job without our marks may be its
    spared_for: str = ""  # what the Job itself said, when it was last seen, against a delete that had no answer
    skip: bool = False  # the Job being deleted was exempt when it was last seen: the next one is, too
    opened: int = -1  # offset of the record that opened it: a command that comes again has another life

    @property
    def id(self) -> str:
        """The id of the action is that of the command."""
        return self.command.id

    @property
    def create_id(self) -> str:
        """The id the Job being created carries: a new one for each create that may not be confused."""
        return self.id if self.creates == 0 else f"{self.id}-{self.creates}"

    @property
    def asks_for_a_person(self) -> bool:
        """Whether a person may decide about it."""
        return asks_for_a_person(self.state, overdue=self.overdue, refusal=self.refusal)


class Move(msgspec.Struct, frozen=True):
    """What an event led to. `perform` may be done by the worker that announced it, and by no other."""

    action: Action
    perform: Step | None = None
    outcome: Outcome | None = None


Event = Announced | Resulted | Withdraw | Alive | Seen | Resolve


class _Moment(msgspec.Struct, frozen=True):
    """What every move may look at beside the action."""

    now: float
    limits: Limits
    pace: Pace
    paused: str
    storm: str
    refused_create: str
    result: StepResult = StepResult(What.UNKNOWN)


def open_action(command: Command, now: float, *, observe_only: bool, opened: int = -1) -> Action:
    """Begin the action of a command that was admitted at offset `opened`."""
    return Action(
        command=command,
        observe_only=observe_only,
        state=State.ADMITTED,
        since=now,
        due_at=now,
        uid=command.uid,
        steps=((State.ADMITTED.value, now),),
        opened=opened,
    )


def advance(
    action: Action,
    event: Event,
    now: float,
    limits: Limits,
    pace: Pace | None = None,
    *,
    paused: str = "",
    storm: str = "",
    refused_create: str = "",
) -> Move:
    """Fold one record about this action, read from the log at append time `now`.

    A record that is not its turn (another sequence number, another action, said twice) changes nothing.
    `paused` names the pause that holds for the Job, `storm` the storm in which nothing is restarted, `refused_create`
    another Job that the API would not have again: they stop what has not touched the Job yet.
    """
    moment = _Moment(now, limits, pace or Pace(), paused, storm, refused_create)
    action = _put_right(action, now)
    match event:
        case Announced():
            return _announced(action, event, moment)
        case Resulted():
            return _resulted(action, event, moment)
        case Withdraw():
            if event.id != action.id:
                return Move(action)
            return _called_off(action, event.reason or "withdrawn", now)
        case Alive():
            return _alive(action, event, moment)
        case Seen():
            return _seen(action, event, moment)
        case Resolve():
            return _resolved(action, event, moment)


def answer_to(action: Action, step: Step, result: StepResult) -> Resulted:
    """Compose the record of what came of the call that is under way."""
    return Resulted(
        key=action.command.key, action_id=action.id, seq=action.seq, step=step, result=result, opened=action.opened
    )


def give_up(action: Action, now: float, detail: str) -> Move:
    """Close an action that waits for a person although its Job exists again."""
    return _conclude(action, Result.FAILED, Cause.ABANDONED, now, detail=detail)


def call_off(action: Action, why: str, now: float) -> Move:
    """Take an action back that was withdrawn before it was opened."""
    return _called_off(action, why, now)


def next_step(action: Action, now: float) -> Step | None:
    """Give the step that should be announced now, if one is due; no pause is so long that one is due far ahead."""
    if action.call is not None or now < action.due_at <= now + LONGEST_PAUSE_SECONDS:
        return None
    return _step_of(action)


def _step_of(action: Action) -> Step | None:
    """Give the step that comes next from a state; one that puts back what was there may have to look first."""
    return Step.LOOK if action.look_first else STEP_OF.get(action.state)


def is_lost(action: Action, now: float, pace: Pace) -> bool:
    """Return whether the call under way will not be answered any more: its worker is gone.

    A call dated as far in the future counts as lost too: its age is unknown.
    """
    return action.call is not None and abs(now - action.call.at) > pace.lost_call_seconds


def holds_slot(action: Action) -> bool:
    """Return whether the action counts as in flight; one that waits for a person does not."""
    return not (action.overdue or action.refusal or action.state in {State.STRANDED, State.DONE})


def create_refused_at(action: Action) -> float | None:
    """Give when the API refused the create of an action that is open since; None where it did not."""
    refused = (at for name, at in action.steps if name == State.RESTORING)
    return max(refused, default=None) if action.refusal else None


def resource_version_to_delete(action: Action) -> str | None:
    """Give the version a DELETE asks for, so that nobody's change since the Job was last read is lost.

    Also where it is sent again: by then the Job may have ended, or been suspended, and the Job controller may have
    found one that was empty.
    """
    return action.resource_version or None


def manifest_to_create(action: Action, step: Step) -> Manifest:
    """Give the manifest a CREATE or RESTORE sends."""
    assert action.manifest is not None
    manifest = exempt(action.manifest) if action.skip else action.manifest
    if step is Step.RESTORE:
        return manifest
    command = action.command
    mark = Stamp(
        attempt=action.attempt,
        replaces_uid=command.uid,
        action_id=action.create_id,
        reason=f"{command.verdict}: {command.evidence.detail}" if command.evidence.detail else command.verdict,
    )
    return stamp(manifest, mark)


def asks_for_a_person(state: str, *, overdue: bool, refusal: str) -> bool:
    """Return whether an open action of which this is known asks for a person, who may decide about it.

    It has given up, takes too long, or its Job is gone and the API will not have it back.
    """
    return state == State.STRANDED or overdue or bool(refusal)


def manifest_to_rehearse(action: Action, result: StepResult) -> Manifest | None:
    """Give what will be created if the Job that was just read is deleted next; None where it is not going to be.

    Whether the API takes it is asked before the delete, for afterwards it is too late: 0027.
    """
    if result.what is not What.FOUND or action.observe_only or action.withdrawn:
        return None
    sign = _sign(action, result)
    if action.state is State.VERIFYING:
        is_empty = sign is Sign.OURS and not (result.pods or action.pod_seen or _its_own_objection(result, _EMPTY))
        replaced = msgspec.structs.replace(action, creates=action.creates + 1)
        return manifest_to_create(replaced, Step.CREATE) if is_empty and action.creates < EMPTY_REPLACEMENTS else None
    if STEP_OF.get(action.state) is not Step.OBSERVE or sign is not Sign.SAME:
        return None
    if _replaces_own(action):
        is_empty = not (result.pods or _its_own_objection(result, _EMPTY))
        return manifest_to_create(action, Step.CREATE) if is_empty else None
    if _its_own_objection(result, action.command.evidence.condition):
        return None
    return manifest_to_create(_with_manifest_of(action, result), Step.CREATE)


# ---- a clock that was ahead


def _put_right(action: Action, now: float) -> Action:
    """Bring times that are still to come back to now: a clock that was ahead wrote them, and nothing waits for it.

    What is safe only while it is young, a call and a create without an answer, counts from the last step before.
    """
    call, unsure_since = action.call, action.create_unsure_since
    before = max((at for _, at in action.steps if at <= now), default=now)
    if call is not None and call.at > now:
        call = msgspec.structs.replace(call, at=before)
    return msgspec.structs.replace(
        action,
        since=min(action.since, now),
        due_at=min(action.due_at, now + LONGEST_PAUSE_SECONDS),
        call=call,
        touched_at=min(action.touched_at, now),
        deleting_since=min(action.deleting_since, now),
        create_unsure_since=before if unsure_since > now else unsure_since,
        delete_sent_at=min(action.delete_sent_at, now),
        gone_at=min(action.gone_at, now),
    )


# ---- events that are no answers


def _announced(action: Action, event: Announced, moment: _Moment) -> Move:
    its_turn = (
        event.action_id == action.id
        and event.seq == action.seq + 1
        and action.call is None
        and event.step is _step_of(action)
    )
    if not its_turn:
        return Move(action)
    if event.step is Step.DELETE and (stopped := _stopped_delete(action, event, moment)) is not None:
        return stopped
    if event.step in _CREATES and not _may_create(action, moment):
        return (_check_create if event.step is Step.CREATE else _check_restore)(action, moment)
    action = msgspec.structs.replace(action, seq=event.seq, call=Call(event.step, event.worker, moment.now))
    if event.step is Step.DELETE:
        action = msgspec.structs.replace(action, touched_at=action.touched_at or moment.now, delete_sent_at=moment.now)
    return Move(action, perform=event.step)


def _stopped_delete(action: Action, event: Announced, moment: _Moment) -> Move | None:
    """Return the move that replaces a delete that must not be sent, or None to send it.

    If an earlier delete may still arrive, recheck instead of concluding.
    """
    if _replaces_own(action):
        return _not_deleted(action, moment) if event.observe_only or _spares_own(action, moment) else None
    brake = _brake(action, moment)
    if _may_have_deleted(action):
        if event.observe_only and not action.withdrawn:
            action = msgspec.structs.replace(action, withdrawn="the mode is observe now")
        return _recheck(action, moment) if brake is not None or action.withdrawn else None
    if brake is not None:
        return _refuse(action, brake[0], moment.now, brake[1])
    if event.observe_only:
        return _conclude(action, Result.WOULD_RESTART, Cause.OBSERVE_MODE, moment.now)
    return None


def _brake(action: Action, moment: _Moment) -> tuple[Reason, str] | None:
    """Say what keeps a delete of the Job that was judged from being sent, although its command was admitted."""
    if moment.now >= action.command.expires_at:
        return Reason.EXPIRED, "it was admitted in time, and nobody got to it"
    return _held_back(moment)


def _held_back(moment: _Moment) -> tuple[Reason, str] | None:
    if moment.paused:
        return Reason.PAUSED, moment.paused
    if moment.storm:
        return Reason.STORM, moment.storm
    return (Reason.CREATES_REFUSED, moment.refused_create) if moment.refused_create else None


def _may_create(action: Action, moment: _Moment) -> bool:
    """Return whether a create cannot be a second one: a Job removed by its TTL must not run again (decisions/0006)."""
    unsure_for = moment.now - action.create_unsure_since if action.create_unsure_since else 0.0
    within = min(moment.limits.create_deadline_seconds, kept_when_finished(action.manifest or {}))
    return not action.create_seen and unsure_for <= within


def _may_have_created(action: Action) -> bool:
    """Return whether a create is under way, or has had no answer, and no look has told yet what became of it."""
    is_sent = action.create_unsure_since or (action.call is not None and action.call.step is Step.CREATE)
    return bool(is_sent) and action.state in {State.GONE, State.UNSURE}


def _resulted(action: Action, event: Resulted, moment: _Moment) -> Move:
    call = action.call
    if event.action_id != action.id or event.seq != action.seq or call is None or event.step is not call.step:
        return Move(action)
    if event.opened != action.opened and min(event.opened, action.opened) >= 0:
        return Move(action)  # a late answer to an action of the same command that has ended
    moment = msgspec.structs.replace(moment, result=event.result)
    answered = msgspec.structs.replace(action, call=None)
    what = event.result.what
    if call.step in _CREATES and what is What.UNKNOWN and not action.create_unsure_since:
        answered = msgspec.structs.replace(answered, create_unsure_since=call.at)
    if call.step is Step.RESTORE and what is What.UNKNOWN:
        answered = msgspec.structs.replace(answered, restore_unsure=True)
    if call.step is Step.DELETE and what in {What.DONE, What.UNKNOWN} and not action.deleting_since:
        answered = msgspec.structs.replace(answered, deleting_since=call.at)
    sign = _sign(action, event.result)
    # An answer that this step cannot have is a fault of whoever wrote it: look, as after no answer at all.
    return MOVES[action.state][sign if sign in SIGNS_OF[call.step] else Sign.UNKNOWN](answered, moment)


def _called_off(action: Action, why: str, now: float) -> Move:
    """Take the command back, as long as nothing has been touched; a call under way is awaited first."""
    if action.state not in {State.ADMITTED, State.SAVED, State.RECHECKING} or _replaces_own(action):
        return Move(action)
    if action.call is None and not _may_have_deleted(action):
        return _refuse(action, Reason.SUPERSEDED, now, why)
    return Move(msgspec.structs.replace(action, withdrawn=why))


def _alive(action: Action, event: Alive, moment: _Moment) -> Move:
    if event.uid == action.command.uid:
        if event.at > action.command.decided_at:
            return _called_off(action, "a sign of life", moment.now)
        return Move(action)
    action = msgspec.structs.replace(action, alive_uid=event.uid)
    if event.uid != action.uid and _may_have_created(action):
        action = msgspec.structs.replace(action, create_seen=True)  # it lived: where there is none now, it was removed
    if action.state is State.VERIFYING and event.uid == action.new_uid:
        return _conclude(action, Result.RESTARTED, Cause.VERIFIED, moment.now)
    return Move(action)


def _seen(action: Action, event: Seen, moment: _Moment) -> Move:
    """Look at once when the inventory saw the Job move; remember a Job with the id of our create."""
    fact = event.fact
    ours = fact.action_id == action.create_id and fact.uid != action.uid
    if ours and action.state in {State.GONE, State.UNSURE}:
        action = msgspec.structs.replace(action, create_seen=True)
        if action.state is State.GONE and action.call is None:
            return _check_create(action, moment)
    if action.state in {State.DELETING, State.UNSURE, State.VERIFYING}:
        action = msgspec.structs.replace(action, due_at=min(action.due_at, moment.now))
    return Move(action)


def _resolved(action: Action, event: Resolve, moment: _Moment) -> Move:
    if event.action_id != action.id or holds_slot(action):
        return Move(action)
    if event.decision is Decision.ABANDON:
        return _conclude(action, Result.FAILED, Cause.ABANDONED, moment.now, detail=f"by {event.by}")
    if action.state is not State.STRANDED:
        return Move(action)
    return Move(  # a look comes first: there may be a Job by now, or pods of one
        msgspec.structs.replace(
            _enter(action, State.UNSURE, moment.now),
            creates=action.creates + 1,
            create_unsure_since=0.0,
            create_seen=False,
            refusal="",
            overdue=False,
            gone_at=moment.now,
            spared_for="",
        )
    )


# ---- what an answer means to this action


class Sign(StrEnum):
    """What an answer means: a Job that was found is told apart by whose it is."""

    SAME = "same"  # the incarnation to delete, not being deleted
    LEAVING = "leaving"  # the incarnation to delete, or the new one, being deleted
    OURS = "ours"  # the incarnation this action made
    OTHER = "other"  # somebody else's
    OTHER_LEAVING = "other_leaving"  # somebody else's, being deleted
    ABSENT = "absent"
    LINGERING = "lingering"  # no Job, but pods of it
    DONE = "done"
    MISSING = "missing"
    CONFLICT = "conflict"
    EXISTS = "exists"
    REFUSED = "refused"
    LATER = "later"
    UNKNOWN = "unknown"


_FAILED_TO_ASK = frozenset({Sign.REFUSED, Sign.LATER, Sign.UNKNOWN})
_SIGHTS = frozenset({Sign.SAME, Sign.LEAVING, Sign.OURS, Sign.OTHER, Sign.OTHER_LEAVING, Sign.ABSENT, Sign.LINGERING})
SIGNS_OF = {
    Step.OBSERVE: _SIGHTS | _FAILED_TO_ASK,
    Step.LOOK: _SIGHTS | _FAILED_TO_ASK,
    Step.DELETE: frozenset({Sign.DONE, Sign.MISSING, Sign.CONFLICT}) | _FAILED_TO_ASK,
    Step.CREATE: frozenset({Sign.DONE, Sign.EXISTS}) | _FAILED_TO_ASK,
    Step.RESTORE: frozenset({Sign.DONE, Sign.EXISTS}) | _FAILED_TO_ASK,
}


def _sign(action: Action, result: StepResult) -> Sign:
    if result.what is What.ABSENT:
        return Sign.LINGERING if result.pods else Sign.ABSENT
    if result.what is not What.FOUND:
        return Sign(result.what.value)
    mine = bool(action.new_uid) and result.uid == action.new_uid
    if mine or result.uid == action.uid:
        if result.condition is Condition.DELETING:
            return Sign.LEAVING
        return Sign.OURS if mine and action.state is State.VERIFYING else Sign.SAME
    if result.action_id == action.create_id:
        return Sign.OURS
    return Sign.OTHER_LEAVING if result.condition is Condition.DELETING else Sign.OTHER


# ---- the moves; each row of MOVES names one


def _observed(action: Action, moment: _Moment) -> Move:
    """Save the Job that was judged, unless something speaks against touching it."""
    objection = _objection(action, moment)
    if objection is not None:
        return _refuse(action, objection[0], moment.now, objection[1], _retry_after(moment.result))
    if action.observe_only:
        return _conclude(action, Result.WOULD_RESTART, Cause.OBSERVE_MODE, moment.now)
    if moment.result.refusal:
        return _untouched(action, Cause.WOULD_BE_REFUSED, moment, moment.result.refusal)
    return _save(action, moment)


def _objection(action: Action, moment: _Moment) -> tuple[Reason, str] | None:
    """Say what speaks against touching the Job as it was just read."""
    result, command = moment.result, action.command
    if action.withdrawn:
        return Reason.SUPERSEDED, action.withdrawn
    if moment.now >= command.expires_at:
        return Reason.EXPIRED, "the cluster could not be reached in time"
    its_own = _its_own_objection(result, command.evidence.condition)
    if its_own is not None:
        return its_own
    if _is_left_to_kubernetes(result):
        return Reason.SUPERSEDED, _LOSSES[result.loss]
    if command.evidence.pod_ended and result.pod in {PodState.PENDING, PodState.RUNNING}:
        return Reason.SUPERSEDED, "the Job controller has started another pod"
    return None


def _is_left_to_kubernetes(result: StepResult) -> bool:
    """Return whether a pod of the Job was lost so lately that Kubernetes may yet put another in its place.

    A Job that is being deleted gets none, and waits for a pod whose kubelet cannot say that it has ended. To a Job that
    has ended nothing of that matters: it gets no other pod anyway.
    """
    is_active = result.condition is Condition.ACTIVE
    return is_active and result.loss is not Loss.NONE and result.lost_seconds <= LOST_POD_SECONDS


def _retry_after(result: StepResult) -> float:
    """Return for how long the Job is not to be judged anew, seconds; 0: for as long as after any refusal."""
    return _LOST_POD_RETRY_SECONDS if _is_left_to_kubernetes(result) else 0.0


def _its_own_objection(result: StepResult, expected: str) -> tuple[Reason, str] | None:
    """Say what the Job itself says against its restart: a person's hand on it, or that it has ended meanwhile.

    `expected`: the condition in which it is to be restarted.
    """
    exemption = _exemption(result)
    if exemption:
        return Reason.EXEMPT, exemption
    if result.condition.value != expected:
        return Reason.SUPERSEDED, f"the Job is {result.condition} meanwhile"
    return None


def _still_there(action: Action, moment: _Moment) -> Move:
    """Send the delete again, for it has not happened; if something speaks against it by now, let none happen.

    A delete without an answer may yet come: the action ends only when that is over. What the Job itself says is
    remembered until then, with the Job as it is: should it be gone, nobody here knows who removed it.
    """
    if _replaces_own(action):
        return _still_there_and_ours(action, moment)
    its_own = _its_own_objection(moment.result, action.command.evidence.condition)
    action = msgspec.structs.replace(action, spared_for="" if its_own is None else its_own[1])
    if its_own is not None:
        action = msgspec.structs.replace(action, manifest=moment.result.manifest or action.manifest)
    objection = _held_back(moment) or _objection(action, moment)
    if objection is None and not moment.result.refusal:
        return _save(action, moment)
    if moment.now - action.delete_sent_at <= LATE_DELETE_SECONDS:
        return _look_again(action, moment)
    untouched = msgspec.structs.replace(action, deleting_since=0.0)
    if objection is None:
        return _untouched(untouched, Cause.WOULD_BE_REFUSED, moment, moment.result.refusal)
    return _refuse(untouched, objection[0], moment.now, objection[1], _retry_after(moment.result))


def _still_there_and_ours(action: Action, moment: _Moment) -> Move:
    """Delete the empty Job that we made again; if something speaks against it by now, go back to watching it."""
    result = moment.result
    if result.condition is Condition.COMPLETE:  # then a delete that may yet come takes nothing away
        return _look_at_ours(_watched_again(action, moment), moment)
    its_own = _its_own_objection(result, _EMPTY)
    action = msgspec.structs.replace(action, spared_for="" if its_own is None else its_own[1], skip=result.skip)
    if not (result.pods or result.refusal or action.spared_for or _spares_own(action, moment)):
        return _save(action, moment)
    if moment.now - action.delete_sent_at <= LATE_DELETE_SECONDS:
        return _look_again(action, moment)
    return _watch_again(action, moment)


def _replaces_own(action: Action) -> bool:
    """Return whether the incarnation to delete is one that the action has made itself, and that stayed without pods."""
    return action.uid != action.command.uid


def _spares_own(action: Action, moment: _Moment) -> bool:
    """Return whether a Job that we made is not to be deleted now, however empty; its action goes on."""
    return _held_back(moment) is not None or action.alive_uid == action.uid


def _watch_again(action: Action, moment: _Moment) -> Move:
    """Leave the Job that we made where it is; that it was to be replaced counts as one of the times it may be."""
    watched = _watched_again(action, moment)
    if watched.alive_uid == watched.new_uid:
        return _conclude(watched, Result.RESTARTED, Cause.VERIFIED, moment.now)
    return Move(watched)


def _watched_again(action: Action, moment: _Moment) -> Action:
    return msgspec.structs.replace(
        _enter(action, State.VERIFYING, moment.now),
        new_uid=action.uid,
        uid=action.command.uid,
        pod_seen=bool(moment.result.pods),
        deleting_since=0.0,
        spared_for="",
        skip=False,
    )


def _exemption(result: StepResult) -> str:
    if result.skip:
        return "annotation sf-healer.io/skip"
    if result.managed_by:
        return f"managed by {result.managed_by}"
    if result.condition is Condition.SUSPENDED:
        return "suspended"
    return "" if result.managed else "not a Job of the platform"


def _save(action: Action, moment: _Moment) -> Move:
    """Keep what was read; of an empty Job that we made ourselves the manifest is known better."""
    result = moment.result
    saved = msgspec.structs.replace(
        _enter(action, State.SAVED, moment.now), resource_version=result.resource_version, tries=action.tries
    )
    if _replaces_own(action):
        return Move(saved)
    return Move(_with_manifest_of(saved, result))


def _with_manifest_of(action: Action, result: StepResult) -> Action:
    return msgspec.structs.replace(action, manifest=result.manifest, attempt=result.attempt + 1)


def _superseded(action: Action, moment: _Moment) -> Move:
    why = "the Job is gone, being deleted, or another one has its name"
    return _refuse(action, Reason.SUPERSEDED, moment.now, why)


def _forbidden(action: Action, moment: _Moment) -> Move:
    return _untouched(action, Cause.FORBIDDEN, moment, moment.result.message)


def _observe_again(action: Action, moment: _Moment) -> Move:
    """Try to read the cluster until the command expires; nothing has been touched."""
    if action.withdrawn:
        return _refuse(action, Reason.SUPERSEDED, moment.now, action.withdrawn)
    if moment.now >= action.command.expires_at:
        return _refuse(action, Reason.EXPIRED, moment.now, f"unreadable: {moment.result.message}")
    return _retry(action, moment)


def _deleted(action: Action, moment: _Moment) -> Move:
    return Move(_enter(action, State.DELETING, moment.now))


def _not_deleted(action: Action, moment: _Moment) -> Move:
    """Look again: the delete found another Job, another version of it, or none."""
    if _may_have_deleted(action):
        return _recheck(action, moment)
    if _replaces_own(action):
        return _watch_again(action, moment)
    again = _enter(msgspec.structs.replace(action, touched_at=0.0), State.ADMITTED, moment.now)
    return _retry(msgspec.structs.replace(again, tries=action.tries), moment)


def _delete_refused(action: Action, moment: _Moment) -> Move:
    if _may_have_deleted(action):
        return _recheck(action, moment)
    if _replaces_own(action):
        return _watch_again(action, moment)
    return _forbidden(action, moment)


def _delete_later(action: Action, moment: _Moment) -> Move:
    """Nothing has happened yet: what would have stopped the action before still does.

    Not so after an earlier delete that gave no answer: what speaks against another one by then is read first.
    """
    if _may_have_deleted(action):
        return _recheck(action, moment)
    if _replaces_own(action):
        is_late = moment.now - action.since > moment.limits.pod_deadline_seconds
        return (_watch_again if is_late else _retry)(action, moment)
    untouched = msgspec.structs.replace(action, touched_at=0.0)
    if action.withdrawn:
        return _refuse(untouched, Reason.SUPERSEDED, moment.now, action.withdrawn)
    if moment.now >= action.command.expires_at:
        return _refuse(untouched, Reason.EXPIRED, moment.now, f"not deleted: {moment.result.message}")
    return _retry(untouched, moment)


def _may_have_deleted(action: Action) -> bool:
    return action.deleting_since > 0.0


def _recheck(action: Action, moment: _Moment) -> Move:
    """Read the cluster before anything else, after a pause that grows: a delete may have happened."""
    entered = _enter(action, State.RECHECKING, moment.now)
    entered = msgspec.structs.replace(entered, tries=action.tries)
    return _overdue(_retry(entered, moment).action, moment)


def _gone(action: Action, moment: _Moment) -> Move:
    """Create what is gone: a delete that was overdue is no longer, and the create has a limit of its own.

    A person is asked where its own last word was against that: its TTL may have removed it.
    """
    if action.spared_for:
        return _strand(action, Cause.CREATE_UNCERTAIN, moment, f"it is gone, and was spared: {action.spared_for}")
    return Move(msgspec.structs.replace(_enter(action, State.GONE, moment.now), overdue=False, gone_at=moment.now))


def _leaving(action: Action, moment: _Moment) -> Move:
    """Wait for the Job and its pods to go; what a person says of it meanwhile holds for the next one."""
    if moment.result.what is What.FOUND:
        action = msgspec.structs.replace(action, skip=moment.result.skip)
    if action.state is not State.DELETING:
        action = _enter(action, State.DELETING, moment.now)
    pace = moment.pace.slow_look_seconds if action.overdue else moment.pace.look_seconds
    return _overdue(msgspec.structs.replace(action, due_at=moment.now + pace, tries=0), moment)


def _look_again(action: Action, moment: _Moment) -> Move:
    return _overdue(_retry(action, moment).action, moment)


def _overdue(action: Action, moment: _Moment) -> Move:
    """Tell people once when a delete takes longer than it may; the action stays open and goes on."""
    if action.overdue or moment.now - action.deleting_since <= moment.limits.delete_deadline_seconds:
        return Move(action)
    action = msgspec.structs.replace(action, overdue=True)
    detail = moment.result.message or f"the Job is {moment.result.condition}, {moment.result.pods} pods are left"
    return Move(action, outcome=_outcome(action, Result.FAILED, Cause.DELETE_OVERDUE, moment.now, detail, open_=True))


def _created(action: Action, moment: _Moment) -> Move:
    """Await the first sign of life of the new incarnation; it may have spoken already."""
    action = msgspec.structs.replace(
        _enter(action, State.VERIFYING, moment.now),
        new_uid=moment.result.uid,
        pod_seen=False,
        overdue=False,
        skip=False,
    )
    if action.alive_uid == action.new_uid:
        return _conclude(action, Result.RESTARTED, Cause.VERIFIED, moment.now)
    return Move(action)


def _check_create(action: Action, moment: _Moment) -> Move:
    return Move(_enter(action, State.UNSURE, moment.now))


def _create_later(action: Action, moment: _Moment) -> Move:
    return _wait_to_create(action, moment) if _may_create(action, moment) else _check_create(action, moment)


def _wait_to_create(action: Action, moment: _Moment) -> Move:
    """Try on, and tell people once when there has been no Job for longer than a create may take."""
    action = _retry(action, moment).action
    # An action of an earlier release does not know when it was gone.
    if action.overdue or moment.now - (action.gone_at or action.since) <= moment.limits.create_deadline_seconds:
        return Move(action)
    action = msgspec.structs.replace(action, overdue=True)
    detail = moment.result.message or "there is no Job"
    return Move(action, outcome=_outcome(action, Result.FAILED, Cause.CREATE_OVERDUE, moment.now, detail, open_=True))


def _retry_create(action: Action, moment: _Moment) -> Move:
    """Send the create again, for there is no Job; ask a person when it might be a second one.

    The API answers: that it did not before is no reason to wait for longer.
    """
    if not _may_create(action, moment):
        detail = "the Job may have existed and run to its end meanwhile"
        return _strand(action, Cause.CREATE_UNCERTAIN, moment, detail)
    return _wait_to_create(_enter(action, State.GONE, moment.now), moment)


def _await_pods(action: Action, moment: _Moment) -> Move:
    """Create nothing beside pods that are left of whatever had the name; where they stay, ask a person."""
    if not _may_create(action, moment):
        return _retry_create(action, moment)
    if moment.now - action.since > moment.limits.create_deadline_seconds:
        return _strand(action, Cause.CREATE_UNCERTAIN, moment, f"{moment.result.pods} pods are left")
    return _retry(action, moment)


def _create_refused(action: Action, moment: _Moment) -> Move:
    """Put back what was there, and say so now: the API will not have the Job with our marks."""
    action = msgspec.structs.replace(
        _enter(action, State.RESTORING, moment.now),
        refusal=moment.result.message or "refused",
        restore_unsure=False,
    )
    outcome = _outcome(action, Result.FAILED, Cause.REFUSED_BY_API, moment.now, action.refusal, open_=True)
    return Move(action, outcome=outcome)


def _restored(action: Action, moment: _Moment) -> Move:
    action = msgspec.structs.replace(action, new_uid=moment.result.uid)
    detail = f"what was there is back: {action.refusal}"
    return _conclude(action, Result.FAILED, Cause.REFUSED_BY_API, moment.now, detail=detail)


def _check_restore(action: Action, moment: _Moment) -> Move:
    """Look first: it may be back, or what the API says exists is a namesake, or one that was just being deleted."""
    return Move(msgspec.structs.replace(action, look_first=True, due_at=moment.now))


def _restore_unsure(action: Action, moment: _Moment) -> Move:
    """Look before anything is put back once more, for it may be back."""
    return _restore_again(msgspec.structs.replace(action, look_first=True), moment)


def _not_restored(action: Action, moment: _Moment) -> Move:
    return _restore_again(msgspec.structs.replace(action, look_first=False), moment)


def _restored_or_namesake(action: Action, moment: _Moment) -> Move:
    """Take a Job without our marks for what was put back if that had no answer: then nothing tells the two apart."""
    return (_restored if action.restore_unsure else _namesake)(action, moment)


def _restore_again(action: Action, moment: _Moment) -> Move:
    """Try on, for a quota may free up and a webhook come back; after the limit a person must see to it.

    An API that is away, or busy, has refused nothing: it is asked until it answers.
    """
    refused = moment.result.what is not What.LATER and moment.now - action.since > moment.limits.create_deadline_seconds
    if refused or not _may_create(action, moment):
        return _strand(action, Cause.REFUSED_BY_API, moment, moment.result.message or action.refusal)
    return _retry(action, moment)


def _namesake(action: Action, moment: _Moment) -> Move:
    """Leave alone what somebody else made meanwhile: there is one Job of this name, and it is theirs."""
    return _conclude(action, Result.FAILED, Cause.NAMESAKE, moment.now, detail=f"uid {moment.result.uid}")


def _leaving_namesake(action: Action, moment: _Moment) -> Move:
    """Keep the manifest and ask a person: whether a Job is still wanted is known to who has that one deleted."""
    return _strand(action, Cause.NAMESAKE, moment, f"uid {moment.result.uid} is being deleted")


def _look_at_ours(action: Action, moment: _Moment) -> Move:
    """Say whether the new incarnation is well, empty, over, or late."""
    result, now = moment.result, moment.now
    if result.condition is Condition.COMPLETE:
        return _conclude(action, Result.RESTARTED, Cause.COMPLETED, now)
    if result.condition is Condition.FAILED:
        return _conclude(action, Result.FAILED, Cause.JOB_FAILED, now)
    if result.pods and not action.pod_seen:
        action = msgspec.structs.replace(action, pod_seen=True)
    if result.pod is PodState.RUNNING and action.command.proof_of_life is ProofOfLife.POD:
        return _conclude(action, Result.RESTARTED, Cause.VERIFIED, now)
    empty = not action.pod_seen and now - action.since > moment.limits.pod_deadline_seconds
    if empty and not result.refusal and not _exemption(result) and not _spares_own(action, moment):
        return _replace_empty(action, moment)
    return _await_life(action, moment)


def _replace_empty(action: Action, moment: _Moment) -> Move:
    """Delete a Job that the Job controller has overlooked, and create it again (kubernetes #142142)."""
    if action.creates >= EMPTY_REPLACEMENTS:
        return _conclude(action, Result.FAILED, Cause.NO_PODS, moment.now)
    return Move(
        msgspec.structs.replace(
            _enter(action, State.SAVED, moment.now),
            uid=action.new_uid,
            new_uid="",
            resource_version=moment.result.resource_version,
            creates=action.creates + 1,
            create_unsure_since=0.0,
            create_seen=False,
            deleting_since=0.0,
        )
    )


def _await_life(action: Action, moment: _Moment) -> Move:
    if moment.now - action.since > action.command.startup_seconds:
        detail = f"not made again: {moment.result.refusal}" if moment.result.refusal else ""
        return _conclude(action, Result.FAILED, Cause.NO_SIGN_OF_LIFE, moment.now, detail=detail)
    by_telemetry = action.pod_seen and action.command.proof_of_life is ProofOfLife.TELEMETRY
    pace = moment.pace.slow_look_seconds if by_telemetry else moment.pace.look_seconds
    return Move(msgspec.structs.replace(action, due_at=moment.now + pace, tries=0))


def _verify_again(action: Action, moment: _Moment) -> Move:
    if moment.now - action.since > action.command.startup_seconds:
        return _conclude(action, Result.FAILED, Cause.NO_SIGN_OF_LIFE, moment.now)
    return _retry(action, moment)


def _retry(action: Action, moment: _Moment) -> Move:
    """Take the step again after a pause that doubles, or as long as the API asks for, within reason."""
    pace = moment.pace
    pause = min(pace.retry_seconds * 2.0 ** min(action.tries, 16), pace.retry_limit_seconds)
    pause = max(pause, min(moment.result.retry_after_seconds, LONGEST_PAUSE_SECONDS))
    return Move(msgspec.structs.replace(action, due_at=moment.now + pause, tries=action.tries + 1))


def _vanished(action: Action, moment: _Moment) -> Move:
    return _conclude(action, Result.FAILED, Cause.VANISHED, moment.now)


def _enter(action: Action, state: State, now: float) -> Action:
    steps = (*action.steps, (state.value, now))[-_STEPS_KEPT:]
    return msgspec.structs.replace(action, state=state, since=now, due_at=now, tries=0, steps=steps, look_first=False)


# ---- how an action ends, or asks for a person

_STEPS_KEPT = 32  # a delete that is repeated for hours must not outgrow the record
_NOT_THE_REPAIR = frozenset({Cause.NAMESAKE, Cause.VANISHED, Cause.ABANDONED})


def repaired(outcome: Outcome) -> bool | None:
    """Say what an outcome teaches about repairs: they work, they do not, or nothing."""
    if outcome.result is Result.RESTARTED:
        return True
    if outcome.result is Result.FAILED and outcome.reason not in _NOT_THE_REPAIR:
        return False
    return None


def _refuse(action: Action, reason: Cause | Reason, now: float, detail: str, retry_after: float = 0.0) -> Move:
    refused = _conclude(msgspec.structs.replace(action, touched_at=0.0), Result.REFUSED, reason, now, detail=detail)
    assert refused.outcome is not None
    return msgspec.structs.replace(refused, outcome=msgspec.structs.replace(refused.outcome, retry_after=retry_after))


def _untouched(action: Action, cause: Cause, moment: _Moment, detail: str) -> Move:
    """End before the Job was touched because the API refuses something; it is asked about again by and by."""
    return _refuse(action, cause, moment.now, detail, REFUSED_BY_API_RETRY_SECONDS)


def _conclude(action: Action, result: Result, reason: Cause | Reason, now: float, *, detail: str = "") -> Move:
    action = msgspec.structs.replace(_enter(action, State.DONE, now), call=None)
    return Move(action, outcome=_outcome(action, result, reason, now, detail))


def _strand(action: Action, cause: Cause, moment: _Moment, detail: str) -> Move:
    action = msgspec.structs.replace(_enter(action, State.STRANDED, moment.now), call=None)
    return Move(action, outcome=_outcome(action, Result.FAILED, cause, moment.now, detail, open_=True))


def _outcome(
    action: Action, result: Result, reason: Cause | Reason, now: float, detail: str, *, open_: bool = False
) -> Outcome:
    command = action.command
    return Outcome(
        id=outcome_id(command.id, result, f"{reason}/{action.state}", final=not open_),
        command_id=command.id,
        key=command.key,
        uid=command.uid,
        result=result,
        reason=reason.value,
        at=now,
        new_uid=action.new_uid,
        attempt=action.attempt if action.touched_at else 0,
        detail=detail,
        verdict=command.verdict,
        policy=command.policy,
        evidence=command.evidence,
        requested_by=command.requested_by,
        final=not open_,
        needs_person=reason is Cause.NAMESAKE or (open_ and action.overdue) or action.state is State.STRANDED,
        quarantined=reason is Cause.REFUSED_BY_API,
        steps=action.steps,
    )


# ---- the table

Handler = Callable[[Action, _Moment], Move]

MOVES: dict[State, dict[Sign, Handler]] = {
    State.ADMITTED: {
        Sign.SAME: _observed,
        Sign.LEAVING: _superseded,
        Sign.OURS: _superseded,
        Sign.OTHER: _superseded,
        Sign.OTHER_LEAVING: _superseded,
        Sign.ABSENT: _superseded,
        Sign.LINGERING: _superseded,
        Sign.REFUSED: _forbidden,
        Sign.LATER: _observe_again,
        Sign.UNKNOWN: _observe_again,
    },
    State.SAVED: {
        Sign.DONE: _deleted,
        Sign.MISSING: _not_deleted,
        Sign.CONFLICT: _not_deleted,
        Sign.REFUSED: _delete_refused,
        Sign.LATER: _delete_later,
        Sign.UNKNOWN: _recheck,
    },
    State.RECHECKING: {
        Sign.SAME: _still_there,
        Sign.LEAVING: _leaving,
        Sign.OURS: _created,
        Sign.OTHER: _namesake,
        Sign.OTHER_LEAVING: _leaving_namesake,
        Sign.ABSENT: _gone,
        Sign.LINGERING: _leaving,
        Sign.REFUSED: _look_again,
        Sign.LATER: _look_again,
        Sign.UNKNOWN: _look_again,
    },
    State.DELETING: {
        Sign.SAME: _recheck,
        Sign.LEAVING: _leaving,
        Sign.OURS: _created,
        Sign.OTHER: _namesake,
        Sign.OTHER_LEAVING: _leaving_namesake,
        Sign.ABSENT: _gone,
        Sign.LINGERING: _leaving,
        Sign.REFUSED: _look_again,
        Sign.LATER: _look_again,
        Sign.UNKNOWN: _look_again,
    },
    State.GONE: {
        Sign.DONE: _created,
        Sign.EXISTS: _check_create,
        Sign.REFUSED: _create_refused,
        Sign.LATER: _create_later,
        Sign.UNKNOWN: _check_create,
    },
    State.UNSURE: {
        Sign.SAME: _leaving,
        Sign.LEAVING: _leaving,
        Sign.OURS: _created,
        Sign.OTHER: _namesake,
        Sign.OTHER_LEAVING: _leaving_namesake,
        Sign.ABSENT: _retry_create,
        Sign.LINGERING: _await_pods,
        Sign.REFUSED: _wait_to_create,
        Sign.LATER: _wait_to_create,
        Sign.UNKNOWN: _wait_to_create,
    },
    State.VERIFYING: {
        Sign.SAME: _namesake,
        Sign.LEAVING: _await_life,
        Sign.OURS: _look_at_ours,
        Sign.OTHER: _namesake,
        Sign.OTHER_LEAVING: _namesake,
        Sign.ABSENT: _vanished,
        Sign.LINGERING: _vanished,
        Sign.REFUSED: _verify_again,
        Sign.LATER: _verify_again,
        Sign.UNKNOWN: _verify_again,
    },
    State.RESTORING: {
        Sign.DONE: _restored,
        Sign.EXISTS: _check_restore,
        Sign.SAME: _leaving,
        Sign.LEAVING: _leaving,
        Sign.OURS: _created,
        Sign.OTHER: _restored_or_namesake,
        Sign.OTHER_LEAVING: _leaving_namesake,
        Sign.ABSENT: _not_restored,
        Sign.LINGERING: _not_restored,
        Sign.REFUSED: _restore_again,
        Sign.LATER: _restore_again,
        Sign.UNKNOWN: _restore_unsure,
    },
}
