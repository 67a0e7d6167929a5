"""The Litmus kinds that we write, stricter than Litmus' own CRDs, which keep unknown fields silently.

A field is here when every generation of the CRDs in GENERATIONS knows it, with the type that all of them take.
Read from chaos-operator (deploy/crds), litmus 3.31 (operator bundle and ChaosCenter) and chaos-scheduler.
Pure: reading files is the caller's.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

API_VERSION = "litmuschaos.io/v1alpha1"

# Go's time.ParseDuration takes more ("1h30m"); one number and one unit is what a reader takes in at once.
Duration = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]+(ms|s|m|h)\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z", max_length=63)]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """Give a Duration in seconds."""
    unit = duration.lstrip("0123456789")
    return int(duration.removesuffix(unit)) * _SECONDS[unit]


class Mode(StrEnum):
    """When a probe is asked."""

    SOT = "SOT"  # before
    EOT = "EOT"  # after
    EDGE = "Edge"  # both
    CONTINUOUS = "Continuous"  # from before to after
    ON_CHAOS = "OnChaos"  # while the fault holds


class ProbeType(StrEnum):
    """What a probe asks; sloProbe is Harness', and not in every generation."""

    HTTP = "httpProbe"
    KUBERNETES = "k8sProbe"
    PROMETHEUS = "promProbe"
    COMMAND = "cmdProbe"


class Operation(StrEnum):
    """What a k8sProbe does; `create` and `delete` would be a second fault, so they are not here."""

    PRESENT = "present"
    ABSENT = "absent"


class ComparedAs(StrEnum):
    """What the two sides of a comparison are read as."""

    INT = "int"
    FLOAT = "float"
    STRING = "string"


class EngineState(StrEnum):
    """`stop` aborts a run."""

    ACTIVE = "active"
    STOP = "stop"


class CleanUp(StrEnum):
    """What becomes of the experiment's Job."""

    DELETE = "delete"
    RETAIN = "retain"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A mapping with these keys and no others."""


class Metadata(_Strict, frozen=True):
    """What we say of an object."""

    name: _Name
    namespace: _Name | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Variable(_Strict, frozen=True):
    """One setting of a fault; always text."""

    name: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z][A-Z0-9_]*\Z")]
    value: str


class Comparator(_Strict, frozen=True):
    """How what was found is held against what is expected."""

    criteria: _Text
    value: str
    type: ComparedAs | None = None  # a promProbe's is always float


class Answered(_Strict, frozen=True):
    """Which status an HTTP answer must have."""

    criteria: _Text
    response_code: Annotated[str, msgspec.Meta(pattern=r"\A[1-5][0-9]{2}(,[1-5][0-9]{2})*\Z")]


class Method(_Strict, frozen=True):
    """An experiment only looks: GET, never POST."""

    get: Answered


class HttpInputs(_Strict, frozen=True):
    """Of an httpProbe."""

    url: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://\S+\Z")]
    method: Method


class KubernetesInputs(_Strict, frozen=True):
    """Of a k8sProbe."""

    version: _Text
    resource: _Text
    operation: Operation
    group: str = ""
    namespace: str = ""
    resource_names: str = ""
    label_selector: str = ""
    field_selector: str = ""


class PrometheusInputs(_Strict, frozen=True):
    """Of a promProbe."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://\S+\Z")]
    query: _Text
    comparator: Comparator


class CommandInputs(_Strict, frozen=True):
    """Of a cmdProbe, inline: it runs in go-runner's own image with the experiment's own rights."""

    command: _Text
    comparator: Comparator


class RunProperties(_Strict, frozen=True):
    """How often a probe is asked. `attempt` counts, `interval` is between attempts, not between polls."""

    probe_timeout: Duration
    interval: Duration
    attempt: _Count = 1
    probe_polling_interval: Duration | None = None
    initial_delay: Duration | None = None
    stop_on_failure: bool = False


class Probe(_Strict, frozen=True):
    """One question of a hypothesis."""

    name: _Name
    type: ProbeType
    mode: Mode
    run_properties: RunProperties
    http: HttpInputs | None = msgspec.field(default=None, name="httpProbe/inputs")
    kubernetes: KubernetesInputs | None = msgspec.field(default=None, name="k8sProbe/inputs")
    prometheus: PrometheusInputs | None = msgspec.field(default=None, name="promProbe/inputs")
    command: CommandInputs | None = msgspec.field(default=None, name="cmdProbe/inputs")

    @property
    def inputs(self) -> dict[ProbeType, "HttpInputs | KubernetesInputs | PrometheusInputs | CommandInputs"]:
        """Give the inputs there are, by the type they belong to."""
        every = {
            ProbeType.HTTP: self.http,
            ProbeType.KUBERNETES: self.kubernetes,
            ProbeType.PROMETHEUS: self.prometheus,
            ProbeType.COMMAND: self.command,
        }
        return {type_: inputs for type_, inputs in every.items() if inputs is not None}


class StatusChecks(_Strict, frozen=True):
    """Seconds that go-runner waits for Pods and for probes."""

    delay: _Count
    timeout: _Count


class ExperimentComponents(_Strict, frozen=True):
    """The settings of a fault in this engine."""

    env: tuple[Variable, ...] = ()
    status_check_timeouts: StatusChecks | None = None
    node_selector: dict[str, str] = {}


class ExperimentSpec(_Strict, frozen=True):
    """The fault's settings and the probes."""

    components: ExperimentComponents
    probe: tuple[Probe, ...]


class EngineExperiment(_Strict, frozen=True):
    """A fault by the name of its ChaosExperiment."""

    name: _Name
    spec: ExperimentSpec


class AppInfo(_Strict, frozen=True):
    """Targets by the kind and label of what owns them."""

    appns: str = ""
    applabel: str = ""
    appkind: str = ""


class NamedPods(_Strict, frozen=True):
    """Targets by name, separated by commas."""

    namespace: _Text
    names: _Text


class Workload(_Strict, frozen=True):
    """Targets by their workload, named or labelled."""

    kind: _Text
    namespace: _Text
    names: str = ""
    labels: str = ""


class Selectors(_Strict, frozen=True):
    """Pods or workloads, one of both."""

    pods: tuple[NamedPods, ...] = ()
    workloads: tuple[Workload, ...] = ()


class EngineSpec(_Strict, frozen=True):
    """What to break, how, and how to tell whether the hypothesis held."""

    engine_state: EngineState
    chaos_service_account: _Name
    experiments: tuple[EngineExperiment, ...]
    appinfo: AppInfo | None = None
    selectors: Selectors | None = None
    default_health_check: bool = True
    job_clean_up_policy: CleanUp = CleanUp.DELETE
    termination_grace_period_seconds: int | None = None


class ChaosEngine(_Strict, frozen=True, tag_field="kind", tag="ChaosEngine"):
    """One run of a fault, with the probes that judge it."""

    api_version: Annotated[str, msgspec.Meta(pattern=rf"\A{API_VERSION}\Z")]
    metadata: Metadata
    spec: EngineSpec

    @property
    def experiment(self) -> EngineExperiment:
        """Give its only experiment; the lint `one-fault` says that there is one."""
        return self.spec.experiments[0]

    @property
    def settings(self) -> dict[str, str]:
        """Give the fault's settings by name."""
        return {each.name: each.value for each in self.experiment.spec.components.env}


class Permission(_Strict, frozen=True):
    """A right that the experiment needs, for who reads it; nothing is granted by it."""

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


class Definition(_Strict, frozen=True):
    """What go-runner is started with."""

    scope: Annotated[str, msgspec.Meta(pattern=r"\ANamespaced\Z")]
    permissions: tuple[Permission, ...]
    image: _Text
    image_pull_policy: _Text
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[Variable, ...]
    labels: dict[str, str]


class ChaosExperimentSpec(_Strict, frozen=True):
    """The fault's definition."""

    definition: Definition


class Description(_Strict, frozen=True):
    """What a fault does, in words."""

    message: _Text


class ChaosExperiment(_Strict, frozen=True, tag_field="kind", tag="ChaosExperiment"):
    """A fault that engines name."""

    api_version: Annotated[str, msgspec.Meta(pattern=rf"\A{API_VERSION}\Z")]
    metadata: Metadata
    spec: ChaosExperimentSpec
    description: Description


class TimeRange(_Strict, frozen=True):
    """From when to when."""

    start_time: str | None = None
    end_time: str | None = None


class WorkHours(_Strict, frozen=True):
    """Hours of the day, `9-17`."""

    included_hours: _Text


class WorkDays(_Strict, frozen=True):
    """Days of the week, `Mon,Tue`."""

    included_days: _Text


class MinimumInterval(_Strict, frozen=True):
    """Days, hours or minutes between two runs."""

    hour: dict[str, int] = {}
    minute: dict[str, int] = {}


class Properties(_Strict, frozen=True):
    """How often."""

    min_chaos_interval: MinimumInterval
    random: bool = False


class Repeat(_Strict, frozen=True):
    """A schedule that repeats; `now` and `once` are no schedule."""

    properties: Properties
    work_hours: WorkHours | None = None
    work_days: WorkDays | None = None
    time_range: TimeRange | None = None


class Schedule(_Strict, frozen=True):
    """When."""

    repeat: Repeat


class ScheduleSpec(_Strict, frozen=True):
    """When, and the engine."""

    schedule: Schedule
    engine_template_spec: EngineSpec
    schedule_state: EngineState
    concurrency_policy: Annotated[str, msgspec.Meta(pattern=r"\AForbid\Z")] = "Forbid"


class ChaosSchedule(_Strict, frozen=True, tag_field="kind", tag="ChaosSchedule"):
    """An engine made again and again by chaos-scheduler."""

    api_version: Annotated[str, msgspec.Meta(pattern=rf"\A{API_VERSION}\Z")]
    metadata: Metadata
    spec: ScheduleSpec


Kind = ChaosEngine | ChaosExperiment | ChaosSchedule


class SchemaError(ValueError):
    """A document is none of the kinds here, or not as they are; says where."""


def parse(document: Mapping[str, Any]) -> Kind:
    """Read one document; raises SchemaError with the path of the first fault."""
    try:
        found: Kind = msgspec.convert(document, type=Kind)
    except msgspec.ValidationError as problem:
        raise SchemaError(str(problem)) from None
    return found


_WORKLOADS = frozenset({"", "deployment", "statefulset", "daemonset", "deploymentconfig", "rollout"})


class Generation(msgspec.Struct, frozen=True):
    """One line of Litmus' CRDs that is in use, and which kinds of targets it takes."""

    name: str
    source: str
    kinds: frozenset[str]


#: `job` came with litmus #5433 (February 2026), and only into ChaosCenter's CRDs.
GENERATIONS = (
    Generation("operator", "chaos-operator deploy/crds; helm litmus-core and litmus-agent 3.29", _WORKLOADS),
    Generation("bundle-3.31", "litmus-operator-v3.31.0.yaml", _WORKLOADS),
    Generation("scheduler", "chaos-scheduler deploy/crds (ChaosSchedule)", _WORKLOADS),
    Generation("chaoscenter-3.31", "ChaosCenter's 2a_litmus_crds.yaml, litmus-portal-crds.yml", _WORKLOADS | {"job"}),
)


def taken_by(spec: EngineSpec) -> tuple[Generation, ...]:
    """Give the generations whose CRD takes this spec."""
    used = set(_kinds(spec))
    return tuple(each for each in GENERATIONS if used <= each.kinds)


def _kinds(spec: EngineSpec) -> Iterator[str]:
    if spec.appinfo is not None:
        yield spec.appinfo.appkind
    if spec.selectors is not None:
        yield from (each.kind for each in spec.selectors.workloads)
