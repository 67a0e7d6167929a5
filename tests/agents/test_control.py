"""Stop commands of the platform hold the Jobs of their queue; whatever else is said there is passed over."""

import json

import pytest
from aiokafka.errors import NotEnoughReplicasError

from agents import control as module
from agents import inventory
from sf_healer.adapters import metrics
from sf_healer.app import settings
from sf_healer.core.evidence import Hold, HoldCause
from sf_healer.core.identity import ConventionIndex
from sf_healer.core.partitioning import partition_of
from sf_healer.topics import EVIDENCE
from tests.agents.recording import BROKER_EPOCH, Driven, batch, edges, is_acknowledged
from tests.core.strategies import a_fact

QUEUE = "loader-btcusdt-api-trades-2025-06-01-P4nTkv"
JOBS = {"stf/one": QUEUE, "stf/two": QUEUE, "stf/other": "loader-ethusdt-ws-depth-2025-06-01-Zzzzzz"}


@pytest.fixture
def edge():
    with edges() as around:
        for key, queue in JOBS.items():
            around.names.put(a_fact(key, uid=key, queue_id=queue, producer_id=f"{key}__x"), now=BROKER_EPOCH)
        foreign = a_fact("stf/foreign", uid="f", queue_id=QUEUE, producer_id="", managed=False)
        around.names.put(foreign, now=BROKER_EPOCH)
        yield around


@pytest.fixture
async def agent(edge):
    inventory.first_list.set()
    async with module.control.test_context() as driven:
        yield Driven(driven)


def ordered(*values: bytes | None):
    return batch(settings.control_topic, 0, values)


def stop(queue: str) -> bytes:
    return json.dumps({"queue_id": queue, "command": "stop", "sent_at": 1.0}).encode()


def held(edge) -> dict[str, int]:
    found = edge.producer.evidence()
    assert all(isinstance(entry, Hold) and entry.cause is HoldCause.STOP_COMMAND for _, entry in found)
    return {entry.key: partition for partition, entry in found}


async def test_a_stop_holds_the_managed_jobs_of_its_queue_on_their_partitions(edge, agent):
    await agent.take(ordered(stop(QUEUE)))
    assert held(edge) == {key: partition_of(key, settings.partitions) for key in ("stf/one", "stf/two")}


async def test_a_queue_is_named_whatever_its_case(edge, agent):
    await agent.take(ordered(stop(QUEUE.lower())))
    assert held(edge).keys() == {"stf/one", "stf/two"}


async def test_a_stop_of_all_holds_every_managed_job(edge, agent):
    await agent.take(ordered(stop("all")))
    assert held(edge).keys() == JOBS.keys()


async def test_a_stop_of_an_unknown_queue_holds_nobody(edge, agent):
    await agent.take(ordered(stop("loader-nobody")))
    assert edge.producer.sent == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "unreadable"),
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (b"[" * 200_000, "unreadable"),
        (b'{"queue_id": 7, "command": "stop"}', "unreadable"),
        (b'{"command": "stop"}', "unreadable"),
        (json.dumps({"queue_id": QUEUE, "command": "ping"}).encode(), "other"),
        (json.dumps({"queue_id": QUEUE, "command": "STOP"}).encode(), "other"),
    ],
    ids=range(9),
)
async def test_garbage_and_other_commands_are_counted_and_passed_over(edge, agent, value, kind):
    before = metrics.CONTROL_COMMANDS.labels(kind=kind)._value.get()
    await agent.take(ordered(value, stop(QUEUE)))
    assert metrics.CONTROL_COMMANDS.labels(kind=kind)._value.get() == before + 1
    assert held(edge).keys() == {"stf/one", "stf/two"}


async def test_without_a_cluster_a_stop_holds_nobody(edge, agent, monkeypatch):
    monkeypatch.setattr(inventory, "names", ConventionIndex("stf"))
    await agent.take(ordered(stop(QUEUE)))
    assert edge.producer.sent == []


async def test_a_hold_that_is_not_acknowledged_leaves_the_command_unacknowledged(edge, agent):
    edge.producer.refuse = lambda record: NotEnoughReplicasError() if record.topic == EVIDENCE else None
    event = await agent.put(ordered(stop(QUEUE)))
    with pytest.raises(NotEnoughReplicasError):
        await agent.take(ordered(stop(QUEUE)))
    assert not is_acknowledged(event)
