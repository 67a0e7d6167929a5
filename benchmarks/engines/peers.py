"""The engines that sf-healer is measured against, each with its own durable state but for the floor."""

import re
import shutil
import sys
import time
from pathlib import Path

from benchmarks import installations
from benchmarks.engines import program
from benchmarks.laboratory import Laboratory
from benchmarks.results import Run
from benchmarks.sources import PARTITIONS, Source, make_topic
from tests.lab.worker import drop_topics

PROGRAMS = Path(__file__).parent.parent / "programs"
#: The drain is no test of silence: these reports are old, and the peers judge by the wall clock.
NO_THRESHOLD_SECONDS = 1e12
#: As wide as sf-healer's windows: a look at all Jobs once in five seconds.
LOOK_EVERY_SECONDS = 5.0


async def floor(lab: Laboratory, source: Source, _directory: Path) -> Run:
    """Measure the bare consumer loop."""
    python = str(installations.peers_python())
    told = program.run(
        [python, str(PROGRAMS / "floor.py"), lab.bootstrap, source.topic, str(source.reports)], lab, until="last"
    )
    return _run("floor", source, told)


async def quix(lab: Laboratory, source: Source, directory: Path) -> Run:
    """Measure Quix Streams."""
    return await _python_peer("quix", str(installations.peers_python()), lab, source, directory)


async def plain_faust(lab: Laboratory, source: Source, directory: Path) -> Run:
    """Measure plain Faust."""
    return await _python_peer("plain_faust", sys.executable, lab, source, directory)


async def _python_peer(name: str, python: str, lab: Laboratory, source: Source, directory: Path) -> Run:
    application = _application(name)
    # Faust names it by agent and source, whatever the application is called: an earlier run's would be read as well.
    between = f"{name}.fold-{source.topic}-job-repartition"
    await drop_topics(lab.bootstrap, [between])
    arguments = [lab.bootstrap, source.topic, str(source.reports), application, str(directory / "state")]
    told = program.run([python, str(PROGRAMS / f"{name}.py"), *arguments], lab, until="last")
    changelog, repartition = lab.bytes_like(application, "changelog"), lab.bytes_like(application, "repartition")
    repartition += lab.bytes_of(between)
    await _forget(lab, application)
    return _run(name, source, told, changelog_bytes=changelog, repartition_bytes=repartition)


async def streams(lab: Laboratory, source: Source, directory: Path, *, threads: int, restores: bool) -> Run:
    """Measure the Kafka Streams application; then, if wanted, how long it takes to restore what it stored."""
    application = _application("streams")
    commands = f"{application}-commands"
    await make_topic(lab.bootstrap, commands, PARTITIONS)
    state = directory / "state"
    given = {
        "bootstrap": lab.bootstrap,
        "topic": source.topic,
        "application": application,
        "threads": threads,
        "state": state,
        "commands": commands,
        "threshold": NO_THRESHOLD_SECONDS,
        "every": LOOK_EVERY_SECONDS,
        "reports": source.reports,
    }
    command = [*installations.streams_command(), *(f"{name}={value}" for name, value in given.items())]
    told = program.run([*command, "mode=drain"], lab, until="last")
    changelog, repartition = lab.bytes_like(application, "changelog"), lab.bytes_like(application, "repartition")
    restored = None
    if restores:
        shutil.rmtree(state)
        restored = program.run([*command, "mode=restore"], lab, until="running")
    await _forget(lab, application)
    scans = _numbers("SCANNED", told)
    return _run(
        f"streams-{threads}",
        source,
        told,
        changelog_bytes=changelog,
        repartition_bytes=repartition,
        restore_seconds=_numbers("RESTORED", restored)["seconds"] if restored else None,
        start_to_ready_seconds=restored.moments["running"] - restored.moments["start"] if restored else None,
        scan_seconds=scans["seconds"] / scans["scans"] if scans["scans"] else None,
    )


def _run(engine: str, source: Source, told: program.Told, **rest: float | None) -> Run:
    spent = told.watch.between(told.moments["first"], told.moments["last"])
    return Run.of(engine, source, spent, memory_mib=told.watch.peak_memory_mib, **rest)


def _application(name: str) -> str:
    return f"bench-{name.replace('_', '-')}-{time.time_ns()}"


async def _forget(lab: Laboratory, application: str) -> None:
    topics = {log.name.rpartition("-")[0] for log in lab.logs.glob(f"*{application}-*")}
    await drop_topics(lab.bootstrap, topics)


def _numbers(word: str, told: program.Told) -> dict[str, float]:
    (line,) = (line for line in told.lines if line.startswith(word))
    return {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", line)}
