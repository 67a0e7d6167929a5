"""Captures sent and recorded: what comes back is what went in, on the embedded broker and on Apache Kafka."""

import asyncio
import gzip
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from sf_healer.adapters import kafka
from sf_healer.captures import CaptureError, Line, read, read_file, written
from sf_healer.feed import _Merge, capture, feed
from sf_healer.past import NoTopicError
from sf_healer.settings import Settings
from sf_healer.topics import Spec
from tests.lab.captures import generate_capture, write_capture

WAIT_SECONDS = 30.0


def line(at: float, partition: int, value: bytes | None) -> Line:
    return Line(at=at, partition=partition, value=value)


LINES = [
    line(100.0, 0, b'{"status": "started"}'),
    line(100.1, 2, b"{'status': 'started'}"),
    line(100.1, 7, b"\xff\x00 not utf-8"),
    line(100.2, 1, b""),
    line(100.3, 0, None),
    line(100.4, 1, "\u0417\u0430\u043f".encode()),
]


# ------------------------------------------------------------------ the format


@given(
    st.lists(
        st.builds(
            Line,
            at=st.floats(min_value=0, max_value=4e9),
            partition=st.integers(0, 100),
            key=st.none() | st.text(max_size=5),
            value=st.none() | st.binary(max_size=40),
            headers=st.just(msgspec.UNSET)
            | st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), min_size=1).map(tuple),
        )
    )
)
def test_what_is_written_is_read_again(lines):
    assert list(read(b"".join(map(written, lines)).splitlines(keepends=True))) == lines


def test_a_line_has_the_fields_of_the_recorded_captures():
    assert json.loads(written(line(1.5, 2, b"x"))) == {
        "at": 1.5,
        "partition": 2,
        "key": None,
        "value_b64": "eA==",
    }


@pytest.mark.parametrize(
    "broken",
    [
        b"not json",
        b"[]",
        b'{"partition": 0}',
        b'{"at": "now", "partition": 0}',
        b'{"at": 1, "partition": 0, "value_b64": "*"}',
        b'{"at": 1, "partition": 0, "value_b64": "eA"}',
        b'{"at": 1757527790000, "partition": 0}',  # milliseconds
        b'{"at": -1, "partition": 0}',
        b'{"at": 1e999, "partition": 0}',
        b'{"at": 1, "partition": -1}',
        b'{"at": 1, "partition": 0, "key": "\xff"}',
        b'{"at": 1, "partition": -1, "headers": {}}',
        pytest.param(b'{"at": 1, "partition": 0, "more": ' + b"[" * 100_000, id="deep"),
    ],
)
def test_a_line_that_is_no_record_is_told_by_its_number(broken):
    with pytest.raises(CaptureError, match="line 2 is no record of a capture"):
        list(read([written(LINES[0]), broken]))


def test_blank_lines_and_other_fields_are_passed_over():
    assert list(read([b"\n", b'{"at": 1, "partition": 0, "value_b64": "eA==", "topic": "t"}\n', b"", b"  \r\n"])) == [
        line(1, 0, b"x")
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
@example(None)
@example({})
@example([{"name": "a", "value": "b"}])
@example([["a", "no base64"]])
def test_headers_of_another_shape_are_none(headers):
    """Whoever else writes captures has his own; nobody refuses a record for them."""
    text = json.dumps({"at": 1, "partition": 0, "value_b64": "eA==", "headers": headers}).encode()
    (found,) = read([text])
    assert msgspec.structs.replace(found, headers=msgspec.UNSET) == line(1, 0, b"x")


def test_headers_whose_text_is_none_are_none():
    assert list(read([b'{"at": 1, "partition": 0, "value_b64": "eA==", "headers": [["\xff", null]]}'])) == [
        line(1, 0, b"x")
    ]


@pytest.mark.parametrize("name", ["plain.jsonl", "plain.gz", "packed.jsonl.gz", "packed.jsonl"])
def test_a_file_is_read_as_what_it_holds_whatever_its_name(tmp_path, name):
    content = b"".join(map(written, LINES))
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if name.startswith("packed") else content)
    assert list(read_file(file)) == LINES


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "packed"])
def test_an_empty_file_is_an_empty_capture(tmp_path, content):
    (tmp_path / "empty").write_bytes(content)
    assert list(read_file(tmp_path / "empty")) == []


def test_an_archive_that_breaks_off_or_is_damaged_is_told_with_the_file(tmp_path):
    packed = gzip.compress(b"".join(map(written, LINES * 100)))
    for name, content in {
        "truncated": packed[:-12],
        "damaged": packed[:40] + bytes(40) + packed[80:],
        "foreign tail": packed + b"no archive",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CaptureError, match=f"{name}: the file cannot be read after line [0-9]+"):
            list(read_file(tmp_path / name))


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path):
    with pytest.raises(CaptureError, match="nobody-wrote-this"):
        list(read_file(tmp_path / "nobody-wrote-this"))


# ------------------------------------------------------------------ the order of a recording


def record(partition: int, offset: int, at_ms: int) -> ConsumerRecord:
    return ConsumerRecord(
        topic="t",
        partition=partition,
        offset=offset,
        timestamp=at_ms,
        timestamp_type=0,
        key=None,
        value=b"x",
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=1,
        headers=(),
    )


def at_of(merge: _Merge) -> list[tuple[int, float]]:
    return [(ready.partition, ready.at) for ready in merge.ready()]


ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


def test_the_past_of_several_partitions_becomes_one_order_of_time():
    merge = _Merge({ZERO: 2, ONE: 2})
    merge.add({ZERO: [record(0, 0, 1000), record(0, 1, 4000)]})
    assert at_of(merge) == []  # partition 1 may have something earlier
    merge.add({ONE: [record(1, 0, 2000)]})
    assert at_of(merge) == [(0, 1.0), (1, 2.0)]
    merge.add({ONE: [record(1, 1, 3000)]})
    assert at_of(merge) == [(1, 3.0), (0, 4.0)]


def test_what_arrives_now_is_held_back_by_nobody():
    merge = _Merge({})
    merge.add({ONE: [record(1, 9, 5000)]})
    assert at_of(merge) == [(1, 5.0)]


def test_records_that_never_come_hold_back_only_for_a_while():
    merge = _Merge({ZERO: 10, ONE: 1})  # the last offsets of partition 0 are a transaction's markers
    merge.add({ZERO: [record(0, 0, 1000)], ONE: [record(1, 0, 2000)]})
    assert at_of(merge) == [(0, 1.0)]
    for _ in range(5):
        merge.add({})
    assert at_of(merge) == [(1, 2.0)]


def test_a_partition_far_ahead_of_another_is_not_read_on(monkeypatch):
    monkeypatch.setattr("sf_healer.feed._HELD_PER_PARTITION", 2)
    merge = _Merge({ZERO: 9, ONE: 1})
    merge.add({ZERO: [record(0, offset, offset) for offset in range(3)]})
    assert merge.full() == {ZERO}
    merge.add({ONE: [record(1, 0, 0)]})
    assert len(at_of(merge)) == 4
    assert merge.full() == frozenset()


# ------------------------------------------------------------------ on a broker


@pytest.fixture
def settings(bootstrap: str) -> Settings:
    return Settings(broker_url=f"kafka://{bootstrap}")


@pytest.fixture
async def topic(settings: Settings) -> str:
    """A topic of its own for each test, with three partitions."""
    name = f"queue-events-{secrets.token_hex(4)}"
    async with kafka.admin(settings) as admin:
        await admin.create([Spec(name, 3, 1, {})])
    return name


async def recorded(settings: Settings, topic: str, count: int) -> list[Line]:
    lines: list[Line] = []
    async with (
        asyncio.timeout(WAIT_SECONDS),
        kafka.consumer(settings, auto_offset_reset="earliest") as consumer,
    ):
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        while len(lines) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                lines += [line(0.0, found.partition, found.value) for found in records]
    return lines


async def test_a_capture_is_sent_byte_for_byte_to_its_partitions(settings, topic):
    assert await feed(settings, LINES, topic=topic) == len(LINES)
    arrived = await recorded(settings, topic, len(LINES))
    wanted = Counter((sent.partition % 3, sent.value or None) for sent in LINES)
    assert Counter((found.partition, found.value or None) for found in arrived) == wanted


async def test_a_capture_keeps_its_pace_or_a_faster_one(settings, topic):
    clock = asyncio.get_running_loop().time
    slow = [line(5_000.0, 0, b"a"), line(5_000.0 + 4.0, 0, b"b")]
    began = clock()
    assert await feed(settings, slow, topic=topic, speed=8.0) == 2
    assert 0.5 <= clock() - began < 3
    began = clock()
    assert await feed(settings, slow, topic=topic) == 2
    assert clock() - began < 2


async def test_what_is_fed_while_recording_is_recorded(settings, topic):
    lines: list[Line] = []
    stop = asyncio.Event()

    def write(found: Line) -> None:
        lines.append(found)
        if len(lines) == len(LINES):
            stop.set()

    recording = asyncio.create_task(capture(settings, write, topic=topic, stop=stop))
    async with asyncio.timeout(WAIT_SECONDS):
        while not recording.done():  # until the recorder has found the end of the topic and follows
            sent = await feed(settings, LINES, topic=topic)
            assert sent == len(LINES)
            await asyncio.wait([recording], timeout=0.5)
    assert await recording >= len(LINES)
    assert {(found.partition, found.value or None) for found in lines} <= {
        (sent.partition % 3, sent.value or None) for sent in LINES
    }


async def test_a_recording_ends_at_its_limit(settings, topic):
    lines: list[Line] = []
    recording = asyncio.create_task(capture(settings, lines.append, topic=topic, stop=asyncio.Event(), limit=2))
    async with asyncio.timeout(WAIT_SECONDS):
        while not recording.done():
            await feed(settings, LINES, topic=topic)
            await asyncio.wait([recording], timeout=0.5)
    assert (await recording, len(lines)) == (2, 2)


async def test_no_topic_is_told_and_none_is_made(settings):
    with pytest.raises(NoTopicError, match="topic nobody-made-this does not exist"):
        await feed(settings, LINES, topic="nobody-made-this")
    with pytest.raises(NoTopicError, match="topic nobody-made-this does not exist"):
        await capture(settings, print, topic="nobody-made-this", stop=asyncio.Event())


async def test_the_commands_send_and_record_files(settings, topic, tmp_path):
    source, copy = tmp_path / "source.jsonl.gz", tmp_path / "copy.jsonl"
    source.write_bytes(gzip.compress(b"".join(map(written, LINES))))
    recording = start(settings, "capture", str(copy), "--topic", topic)
    async with asyncio.timeout(WAIT_SECONDS):
        while not (tmp_path / ".copy.jsonl.unfinished").exists():
            assert recording.poll() is None, recording.communicate()
            await asyncio.sleep(0.05)
        for _ in range(3):
            sending = start(settings, "feed", str(source), "--topic", topic)
            _, said = await asyncio.to_thread(sending.communicate)
            assert (sending.returncode, said.splitlines()[-1][:25]) == (
                0,
                f"{len(LINES)} records sent to queue-e",
            )
    recording.send_signal(signal.SIGINT)
    _, said = await asyncio.to_thread(recording.communicate, None, WAIT_SECONDS)
    assert recording.returncode == 0, said
    lines = list(read(copy.read_bytes().splitlines()))
    assert f"{len(lines)} records of {topic}" in said
    assert {found.partition for found in lines} <= {0, 1, 2}
    assert list(tmp_path.glob(".*")) == []


async def test_a_broken_capture_is_one_line_and_exit_code_1(settings, topic, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(written(LINES[0]) + b"{}\n")
    sending = start(settings, "feed", str(broken), "--topic", topic)
    printed, said = await asyncio.to_thread(sending.communicate)
    assert sending.returncode == 1
    assert printed == ""
    assert said.startswith(f"Error: {broken}: line 2 is no record of a capture")
    assert len(said.splitlines()) == 1


async def test_a_truncated_archive_is_one_line_and_exit_code_1(settings, topic, tmp_path):
    truncated = tmp_path / "truncated.jsonl.gz"
    truncated.write_bytes(gzip.compress(b"".join(map(written, LINES)))[:-12])
    sending = start(settings, "feed", str(truncated), "--topic", topic)
    _, said = await asyncio.to_thread(sending.communicate)
    assert (sending.returncode, len(said.splitlines())) == (1, 1), said


@pytest.mark.kafka
async def test_a_record_that_kafka_refuses_ends_the_feed_and_says_which(kafka_single):
    settings = Settings(broker_url=f"kafka://{kafka_single.bootstrap}")
    name = f"queue-events-{secrets.token_hex(4)}"
    async with kafka.admin(settings) as admin:
        await admin.create([Spec(name, 1, 1, {"max.message.bytes": "20000"})])
    with pytest.raises(CaptureError, match="record 2 was refused"):
        await feed(settings, [LINES[0], line(1.0, 0, b"x" * 50_000)], topic=name)


@pytest.mark.kafka
async def test_the_past_of_a_topic_is_recorded_in_the_order_of_its_timestamps(kafka_single):
    settings = Settings(broker_url=f"kafka://{kafka_single.bootstrap}")
    name = f"queue-events-{secrets.token_hex(4)}"
    async with kafka.admin(settings) as admin:
        await admin.create([Spec(name, 3, 1, {})])
    paced = [line(number * 0.01, number % 3, str(number).encode()) for number in range(60)]
    await feed(settings, paced, topic=name, speed=1.0)
    lines: list[Line] = []
    async with asyncio.timeout(WAIT_SECONDS):
        await capture(settings, lines.append, topic=name, stop=asyncio.Event(), since_seconds=60.0, limit=len(paced))
    assert [found.at for found in lines] == sorted(found.at for found in lines)
    assert {found.value for found in lines} == {sent.value for sent in paced}


def start(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from sf_healer.cli import main; main()", *arguments],
        env={"PATH": os.environ["PATH"], "SF_HEALER_BROKER_URL": settings.broker_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ------------------------------------------------------------------ the recorded captures


def test_every_recorded_capture_can_be_read(captures_dir: Path):
    files = sorted(captures_dir.rglob("*.jsonl.gz"))
    assert files
    for file in files:
        with gzip.open(file) as source:
            assert [found.at for found in read(source)], file


def test_a_made_up_capture_can_be_read(tmp_path: Path):
    made = generate_capture(0)
    with gzip.open(write_capture(tmp_path, "made-up", made)) as source:
        assert [found.at for found in read(source)] == [sent["at"] for sent in made.lines]
