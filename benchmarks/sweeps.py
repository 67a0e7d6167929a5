"""What a sweep costs: the core alone, no broker. Only Jobs in the window that closes are looked at."""

import time

from benchmarks.results import Sweep
from sf_healer.adapters.policy_file import SHIPPED_POLICY
from sf_healer.core import evidence
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.partition import Partition
from sf_healer.core.policy import parse

THRESHOLD_SECONDS = 300.0
TOPIC = "topic"
T0 = 1_760_000_000.0


def measure(*, jobs: int, due: int) -> Sweep:
    """Let the windows of `due` Jobs close while `jobs` wait for later ones; then a window that holds nobody."""
    partition = Partition(
        0, partitions=1, policies=parse(SHIPPED_POLICY.read_text()), window_seconds=5.0, feed_gap_seconds=10.0
    )
    partition.apply(_mark(T0), T0)
    keys = [f"stf/job-{number}" for number in range(jobs)]
    for key in keys:
        partition.apply(evidence.Fact(_fact(key)), T0)
    _hear(partition, keys[:due], T0 + 1, offset=0)
    _hear(partition, keys[due:], T0 + 101, offset=jobs)
    for second in range(1, int(THRESHOLD_SECONDS), 5):  # no feed gap on the way
        partition.apply(_mark(T0 + second), T0 + second)
    partition.take()
    idle = _timed(partition, T0 + THRESHOLD_SECONDS)
    assert partition.take().swept == 0
    seconds = _timed(partition, T0 + THRESHOLD_SECONDS + 6)
    swept = partition.take().swept
    assert swept == due, swept
    return Sweep(jobs=jobs, due=due, seconds=seconds, idle_seconds=idle)


def _hear(partition: Partition, keys: list[str], at: float, *, offset: int) -> None:
    beats = tuple(evidence.Beat(key, at, offset + number, 1) for number, key in enumerate(keys))
    partition.apply(evidence.Bundle(TOPIC, 0, beats, ()), at)


def _mark(at: float) -> evidence.Mark:
    return evidence.Mark(TOPIC, 1, ((0, at),))


def _timed(partition: Partition, watermark: float) -> float:
    began = time.thread_time()
    partition.apply(_mark(watermark), watermark)
    return time.thread_time() - began


def _fact(key: str) -> JobFact:
    return JobFact(
        key=key,
        uid="u1",
        created_at=T0 - 1000,
        resource_version=1,
        target="loader-producer",
        queue_id="queue",
        producer_id="loader-producer__a",
        kafka_topic="queue",
        condition=Condition.ACTIVE,
        pod=PodState.RUNNING,
        managed=True,
    )
