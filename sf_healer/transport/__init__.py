"""A Faust transport that hands agents whole fetch batches: `faust.App(..., broker="batch://host:port")`.

Faust makes a message, an event and two tasks for every record. For a topic declared with `batched_topic` an
agent gets one event for each partition and fetch instead; its value is a `Batch` of raw records. Every other
topic behaves as in plain Faust. URLs, credentials and all settings are those of Faust's `kafka://`.

    events = batched_topic(app, "queue-events", limits=BatchLimits(max_records=5_000))

    @app.agent(events)
    async def telemetry(stream):
        async for event in stream.noack().events():
            for record in event.value:
                ...
            event.ack()

With `noack()` only `event.ack()` moves the offset. Without it Faust acknowledges when the loop turns, and
also when the agent raised. A batch that is never acknowledged holds the committed offset for good, and
`max_in_flight` of them stop the partition: an agent that cannot do a batch should end its process.

Order. The batches of a partition come in offset order, their records too; to keep it leave the agent's
`concurrency` at 1. Nothing is said between partitions.

Offsets. At least once. The offset committed for a partition is the position up to which everything was
handed over and acknowledged, in order, whatever the order of the acknowledgements: never beyond a batch or
message in flight. Positions cover what holds no record (control records, aborted transactions, compaction
gaps), so that an idle partition is committed up to its end. This holds for topics that are not batched as
well; plain Faust may commit past a message in flight there. `positions` reads the same position for batched
topics. Where a reset leads back, into another log under the same name, nothing is committed before something of that
is acknowledged: an agent that has not dealt with the reset leaves it to be found by whoever reads in its place.

Rebalance. When partitions are revoked everything in flight is forgotten, and the next owner starts at the
committed offset; a batch says so (`is_gone`), and an acknowledgement that comes later counts for nothing.
Where `stream_wait_empty` is on, Faust waits for the agents first and commits what they acknowledged.

Recovery. With `TableManager=BatchTableManager` the changelogs of tables come in batches too: `recovery.py` has the
terms. Without it table recovery is Faust's own.

Return. `name_client` gives an app a client id that outlives its process. A worker that comes back after a kill takes
its former self out of the group, and joins at once; otherwise the group would wait for the dead one until its session
is over, and a process in a crash loop would keep everybody else from reading. No two living processes may share a data
directory.

Resets. Where retention went past our position the consumer goes on as `consumer_auto_offset_reset` says, and
calls the `on_reset` callbacks first: what lies between was lost to this app. A group without a committed
offset starts by the same setting; that is no reset.

Flow control. A partition whose agent holds `max_in_flight` batches is left out of the fetch until one is
acknowledged or let go; the others go on. So a slow agent holds at most, for each partition, `max_in_flight` batches of
`max_bytes` plus one producer's record batch each, and one prefetched answer of `consumer_max_fetch_size` (or one
record batch, if that is larger). An agent that keeps of several batches less than they take may `let_go` of each and
acknowledge them later, together: they count as in flight for the offset alone, and what is kept of them is the agent's
to bound. Each poll takes at most one batch of each partition, so none waits for another's backlog. For topics that
are not batched one poll brings no more than Faust's own buffers still hold: Faust has one drain loop for all agents
and blocks it when one agent's buffer is full. It still blocks on a full producer buffer.

Sending. `send_together` puts many records for one partition into as few batches as they fit in; `topic.send` costs
tens of microseconds each.

An agent that keeps the event loop busy keeps everything else waiting: choose `max_records` so that one batch
is a matter of milliseconds. `gc.freeze()` once the app is up halves the cost of a record, for Python's cycle
collector else walks the whole heap for every few batches. Needs faust-streaming 0.15.3 and aiokafka 0.14.0
exactly: it builds on their insides. docs/transport.md names the tests behind each promise.
"""

from sf_healer.transport.api import (
    end_offsets,
    handed_over,
    join_error,
    log_ends,
    name_client,
    on_reset,
    positions,
    reached,
    topic_identity,
)
from sf_healer.transport.batch import Batch, BatchLimits, Record
from sf_healer.transport.consumer import OffsetReset
from sf_healer.transport.declare import batched_topic
from sf_healer.transport.driver import Transport
from sf_healer.transport.producing import Appended, ToSend, send_together
from sf_healer.transport.questions import TopicIdentity
from sf_healer.transport.recovery import RESTORE_LIMITS, BatchTableManager

__all__ = [
    "RESTORE_LIMITS",
    "Appended",
    "Batch",
    "BatchLimits",
    "BatchTableManager",
    "OffsetReset",
    "Record",
    "ToSend",
    "TopicIdentity",
    "Transport",
    "batched_topic",
    "end_offsets",
    "handed_over",
    "join_error",
    "log_ends",
    "name_client",
    "on_reset",
    "positions",
    "reached",
    "send_together",
    "topic_identity",
]
