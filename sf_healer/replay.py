"""Replay: the same core over a recorded topic, in virtual time, with no Kafka and no cluster.

Arrival time is append time and source time, but for lines that are dated ahead of later ones (log_time.py); a mark is
folded at every whole second. A restart is taken to succeed: the Job gets a new incarnation, which is judged from its
first report on (a capture cannot react, so usually there is none). One decision is given per change of decision or
reason of a Job.

Files: captures are captures.py's; jobs are what kubectl lists, or a JSON list of `{"name", "namespace", "uid",
"created_at", "env"}`; a truth gives per Job the verdict and the window of the first restart.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from sf_healer.captures import CaptureError, Line, Seconds
from sf_healer.core import admission, evidence
from sf_healer.core.combine import Combined, Combiner
from sf_healer.core.commands import Command
from sf_healer.core.events import Kind, Report
from sf_healer.core.facts import Condition, JobFact, PodState, fact_from_manifest, gone, transitions
from sf_healer.core.identity import SIGNS_OF_LIFE, ConventionIndex, JobIndex, target_of
from sf_healer.core.marks import SourceMarks
from sf_healer.core.partition import Counts, Partition
from sf_healer.core.policy import Limits, PolicyBook
from sf_healer.core.steps import FleetCounts
from sf_healer.log_time import Arrivals
from sf_healer.views.lines import moment

MARK_INTERVAL_SECONDS = 1.0
WINDOW_SECONDS = 5.0
FEED_GAP_SECONDS = 10.0
#: Every second is swept, and a month takes two minutes. A longer pause than this is a wrong date.
LONGEST_PAUSE_SECONDS = 31 * 86_400.0
_TOPIC_ID = "capture"
_RESTARTED = "+"  # in the uid of a Job that was restarted here, behind the one it had
#: So much later than it reports a Job may be created, by an API server's clock that is ahead of the broker's.
EARLIEST_REPORT_SECONDS = 120.0
#: 2100-01-01. Above it lie milliseconds taken for seconds, and the year 9999, which stands for never.
_LATEST_CREATION_SECONDS = 4_102_444_800

T = TypeVar("T")


class Arrival(msgspec.Struct, frozen=True):
    """A line as the core takes it: numbered within its partition, dated in milliseconds as Kafka does it."""

    offset: int
    timestamp: int
    value: bytes | None


class _JobRow(msgspec.Struct):
    name: str
    uid: str
    created_at: Annotated[float, msgspec.Meta(ge=0, le=_LATEST_CREATION_SECONDS)]
    env: dict[str, str]
    namespace: str = "stf"


class TruthRow(msgspec.Struct):
    """What a capture's author says of one Job: when it is to be found.

    No restart is right where `not_before` is None, and any from then on where only `not_after` is.
    """

    verdict: str
    not_before: Seconds | None = None
    not_after: Seconds | None = None
    firm: bool = True
    why: str = ""

    def __post_init__(self) -> None:
        """Refuse an end without a beginning, or before it; raises ValueError."""
        if self.not_after is None:
            return
        if self.not_before is None:
            raise ValueError("`not_after` without `not_before`")
        if self.not_after < self.not_before:
            raise ValueError("`not_after` before `not_before`")


class Truth(msgspec.Struct):
    """The truth about a capture, by Job name."""

    jobs: dict[str, TruthRow]
    capture_start: Seconds | None = None
    capture_end: Seconds | None = None


class Decision(msgspec.Struct, frozen=True, omit_defaults=False):
    """What sf-healer would have done about one Job at one moment; `at` in epoch seconds."""

    at: float
    job: str
    verdict: str
    decision: str  # restart | refuse
    reason: str
    attempt: int
    evidence: dict[str, float | int | str | None]


_GOES_ON = frozenset({Condition.ACTIVE, Condition.SUSPENDED})


class ListedJob(NamedTuple):
    """A Job as it was created, and what had become of it by the time it was listed; epoch seconds, in order."""

    fact: JobFact
    later: tuple[tuple[float, JobFact], ...] = ()

    def ended_before(self, at: float) -> bool:
        """Say whether it was over by then: complete, failed or deleted."""
        return any(since < at and fact.condition not in _GOES_ON for since, fact in self.later)


def read_jobs(path: Path) -> list[ListedJob]:
    """Read Jobs as `kubectl get jobs -o json` prints them, or as they lie beside a capture; raises CaptureError."""
    try:
        document = msgspec.json.decode(path.read_bytes())
        if isinstance(document, dict):
            return [_as_it_was(manifest) for manifest in _manifests(document)]
        rows = msgspec.convert(document, list[_JobRow])
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, and so is a wrong letter
        raise CaptureError(f"{path}: {error}") from None
    return [ListedJob(_fact_of(row, number)) for number, row in enumerate(rows, start=1)]


def _manifests(document: dict[str, object]) -> list[dict[str, object]]:
    """Give the Jobs of a List, or the one Job a document is."""
    items = document.get("items", [document])
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise ValueError("items is no list of Jobs")
    return items


def _as_it_was(manifest: dict[str, object]) -> ListedJob:
    """Take a Job that is listed now for one that was never restarted: what came of its restarts since is replayed."""
    fact = msgspec.structs.replace(fact_from_manifest(manifest, []), attempt=0, action_id="")
    created_at, told = fact.created_at, transitions(manifest)
    if not 0 <= created_at <= _LATEST_CREATION_SECONDS:
        raise ValueError(f"metadata.creationTimestamp of {fact.key} is before 1970 or after 2099")
    resumed = any(condition is Condition.ACTIVE and at > created_at for at, condition in told)
    undated = fact.condition is Condition.SUSPENDED and not told
    was = Condition.SUSPENDED if resumed or undated else Condition.ACTIVE
    return ListedJob(_turned(fact, was), tuple((max(at, created_at), _turned(fact, turned)) for at, turned in told))


def _turned(fact: JobFact, condition: Condition) -> JobFact:
    """Let a Job be in a condition, with the pod that it has then."""
    return msgspec.structs.replace(fact, condition=condition, pod=_PODS[condition])


_PODS = {
    Condition.SUSPENDED: PodState.NONE,
    Condition.ACTIVE: PodState.RUNNING,
    Condition.COMPLETE: PodState.ENDED,
    Condition.FAILED: PodState.ENDED,
    Condition.DELETING: PodState.ENDED,
}


def _fact_of(row: _JobRow, number: int) -> JobFact:
    producer_id, queue_id = row.env.get("TELEMETRY_PRODUCER_ID", ""), row.env.get("QUEUE_ID", "")
    return JobFact(
        key=f"{row.namespace}/{row.name}",
        uid=row.uid,
        created_at=row.created_at,
        resource_version=number,
        target=target_of(producer_id),
        queue_id=queue_id,
        producer_id=producer_id,
        kafka_topic=row.env.get("KAFKA_TOPIC", ""),
        condition=Condition.ACTIVE,
        pod=PodState.RUNNING,
        managed="QUEUE_ID" in row.env and "TELEMETRY_PRODUCER_ID" in row.env,
    )


def read_truth(path: Path) -> Truth:
    """Read the truth about a capture; raises CaptureError."""
    return _read(path, Truth)


def _read(path: Path, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: {error}") from None


class Replay:
    """One run over one capture.

    `since` is from when on the topic was listened to, where that was before the first line, and `until` the last moment
    at which a verdict may fall; epoch seconds.
    """

    def __init__(
        self,
        lines: Iterable[Line],
        jobs: Iterable[ListedJob] | None,
        policies: PolicyBook,
        *,
        since: float | None = None,
        until: float | None = None,
        namespace: str = "stf",
    ) -> None:
        self._arrivals = Arrivals(lines)
        self._since = math.inf if since is None else since
        self.until = math.inf if until is None else until
        self._names = ConventionIndex(namespace) if jobs is None else JobIndex()
        self._listed = sorted(jobs or (), key=lambda job: job.fact.created_at)
        self._awaited: dict[str, deque[JobFact]] = {}  # by producer: those that were created after the beginning
        self._early: set[tuple[str, str]] = set()  # keys and uids of those that reported before they were created
        self._combiner = Combiner(self._names, 1)
        self._marks = SourceMarks()
        self._partition = Partition(
            0,
            partitions=1,
            policies=policies,
            window_seconds=WINDOW_SECONDS,
            feed_gap_seconds=FEED_GAP_SECONDS,
        )
        self._valve = _Valve(policies.limits)
        self._restarts = 0
        self._offsets: dict[int, int] = {}  # by partition as the core numbers them
        self._numbers: dict[int, int] = {}  # of the capture's partitions, as they come: a file may claim any
        self._told: dict[str, tuple[str, str, int]] = {}
        self.reports = 0
        self.rejected: dict[str, int] = {}
        self.began = -math.inf
        self.left_out = 0  # Jobs that had ended before
        self.lines_left_out = 0  # that arrived after `until`

    @property
    def lines_dated_ahead(self) -> int:
        """How many lines were dated after later ones, so far."""
        return self._arrivals.dated_ahead

    @property
    def jobs(self) -> Iterable[str]:
        """The keys of the Jobs there have been, so far."""
        return self._partition.jobs.keys()

    def decisions(self) -> Iterator[Decision]:
        """Run to the end of the capture, or to `until`, giving each decision as it falls."""
        last = 0.0
        for at, happening in self._happenings():
            last = at
            if isinstance(happening, Line):
                self._report(happening, at)
            elif isinstance(happening, JobFact):
                self._listed_fact(happening, at)
            else:
                yield from self._sweep(at)
        if self.until != math.inf:
            yield from self._sweep(self.until)
        elif last:
            yield from self._sweep(last)

    def _happenings(self) -> Iterator[tuple[float, Line | JobFact | None]]:
        """Give reports, facts and whole seconds (None) in order of time; a second comes after what it ends."""
        lines = self._lines_in_time()
        first = next(lines, None)
        heard = itertools.chain([] if first is None else [first], lines)
        began = min(self._since, math.inf if first is None else first[0])
        if began == math.inf or (first is None and not began <= self.until < math.inf):
            return  # nobody looked, so of no Job a silence is known
        self.began = began  # nobody looked before: of older Jobs no silence is known
        there = [job for job in self._listed if not job.ended_before(began)]
        self.left_out = len(self._listed) - len(there)
        told = (each for job in there for each in ((job.fact.created_at, job.fact), *job.later))
        facts = deque(sorted(((max(at, began), fact) for at, fact in told), key=itemgetter(0)))
        for fact in (job.fact for job in there if job.fact.created_at > began and job.fact.managed):
            self._awaited.setdefault(fact.producer_id, deque()).append(fact)
        second = math.ceil(began)
        for at, happening in self._merged(heard, facts):
            while second < at:
                yield float(second), None
                second += 1
            yield at, happening
        while self.until != math.inf and second <= self.until:
            yield float(second), None
            second += 1

    def _lines_in_time(self) -> Iterator[tuple[float, Line]]:
        """Give the lines by `until`; behind a later one there may be others, which came late."""
        for at, line in self._arrivals:
            if at <= self.until:
                yield at, line
            else:
                self.lines_left_out += 1

    def _merged(
        self, lines: Iterable[tuple[float, Line]], facts: deque[tuple[float, JobFact]]
    ) -> Iterator[tuple[float, Line | JobFact]]:
        """Merge lines and facts by time, to the last line; lines that go back in time stay where they are."""
        for at, line in lines:
            while facts and facts[0][0] <= at:
                yield facts.popleft()
            yield at, line
        if self.until != math.inf:
            yield from itertools.takewhile(lambda fact: fact[0] <= self.until, facts)

    def _report(self, line: Line, at: float) -> None:
        source_partition = self._numbered(line.partition, at)
        offset = self._offsets[source_partition] = self._offsets.get(source_partition, -1) + 1
        combined = self._combine(line, at, source_partition, offset)
        if combined.rejected and self._awaited and self._is_early(combined.rejected[0].report, at):
            combined = self._combine(line, at, source_partition, offset)
        self.reports += sum(combined.reports)
        for reject in combined.rejected:
            self.rejected[reject.reason] = self.rejected.get(reject.reason, 0) + 1
        if isinstance(self._names, ConventionIndex):
            for fact in self._names.take_new():
                self._assume(fact, at)
        for bundle in combined.bundles.values():
            self._let_run(bundle, at)
            self._partition.apply(bundle, at)

    def _combine(self, line: Line, at: float, source_partition: int, offset: int) -> Combined:
        return self._combiner.combine(
            [Arrival(offset, math.floor(line.at * 1000), line.value)],
            topic_id=_TOPIC_ID,
            source_partition=source_partition,
            marks=self._marks,
            not_after=at if at < line.at else math.inf,  # as a worker bounds what is dated after it was read
        )

    def _is_early(self, report: Report | None, at: float) -> bool:
        """Fold a Job that nobody else is called as and that speaks shortly before it was created; a worker lists it.

        The first report decides. Had the producer been heard longer before, or did it begin with its last words, that
        would be of an incarnation that the list no longer holds.
        """
        if report is None:
            return False
        awaited = self._awaited.get(report.producer)
        while awaited and awaited[0].created_at <= at:
            awaited.popleft()
        if not awaited:
            return False
        fact = awaited.popleft()
        if report.kind not in SIGNS_OF_LIFE or fact.created_at - at > EARLIEST_REPORT_SECONDS:
            return False
        self._early.add((fact.key, fact.uid))
        self._fact(fact, at)
        return True

    def _assume(self, fact: JobFact, at: float) -> None:
        """Fold what is made up of a Job; what has become of it by a restart is gone with it."""
        known = self._partition.jobs.get(fact.key)
        if fact.condition is Condition.GONE and known is not None and known.fact is not None:
            fact = gone(known.fact, known.fact.resource_version + 1)
        self._partition.apply(evidence.Fact(fact), at)

    def _numbered(self, partition: int, at: float) -> int:
        """Give the number of a source partition; one that had nothing to say before was marked all the same."""
        number = self._numbers.get(partition)
        if number is None:
            number = self._numbers[partition] = len(self._numbers)
            self._mark(self._partition.watermark.value, at)
        return number

    def _mark(self, w: float, at: float) -> None:
        partitions = max(1, len(self._numbers))
        self._partition.apply(evidence.Mark(_TOPIC_ID, partitions, tuple((n, w) for n in range(partitions))), at)

    def _let_run(self, bundle: evidence.Bundle, at: float) -> None:
        """Let a restarted Job that speaks after all have a running pod, so that it is judged from now on.

        What was said before the restart and comes late is of the pod before.
        """
        signs = [(beat.key, beat.source_at) for beat in bundle.beats]
        signs += [(word.key, word.source_at) for word in bundle.words if word.kind is Kind.STARTED]
        for key, said_at in signs:
            state = self._partition.jobs.get(key)
            if state is None or state.fact is None or said_at < state.fact.created_at:
                continue
            if state.fact.pod is PodState.PENDING:
                self._fact(msgspec.structs.replace(state.fact, pod=PodState.RUNNING), at)

    def _listed_fact(self, fact: JobFact, at: float) -> None:
        """Fold what the list tells. Of a Job restarted here, which is another by now, it holds if that one speaks."""
        if (fact.key, fact.uid) in self._early:  # and what became of it comes later
            self._early.discard((fact.key, fact.uid))
            return
        state = self._partition.jobs.get(fact.key)
        known = None if state is None else state.fact
        if known is not None and known.uid.startswith(f"{fact.uid}{_RESTARTED}"):
            if known.pod is PodState.PENDING:
                return
            fact = msgspec.structs.replace(
                fact, uid=known.uid, created_at=known.created_at, attempt=known.attempt, action_id=known.action_id
            )
        self._fact(fact, at)

    def _fact(self, fact: JobFact, at: float) -> None:
        known = self._partition.jobs.get(fact.key)
        if known is not None and known.fact is not None:
            version = max(fact.resource_version, known.fact.resource_version + 1)
            fact = msgspec.structs.replace(fact, resource_version=version)
        if isinstance(self._names, JobIndex):
            self._names.put(fact, now=at)
        self._partition.apply(evidence.Fact(fact), at)

    def _sweep(self, at: float) -> Iterator[Decision]:
        self._mark(at, at)
        self._valve.count(self._partition.counts(), at)
        for effect in self._partition.take().effects:
            if isinstance(effect, Command):
                yield from self._decide(self._as_captured(effect), at)

    def _as_captured(self, command: Command) -> Command:
        """Name the source partition as the capture does."""
        number = command.evidence.source_partition
        if number < 0:
            return command
        grounds = msgspec.structs.replace(command.evidence, source_partition=list(self._numbers)[number])
        return msgspec.structs.replace(command, evidence=grounds)

    def _decide(self, command: Command, at: float) -> Iterator[Decision]:
        refusal = self._valve.decide(command, at)
        if refusal is None:
            decision = _decision(command, at, "restart", command.evidence.detail.partition(":")[0])
            self._restart(command, at)
        else:
            decision = _decision(command, at, "refuse", refusal.reason)
            self._partition.apply(
                evidence.OutcomeSeen(
                    command.key,
                    command.id,
                    command.uid,
                    "refused",
                    refusal.reason,
                    at,
                    refusal.retry_after,
                    command.attempt,
                ),
                at,
            )
        told = (decision.decision, decision.reason, decision.attempt)  # another attempt is another incarnation
        if self._told.get(command.key) != told:
            self._told[command.key] = told
            yield decision

    def _restart(self, command: Command, at: float) -> None:
        self._restarts += 1
        state = self._partition.jobs[command.key]
        assert state.fact is not None
        self._fact(
            msgspec.structs.replace(
                state.fact,
                uid=f"{command.uid}{_RESTARTED}{self._restarts}",
                created_at=at,
                pod=PodState.PENDING,
                condition=Condition.ACTIVE,
                attempt=command.attempt + 1,
            ),
            at,
        )


class _Valve:
    """Admission with its ledger, where every restart succeeds at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ledger = admission.Ledger()
        self._histories: dict[str, admission.History] = {}

    def count(self, counts: Counts, now: float) -> None:
        """Take in the counts of the one partition there is."""
        fleet = FleetCounts(
            partition=0, partitions=1, at=counts.at, base=counts.base, unhealthy=counts.unhealthy, sick=counts.sick
        )
        self._ledger = admission.count(self._ledger, fleet, self._limits, now)

    def decide(self, command: Command, now: float) -> admission.Refused | None:
        """Refuse a command, or follow it and learn that the repair worked."""
        history = self._histories.get(command.key, admission.NO_HISTORY)
        fleet = admission.fleet_of(self._ledger)
        answer = admission.admit(self._ledger, command, fleet, self._limits, now, history=history)
        if isinstance(answer, admission.Refused):
            return answer
        ledger = admission.reserve(self._ledger, command, self._limits, now)
        self._ledger = admission.settle(ledger, command.id, self._limits, now, repaired=True)
        self._histories[command.key] = admission.acted(history, command, touched_at=now, ended_at=now)
        return None


def _decision(command: Command, at: float, decision: str, reason: str) -> Decision:
    numbers = msgspec.to_builtins(command.evidence)
    return Decision(
        at=round(at, 3),
        job=command.key,
        verdict=command.verdict,
        decision=decision,
        reason=reason,
        attempt=command.attempt,
        evidence={"policy": command.policy, "uid": command.uid, **numbers},
    )


# ---- scoring


class Findings(msgspec.Struct):
    """How well one verdict was given, over the firm rows of a truth; delays beyond the earliest right moment."""

    found: int = 0  # Jobs with this verdict first
    found_rightly: int = 0
    sick: int = 0  # Jobs of which the truth says so
    delay_seconds: list[float] = []

    @property
    def precision(self) -> float | None:
        """What part of the Jobs so judged is so; None when none is so judged."""
        return self.found_rightly / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """What part of the Jobs that are so is found in time; None when none is so."""
        return self.found_rightly / self.sick if self.sick else None


class Score(msgspec.Struct):
    """How decisions compare with a truth."""

    right: int = 0
    jobs: int = 0
    wrong: list[str] = []
    soft: list[str] = []
    untold: list[str] = []  # restarts of Jobs of which the truth says nothing
    verdicts: dict[str, Findings] = {}

    @property
    def holds(self) -> bool:
        """Whether every firm row of the truth holds."""
        return not self.wrong


def score(decisions: Iterable[Decision], truth: Truth, jobs: Iterable[str] = ()) -> Score:
    """Compare decisions with the truth; `jobs` are the keys of all Jobs, those without a decision included.

    A sick Job must be found within its window by its first verdict, whether it was then restarted or refused
    by admission: a capture may hold more sick Jobs than the storm limit. Every other Job of the truth must never be
    restarted. A name without its namespace has to be of one Job only.
    """
    first: dict[str, Decision] = {}
    restarted: dict[str, Decision] = {}
    for decision in decisions:
        first.setdefault(decision.job, decision)
        if decision.decision == "restart":
            restarted.setdefault(decision.job, decision)
    named: dict[str, list[str]] = {}
    for key in sorted({*jobs, *first}):
        named.setdefault(key.rpartition("/")[2], []).append(key)
    result = Score(wrong=[], soft=[], untold=[], verdicts={})
    told: set[str] = set()
    for name, row in truth.jobs.items():
        keys = [name] if "/" in name else named.get(name, [name])
        told.update(keys)
        found = first.get(keys[0]) if len(keys) == 1 else None
        problem = _compare(row, found, restarted.get(keys[0]))
        if len(keys) > 1:
            problem = f"the name of {len(keys)} Jobs ({', '.join(keys)}): the truth has to say of which"
        if problem is not None:
            (result.wrong if row.firm else result.soft).append(f"{name}: {problem}")
        if row.firm:
            result.jobs += 1
            result.right += problem is None
            _count(result.verdicts, row, found, rightly=problem is None)
    result.untold = [f"{key}: {_restarted(restart)}" for key, restart in restarted.items() if key not in told]
    return result


def _restarted(restart: Decision) -> str:
    return f"restarted at {moment(restart.at)} as {restart.verdict} ({restart.reason})"


def _count(verdicts: dict[str, Findings], row: TruthRow, found: Decision | None, *, rightly: bool) -> None:
    """Count a Job of the truth under the verdict it should have, and under the one it was given."""
    if row.not_before is not None:
        verdicts.setdefault(row.verdict, Findings(delay_seconds=[])).sick += 1
    if found is None:
        return
    given = verdicts.setdefault(found.verdict, Findings(delay_seconds=[]))
    given.found += 1
    if row.not_before is not None and rightly:
        given.found_rightly += 1
        given.delay_seconds.append(found.at - row.not_before)


def percentile(values: list[float], share: float) -> float:
    """Give the smallest value that `share` of all do not exceed (nearest rank); there must be one."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _compare(row: TruthRow, found: Decision | None, restart: Decision | None) -> str | None:
    if row.not_before is None:
        if restart is None:
            return None
        return f"{row.verdict}, yet {_restarted(restart)}"
    if found is None:
        return f"{row.verdict} from {moment(row.not_before)} on, never found"
    if found.at < row.not_before or (row.not_after is not None and found.at > row.not_after):
        right = f"{moment(row.not_before)} {'on' if row.not_after is None else f'to {moment(row.not_after)}'}"
        return f"found at {moment(found.at)}, right from {right}"
    if found.verdict != row.verdict:
        return f"found as {found.verdict}, truth says {row.verdict}"
    return None
