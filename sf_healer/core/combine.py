"""Batches of reports of one source partition become at most one bundle per evidence partition.

The map-side combine: of each Job only the newest report of each kind is kept, so thousands of reports cost the log
a few records. Every kind is kept, never only the last status: an `error` followed by
`finished` is another story than `finished` alone.

Newest is meant in source time, as the fold means it: a producer's clock may step back within a batch. The
offset is that of the last report all the same, for it says how far the batch has come.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from math import inf
from typing import Protocol

import msgspec

from sf_healer.core.events import (
    RECORDS_WRITTEN_LIMIT,
    SIGN_OF_LIFE,
    UNREADABLE,
    Kind,
    Malformed,
    Report,
    decode,
    read_sign,
    report_of,
)
from sf_healer.core.evidence import Beat, Bundle, Word
from sf_healer.core.identity import SIGNS_OF_LIFE, Resolution, Resolved, Unresolved
from sf_healer.core.marks import SourceMarks
from sf_healer.core.partitioning import partition_of
from sf_healer.core.wire import FARTHEST_SECONDS


class Names(Protocol):
    """What names the Job of a report: identity.JobIndex or identity.ConventionIndex."""

    @property
    def version(self) -> int:
        """Another number whenever a producer and a queue id may mean another Job than they did."""
        ...

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


#: What the reason of a Rejected begins with whose report names nobody.
_UNRESOLVED = "unresolved_"


class Rejected(msgspec.Struct, frozen=True):
    """A message that is evidence of nothing; it goes to the dead letters with this reason."""

    record: SourceRecord
    reason: str
    detail: str = ""
    report: Report | None = None

    @property
    def names_nobody(self) -> bool:
        """Whether its report named a Job that is not known."""
        return self.reason.startswith(_UNRESOLVED)


class Ignored(StrEnum):
    """Why a record is evidence of nothing although nobody is at fault."""

    PONG = "pong"  # a service answers pings after its worker died: no sign of life
    SEVERAL_JOBS = "several_jobs"  # an end or an error that may be of any of several Jobs is of none
    NOT_OURS = "not_ours"  # of a partition taken from us, or a topic made anew, before it was told


class Combined(msgspec.Struct):
    """What a batch came to: bundles by evidence partition, rejects, and reports counted by kind.

    Each record of the batch is rejected, ignored, or a report that was folded into a bundle.
    """

    bundles: dict[int, Bundle]
    rejected: list[Rejected]
    reports: list[int]
    ignored: dict[Ignored, int]

    @property
    def folded(self) -> int:
        """How many reports the bundles stand for."""
        return sum(self.reports) - self.ignored.get(Ignored.PONG, 0) - self.ignored.get(Ignored.SEVERAL_JOBS, 0)


#: How many names are kept with the Job and the evidence partition they mean; some 400 bytes each.
CACHED_PLACES = 131_072


class Combiner:
    """Combines batches for one source topic. Holds no state but the names it was given, and what they meant."""

    def __init__(self, names: Names, partitions: int) -> None:
        self._names = names
        self._partitions = partitions
        # By producer: a queue id, neither of them empty, the one Job that both mean, and its evidence partition. Of
        # Jobs that share a producer the last one is kept: a key of two texts would cost all others a third more.
        self._places: dict[str, tuple[str, str, int]] = {}
        self._places_of = names.version

    def combine(
        self,
        records: Iterable[SourceRecord],
        *,
        topic_id: str,
        source_partition: int,
        marks: SourceMarks,
        not_after: float = inf,
    ) -> Combined:
        """Combine one batch by itself; see gather."""
        gathered = self.begin()
        self.gather(records, gathered, marks=marks, not_after=not_after)
        return gathered.combined(topic_id, source_partition)

    def begin(self) -> "Gathered":
        """Begin with nothing."""
        return Gathered(self._partitions)

    def gather(
        self, records: Iterable[SourceRecord], gathered: "Gathered", *, marks: SourceMarks, not_after: float = inf
    ) -> None:
        """Take in a batch; all that was gathered before is of the same source partition, at lower offsets.

        Records are in order of their offsets; source times are clamped by `marks`. `not_after` is a broker's time
        (epoch seconds) at which the batch had been read: what follows live is not below any end yet, and a record
        from the future would outrank all that is said after it.

        The hot path is a sign of life of a Job that was named before: nothing is made of it but its Beat.
        """
        clock = _Clock(marks, not_after)
        self._forget_places_if_names_changed()
        place_of, beats_of = self._places.get, gathered.beats
        low = high = 0.0
        holds_until = -1  # the clock has to be asked
        signs_of_life = 0
        for record in records:
            try:
                sign = read_sign(record.value)  # type: ignore[arg-type]  # of null it raises as of what it cannot read
            except UNREADABLE:
                place = report = None
            else:
                is_life = sign.status == SIGN_OF_LIFE
                place = place_of(sign.producer) if is_life else None
                if place is not None and place[0] != sign.queue_id:
                    place = None
                report = report_of(sign) if is_life and place is None else None
            if place is None:
                self._take(record, report or decode(record.value), clock, gathered)
                holds_until = -1
                continue
            signs_of_life += 1
            _, key, partition = place
            offset, source_at, records_written = record.offset, record.timestamp / 1000, sign.records_written
            if offset >= holds_until:
                low, high, holds_until = clock.at(offset)
            if not 0 <= records_written < RECORDS_WRITTEN_LIMIT:
                records_written = -1
            if low <= source_at <= high:
                beat = Beat(key, source_at, offset, records_written)
            else:
                source_at, said_at = _within(source_at, low, high)
                beat = Beat(key, source_at, offset, records_written, said_at)
            beats = beats_of[partition]
            known = beats.get(key)
            if known is not None and (
                records_written < 0
                or source_at < known.source_at
                or beat.said_at is not None
                or known.said_at is not None
            ):
                beat = _newest_beat(known, beat)
            beats[key] = beat
        gathered.reports[Kind.LOADING] += signs_of_life

    def gather_unresolved(self, gathered: "Gathered", *, marks: SourceMarks, not_after: float = inf) -> None:
        """Try those again that named nobody, now that more may be known of the Jobs; bounds as in gather."""
        again = self.begin()
        self.gather([reject.record for reject in gathered.take_unresolved()], again, marks=marks, not_after=not_after)
        gathered.join(again)

    def _take(self, record: SourceRecord, report: Report | Malformed, clock: "_Clock", gathered: "Gathered") -> None:
        """Take in a report of any kind and dialect."""
        if type(report) is Malformed:
            gathered.rejected.append(Rejected(record, report.reason, report.detail))
            return
        assert isinstance(report, Report)
        resolution = self._names.resolve(report)
        self._forget_places_if_names_changed()
        if type(resolution) is Unresolved:
            gathered.rejected.append(Rejected(record, f"{_UNRESOLVED}{resolution.reason}", report=report))
            return
        assert isinstance(resolution, Resolved)
        kind, offset = report.kind, record.offset
        gathered.reports[kind] += 1
        if kind is Kind.PONG:
            gathered.ignore(Ignored.PONG)
            return
        if resolution.shared and kind not in SIGNS_OF_LIFE:
            gathered.ignore(Ignored.SEVERAL_JOBS)
            return
        low, high, _ = clock.at(offset)
        source_at, said_at = _within(record.timestamp / 1000, low, high)
        for key in resolution.keys:
            partition = partition_of(key, self._partitions)
            if kind is Kind.LOADING:
                gathered.beat(partition, Beat(key, source_at, offset, report.records_written, said_at))
            else:
                if said_at is None and record.timestamp / 1000 > source_at:
                    said_at = min(record.timestamp / 1000, FARTHEST_SECONDS)  # by a fast clock
                gathered.word(partition, Word(key, kind, source_at, offset, report.finished, report.detail, said_at))
        self._remember(report, resolution)

    def _remember(self, report: Report, resolution: Resolved) -> None:
        if report.producer and report.queue_id and len(resolution.keys) == 1:
            if len(self._places) >= CACHED_PLACES:
                self._places.clear()
            (key,) = resolution.keys
            self._places[report.producer] = (report.queue_id, key, partition_of(key, self._partitions))

    def _forget_places_if_names_changed(self) -> None:
        if self._places_of != self._names.version:
            self._places_of = self._names.version
            self._places.clear()


class _Clock:
    """The bounds of source time, as they are at one offset and hold up to another; epoch seconds."""

    def __init__(self, marks: SourceMarks, not_after: float) -> None:
        self._marks, self._not_after = marks, not_after
        self._low, self._high, self._holds_until = 0.0, 0.0, -1

    def at(self, offset: int) -> tuple[float, float, int]:
        """Give the bounds at an offset, and up to which offset they hold; offsets grow."""
        if offset >= self._holds_until:
            self._low, high = self._marks.bounds(offset)
            self._high = min(high, self._not_after)
            self._holds_until = self._marks.bounds_hold_until(offset)
        return self._low, self._high, self._holds_until


class Gathered:
    """What batches of one source partition, one behind the other, have come to so far."""

    def __init__(self, partitions: int) -> None:
        self.beats: list[dict[str, Beat]] = [{} for _ in range(partitions)]
        self.rejected: list[Rejected] = []
        self.reports = [0] * len(Kind)
        self.ignored: dict[Ignored, int] = {}
        self.words: list[dict[tuple[str, Kind], Word]] = [{} for _ in range(partitions)]

    @property
    def size(self) -> int:
        """How many beats and words there are."""
        return sum(map(len, self.beats)) + sum(map(len, self.words))

    def unresolved(self, *, since: int = 0) -> list[Report]:
        """Give the reports that named a Job that is not known, skipping the first `since` rejects."""
        return [
            reject.report
            for reject in islice(self.rejected, since, None)
            if reject.names_nobody and reject.report is not None
        ]

    def take_unresolved(self) -> list[Rejected]:
        """Take out those that named nobody, in order of their offsets."""
        taken = [reject for reject in self.rejected if reject.names_nobody]
        self.rejected = [reject for reject in self.rejected if not reject.names_nobody]
        return taken

    def ignore(self, reason: Ignored, count: int = 1) -> None:
        """Count what is evidence of nothing."""
        self.ignored[reason] = self.ignored.get(reason, 0) + count

    def beat(self, partition: int, beat: Beat) -> None:
        """Join a beat with what is known of its Job."""
        beats = self.beats[partition]
        known = beats.get(beat.key)
        beats[beat.key] = beat if known is None else _newest_beat(known, beat)

    def word(self, partition: int, word: Word) -> None:
        """Join a word with what is known of its Job and kind."""
        _keep_newest(self.words[partition], word)

    def join(self, other: "Gathered") -> None:
        """Join what other records of the same source partition came to, whatever their offsets are."""
        for partition, beats in enumerate(other.beats):
            for beat in beats.values():
                self.beat(partition, beat)
        for partition, words in enumerate(other.words):
            for word in words.values():
                self.word(partition, word)
        self.rejected += other.rejected
        self.reports = [mine + more for mine, more in zip(self.reports, other.reports, strict=True)]
        for reason, count in other.ignored.items():
            self.ignore(reason, count)

    def combined(self, topic_id: str, source_partition: int) -> Combined:
        """Put it into bundles."""
        bundles = {
            partition: Bundle(topic_id, source_partition, tuple(beats.values()), tuple(words.values()))
            for partition, (beats, words) in enumerate(zip(self.beats, self.words, strict=True))
            if beats or words
        }
        return Combined(bundles, self.rejected, self.reports, self.ignored)


def _within(said_at: float, low: float, high: float) -> tuple[float, float | None]:
    """Give a source time within its bounds, and as it was said where they raise it, None where they do not.

    Where the bounds contradict each other, the upper one holds. Kafka says -1 where there is no timestamp.
    """
    source_at, said_at = min(max(said_at, low), high), max(said_at, 0.0)
    return source_at, said_at if said_at < source_at else None


def _newest_beat(known: Beat, later: Beat) -> Beat:
    """Join two beats of one Job; where both have one source time the records of the higher offset count."""
    source_at, said_at = _newest_times(known, later)
    is_newer = (later.source_at, later.offset) >= (known.source_at, known.offset)
    newest = later if is_newer and later.records_written >= 0 else known
    return Beat(known.key, source_at, max(known.offset, later.offset), newest.records_written, said_at)


def _keep_newest(words: dict[tuple[str, Kind], Word], later: Word) -> None:
    """Join a word with what is kept of its Job and kind."""
    known = words.get((later.key, later.kind))
    if known is None:
        words[later.key, later.kind] = later
        return
    newest = later if _order_of(later) >= _order_of(known) else known
    words[later.key, later.kind] = msgspec.structs.replace(newest, offset=max(known.offset, later.offset))


def _order_of(word: Word) -> tuple[float, float, bool, int]:
    """Order words of one kind: of those that one mark raised, the later said is the newer."""
    return word.source_at, word.source_at if word.said_at is None else word.said_at, word.finished, word.offset


def _newest_times(known: Beat, later: Beat) -> tuple[float, float | None]:
    """Join the source times of two beats, the bounded ones and those that were said."""
    source_at = max(known.source_at, later.source_at)
    said_at = max(
        known.source_at if known.said_at is None else known.said_at,
        later.source_at if later.said_at is None else later.said_at,
    )
    return source_at, said_at if said_at < source_at else None
