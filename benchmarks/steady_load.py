"""Measure the age of the watermark while reports come without a pause.

`python -m benchmarks.steady_load` starts the lab's Kafka (one broker), or takes the one that `--bootstrap` names, and
one worker; sends reports at a steady rate from a process of its own, and samples the age of the oldest watermark on
the wall clock. Prints a table (stderr) and one JSON object (stdout); exit status 3 if the watermark ever was as old
as the limit, the worker once did not answer, or not every report was counted in the end. All on one machine: the load
generator and the broker share its cores.
"""

import asyncio
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.laboratory import kafka_at
from benchmarks.sources import send_steadily
from sf_healer.local.launcher import Queue, environment
from sf_healer.local.reports import Process
from sf_healer.local.services import SERVICES
from tests.lab.waiting import until
from tests.lab.worker import Worker

TOPIC = "queue-events"
SAMPLE_SECONDS = 0.5
SETTLE_SECONDS = 3.0
COUNTED_SECONDS = 60.0
EXIT_TOO_OLD = 3


@click.command()
@click.option("--bootstrap", metavar="HOST:PORT,...", help="A Kafka to use; else the lab's own is started.")
@click.option("--rate", default=20_000, show_default=True, help="Reports a second.")
@click.option("--seconds", default=120.0, show_default=True, help="How long.")
@click.option("--jobs", default=1_000, show_default=True, help="Jobs that report.")
@click.option("--limit", default=5.0, show_default=True, help="Oldest watermark that is still well, seconds.")
def main(*, bootstrap: str | None, rate: int, seconds: float, jobs: int, limit: float) -> None:
    """Measure the age of the watermark under a steady load."""
    with tempfile.TemporaryDirectory(prefix="sf-healer-steady-") as name, kafka_at(bootstrap, Path(name)) as servers:
        worker = Worker("worker", Path(name), bootstrap=servers, identity="convention")
        subprocess.run(worker.command("topics", "--create", "--create-platform"), check=True, capture_output=True)
        with worker:
            worker.wait_until_ready()
            result = _measure(servers, worker, rate=rate, seconds=seconds, jobs=jobs)
    result |= {"limit_seconds": limit, "cores": os.cpu_count()}
    _draw(result)
    click.echo(json.dumps(result))
    well = result["age_max_seconds"] < limit and not result["unanswered"] and result["counted"] == result["reports"]
    sys.exit(0 if well else EXIT_TOO_OLD)


def _measure(bootstrap: str, worker: Worker, *, rate: int, seconds: float, jobs: int) -> dict[str, float]:
    counted_before, cpu_before = _reports(worker), _cpu_seconds(worker)
    ours, theirs = multiprocessing.Pipe()
    spawning = multiprocessing.get_context("spawn")  # no fork: threads and event loops are running here
    load = spawning.Process(target=_load, args=(theirs, bootstrap, rate, seconds, jobs))
    load.start()
    time.sleep(SETTLE_SECONDS)  # a measuring program, not a test: the load comes to its rate
    ages, unanswered = [], 0
    while load.is_alive():
        age = _oldest_watermark_seconds(worker)
        if age is None:
            unanswered += 1
        else:
            ages.append(age)
        time.sleep(SAMPLE_SECONDS)
    load.join()
    reports, took = ours.recv()
    until(lambda: _reports(worker) - counted_before >= reports, "all reports to be counted", seconds=COUNTED_SECONDS)
    ages.sort()
    return {
        "reports": reports,
        "seconds": round(took, 1),
        "reports_per_second": round(reports / took),
        "jobs": jobs,
        "counted": round(_reports(worker) - counted_before),
        "samples": len(ages),
        "unanswered": unanswered,
        "age_p50_seconds": round(_quantile(ages, 0.5), 3),
        "age_p99_seconds": round(_quantile(ages, 0.99), 3),
        "age_max_seconds": round(ages[-1], 3),
        "worker_cpu_share": round((_cpu_seconds(worker) - cpu_before) / took, 3),
        "worker_memory_mib": _memory_mib(worker),
    }


def _oldest_watermark_seconds(worker: Worker) -> float | None:
    """Say how old the oldest watermark is; infinite before the first, None when the worker does not answer."""
    fleet = worker.get("/fleet/")
    now = time.time()
    if fleet is None:
        return None
    marks = [row["watermark"] for row in fleet.body["partitions"]]
    return now - min(marks) if marks and all(marks) else math.inf


def _reports(worker: Worker) -> float:
    return sum(count for (name, _), count in worker.metrics().items() if name == "sf_healer_reports_total")


def _cpu_seconds(worker: Worker) -> float:
    fields = Path(f"/proc/{worker.server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def _memory_mib(worker: Worker) -> int:
    status = Path(f"/proc/{worker.server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _draw(result: dict[str, float]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("measured")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    Console(stderr=True).print(table)


# ------------------------------------------------------------------ the load, in a process of its own


def _load(result: Connection, bootstrap: str, rate: int, seconds: float, jobs: int) -> None:
    reports = [_report(number) for number in range(jobs)]
    result.send(asyncio.run(send_steadily(bootstrap, TOPIC, reports, rate=rate, seconds=seconds)))


def _report(number: int) -> bytes:
    queue = Queue.launch("BTCUSDT", "api_trades", "2025-06-01", f"{number:06d}")
    report = Process(SERVICES["arango-trades"], environment(queue, "arango-connector")).loading(time.time())
    assert report is not None
    return report


if __name__ == "__main__":
    main()
