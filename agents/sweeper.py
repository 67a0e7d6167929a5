"""Evidence in, commands out: the Faust side of agents/folding.py, which has the order of things."""

import time
from collections import Counter
from collections.abc import Sequence

import structlog
from faust.types import StreamT

import tables.policies
from agents import inventory, topics
from agents.batches import unacknowledged
from agents.counting import LOOK_SECONDS, Counting
from agents.dead_letters import dead_letter
from agents.folding import EvidenceBatch, fold
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import commands, steps
from sf_healer.core.combine import Rejected
from sf_healer.core.commands import Alive, Command, Withdraw
from sf_healer.core.partition import Changes, Effect, Partition
from sf_healer.core.watermark import Advance
from sf_healer.topics import EVIDENCE
from sf_healer.transport import Batch
from tables.jobs import hot, store

log = structlog.get_logger(__name__)


class _Faust:
    """The ports of folding on this app's topics and table."""

    def hot(self, number: int) -> Partition | None:
        return hot.get(number)

    async def command(self, effects: Sequence[Effect]) -> None:
        await acknowledged(_outgoing(_told(effect)) for effect in effects)

    async def bury(self, batch: EvidenceBatch, reject: Rejected) -> None:
        await acknowledged([dead_letter(topics.dead_letters, EVIDENCE, batch.partition, reject)])
        metrics.DEAD_LETTERS.labels(reason=reject.reason).inc()

    async def store(self, number: int, changes: Changes, offset: int) -> None:
        await store(number, changes, offset)

    def advanced(self, partition: Partition, advance: Advance) -> None:
        number = str(partition.number)
        metrics.WATERMARK.labels(partition=number).set(advance.to)
        metrics.LAST_SWEEP.labels(partition=number).set_to_current_time()
        if advance.gap:
            metrics.FEED_GAPS.labels(partition=number).inc()
            log.info("feed_gap", partition=partition.number, until=advance.to)

    def began_anew(self, partition: Partition) -> None:
        log.warning("evidence_began_anew", partition=partition.number)
        inventory.tell_again()


_ports = _Faust()

#: When a batch of each evidence partition was last folded, swept and stored (monotonic seconds); for the watchdog.
folded_at: dict[int, float] = {}


@app.agent(topics.evidence_log)
async def sweeper(stream: StreamT[Batch]) -> None:
    """Fold every batch of evidence of the partitions this worker owns."""
    async for event in unacknowledged(stream):
        batch: Batch = event.value
        partition, began_at = hot.get(batch.partition), time.monotonic()
        changes = await fold(batch, _ports)
        if partition is None or changes is None:
            continue
        folded_at[batch.partition] = time.monotonic()
        metrics.SWEEP_SECONDS.observe(folded_at[batch.partition] - began_at)
        _report(partition, changes)
        event.ack()


def _told(effect: Effect) -> Effect:
    """Add to a command what no single evidence partition knows."""
    if not isinstance(effect, Command):
        return effect
    return inventory.with_neighbours(effect, tables.policies.current.book)


def _outgoing(effect: Effect) -> Outgoing:
    return Outgoing(topics.commands, commands.encode(effect), partition=0, key=effect.key.encode())


@app.task  # type: ignore[untyped-decorator]  # Faust's
async def count_loop() -> None:
    """Tell admission how many Jobs of each partition are well and how many turned sick."""
    counting = Counting()
    while not app.should_stop:
        await app.sleep(LOOK_SECONDS)
        if app.rebalancing or app.in_recovery:
            continue
        partitions, now = list(hot.values()), time.monotonic()
        watermarks = {partition.number: partition.watermark.value for partition in partitions}
        if counting.is_due(watermarks, sick=any(partition.sick for partition in partitions), now=now):
            counting.counted(watermarks, now=now)
            await acknowledged(_counts_of(partition) for partition in partitions)


def _counts_of(partition: Partition) -> Outgoing:
    counts = partition.counts()
    record = steps.FleetCounts(
        partition=counts.partition,
        partitions=settings.partitions,
        at=counts.at,
        base=counts.base,
        unhealthy=counts.unhealthy,
        sick=counts.sick,
        suspected=counts.suspected,
    )
    return Outgoing(topics.steps_of_detector, steps.encode(record), partition=0)


def _report(partition: Partition, changes: Changes) -> None:
    metrics.SWEPT_JOBS.inc(changes.swept)
    metrics.EVIDENCE_ENTRIES_FOLDED.inc(changes.folded)
    metrics.EVIDENCE_ENTRIES_PASSED_OVER.inc(changes.passed_over)
    news = Counter(str(judgement.verdict) for _, judgement in changes.judged)
    for verdict, count in news.items():
        metrics.VERDICTS.labels(verdict=verdict).inc(count)
    for verdict, count in partition.counts_by_verdict.items():
        metrics.JOBS.labels(partition=str(partition.number), verdict=verdict).set(count)
    metrics.UNANSWERED_SINCE.labels(partition=str(partition.number)).set(partition.unanswered_since())
    for effect in changes.effects:
        metrics.COMMANDS.labels(kind=type(effect).__name__.lower()).inc()
        _tell(effect)


def _tell(effect: Effect) -> None:
    """Say once in the log what was decided about a Job, with all that it rests on."""
    match effect:
        case Command(evidence=grounds):
            log.warning(
                "restart_decided",
                job=effect.key,
                command=effect.id,
                uid=effect.uid,
                verdict=effect.verdict,
                detail=grounds.detail,
                silence_seconds=None if grounds.silence_seconds is None else round(grounds.silence_seconds, 3),
                threshold_seconds=grounds.threshold_seconds,
                last_seen=grounds.last_seen,
                watermark=grounds.watermark,
                source_partition=grounds.source_partition,
                source_offset=grounds.source_offset,
                policy=effect.policy,
                attempt=effect.attempt,
                target=effect.target,
                queue=effect.queue_id,
                expires_at=effect.expires_at,
            )
        case Withdraw():
            log.info("restart_withdrawn", job=effect.key, command=effect.id, reason=effect.reason)
        case Alive():
            log.info("restarted_job_spoke", job=effect.key, uid=effect.uid, at=effect.at)
