"""The actuator's agents on their Faust app: nothing is acknowledged before what follows from it is safe, or buried."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import faust
import pytest
from aiokafka.errors import NotEnoughReplicasError
from faust.stores.memory import Store
from mode.utils.locks import Event

import tables.actions
from agents import actuator as module
from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.app import actuator as app
from sf_healer.core import commands, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Pause, Resume, Withdraw
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts
from tests.agents.recording import BROKER_EPOCH, RecordingProducer, is_acknowledged
from tests.lab.waiting import until_async

WITHDRAW = commands.encode(Withdraw(id="c1", key="stf/a"))
PAUSE = commands.encode(Pause(scope="*", reason="maintenance"))
COUNTS = steps.encode(FleetCounts(partition=0, partitions=1, at=BROKER_EPOCH, base=9, unhealthy=0, sick=0))
LATER = b'{"schema_version": 2, "kind": "withdraw"}'


@pytest.fixture
def producer() -> Iterator[RecordingProducer]:
    recording = RecordingProducer()
    with pytest.MonkeyPatch.context() as patch:
        app.__dict__.pop("maybe_start_producer", None)
        patch.setattr(app, "_producer", recording)
        for state in ("_stopped", "_crashed"):
            patch.setattr(app, state, Event())
        patch.setattr(tables.actions.actions, "_data", Store("memory://", app, tables.actions.actions))
        patch.setattr(module, "_reader", module._Reader())
        yield recording


@pytest.fixture
def log(producer: RecordingProducer, monkeypatch: pytest.MonkeyPatch) -> Actuator:
    """Own the steps log, with nothing on it yet."""
    actuator = Actuator(worker="w1", limits=Limits(), observe_only=True)
    monkeypatch.setattr(tables.actions, "current", actuator)
    module._reader.connected.set()
    return actuator


class Reading:
    """One agent and what became of each record that it was given."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def put(self, value: bytes | None, key: bytes | None = b"stf/a") -> faust.Event:
        return await self._agent.put(value, key=key, partition=0, wait=False)

    async def is_over(self, event: faust.Event) -> bool:
        return is_acknowledged(event) or self._agent._crash_reason is not None

    async def take(self, value: bytes | None, key: bytes | None = b"stf/a") -> faust.Event:
        """Give the agent a record and wait until it is acknowledged; raises what the agent raised."""
        event = await self.put(value, key)
        await until_async(lambda: self.is_over(event), "the record to be acknowledged", seconds=10.0)
        if self._agent._crash_reason is not None:
            raise self._agent._crash_reason
        return event


COPIERS = [
    pytest.param(module.copy_commands, WITHDRAW, id="commands"),
    pytest.param(module.copy_pauses, PAUSE, id="pauses"),
]


@pytest.mark.parametrize(("agent", "value"), COPIERS)
async def test_what_is_asked_for_is_acknowledged_only_once_its_copy_is(producer, agent, value):
    async with agent.test_context() as driven:
        producer.holding = True
        event = await Reading(driven).put(value)
        await until_async(lambda: sent(producer), "the copy to be sent", seconds=5.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not is_acknowledged(event)
        producer.release()
        await until_async(lambda: Reading(driven).is_over(event), "the acknowledgement", seconds=5.0)
    assert [record.value for record in producer.to(topics.STEPS)] == [value]


async def sent(producer: RecordingProducer) -> bool:
    return bool(producer.sent)


@pytest.mark.parametrize(("agent", "value"), COPIERS)
async def test_a_copy_that_is_not_acknowledged_ends_the_agent_and_the_record_stays(producer, agent, value):
    producer.refuse = lambda _: NotEnoughReplicasError()
    async with agent.test_context() as driven:
        event = await Reading(driven).put(value)
        with pytest.raises(NotEnoughReplicasError):
            await Reading(driven).take(value)
    assert not is_acknowledged(event)


@pytest.mark.parametrize(("agent", "value"), COPIERS)
async def test_a_record_of_a_later_version_is_not_passed_over(producer, agent, value):
    async with agent.test_context() as driven:
        with pytest.raises(Exception, match="schema version 2"):
            await Reading(driven).take(LATER)
    assert producer.sent == []


GARBAGE = [
    pytest.param(module.copy_commands, topics.ACTIONS, "not_a_command", id="commands"),
    pytest.param(module.copy_pauses, topics.CONTROL, "not_a_pause", id="pauses"),
]


@pytest.mark.parametrize(("agent", "topic", "reason"), GARBAGE)
@pytest.mark.parametrize(
    "value", [b"garbage", b'{"schema_version": 1, "kind": "withdraw", "id": "\xff", "key": "stf/a"}']
)
async def test_what_is_none_is_buried_whole_before_it_is_acknowledged(producer, agent, topic, reason, value):
    before = metrics.DEAD_LETTERS.labels(reason=reason)._value.get()
    async with agent.test_context() as driven:
        await Reading(driven).take(value)
    (letter,) = producer.sent
    assert (letter.topic, letter.value) == (topics.DEAD_LETTERS, value)
    assert letter.headers["sf-healer-reason"] == reason.encode()
    assert metrics.DEAD_LETTERS.labels(reason=reason)._value.get() == before + 1


@pytest.mark.parametrize(("agent", "topic", "reason"), GARBAGE)
async def test_what_cannot_be_buried_is_not_acknowledged(producer, agent, topic, reason):
    producer.refuse = lambda _: NotEnoughReplicasError()
    async with agent.test_context() as driven:
        event = await Reading(driven).put(b"garbage")
        with pytest.raises(NotEnoughReplicasError):
            await Reading(driven).take(b"garbage")
    assert not is_acknowledged(event)


@pytest.mark.parametrize(
    ("agent", "reason", "value"),
    [
        (
            module.copy_commands,
            "not_a_command",
            commands.encode(Withdraw(id="c1", key="stf/a", reason="x" * 1_000_000)),
        ),
        (module.copy_pauses, "not_a_pause", commands.encode(Pause(scope="*", reason="x" * 1_000_000))),
    ],
)
async def test_what_the_steps_log_may_not_take_is_buried_it_would_end_every_worker(producer, agent, reason, value):
    async with agent.test_context() as driven:
        await Reading(driven).take(value)
        await Reading(driven).take(WITHDRAW if reason == "not_a_command" else PAUSE)
    letter, copy = producer.sent
    assert (letter.topic, letter.headers["sf-healer-reason"]) == (topics.DEAD_LETTERS, reason.encode())
    assert letter.headers["sf-healer-original-size"] == str(len(value)).encode()
    assert copy.topic == topics.STEPS


async def test_a_pause_taken_off_its_topic_is_copied_as_its_end(producer):
    async with module.copy_pauses.test_context() as driven:
        await Reading(driven).take(None, key=b"queue:q1")
    (record,) = producer.to(topics.STEPS)
    assert steps.decode(record.value) == Resume(scope="queue:q1", reason="removed from the topic")


# ------------------------------------------------------------------ the steps log


async def test_a_record_of_the_log_is_acknowledged_once_the_table_has_it(producer, log):
    async with module.actuator.test_context() as driven:
        await Reading(driven).take(COUNTS)
    assert [record.topic for record in producer.sent] == [topics.ACTIONS_CHANGELOG]
    assert log.ledger.counts


async def test_when_the_log_was_last_read_is_told_as_long_as_it_is_ours(producer, log, monkeypatch):
    metrics.STEPS_READ.set(0)
    monkeypatch.setattr(tables.actions, "current", None)
    async with module.actuator.test_context() as driven:
        await Reading(driven).put(COUNTS)
        for _ in range(50):
            await asyncio.sleep(0)
        assert metrics.STEPS_READ._value.get() == 0
        monkeypatch.setattr(tables.actions, "current", log)
        await Reading(driven).take(COUNTS)
    assert metrics.STEPS_READ._value.get() == pytest.approx(time.time(), abs=30.0)


async def test_a_record_whose_state_cannot_be_stored_ends_the_agent_and_stays(producer, log):
    producer.refuse = lambda record: NotEnoughReplicasError() if record.topic == topics.ACTIONS_CHANGELOG else None
    async with module.actuator.test_context() as driven:
        event = await Reading(driven).put(COUNTS)
        with pytest.raises(NotEnoughReplicasError):
            await Reading(driven).take(COUNTS)
    assert not is_acknowledged(event)


async def test_a_record_read_while_the_log_is_not_ours_stays(producer, log, monkeypatch):
    monkeypatch.setattr(tables.actions, "current", None)
    async with module.actuator.test_context() as driven:
        event = await Reading(driven).put(COUNTS)
        for _ in range(50):
            await asyncio.sleep(0)
        monkeypatch.setattr(tables.actions, "current", log)
        await Reading(driven).take(COUNTS)
    assert not is_acknowledged(event)
