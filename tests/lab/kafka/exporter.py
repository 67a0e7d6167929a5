"""What Strimzi's kafka_exporter tells Prometheus of a cluster, by its names and labels: what our engines ask for.

`python -m tests.lab.kafka.exporter --bootstrap HOST:PORT --port PORT`. As with the real one a partition whose leader
does not answer, or a group whose coordinator does not, has no series for the moment. Source of the names:
danielqsj/kafka_exporter, README.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from tests.lab.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

LOOK_SECONDS = 1.0
#: A broker that has died does not answer; it is not waited for longer than this.
ANSWER_SECONDS = 2.0
#: What was seen last is told no longer than this.
STALE_SECONDS = 10.0
TROUBLE = (KafkaError, OSError, TimeoutError)
_BROKERS_ASKED = 8  # with one of three dead, all of them the dead one: 1 in 6,561

Row = dict[str, str]


class Page:
    """One page of metrics in the making."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}

    def tell(self, name: str, value: float, **labels: object) -> None:
        """Put a sample on the page."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, name, list(labels), registry=self._registry)
        told = {key: str(each) for key, each in labels.items()}
        (self._gauges[name].labels(**told) if told else self._gauges[name]).set(value)

    def text(self) -> bytes:
        """Give the page."""
        return generate_latest(self._registry)


class Exporter:
    """Looks at a cluster again and again; `serve` answers with what was seen last."""

    def __init__(self, bootstrap: str) -> None:
        patience = int(ANSWER_SECONDS * 1000)
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=patience)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, request_timeout_ms=patience)
        self._text, self._seen_at = b"", float("-inf")

    async def follow(self) -> None:
        """Look for ever."""
        await self._admin.start()
        await self._consumer.start()
        while True:
            began = time.monotonic()
            try:
                self._text, self._seen_at = await self._look(), time.monotonic()
            except TROUBLE as problem:
                print(f"nothing seen: {problem!r}", flush=True)  # noqa: T201  its log
            await asyncio.sleep(max(0.0, began + LOOK_SECONDS - time.monotonic()))

    async def serve(self, _request: web.Request) -> web.Response:
        """Answer /metrics; 503 when the last look was too long ago."""
        if time.monotonic() - self._seen_at > STALE_SECONDS:
            return web.Response(status=503)
        return web.Response(body=self._text, content_type="text/plain")

    async def _look(self) -> bytes:
        page = Page()
        brokers = [each["node_id"] for each in (await _of_any_broker(self._admin.describe_cluster))["brokers"]]
        page.tell("kafka_brokers", len(brokers))
        topics = await _of_any_broker(self._admin.describe_topics)
        by_leader: dict[int, list[TopicPartition]] = {}
        for topic in topics:
            page.tell("kafka_topic_partitions", len(topic["partitions"]), topic=topic["topic"])
            for each in topic["partitions"]:
                place = TopicPartition(topic["topic"], each["partition"])
                _tell_replicas(page, place, each)
                by_leader.setdefault(each["leader"], []).append(place)
        ends = await self._ends(by_leader)
        for place, end in ends.items():
            page.tell("kafka_topic_partition_current_offset", end, topic=place.topic, partition=place.partition)
        for group, committed in (await self._groups(brokers)).items():
            for place, offset in committed.items():
                labels = {"consumergroup": group, "topic": place.topic, "partition": place.partition}
                page.tell("kafka_consumergroup_current_offset", offset, **labels)
                if place in ends:
                    page.tell("kafka_consumergroup_lag", max(0, ends[place] - offset), **labels)
        return page.text()

    async def _ends(self, by_leader: dict[int, list[TopicPartition]]) -> dict[TopicPartition, int]:
        led = [places for leader, places in by_leader.items() if leader >= 0]
        answers = await _answers(self._consumer.end_offsets(places) for places in led)
        return {place: end for answer in answers for place, end in (answer or {}).items()}

    async def _groups(self, brokers: list[int]) -> dict[str, dict[TopicPartition, int]]:
        listed = await _answers(self._admin.list_consumer_groups([broker]) for broker in brokers)
        names = sorted({name for groups in listed for name, *_ in groups or ()})
        answers = await _answers(self._admin.list_consumer_group_offsets(name) for name in names)
        return {
            name: {place: told.offset for place, told in (answer or {}).items() if told.offset >= 0}
            for name, answer in zip(names, answers, strict=True)
        }


def _tell_replicas(page: Page, place: TopicPartition, told: dict[str, Any]) -> None:
    labels = {"topic": place.topic, "partition": place.partition}
    replicas, in_sync = len(told["replicas"]), len(told["isr"])
    page.tell("kafka_topic_partition_leader", told["leader"], **labels)
    page.tell("kafka_topic_partition_replicas", replicas, **labels)
    page.tell("kafka_topic_partition_in_sync_replica", in_sync, **labels)
    page.tell("kafka_topic_partition_under_replicated_partition", int(in_sync < replicas), **labels)


async def _of_any_broker(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask again: the client chooses a broker by chance, and one that has died is among them for a while."""
    for attempt in range(_BROKERS_ASKED):
        try:
            return await asyncio.wait_for(ask(), ANSWER_SECONDS)
        except TROUBLE:
            if attempt + 1 == _BROKERS_ASKED:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _answers(asked: Iterable[Awaitable[Any]]) -> list[Any]:
    """Give what was answered in time, None where nothing was; a fault of ours is raised."""
    in_time = [asyncio.wait_for(each, ANSWER_SECONDS) for each in asked]
    answers = await asyncio.gather(*in_time, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, TROUBLE):
            raise answer
    return [None if isinstance(answer, BaseException) else answer for answer in answers]


async def _run(bootstrap: str, port: int) -> None:
    exporter = Exporter(bootstrap)
    app = web.Application()
    app.router.add_get("/metrics", exporter.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    await exporter.follow()


@click.command()
@click.option("--bootstrap", required=True)
@click.option("--port", type=int, required=True)
def main(*, bootstrap: str, port: int) -> None:
    """Serve the metrics of a cluster until killed."""
    asyncio.run(_run(bootstrap, port))


if __name__ == "__main__":
    main()
