"""The same with plain Faust, as one would write it first: an agent, `group_by`, a table, a timer.

`python plain_faust.py BOOTSTRAP TOPIC REPORTS APPLICATION STATE`. Default settings but for where things are.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import faust

sys.path.insert(0, str(Path(__file__).parent))
from marks import mark

BOOTSTRAP, TOPIC, REPORTS, APPLICATION, STATE = sys.argv[1:]
PARTITIONS = 3
LOOK_EVERY_SECONDS = 5.0
THRESHOLD_SECONDS = 1e12
seen = {"read": 0, "folded": 0}


class Report(faust.Record):
    """What is used of a report."""

    queue_id: str
    producer: str
    status: str
    sent_at: float


class Job(faust.Record):
    """What is known of a Job."""

    last_loading: float = 0.0
    started: float = 0.0
    status: str = ""
    reports: int = 0


app = faust.App(
    APPLICATION,
    broker=f"kafka://{BOOTSTRAP}",
    store="rocksdb://?driver=rocksdict",
    datadir=STATE,
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    web_enabled=False,
)
commands = app.topic(f"{APPLICATION}-commands", partitions=PARTITIONS)
jobs = app.Table("jobs", value_type=Job, partitions=PARTITIONS)


def key_of(report: Report) -> str:
    """Name the Job."""
    if not seen["read"]:
        mark("first")
    seen["read"] += 1
    return report.queue_id + "/" + report.producer.split("__", 1)[0]


@app.agent(app.topic(TOPIC, value_type=Report))
async def fold(stream: faust.Stream[Report]) -> None:
    """Fold each report into what is known of its Job."""
    async for report in stream.group_by(key_of, name="job"):
        key = report.queue_id + "/" + report.producer.split("__", 1)[0]
        job = jobs.get(key) or Job(started=report.sent_at)
        if report.sent_at > job.last_loading:
            job.last_loading, job.status = report.sent_at, report.status
        job.reports += 1
        jobs[key] = job
        seen["folded"] += 1
        if seen["folded"] == int(REPORTS):
            mark("last")
            os._exit(0)  # what is measured is over; its consumer group is never used again


@app.timer(LOOK_EVERY_SECONDS)
async def look() -> None:
    """Command a restart of each Job that has been silent for too long."""
    now = time.time()
    for number, (key, job) in enumerate(list(jobs.items())):
        if now - job.last_loading > THRESHOLD_SECONDS:
            await commands.send(key=key, value={"job": key, "silent_seconds": now - job.last_loading})
        if number % 1_000 == 0:
            await asyncio.sleep(0)


faust.Worker(app, loglevel="ERROR", quiet=True).execute_from_commandline()
