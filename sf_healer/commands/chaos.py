"""`sf-healer chaos`: engines of LitmusChaos submitted to it or run without it, and faults in their files."""

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
import yaml

from sf_healer.adapters.cluster import ApiFailure, Cluster, Failure, Kind
from sf_healer.chaos import lints, litmus, verdict
from sf_healer.chaos.bindings import BindingsError, read
from sf_healer.chaos.faults import LabFault
from sf_healer.chaos.picking import PickError
from sf_healer.chaos.questions import LabQuestions
from sf_healer.chaos.record import Record, chaos_result, junit, page
from sf_healer.chaos.run import run
from sf_healer.chaos.targets import PASSING, Targets, or_raise
from sf_healer.cli import ExitCode, Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.scopes import dry_run_option
from sf_healer.commands.shared import NumberRange

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_GROUP, _VERSION = litmus.API_VERSION.split("/")
ENGINES = Kind(_GROUP, _VERSION, "chaosengines")
RESULTS = Kind(_GROUP, _VERSION, "chaosresults")
_COLUMNS = ("ENGINE", "HYPOTHESIS", "TARGET", "VERDICT", "PROBES", "SECONDS")


@click.group()
def command() -> None:
    """Run chaos experiments."""


class Submitted(msgspec.Struct, frozen=True):
    """One engine of a run, as it ended."""

    engine: str
    hypothesis: str
    target: str
    seconds: float
    told: verdict.Told


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
def check(*, files: tuple[Path, ...]) -> ExitCode:
    """Hold FILES against a strict schema of Litmus' kinds and against its known traps; exit code 3 on a fault."""
    documents = [(file, document) for file in files for document in _documents(file)]
    if not any(_is_of_litmus(document) for _, document in documents):
        raise click.UsageError(f"there is nothing of Litmus in {_named(files)}")
    found = [f"{file}: {each}" for file, document in documents for each in _faults_of(document)]
    for line in found:
        say(line)
    return ExitCode.NO if found else ExitCode.OK


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--namespace", default="litmus", show_default=True, help="Where Litmus' operator looks for engines.")
@click.option("--seed", type=int, help="Pick what that seed picks; printed by every run.")
@click.option(
    "--patience-seconds",
    type=NumberRange(min=0),
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Wait up to S seconds beyond an engine's own duration, then stop it.",
)
@click.option("--poll-seconds", type=NumberRange(min=0.1, max=3600), default=2.0, show_default=True, metavar="S")
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
    engines = _engines_in(files)
    seed = secrets.randbelow(2**32) if seed is None else seed
    say(f"seed {seed}")
    targets = Targets(lambda place: Cluster.connect(namespace=place, kubeconfig=settings.kubeconfig), seed)
    given = _Run(targets, targets.at(namespace), patience_seconds, poll_seconds)
    if dry_run:
        click.echo(yaml.safe_dump_all([given.prepared(each) for each in engines], sort_keys=False), nl=False)
        return ExitCode.OK
    done: list[Submitted] = []
    with _interrupted_by_sigterm():
        for document in engines:
            if busy := given.others():
                say(f"not submitted: {', '.join(busy)} in {namespace} have not ended")
                return ExitCode.REFUSED
            done.append(given.submit(document))
            if done[-1].told.verdict is not verdict.Verdict.PASS:
                break
    return _concluded(done, engines, output)


@command.command("run")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--bindings", "bindings_file", required=True, type=_FILE, help="What stands for what here (TOML).")
@click.option("--seed", type=int, help="Pick what that seed picks; printed by every run.")
@click.option(
    "--records",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/chaos"),
    show_default=True,
    help="Where ChaosResults, pages and junit.xml are written.",
)
@output_option
def run_here(
    *, files: tuple[Path, ...], bindings_file: Path, seed: int | None, records: Path, output: Output
) -> ExitCode:
    """Run the engines of FILES without Litmus, with its probes and verdicts; 0 if all are Pass.

    Pod-delete of named Pods and latency to brokers can be injected. Ends at the first engine that is not Pass (exit
    code 3).
    """
    settings_for_a_command()
    try:
        questions = LabQuestions(read(bindings_file))
    except BindingsError as problem:
        raise click.UsageError(str(problem)) from None
    engines = _engines_in(files)
    seed = secrets.randbelow(2**32) if seed is None else seed
    say(f"seed {seed}")
    targets, done = Targets(questions.cluster, seed), list[Record]()
    with _interrupted_by_sigterm():
        for document in engines:
            engine = litmus.parse(_filled(targets, document))
            assert isinstance(engine, litmus.ChaosEngine)
            say(f"{engine.metadata.name}: {engine.metadata.annotations[lints.HYPOTHESIS]}")
            done.append(asyncio.run(run(engine, questions, LabFault(questions))))
            _keep(done, records)
            if done[-1].told.verdict is not verdict.Verdict.PASS:
                break
    return _concluded([_ended(each) for each in done], engines, output)


def _ended(record: Record) -> Submitted:
    engine = record.engine
    return Submitted(engine.metadata.name, _hypothesis(engine), _target(engine), round(record.seconds, 1), record.told)


def _keep(done: Sequence[Record], at: Path) -> None:
    """Write the newest record, and the suite of all so far."""
    at.mkdir(parents=True, exist_ok=True)
    newest = done[-1]
    name = newest.engine.metadata.name
    (at / f"{name}.json").write_text(json.dumps(chaos_result(newest), indent=2) + "\n")
    (at / f"{name}.md").write_text(page(newest))
    (at / "junit.xml").write_text(junit(done))


def _concluded(done: Sequence[Submitted], engines: Sequence[object], output: Output) -> ExitCode:
    """Show what became of the engines; OK if all of them ran and passed."""
    emit(done, output, columns=_COLUMNS, rows=[_row(each) for each in done])
    for each in done:
        _say_what_failed(each)
    passed = len(done) == len(engines) and all(each.told.verdict is verdict.Verdict.PASS for each in done)
    return ExitCode.OK if passed else ExitCode.NO


def _hypothesis(engine: litmus.ChaosEngine) -> str:
    return engine.metadata.annotations[lints.HYPOTHESIS].partition(":")[0]


class _Run:
    """Engines of one run, given to Litmus."""

    def __init__(self, targets: Targets, litmus_at: Cluster, patience: float, poll: float) -> None:
        self._targets = targets
        self._at = litmus_at
        self._patience = patience
        self._poll = poll

    def others(self) -> list[str]:
        """Name the engines that have not ended."""
        found = or_raise(self._at.list_objects(ENGINES), click.ClickException)
        return sorted(each["metadata"]["name"] for each in found if not verdict.has_ended(each))

    def prepared(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Pick for an engine, and fill in what was picked."""
        made = _filled(self._targets, document)
        return made | {"metadata": made["metadata"] | {"namespace": self._at.namespace}}

    def submit(self, document: Mapping[str, Any]) -> Submitted:
        """Make the engine and give what became of it; one that does not end in time is stopped."""
        made = self.prepared(document)
        engine = litmus.parse(made)
        assert isinstance(engine, litmus.ChaosEngine)
        name, began = engine.metadata.name, time.monotonic()
        say(f"{name}: {engine.metadata.annotations[lints.HYPOTHESIS]}")
        limit = float(engine.settings["TOTAL_CHAOS_DURATION"]) + self._patience
        ended = False
        try:
            or_raise(self._at.create_object(ENGINES, made), click.ClickException)
            ended = self._wait(name, began + limit)
        finally:  # also when nobody said whether it was made
            if not ended:
                self._at.merge_object(ENGINES, name, {"spec": {"engineState": litmus.EngineState.STOP.value}})
        told = self._told(verdict.result_name(name, engine.experiment.name)) if ended else _NOT_IN_TIME
        say(f"{name}: {told.verdict}")
        return Submitted(name, _hypothesis(engine), _target(engine), round(time.monotonic() - began, 1), told)

    def _wait(self, name: str, until: float) -> bool:
        while time.monotonic() < until:
            found = self._at.read_object(ENGINES, name)
            if isinstance(found, ApiFailure):
                if found.kind not in PASSING:  # an API server that restarts is no end of the experiment
                    raise click.ClickException(found.message)
            elif verdict.has_ended(found):
                return True
            time.sleep(self._poll)
        return False

    def _told(self, name: str) -> verdict.Told:
        found = self._at.read_object(RESULTS, name)
        if isinstance(found, ApiFailure) and found.kind is Failure.NOT_FOUND:
            return verdict.told(None)
        return verdict.told(or_raise(found, click.ClickException))


def _filled(targets: Targets, document: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return targets.fill(document)
    except PickError as problem:
        raise click.ClickException(str(problem)) from None


_NOT_IN_TIME = verdict.Told(verdict.Verdict.ERROR, "did not end in time and was told to stop", "", ())


def _documents(file: Path) -> list[dict[str, Any]]:
    try:
        with click.open_file(str(file)) as stream:
            return [each for each in yaml.safe_load_all(stream) if isinstance(each, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise click.ClickException(f"{file}: {problem}") from None
    except RecursionError:
        raise click.ClickException(f"{file}: it is nested too deep") from None


def _is_of_litmus(document: Mapping[str, Any]) -> bool:
    return document.get("apiVersion") == litmus.API_VERSION


def _named(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _engines_in(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Give the engines of all files; raises ClickException on a fault, UsageError where there are none."""
    engines = [each for file in files for each in _engines_of(file)]
    if not engines:
        raise click.UsageError(f"there is no engine in {_named(files)}")
    return engines


def _engines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Give the engines of a file; raises ClickException on a fault, before anything is submitted."""
    for document in _documents(file):
        if faults := [*_faults_of(document)]:
            raise click.ClickException(f"{file}: {faults[0]}")
        if document.get("kind") == "ChaosEngine":
            yield document


def _faults_of(document: Mapping[str, Any]) -> Iterator[str]:
    if not _is_of_litmus(document):
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
