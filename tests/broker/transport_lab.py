"""Faust apps on the batching transport inside the test's own event loop, and the broker's side of the story."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faust.types import TP

from sf_healer.transport import Batch, BatchLimits, batched_topic, end_offsets, log_ends, positions
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

SECONDS = 30.0
"""How long anything may take on two shared cores."""


class Reader:
    """An app that reads one batched topic and keeps every batch; `hold` is awaited before each acknowledgement."""

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        topic: str,
        *,
        app_id: str | None = None,
        limits: BatchLimits | None = None,
        hold: Callable[[Batch], Awaitable[object]] | None = None,
        **options: Any,
    ) -> None:
        self.topic = topic
        self.batches: list[Batch] = []
        self.done: set[tuple[int, int]] = set()
        """(partition, offset) of every record of an acknowledged batch."""
        self.app = new_app(bootstrap, directory, app_id, **options)
        self.source = batched_topic(self.app, topic, limits=limits)

        @self.app.agent(self.source, name=f"read-{topic}")
        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                batch = event.value
                self.batches.append(batch)
                if hold is not None:
                    await hold(batch)
                self.done |= {(batch.partition, record.offset) for record in batch}
                event.ack()

    @property
    def records(self) -> list[tuple[int, int, bytes | None]]:
        return [(batch.partition, one.offset, one.value) for batch in self.batches for one in batch]

    def positions(self) -> dict[int, int]:
        return {tp.partition: position for tp, position in positions(self.app).items()}

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        ends = await end_offsets(self.app, [TP(self.topic, partition) for partition in partitions])
        return {tp.partition: end for tp, end in ends.items()}

    async def log_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        ends = await log_ends(self.app, [TP(self.topic, partition) for partition in partitions])
        return {tp.partition: end for tp, end in ends.items()}

    async def until_positions(self, wanted: dict[int, int]) -> None:
        async def reached() -> bool:
            return self.positions() == wanted

        await until_async(reached, f"positions {wanted}", seconds=SECONDS)


def new_app(bootstrap: str, directory: Path, app_id: str | None = None, **options: Any) -> faust.App:
    app_id = app_id or f"reader-{uuid.uuid4()}"
    return faust.App(
        app_id,
        **{
            "broker": f"batch://{bootstrap}",
            "store": "memory://",
            "datadir": directory / f"{app_id}-{uuid.uuid4()}",
            "web_enabled": False,
            "topic_disable_leader": True,
            "consumer_auto_offset_reset": "earliest",
            "broker_commit_interval": 0.2,
            "broker_session_timeout": 10.0,
            "broker_heartbeat_interval": 1.0,
            "stream_wait_empty": False,
            **options,
        },
    )


@asynccontextmanager
async def running(*readers: Reader | faust.App) -> AsyncIterator[None]:
    """Start the apps, one after the other, and stop those that still run at the end."""
    apps = [reader.app if isinstance(reader, Reader) else reader for reader in readers]
    try:
        for app in apps:
            app.finalize()
            await app.start()
        yield
    finally:
        for app in apps:
            await app.stop()


async def create_topic(
    bootstrap: str, *, partitions: int = 1, replicas: int = 1, name: str | None = None, **configs: str
) -> str:
    """Create a topic; dots in the names of `configs` are written as underscores."""
    name = name or f"transport-{uuid.uuid4()}"
    configs = {key.replace("_", "."): value for key, value in configs.items()}
    async with admin(bootstrap) as client:
        await client.create_topics([NewTopic(name, partitions, replicas, topic_configs=configs)])

        async def led() -> bool:
            [topic] = await client.describe_topics([name])
            return len(topic["partitions"]) == partitions and all(p["leader"] >= 0 for p in topic["partitions"])

        await until_async(led, f"topic {name}", seconds=SECONDS)
    return name


async def committed(bootstrap: str, app_id: str) -> dict[int, int]:
    """Return what the group committed, for a group that reads one topic."""
    async with admin(bootstrap) as client:
        offsets = await client.list_consumer_group_offsets(app_id)
    return {tp.partition: found.offset for tp, found in offsets.items() if found.offset >= 0}


async def until_committed(bootstrap: str, app_id: str, wanted: dict[int, int]) -> None:
    async def reached() -> bool:
        return await committed(bootstrap, app_id) == wanted

    await until_async(reached, f"committed offsets {wanted}", seconds=SECONDS)


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def producer(bootstrap: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def send(bootstrap: str, topic: str, values: Iterable[bytes], *, partitions: int = 1, **options: Any) -> None:
    """Send each value to the partitions in turn, and wait for all of them."""
    async with producer(bootstrap, **options) as client:
        sent = [await client.send(topic, value, partition=index % partitions) for index, value in enumerate(values)]
        for one in sent:
            await one
