"""Sends that count only when the broker has acknowledged them (acks=all). Nothing else lives here.

Faust's `topic.send` returns when the record is in the producer's buffer; a worker that acknowledged its event
then would lose the record with the process. A send that fails raises (aiokafka has retried it by then) and
the agent ends the process, so that the offset stays.
"""

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from faust.types import TopicT

from sf_healer.transport import Appended, ToSend, send_together


class Outgoing(NamedTuple):
    """One record to send."""

    topic: TopicT
    value: bytes | None
    partition: int
    key: bytes | None = None
    headers: dict[str, bytes] | None = None


async def acknowledged(records: Iterable[Outgoing]) -> list[Appended]:
    """Send records, in order per partition; returns when every one is acknowledged. Raises KafkaError.

    What comes back is in the order of the partitions' first records, one for each batch that went to the broker.
    """
    together: dict[tuple[TopicT, int], list[ToSend]] = {}
    for record in records:
        headers = list(record.headers.items()) if record.headers else None
        together.setdefault((record.topic, record.partition), []).append(ToSend(record.key, record.value, headers))
    pending = [
        await send_together(topic.app, topic.get_topic_name(), partition, group)
        for (topic, partition), group in together.items()
    ]
    return list(chain.from_iterable(await asyncio.gather(*pending)))
