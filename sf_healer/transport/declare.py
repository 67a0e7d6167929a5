"""How a topic becomes batched: one call that builds the Faust topic and tells the app's transport.

Doing both in one call leaves no way to read a batched topic with a codec that cannot read a batch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import faust
from faust.exceptions import ImproperlyConfigured, ValueDecodeError

from sf_healer.transport.batch import Batch, BatchLimits

if TYPE_CHECKING:
    from faust.types import AppT, Message
    from faust.types.topics import TopicT


class BatchSchema(faust.Schema[None, Batch]):
    """Hands the batch through as it is; what is sent must be bytes."""

    def __init__(self) -> None:
        super().__init__(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    def loads_key(self, app: AppT, message: Message, **_codec: Any) -> None:
        """Return nothing: a batch has no key of its own."""

    def loads_value(self, app: AppT, message: Message, **_codec: Any) -> Batch:  # noqa: ARG002 (Faust's)
        """Return the batch itself.

        Raises ValueDecodeError where a single message arrives instead (a test that sends by hand).
        """
        value: object = message.value
        if not isinstance(value, Batch):
            raise ValueDecodeError(f"{message.topic} is batched, but got a {type(value).__name__}")
        return value


def batched_topic(app: AppT, name: str, *, limits: BatchLimits | None = None, **options: Any) -> TopicT:
    """Declare that `name` reaches this app's agents in batches; returns the topic to give to `@app.agent`.

    `options` are those of `app.topic()` that are not about codecs: partitions, internal, retention and so on.
    Sending to it takes bytes, one record at a time. Raises ImproperlyConfigured where the app's broker is not
    a `batch://` one, and ValueError where the same topic was declared with other limits.
    """
    declared = declarations(app)
    wanted = limits or BatchLimits()
    if declared.setdefault(name, wanted) != wanted:
        raise ValueError(f"{name} is already declared with other limits")
    topic = app.topic(name, schema=BatchSchema(), **options)
    # Not `stream_buffer_maxsize`: the ledgers bound it, and a full buffer would block the drain loop of all agents.
    cast("Any", topic).maxsize = sys.maxsize
    return topic


def declarations(app: AppT) -> dict[str, BatchLimits]:
    """Batched topics of this app alone, kept by its transport."""
    declared = getattr(app.transport, "batched_topics", None)
    if declared is None:
        raise ImproperlyConfigured(f"app {app.conf.id!r} needs a batch:// broker for batched topics")
    return cast("dict[str, BatchLimits]", declared)


def refuse_other_codecs(app: AppT) -> None:
    """Raise ImproperlyConfigured where an agent reads a batched topic through a topic not declared so."""
    declared = declarations(app)
    for channel in app.topics:
        for name in cast("Any", channel).topics:
            if name in declared and not isinstance(cast("Any", channel).schema, BatchSchema):
                raise ImproperlyConfigured(f"{name} is batched: read it through batched_topic() everywhere")
