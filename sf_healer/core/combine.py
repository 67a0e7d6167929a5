"""One batch of reports of one source partition becomes at most one bundle per evidence partition.

The map-side combine: of each Job only the newest report of each kind is kept, so a batch of thousands of
reports costs the log a few records. Every kind is kept, never only the last status: an `error` followed by
`finished` is another story than `finished` alone.

Newest is meant in source time, as the fold means it: a producer's clock may step back within a batch. The
offset is that of the last report all the same, for it says how far the batch has come.
"""

from collections.abc import Iterable
from math import inf
from typing import Protocol

import msgspec

from sf_healer.core.events import Kind, Malformed, Report, decode
from sf_healer.core.evidence import Beat, Bundle, Word
from sf_healer.core.identity import Resolution, Unresolved
from sf_healer.core.marks import SourceMarks
from sf_healer.core.partitioning import partition_of


class Names(Protocol):
    """What names the Job of a report: identity.JobIndex or identity.ConventionIndex."""

    def resolve(self, report: Report) -> Resolution:
        """Name the Job or Jobs that a report speaks of."""
        ...


class SourceRecord(Protocol):
    """A record of the source topic, as aiokafka and the capture reader hand it over."""

    @property
    def offset(self) -> int:
        """Its offset in the source partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Kafka's timestamp, milliseconds since the epoch."""
        ...

    @property
    def value(self) -> bytes | None:
        """The message."""
        ...


class Rejected(msgspec.Struct, frozen=True):
    """A message that is evidence of nothing; it goes to the dead letters with this reason."""

    record: SourceRecord
    reason: str
    detail: str = ""
    report: Report | None = None


class Combined(msgspec.Struct):
    """What a batch came to: bundles by evidence partition, rejects, and reports counted by kind."""

    bundles: dict[int, Bundle]
    rejected: list[Rejected]
    reports: list[int]


#: Kinds that count for every Job of a queue when only the queue is named.
_SHARED_KINDS = frozenset({Kind.STARTED, Kind.LOADING})


class Combiner:
    """Combines batches for one source topic. Holds no state but the names it was given."""

    def __init__(self, names: Names, partitions: int) -> None:
        self._names = names
        self._partitions = partitions

    def combine(
        self,
        records: Iterable[SourceRecord],
        *,
        topic_id: str,
        source_partition: int,
        marks: SourceMarks,
        not_after: float = inf,
    ) -> Combined:
        """Combine one batch, records in order of their offsets; source times are clamped by `marks`.

        `not_after` is a broker's time (epoch seconds) at which the batch had been read: what follows live is not
        below any end yet, and a record from the future would outrank all that is said after it.
        """
        beats: dict[str, Beat] = {}
        words: dict[tuple[str, Kind], Word] = {}
        rejected: list[Rejected] = []
        counts = [0] * len(Kind)
        resolve = self._names.resolve
        low, high, bounds_until = 0.0, 0.0, -1
        for record in records:
            report = decode(record.value)
            if type(report) is Malformed:
                rejected.append(Rejected(record, report.reason, report.detail))
                continue
            assert isinstance(report, Report)
            kind = report.kind
            resolution = resolve(report)
            if type(resolution) is Unresolved:
                rejected.append(Rejected(record, f"unresolved_{resolution.reason}", report=report))
                continue
            counts[kind] += 1
            if kind is Kind.PONG:
                continue  # a service answers pings after its worker died: no sign of life (design §6)
            offset = record.offset
            if offset >= bounds_until:
                low, high = marks.bounds(offset)
                high = min(high, not_after)
                bounds_until = marks.bounds_hold_until(offset)
            source_at = min(max(record.timestamp / 1000, low), high)
            for key in resolution.keys:  # type: ignore[union-attr]  # narrowed by the type test above
                if kind is Kind.LOADING:
                    known = beats.get(key)
                    beat = Beat(key, source_at, offset, report.records_written)
                    beats[key] = beat if known is None else _newest_beat(known, beat)
                elif not resolution.shared or kind in _SHARED_KINDS:  # type: ignore[union-attr]
                    _keep_newest(words, Word(key, kind, source_at, offset, report.finished, report.detail))
        return Combined(self._bundles(topic_id, source_partition, beats, words), rejected, counts)

    def _bundles(
        self,
        topic_id: str,
        source_partition: int,
        beats: dict[str, Beat],
        words: dict[tuple[str, Kind], Word],
    ) -> dict[int, Bundle]:
        beats_of: dict[int, list[Beat]] = {}
        words_of: dict[int, list[Word]] = {}
        for key, beat in beats.items():
            beats_of.setdefault(partition_of(key, self._partitions), []).append(beat)
        for (key, _), word in words.items():
            words_of.setdefault(partition_of(key, self._partitions), []).append(word)
        return {
            partition: Bundle(
                topic_id,
                source_partition,
                tuple(beats_of.get(partition, ())),
                tuple(words_of.get(partition, ())),
            )
            for partition in sorted(beats_of.keys() | words_of.keys())
        }


def _newest_beat(known: Beat, later: Beat) -> Beat:
    """Join two beats of one Job, the second from a higher offset."""
    if later.source_at >= known.source_at and later.records_written >= 0:
        return later
    return Beat(known.key, max(known.source_at, later.source_at), later.offset, known.records_written)


def _keep_newest(words: dict[tuple[str, Kind], Word], later: Word) -> None:
    """Join a word with what is kept of its Job and kind; it comes from a higher offset."""
    known = words.get((later.key, later.kind))
    if known is None or (later.source_at, later.finished) >= (known.source_at, known.finished):
        words[later.key, later.kind] = later
    else:
        words[later.key, later.kind] = msgspec.structs.replace(known, offset=later.offset)
