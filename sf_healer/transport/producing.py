"""The producer's side: records of one partition that belong together go to the broker in as few batches as fit.

Faust's `topic.send` makes a message, two futures and several calls of each record, some 50 µs; a record appended to
a batch costs one. For what an event causes in one go: facts, changelog records, bundles.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from aiokafka.errors import MessageSizeTooLargeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from aiokafka import AIOKafkaProducer
    from faust.transport.drivers import aiokafka as driver
    from faust.types import AppT


class ToSend(NamedTuple):
    """One record for a partition that is named apart."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


class Appended(msgspec.Struct, frozen=True):
    """Where and when the broker appended records that went to it together: consecutive ones of one partition."""

    partition: int
    offset: int
    """Of the first of them."""
    count: int
    timestamp: int
    """Milliseconds since the epoch: by the broker's clock under LogAppendTime, else by ours when the last was taken."""


async def send_together(app: AppT, topic: str, partition: int, records: Iterable[ToSend]) -> Awaitable[list[Appended]]:
    """Hand records of one partition over in as few batches as they fit in; returns what awaits the broker.

    Their order is kept, also towards what was sent to that partition before. Once what is returned is done, the
    broker has acknowledged all of them as `producer_acks` says; it tells so of each batch. Raises KafkaError at once
    where the client does not take them (no such partition, too large, no room in time), and when awaited where the
    broker does not; the first ones may have arrived then.

    Of a producer that has started, nobody else has a turn before a batch that there is room for is handed over. So what
    is sent to several partitions, one after the other, goes to each broker in one request.
    """
    producer = cast("driver.Producer", app.producer)
    if not producer.started:  # asked each time, Faust would give all others three turns (mode's `stampede`)
        await app.maybe_start_producer()
    client = producer._ensure_producer()  # noqa: SLF001  Faust has no door to it
    limit = producer.max_request_size
    sent: list[Awaitable[Appended]] = []
    filling = _Filling(client)
    for record in records:
        _refuse_too_large(topic, record, limit)
        if not filling.takes(record):
            sent.append(await filling.hand_over(topic, partition))
            filling = _Filling(client)
            filling.takes(record)
    if filling.count:
        sent.append(await filling.hand_over(topic, partition))
    return _all_of(sent)


class _Filling:
    """A batch that is being filled."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._batch = producer.create_batch()
        self.count = 0
        self._taken_at = 0  # the newest, milliseconds by our clock

    def takes(self, record: ToSend) -> bool:
        """Append a record; False: there is no room for it. The first one always has room."""
        appended = self._batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        if appended is None:
            return False
        self.count += 1
        self._taken_at = appended.timestamp
        return True

    async def hand_over(self, topic: str, partition: int) -> Awaitable[Appended]:
        """Queue the batch behind those of its partition; gives what waits for the broker."""
        self._batch.close()  # else a record sent apart could come in between
        delivery: Any = await self._producer.send_batch(self._batch, topic, partition=partition)
        return asyncio.ensure_future(self._told(delivery))

    async def _told(self, delivery: Awaitable[Any]) -> Appended:
        first = await delivery
        timestamp = self._taken_at if first.timestamp == -1 else first.timestamp
        return Appended(first.partition, first.offset, self.count, timestamp)


async def _all_of(sent: Iterable[Awaitable[Appended]]) -> list[Appended]:
    return await asyncio.gather(*sent)


def _refuse_too_large(topic: str, record: ToSend, limit: int) -> None:
    size = len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(len(name) + len(value) for name, value in record.headers)
    if size > limit:
        raise MessageSizeTooLargeError(f"{size} bytes to {topic}, where {limit} may be sent")
