"""What the consumer asks for, hands over and commits, without a broker: the poll's answers are given by hand."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import faust
import pytest
from aiokafka.structs import ConsumerRecord
from faust.auth import SASLCredentials
from faust.exceptions import ImproperlyConfigured, ValueDecodeError
from faust.transport.drivers import by_url
from faust.transport.drivers.aiokafka import server_list
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_healer.transport import Batch, BatchLimits, OffsetReset, Transport, batched_topic, on_reset, positions
from sf_healer.transport.poll import Span

if TYPE_CHECKING:
    from sf_healer.transport.consumer import Consumer

PLAIN, BATCHED = TP("plain", 0), TP("batched", 0)
numbers = itertools.count()


def new_app(**options) -> faust.App:
    options.setdefault("broker", "batch://127.0.0.1:1")
    return faust.App(f"transport-{next(numbers)}", store="memory://", **options)


def new_consumer(app: faust.App) -> Consumer:
    async def ignore(*_: object) -> None: ...

    batched_topic(app, BATCHED.topic)
    app.topics._acking_topics |= {PLAIN.topic, BATCHED.topic}
    app.consumer = app.transport.create_consumer(
        callback=ignore, on_partitions_revoked=ignore, on_partitions_assigned=ignore
    )
    return app.consumer


@pytest.fixture
async def consumer() -> Consumer:
    return new_consumer(new_app())


def record(tp: TP, offset: int) -> ConsumerRecord:
    return ConsumerRecord(tp.topic, tp.partition, offset, 1_000, 0, None, b"v", None, -1, 1, ())


def span(tp: TP, offsets, *, start: int, end: int, reset_from: int | None = None) -> Span:
    return Span(start, end, [record(tp, offset) for offset in offsets], len(offsets), end, reset_from)


def hand_over(consumer: Consumer, tp: TP, answer: Span) -> list:
    """Do with one poll's answer what getmany does with it."""
    if not consumer._continues(tp, answer):
        return []
    return [message for _, message in consumer._messages({tp: answer})]


def acknowledge(consumer: Consumer, messages) -> None:
    for message in messages:
        message.refcount = 1  # as the conductor does when it puts a message into an agent's buffer
        message.ack(consumer)


# --- finding it, declaring topics


def test_faust_finds_the_transport_by_its_url() -> None:
    assert by_url("batch://somewhere:9092") is Transport
    assert isinstance(new_app().transport, Transport)


@pytest.mark.parametrize("broker", ["batch://a:1;b:2", "batch://a:1,b:2", ["batch://a:1", "batch://b:2"]])
def test_several_brokers_are_given_as_in_plain_faust(broker) -> None:
    app = new_app(broker=broker)
    assert server_list(app.transport.url, app.transport.default_port) == ["a:1", "b:2"]


async def test_credentials_reach_the_client_as_in_plain_faust() -> None:
    credentials = SASLCredentials(username="healer", password="secret", mechanism="SCRAM-SHA-512")
    app = new_app(broker_credentials=credentials)
    made = new_consumer(app)._thread._create_consumer(loop=None)
    client = made._client
    assert (client._sasl_mechanism, client._sasl_plain_username) == ("SCRAM-SHA-512", "healer")
    assert client._security_protocol == "SASL_PLAINTEXT"
    await made.stop()


def test_one_app_does_not_see_what_another_declares() -> None:
    first, second = new_app(), new_app()
    batched_topic(first, "t")
    assert list(first.transport.batched_topics) == ["t"]
    assert not second.transport.batched_topics


def test_a_topic_has_one_set_of_limits() -> None:
    app = new_app()
    batched_topic(app, "t", limits=BatchLimits(max_records=5))
    batched_topic(app, "t", limits=BatchLimits(max_records=5))
    with pytest.raises(ValueError, match="t is already declared"):
        batched_topic(app, "t")


def test_another_broker_scheme_is_refused_with_its_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="batch://"):
        batched_topic(new_app(broker="kafka://127.0.0.1:1"), "t")


async def test_an_agent_with_another_codec_on_a_batched_topic_is_refused_at_the_start(consumer) -> None:
    consumer.app.topics.add(consumer.app.topic(BATCHED.topic, value_type=int))
    with pytest.raises(ImproperlyConfigured, match="batched_topic"):
        await consumer.subscribe([BATCHED.topic])


async def test_a_batch_reaches_the_agent_as_it_is_and_anything_else_does_not(consumer) -> None:
    topic = batched_topic(consumer.app, BATCHED.topic)
    [message] = hand_over(consumer, BATCHED, span(BATCHED, [3, 4], start=0, end=6))
    event = await topic.decode(message, propagate=True)
    assert isinstance(event.value, Batch)
    assert event.value is message.value

    message.value = b"by hand"
    with pytest.raises(ValueDecodeError):
        await topic.decode(message, propagate=True)


async def test_an_agent_can_be_tried_with_a_batch_in_fausts_test_context() -> None:
    app = new_app()
    seen: list[int] = []

    @app.agent(batched_topic(app, "t"))
    async def agent(stream):
        async for event in stream.events():
            seen.extend(record.offset for record in event.value)

    async with agent.test_context() as tried:
        records = [record(TP("t", 0), offset) for offset in (1, 2)]
        await tried.put(Batch(TP("t", 0), records, start_position=1, next_position=3, size_bytes=2))
    assert seen == [1, 2]


# --- batches


async def test_one_event_carries_the_whole_span(consumer) -> None:
    [message] = hand_over(consumer, BATCHED, span(BATCHED, [3, 4], start=1, end=6)._replace(highwater=9))
    batch = message.value
    assert (batch.topic, batch.partition, len(batch)) == ("batched", 0, 2)
    assert [record.offset for record in batch] == [3, 4]
    assert (batch.start_position, batch.last_offset, batch.next_position) == (1, 4, 6)
    assert (message.offset, batch.log_end) == (4, 9)


async def test_an_acknowledged_batch_is_committed_with_the_control_records_behind_it(consumer) -> None:
    [message] = hand_over(consumer, BATCHED, span(BATCHED, [3, 4], start=1, end=6))
    assert consumer._new_offset(BATCHED) == 1
    acknowledge(consumer, [message])
    assert consumer._new_offset(BATCHED) == 6
    assert consumer.positions() == {BATCHED: 6}


async def test_control_records_alone_move_the_position_of_an_idle_partition(consumer) -> None:
    assert hand_over(consumer, BATCHED, span(BATCHED, [], start=5, end=5)) == []
    assert positions(consumer.app) == {BATCHED: 5}
    hand_over(consumer, BATCHED, span(BATCHED, [], start=5, end=7))
    assert positions(consumer.app) == {BATCHED: 7}
    assert list(consumer._filter_tps_with_pending_acks()) == [BATCHED]


async def test_a_partition_whose_agent_has_enough_in_hand_is_left_out_until_it_acknowledges(consumer) -> None:
    other = TP("batched", 1)
    first = hand_over(consumer, BATCHED, span(BATCHED, [0], start=0, end=1))
    second = hand_over(consumer, BATCHED, span(BATCHED, [1], start=1, end=2))
    assert set(consumer._demands([BATCHED, other])) == {other}
    acknowledge(consumer, second)
    assert set(consumer._demands([BATCHED, other])) == {BATCHED, other}
    acknowledge(consumer, first)


async def test_fausts_max_poll_records_bounds_a_batch_unless_the_topic_has_its_own_limit() -> None:
    app = new_app(broker_max_poll_records=7)
    consumer = new_consumer(app)
    batched_topic(app, "own", limits=BatchLimits(max_records=9))
    demands = consumer._demands([BATCHED, TP("own", 0)])
    assert [demand.max_records for demand in demands.values()] == [7, 9]


# --- everything else


async def test_a_commit_does_not_pass_the_first_message_in_flight(consumer) -> None:
    """Plain Faust returns 2590 here, and message 2585 is lost with the process."""
    consumer._committed_offset[PLAIN] = 2585
    consumer._begin_ledgers({PLAIN: 2585})
    messages = hand_over(consumer, PLAIN, span(PLAIN, range(2585, 2590), start=2585, end=2590))
    acknowledge(consumer, messages[1:])
    assert consumer._filter_committable_offsets([PLAIN]) == {}
    acknowledge(consumer, messages[:1])
    assert consumer._filter_committable_offsets([PLAIN]) == {PLAIN: 2590}


async def test_a_group_without_a_commit_does_not_pass_its_first_message_either(consumer) -> None:
    messages = hand_over(consumer, PLAIN, span(PLAIN, [0, 1], start=0, end=2))
    acknowledge(consumer, messages[1:])
    assert consumer._new_offset(PLAIN) == 0


async def test_a_gap_does_not_count_the_message_behind_it(consumer) -> None:
    """Plain Faust takes 11 to 15 for the gap before 15 and may commit 16 with 15 in flight."""
    first, second = hand_over(consumer, PLAIN, span(PLAIN, [10, 15], start=10, end=16))
    acknowledge(consumer, [first])
    assert consumer._new_offset(PLAIN) == 11
    acknowledge(consumer, [second])
    assert consumer._new_offset(PLAIN) == 16


async def test_all_partitions_together_bring_no_more_than_fausts_buffer_still_holds() -> None:
    consumer = new_consumer(new_app(stream_buffer_maxsize=100))
    consumer._active_partitions = {TP("plain", 0), TP("plain", 1), BATCHED}
    demands = consumer._demands(consumer._active_partitions)
    assert demands[TP("plain", 0)].max_records == demands[TP("plain", 1)].max_records == 10


# --- seeks, resets, rebalances


async def test_an_acknowledgement_from_before_a_seek_counts_for_nothing(consumer) -> None:
    old = hand_over(consumer, BATCHED, span(BATCHED, [5], start=5, end=6))
    consumer._begin_ledgers({BATCHED: 2})
    acknowledge(consumer, old)
    assert consumer._new_offset(BATCHED) == 2


async def test_an_answer_that_does_not_continue_where_we_stand_is_not_handed_over(consumer) -> None:
    consumer._begin_ledgers({BATCHED: 2})
    assert hand_over(consumer, BATCHED, span(BATCHED, [5], start=5, end=6)) == []
    assert consumer._new_offset(BATCHED) == 2


async def test_the_rest_of_an_answer_is_dropped_when_a_seek_comes_in_between(consumer) -> None:
    answer = span(PLAIN, [0, 1, 2], start=0, end=3)
    assert consumer._continues(PLAIN, answer)
    messages = consumer._messages({PLAIN: answer})
    _, first = next(messages)
    consumer._begin_ledgers({PLAIN: 0})
    assert list(messages) == []
    acknowledge(consumer, [first])
    assert consumer._new_offset(PLAIN) == 0


async def test_where_retention_overtook_us_nothing_is_committed_past_what_is_in_flight(consumer) -> None:
    before = hand_over(consumer, BATCHED, span(BATCHED, [0], start=0, end=1))
    after = hand_over(consumer, BATCHED, span(BATCHED, [9], start=9, end=10, reset_from=1))
    acknowledge(consumer, after)
    assert consumer._new_offset(BATCHED) == 0
    assert not before[0].value.is_gone
    acknowledge(consumer, before)
    assert consumer._new_offset(BATCHED) == 10


async def test_what_is_in_flight_of_a_topic_that_was_made_anew_says_so(consumer) -> None:
    [before] = hand_over(consumer, BATCHED, span(BATCHED, [8], start=8, end=9))
    [after] = hand_over(consumer, BATCHED, span(BATCHED, [0], start=0, end=1, reset_from=9))
    assert (before.value.is_gone, after.value.is_gone) == (True, False)
    acknowledge(consumer, [before, after])
    assert consumer._new_offset(BATCHED) == 1


async def test_a_reset_is_told_before_the_position_jumps_and_may_go_back(consumer) -> None:
    told: list[tuple[OffsetReset, dict]] = []
    on_reset(consumer.app, lambda reset: told.append((reset, positions(consumer.app))))
    hand_over(consumer, BATCHED, span(BATCHED, [], start=1_000, end=1_000))
    consumer._committed_offset[BATCHED] = 1_000

    messages = hand_over(consumer, BATCHED, span(BATCHED, [3], start=3, end=4, reset_from=1_000))

    assert told == [(OffsetReset(BATCHED, 1_000, 3), {BATCHED: 1_000})]
    acknowledge(consumer, messages)
    assert consumer._filter_committable_offsets([BATCHED]) == {BATCHED: 4}


async def test_a_reset_is_told_to_whoever_asks_later_too(consumer) -> None:
    hand_over(consumer, BATCHED, span(BATCHED, [3], start=3, end=4, reset_from=1))
    told: list[OffsetReset] = []
    on_reset(consumer.app, told.append)
    assert told == [OffsetReset(BATCHED, 1, 3)]


async def test_a_revoked_partition_is_forgotten(consumer) -> None:
    old = hand_over(consumer, BATCHED, span(BATCHED, [0], start=0, end=1))
    await consumer.on_partitions_revoked({BATCHED})
    assert old[0].value.is_gone
    acknowledge(consumer, old)
    assert positions(consumer.app) == {}
    assert list(consumer._filter_tps_with_pending_acks()) == []


async def test_what_is_in_flight_and_will_be_read_again_after_a_seek_counts_for_nothing(consumer) -> None:
    [before] = hand_over(consumer, BATCHED, span(BATCHED, [0, 1], start=0, end=2))
    consumer._begin_ledgers({BATCHED: 0})
    [after] = hand_over(consumer, BATCHED, span(BATCHED, [0, 1], start=0, end=2))
    assert (before.value.is_gone, after.value.is_gone) == (True, False)


# --- changelogs in batches

CHANGELOG = TP("changelog", 0)


@pytest.fixture
async def restoring(consumer) -> Consumer:
    batched_topic(consumer.app, CHANGELOG.topic, limits=BatchLimits(max_in_flight=2), acks=False)
    consumer._active_partitions = {CHANGELOG}
    consumer._begin_ledgers({CHANGELOG: 5})
    return consumer


async def test_a_batched_changelog_is_bounded_as_a_source_is_and_never_committed(restoring) -> None:
    messages = hand_over(restoring, CHANGELOG, span(CHANGELOG, [5, 6], start=5, end=7))
    messages += hand_over(restoring, CHANGELOG, span(CHANGELOG, [9], start=7, end=10))
    assert [message.value.next_position for message in messages] == [7, 10]
    assert restoring._demands([CHANGELOG]) == {}, "two batches are all that recovery may hold"
    assert restoring.restored_position(CHANGELOG) == 5
    acknowledge(restoring, messages)
    assert restoring.restored_position(CHANGELOG) == 10
    assert set(restoring._demands([CHANGELOG])) == {CHANGELOG}
    assert list(restoring._filter_tps_with_pending_acks()) == []
    assert positions(restoring.app) == {}, "nobody waits for a changelog to move on"


async def test_a_batch_that_is_let_go_makes_room_and_moves_no_offset(restoring, monkeypatch) -> None:
    woken: list[None] = []
    monkeypatch.setattr(restoring._thread, "wake", lambda: woken.append(None))
    (first,) = hand_over(restoring, CHANGELOG, span(CHANGELOG, [5, 6], start=5, end=7))
    (second,) = hand_over(restoring, CHANGELOG, span(CHANGELOG, [9], start=7, end=10))
    assert restoring._demands([CHANGELOG]) == {}
    assert second.value.follows(first.value)
    assert not first.value.follows(second.value)
    behind_a_gap, of_another = (
        Batch(tp, [], start_position=at, next_position=20, size_bytes=0)
        for tp, at in (
            (CHANGELOG, 11),
            (CHANGELOG._replace(partition=CHANGELOG.partition + 1), 10),
        )
    )
    assert not behind_a_gap.follows(second.value)
    assert not of_another.follows(second.value)

    first.value.let_go()

    assert (len(first.value), woken) == (0, [None])
    assert set(restoring._demands([CHANGELOG])) == {CHANGELOG}
    assert restoring.restored_position(CHANGELOG) == 5
    acknowledge(restoring, [second])
    assert restoring.restored_position(CHANGELOG) == 5
    acknowledge(restoring, [first])
    assert restoring.restored_position(CHANGELOG) == 10


async def test_nothing_follows_a_batch_of_a_topic_that_is_no_more(restoring) -> None:
    (first,) = hand_over(restoring, CHANGELOG, span(CHANGELOG, [5, 6], start=5, end=7))
    (second,) = hand_over(restoring, CHANGELOG, span(CHANGELOG, [9], start=7, end=10))
    restoring._ledgers[CHANGELOG].start_over(0)
    assert not second.value.follows(first.value)


async def test_a_marker_behind_the_last_record_of_a_changelog_is_passed(restoring) -> None:
    hand_over(restoring, CHANGELOG, span(CHANGELOG, [], start=5, end=8))
    assert restoring.restored_position(CHANGELOG) == 8


async def test_nothing_is_handed_over_of_a_changelog_that_was_paused_meanwhile(restoring) -> None:
    restoring.pause_partitions({CHANGELOG})
    assert hand_over(restoring, CHANGELOG, span(CHANGELOG, [5, 6], start=5, end=7)) == []
    assert restoring.restored_position(CHANGELOG) == 5


async def test_a_changelog_that_begins_later_than_it_did_is_no_reset_of_the_source(restoring) -> None:
    told: list[OffsetReset] = []
    on_reset(restoring.app, told.append)
    [message] = hand_over(restoring, CHANGELOG, span(CHANGELOG, [9], start=9, end=10, reset_from=5))
    assert (message.value.start_position, told) == (9, [])


STEPS = st.lists(st.tuples(st.sampled_from(["poll", "lose", "ack", "sought"]), st.integers(0, 7)), max_size=60)


@given(STEPS, st.sampled_from([PLAIN, BATCHED]))
@settings(max_examples=150)
async def test_whatever_is_lost_or_sought_a_commit_covers_only_what_was_acknowledged(steps, tp) -> None:
    consumer = new_consumer(new_app())
    consumer._begin_ledgers({tp: 0})
    fetch_position = 0
    committed = 0
    handed: list = []
    acknowledged: set[int] = set()
    for step, size in steps:
        if step in ("poll", "lose"):
            answer = span(
                tp,
                range(fetch_position, fetch_position + size),
                start=fetch_position,
                end=fetch_position + size,
            )
            fetch_position = answer.end
            if step == "lose":  # taken from the fetcher, and never seen by the app
                continue
            messages = hand_over(consumer, tp, answer)
            handed += messages
            if consumer._ledgers[tp].position != fetch_position:
                fetch_position = consumer._ledgers[tp].position  # what _read_again does
        elif step == "ack" and handed:
            message = handed.pop(size % len(handed))
            acknowledge(consumer, [message])
            offsets = [r.offset for r in message.value] if tp is BATCHED else [message.offset]
            acknowledged.update(offsets)
        elif step == "sought":  # to what is committed, as after a rebalance
            fetch_position = committed
            consumer._begin_ledgers({tp: committed})
        committed = max(committed, consumer._new_offset(tp))
        assert acknowledged >= set(range(committed))
