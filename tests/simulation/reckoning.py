"""What must hold at the end, after a calm: no sick Job forgotten, no Job lost, every state the fold of its log."""

from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from sf_healer import topics
from sf_healer.core import evidence, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Unreadable
from sf_healer.core.events import Kind
from sf_healer.core.partition import Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.remembered import Remembered
from sf_healer.core.state import JobState
from sf_healer.core.verdicts import LATE_SECONDS, RIGHT_AFTER_SECONDS, Verdict
from tests.simulation.kube import Job
from tests.simulation.loaders import CONSUMERS
from tests.simulation.oracle import YOUNG_SECONDS
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.truth import Incarnation, Said
    from tests.simulation.world import World

#: From the watermark that proves it to an outcome: counts of all partitions, ticks, calls, sends.
_ADMISSION_SECONDS = 45.0
#: A worker that starts when the calm begins has a rebalance and a recovery before it.
_SETTLING_SECONDS = 90.0
#: More than any producer's clock is off.
_CLOCKS_OFF_SECONDS = 200.0
#: The ledger is written at least so often, with what the evidence partitions count.
_COUNTS_EVERY_SECONDS = 10.0
_LIFE = frozenset({Kind.STARTED, Kind.LOADING})
_ENDS = frozenset({Kind.INTERRUPTED, Kind.FINISHED})


def reckon(world: "World") -> None:
    """Check it all; raises Violation."""
    _nobody_forgotten(world)
    _no_job_lost(world)
    _states_are_folds(world)


# ---- liveness


def _nobody_forgotten(world: "World") -> None:
    calm_from = world.calm_since + _SETTLING_SECONDS
    setup, now = world.setup, world.scheduler.now
    for job in world.kube.jobs.values():
        found = _sick_since(world, job, calm_from)
        if found is None:
            continue
        what, since, threshold = found
        slack = 2 * setup.window_seconds + 2 * setup.mark_interval_seconds + _ADMISSION_SECONDS
        if since < calm_from:
            # A feed gap may have re-based it, and a restart of its worker put it at the end of its checkpoint.
            since = calm_from
            slack += world.checkpoint_seconds
        if world.faults.crash_loop:
            # The first gap of its silence re-bases it, what the others take away is less than half of the time.
            slack += threshold + 2 * 3600.0 / world.faults.crash_loop
        deadline = since + threshold + slack
        if deadline >= now:
            continue
        answers = [at for at, outcome in world.oracle.outcomes if job.uid in {outcome.uid, outcome.new_uid}]
        if not any(at <= deadline for at in answers):
            late = f"answered after {answers[0] - since:.0f} s" if answers else "never answered"
            world.oracle.fail(
                "forgotten",
                f"{job.truth.key} ({job.uid}) is {what} since {since:.1f}, threshold {threshold:g} s, {late}",
            )


def _sick_since(world: "World", job: Job, calm_from: float) -> tuple[str, float, float] | None:
    """Say what a Job suffers from, since when, and how long it may; None: from nothing that is healed."""
    truth = job.truth
    policy = world.oracle.policy(truth)
    if not truth.managed or truth.skip_since is not None or truth.managed_by or job.suspended or job.is_leaving:
        return None
    if truth.drained_since is not None and truth.target in CONSUMERS:
        return None
    landed = [each for each in truth.said if each.landed is not None]
    said = [each for each in landed if not each.doubtful]
    spoke = max((each.emitted for each in said if each.kind in _LIFE), default=0.0)
    ends = [each for each in landed if each.kind in _ENDS and each.emitted > spoke - 1.0]  # a doubtful one may count
    if ends and not _ended_by_error(said, ends):
        return None
    # Reports of hours ago that come together are raised to one mark: what was said first may excuse what was said last.
    if _may_have_another_s_end(world, truth, said):
        return None
    if job.ended == "Failed":
        return "failed", truth.conditions[-1][0], 0.0
    # Of a sign of life that arrives after the error though it was said before, nobody can tell; nor of one that the
    # producer's clock, which was put back in between, dates later; nor of one that came over so shortly before it that
    # marks of two partitions, which is all that bounds what comes hours late, may give the two another order.
    life = [each for each in said if each.kind in _LIFE]
    arrived = max((each.landed or 0.0 for each in life), default=0.0)
    dated = max((each.clock for each in life), default=0.0)
    # A Job may have begun so much later than the API dates it, where that clock is behind the broker's: an error from
    # before that condemns nobody (docs/decisions/0018), only the silence after it does, where silence is judged.
    surely_its_own_from = truth.created + YOUNG_SECONDS + world.oracle.api_behind_at_most(truth.created)
    is_literal = policy.error_grace_seconds == 0.0  # nothing that follows an error answers it
    errors = [
        each
        for each in said
        if each.kind is Kind.ERROR
        and each.clock > surely_its_own_from
        and (is_literal or (each.emitted > spoke and each.clock > dated))
        and (is_literal or (each.landed or 0.0) > arrived + _unsure_for(world, each))
    ]
    is_running = bool(truth.running) and truth.running[-1][1] is None
    if errors and not ends and not job.ended and (is_running or truth.target not in CONSUMERS):
        # Nobody speaks while a Job is suspended, and the next pod of a consumer has the grace for itself.
        since = max(min(each.landed or 0.0 for each in errors), truth.conditions[-1][0])
        ran = truth.running[-1][0] if truth.target in CONSUMERS else 0.0
        return "failed", max(since, ran), policy.error_grace_seconds
    if job.ended or not truth.running or truth.running[-1][1] is not None or not policy.judge_silence:
        return None
    if not policy.reporting and not any(
        each.kind is Kind.LOADING and each.emitted > truth.created + _CLOCKS_OFF_SECONDS for each in said
    ):
        return None  # mute: a first word under a slow clock, read late, may look like the last of another
    ran = truth.running[-1][0]
    if not spoke:
        return "never started", ran, policy.startup_threshold_seconds
    heard = max(each.landed or 0.0 for each in said if each.kind in _LIFE or each in ends)
    # An end by error is found at once where the order of its reports is clear, else by the silence after it.
    return "ended by an error" if ends else "silent", max(heard, ran), policy.silence_threshold_seconds


def _unsure_for(world: "World", said: "Said") -> float:
    """Give for how long before a report another one may have landed whose order with it marks do not tell, seconds."""
    was_late = (said.landed or 0.0) - said.emitted > LATE_SECONDS
    return 2 * world.setup.mark_interval_seconds if was_late else 0.0


def _ended_by_error(said: "list[Said]", ends: "list[Said]") -> bool:
    """Say whether each end that a Job said of itself came right after an `error`, by whatever clock."""
    errors = [each for each in said if each.kind is Kind.ERROR]
    return all(
        end in said
        and end.kind is Kind.FINISHED
        and any(0.0 <= end.emitted - error.emitted < 1.0 and abs(end.clock - error.clock) < 1.0 for error in errors)
        for end in ends
    )


def _may_have_another_s_end(world: "World", truth: "Incarnation", said: "list[Said]") -> bool:
    """Say whether the end of the one before came so near to what a Job says that nobody can tell whose it is.

    Only who replaces a Job without waiting for its pods brings that about, or a mirror that stands still while it is
    replaced; marks bound clocks no closer.
    """
    two_marks = 2 * world.setup.mark_interval_seconds
    others = (each for each in world.kube.all if each.key == truth.key and each is not truth)
    ends = (each.landed or 0.0 for other in others for each in other.said if each.kind in _ENDS)
    end = max(ends, default=0.0)
    if end <= truth.created - two_marks:
        return False
    clear_after = {Kind.STARTED: RIGHT_AFTER_SECONDS, Kind.LOADING: LATE_SECONDS}
    is_clear = any(each.emitted > end + two_marks + clear_after.get(each.kind, float("inf")) for each in said)
    return not is_clear or world.faults.mirror_stops > 0.0


# ---- Jobs


def _no_job_lost(world: "World") -> None:
    newest: dict[str, Incarnation] = {truth.key: truth for truth in world.kube.all}
    for truth in newest.values():
        if truth.gone is None or truth.removed_by != "healer" or truth.gone > world.scheduler.now - _ADMISSION_SECONDS:
            continue
        last = max((at for at, outcome in world.oracle.outcomes if outcome.key == truth.key), default=0.0)
        world.oracle.fail(
            "lost",
            f"{truth.key} ({truth.uid}) was deleted by the healer, is gone since {truth.gone:.1f} and was not created "
            f"again; last outcome at {last:.1f}",
        )


# ---- states


def _states_are_folds(world: "World") -> None:
    for worker in world.workers.values():
        if worker is None:
            continue
        _finish_batches(world, worker)
        for number, partition in worker.detector.partitions.items():
            _compare_partition(world, number, partition, worker.detector.evidence.positions().get(number))
        if worker.actions.current is not None:
            _compare_actuator(world, worker.actions.current, worker.actions.steps.positions().get(0))


def _finish_batches(world: "World", worker: Worker) -> None:
    """Let a worker come to the end of what it has in its hands, so that its state is that of its position."""
    for _ in range(200):
        if not (worker.detector.evidence.in_flight() or worker.actions.steps.in_flight()):
            return
        world.scheduler.run(world.scheduler.now + 0.01)
    world.oracle.fail("fold", f"{worker.process.name} does not finish what it has in its hands")


def _compare_partition(world: "World", number: int, hot: Partition, position: int | None) -> None:
    """Fold the whole log once, by one who never died, and hold the survivor's state against it."""
    reference = world.reference(number)
    log = world.broker.logs[topics.EVIDENCE, number]
    read = [record for record in log.records if position is not None and record.offset < position]
    for records in (*world.evidence_lost[number], read):  # of a log that was lost all was folded
        if records:
            reference.note_log(0, 0, 0.0)
        for record in records:
            at = record.timestamp / 1000
            reference.apply(evidence.decode(record.value or b""), at, record.offset)
            reference.take()
    if hot.watermark.value != reference.watermark.value:
        world.oracle.fail(
            "fold", f"partition {number}: watermark {hot.watermark.value}, the log says {reference.watermark.value}"
        )
    # Where the broker's clock stepped back, append time stands still; a restart takes it up where it was stored.
    early = 2 * world.setup.mark_interval_seconds if world.faults.clock_steps else 0.0
    if number in world.lost_under_a_paused_one:
        return  # as it goes on it may store what it knows, and what it lacks it cannot read any more
    for key in sorted(hot.jobs.keys() | reference.jobs.keys()):
        mine, its = hot.jobs.get(key), reference.jobs.get(key)
        difference = _difference(
            mine,
            its,
            world.checkpoint_seconds,
            early,
            clock_moved=world.faults.clock_leaps + world.faults.clock_steps > 0.0,
        )
        if difference:
            world.oracle.fail("fold", f"{key} in partition {number}: {difference}")
    assert all(partition_of(key, world.setup.partitions) == number for key in hot.jobs)


#: What one who restarted may know otherwise: when he looks, and what he said and when.
_OWN = frozenset(
    {
        "window",
        "verdict",
        "unhealthy_at",
        "command_id",
        "command_uid",
        "command_verdict",
        "command_source",
        "command_deadline",
        "alive_uid",
        "retry_at",
    }
)

#: After a restart things may be dated later, never earlier: by the end of a checkpoint, by the newest record there
#: was, by a `loading` that was sent again.
#: That is as long ago as nobody was there: the longest outage of the broker, and the hour that all workers are gone.
_HEARD_AGAIN_SECONDS = 900.0 + 3600.0
#: What had been said when a Job was commanded is not of the next incarnation: of what is told only who commanded it.
_OF_WHAT_WAS_SAID = frozenset(
    {"error_source", "error_at", "finished_source", "finished_at", "interrupted_source", "interrupted_at"}
    | {"error_since_source", "error_since_at", "error_finished", "error_detail", "error_partition", "error_offset"}
    | {"error_said", "finished_said"}
)
#: How far a clock was ahead is known by the first record behind; who reads that later takes it to be less.
_PUT_RIGHT = frozenset(
    {"errors_from", "started_source", "error_source", "error_since_source", "finished_source", "interrupted_source"}
)
#: Not every `loading` is stored: after a restart these are as of one that was.
_OF_THE_NEWEST_LOADING = frozenset({"loading_source", "source_partition", "source_offset", "records_written"})


def _difference(
    mine: JobState | None,
    its: JobState | None,
    checkpoint_seconds: float,
    early_seconds: float,
    *,
    clock_moved: bool,
) -> str:
    if mine is None or its is None:
        only = mine or its
        assert only is not None
        return "" if _is_away(only) else f"known to one only ({mine is None})"
    if _is_away(mine) and _is_away(its):
        return ""  # one of them may have forgotten it and heard of it again
    late_seconds = checkpoint_seconds + _HEARD_AGAIN_SECONDS
    for field in Remembered.__struct_fields__:
        one, other = _value_of(mine, field), _value_of(its, field)
        if field in _OWN or one == other:
            continue
        of_this_incarnation = _OF_THIS_INCARNATION.get(field)
        if of_this_incarnation is not None and of_this_incarnation(mine, its) == of_this_incarnation(its, mine):
            continue
        if field in _OF_WHAT_WAS_SAID and mine.command_source != its.command_source:
            continue
        may_be_later = field.endswith("_at") or (clock_moved and field in _PUT_RIGHT)
        if may_be_later and -early_seconds <= one - other <= late_seconds:
            continue
        if field == "doubtful_life_at" and other < one <= _last_news_of(its) + late_seconds:
            continue  # a `loading` of the incarnation before, sent again when this one had begun
        told_again = mine.loading_at > its.loading_at
        if field in _OF_THE_NEWEST_LOADING and (told_again or mine.loading_source <= its.loading_source):
            continue
        return f"{field} is {one!r}, and {other!r} by the log"
    return ""


def _value_of(state: JobState, field: str) -> Any:
    """Give a field; from when errors count is from the creation on, where that is all that is known."""
    value = getattr(state, field)
    return max(value, state.created_at) if field == "errors_from" else value


def _words_dated(state: JobState, other: JobState) -> dict[Kind, tuple[float, float]]:
    """Give which words were dated back, without those of a Job that only one of the two has commanded."""
    kinds = {Kind.STARTED} if state.command_source != other.command_source else set(Kind) - {Kind.LOADING}
    return {kind: dated for kind, dated in (state.dated or {}).items() if kind in kinds}


def _holds_of_now(state: JobState, _other: JobState) -> set[tuple[int, int, float]]:
    """Give where stop commands for this incarnation were read; who forgot the Job while it was away has no others."""
    return {place for place in state.hold_places if place[2] >= state.created_at}


_OF_THIS_INCARNATION: dict[str, Callable[[JobState, JobState], object]] = {
    "dated": _words_dated,
    "hold_places": _holds_of_now,
}


def _last_news_of(state: JobState) -> float:
    """Return when our log last said something about this incarnation."""
    return max(state.seen_at, state.condition_at, state.life_at)


def _is_away(state: JobState) -> bool:
    return state.fact is None or state.verdict == Verdict.GONE


def _compare_actuator(world: "World", hot: Actuator, position: int | None) -> None:
    reference = world.reference_actuator()
    for record in world.broker.logs[topics.STEPS, 0].records:
        if position is None or record.offset >= position:
            break
        entry = steps.decode(record.value)
        assert not isinstance(entry, Unreadable)
        reference.apply(entry, record.offset, record.timestamp / 1000)
    ledger, by_the_log = (msgspec.structs.replace(each.ledger, offset=0, now=0.0) for each in (hot, reference))
    if ledger != by_the_log:
        world.oracle.fail("fold", f"the ledger is {hot.ledger}, and {reference.ledger} by the log")
    # A tick moves the log's time and is not stored: where the broker's clock is set back then, a restart loses so much.
    apart = _COUNTS_EVERY_SECONDS if world.faults.clock_steps else 0.0
    for key in sorted(hot.jobs.keys() | reference.jobs.keys()):
        mine, its = hot.jobs.get(key), reference.jobs.get(key)
        if mine is None or its is None or not _are_alike((mine.action, mine.history), (its.action, its.history), apart):
            world.oracle.fail("fold", f"the actions of {key}: {mine}, and {its} by the log")


def _are_alike(one: object, other: object, seconds_apart: float) -> bool:
    """Say whether two values are equal, but for times that are so far apart at most."""
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        one, other = msgspec.structs.astuple(one), msgspec.structs.astuple(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other, repeat(seconds_apart)))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= seconds_apart
    return one == other
