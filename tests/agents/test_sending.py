"""A send counts when the broker has acknowledged it, and what the broker says reaches the agent."""

import asyncio
import time

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, NotEnoughReplicasError

from agents import topics
from agents.sending import Outgoing, acknowledged
from sf_healer.topics import EVIDENCE
from sf_healer.transport import Appended
from tests.agents.recording import BROKER_EPOCH, edges
from tests.lab.waiting import until_async


@pytest.fixture
def edge():
    with edges() as around:
        yield around


def outgoing(value: bytes = b"x", partition: int = 2) -> Outgoing:
    return Outgoing(topics.evidence_log, value, partition)


async def test_the_brokers_acknowledgement_is_what_comes_back(edge):
    (told,) = await acknowledged([outgoing(b"a"), outgoing(b"b")])
    assert [(record.partition, record.value) for record in edge.producer.to(EVIDENCE)] == [(2, b"a"), (2, b"b")]
    assert told == Appended(2, offset=0, count=2, timestamp=int(BROKER_EPOCH * 1000))


async def test_key_partition_and_headers_arrive_as_they_were_given(edge):
    await acknowledged([Outgoing(topics.commands, b"v", 0, b"stf/a", {"h": b"1"})])
    (record,) = edge.producer.sent
    assert (record.key, record.value, record.headers) == (b"stf/a", b"v", {"h": b"1"})


async def test_sending_ends_only_with_the_last_acknowledgement(edge):
    edge.producer.holding = True
    sending = asyncio.create_task(acknowledged([outgoing(), outgoing()]))
    await until_async(lambda: sent(edge, 2), "both to be sent", seconds=5)
    assert not sending.done()
    edge.producer.release()
    (told,) = await sending
    assert told.count == 2


async def sent(edge, count: int) -> bool:
    return len(edge.producer.sent) == count


async def test_sending_nothing_asks_nobody(edge):
    assert await acknowledged([]) == []
    assert edge.producer.starts == 0


async def test_a_refused_record_raises_the_brokers_error(edge):
    edge.producer.refuse = lambda record: NotEnoughReplicasError() if record.value == b"b" else None
    with pytest.raises(NotEnoughReplicasError):
        await acknowledged([outgoing(b"a"), outgoing(b"b")])


@pytest.mark.parametrize("error", [KafkaTimeoutError("no metadata"), MessageSizeTooLargeError("too large")])
async def test_a_record_that_is_not_even_taken_raises_the_clients_error(edge, error):
    edge.producer.refuse_to_take = lambda _: error
    with pytest.raises(type(error)):
        await acknowledged([outgoing()])


async def test_many_records_of_one_partition_travel_together_and_their_place_is_told(edge):
    records = [outgoing(b"%d" % number) for number in range(1_000)]
    (told,) = await acknowledged(records)
    assert [record.value for record in edge.producer.to(EVIDENCE)] == [record.value for record in records]
    assert (told.offset, told.count) == (0, 1_000)
    assert edge.producer.batches == 1


async def test_what_goes_to_several_partitions_is_handed_over_before_the_client_has_its_turn(edge):
    await acknowledged([outgoing()])  # starts the producer
    turns, handed_over_in = 0, []

    async def count_turns():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    edge.producer.refuse_to_take = lambda _: handed_over_in.append(turns)
    counting = asyncio.create_task(count_turns())
    await acknowledged(outgoing(partition=number) for number in range(6))
    counting.cancel()
    assert handed_over_in == [0] * 6


async def test_what_does_not_fit_into_one_batch_goes_into_the_next_in_order(edge):
    records = [outgoing(b"%06d" % number + b"x" * 300_000) for number in range(5)]
    told = await acknowledged(records)
    assert [record.value for record in edge.producer.to(EVIDENCE)] == [record.value for record in records]
    assert [(appended.offset, appended.count) for appended in told] == [(0, 3), (3, 2)]
    assert edge.producer.batches == 2


async def test_a_record_that_no_batch_can_hold_is_refused_before_it_is_sent(edge):
    with pytest.raises(MessageSizeTooLargeError, match=EVIDENCE):
        await acknowledged([outgoing(b"x" * 1_100_000)])
    assert edge.producer.sent == []


async def test_headers_count_where_a_record_is_too_large(edge):
    with pytest.raises(MessageSizeTooLargeError, match=EVIDENCE):
        await acknowledged([outgoing(b"x" * 10)._replace(headers={"why": b"x" * 1_100_000})])
    assert edge.producer.sent == []


async def test_where_the_broker_dates_nothing_our_own_time_counts(edge):
    edge.producer.dates = False
    before = time.time()
    (told,) = await acknowledged([outgoing()])
    assert before - 1 <= told.timestamp / 1000 <= time.time() + 1
