"""How long after its threshold a silent Job is commanded, while the others go on reporting at a steady rate.

With it, of sf-healer only: how often its event loop paused under that load, and how long a lone report takes to be
seen.

Both engines get the same load, the same threshold and the same silent Jobs, and both read their commands' times from
the broker (LogAppendTime). The Kafka Streams application looks at all Jobs once a second here.
"""

import asyncio
import contextlib
import math
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks import installations, pauses
from benchmarks.engines.healer import make_topics
from benchmarks.laboratory import Laboratory
from benchmarks.results import Delays
from benchmarks.sources import PARTITIONS, batches, make_topic, report_around
from sf_healer import topics
from sf_healer.core.events import Report, decode
from sf_healer.core.identity import ConventionIndex
from tests.lab.process import Server
from tests.lab.worker import Worker, drop_topics, records_of

RATE = 20_000
JOBS = 1_000
#: These fall silent one after the other, the first when all have been heard for a while.
SILENT = 20
FIRST_SILENCE_SECONDS = 20.0
SILENCE_EVERY_SECONDS = 0.7
THRESHOLD_SECONDS = 10.0
AFTERWARDS_SECONDS = 10.0
SECONDS = FIRST_SILENCE_SECONDS + SILENT * SILENCE_EVERY_SECONDS + THRESHOLD_SECONDS + AFTERWARDS_SECONDS
BATCHES_A_SECOND = 20
_POLICY = f"[defaults]\nsilence_threshold_seconds = {THRESHOLD_SECONDS:g}\n"
_TOPIC = "reports-live"
_NAMESPACE = "stf"
#: Lone reports, when the load is over.
LONE = 101
LONE_EVERY_SECONDS = 0.3
LONE_POLL_SECONDS = 0.005
LONE_SECONDS = 20.0


def healer(lab: Laboratory) -> Delays:
    """Measure sf-healer."""
    with _directory() as directory, _live_topic(lab):
        asyncio.run(make_topics(lab.bootstrap, _TOPIC))
        policy = directory / "policy.toml"
        policy.write_text(_POLICY)
        worker = Worker(
            "worker",
            directory,
            bootstrap=lab.bootstrap,
            identity="convention",
            namespace=_NAMESPACE,
            source_topic=_TOPIC,
            policy_file=policy,
        )
        with worker:
            worker.wait_until_ready()
            before = pauses.so_far(worker)
            silent_since = _load(lab.bootstrap)
            paused = pauses.between(before, pauses.so_far(worker))
            delays = _delays("sf-healer", lab, topics.ACTIONS, silent_since)  # from now on the others are silent too
            lone = asyncio.run(_lone_reports(lab.bootstrap, worker))
    return msgspec.structs.replace(delays, looks=paused.looks, long_pauses=paused.long, lone=sorted(lone))


def streams(lab: Laboratory) -> Delays:
    """Measure the Kafka Streams application, with one thread."""
    application = f"bench-detection-{time.time_ns()}"
    commands = f"{application}-commands"
    with _directory() as directory, _live_topic(lab):
        asyncio.run(make_topic(lab.bootstrap, commands, 1, **{"message.timestamp.type": "LogAppendTime"}))
        given = {
            "bootstrap": lab.bootstrap,
            "topic": _TOPIC,
            "application": application,
            "threads": 1,
            "state": directory / "state",
            "commands": commands,
            "threshold": THRESHOLD_SECONDS,
            "every": 1,
            "mode": "run",
        }
        command = [*installations.streams_command(), *(f"{name}={value}" for name, value in given.items())]
        server = Server("streams", command, log=directory / "streams.log")
        server.start()
        try:
            server.wait_until(lambda: "MARK start" in server.output(), seconds=60)
            silent_since = _load(lab.bootstrap)
        finally:
            server.stop()
        found = _delays("streams-1", lab, commands, silent_since)
    asyncio.run(drop_topics(lab.bootstrap, {log.name.rpartition("-")[0] for log in lab.logs.glob(f"*{application}-*")}))
    return found


async def _lone_reports(bootstrap: str, worker: Worker) -> list[float]:
    """Send one report at a time, each when the one before was seen, and tell how long each took to the view."""
    before, behind = report_around(JOBS)  # a Job that has no part in the load
    told = decode(before + b"0" + behind)
    assert isinstance(told, Report)
    (job,) = ConventionIndex(_NAMESPACE).resolve(told).keys
    took = []
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for number in range(LONE):
            await asyncio.sleep(LONE_EVERY_SECONDS * (number % 7) / 6)  # at any moment between two fetches
            began = time.time()
            await producer.send_and_wait(_TOPIC, b"%b%.3f%b" % (before, began, behind))
            async with asyncio.timeout(LONE_SECONDS):
                while not await asyncio.to_thread(_is_heard, worker, job, began):  # noqa: ASYNC110  a view is asked
                    await asyncio.sleep(LONE_POLL_SECONDS)
            took.append(time.time() - began)
    return took[1:]  # the first one made the Job


def _is_heard(worker: Worker, job: str, since: float) -> bool:
    """Return whether the view of a Job tells of a report that was appended since a moment."""
    answer = worker.get(f"/jobs/{job}/")
    return answer is not None and answer.status == HTTPStatus.OK and (answer.body["last_loading_at"] or 0.0) >= since


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sf-healer-detection-") as name:
        yield Path(name)


@contextmanager
def _live_topic(lab: Laboratory) -> Iterator[None]:
    asyncio.run(drop_topics(lab.bootstrap, [_TOPIC]))
    asyncio.run(make_topic(lab.bootstrap, _TOPIC, PARTITIONS))
    yield
    asyncio.run(drop_topics(lab.bootstrap, [_TOPIC]))


def _delays(engine: str, lab: Laboratory, commands: str, silent_since: dict[str, float]) -> Delays:
    commands_of: dict[str, list[float]] = {}
    for record in asyncio.run(records_of(lab.bootstrap, commands)):
        delay = record.timestamp / 1000 - silent_since.get(_short_id(record.key.decode()), math.inf) - THRESHOLD_SECONDS
        commands_of.setdefault(_short_id(record.key.decode()), []).append(delay)
    # A command before its Job had been silent for the threshold is a false one, whatever came of it later.
    right = {name: [delay for delay in delays if delay >= 0] for name, delays in commands_of.items()}
    found = sorted(min(delays) for delays in right.values() if delays)
    return Delays(
        engine=engine,
        rate=RATE,
        jobs=JOBS,
        threshold_seconds=THRESHOLD_SECONDS,
        delays=found,
        missed=len(silent_since) - len(found),
        false_commands=sum(delay < 0 for delays in commands_of.values() for delay in delays),
    )


def _short_id(key: str) -> str:
    """Give the six digits that tell the Jobs apart, whatever the engine makes of a queue id and a target."""
    return next(part for part in key.replace("/", "-").split("-") if len(part) == len("000000") and part.isdigit())


# ------------------------------------------------------------------ the load, in a process of its own


def _load(bootstrap: str) -> dict[str, float]:
    """Send the load; returns since when each silent Job has been silent (epoch seconds)."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_send_all, args=(theirs, bootstrap))
    process.start()
    theirs.close()
    with contextlib.suppress(EOFError):
        found: dict[str, float] = ours.recv()
        process.join()
        return found
    process.join()
    raise subprocess.CalledProcessError(process.exitcode or 1, "the load")


def _send_all(result: Connection, bootstrap: str) -> None:
    result.send(asyncio.run(_send(bootstrap)))


async def _send(bootstrap: str) -> dict[str, float]:
    around = [report_around(number) for number in range(JOBS)]
    silent_since: dict[str, float] = {}
    clock = asyncio.get_running_loop().time
    sent, began = 0, clock()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1_000_000) as producer:
        while (elapsed := clock() - began) < SECONDS:
            due = int(elapsed * RATE)
            quiet = min(SILENT, max(0, int((elapsed - FIRST_SILENCE_SECONDS) / SILENCE_EVERY_SECONDS) + 1))
            now = time.time()
            values: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
            for number in range(sent, due):
                job = number % JOBS
                if job >= quiet:
                    before, behind = around[job]
                    values[number % PARTITIONS].append(b"%b%.3f%b" % (before, now, behind))
                    if job < SILENT:
                        silent_since[f"{job:06d}"] = now
            for partition in range(PARTITIONS):
                for future in [await batch for batch in batches(producer, _TOPIC, partition, values[partition])]:
                    await future
            sent = due
            await asyncio.sleep(1 / BATCHES_A_SECOND)
    return silent_since
