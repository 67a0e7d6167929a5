"""What the broker is asked beside the fetches: ends of partitions, and which topic a name means now.

Both run on the consumer thread's loop, through its client, over a connection of their own: Kafka answers the
requests of one connection in order, so that a question behind a long fetch would wait for it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NoError,
    for_code,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields
from aiokafka.structs import TopicPartition
from faust.types import TP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from io import BytesIO

    from aiokafka.client import AIOKafkaClient

Answer = TypeVar("Answer")

CONNECTION: Final = "questions"
"""aiokafka keeps one connection for each node and connection group; its own two are 0 and 1."""

ANY_CONSUMER: Final = -1
NO_CONSUMER: Final = -3
"""Whoever is no consumer is told the end of the leader's log (docs/decisions/0029). -2 a follower answers as well."""

LATEST: Final = -1
READ_UNCOMMITTED: Final = 0
NO_LEADER: Final = -1

RETRY_SECONDS: Final = 0.1
"""As aiokafka's own retry backoff."""


class TopicIdentity(msgspec.Struct, frozen=True):
    """Which topic a name means: `topic_id` changes when the topic is deleted and created again."""

    topic_id: str
    """Kafka's UUID; `name:` and the topic's name where the broker has no ids (before 2.8, embedded ones)."""

    partitions: int


class Uuid(AbstractType[uuid.UUID]):  # type: ignore[misc]  # aiokafka is untyped
    """A type of the protocol that aiokafka does not have."""

    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        """Sixteen bytes, big-endian."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        """Read sixteen bytes."""
        return uuid.UUID(bytes=data.read(16))


NO_ID: Final = uuid.UUID(int=0)


class MetadataResponse_v10(Response):  # type: ignore[misc]  # noqa: N801 (as aiokafka names the others)
    """The first version with topic ids (KIP-516); aiokafka ends at 5."""

    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString()),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequest_v10(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks for topics by name."""

    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponse_v10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicMetadataRequest(Request[MetadataRequest_v4 | MetadataRequest_v10]):  # type: ignore[misc]
    """One topic's metadata, with its id where the broker knows version 10; never creates the topic."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(
        self, request_struct_class: type[MetadataRequest_v4 | MetadataRequest_v10]
    ) -> MetadataRequest_v4 | MetadataRequest_v10:
        """Build it in the version negotiated with the broker."""
        if request_struct_class is MetadataRequest_v10:
            return MetadataRequest_v10([(NO_ID, self._topic, {})], False, False, False, {})  # noqa: FBT003
        return MetadataRequest_v4([self._topic], False)  # noqa: FBT003


async def ask_end_offsets(client: AIOKafkaClient, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
    """Return the end of what a consumer may read of each partition, its high watermark.

    Open transactions count, whatever the consumer's isolation. Raises KafkaError.
    """
    wanted = list(tps)
    return await until_answered(client, lambda: _ends(client, wanted, ANY_CONSUMER), timeout_seconds)


async def ask_log_ends(client: AIOKafkaClient, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
    """Return the end of each partition's log: one past the last record that its leader took. Raises KafkaError."""
    wanted = list(tps)
    return await until_answered(client, lambda: _ends(client, wanted, NO_CONSUMER), timeout_seconds)


async def ask_topic_identity(client: AIOKafkaClient, topic: str, *, timeout_seconds: float) -> TopicIdentity:
    """Return what a broker says about a topic now. Raises KafkaError."""
    return await until_answered(client, lambda: _topic_identity(client, topic), timeout_seconds)


async def until_answered(
    client: AIOKafkaClient, ask: Callable[[], Awaitable[Answer]], timeout_seconds: float
) -> Answer:
    """Ask until there is an answer. Raises KafkaError: at once where asking again would not help."""
    last: KafkaError | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    return await ask()
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    last = error
                    if error.invalid_metadata:
                        client.force_metadata_update()
                    await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError:
        if last is not None:
            raise last from None
        raise KafkaTimeoutError(f"no answer within {timeout_seconds} s") from None


async def _ends(client: AIOKafkaClient, tps: list[TP], asked_by: int) -> dict[TP, int]:
    by_leader: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for topic, partition in tps:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader == NO_LEADER:
            raise LeaderNotAvailableError(f"{topic}:{partition}")
        by_leader[leader][topic].append((partition, LATEST))
    answers = await asyncio.gather(
        *(
            client.send(leader, OffsetRequest(asked_by, READ_UNCOMMITTED, list(topics.items())), group=CONNECTION)
            for leader, topics in by_leader.items()
        )
    )
    ends: dict[TP, int] = {}
    for answer in answers:
        for topic, partitions in answer.topics:
            for partition, error_code, _timestamp, offset in partitions:
                raise_for(error_code, f"{topic}:{partition}")
                ends[TP(topic, partition)] = offset
    return ends


async def _topic_identity(client: AIOKafkaClient, topic: str) -> TopicIdentity:
    answer: Any = await client.send(client.get_random_node(), TopicMetadataRequest(topic), group=CONNECTION)
    (found,) = answer.to_object()["topics"]
    raise_for(found["error_code"], topic)
    topic_id = found.get("topic_id", NO_ID)
    return TopicIdentity(f"name:{topic}" if topic_id == NO_ID else str(topic_id), len(found["partitions"]))


def raise_for(error_code: int, subject: str) -> None:
    """Raise the KafkaError that a broker's answer stands for, if it stands for one."""
    error = for_code(error_code)
    if error is not NoError:
        raise error(subject)
