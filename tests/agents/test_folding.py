"""What agents/folding.py does between the records of a batch."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from agents.folding import YIELD_EVERY, fold
from sf_healer.core import evidence, policy
from sf_healer.core.combine import Rejected
from sf_healer.core.evidence import Beat, Bundle
from sf_healer.core.partition import Changes, Effect, Partition
from sf_healer.core.watermark import Advance


class Record(NamedTuple):
    offset: int
    timestamp: int
    value: bytes


class Batch:
    partition = 0

    def __init__(self, *entries: Bundle) -> None:
        self.records = [Record(offset, 1_000, evidence.encode(entry)) for offset, entry in enumerate(entries)]
        self.last_offset = len(entries) - 1
        self.log_end = len(entries)


class Ports:
    """One evidence partition, in memory."""

    def __init__(self) -> None:
        self.partition = Partition(
            0, partitions=1, policies=policy.parse(""), window_seconds=5.0, feed_gap_seconds=60.0
        )
        self.buried: list[Rejected] = []

    def hot(self, _number: int) -> Partition | None:
        return self.partition

    async def command(self, effects: Sequence[Effect]) -> None:
        assert not effects

    async def bury(self, _batch: Any, reject: Rejected) -> None:
        self.buried.append(reject)

    async def store(self, _number: int, _changes: Changes, _offset: int) -> None:
        pass

    def advanced(self, _partition: Partition, _advance: Advance) -> None:
        pass

    def began_anew(self, _partition: Partition) -> None:
        pass


def bundle(beats: int, *, first: int) -> Bundle:
    return Bundle("t", 0, tuple(Beat(f"stf/{n}", 1.0, n, -1) for n in range(first, first + beats)), ())


async def turns_of_others_while(batch: Batch) -> int:
    """Fold a batch, and count how often another task had its turn meanwhile."""
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ports = Ports()
    task = asyncio.create_task(another())
    await fold(batch, ports)
    task.cancel()
    assert len(ports.partition.jobs) == sum(len(evidence.decode(record.value).beats) for record in batch.records)
    return turns


async def test_others_have_their_turn_after_so_many_beats_however_few_records_they_are_in() -> None:
    each = YIELD_EVERY - 1
    few = await turns_of_others_while(Batch(bundle(3, first=0), bundle(3, first=3)))
    many = await turns_of_others_while(Batch(*(bundle(each, first=number * each) for number in range(5))))
    assert many - few == 5


async def test_others_have_their_turn_after_so_many_records_that_say_nothing() -> None:
    few = await turns_of_others_while(Batch(bundle(0, first=0)))
    assert await turns_of_others_while(Batch(*[bundle(0, first=0)] * 3 * YIELD_EVERY)) - few == 3
