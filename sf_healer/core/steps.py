"""The records of `sf-healer-steps`, the actuator's write-ahead log, as values and as JSON.

One partition: one order. Copies of commands, withdrawals and pauses; what admission let through; each step
announced before it is taken, and its result; counts of the fleet; the limits of admission; a tick a second. What they
mean is said in admission.py and actions.py. Manifests are in here, and they hold secrets: never print a record of
this log.
"""

from enum import StrEnum

import msgspec

from sf_healer.core.commands import (
    SCHEMA_VERSION,
    Alive,
    Command,
    Pause,
    Resolve,
    Resume,
    Unreadable,
    Withdraw,
    read_record,
)
from sf_healer.core.facts import Condition, JobFact, Loss, PodState
from sf_healer.core.groups import GroupLook
from sf_healer.core.policy import Limits, fault_of
from sf_healer.core.rollouts import RolloutView
from sf_healer.core.wire import Count, JobKey, Moment, Offset, Seconds


class Step(StrEnum):
    """What the actuator can do to the cluster; each is one API call, or one look at a Job and its pods."""

    OBSERVE = "observe"  # read the Job that was judged, and its manifest
    DELETE = "delete"
    LOOK = "look"  # read what is there now
    CREATE = "create"
    RESTORE = "restore"  # create exactly what was there, without our marks


class What(StrEnum):
    """What came of a step, as the cluster told it."""

    FOUND = "found"  # observe, look: there is a Job of this name
    ABSENT = "absent"  # observe, look: none, and `pods` of the old one
    DONE = "done"  # delete, create, restore: accepted
    MISSING = "missing"  # delete: 404
    CONFLICT = "conflict"  # delete: 409, another uid or another resourceVersion
    EXISTS = "exists"  # create: 409 AlreadyExists
    REFUSED = "refused"  # 4xx: asking again will not help
    LATER = "later"  # 401, 429, nobody to ask, or the worker did not ask: nothing has happened
    UNKNOWN = "unknown"  # no answer, 5xx, or a worker that died: it may have happened


class StepResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a step. The Job's fields are set when `what` is FOUND, or DONE of a create."""

    what: What
    uid: str = ""
    resource_version: str = ""
    condition: Condition = Condition.ACTIVE
    pod: PodState = PodState.NONE
    pods: Count = 0  # of the incarnation the action deletes or has created
    skip: bool = False
    managed: bool = True
    managed_by: str = ""
    attempt: Count = 0
    action_id: str = ""
    manifest: dict[str, object] | None = None  # sanitized
    status: Count = 0
    message: str = ""
    retry_after_seconds: Seconds = 0.0
    loss: Loss = Loss.NONE  # of the pod that was lost last, if any is
    lost_seconds: Seconds = 0.0  # since when, by the API server's clock
    refusal: str = ""  # what the API says of the Job that would be made; "": it takes it, or was not asked


class Admitted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="admitted"):
    """A command that admission let through; opens the action. `observe_only` is mode = observe."""

    schema_version: int = SCHEMA_VERSION
    command: Command
    observe_only: bool
    probing: bool = False  # a canary of a storm


class Announced(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="announced"):
    """`worker` is about to take a step; it may only once it has read this back, and if `seq` is the next.

    `observe_only` is its mode = observe: then it deletes nothing, whatever the mode was when the action was opened.
    """

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    action_id: str
    seq: Count
    step: Step
    worker: str
    observe_only: bool = False


class Resulted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """What came of the step announced as `seq` of the action opened at offset `opened`; -1: not known."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    action_id: str
    seq: Count
    step: Step
    result: StepResult
    opened: Offset = -1


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="fact"):
    """The inventory saw a Job with an open action change."""

    schema_version: int = SCHEMA_VERSION
    fact: JobFact


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="settled"):
    """An action gives its slot back; `repaired` None: nothing was learnt about repairs."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    action_id: str
    repaired: bool | None = None


class FleetCounts(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="counts"):
    """What one evidence partition counts at its watermark `at` (epoch seconds).

    `base` are the running Jobs known before the wave (no mute, idle, quarantined or gone ones, those being
    restarted included), `unhealthy` those that turned unhealthy within the storm window, `sick` those that
    are unhealthy now. `suspected` of the unhealthy are consumers silent so lately that their groups may not have
    been looked at.
    """

    schema_version: int = SCHEMA_VERSION
    partition: Count
    partitions: Count
    at: Moment
    base: Count
    unhealthy: Count
    sick: Count
    suspected: Count = 0


class GroupLooked(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="group"):
    """What look number `seq` at the consumer group of a command's Job showed."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    command_id: str
    seq: Count
    look: GroupLook


class StillSick(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="still_sick"):
    """A Job in quarantine was found sick `at` (epoch seconds of this log): it is not well, and stays in quarantine."""

    schema_version: int = SCHEMA_VERSION
    key: JobKey
    at: Moment


class LimitsChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="limits"):
    """The safety valve's numbers from here on, as `worker`, who owns the log, has them in its policy file."""

    schema_version: int = SCHEMA_VERSION
    limits: Limits
    worker: str

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that admission cannot calculate with."""
        fault = fault_of(self.limits)
        if fault is not None:
            raise ValueError(fault)


class RolloutSeen(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rollout"):
    """What the Rollout of the platform's queue-manager showed just now."""

    schema_version: int = SCHEMA_VERSION
    view: RolloutView


class Tick(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="tick"):
    """A second has passed for the worker that owns the log."""

    schema_version: int = SCHEMA_VERSION
    worker: str


StepsRecord = (
    Command
    | Withdraw
    | Alive
    | Resolve
    | Pause
    | Resume
    | Admitted
    | Announced
    | Resulted
    | Seen
    | Settled
    | FleetCounts
    | GroupLooked
    | StillSick
    | LimitsChanged
    | RolloutSeen
    | Tick
)

_KINDS = frozenset(
    {
        "restart",
        "withdraw",
        "alive",
        "resolve",
        "pause",
        "resume",
        "admitted",
        "announced",
        "result",
        "fact",
        "settled",
        "counts",
        "group",
        "still_sick",
        "limits",
        "rollout",
        "tick",
    }
)
_encode = msgspec.json.Encoder(order="deterministic").encode
_records: msgspec.json.Decoder[StepsRecord] = msgspec.json.Decoder(StepsRecord)


def encode(record: StepsRecord) -> bytes:
    """Give the record's JSON."""
    return _encode(record)


def decode(value: bytes | None) -> StepsRecord | Unreadable:
    """Read one record of `sf-healer-steps`; never raises."""
    return read_record(value, _KINDS, _records.decode)


def key_of(record: StepsRecord) -> str:
    """Name the Job a record is about; "" where it is about none."""
    match record:
        case Admitted():
            return record.command.key
        case Seen():
            return record.fact.key
        case Pause() | Resume() | FleetCounts() | LimitsChanged() | RolloutSeen() | Tick():
            return ""
        case _:
            return record.key
