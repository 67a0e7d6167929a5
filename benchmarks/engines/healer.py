"""sf-healer: the real worker process, as `sf-healer worker` starts it.

Both roles, mode observe, default settings but for where things are. `identity = convention`, because it is the one
way to name Jobs that can be had for all sizes: a million Jobs cannot be listed from a stand-in of a cluster. The
detector does the same for each report and Job: name it, keep a fact, fold, schedule, judge.

It is done when it has committed the source, and then all evidence that came of it: everything is durable by then.
Commits are made twice a second, so up to half a second is counted too much. The peers are stopped when the last report
is folded, whatever of it is durable.
"""

import re
import shutil
import time
from datetime import datetime
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks import pauses
from benchmarks.laboratory import Laboratory
from benchmarks.pauses import Pauses
from benchmarks.processes import Watch
from benchmarks.results import Run
from benchmarks.sources import PARTITIONS, Source, ends_of, make_topic
from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.settings import Settings
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics

NAME = "sf-healer"
GROUP = "sf-healer-detector"
_LIVE = "reports-of-the-restored"
DRAIN_SECONDS = 900.0
READY_SECONDS = 300.0
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+")


async def drain(lab: Laboratory, source: Source, directory: Path, *, restores: bool) -> Run:
    """Let a new worker work off a source; then, if wanted, restore what it stored into an empty directory."""
    await make_topics(lab.bootstrap, source.topic)
    await _rewind(lab.bootstrap, source)
    worker = Worker("worker", directory, bootstrap=lab.bootstrap, identity="convention", source_topic=source.topic)
    with worker, Watch(worker.server.pid, lab.broker_pid) as watch:
        ended = await _committed(lab.bootstrap, source)
    spent = watch.between(await _first_append(lab.bootstrap), ended)
    changelog_bytes = lab.bytes_of(topics.JOBS_CHANGELOG)
    repartition_bytes = lab.bytes_of(topics.EVIDENCE)
    restored, ready = _restore(worker) if restores else (None, None)
    paused = await _pauses(lab, directory, source) if restores else None
    return Run.of(
        NAME,
        source,
        spent,
        memory_mib=watch.peak_memory_mib,
        changelog_bytes=changelog_bytes,
        repartition_bytes=repartition_bytes,
        restore_seconds=restored,
        start_to_ready_seconds=ready,
        looks=None if paused is None else paused.looks,
        long_pauses=None if paused is None else paused.long,
    )


async def make_topics(bootstrap: str, source_topic: str) -> None:
    """Make sf-healer's topics anew, and the platform's but for the source."""
    settings = Settings(broker_url=f"kafka://{bootstrap}", source_topic=source_topic)
    wanted = [*topics.specs(settings, 1), *topics.platform_specs(settings, 1)]
    wanted = [spec for spec in wanted if spec.name != source_topic]
    await drop_topics(bootstrap, [spec.name for spec in wanted])
    async with kafka.admin(settings) as admin:
        await admin.create(wanted)


async def _rewind(bootstrap: str, source: Source) -> None:
    """Put the group back to the begin of the one topic that outlives a run."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=GROUP, enable_auto_commit=False) as consumer:
        places = [TopicPartition(source.topic, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 0))


async def _committed(bootstrap: str, source: Source) -> float:
    """Return when the worker had committed the whole source, and then all evidence that came of it."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await _commits(client, await ends_of(bootstrap, source.topic, PARTITIONS))
        return await _commits(client, await ends_of(bootstrap, topics.EVIDENCE, Settings().partitions))
    finally:
        await client.close()


async def _commits(client: AIOKafkaAdminClient, ends: dict[TopicPartition, int]) -> float:
    async def are_reached() -> bool:
        offsets = await client.list_consumer_group_offsets(GROUP)
        return all(place in offsets and offsets[place].offset >= end for place, end in ends.items())

    await until_async(are_reached, "the worker to commit all of it", seconds=DRAIN_SECONDS)
    return time.time()


async def _first_append(bootstrap: str) -> float:
    """Return when the first evidence was appended (epoch seconds)."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        places = [TopicPartition(topics.EVIDENCE, number) for number in range(Settings().partitions)]
        consumer.assign(places)
        return min([(await consumer.getone(place)).timestamp / 1000 for place in places])


def _restore(worker: Worker) -> tuple[float, float]:
    """Start once more without local state; returns the seconds of restoring, and from the start until it is ready."""
    shutil.rmtree(worker.directory / "data")
    began = time.monotonic()
    with worker:
        worker.wait_until_ready(READY_SECONDS)
        ready = time.monotonic() - began
        told = worker.server.output().splitlines()
    first = next(line for line in told if "restore_begins" in line)
    last = [line for line in told if "partition_rebuilt" in line][-1]
    return _moment(last) - _moment(first), ready


async def _pauses(lab: Laboratory, directory: Path, source: Source) -> Pauses:
    """Start once more, with the local state, on a topic of its own, and let some of the Jobs report steadily."""
    await drop_topics(lab.bootstrap, [_LIVE])
    await make_topic(lab.bootstrap, _LIVE, PARTITIONS)
    with Worker("worker", directory, bootstrap=lab.bootstrap, identity="convention", source_topic=_LIVE) as worker:
        worker.wait_until_ready(READY_SECONDS)
        before = pauses.so_far(worker)
        await pauses.load(lab.bootstrap, _LIVE, source.jobs)
        found = pauses.between(before, pauses.so_far(worker))
    await drop_topics(lab.bootstrap, [_LIVE])
    return found


def _moment(line: str) -> float:
    found = _DATE.search(line)
    assert found is not None, line
    return datetime.fromisoformat(found[0]).timestamp()
