"""Reports in, evidence out: decode, name the Job, combine per batch, route; and prove how far that has come.

The agent forwards a batch and waits for the broker's acknowledgement before it takes the next, so within a
source partition nothing overtakes. The marks loop claims W for everything below E (core/marks.py has the rule).
"""

import hashlib
import time
from collections import defaultdict

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from agents import inventory, topics
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import evidence
from sf_healer.core.combine import Combined, Combiner, Rejected
from sf_healer.core.events import Kind
from sf_healer.core.marks import SourceMarks
from sf_healer.transport import Batch, OffsetReset, end_offsets, on_reset, positions, topic_identity

log = structlog.get_logger(__name__)

DEAD_LETTER_BYTES = 64 * 1024
#: A mark names the topic's id and partition count; metadata older than this may name a topic that is gone.
IDENTITY_AGE_SECONDS = 10.0
_UNRESOLVED = "unresolved_"


class Forwarder:
    """What this worker has put on the evidence log, and what it may claim about it."""

    def __init__(self) -> None:
        self.combiner = Combiner(inventory.names, settings.partitions)
        self.source_marks: dict[int, SourceMarks] = defaultdict(SourceMarks)
        self.resets: set[int] = set()
        self.topic_id = ""
        # Per evidence partition: the broker's time of our newest acknowledged record, and our monotonic clock
        # when it was sent (before the broker's time, so adding what has passed since gives an upper bound).
        self._w: dict[int, tuple[float, float]] = {}

    async def forward(self, batch: Batch) -> None:
        """Put everything a batch says on the log; returns when all of it is acknowledged."""
        if not self.topic_id:
            self.topic_id = (await topic_identity(app, batch.topic, max_age_seconds=0.0)).topic_id
        combined = self._combine(batch)
        if any(reject.reason.startswith(_UNRESOLVED) for reject in combined.rejected) and (
            await inventory.look_again()
        ):
            combined = self._combine(batch)
        facts = [inventory.fact_record(fact) for fact in inventory.take_assumed()]
        bundles = [
            Outgoing(topics.evidence_log, evidence.encode(bundle), partition)
            for partition, bundle in combined.bundles.items()
        ]
        await self.send([*facts, *bundles])
        await acknowledged(dead_letter(batch, reject) for reject in combined.rejected)
        _count(combined)

    def _combine(self, batch: Batch) -> Combined:
        return self.combiner.combine(
            batch.records,
            topic_id=self.topic_id,
            source_partition=batch.partition,
            marks=self.source_marks[batch.partition],
        )

    async def send(self, records: list[Outgoing]) -> None:
        """Send evidence and remember the broker's time of it, per evidence partition."""
        sent_at = time.monotonic()
        for metadata in await acknowledged(records):
            assert metadata.timestamp is not None
            self._remember(metadata.partition, metadata.timestamp / 1000, sent_at)

    def _remember(self, partition: int, appended_at: float, sent_at: float) -> None:
        known = self._w.get(partition, (0.0, 0.0))
        self._w[partition] = max(known, (appended_at, sent_at))

    async def mark(self) -> None:
        """Note W and E for every source partition of ours, and claim what may be claimed by now."""
        owned = positions(app)
        tps = [tp for tp in owned if tp.topic == settings.source_topic]
        if not tps:
            return
        identity = await topic_identity(app, settings.source_topic, max_age_seconds=IDENTITY_AGE_SECONDS)
        self.topic_id = identity.topic_id
        await self._refresh_w()
        w = {partition: appended_at for partition, (appended_at, _) in self._w.items()}
        not_before = min(w.values())
        ends = await end_offsets(app, tps)
        not_after = max(at + time.monotonic() - sent for at, sent in self._w.values())
        for tp in tps:
            self.source_marks[tp.partition].note(ends[tp], w, not_before=not_before, not_after=not_after)
        await self._claim(tps, identity.topic_id, identity.partitions)

    async def _refresh_w(self) -> None:
        """Ask the broker for its time where we have not sent anything within the last mark interval."""
        oldest = time.monotonic() - settings.mark_interval_seconds
        stale = [p for p in range(settings.partitions) if self._w.get(p, (0.0, -1e18))[1] < oldest]
        await self.send([Outgoing(topics.evidence_log, evidence.EMPTY, partition) for partition in stale])

    async def _claim(self, tps: list[TP], topic_id: str, partitions: int) -> None:
        claims: dict[int, list[tuple[int, float]]] = defaultdict(list)
        reached = positions(app)
        for tp in tps:
            w = self.source_marks[tp.partition].claim(reached.get(tp, -1))
            for partition, at in (w or {}).items():
                claims[partition].append((tp.partition, at))
        resets, claimed = tuple(self.resets), {source for sources in claims.values() for source, _ in sources}
        await self.send(
            [
                Outgoing(
                    topics.evidence_log,
                    evidence.encode(evidence.Mark(topic_id, partitions, tuple(sources), resets)),
                    partition,
                )
                for partition, sources in claims.items()
            ]
        )
        metrics.MARKS.inc(len(claims))
        self.resets -= claimed


forwarder = Forwarder()


@app.agent(topics.reports)
async def telemetry(stream: faust.Stream[Batch]) -> None:
    """Forward every batch of reports."""
    await inventory.first_list.wait()
    async for event in stream.noack().events():
        await forwarder.forward(event.value)
        event.ack()


@app.task
async def mark_loop() -> None:
    """Mark once each interval. A broker that does not answer delays marks, and with them every verdict."""
    on_reset(app, _note_reset)
    while not app.should_stop:
        await app.sleep(settings.mark_interval_seconds)
        if app.rebalancing or app.in_recovery:
            continue
        try:
            await forwarder.mark()
        except KafkaError as error:
            metrics.MARK_FAILURES.inc()
            log.warning("mark_failed", error=str(error) or type(error).__name__)


def _note_reset(reset: OffsetReset) -> None:
    """Remember that the source's retention overtook us: what lies between is a feed gap."""
    if reset.tp.topic == settings.source_topic:
        forwarder.resets.add(reset.tp.partition)
        if reset.to_position < reset.from_position:
            forwarder.topic_id = ""  # made anew: what was seen of its offsets counts no longer
        log.warning(
            "offset_reset", partition=reset.tp.partition, lost=reset.to_position - reset.from_position
        )


def dead_letter(batch: Batch, reject: Rejected) -> Outgoing:
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

