"""`sf-healer chaos submit` and `chaos check`: engines of LitmusChaos one after the other, and faults in their files."""

import random
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
import yaml

from sf_healer.adapters.cluster import ApiFailure, Cluster, Failure, Kind
from sf_healer.chaos import lints, litmus, verdict
from sf_healer.chaos.picking import Candidate, PickError, Wanted, Wish, choose, filled, wish_of
from sf_healer.cli import ExitCode, Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.scopes import dry_run_option
from sf_healer.core.facts import Condition, PodState

T = TypeVar("T")

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_GROUP, _VERSION = litmus.API_VERSION.split("/")
ENGINES = Kind(_GROUP, _VERSION, "chaosengines")
RESULTS = Kind(_GROUP, _VERSION, "chaosresults")
_RUNNING = "Running"
_UNREACHABLE = frozenset({Failure.UNREACHABLE, Failure.BROKEN_OFF, Failure.TIMEOUT, Failure.SERVER, Failure.THROTTLED})
_COLUMNS = ("ENGINE", "HYPOTHESIS", "TARGET", "VERDICT", "PROBES", "SECONDS")


class Submitted(msgspec.Struct, frozen=True):
    """One engine of a run, as it ended."""

    engine: str
    hypothesis: str
    target: str
    seconds: float
    told: verdict.Told


@click.group()
def command() -> None:
    """Run chaos experiments."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
def check(*, files: tuple[Path, ...]) -> ExitCode:
    """Hold FILES against a strict schema of Litmus' kinds and against its known traps; exit code 3 on a fault."""
    found = [f"{file}: {each}" for file in files for document in _documents(file) for each in _faults_of(document)]
    for line in found:
        say(line)
    return ExitCode.NO if found else ExitCode.OK


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--namespace", default="litmus", show_default=True, help="Where Litmus' operator looks for engines.")
@click.option("--seed", type=int, help="Pick what that seed picks; printed by every run.")
@click.option(
    "--patience-seconds",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    metavar="S",
    help="Wait so long beyond an engine's own duration, then stop it.",
)
@click.option("--poll-seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, metavar="S")
@dry_run_option
@output_option
def submit(
    *,
    files: tuple[Path, ...],
    namespace: str,
    seed: int | None,
    patience_seconds: float,
    poll_seconds: float,
    dry_run: bool,
    output: Output,
) -> ExitCode:
    """Submit the engines of FILES one after the other and wait for their verdicts; 0 if all are Pass.

    Ends at the first that is not Pass (exit code 3): what is not well is not broken further. Exit code 4 and nothing
    submitted while another engine in the namespace has not ended.
    """
    settings = settings_for_a_command()
    engines = [each for file in files for each in _engines_of(file)]
    seed = secrets.randbelow(2**32) if seed is None else seed
    say(f"seed {seed}")
    places = _Places(settings.kubeconfig)
    run = _Run(places, places.of(namespace), random.Random(seed), patience_seconds, poll_seconds)  # noqa: S311  a choice
    if dry_run:
        click.echo(yaml.safe_dump_all([run.prepared(each) for each in engines], sort_keys=False), nl=False)
        return ExitCode.OK
    done: list[Submitted] = []
    with _interrupted_by_sigterm():
        for document in engines:
            if busy := run.others():
                say(f"not submitted: {', '.join(busy)} in {namespace} have not ended")
                return ExitCode.REFUSED
            done.append(run.submit(document))
            if done[-1].told.verdict is not verdict.Verdict.PASS:
                break
    emit(done, output, columns=_COLUMNS, rows=[_row(each) for each in done])
    for each in done:
        _say_what_failed(each)
    whole = len(done) == len(engines) and all(each.told.verdict is verdict.Verdict.PASS for each in done)
    return ExitCode.OK if whole else ExitCode.NO


class _Places:
    """One client for each namespace."""

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._known: dict[str, Cluster] = {}

    def of(self, namespace: str) -> Cluster:
        """Give the client for a namespace."""
        if namespace not in self._known:
            self._known[namespace] = Cluster.connect(namespace=namespace, kubeconfig=self._kubeconfig)
        return self._known[namespace]


class _Run:
    """Engines of one run: what was picked for one may be wanted for the next."""

    def __init__(
        self, places: _Places, litmus_at: Cluster, chance: random.Random, patience: float, poll: float
    ) -> None:
        self._places = places
        self._at = litmus_at
        self._chance = chance
        self._patience = patience
        self._poll = poll
        self._same: dict[str, Candidate] = {}

    def others(self) -> list[str]:
        """Name the engines that have not ended."""
        found = _or_raise(self._at.list_objects(ENGINES))
        return sorted(each["metadata"]["name"] for each in found if not verdict.has_ended(each))

    def prepared(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Pick for an engine, and fill in what was picked."""
        moment = datetime.now(UTC).strftime("%Y%m%dt%H%M%S")
        try:
            wish = wish_of(document["metadata"].get("annotations", {}))
            made = filled(document, self._picked(wish), run=moment)
        except PickError as problem:
            raise click.ClickException(str(problem)) from None
        return made | {"metadata": made["metadata"] | {"namespace": self._at.namespace}}

    def submit(self, document: Mapping[str, Any]) -> Submitted:
        """Make the engine and give what became of it; one that does not end in time is stopped."""
        made = self.prepared(document)
        engine = litmus.parse(made)
        assert isinstance(engine, litmus.ChaosEngine)
        name, began = engine.metadata.name, time.monotonic()
        say(f"{name}: {engine.metadata.annotations[lints.HYPOTHESIS]}")
        _or_raise(self._at.create_object(ENGINES, made))
        limit = float(engine.settings["TOTAL_CHAOS_DURATION"]) + self._patience
        ended = False
        try:
            ended = self._wait(name, began + limit)
        finally:
            if not ended:
                self._at.merge_object(ENGINES, name, {"spec": {"engineState": litmus.EngineState.STOP.value}})
        told = self._told(verdict.result_name(name, engine.experiment.name)) if ended else _NOT_IN_TIME
        say(f"{name}: {told.verdict}")
        hypothesis = engine.metadata.annotations[lints.HYPOTHESIS].partition(":")[0]
        return Submitted(name, hypothesis, _target(engine), round(time.monotonic() - began, 1), told)

    def _wait(self, name: str, until: float) -> bool:
        while time.monotonic() < until:
            found = self._at.read_object(ENGINES, name)
            if isinstance(found, ApiFailure):
                if found.kind not in _UNREACHABLE:  # an API server that restarts is no end of the experiment
                    _refuse(found)
            elif verdict.has_ended(found):
                return True
            time.sleep(self._poll)
        return False

    def _told(self, name: str) -> verdict.Told:
        found = self._at.read_object(RESULTS, name)
        if isinstance(found, ApiFailure) and found.kind is Failure.NOT_FOUND:
            return verdict.told(None)
        return verdict.told(_or_raise(found))

    def _picked(self, wish: Wish) -> tuple[Candidate, ...]:
        if wish.wanted is Wanted.NONE:
            return ()
        if before := self._same.get(wish.same_as):
            return (Candidate(self._pod_of(wish.namespace, before.job), before.job, before.uid),)
        picked = choose(wish, self._candidates(wish), self._chance)
        if wish.same_as:
            self._same[wish.same_as] = picked[0]
        return picked

    def _candidates(self, wish: Wish) -> list[Candidate]:
        at = self._places.of(wish.namespace)
        if wish.wanted is Wanted.POD:
            pods = _or_raise(at.list_pods(wish.labels))
            return [Candidate(pod.name) for pod in pods if pod.phase == _RUNNING and not pod.deleting]
        jobs = [
            fact
            for fact in _or_raise(at.list_jobs()).facts
            if fact.condition is Condition.ACTIVE and fact.pod is PodState.RUNNING and not fact.skip
        ]
        found = [(fact.key.partition("/")[2], fact.uid) for fact in jobs]
        return [Candidate(pod, name, uid) for name, uid in found for pod in self._pods_of(wish.namespace, name, uid)]

    def _pod_of(self, namespace: str, job: str) -> str:
        uids = [
            fact.uid for fact in _or_raise(self._places.of(namespace).list_jobs()).facts if fact.key.endswith(f"/{job}")
        ]
        for uid in uids:
            for pod in self._pods_of(namespace, job, uid):
                return pod
        raise PickError(f"{namespace}/{job} has no Pod that runs")

    def _pods_of(self, namespace: str, job: str, uid: str) -> list[str]:
        pods = _or_raise(self._places.of(namespace).pods_of(namespace, job, uid))
        return [pod.name for pod in pods if pod.phase == _RUNNING and not pod.deleting]


_NOT_IN_TIME = verdict.Told(verdict.Verdict.ERROR, "did not end in time and was told to stop", "", ())


def _documents(file: Path) -> list[dict[str, Any]]:
    try:
        with click.open_file(str(file)) as stream:
            return [each for each in yaml.safe_load_all(stream) if isinstance(each, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise click.ClickException(f"{file}: {problem}") from None


def _engines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Give the engines of a file; raises ClickException on a fault, before anything is submitted."""
    for document in _documents(file):
        if faults := [*_faults_of(document)]:
            raise click.ClickException(f"{file}: {faults[0]}")
        if document.get("kind") == "ChaosEngine":
            yield document


def _faults_of(document: Mapping[str, Any]) -> Iterator[str]:
    if document.get("apiVersion") != litmus.API_VERSION:
        return
    try:
        yield from (str(fault) for fault in lints.faults(litmus.parse(document)))
    except litmus.SchemaError as problem:
        yield str(problem)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let the end of the Pod stop the experiment, too."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _or_raise(answer: T | ApiFailure) -> T:
    return _refuse(answer) if isinstance(answer, ApiFailure) else answer


def _refuse(failure: ApiFailure) -> NoReturn:
    if failure.kind in _UNREACHABLE:
        raise ConnectionError(failure.message)
    raise click.ClickException(failure.message)


def _target(engine: litmus.ChaosEngine) -> str:
    spec = engine.spec
    if spec.appinfo is not None:
        return f"{spec.appinfo.appns}/{spec.appinfo.applabel}"
    assert spec.selectors is not None
    named = [f"{each.namespace}/{each.names}" for each in spec.selectors.pods]
    return ",".join([*named, *(f"{each.namespace}/{each.kind}/{each.names}" for each in spec.selectors.workloads)])


def _row(each: Submitted) -> Sequence[object]:
    passed = sum(probe.verdict == "Passed" for probe in each.told.probes)
    probes = f"{passed}/{len(each.told.probes)}"
    return (each.engine, each.hypothesis, each.target, each.told.verdict.value, probes, f"{each.seconds:g}")


def _say_what_failed(each: Submitted) -> None:
    if each.told.verdict is verdict.Verdict.PASS:
        return
    say(f"{each.engine}: {each.told.verdict.value}, {each.told.phase or 'no result'}")
    for probe in each.told.probes:
        if probe.verdict != "Passed":
            say(f"  {probe.name} ({probe.mode}): {probe.verdict or 'not asked'}. {probe.description}")
