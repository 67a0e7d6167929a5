"""Every record arrives, in bounded pieces, whatever happens to the workers and however slow an agent is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.producer.sender import Sender
from faust.types import TP

from sf_healer.transport import Batch, BatchLimits, ToSend, send_together
from tests.broker.transport_lab import (
    SECONDS,
    Reader,
    committed,
    create_topic,
    new_app,
    producer,
    running,
    send,
    until_committed,
)
from tests.lab.waiting import until, until_async

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = pytest.mark.kafka


async def until_true(condition: Any, what: str) -> None:
    async def ask() -> bool:
        return bool(condition())

    await until_async(ask, what, seconds=SECONDS)


def numbered(count: int, *, size: int = 10) -> list[bytes]:
    return [str(number).encode().ljust(size, b".") for number in range(count)]


async def test_a_batch_has_no_more_records_than_fausts_setting(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    await send(kafka_single.bootstrap, topic, numbered(1_000))
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, broker_max_poll_records=70)
    async with running(reader):
        await reader.until_positions({0: 1_000})
    assert max(len(batch) for batch in reader.batches) == 70
    assert [value for _, _, value in reader.records] == numbered(1_000)


async def test_keys_headers_tombstones_and_times_arrive_as_they_were_sent(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader), producer(kafka_single.bootstrap, compression_type="gzip") as client:
        headers = [("a", b"1"), ("a", b"2")]
        await client.send_and_wait(topic, None, key=b"k", timestamp_ms=1_700_000_000_123, headers=headers)
        await reader.until_positions({0: 1})
    [record] = reader.batches[0].records
    assert (record.key, record.value, record.timestamp) == (b"k", None, 1_700_000_000_123)
    assert list(record.headers) == headers


async def test_what_is_sent_to_several_partitions_goes_to_their_broker_in_one_request(
    kafka_single: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[set[int]] = []
    send_request = Sender._send_produce_req

    async def noted(sender: Sender, node: int, batches: dict[TP, Any]) -> None:
        requests.append({tp.partition for tp in batches})
        await send_request(sender, node, batches)

    monkeypatch.setattr(Sender, "_send_produce_req", noted)
    topic = await create_topic(kafka_single.bootstrap, partitions=6)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic)
    async with running(reader):
        sent = [await send_together(reader.app, topic, number, [ToSend(None, b"said")]) for number in range(6)]
        await asyncio.gather(*sent)
    assert requests == [set(range(6))]


async def test_one_giant_record_passes_between_small_ones(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap, max_message_bytes="8000000")
    values = [b"small", b"x" * 6_000_000, b"small too"]
    await send(kafka_single.bootstrap, topic, values, max_request_size=8_000_000)
    limits = BatchLimits(max_bytes=1_000)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, limits=limits, consumer_max_fetch_size=50_000)
    async with running(reader):
        await reader.until_positions({0: 3})
    assert [value for _, _, value in reader.records] == values


async def test_a_slow_agent_holds_no_more_than_its_limits_and_others_go_on(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    partitions = range(12)
    slow_topic = await create_topic(kafka_single.bootstrap, partitions=len(partitions))
    quick_topic = await create_topic(kafka_single.bootstrap)
    go_on = asyncio.Event()
    slow = Reader(
        kafka_single.bootstrap,
        tmp_path,
        slow_topic,
        limits=BatchLimits(max_records=100, max_bytes=10_000, max_in_flight=2),
        hold=lambda _: go_on.wait(),
        consumer_max_fetch_size=20_000,
        stream_buffer_maxsize=10,  # fewer than the batches of all partitions together
    )
    quick: list[bytes] = []

    @slow.app.agent(slow.app.topic(quick_topic, value_type=bytes, value_serializer="raw"))
    async def read_quickly(stream: Any) -> None:
        async for value in stream:
            quick.append(value)  # noqa: PERF401 (it never ends)

    await send(kafka_single.bootstrap, slow_topic, numbered(12_000, size=100), partitions=len(partitions))
    async with running(slow):
        ledgers = slow.app.consumer._ledgers

        def in_flight() -> list[int]:
            return [ledgers[tp].in_flight for tp in ledgers if tp.topic == slow_topic]

        await until_true(lambda: in_flight() == [2] * len(partitions), "the slow agent to have all it may have")
        for _ in range(5):  # again and again, so that there are polls while the slow agent holds on
            before = len(quick)
            await send(kafka_single.bootstrap, quick_topic, numbered(200))
            await until_true(lambda before=before: len(quick) == before + 200, "the quick agent to go on")
        assert in_flight() == [2] * len(partitions)
        assert all(ledgers[TP(slow_topic, partition)].position <= 200 for partition in partitions)
        go_on.set()
        await slow.until_positions(dict.fromkeys(partitions, 1_000))
    assert len(slow.done) == 12_000
    assert max(len(batch) for batch in slow.batches) <= 100


async def test_a_backlog_of_a_slow_agent_stays_on_the_broker(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    """What lies between the socket and the agent, counted in what Python has allocated: batches, answers, buffers."""
    topic, other = await create_topic(kafka_single.bootstrap), await create_topic(kafka_single.bootstrap)
    record_bytes, records, fetch_bytes = 1_000, 24_000, 500_000
    await send(kafka_single.bootstrap, topic, numbered(records, size=record_bytes))
    go_on = asyncio.Event()
    reader = Reader(
        kafka_single.bootstrap,
        tmp_path,
        topic,
        limits=BatchLimits(max_bytes=fetch_bytes, max_in_flight=2),
        hold=lambda _: go_on.wait(),
        consumer_max_fetch_size=fetch_bytes,
    )
    quick: list[bytes] = []

    @reader.app.agent(reader.app.topic(other, value_type=bytes, value_serializer="raw"))
    async def read_quickly(stream: Any) -> None:
        async for value in stream:
            quick.append(value)  # noqa: PERF401 (it never ends)

    tracemalloc.start()
    try:
        async with running(reader):
            await until_true(lambda: reader.batches, "the slow agent to have its first batch")
            for count in range(1, 11):  # polls and fetches go on all the while
                await send(kafka_single.bootstrap, other, [b"x"])
                await until_true(lambda count=count: len(quick) == count, "the quick agent to go on")
            held, _ = tracemalloc.get_traced_memory()
            assert held < records * record_bytes / 2, "two batches, an answer, and the app: not the backlog"
            tracemalloc.stop()
            go_on.set()
            await reader.until_positions({0: records})
    finally:
        tracemalloc.stop()
    assert len(reader.records) == records


async def test_a_plain_agent_that_hangs_does_not_stop_the_batched_ones(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    plain_topic = await create_topic(kafka_single.bootstrap, partitions=2)
    topic = await create_topic(kafka_single.bootstrap)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, stream_buffer_maxsize=20)

    @reader.app.agent(reader.app.topic(plain_topic, value_type=bytes, value_serializer="raw"))
    async def hang(stream: Any) -> None:
        async for _ in stream:
            await asyncio.Event().wait()

    await send(kafka_single.bootstrap, plain_topic, numbered(1_000), partitions=2)
    async with running(reader):
        for count in range(1, 6):
            await send(kafka_single.bootstrap, topic, [b"x"])
            await reader.until_positions({0: count})


async def test_a_paused_partition_loses_nothing(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap, partitions=2)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, limits=BatchLimits(max_records=10))
    async with running(reader):
        await reader.until_positions({0: 0, 1: 0})
        for number in range(5):
            reader.app.consumer.pause_partitions({TP(topic, 0)})
            await send(kafka_single.bootstrap, topic, numbered(100), partitions=2)
            await until_true(lambda number=number: reader.positions()[1] == 50 * (number + 1), "the other partition")
            reader.app.consumer.resume_partitions({TP(topic, 0)})
        await reader.until_positions({0: 250, 1: 250})
    assert len(reader.records) == len(reader.done) == 500


class Gate:
    """Lets batches through one by one, or all of them."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self._open = asyncio.Event()

    async def pass_through(self, _: Batch) -> None:
        if not self._open.is_set():
            await self._permits.acquire()

    def let_through(self, batches: int) -> None:
        for _ in range(batches):
            self._permits.release()

    def open(self) -> None:
        self._open.set()
        self.let_through(100)


async def test_two_workers_that_come_and_go_in_mid_batch_lose_nothing(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap, partitions=4)
    app_id = f"group-of-{topic}"
    await send(kafka_single.bootstrap, topic, numbered(4_000), partitions=4)

    def worker(gate: Gate) -> Reader:
        limits = BatchLimits(max_records=50)
        return Reader(kafka_single.bootstrap, tmp_path, topic, app_id=app_id, limits=limits, hold=gate.pass_through)

    gates = [Gate(), Gate(), Gate()]
    first, second, third = (worker(gate) for gate in gates)
    async with running(first):
        gates[0].let_through(5)
        await until_true(lambda: len(first.batches) > 5, "the first worker to be in mid-batch")
        async with running(second):
            gates[1].let_through(5)
            await until_true(lambda: len(second.batches) > 5, "the second worker to be in mid-batch")
            gates[0].let_through(5)  # what it did before the rebalance, and what it may do after it
            await until_true(lambda: len(first.batches) > 10, "the first worker to go on")
        async with running(third):
            await until_true(lambda: third.batches, "the third worker to be in mid-batch")
            for gate in gates:
                gate.open()

            def everything() -> bool:
                return len(first.done | second.done | third.done) == 4_000

            await until_true(everything, "every record")
            await until_committed(kafka_single.bootstrap, app_id, dict.fromkeys(range(4), 1_000))


async def test_what_is_acknowledged_is_committed_when_the_partitions_go_if_faust_waits_for_agents(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    options = {"app_id": f"group-of-{topic}", "stream_wait_empty": True, "broker_commit_interval": 1_000.0}
    await send(kafka_single.bootstrap, topic, numbered(30))
    first = Reader(kafka_single.bootstrap, tmp_path, topic, **options)
    second = Reader(kafka_single.bootstrap, tmp_path, topic, **options)
    async with running(first):
        await first.until_positions({0: 30})
        async with running(second):
            await until_committed(kafka_single.bootstrap, options["app_id"], {0: 30})


async def test_a_commit_of_a_plain_topic_does_not_pass_a_message_in_flight(
    kafka_single: KafkaCluster, tmp_path: Path
) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    app = new_app(kafka_single.bootstrap, tmp_path)
    go_on = asyncio.Event()
    done: list[bytes] = []

    @app.agent(app.topic(topic, value_type=bytes, value_serializer="raw"), concurrency=2)
    async def read(stream: Any) -> None:
        async for value in stream:
            if value == b"slow":
                await go_on.wait()
            done.append(value)

    await send(kafka_single.bootstrap, topic, [b"slow", *numbered(10)])
    async with running(app):
        await until_true(lambda: len(done) == 10, "the others to overtake the first")
        await app.consumer.commit()
        assert (await committed(kafka_single.bootstrap, app.conf.id)).get(0, 0) == 0
        go_on.set()
        await until_committed(kafka_single.bootstrap, app.conf.id, {0: 11})


async def test_an_exception_in_a_noack_agent_keeps_the_offset(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap)
    await send(kafka_single.bootstrap, topic, numbered(30))

    async def fail_at_the_second(batch: Batch) -> None:
        if batch.records[0].offset == 10:
            raise RuntimeError("the second batch cannot be done")

    limits = BatchLimits(max_records=10)
    reader = Reader(kafka_single.bootstrap, tmp_path, topic, limits=limits, hold=fail_at_the_second)
    async with running(reader):
        await until_true(lambda: len(reader.batches) == 3, "the third batch")
        await until_committed(kafka_single.bootstrap, reader.app.conf.id, {0: 10})
        assert reader.positions() == {0: 10}
    assert await committed(kafka_single.bootstrap, reader.app.conf.id) == {0: 10}


async def test_a_killed_worker_loses_nothing(kafka_single: KafkaCluster, tmp_path: Path) -> None:
    topic = await create_topic(kafka_single.bootstrap, partitions=2)
    app_id, count = f"group-of-{topic}", 4_000
    await send(kafka_single.bootstrap, topic, numbered(count), partitions=2)
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "tests.broker.transport_worker", kafka_single.bootstrap, topic, app_id]

    def worker_process() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(journal), str(tmp_path)])

    def done() -> list[str]:
        return journal.read_text().splitlines() if journal.exists() else []

    for kill_at in (500, 2_500):
        with worker_process() as worker:
            try:
                await asyncio.to_thread(until, lambda at=kill_at: len(set(done())) >= at, "work", seconds=60)
            finally:
                worker.kill()
        offsets = await committed(kafka_single.bootstrap, app_id)
        finished = set(done())
        for partition, offset in offsets.items():
            assert finished >= {f"{partition} {before}" for before in range(offset)}

    with worker_process() as worker:
        try:
            await until_committed(kafka_single.bootstrap, app_id, {0: count // 2, 1: count // 2})
        finally:
            worker.kill()
    assert set(done()) == {f"{partition} {offset}" for partition in range(2) for offset in range(count // 2)}
