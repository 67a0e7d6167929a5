"""The shape of the detector in small: batches in, one bundle a partition out, a table with a changelog."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Self

import msgspec

from sf_healer.transport import Batch, batched_topic
from tests.broker.transport_lab import SECONDS, create_topic, new_app, running, send
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from pathlib import Path

    import faust

PARTITIONS = 3
encode = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode


def partition_of(name: str) -> int:
    return int(name.rpartition("-")[2]) % PARTITIONS


class Pipeline:
    """Counts how often each name was sent, per name, in a Faust table."""

    def __init__(self, bootstrap: str, directory: Path, names: dict[str, str], options: dict[str, Any]) -> None:
        self.bootstrap, self.directory, self.names, self.options = bootstrap, directory, names, options

    @classmethod
    async def create(cls, bootstrap: str, directory: Path, **options: Any) -> Self:
        app_id = f"pipeline-{uuid.uuid4()}"
        names = {"app": app_id, "source": f"{app_id}-source", "bundles": f"{app_id}-bundles"}
        for name in (names["source"], names["bundles"], f"{app_id}-counts-changelog"):
            await create_topic(bootstrap, name=name, partitions=PARTITIONS)
        return cls(bootstrap, directory, names, options)

    def build(self) -> tuple[faust.App, Any]:
        app = new_app(
            self.bootstrap,
            self.directory,
            self.names["app"],
            topic_partitions=PARTITIONS,
            topic_allow_declare=False,
            table_standby_replicas=0,
            **self.options,
        )
        source = batched_topic(app, self.names["source"])
        bundles = batched_topic(app, self.names["bundles"])
        counts = app.Table("counts", partitions=PARTITIONS, key_type=bytes, value_type=bytes)

        @app.agent(source)
        async def combine(stream: Any) -> None:
            async for event in stream.noack().events():
                batch: Batch = event.value
                combined: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
                for record in batch:
                    name = (record.value or b"").decode()
                    there = combined[partition_of(name)]
                    there[name] = there.get(name, 0) + 1
                sent = [
                    await bundles.send(value=encode(list(entries.items())), partition=partition)
                    for partition, entries in enumerate(combined)
                    if entries
                ]
                await asyncio.gather(*sent)
                event.ack()

        @app.agent(bundles)
        async def fold(stream: Any) -> None:
            async for event in stream.events():
                for record in event.value:
                    for name, count in decode(record.value):
                        key = name.encode()
                        counts[key] = str(int(counts.get(key) or b"0") + count).encode()

        return app, counts

    async def counts_what_was_sent(self) -> None:
        names = [f"job-{number}" for number in range(30)]
        await send(self.bootstrap, self.names["source"], [name.encode() for name in names * 20], partitions=PARTITIONS)
        app, counts = self.build()
        async with running(app):
            await self._until(counts, dict.fromkeys(names, 20))

    async def comes_back_from_its_changelog(self) -> None:
        """Start again with an empty data directory (new_app makes one) and nothing new in the source."""
        app, counts = self.build()
        async with running(app):
            await self._until(counts, {f"job-{number}": 20 for number in range(30)})

    async def _until(self, counts: Any, wanted: dict[str, int]) -> None:
        async def counted() -> bool:
            return {key.decode(): int(value) for key, value in counts.items()} == wanted

        await until_async(counted, "the table", seconds=SECONDS)
