"""Evidence in, commands out: the order that makes a crash harmless, and what is not ours stays unacknowledged."""

import asyncio

import msgspec
import pytest
from aiokafka.errors import NotEnoughReplicasError
from faust.types import TP
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from agents import sweeper as module
from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.app import settings
from sf_healer.core import commands, steps
from sf_healer.core.changelog import InOrder, meta_key, meta_of, states_of
from sf_healer.core.commands import Command
from sf_healer.core.events import Kind
from sf_healer.core.evidence import EMPTY, Beat, Bundle, Fact, Mark, UnknownSchema, Word
from tables.jobs import drop_revoked, hot, jobs
from tests.agents.recording import (
    BROKER_EPOCH,
    TOPIC_ID,
    Driven,
    edges,
    evidence_of,
    is_acknowledged,
    key_on,
)
from tests.core.strategies import a_fact
from tests.lab.waiting import until_async

PARTITION = 3
JOB = key_on(PARTITION)
#: The shipped policy's silence threshold of this target.
THRESHOLD_SECONDS = 300.0
CHANGELOG = topics.JOBS_CHANGELOG


@pytest.fixture
def edge():
    with edges() as around:
        around.own(PARTITION)
        yield around


@pytest.fixture
async def agent(edge):
    async with module.sweeper.test_context() as driven:
        yield Driven(driven)


def fact(**changes: object) -> Fact:
    return Fact(a_fact(JOB, target="loader-producer", created_at=BROKER_EPOCH - 60.0, **changes))


def beat(offset: int = 0) -> Bundle:
    return Bundle(TOPIC_ID, 0, (Beat(JOB, BROKER_EPOCH, offset, 1),), ())


def mark(seconds: float) -> Mark:
    return Mark(TOPIC_ID, 1, ((0, BROKER_EPOCH + seconds),))


def up_to(seconds: float) -> list[Mark]:
    """Marks without a feed gap between them, up to a moment."""
    return [mark(at) for at in range(1, int(seconds) + 1, 5)]


#: One Job speaks once and is silent for longer than it may be.
SILENCE = [fact(), beat(), *up_to(THRESHOLD_SECONDS + 12.0)]


def sent_topics(edge) -> list[str]:
    return [record.topic for record in edge.producer.sent]


def commands_sent(edge) -> list[object]:
    return [commands.decode_action(record.value) for record in edge.producer.to(topics.ACTIONS)]


async def has_sent(edge, topic: str) -> bool:
    return bool(edge.producer.to(topic))


async def acknowledged_soon(event) -> bool:
    for _ in range(20):
        await asyncio.sleep(0)
    return is_acknowledged(event)


async def settled(event) -> bool:
    return is_acknowledged(event)


# ------------------------------------------------------------------ what is sent


async def test_a_silent_job_is_commanded_once_with_the_job_as_key(edge, agent):
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    (record,) = edge.producer.to(topics.ACTIONS)
    command = commands.decode_action(record.value)
    assert isinstance(command, Command)
    assert (record.key, command.key, command.verdict, command.uid) == (JOB.encode(), JOB, "stuck", "u1")
    assert command.evidence.silence_seconds > THRESHOLD_SECONDS
    await agent.take(evidence_of(mark(THRESHOLD_SECONDS + 20.0), partition=PARTITION, first_offset=100))
    assert len(edge.producer.to(topics.ACTIONS)) == 1


async def test_a_decision_is_one_line_of_the_log_with_all_that_it_rests_on(edge, agent):
    with capture_logs() as lines:
        await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    (line,) = [line for line in lines if line["event"] == "restart_decided"]
    command = commands.decode_action(edge.producer.to(topics.ACTIONS)[0].value)
    assert (line["command"], line["job"], line["uid"]) == (command.id, JOB, "u1")
    assert (line["verdict"], line["detail"]) == ("stuck", "loading_stopped")
    assert line["silence_seconds"] > line["threshold_seconds"] == THRESHOLD_SECONDS
    assert line["watermark"] - line["last_seen"] == pytest.approx(line["silence_seconds"], abs=0.001)


async def test_a_job_that_speaks_is_not_commanded(edge, agent):
    entries = [fact(), *(entry for at in range(1, 400, 5) for entry in (beat(at), mark(at)))]
    await agent.take(evidence_of(*entries, partition=PARTITION))
    assert edge.producer.to(topics.ACTIONS) == []


async def test_the_state_of_a_job_is_on_the_changelog_and_in_the_table_under_its_key(edge, agent):
    await agent.take(evidence_of(fact(), beat(), partition=PARTITION))
    written = {record.key: record.value for record in edge.producer.to(CHANGELOG)}
    assert written[JOB.encode()] == jobs.data[JOB.encode()]
    assert {record.partition for record in edge.producer.to(CHANGELOG)} == {PARTITION}


async def test_the_watermark_and_the_verdicts_are_shown_as_metrics(edge, agent):
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    number = str(PARTITION)
    at = metrics.WATERMARK.labels(partition=number)._value.get()
    assert at == BROKER_EPOCH + max(range(1, int(THRESHOLD_SECONDS + 12) + 1, 5))
    assert metrics.JOBS.labels(partition=number, verdict="stuck")._value.get() == 1


async def test_a_partition_that_was_revoked_is_shown_no_more(edge, agent):
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    await drop_revoked(None, {TP(topics.EVIDENCE, PARTITION)})
    shown = generate_latest().decode()
    assert f'sf_healer_jobs{{partition="{PARTITION}"' not in shown
    assert f'sf_healer_watermark_timestamp_seconds{{partition="{PARTITION}"' not in shown


# ------------------------------------------------------------------ the order


async def test_commands_are_acknowledged_before_the_table_and_the_table_before_the_batch(edge, agent):
    edge.producer.holding = True
    event = await agent.put(evidence_of(*SILENCE, partition=PARTITION))
    await until_async(lambda: has_sent(edge, topics.ACTIONS), "the command to be sent", seconds=5)
    assert not await acknowledged_soon(event)
    assert edge.producer.to(CHANGELOG) == []
    edge.producer.release()
    edge.producer.holding = True
    await until_async(lambda: has_sent(edge, CHANGELOG), "the changelog to be written", seconds=5)
    assert not await acknowledged_soon(event)
    assert JOB.encode() not in jobs.data
    edge.producer.release()
    await until_async(lambda: settled(event), "the batch to be acknowledged", seconds=5)
    assert JOB.encode() in jobs.data


@pytest.mark.parametrize("topic", [topics.ACTIONS, CHANGELOG])
async def test_a_send_that_fails_makes_the_agent_raise_and_the_batch_is_not_acknowledged(edge, agent, topic):
    edge.producer.refuse = lambda record: NotEnoughReplicasError() if record.topic == topic else None
    event = await agent.put(evidence_of(*SILENCE, partition=PARTITION))
    await until_async(lambda: has_sent(edge, topic), "the send that fails", seconds=5)
    with pytest.raises(NotEnoughReplicasError):
        await agent.take(evidence_of(mark(900.0), partition=PARTITION, first_offset=100))
    assert not is_acknowledged(event)
    assert JOB.encode() not in jobs.data


async def test_the_same_batch_again_after_a_crash_gives_the_same_command(edge, agent):
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    edge.own(PARTITION)  # the next process, before anything was stored
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    first, again = commands_sent(edge)
    assert first == again


async def test_evidence_that_comes_again_is_counted_as_passed_over_and_changes_nothing(edge, agent):
    def counted() -> tuple[float, float]:
        return metrics.EVIDENCE_ENTRIES_FOLDED._value.get(), metrics.EVIDENCE_ENTRIES_PASSED_OVER._value.get()

    before = counted()
    await agent.take(evidence_of(fact(), beat(), partition=PARTITION))
    stored = jobs.data[JOB.encode()]
    await agent.take(evidence_of(beat(), partition=PARTITION, first_offset=100))
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    assert jobs.data[JOB.encode()] == stored


# ------------------------------------------------------------------ partitions that are not ours


async def test_a_batch_of_a_partition_that_is_not_ours_is_neither_folded_nor_acknowledged(edge, agent):
    foreign = await agent.put(evidence_of(fact(), beat(), partition=PARTITION + 1))
    await agent.take(evidence_of(fact(), partition=PARTITION))
    assert not is_acknowledged(foreign)
    assert PARTITION + 1 not in hot
    assert {record.partition for record in edge.producer.to(CHANGELOG)} == {PARTITION}


async def test_a_partition_revoked_while_commands_are_sent_is_not_stored_and_not_acknowledged(edge, agent):
    edge.producer.holding = True
    event = await agent.put(evidence_of(*SILENCE, partition=PARTITION))
    await until_async(lambda: has_sent(edge, topics.ACTIONS), "the command to be sent", seconds=5)
    del hot[PARTITION]
    edge.producer.release()
    assert not await acknowledged_soon(event)
    assert edge.producer.to(CHANGELOG) == []


async def test_a_partition_that_came_back_meanwhile_is_another_one(edge, agent):
    edge.producer.holding = True
    event = await agent.put(evidence_of(*SILENCE, partition=PARTITION))
    await until_async(lambda: has_sent(edge, topics.ACTIONS), "the command to be sent", seconds=5)
    edge.own(PARTITION)
    edge.producer.release()
    assert not await acknowledged_soon(event)
    assert edge.producer.to(CHANGELOG) == []


# ------------------------------------------------------------------ a log that begins anew


def recovered(edge) -> dict[bytes, bytes | None]:
    """What another worker with an empty disk reads of the changelog."""
    return InOrder(None).newest([(record.key, record.value) for record in edge.producer.to(CHANGELOG)])


async def test_what_is_stored_of_a_log_that_began_anew_is_what_another_worker_recovers(edge, agent):
    """Its offsets are lower than those of what was stored before; and a worker that was paused writes last."""
    await agent.take(evidence_of(fact(), beat(), mark(1.0), partition=PARTITION, first_offset=900, log_end=903))
    paused = edge.producer.to(CHANGELOG)
    word = Word(JOB, Kind.INTERRUPTED, BROKER_EPOCH + 2.0, 1, finished=False, detail="")
    anew = (Bundle(TOPIC_ID, 0, (), (word,)), mark(2.0), mark(3.0))
    with capture_logs() as lines:
        await agent.take(evidence_of(*anew, partition=PARTITION, log_end=3))
    assert [line["partition"] for line in lines if line["event"] == "evidence_began_anew"] == [PARTITION]
    assert hot[PARTITION].jobs[JOB].verdict == "stopped"
    edge.producer.sent += paused
    (state,) = states_of([(JOB.encode(), recovered(edge)[JOB.encode()])])
    assert state.verdict == "stopped"
    assert meta_of(recovered(edge)[meta_key(PARTITION)]).folded_to == 2


async def test_the_epoch_of_a_log_is_on_the_changelog_before_anything_else_of_it(edge, agent):
    await agent.take(evidence_of(fact(), beat(), mark(1.0), partition=PARTITION, first_offset=900, log_end=903))
    edge.producer.sent.clear()
    edge.producer.holding = True
    event = await agent.put(evidence_of(beat(1), partition=PARTITION, log_end=1))
    await until_async(lambda: has_sent(edge, CHANGELOG), "the epoch to be written", seconds=5)
    ((key, value),) = recovered(edge).items()
    assert (key, meta_of(value).log_epoch) == (meta_key(PARTITION), 1)
    assert not await acknowledged_soon(event)
    edge.producer.release()
    await until_async(lambda: settled(event), "the batch to be acknowledged", seconds=5)


async def test_a_partition_revoked_while_its_epoch_is_stored_is_not_folded(edge, agent):
    await agent.take(evidence_of(fact(), mark(1.0), partition=PARTITION, first_offset=900, log_end=902))
    edge.producer.sent.clear()
    edge.producer.holding = True
    event = await agent.put(evidence_of(*SILENCE, partition=PARTITION, log_end=len(SILENCE)))
    await until_async(lambda: has_sent(edge, CHANGELOG), "the epoch to be written", seconds=5)
    del hot[PARTITION]
    edge.producer.release()
    assert not await acknowledged_soon(event)
    assert edge.producer.to(topics.ACTIONS) == []


async def test_the_jobs_are_told_again_to_a_log_that_began_anew(edge, agent, monkeypatch):
    census = module.inventory._inventory.census
    monkeypatch.setattr(census, "_told", {PARTITION})
    await agent.take(evidence_of(fact(), mark(1.0), partition=PARTITION, first_offset=900, log_end=902))
    assert census._told == {PARTITION}
    await agent.take(evidence_of(mark(2.0), partition=PARTITION, log_end=1))
    assert census._told == set()


# ------------------------------------------------------------------ what is no evidence


@pytest.mark.parametrize(
    "value", [None, b"", b"{}", b"\xc1", msgspec.msgpack.encode([1, ["x", 1]]), b"\x92\x01\x91\xa1b"]
)
async def test_undecodable_evidence_is_buried_counted_and_passed_over(edge, agent, value):
    before = metrics.DEAD_LETTERS.labels(reason="not_evidence")._value.get()
    await agent.take(evidence_of(fact(), value, beat(), partition=PARTITION, first_offset=20))
    (letter,) = edge.producer.to(topics.DEAD_LETTERS)
    assert letter.value == value
    told = {name: text for name, text in letter.headers.items() if name not in {"sf-healer-sha256", "sf-healer-detail"}}
    assert told == {
        "sf-healer-reason": b"not_evidence",
        "sf-healer-source-topic": topics.EVIDENCE.encode(),
        "sf-healer-source-partition": str(PARTITION).encode(),
        "sf-healer-source-offset": b"21",
        "sf-healer-original-size": str(len(value or b"")).encode(),
    }
    assert metrics.DEAD_LETTERS.labels(reason="not_evidence")._value.get() == before + 1
    assert hot[PARTITION].jobs[JOB].loading_at > 0


async def test_evidence_of_a_later_version_is_not_passed_over(edge, agent):
    later = msgspec.msgpack.encode([99, ["b", "", 0, [], []]])
    with pytest.raises(UnknownSchema):
        await agent.take(evidence_of(fact(), later, partition=PARTITION))
    assert edge.producer.to(topics.DEAD_LETTERS) == []


async def test_an_empty_evidence_record_changes_no_job(edge, agent):
    await agent.take(evidence_of(EMPTY, partition=PARTITION))  # the first of all says what time it is
    edge.producer.sent.clear()
    await agent.take(evidence_of(EMPTY, partition=PARTITION, first_offset=1))
    assert hot[PARTITION].jobs == {}
    assert sent_topics(edge) == []


# ------------------------------------------------------------------ counts for admission


async def test_every_partition_of_ours_tells_its_counts_with_the_watermark(edge, agent):
    await agent.take(evidence_of(*SILENCE, partition=PARTITION))
    counted = module._counts_of(hot[PARTITION])
    counts = steps.decode(counted.value)
    assert isinstance(counts, steps.FleetCounts)
    assert (counts.partition, counts.partitions, counts.sick, counts.unhealthy) == (
        PARTITION,
        settings.partitions,
        1,
        1,
    )
    assert counts.at == hot[PARTITION].watermark.value
