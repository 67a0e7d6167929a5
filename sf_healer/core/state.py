"""What is known of one Job, folded from evidence.

`fold_*` are joins: evidence applied twice, or in another order, gives the same state, so at-least-once
delivery is enough. Two clocks are kept apart on purpose:
- `*_at` are append times (the broker's, of the evidence log): silence is measured with them;
- `*_source` are source times (of the original report): they order what was said, so that a redelivered
  `error` of an old incarnation cannot kill the new one. No report is younger than its own evidence, so a
  producer's fast clock counts up to the append time at most.

A report that came after a mark was made after it, whatever its clock says, so its source time is raised to the
mark's. A clock that was set back is bounded so; but reports that were made long ago and come only now would change
their order, if they come through several source partitions. So of reports that were raised by much (DATED_BACK_SECONDS)
the time that was said is kept as well, in `dated`. Two such reports are ordered by both times: what would condemn a
Job has to hold in both orders (`surely_after`), what excuses it in one of them (`perhaps_after`). It is kept as well of
an end that a clock ahead of the broker's said, for the `loading` before it may come much later. Of the newest `error`
and `finished` it is kept however little they were moved, up or down: it tells whether they came together, and of which
incarnation they are.

A state is owned by one evidence partition and changed in place: at 100,000 reports a second a new object per
report would be most of the cost. Of a Job at rest there is no state, but a row of numbers (core/jobs.py): who asks for
its state wakes it.
"""

from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from sf_healer.core.admission import Reason
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Beat, Hold, OutcomeSeen, Word
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.identity import dated_after, order_of

T = TypeVar("T")

NEVER = 0.0
_HEALTHY = "healthy"  # verdicts.Verdict.HEALTHY, which is made from states

# Kubernetes cuts creationTimestamp to whole seconds, so a word of the incarnation before may carry a time up
# to this much after it. A sign of life that early does no harm; an `error` or an end would.
CREATION_RESOLUTION_SECONDS = 1.0

#: A report that a mark raises by more than this was dated back; by less is the way of any report to the log.
DATED_BACK_SECONDS = 5.0


#: What the fields are called in the changelog, for good. Only those that are not at their default are in it: most of
#: a Job's are, and a default that is read back is one object for all Jobs, where a number read is one of its own.
WIRE_NAMES = {
    "key": "k",
    "fact": "f",
    "verdict": "v",
    "window": "w",
    "loading_at": "la",
    "loading_source": "ls",
    "started_source": "ss",
    "error_source": "es",
    "command_id": "ci",
    "records_written": "rw",
    "progress_at": "pa",
    "source_partition": "sp",
    "source_offset": "so",
    "alive_uid": "au",
    "running_at": "ra",
    "idle_pod_at": "ip",
    "started_at": "sa",
    "seen_at": "se",
    "condition_at": "ca",
    "errors_from": "fe",
    "error_at": "ea",
    "error_finished": "ef",
    "error_detail": "ed",
    "finished_source": "fs",
    "finished_at": "fa",
    "interrupted_source": "is",
    "interrupted_at": "ia",
    "hold_at": "ha",
    "command_uid": "cu",
    "command_verdict": "cv",
    "command_source": "cs",
    "command_deadline": "cd",
    "retry_at": "rt",
    "outcome": "o",
    "unhealthy_at": "ua",
    "error_partition": "ep",
    "error_offset": "eo",
    "error_since_at": "ta",
    "error_since_source": "ts",
    "first_error_at": "tf",
    "doubtful_life_at": "da",
    "idle_at": "id",
    "cadence": "c",
    "hold_places": "hp",
    "pod_ended_at": "pe",
    "dated": "d",
    "error_said": "ey",
    "finished_said": "fy",
}


class OfEveryJob(msgspec.Struct, omit_defaults=True, rename=WIRE_NAMES, gc=False):
    """The fields that every Job has; those that nearly each report looks at come first."""

    key: str
    fact: JobFact | None = None
    verdict: str = "unknown"
    #: Not in the changelog: the window the Job waits in.
    window: int = -1
    loading_at: float = NEVER
    loading_source: float = NEVER
    started_source: float = NEVER
    error_source: float = NEVER
    command_id: str = ""
    records_written: int = -1
    #: When a `loading` last brought another `records_written` than the one before.
    progress_at: float = NEVER
    #: Where the newest sign of life was read.
    source_partition: int = -1
    source_offset: int = -1
    alive_uid: str = ""
    #: When our log first showed the youngest running pod of this incarnation.
    running_at: float = NEVER
    #: When our log first showed this incarnation without a running pod.
    idle_pod_at: float = NEVER
    started_at: float = NEVER
    #: When our log first showed this incarnation, and its condition as it is.
    seen_at: float = NEVER
    condition_at: float = NEVER
    #: The source time that an `error` or an end has at least, if it is of this incarnation: see fold_fact.
    errors_from: float = NEVER


class Seldom(msgspec.Struct, gc=False):
    """The fields that most Jobs have at their defaults: a million Jobs are without."""

    error_at: float = NEVER
    error_finished: bool = False
    error_detail: str = ""
    finished_source: float = NEVER
    finished_at: float = NEVER
    interrupted_source: float = NEVER
    interrupted_at: float = NEVER
    hold_at: float = NEVER
    command_uid: str = ""
    command_verdict: str = ""
    #: The newest thing the Job had said when it was last commanded: the next incarnation has not said it.
    command_source: float = NEVER
    command_deadline: float = NEVER
    retry_at: float = NEVER
    outcome: OutcomeSeen | None = None
    unhealthy_at: float = NEVER
    #: Where the newest `error` was read.
    error_partition: int = -1
    error_offset: int = -1
    #: The first `error` of the open row: errors with no sign of life between them, nor a look that found it idle.
    error_since_at: float = NEVER
    error_since_source: float = NEVER
    #: The first `error` that surely is of this incarnation, whatever it said after it.
    first_error_at: float = NEVER
    #: Newest sign of life that looks older than the incarnation: see fold_beat.
    doubtful_life_at: float = NEVER
    #: When its consumer group was last seen to excuse its silence.
    idle_at: float = NEVER
    #: How often it reports while it is well, where that is learned (core/cadence.py); kept over restarts.
    cadence: list[int] | None = None
    #: The newest stop command by partition of `queue-control`: (partition, offset, source time).
    hold_places: tuple[tuple[int, int, float], ...] = ()
    #: When our log first showed that its newest pod had ended.
    pod_ended_at: float = NEVER
    #: Of the reports that were dated back, and of ends by a fast clock, by kind: the newest source time as it was said,
    #: and as it was bounded.
    dated: dict[Kind, tuple[float, float]] | None = None
    #: When the newest `error` and the newest `finished` were said by their producer's clock, if they count otherwise.
    error_said: float = NEVER
    finished_said: float = NEVER


_NONE_OF_IT = Seldom()
_DEFAULTS = msgspec.structs.astuple(_NONE_OF_IT)


class _OfSeldom(Generic[T]):
    """A field of a JobState's Seldom, at its default where it has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._default: T = getattr(_NONE_OF_IT, name)

    def __get__(self, state: "JobState", owner: type) -> T:
        seldom = state.seldom
        return self._default if seldom is None else cast("T", getattr(seldom, self._name))

    def __set__(self, state: "JobState", value: T) -> None:
        if state.seldom is None:
            if value == self._default:
                return
            state.seldom = Seldom()
        setattr(state.seldom, self._name, value)


class JobState(OfEveryJob, forbid_unknown_fields=True, gc=False, eq=False):
    """Everything known of one Job; times are epoch seconds, NEVER (0) where a thing has not been seen.

    What is read from the changelog with other fields than these is no state without a Seldom (core/remembered.py).
    """

    #: None: all of its fields, which can be asked for here as well, are at their defaults.
    seldom: Seldom | None = None

    error_at = _OfSeldom[float]()
    error_finished = _OfSeldom[bool]()
    error_detail = _OfSeldom[str]()
    finished_source = _OfSeldom[float]()
    finished_at = _OfSeldom[float]()
    interrupted_source = _OfSeldom[float]()
    interrupted_at = _OfSeldom[float]()
    hold_at = _OfSeldom[float]()
    command_uid = _OfSeldom[str]()
    command_verdict = _OfSeldom[str]()
    command_source = _OfSeldom[float]()
    command_deadline = _OfSeldom[float]()
    retry_at = _OfSeldom[float]()
    outcome = _OfSeldom[OutcomeSeen | None]()
    unhealthy_at = _OfSeldom[float]()
    error_partition = _OfSeldom[int]()
    error_offset = _OfSeldom[int]()
    error_since_at = _OfSeldom[float]()
    error_since_source = _OfSeldom[float]()
    first_error_at = _OfSeldom[float]()
    doubtful_life_at = _OfSeldom[float]()
    idle_at = _OfSeldom[float]()
    cadence = _OfSeldom[list[int] | None]()
    hold_places = _OfSeldom[tuple[tuple[int, int, float], ...]]()
    pod_ended_at = _OfSeldom[float]()
    dated = _OfSeldom[dict[Kind, tuple[float, float]] | None]()
    error_said = _OfSeldom[float]()
    finished_said = _OfSeldom[float]()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobState) and fields_of(self) == fields_of(other)

    __hash__ = None  # type: ignore[assignment]  # it is changed in place

    @property
    def created_at(self) -> float:
        """When this incarnation was created; 0 while no fact is known.

        Never later than our log first showed it: the API server's clock may be ahead of the broker's.
        """
        if self.fact is None:
            return 0.0
        created_at, seen_at = self.fact.created_at, self.seen_at
        return seen_at if NEVER != seen_at < created_at else created_at

    @property
    def life_source(self) -> float:
        """Source time of the newest sign of life."""
        return max(self.loading_source, self.started_source)

    @property
    def life_at(self) -> float:
        """Append time of the newest sign of life."""
        return max(self.loading_at, self.started_at)


#: Silence and graces count from these: where a clock that was ahead has dated them beyond now, they begin now.
_COUNTED_FROM = (
    *("loading_at", "progress_at", "started_at", "running_at", "idle_pod_at", "hold_at", "error_at", "error_since_at"),
    *("doubtful_life_at", "idle_at", "first_error_at"),
)
#: These tell what came before what, and how long before, so they go back together. A mark of that clock has raised the
#: source times among them.
_IN_ORDER = (
    *("seen_at", "condition_at", "pod_ended_at", "finished_at", "interrupted_at", "unhealthy_at", "errors_from"),
    *("loading_source", "started_source", "error_source", "error_since_source", "finished_source"),
    *("interrupted_source", "command_source"),
)
_DEADLINES = ("command_deadline", "retry_at")
_LONG_AGO = 1.0  # but not NEVER


def put_right(state: JobState, now: float, ahead_seconds: float) -> bool:
    """Bring times that are still to come back, by as much as the broker's clock was ahead; says whether there were any.

    `now` is the log's time by the right clock. Times as said are the producers' own.
    """
    changed = False
    for names, floor in ((_COUNTED_FROM, now), (_IN_ORDER, _LONG_AGO), (_DEADLINES, now)):
        for name in names:
            at: float = getattr(state, name)
            if at > now:
                setattr(state, name, max(floor, at - ahead_seconds))
                changed = True
    if state.dated and any(bounded > now for _, bounded in state.dated.values()):
        state.dated = {
            kind: (said, bounded - ahead_seconds if bounded > now else bounded)
            for kind, (said, bounded) in state.dated.items()
        }
        changed = True
    if state.outcome is not None and state.outcome.at > now:
        state.outcome = msgspec.structs.replace(state.outcome, at=now)
        changed = True
    return changed


def fields_of(state: JobState) -> tuple[Any, ...]:
    """Give the values of all fields, those of its Seldom last."""
    *of_every_job, seldom = msgspec.structs.astuple(state)
    return *of_every_job, *(_DEFAULTS if seldom is None else msgspec.structs.astuple(seldom))


def state_of(fields: tuple[Any, ...]) -> JobState:
    """Make a state of what fields_of gave."""
    of_every_job, seldom = fields[: -len(_DEFAULTS)], fields[-len(_DEFAULTS) :]
    state = JobState(*of_every_job)
    if seldom != _DEFAULTS:
        state.seldom = Seldom(*seldom)
    return state


class Time(NamedTuple):
    """The source time of the newest report of a kind, bounded, and as it was said if it was dated back (else NEVER).

    Of a kind of which several were dated back, the newest of the times as said.
    """

    bounded: float
    said: float


def time_of(state: JobState, kind: Kind) -> Time:
    """Give the source time of the newest report of a kind."""
    bounded: float = getattr(state, _SOURCES[kind])
    if kind is Kind.ERROR and state.error_said:  # of this very report, where `dated` has the newest of each time
        return Time(bounded, state.error_said if state.error_said < bounded - DATED_BACK_SECONDS else NEVER)
    said, bounded_too = state.dated.get(kind, _NOT_DATED) if state.dated else _NOT_DATED
    return Time(bounded, said if bounded_too == bounded else NEVER)


_NOT_DATED = (NEVER, NEVER)
_SOURCES = {
    Kind.LOADING: "loading_source",
    Kind.STARTED: "started_source",
    Kind.ERROR: "error_source",
    Kind.FINISHED: "finished_source",
    Kind.INTERRUPTED: "interrupted_source",
}


def surely_after(one: Time, other: Time, slack: float) -> bool:
    """Say whether a report came later than another, or earlier by less than `slack` seconds, by whichever time."""
    if one.said and other.said and one.said <= other.said - slack:
        return False
    return one.bounded > other.bounded - slack


def perhaps_after(one: Time, other: Time, slack: float) -> bool:
    """Say the same, if it holds by one of the two times."""
    if one.said and other.said and one.said > other.said - slack:
        return True
    return one.bounded > other.bounded - slack


def has_open_error(state: JobState) -> bool:
    """Say whether an `error` of this incarnation stands with no sign of life after it.

    Equal source times, as reports have that were raised to one mark, leave it to the order within one source partition.
    Across partitions the times as said tell, where both were dated back; else nothing does, least of all which was
    read first. An `error` stands beside a `loading` then if it is the last word of the process that says both: it is
    final, or the Job is Complete. Any other is left to the Job's next report, or to its silence.
    """
    if state.error_source == NEVER or state.error_source < state.life_source:
        return False
    if (state.dated and _went_on_as_said(state)) or is_doubtful_error(state):
        return False
    if state.error_source > state.life_source:
        return True
    if state.error_partition == state.source_partition:
        return state.error_offset > state.source_offset
    return _came_last_as_said(state) or _is_last_word(state)


def is_doubtful_error(state: JobState) -> bool:
    """Say whether the newest `error` was said before this incarnation began, and only a mark dates it later.

    It may be the incarnation's before, late, or this one's under a slow clock: it condemns nobody.
    """
    return is_from_before(state, state.error_said)


def is_from_before(state: JobState, said_at: float) -> bool:
    """Say whether a report was said before this incarnation began, and counts for later (NEVER: it does not).

    It is the last word of the incarnation before, or this one's under a slow clock.
    """
    return NEVER != said_at < max(_trusted_from(state.created_at), state.errors_from)


def _went_on_as_said(state: JobState) -> bool:
    """Say whether a sign of life was said after the `error`, both dated back."""
    said = time_of(state, Kind.ERROR).said
    return said != NEVER and any(time_of(state, kind).said > said for kind in _LIFE)


def _came_last_as_said(state: JobState) -> bool:
    """Say whether an `error` was said after the signs of life of its very source time, all dated back."""
    said = time_of(state, Kind.ERROR).said
    lives = [time_of(state, kind) for kind in _LIFE]
    return said != NEVER and all(NEVER != life.said < said for life in lives if life.bounded == state.error_source)


def _is_last_word(state: JobState) -> bool:
    """Say whether a process says no `loading` after its `error`; one that has started since is another process."""
    is_complete = state.fact is not None and state.fact.condition is Condition.COMPLETE
    if not (state.error_finished or is_complete) or state.error_source == state.started_source:
        return False
    started = time_of(state, Kind.STARTED)
    return (state.error_said or state.error_source) > (started.said or started.bounded) - DATED_BACK_SECONDS


_LIFE = (Kind.LOADING, Kind.STARTED)
_ENDS = (Kind.FINISHED, Kind.INTERRUPTED)


def has_said_error(state: JobState) -> bool:
    """Say whether an `error` of this incarnation is known, whatever the Job said after it."""
    return state.first_error_at != NEVER and not is_doubtful_error(state)


def error_open_since(state: JobState) -> float:
    """Return the append time that an open `error`'s grace counts from: the first of its row, if known."""
    return state.error_since_at if state.error_since_source > state.life_source else state.error_at


def is_error_excused(state: JobState) -> bool:
    """Say whether the Job's consumer group was found idle after its newest `error`: nothing had to follow that."""
    return state.error_source != NEVER and state.idle_at > state.error_at


def fold_beat(state: JobState, beat: Beat, *, at: float, source_partition: int, not_before: float = NEVER) -> bool:
    """Fold the newest `loading` of a batch; returns whether it is news.

    `not_before`: when the report was surely not made yet, if it is of this incarnation (epoch seconds).
    Its append time counts whatever its source time says, as long as it is of this incarnation: a producer
    whose clock steps back is alive all the same. One that looks older than the incarnation is the last word
    of the one before, or this one under a slow clock that no mark bounds yet (a worker that catches up): it
    ends no error and proves no life, but silence does not count from before it.
    """
    # The hot path of all folding: comparisons in place of min() and max(), whose calls would be half its cost.
    said_at = beat.said_at
    source_at = beat.source_at if beat.source_at < at else at  # noqa: FURB136
    if source_at < state.created_at:
        return _fold_doubtful_life(state, at)
    if source_at < not_before:
        said_at = source_at if said_at is None else said_at
        source_at = not_before if not_before < at else at  # noqa: FURB136
    loading_source = state.loading_source
    is_news = source_at > loading_source
    if said_at is not None and _note_dated(state, Kind.LOADING, said_at, source_at):
        is_news = True
    if at > state.loading_at:
        state.loading_at, is_news = at, True
    if source_at >= loading_source:
        _place_life(state, source_at, source_partition, beat.offset)
        state.loading_source = source_at
        if beat.records_written >= 0 and beat.records_written != state.records_written:
            # Any other number is progress: a pod that is tried again begins to count from the start.
            state.records_written, state.progress_at = beat.records_written, at
    return is_news


def fold_beat_of_well(  # noqa: PLR0917  a name for each would cost what is saved here
    state: JobState,
    beat: Beat,
    at: float,
    source_partition: int,
    not_before: float,
    checkpoint_from: float,
    checkpoint_to: float,
) -> float | None:
    """Fold a `loading` if its Job was well before and nothing that is stored of it changes, else leave it alone.

    Returns how long it had not been heard (seconds), None where it was left alone. Nearly all reports are of this
    kind, and folding them is most of what folding costs, so a few comparisons tell them. It comes to what fold_beat
    comes to: the report is the newest by both times, so it is not older than the incarnation either. Between
    `checkpoint_from` and `checkpoint_to` a moment surely lies in the checkpoint of `at`.
    """
    source_at, heard_at = beat.source_at, state.loading_at
    fact, written = state.fact, beat.records_written
    if (
        not checkpoint_from < heard_at < checkpoint_to
        or heard_at > at
        or not state.loading_source < source_at <= at
        or state.verdict != _HEALTHY
        or source_at < not_before
        or beat.said_at is not None
        or source_at <= state.started_source
        or state.error_source
        or state.command_id
        or state.window < 0
        or fact is None
        or (fact.action_id and state.alive_uid != fact.uid)
    ):
        return None
    if written >= 0 and written != state.records_written:
        progress_at = state.progress_at
        if progress_at != heard_at and not checkpoint_from < progress_at < checkpoint_to:
            return None
        state.records_written, state.progress_at = written, at
    state.loading_at, state.loading_source = at, source_at
    state.source_offset = beat.offset
    if source_partition != state.source_partition:  # to set a field costs more than to read it
        state.source_partition = source_partition
    return at - heard_at


def _note_dated(state: JobState, kind: Kind, said_at: float, source_at: float) -> bool:
    """Note a report if it was dated back, or is an end by a fast clock; returns whether that is news."""
    is_fast = kind in _ENDS and said_at > source_at + DATED_BACK_SECONDS
    if said_at >= source_at - DATED_BACK_SECONDS and not is_fast:
        return False
    said, bounded = (state.dated or {}).get(kind, _NOT_DATED)
    if said_at <= said and source_at <= bounded:
        return False
    state.dated = {**(state.dated or {}), kind: (max(said, said_at), max(bounded, source_at))}
    return True


def _fold_doubtful_life(state: JobState, at: float) -> bool:
    is_news = at > state.doubtful_life_at
    state.doubtful_life_at = max(state.doubtful_life_at, at)
    return is_news


def _place_life(state: JobState, source_at: float, partition: int, offset: int) -> None:
    """Note where the newest sign of life was read; call it before its source time is taken in."""
    is_newer = source_at > state.loading_source and source_at > state.started_source
    if is_newer or (
        source_at == state.life_source and (partition, offset) > (state.source_partition, state.source_offset)
    ):
        state.source_partition, state.source_offset = partition, offset


def fold_word(state: JobState, word: Word, *, at: float, source_partition: int, not_before: float = NEVER) -> bool:
    """Fold the newest report of another kind, as fold_beat does; returns whether it changed the state."""
    source_at = min(word.source_at, at)
    is_life, is_error = word.kind is Kind.STARTED, word.kind is Kind.ERROR
    if is_life and source_at < state.created_at:
        return _fold_doubtful_life(state, at)
    if not is_life and source_at < max(_trusted_from(state.created_at), state.errors_from):
        return False
    said_at = word.source_at if word.said_at is None else word.said_at
    source_at = min(max(source_at, not_before), at)
    if is_error and source_at <= state.command_source:
        return False  # answered already; if it was of the incarnation before, it must not condemn this one
    is_news = _note_dated(state, word.kind, said_at, source_at)
    moved_from = said_at if said_at != source_at else NEVER
    match word.kind:
        case Kind.STARTED:
            return _fold_started(state, word, source_at, at=at, source_partition=source_partition) or is_news
        case Kind.ERROR:
            is_newest = _fold_error(state, word, source_at, moved_from, at=at, source_partition=source_partition)
            return is_newest or is_news
        case Kind.FINISHED:
            return _fold_finished(state, source_at, moved_from, at=at) or is_news
        case Kind.INTERRUPTED if source_at > state.interrupted_source:
            state.interrupted_source, state.interrupted_at = source_at, at
            return True
    return is_news


def _fold_started(state: JobState, word: Word, source_at: float, *, at: float, source_partition: int) -> bool:
    is_news = at > state.started_at or source_at > state.started_source
    state.started_at = max(state.started_at, at)
    _place_life(state, source_at, source_partition, word.offset)
    state.started_source = max(state.started_source, source_at)
    return is_news


def _fold_error(
    state: JobState, word: Word, source_at: float, said_at: float, *, at: float, source_partition: int
) -> bool:
    """Fold an `error`; `said_at`: when it was said, if that is not when it counts.

    The newest counts, but none that may be of the incarnation before in the place of one that surely is of this.
    """
    was_doubtful, is_doubtful = is_doubtful_error(state), is_from_before(state, said_at)
    is_known = state.error_source != NEVER
    newest = (not was_doubtful, state.error_source, state.error_finished, state.error_partition, state.error_offset)
    given = (not is_doubtful, source_at, word.finished, source_partition, word.offset)
    if is_known and (given, said_at or source_at) <= (newest, state.error_said or state.error_source):
        return False
    if state.first_error_at == NEVER and not is_doubtful:
        state.first_error_at = at
    was_excused = state.error_since_at < state.idle_at
    if state.error_since_source <= state.life_source or was_doubtful or was_excused:
        state.error_since_source, state.error_since_at = source_at, at
    state.error_source, state.error_at, state.error_said = source_at, at, said_at
    state.error_finished, state.error_detail = word.finished, word.detail
    state.error_partition, state.error_offset = source_partition, word.offset
    return True


def _fold_finished(state: JobState, source_at: float, said_at: float, *, at: float) -> bool:
    """Fold a `finished`, as _fold_error does; of two of one moment the later said counts."""
    known = (
        not is_from_before(state, state.finished_said),
        state.finished_source,
        state.finished_said or state.finished_source,
    )
    given = (not is_from_before(state, said_at), source_at, said_at or source_at)
    if state.finished_source != NEVER and given <= known:
        return False
    state.finished_source, state.finished_said, state.finished_at = source_at, said_at, at
    return True


def fold_fact(state: JobState, fact: JobFact, *, at: float, behind_seconds: float = 0.0) -> bool:
    """Fold a fact about the Job; returns whether it changed the state.

    `behind_seconds`: how far the API server's clock may be behind the broker's. So much later than its creation says
    an incarnation may have begun: an `error` from before that is no ground to restart it, and an end no excuse.
    """
    known = state.fact
    if known is not None:
        fact = dated_after(known, fact)
        if order_of(fact) < order_of(known) or fact == known:
            return False
    if known is None or fact.uid != known.uid or fact.created_at > known.created_at:
        _start_incarnation(state, fact, at=at, behind_seconds=behind_seconds)
    elif fact.condition is not known.condition:
        state.condition_at = at
    if fact.pod is PodState.ENDED and (known is None or _shows_another_end(fact, known)):
        state.pod_ended_at = at
    state.fact = fact
    if fact.pod is PodState.RUNNING:
        state.idle_pod_at = NEVER
        state.running_at = at if _shows_another_pod(fact, known) else state.running_at or at
    else:
        state.running_at = NEVER
        state.idle_pod_at = state.idle_pod_at or at
    return True


def _shows_another_pod(fact: JobFact, known: JobFact | None) -> bool:
    """Say whether the youngest running pod has another address than before: it is another, or was started anew."""
    return known is not None and "" != fact.pod_ip != known.pod_ip != ""


def _shows_another_end(fact: JobFact, known: JobFact) -> bool:
    """Say whether a newer fact shows a pod that has ended, and the one before did not."""
    return order_of(fact) > order_of(known) and (known.pod is not PodState.ENDED or known.uid != fact.uid)


def _start_incarnation(state: JobState, fact: JobFact, *, at: float, behind_seconds: float) -> None:
    """Forget what an older incarnation said and did; what the new one said before its fact came stays."""
    created_at = min(fact.created_at, at)
    trusted_from = _trusted_from(created_at)
    state.errors_from = trusted_from + behind_seconds if behind_seconds else NEVER
    state.seen_at = state.condition_at = at
    state.running_at = state.idle_pod_at = NEVER
    if state.life_source < created_at:
        state.source_partition = state.source_offset = -1
    if state.loading_source < created_at:
        state.loading_at = state.loading_source = state.progress_at = NEVER
        state.records_written = -1
    if state.started_source < created_at:
        state.started_at = state.started_source = NEVER
    if state.seldom is not None:
        _forget_words(state, created_at, trusted_from)


def _forget_words(state: JobState, created_at: float, trusted_from: float) -> None:
    """Forget what an older incarnation said but for its signs of life, and what was done about it."""
    state.pod_ended_at = NEVER
    said_from = max(trusted_from, state.errors_from)
    if state.error_source and (state.error_source < said_from or state.error_source <= state.command_source):
        state.error_at = state.error_source = state.error_said = NEVER
        state.error_finished, state.error_detail = False, ""
        state.error_partition = state.error_offset = -1
    if state.error_since_source and (
        state.error_since_source < said_from or state.error_since_source <= state.command_source
    ):
        state.error_since_at = state.error_since_source = NEVER
    state.first_error_at = NEVER if NEVER != state.error_said < said_from else state.error_at
    if state.finished_source and (state.finished_source < said_from or state.finished_source <= state.command_source):
        state.finished_at = state.finished_source = state.finished_said = NEVER
    if state.interrupted_source and (
        state.interrupted_source < said_from or state.interrupted_source <= state.command_source
    ):
        state.interrupted_at = state.interrupted_source = NEVER
    if state.hold_at < created_at:
        state.hold_at = NEVER
    if state.dated:
        kept = {kind: dated for kind, dated in state.dated.items() if getattr(state, _SOURCES[kind]) != NEVER}
        state.dated = kept or None
    state.retry_at = state.idle_at = NEVER


def _trusted_from(created_at: float) -> float:
    """From when an end or an error is surely of this incarnation; a fractional time is exact already."""
    return created_at if created_at % 1 else created_at + CREATION_RESOLUTION_SECONDS * (created_at > 0)


def fold_hold(state: JobState, hold: Hold, *, at: float) -> bool:
    """Fold a hold; the newest counts, and one that is read again does not.

    Without this a reader of `queue-control` that crashes again and again would hold a stuck Job for ever. An offset
    seen before under a later source time is of a topic made anew.
    """
    known = next((place for place in state.hold_places if place[0] == hold.source_partition), None)
    if known is not None and hold.offset <= known[1] and hold.source_at <= known[2]:
        return False
    if hold.offset >= 0:
        others = (place for place in state.hold_places if place[0] != hold.source_partition)
        state.hold_places = (*others, (hold.source_partition, hold.offset, hold.source_at))
    is_news = hold.offset >= 0 or at > state.hold_at
    state.hold_at = max(state.hold_at, at)
    return is_news


def fold_outcome(state: JobState, outcome: OutcomeSeen, *, at: float, retry_seconds: float) -> bool:
    """Fold what became of a command: it closes the command it answers, and the newest outcome is remembered.

    The incarnation that was judged is not judged again for `retry_seconds`, or longer if the outcome says so; one
    that was found idle was well just then, so its silence counts anew.
    """
    closes = outcome.final and outcome.command_id == state.command_id != ""
    if closes:
        state.command_id = state.command_uid = state.command_verdict = ""
        state.command_deadline = NEVER
    if state.fact is not None and outcome.uid == state.fact.uid and outcome.reason == Reason.IDLE:
        closes = closes or at > state.idle_at
        state.idle_at = max(state.idle_at, at)
    if state.outcome is not None and _order_of(outcome) <= _order_of(state.outcome):
        return closes
    state.outcome = outcome
    if state.fact is not None and outcome.uid == state.fact.uid:
        state.retry_at = max(state.retry_at, at + max(outcome.retry_after, retry_seconds))
    return True


def _order_of(outcome: OutcomeSeen) -> tuple[float, bool, str]:
    """Order outcomes; two of one moment, as when an action asks for a person and ends, differ in `final`."""
    return (outcome.at, outcome.final, outcome.command_id)


def mark_gone(state: JobState, version: int, *, replaced: bool = False) -> bool:
    """Fold that a list of resourceVersion `version` did not hold this incarnation; returns if that is news.

    `replaced`: it held another one of the same name. The fact of that one may be older than the list, and of
    the same second; it must not look older than the one that is gone.
    """
    fact = state.fact
    if fact is None or fact.condition is Condition.GONE or fact.resource_version > version:
        return False
    state.fact = msgspec.structs.replace(
        fact,
        condition=Condition.GONE,
        pod=PodState.NONE,
        resource_version=fact.resource_version if replaced else version,
    )
    state.running_at = NEVER
    return True
