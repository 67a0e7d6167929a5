"""One evidence partition: all its Jobs, its watermark, and the sweep that turns silence into commands.

`apply` takes one record of the log with its append time. Everything that follows is kept until `take`: the
Jobs whose durable state changed, and the commands to send. The agent stores and sends them before it
acknowledges the record, so a crash repeats work and loses none.

Redelivery: a worker forwards its source partitions in order and waits for the broker's acknowledgement, so
all offsets up to the highest seen from a source partition have been folded. What comes again is passed over;
otherwise a redelivered `loading` would get a fresh append time and hide a stuck Job. Where a source's offsets start
over under one topic id a mark tells it, and from which on nothing was folded yet (docs/decisions/0007).

The log's own offsets may begin anew as well (docs/decisions/0030). What is stored from then on is of another epoch, and
counts for newer.

What `take` hands out must be stored in its order, the partition's own state last: it says which offsets have
been folded, so a crash half way must leave it older than the Jobs, never newer.

Policies are not on the log: they are those of the worker, at its start or changed while it runs. Either way the state
stays, and the Jobs are judged anew.
"""

import sys
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from math import inf

import msgspec

from sf_healer.core.cadence import learn, silence_threshold
from sf_healer.core.commands import Alive, Command, Grounds, ProofKind, ProofOfLife, Withdraw, command_id
from sf_healer.core.common import share_times
from sf_healer.core.evidence import (
    Beat,
    Bundle,
    Evidence,
    Fact,
    Hold,
    Mark,
    OutcomeSeen,
    PackedBundle,
    Snapshot,
    SnapshotPart,
)
from sf_healer.core.facts import Condition, JobFact, share_fact
from sf_healer.core.jobs import Jobs
from sf_healer.core.policy import Policy, PolicyBook
from sf_healer.core.remembered import checkpoint_of, durable
from sf_healer.core.state import (
    NEVER,
    JobState,
    OfEveryJob,
    fold_beat,
    fold_beat_of_well,
    fold_fact,
    fold_hold,
    fold_outcome,
    fold_word,
    has_open_error,
    mark_gone,
    put_right,
)
from sf_healer.core.verdicts import NO_LOOK, RESTARTABLE, Judgement, Rule, Verdict, judge, plainly_healthy
from sf_healer.core.watermark import Advance, Gaps, Watermark
from sf_healer.core.windows import NO_WINDOW, Windows

#: A Job that has been gone for this long is forgotten, and so is a name that never got a fact; the changelog
#: record is tombstoned.
FORGET_GONE_SECONDS = 3600.0

#: Append times that go back by more are of a clock that is right again, so time goes back too; by less they are made
#: monotonic.
CLOCK_AHEAD_SECONDS = 60.0

#: For so long after a source's offsets started over a worker may still tell some of before, which it had in hand.
STRAYING_SECONDS = 600.0
#: Those are known by being far above what the source has again; so near to them nothing is held to be one.
_STRAYING_OFFSETS = 10_000

_HEALTHY = Verdict.HEALTHY
#: So many Jobs are judged anew before somebody else has a turn: some milliseconds.
JUDGED_IN_A_STEP = 1_000

#: Checkpoints are told apart by whole milliseconds; this close to an end of one the exact rule is asked.
_ROUNDING_SECONDS = 0.002

#: Verdicts of the Jobs that admission's storm rule counts on.
_BASE = RESTARTABLE | {Verdict.HEALTHY, Verdict.HELD, Verdict.STARTING}


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The durable state of the partition itself; field order is wire order, add at the end only."""

    partitions: int  # of the evidence topic: another count would move Jobs (docs/architecture.md)
    watermark: float
    topic_id: str
    source_partitions: int
    marks: dict[int, float]
    gaps: tuple[tuple[float, float], ...]
    forwarded: tuple[tuple[str, int, int], ...]
    last_at: float
    reset_pending: bool = False
    replaced_topic_ids: tuple[str, ...] = ()
    lost_until: float = 0.0
    lost_through: float = 0.0
    #: Sources whose offsets started over: topic id, partition, the highest offset before, until when that matters.
    started_over: tuple[tuple[str, int, int, float], ...] = ()
    #: The offset of the newest record folded; older ones are read again, and tell nothing of the broker's clock.
    folded_to: int = -1
    #: How often the evidence log was found to begin anew. One later counts for newer than all offsets of one before.
    log_epoch: int = 0
    #: Where it ended when that was found; records below may be left of before. -1: they are past.
    anew_below: int = -1


class Counts(msgspec.Struct, frozen=True):
    """What admission must know of this partition: see admission.py for how it is used."""

    partition: int
    at: float  # the watermark, epoch seconds
    base: int
    unhealthy: int  # turned so within the storm window
    sick: int  # are so now
    by_verdict: dict[str, int]
    suspected: int = 0  # of the unhealthy: silent consumers whose groups may not have been looked at yet


Effect = Command | Withdraw | Alive


class Changes(msgspec.Struct):
    """What records have caused since the last `take`."""

    jobs: dict[str, OfEveryJob]  # durable states to store
    forgotten: tuple[str, ...]  # keys to tombstone
    meta: Meta | None
    effects: tuple[Effect, ...]
    judged: tuple[tuple[JobState, Judgement], ...]  # verdicts that are news, for logs, metrics and Events
    swept: int  # Jobs looked at
    folded: int = 0  # beats and words of bundles
    passed_over: int = 0  # those that had been folded before
    log_epoch: int = 0  # of the evidence log they are of


class Partition:
    """The hot state of one evidence partition. Owned by one agent; not shared between threads."""

    def __init__(
        self,
        number: int,
        *,
        partitions: int,
        policies: PolicyBook,
        window_seconds: float,
        feed_gap_seconds: float,
        source_topic: str = "queue-events",
    ) -> None:
        self.number = number
        self.partitions = partitions
        self.policies = policies
        self.jobs = Jobs()
        self.watermark = Watermark(feed_gap_seconds=feed_gap_seconds)
        self.windows = Windows(window_seconds, self.jobs.waiting)
        self.counts_by_verdict: Counter[str] = Counter()
        self.last_at = 0.0
        self._folded_to = -1
        self._log_epoch = 0
        self._anew_below = -1
        self._source_topic = source_topic
        self._take_policies(policies)
        #: Jobs whose stored times end no checkpoint as these are now long, but one that was shorter: what would be kept
        #: back as known might be later than what is stored. So the next sign of life of each is stored.
        self._loosely_stored: set[str] = set()
        self._are_loose_at_rest = False  # else all of those are awake
        self._forwarded: dict[tuple[str, int], int] = {}
        self._started_over: dict[tuple[str, int], tuple[int, float]] = {}
        self._turned_unhealthy: deque[tuple[float, str]] = deque()
        #: Jobs with a command that may be open still: its id, and since when the Job waits for an outcome.
        self._asked_for: dict[str, tuple[str, float]] = {}
        self._gone_since: OrderedDict[str, float] = OrderedDict()
        self._without_fact_since: OrderedDict[str, float] = OrderedDict()
        self._sorted_keys: list[str] | None = None  # between the parts of a snapshot
        self._reset_changes()

    # ---- the log

    def note_log(self, log_end: int | None, offset: int, at: float) -> Changes | None:
        """Take notice where the log ends, and of the record that comes next; either may show that it has begun anew.

        It has if it ends before what was folded; or if, grown as far again, it has a record there that was appended
        later than all that was folded. Gives what is to be stored then, before anything of the new log is folded, so
        that who takes over knows of each epoch that something was stored of; else None. What was on the log and not
        folded is lost (docs/decisions/0023).
        """
        is_short = log_end is not None and log_end <= self._folded_to
        if not is_short and not (offset <= self._folded_to and at > self.last_at):
            return None
        self._log_epoch += 1
        self._folded_to, self._anew_below = -1, offset + 1 if log_end is None else log_end
        return Changes({}, (), self.meta(), (), (), 0, log_epoch=self._log_epoch)

    def apply(self, evidence: Evidence | PackedBundle, at: float, offset: int = -1) -> Advance | None:
        """Fold one record appended at `at` (epoch seconds); returns how the watermark moved, if it did.

        `offset` is the record's own; without one append times never go back.
        """
        at = self._append_time(at, offset)
        match evidence:
            case Bundle() | PackedBundle():
                self._fold_bundle(evidence, at)
            case Mark():
                return self._fold_mark(evidence, at)
            case Fact():
                self._fold_fact(evidence, at)
            case Snapshot():
                self._fold_snapshot(evidence, sorted(self.jobs), at)
            case SnapshotPart():
                self._fold_snapshot(evidence, self._keys_between(evidence.after, evidence.up_to), at)
            case Hold():
                state = self._job(evidence.key)
                if fold_hold(state, evidence, at=at):
                    self._changed(state, at)
            case OutcomeSeen():
                state = self._job(evidence.key)
                retry_seconds = self.policies.limits.refused_retry_seconds
                if fold_outcome(state, evidence, at=at, retry_seconds=retry_seconds):
                    self._changed(state, at)
        return None

    def _append_time(self, at: float, offset: int) -> float:
        if offset > self._folded_to:
            self._folded_to = offset
            if offset >= self._anew_below and at < self.last_at - CLOCK_AHEAD_SECONDS:
                self._put_right(at)
        if at > self.last_at + CLOCK_AHEAD_SECONDS:
            self._meta_dirty = True  # the next owner rewinds what is stored by it, if that clock was ahead
        self.last_at = max(at, self.last_at)
        if self._anew_below >= 0:
            self._lose(offset)
        return self.last_at

    def _lose(self, offset: int) -> None:
        """Take for lost what was said until the log was found to begin anew: up to the first record behind that."""
        self.watermark.lose(self.last_at)
        if offset >= self._anew_below:
            self._anew_below = -1
        self._meta_dirty = True

    def _put_right(self, now: float) -> None:
        """Bring back what a broker's clock that was ahead has dated beyond `now`, and judge every Job anew.

        Otherwise no Job would be judged and no mark would count until real time caught up. Stored times are affected
        too, so the next owner rewinds as well. Nobody looks silent by it: the next step of the watermark is a gap that
        re-bases everybody.
        """
        ahead_seconds = self.last_at - now
        self.last_at = now
        self.watermark.put_right(now, ahead_seconds)
        turned = ((at - ahead_seconds if at > now else at, key) for at, key in self._turned_unhealthy)
        self._turned_unhealthy = deque(sorted(turned))
        for waiting in (self._gone_since, self._without_fact_since):
            waiting.update({key: min(since, now) for key, since in waiting.items()})
        for key in sorted(self.jobs):
            state = self.jobs[key]
            if put_right(state, now, ahead_seconds):
                self._dirty[key] = None
            self.windows.drop(state)
            self._schedule(state, max(now, self.watermark.value))
            self._rest([state])
        self._meta_dirty = True

    def take(self) -> Changes:
        """Hand out what has been caused since the last call."""
        ends: dict[float, float] = {}  # of the checkpoints of times that many of these Jobs have in common
        changed = [state for state in map(self.jobs.copy_of, self._dirty) if state is not None]
        changes = Changes(
            {state.key: self._durable(state, ends) for state in changed},
            tuple(key for key in self._forgotten if key not in self.jobs),
            self.meta() if self._meta_dirty else None,
            tuple(self._effects),
            tuple(self._judged),
            self._swept,
            self._folded,
            self._passed_over,
            self._log_epoch,
        )
        self._reset_changes()
        self._rest(changed)
        return changes

    def _rest(self, states: Iterable[JobState]) -> None:
        """Put Jobs to rest if they may; how often one reports cannot be learned while it does."""
        if not self._learns:
            self.jobs.rest(state for state in states if state.key not in self._loosely_stored)

    # ---- other policies

    def _take_policies(self, policies: PolicyBook) -> None:
        self.policies = policies
        self._checkpoint_seconds = policies.checkpoint_seconds
        self._checkpoint_ms = round(policies.checkpoint_seconds * 1000)
        self._learns = any(policy.learn_cadence for policy in policies.policies())

    def change_policies(self, policies: PolicyBook) -> Iterator[int]:
        """Go on by other policies, at once, and judge every Job anew; gives how many were judged after each step.

        Whoever calls it goes through all steps, and may fold evidence between them. A Job that is due earlier now is
        found by the next sweep; one that is sick no longer has its command withdrawn. A Job that was refused is asked
        about again soon, for what it was refused for may hold no more.
        """
        before, before_ms = self.policies, self._checkpoint_ms
        self._take_policies(policies)
        if before_ms % self._checkpoint_ms:
            self._loosely_stored.update(self.jobs)
            self._are_loose_at_rest = True
        retry_seconds = None if policies.limits == before.limits else policies.limits.refused_retry_seconds
        return self._judge_anew(sorted(self.jobs), retry_seconds)

    def _judge_anew(self, keys: list[str], retry_seconds: float | None) -> Iterator[int]:
        for begin in range(0, len(keys), JUDGED_IN_A_STEP):
            now = self.watermark.value
            judged = []
            for key in keys[begin : begin + JUDGED_IN_A_STEP]:
                state = self.jobs.get(key)
                if state is None:
                    continue  # forgotten meanwhile
                if retry_seconds is not None and state.retry_at > now + retry_seconds:
                    state.retry_at = now + retry_seconds
                    self._dirty[key] = None
                self._schedule(state, now)
                judged.append(state)
            self._rest(judged)
            yield min(begin + JUDGED_IN_A_STEP, len(keys))
        self._are_loose_at_rest = False

    def _durable(self, state: JobState, ends: dict[float, float]) -> OfEveryJob:
        # Each sign of life of a sick Job is stored (_fold_beat), so a restart here withdraws no command.
        return durable(state, self._checkpoint_seconds, exact=state.verdict in RESTARTABLE, ends=ends)

    def meta(self) -> Meta:
        """Return the durable state of the partition itself."""
        return Meta(
            self.partitions,
            self.watermark.value,
            self.watermark.topic_id,
            self.watermark.partitions,
            dict(self.watermark.marks),
            self.watermark.gaps.as_tuple(),
            tuple((topic, partition, offset) for (topic, partition), offset in self._forwarded.items()),
            self.last_at,
            self.watermark.reset_pending,
            self.watermark.replaced_topic_ids,
            self.watermark.gaps.lost_until,
            self.watermark.lost_through,
            tuple((*source, *before) for source, before in self._started_over.items()),
            self._folded_to,
            self._log_epoch,
            self._anew_below,
        )

    def restore(self, meta: Meta | None, states: Iterable[JobState]) -> None:
        """Rebuild the hot state from what was stored; the next watermark is a feed gap if it is far off."""
        self.restore_meta(meta)
        self.restore_jobs(states)

    def restore_meta(self, meta: Meta | None) -> None:
        """Take the partition's own stored state; before its Jobs."""
        if meta is None:
            self._meta_dirty = True  # the number of partitions is on the changelog from the first event on
            return
        self.watermark.value, self.watermark.topic_id = meta.watermark, meta.topic_id
        self.watermark.partitions, self.watermark.marks = meta.source_partitions, dict(meta.marks)
        self.watermark.gaps = Gaps(meta.gaps, meta.lost_until)
        self._forwarded = {(topic, partition): offset for topic, partition, offset in meta.forwarded}
        self.last_at = meta.last_at
        self.watermark.reset_pending, self.watermark.lost_through = meta.reset_pending, meta.lost_through
        self.watermark.replaced_topic_ids = meta.replaced_topic_ids
        self._folded_to, self._log_epoch, self._anew_below = meta.folded_to, meta.log_epoch, meta.anew_below
        self._started_over = {(topic, number): (offset, until) for topic, number, offset, until in meta.started_over}

    def restore_jobs(self, states: Iterable[JobState]) -> None:
        """Take stored Jobs; a million come in several calls, for the event loop has more to do."""
        now = max(self.watermark.value, self.last_at)
        turned = len(self._turned_unhealthy)
        self._sorted_keys = None
        ends: dict[float, bool] = {}  # is a time the end of a checkpoint? Many Jobs have theirs in common
        well: list[JobState] = []  # and nothing else is to be known of them
        others: list[JobState] = []
        for state in states:
            for at in (state.loading_at, state.progress_at):
                is_end = ends.get(at)
                if is_end is None:
                    is_end = ends[at] = not round(at * 1000) % self._checkpoint_ms
                if not is_end:
                    self._loosely_stored.add(state.key)
            if state.seldom is None and state.key not in self._loosely_stored and self._is_well_still(state):
                well.append(state)
                continue
            others.append(state)
            self._take_stored(state, now)
        self.counts_by_verdict[_HEALTHY] += len(well)
        share_times(others + self.jobs.take_in(well, at_rest=not self._learns))
        if len(self._turned_unhealthy) != turned:
            self._turned_unhealthy = deque(sorted(self._turned_unhealthy))

    def _take_stored(self, state: JobState, now: float) -> None:
        self.jobs[state.key] = state
        self.counts_by_verdict[state.verdict] += 1
        if state.unhealthy_at != NEVER:
            self._turned_unhealthy.append((state.unhealthy_at, state.key))
        if state.command_id:  # when it was first sent is not stored; a worker in a crash loop must not hide it
            self._asked_for[state.key] = (state.command_id, state.unhealthy_at or now)
        if state.verdict == Verdict.GONE:
            self._gone_since[state.key] = now
        if state.fact is None:
            self._without_fact_since[state.key] = now
        if not self._is_well_still(state):
            self._schedule(state, self.watermark.value)

    def _is_well_still(self, state: JobState) -> bool:
        """Schedule a stored Job that was well and is, which most are; nothing is news of it. Others are left alone."""
        fact = state.fact
        if fact is None or state.verdict != _HEALTHY or state.command_id:
            return False
        now = self.watermark.value
        plain = plainly_healthy(state, now, self.policies.for_job(fact), self.watermark.gaps)
        if plain is None:
            return False
        _, silence, threshold = plain
        self.windows.enter(state, now + threshold - silence)
        return True

    # ---- what people and admission ask

    def judgement(self, state: JobState) -> Judgement:
        """Judge a Job as of the watermark, for a view; changes nothing."""
        if state.fact is None:
            return Judgement(Verdict.UNKNOWN, Rule.NO_FACT)
        judgement = judge(state, self.watermark.value, self.policy_of(state), self.watermark.gaps)
        if judgement.silence >= 0:
            return judgement
        return msgspec.structs.replace(judgement, silence=0.0)  # it spoke after the watermark

    def policy_of(self, state: JobState) -> Policy:
        """Return the policy that holds for a Job with a known fact."""
        assert state.fact is not None
        return self.policies.for_job(state.fact)

    @property
    def sick(self) -> int:
        """How many Jobs are sick now."""
        return sum(self.counts_by_verdict[verdict] for verdict in RESTARTABLE)

    def unanswered_since(self) -> float:
        """Give since when the Job that waits longest for the outcome of its command does; NEVER where none waits."""
        states = {key: self.jobs.copy_of(key) for key in self._asked_for}
        self._asked_for = {
            key: (command, since)
            for key, (command, since) in self._asked_for.items()
            if (state := states[key]) is not None and state.command_id == command
        }
        return min((since for _, since in self._asked_for.values()), default=NEVER)

    def counts(self) -> Counts:
        """Count for admission: the base, and the Jobs that turned unhealthy within the storm window."""
        now = self.watermark.value
        window = self.policies.limits.storm_window_seconds
        while self._turned_unhealthy and self._turned_unhealthy[0][0] < now - window:
            self._turned_unhealthy.popleft()
        verdicts = {key: self.jobs.verdict_of(key) for _, key in self._turned_unhealthy}
        sick = {key: verdict for key, verdict in verdicts.items() if verdict not in {None, Verdict.IDLE}}
        away = sum(1 for verdict in sick.values() if verdict not in _BASE)
        base = sum(self.counts_by_verdict[verdict] for verdict in _BASE) + away
        return Counts(
            self.number,
            now,
            base,
            len(sick),
            self.sick,
            dict(+self.counts_by_verdict),
            sum(
                1 for key, verdict in sick.items() if verdict in RESTARTABLE and self._is_suspected(self.jobs[key], now)
            ),
        )

    def _is_suspected(self, state: JobState, now: float) -> bool:
        """Say whether a sick Job counts as that only for want of a look at its group; two looks have time."""
        return (
            now - state.unhealthy_at < 2 * self.policies.limits.idle_look_seconds
            and self.policy_of(state).consumer
            and self.judgement(state).rests_on_silence
        )

    # ---- folding

    def _fold_bundle(self, bundle: Bundle | PackedBundle, at: float) -> None:  # noqa: C901, PLR0912  the hot path
        source_partition = bundle.source_partition
        source = (bundle.topic_id, source_partition)
        known = self._forwarded.get(source, -1)
        highest, checkpoint = known, self._checkpoint(at)
        not_before = self._not_before(bundle)
        jobs, learns, (checkpoint_from, checkpoint_to) = self.jobs, self._learns, self._inside(checkpoint)
        newcomers = self._assume(bundle.facts, at) if bundle.facts else ()
        if isinstance(bundle, Bundle):
            beats, passed_over = bundle.beats, 0
        elif learns or self._are_loose_at_rest:
            beats, passed_over = bundle.packed.beats(), 0
        else:
            folded = jobs.fold_beats(
                bundle.packed,
                at=at,
                source_partition=source_partition,
                known=known,
                not_before=not_before,
                inside=(checkpoint_from, checkpoint_to),
                before=checkpoint_from - 2 * _ROUNDING_SECONDS,
            )
            self._dirty.update(dict.fromkeys(folded.changed))
            beats, passed_over, highest = (
                bundle.packed.beats(folded.left),
                folded.passed_over,
                max(highest, folded.highest),
            )
        if self._loosely_stored:
            checkpoint_from = inf  # nobody was heard in the checkpoint: the long way, which stores
        for beat in beats:
            offset = beat.offset
            if offset <= known:
                passed_over += 1
                continue
            if offset > highest:  # noqa: PLR1730  hot
                highest = offset
            state: JobState = jobs.get(beat.key) or self._job(beat.key)
            said_at = state.loading_source if learns else NEVER
            interval_seconds = fold_beat_of_well(
                state, beat, at, source_partition, not_before, checkpoint_from, checkpoint_to
            )
            if interval_seconds is None:
                self._fold_beat(state, beat, at, checkpoint, source_partition=source_partition, not_before=not_before)
            elif learns and interval_seconds:
                self._learn(state, interval_seconds, said_at)
        words = [word for word in bundle.words if word.offset > known]
        for word in words:
            highest = max(highest, word.offset)
            state = self._job(word.key)
            if fold_word(state, word, at=at, source_partition=source_partition, not_before=not_before):
                self._changed(state, at)
        for state in newcomers:
            if state.window == NO_WINDOW:  # not judged with what it said
                self._changed(state, at)
        passed_over += len(bundle.words) - len(words)
        self._passed_over += passed_over
        self._folded += bundle.size - passed_over
        if highest > known:
            self._note_folded(bundle, source, known, highest, at)

    def _note_folded(
        self, bundle: Bundle | PackedBundle, source: tuple[str, int], known: int, highest: int, at: float
    ) -> None:
        self._forwarded[source] = self._not_astray(source, known, highest, at) if self._started_over else highest
        # A redelivered `loading` can only make a verdict later; a redelivered word may come with another
        # source time, for it is bounded anew. So what was folded is stored with every word.
        self._meta_dirty = self._meta_dirty or bool(bundle.words)
        if bundle.topic_id != self.watermark.topic_id:
            self._forget_old_topics(bundle.topic_id)

    def _assume(self, facts: tuple[JobFact, ...], at: float) -> list[JobState]:
        """Fold what is assumed of Jobs; returns those that are to be judged when all that the record says is folded."""
        newcomers = []
        for fact in facts:
            state = self._job(fact.key)
            is_new = state.fact is None
            if self._take_fact(state, fact, at=at, behind_seconds=0.0):
                if is_new:
                    self._dirty[state.key] = None
                    newcomers.append(state)
                else:
                    self._changed(state, at)
        return newcomers

    def _not_before(self, bundle: Bundle | PackedBundle) -> float:
        """Return when the source's newest mark was made: what it did not cover was not there yet.

        A worker that has just taken over knows no end of the source and cannot bound a slow clock; the log can.
        """
        watermark = self.watermark
        if bundle.topic_id in watermark.replaced_topic_ids:
            return NEVER
        if bundle.topic_id != watermark.topic_id:
            return watermark.value  # of a topic made anew, which was not there while the one before was marked
        floor = watermark.value if watermark.replaced_topic_ids else NEVER
        return watermark.marks.get(bundle.source_partition, floor)

    def _fold_beat(
        self, state: JobState, beat: Beat, at: float, checkpoint: int, *, source_partition: int, not_before: float
    ) -> None:
        """Fold a sign of life that fold_beat_of_well left; a Job that was well and still is costs no judgement."""
        heard_at, doubtful_at, progress_at = state.loading_at, state.doubtful_life_at, state.progress_at
        said_at = state.loading_source
        had_open_error = state.error_source != NEVER and has_open_error(state)
        if not fold_beat(state, beat, at=at, source_partition=source_partition, not_before=not_before):
            return
        is_healthy = state.verdict == _HEALTHY
        if self._learns and is_healthy and heard_at != NEVER and at > heard_at:
            self._learn(state, at - heard_at, said_at)
        if (
            had_open_error
            or (not is_healthy and state.verdict in RESTARTABLE)
            or state.doubtful_life_at != doubtful_at
            or not self._is_within(heard_at, checkpoint)
            or (state.progress_at != progress_at != heard_at and not self._is_within(progress_at, checkpoint))
            # Whose it is, the fact will say: the one stored may be of the incarnation before, and this one of the next.
            or state.fact is None
        ):
            self._dirty[state.key] = None
        if self._loosely_stored and state.key in self._loosely_stored:
            self._loosely_stored.discard(state.key)
            self._dirty[state.key] = None
        if not is_healthy or state.command_id or state.window == NO_WINDOW or self._unheard(state):
            self._tell_alive(state, at)
            self._schedule(state, max(at, self.watermark.value))

    def _learn(self, state: JobState, interval_seconds: float, said_at: float) -> None:
        """Learn how long a Job was not heard, or between what it said, if that is longer: a backlog is read fast.

        A threshold that is shorter now makes it due earlier.
        """
        policy = self.policy_of(state)
        if policy.learn_cadence:
            if said_at != NEVER:
                interval_seconds = max(interval_seconds, state.loading_source - said_at)
            state.cadence = learn(state.cadence, interval_seconds)
            if state.window != NO_WINDOW:
                self.windows.enter(state, state.loading_at + silence_threshold(state.cadence, policy))

    def _checkpoint(self, at: float) -> int:
        return checkpoint_of(at, self._checkpoint_seconds)

    def _is_within(self, at: float, checkpoint: int) -> bool:
        """Say whether a moment lies in a checkpoint; a glance is enough for one well inside of it."""
        after, before = self._inside(checkpoint)
        return after < at < before or self._checkpoint(at) == checkpoint

    def _inside(self, checkpoint: int) -> tuple[float, float]:
        """Give two moments between which all others surely lie in a checkpoint."""
        ends_at = checkpoint * self._checkpoint_seconds
        return ends_at - self._checkpoint_seconds + _ROUNDING_SECONDS, ends_at - _ROUNDING_SECONDS

    def _fold_mark(self, mark: Mark, at: float) -> Advance | None:
        if any(w > at for _, w in mark.sources):
            # W is the time of an earlier record here, so this one is of a clock that was ahead: what time it means
            # nobody knows. The claims after it will do.
            mark = msgspec.structs.replace(mark, sources=tuple(claim for claim in mark.sources if claim[1] <= at))
        for source_partition, end in mark.starts_over:
            self._start_over((mark.topic_id, source_partition), end, at)
        known = self._sources()
        advance = self.watermark.apply(mark, at)
        if advance is not None:
            self._sweep(advance.to)
        if advance is not None or self._sources() != known:
            self._meta_dirty = True
        return advance

    def _start_over(self, source: tuple[str, int], end: int, at: float) -> None:
        """Take a source to be folded up to its end only, for its offsets began anew.

        What it holds below may be what is left of it, and folded. To fold that again could condemn a Job that is well:
        an `error` of long ago would be dated by the newest mark. If it is new it is lost, as is what the mark tells of.
        """
        known = self._forwarded.get(source, -1)
        if known >= end and source[0] not in self.watermark.replaced_topic_ids:
            self._forwarded[source] = end - 1
            self._started_over[source] = known, at + STRAYING_SECONDS
            self._meta_dirty = True

    def _not_astray(self, source: tuple[str, int], known: int, highest: int, at: float) -> int:
        """Return up to which offset a source is folded; offsets of before it started over do not count."""
        before, until = self._started_over.get(source, (-1, 0.0))
        if at >= until or known > before - _STRAYING_OFFSETS:
            self._started_over.pop(source, None)
            return highest
        return known if highest > before else highest

    def _sources(self) -> tuple[str, int, bool, float, dict[int, float]]:
        """Return what holds the watermark back, makes its next step a gap or bounds a clock: it outlives a restart."""
        watermark = self.watermark
        lost = watermark.reset_pending, watermark.lost_through
        return watermark.topic_id, watermark.partitions, *lost, dict(watermark.marks)

    def _fold_fact(self, evidence: Fact, at: float) -> None:
        state = self._job(evidence.fact.key)
        behind_seconds = max(0.0, at - evidence.api_at) if evidence.api_at else 0.0
        if self._take_fact(state, evidence.fact, at=at, behind_seconds=behind_seconds):
            self._changed(state, at)

    def _take_fact(self, state: JobState, fact: JobFact, *, at: float, behind_seconds: float) -> bool:
        self._without_fact_since.pop(state.key, None)
        return fold_fact(state, share_fact(fact, state.key), at=at, behind_seconds=behind_seconds)

    def _fold_snapshot(self, snapshot: Snapshot | SnapshotPart, told_of: list[str], at: float) -> None:
        """Take for gone who is not in a snapshot that told of `told_of`."""
        present = dict(snapshot.jobs)
        for key in told_of:
            fact = self.jobs.fact_of(key)
            if fact is None or present.get(key) == fact.uid:
                continue
            state = self.jobs[key]
            if mark_gone(state, snapshot.version, replaced=key in present):
                self._changed(state, at)

    def _keys_between(self, after: str | None, up_to: str | None) -> list[str]:
        """Name the Jobs whose keys lie behind `after` up to and with `up_to`.

        Sorted once for all parts of a snapshot, as long as no Job comes or goes: else each part would be a walk
        through all Jobs.
        """
        keys = self._sorted_keys
        if keys is None:
            keys = self._sorted_keys = sorted(self.jobs)
        first = 0 if after is None else bisect_right(keys, after)
        if up_to is None:
            self._sorted_keys = None  # the last part
            return keys[first:]
        return keys[first : bisect_right(keys, up_to)]

    def _job(self, key: str) -> JobState:
        state = self.jobs.get(key)
        if state is None:
            key = sys.intern(key)  # the index that names Jobs has it too
            state = self.jobs[key] = JobState(key)
            self._sorted_keys = None
            self.counts_by_verdict[state.verdict] += 1
            self._without_fact_since[key] = max(self.watermark.value, self.last_at)
        return state

    def _forget_old_topics(self, current: str) -> None:
        """Keep the offsets of the topic that is marked and of the one that just began to speak."""
        keep = {current, self.watermark.topic_id}
        self._forwarded = {source: at for source, at in self._forwarded.items() if source[0] in keep}
        self._started_over = {source: before for source, before in self._started_over.items() if source[0] in keep}

    # ---- judging

    def _changed(self, state: JobState, at: float) -> None:
        """Store a Job, tell the actuator what it waits for, and see when the Job is due now."""
        self._dirty[state.key] = None
        self._tell_alive(state, at)
        self._schedule(state, max(at, self.watermark.value))

    def _schedule(self, state: JobState, now: float) -> None:
        if state.fact is None:
            return
        judgement = judge(state, now, self.policy_of(state), self.watermark.gaps)
        if judgement.restartable:
            self.windows.enter(state, now if _has_command(state) else max(now, state.retry_at))
            return
        self._settle(state, judgement)
        self.windows.enter(state, judgement.look_at)

    def _sweep(self, watermark: float) -> None:
        """Judge the Jobs whose window the watermark has closed; never any other."""
        for state in self.windows.close(watermark):
            self._swept += 1
            policy = self.policy_of(state)
            judgement = judge(state, watermark, policy, self.watermark.gaps)
            self._settle(state, judgement)
            if judgement.restartable:
                self._command(state, judgement, policy, watermark)
            else:
                self.windows.enter(state, judgement.look_at)
        self._forget_gone(watermark)

    def _settle(self, state: JobState, judgement: Judgement) -> None:
        """Write a verdict into the state, count it, and withdraw a command that it contradicts."""
        if state.command_id and not judgement.restartable:
            self._effects.append(Withdraw(id=state.command_id, key=state.key, reason=judgement.rule))
            state.command_id = state.command_uid = state.command_verdict = ""
            state.command_deadline = NEVER
            self._dirty[state.key] = None
        if state.verdict == judgement.verdict:
            return
        was_sick = state.verdict in RESTARTABLE
        self.counts_by_verdict[state.verdict] -= 1
        self.counts_by_verdict[judgement.verdict] += 1
        state.verdict = judgement.verdict
        self._dirty[state.key] = None
        self._judged.append((state, judgement))
        if judgement.restartable and not was_sick:
            state.unhealthy_at = self.watermark.value
            self._turned_unhealthy.append((state.unhealthy_at, state.key))
        self._gone_since.pop(state.key, None)
        if judgement.verdict is Verdict.GONE:
            self._gone_since[state.key] = max(self.watermark.value, self.last_at)

    def _command(self, state: JobState, judgement: Judgement, policy: Policy, watermark: float) -> None:
        """Send a command for a sick Job, unless one is open or a refusal asked to wait."""
        wait_until = max(state.command_deadline if _has_command(state) else NEVER, state.retry_at)
        if wait_until > watermark:
            self.windows.enter(state, wait_until)
            return
        command = self._compose(state, judgement, policy, watermark)
        state.command_id, state.command_uid = command.id, command.uid
        state.command_verdict = judgement.verdict
        state.command_source = max(
            state.life_source, state.error_source, state.finished_source, state.interrupted_source
        )
        state.command_deadline = watermark + self.policies.limits.outcome_deadline_seconds
        known, since = self._asked_for.get(state.key, ("", watermark))
        self._asked_for[state.key] = (command.id, since if known == command.id else watermark)
        self._effects.append(command)
        self._dirty[state.key] = None
        self.windows.enter(state, state.command_deadline)

    def _compose(self, state: JobState, judgement: Judgement, policy: Policy, watermark: float) -> Command:
        fact = state.fact
        assert fact is not None
        namespace, _, name = state.key.partition("/")
        error = judgement.verdict is Verdict.FAILED and judgement.rule is not Rule.JOB_FAILED
        decisive = state.error_source if error else state.life_source
        judged_by = state.progress_at if judgement.verdict is Verdict.STALLED else decisive
        source_partition = state.error_partition if error else state.source_partition
        source_offset = state.error_offset if error else state.source_offset
        return Command(
            id=command_id(state.key, fact.uid, judgement.verdict, judged_by, fact.attempt),
            key=state.key,
            namespace=namespace,
            name=name,
            uid=fact.uid,
            verdict=judgement.verdict,
            evidence=Grounds(
                proof=_PROOF.get(judgement.rule, ProofKind.ERROR),
                last_seen=state.life_at or None,
                base=judgement.since or None,
                silence_seconds=judgement.silence,
                threshold_seconds=judgement.threshold,
                watermark=watermark,
                unhealthy_at=state.unhealthy_at,
                source_at=decisive or None,
                source_topic=self._source_topic,
                source_partition=source_partition,
                source_offset=source_offset,
                condition=fact.condition,
                pod_ended=judgement.rule is Rule.ERROR_AND_POD_ENDED and fact.condition is Condition.ACTIVE,
                detail=f"{judgement.rule}: {state.error_detail}" if error and state.error_detail else judgement.rule,
                grace_over=judgement.grace_over,
            ),
            decided_at=watermark,
            expires_at=watermark + self.policies.limits.command_expires_seconds,
            policy=policy.name,
            attempt=fact.attempt,
            target=fact.target,
            queue_id=fact.queue_id,
            startup_seconds=policy.startup_threshold_seconds,
            proof_of_life=ProofOfLife.TELEMETRY if policy.reporting else ProofOfLife.POD,
            attempts=policy.attempts or 0,
            consumer=policy.consumer,
            kafka_topic=fact.kafka_topic,
            pod_ip=fact.pod_ip,
        )

    def _unheard(self, state: JobState) -> bool:
        """Say whether this is a recreated Job whose first sign of life nobody was told of."""
        fact = state.fact
        return fact is not None and fact.action_id != "" and state.alive_uid != fact.uid

    def _tell_alive(self, state: JobState, at: float) -> None:
        if self._unheard(state) and state.life_at != NEVER and state.fact is not None:
            state.alive_uid = state.fact.uid
            self._dirty[state.key] = None
            self._effects.append(Alive(key=state.key, uid=state.fact.uid, at=at))

    # ---- forgetting

    def _forget_gone(self, watermark: float) -> None:
        """Forget the Jobs that have been gone, and the names that have had no fact, for long enough."""
        for waiting in (self._gone_since, self._without_fact_since):
            while waiting:
                key, since = next(iter(waiting.items()))
                if since >= watermark - FORGET_GONE_SECONDS:
                    break
                del waiting[key]
                state = self.jobs[key]
                still_there = state.fact is not None and state.fact.condition is not Condition.GONE
                if still_there or state.life_at >= watermark - FORGET_GONE_SECONDS:
                    waiting[key] = watermark  # being deleted for long, or still spoken of: look again later
                else:
                    self._forget(state)

    def _forget(self, state: JobState) -> None:
        del self.jobs[state.key]
        self._loosely_stored.discard(state.key)
        self._sorted_keys = None
        self._gone_since.pop(state.key, None)
        self._without_fact_since.pop(state.key, None)
        self.counts_by_verdict[state.verdict] -= 1
        self.windows.drop(state)
        self._forgotten.append(state.key)

    def _reset_changes(self) -> None:
        self._dirty: dict[str, None] = {}  # in the order of change: the same log gives the same changelog
        self._forgotten: list[str] = []
        self._effects: list[Effect] = []
        self._judged: list[tuple[JobState, Judgement]] = []
        self._meta_dirty = False
        self._swept = 0
        self._folded = self._passed_over = 0


def _has_command(state: JobState) -> bool:
    """Say whether a command is open for this very incarnation; one for an older uid binds nobody."""
    return state.command_id != "" and state.fact is not None and state.command_uid == state.fact.uid


_PROOF = {
    Rule.LOADING_STOPPED: ProofKind.SILENCE,
    Rule.STARTED_ONLY: ProofKind.SILENCE,
    Rule.NO_REPORT: ProofKind.STARTUP,
    Rule.NO_PROGRESS: ProofKind.PROGRESS,
    Rule.JOB_FAILED: ProofKind.CONDITION,
}

__all__ = ["NO_LOOK", "Changes", "Counts", "Effect", "Meta", "Partition"]
