"""The pages of a worker, as far as commands go by them: whoever answers otherwise is no worker of ours.

What every worker tells is required here. What one of before does not tell, or a command does without, may be missing.
Nothing here reads or prints; commands go on with the page as it came, for they print more of it than they go by.
"""

from typing import TypedDict

from msgspec import UNSET, Struct, UnsetType

from sf_healer.core.policy import Limits
from sf_healer.core.wire import Moment, Seconds

Time = Moment | None


class Held(Struct):
    """What holds a restart back."""

    reason: str
    until: Time
    detail: str


class Row(Struct):
    """A Job in the table of Jobs."""

    job: str
    namespace: str
    verdict: str
    rule: str
    target: str
    queue_id: str
    last_loading_at: Time
    silence_seconds: Seconds
    threshold_seconds: Seconds
    attempt: int
    partition: int
    held_by: Held | None = None


class Counted(Struct, kw_only=True):
    """What a page that is put together from several workers says of those that did not answer."""

    unreachable: list[str] = []
    partitions_missing: list[int] = []
    dead_letters: dict[str, int] = {}


class Jobs(Counted):
    """`/jobs/`."""

    jobs: list[Row]


class Part(Struct):
    """A partition in `/fleet/`."""

    partition: int
    jobs: int
    watermark: Time
    feed_gaps: int


class PolicyFile(Struct):
    """A policy file that workers go by."""

    version: str
    workers: int
    refused: str | None


class Fleet(Counted):
    """`/fleet/`."""

    jobs: int
    verdicts: dict[str, int]
    partitions: list[Part]
    policies: list[PolicyFile] = []


class Why(Struct):
    """Why a Job is judged as it is."""

    rule: str
    explanation: str
    since: Time
    silence_seconds: Seconds | None
    threshold_seconds: Seconds | None
    watermark: Time
    looks_again_at: Time


class Said(Struct):
    """What a Job has reported."""

    started_at: Time
    loading_at: Time
    error_at: Time
    error: str | None
    finished_at: Time
    interrupted_at: Time
    records_written: int | None
    progress_at: Time


class Fact(Struct):
    """What the cluster shows of a Job."""

    uid: str
    created_at: Time
    condition: str
    pod: str
    pod_ip: str
    target: str
    queue_id: str
    kafka_topic: str
    attempt: int
    managed_by: str = ""


class Policy(Struct):
    """What is expected of a Job."""

    name: str
    reporting: bool
    startup_threshold_seconds: Seconds
    attempts: int | None = None


class Cadence(Struct):
    """How often a Job reports, as it was learned."""

    intervals: int
    p99_seconds: Seconds | None
    threshold_seconds: Seconds | None


class Asked(Struct):
    """The restart that was asked for."""

    deadline: Time


class Outcome(Struct):
    """What became of a command; `/actions/` tells more of it than the page of a Job does."""

    at: Moment
    result: str
    reason: str
    verdict: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    detail: str | UnsetType | None = UNSET
    command_id: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    new_uid: str | UnsetType = UNSET
    requested_by: str | UnsetType = UNSET
    steps: list[tuple[str, Moment]] | UnsetType = UNSET
    evidence: "Grounds | UnsetType" = UNSET


class Grounds(TypedDict, total=False):
    """What a command rests on."""

    proof: str
    last_seen: Time
    base: Time
    silence_seconds: Seconds | None
    threshold_seconds: Seconds | None
    watermark: Time
    unhealthy_at: Time
    source_at: Time
    source_topic: str
    source_partition: int
    source_offset: int
    condition: str
    detail: str
    group: str


class Job(Row, kw_only=True):
    """`/jobs/NAMESPACE/NAME/`."""

    name: str
    why: Why
    said: Said
    incarnation: Fact | None
    policy: Policy | None
    cadence: Cadence | None
    pod_running_since: Time
    group_found_idle_at: Time
    command: Asked | None
    not_again_before: Time
    last_outcome: Outcome | None

    def __post_init__(self) -> None:
        """Hold that the policy is known where the Job is; msgspec makes of the error one of its own."""
        if self.incarnation is not None and self.policy is None:
            raise ValueError("Expected a policy where there is an incarnation")


class Command(Struct):
    """The command of a restart that is under way."""

    id: str
    uid: str
    verdict: str
    requested_by: str = ""
    evidence: Grounds | UnsetType = UNSET


class Action(Struct):
    """A restart that is under way."""

    command: Command
    state: str
    since: Moment
    attempt: int
    overdue: bool
    refusal: str
    new_uid: str
    call: tuple[str, str, Moment] | None
    steps: list[tuple[str, Moment]]


class History(Struct):
    """What counts against a Job."""

    attempts: list[Moment] = []
    ended_at: Moment = 0.0
    quarantined_at: Moment = 0.0
    sick_at: Moment = 0.0


class Record(Struct):
    """The restarts of a Job."""

    action: Action | None = None
    recent: list[Outcome] = []
    history: History | None = None


class Pause(Struct):
    """A pause."""

    scope: str
    reason: str
    until: Time
    by: str = ""
    at: Time = None


class Named(Struct):
    """A Job, by its name."""

    job: str


class Waiting(Named):
    """A Job whose restart is held."""

    verdict: str
    group: str | None


class Sick(Struct):
    """How much of the fleet is sick, as admission counts it."""

    base: int
    unhealthy: int
    suspected: int
    sick: int
    counted_at: Time
    partitions_not_counted: int


class Rollout(Struct):
    """A new version of the platform that is being tried."""

    phase: str | None
    in_the_way: str | None
    holds: bool


class Numbers(Limits, frozen=True, kw_only=True):
    """Admission's limits; of these two commands tell how long they are."""

    storm_window_seconds: Seconds
    attempts_window_seconds: Seconds


class Valve(Struct):
    """What admission sees."""

    at: Time
    observe_only: bool
    phase: str
    phase_since: Time
    in_flight: list[Named]
    in_flight_limit: int
    restarts_allowed_now: Seconds
    held: list[Waiting]
    pauses: list[Pause]
    fleet: Sick
    limits: Numbers
    restarts_held_by: Held | None = None
    rollout: Rollout | None = None
    quarantined: list[Named] = []
    waiting_for_a_person: list[Named] = []


class Actions(Counted):
    """`/actions/`."""

    actions: dict[str, Record]
    admission: Valve | None
