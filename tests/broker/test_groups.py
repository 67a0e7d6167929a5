"""Consumer groups read from a broker: whose they are, what they show, and that a missing right is no answer."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sf_healer.adapters import kafka
from sf_healer.adapters.groups import GroupReader
from sf_healer.core.groups import GroupLook, Idle, Neighbours, is_idle
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.settings import Settings
from tests.lab.kafka import KafkaCluster, acls

WAIT_SECONDS = 30.0
HERE = "127.0.0.1"
PARTITIONS = 3


def settings_of(bootstrap: str) -> Settings:
    return Settings(broker_url=f"kafka://{bootstrap}")


@pytest.fixture
async def reader(kafka_single) -> AsyncIterator[GroupReader]:
    # A clock that jumps: every look reads the lists anew.
    made = GroupReader(settings_of(kafka_single.bootstrap), clock=itertools.count(0.0, 100.0).__next__)
    yield made
    await made.close()


@pytest.fixture
async def topic(kafka_single) -> str:
    name = f"loader-btcusdt-api-trades-2025-06-01-{uuid.uuid4().hex[:6]}"
    await create(kafka_single.bootstrap, name)
    return name


async def create(bootstrap: str, topic: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    await client.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await client.close()


async def send(bootstrap: str, topic: str, count: int) -> None:
    async with kafka.producer(settings_of(bootstrap)) as producer:
        for number in range(count):
            await producer.send_and_wait(topic, b"{}", partition=number % PARTITIONS)


@asynccontextmanager
async def a_member(
    bootstrap: str, topic: str, *, service: str = "arango-trades", **options: object
) -> AsyncIterator[AIOKafkaConsumer]:
    """A data consumer as the platform's services make it, but one that reads and commits when told."""
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"{service}-consumer-{topic}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **options,
    ) as consumer:
        yield consumer


async def take(consumer: AIOKafkaConsumer, count: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        for _ in range(count):
            await consumer.getone()
    await consumer.commit()


async def look(
    reader: GroupReader, topic: str, *, pod_ip: str = HERE, queue_id: str = "", neighbours: Neighbours | None = None
) -> GroupLook:
    return await reader.look(queue_id=queue_id or topic, topic=topic, pod_ip=pod_ip, neighbours=neighbours)


async def test_a_drained_consumer_is_idle_and_one_that_leaves_data_lying_is_not(kafka_single, reader, topic):
    await send(kafka_single.bootstrap, topic, 9)
    async with a_member(kafka_single.bootstrap, topic) as consumer:
        await take(consumer, 9)
        drained = await look(reader, topic)
        assert (drained.group, drained.members, drained.committed, drained.lag, drained.unknown) == (
            f"arango-trades-consumer-{topic}",
            1,
            9,
            0,
            "",
        )
        assert is_idle(None, drained) is Idle.IDLE

        await send(kafka_single.bootstrap, topic, 6)
        behind = await look(reader, topic)
        assert (behind.committed, behind.lag) == (9, 6)
        assert is_idle(None, behind) is Idle.TO_ASK
        assert is_idle(behind, await look(reader, topic)) is Idle.BUSY

        await take(consumer, 2)
        assert is_idle(behind, await look(reader, topic)) is Idle.IDLE


async def test_a_group_whose_member_has_left_excuses_nobody(kafka_single, reader, topic):
    await send(kafka_single.bootstrap, topic, 3)
    async with a_member(kafka_single.bootstrap, topic) as consumer:
        await take(consumer, 3)
    left = await look(reader, topic)
    assert (left.members, left.unknown) == (0, "")
    assert is_idle(None, left) is Idle.BUSY


async def test_what_was_never_committed_is_lag(kafka_single, reader, topic):
    await send(kafka_single.bootstrap, topic, 5)
    async with a_member(kafka_single.bootstrap, topic) as consumer:
        async with asyncio.timeout(WAIT_SECONDS):
            await consumer.getone()
        assert (await look(reader, topic)).lag == 5


async def test_a_queue_without_a_group_is_told_from_one_that_may_not_be_seen(reader, topic):
    nobody = await look(reader, topic)
    assert (nobody.group, nobody.members, nobody.unknown) == ("", 0, "")
    assert is_idle(None, nobody) is Idle.BUSY


async def test_of_two_groups_of_a_queue_the_pods_address_decides(kafka_single, reader, topic):
    async with (
        a_member(kafka_single.bootstrap, topic),
        a_member(kafka_single.bootstrap, topic, service="graph-build"),
    ):
        elsewhere = await look(reader, topic, pod_ip="10.0.0.1")
        assert "nobody knows whose they are, and none is at 10.0.0.1" in elsewhere.unknown
        here = await look(reader, topic)
        assert f"have a live member at {HERE}" in here.unknown


async def test_the_group_of_another_job_of_the_queue_is_left_out(kafka_single, reader, topic):
    async with a_member(kafka_single.bootstrap, topic):
        sibling = Neighbours(consumers=1, addresses=(HERE,))
        hangs = await look(reader, topic, pod_ip="10.0.0.1", neighbours=sibling)
        assert (hangs.group, hangs.unknown) == ("", "")
        assert "at addresses of other Jobs of the queue" in hangs.elsewhere
        assert is_idle(None, hangs) is Idle.BUSY
        alone = await look(reader, topic, pod_ip="10.0.0.1", neighbours=Neighbours())
        assert (alone.group, alone.members) == (f"arango-trades-consumer-{topic}", 1)


async def test_a_topic_that_does_not_exist_is_unknown_and_is_not_made_by_asking(kafka_single, reader):
    name = f"loader-x-{uuid.uuid4().hex[:6]}"
    assert "does not exist" in (await look(reader, name)).unknown
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_single.bootstrap)
    await client.start()
    try:
        assert name not in await client.list_topics()
    finally:
        await client.close()


async def test_many_looks_share_one_reading_of_the_lists(kafka_single, topic):
    listed = 0
    reader = GroupReader(settings_of(kafka_single.bootstrap))
    read = reader._listed

    async def counted(admin):
        nonlocal listed
        listed += 1
        return await read(admin)

    reader._listed = counted
    try:
        looks = await asyncio.gather(*(look(reader, topic) for _ in range(20)))
    finally:
        await reader.close()
    assert {each.unknown for each in looks} == {""}
    assert listed == 1


async def test_without_a_broker_nothing_is_known_and_nobody_waits_for_long():
    reader = GroupReader(settings_of("127.0.0.1:1"))
    async with asyncio.timeout(WAIT_SECONDS):
        looks = await asyncio.gather(*(look(reader, "q") for _ in range(50)))
    assert all(each.unknown for each in looks)
    assert is_idle(None, looks[0]) is Idle.UNKNOWN


@pytest.mark.embedded
async def test_the_embedded_broker_tells_of_groups_too():
    with EmbeddedBroker() as broker:
        await create(broker.bootstrap, "q1")
        reader = GroupReader(settings_of(broker.bootstrap))
        try:
            await send(broker.bootstrap, "q1", 3)
            async with a_member(broker.bootstrap, "q1", session_timeout_ms=1000, heartbeat_interval_ms=200) as consumer:
                await take(consumer, 3)
                answer = await look(reader, "q1", neighbours=Neighbours())  # it tells no addresses
        finally:
            await reader.close()
    assert (answer.members, answer.committed, answer.lag, answer.unknown) == (1, 3, 0, "")


@pytest.fixture
def kafka_with_rights(tmp_path) -> Iterator[KafkaCluster]:
    """Start a broker that asks its authorizer; whoever is not denied a thing may do it."""
    with KafkaCluster.start(
        directory=tmp_path / "kafka",
        settings={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        },
    ) as cluster:
        yield cluster


async def deny(cluster: KafkaCluster, kind: str, name: str) -> None:
    await acls.deny(cluster.bootstrap, "ANONYMOUS", [acls.Acl(kind, name, "literal", "Describe")])


@pytest.mark.kafka
async def test_a_right_that_is_missing_is_told_and_never_taken_for_a_missing_group(kafka_with_rights):
    bootstrap, queue = kafka_with_rights.bootstrap, "loader-q"
    await create(bootstrap, queue)
    reader = GroupReader(settings_of(bootstrap), clock=itertools.count(0.0, 100.0).__next__)
    try:
        async with a_member(bootstrap, queue):
            assert (await look(reader, queue)).members == 1
            assert await look(reader, queue, queue_id="loader-nobodys") == GroupLook()

            await deny(kafka_with_rights, "group", "*")
            assert "may not be described" in (await look(reader, queue)).unknown
            assert "may not be described" in (await look(reader, queue, queue_id="loader-nobodys")).unknown

            await deny(kafka_with_rights, "cluster", "kafka-cluster")  # now the list leaves the group out
            assert "may not be described" in (await look(reader, queue)).unknown
    finally:
        await reader.close()


@pytest.mark.kafka
async def test_a_topic_that_may_not_be_described_gives_no_answer(kafka_with_rights):
    bootstrap, queue = kafka_with_rights.bootstrap, "loader-q"
    await create(bootstrap, queue)
    reader = GroupReader(settings_of(bootstrap), clock=itertools.count(0.0, 100.0).__next__)
    try:
        async with a_member(bootstrap, queue):
            await deny(kafka_with_rights, "topic", "*")
            assert "may not be described" in (await look(reader, queue)).unknown
    finally:
        await reader.close()
