"""Reports in, evidence out: the Faust side of agents/forwarding.py, which has the order of things."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP, StreamT

from agents import inventory, topics
from agents.batches import BatchEvent, Inbox, side_by_side, unacknowledged
from agents.dead_letters import dead_letter
from agents.forwarding import Addressed, Appended, Forwarding, Looked, SourceBatch
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core.combine import Combined, Rejected
from sf_healer.core.events import Kind, Report
from sf_healer.core.facts import JobFact
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.marks import Ends
from sf_healer.transport import (
    Batch,
    OffsetReset,
    TopicIdentity,
    end_offsets,
    handed_over,
    log_ends,
    on_reset,
    positions,
    topic_identity,
)

log = structlog.get_logger(__name__)


class _Faust:
    """The ports of forwarding on this app's consumer and topics."""

    def clock(self) -> float:
        return time.monotonic()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def positions(self) -> dict[int, int]:
        return {tp.partition: at for tp, at in positions(app).items() if tp.topic == settings.source_topic}

    def handed_over(self, source_partition: int) -> int:
        return handed_over(app, TP(settings.source_topic, source_partition))

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        tps = [TP(settings.source_topic, partition) for partition in source_partitions]
        of_logs = await log_ends(app, tps)
        readable = await end_offsets(app, tps)
        return {tp.partition: Ends(of_logs[tp], readable[tp]) for tp in tps}

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        log.warning("tail_lost", partition=source_partition, lost=offsets)

    async def identity(self, *, max_age_seconds: float) -> TopicIdentity:
        return await topic_identity(app, settings.source_topic, max_age_seconds=max_age_seconds)

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        sent = await acknowledged(Outgoing(topics.evidence_log, record.value, record.partition) for record in records)
        return [Appended(batch.partition, batch.timestamp / 1000) for batch in sent]

    async def bury(self, batch: SourceBatch, rejected: Sequence[Rejected]) -> None:
        await acknowledged(
            dead_letter(topics.dead_letters, settings.source_topic, batch.partition, reject) for reject in rejected
        )

    async def look_again(self, reports: Sequence[Report]) -> Looked:
        return await inventory.look_again(reports)

    def take_assumed(self) -> list[JobFact]:
        return inventory.take_assumed()


forwarder = Forwarder(inventory.names, partitions=settings.partitions)
forwarding = Forwarding(forwarder, _Faust(), mark_interval_seconds=settings.mark_interval_seconds)


#: How many times marks were made, or refused by the broker; for the watchdog.
marks_tried = 0


@app.agent(topics.reports)
async def telemetry(stream: StreamT[Batch]) -> None:
    """Forward every batch of reports."""
    await inventory.first_list.wait()
    await side_by_side(unacknowledged(stream), _forward, partition_of=lambda event: event.value.partition)


async def _forward(event: BatchEvent, inbox: Inbox[BatchEvent]) -> None:
    taken, read = [event], len(event.value)

    async def following(seconds: float) -> Batch | None:
        nonlocal read
        found = await inbox.next_within(seconds, wanted=lambda each: each.value.follows(taken[-1].value))
        if found is None:
            return None
        taken.append(found)
        read += len(found.value)
        return found.value

    await inventory.remember_stored()
    _count(await forwarding.forward(event.value, following), read=read)
    for each in taken:
        each.ack()


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def mark_loop() -> None:
    """Mark once each interval. A broker that does not answer delays marks, and with them every verdict."""
    global marks_tried  # noqa: PLW0603  one loop, one count
    on_reset(app, _note_reset)
    while not app.should_stop:
        await app.sleep(settings.mark_interval_seconds)
        if app.rebalancing or app.in_recovery:
            continue
        try:
            metrics.MARKS.inc(await forwarding.mark())
        except KafkaError as error:
            metrics.MARK_FAILURES.inc()
            log.warning("mark_failed", error=str(error) or type(error).__name__)
        marks_tried += 1


@app.on_partitions_assigned.connect  # type: ignore[arg-type]  # it asks for a name that it never passes by
async def _note_assignment(_app: Any, assigned: set[TP], **_: Any) -> None:
    """Ask again which topic is read: it may have been recreated, and then no offset of ours is out of range."""
    if any(tp.topic == settings.source_topic for tp in assigned):
        forwarder.assigned()


def _note_reset(reset: OffsetReset) -> None:
    """Remember that the source's retention overtook us: what lies between is a feed gap."""
    if reset.tp.topic == settings.source_topic:
        forwarder.reset(reset.tp.partition, from_position=reset.from_position, to_position=reset.to_position)
        log.warning("offset_reset", partition=reset.tp.partition, lost=reset.to_position - reset.from_position)


def _count(combined: Combined, *, read: int) -> None:
    """Count each record of the batches once as read, and once as what became of it."""
    metrics.SOURCE_RECORDS.inc(read)
    metrics.SOURCE_RECORDS_FOLDED.inc(combined.folded)
    metrics.SOURCE_RECORDS_DEAD_LETTERED.inc(len(combined.rejected))
    for reason, count in combined.ignored.items():
        metrics.SOURCE_RECORDS_IGNORED.labels(reason=reason).inc(count)
    for kind in Kind:
        if combined.reports[kind]:
            metrics.REPORTS.labels(kind=kind.name.lower()).inc(combined.reports[kind])
    for reject in combined.rejected:
        metrics.DEAD_LETTERS.labels(reason=reject.reason).inc()
    metrics.EVIDENCE_RECORDS.inc(len(combined.bundles))
    entries = sum(bundle.size for bundle in combined.bundles.values())
    metrics.EVIDENCE_ENTRIES.inc(entries)
