"""Measure how long a page takes that has very many Jobs to choose from, asked of real workers over HTTP.

`python -m benchmarks.pages` starts the lab's Kafka (one broker), or takes the one that `--bootstrap` names, fills the
changelog of the `jobs` table, starts workers that share the Jobs, and asks one of them for each page again and again,
one question after the other: it has to ask the others for their part. Prints a table (stderr) and one JSON object
(stdout). The aim is less than 200 ms with
10,000 Jobs.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.laboratory import kafka_at
from benchmarks.restore import fill
from tests.lab.waiting import until
from tests.lab.worker import Worker

READY_SECONDS = 300.0
PARTITIONS = 6
ASKED = 50
AS_A_BROWSER = {"Accept": "text/html"}
PAGES = {
    "dashboard": "/",
    "Jobs": "/jobs/",
    "Jobs, silent first": "/jobs/?order=silence",
    "Jobs with a text": "/jobs/?text=0000042",
    "one Job": "/jobs/{job}/",
    "fleet": "/fleet/",
}


@click.command()
@click.option("--bootstrap", metavar="HOST:PORT,...", help="A Kafka to use; else the lab's own is started.")
@click.option("--jobs", default=10_000, show_default=True, help="Jobs in all.")
@click.option("--workers", default=2, show_default=True, help="Workers that share them.")
def main(*, bootstrap: str | None, jobs: int, workers: int) -> None:
    """Measure the pages."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sf-healer-pages-")))
        servers = stack.enter_context(kafka_at(bootstrap, directory))
        fleet = [
            Worker(f"worker-{n}", directory, bootstrap=servers, identity="convention", partitions=PARTITIONS)
            for n in range(workers)
        ]
        topics = fleet[0].command("topics", "--create", "--create-platform")
        subprocess.run(topics, check=True, capture_output=True)
        fill(servers, jobs, PARTITIONS)
        for worker in fleet:
            stack.enter_context(worker)
        for worker in fleet:
            worker.wait_until_ready()
        with httpx.Client(base_url=f"http://127.0.0.1:{fleet[0].port}", headers=AS_A_BROWSER, timeout=30.0) as client:
            until(lambda: _counted(client) == jobs, f"{jobs} Jobs to be listed", seconds=READY_SECONDS)
            job = client.get("/jobs/", params={"rows": 1, "format": "json"}).json()["jobs"][0]["job"]
            measured = {name: _measure(client, path.format(job=job)) for name, path in PAGES.items()}
    _draw(measured)
    click.echo(json.dumps({"jobs": jobs, "workers": workers, "cores": os.cpu_count(), "milliseconds": measured}))


def _counted(client: httpx.Client) -> int:
    fleet = client.get("/fleet/", params={"format": "json"}).json()
    return int(fleet["jobs"])


def _measure(client: httpx.Client, path: str) -> dict[str, float]:
    """Ask for one page again and again; milliseconds from the question to the last byte."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        client.get(path).raise_for_status()
        took.append(1_000.0 * (time.perf_counter() - began))
    return {"median": round(statistics.median(took), 1), "longest": round(max(took), 1)}


def _draw(measured: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("page")
    for column in ("median", "longest"):
        table.add_column(f"{column} (ms)", justify="right")
    for name, took in measured.items():
        table.add_row(name, *(f"{each:.1f}" for each in took.values()))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
