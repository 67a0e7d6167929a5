"""The consumer thread's side: takes fetched records out of aiokafka, one span a partition.

Everything here runs on the event loop of Faust's consumer thread, next to aiokafka's fetcher, and decides
nothing: which partitions are asked for, and what becomes of the spans, is the consumer's business.
aiokafka's private parts are touched here and in reader.py, nowhere else: its version is pinned.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import concurrent.futures
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from sf_healer.transport.former import leave_as_former_self
from sf_healer.transport.login import follow_credentials
from sf_healer.transport.questions import Answer, TopicIdentity, ask_end_offsets, ask_log_ends, ask_topic_identity
from sf_healer.transport.reader import RecordReader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from aiokafka import AIOKafkaConsumer
    from aiokafka.consumer.fetcher import FetchResult
    from faust.types import TP

    from sf_healer.transport.batch import Record

FETCH_MAX_WAIT_MS: Final = 250
"""How long a broker may hold a fetch that has nothing new.

aiokafka never adds a partition to a fetch that is already under way, so this is also how long a partition
whose records were just taken may wait behind its idle neighbours. Faust's own 1,500 ms would delay marks.
"""


FIRST_FETCH_SECONDS: Final = 1.0
"""How long a table's recovery waits for the first fetch of a changelog that is not empty; it takes milliseconds."""

FIRST_FETCH_POLL_SECONDS: Final = 0.01
_THREAD_ENDED: Final = "the consumer's thread has ended"


class Demand(NamedTuple):
    """What the consumer asks of one partition."""

    position: int | None
    """Where the consumer stands; a position elsewhere is worth a report even without records."""
    max_records: int
    max_bytes: int | None
    """None for a topic that is not batched: its records are made as aiokafka makes them."""
    tracked: bool
    """False for topics whose messages are never acknowledged (changelogs): nobody asks for their position."""


class Span(NamedTuple):
    """What reading one partition brought: the positions from `start` up to `end` and the records in them."""

    start: int
    end: int
    records: list[Record]
    size_bytes: int
    highwater: int | None
    reset_from: int | None
    """Where the consumer stood before the broker said that offset no longer exists; None: it did not."""


class ConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread, taking spans instead of records."""

    _waiter: asyncio.Future[None] | None = None
    _woken = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resets: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS  # Faust has no setting for it
        follow_credentials(consumer._client, self.app.conf.broker_credentials)
        return consumer

    async def on_partitions_assigned(self, assigned: AbstractSet[TP], generation_id: int = 0) -> None:
        """Watch the new assignment for resets before its first fetch can be answered."""
        self._resets.clear()
        for tp in assigned:
            state = self._state(tp)
            state.await_reset = partial(self._note_reset, tp, state)
        await super().on_partitions_assigned(set(assigned), generation_id)

    def _note_reset(self, tp: TP, state: Any, strategy: int) -> None:
        # aiokafka only logs it. Without a position it is the ordinary start of a group that never committed.
        if state.has_valid_position:
            self._resets.setdefault(tp, state.position)
        type(state).await_reset(state, strategy)

    def _state(self, tp: TP) -> Any:
        """Return aiokafka's state of a partition; None where it is not ours."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        return assignment.state_value(tp) if assignment is not None else None

    async def poll(self, generation_id: int, demands: Mapping[TP, Demand], timeout_seconds: float) -> dict[TP, Span]:
        """Return what is there, or wait for it up to `timeout_seconds`; empty after a wake-up or rebalance.

        Call it on the app's loop, one poll at a time. Raises what the fetch raised: no right to the topic, an
        offset out of range without a reset policy, a corrupt record batch.
        """
        spans = await self.call_thread(self._poll, generation_id, demands, timeout_seconds)
        return cast("dict[TP, Span]", spans)

    @property
    def join_error(self) -> Exception | None:
        """Why the group turned us away for good; aiokafka keeps that for a poll, and nobody polls before joining."""
        coordinator = self._consumer._coordinator if self._consumer is not None else None
        return cast("Exception | None", getattr(coordinator, "_pending_exception", None))

    def wake(self) -> None:
        """End the poll under way, or else the next one, at once: what it asks for is outdated.

        Call it on the app's loop.
        """
        if not self.thread_loop.is_closed():  # an agent may acknowledge while the app stops
            self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _poll(self, generation_id: int, demands: Mapping[TP, Demand], timeout_seconds: float) -> dict[TP, Span]:
        consumer = self._ensure_consumer()
        if consumer._closed or consumer._fetcher._closed:
            raise ConsumerStoppedError
        with consumer._subscription.fetch_context():
            spans = self._take_spans(consumer, generation_id, demands)
            if not spans and not self._woken:
                await self._wait_for_fetch(consumer._fetcher, timeout_seconds)
                spans = self._take_spans(consumer, generation_id, demands)
            self._woken = False
            return spans

    async def _wait_for_fetch(self, fetcher: Any, timeout_seconds: float) -> None:
        self._waiter = fetcher._create_fetch_waiter()
        try:
            done, _ = await asyncio.wait([self._waiter], timeout=timeout_seconds)
            if done:
                self._waiter.result()  # raises what the coordinator wants the reader to know
        finally:
            self._waiter.cancel()
            self._waiter = None

    async def leave_as_former_self(self) -> None:
        """Take the member that had our client id before us out of the group; on the app's loop, before joining."""
        consumer = self._ensure_consumer()
        group, client_id = self.app.conf.id, self.app.conf.broker_client_id
        await self._ask(partial(leave_as_former_self, consumer._client, group, client_id))

    async def end_offsets(self, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
        """Ask the brokers; call it on the app's loop. Raises KafkaError."""
        client = self._ensure_consumer()._client
        ends = await self._ask(partial(ask_end_offsets, client, tps, timeout_seconds=timeout_seconds))
        return self._not_before_the_fetches(ends)

    async def log_ends(self, tps: Iterable[TP], *, timeout_seconds: float) -> dict[TP, int]:
        """Ask the brokers; call it on the app's loop. Raises KafkaError."""
        client = self._ensure_consumer()._client
        ends = await self._ask(partial(ask_log_ends, client, tps, timeout_seconds=timeout_seconds))
        return self._not_before_the_fetches(ends)

    async def topic_identity(self, topic: str, *, timeout_seconds: float) -> TopicIdentity:
        """Ask a broker; call it on the app's loop. Raises KafkaError."""
        client = self._ensure_consumer()._client
        return await self._ask(partial(ask_topic_identity, client, topic, timeout_seconds=timeout_seconds))

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        # Not through Faust's queue of method calls: a broker that does not answer would hold up its commits.
        # The question is made by the thread itself: one made here for a thread that ends meanwhile is never asked.
        loop = self.thread_loop
        answer: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        try:
            if not loop.is_running():
                raise KafkaConnectionError(_THREAD_ENDED)
            loop.call_soon_threadsafe(_begin, loop, question, answer)
            return await asyncio.wrap_future(answer)
        except RuntimeError as error:
            if not loop.is_closed():
                raise
            raise KafkaConnectionError(_THREAD_ENDED) from error  # since we looked

    async def _highwaters(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """Tell Faust how far a changelog reaches; until there it restores a table."""
        ends = dict(await super()._highwaters(list(partitions)))
        if self.consumer.in_transaction:  # what the fetches say of committed records, and None before the first
            return ends
        filled = [tp for tp, end in ends.items() if end]
        deadline = monotonic() + FIRST_FETCH_SECONDS
        while not all(map(self._fetched_highwater, filled)) and monotonic() < deadline:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(FIRST_FETCH_POLL_SECONDS)
        return self._not_before_the_fetches(ends)

    def _not_before_the_fetches(self, ends: Mapping[TP, int]) -> dict[TP, int]:
        # The embedded broker's ListOffsets counts the last record batch as one record, its fetches do not. A
        # table would be restored without its last records. Apache Kafka's two answers agree.
        return {tp: max(end, self._fetched_highwater(tp)) for tp, end in ends.items()}

    def _fetched_highwater(self, tp: TP) -> int:
        state = self._state(tp)
        return (state.highwater or 0) if state is not None else 0

    def _take_spans(
        self, consumer: AIOKafkaConsumer, generation_id: int, demands: Mapping[TP, Demand]
    ) -> dict[TP, Span]:
        # Nothing may be taken of an assignment that the consumer does not know yet or knows no more: aiokafka
        # would count it as read, and the consumer throw it away. This method has no await: it is atomic.
        subscription = consumer._subscription
        if subscription.reassignment_in_progress or not self.consumer.flow_active:
            return {}
        if self.app.consumer_generation_id != generation_id:
            return {}
        spans: dict[TP, Span] = {}
        for tp, demand in demands.items():
            state = self._state(tp)
            if state is None or not state.has_valid_position:
                continue
            span = self._take_span(consumer._fetcher, tp, demand, state)
            if span.records or (demand.tracked and span.end != demand.position and _within_log(span)):
                spans[tp] = span
        return spans

    def _take_span(self, fetcher: Any, tp: TP, demand: Demand, state: Any) -> Span:
        start = state.position
        records: list[Record] = []
        size_bytes = 0
        fetched = fetcher._records.get(tp)
        if fetched is not None:
            if type(fetched) is FetchError:
                del fetcher._records[tp]  # so that the partition is fetched again
                fetcher._notify(fetcher._wait_consume_future)
                fetched.check_raise()
            records, size_bytes = take_records(fetched, demand)
            if not fetched.has_more():
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
        reset_from = self._reset_behind(tp, start)
        return Span(start, state.position, records, size_bytes, state.highwater, reset_from)

    def _reset_behind(self, tp: TP, start: int) -> int | None:
        # A seek back to the same lost offset: the reset is still to come, a second time.
        reset_from = self._resets.pop(tp, None)
        return None if reset_from == start else reset_from


def take_records(fetched: FetchResult, demand: Demand) -> tuple[list[Record], int]:
    """Take records up to the demand's limits, move aiokafka's position along; returns records and bytes."""
    if not fetched.check_assignment(fetched._topic_partition):
        return [], 0  # a seek made this answer worthless
    if demand.max_bytes is None:
        return fetched.getall(demand.max_records), 0
    reader = fetched._partition_records
    if not isinstance(reader, RecordReader):
        reader = fetched._partition_records = RecordReader(reader)
    records, size_bytes = reader.take(demand.max_records, demand.max_bytes)
    fetched._update_position()
    if reader.exhausted:
        fetched._partition_records = None
    return records, size_bytes


def _within_log(span: Span) -> bool:
    """Return whether a fetch has confirmed the position.

    The committed offset of a topic that was deleted and created again may lie behind its end.
    """
    return span.highwater is not None and span.end <= span.highwater


def _begin(
    loop: asyncio.AbstractEventLoop,
    question: Callable[[], Coroutine[Any, Any, Answer]],
    answer: concurrent.futures.Future[Answer],
) -> None:
    """Ask a question on the thread's loop; the asker may stop waiting at any time."""
    if answer.cancelled():
        return
    task = loop.create_task(question())
    task.add_done_callback(partial(_tell, answer))
    answer.add_done_callback(lambda answered: answered.cancelled() and loop.call_soon_threadsafe(task.cancel))


def _tell(answer: concurrent.futures.Future[Answer], task: asyncio.Task[Answer]) -> None:
    if task.cancelled():
        answer.cancel()
    elif not answer.set_running_or_notify_cancel():
        task.exception()  # nobody waits for it any more
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
