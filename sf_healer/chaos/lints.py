"""What a schema cannot say of an engine: each lint is a way in which Litmus fails, or passes, for the wrong reason.

A lint is a generator of sentences with a name; `faults` runs all. docs: litmus/README.md, "What the lints are for".
"""

import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

from sf_healer.chaos.comparators import CRITERIA, holds, listed
from sf_healer.chaos.litmus import (
    ChaosEngine,
    ChaosExperiment,
    ChaosSchedule,
    ComparedAs,
    EngineSpec,
    Kind,
    Metadata,
    Mode,
    Probe,
    seconds,
    taken_by,
)

POD_DELETE = "pod-delete"
NETWORK_LATENCY = "pod-network-latency"

HYPOTHESIS = "chaos.sf-healer.io/hypothesis"
STEADY_STATE = "chaos.sf-healer.io/steady-state"
PROOF = "chaos.sf-healer.io/proof"
#: Only engines with this word may have `appkind: job`: no other CRDs take it.
NEEDS_CHAOSCENTER = "chaos.sf-healer.io/needs-chaoscenter"

_NUMBERS = {"TOTAL_CHAOS_DURATION", "NETWORK_LATENCY", "JITTER", "RAMP_TIME", "CHAOS_INTERVAL", "PODS_AFFECTED_PERC"}
_SETTINGS: Mapping[str, frozenset[str]] = {
    POD_DELETE: frozenset(
        {
            *("TOTAL_CHAOS_DURATION", "CHAOS_INTERVAL", "FORCE", "RAMP_TIME", "SEQUENCE", "RANDOMNESS"),
            *("PODS_AFFECTED_PERC", "DEFAULT_HEALTH_CHECK", "NODE_LABEL", "TARGET_PODS", "TARGET_CONTAINER"),
        }
    ),
    NETWORK_LATENCY: frozenset(
        {
            *("TOTAL_CHAOS_DURATION", "NETWORK_LATENCY", "JITTER", "NETWORK_INTERFACE", "DESTINATION_HOSTS"),
            *("DESTINATION_IPS", "CONTAINER_RUNTIME", "SOCKET_PATH", "TARGET_CONTAINER", "PODS_AFFECTED_PERC"),
            *("SEQUENCE", "RAMP_TIME", "LIB_IMAGE", "DEFAULT_HEALTH_CHECK", "NODE_LABEL", "TARGET_PODS"),
        }
    ),
}
_WHILE = (Mode.CONTINUOUS, Mode.ON_CHAOS)
#: In go-runner's image, and only looking.
_LOOKS = re.compile(r"kubectl( -n [a-z0-9-]+)? get |grep |wc -l\Z")
_ABSENT = re.compile(r" or vector\((-?[0-9.]+)\)\Z")
#: What makes one row of many. `topk` and `by` make several.
_ONE_ROW = re.compile(r"\A\(*(sum|min|max|count|avg|histogram_quantile|time|scalar)\b")
_GROUPED = re.compile(r"\A\w+ (by|without) ")
_EATEN_BY_THE_SHELL = frozenset('"$`\\')
_TAGGED = re.compile(r"(:[\w][\w.-]*|@sha256:[0-9a-f]{64})\Z")


class Fault(msgspec.Struct, frozen=True):
    """What a lint has against a document."""

    lint: str
    where: str
    words: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.where}: {self.words} ({self.lint})"


_Words = Iterator[tuple[str, str]]
_ENGINE: dict[str, Callable[[EngineSpec], _Words]] = {}
_PROBE: dict[str, Callable[[Probe, EngineSpec], Iterator[str]]] = {}


def faults(document: Kind) -> tuple[Fault, ...]:
    """Give everything that the lints have against a document."""
    match document:
        case ChaosExperiment():
            return tuple(_of_experiment(document))
        case ChaosSchedule():
            own = () if document.metadata.annotations.get(HYPOTHESIS) else (_unsaid(document.metadata),)
            late = () if _scheduler_takes(document.spec.engine_template_spec) else (_not_scheduled(document.metadata),)
            return (*own, *late, *_of_spec(document.metadata, document.spec.engine_template_spec))
        case ChaosEngine():
            return (*_of_metadata(document), *_of_spec(document.metadata, document.spec))


def names() -> frozenset[str]:
    """Name every lint."""
    return frozenset({*_ENGINE, *_PROBE, "pinned-image", "least-rights", "said", "everywhere"})


def _of_experiment(document: ChaosExperiment) -> Iterator[Fault]:
    definition, where = document.spec.definition, document.metadata.name
    if not _TAGGED.search(definition.image) or definition.image.endswith(":latest"):
        yield Fault("pinned-image", where, f"{definition.image} is another program tomorrow")
    for permission in definition.permissions:
        if "*" in {*permission.api_groups, *permission.resources, *permission.verbs}:
            yield Fault("least-rights", where, "a right to everything")


def _of_metadata(document: ChaosEngine) -> Iterator[Fault]:
    told, where = document.metadata.annotations, document.metadata.name
    for each in (HYPOTHESIS, STEADY_STATE, PROOF):
        if not told.get(each, "").strip():
            yield Fault("said", where, f"no annotation {each}: an experiment without a hypothesis is an outage")
    generations = taken_by(document.spec)
    if not generations:
        yield Fault("everywhere", where, "no generation of the CRDs takes this kind of target")
    elif len(generations) == 1 and told.get(NEEDS_CHAOSCENTER) != "true":
        yield Fault("everywhere", where, f"only {generations[0].name} takes this, and {NEEDS_CHAOSCENTER} is not set")


def _unsaid(metadata: Metadata) -> Fault:
    return Fault("said", metadata.name, f"no annotation {HYPOTHESIS}")


def _scheduler_takes(spec: EngineSpec) -> bool:
    return any(each.name == "scheduler" for each in taken_by(spec))


def _not_scheduled(metadata: Metadata) -> Fault:
    return Fault("everywhere", metadata.name, "the CRD of ChaosSchedule does not take this kind of target")


def _of_spec(metadata: Metadata, spec: EngineSpec) -> Iterator[Fault]:
    for lint, check in _ENGINE.items():
        for where, words in check(spec):
            yield Fault(lint, f"{metadata.name}{where and '/'}{where}", words)
    for experiment in spec.experiments:
        for probe in experiment.spec.probe:
            for lint, look in _PROBE.items():
                for words in look(probe, spec):
                    yield Fault(lint, f"{metadata.name}/{probe.name}", words)


def _engine(check: Callable[[EngineSpec], _Words]) -> Callable[[EngineSpec], _Words]:
    _ENGINE[check.__name__.strip("_").replace("_", "-")] = check
    return check


def _probe(check: Callable[[Probe, EngineSpec], Iterator[str]]) -> Callable[[Probe, EngineSpec], Iterator[str]]:
    _PROBE[check.__name__.strip("_").replace("_", "-")] = check
    return check


def _settings(spec: EngineSpec) -> dict[str, str]:
    return {each.name: each.value for experiment in spec.experiments for each in experiment.spec.components.env}


def _probes(spec: EngineSpec) -> list[Probe]:
    return [probe for experiment in spec.experiments for probe in experiment.spec.probe]


def _duration(spec: EngineSpec) -> float:
    told = _settings(spec).get("TOTAL_CHAOS_DURATION", "")
    return float(told) if told.isdigit() else 0.0


# ------------------------------------------------------------------ of an engine


@_engine
def _one_fault(spec: EngineSpec) -> _Words:
    """Two experiments in an engine run one after the other under one name: whose verdict is it."""
    if len(spec.experiments) != 1:
        yield "", f"{len(spec.experiments)} experiments in one engine"


@_engine
def _appinfo_whole(spec: EngineSpec) -> _Words:
    """Half of it the operator refuses; a namespace alone is a random Pod of everything in it."""
    if spec.appinfo is None:
        return
    told = spec.appinfo
    if bool(told.appkind) != bool(told.applabel):
        yield "", "appkind and applabel go together"
    elif told.appns and not told.appkind:
        yield "", f"appns alone: any Pod of {told.appns} may be hit"
    if not told.appns:
        yield "", "appinfo without appns"


@_engine
def _one_way_to_aim(spec: EngineSpec) -> _Words:
    """Appinfo and selectors exclude each other; neither hits nothing, after minutes."""
    chosen = spec.selectors
    ways = [spec.appinfo is not None, bool(chosen and chosen.pods), bool(chosen and chosen.workloads)]
    if sum(ways) != 1:
        yield "", "exactly one of appinfo, selectors.pods and selectors.workloads"
    for each in chosen.workloads if chosen else ():
        if bool(each.names) == bool(each.labels):
            yield "", "a workload has names or labels, one of both"


@_engine
def _one_kill(spec: EngineSpec) -> _Words:
    """Named Pods are looked for again under the same names in the next round, and a Job's next Pod has another."""
    if spec.selectors is None or not spec.selectors.pods or not _is(spec, POD_DELETE):
        return
    told = _settings(spec)
    if told.get("CHAOS_INTERVAL") != told.get("TOTAL_CHAOS_DURATION"):
        yield "", "with named Pods CHAOS_INTERVAL is TOTAL_CHAOS_DURATION: one engine, one kill"
    if told.get("RANDOMNESS", "false") != "false":
        yield "", "with named Pods no RANDOMNESS"
    if any("," in each.names for each in spec.selectors.pods) or len(spec.selectors.pods) > 1:
        yield "", "one named Pod: the others would be killed with it"


@_engine
def _percentage_counts(spec: EngineSpec) -> _Words:
    """PODS_AFFECTED_PERC is ignored where Pods are named: all of them are hit."""
    if spec.selectors is not None and spec.selectors.pods and "PODS_AFFECTED_PERC" in _settings(spec):
        yield "", "PODS_AFFECTED_PERC has no effect on named Pods"
    if spec.selectors is None and "PODS_AFFECTED_PERC" not in _settings(spec) and _is(spec, POD_DELETE):
        yield "", "say PODS_AFFECTED_PERC: the blast radius is no default"


@_engine
def _known_settings(spec: EngineSpec) -> _Words:
    """Otherwise it is ignored silently; a number that is none becomes 0."""
    for experiment in spec.experiments:
        told = [each.name for each in experiment.spec.components.env]
        if len(told) != len(set(told)):
            yield experiment.name, "a setting twice"
        if experiment.name not in _SETTINGS:
            yield experiment.name, f"no fault of ours; {', '.join(sorted(_SETTINGS))} are"
            continue
        for each in sorted(set(told) - _SETTINGS[experiment.name]):
            yield experiment.name, f"{each} is no setting of this fault"
    for name, value in _settings(spec).items():
        if name in _NUMBERS and not value.isdigit():
            yield "", f"{name}={value!r} is no whole number"
    if not _duration(spec):
        yield "", "TOTAL_CHAOS_DURATION is not set"


@_engine
def _own_health_check_off(spec: EngineSpec) -> _Words:
    """Litmus' own check fails on Pods that have ended, and a namespace of Jobs is full of those."""
    if spec.default_health_check:
        yield "", "defaultHealthCheck: false"


@_engine
def _judged(spec: EngineSpec) -> _Words:
    """Before, meanwhile and after: what is not asked is not known."""
    modes = {probe.mode for probe in _probes(spec)}
    for needed in ({Mode.SOT, Mode.EDGE}, set(_WHILE), {Mode.EOT, Mode.EDGE}):
        if not modes & needed:
            yield "", f"no probe of mode {' or '.join(sorted(needed))}"


@_engine
def _own_names(spec: EngineSpec) -> _Words:
    """Results are kept by the probe's name."""
    told = [probe.name for probe in _probes(spec)]
    for name in sorted({each for each in told if told.count(each) > 1}):
        yield name, "two probes of this name"


@_engine
def _whole_way(spec: EngineSpec) -> _Words:
    """Kafka's clients leave the bootstrap address after the first answer: the brokers' own must be slow too.

    DESTINATION_PORTS would be a filter of its own and slow other peers; `host|port` is not.
    """
    if not _is(spec, NETWORK_LATENCY):
        return
    hosts = [each for each in _settings(spec).get("DESTINATION_HOSTS", "").split(",") if each]
    if not all(re.fullmatch(r"[a-z0-9.-]+\|[0-9]+", each) for each in hosts):
        yield "", "each of DESTINATION_HOSTS is host|port"
    if not any("-bootstrap." in each for each in hosts) or not any("-brokers." in each for each in hosts):
        yield "", "DESTINATION_HOSTS needs the bootstrap Service and the headless one of the brokers"


def _is(spec: EngineSpec, fault: str) -> bool:
    return any(experiment.name == fault for experiment in spec.experiments)


# ------------------------------------------------------------------ of a probe


@_probe
def _own_inputs(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """Of another type they are ignored."""
    if set(probe.inputs) != {probe.type}:
        yield f"a {probe.type} has {probe.type}/inputs and no others"


@_probe
def _stops_before_it_starts(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """Unless it says so, a probe that fails before the fault is only written down, and the fault goes in."""
    if probe.mode in (Mode.SOT, Mode.EDGE) and not probe.run_properties.stop_on_failure:
        yield "without stopOnFailure the fault is injected into what is not well"


@_probe
def _asked_meanwhile(probe: Probe, spec: EngineSpec) -> Iterator[str]:
    """Without a pause a probe asks as fast as it can; with a long one it is asked once."""
    if probe.mode not in _WHILE:
        return
    pause = probe.run_properties.probe_polling_interval
    if pause is None:
        yield "probePollingInterval is not set: it would be asked without a pause"
    elif seconds(pause) * 2 > _duration(spec):
        yield f"asked every {pause} of {_duration(spec):g} s: less than twice"


@_probe
def _no_delay_on_chaos(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """In litmus-go 3.31 the delay in ns is taken from a duration in s: the probe is over before it is asked."""
    if probe.mode is Mode.ON_CHAOS and probe.run_properties.initial_delay is not None:
        yield "initialDelay makes an OnChaos probe pass unasked"


@_probe
def _fails_for_an_answer(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """By name, what is not there is an Error of the probe; by selector it is a Fail of the hypothesis."""
    if probe.kubernetes is None:
        return
    if probe.kubernetes.resource_names:
        yield "resourceNames give Error where the answer is no; select by label or field"
    elif not probe.kubernetes.label_selector and not probe.kubernetes.field_selector:
        yield "neither labelSelector nor fieldSelector: everything is meant"


@_probe
def _survives_the_shell(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """Litmus puts the query into `/bin/sh -c`, within double quotes."""
    if probe.prometheus is None:
        return
    for each in sorted(set(probe.prometheus.query) & _EATEN_BY_THE_SHELL):
        yield f"{each} does not come through the shell; PromQL takes single quotes"
    if probe.prometheus.query.count("'") % 2:
        yield "a single quote is left open"


@_probe
def _one_row(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """No row and two rows are errors of the probe, not answers."""
    if probe.prometheus is None:
        return
    query = " ".join(probe.prometheus.query.split())
    if not _ONE_ROW.match(query) or _GROUPED.match(query.lstrip("(")):
        yield "the query is no aggregate of one row"
    if not _ABSENT.search(query):
        yield "the query ends with `or vector(N)`: no row is an error of the probe"


@_probe
def _silence_is_no_pass(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """`or vector(0)` under `== 0` passes when the healer is not there at all."""
    if probe.prometheus is None:
        return
    absent, comparator = _ABSENT.search(probe.prometheus.query.rstrip()), probe.prometheus.comparator
    if absent and holds(ComparedAs.FLOAT, absent[1], comparator.criteria, comparator.value):
        yield f"passes when nothing is measured: {absent[1]} {comparator.criteria} {comparator.value}"


@_probe
def _comparable(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """Criteria that Litmus does not know never hold, text that is no number is 0, a list of one is none."""
    for compared_as, criteria, value in _comparisons(probe):
        if criteria not in CRITERIA[compared_as]:
            yield f"{criteria!r} is no comparison of {compared_as}s"
        elif criteria.lower() in {"oneof", "between"}:
            if len(listed(value)) < 2:  # noqa: PLR2004  a list
                yield f"{criteria} needs several values, separated by commas"
        elif compared_as is not ComparedAs.STRING and not _is_number(compared_as, value):
            yield f"{value!r} is read as 0"


def _comparisons(probe: Probe) -> Iterator[tuple[ComparedAs, str, str]]:
    if probe.prometheus is not None:
        yield ComparedAs.FLOAT, probe.prometheus.comparator.criteria, probe.prometheus.comparator.value
    if probe.http is not None:
        yield ComparedAs.INT, probe.http.method.get.criteria, probe.http.method.get.response_code
    if probe.command is not None and (read_as := probe.command.comparator.type) is not None:
        yield read_as, probe.command.comparator.criteria, probe.command.comparator.value


def _is_number(compared_as: ComparedAs, value: str) -> bool:
    pattern = r"[+-]?[0-9]+" if compared_as is ComparedAs.INT else r"[+-]?[0-9]+(\.[0-9]+)?"
    return re.fullmatch(pattern, value) is not None


@_probe
def _command_looks(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """With the rights of the experiment it could delete: it reads with kubectl and counts."""
    if probe.command is None:
        return
    if probe.command.comparator.type is None:
        yield "a cmdProbe says what it compares: int, float or string"
    if set(probe.command.command) & set(";&`$<>\\"):
        yield "one pipeline, nothing of the shell's beside"
    for part in probe.command.command.split("|"):
        if not _LOOKS.match(part.strip()):
            yield f"{part.strip()!r} is not kubectl get, grep or wc -l"


@_probe
def _in_time(probe: Probe, _spec: EngineSpec) -> Iterator[str]:
    """One attempt is bounded; what waits for something to come true says how often it asks."""
    if seconds(probe.run_properties.probe_timeout) > 30:  # noqa: PLR2004  seconds; more is a wait in disguise
        yield "probeTimeout bounds one attempt: wait with attempt and interval"
