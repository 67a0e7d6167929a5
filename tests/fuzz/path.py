"""The path of a report, hostile or not, and the books that are kept of it.

The agents themselves, in Faust's test context, between the edges of tests/agents/recording.py: telemetry decodes,
names, combines and forwards; what it put on the evidence log goes to the sweeper, which folds it and stores. A record
is read again now and then, as after a rebalance. After every batch the books must balance, in the metrics too.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import msgspec
from faust.types import TP
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agents import control, inventory, sweeper, telemetry
from agents.forwarding import Forwarding
from sf_healer import topics
from sf_healer.app import settings
from sf_healer.core import commands, evidence, steps
from sf_healer.core.events import Malformed, decode
from sf_healer.core.evidence import Fact
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import ConventionIndex, Resolved
from sf_healer.core.partitioning import partition_of
from sf_healer.transport import Batch
from sf_healer.views.jobs import build_fleet, build_job
from sf_healer.views.pages.job import draw_job
from sf_healer.views.pages.jobs import draw_jobs
from sf_healer.views.pages.shell import Frame
from sf_healer.views.selection import Selection, select
from tables.jobs import _read_partition, hot
from tests.agents.recording import BROKER_EPOCH, Record, edges, is_acknowledged
from tests.core.shown import build_jobs
from tests.fuzz.mutation import Mutator

if TYPE_CHECKING:
    from types import TracebackType

    from tests.agents.recording import Sent
    from tests.fuzz.corpus import Corpus

SOURCE_PARTITIONS = 3
SETTLED_SECONDS = 60.0
DEAD_LETTER_BYTES = 64 * 1024
_LARGEST_BATCH = 800
#: A Job of a hostile name may be called as one of our reasons or kinds.
_LONGEST_WORD = 32
_READ_AGAIN_CHANCE = 0.05
_CHECKED_ONE_BY_ONE_CHANCE = 0.05
_MARK_CHANCE = 0.3
#: Broker time that passes between batches, in seconds: Jobs fall silent, feeds have gaps.
_PAUSES_SECONDS = (0.0, 0.0, 0.0, 1.0, 5.0, 9.0, 60.0, 400.0)


class Path:
    """One world: a fleet, a worker that owns everything, and a feed that is not to be trusted."""

    def __init__(self, corpus: Corpus, seed: str, *, by_convention: bool) -> None:
        self.mutator = Mutator(corpus, seed)
        self.sent = Counter()
        self._random = random.Random(f"{seed}/path")
        self._corpus = corpus
        self._by_convention = by_convention
        self._positions: dict[int, int] = dict.fromkeys(range(SOURCE_PARTITIONS), 0)
        self._last: dict[int, Batch] = {}
        self._evidence_offsets: Counter[int] = Counter()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.edge = self._stack.enter_context(edges())
        self.edge.own(*range(settings.partitions))
        if self._by_convention:
            inventory.names = ConventionIndex("stf")
            telemetry.forwarder = Forwarder(inventory.names, partitions=settings.partitions)
            telemetry.forwarding = Forwarding(telemetry.forwarder, telemetry._Faust(), mark_interval_seconds=1.0)
        inventory.first_list.set()
        contexts = [agent.test_context() for agent in (telemetry.telemetry, sweeper.sweeper, control.control)]
        self._telemetry, self._sweeper, self._control = [
            await self._stack.enter_async_context(context) for context in contexts
        ]
        self._began_at = _counted()
        if not self._by_convention:
            await self._tell_facts()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # ---- the feed

    async def feed(self, messages: int) -> None:
        """Send so many messages down the path, in batches, and see that the books balance."""
        fed = 0
        while fed < messages:
            self.edge.producer.passed_ms += int(1000 * self._random.choice(_PAUSES_SECONDS))
            batch = self._next_batch(min(messages - fed, 1 + int(self._random.random() * _LARGEST_BATCH)))
            fed += len(batch)
            await self._take(batch)
            if self._random.random() < _READ_AGAIN_CHANCE:
                await self._take_again(self._last[self._random.randrange(SOURCE_PARTITIONS) % len(self._last)])
            if self._random.random() < _MARK_CHANCE:
                await self._mark()
            if self._random.random() < _MARK_CHANCE:
                await self._speak_elsewhere()

    def _next_batch(self, records: int) -> Batch:
        partition = len(self._last) if len(self._last) < SOURCE_PARTITIONS else self._random.randrange(3)
        first, now_ms = self._positions[partition], int(BROKER_EPOCH * 1000) + self.edge.producer.passed_ms
        mutator = self.mutator
        made = [
            Record(
                first + number,
                mutator.timestamp(now_ms),
                mutator.message(),
                mutator.text() if number % 16 == 0 else None,
                ((mutator.text().decode(errors="replace"), mutator.text()),) if number % 32 == 0 else (),
            )
            for number in range(records)
        ]
        self._positions[partition] = first + records
        self.edge.consumer.ends[TP(settings.source_topic, partition)] = first + records
        self._last[partition] = _batch(settings.source_topic, partition, made)
        return self._last[partition]

    async def _take(self, batch: Batch) -> None:
        """Forward a batch and fold what came of it."""
        self.sent["records"] += len(batch)
        await _settled(self._telemetry, batch)
        self._check_letters(batch)
        self.edge.producer.sent, told = [], self.edge.producer.to(topics.EVIDENCE)
        await self._fold(told)
        self._check_books()

    async def _take_again(self, batch: Batch) -> None:
        """Forward and fold a batch once more: what it said is passed over, and no Job is another for it.

        By convention a name may mean another Job once more reports were read; then what it says is folded.
        """
        before, counted = _states(), _counted()
        await self._take(batch)
        if not self._by_convention:
            assert _states() == before, f"reading {batch!r} again changed a Job"
            assert _counted()["entries_folded"] == counted["entries_folded"], f"{batch!r} was folded again"

    async def _mark(self) -> None:
        self.edge.consumer.places = dict(self.edge.consumer.ends)
        await telemetry.forwarding.mark()
        self.edge.producer.sent, told = [], self.edge.producer.to(topics.EVIDENCE)
        await self._fold(told)

    async def _fold(self, told: list[Sent]) -> None:
        """Have the sweeper read records of the evidence log."""
        of_partition: defaultdict[int, list[Record]] = defaultdict(list)
        for record in told:
            of_partition[record.partition].append(Record(record.offset, int(record.at * 1000), record.value))
        for partition, records in of_partition.items():
            await _settled(self._sweeper, _batch(topics.EVIDENCE, partition, records))
        for record in self.edge.producer.to(topics.ACTIONS):
            assert not isinstance(commands.decode_action(record.value), commands.Unreadable), record.value
        self.edge.producer.sent = []

    async def _tell_facts(self) -> None:
        told: defaultdict[int, list[bytes]] = defaultdict(list)
        for known in self._corpus.facts:
            fact = msgspec.structs.replace(known, created_at=BROKER_EPOCH - 60.0)
            self.edge.names.put(fact, now=BROKER_EPOCH)
            told[partition_of(fact.key, settings.partitions)].append(evidence.encode(Fact(fact)))
        for partition, values in told.items():
            records = [Record(number, int(BROKER_EPOCH * 1000), value) for number, value in enumerate(values)]
            await _settled(self._sweeper, _batch(topics.EVIDENCE, partition, records))

    async def _speak_elsewhere(self) -> None:
        """Say hostile things on the other topics that are read."""
        values = [self.mutator.message() for _ in range(8)]
        values += [b'{"queue_id": ' + self.mutator._value() + b', "command": "stop"}' for _ in range(4)]
        records = [Record(number, 0, value) for number, value in enumerate(values)]
        await _settled(self._control, _batch(settings.control_topic, 0, records))
        self.edge.producer.sent, told = [], self.edge.producer.to(topics.EVIDENCE)
        await self._fold(told)
        for value in values:
            for read in (commands.decode_action, commands.decode_control, commands.decode_outcome, steps.decode):
                read(value)

    # ---- the books

    def _check_letters(self, batch: Batch) -> None:
        """See that every dead letter is a record of the batch, whole, and that no other record should be one."""
        records = {record.offset: record for record in batch.records}
        letters = {}
        for letter in self.edge.producer.to(topics.DEAD_LETTERS):
            offset = int(letter.headers["sf-healer-source-offset"])
            original = records[offset].value or b""
            assert (letter.value or b"") == original[:DEAD_LETTER_BYTES]
            assert letter.headers["sf-healer-sha256"] == hashlib.sha256(original).hexdigest().encode()
            assert letter.headers["sf-healer-source-partition"] == str(batch.partition).encode()
            assert offset not in letters, "buried twice"
            letters[offset] = letter.headers["sf-healer-reason"].decode()
        self.sent["dead letters"] += len(letters)
        if self._random.random() < _CHECKED_ONE_BY_ONE_CHANCE:
            one_by_one = _rejected_one_by_one(batch)
            differing = {offset for offset, _ in letters.items() ^ one_by_one.items()}
            # How deep is too deep depends on how deep the reader stands in calls.
            shallow = {offset for offset in differing if not is_nested(records[offset].value or b"")}
            assert not shallow, {offset: (letters.get(offset), one_by_one.get(offset)) for offset in shallow}

    def _check_books(self) -> None:
        """See that each record was counted once by what became of it, and each entry of evidence too."""
        counted = {name: count - self._began_at[name] for name, count in _counted().items()}
        assert counted["in"] == self.sent["records"], counted
        assert counted["in"] == counted["folded"] + counted["dead_lettered"] + counted["ignored"], counted
        assert counted["dead_lettered"] == self.sent["dead letters"], counted
        assert counted["entries"] == counted["entries_folded"] + counted["entries_passed_over"], counted

    async def check_what_is_shown(self) -> None:
        """See that what people and machines are shown can be drawn, and that the state comes back from its table."""
        partitions = list(hot.values())
        rows = build_jobs(partitions)
        alone = [build_job(partition, state) for partition in partitions for state in partition.jobs.values()]
        for shown in (rows, build_fleet(partitions), *alone):
            msgspec.json.encode(shown)
        part = {**msgspec.structs.asdict(select(rows, Selection())), "first": 1, "before": None, "after": None}
        frame = Frame(BROKER_EPOCH, "/jobs/?format=json")
        for page in (draw_jobs(part, Selection(), frame=frame), *(draw_job(job, {}, frame=frame) for job in alone)):
            assert page.count("<script") == 1, "ours, and none that was smuggled in"
        for row in rows:
            assert set(row["name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"), row["name"]
        exposed = generate_latest().decode()
        names = {row["name"] for row in rows if len(row["name"]) > _LONGEST_WORD}
        for family in text_string_to_metric_families(exposed):
            for sample in family.samples:
                assert names.isdisjoint(sample.labels.values()), sample
        for number, partition in hot.items():
            again = await _read_partition(number)
            assert again.jobs.keys() == partition.jobs.keys()
            build_jobs([again])


def _rejected_one_by_one(batch: Batch) -> dict[int, str]:
    """Say which records are evidence of nothing, each looked at for itself."""
    rejected = {}
    for record in batch.records:
        decoded = decode(record.value)
        if isinstance(decoded, Malformed):
            rejected[record.offset] = decoded.reason.value
            continue
        resolution = inventory.names.resolve(decoded)
        if not isinstance(resolution, Resolved):
            rejected[record.offset] = f"unresolved_{resolution.reason}"
    return rejected


async def _settled(agent: Any, batch: Batch) -> None:
    """Hand a batch to an agent and wait until it is acknowledged; raises what the agent raised."""
    event = await agent.put(batch, partition=batch.partition, wait=False)
    deadline = time.monotonic() + SETTLED_SECONDS
    while not is_acknowledged(event):
        if agent._crash_reason:
            raise agent._crash_reason
        assert time.monotonic() < deadline, f"{batch!r} was not acknowledged"
        await asyncio.sleep(0)


def _batch(topic: str, partition: int, records: list[Record]) -> Batch:
    return Batch(
        TP(topic, partition),
        records,
        start_position=records[0].offset,
        next_position=records[-1].offset + 1,
        size_bytes=sum(len(record.value or b"") for record in records),
    )


def is_nested(value: bytes) -> bool:
    return b"[" * 8 in value or b'{"a":' * 8 in value


def _states() -> dict[str, bytes]:
    states = (state for partition in hot.values() for state in partition.jobs.values())
    return {state.key: msgspec.msgpack.encode(state) for state in states}


#: The names of the books and the metrics they are kept in.
_BOOKS = {
    "in": "sf_healer_source_records_total",
    "folded": "sf_healer_source_records_folded_total",
    "dead_lettered": "sf_healer_source_records_dead_lettered_total",
    "ignored": "sf_healer_source_records_ignored_total",
    "entries": "sf_healer_evidence_entries_total",
    "entries_folded": "sf_healer_evidence_entries_folded_total",
    "entries_passed_over": "sf_healer_evidence_entries_passed_over_total",
}


def _counted() -> dict[str, float]:
    """Read the metrics as a scrape would; those with labels are summed up."""
    found: dict[str, float] = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return {book: found.get(name, 0.0) for book, name in _BOOKS.items()}
