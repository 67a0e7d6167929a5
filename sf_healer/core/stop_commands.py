"""Stop commands of the platform on `queue-control`: which Jobs one holds. Pure; the topic is only read here.

A stop may reach just one Job of its queue (notes of the platform), so it is no proof that a Job ends: it only
keeps the verdicts away for a while.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from sf_healer.core.combine import SourceRecord
from sf_healer.core.evidence import Hold, HoldCause
from sf_healer.core.facts import JobFact

#: One service takes this for its own queue id, so all Jobs are held.
EVERY_QUEUE = "all"


class ControlKind(StrEnum):
    """What a record of the platform's control topic is to us; a metric label."""

    STOP = "stop"
    OTHER = "other"
    UNREADABLE = "unreadable"


class _Message(msgspec.Struct):
    queue_id: str
    command: str


_decode = msgspec.json.Decoder(_Message).decode


def read(value: bytes | None) -> tuple[ControlKind, str]:
    """Say what a record is, and for a stop which queue it names; never raises.

    It is not our topic: pings and whatever else the platform says there are no stop commands.
    """
    try:
        message = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ControlKind.UNREADABLE, ""
    return (ControlKind.STOP, message.queue_id) if message.command == "stop" else (ControlKind.OTHER, "")


def jobs_to_hold(queue_id: str, facts: Iterable[JobFact]) -> list[str]:
    """Name the Jobs of the queue that was told to stop."""
    return [
        fact.key
        for fact in facts
        if fact.managed and (queue_id == EVERY_QUEUE or fact.queue_id.lower() == queue_id.lower())
    ]


def hold(key: str, partition: int, record: SourceRecord) -> Hold:
    """Hold a Job because of a record of one partition of the control topic."""
    return Hold(key, HoldCause.STOP_COMMAND, partition, record.offset, record.timestamp / 1000)
