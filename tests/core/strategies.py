"""Examples and strategies that the tests of the core share: facts, states, evidence, whole logs."""

import dataclasses
import itertools
from collections.abc import Iterator

import msgspec
from hypothesis import strategies as st

from sf_healer.core import policy
from sf_healer.core.events import Kind
from sf_healer.core.evidence import (
    Beat,
    Bundle,
    Evidence,
    Fact,
    Mark,
    OutcomeSeen,
    Word,
)
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.partition import Changes, Meta, Partition
from sf_healer.core.remembered import Remembered, recalled, remembered
from sf_healer.core.state import JobState

#: A whole second, as a Kubernetes creationTimestamp is.
T0 = 1_750_000_000.0
TOPIC = "topic-1"
JOB = "stf/loader-btcusdt-api-candles-5m-2025-06-01-p4ntkv-loader-producer"

#: Small numbers that differ from each other, so that a mix-up shows.
POLICY = """
[defaults]
silence_threshold_seconds = 40
startup_threshold_seconds = 70
not_running_threshold_seconds = 90
error_grace_seconds = 25
stop_hold_seconds = 30

[[policy]]
name = "consumers"
targets = ["consumer"]
reporting = true
consumer = true

[[policy]]
name = "loaders"
targets = ["loader"]
reporting = true

[[policy]]
name = "literal"
targets = ["literal"]
reporting = true
error_grace_seconds = 0

[[policy]]
name = "steppers"
targets = ["stepper"]
reporting = true
stall_threshold_seconds = 60
attempts = 2

[[policy]]
name = "learners"
targets = ["learner"]
reporting = true
learn_cadence = true
learn_floor_seconds = 40

[[policy]]
name = "quiet"
targets = ["visualizer"]
judge_silence = false

[[policy]]
name = "off"
targets = ["off"]
exempt = true
"""
WINDOW_SECONDS = 5.0
FEED_GAP_SECONDS = 10.0


def a_fact(key: str = JOB, **changes: object) -> JobFact:
    """Make the fact of a loader whose pod runs."""
    known = {
        "key": key,
        "uid": "u1",
        "created_at": T0,
        "resource_version": 10,
        "target": "loader",
        "queue_id": "loader-q-AbCdEf",
        "producer_id": "loader__AbCdEf",
        "kafka_topic": "loader-q-AbCdEf",
        "condition": Condition.ACTIVE,
        "pod": PodState.RUNNING,
        "managed": True,
    }
    return JobFact(**{**known, **changes})


def a_state(**changes: object) -> JobState:
    """Make the state of a loader that runs since T0 + 1 and has said nothing."""
    known = {
        "key": JOB,
        "fact": a_fact(),
        "running_at": T0 + 1,
    }
    return recalled(Remembered(**{**known, **changes}))


def a_well_state(key: str = JOB, **changes: object) -> JobState:
    """Make the state of a loader that was just heard and of which nothing else is known."""
    heard = {"loading_at": T0 + 20, "loading_source": T0 + 19, "progress_at": T0 + 20, "records_written": 3}
    known = {"key": key, "fact": a_fact(key), "verdict": "healthy", "source_partition": 0, "source_offset": 7, **heard}
    return a_state(**{**known, **changes})


def with_fields(state: JobState, **changes: object) -> JobState:
    """Give a copy of a state that differs in these fields."""
    return recalled(msgspec.structs.replace(remembered(state), **changes))


def a_beat(
    source_at: float, *, key: str = JOB, offset: int = 0, records_written: int = 1, said_at: float | None = None
) -> Beat:
    return Beat(key, source_at, offset, records_written, said_at)


def a_word(
    kind: Kind,
    source_at: float,
    *,
    key: str = JOB,
    offset: int = 0,
    finished: bool = False,
    detail: str = "",
    said_at: float | None = None,
) -> Word:
    return Word(key, kind, source_at, offset, finished, detail, said_at)


def a_bundle(*said: Beat | Word, partition: int = 0, topic_id: str = TOPIC) -> Bundle:
    return Bundle(
        topic_id,
        partition,
        tuple(each for each in said if isinstance(each, Beat)),
        tuple(each for each in said if isinstance(each, Word)),
    )


def a_mark(w: float, *, topic_id: str = TOPIC, partitions: int = 1, reset: tuple[int, ...] = ()) -> Mark:
    """Make a mark that claims `w` for every source partition."""
    return Mark(topic_id, partitions, tuple((number, w) for number in range(partitions)), reset)


def an_outcome(command_id: str, uid: str = "u1", *, at: float, **changes: object) -> OutcomeSeen:
    known = {
        "key": JOB,
        "command_id": command_id,
        "uid": uid,
        "result": "refused",
        "reason": "backoff",
        "at": at,
        "retry_after": 0.0,
        "attempt": 0,
    }
    return OutcomeSeen(**{**known, **changes})


def a_partition(text: str = POLICY) -> Partition:
    return Partition(
        0,
        partitions=1,
        policies=policy.parse(text),
        window_seconds=WINDOW_SECONDS,
        feed_gap_seconds=FEED_GAP_SECONDS,
    )


@dataclasses.dataclass
class Driver:
    """Feeds a partition as a live log would: a mark every second, a second after what it covers."""

    partition: Partition = dataclasses.field(default_factory=a_partition)
    now: float = T0
    offsets: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    taken: list[Changes] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.partition.restore(None, [])
        self.partition.apply(a_mark(self.now), self.now)

    def apply(self, evidence: Evidence, *, at: float | None = None) -> None:
        self.partition.apply(evidence, self.now if at is None else at)

    def fact(self, **changes: object) -> None:
        self.apply(Fact(a_fact(**changes)))

    def loading(self, *, source_at: float | None = None, key: str = JOB, partition: int = 0) -> None:
        at = self.now if source_at is None else source_at
        self.apply(a_bundle(a_beat(at, key=key, offset=next(self.offsets)), partition=partition))

    def says(self, kind: Kind, *, source_at: float | None = None, finished: bool = False, partition: int = 0) -> None:
        at = self.now if source_at is None else source_at
        word = a_word(kind, at, offset=next(self.offsets), finished=finished, detail="told")
        self.apply(a_bundle(word, partition=partition))

    def run(self, seconds: float) -> None:
        """Let time pass with nothing but marks."""
        end = self.now + seconds
        while self.now + 1 <= end:
            self.now += 1
            self.partition.apply(a_mark(self.now), self.now)
        self.now = end

    def take(self) -> Changes:
        self.taken.append(self.partition.take())
        return self.taken[-1]

    def effects(self) -> list[object]:
        return list(self.take().effects)

    def state(self, key: str = JOB) -> JobState:
        return self.partition.jobs[key]

    def judgement(self, key: str = JOB):
        return self.partition.judgement(self.state(key))


class Stored:
    """What a changelog holds: written as tables/jobs.py does, states first, the partition's own last."""

    def __init__(self) -> None:
        self.jobs: dict[str, bytes] = {}
        self.meta: bytes | None = None

    def store(self, changes: Changes, *, only_first: int | None = None) -> None:
        """Store changes, or only the first few records of them, as when the process dies in between."""
        writes: list[tuple[str | None, bytes | None]] = [
            (key, msgspec.msgpack.encode(state)) for key, state in changes.jobs.items()
        ]
        writes += [(key, None) for key in changes.forgotten]
        if changes.meta is not None:
            writes.append((None, msgspec.msgpack.encode(changes.meta)))
        for key, value in writes if only_first is None else writes[:only_first]:
            if key is None:
                self.meta = value
            elif value is None:
                self.jobs.pop(key, None)
            else:
                self.jobs[key] = value

    def restored(self, text: str = POLICY) -> Partition:
        self.restore(partition := a_partition(text))
        return partition

    def restore(self, partition: Partition) -> None:
        meta = None if self.meta is None else msgspec.msgpack.decode(self.meta, type=Meta)
        partition.restore(meta, [recalled(msgspec.msgpack.decode(v, type=Remembered)) for v in self.jobs.values()])


# ---- strategies


#: Moments on a grid of an eighth of a second: exact as floats, so that sums can be compared.
def moments(first: float = 0.0, last: float = 200.0) -> st.SearchStrategy[float]:
    return st.integers(int(first * 8), int(last * 8)).map(lambda eighth: T0 + eighth / 8)


ONE_JOB = st.just(JOB)
WORD_KINDS = (Kind.STARTED, Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED)


#: As said, for a report that was dated back: before all moments, in whatever order.
SAID_AT = st.none() | st.integers(1, 80).map(lambda quarters: T0 - 3600 + quarters / 4)


def words(keys: st.SearchStrategy[str] = ONE_JOB) -> st.SearchStrategy[Word]:
    return st.builds(
        Word,
        key=keys,
        kind=st.sampled_from(WORD_KINDS),
        source_at=moments(),
        offset=st.integers(0, 1000),
        finished=st.booleans(),
        detail=st.sampled_from(["", "bad record"]),
        said_at=SAID_AT,
    )


def beats(keys: st.SearchStrategy[str] = ONE_JOB) -> st.SearchStrategy[Beat]:
    return st.builds(
        Beat,
        key=keys,
        source_at=moments(),
        offset=st.integers(0, 1000),
        records_written=st.integers(-1, 5),
        said_at=SAID_AT,
    )


def facts(key: str = JOB) -> st.SearchStrategy[JobFact]:
    """Facts of up to three incarnations of one Job; the resourceVersion orders all of them, as etcd does."""
    return st.builds(
        lambda version, pod, condition, skip: a_fact(
            key,
            uid=f"u{version // 10}",
            created_at=T0 + 20 * (version // 10),
            resource_version=version,
            pod=pod,
            condition=condition,
            skip=skip,
        ),
        version=st.integers(0, 29),
        pod=st.sampled_from(PodState),
        condition=st.sampled_from(Condition),
        skip=st.booleans(),
    )
