"""From a record of the steps log to the webhook, through the actuator's agent on its Faust app: healing never waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import tables.actions
from agents import actuator as module
from agents.notifications import Notifier
from sf_healer import topics
from sf_healer.core import commands, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Command, Grounds, Outcome
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts
from sf_healer.settings import Settings
from tests.agents.recording import is_acknowledged
from tests.agents.test_actuator_agents import producer
from tests.lab.receiver import Receiver
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    import faust

    from tests.agents.recording import RecordingProducer

__all__ = ["producer"]

SECONDS = 30.0
ON = "restarted,failed,refused,quarantined,storm,would_restart"


def a_command(number: int, **changes: Any) -> Command:
    now = time.time()
    made = Command(
        id=f"c{number}",
        key=f"stf/loader-{number}",
        namespace="stf",
        name=f"loader-{number}",
        uid=f"u{number}",
        verdict="stuck",
        evidence=Grounds(unhealthy_at=now - 1, silence_seconds=301.0, threshold_seconds=300.0, detail="no report"),
        decided_at=now,
        expires_at=now + 600.0,
    )
    return msgspec.structs.replace(made, **changes)


def counts(*, base: int = 9, unhealthy: int = 1) -> FleetCounts:
    now = time.time()
    return FleetCounts(partition=0, partitions=1, at=now, base=base, unhealthy=unhealthy, sick=unhealthy)


class Log:
    """The steps log: what is put on it, and what the agent puts there itself, is read in order."""

    def __init__(self, agent: Any, sends: RecordingProducer, actuator: Actuator) -> None:
        self.agent = agent
        self.sends = sends
        self.actuator = actuator
        self.read = 0
        self.events: list[faust.Event] = []

    async def take(self, record: Any) -> None:
        """Read a record, and what it led to, until nothing more comes."""
        await self._put(steps.encode(record))
        await self.until(self._is_done, "everything to be read and every call to be answered")

    async def until(self, condition: Any, what: str) -> None:
        async def holds() -> bool:
            if self.agent._crash_reason is not None:
                raise self.agent._crash_reason
            await self._read_back()
            return bool(condition())

        await until_async(holds, what, seconds=SECONDS)

    async def _put(self, value: bytes | None) -> None:
        self.events.append(await self.agent.put(value, key=b"", partition=0, wait=False))

    def _is_done(self) -> bool:
        all_read = self.read == len(self.sends.to(topics.STEPS)) and all(map(is_acknowledged, self.events))
        return all_read and not module._reader.current()._calls

    async def _read_back(self) -> None:
        for record in self.sends.to(topics.STEPS)[self.read :]:
            self.read += 1
            await self._put(record.value)

    def outcomes(self) -> list[Outcome]:
        return [commands.decode_outcome(record.value) for record in self.sends.to(topics.OUTCOMES)]


@pytest.fixture
def actuator(producer: RecordingProducer, monkeypatch: pytest.MonkeyPatch) -> Actuator:
    limits = Limits(rate_per_minute=6000.0, rate_burst=600)
    owned = Actuator(worker="w1", limits=limits, observe_only=True)
    monkeypatch.setattr(tables.actions, "current", owned)
    module._reader.connected.set()
    return owned


def notify(receiver: Receiver, **options: Any) -> Notifier:
    notifier = Notifier(Settings(notify_url=receiver.url, notify_on=ON), **options)
    module._reader.audience[:] = [notifier]
    return notifier


async def test_each_final_outcome_is_posted_once_and_is_what_the_audit_has(producer, actuator):
    with Receiver() as receiver:
        notify(receiver)
        async with module.actuator.test_context() as driven:
            log = Log(driven, producer, actuator)
            await log.take(counts())
            await log.take(a_command(1))
            await log.take(a_command(1))  # sent again by a sweeper that crashed
            await log.until(lambda: receiver.bodies, "the webhook to be told")
            await module.disconnect(None)
    (body,) = receiver.bodies
    told = msgspec.json.decode(body)
    assert told["kind"] == "would_restart"
    first = log.outcomes()[0]
    assert msgspec.convert(told["outcome"], Outcome) == first
    assert (first.key, first.result) == ("stf/loader-1", "would_restart")


async def test_a_storm_is_told_when_it_begins_and_when_it_is_over(producer, actuator):
    with Receiver() as receiver:
        notify(receiver)
        async with module.actuator.test_context() as driven:
            log = Log(driven, producer, actuator)
            await log.take(counts(base=10, unhealthy=0))
            await log.take(counts(base=10, unhealthy=6))
            actuator.ask_for(msgspec.structs.replace(actuator.limits, storm_canary_after_seconds=0.0))
            await log.take(counts(base=10, unhealthy=0))
            await log.until(lambda: len(receiver.bodies) == 2, "the webhook to be told")
            await module.disconnect(None)
    kinds = [msgspec.json.decode(body)["kind"] for body in receiver.bodies]
    assert kinds == ["storm_begun", "storm_ended"]
    assert msgspec.json.decode(receiver.bodies[0])["fleet"]["unhealthy"] == 6


async def test_a_receiver_that_hangs_holds_up_no_record_and_no_outcome(producer, actuator):
    with Receiver() as receiver:
        receiver._answers = [receiver.hang]
        notifier = notify(receiver, queue=2)
        async with module.actuator.test_context() as driven:
            log = Log(driven, producer, actuator)
            for number in range(8):
                await log.take(counts())
                await log.take(a_command(number))
            assert len(log.outcomes()) == 8
            assert receiver.answered == 0
            assert len(notifier._outbox) == 2
            await module.disconnect(None)
        assert not len(notifier._outbox)
        assert receiver.answered == 0


async def test_a_fault_in_telling_is_not_the_agents(producer, actuator, monkeypatch):
    with Receiver() as receiver:
        notifier = notify(receiver)

        def broken(_body: object) -> bytes:
            raise KeyError("a fault of ours")

        monkeypatch.setattr(notifier, "_write", broken)
        async with module.actuator.test_context() as driven:
            log = Log(driven, producer, actuator)
            for number in range(2):
                await log.take(counts())
                await log.take(a_command(number))
            assert len(log.outcomes()) == 2
            await module.disconnect(None)
    assert receiver.bodies == []
