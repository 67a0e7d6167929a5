"""Table writes that are acknowledged before they count, on a real Faust app; recovery in the order of the log."""

import asyncio
import shutil
import uuid
from types import SimpleNamespace

import faust
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.exceptions import ImproperlyConfigured
from faust.types import TP, RecordMetadata
from structlog.testing import capture_logs

from sf_healer.core.changelog import writes_of
from sf_healer.core.partition import Changes
from sf_healer.core.remembered import remembered
from sf_healer.core.state import JobState
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.transport import Batch, BatchTableManager
from tables import durable
from tests.broker.transport_lab import create_topic, new_app, running, send
from tests.core.strategies import with_fields
from tests.lab.quick import QUICK_HEARTBEAT_SECONDS, QUICK_SESSION_TIMEOUT_SECONDS
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
            TableManager=BatchTableManager,
            table_standby_replicas=0,
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

CHANGELOG = TP("ordered-things-changelog", 0)


def an_app(directory, *, standbys, store="memory://"):
    return faust.App(
        "ordered",
        broker="batch://127.0.0.1:1",
        store=store,
        datadir=directory,
        TableManager=BatchTableManager,
        table_standby_replicas=standbys,
    )


def a_batch(*records, start=0):
    """Make a fetch of (key, value) pairs at consecutive offsets."""
    found = [SimpleNamespace(key=key, value=stored, offset=start + at) for at, (key, stored) in enumerate(records)]
    return Batch(CHANGELOG, found, start_position=start, next_position=start + len(found), size_bytes=0)


@pytest.fixture(params=["memory://", "rocksdb://?driver=rocksdict"])
def table(request, tmp_path):
    app = an_app(tmp_path, standbys=0, store=request.param)
    made = durable.ordered_table(app, "things", partitions=1, help="")
    made.begin_restore({CHANGELOG})
    return made


def stored_in(table):
    return {key: text_of(stored) for key, stored in table.store_of(0).items()}


def test_recovery_keeps_the_value_with_more_of_the_log_in_it(table):
    table.restore(a_batch((b"a", value(5, "five")), (b"a", value(9, "nine")), (b"a", value(5, "late"))))
    assert stored_in(table) == {b"a": "nine"}
    table.restore(a_batch((b"a", value(7, "later still")), start=3))
    assert stored_in(table) == {b"a": "nine"}
    table.restore(a_batch((b"a", value(9, "the same again")), start=4))
    assert stored_in(table) == {b"a": "the same again"}


def test_a_late_value_does_not_replace_what_was_stored_before_the_recovery_began(table):
    table.restore(a_batch((b"a", value(9, "nine"))))
    table.begin_restore({CHANGELOG})
    table.restore(a_batch((b"a", value(7, "late")), (b"b", value(1, "one")), start=1))
    assert stored_in(table) == {b"a": "nine", b"b": "one"}


def of_log(epoch, offset, job):
    """Make the record of a Job as the table `jobs` has it, of an evidence log that began anew so often."""
    state = remembered(with_fields(JobState(job), source_offset=offset))
    ((_, record),) = writes_of(0, Changes({job: state}, (), None, (), (), 0, log_epoch=epoch), offset).items()
    return record


def test_recovery_keeps_what_was_written_after_the_evidence_log_began_anew(tmp_path):
    table = a_rocksdb_table(tmp_path)
    table.begin_restore({CHANGELOG})
    before, after, late = of_log(0, 5_000, "stf/a"), of_log(1, 7, "stf/a"), of_log(0, 5_001, "stf/a")
    table.restore(a_batch((b"a", before), (b"b", before), (b"a", after), (b"a", late)))
    assert dict(table.store_of(0).items()) == {b"a": after, b"b": before}
    table.begin_restore({CHANGELOG})  # and where the store was kept
    table.restore(a_batch((b"b", after), (b"a", late), (b"a", of_log(1, 6, "stf/a")), start=4))
    assert dict(table.store_of(0).items()) == {b"a": after, b"b": after}
    table.restore(a_batch((b"a", of_log(2, 0, "stf/a")), start=7))
    assert table.store_of(0).get(b"a") == of_log(2, 0, "stf/a")


def test_recovery_follows_tombstones(table):
    table.restore(a_batch((b"a", value(9)), (b"a", None), (b"b", None)))
    assert stored_in(table) == {}
    table.restore(a_batch((b"a", value(1, "again")), start=3))
    assert stored_in(table) == {b"a": "again"}
    table.restore(a_batch((b"a", None), start=4))
    assert stored_in(table) == {}


def test_recovery_persists_the_position_behind_the_batch_gaps_included(tmp_path):
    table = a_rocksdb_table(tmp_path)
    table.begin_restore({CHANGELOG})
    batch = a_batch((b"a", value(1)))
    table.restore(Batch(CHANGELOG, batch.records, start_position=0, next_position=7, size_bytes=0))
    assert table.store_of(0).persisted_offset() == 6


@pytest.mark.parametrize("ended", [False, True])
def test_a_crash_takes_back_a_recovery_with_its_offset_until_it_has_ended(tmp_path, ended):
    table = a_rocksdb_table(tmp_path / "lived")
    table.begin_restore({CHANGELOG})
    table.restore(a_batch((b"a", value(1, "one")), (b"b", value(2, "two"))))
    if ended:
        table.note_restored(0, 0)
        table.store_of(0).write({b"b": value(3, "three")}, persisted=2)
    shutil.copytree(tmp_path / "lived", tmp_path / "crashed")  # what is on disk, and nothing of the memory
    after = a_rocksdb_table(tmp_path / "crashed")
    assert stored_in(after) == ({b"a": "one", b"b": "three"} if ended else {})
    assert after.store_of(0).persisted_offset() == (2 if ended else None)


def test_a_record_without_a_key_is_refused(table):
    with pytest.raises(TypeError, match="without a key at offset 1"):
        table.restore(a_batch((b"a", value(1)), (None, value(1))))
    assert stored_in(table) == {}


# ---- a corrupted store


KEYS = {b"key-%05d" % number: value(1, str(number)) for number in range(20_000)}


def spoil(directory, name, first=0, size=4096):
    """Overwrite a part of every file of that name or suffix, as a disk or a node that went down may."""
    files = [path for path in directory.rglob("*") if path.name.startswith(name) or path.suffix == f".{name}"]
    assert files
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:first] + b"\0" * size + content[first + size :])


@pytest.fixture
def disk(tmp_path):
    """Leave the disk of a worker that was killed: 20,000 keys in a file, and one in the write-ahead log."""
    store = a_rocksdb_table(tmp_path / "lived").store_of(0)
    store.write_restored(KEYS, persisted=len(KEYS) - 1)
    store.flush()
    store.write({b"last": value(2, "last")}, persisted=len(KEYS))
    shutil.copytree(tmp_path / "lived", tmp_path / "died")
    return tmp_path / "died"


@pytest.mark.parametrize("name", ["MANIFEST", "CURRENT"])
def test_a_store_that_cannot_be_opened_for_corruption_is_thrown_away_and_begins_anew(disk, name):
    spoil(disk, name)
    with capture_logs() as lines:
        store = a_rocksdb_table(disk).store_of(0)
    assert store.is_empty()
    assert store.persisted_offset() is None, "recovery reads the whole changelog"
    (line,) = lines
    assert (line["event"], line["table"], line["partition"]) == ("store_dropped", "things", 0)
    assert line["path"].endswith("things-0.db")
    assert line["error"].startswith("Corruption")
    store.write({b"a": value(1)}, persisted=0)
    assert a_rocksdb_copy(disk).persisted_offset() == 0


def a_rocksdb_copy(directory):
    return a_rocksdb_table(shutil.copytree(directory, directory.with_name("copy"))).store_of(0)


@pytest.mark.parametrize("first", [0, 50_000])
@pytest.mark.parametrize("read", [lambda store: list(store.items()), lambda store: [store.get(key) for key in KEYS]])
def test_a_store_of_which_a_part_cannot_be_read_is_never_taken_for_whole_and_is_thrown_away_at_the_next_start(
    disk, first, read
):
    """RocksDB opens it, and rocksdict's items just end where a block is bad: Jobs would be missing without a word."""
    spoil(disk, "sst", first)
    store = a_rocksdb_table(disk).store_of(0)
    with pytest.raises(Exception, match="Corruption"):
        read(store)
    again = a_rocksdb_copy(disk)
    assert again.is_empty()
    assert again.persisted_offset() is None


def test_a_store_that_another_process_has_open_is_not_thrown_away(disk):
    lived = a_rocksdb_table(disk).store_of(0)
    with pytest.raises(Exception, match="lock"):
        a_rocksdb_table(disk).store_of(0)
    assert lived.get(b"last") == value(2, "last")
    assert len(list(lived.items())) == len(KEYS) + 1


# ---- the offset that recovery starts from


def a_rocksdb_table(directory):
    app = an_app(directory, standbys=0, store="rocksdb://?driver=rocksdict")
    return durable.ordered_table(app, "things", partitions=1, help="")


@pytest.fixture
def store(tmp_path):
    return a_rocksdb_table(tmp_path).store_of(0)


class Table:
    """As much of a table, its app and its producer as a write needs; each record gets the next offset, or fails."""

    started = True
    max_request_size = 1_000_000

    def __init__(self, next_offset, store, error=None):
        self._store = store
        self.app = self.changelog_topic = self
        self._next_offset = next_offset
        self._error = error

    def partition_for_key(self, _key):
        return 0

    def store_of(self, _partition):
        return self._store

    def get_topic_name(self):
        return "changelog"

    @property
    def producer(self):
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


async def test_the_persisted_offset_follows_our_own_records(store):
    await durable.write(Table(0, store), {b"a": value(1), b"b": value(1)})
    assert store.persisted_offset() == 1


async def test_the_persisted_offset_stops_before_a_record_of_somebody_else(store):
    """What another worker wrote meanwhile is not in this store: recovery must read it."""
    store.write({}, persisted=4)
    await durable.write(Table(7, store), {b"a": value(1)})
    assert store.persisted_offset() == 4
    assert store.get(b"a") == value(1)


async def test_nothing_is_stored_when_the_broker_does_not_acknowledge(store):
    with pytest.raises(ConnectionError):
        await durable.put(Table(0, store, ConnectionError()), b"a", value(1))
    assert store.is_empty()
    assert store.persisted_offset() is None


def test_an_app_whose_recovery_knows_no_batches_is_refused(tmp_path):
    app = faust.App("plain", broker="batch://127.0.0.1:1", store="memory://", datadir=tmp_path)
    with pytest.raises(ImproperlyConfigured, match="BatchTableManager"):
        durable.ordered_table(app, "things", partitions=1, help="")


def test_a_plain_table_is_refused_where_recovery_reads_batches(tmp_path):
    app = an_app(tmp_path, standbys=0)
    with pytest.raises(ImproperlyConfigured, match="in batches"):
        app.Table("things")


def test_standbys_are_refused_where_recovery_reads_batches(tmp_path):
    app = an_app(tmp_path, standbys=1)
    with pytest.raises(ImproperlyConfigured, match="standbys"):
        durable.ordered_table(app, "things", partitions=1, help="")
