"""What agents and timers ask the transport about their app. All of it runs on the app's event loop."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from faust.exceptions import AlreadyConfiguredWarning, ImproperlyConfigured

from sf_healer.transport.consumer import Consumer, OffsetReset
from sf_healer.transport.driver import Transport
from sf_healer.transport.former import client_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from faust.types import TP, AppT

    from sf_healer.transport.questions import TopicIdentity


def positions(app: AppT) -> dict[TP, int]:
    """Return up to where each assigned batched partition was handed over and acknowledged.

    Reaches the log's end on an idle or empty partition, and where only control records, an aborted
    transaction or a compaction gap follow. A partition is missing until a fetch confirmed where it stands.
    """
    return _consumer(app).positions()


def handed_over(app: AppT, tp: TP) -> int:
    """Return up to where a partition was handed over, acknowledged or not; 0 if it is not read."""
    return _consumer(app).handed_over(tp)


def reached(app: AppT) -> dict[TP, int | None]:
    """Return up to where each assigned partition is acknowledged, batched or not; for a watchdog.

    None for a partition that no fetch has confirmed since it was assigned: nothing may be arriving at all.
    """
    return _consumer(app).reached()


def join_error(app: AppT) -> Exception | None:
    """Return why the consumer group turned this app away for good: no right to it, a timeout that it refuses.

    None while there is hope. Faust would wait for ever, and nobody would be told.
    """
    return _consumer(app).join_error


async def end_offsets(app: AppT, tps: Iterable[TP], *, timeout_seconds: float = 10.0) -> dict[TP, int]:
    """Ask the brokers up to where partitions of topics this app subscribes to can be read: their high watermarks.

    Open transactions are included. Raises aiokafka's KafkaError: what stood in the way for `timeout_seconds`, or else
    KafkaTimeoutError.
    """
    return await _consumer(app).end_offsets(tps, timeout_seconds=timeout_seconds)


async def log_ends(app: AppT, tps: Iterable[TP], *, timeout_seconds: float = 10.0) -> dict[TP, int]:
    """Ask the brokers where the logs of partitions end, records included that too few replicas have to be read.

    An end may go back: such records can be lost with their leader. Raises as `end_offsets` does.
    """
    return await _consumer(app).log_ends(tps, timeout_seconds=timeout_seconds)


async def topic_identity(
    app: AppT, topic: str, *, max_age_seconds: float = 10.0, timeout_seconds: float = 10.0
) -> TopicIdentity:
    """Return the id and partition count of a topic as a broker gave them at most `max_age_seconds` ago.

    Raises aiokafka's KafkaError; UnknownTopicOrPartitionError where there is no such topic.
    """
    return await _consumer(app).topic_identity(topic, max_age_seconds=max_age_seconds, timeout_seconds=timeout_seconds)


def on_reset(app: AppT, callback: Callable[[OffsetReset], None]) -> None:
    """Call `callback` whenever a committed or read offset turned out to be gone from the broker.

    It is called before `positions` shows the jump and before anything behind it is handed over; for what
    happened since the app began, at once.
    """
    transport = _transport(app)
    transport.reset_callbacks.append(callback)
    for reset in transport.resets:
        callback(reset)


def name_client(app: AppT) -> None:
    """Give the app a client id of its own, kept in its data directory: the same whenever it is started there.

    Call it before the app starts, when the directory is there. A process that died is then taken out of the group
    by the one that comes after it, which is let in at once instead of when the dead one's session is over.
    """
    with warnings.catch_warnings():
        # Faust warns that somebody has read the old one. It was the producer, which is in no group.
        warnings.simplefilter("ignore", AlreadyConfiguredWarning)
        app.conf.broker_client_id = client_id_of(Path(app.conf.datadir), app.conf.id)
    _transport(app).has_own_client_id = True


def _transport(app: AppT) -> Transport:
    if not isinstance(app.transport, Transport):
        raise ImproperlyConfigured(f"app {app.conf.id!r} has no batch:// broker")
    return app.transport


def _consumer(app: AppT) -> Consumer:
    if not isinstance(app.consumer, Consumer):
        raise ImproperlyConfigured(f"app {app.conf.id!r} has no batch:// broker")
    return app.consumer
