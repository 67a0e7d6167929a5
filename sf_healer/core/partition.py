"""One evidence partition: all its Jobs, its watermark, and the sweep that turns silence into commands.

`apply` takes one record of the log with its append time. Everything that follows is kept until `take`: the
Jobs whose durable state changed, and the commands to send. The agent stores and sends them before it
acknowledges the record, so a crash repeats work and loses none.

Redelivery: a worker forwards its source partitions in order and waits for the broker's acknowledgement, so all
offsets up to the highest seen from a source partition have been folded. What comes again is passed over;
otherwise a redelivered `loading` would get a fresh append time and hide a stuck Job.
"""

from collections import Counter, deque

import msgspec

from sf_healer.core.commands import Alive, Command, Grounds, ProofKind, ProofOfLife, Withdraw, command_id
from sf_healer.core.evidence import Beat, Bundle, Evidence, Fact, Hold, Mark, OutcomeSeen, Snapshot
from sf_healer.core.facts import Condition
from sf_healer.core.policy import Policy, PolicyBook
from sf_healer.core.state import (
    NEVER,
    JobState,
    checkpoint_of,
    durable,
    fold_beat,
    fold_fact,
    fold_hold,
    fold_outcome,
    fold_word,
    mark_gone,
)
from sf_healer.core.verdicts import NO_LOOK, RESTARTABLE, Judgement, Rule, Verdict, has_open_error, judge
from sf_healer.core.watermark import Advance, Gaps, Watermark
from sf_healer.core.windows import NO_WINDOW, Windows

#: A Job that has been gone for this long is forgotten; its changelog record is tombstoned.
FORGET_GONE_SECONDS = 3600.0

#: Verdicts of the Jobs that admission's storm rule counts on.
_BASE = RESTARTABLE | {Verdict.HEALTHY, Verdict.HELD, Verdict.STARTING}


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The durable state of the partition itself; field order is wire order, add at the end only."""

    partitions: int  # of the evidence topic: another count would move Jobs (design §3)
    watermark: float
    topic_id: str
    source_partitions: int
    marks: dict[int, float]
    gaps: tuple[tuple[float, float], ...]
    forwarded: tuple[tuple[str, int, int], ...]
    last_at: float


class Counts(msgspec.Struct, frozen=True):
    """What admission must know of this partition: see admission.py for how it is used."""

    partition: int
    at: float  # the watermark, epoch seconds
    base: int
    unhealthy: int  # turned so within the storm window
    sick: int  # are so now
    by_verdict: dict[str, int]


Effect = Command | Withdraw | Alive


class Changes(msgspec.Struct):
    """What records have caused since the last `take`."""

    jobs: dict[str, JobState]  # durable states to store
    forgotten: tuple[str, ...]  # keys to tombstone
    meta: Meta | None
    effects: tuple[Effect, ...]
    judged: tuple[tuple[JobState, Judgement], ...]  # verdicts that are news, for logs, metrics and Events
    swept: int  # Jobs looked at


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
        self.jobs: dict[str, JobState] = {}
        self.watermark = Watermark(feed_gap_seconds=feed_gap_seconds)
        self.windows = Windows(window_seconds)
        self.counts_by_verdict: Counter[str] = Counter()
        self.last_at = 0.0
        self._source_topic = source_topic
        self._checkpoint_seconds = policies.checkpoint_seconds
        self._forwarded: dict[tuple[str, int], int] = {}
        self._turned_unhealthy: deque[tuple[float, str]] = deque()
        self._gone: deque[tuple[float, str]] = deque()
        self._reset_changes()

    # ---- the log

    def apply(self, evidence: Evidence, at: float) -> Advance | None:
        """Fold one record appended at `at` (epoch seconds); returns how the watermark moved, if it did."""
        at = self.last_at = max(at, self.last_at)
        match evidence:
            case Bundle():
                self._fold_bundle(evidence, at)
            case Mark():
                return self._fold_mark(evidence)
            case Fact():
                self._fold_fact(evidence, at)
            case Snapshot():
                self._fold_snapshot(evidence, at)
            case Hold():
                state = self._job(evidence.key)
                if fold_hold(state, evidence, at=at):
                    self._changed(state, at)
            case OutcomeSeen():
                state = self._job(evidence.key)
                if fold_outcome(state, evidence, at=at, retry_seconds=self.policies.limits.refused_retry_seconds):
                    self._changed(state, at)
        return None

    def take(self) -> Changes:
        """Hand out what has been caused since the last call."""
        changes = Changes(
            {key: durable(self.jobs[key], self._checkpoint_seconds) for key in self._dirty if key in self.jobs},
            tuple(self._forgotten),
            self.meta() if self._meta_dirty else None,
            tuple(self._effects),
            tuple(self._judged),
            self._swept,
        )
        self._reset_changes()
        return changes

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
        )

    def restore(self, meta: Meta | None, states: list[JobState]) -> None:
        """Rebuild the hot state from what was stored; the first watermark after it is a feed gap if it is far off."""
        if meta is not None:
            self.watermark.value, self.watermark.topic_id = meta.watermark, meta.topic_id
            self.watermark.partitions, self.watermark.marks = meta.source_partitions, dict(meta.marks)
            self.watermark.gaps = Gaps(meta.gaps)
            self._forwarded = {(topic, partition): offset for topic, partition, offset in meta.forwarded}
            self.last_at = meta.last_at
        for state in sorted(states, key=lambda state: state.unhealthy_at):
            self.jobs[state.key] = state
            self.counts_by_verdict[state.verdict] += 1
            if state.unhealthy_at != NEVER:
                self._turned_unhealthy.append((state.unhealthy_at, state.key))
            if state.verdict == Verdict.GONE:
                self._gone.append((self.watermark.value, state.key))
            self._schedule(state, self.watermark.value)

    # ---- what people and admission ask

    def judgement(self, state: JobState) -> Judgement:
        """Judge a Job as of the watermark, for a view; changes nothing."""
        if state.fact is None:
            return Judgement(Verdict.UNKNOWN, Rule.NO_FACT)
        now = max(self.watermark.value, min(self.last_at, state.life_at))
        return judge(state, now, self.policy_of(state), self.watermark.gaps)

    def policy_of(self, state: JobState) -> Policy:
        """Return the policy that holds for a Job with a known fact."""
        assert state.fact is not None
        return self.policies.for_job(state.fact)

    def counts(self) -> Counts:
        """Count for admission: the base, and the Jobs that turned unhealthy within the storm window."""
        now = self.watermark.value
        window = self.policies.limits.storm_window_seconds
        while self._turned_unhealthy and self._turned_unhealthy[0][0] < now - window:
            self._turned_unhealthy.popleft()
        sick = {key for _, key in self._turned_unhealthy if key in self.jobs}
        away = sum(1 for key in sick if self.jobs[key].verdict not in _BASE)
        base = sum(self.counts_by_verdict[verdict] for verdict in _BASE) + away
        return Counts(
            self.number,
            now,
            base,
            len(sick),
            sum(self.counts_by_verdict[verdict] for verdict in RESTARTABLE),
            dict(+self.counts_by_verdict),
        )

    # ---- folding

    def _fold_bundle(self, bundle: Bundle, at: float) -> None:
        source = (bundle.topic_id, bundle.source_partition)
        known = self._forwarded.get(source, -1)
        highest = known
        for beat in bundle.beats:
            if beat.offset > known:
                highest = max(highest, beat.offset)
                self._fold_beat(beat, at, bundle.source_partition)
        for word in bundle.words:
            if word.offset > known:
                highest = max(highest, word.offset)
                state = self._job(word.key)
                if fold_word(state, word, at=at, source_partition=bundle.source_partition):
                    self._changed(state, at)
        if highest > known:
            self._forwarded[source] = highest
            if bundle.topic_id != self.watermark.topic_id:
                self._forget_old_topics(bundle.topic_id)

    def _fold_beat(self, beat: Beat, at: float, source_partition: int) -> None:
        """Fold a sign of life: the hot path, so a Job that was well and still is costs no judgement."""
        state = self._job(beat.key)
        before, had_open_error = state.loading_at, has_open_error(state)
        fold_beat(state, beat, at=at, source_partition=source_partition)
        if state.loading_at == before:
            return
        if had_open_error or (
            checkpoint_of(before, self._checkpoint_seconds) != checkpoint_of(at, self._checkpoint_seconds)
        ):
            self._dirty.add(state.key)
        if state.verdict != Verdict.HEALTHY or state.command_id or state.window == NO_WINDOW or self._unheard(state):
            self._tell_alive(state, at)
            self._schedule(state, max(at, self.watermark.value))

    def _fold_mark(self, mark: Mark) -> Advance | None:
        advance = self.watermark.apply(mark)
        if advance is not None:
            self._meta_dirty = True
            self._sweep(advance.to)
        return advance

    def _fold_fact(self, evidence: Fact, at: float) -> None:
        state = self._job(evidence.fact.key)
        if fold_fact(state, evidence.fact, at=at):
            self._changed(state, at)

    def _fold_snapshot(self, snapshot: Snapshot, at: float) -> None:
        present = dict(snapshot.jobs)
        for state in list(self.jobs.values()):
            if state.fact is None or present.get(state.key) == state.fact.uid:
                continue
            if mark_gone(state, snapshot.version):
                self._changed(state, at)

    def _job(self, key: str) -> JobState:
        state = self.jobs.get(key)
        if state is None:
            state = self.jobs[key] = JobState(key)
            self.counts_by_verdict[state.verdict] += 1
        return state

    def _forget_old_topics(self, current: str) -> None:
        """Keep the offsets of the topic that is marked and of the one that just began to speak."""
        keep = {current, self.watermark.topic_id}
        self._forwarded = {source: at for source, at in self._forwarded.items() if source[0] in keep}

    # ---- judging

    def _changed(self, state: JobState, at: float) -> None:
        """Store a Job, tell the actuator what it waits for, and see when the Job is due now."""
        self._dirty.add(state.key)
        self._tell_alive(state, at)
        self._schedule(state, max(at, self.watermark.value))

    def _schedule(self, state: JobState, now: float) -> None:
        if state.fact is None:
            return
        judgement = judge(state, now, self.policy_of(state), self.watermark.gaps)
        if judgement.restartable:
            self.windows.enter(state, max(now, state.retry_at) if not state.command_id else now)
            return
        self._settle(state, judgement)
        self.windows.enter(state, judgement.look_at)

    def _sweep(self, watermark: float) -> None:
        """Judge the Jobs whose window the watermark has closed; never any other."""
        for state in self.windows.close(watermark):
            self._swept += 1
            if state.fact is None or self.jobs.get(state.key) is not state:
                continue
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
            self._dirty.add(state.key)
        if state.verdict == judgement.verdict:
            return
        was_sick = state.verdict in RESTARTABLE
        self.counts_by_verdict[state.verdict] -= 1
        self.counts_by_verdict[judgement.verdict] += 1
        state.verdict = judgement.verdict
        self._dirty.add(state.key)
        self._judged.append((state, judgement))
        if judgement.restartable and not was_sick:
            state.unhealthy_at = self.watermark.value
            self._turned_unhealthy.append((state.unhealthy_at, state.key))
        if judgement.verdict is Verdict.GONE:
            self._gone.append((max(self.watermark.value, self.last_at), state.key))

    def _command(self, state: JobState, judgement: Judgement, policy: Policy, watermark: float) -> None:
        """Send a command for a sick Job, unless one is open or a refusal asked to wait."""
        wait_until = max(state.command_deadline if state.command_id else NEVER, state.retry_at)
        if wait_until > watermark:
            self.windows.enter(state, wait_until)
            return
        command = self._compose(state, judgement, policy, watermark)
        state.command_id, state.command_uid = command.id, command.uid
        state.command_verdict = judgement.verdict
        state.command_deadline = watermark + self.policies.limits.outcome_deadline_seconds
        self._effects.append(command)
        self._dirty.add(state.key)
        self.windows.enter(state, state.command_deadline)

    def _compose(self, state: JobState, judgement: Judgement, policy: Policy, watermark: float) -> Command:
        fact = state.fact
        assert fact is not None
        namespace, _, name = state.key.partition("/")
        error = judgement.verdict is Verdict.FAILED and judgement.rule is not Rule.JOB_FAILED
        decisive = state.error_source if error else state.life_source
        return Command(
            id=command_id(state.key, fact.uid, judgement.verdict, decisive, fact.attempt),
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
                source_partition=state.source_partition,
                source_offset=state.source_offset,
                condition=fact.condition,
                detail=f"{judgement.rule}: {state.error_detail}" if error and state.error_detail else judgement.rule,
            ),
            decided_at=watermark,
            expires_at=watermark + self.policies.limits.command_expires_seconds,
            policy=policy.name,
            attempt=fact.attempt,
            target=fact.target,
            queue_id=fact.queue_id,
            startup_seconds=policy.startup_threshold_seconds,
            proof_of_life=ProofOfLife.TELEMETRY if policy.reporting else ProofOfLife.POD,
        )

    def _unheard(self, state: JobState) -> bool:
        """Say whether this is a recreated Job whose first sign of life nobody was told of."""
        fact = state.fact
        return fact is not None and fact.action_id != "" and state.alive_uid != fact.uid

    def _tell_alive(self, state: JobState, at: float) -> None:
        if self._unheard(state) and state.life_at != NEVER and state.fact is not None:
            state.alive_uid = state.fact.uid
            self._dirty.add(state.key)
            self._effects.append(Alive(key=state.key, uid=state.fact.uid, at=at))

    # ---- forgetting

    def _forget_gone(self, watermark: float) -> None:
        while self._gone and self._gone[0][0] < watermark - FORGET_GONE_SECONDS:
            _, key = self._gone.popleft()
            state = self.jobs.get(key)
            if state is not None and state.fact is not None and state.fact.condition is Condition.GONE:
                del self.jobs[key]
                self.counts_by_verdict[state.verdict] -= 1
                self.windows.drop(state)
                self._forgotten.append(key)

    def _reset_changes(self) -> None:
        self._dirty: set[str] = set()
        self._forgotten: list[str] = []
        self._effects: list[Effect] = []
        self._judged: list[tuple[JobState, Judgement]] = []
        self._meta_dirty = False
        self._swept = 0


_PROOF = {
    Rule.LOADING_STOPPED: ProofKind.SILENCE,
    Rule.STARTED_ONLY: ProofKind.SILENCE,
    Rule.NO_REPORT: ProofKind.STARTUP,
    Rule.JOB_FAILED: ProofKind.CONDITION,
}

__all__ = ["NO_LOOK", "Changes", "Counts", "Effect", "Meta", "Partition"]
