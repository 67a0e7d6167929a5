"""What a worker has put on the evidence log, and what it may claim about it: the logic of telemetry and marks.

The agent does the sending and the waiting; here is everything it decides. For one batch, or several of a source
partition: `begin`, `gather` each, `combined`, send the bundles, `acknowledged` for each. Per mark interval: send
something where `stale` says so, `w`, read the ends, `note_ends`, then send what `claims` returns, and `claimed` when
that is acknowledged. Monotonic clock readings are arguments.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf
from operator import itemgetter

from sf_healer.core.combine import Combined, Combiner, Gathered, Names, SourceRecord
from sf_healer.core.evidence import Mark
from sf_healer.core.marks import Ends, SourceMarks

_NEVER = float("-inf")


class Reset:
    """What is to be told of a source partition whose offsets were out of range; its end if they `started_over`."""

    def __init__(self, *, started_over: bool) -> None:
        self.started_over = started_over
        self.end: int | None = None


class Forwarder:
    """One worker's view of its source partitions and of the evidence partitions it writes to."""

    def __init__(self, names: Names, *, partitions: int) -> None:
        self.partitions = partitions
        self._topic_id = ""
        self._combiner = Combiner(names, partitions)
        self._marks: dict[int, SourceMarks] = defaultdict(SourceMarks)
        self._marks_of = ""  # the topic whose ends were noted in them
        # By source partition, what is still to be told: each is a thing of its own, though two are of one partition.
        self._resets: dict[int, Reset] = {}
        self._telling: dict[int, Reset] = {}  # those in the marks that `claims` gave last
        # Per evidence partition: the broker's time of our newest acknowledged record, and our monotonic clock when
        # it was sent. Sent before it was appended, so adding what has passed since gives a time that is not too early.
        self._newest: dict[int, tuple[float, float]] = {}

    @property
    def topic_id(self) -> str:
        """Kafka's id of the source topic; empty until it is known, and again when the topic was recreated."""
        return self._topic_id

    @topic_id.setter
    def topic_id(self, topic_id: str) -> None:
        self._topic_id = topic_id
        if topic_id and topic_id != self._marks_of:
            self._marks.clear()  # the ends of a topic that is no more say nothing of when this one's records came
            self._marks_of = topic_id

    def begin(self) -> Gathered:
        """Begin to gather what batches of one source partition say."""
        return self._combiner.begin()

    def gather(self, records: Iterable[SourceRecord], gathered: Gathered, source_partition: int, *, now: float) -> None:
        """Take in a batch, behind those that were gathered before; `now` is the clock when it had been read."""
        self._combiner.gather(
            records, gathered, marks=self._marks[source_partition], not_after=self.broker_time(now=now)
        )

    def gather_unresolved(self, gathered: Gathered, source_partition: int, *, now: float) -> None:
        """Try those again that named nobody, after the Jobs were listed."""
        self._combiner.gather_unresolved(
            gathered, marks=self._marks[source_partition], not_after=self.broker_time(now=now)
        )

    def combined(self, gathered: Gathered, source_partition: int) -> Combined:
        """Put what was gathered into bundles, of the topic that is read now."""
        return gathered.combined(self.topic_id, source_partition)

    def behind(self, source_partition: int, position: int) -> int:
        """Say how many offsets could be read from a position on, when the last mark asked; none if negative."""
        return self._marks[source_partition].readable - position

    def broker_time(self, *, now: float) -> float:
        """Return the broker's time (epoch seconds), not too early; infinite before anything was acknowledged."""
        return max((appended_at + now - sent_at for appended_at, sent_at in self._newest.values()), default=inf)

    def acknowledged(self, partition: int, *, appended_at: float, sent_at: float) -> None:
        """Note that the broker appended a record of ours (epoch seconds) that was sent at `sent_at` (monotonic).

        The one sent last is the newest: its time may be the earlier one, if the broker's clock was ahead.
        """
        known = self._newest.get(partition, (0.0, _NEVER))
        self._newest[partition] = max(known, (appended_at, sent_at), key=itemgetter(1, 0))

    def stale(self, *, now: float, interval: float) -> list[int]:
        """Name the evidence partitions that have had nothing of ours for an interval: their W would be old."""
        return [
            partition
            for partition in range(self.partitions)
            if now - self._newest.get(partition, (0.0, _NEVER))[1] > interval
        ]

    def newest_sent_at(self) -> dict[int, float]:
        """Return when our newest acknowledged record of each evidence partition was sent (monotonic seconds)."""
        return {partition: sent_at for partition, (_, sent_at) in self._newest.items()}

    def w(self) -> dict[int, float]:
        """Return W: the broker's time of our newest acknowledged record in each evidence partition."""
        return {partition: appended_at for partition, (appended_at, _) in self._newest.items()}

    def note_ends(self, ends: Mapping[int, Ends], w: dict[int, float], *, now: float) -> dict[int, int]:
        """Take in the ends of source partitions, read after `w` was noted; `now` is the clock after the reading.

        Returns how many offsets were lost, of each source partition that ends before where it ended: reports that were
        acknowledged and never replicated. Nobody will read them, so they are told as a reset is.
        """
        not_after = self.broker_time(now=now)
        tails_lost = {}
        for source_partition, at in ends.items():
            lost = self._marks[source_partition].note(at, w, not_before=min(w.values()), not_after=not_after)
            if lost and source_partition not in self._resets:
                self._resets[source_partition] = Reset(started_over=False)
                tails_lost[source_partition] = lost
        return tails_lost

    def starting_over(self, source_partitions: int) -> dict[int, Reset]:
        """Return the resets whose offsets began anew: `note_starts_over` takes the ends that are asked for then."""
        for source_partition, reset in self._resets.items():
            if source_partition >= source_partitions:
                reset.started_over = False  # the topic has no such partition any more, so none that goes on
        return {source_partition: reset for source_partition, reset in self._resets.items() if reset.started_over}

    @staticmethod
    def note_starts_over(resets: Mapping[int, Reset], ends: Mapping[int, Ends]) -> None:
        """Take in where source partitions end whose offsets have begun anew; read after `starting_over`."""
        for source_partition, reset in resets.items():
            reset.end = ends[source_partition].readable

    def starts_over(self, source_partition: int) -> bool:
        """Whether a source partition's offsets begin anew and no mark that tells it is acknowledged yet."""
        reset = self._resets.get(source_partition)
        return reset is not None and reset.started_over

    def claims(self, positions: Mapping[int, int], source_partitions: int) -> dict[int, Mark]:
        """Return the marks to send, by evidence partition; without a claim where there is only a reset to tell.

        `positions` tells up to where each source partition is forwarded and acknowledged, `source_partitions` how
        many the topic has.
        """
        self._telling = dict(self._resets)
        told_to = range(self.partitions if self._telling else 0)  # each evidence partition, whatever is claimed there
        sources: dict[int, list[tuple[int, float]]] = defaultdict(list, {partition: [] for partition in told_to})
        for source_partition, position in sorted(positions.items()):
            w = self._marks[source_partition].claim(position)
            for partition, at in (w or {}).items():
                sources[partition].append((source_partition, at))
        resets = tuple(sorted(self._telling))
        starts_over = tuple((source, end) for source in resets if (end := self._telling[source].end) is not None)
        return {
            partition: Mark(self.topic_id, source_partitions, tuple(claims), resets, starts_over)
            for partition, claims in sorted(sources.items())
        }

    def claimed(self) -> None:
        """Note that the marks that `claims` gave last are acknowledged: each reset is told once."""
        for source_partition, reset in self._telling.items():
            is_told = reset.end is not None or not reset.started_over
            if is_told and self._resets.get(source_partition) is reset:
                del self._resets[source_partition]
        self._telling = {}

    @property
    def has_resets(self) -> bool:
        """Whether there is a reset to tell."""
        return bool(self._resets)

    def assigned(self) -> None:
        """Note that reading began anew: which topic the positions belong to has to be asked.

        What was reset before is still ours to tell. A position behind the loss may have been committed, and then
        a worker that goes on from there is not out of range.
        """
        self.topic_id = ""

    def reset(self, source_partition: int, *, from_position: int, to_position: int) -> None:
        """Note that the source's offsets were out of range: what lies between is lost, or the topic is new."""
        started_over = to_position < from_position
        self._resets[source_partition] = Reset(started_over=started_over)
        if started_over:
            self.topic_id = ""  # recreated: what was seen of its offsets counts no longer
