"""Known faults, each a subclass or a patch of a real piece: what the simulation must find, or it proves nothing.

Each mutant has the faults of the world in which it does harm, the first seed to look in, and the rules that may find
it. Rules that would name its very mechanism can be switched off, so that it is found by what it does to Jobs.
docs/simulation.md lists them.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import msgspec

from agents import cluster_steps
from agents.forwarding import Addressed
from agents.looking import Looks
from sf_healer.adapters.cluster import Cluster
from sf_healer.core import actions, admission, partition, state, verdicts
from sf_healer.core.actions import Action, Move
from sf_healer.core.actuator import Actuator, Effects, Task
from sf_healer.core.commands import Resume
from sf_healer.core.evidence import EMPTY, Bundle, Evidence, Mark
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.marks import Ends
from sf_healer.core.partition import Changes, Partition
from sf_healer.core.policy import Limits
from sf_healer.core.remembered import durable
from sf_healer.core.state import NEVER, JobState, OfEveryJob
from sf_healer.core.steps import Announced, StepResult, StepsRecord, StillSick
from sf_healer.core.watermark import Advance, Gaps, Watermark
from tests.simulation.faults import Faults
from tests.simulation.kafka import Taken
from tests.simulation.worker import Detector, Pieces
from tests.simulation.world import Result, World


class WallClockMarks(Forwarder):
    """Claims that everything up to now is on the log, as a healer that judges by its own clock does."""

    _now = 0.0

    def note_ends(self, ends: Mapping[int, Ends], w: dict[int, float], *, now: float) -> dict[int, int]:
        self._now = now
        return super().note_ends(ends, w, now=now)

    def claims(self, positions: Mapping[int, int], source_partitions: int) -> dict[int, Mark]:
        super().claims(positions, source_partitions)
        sources = tuple((source, self._now) for source in sorted(positions))
        return {number: Mark(self.topic_id, source_partitions, sources) for number in range(self.partitions)}


class WAfterE(Forwarder):
    """Notes W when the ends are known already."""

    def note_ends(self, ends: Mapping[int, Ends], w: dict[int, float], *, now: float) -> dict[int, int]:
        del w
        return super().note_ends(ends, self.w(), now=now)


_ends = Detector.ends


async def _ends_then_a_record(detector: Detector, source_partitions: Iterable[int]) -> dict[int, Ends]:
    """Read the ends first and write the record that W is taken from after it."""
    ends = await _ends(detector, source_partitions)
    partitions = range(detector.worker.world.setup.partitions)
    await detector.forwarding._append([Addressed(partition, EMPTY) for partition in partitions])
    return ends


async def _ends_of_what_can_be_read(detector: Detector, source_partitions: Iterable[int]) -> dict[int, Ends]:
    """Take what can be read of a source for all of it, as a consumer is told."""
    ends = await _ends(detector, source_partitions)
    return {partition: Ends(at.readable, at.readable) for partition, at in ends.items()}


_let_go = Taken.let_go


def _acknowledge_at_once(batch: Taken) -> None:
    """Let the position move past a batch of which all that was said is in memory."""
    _let_go(batch)
    batch.acknowledge()


class NoSourceTime(Partition):
    """Takes the moment a report came to our log for the moment it was made."""

    def apply(self, evidence: Evidence, at: float, offset: int = -1) -> Advance | None:
        if isinstance(evidence, Bundle):
            evidence = msgspec.structs.replace(
                evidence,
                beats=tuple(msgspec.structs.replace(beat, source_at=at) for beat in evidence.beats),
                words=tuple(msgspec.structs.replace(word, source_at=at) for word in evidence.words),
            )
        return super().apply(evidence, at, offset)


class Hasty(Actuator):
    """Takes a step when it announces it, not when it has read the announcement back."""

    def apply(self, record: StepsRecord, offset: int, at: float) -> Effects:
        effects = super().apply(record, offset, at)
        if isinstance(record, Announced):
            effects.tasks.clear()
        effects.tasks += [
            Task(msgspec.structs.replace(action, seq=send.seq), send.step)
            for send in effects.sends
            if isinstance(send, Announced) and (action := self.open_actions().get(send.key)) is not None
        ]
        return effects


def _without_uid(cluster: Cluster, action: Action) -> StepResult:
    command = action.command
    failure = cluster.delete_job(command.namespace, command.name, "", None)
    return StepResult(cluster_steps.What.DONE) if failure is None else cluster_steps._failed(failure, _DELETES)


_DELETES = cluster_steps._DELETES


def _exact(state: JobState, checkpoint_seconds: float, **_: object) -> OfEveryJob:
    return durable(state, checkpoint_seconds, exact=True)


def _never_a_gap(watermark: Watermark, to: float) -> Advance | None:
    if to <= watermark.value:
        return None
    watermark.value, watermark.reset_pending = to, False
    return Advance(to, gap=False)


def _rebased_by_each(gaps: Gaps, since: float, now: float) -> float:
    return now - max(since, *gaps._ends[-1:], 0.0)


class SaysResumptionsAgain(Actuator):
    """Has the end of a pause come a second time as it was, for the quarantine there may be."""

    def apply(self, record: StepsRecord, offset: int, at: float) -> Effects:
        ends_a_pause = isinstance(record, Resume) and record.scope in self.ledger.pauses
        effects = super().apply(record, offset, at)
        if isinstance(record, Resume) and ends_a_pause:
            effects.sends[:] = [record]
        return effects


class SaysNothingOfQuarantine(Actuator):
    """Refuses a Job in quarantine after a look at its group, and remembers nothing of that."""

    def apply(self, record: StepsRecord, offset: int, at: float) -> Effects:
        effects = super().apply(record, offset, at)
        effects.sends[:] = [send for send in effects.sends if not isinstance(send, StillSick)]
        return effects


_silence = Gaps.silence


def _as_if_nothing_were_lost(gaps: Gaps, since: float, now: float) -> float:
    return _silence(Gaps(gaps.as_tuple()), since, now)


def _together_as_bounded(state: JobState) -> bool:
    """Take `finished` and `error` for reports of one moment by the times that marks gave them."""
    error, finished = state.error_source, state.finished_source
    return NEVER not in {error, finished} and abs(finished - error) <= verdicts.RIGHT_AFTER_SECONDS


def _as_bounded(*_report: object) -> bool:
    return False


def _create_whatever(action: Action, moment: actions._Moment) -> Move:
    return Move(actions._enter(action, actions.State.GONE, moment.now))


def _to_nobody(*_result: object) -> bool:
    return False


def _calm(*_fleet: object) -> bool:
    return False


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A fault put in on purpose."""

    name: str
    shows: frozenset[str] = (
        frozenset()
    )  # the rules it may be found by; any other says that the fault is not the mutant's
    pieces: Pieces = Pieces()
    patched: Callable[[], AbstractContextManager[object]] = nullcontext
    faults: Faults | None = None  # None: each seed's own
    ignored: frozenset[str] = frozenset()
    first_seed: int = 0
    seeds: int = 20

    def world(self, seed: int, *, tracing: bool = False) -> Result:
        """Run the world of a seed with the mutant in it."""
        with self.patched():
            world = World(seed, pieces=self.pieces, tracing=tracing, faults=self.faults, ignored=self.ignored)
            return world.run()

    def without(self, seed: int, *, tracing: bool = False) -> Result:
        """Run the same world, held against the same rules, without the mutant."""
        return World(seed, tracing=tracing, faults=self.faults, ignored=self.ignored).run()

    def hunt(self) -> tuple[int, Result | None]:
        """Return how many seeds it took, and the world that broke a rule; None if none did."""
        for number in range(self.seeds):
            result = self.world(self.first_seed + number)
            if result.violation is not None:
                return number + 1, result
        return self.seeds, None


def _nobody_is_there(looks: Looks) -> None:
    """Take a list that failed for one that brought nobody new, as who waits for none does."""
    looks.listed()


class Unminded(Partition):
    """Takes what is stored for what today's checkpoint would have stored, though other policies held then."""

    def take(self) -> Changes:
        self._loosely_stored.clear()
        return super().take()

    def apply(self, evidence: Evidence, at: float, offset: int = -1) -> Advance | None:
        self._loosely_stored.clear()
        return super().apply(evidence, at, offset)


class OwnLimits(Actuator):
    """Decides by the limits of its own file, which is on no log."""

    @property
    def limits(self) -> Limits:
        return self._asked_for


def _nothing_to_rehearse(action: Action, result: StepResult) -> None:
    del action, result


def _as_ever(of: Partition, *_: object) -> None:
    del of


def _all_keys(of: Partition, after: str | None, up_to: str | None) -> list[str]:
    del after, up_to
    return list(of.jobs)


#: By these rules a mutant of marks or of the fold is found whatever it does; without them it has to do harm.
_CLAIMS = frozenset({"claim", "watermark"})
_FOLDS = frozenset({"fold"})
_VERDICTS = frozenset({"false verdict"})

MUTANTS = (
    Mutant(
        name="marks are made by the wall clock",
        shows=_VERDICTS,
        pieces=Pieces(forwarder=WallClockMarks),
        faults=Faults(slow_batches=400.0),  # a worker that takes minutes for what it has read
        ignored=_CLAIMS,
    ),
    Mutant(
        name="W is taken after E",
        shows=frozenset({"claim"}),
        pieces=Pieces(forwarder=WAfterE),
        patched=lambda: patch.object(Detector, "ends", _ends_then_a_record),
        faults=Faults(latency_seconds=0.5),
    ),
    Mutant(
        name="E is what can be read",
        shows=_VERDICTS,
        patched=lambda: patch.object(Detector, "ends", _ends_of_what_can_be_read),
        faults=Faults(too_few_replicas=8.0),
        ignored=_CLAIMS,
    ),
    Mutant(
        name="what is handed over counts as forwarded",
        shows=frozenset({"claim"}),
        pieces=Pieces(marks_what_is_acknowledged=False),
        faults=Faults(slow_batches=6.0),
    ),
    Mutant(
        name="what is gathered counts as told",
        shows=frozenset({"claim"}),
        patched=lambda: patch.object(Taken, "let_go", _acknowledge_at_once),
        faults=Faults(slow_batches=6.0),
    ),
    Mutant(
        name="source time is ignored",
        shows=frozenset({"false verdict", "forgotten"}),
        pieces=Pieces(partition=NoSourceTime),
        # What one partition held before is read after what another held later.
        faults=Faults(slow_batches=100.0, stop_commands=40.0, partition_added=10.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="an error and its end are together by the times that marks give them",
        shows=frozenset({"forgotten"}),
        patched=lambda: patch.object(verdicts, "_finished_with_error", _together_as_bounded),
        faults=Faults(delay=0.6, delay_seconds=39.0),
        first_seed=12,
    ),
    Mutant(
        name="reports that come hours late have but the time that a mark gives them",
        shows=frozenset({"false verdict", "forgotten"}),
        patched=lambda: patch.multiple(state, _note_dated=_as_bounded, is_from_before=_as_bounded),
        faults=Faults(mirror_stops=4.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="no stretch of the log is a feed gap",
        shows=_VERDICTS,
        patched=lambda: patch.object(Watermark, "_advance", _never_a_gap),
        faults=Faults(outages=4.0, all_down=1.0, retention=3.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="each feed gap starts the silence anew",
        shows=frozenset({"forgotten"}),
        patched=lambda: patch.object(Gaps, "silence", _rebased_by_each),
        faults=Faults(crash_loop=24.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="a gap that lost reports is like any other",
        shows=frozenset({"false verdict"}),
        patched=lambda: patch.object(Gaps, "silence", _as_if_nothing_were_lost),
        faults=Faults(telemetry_outages=8.0, topic_anew=20.0, outages=12.0, slow_batches=6.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="a list that failed says that whoever is not known is a stranger",
        shows=frozenset({"buried"}),
        patched=lambda: patch.object(Looks, "failed", _nobody_is_there),
        faults=Faults(api_outages_of_one=6.0, api_outages=2.0),
    ),
    Mutant(
        name="last-seen is stored as it is, not as the end of its checkpoint",
        shows=_VERDICTS,
        patched=lambda: patch.object(partition, "durable", _exact),
        faults=Faults(rebalances=40.0, storms=6.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="last-seen is stored by the checkpoint of the policies before",
        shows=_VERDICTS,
        pieces=Pieces(partition=Unminded),
        faults=Faults(policy_changes=30.0, rebalances=60.0, storms=6.0),
        ignored=_FOLDS,
        first_seed=29,
    ),
    Mutant(
        name="the limits are those of each worker's own file",
        shows=_FOLDS | {"rate", "in flight"},
        pieces=Pieces(actuator=OwnLimits),
        faults=Faults(policy_changes=20.0, kills=10.0, storms=2.0),
        first_seed=60,
    ),
    Mutant(
        name="a part of a snapshot is read as the whole",
        shows=frozenset({"forgotten"}),
        patched=lambda: patch.object(Partition, "_keys_between", _all_keys),
        ignored=_FOLDS,
    ),
    Mutant(
        name="evidence is not awaited",
        shows=frozenset({"false verdict", "fold", "forgotten"}),
        pieces=Pieces(awaits_evidence=False),
        faults=Faults(kills=100.0, stop_commands=20.0),
        ignored=_CLAIMS,
        first_seed=2,
    ),
    Mutant(
        name="the changelog is not awaited",
        shows=frozenset({"false verdict", "fold", "lost", "miscounted"}),
        pieces=Pieces(awaits_changelog=False),
        faults=Faults(kills=100.0, disk_lost=1.0, death_at_a_point=0.005, stop_commands=10.0),
    ),
    Mutant(
        name="a delete names no uid",
        shows=frozenset({"unasked delete", "second create", "two actions"}),
        patched=lambda: patch.object(cluster_steps, "_delete", _without_uid),
        faults=Faults(api_chance=0.4, namesakes=1.0, replacements=6.0),
    ),
    Mutant(
        name="what is said to exist is taken for what was put back",
        shows=frozenset({"lost"}),
        patched=lambda: patch.dict(actions.MOVES[actions.State.RESTORING], {actions.Sign.EXISTS: actions._restored}),
        faults=Faults(create_refused=0.5, storms=2.0),
    ),
    Mutant(
        name="whether a Job can be made again is asked after it is deleted",
        shows=frozenset({"not made again"}),
        patched=lambda: patch.object(cluster_steps, "manifest_to_rehearse", _nothing_to_rehearse),
        faults=Faults(admission_policies=4.0, storms=2.0),
    ),
    Mutant(
        name="what is gone is created, whatever was seen of it last",
        shows=frozenset({"ran again"}),
        patched=lambda: patch.dict(actions.MOVES[actions.State.RECHECKING], {actions.Sign.ABSENT: _create_whatever}),
        faults=Faults(api_chance=0.4, done_at_last=1.0, storms=3.0),
        first_seed=1,
    ),
    Mutant(
        name="the end of a pause is said once more as it was",
        shows=frozenset({"paused"}),
        pieces=Pieces(actuator=SaysResumptionsAgain),
        faults=Faults(pauses=60.0, storms=3.0, latency_seconds=1.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="the quarantine of a consumer ends though it is as sick as before",
        shows=frozenset({"quarantine"}),
        pieces=Pieces(actuator=SaysNothingOfQuarantine),
        faults=Faults(create_refused=0.9, storms=2.0),
    ),
    Mutant(
        name="a Job is restarted whatever became of its node",
        shows=frozenset({"lost pod"}),
        patched=lambda: patch.object(actions, "_is_left_to_kubernetes", _to_nobody),
        faults=Faults(dead_nodes=6.0),
    ),
    Mutant(
        name="offsets that start over are taken for old ones",
        shows=_VERDICTS,
        patched=lambda: patch.object(Partition, "_start_over", _as_ever),
        faults=Faults(disks_lost=3.0),
        ignored=_CLAIMS | _FOLDS,
    ),
    Mutant(
        name="an evidence log that begins anew is taken for the old one",
        shows=_VERDICTS,
        patched=lambda: patch.object(Partition, "note_log", _as_ever),
        faults=Faults(evidence_lost=3.0, kills=8.0, disk_lost=1.0),
        ignored=_FOLDS,
    ),
    Mutant(
        name="time never goes back",
        shows=frozenset({"forgotten"}),
        patched=lambda: patch.object(Partition, "_put_right", _as_ever),
        faults=Faults(clock_leaps=1.5),
        ignored=_FOLDS,
    ),
    Mutant(
        name="there is no storm rule",
        shows=frozenset({"storm"}),
        patched=lambda: patch.multiple(admission, _is_stormy=_calm, _exceeds=_calm),
        faults=Faults(storms=3.0),
        first_seed=1,
    ),
    Mutant(
        name="a step is taken before its announcement is durable and read back",
        shows=frozenset({"lost", "unasked delete", "second create", "two actions"}),
        pieces=Pieces(actuator=Hasty, awaits_steps=False),
        faults=Faults(kills=25.0, disk_lost=1.0),
    ),
)
