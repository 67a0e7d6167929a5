"""Up to where an evidence partition's log is complete, and which stretches of it prove nothing.

Rules (design §4):
- The watermark is the smallest W over all source partitions of the source topic; it never goes back.
- The set of source partitions only grows within one topic id; a new topic id replaces it.
- Two watermarks further apart than `feed_gap`, the first one of all, and an out-of-range reset are feed gaps:
  their length is nobody's silence.
- Within one silent episode the first gap re-bases the Job to the gap's end; later gaps are only subtracted.
  A worker in a crash loop would otherwise hide a stuck Job for ever.
- A gap in which reports were lost (a reset, a topic made anew) re-bases every Job: what nobody will ever read may have
  been its sign of life (docs/decisions/0023). In a gap of any other kind it waits to be read.

Times are epoch seconds of the broker's clock, as append times are.
"""

from bisect import bisect_right

import msgspec

from sf_healer.core.evidence import Mark

GAPS_KEPT = 512
TOPIC_IDS_REMEMBERED = 16


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

    def add(self, start: float, end: float, *, lost: bool = False) -> None:
        """Append the gap (start, end]; gaps come in order of time. `lost`: reports in it were lost."""
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
        first = max(first, self._newest_loss)
        later = sum(self._ends[i] - self._starts[i] for i in range(first + 1, len(self._ends)))
        return now - self._ends[first] - later

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
        self.replaced_topic_ids: tuple[str, ...] = ()

    def apply(self, mark: Mark) -> Advance | None:
        """Fold a mark; returns how the watermark moved, None if it did not."""
        if mark.topic_id in self.replaced_topic_ids:
            return None  # a worker with metadata from before the topic was made anew
        if mark.topic_id != self.topic_id:
            self._replace_topic(mark.topic_id)
        self.partitions = max(self.partitions, mark.partitions)
        for source_partition, w in mark.sources:
            self.partitions = max(self.partitions, source_partition + 1)
            self.marks[source_partition] = max(w, self.marks.get(source_partition, 0.0))
        self.reset_pending = self.reset_pending or bool(mark.reset)
        if len(self.marks) < self.partitions:
            return None
        return self._advance(min(self.marks.values()))

    def _advance(self, to: float) -> Advance | None:
        if to <= self.value:
            return None
        gap = self.reset_pending or self.value == 0.0 or to - self.value > self.feed_gap_seconds
        if gap:
            self.gaps.add(self.value, to, lost=self.reset_pending)
        self.value = to
        self.reset_pending = False
        return Advance(to, gap)

    def _replace_topic(self, topic_id: str) -> None:
        if self.topic_id:
            self.replaced_topic_ids = (*self.replaced_topic_ids, self.topic_id)[-TOPIC_IDS_REMEMBERED:]
            self.reset_pending = True
        self.topic_id = topic_id
        self.partitions = 0
        self.marks = {}
