"""Table writes that are acknowledged before they count, on a real Faust app; recovery in the order of the log."""

import asyncio
import uuid
from types import SimpleNamespace

import faust
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.types import TP, RecordMetadata

from sf_healer.local.broker import QUICK_HEARTBEAT_SECONDS, QUICK_SESSION_TIMEOUT_SECONDS, EmbeddedBroker
from tables import durable
from tests.broker.transport_lab import create_topic, new_app, running, send
from tests.lab.waiting import until_async

SECONDS = 30.0


def value(offset, text="x"):
    return msgspec.msgpack.encode([1, offset, text])


def text_of(stored):
    return msgspec.msgpack.decode(stored)[2]


@pytest.fixture(scope="module")
def broker():
    with EmbeddedBroker() as started:
        yield started


class Writer:
    """An app that does with its table what each record of its topic says."""

    def __init__(self, bootstrap, directory, topic, app_id, store):
        self.app = new_app(
            bootstrap,
            directory,
            app_id,
            store=store,
            topic_partitions=1,
            broker_session_timeout=QUICK_SESSION_TIMEOUT_SECONDS,
            broker_heartbeat_interval=QUICK_HEARTBEAT_SECONDS,
        )
        self.table = durable.ordered_table(self.app, "things", partitions=1, help="")
        self.done = 0
        source = self.app.topic(topic, key_type=bytes, value_type=bytes, value_serializer="raw", partitions=1)

        @self.app.agent(source)
        async def write(stream):
            async for event in stream.noack().events():
                deed, key, text = event.message.value.split(b" ")
                if deed == b"put":
                    await durable.put(self.table, key, value(event.message.offset, text.decode()))
                else:
                    await durable.delete(self.table, key)
                self.done = event.message.offset + 1
                event.ack()

    async def until_done(self, count):
        async def reached():
            return self.done >= count

        await until_async(reached, f"{count} records", seconds=SECONDS)

    def contents(self):
        return {key: text_of(stored) for key, stored in self.table.items()}


async def changelog_of(bootstrap, app_id):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    tp = TopicPartition(f"{app_id}-things-changelog", 0)
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    records = []
    while len(records) < end:
        records += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
    await consumer.stop()
    return [(record.key, record.value and text_of(record.value)) for record in records]


@pytest.mark.embedded
@pytest.mark.parametrize("store", ["memory://", "rocksdb://?driver=rocksdict"])
async def test_what_is_written_is_on_the_changelog_once_and_comes_back_in_another_worker(broker, tmp_path, store):
    app_id, topic = f"durable-{uuid.uuid4()}", await create_topic(broker.bootstrap)
    await create_topic(broker.bootstrap, name=f"{app_id}-things-changelog")
    deeds = [b"put a 1", b"put b 2", b"put a 3", b"delete b -", b"delete c -", b"put d 4"]
    await send(broker.bootstrap, topic, deeds)
    first = Writer(broker.bootstrap, tmp_path, topic, app_id, store)
    async with running(first.app):
        await first.until_done(len(deeds))
        assert first.contents() == {b"a": "3", b"d": "4"}
        with pytest.raises(TypeError):
            await durable.put(first.table, b"a", value(9))
    assert await changelog_of(broker.bootstrap, app_id) == [
        (b"a", "1"),
        (b"b", "2"),
        (b"a", "3"),
        (b"b", None),
        (b"c", None),
        (b"d", "4"),
    ]
    second = Writer(broker.bootstrap, tmp_path, topic, app_id, store)
    async with running(second.app):

        async def recovered():
            return second.contents() == {b"a": "3", b"d": "4"}

        await until_async(recovered, "the recovered table", seconds=SECONDS)


# ---- a late writer


def an_event(key, stored, offset=0):
    message = SimpleNamespace(key=key, value=stored, offset=offset, partition=0, tp=TP("changelog", 0))
    return SimpleNamespace(key=key, value=stored, message=message)


@pytest.fixture
def table(tmp_path):
    app = faust.App("ordered", store="memory://", datadir=tmp_path)
    return durable.ordered_table(app, "things", partitions=1, help="")


def test_recovery_keeps_the_value_with_more_of_the_log_in_it(table):
    late = an_event(b"a", value(5, "late"), 3)
    table.apply_changelog_batch([an_event(b"a", value(5, "five"), 1), an_event(b"a", value(9, "nine"), 2), late])
    assert text_of(table.data[b"a"]) == "nine"
    table.apply_changelog_batch([an_event(b"a", value(7, "later still"), 4)])
    assert text_of(table.data[b"a"]) == "nine"
    table.apply_changelog_batch([an_event(b"a", value(9, "the same again"), 5)])
    assert text_of(table.data[b"a"]) == "the same again"


def test_recovery_follows_tombstones(table):
    table.apply_changelog_batch([an_event(b"a", value(9)), an_event(b"a", None), an_event(b"b", None)])
    assert b"a" not in table.data
    table.apply_changelog_batch([an_event(b"a", value(1, "again"))])
    assert text_of(table.data[b"a"]) == "again"


# ---- the offset that recovery starts from


class Store(dict):
    """A store that remembers what was persisted, and when."""

    def __init__(self, persisted=None):
        super().__init__()
        self.persisted = persisted

    def persisted_offset(self, _tp):
        return self.persisted

    def set_persisted_offset(self, _tp, offset):
        self.persisted = offset


class Table:
    """As much of a table, its app and its producer as a write needs; each record gets the next offset, or fails."""

    max_request_size = 1_000_000

    def __init__(self, next_offset, store, error=None):
        self.data = store
        self.app = self.changelog_topic = self
        self._next_offset = next_offset
        self._error = error

    def partition_for_key(self, _key):
        return 0

    def get_topic_name(self):
        return "changelog"

    async def maybe_start_producer(self):
        return self

    def _ensure_producer(self):
        return self

    def create_batch(self):
        return BatchBuilder(self.max_request_size, 0)

    async def send_batch(self, batch, topic, *, partition):
        future = asyncio.get_running_loop().create_future()
        if self._error is not None:
            future.set_exception(self._error)
        else:
            future.set_result(RecordMetadata(topic, partition, TP(topic, partition), self._next_offset, -1, 0))
            self._next_offset += batch.record_count()
        return future


async def test_the_persisted_offset_follows_our_own_records():
    store = Store()
    await durable.write(Table(0, store), {b"a": value(1), b"b": value(1)})
    assert store.persisted == 1


async def test_the_persisted_offset_stops_before_a_record_of_somebody_else():
    """What another worker wrote meanwhile is not in this store: recovery must read it."""
    store = Store(persisted=4)
    await durable.write(Table(7, store), {b"a": value(1)})
    assert store.persisted == 4
    assert b"a" in store


async def test_nothing_is_stored_when_the_broker_does_not_acknowledge():
    store = Store()
    with pytest.raises(ConnectionError):
        await durable.put(Table(0, store, ConnectionError()), b"a", value(1))
    assert not store
    assert store.persisted is None


async def test_an_empty_value_is_refused_for_faust_takes_it_for_none():
    with pytest.raises(ValueError, match="empty"):
        await durable.put(Table(0, Store()), b"a", b"")
