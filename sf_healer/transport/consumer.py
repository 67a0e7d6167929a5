"""The app's side: what is asked for, handed over and committed.

Replaces Faust's bookkeeping of acknowledged offsets and gaps by one ledger a partition, for batched topics
and all others alike. Two faults of Faust go with it: a commit that passes a message still in flight (the
lowest acknowledged offset was compared as if the committed offset were the last one done, while it is the
next one to do), and a gap that counts the message behind it as part of the gap.
"""

from __future__ import annotations

import math
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from aiokafka.errors import IllegalStateError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from sf_healer.transport.batch import DEFAULT_MAX_RECORDS, Batch
from sf_healer.transport.declare import declarations, refuse_other_codecs
from sf_healer.transport.ledger import Delivery, Ledger
from sf_healer.transport.poll import ConsumerThread, Demand, Span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from faust.types import Message
    from faust.types.transports import TPorTopicSet

    from sf_healer.transport.driver import Transport
    from sf_healer.transport.questions import TopicIdentity

log = structlog.get_logger(__name__)


class OffsetReset(msgspec.Struct, frozen=True):
    """The broker no longer had the record we stood at: what lies between was never seen by us."""

    tp: TP
    from_position: int
    to_position: int


class TrackedMessage(ConsumerMessage):
    """A message whose acknowledgement goes to the ledger.

    Faust's compiled streams set `acked` themselves instead of calling Consumer.ack, so the attribute is the
    one place that sees every acknowledgement.
    """

    __slots__ = ("_acked", "_delivery", "_on_acked")

    def __init__(self, *args: Any, delivery: Delivery, on_acked: Callable[[], None], **kwargs: Any) -> None:
        self._delivery = delivery
        self._on_acked = on_acked
        super().__init__(*args, **kwargs)

    @property
    def acked(self) -> bool:
        """Whether every agent that got it is done with it."""
        return self._acked

    @acked.setter
    def acked(self, value: bool) -> None:
        self._acked = value
        if value:
            self._delivery.acknowledged = True
            self._on_acked()


class Consumer(driver.Consumer):
    """Faust's aiokafka consumer with batches, ledgers and a fetch that leaves busy partitions out."""

    _thread: ConsumerThread

    _ledgers: dict[TP, Ledger]
    """Of every assigned partition that is batched or whose messages are acknowledged; a seek begins a new one."""

    _confirmed: set[TP]
    """Partitions with an answered fetch since their assignment: a committed offset alone proves nothing."""

    _subscribed = False
    """A member of the group with our client id is from now on ourselves."""

    _left_out: bool
    """A batched partition had no room for more: whoever makes room next wakes the poll."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _reset_state(self) -> None:
        super()._reset_state()
        self._ledgers = {}
        self._confirmed = set()
        self._left_out = False
        self._identities: dict[str, tuple[float, TopicIdentity]] = {}

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe, unless an agent would try to decode a batch; a former self of ours leaves the group first."""
        refuse_other_codecs(self.app)
        transport = cast("Transport", self.transport)
        if transport.has_own_client_id and not self._subscribed:
            await self._thread.leave_as_former_self()
        self._subscribed = True
        await super().subscribe(topics)

    def positions(self) -> dict[TP, int]:
        """Return up to where each batched partition was handed over and acknowledged, once that is known."""
        batched = declarations(self.app)
        reached = {
            tp: self._ledgers[tp].acknowledged for tp in self._confirmed if tp.topic in batched and self._tracked(tp)
        }
        return {tp: position for tp, position in reached.items() if position is not None}

    def handed_over(self, tp: TP) -> int:
        """Return up to where a partition was handed over, acknowledged or not; 0 if it is not read."""
        ledger = self._ledgers.get(tp)
        return 0 if ledger is None else ledger.position or 0

    def reached(self) -> dict[TP, int | None]:
        """Return up to where each assigned partition is acknowledged; None for one that no fetch has confirmed."""
        return {
            tp: self._ledgers[tp].acknowledged if tp in self._confirmed else None
            for tp in self._active_partitions or ()
            if self._tracked(tp)
        }

    def restored_position(self, tp: TP) -> int | None:
        """Return up to where a batched changelog was read and acknowledged since the last seek, gaps included."""
        ledger = self._ledgers.get(tp)
        return None if ledger is None else ledger.acknowledged

    @property
    def join_error(self) -> Exception | None:
        """Why the group turned us away for good; None while there is hope."""
        return self._thread.join_error

    async def end_offsets(self, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
        """Return up to where partitions can be read, as their leaders say now. Raises KafkaError."""
        return await self._thread.end_offsets(tps, timeout_seconds=timeout_seconds)

    async def log_ends(self, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
        """Return the ends of partitions' logs as their leaders say now. Raises KafkaError."""
        return await self._thread.log_ends(tps, timeout_seconds=timeout_seconds)

    async def topic_identity(self, topic: str, *, max_age_seconds: float, timeout_seconds: float) -> TopicIdentity:
        """Return which topic the name means, asked at most `max_age_seconds` ago. Raises KafkaError."""
        now = monotonic()
        asked_at, identity = self._identities.get(topic, (-math.inf, None))
        if identity is None or now - asked_at > max_age_seconds:
            identity = await self._thread.topic_identity(topic, timeout_seconds=timeout_seconds)
            self._identities[topic] = now, identity
        return identity

    # --- asking

    def _demands(self, active: Iterable[TP]) -> dict[TP, Demand]:
        """Say what to take of each partition; a batched one whose agent has enough in hand is left out."""
        batched = declarations(self.app)
        most = self.app.conf.broker_max_poll_records or sys.maxsize
        share = self._plain_share(batched)
        self._left_out = False
        demands: dict[TP, Demand] = {}
        for tp in active:
            ledger = self._ledgers.get(tp) or Ledger()
            position = ledger.position if tp in self._confirmed else None
            limits = batched.get(tp.topic)
            if limits is None:
                tracked = self._tracked(tp)
                demands[tp] = Demand(position, share if tracked else most, None, tracked=tracked)
            elif ledger.in_flight < limits.max_in_flight:
                max_records = limits.max_records or min(most, DEFAULT_MAX_RECORDS)
                demands[tp] = Demand(position, max_records, limits.max_bytes, tracked=True)
            else:
                self._left_out = True
        return demands

    def _plain_share(self, batched: Iterable[str]) -> int:
        """Return how many records one poll may take of a partition which is not batched.

        Faust leaves a partition out of the fetch once its agent's buffer is four fifths full, and blocks its
        one drain loop, and with it every other agent, once the buffer is full. So all partitions together may
        bring one fifth.
        """
        plain = [
            tp
            for tp in self._active_partitions | self._buffered_partitions
            if tp.topic not in batched and self._tracked(tp)
        ]
        share = self.app.conf.stream_buffer_maxsize // (5 * max(1, len(plain)))
        return max(1, min(share, self.app.conf.broker_max_poll_records or share))

    def _tracked(self, tp: TP) -> bool:
        return self.app.topics.acks_enabled_for(tp.topic)

    def _has_ledger(self, tp: TP) -> bool:
        """Return whether a partition has a ledger: a batched changelog has one too, and commits nothing."""
        return self._tracked(tp) or tp.topic in declarations(self.app)

    def _on_room(self) -> None:
        if self._left_out:
            self._left_out = False
            self._thread.wake()

    # --- handing over

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 (Faust's)
        """Poll once and hand over what came: Faust's drain loop calls this for ever."""
        if self.app.client_only:  # no group, nothing to commit: plain Faust
            async for tp, message in super().getmany(timeout):
                yield tp, message
            return
        if not self.flow_active:
            await self.wait(cast("Any", self.can_resume_flow))
        if not self._active_partitions:
            await self.sleep(timeout)
            return
        generation_id = self.app.consumer_generation_id
        spans = await self._thread.poll(generation_id, self._demands(self._active_partitions), timeout)

        def is_current() -> bool:
            # Once a rebalance began the rest is dropped: the new assignment starts at the committed offsets.
            return self.flow_active and self.app.consumer_generation_id == generation_id

        if is_current():
            astray = [tp for tp, span in spans.items() if self._has_ledger(tp) and not self._continues(tp, span)]
            for tp, message in self._messages({tp: span for tp, span in spans.items() if tp not in astray}):
                if not is_current():
                    return
                yield tp, message
            for tp in astray:
                await self._read_again(tp)

    def _continues(self, tp: TP, span: Span) -> bool:
        """Return whether a span begins where the ledger stands."""
        if span.reset_from is not None:
            self._start_over(OffsetReset(tp, span.reset_from, span.start))
        ledger = self._ledgers.setdefault(tp, Ledger())
        if ledger.position is None:
            ledger.begin_at(span.start)
        self._confirmed.add(tp)
        return ledger.position == span.start

    def _start_over(self, reset: OffsetReset) -> None:
        log.warning(
            "position_lost",
            topic=reset.tp.topic,
            partition=reset.tp.partition,
            from_position=reset.from_position,
            to_position=reset.to_position,
        )
        if self._tracked(reset.tp):  # of a changelog nothing is lost: it begins later than it did
            transport = cast("Transport", self.transport)
            transport.resets.append(reset)
            for callback in transport.reset_callbacks:
                callback(reset)
        ledger = self._ledgers.get(reset.tp) or Ledger()
        self._ledgers[reset.tp] = ledger.start_over(reset.to_position)
        self._committed_offset[reset.tp] = None  # it may lie ahead, if the topic was recreated

    async def _read_again(self, tp: TP) -> None:
        # A seek overtook a poll, or the other way round. Going back to what the ledger says loses nothing.
        position = self._ledgers[tp].position
        log.info("reading_again", topic=tp.topic, partition=tp.partition, position=position)
        try:
            await self._thread.seek_wait({tp: cast("int", position)})
        except IllegalStateError:
            log.info("revoked_meanwhile", topic=tp.topic, partition=tp.partition)

    def _messages(self, spans: Mapping[TP, Span]) -> Iterator[tuple[TP, Message]]:
        batched = declarations(self.app)
        ledgers = {tp: self._ledgers[tp] for tp in spans if self._has_ledger(tp)}
        for tp, ledger in ledgers.items():
            if not spans[tp].records:
                ledger.pass_over(spans[tp].end)
        for tp, span in spans.items():
            if span.highwater is not None:
                self.app.monitor.track_tp_end_offset(tp, span.highwater)
            if tp.topic in batched and span.records and self._ledgers.get(tp) is ledgers[tp] and self._wanted(tp):
                yield tp, self._batch(tp, span)
        plain = {tp: span.records for tp, span in spans.items() if tp.topic not in batched}
        for tp, record in self.scheduler.iterate(plain):
            if tp not in ledgers:
                if self._wanted(tp):
                    yield tp, self._to_message(tp, record)
            elif self._ledgers.get(tp) is ledgers[tp]:  # else it was sought meanwhile
                is_last = record is spans[tp].records[-1]
                yield tp, self._single(tp, record, spans[tp].end if is_last else record.offset + 1)

    def _wanted(self, tp: TP) -> bool:
        """Return whether what was polled may still be handed over: nothing of a changelog once it is paused."""
        return self._tracked(tp) or tp in self._active_partitions or tp in self._buffered_partitions

    def _batch(self, tp: TP, span: Span) -> Message:
        last = cast("Any", span.records[-1])
        delivery = self._ledgers[tp].deliver(span.end)
        batch = Batch(
            tp,
            span.records,
            start_position=span.start,
            next_position=span.end,
            size_bytes=span.size_bytes,
            log_end=span.highwater,
            delivery=delivery,
            on_let_go=self._on_room,
        )
        return self._message(tp, last, delivery, value=batch, value_size=span.size_bytes)

    def _single(self, tp: TP, record: Any, end: int) -> Message:
        payload = {"key": record.key, "value": record.value, "headers": record.headers}
        sizes = {"key_size": record.serialized_key_size, "value_size": record.serialized_value_size}
        return self._message(tp, record, self._ledgers[tp].deliver(end), **payload, **sizes)

    def _message(
        self,
        tp: TP,
        last: Any,
        delivery: Delivery,
        *,
        value: Any,
        value_size: int,
        key: bytes | None = None,
        key_size: int = 0,
        headers: Any = None,
    ) -> Message:
        # The ledger has decided. Faust's own look at the last offset would drop what a seek brings again.
        self._read_offset[tp] = None
        return TrackedMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=last.offset,
            timestamp=last.timestamp / 1000,
            timestamp_type=last.timestamp_type,
            headers=headers,
            key=key,
            value=value,
            checksum=last.checksum,
            serialized_key_size=key_size,
            serialized_value_size=value_size,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
            delivery=delivery,
            on_acked=self._on_room,
        )

    # --- seeking

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets; a partition without one stays where it is, with its ledger."""
        committed = await super().seek_to_committed()
        self._begin_ledgers({tp: offset for tp, offset in committed.items() if offset})
        return committed

    async def seek(self, partition: TP, offset: int) -> None:
        """Seek one partition; what is in flight of it is going to come again."""
        await super().seek(partition, offset)
        self._begin_ledgers({partition: offset})

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek several partitions and wait for it; what is in flight of them is going to come again."""
        await super().seek_wait(partitions)
        self._begin_ledgers(partitions)

    def _begin_ledgers(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            if self._has_ledger(tp):
                self._forget(tp)
                self._ledgers[ensure_TP(tp)] = Ledger(offset)

    def _forget(self, tp: TP) -> None:
        if (ledger := self._ledgers.pop(tp, None)) is not None:
            ledger.abandon()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget the revoked partitions, after Faust had its chance to commit what is acknowledged."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._forget(tp)
            self._confirmed.discard(tp)

    # --- committing

    def _filter_tps_with_pending_acks(self, topics: TPorTopicSet | None = None) -> Iterator[TP]:
        for tp in list(self._ledgers):
            if self._tracked(tp) and (topics is None or tp in topics or tp.topic in topics):
                yield self._new_topicpartition(*tp)  # aiokafka's own type: its transactions take no other

    def _new_offset(self, tp: TP) -> int | None:
        # Faust's streams keep filling these; nothing reads them any more.
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self._ledgers[tp].to_commit
