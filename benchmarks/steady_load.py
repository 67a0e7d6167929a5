"""Measure the age of the watermark while reports come without a pause.

`python -m benchmarks.steady_load` starts the lab's Kafka (one broker) and one worker, sends reports at a steady
rate, and samples the age of the oldest watermark on the wall clock. Prints one JSON object; exit status 3 if the
watermark ever was as old as the limit. All on one machine: the load generator and the broker share its cores.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
from aiokafka import AIOKafkaProducer

from sf_healer.local.launcher import Queue, environment, telemetry_id
from sf_healer.local.reports import Process
from sf_healer.local.services import SERVICES
from tests.lab.kafka import KafkaCluster
from tests.lab.worker import Worker

SAMPLE_SECONDS = 0.5
TICK_SECONDS = 0.05
SETTLE_SECONDS = 3.0
SOURCE_PARTITIONS = 3


@click.command()
@click.option("--rate", default=20_000, show_default=True, help="Reports a second.")
@click.option("--seconds", default=120.0, show_default=True, help="How long.")
@click.option("--jobs", default=1_000, show_default=True, help="Jobs that report.")
@click.option("--limit", default=5.0, show_default=True, help="Oldest watermark that is still well, seconds.")
def main(rate: int, seconds: float, jobs: int, limit: float) -> None:
    """Measure the age of the watermark under a steady load."""
    with tempfile.TemporaryDirectory(prefix="sf-healer-steady-") as name:
        directory = Path(name)
        with KafkaCluster.start(brokers=1, directory=directory / "kafka") as kafka:
            worker = Worker("worker", directory, bootstrap=kafka.bootstrap, identity="convention")
            subprocess.run(worker.command("topics", "--create", "--create-platform"), check=True, capture_output=True)
            with worker:
                worker.wait_until_ready()
                result = _measure(kafka.bootstrap, worker, rate=rate, seconds=seconds, jobs=jobs)
    click.echo(json.dumps(result | {"limit_seconds": limit, "cores": os.cpu_count()}))
    sys.exit(0 if result["watermark_age_max_seconds"] < limit else 3)


def _measure(bootstrap: str, worker: Worker, *, rate: int, seconds: float, jobs: int) -> dict[str, float]:
    sent: list[int] = []
    load = threading.Thread(target=lambda: sent.append(asyncio.run(_send(bootstrap, rate, seconds, jobs))))
    load.start()
    time.sleep(SETTLE_SECONDS)  # a measuring program, not a test: the load comes to its rate
    ages = []
    while load.is_alive():
        fleet = worker.get("/fleet/")
        if fleet is not None:
            now = time.time()
            ages.append(max(now - row["watermark"] for row in fleet.body["partitions"]))
        time.sleep(SAMPLE_SECONDS)
    load.join()
    ages.sort()
    return {
        "reports": sent[0],
        "seconds": seconds,
        "jobs": jobs,
        "samples": len(ages),
        "watermark_age_median_seconds": round(ages[len(ages) // 2], 3),
        "watermark_age_p99_seconds": round(ages[int(len(ages) * 0.99)], 3),
        "watermark_age_max_seconds": round(ages[-1], 3),
    }


async def _send(bootstrap: str, rate: int, seconds: float, jobs: int) -> int:
    reports = [_report(number) for number in range(jobs)]
    sent, began = 0, time.monotonic()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, max_batch_size=200_000) as producer:
        while (elapsed := time.monotonic() - began) < seconds:
            while sent < elapsed * rate:
                await producer.send("queue-events", reports[sent % jobs], partition=sent % SOURCE_PARTITIONS)
                sent += 1
            await asyncio.sleep(TICK_SECONDS)
    return sent


def _report(number: int) -> bytes:
    queue = Queue.launch("BTCUSDT", "api_trades", "2025-06-01", f"{number:06d}")
    env = environment(queue, "arango-connector")
    assert env["TELEMETRY_PRODUCER_ID"] == telemetry_id("arango-connector", queue.short)
    report = Process(SERVICES["arango-trades"], env).loading(time.time())
    assert report is not None
    return report


if __name__ == "__main__":
    main()
