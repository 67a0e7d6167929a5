"""Up to where an evidence partition's log is complete, and which stretches of it prove nothing.

Rules (docs/architecture.md says why):
- The watermark is the smallest W over all source partitions of the source topic; it never goes back.
- The set of source partitions only grows within one topic id; a new topic id replaces it.
- Two watermarks further apart than `feed_gap`, the first one of all, and an out-of-range reset are feed gaps:
  their length is nobody's silence.
- Within one silent episode the first gap re-bases the Job to the gap's end; later gaps are only subtracted.
  A worker in a crash loop would otherwise hide a stuck Job for ever.
- A gap in which reports were lost (a reset, a recreated topic) re-bases every Job: what nobody will ever read may have
  been its sign of life (docs/decisions/0023). In a gap of any other kind it waits to be read. What was lost had been
  said before the mark that tells of it was appended, so that gap lasts until the watermark has come there: a source
  partition that lags may hold it back far before.

- A broker's clock may have been ahead, and be right again. What it dated beyond now goes back by as much, and the next
  step is a gap that re-bases everybody.

Times are epoch seconds of the broker's clock, as append times are.
"""

from bisect import bisect_right

import msgspec

from sf_healer.core.evidence import Mark

GAPS_KEPT = 512
TOPIC_IDS_REMEMBERED = 16
_NOTHING_ASKED = (-1.0, 0.0, 0.0)


class Advance(msgspec.Struct, frozen=True):
    """The watermark moved to `to`; `gap` says that the way there is a feed gap."""

    to: float
    gap: bool


class Gaps:
    """Feed gaps in order of time, with what silence is left when they are taken out.

    Bounded to GAPS_KEPT: dropping the oldest re-bases a Job that has been silent since before it to a later
    gap, so the verdict comes late, never early.
    """

    def __init__(self, gaps: tuple[tuple[float, float], ...] = (), lost_until: float = 0.0) -> None:
        self._starts = [start for start, _ in gaps]
        self._ends = [end for _, end in gaps]
        self._newest_loss = bisect_right(self._ends, lost_until) - 1
        #: The latest answer and its question: of restored Jobs many were last heard at the end of one checkpoint.
        self._answered = _NOTHING_ASKED

    def add(self, start: float, end: float, *, lost: bool = False) -> None:
        """Append the gap (start, end]; gaps come in order of time. `lost`: reports in it were lost.

        One that goes on where the one before has ended, and lost reports as well, is one gap with it.
        """
        self._answered = _NOTHING_ASKED
        if lost and self._ends and self._newest_loss == len(self._ends) - 1 and self._ends[-1] == start:
            self._ends[-1] = end
            return
        self._starts.append(start)
        self._ends.append(end)
        dropped = max(0, len(self._ends) - GAPS_KEPT)
        del self._starts[:dropped], self._ends[:dropped]
        self._newest_loss = len(self._ends) - 1 if lost else max(-1, self._newest_loss - dropped)

    @property
    def lost_until(self) -> float:
        """The end of the newest gap in which reports were lost; 0 for none."""
        return self._ends[self._newest_loss] if self._newest_loss >= 0 else 0.0

    def silence(self, since: float, now: float) -> float:
        """Return the silence in seconds that counts between the moment `since` and the watermark `now`."""
        first = bisect_right(self._ends, since)
        if first == len(self._ends):
            return now - since
        known_since, known_now, silence = self._answered
        if since != known_since or now != known_now:
            first = max(first, self._newest_loss)
            later = sum(self._ends[i] - self._starts[i] for i in range(first + 1, len(self._ends)))
            silence = now - self._ends[first] - later
            self._answered = since, now, silence
        return silence

    def put_right(self, now: float, ahead_seconds: float) -> "Gaps":
        """Return the gaps with what lies beyond `now` that much earlier, still in order of time."""
        gaps: list[tuple[float, float]] = []
        before = 0.0
        for gap in zip(self._starts, self._ends, strict=True):
            start, end = (at - ahead_seconds if at > now else at for at in gap)
            start = max(before, start)
            before = max(start, end)
            gaps.append((start, before))
        lost_until = gaps[self._newest_loss][1] if self._newest_loss >= 0 else 0.0
        return Gaps(tuple(gaps), lost_until)

    def as_tuple(self) -> tuple[tuple[float, float], ...]:
        """Return the gaps as (start, end) pairs, oldest first."""
        return tuple(zip(self._starts, self._ends, strict=True))


class Watermark:
    """The watermark of one evidence partition, folded from its marks."""

    def __init__(self, *, feed_gap_seconds: float) -> None:
        self.feed_gap_seconds = feed_gap_seconds
        self.value = 0.0
        self.topic_id = ""
        self.partitions = 0
        self.marks: dict[int, float] = {}
        self.gaps = Gaps()
        #: An offset reset was told of; the next step of the watermark is a gap.
        self.reset_pending = False
        #: Up to here what was lost may have been said: until the watermark has passed it, all its steps are gaps.
        self.lost_through = 0.0
        self.replaced_topic_ids: tuple[str, ...] = ()

    def apply(self, mark: Mark, at: float = 0.0) -> Advance | None:
        """Fold a mark that was appended at `at`; returns how the watermark moved, None if it did not."""
        if mark.topic_id in self.replaced_topic_ids:
            return None  # a worker with metadata from before the topic was recreated
        lost = bool(mark.reset)
        if mark.topic_id != self.topic_id:
            lost = self._replace_topic(mark.topic_id) or lost
        self.partitions = max(self.partitions, mark.partitions)
        for source_partition, w in mark.sources:
            self.partitions = max(self.partitions, source_partition + 1)
            self.marks[source_partition] = max(w, self.marks.get(source_partition, 0.0))
        if lost:
            self.lose(max(at, *(w for _, w in mark.sources), 0.0))
        if len(self.marks) < self.partitions:
            return None
        return self._advance(min(self.marks.values()))

    def put_right(self, now: float, ahead_seconds: float) -> None:
        """Bring back by `ahead_seconds` what is later than `now`; what comes until then may count for lost."""
        self.gaps = self.gaps.put_right(now, ahead_seconds)
        self.marks = {source: max(0.0, w - ahead_seconds) if w > now else w for source, w in self.marks.items()}
        if self.value > now:
            newest_gap = self.gaps.as_tuple()[-1:]
            self.value = max(self.value - ahead_seconds, *(end for _, end in newest_gap), 0.0)
        self.reset_pending, self.lost_through = True, now

    def lose(self, through: float) -> None:
        """Take reports for lost that were said up to then: until the watermark has passed it, its steps are gaps."""
        self.reset_pending, self.lost_through = True, max(self.lost_through, through)

    def _advance(self, to: float) -> Advance | None:
        if to <= self.value:
            return None
        lost = self.reset_pending or self.value < self.lost_through
        gap = lost or self.value == 0.0 or to - self.value > self.feed_gap_seconds
        if gap:
            self.gaps.add(self.value, to, lost=lost)
        self.value = to
        self.reset_pending = False
        return Advance(to, gap)

    def _replace_topic(self, topic_id: str) -> bool:
        """Begin with the partitions of another topic; returns whether there was one before, and is gone."""
        before = self.topic_id
        if before:
            self.replaced_topic_ids = (*self.replaced_topic_ids, before)[-TOPIC_IDS_REMEMBERED:]
        self.topic_id = topic_id
        self.partitions = 0
        self.marks = {}
        return before != ""
