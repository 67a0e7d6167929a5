"""What must hold in the simulated world, checked as it happens against what really happened.

Nothing here asks the code under test for its opinion: a verdict is held against the reports that were in the
source log at the moment its watermark stands for, a delete against the Job as the API had it, a budget against the
records of the steps log. docs/simulation.md lists the rules.
"""

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from sf_healer import topics
from sf_healer.core import commands, evidence, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.admission import Reason, scopes_of
from sf_healer.core.combine import Rejected
from sf_healer.core.commands import (
    REQUESTED_VERDICT,
    Command,
    Outcome,
    Pause,
    ProofKind,
    Resolve,
    Result,
    Resume,
)
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Bundle, Hold, Mark
from sf_healer.core.facts import ACTION_ID_ANNOTATION, Condition
from sf_healer.core.partition import Changes, Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.policy import Limits, Policy, PolicyBook
from sf_healer.core.steps import Admitted, Announced, FleetCounts, LimitsChanged, Settled, Step
from sf_healer.core.watermark import Advance
from tests.simulation.clock import Process, Scheduler
from tests.simulation.kafka import Broker, Log, Place, Record
from tests.simulation.kube import Kube, Manifest
from tests.simulation.loaders import SOURCE
from tests.simulation.truth import Incarnation, MadeBy, Said
from tests.simulation.worker import JOBS_CHANGELOG

_LIFE = frozenset({Kind.STARTED, Kind.LOADING})
_RIGHT_AFTER_SECONDS = 2.0
#: Clocks of partition leaders differ, and times are cut to milliseconds.
_TOLERANCE_SECONDS = 0.05
#: A step is taken within the fence and may arrive this much later: what a call takes at most in this world.
_ACTING_SECONDS = 120.0
#: A clock in whole seconds, one that is known to a second, and what an answer takes: an error that comes so soon after
#: a creation may be the last word of the Job before, and nobody is condemned by it.
YOUNG_SECONDS = 4.0
#: Of a Job that is deleted it was asked no longer ago than this whether it could be made again: a command is good for
#: a minute, and a clock may step.
_LOOKED_BEFORE_SECONDS = 300.0
#: Counts come every few seconds; a restart that was admitted before them is called off before its delete.
_NOTICE_SECONDS = 10.0
#: So long a Job with a lost pod is left to Kubernetes, which replaces the pods of a dead node within six minutes.
_LOST_POD_SECONDS = 600.0
#: No producer tries for so long to send a report: it was carried over by a mirror that had stood still.
_LATE_SECONDS = 60.0
#: A worker that goes on may speak for so long before it hears that another has taken over.
_ZOMBIE_SECONDS = 15.0


class Violation(Exception):  # noqa: N818  not an error of the simulator
    """A rule was broken: `rule` names it, the message says how."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class _Restart(msgspec.Struct, eq=False):
    """What is known of one admitted command."""

    command: Command
    admitted: float
    announced: float | None = None  # when its first delete was
    touched: float | None = None
    paused_by: str = ""  # a pause that was on the log before the delete was announced
    in_quarantine: str = ""  # why its Job was in one when it was admitted
    settled: bool = False
    settled_at: int = -1  # offset
    may_be_open: bool = False  # admitted since by one whose word may not count


class _Turned(NamedTuple):
    """A Job that turned sick, when, and who said so."""

    key: str
    at: float
    process: Process | None


class _Judged(msgspec.Struct, frozen=True):
    """A verdict and the moment that it holds for."""

    job: Incarnation
    command: Command
    policy: Policy
    partition: int
    moment: float  # simulated seconds at which the watermark was appended
    watermark: float


class Oracle:
    """Watches one world."""

    def __init__(
        self,
        scheduler: Scheduler,
        broker: Broker,
        kube: Kube,
        policies: PolicyBook,
        *,
        partitions: int,
        mark_interval_seconds: float,
        feed_gap_seconds: float,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.outcomes: list[tuple[float, Outcome]] = []
        self.restarts: dict[str, _Restart] = {}
        self.commands: list[tuple[float, Command]] = []
        #: Rules not to be checked, for telling what each of them alone finds.
        self.ignored: frozenset[str] = frozenset()
        self.trace: Any = None
        self._scheduler = scheduler
        self._broker = broker
        self._kube = kube
        self.policies = policies  # in the file
        #: What each process goes by, and went by before: a command may be on its way while it follows.
        self._followed: dict[Process, tuple[PolicyBook, ...]] = {}
        self._limits = policies.limits
        self._limits_since: float | None = None  # None: none have been said yet
        self._partitions = partitions
        self._mark_interval = mark_interval_seconds
        self._feed_gap = feed_gap_seconds
        self._outages: list[tuple[float, float]] = []
        # Time: by evidence partition, when the record with a timestamp was appended.
        self._append_of: dict[int, dict[int, float]] = defaultdict(dict)
        self._offsets_from: list[float] = [0.0]
        self._offsets: list[float] = [0.0]
        # Coverage: by (evidence, source) partition, reports in the order they landed, and what bundles hold.
        self._waiting: dict[tuple[int, int], deque[tuple[Said, str]]] = defaultdict(deque)
        self._covered: dict[tuple[int, int], dict[tuple[str, Kind], int]] = defaultdict(dict)
        self._marked: dict[int, float] = {}  # when a mark last spoke of a source
        self._told: dict[tuple[int, str, int], int] = {}
        self._before_anew: dict[tuple[int, str, int], int] = {}  # as _told, when the source started over
        self._said_at: dict[tuple[int, int], tuple[Incarnation, Said]] = {}
        self._holds: dict[str, int] = {}
        self._told_to_stop: dict[tuple[str, int, int], None] = {}
        self._pauses: dict[str, Pause] = {}
        self._asked: dict[str, Pause | None] = {}  # by people, last, for each scope
        self._quarantined: dict[str, float] = {}  # time of the steps log when a Job in quarantine was last found sick
        self._resumed: dict[str, float] = {}  # by people, Jobs
        self._commanded_at: dict[str, int] = {}  # offsets, by id
        self._turned: dict[str, _Turned] = {}  # by command
        self._fleet: dict[int, FleetCounts] = {}
        self._storm_since, self._has_passed = float("-inf"), True
        self._tokens = float(self._limits.rate_burst)
        self._tokens_at = 0.0
        self._window = 1
        self._deleted_by: dict[str, set[str]] = defaultdict(set)
        self._seen_complete: set[str] = set()  # by uid: the actuator knows that it has done its work
        self._decided_by_people: set[str] = set()  # actions
        self._action_ids: dict[str, str] = {}  # by uid of what was created
        self._source_topic_id = broker.topic_ids[SOURCE]
        broker.listeners |= {
            topics.EVIDENCE: self._on_evidence,
            topics.ACTIONS: self._on_action,
            topics.CONTROL: self._on_control,
            topics.STEPS: self._on_step,
            topics.OUTCOMES: self._on_outcome,
            JOBS_CHANGELOG: self._on_changelog,
        }

    def fail(self, rule: str, message: str) -> None:
        if rule not in self.ignored:
            raise Violation(rule, message)

    # ---- time

    def clock_stepped(self) -> None:
        self._offsets_from.append(self._scheduler.now)
        self._offsets.append(self._broker.clock_offset)

    def _clock(self, partition: int, at: float) -> float:
        """Return the clock of an evidence partition's leader at a moment."""
        offset = self._offsets[bisect_right(self._offsets_from, at) - 1]
        return at + offset + self._broker.logs[topics.EVIDENCE, partition].skew

    def api_behind_at_most(self, since: float) -> float:
        """Return how far the API's clock may have been behind that of an evidence log since a moment, in seconds."""
        in_force = self._offsets[bisect_right(self._offsets_from, since) - 1 :]
        skew = max(self._broker.logs[topics.EVIDENCE, number].skew for number in range(self._partitions))
        return max(0.0, max(in_force) + skew - self._kube.clock_offset)

    def _moment_of(self, partition: int, w: float) -> float:
        """Return the moment a watermark stands for: the append of the record that has it as its time."""
        known = self._append_of[partition].get(round(w * 1000))
        if known is None:
            self.fail("watermark", f"{w} is the time of no record of evidence partition {partition}")
            return w - self._broker.clock_offset
        return known

    def outage(self, seconds: float) -> None:
        """The broker goes away for so long, or comes back before its time (0)."""
        now = self._scheduler.now
        if self._outages and self._outages[-1][1] > now:
            self._outages[-1] = (self._outages[-1][0], max(now, now + seconds))
        else:
            self._outages.append((now, now + seconds))

    def _away(self, since: float, until: float) -> float:
        """Return for how long of a time nobody can have heard anybody."""
        return sum(
            max(0.0, min(until, end) - max(since, start))
            for start, end in self._outages
            if end - start > self._feed_gap + 2 * self._mark_interval
        )

    # ---- the source

    def landed(self, incarnation: Incarnation, said: Said, place: Place) -> None:
        self._said_at[place[1], said.offset] = incarnation, said
        now, bounds_within = self._scheduler.now, 3 * self._mark_interval
        followed = now - self._marked.get(place[1], 0.0) < bounds_within < now - incarnation.created
        if said.clock < incarnation.created + 2.0 and not followed:
            said.doubtful = True
        if said.kind is Kind.ERROR and said.clock < incarnation.created + YOUNG_SECONDS:
            said.doubtful = True
        if incarnation.managed:
            partition = partition_of(incarnation.key, self._partitions)
            self._waiting[partition, place[1]].append((said, incarnation.key))

    def lost(self, place: Place) -> None:
        """Retention went past some records."""
        self.passed_over(place, self._broker.logs[place].start)

    def passed_over(self, place: Place, start: int) -> None:
        """What a source holds before an offset is not going to be read."""
        if place[0] != SOURCE:
            return
        for (partition, source), waiting in self._waiting.items():
            if source == place[1]:
                kept = [each for each in waiting if each[0].offset >= start]
                self._doubt((partition, source), (each for each in waiting if each[0].offset < start))
                waiting.clear()
                waiting.extend(kept)

    def tail_lost(self, place: Place, end: int) -> None:
        """A source ends at an offset and went on before: what lay there nobody will read."""
        for (_, source), waiting in self._waiting.items():
            if source == place[1]:
                for said, _ in [each for each in waiting if each[0].offset >= end]:
                    said.doubtful = said.buried = True  # that it was lost is told only if somebody asked in time
                kept = [each for each in waiting if each[0].offset < end]
                waiting.clear()
                waiting.extend(kept)
        self._said_at = {at: said for at, said in self._said_at.items() if at[0] != place[1] or at[1] < end}

    def tail_found_lost(self, source_partition: int, offsets: int) -> None:
        """Hear that a worker found the end of a source further back than it was."""
        self.counts["tails found lost"] += 1
        if self.trace is not None:
            self.trace("worker", f"source {source_partition} has lost its last {offsets} records")

    def _doubt(self, where: tuple[int, int], waiting: Iterable[tuple[Said, str]]) -> None:
        for said, key in waiting:
            if self._covered[where].get((key, said.kind), -1) < said.offset:
                said.doubtful = True

    def started_over(self, place: Place) -> None:
        """A source partition has lost its records: until a mark tells it, what comes is taken for what was told."""
        source = place[1]
        for where in [where for where in self._waiting if where[1] == source]:
            self._give_up(where)
            self._covered[where].clear()
        self._said_at = {at: said for at, said in self._said_at.items() if at[0] != source}
        self._marked.pop(source, None)

    def _give_up(self, where: tuple[int, int]) -> None:
        waiting = self._waiting[where]
        self._doubt(where, waiting)
        for said, _ in waiting:
            said.buried |= said.doubtful and (said.landed or 0.0) - said.emitted > _LATE_SECONDS
        waiting.clear()

    def _told_to_start_over(self, partition: int, mark: Mark) -> None:
        for source, end in mark.starts_over:
            key = (partition, mark.topic_id, source)
            before = self._told.get(key, -1)
            if before >= end:
                self._give_up((partition, source))
                self._told[key], self._before_anew[key] = end - 1, before

    def topic_made_anew(self) -> None:
        for where, waiting in self._waiting.items():
            self._doubt(where, waiting)
            for said, _ in waiting:
                # What was carried over late and is gone before it was read, nobody has heard, and no gap tells of it.
                said.buried |= said.doubtful and (said.landed or 0.0) - said.emitted > _LATE_SECONDS
        self._waiting.clear()
        self._covered.clear()
        self._said_at.clear()
        self._marked.clear()
        self._source_topic_id = self._broker.topic_ids[SOURCE]

    # ---- the evidence log

    def _on_evidence(self, log: Log, record: Record, _process: Process | None) -> None:
        partition = log.partition
        self._append_of[partition].setdefault(record.timestamp, record.landed)
        entry = evidence.decode(record.value or b"")
        match entry:
            case Bundle():
                self._cover(partition, entry)
            case Mark() if entry.topic_id == self._source_topic_id:
                self._told_to_start_over(partition, entry)
                for source, w in entry.sources:
                    self._marked[source] = self._scheduler.now
                    self._check_claim(partition, source, w)
            case Hold():
                told = (entry.key, entry.source_partition, entry.offset)
                if told not in self._told_to_stop:  # one that is read again holds nobody for longer
                    self._told_to_stop[told] = None
                    by_right_clock = round(self._clock(partition, record.landed) * 1000)
                    self._holds[entry.key] = min(record.timestamp, by_right_clock)

    def _cover(self, partition: int, bundle: Bundle) -> None:
        """Note what a bundle tells, but for what is passed over as told before."""
        covered = self._covered[partition, bundle.source_partition]
        told = [(beat.key, Kind.LOADING, beat.offset) for beat in bundle.beats]
        told += [(word.key, word.kind, word.offset) for word in bundle.words]
        source = (partition, bundle.topic_id, bundle.source_partition)
        before = self._told.get(source, -1)
        for key, kind, offset in told:
            if offset > before:
                covered[key, kind] = max(offset, covered.get((key, kind), -1))
        newest = max([before, *(offset for _, _, offset in told)])
        if newest <= self._before_anew.get(source, newest):  # else it is of before the source started over
            self._told[source] = newest

    def _check_claim(self, partition: int, source: int, w: float) -> None:
        """Everything the source partition held at the moment of W is on this log before the mark."""
        moment = self._moment_of(partition, w)
        waiting, covered = self._waiting[partition, source], self._covered[partition, source]
        while waiting and waiting[0][0].landed is not None and waiting[0][0].landed < moment:
            said, key = waiting.popleft()
            if not said.doubtful and covered.get((key, said.kind), -1) < said.offset:
                self.fail(
                    "claim",
                    f"a mark claims source {source} up to {moment:.3f} in partition {partition}, but {said.kind.name} "
                    f"of {key} (offset {said.offset}, landed {said.landed:.3f}) is not on the log",
                )

    # ---- people

    def _on_control(self, _log: Log, record: Record, _process: Process | None) -> None:
        asked = commands.decode_control(record.value)
        self._asked[(record.key or b"").decode()] = asked if isinstance(asked, Pause) else None

    # ---- commands

    def _on_action(self, _log: Log, record: Record, process: Process | None) -> None:
        command = commands.decode_action(record.value)
        if not isinstance(command, Command):
            return
        self.counts[f"command {command.verdict}"] += 1
        self.commands.append((record.landed, command))
        is_zombies = (
            command.expires_at < record.landed + self._broker.clock_offset
        )  # somebody else counts the partition by now
        watched = not _by_target(self.policies, command.target).consumer and self._incarnation(command.uid) is not None
        if watched and (not is_zombies or command.id in self._turned):
            # Who has a state from its checkpoint takes it for well until later than who has heard it all.
            at, known = command.evidence.unhealthy_at or 0.0, self._turned.get(command.id)
            if known is None or at < known.at:
                self._turned[command.id] = _Turned(command.key, at, process)
        if self.trace is not None:
            self.trace(process.name if process else "person", "command", command.verdict, command.key, command.uid)
        if process is not None:
            self._check_verdict(command, self._followed[process])

    def _check_verdict(self, command: Command, books: tuple[PolicyBook, ...]) -> None:
        incarnation = self._incarnation(command.uid)
        if incarnation is None:
            self.fail("unknown", f"{command.key} has no incarnation {command.uid}")
            return
        assert command.evidence.watermark is not None
        partition = partition_of(command.key, self._partitions)
        w = command.evidence.watermark
        moment = self._moment_of(partition, w)
        if not incarnation.managed:
            self.fail("foreign", f"{command.key} is none of the platform's Jobs")
        if incarnation.gone is not None and incarnation.gone <= moment:
            return  # the next one may be heard before its fact is: a delete that names the uid of before harms nobody
        policies = [_by_target(book, incarnation.target) for book in books]
        hold = self._holds.get(command.key)
        if hold is not None and hold / 1000 > self._clock(partition, incarnation.created):
            held = w - hold / 1000
            hold_seconds = min(policy.stop_hold_seconds for policy in policies)
            if 0.0 <= held < hold_seconds - _TOLERANCE_SECONDS:
                self.fail("held", f"{command.key} was told to stop {held:.1f} s before the watermark")
        whys = [self._why_well(_Judged(incarnation, command, each, partition, moment, w)) for each in policies]
        if all(whys):
            self.fail("false verdict", f"{command.key} ({command.uid}) is no {command.verdict}: {whys[0]}")

    def _why_well(self, judged: _Judged) -> str:
        """Say why a Job was not what it was judged to be at the moment of the watermark; "" if it was."""
        all_said = [each for each in judged.job.said if each.landed is not None and each.landed <= judged.moment]
        said = [each for each in all_said if not each.doubtful]
        life = [each for each in said if each.kind in _LIFE]
        spoke = max((each.emitted for each in life), default=0.0)
        # What was said before another pod began to run is no end of that one: it may be judged by its own silence.
        began = max((since for since, _ in judged.job.running[1:] if since <= judged.moment), default=0.0)
        interrupted = [each for each in said if each.kind is Kind.INTERRUPTED and each.emitted > max(spoke, began)]
        if interrupted:
            return "it said interrupted"
        errors = [each for each in all_said if each.kind is Kind.ERROR]
        finished = [each for each in said if each.kind is Kind.FINISHED and each.emitted > max(spoke, began)]
        by_error = any(
            abs(end.emitted - error.emitted) <= _RIGHT_AFTER_SECONDS + 0.5
            or (error.finished and spoke < error.emitted <= end.emitted)
            for end in all_said
            if end.kind is Kind.FINISHED and end.emitted > spoke
            for error in errors
        )
        if finished and not by_error:
            return "it said finished"
        if judged.command.verdict == "failed":
            if judged.command.evidence.proof is ProofKind.CONDITION:
                has_failed = judged.job.condition_at(self._scheduler.now) in {"failed", "deleting", "gone"}
                return "" if has_failed else "the Job has not failed"
            return self._why_not_failed(judged, errors, life, by_error=by_error)
        # Of what retention took the log says so, and what a slow clock leaves open moves last-seen all the same.
        return self._why_not_silent(judged, [each for each in all_said if each.kind in _LIFE and not each.buried])

    def _why_not_silent(self, judged: _Judged, life: list[Said]) -> str:
        policy, w = judged.policy, judged.watermark
        never = judged.command.verdict == "never_started"
        threshold = policy.startup_threshold_seconds if never else policy.silence_threshold_seconds
        if life:
            heard = max(each.landed or 0.0 for each in life)
            # A clock that was set back hides seconds that went by; what nobody could hear is no silence.
            passed = max(w - self._clock(judged.partition, heard), judged.moment - heard)
            silent = passed - self._away(heard, judged.moment)
            if silent < threshold - _TOLERANCE_SECONDS:
                return f"it was heard {silent:.2f} s before the watermark, of {threshold:g} s"
            return ""
        if not judged.job.running:
            return "it never ran"
        ran = w - self._clock(judged.partition, judged.job.running[0][0])
        return "" if ran >= threshold - _TOLERANCE_SECONDS else f"it ran for {ran:.2f} s only"

    def _why_not_failed(self, judged: _Judged, errors: list[Said], life: list[Said], *, by_error: bool) -> str:
        job, moment = judged.job, judged.moment
        if not errors:
            return "it said no error"
        if judged.policy.error_grace_seconds == 0.0:
            return ""  # each is a failure, whatever followed
        last = max(each.emitted for each in errors)
        # Two reports within a mark interval may be put in one order as well as in the other (core/marks.py).
        after = [each for each in life if each.emitted > last + self._mark_interval + 1.0]
        if after:
            if not self._why_not_silent(judged, life):
                return ""  # it has been silent for as long as it may be, all the same
            return f"it went on {after[0].emitted - last:.2f} s after its last error"
        if by_error or any(each.finished for each in errors if each.emitted == last):
            return ""
        if job.running and not any(
            since <= moment and (until is None or until > moment) for since, until in job.running
        ):
            return ""  # its pod had ended
        if judged.command.evidence.pod_ended and any(last <= (until or last) <= moment for _, until in job.running):
            return ""  # its pod had ended, and nobody told of the next one yet: that is held against the delete
        spoke = max((each.emitted for each in life), default=0.0)
        first = min(each.landed or 0.0 for each in errors if each.emitted > spoke - self._mark_interval - 1.0)
        waited = moment - first
        stepped = max(self._offsets) - min(self._offsets)
        grace_seconds = judged.policy.error_grace_seconds
        if waited < grace_seconds - _TOLERANCE_SECONDS - stepped:
            return f"its error was {waited:.2f} s ago, of {grace_seconds:g} s"
        return ""

    # ---- the steps log

    def _on_step(self, _log: Log, record: Record, process: Process | None) -> None:
        entry = steps.decode(record.value)
        match entry:
            case Admitted():
                self._admitted(entry, record, process)
            case Command():
                self._commanded_at[entry.id] = record.offset
            case Announced() if entry.step is Step.DELETE:
                self._announced(entry)
            case FleetCounts():
                self._counted(entry, record.timestamp / 1000, process)
            case Settled():
                self._settled(entry, record.offset)
            case LimitsChanged():
                self._change_limits(entry.limits, record.timestamp / 1000)
            case Pause():
                self._pauses[entry.scope] = entry
            case Resume():
                self._resume(entry, record.timestamp / 1000)
            case _:
                self._decided_or_seen(entry)
        if self.trace is not None and not isinstance(entry, steps.Tick | steps.FleetCounts):
            self.trace(process.name if process else "?", f"step {record.offset}", brief(entry))

    def _resume(self, resume: Resume, at: float) -> None:
        if self._asked.get(resume.scope) != self._pauses.get(resume.scope):
            self._pauses.pop(resume.scope, None)  # a pause that people have made since holds
        key = resume.scope.removeprefix("job:")
        self._resumed[key] = at
        self._quarantined.pop(key, None)

    def _decided_or_seen(self, entry: object) -> None:
        if isinstance(entry, Resolve):
            self._decided_by_people.add(entry.action_id)
        elif isinstance(entry, steps.Resulted) and entry.result.condition is Condition.COMPLETE:
            self._seen_complete.add(entry.result.uid)

    def _admitted(self, admitted: Admitted, record: Record, process: Process | None) -> None:
        command, now = admitted.command, record.timestamp / 1000
        known = self.restarts.get(command.id)
        if known is not None and (not known.settled or self._commanded_at.get(command.id, 0) < known.settled_at):
            if known.touched is None:
                known.command = command  # the same judgement later: what was said first may have opened nothing
            return  # said twice, after a crash or by a worker that was paused
        if process is not None and process.went_on_at > self._scheduler.now - _ZOMBIE_SECONDS:
            restart = self.restarts.setdefault(command.id, _Restart(command, record.landed))
            restart.command, restart.may_be_open = command, True
            return  # it may be nobody's word any more
        self._save_up(now)
        self._tokens -= 1.0
        # What was let through by the limits before may still be on its way to the log.
        lately = self._limits_since is not None and self._scheduler.now - self._limits_since < _ZOMBIE_SECONDS
        if self._tokens < -1.0:  # one to spare: the budget is spent a moment before the record is written
            self._tokens = -1.0
            if not lately:
                self.fail("rate", f"{command.key} is one too many in a minute")
        open_ones = [each for each in self.restarts.values() if not each.settled]
        if len(open_ones) >= self._window and not lately:
            self.fail("in flight", f"{command.key} is one more than {self._window} at once")
        if any(each.command.key == command.key for each in open_ones):
            self.fail("in flight", f"{command.key} has a restart under way already")
        why = self._why_in_quarantine(command, now)
        self.restarts[command.id] = _Restart(command, record.landed, in_quarantine=why)
        self.counts["admitted"] += 1

    def _why_in_quarantine(self, command: Command, now: float) -> str:
        """Say why a Job is still in quarantine, "" if it is not, or a person asks; `now` as of the steps log."""
        well = now - self._quarantined.get(command.key, float("-inf"))
        needed = self._limits.healthy_period_seconds - (max(self._offsets) - min(self._offsets)) - _TOLERANCE_SECONDS
        if command.verdict == REQUESTED_VERDICT or well >= needed:
            return ""
        return f"it was found sick in quarantine {well:.0f} s ago"

    def _save_up(self, now: float) -> None:
        """Fill the budget up to now, by the limits that hold."""
        limits = self._limits
        self._tokens += max(0.0, now - self._tokens_at) * limits.rate_per_minute / 60.0
        self._tokens = min(self._tokens, float(limits.rate_burst))
        self._tokens_at = now

    def _change_limits(self, limits: Limits, now: float) -> None:
        self._save_up(now)
        if self._limits_since is None:
            self._tokens = float(limits.rate_burst)
        elif limits != self._limits:
            self.counts["other limits"] += 1
        self._limits, self._limits_since = limits, self._scheduler.now
        self._tokens = min(self._tokens, float(limits.rate_burst))
        self._window = max(1, min(self._window, limits.in_flight))

    def _announced(self, announced: Announced) -> None:
        restart = self.restarts.get(announced.action_id)
        if restart is not None and restart.announced is None:
            restart.announced = self._scheduler.now
        if restart is not None and restart.touched is None:
            restart.paused_by = next(
                (
                    scope
                    for scope in scopes_of(restart.command)
                    if scope in self._pauses and self._in_force(self._pauses[scope])
                ),
                "",
            )

    def _in_force(self, pause: Pause) -> bool:
        return pause.until is None or pause.until > self._scheduler.now + self._broker.clock_offset + 5.0

    def _settled(self, settled: Settled, offset: int) -> None:
        restart = self.restarts.get(settled.action_id)
        if restart is None or (restart.settled and not restart.may_be_open):
            return
        restart.settled, restart.settled_at, restart.may_be_open = True, offset, False
        if settled.repaired is True:
            self._window = max(1, min(2 * self._window, self._limits.in_flight))
        elif settled.repaired is False:
            self._window = max(1, self._window // 2)

    def _on_changelog(self, _log: Log, record: Record, process: Process | None) -> None:
        """Forget who turned sick where another worker has written it since, which may have gone by other policies.

        Whoever reads the partition back begins with what was written last.
        """
        key = (record.key or b"").decode()
        by_others = [it for it, each in self._turned.items() if each.key == key and each.process is not process]
        for command_id in by_others:
            del self._turned[command_id]

    def _on_outcome(self, _log: Log, record: Record, _process: Process | None) -> None:
        outcome = commands.decode_outcome(record.value)
        assert isinstance(outcome, Outcome)
        if any(known.id == outcome.id for _, known in self.outcomes[-20:]):
            return
        self.outcomes.append((record.landed, outcome))
        is_refused = outcome.result is Result.REFUSED and outcome.reason == Reason.QUARANTINED
        is_told = outcome.result is Result.FAILED and outcome.final and outcome.quarantined
        if (is_refused or is_told) and outcome.at > self._resumed.get(outcome.key, 0.0):
            self._quarantined[outcome.key] = max(outcome.at, self._quarantined.get(outcome.key, 0.0))
        self.counts[f"{outcome.result} {outcome.reason}"] += 1

    # ---- the cluster

    def before_delete(self, name: str, uid: str) -> None:
        """The API is about to begin the deletion of a Job for us."""
        job = self._kube.get(name)
        assert job is not None
        truth, now = job.truth, self._scheduler.now
        restart = self._restart_of(truth)
        if restart is None:
            made_for = job.manifest["metadata"].get("annotations", {}).get(ACTION_ID_ANNOTATION, "")
            owner = next((each for each in self.restarts if made_for.startswith(each) and made_for), "")
            if owner and not truth.running:
                self.counts["empty Job replaced"] += 1
                if truth.skip_since is not None or truth.managed_by or job.suspended or job.ended:
                    self.fail("exempt", f"{name}, which the healer made, is deleted though it is not to be touched")
                return
            self.fail("unasked delete", f"{name} ({uid}) was deleted, and nothing was admitted for it")
            return
        self._deleted_by[uid].add(restart.command.id)
        if len(self._deleted_by[uid]) > 1:
            self.fail("two actions", f"{name} ({uid}) is deleted by a second action")
        first = restart.touched is None
        if self.trace is not None:
            self.trace("kube", "delete", name, uid, "first" if first else "again")
        if first:
            restart.touched = now
            self.counts["deleted"] += 1
        self._check_state(job, restart, now)
        policy_since, policy_until = self._kube.policy_since, self._kube.policy_until
        if now < policy_until and now - policy_since > _LOOKED_BEFORE_SECONDS:
            self.fail("not made again", f"{name} is deleted, and creates are refused since {now - policy_since:.0f} s")
        if first:
            self._check_brakes(restart, now)

    def _check_state(self, job: Any, restart: _Restart, now: float) -> None:
        name, truth, command = job.name, job.truth, restart.command
        if not truth.managed:
            self.fail("foreign", f"{name} is none of the platform's Jobs")
        if truth.skip_since is not None:
            self.fail("exempt", f"{name} carries the skip annotation since {now - truth.skip_since:.1f} s")
        if truth.managed_by:
            self.fail("exempt", f"{name} is managed by {truth.managed_by}")
        if job.suspended:
            self.fail("suspended", name)
        if command.evidence.pod_ended and restart.touched == now and any(pod.is_active for pod in job.pods):
            self.fail("another pod", f"{name} was judged by a pod that had ended, and another one has started")
        lost = [
            pod.lost_since for pod in job.pods if pod.lost_since is not None and pod.phase in {"Pending", "Running"}
        ]
        if lost and not job.ended and now - max(lost) < _LOST_POD_SECONDS - 1.0:
            self.fail("lost pod", f"{name} is deleted, and lost its pod {now - max(lost):.0f} s ago")
        if job.ended.lower() not in {"", command.evidence.condition}:
            self.fail("ended", f"{name} is {job.ended}, and was judged {command.evidence.condition}")
        is_there = any(not pod.is_on_dead_node for pod in job.pods)
        if truth.drained_since is not None and now - truth.drained_since > 1.0 and is_there:
            self.fail("idle", f"{name} has nothing to do since {now - truth.drained_since:.0f} s")

    def _check_brakes(self, restart: _Restart, now: float) -> None:
        command = restart.command
        if restart.paused_by:
            self.fail("paused", f"{command.key}: {restart.paused_by}")
        if restart.in_quarantine:
            self.fail("quarantine", f"{command.key}: {restart.in_quarantine}")
        late = now + self._broker.clock_offset - command.expires_at
        stepped = max(self._offsets) - min(self._offsets)
        if late > _ACTING_SECONDS + stepped:
            self.fail("expired", f"{command.key} was judged until {late:.0f} s ago")
        self._check_storm(restart)

    def _counted(self, counts: FleetCounts, at: float, process: Process | None) -> None:
        """Follow what the evidence partitions count, and hold it against the commands that were sent."""
        limits, now = self._limits, self._scheduler.now
        # Who takes the partition over may take a Job for well again: until a checkpoint ends, or for a feed gap.
        turned = {
            each.key
            for each in self._turned.values()
            if each.process is process
            and counts.at - limits.storm_window_seconds < each.at <= counts.at
            and partition_of(each.key, counts.partitions) == counts.partition
        }
        if len(turned) > counts.unhealthy:
            self.fail("miscounted", f"{sorted(turned)} turned sick in partition {counts.partition}: {counts}")
        known = self._fleet.get(counts.partition)
        if known is None or known.at <= counts.at:  # an older one is of a worker that was paused
            self._fleet[counts.partition] = counts
        if len(self._fleet) < counts.partitions:
            return
        unhealthy = sum(each.unhealthy - each.suspected for each in self._fleet.values())
        base = sum(each.base for each in self._fleet.values())
        # What a worker far behind counts was so long ago.
        is_news = at - min(each.at for each in self._fleet.values()) <= limits.counts_stale_after_seconds
        stormy = is_news and unhealthy > limits.storm_jobs and unhealthy > limits.storm_share * base
        sick = sum(each.sick for each in self._fleet.values())
        few = sick <= limits.storm_jobs or sick <= limits.storm_share / 2 * base
        if stormy and self._has_passed:
            self._storm_since, self._has_passed = now, False
        # Until few are sick, all that follows is of the same storm: it is held for, and then probed.
        self._has_passed |= is_news and few and not stormy

    def _check_storm(self, restart: _Restart) -> None:
        """No restart before everybody has counted, and none in a storm before its canary is due.

        A delete that was announced may have come through whatever the API said, so it is seen through.
        """
        command, announced = restart.command, restart.announced or self._scheduler.now
        turned, held = command.evidence.unhealthy_at or 0.0, announced - self._storm_since
        behind = [each.partition for each in self._fleet.values() if each.at < turned]
        if behind or not self._fleet:
            self.fail("uncounted", f"{command.key} turned sick at {turned}, and partitions {behind} have not counted")
        if _NOTICE_SECONDS < held < self._limits.storm_canary_after_seconds - 60.0:
            self.fail("storm", f"{command.key} is restarted {held:.0f} s after too many turned sick")

    def before_create(self, name: str, manifest: Manifest) -> None:
        """The API is about to create a Job for us; there is none of this name."""
        past = [each for each in self._kube.all if each.key.endswith("/" + name)]
        # What others left running beside their own new Job ran beside it before we came; no restart waits for it.
        ours = [each for each in past if each is past[-1] or each.removed_by == "healer"]
        for each in ours:
            if self._kube.pods_of(name, each.uid):
                self.fail("side by side", f"{name} is created while pods of {each.uid} are there")
        action_id = manifest["metadata"].get("annotations", {}).get(ACTION_ID_ANNOTATION, "")
        restart = next((each for key, each in self.restarts.items() if action_id.startswith(key)), None)
        if restart is not None and restart.command.id not in self._decided_by_people:
            done = restart.command.uid in self._seen_complete
            if done and restart.command.evidence.condition != Condition.COMPLETE:
                self.fail("ran again", f"{name} is created, and was seen Complete")
        if past and past[-1].removed_by not in {"healer", ""} and (restart is None or restart.touched is None):
            self.counts["created after others removed it"] += 1

    def created(self, job: Any) -> None:
        """A Job was created by anybody."""
        truth: Incarnation = job.truth
        if truth.made_by is not MadeBy.HEALER:
            return
        self.counts["created"] += 1
        action_id = job.manifest["metadata"].get("annotations", {}).get(ACTION_ID_ANNOTATION, "")
        restart = self.restarts.get(action_id.rpartition("-")[0] if action_id.count("-") > 4 else action_id)
        # A Job that is put back as it was may carry the id of the restart before.
        twins = (
            restart is not None
            and not restart.settled
            and [
                each
                for each in self._kube.all
                if each is not truth and each.key == truth.key and self._action_ids.get(each.uid) == action_id
            ]
        )
        if twins:
            self.fail("second create", f"{truth.key}: the same action has made {twins[0].uid} before")
        self._action_ids[truth.uid] = action_id
        before = [each for each in self._kube.all if each is not truth and each.key == truth.key]
        if before and before[-1].spec != truth.spec:
            self.fail("spec", f"{truth.key} is not what it was")

    # ---- the ear of the workers

    def follows(self, worker: Any) -> None:
        """A worker goes by the policies that it has now."""
        before = self._followed.get(worker.process, ())
        self._followed[worker.process] = (worker.policies, *before)[:2]
        if before and self.trace is not None:
            self.trace(worker.process.name, "goes by other policies")

    def folded(self, worker: Any, changes: Changes) -> None:
        """A worker folded a batch of evidence."""
        if self.trace is not None:
            for state, judgement in changes.judged:
                self.trace(worker.process.name, "judged", state.key, judgement.verdict, judgement.rule)

    def advanced(self, worker: Any, partition: Partition, advance: Advance) -> None:
        self.counts["feed gaps" if advance.gap else "watermarks"] += 1
        if advance.gap and self.trace is not None:
            self.trace(worker.process.name, "gap", partition.number, advance.to)

    def buried(self, batch: Any, rejected: Sequence[Rejected]) -> None:
        for reject in rejected:
            self.counts["dead letters"] += 1
            known = self._said_at.get((batch.partition, reject.record.offset))
            if known is None or reject.reason == "not_evidence":
                continue
            incarnation, said = known
            if abs(reject.record.timestamp - said.clock * 1000) > 1.0:
                continue  # of a topic before this one, fetched before it was made anew
            if reject.names_nobody and incarnation.managed and incarnation.gone is None:
                # It was there when the report was read, and is: a list that began in between has it.
                self.fail("buried", f"{said.kind.name} of {incarnation.key} ({incarnation.uid}), offset {said.offset}")
            said.doubtful = said.buried = True
            self.counts["reports buried"] += 1

    def read(self, worker: Any, actuator: Actuator, record: Record) -> None:
        """A worker read a record of the steps log."""

    # ---- what is looked up

    def _incarnation(self, uid: str) -> Incarnation | None:
        return next((each for each in self._kube.all if each.uid == uid), None)

    def _restart_of(self, truth: Incarnation) -> _Restart | None:
        found = [each for each in self.restarts.values() if each.command.uid == truth.uid]
        return found[-1] if found else None

    def policy(self, job: Incarnation) -> Policy:
        return _by_target(self.policies, job.target)


def _by_target(policies: PolicyBook, target: str) -> Policy:
    found = (policy for policy in policies.policies() if policy.name == target)
    return next(found, policies.policies()[-1])


def told(outcome: Outcome) -> bool:
    """Say whether an outcome answers for its Job: restarted, refused, or failed and said so."""
    return outcome.result in {Result.RESTARTED, Result.REFUSED, Result.FAILED}


def brief(entry: object) -> str:
    """Say in a line what a record of the steps log is, without its manifests."""
    match entry:
        case Command():
            return f"command {entry.key} {entry.uid} {entry.verdict}"
        case Admitted():
            return f"admitted {entry.command.key} {entry.command.uid} {entry.command.verdict}"
        case Announced():
            return f"announced {entry.key} {entry.seq} {entry.step} by {entry.worker}"
        case steps.Resulted():
            result = entry.result
            detail = f"{result.uid} {result.condition} {result.pod} pods={result.pods} {result.message}"
            return f"result {entry.key} {entry.seq} {entry.step} {result.what} {detail}"
        case Settled():
            return f"settled {entry.key} repaired={entry.repaired}"
        case _:
            return repr(entry)
