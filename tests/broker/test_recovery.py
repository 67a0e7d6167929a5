"""Tables come back from their changelogs in batches, whatever lies there and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from faust.exceptions import ConsistencyError
from structlog.testing import capture_logs

from sf_healer.adapters import metrics
from sf_healer.transport import BatchLimits, BatchTableManager, OffsetReset, on_reset
from tables import durable
from tests.broker.transport_lab import SECONDS, admin, create_topic, new_app, producer, running, send
from tests.lab.kafka import KafkaCluster
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.kafka


def value(offset: int, text: str = "x") -> bytes:
    return msgspec.msgpack.encode([1, offset, text])


def text_of(stored: bytes) -> str:
    return str(msgspec.msgpack.decode(stored)[2])


class Keeper:
    """An app with one table, whose changelog is filled by hand; `directory` is its disk."""

    def __init__(self, bootstrap: str, directory: Path, name: str, *, partitions: int = 1, **options: Any) -> None:
        self.bootstrap, self.name, self.partitions = bootstrap, name, partitions
        self.app = new_app(
            bootstrap,
            directory,
            name,
            store="rocksdb://?driver=rocksdict",
            TableManager=BatchTableManager,
            table_standby_replicas=0,
            topic_partitions=partitions,
            topic_allow_declare=False,
            **{"datadir": directory / "disk", **options},
        )
        self.table = durable.ordered_table(self.app, "things", partitions=partitions, help="")

        @self.app.agent(self.app.topic(f"{name}-source", key_type=bytes, value_type=bytes, value_serializer="raw"))
        async def read(stream: Any) -> None:
            async for _ in stream:
                pass

    @property
    def is_restored(self) -> bool:
        return self.app.tables.recovery.completed.is_set() and not self.app.rebalancing

    def contents(self) -> dict[bytes, str]:
        owned = [tp.partition for tp in self.app.assignor.assigned_actives() if tp.topic == self.changelog]
        return {key: text_of(stored) for number in owned for key, stored in self.table.store_of(number).items()}

    @property
    def changelog(self) -> str:
        return f"{self.name}-things-changelog"

    async def create(self, **configs: str) -> Keeper:
        await create_topic(self.bootstrap, name=f"{self.name}-source", partitions=self.partitions)
        await create_topic(self.bootstrap, name=self.changelog, partitions=self.partitions, **configs)
        return self

    async def log(self, records: Iterable[tuple[bytes, bytes | None]], *, partition: int = 0, **options: Any) -> None:
        async with producer(self.bootstrap, **options) as client:
            sent = [await client.send(self.changelog, stored, key=key, partition=partition) for key, stored in records]
            await asyncio.gather(*sent)

    async def until_restored(self, wanted: Mapping[bytes, str]) -> None:
        async def is_there() -> bool:
            return self.is_restored

        await until_async(is_there, "the table to be restored", seconds=SECONDS)
        assert self.contents() == wanted


def restored_records() -> float:
    return metrics.RESTORED_RECORDS.labels(table="things")._value.get()


KEYS = {f"key-{number:05d}".encode(): str(number) for number in range(7_000)}
RECORDS = [(key, value(1, text)) for key, text in KEYS.items()]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"keeper-{abs(hash(request.node.nodeid)) % 10**9}"


async def test_an_empty_disk_is_filled_from_the_changelog_and_a_full_one_reads_only_what_is_new(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()
    await keeper.log([*RECORDS, (b"key-00000", None), (b"key-00001", value(2, "again"))])
    wanted = {**KEYS, b"key-00001": "again"}
    del wanted[b"key-00000"]
    before = restored_records()
    async with running(keeper.app):
        await keeper.until_restored(wanted)
    assert restored_records() - before == len(RECORDS) + 2

    await keeper.log([(b"key-00002", value(1, "new")), (b"key-00003", None)])
    wanted[b"key-00002"] = "new"
    del wanted[b"key-00003"]
    before, second = restored_records(), Keeper(kafka_single.bootstrap, tmp_path, name)
    async with running(second.app):
        await second.until_restored(wanted)
    assert restored_records() - before == 2

    third = Keeper(kafka_single.bootstrap, tmp_path, name)
    async with running(third.app):
        await third.until_restored(wanted)
    assert restored_records() - before == 2, "nothing is new"

    shutil.rmtree(tmp_path / "disk")
    fourth = Keeper(kafka_single.bootstrap, tmp_path, name)
    async with running(fourth.app):
        await fourth.until_restored(wanted)
    assert restored_records() - before == len(RECORDS) + 6, "all of it"


async def test_what_the_app_writes_itself_is_not_read_again(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()

    @keeper.app.agent(keeper.app.topic(f"{name}-deeds", key_type=bytes, value_type=bytes, value_serializer="raw"))
    async def write(stream: Any) -> None:
        async for event in stream.noack().events():
            await durable.put(keeper.table, event.message.value, value(event.message.offset, "written"))
            event.ack()

    await create_topic(kafka_single.bootstrap, name=f"{name}-deeds")
    await keeper.log(RECORDS[:3])
    async with running(keeper.app):
        await send(kafka_single.bootstrap, f"{name}-deeds", [b"a", b"b"])

        async def written() -> bool:
            return keeper.is_restored and {b"a", b"b"} <= keeper.contents().keys()

        await until_async(written, "the deeds", seconds=SECONDS)
    before, second = restored_records(), Keeper(kafka_single.bootstrap, tmp_path, name)
    async with running(second.app):
        await second.until_restored({**dict(list(KEYS.items())[:3]), b"a": "written", b"b": "written"})
    assert restored_records() == before


async def test_an_empty_changelog_is_restored_at_once(kafka_single: KafkaCluster, tmp_path: Path, name: str) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name, partitions=2).create()
    async with running(keeper.app):
        await keeper.until_restored({})
    assert keeper.table.restored == (0, 0)


async def test_a_changelog_that_ends_in_markers_of_transactions_is_restored_to_its_end(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    """Faust waits for ever for a record at the last offset."""
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()
    async with producer(kafka_single.bootstrap, transactional_id=name) as client:
        for text in ("one", "two"):
            async with client.transaction():
                await client.send_and_wait(keeper.changelog, value(1, text), key=text.encode(), partition=0)
    async with running(keeper.app):
        await keeper.until_restored({b"one": "one", b"two": "two"})
    assert keeper.app.tables.recovery.active_remaining_total() == 0


async def test_a_changelog_whose_beginning_is_gone_is_restored_from_where_it_begins_and_no_reset_is_told(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()
    await keeper.log(RECORDS[:20])
    async with admin(kafka_single.bootstrap) as client:
        await client.delete_records({TopicPartition(keeper.changelog, 0): RecordsToDelete(before_offset=15)})
    told: list[OffsetReset] = []
    on_reset(keeper.app, told.append)
    async with running(keeper.app):
        await keeper.until_restored(dict(list(KEYS.items())[15:20]))
    assert told == []


@pytest.fixture(scope="module")
def quickly_cleaned_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Compacts within a second of a segment's end, not within half a minute."""
    settings = {"log.cleaner.backoff.ms": "100", "log.cleaner.min.cleanable.ratio": "0.01"}
    with KafkaCluster.start(directory=tmp_path_factory.mktemp("kafka-cleaned"), settings=settings) as cluster:
        yield cluster.bootstrap


async def test_a_compacted_changelog_is_restored_over_its_gaps(
    quickly_cleaned_kafka: str, tmp_path: Path, name: str
) -> None:
    keeper = await Keeper(quickly_cleaned_kafka, tmp_path, name).create(
        cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01"
    )
    for number in range(20):
        await keeper.log([(b"same", value(number, str(number)))])
    attempts = 0

    async def has_gaps() -> bool:
        nonlocal attempts
        attempts += 1
        await keeper.log([(b"other", value(attempts, "last"))])  # a new record ends an old segment
        before = restored_records()
        reader = Keeper(quickly_cleaned_kafka, tmp_path, name, datadir=tmp_path / str(attempts))
        async with running(reader.app):
            await reader.until_restored({b"same": "19", b"other": "last"})
        return restored_records() - before < 20

    await until_async(has_gaps, "the cleaner", seconds=90)


async def test_two_workers_that_share_a_recovery_in_mid_way_hold_every_key_once(
    kafka_single: KafkaCluster, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "RESTORE_LIMITS", BatchLimits(max_records=1))  # slow enough to be overtaken
    options = {"partitions": 4, "broker_session_timeout": 6.0, "broker_heartbeat_interval": 0.2}
    first, second = (
        Keeper(kafka_single.bootstrap, tmp_path, name, datadir=tmp_path / disk, **options) for disk in ("a", "b")
    )
    await first.create()
    for partition in range(4):
        await first.log(((key + b"/%d" % partition, stored) for key, stored in RECORDS[:2_000]), partition=partition)
    wanted = {key + b"/%d" % partition: KEYS[key] for key, _ in RECORDS[:2_000] for partition in range(4)}
    furthest = 0
    note = first.table.note_restored

    def note_and_tell(restored: int, total: int) -> None:
        nonlocal furthest
        furthest = max(furthest, restored)
        note(restored, total)

    monkeypatch.setattr(first.table, "note_restored", note_and_tell)
    async with AsyncExitStack() as started:

        async def is_under_way() -> bool:
            return 0 < first.table.restored.records < first.table.restored.of == 8_000

        async def both_restored() -> bool:
            return first.is_restored and second.is_restored

        begun = [asyncio.create_task(started.enter_async_context(running(first.app)))]
        await until_async(is_under_way, "the first recovery to be under way", seconds=2 * SECONDS)
        begun.append(asyncio.create_task(started.enter_async_context(running(second.app))))
        await until_async(both_restored, "both to be restored", seconds=3 * SECONDS)
        await asyncio.gather(*begun)
        ours, theirs = first.contents(), second.contents()
    assert {**ours, **theirs} == wanted
    assert len(ours) == len(theirs) == len(wanted) / 2
    assert 0 < furthest < 8_000, "the first was overtaken"


async def test_a_store_that_is_ahead_of_its_changelog_ends_the_app(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()
    await keeper.log(RECORDS[:20])
    async with running(keeper.app):
        await keeper.until_restored(dict(list(KEYS.items())[:20]))
    async with admin(kafka_single.bootstrap) as client:
        await client.delete_topics([keeper.changelog])
    await create_topic(kafka_single.bootstrap, name=keeper.changelog)
    again = Keeper(kafka_single.bootstrap, tmp_path, name)
    with capture_logs() as lines:
        reason = await crash_of(again)
    assert isinstance(reason, ConsistencyError)
    assert (
        f"{keeper.changelog} 0: the local store holds everything up to offset 19, and the changelog ends at -1"
        in str(reason)
    )
    assert "delete the worker's data directory" in str(reason)
    (line,) = [line for line in lines if line["event"] == "store_ahead"]
    assert (line["topic"], line["persisted"], line["end"]) == (keeper.changelog, 19, -1)
    assert stored_on_disk(tmp_path), "nobody but a person throws away what may be nowhere else"


def stored_on_disk(directory: Path) -> list[Path]:
    return list((directory / "disk").rglob("*.sst")) + list((directory / "disk").rglob("*.log"))


@pytest.mark.parametrize("spoilt", ["MANIFEST", "sst"])
async def test_a_corrupted_store_is_thrown_away_and_filled_again_from_the_changelog(
    kafka_single: KafkaCluster, tmp_path: Path, name: str, spoilt: str
) -> None:
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()
    await keeper.log(RECORDS)
    async with running(keeper.app):
        await keeper.until_restored(KEYS)
    files = [
        path for path in (tmp_path / "disk").rglob("*") if path.name.startswith(spoilt) or path.suffix == f".{spoilt}"
    ]
    assert files
    for path in files:
        path.write_bytes(b"\0" * 4096 + path.read_bytes()[4096:])
    again = Keeper(kafka_single.bootstrap, tmp_path, name)
    with capture_logs() as lines:
        async with running(again.app):
            await again.until_restored(KEYS)
    (line,) = [line for line in lines if line["event"] == "store_dropped"]
    assert (line["table"], line["partition"]) == ("things", 0)
    assert "Corruption" in line["error"]


async def test_a_callback_that_cannot_use_the_state_ends_the_app(
    kafka_single: KafkaCluster, tmp_path: Path, name: str
) -> None:
    """Faust drops the exception, and goes on without the state."""
    keeper = await Keeper(kafka_single.bootstrap, tmp_path, name).create()

    @keeper.table.on_recover
    async def refuse() -> None:
        raise ArithmeticError("of another version")

    assert isinstance(await crash_of(keeper), ArithmeticError)


async def crash_of(keeper: Keeper) -> BaseException | None:
    async with running(keeper.app):

        async def has_crashed() -> bool:
            return keeper.app.tables.recovery.crash_reason is not None

        await until_async(has_crashed, "the app to end", seconds=SECONDS)
    return keeper.app.tables.recovery.crash_reason
