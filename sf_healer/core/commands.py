"""What is asked of the actuator and what it answers, as JSON records.

The topics are `healer-actions`, `sf-healer-control` and `healer-outcomes`.
Values and their bytes only: whether a command is followed is said in admission.py, how in actions.py. Reading
never raises: a record of a newer version or of an unknown kind is a value that says so, for these logs are
also read by people and by older workers.
"""

import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import msgspec

from sf_healer.core.groups import Neighbours
from sf_healer.core.wire import Count, JobKey, Moment, Number, Offset, Seconds, other_version

SCHEMA_VERSION = 1

# Ids are names in this space (RFC 9562, version 5): the same judgement gives the same id on every worker.
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://sf-healer.io/commands")

REQUESTED_VERDICT = "requested"  # a person asked for the restart; `requested_by` says who


class ProofKind(StrEnum):
    """What kind of fact a verdict rests on."""

    SILENCE = "silence"
    STARTUP = "startup"
    ERROR = "error"
    PROGRESS = "progress"
    CONDITION = "condition"
    REQUEST = "request"


class ProofOfLife(StrEnum):
    """What shows that a restarted Job works."""

    TELEMETRY = "telemetry"  # an `alive` record of the new incarnation
    POD = "pod"  # a running pod: the target is not known to report


class Grounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """The numbers a verdict rests on; times are epoch seconds of the evidence log, None: there is none."""

    proof: ProofKind = ProofKind.SILENCE
    last_seen: Moment | None = None
    base: Moment | None = None  # from when silence counts: last seen, or the end of a feed gap
    silence_seconds: Seconds | None = None
    threshold_seconds: Seconds | None = None
    watermark: Moment | None = None
    unhealthy_at: Moment | None = None  # when this Job turned unhealthy; stays while it is sent again
    source_at: Moment | None = None  # source time of the report that decided
    source_topic: str = ""
    source_partition: Number = -1
    source_offset: Offset = -1
    condition: str = "active"  # the Job's condition as it was judged (facts.Condition)
    pod_ended: bool = False  # it rests on this that the pod had ended while the Job goes on
    detail: str = ""
    group: str = ""  # what the consumer group of a silent consumer showed (core/groups.py)
    grace_over: bool = False  # it failed because no sign of life followed its `error` within the grace


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="restart"):
    """Restart this incarnation of a Job, for this reason, until `expires_at`.

    `decided_at` and `expires_at` are watermark time. `attempt` counts restarts of the Job before this one.
    `startup_seconds` is how long the new incarnation may take to its first sign of life. `consumer`: before the
    Job is taken for stuck its own group on `kafka_topic` is looked at, told from others by `pod_ip` and by where
    the other Jobs of its queue run (`neighbours`; None: nobody knows).
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    key: JobKey
    namespace: str
    name: str
    uid: str
    verdict: str
    evidence: Grounds
    decided_at: Moment
    expires_at: Moment
    policy: str = ""
    attempt: Count = 0
    target: str = ""
    queue_id: str = ""
    startup_seconds: Seconds = 600.0
    proof_of_life: ProofOfLife = ProofOfLife.TELEMETRY
    requested_by: str = ""
    attempts: Count = 0  # before quarantine, for this Job; 0: as for any
    consumer: bool = False
    kafka_topic: str = ""
    pod_ip: str = ""
    neighbours: Neighbours | None = None


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="withdraw"):
    """Take back a command: its Job gave a sign of life, or was stopped."""

    schema_version: int = SCHEMA_VERSION
    id: str
    key: JobKey
    reason: str = ""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="alive"):
    """The incarnation `uid` of a Job with an open command has spoken."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    uid: str
    at: Moment


ALL_JOBS = "*"


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pause"):
    """Restart nothing in this scope until `until` (None: until resumed).

    Scope is ALL_JOBS, `job:namespace/name`, `queue:ID` or `target:NAME`.
    """

    schema_version: int = SCHEMA_VERSION
    scope: str
    reason: str
    by: str = ""
    at: Moment = 0.0
    until: Moment | None = None


class Resume(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="resume"):
    """End the pause of this scope; for one Job it also ends its quarantine.

    `quarantine_only`: the pause has been ended by the same record before; one that was made since holds.
    """

    schema_version: int = SCHEMA_VERSION
    scope: str
    reason: str = ""
    by: str = ""
    at: Moment = 0.0
    quarantine_only: bool = False


class Decision(StrEnum):
    """What a person decides about an action that stopped half way."""

    CREATE = "create"  # put the Job back from its manifest
    ABANDON = "abandon"  # close the action and forget the manifest


class Resolve(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="resolve"):
    """A person's decision about an action that asks for one."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    action_id: str
    decision: Decision
    by: str = ""
    at: Moment = 0.0


class Result(StrEnum):
    """What became of a command."""

    RESTARTED = "restarted"
    REFUSED = "refused"
    FAILED = "failed"
    WOULD_RESTART = "would_restart"  # mode = observe


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="outcome"):
    """What became of a command: evidence for the sweeper, a line of the audit.

    `uid` is the incarnation judged, `retry_after` seconds to wait before the Job is judged again (0: none),
    `attempt` the number of the restart this was (0: nothing was touched). `final` false: more will follow
    for this command. `needs_person`: nothing more happens by itself. `steps` are (name, epoch seconds).
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    command_id: str
    key: JobKey
    uid: str
    result: Result
    reason: str
    at: Moment
    retry_after: Seconds = 0.0
    new_uid: str = ""
    attempt: Count = 0
    detail: str = ""
    verdict: str = ""
    policy: str = ""
    evidence: Grounds = Grounds()
    requested_by: str = ""
    final: bool = True
    needs_person: bool = False
    quarantined: bool = False
    steps: tuple[tuple[str, float], ...] = ()


class Unreadable(msgspec.Struct, frozen=True):
    """A record that cannot be used.

    `reason` is a metric label: not_json, unknown_version, unknown_kind, invalid, too_large.
    """

    reason: str
    detail: str


ActionRecord = Command | Withdraw | Alive | Resolve
ControlRecord = Pause | Resume


class _Header(msgspec.Struct):
    schema_version: int
    kind: str


Record = TypeVar("Record")

#: What msgspec raises for bytes that are no JSON; the last two it passes on as they are.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder(order="deterministic").encode
_headers = msgspec.json.Decoder(_Header)
_actions: msgspec.json.Decoder[ActionRecord] = msgspec.json.Decoder(ActionRecord)
_controls: msgspec.json.Decoder[ControlRecord] = msgspec.json.Decoder(ControlRecord)
_outcomes = msgspec.json.Decoder(Outcome)
_ACTION_KINDS = frozenset({"restart", "withdraw", "alive", "resolve"})
_CONTROL_KINDS = frozenset({"pause", "resume"})
_OUTCOME_KINDS = frozenset({"outcome"})


def command_id(key: str, uid: str, verdict: str, decisive: float, attempt: int) -> str:
    """Name a command by what it judges, so that the same judgement made twice is one command.

    `decisive` is the number the verdict turns on: the source time of an `error`, last seen for silence.
    """
    return str(uuid.uuid5(_IDS, "\n".join((key, uid, verdict, repr(float(decisive)), str(attempt)))))


def outcome_id(command: str, result: Result, reason: str, *, final: bool = True) -> str:
    """Name an outcome, so that one published twice after a crash is counted once."""
    return str(uuid.uuid5(_IDS, "\n".join((command, result, reason, str(final)))))


def encode(record: ActionRecord | ControlRecord | Outcome) -> bytes:
    """Give the record's JSON; equal records give equal bytes."""
    return _encode(record)


def decode_action(value: bytes | None) -> ActionRecord | Unreadable:
    """Read one record of `healer-actions`; never raises."""
    return read_record(value, _ACTION_KINDS, _actions.decode)


def decode_control(value: bytes | None) -> ControlRecord | Unreadable:
    """Read one record of `sf-healer-control`; never raises."""
    return read_record(value, _CONTROL_KINDS, _controls.decode)


def decode_outcome(value: bytes | None) -> Outcome | Unreadable:
    """Read one record of `healer-outcomes`; never raises."""
    return read_record(value, _OUTCOME_KINDS, _outcomes.decode)


def read_record(value: bytes | None, kinds: frozenset[str], decode: Callable[[bytes], Record]) -> Record | Unreadable:
    """Read a JSON record of one of `kinds` by its own decoder; never raises.

    The header may be well while what follows is not: msgspec looks at the text of a field only where it is wanted.
    """
    unusable = check_header(value, kinds)
    if unusable is not None:
        return unusable
    try:
        return decode(value or b"")
    except msgspec.ValidationError as error:
        return Unreadable("invalid", str(error))
    except _NOT_JSON as error:
        return Unreadable("not_json", str(error) or type(error).__name__)


def check_header(value: bytes | None, kinds: frozenset[str]) -> Unreadable | None:
    """Say why a JSON record cannot be of one of `kinds`, or None when it can."""
    try:
        header = _headers.decode(value or b"")
    except msgspec.ValidationError as error:
        return Unreadable("invalid", str(error))
    except _NOT_JSON as error:
        return Unreadable("not_json", str(error) or type(error).__name__)
    if header.schema_version != SCHEMA_VERSION:
        return Unreadable("unknown_version", other_version("a record", header.schema_version, SCHEMA_VERSION))
    if header.kind not in kinds:
        return Unreadable("unknown_kind", f"kind {header.kind!r}; known here: {', '.join(sorted(kinds))}")
    return None
