"""Measure how a worker comes back to a million Jobs: with an empty disk and with a full one.

`python -m benchmarks.restore` starts the lab's Kafka (one broker), or takes the one that `--bootstrap` names, fills the
changelog of the `jobs` table with Jobs as a worker writes them, starts a worker on an empty data directory, kills it
when it is ready, and starts it again on what it left there. Prints a table (stderr) and one JSON object (stdout).

`restored` is what Kafka Streams calls restoring: from the first to the last record of the changelog; `rebuilt` goes on
until the hot state is complete; `ready` is from the start of the process to a green /readyz, joining the groups and
the first marks included. `longest_answer` is the slowest /livez of one after the other meanwhile: no pause of the
event loop was longer. Exit status 3 if it was not alive once.
"""

import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import click
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from benchmarks.laboratory import kafka_at
from sf_healer.core.changelog import writes_of
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.partition import Changes, Meta
from sf_healer.core.partitioning import partition_of
from sf_healer.core.remembered import Remembered
from sf_healer.core.state import OfEveryJob
from sf_healer.topics import JOBS_CHANGELOG
from tests.lab.worker import Worker

READY_SECONDS = 600.0
ASK_EVERY_SECONDS = 0.02
CHECKPOINT_SECONDS = 30.0
SOURCE_PARTITIONS = 3
EXIT_NOT_ALIVE = 3
OK = 200


@click.command()
@click.option("--bootstrap", metavar="HOST:PORT,...", help="A Kafka to use; else the lab's own is started.")
@click.option("--jobs", default=1_000_000, show_default=True, help="Jobs in the changelog.")
@click.option("--partitions", default=6, show_default=True, help="Partitions of the evidence and its changelog.")
@click.option("--keep", type=click.Path(path_type=Path), help="Directory for the worker's log; else none is kept.")
def main(*, bootstrap: str | None, jobs: int, partitions: int, keep: Path | None) -> None:
    """Measure the restore of the jobs table."""
    with tempfile.TemporaryDirectory(prefix="sf-healer-restore-") as name, kafka_at(bootstrap, Path(name)) as servers:
        worker = Worker("worker", keep or Path(name), bootstrap=servers, identity="convention", partitions=partitions)
        shutil.rmtree(worker.directory / "data", ignore_errors=True)
        subprocess.run(worker.command("topics", "--create", "--create-platform"), check=True, capture_output=True)
        fill(servers, jobs, partitions)
        empty = _measure(worker, partitions)
        full = _measure(worker, partitions)
    result = {"jobs": jobs, "partitions": partitions, "cores": os.cpu_count(), "empty_disk": empty, "full_disk": full}
    _draw(empty, full)
    click.echo(json.dumps(result))
    sys.exit(0 if not empty["not_alive"] + full["not_alive"] else EXIT_NOT_ALIVE)


def _measure(worker: Worker, partitions: int) -> dict[str, float]:
    """Start the worker, watch it until it is ready, kill it."""
    logged_before = worker.log.stat().st_size if worker.log.exists() else 0
    began, machine_before = time.time(), _machine_cpu_seconds()
    worker.start()
    longest, not_alive = 0.0, 0
    while True:
        asked = time.monotonic()
        alive = worker.get("/livez")
        if alive is not None:
            longest = max(longest, time.monotonic() - asked)
            not_alive += alive.status != OK
            ready = worker.get("/readyz")
            if ready is not None and ready.status == OK:
                break
        assert worker.server.is_alive, worker.tail()
        assert time.time() - began < READY_SECONDS, worker.tail()
        time.sleep(ASK_EVERY_SECONDS)
    seconds = time.time() - began
    cpu = _cpu_seconds(worker)
    result = {
        **_logged(worker, logged_before, began, partitions),
        "ready_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_memory_mib": _memory_mib(worker, "VmHWM"),
        "memory_mib": _memory_mib(worker, "VmRSS"),
        "disk_mib": sum(path.stat().st_size for path in worker.directory.glob("data/**/*.*") if path.is_file()) >> 20,
        "longest_answer_seconds": round(longest, 3),
        "not_alive": not_alive,
        "cores_used_by_others": round((_machine_cpu_seconds() - machine_before - cpu) / seconds, 2),
    }
    worker.server.kill()
    return result


def _logged(worker: Worker, since: int, began: float, partitions: int) -> dict[str, float]:
    """Read from the log when the restore of the jobs table began, ended, and the hot state was complete."""
    with worker.log.open("rb") as log:
        log.seek(since)
        lines = [json.loads(line) for line in log if line.startswith(b"{")]
    rebuilt = [_moment(line) for line in lines if line["event"] == "partition_rebuilt"]
    assert len(rebuilt) == partitions, f"{len(rebuilt)} of {partitions} partitions were rebuilt"
    jobs = sum(line["jobs"] for line in lines if line["event"] == "partition_rebuilt")
    starts = [(_moment(line), line["records"]) for line in lines if line["event"] == "restore_begins"]
    ends = [(_moment(line), line["records"]) for line in lines if line["event"] == "restored"]
    records = max((count for _, count in starts), default=0)
    if records < partitions:  # nothing but what was written in the last moments before it was killed
        return {"jobs": jobs, "records": records, "restored_seconds": 0.0, "rebuilt_seconds": _took(rebuilt)}
    started = next(at for at, count in starts if count == records)
    ended = next(at for at, count in ends if count == records)
    return {
        "jobs": jobs,
        "records": records,
        "restored_seconds": round(ended - started, 2),
        "rebuilt_seconds": round(max(rebuilt) - ended, 2),
        "joined_after_seconds": round(started - began, 1),
    }


def _took(moments: list[float]) -> float:
    """Without the first partition, whose beginning is not in the log."""
    return round((max(moments) - min(moments)) * len(moments) / max(1, len(moments) - 1), 2)


def _moment(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _cpu_seconds(worker: Worker) -> float:
    fields = Path(f"/proc/{worker.server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def _machine_cpu_seconds() -> float:
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _memory_mib(worker: Worker, field: str) -> int:
    status = Path(f"/proc/{worker.server.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) // 1024


def _draw(empty: dict[str, float], full: dict[str, float]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("measured")
    table.add_column("empty disk", justify="right")
    table.add_column("full disk", justify="right")
    for name in empty | full:
        table.add_row(name.replace("_", " "), *(f"{each[name]:,}" if name in each else "" for each in (empty, full)))
    Console(stderr=True).print(table)


# ------------------------------------------------------------------ the changelog, filled in a process of its own


def fill(bootstrap: str, jobs: int, partitions: int) -> None:
    """Write the changelog of the `jobs` table as a worker with so many Jobs does."""
    spawning = multiprocessing.get_context("spawn")  # no fork: threads are running here
    process = spawning.Process(target=_fill, args=(bootstrap, jobs, partitions))
    process.start()
    process.join()
    assert process.exitcode == 0, "the changelog was not filled"


def _fill(bootstrap: str, jobs: int, partitions: int) -> None:
    asyncio.run(_send(bootstrap, jobs, partitions))


async def _send(bootstrap: str, jobs: int, partitions: int) -> None:
    now = time.time()
    pending: list[asyncio.Future[object]] = []
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1_000_000) as producer:
        batches = {number: producer.create_batch() for number in range(partitions)}

        async def append(number: int, key: bytes, value: bytes) -> None:
            if batches[number].append(key=key, value=value, timestamp=None) is None:  # full
                pending.append(await producer.send_batch(batches[number], JOBS_CHANGELOG, partition=number))
                batches[number] = producer.create_batch()
                batches[number].append(key=key, value=value, timestamp=None)

        for job in range(jobs):
            state = _state(job, now)
            changes = Changes({state.key: state}, (), None, (), (), 0)
            for key, value in writes_of(0, changes, job).items():
                await append(partition_of(state.key, partitions), key, value or b"")
        for number in range(partitions):
            meta = Meta(partitions, now, "", SOURCE_PARTITIONS, {}, (), (), now)
            for key, value in writes_of(number, Changes({}, (), meta, (), (), 0), jobs).items():
                await append(number, key, value or b"")
            pending.append(await producer.send_batch(batches[number], JOBS_CHANGELOG, partition=number))
        await asyncio.gather(*pending)


def _state(job: int, now: float) -> OfEveryJob:
    """Make a Job that reports and is well, first seen within the last hour."""
    short_id = f"{job:07d}"
    queue_id = f"loader-btcusdt-api-trades-2025-06-01-{short_id}"
    key = f"streamforge/{queue_id}-arango-connector"
    seen_at = now - 3_600 + job % 3_600
    checkpoint = now // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS
    producer_id = f"arango-connector__{short_id}"
    fact = JobFact(
        key,
        "",
        0.0,
        0,
        "arango-connector",
        queue_id,
        producer_id,
        queue_id,
        Condition.ACTIVE,
        PodState.RUNNING,
        managed=True,
    )
    return Remembered(
        key,
        fact,
        running_at=seen_at,
        seen_at=seen_at,
        condition_at=seen_at,
        loading_at=checkpoint,
        loading_source=now - job % 30 - 0.125,
        progress_at=checkpoint,
        records_written=1_000 + job,
        source_partition=job % SOURCE_PARTITIONS,
        source_offset=7 * job,
        verdict="healthy",
    )


if __name__ == "__main__":
    main()
