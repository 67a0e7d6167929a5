"""The actuator's whole state, folded from `sf-healer-steps`: the ledger, and a record for each Job.

`apply` takes one record with its offset and append time and says what follows. The agent then does, in this
order: publish the outcomes and send the records, all acknowledged; store the one write; start the calls and the
looks. So a crash repeats work and loses none: what is sent twice is told by its ids, what was not started is
begun again by a tick. Each stored value carries the offset of the last record in it, and a record that comes
again is passed over.

A command about a silent consumer is held until its group has been looked at, by the worker that reads the log; only
what comes back as a record decides.

No I/O and no clock. Which command is followed: admission.py. How: actions.py. Idle or stuck: groups.py.
"""

from collections.abc import Iterable, Mapping

import msgspec

from sf_healer.core import admission
from sf_healer.core.actions import (
    Action,
    Event,
    Move,
    Pace,
    State,
    advance,
    answer_to,
    call_off,
    create_refused_at,
    give_up,
    holds_slot,
    is_lost,
    next_step,
    open_action,
    repaired,
)
from sf_healer.core.admission import (
    HELD_COMMANDS,
    REFUSED_CREATE_HOLDS_SECONDS,
    REMEMBERED,
    WAITS,
    Allowed,
    History,
    Inquiry,
    Ledger,
    Reason,
    Refused,
    Slot,
)
from sf_healer.core.commands import (
    ALL_JOBS,
    Alive,
    Command,
    Outcome,
    Pause,
    Resolve,
    Result,
    Resume,
    Withdraw,
    outcome_id,
)
from sf_healer.core.evidence import UnknownSchema
from sf_healer.core.groups import Idle, describe, is_idle
from sf_healer.core.manifest import redact
from sf_healer.core.policy import Limits
from sf_healer.core.steps import (
    Admitted,
    Announced,
    FleetCounts,
    GroupLooked,
    LimitsChanged,
    Resulted,
    RolloutSeen,
    Seen,
    Settled,
    Step,
    StepResult,
    StepsRecord,
    StillSick,
    Tick,
    What,
)
from sf_healer.core.verdicts import SILENT
from sf_healer.core.wire import other_version

SCHEMA_VERSION = 1
#: The ledger's key in the table; no Job has it, for a Job's key holds a slash.
LEDGER_KEY = ALL_JOBS.encode()

_OUTCOMES_KEPT = 5
# An announcement or a verdict on a lost call that does not come back is made again: then it was not sent.
_SAID_SECONDS = 10.0
# A clock is set back by less, and what was read before is read again from less far back.
_CLOCK_AHEAD_SECONDS = 600.0
# An admission is on the log before its slot is taken: a slot without an action after this is a leak.
_SLOT_WITHOUT_ACTION_SECONDS = 60.0


class JobRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one Job; fields in wire order, add at the end only."""

    version: int = SCHEMA_VERSION
    offset: int = -1  # of the newest record of the steps log in it
    action: Action | None = None
    history: History = History()
    recent: tuple[Outcome, ...] = ()  # newest last, for people
    at: float = 0.0  # when it was last written


class Task(msgspec.Struct, frozen=True):
    """A step to take now; its result goes back to the log as `Resulted`."""

    action: Action
    step: Step


class Look(msgspec.Struct, frozen=True):
    """A consumer group to look at now; what it shows goes to the log as `GroupLooked`."""

    command: Command
    seq: int


class Effects(msgspec.Struct):
    """What one record caused."""

    outcomes: list[Outcome]
    sends: list[StepsRecord]
    write: tuple[bytes, bytes | None] | None  # None as value: remove the key
    tasks: list[Task]
    looks: list[Look]


class _Version(msgspec.Struct, array_like=True):
    version: int


_encode = msgspec.msgpack.Encoder().encode
_ledgers = msgspec.msgpack.Decoder(Ledger)
_job_records = msgspec.msgpack.Decoder(JobRecord)
_versions = msgspec.msgpack.Decoder(_Version)


def decode_ledger(value: bytes) -> Ledger:
    """Read a stored ledger; raises UnknownSchema for a version this code does not know."""
    _check_version(value)
    return _ledgers.decode(value)


def decode_job_record(value: bytes) -> JobRecord:
    """Read a stored record of a Job; raises UnknownSchema for a version this code does not know."""
    _check_version(value)
    return _job_records.decode(value)


def _check_version(value: bytes) -> None:
    version = _versions.decode(value).version
    if version != SCHEMA_VERSION:
        raise UnknownSchema(other_version("actions", version, SCHEMA_VERSION))


def shown(record: JobRecord) -> dict[str, object]:
    """Give a Job's record as it may be shown: no value of its env."""
    document: dict[str, object] = msgspec.json.decode(msgspec.json.encode(_Shown.of(record)))
    return document


class _Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record by field names, for people and machines."""

    history: "dict[str, object]"
    recent: tuple[Outcome, ...]
    action: "dict[str, object] | None" = None

    @classmethod
    def of(cls, record: JobRecord) -> "_Shown":
        action = None if record.action is None else msgspec.structs.asdict(record.action)
        if action is not None and action["manifest"] is not None:
            action["manifest"] = redact(action["manifest"])
        return cls(msgspec.structs.asdict(record.history), record.recent, action)


class Actuator:
    """The hot state of the one partition of the steps log. Owned by one agent; not shared between threads."""

    def __init__(
        self,
        *,
        worker: str,
        limits: Limits,
        observe_only: bool,
        pace: Pace | None = None,
    ) -> None:
        self.worker = worker
        self.observe_only = observe_only
        self.ask_for(limits)
        self.pace = pace or Pace()
        self.ledger = Ledger()
        self.jobs: dict[str, JobRecord] = {}
        self.now = 0.0
        self._open: dict[str, None] = {}  # keys of the Jobs with an action, in order of admission
        self._said: dict[tuple[str, str, int], float] = {}

    def ask_for(self, limits: Limits) -> None:
        """Take the limits of this worker's policy file: a tick says them, and they hold once that is read back."""
        if self.observe_only and limits.idle_unknown_acts is None:
            limits = msgspec.structs.replace(limits, idle_unknown_acts=True)  # nothing is touched: say what would be
        self._asked_for = limits

    @property
    def limits(self) -> Limits:
        """The limits that hold: what the log said last, so that all who read it decide alike."""
        return self.ledger.limits or self._asked_for

    def restore(self, items: Iterable[tuple[bytes, bytes]], *, log_end: int | None = None) -> None:
        """Take over the stored state, and its newest time: the broker's clock may have been set back since.

        `log_end` is the end offset of the steps log: an earlier one than we have folded means that the topic
        was recreated, and its offsets count from the start again. Raises UnknownSchema.
        """
        self.ledger, self.jobs, self._open, self._said = Ledger(), {}, {}, {}
        for key, value in items:
            if key == LEDGER_KEY:
                self.ledger = decode_ledger(value)
            else:
                self._keep(key.decode(), decode_job_record(value))
        self.now = max([self.ledger.now, *(record.at for record in self.jobs.values())])
        newest = max([self.ledger.offset, *(record.offset for record in self.jobs.values())])
        if log_end is not None and log_end <= newest:
            self.ledger = msgspec.structs.replace(self.ledger, offset=-1)
            for job, record in self.jobs.items():
                self.jobs[job] = msgspec.structs.replace(record, offset=-1)

    def apply(self, record: StepsRecord, offset: int, at: float) -> Effects:
        """Fold one record of the log, appended at `at` (epoch seconds)."""
        if self.now > at + _CLOCK_AHEAD_SECONDS:
            self._go_back(at)
        self.now = max(self.now, at)
        effects = Effects([], [], None, [], [])
        match record:
            case Command() if offset > self.ledger.offset:
                self._command(record, offset, effects)
            case FleetCounts() | Pause() | Resume() | Settled() | LimitsChanged() if offset > self.ledger.offset:
                self._fold_ledger(record, offset, effects)
            case RolloutSeen() if offset > self.ledger.offset:
                self.ledger = msgspec.structs.replace(self.ledger, rollout=record.view, rollout_at=self.now)
                self._write_ledger(offset, effects)
            case GroupLooked() if offset > self.ledger.offset:
                self._group_looked(record, offset, effects)
            case StillSick():
                self._still_sick(record, offset, effects)
            case Admitted():
                self._admitted(record, offset, effects)
            case Announced() | Resulted() | Withdraw() | Alive() | Seen() | Resolve():
                self._about_a_job(record, offset, effects)
            case Tick():
                self._tick(offset, effects)
        return effects

    def _go_back(self, at: float) -> None:
        """Forget a time far beyond that of the record read next: a broker's clock was ahead, and has been put right.

        Otherwise all commands would be expired, and nothing due, until real time caught up. Stored times are affected
        too, so the worker that takes over goes back as well. Times of actions: actions.py.
        """
        self.now = at
        self._said = {}
        self.ledger = admission.put_right(self.ledger, at)
        for key, record in self.jobs.items():
            self.jobs[key] = msgspec.structs.replace(record, history=admission.put_history_right(record.history, at))

    # ---- admission

    def _command(self, command: Command, offset: int, effects: Effects) -> None:
        record = self.jobs.get(command.key, JobRecord())
        if self._is_under_way(command, record):
            return
        answer = self._decide(command, record)
        if isinstance(answer, Allowed):
            self._admit(command, effects)
            self._write_ledger(offset, effects)
        elif answer.reason in WAITS and len(self.ledger.held) < HELD_COMMANDS:
            self._hold((*(each for each in self.ledger.held if each.key != command.key), command))
            self._look_at_groups(effects)
            self._write_ledger(offset, effects)
        else:
            effects.outcomes.append(self._refusal(command, answer))
            if answer.reason is Reason.QUARANTINED:
                history = admission.quarantine(record.history, self.now)
                self._write_job(command.key, msgspec.structs.replace(record, history=history), offset, effects)

    def _is_under_way(self, command: Command, record: JobRecord) -> bool:
        """Return whether this very command is being followed or held: then its outcome is still to come."""
        return (
            (record.action is not None and record.action.id == command.id)
            or any(slot.action_id == command.id for slot in self.ledger.slots)
            or any(held.id == command.id for held in self.ledger.held)
        )

    def _decide(self, command: Command, record: JobRecord) -> Allowed | Refused:
        ledger, history = self.ledger, record.history
        # An overdue action has given its slot back and still owns its Job; a stranded one makes way for another Job.
        if record.action is not None and record.action.state is not State.STRANDED:
            ledger = msgspec.structs.replace(
                ledger, slots=(*ledger.slots, Slot(command.key, record.action.id, self.now))
            )
        elif record.action is not None:
            history = msgspec.structs.replace(history, replaced=(*history.replaced, *_deleted(record.action)))
        idle, group = self._group_of(command)
        return admission.admit(
            ledger,
            command,
            admission.fleet_of(ledger),
            self.limits,
            self.now,
            history=history,
            idle=idle,
            group=group,
            refused_create=self.refused_create(but=command.key),
        )

    def _admit(self, command: Command, effects: Effects) -> None:
        fleet = admission.fleet_of(self.ledger)
        ledger = admission.watch_fleet(self.ledger, fleet, self.limits, self.now)
        self.ledger = admission.reserve(ledger, command, self.limits, self.now)
        effects.sends.append(Admitted(command=self._with_group(command), observe_only=self.observe_only))

    def _refusal(self, command: Command, refused: Refused) -> Outcome:
        return Outcome(
            id=outcome_id(command.id, Result.REFUSED, f"{refused.reason}/{command.decided_at!r}"),
            command_id=command.id,
            key=command.key,
            uid=command.uid,
            result=Result.REFUSED,
            reason=refused.reason.value,
            at=self.now,
            retry_after=refused.retry_after,
            detail=refused.detail,
            verdict=command.verdict,
            policy=command.policy,
            evidence=self._with_group(command).evidence,
            requested_by=command.requested_by,
            quarantined=refused.reason is Reason.QUARANTINED,
        )

    def _decide_held(self, effects: Effects) -> None:
        """Decide anew what is held, now that the fleet was counted, a group looked at, or time has passed."""
        held, kept = self.ledger.held, []
        self.ledger = msgspec.structs.replace(self.ledger, held=())
        for command in held:
            answer = self._decide(command, self.jobs.get(command.key, JobRecord()))
            if isinstance(answer, Allowed):
                self._admit(command, effects)
            elif answer.reason in WAITS:
                kept.append(command)
            else:
                effects.outcomes.append(self._refusal(command, answer))
                if answer.reason is Reason.QUARANTINED:  # kept with the Job, and this write is the ledger's
                    effects.sends.append(StillSick(key=command.key, at=self.now))
        self._hold(tuple(kept))

    def _still_sick(self, said: StillSick, offset: int, effects: Effects) -> None:
        record = self.jobs.get(said.key)
        if record is None or offset <= record.offset:
            return
        history = admission.still_sick(record.history, min(said.at, self.now))
        if history != record.history:
            self._write_job(said.key, msgspec.structs.replace(record, history=history), offset, effects)

    def _hold(self, commands: tuple[Command, ...]) -> None:
        """Hold these commands and no others, each consumer's with what is known of its group."""
        known = self.ledger.inquiries
        inquiries = {
            command.id: known.get(command.id, Inquiry())
            for command in commands
            if self._group_of(command)[0] is not Idle.NOT_ASKED
        }
        self.ledger = msgspec.structs.replace(self.ledger, held=commands, inquiries=inquiries)

    # ---- idle or stuck

    def _group_of(self, command: Command) -> tuple[Idle, str]:
        """Say what is known of the group of a command's Job, and in words on what that rests."""
        rests_on_silence = command.verdict in SILENT or command.evidence.grace_over
        if not command.consumer or not rests_on_silence:
            return Idle.NOT_ASKED, ""
        inquiry = self.ledger.inquiries.get(command.id, Inquiry())
        return inquiry.idle, inquiry.told

    def _with_group(self, command: Command) -> Command:
        group = self._group_of(command)[1]
        if not group:
            return command
        return msgspec.structs.replace(command, evidence=msgspec.structs.replace(command.evidence, group=group))

    def _look_at_groups(self, effects: Effects) -> None:
        """Have the groups looked at whose look is due; what they show comes back as a record."""
        for command in self.ledger.held:
            inquiry = self.ledger.inquiries.get(command.id)
            if inquiry is None or inquiry.idle is not Idle.TO_ASK or inquiry.due_at > self.now:
                continue
            if self._say(command.key, f"{command.id}/{command.decided_at!r}", inquiry.seq):
                effects.looks.append(Look(command, inquiry.seq))

    def _group_looked(self, looked: GroupLooked, offset: int, effects: Effects) -> None:
        inquiry = self.ledger.inquiries.get(looked.command_id)
        if inquiry is None or inquiry.idle is not Idle.TO_ASK or looked.seq != inquiry.seq:
            return  # the command is not held any more, or this look was taken twice
        inquiry = Inquiry(
            seq=inquiry.seq + 1,
            due_at=self.now + self.limits.idle_look_seconds,
            before=looked.look,
            idle=is_idle(inquiry.before, looked.look),
            told=describe(inquiry.before, looked.look),
        )
        inquiries = {**self.ledger.inquiries, looked.command_id: inquiry}
        self.ledger = msgspec.structs.replace(self.ledger, inquiries=inquiries)
        self._decide_held(effects)
        self._write_ledger(offset, effects)

    def _fold_ledger(
        self, record: FleetCounts | Pause | Resume | Settled | LimitsChanged, offset: int, effects: Effects
    ) -> None:
        match record:
            case FleetCounts():
                self.ledger = admission.count(self.ledger, record, self.limits, self.now)
                self._decide_held(effects)
            case LimitsChanged():
                self.ledger = admission.change_limits(self.ledger, record.limits, self.now)
                self._decide_held(effects)
            case Settled() if self._still_holds(record):
                return  # a leak that was none: the admission had only not been read yet when this was said
            case Settled():
                self.ledger = admission.settle(
                    self.ledger, record.action_id, self.limits, self.now, repaired=record.repaired
                )
            case Pause():
                pauses = admission.pauses_that_hold(self.ledger.pauses, self.now) | {record.scope: record}
                self.ledger = msgspec.structs.replace(self.ledger, pauses=pauses)
            case Resume() if record.quarantine_only or record.scope not in self.ledger.pauses:
                self._end_quarantine(record, offset, effects)
                return
            case Resume():
                pauses = {scope: pause for scope, pause in self.ledger.pauses.items() if scope != record.scope}
                self.ledger = msgspec.structs.replace(self.ledger, pauses=pauses)
                if _resumed_job(record):  # the quarantine is another write; a pause made meanwhile is not its to end
                    effects.sends.append(msgspec.structs.replace(record, quarantine_only=True))
        self._write_ledger(offset, effects)

    def _still_holds(self, settled: Settled) -> bool:
        record = self.jobs.get(settled.key)
        action = record.action if record is not None else None
        return action is not None and action.id == settled.action_id and holds_slot(action)

    def _end_quarantine(self, resume: Resume, offset: int, effects: Effects) -> None:
        key = _resumed_job(resume)
        record = self.jobs.get(key)
        if record is None or offset <= record.offset:
            return
        history = msgspec.structs.replace(record.history, attempts=(), quarantined_at=0.0, sick_at=0.0)
        self._write_job(key, msgspec.structs.replace(record, history=history), offset, effects)

    # ---- actions

    def _admitted(self, admitted: Admitted, offset: int, effects: Effects) -> None:
        command = admitted.command
        record = self.jobs.get(command.key, JobRecord())
        if offset <= record.offset:
            return
        action = record.action
        if action is not None and action.id == command.id:
            return  # admitted twice, after a crash between the record and the ledger
        if all(slot.action_id != command.id for slot in self.ledger.slots):
            return  # said by a worker that was paused: the one that reads the log has decided otherwise, or is done
        if action is not None and (action.state is not State.STRANDED or command.uid in _deleted(action)):
            effects.sends.append(Settled(key=command.key, action_id=command.id))
            return
        if action is not None:
            effects.outcomes += _told(give_up(action, self.now, f"uid {command.uid} has its name"))
        opened = open_action(command, self.now, observe_only=admitted.observe_only, opened=offset)
        record = msgspec.structs.replace(record, action=opened)
        if admission.is_withdrawn(record.history, command):
            self._moved(command.key, record, call_off(opened, "withdrawn", self.now), offset, effects)
            return
        self._write_job(command.key, record, offset, effects)
        self._announce(command.key, effects)

    def _about_a_job(self, event: Event, offset: int, effects: Effects) -> None:
        key = event.fact.key if isinstance(event, Seen) else event.key
        record = self.jobs.get(key)
        if isinstance(event, Withdraw) and (record is None or record.action is None or record.action.id != event.id):
            self._withdraw_early(event, record or JobRecord(), offset, effects)
            return
        if record is None or record.action is None or offset <= record.offset:
            return
        before = record.action
        pause = admission.pause_of(self.ledger.pauses, before.command, self.now)
        paused = f"{pause.scope}: {pause.reason}" if pause is not None else ""
        storm = "too many Jobs turned unhealthy together" if self.ledger.phase is admission.Phase.STORM else ""
        move = advance(
            before,
            event,
            self.now,
            self.limits,
            self.pace,
            paused=paused,
            storm=storm,
            refused_create=self.refused_create(but=key),
        )
        if move.action == before and move.outcome is None:
            return
        self._moved(key, record, move, offset, effects)
        if move.perform is not None and isinstance(event, Announced) and event.worker == self.worker:
            effects.tasks.append(Task(move.action, move.perform))
        self._announce(key, effects)

    def _moved(self, key: str, record: JobRecord, move: Move, offset: int, effects: Effects) -> None:
        """Keep what a move led to: the outcome told, the slot given back, a finished action put away."""
        assert record.action is not None
        action, outcome = move.action, move.outcome
        history, recent = record.history, record.recent
        if outcome is not None:
            if action.state is State.DONE:
                history = _remembered(history, action, outcome, self.limits, self.now)
                outcome = msgspec.structs.replace(
                    outcome, quarantined=outcome.quarantined or history.quarantined_at > 0.0
                )
            recent = (*recent, outcome)[-_OUTCOMES_KEPT:]
            effects.outcomes.append(outcome)
            if holds_slot(record.action) and not holds_slot(action):
                effects.sends.append(Settled(key=key, action_id=action.id, repaired=repaired(outcome)))
        kept = None if action.state is State.DONE else action
        changed = msgspec.structs.replace(record, action=kept, history=history, recent=recent)
        self._write_job(key, changed, offset, effects)

    def _withdraw_early(self, event: Withdraw, record: JobRecord, offset: int, effects: Effects) -> None:
        """Take back a command that is held, or admitted while its action is not opened yet."""
        held = [each for each in self.ledger.held if each.id == event.id]
        if held:
            effects.outcomes.append(self._refusal(held[0], Refused(Reason.SUPERSEDED, 0.0, event.reason)))
            self._hold(tuple(each for each in self.ledger.held if each.id != event.id))
            self._write_ledger(offset, effects)
            return
        slot = next((each for each in self.ledger.slots if each.action_id == event.id), None)
        if slot is not None and offset > record.offset:
            withdrawn = (*record.history.withdrawn, (event.id, slot.decided_at or self.now))[-REMEMBERED:]
            history = msgspec.structs.replace(record.history, withdrawn=withdrawn)
            self._write_job(event.key, msgspec.structs.replace(record, history=history), offset, effects)

    # ---- time

    def _tick(self, offset: int, effects: Effects) -> None:
        """Say what is due: steps of all actions, calls that will not be answered, looks, expired commands."""
        self._look_at_groups(effects)
        if self._asked_for != self.ledger.limits and self._say("", "limits", hash(self._asked_for)):
            effects.sends.append(LimitsChanged(limits=self._asked_for, worker=self.worker))
        for key in self._open:
            action = self.jobs[key].action
            assert action is not None
            if is_lost(action, self.now, self.pace):
                self._tell_lost(key, action, effects)
            else:
                self._announce(key, effects)
        for slot in self.ledger.slots:
            if self._is_leaked(slot) and self._say(slot.key, slot.action_id, -1):
                effects.sends.append(Settled(key=slot.key, action_id=slot.action_id))
        if any(self.now >= command.expires_at for command in self.ledger.held):
            self._decide_held(effects)
            self._write_ledger(offset, effects)
        else:
            self._forget_one(offset, effects)

    def _announce(self, key: str, effects: Effects) -> None:
        action = self.jobs[key].action if key in self.jobs else None
        step = None if action is None else next_step(action, self.now)
        if action is None or step is None or not self._say(key, action.id, action.seq + 1):
            return
        effects.sends.append(
            Announced(
                key=key,
                action_id=action.id,
                seq=action.seq + 1,
                step=step,
                worker=self.worker,
                observe_only=self.observe_only,
            )
        )

    def _tell_lost(self, key: str, action: Action, effects: Effects) -> None:
        assert action.call is not None
        if self._say(key, action.id, -2 - action.seq):
            lost = StepResult(What.UNKNOWN, message=f"no answer from {action.call.worker}")
            effects.sends.append(answer_to(action, action.call.step, lost))

    def _say(self, key: str, action_id: str, number: int) -> bool:
        """Return whether a thing should be said: not again while what was said is on its way back."""
        said_at = self._said.get((key, action_id, number))
        if said_at is not None and self.now - said_at < _SAID_SECONDS:
            return False
        if len(self._said) > HELD_COMMANDS:
            recent = {what: at for what, at in self._said.items() if self.now - at < _SAID_SECONDS}
            self._said = recent
        self._said[key, action_id, number] = self.now
        return True

    def _is_leaked(self, slot: Slot) -> bool:
        if self.now - slot.at < _SLOT_WITHOUT_ACTION_SECONDS:
            return False
        record = self.jobs.get(slot.key)
        action = record.action if record is not None else None
        return action is None or action.id != slot.action_id or not holds_slot(action)

    def _forget_one(self, offset: int, effects: Effects) -> None:
        """Drop one Job whose past no longer matters."""
        limits = self.limits
        keep_for = max(limits.attempts_window_seconds, limits.healthy_period_seconds)
        for key, record in self.jobs.items():
            if record.action is None and offset > record.offset and self.now - record.at > keep_for:
                del self.jobs[key]
                effects.write = (key.encode(), None)
                return

    # ---- keeping

    def _write_ledger(self, offset: int, effects: Effects) -> None:
        self.ledger = msgspec.structs.replace(self.ledger, offset=offset, now=self.now)
        self._write(LEDGER_KEY, _encode(self.ledger), effects)

    def _write_job(self, key: str, record: JobRecord, offset: int, effects: Effects) -> None:
        record = msgspec.structs.replace(record, offset=offset, at=self.now)
        self._keep(key, record)
        self._write(key.encode(), _encode(record), effects)

    def _write(self, key: bytes, value: bytes, effects: Effects) -> None:
        assert effects.write is None, "one write for one event"
        effects.write = (key, value)

    def _keep(self, key: str, record: JobRecord) -> None:
        self.jobs[key] = record
        if record.action is None:
            self._open.pop(key, None)
        else:
            self._open.setdefault(key)

    # ---- what people ask

    def refused_create(self, *, but: str = "") -> str:
        """Name a Job whose create was refused, and what the API said, as long as it holds others back; else ""."""
        for key, action in self.open_actions().items():
            at = create_refused_at(action)
            if key != but and at is not None and self.now - at <= REFUSED_CREATE_HOLDS_SECONDS:
                return f"{key}: {action.refusal}"
        return ""

    def open_actions(self) -> Mapping[str, Action]:
        """Give the action of each Job that has one."""
        found = {key: self.jobs[key].action for key in self._open}
        return {key: action for key, action in found.items() if action is not None}


def _remembered(history: History, action: Action, outcome: Outcome, limits: Limits, now: float) -> History:
    """Add a finished action to what is remembered of its Job."""
    if outcome.result is Result.WOULD_RESTART:
        return msgspec.structs.replace(history, attempts=(*history.attempts, now)[-REMEMBERED:], ended_at=now)
    if action.touched_at:
        history = admission.acted(history, action.command, touched_at=action.touched_at, ended_at=now)
    limits = admission.limits_of(action.command, limits)
    tried_out = len(admission.recent_attempts(history, limits, now)) >= limits.attempts
    if outcome.quarantined or (tried_out and repaired(outcome) is False):
        return admission.quarantine(history, now)
    return history


def _resumed_job(resume: Resume) -> str:
    """Name the one Job that is resumed; "" where it is a wider scope."""
    kind, _, key = resume.scope.partition(":")
    return key if kind == "job" else ""


def _deleted(action: Action) -> tuple[str, str]:
    """Name the incarnations that a stranded action has deleted: a command about one of them brings no Job back."""
    return action.command.uid, action.uid


def _told(move: Move) -> list[Outcome]:
    return [] if move.outcome is None else [move.outcome]
