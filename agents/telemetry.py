"""Reports in, evidence out: decode, name the Job, combine per batch, route; and prove how far that has come.

The agent forwards a batch and waits for the broker's acknowledgement before it takes the next, so within a
source partition nothing overtakes. The marks loop claims W for everything below E (core/marks.py has the rule).
"""

import hashlib
import time

import structlog
from aiokafka.errors import KafkaError
from faust.types import StreamT

from agents import inventory, topics
from agents.batches import unacknowledged
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import evidence
from sf_healer.core.combine import Combined, Rejected
from sf_healer.core.events import Kind
from sf_healer.core.forwarder import Forwarder
from sf_healer.transport import Batch, OffsetReset, end_offsets, on_reset, positions, topic_identity

log = structlog.get_logger(__name__)

DEAD_LETTER_BYTES = 64 * 1024
#: A mark names the topic's id and partition count; metadata older than this may name a topic that is gone.
IDENTITY_AGE_SECONDS = 10.0
_UNRESOLVED = "unresolved_"


forwarder = Forwarder(inventory.names, partitions=settings.partitions)


async def forward(batch: Batch) -> None:
    """Put everything a batch says on the log; returns when all of it is acknowledged."""
    if not forwarder.topic_id:
        forwarder.topic_id = (await topic_identity(app, batch.topic, max_age_seconds=0.0)).topic_id
    combined = forwarder.combine(batch.records, batch.partition)
    unknown = any(reject.reason.startswith(_UNRESOLVED) for reject in combined.rejected)
    if unknown and await inventory.look_again():
        combined = forwarder.combine(batch.records, batch.partition)
    facts = [inventory.fact_record(fact) for fact in inventory.take_assumed()]
    bundles = [
        Outgoing(topics.evidence_log, evidence.encode(bundle), partition)
        for partition, bundle in combined.bundles.items()
    ]
    await _send([*facts, *bundles])
    await acknowledged(dead_letter(batch, reject) for reject in combined.rejected)
    _count(combined)


async def mark() -> None:
    """Note W and the end of every source partition of ours, and claim what may be claimed by now."""
    tps = [tp for tp in positions(app) if tp.topic == settings.source_topic]
    if not tps:
        return
    identity = await topic_identity(app, settings.source_topic, max_age_seconds=IDENTITY_AGE_SECONDS)
    forwarder.topic_id = identity.topic_id
    stale = forwarder.stale(now=time.monotonic(), interval=settings.mark_interval_seconds)
    await _send([Outgoing(topics.evidence_log, evidence.EMPTY, partition) for partition in stale])
    w = forwarder.w()
    ends = await end_offsets(app, tps)
    forwarder.note_ends({tp.partition: ends[tp] for tp in tps}, w, now=time.monotonic())
    reached = {tp.partition: at for tp, at in positions(app).items() if tp in tps}
    marks = forwarder.claims(reached, identity.partitions)
    await _send([Outgoing(topics.evidence_log, evidence.encode(mark), partition) for partition, mark in marks.items()])
    forwarder.claimed(marks.values())
    metrics.MARKS.inc(len(marks))


async def _send(records: list[Outgoing]) -> None:
    """Send evidence and note the broker's time of it, per evidence partition."""
    sent_at = time.monotonic()
    for metadata in await acknowledged(records):
        assert metadata.timestamp is not None
        forwarder.acknowledged(metadata.partition, appended_at=metadata.timestamp / 1000, sent_at=sent_at)


@app.agent(topics.reports)
async def telemetry(stream: StreamT[Batch]) -> None:
    """Forward every batch of reports."""
    await inventory.first_list.wait()
    async for event in unacknowledged(stream):
        await forward(event.value)
        event.ack()


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def mark_loop() -> None:
    """Mark once each interval. A broker that does not answer delays marks, and with them every verdict."""
    on_reset(app, _note_reset)
    while not app.should_stop:
        await app.sleep(settings.mark_interval_seconds)
        if app.rebalancing or app.in_recovery:
            continue
        try:
            await mark()
        except KafkaError as error:
            metrics.MARK_FAILURES.inc()
            log.warning("mark_failed", error=str(error) or type(error).__name__)


def _note_reset(reset: OffsetReset) -> None:
    """Remember that the source's retention overtook us: what lies between is a feed gap."""
    if reset.tp.topic == settings.source_topic:
        forwarder.reset(reset.tp.partition, from_position=reset.from_position, to_position=reset.to_position)
        log.warning("offset_reset", partition=reset.tp.partition, lost=reset.to_position - reset.from_position)


def dead_letter(batch: Batch, reject: Rejected) -> Outgoing:
    """Address a message that is evidence of nothing to the dead letters: its bytes, and why and whence."""
    value = reject.record.value
    headers = {
        "sf-healer-reason": reject.reason.encode(),
        "sf-healer-source-topic": batch.topic.encode(),
        "sf-healer-source-partition": str(batch.partition).encode(),
        "sf-healer-source-offset": str(reject.record.offset).encode(),
        "sf-healer-original-size": str(len(value) if value is not None else 0).encode(),
        "sf-healer-sha256": hashlib.sha256(value or b"").hexdigest().encode(),
    }
    kept = value if value is None else value[:DEAD_LETTER_BYTES]
    return Outgoing(topics.dead_letters, kept, partition=0, headers=headers)


def _count(combined: Combined) -> None:
    for kind in Kind:
        if combined.reports[kind]:
            metrics.REPORTS.labels(kind=kind.name.lower()).inc(combined.reports[kind])
    for reject in combined.rejected:
        metrics.DEAD_LETTERS.labels(reason=reject.reason).inc()
    metrics.EVIDENCE_RECORDS.inc(len(combined.bundles))
