"""Stop commands of the platform: they hold the Jobs of their queue, as evidence like any other.

`queue-control` is the platform's topic, only read here. Pauses of our own come on `sf-healer-control` and are
admission's business (agents/actuator.py).
"""

import msgspec
from faust.types import StreamT

from agents import inventory, topics
from agents.batches import unacknowledged
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import evidence
from sf_healer.core.identity import JobIndex
from sf_healer.core.partitioning import partition_of
from sf_healer.transport import Batch

#: One service takes this for its own queue id (notes of the platform), so all Jobs are held.
EVERY_QUEUE = "all"


class _StopCommand(msgspec.Struct):
    queue_id: str
    command: str


_decode = msgspec.json.Decoder(_StopCommand).decode


@app.agent(topics.stop_commands)
async def control(stream: StreamT[Batch]) -> None:
    """Hold the Jobs of every queue that is told to stop."""
    await inventory.first_list.wait()
    async for event in unacknowledged(stream):
        for record in event.value.records:
            await acknowledged(_holds(record.value))
        event.ack()


def _holds(value: bytes | None) -> list[Outgoing]:
    try:
        command = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        metrics.CONTROL_COMMANDS.labels(kind="unreadable").inc()
        return []  # not our topic: pings and whatever else the platform says there are no stop commands
    if command.command != "stop":
        metrics.CONTROL_COMMANDS.labels(kind="other").inc()
        return []
    metrics.CONTROL_COMMANDS.labels(kind="stop").inc()
    return [
        Outgoing(
            topics.evidence_log,
            evidence.encode(evidence.Hold(key, evidence.HoldCause.STOP_COMMAND)),
            partition_of(key, settings.partitions),
        )
        for key in _jobs_of(command.queue_id)
    ]


def _jobs_of(queue_id: str) -> list[str]:
    if not isinstance(inventory.names, JobIndex):
        return []  # without a cluster nobody knows which Jobs a queue has, and nothing is restarted either
    return [
        fact.key
        for fact in inventory.names.facts()
        if fact.managed and (queue_id == EVERY_QUEUE or fact.queue_id.lower() == queue_id.lower())
    ]
