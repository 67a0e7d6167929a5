"""Measure what the restart of one of two workers costs: as a Pod of a Deployment, and as one of a StatefulSet.

`python -m benchmarks.restart` starts the lab's Kafka (three brokers), or takes the one that `--bootstrap` names, fills
the changelog of the `jobs` table, and for each case starts two workers on empty disks, and replaces the second one:

- `deployment`: the new Pod has an empty disk and another name; when one is replaced in order the new one is ready
  before the old one is told to end (maxSurge: 1, maxUnavailable: 0).
- `kept-disk`: the old one ends, then the new one starts on its disk, as a StatefulSet does it. It takes its former self
  out of the group by the client id that lies there. So does a container that crashed in a Pod of a Deployment.
- `static`: as kept-disk, with a `group.instance.id` for each worker, and without the client id: a static member that
  is taken out of its group is none.

`replaced`: the old one gets SIGTERM; `lost`: SIGKILL. `ready` is from the start of the new process to a green /readyz.
Without an owner is an evidence partition whose Jobs no worker has in its hands, by the workers' logs, from the moment
the old one (of a Deployment, replaced: the new one) is touched until all is as it was. Prints a table (stderr) and one
JSON object (stdout). All on one machine: brokers and workers share its cores.
"""

import asyncio
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import click
from aiokafka.admin import AIOKafkaAdminClient
from rich.console import Console
from rich.table import Table

from benchmarks.laboratory import kafka_at
from benchmarks.restore import fill
from sf_healer.rights import ACTUATOR_GROUP, DETECTOR_GROUP
from tests.lab.waiting import until
from tests.lab.worker import Worker

READY_SECONDS = 300.0
#: As shipped; a test's workers have less.
SESSION_SECONDS, HEARTBEAT_SECONDS = 30.0, 3.0
#: Nobody loses or gets a partition for so long: it is over.
QUIET_SECONDS = 10.0
SETTLED_SECONDS = 180.0
GOT, LOST = "partition_rebuilt", "partition_dropped"


class Kind(StrEnum):
    """How the new process follows the old one."""

    DEPLOYMENT = "deployment"
    KEPT_DISK = "kept-disk"
    STATIC = "static"


class End(StrEnum):
    """How the old process ends."""

    REPLACED = "replaced"
    LOST = "lost"


class Owned(NamedTuple):
    """A worker had a partition, from one moment to another (epoch seconds)."""

    partition: int
    since: float
    until: float


@click.command()
@click.option("--bootstrap", metavar="HOST:PORT,...", help="A Kafka to use; else the lab's own is started.")
@click.option("--jobs", default=100_000, show_default=True, help="Jobs in the changelog.")
@click.option("--partitions", default=6, show_default=True, help="Partitions of the evidence and its changelog.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(Kind), help="Only these; repeatable.")
def main(*, bootstrap: str | None, jobs: int, partitions: int, kinds: Sequence[Kind]) -> None:
    """Measure the restart of a worker as a Pod of a Deployment and of a StatefulSet."""
    with (
        tempfile.TemporaryDirectory(prefix="sf-healer-restart-") as name,
        kafka_at(bootstrap, Path(name), brokers=3) as servers,
    ):
        asks = Place(Path(name), servers, partitions).worker("asks")
        subprocess.run(asks.command("topics", "--create", "--create-platform"), check=True, capture_output=True)
        fill(servers, jobs, partitions)
        results = {
            f"{kind}, {end}": _measure(kind, end, Place(Path(name) / f"{kind}-{end}", servers, partitions))
            for end in End
            for kind in (kinds or Kind)
        }
    _draw(results)
    click.echo(json.dumps({"jobs": jobs, "partitions": partitions, "cores": os.cpu_count(), "cases": results}))


class Place(NamedTuple):
    """Where a case runs: a directory of its own, the brokers, how many partitions there are."""

    directory: Path
    servers: str
    partitions: int

    def worker(self, name: str, *, instance_id: str = "") -> Worker:
        """Compose a worker with an empty disk."""
        made = Worker(
            name,
            self.directory,
            bootstrap=self.servers,
            identity="convention",
            partitions=self.partitions,
            broker_session_timeout_seconds=SESSION_SECONDS,
            broker_heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        if instance_id:
            made.environment["CONSUMER_GROUP_INSTANCE_ID"] = instance_id  # Faust's own setting
            made.server.command = tuple(made.command("worker"))
        return made


def _measure(kind: Kind, end: End, place: Place) -> dict[str, float]:
    ids = ("sf-healer-0", "sf-healer-1") if kind is Kind.STATIC else ("", "")
    stays, goes = (
        place.worker(name, instance_id=instance_id) for name, instance_id in zip(("stays", "goes"), ids, strict=True)
    )
    workers = [stays, goes]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_until_ready(READY_SECONDS)
        _until_quiet(workers, place.partitions)
        began = time.time()
        if kind is Kind.DEPLOYMENT:
            workers.append(place.worker("new"))
        ended, ready = _replace(end, goes, workers[-1])
        _until_quiet([worker for worker in workers if worker.server.is_alive], place.partitions)
        owned = [span for worker in workers for span in _owned(worker, ended if worker is goes else math.inf)]
        alone = [_without_owner(owned, number, began) for number in range(place.partitions)]
    finally:
        for worker in workers:
            worker.stop()
        shutil.rmtree(place.directory, ignore_errors=True)
        _until_nobody_is_left(place.servers)
    return {
        "ready_seconds": round(ready, 1),
        "longest_without_owner_seconds": round(max(alone), 1),
        "partition_seconds_without_owner": round(sum(alone), 1),
        "partitions_without_owner": sum(seconds > 0 for seconds in alone),
    }


def _replace(end: End, old: Worker, new: Worker) -> tuple[float, float]:
    """Replace a worker, by itself or another; gives when the old process was gone, and how long the new one took."""
    if new is not old and end is End.REPLACED:  # maxSurge: 1, maxUnavailable: 0
        ready = _started(new)
        old.stop()
        return time.time(), ready
    old.stop() if end is End.REPLACED else old.server.kill()
    ended = time.time()
    if "CONSUMER_GROUP_INSTANCE_ID" in old.environment:
        for file in old.directory.glob("data/*/client-id"):
            file.unlink()
    return ended, _started(new)


def _started(worker: Worker) -> float:
    began = time.time()
    worker.start()
    worker.wait_until_ready(READY_SECONDS)
    return time.time() - began


def _until_quiet(workers: Sequence[Worker], partitions: int) -> None:
    """Return when these workers own all partitions, and none was moved for a while."""

    def is_quiet() -> bool:
        now = time.time()
        owned = [span for worker in workers for span in _owned(worker) if span.until > now]
        moved = max((at for worker in workers for at, _, _ in _moves(worker)), default=0.0)
        return sorted(span.partition for span in owned) == list(range(partitions)) and now - moved > QUIET_SECONDS

    until(is_quiet, "every partition to have an owner", seconds=SETTLED_SECONDS, every_seconds=0.5)


def _until_nobody_is_left(servers: str) -> None:
    """Return when both groups are empty: who begins next waits for nobody who is gone."""

    async def is_empty() -> bool:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            answers = await admin.describe_consumer_groups([DETECTOR_GROUP, ACTUATOR_GROUP])
        finally:
            await admin.close()
        return all(not group["members"] for each in answers for group in each.to_object()["groups"])

    seconds = 2 * SESSION_SECONDS + READY_SECONDS
    until(lambda: asyncio.run(is_empty()), "the groups to be empty", seconds=seconds, every_seconds=1.0)


def _moves(worker: Worker) -> list[tuple[float, str, int]]:
    """Read from a worker's log when it got (`partition_rebuilt`) and lost (`partition_dropped`) a partition."""
    found = []
    for line in worker.log.read_text().splitlines():
        if line.startswith("{") and '"partition_' in line:
            told = json.loads(line)
            if told["event"] in {GOT, LOST}:
                found.append((datetime.fromisoformat(told["timestamp"]).timestamp(), told["event"], told["partition"]))
    return found


def _owned(worker: Worker, ended: float = math.inf) -> Iterator[Owned]:
    """Tell from when until when a worker had each partition; `ended`: when its first process was gone."""
    since: dict[int, float] = {}
    moves = _moves(worker)
    ends = [(at, LOST, partition) for partition in {each for _, _, each in moves} for at in {ended, math.inf}]
    for at, event, partition in sorted([*moves, *ends]):
        if event == GOT:
            since.setdefault(partition, at)
        elif partition in since:
            yield Owned(partition, since.pop(partition), at)


def _without_owner(owned: Sequence[Owned], partition: int, began: float) -> float:
    """Give the seconds since `began` in which nobody had the partition."""
    alone, reached = 0.0, began
    for span in sorted(span for span in owned if span.partition == partition and span.until > began):
        alone += max(0.0, span.since - reached)
        reached = max(reached, span.until)
    return alone


def _draw(results: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("case")
    for name in next(iter(results.values())):
        table.add_column(name.replace("_", " "), justify="right")
    for case, measured in results.items():
        table.add_row(case, *(f"{value:,}" for value in measured.values()))
    Console(stderr=True, width=140).print(table)


if __name__ == "__main__":
    main()
