"""Stop commands of the platform: they hold the Jobs of their queue, as evidence like any other.

`queue-control` is the platform's topic, only read here. Pauses of our own come on `sf-healer-control` and are
admission's business (agents/actuator.py).
"""

from faust.types import StreamT

from agents import inventory, topics
from agents.batches import unacknowledged
from agents.sending import Outgoing, acknowledged
from sf_healer.adapters import metrics
from sf_healer.app import detector as app
from sf_healer.app import settings
from sf_healer.core import evidence, stop_commands
from sf_healer.core.combine import SourceRecord
from sf_healer.core.identity import JobIndex
from sf_healer.core.partitioning import partition_of
from sf_healer.core.stop_commands import ControlKind
from sf_healer.transport import Batch


@app.agent(topics.stop_commands)
async def control(stream: StreamT[Batch]) -> None:
    """Hold the Jobs of every queue that is told to stop."""
    await inventory.first_list.wait()
    async for event in unacknowledged(stream):
        for record in event.value.records:
            await acknowledged(_holds(event.value.partition, record))
        event.ack()


def _holds(partition: int, record: SourceRecord) -> list[Outgoing]:
    kind, queue_id = stop_commands.read(record.value)
    metrics.CONTROL_COMMANDS.labels(kind=kind).inc()
    if kind is not ControlKind.STOP or not isinstance(inventory.names, JobIndex):
        return []  # without a cluster nobody knows which Jobs a queue has, and nothing is restarted either
    return [
        Outgoing(
            topics.evidence_log,
            evidence.encode(stop_commands.hold(key, partition, record)),
            partition_of(key, settings.partitions),
        )
        for key in stop_commands.jobs_to_hold(queue_id, inventory.names.facts())
    ]
