"""After a hostile feed, and after all of it came once more, a worker's own metrics say what became of each record."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from sf_healer.core.events import Malformed, decode
from sf_healer.rights import DETECTOR_GROUP
from sf_healer.topics import DEAD_LETTERS
from tests.broker.brokers import BROKERS, with_topics
from tests.fuzz import corpus
from tests.fuzz.mutation import Mutator
from tests.fuzz.path import is_nested
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, records_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiokafka import ConsumerRecord

pytestmark = pytest.mark.timeout(300)

MESSAGES = 3_000
PARTITIONS = 3
SEEN_SECONDS = 90.0
ENDED_SECONDS = 10.0


@pytest.fixture(params=BROKERS)
def bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    with with_topics(request) as bootstrap:
        yield bootstrap


class AsFaust(RoundRobinPartitionAssignor):
    """Goes by the name of Faust's: the embedded broker remembers how a group has agreed."""

    name = "faust"


async def feed(bootstrap: str) -> dict[tuple[int, int], bytes | None]:
    """Send hostile messages to all partitions; give them by partition and offset."""
    mutator = Mutator(corpus.load(), "accounting")
    values = [mutator.message() for _ in range(MESSAGES)]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        sent = [
            await producer.send("queue-events", value, key=mutator.text(), partition=number % PARTITIONS)
            for number, value in enumerate(values)
        ]
        placed = await asyncio.gather(*sent)
    return {(place.partition, place.offset): value for place, value in zip(placed, values, strict=True)}


async def read_all_again(bootstrap: str) -> None:
    """Set the worker's group back to the beginning of the source; no worker may be running."""
    consumer = AIOKafkaConsumer(
        "queue-events",  # as a member: the embedded broker takes no other's word
        bootstrap_servers=bootstrap,
        group_id=DETECTOR_GROUP,
        enable_auto_commit=False,
        partition_assignment_strategy=(AsFaust,),
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
    )
    async with consumer:
        places = {TopicPartition("queue-events", number) for number in range(PARTITIONS)}

        async def is_assigned() -> bool:
            return consumer.assignment() == places

        await until_async(is_assigned, "the source's partitions", seconds=SEEN_SECONDS)
        await consumer.commit(dict.fromkeys(places, 0))


class Books:
    """A worker's metrics of records and of evidence, summed up over their labels."""

    def __init__(self, metrics: Counter[tuple[str, str]]) -> None:
        self._sums: Counter[str] = Counter()
        for (name, _), count in metrics.items():
            self._sums[name] += count

    def __getitem__(self, name: str) -> float:
        return self._sums[f"sf_healer_{name}_total"]

    @property
    def balance(self) -> bool:
        fates = ("folded", "dead_lettered", "ignored")
        return self["source_records"] == sum(self[f"source_records_{fate}"] for fate in fates)


async def books_of(worker: Worker) -> Books:
    """Wait until the whole feed was read, and its evidence folded; the books balance on the way."""

    async def all_is_read() -> Books | None:
        books = Books(await asyncio.to_thread(worker.metrics))
        assert books.balance
        entries = books["evidence_entries_folded"] + books["evidence_entries_passed_over"]
        return books if books["source_records"] == MESSAGES and entries == books["evidence_entries"] else None

    books = await until_async(all_is_read, "the feed to be read", seconds=SEEN_SECONDS)
    assert books is not None
    return books


def a_worker(bootstrap: str, directory: Path) -> Worker:
    return Worker(
        "accounting",
        directory,
        bootstrap=bootstrap,
        identity="convention",
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=6,
        broker_heartbeat_seconds=1,
    )


async def test_each_record_of_a_hostile_feed_is_counted_by_what_became_of_it_and_again_when_it_comes_again(
    bootstrap: str, tmp_path: Path
):
    worker = a_worker(bootstrap, tmp_path)
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)
        await feed(bootstrap)
        first = await books_of(worker)
        assert worker.server.is_alive
    letters = await records_of(bootstrap, DEAD_LETTERS)
    assert len(letters) == first["source_records_dead_lettered"] > 0
    assert first["reports"] == first["source_records_folded"] + first["source_records_ignored"] > 0
    assert first["evidence_entries_passed_over"] == 0

    await read_all_again(bootstrap)
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)
        again = await books_of(worker)
        assert worker.server.is_alive
    for book in ("source_records", "source_records_dead_lettered", "reports"):
        assert again[book] == first[book], book
    assert again["reports"] == again["source_records_folded"] + again["source_records_ignored"]
    assert len(await records_of(bootstrap, DEAD_LETTERS)) == 2 * len(letters)
    # By convention a name may mean another Job, or several, once more reports were read: hardly any is folded anew.
    assert again["evidence_entries_passed_over"] > 20 * again["evidence_entries_folded"]
    assert again["source_records_ignored"] == pytest.approx(first["source_records_ignored"], rel=0.05)


async def test_a_worker_told_to_end_in_the_middle_of_a_feed_does_so_soon_and_the_next_misses_nothing(
    bootstrap: str, tmp_path: Path
):
    worker = a_worker(bootstrap, tmp_path)
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)
        sent = await feed(bootstrap)

        async def has_begun() -> bool:
            return Books(await asyncio.to_thread(worker.metrics))["source_records"] > 0

        await until_async(has_begun, "the first record to be read", seconds=SEEN_SECONDS)
        child = worker.server._child
        assert child is not None
        child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(child.wait, ENDED_SECONDS) == 0, worker.tail()
    # How deep is too deep depends on how deep the reader stands in calls.
    certain = {place for place, value in sent.items() if not is_nested(value or b"")}
    no_reports = {place for place in certain if isinstance(decode(sent[place]), Malformed)}
    with worker:
        await asyncio.to_thread(worker.wait_until_ready)

        async def are_all_buried() -> bool:
            letters = {place_of(letter) for letter in await records_of(bootstrap, DEAD_LETTERS)}
            return letters & certain == no_reports

        await until_async(are_all_buried, "every message that is none to be buried", seconds=SEEN_SECONDS)
        assert Books(await asyncio.to_thread(worker.metrics)).balance


def place_of(letter: ConsumerRecord) -> tuple[int, int]:
    headers = {name: int(value) for name, value in letter.headers if name.endswith(("-partition", "-offset"))}
    return headers["sf-healer-source-partition"], headers["sf-healer-source-offset"]
