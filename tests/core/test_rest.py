"""Which Jobs of a partition are at rest, and how bundles are written, makes no difference to anything it does."""

import dataclasses

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from sf_healer.core import evidence
from sf_healer.core.events import Kind
from sf_healer.core.evidence import (
    Beat,
    Bundle,
    Fact,
    Hold,
    HoldCause,
    Mark,
    OutcomeSeen,
    Snapshot,
    SnapshotPart,
    Word,
)
from sf_healer.core.facts import Condition, PodState
from sf_healer.core.jobs import Jobs
from sf_healer.core.partition import Partition
from sf_healer.core.policy import PolicyBook, parse
from sf_healer.core.state import fields_of
from sf_healer.core.verdicts import Verdict
from sf_healer.core.windows import Windows
from tests.core.strategies import (
    FEED_GAP_SECONDS,
    POLICY,
    T0,
    TOPIC,
    WINDOW_SECONDS,
    Stored,
    a_beat,
    a_bundle,
    a_fact,
    a_mark,
)

LEARNING = "learn_cadence = true\nlearn_floor_seconds = 40\n"
#: Of a fleet none of whose Jobs has its cadence learned: else none of them rests.
RESTFUL = POLICY.replace(LEARNING, "")
#: The same with longer silences, and so with longer checkpoints.
PATIENT = RESTFUL.replace("silence_threshold_seconds = 40", "silence_threshold_seconds = 100")
POLICIES = (RESTFUL, POLICY, PATIENT)

TARGETS = {
    "stf/a": "loader",
    "stf/b": "loader",
    "stf/c": "consumer",
    "stf/d": "stepper",
    "stf/e": "learner",
    "stf/f": "new",
}
KEYS = tuple(TARGETS)
ALL_PLAIN = 10**9


class Counting(Jobs):
    """Jobs that count what is folded into the rows of those at rest."""

    def __init__(self, folded=0):
        super().__init__()
        self.folded = folded

    def anew(self):
        return type(self)(self.folded)

    def fold_beats(self, beats, **how):
        came = super().fold_beats(beats, **how)
        self.folded += len(beats) - len(came.left) - came.passed_over
        return came


class Restless(Counting):
    """Jobs none of which is ever at rest."""

    def rest(self, states):
        pass

    def take_in(self, states, *, at_rest):  # noqa: ARG002
        return super().take_in(states, at_rest=False)


def a_partition(text=RESTFUL, *, jobs=None):
    partition = Partition(
        0,
        partitions=1,
        policies=parse(text),
        window_seconds=WINDOW_SECONDS,
        feed_gap_seconds=FEED_GAP_SECONDS,
    )
    if jobs is not None:
        partition.jobs = jobs
        partition.windows = Windows(WINDOW_SECONDS, jobs.waiting)
    return partition


# ---- examples


class Fleet:
    """A partition that is fed through the bytes of its log; it knows loaders that all have just been heard."""

    def __init__(self, keys=KEYS[:2], *, text=RESTFUL, jobs=None, take=True):
        self.partition = a_partition(text, jobs=jobs)
        self.partition.restore(None, [])
        self.keys = keys
        self.now, self.offset = T0, 0
        for key in keys:
            self.tell(Fact(a_fact(key)))
        self.mark()
        self.hear()
        if take:
            self.take()

    @property
    def at_rest(self):
        return self.partition.jobs.at_rest

    def tell(self, entry):
        self.partition.apply(evidence.decode_packed(evidence.encode(entry, columns_from=1)), self.now)

    def mark(self):
        self.tell(a_mark(self.now))

    def run(self, seconds):
        for _ in range(seconds):
            self.now += 1
            self.mark()

    def hear(self, *keys, seconds=1):
        """Hear one report of each of these Jobs, or of all, in one bundle."""
        self.now += seconds
        keys = keys or self.keys
        first, self.offset = self.offset, self.offset + len(keys)
        self.tell(a_bundle(*(a_beat(self.now, key=key, offset=first + place) for place, key in enumerate(keys))))

    def take(self):
        return self.partition.take()

    def look(self, key):
        return self.partition.jobs.copy_of(key)


def test_jobs_that_are_well_are_at_rest_once_what_they_said_is_stored_and_their_reports_do_not_wake_them():
    fleet = Fleet()
    assert fleet.at_rest == 2
    for _ in range(3):
        fleet.hear()
        assert fleet.at_rest == 2
        assert {fleet.look(key).loading_at for key in fleet.keys} == {fleet.now}
    changes = fleet.take()
    assert (changes.folded, changes.passed_over, changes.jobs, changes.effects) == (6, 0, {}, ())
    assert fleet.at_rest == 2


def test_reports_that_are_read_again_are_counted_as_such_and_wake_nobody():
    fleet = Fleet()
    fleet.offset = 0
    fleet.hear()
    changes = fleet.take()
    assert (changes.folded, changes.passed_over, fleet.at_rest) == (0, 2, 2)
    assert {fleet.look(key).loading_at for key in fleet.keys} == {fleet.now - 1}


def test_the_highest_offset_that_was_folded_at_rest_is_known():
    fleet = Fleet()
    fleet.hear()
    assert fleet.partition.meta().forwarded == ((TOPIC, 0, 3),)


def test_the_first_report_of_a_checkpoint_is_stored_and_wakes_no_job():
    fleet = Fleet()
    fleet.hear(seconds=int(fleet.partition.policies.checkpoint_seconds) + 1)
    assert fleet.at_rest == 2
    assert set(fleet.take().jobs) == set(fleet.keys)
    assert fleet.at_rest == 2


def test_a_word_wakes_the_job_that_says_it_and_no_other():
    fleet = Fleet()
    fleet.now += 1
    fleet.tell(Bundle(TOPIC, 0, (), (Word("stf/a", Kind.ERROR, fleet.now, 9, finished=False, detail=""),)))
    assert fleet.at_rest == 1
    fleet.take()
    assert fleet.at_rest == 1
    assert fleet.partition.jobs.verdict_of("stf/b") == Verdict.HEALTHY


def test_a_job_at_rest_that_falls_silent_is_commanded_as_any():
    fleet, effects = Fleet(), []
    for _ in range(60):
        fleet.hear("stf/a")
        fleet.mark()
        effects += fleet.take().effects
    assert [(effect.key, effect.verdict) for effect in effects] == [("stf/b", Verdict.STUCK)]
    assert fleet.partition.jobs.verdict_of("stf/a") == Verdict.HEALTHY


def test_who_only_counts_and_lists_wakes_nobody():
    fleet = Fleet()
    fleet.partition.counts()
    fleet.partition.unanswered_since()
    fleet.partition.meta()
    fleet.tell(Snapshot(99, tuple((key, "u1") for key in fleet.keys)))
    fleet.tell(SnapshotPart(99, tuple((key, "u1") for key in fleet.keys), None, None))
    assert fleet.at_rest == 2
    fleet.tell(Snapshot(99, (("stf/a", "u1"),)))
    assert fleet.at_rest == 1
    assert fleet.partition.jobs.verdict_of("stf/b") == Verdict.GONE


def test_where_how_often_a_job_reports_is_learned_nobody_rests():
    fleet = Fleet(text=POLICY)
    fleet.hear()
    assert fleet.at_rest == 0
    assert fleet.take().folded == 2


def test_jobs_at_rest_are_woken_by_policies_under_which_their_cadence_is_learned():
    fleet = Fleet(("stf/e", "stf/a"), text=RESTFUL)
    assert fleet.at_rest == 2
    steps = fleet.partition.change_policies(parse(POLICY))
    fleet.hear()
    list(steps)
    fleet.take()
    assert fleet.at_rest == 0


def test_jobs_are_judged_by_other_policies_and_rest_again():
    fleet = Fleet(text=RESTFUL)
    assert list(fleet.partition.change_policies(parse(PATIENT))) == [2]
    fleet.hear(seconds=1)  # what is stored of them may be of a checkpoint that was shorter
    assert set(fleet.take().jobs) == set(fleet.keys)
    assert fleet.at_rest == 2


def test_stored_jobs_that_are_well_are_at_rest_from_the_start():
    fleet, stored = Fleet(), Stored()
    fleet.hear(seconds=int(fleet.partition.policies.checkpoint_seconds) + 1)
    fleet.mark()
    stored.store(fleet.take())
    restored = stored.restored(RESTFUL)
    assert restored.jobs.at_rest == len(restored.jobs) == 2
    assert stored.restored(POLICY).jobs.at_rest == 0
    assert restored.counts_by_verdict == {Verdict.HEALTHY: 2}


# ---- any log


@dataclasses.dataclass
class Log:
    """Writes a log of a few Jobs that mostly are well, with all that disturbs them."""

    entries: list = dataclasses.field(default_factory=list)
    now: float = T0
    versions: int = 10
    offsets: list = dataclasses.field(default_factory=lambda: [0, 0])
    said_at: dict = dataclasses.field(default_factory=dict)
    facts: dict = dataclasses.field(default_factory=dict)
    bundles: list = dataclasses.field(default_factory=list)

    def append(self, entry):
        self.entries.append((entry, self.now))

    # ---- what happens

    def speak(self, draw):
        """Most of the Jobs say something, in any order, through one of two source partitions."""
        self.pass_time(draw)
        partition = draw(st.sampled_from([0, 0, 1]))
        keys = draw(st.permutations(KEYS))[: draw(st.integers(1, len(KEYS)))]
        beats = [self.beat(draw, key, partition) for key in keys]
        words = [self.word(draw, partition) for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2])))]
        bundle = a_bundle(*beats, *words, partition=partition)
        if draw(st.integers(0, 9)) == 0:
            bundle = msgspec.structs.replace(bundle, facts=(self.fact_of(draw, draw(st.sampled_from(KEYS))),))
        self.bundles.append(bundle)
        self.append(bundle)

    def prosper(self, draw):
        """Let all be heard and stored, after which those that are well rest, and say some more at once."""
        for _ in range(2):
            self.be_heard(draw, KEYS)
            self.take(draw)
        for _ in range(draw(st.integers(1, 3))):
            self.be_heard(draw, draw(st.permutations(KEYS)))

    def be_heard(self, draw, keys):
        self.now += 0.125
        partition = draw(st.sampled_from([0, 1]))
        first, self.offsets[partition] = self.offsets[partition], self.offsets[partition] + len(keys)
        late = draw(st.sampled_from([0, 0, 0.5]))
        self.append(
            a_bundle(
                *(a_beat(self.now - late, key=key, offset=first + place) for place, key in enumerate(keys)),
                partition=partition,
            )
        )
        self.bundles.append(self.entries[-1][0])

    def beat(self, draw, key, partition):
        offset, self.offsets[partition] = self.offsets[partition], self.offsets[partition] + 1
        said_at = draw(st.sampled_from([None] * 19 + [self.now - 30]))
        return Beat(key, self.source_at(draw, key), offset, draw(st.sampled_from([-1, 1, 2, 3])), said_at)

    def word(self, draw, partition):
        offset, self.offsets[partition] = self.offsets[partition], self.offsets[partition] + 1
        key = draw(st.sampled_from(KEYS))
        kind = draw(st.sampled_from([Kind.STARTED, Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED]))
        return Word(key, kind, self.source_at(draw, key), offset, finished=draw(st.booleans()), detail="")

    def source_at(self, draw, key):
        """Give a time of now or before, seldom the very one of the report before, of long ago or yet to come."""
        how = draw(st.sampled_from([*["now"] * 10, *["late"] * 3, "again", "slow", "fast"]))
        at = {
            "now": self.now,
            "late": self.now - draw(st.integers(1, 80)) / 8,
            "again": self.said_at.get(key, self.now),
            "slow": self.now - 3600,
            "fast": self.now + 3600,
        }[how]
        self.said_at[key] = at
        return at

    def redeliver(self, draw):
        if self.bundles:
            self.append(draw(st.sampled_from(self.bundles)))

    def fact_of(self, draw, key):
        self.versions += 1
        another = {"uid": f"u{self.versions}", "created_at": float(int(self.now))}
        runs = {"pod": PodState.RUNNING, "condition": Condition.ACTIVE}
        changes = draw(
            st.sampled_from(
                [
                    {},
                    runs,
                    runs,
                    {"pod": PodState.ENDED},
                    {"condition": Condition.COMPLETE},
                    {"condition": Condition.GONE, "pod": PodState.NONE},
                    {**runs, **another, "action_id": "c1"},
                    {**another, "action_id": ""},
                ]
            )
        )
        self.facts[key] = msgspec.structs.replace(self.facts[key], resource_version=self.versions, **changes)
        return self.facts[key]

    def show(self, draw):
        self.append(Fact(self.fact_of(draw, draw(st.sampled_from(KEYS)))))

    def pass_time(self, draw):
        self.now += draw(st.integers(1, 16)) / 8

    def mark(self, draw):
        self.pass_time(draw)
        self.append(a_mark(self.now - draw(st.sampled_from([0, 0, 0.5])), partitions=2))

    def mark_in_part(self, draw):
        number = draw(st.integers(0, 1))
        self.append(Mark(TOPIC, 2, ((number, self.now),), draw(st.sampled_from([(), (), (number,)]))))

    def be_quiet(self, draw):
        for _ in range(draw(st.integers(1, 12))):
            self.now += 4
            self.append(a_mark(self.now, partitions=2))

    def list(self, draw):
        """Take a list of the Jobs, of which one or two may be missing; it is told at once or in parts."""
        missing = draw(st.sets(st.sampled_from(KEYS), max_size=2))
        jobs = tuple((fact.key, fact.uid) for fact in self.facts.values() if fact.key not in missing)
        self.versions += 1
        version = self.versions - draw(st.integers(0, 2))
        if draw(st.booleans()):
            self.append(Snapshot(version, jobs))
            return
        middle = KEYS[2]
        self.append(SnapshotPart(version, tuple(job for job in jobs if job[0] <= middle), None, middle))
        self.append(SnapshotPart(version, tuple(job for job in jobs if job[0] > middle), middle, None))

    def stop(self, draw):
        self.append(Hold(draw(st.sampled_from(KEYS)), HoldCause.STOP_COMMAND, 0, self.versions, self.now))

    def answer(self, draw):
        key = draw(st.sampled_from(KEYS))
        reason = draw(st.sampled_from(["backoff", "idle"]))
        self.append(OutcomeSeen(key, OPEN, self.facts[key].uid, "refused", reason, self.now, 5.0, 0))

    def change_policies(self, draw):
        self.append(parse(draw(st.sampled_from(POLICIES))))

    def let_the_clock_be_ahead(self, draw):
        right, self.now = self.now, self.now + 3600
        self.speak(draw)
        self.append(a_mark(self.now, partitions=2))
        self.now = right

    def take(self, _draw):
        self.append(TAKE)

    def crash(self, _draw):
        """Lose what was not stored; it is not read again."""
        self.append(CRASH)


TAKE, CRASH = "take", "crash"
#: In the place of the id of the command that is open.
OPEN = "the open one"
#: What makes Jobs well and lets them rest is drawn more often than what disturbs them.
WEIGHTED = [
    *["prosper"] * 4,
    *["speak"] * 14,
    *["take"] * 8,
    *["mark"] * 5,
    *["redeliver"] * 2,
    *[
        "show",
        "mark_in_part",
        "be_quiet",
        "list",
        "stop",
        "answer",
        "crash",
        "change_policies",
        "let_the_clock_be_ahead",
    ],
]


@st.composite
def logs(draw):
    log = Log(facts={key: a_fact(key, target=target) for key, target in TARGETS.items()})
    for fact in log.facts.values():
        log.append(Fact(fact))
    log.append(a_mark(log.now, partitions=2))
    log.speak(draw)
    log.take(draw)
    for what in draw(st.lists(st.sampled_from(WEIGHTED), min_size=5, max_size=60)):
        getattr(log, what)(draw)
    log.be_quiet(draw)
    log.take(draw)
    return log.entries


class Reader:
    """A worker that reads a log, and all that is to be seen of it from outside."""

    def __init__(self, jobs, columns_from, text):
        self.text, self.stored, self.jobs = text, Stored(), jobs
        self.columns_from = columns_from
        self.partition = a_partition(text, jobs=jobs)
        self.partition.restore(None, [])
        self.offset = 0
        self.steps = iter(())

    def read(self, entry, at):
        """Read one record, or do what is to be done before the next; gives what is seen by it."""
        if entry == TAKE:
            return self.taken()
        if isinstance(entry, PolicyBook):
            list(self.steps)  # of the policies before
            self.steps = self.partition.change_policies(entry)
            return None
        if entry == CRASH:
            return self.go_on_from_what_is_stored()
        if isinstance(entry, OutcomeSeen):
            state = self.jobs.copy_of(entry.key)
            entry = msgspec.structs.replace(entry, command_id=state.command_id if state else "")
        self.offset += 1
        value = evidence.encode(entry, columns_from=self.columns_from)
        advance = self.partition.apply(evidence.decode_packed(value), at, self.offset)
        list(self.steps)  # evidence may come before the Jobs are judged by other policies
        return advance

    def taken(self):
        changes = self.partition.take()
        self.stored.store(changes)
        return {
            "stored": changes.jobs,
            "forgotten": set(changes.forgotten),
            "meta": changes.meta,
            "effects": in_any_order(changes.effects),
            "judged": in_any_order((fields_of(state)[0], *judged) for state, *judged in changes.judged),
            "counted": (changes.swept, changes.folded, changes.passed_over, changes.log_epoch),
            "counts": self.partition.counts(),
            "unanswered": self.partition.unanswered_since(),
        }

    def go_on_from_what_is_stored(self):
        self.steps = iter(())
        self.jobs = self.jobs.anew()
        self.partition = a_partition(self.text, jobs=self.jobs)
        self.stored.restore(self.partition)

    def states(self):
        return {key: fields_of(self.jobs.copy_of(key)) for key in self.jobs}


def in_any_order(things):
    return sorted(things, key=repr)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(logs(), st.sampled_from([RESTFUL, RESTFUL, RESTFUL, POLICY]))
def test_no_log_makes_a_difference_between_jobs_at_rest_and_awake_or_between_columns_and_beats(log, text):
    packed, plain = Reader(Counting(), 1, text), Reader(Counting(), ALL_PLAIN, text)
    restless = Reader(Restless(), ALL_PLAIN, text)
    at_rest = 0
    for entry, at in log:
        seen = restless.read(entry, at)
        assert plain.read(entry, at) == seen
        assert packed.read(entry, at) == seen
        assert packed.states() == plain.states() == restless.states()
        at_rest = max(at_rest, packed.jobs.at_rest)
    assert packed.partition.meta() == plain.partition.meta() == restless.partition.meta()
    assert restless.jobs.at_rest == plain.jobs.folded == 0
    event(f"Jobs at rest: {at_rest}")
    event(f"folded at rest: {min(packed.jobs.folded // 5 * 5, 30)} or more")


# ---- the order of what follows


def all_are_gone(fleet):
    fleet.tell(Snapshot(99, ()))


def policies_are_more_patient(fleet):
    list(fleet.partition.change_policies(parse(RESTFUL.replace("seconds = 40", "seconds = 400"))))


def a_clock_that_was_ahead_is_right_again(fleet):
    for offset, at in enumerate((fleet.now + 3600, fleet.now)):
        fleet.partition.apply(a_mark(at), at, offset)
    fleet.run(60)


@pytest.mark.parametrize("happens", [all_are_gone, policies_are_more_patient, a_clock_that_was_ahead_is_right_again])
def test_the_order_of_commands_does_not_depend_on_who_was_at_rest(happens):
    """The same log gives the same commands and the same changelog, however many of its records are taken at once."""
    orders = []
    for jobs in (Restless(), Jobs()):
        fleet = Fleet(jobs=jobs)
        woken = Word("stf/b", Kind.STARTED, T0 - 60, 9, finished=False, detail="")  # it is of before the Job
        fleet.tell(Bundle(TOPIC, 0, (), (woken,)))
        if happens is not a_clock_that_was_ahead_is_right_again:
            fleet.run(46)
        happens(fleet)
        changes = fleet.take()
        orders.append(([(type(effect), effect.key) for effect in changes.effects], list(changes.jobs)))
    assert orders[1] == orders[0]
    assert len(orders[0][0]) >= 2


def test_a_job_that_was_sick_when_its_worker_ended_does_not_keep_the_others_from_rest():
    """Each report of a sick Job is stored as it comes, so its time is the end of no checkpoint; it may stay silent."""
    fleet, stored = Fleet(take=False), Stored()
    for _ in range(60):
        stored.store(fleet.take())
        fleet.hear("stf/a")
        fleet.mark()
    stored.store(fleet.take())
    fleet.partition = stored.restored(RESTFUL)
    assert fleet.partition.jobs.verdict_of("stf/b") == Verdict.STUCK
    for _ in range(12):
        fleet.hear("stf/a")
        fleet.take()
    at_rest = []
    for _ in range(4):
        fleet.hear("stf/a")
        at_rest.append(fleet.at_rest)
        fleet.take()
    assert max(at_rest) == 1
