"""Who this process was before it died, and how that one is taken out of the consumer group.

A process that dies without a word stays a member until its session runs out, and every rebalance of the group waits
for it: nobody reads meanwhile. Where one dies more often than that the group never settles, and nobody is ever
judged. So a process that comes back takes its former self out first, told by a client id that outlives the process.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from sf_healer.transport.questions import CONNECTION, raise_for, until_answered

if TYPE_CHECKING:
    from pathlib import Path

    from aiokafka.client import AIOKafkaClient

log = structlog.get_logger(__name__)

LIMIT_SECONDS: Final = 10.0
_FILE: Final = "client-id"


def client_id_of(directory: Path, prefix: str) -> str:
    """Give the client id of the worker with its state in this directory: `prefix` and a name made at the first call."""
    file = directory / _FILE
    if not file.exists():
        made = file.with_suffix(".new")
        made.write_text(uuid.uuid4().hex)
        made.replace(file)  # a kill in between must not leave half a name
    return f"{prefix}-{file.read_text().strip()}"


async def leave_as_former_self(client: AIOKafkaClient, group: str, client_id: str) -> int:
    """Take every member with this client id out of a group; returns how many there were.

    Nobody needs it to join: what stands in the way is logged, and the broker forgets the former self in time.
    """
    try:
        left: int = await until_answered(client, lambda: _leave(client, group, client_id), LIMIT_SECONDS)
    except KafkaError as error:
        log.warning("former_self_not_found", group=group, error=str(error) or type(error).__name__)
        return 0
    if left:
        log.info("left_as_former_self", group=group, members=left)
    return left


async def _leave(client: AIOKafkaClient, group: str, client_id: str) -> int:
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    answer: Any = await client.send(coordinator, DescribeGroupsRequest([group]), group=CONNECTION)
    (described,) = answer.to_object()["groups"]
    raise_for(described["error_code"], group)
    former = [member["member_id"] for member in described["members"] if member["client_id"] == client_id]
    for member in former:
        await client.send(coordinator, LeaveGroupRequest(group, member), group=CONNECTION)
    return len(former)
