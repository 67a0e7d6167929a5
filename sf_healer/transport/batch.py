"""The batch an agent gets, and how large it may become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from faust.types import TP

    from sf_healer.transport.ledger import Delivery

DEFAULT_MAX_RECORDS: Final = 20_000
"""Records in one batch where neither the limits nor Faust's `broker_max_poll_records` say otherwise."""


class Record(Protocol):
    """One record as aiokafka's C reader made it; nothing is copied, decoded or wrapped."""

    @property
    def offset(self) -> int:
        """Where it lies in its partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch: the broker's clock under LogAppendTime, else the producer's."""

    @property
    def key(self) -> bytes | None:
        """As sent."""

    @property
    def value(self) -> bytes | None:
        """As sent; None is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """As sent, in order; a name may come twice."""


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one partition may be in an agent's hands."""

    max_records: int | None = None
    """Records in one batch; None: Faust's `broker_max_poll_records`, or 20,000 where that is unset."""

    max_bytes: int = 8 * 1024 * 1024
    """Bytes of values at which a batch ends, with the producer's record batch that reaches them."""

    max_in_flight: int = 2
    """Batches at which the partition is left out of the fetch: one at work, one waiting.

    Those that are acknowledged or let go do not count.
    """


class Batch:
    """What one fetch brought from one partition: the value of one event."""

    __slots__ = (
        "_delivery",
        "_on_let_go",
        "log_end",
        "next_position",
        "records",
        "size_bytes",
        "start_position",
        "tp",
    )

    def __init__(
        self,
        tp: TP,
        records: list[Record],
        *,
        start_position: int,
        next_position: int,
        size_bytes: int,
        log_end: int | None = None,
        delivery: Delivery | None = None,
        on_let_go: Callable[[], None] | None = None,
    ) -> None:
        self.tp: Final = tp
        self.records = records
        """In offset order; never empty before it is let go."""
        self.start_position: Final = start_position
        """The position this batch begins at; its first record may lie behind a gap."""
        self.next_position: Final = next_position
        """The position after it: control records, aborted transactions and compaction gaps included."""
        self.size_bytes: Final = size_bytes
        """Of the values."""
        self.log_end: Final = log_end
        """The position after the partition's last record, as that fetch saw it; None where it did not say."""
        self._delivery = delivery
        self._on_let_go = on_let_go

    def let_go(self) -> None:
        """Free the records, and let the next batch be fetched in their place; the offset moves when it is acknowledged.

        For an agent that keeps of several batches less than they take, bounds that, and acknowledges them together.
        """
        self.records = []
        if self._delivery is not None:
            self._delivery.let_go = True
        if self._on_let_go is not None:
            self._on_let_go()

    def follows(self, other: Batch) -> bool:
        """Return whether it goes on where another one ended, in the same log."""
        return self.tp == other.tp and self.start_position == other.next_position and not other.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether it counts for nothing any more: the topic was recreated since it was read, or it will be read again.

        That is by whoever has the partition now, from the committed offset on, or by us after a seek.
        """
        return self._delivery is not None and self._delivery.abandoned

    @property
    def topic(self) -> str:
        """Name of its topic."""
        return self.tp.topic

    @property
    def partition(self) -> int:
        """Number of its partition."""
        return self.tp.partition

    @property
    def last_offset(self) -> int:
        """Offset of its last record, which is also the offset of Faust's message."""
        return self.records[-1].offset

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        return (
            f"<Batch {self.topic}:{self.partition} {len(self.records)} records, "
            f"positions {self.start_position} to {self.next_position}>"
        )
