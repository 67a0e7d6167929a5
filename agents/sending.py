"""Sends that count only when the broker has acknowledged them (acks=all). Nothing else lives here.

Faust's `topic.send` returns when the record is in the producer's buffer; a worker that acknowledged its event
then would lose the record with the process. A send that fails raises (aiokafka has retried it by then) and
the agent ends the process, so that the offset stays.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from faust.exceptions import ProducerSendError
from faust.types import RecordMetadata, TopicT


class Outgoing(NamedTuple):
    """One record to send; without a partition the key decides, as in Kafka's default partitioner."""

    topic: TopicT
    value: bytes | None
    partition: int | None = None
    key: bytes | None = None
    headers: dict[str, bytes] | None = None


async def acknowledged(records: Iterable[Outgoing]) -> list[RecordMetadata]:
    """Send records, in order per partition; returns when every one is acknowledged. Raises KafkaError."""
    pending = [await _send(record) for record in records]
    return list(await asyncio.gather(*pending))


async def _send(record: Outgoing) -> "asyncio.Future[RecordMetadata]":
    try:
        future: Any = await record.topic.send(
            key=record.key,
            value=record.value,
            partition=record.partition,
            headers=record.headers,
            key_serializer="raw",
            value_serializer="raw",
            force=True,  # now, not when the event's offset is committed
        )
    except ProducerSendError as wrapped:
        # Faust wraps what the client raises before the record leaves it, and nothing that comes later.
        raise wrapped.__cause__ or wrapped from wrapped
    return cast("asyncio.Future[RecordMetadata]", future)
