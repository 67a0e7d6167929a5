"""The order of things in agents/forwarding.py where a source topic is made anew. Found by tests/simulation."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from aiokafka.errors import KafkaError

from agents.forwarding import (
    GATHER_SECONDS,
    MOST_REJECTED,
    RECORD_BYTES,
    Addressed,
    Appended,
    Forwarding,
    Looked,
    within_limit,
)
from sf_healer.core import evidence, policy
from sf_healer.core.combine import Ignored
from sf_healer.core.events import Report
from sf_healer.core.evidence import Bundle, Fact, Mark
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import ConventionIndex, JobIndex
from sf_healer.core.marks import Ends
from sf_healer.core.partition import Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.verdicts import Verdict


class Record(NamedTuple):
    offset: int
    timestamp: int
    value: bytes


class Batch(msgspec.Struct):
    partition: int
    records: Sequence[Record]
    is_gone: bool = False

    def let_go(self) -> None:
        self.records = ()


class Topic(NamedTuple):
    topic_id: str
    partitions: int


class Broker:
    """A source topic with one partition, its metadata as old as one lets it be, and the evidence log."""

    def __init__(self) -> None:
        self.topic, self.end, self.position = Topic("first", 2), 0, 0
        self.unreplicated = 0  # so many records lie above what can be read
        self.tails_lost: list[tuple[int, int]] = []
        self.owned: Sequence[int] = (0, 1)
        self.known = 2
        self.read_up_to = 0
        self.cached = self.topic
        self.log: list[Any] = []
        self.names: object = None
        self.appends = 0
        self.look: Callable[[], Looked | None] = lambda: None
        self.looked_for: list[str] = []
        self.buried: list[Any] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    def clock(self) -> float:
        return float(len(self.log))

    async def pause(self, seconds: float) -> None:
        assert seconds > 0
        if self.meanwhile is not None:
            await self.meanwhile()

    def positions(self) -> dict[int, int]:
        return dict.fromkeys(self.owned, self.position)

    def handed_over(self, source_partition: int) -> int:
        assert source_partition in self.positions()
        return self.read_up_to

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        assert all(number < self.known for number in source_partitions), "unknown topic or partition"
        return dict.fromkeys(source_partitions, Ends(self.end + self.unreplicated, self.end))

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        self.tails_lost.append((source_partition, offsets))

    async def identity(self, *, max_age_seconds: float) -> Topic:
        if max_age_seconds == 0.0:
            self.cached = self.topic
        return self.cached

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        self.appends += 1
        self.log += [evidence.decode(record.value) for record in records]
        return [Appended(record.partition, self.time()) for record in records]

    def time(self) -> float:
        return 1000.0 + len(self.log)

    async def bury(self, batch: Batch, rejected: Sequence[object]) -> None:
        assert batch.partition == 0
        self.buried += rejected

    async def look_again(self, reports: Sequence[Report]) -> Looked:
        self.looked_for += [report.producer for report in reports]
        return self.look() or Looked.LISTED

    def take_assumed(self) -> list[JobFact]:
        return self.names.take_new() if isinstance(self.names, ConventionIndex) else []

    def bundles(self) -> list[Bundle]:
        return [record for record in self.log if isinstance(record, Bundle) and record.beats]

    def marks(self) -> list[Mark]:
        return [record for record in self.log if isinstance(record, Mark)]


def forwarding_on(broker: Broker) -> Forwarding:
    names = JobIndex()
    names.put(
        JobFact(
            key="stf/a",
            uid="u",
            created_at=1.0,
            resource_version=1,
            target="loader-producer",
            queue_id="q",
            producer_id="p",
            kafka_topic="",
            condition=Condition.ACTIVE,
            pod=PodState.RUNNING,
            managed=True,
        ),
        now=1.0,
    )
    return Forwarding(Forwarder(names, partitions=1), broker, mark_interval_seconds=1.0, far_behind_records=5)


def reports(*offsets: int, at: float = 1000.0, is_gone: bool = False, producer: str = "p") -> Batch:
    value = b'{"status": "loading", "producer": "%b"}' % producer.encode()
    return Batch(0, [Record(offset, int(at * 1000), value) for offset in offsets], is_gone)


async def test_reports_of_a_topic_made_anew_are_never_told_under_the_old_ones_id() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 3
    await forwarding.forward(reports(0, 1, 2))
    broker.position = broker.end = 3
    await forwarding.mark()

    broker.topic, broker.end = Topic("second", 1), 1
    forwarding.forwarder.reset(0, from_position=3, to_position=0)
    broker.position = 0
    await forwarding.mark()  # the metadata at hand is still that of the first topic
    await forwarding.forward(reports(0))

    assert [bundle.topic_id for bundle in broker.bundles()] == ["first", "second"]


async def test_a_new_assignment_asks_which_topic_is_read() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 3
    await forwarding.forward(reports(0, 1, 2))

    broker.topic, broker.position, broker.end = Topic("second", 1), 0, 1
    forwarding.forwarder.assigned()  # no offset was committed in the new topic, so none is out of range
    await forwarding.forward(reports(0))

    assert broker.bundles()[-1].topic_id == "second"


async def test_a_position_beyond_the_end_claims_nothing_and_keeps_the_id_its_batches_have() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 3
    await forwarding.forward(reports(0, 1, 2))
    broker.position = broker.end = 3
    await forwarding.mark()
    claimed = len(broker.marks())

    broker.topic = broker.cached = Topic("second", 1)
    broker.end = 1
    await forwarding.mark()  # the reader has not noticed yet
    await forwarding.forward(reports(3, 4))  # fetched from the first topic

    assert len(broker.marks()) == claimed
    assert broker.bundles()[-1].topic_id == "first"


def test_w_is_the_time_of_the_record_that_was_sent_last_though_the_brokers_clock_was_ahead() -> None:
    forwarder = Forwarder(JobIndex(), partitions=1)
    forwarder.acknowledged(0, appended_at=8200.0, sent_at=1.0)
    forwarder.acknowledged(0, appended_at=1001.0, sent_at=2.0)
    forwarder.acknowledged(0, appended_at=8201.0, sent_at=1.5)  # its acknowledgement comes late
    assert forwarder.w() == {0: 1001.0}


async def test_a_reset_is_told_once_whatever_is_read_then() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 1
    await forwarding.forward(reports(0))
    broker.position = 1
    forwarding.forwarder.reset(5, from_position=9, to_position=20)  # a source that the next assignment has not
    forwarding.forwarder.assigned()
    await forwarding.mark()
    assert broker.marks()[-1].reset == (5,)

    broker.position = broker.end = 2
    await forwarding.mark()

    assert broker.marks()[-1].reset == ()


async def test_a_reset_is_told_by_a_worker_that_has_no_source_partition_any_more() -> None:
    """What was committed lies behind the loss, so whoever reads on is not out of range and cannot tell it."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    forwarding.forwarder.reset(0, from_position=9, to_position=20)
    forwarding.forwarder.assigned()
    broker.owned = ()

    await forwarding.mark()
    await forwarding.mark()

    assert broker.marks() == [Mark("first", 2, (), (0,))]


async def test_where_offsets_start_over_the_mark_that_tells_it_says_how_far_the_source_reaches_again() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.position = broker.end = 9
    await forwarding.mark()
    broker.position, broker.end = 0, 4
    forwarding.forwarder.reset(0, from_position=9, to_position=0)
    forwarding.forwarder.reset(1, from_position=9, to_position=20)
    forwarding.forwarder.assigned()
    broker.owned = (1,)  # the next owner goes on from what was committed behind the reset, and knows nothing of it
    await forwarding.mark()
    assert (broker.marks()[-1].reset, broker.marks()[-1].starts_over) == ((0, 1), ((0, 4),))

    broker.position = broker.end = 30
    await forwarding.mark()
    assert (broker.marks()[-1].reset, broker.marks()[-1].starts_over) == ((), ())


async def test_an_end_that_was_found_before_the_offsets_started_over_is_not_told_as_theirs() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.position = broker.end = 9
    ends = broker.ends

    async def ends_then_a_reset(source_partitions: Iterable[int]) -> dict[int, Ends]:
        found = await ends(source_partitions)
        forwarding.forwarder.reset(0, from_position=9, to_position=0)
        broker.position, broker.end = 0, 4
        return found

    broker.ends = ends_then_a_reset  # type: ignore[method-assign]  # the broker answers late
    await forwarding.mark()
    broker.ends = ends  # type: ignore[method-assign]
    await forwarding.mark()

    assert [mark.starts_over for mark in broker.marks() if mark.reset][-1] == ((0, 4),)


async def test_what_is_in_the_source_and_cannot_be_read_holds_the_marks_back() -> None:
    """Too few replicas: reports are acknowledged, and whoever reads stands at the high watermark."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.position = broker.end = 16
    await forwarding.mark()
    claimed = len(broker.marks())

    for unreplicated in (12, 18, 56):
        broker.unreplicated = unreplicated
        assert await forwarding.mark() == 0
    assert len(broker.marks()) == claimed
    assert forwarding.marked_at == broker.clock(), "the broker answers: this worker does its part"
    assert forwarding.forwarder.behind(0, broker.position) == 0, "nothing follows that could be gathered"

    broker.position = broker.end = 72
    broker.unreplicated = 0
    await forwarding.mark()
    assert [source for source, _ in broker.marks()[-1].sources] == [0, 1]
    assert broker.marks()[-1].reset == ()


async def test_a_batch_waits_for_brokers_that_do_not_say_where_its_topic_ends() -> None:
    """As under a leader that has lost its replica: a worker that starts then has a batch in hand, and no end."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 3
    ends, identity, asked = broker.ends, broker.identity, []

    async def unanswered(*_: object, **__: object) -> Any:
        asked.append(len(asked))
        if len(asked) == 3:
            broker.identity = identity  # type: ignore[method-assign]
        if len(asked) == 6:
            broker.ends = ends  # type: ignore[method-assign]
        raise KafkaError

    broker.ends = broker.identity = unanswered  # type: ignore[method-assign, assignment]
    with pytest.raises(KafkaError):
        await forwarding.mark()
    await forwarding.forward(reports(0, 1, 2))

    assert len(asked) == 6
    assert [beat.offset for bundle in broker.bundles() for beat in bundle.beats] == [2]


async def test_a_batch_of_a_topic_that_is_gone_waits_for_no_answer() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    batch = reports(0)

    async def gone(*_: object) -> Any:
        batch.is_gone = True
        raise KafkaError

    broker.ends = gone  # type: ignore[method-assign]
    combined = await forwarding.forward(batch)

    assert combined.ignored == {Ignored.NOT_OURS: 1}
    assert broker.bundles() == []


async def test_nothing_behind_a_reset_is_told_before_the_reset() -> None:
    """Killed in between, the worker would leave a committed offset that is in range, and nobody would know of it."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 9
    await forwarding.forward(reports(*range(9)))
    told = len(broker.bundles())

    async def mark() -> None:
        assert len(broker.bundles()) == told
        await forwarding.mark()

    broker.position, broker.end, broker.meanwhile = 0, 3, mark  # a lost disk: of the same topic
    forwarding.forwarder.reset(0, from_position=9, to_position=0)
    await forwarding.forward(reports(0, 1, 2))

    assert isinstance(broker.log[-2], Mark)
    assert broker.log[-2].starts_over == ((0, 3),)
    assert broker.log[-1].beats[0].offset == 2


async def test_what_is_read_behind_a_stretch_that_retention_took_waits_for_no_mark() -> None:
    """Its offsets are above all that were told, and a stretch with no mark is a gap."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 12
    forwarding.forwarder.reset(0, from_position=0, to_position=9)
    await forwarding.forward(reports(9, 10, 11))

    assert [beat.offset for bundle in broker.bundles() for beat in bundle.beats] == [11]


async def test_the_loss_of_what_was_never_replicated_is_told_once_and_the_marks_go_on() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.owned = (0,)
    broker.position = broker.end = 16
    broker.unreplicated = 56
    await forwarding.mark()
    assert broker.marks() == []

    broker.position = broker.end = 20  # another leader, and nobody reports any more
    broker.unreplicated = 0
    await forwarding.mark()
    await forwarding.mark()

    assert broker.tails_lost == [(0, 52)]
    assert [mark.reset for mark in broker.marks()] == [(0,), ()]
    assert all(mark.sources for mark in broker.marks())
    assert all(mark.starts_over == () for mark in broker.marks())


async def test_a_source_partition_that_the_topic_has_no_more_is_asked_for_nothing() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.owned = (0,)
    forwarding.forwarder.reset(7, from_position=9, to_position=0)
    broker.known = 1
    await forwarding.mark()
    await forwarding.mark()
    assert [mark.reset for mark in broker.marks()] == [(7,), ()]


async def test_a_batch_fetched_from_a_topic_that_is_no_more_is_told_under_no_id() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.topic, broker.end = Topic("second", 1), 1  # made anew while the worker's first batch waited for it
    await forwarding.forward(reports(204, 205))
    await forwarding.forward(reports(0))

    assert [(bundle.topic_id, bundle.beats[0].offset) for bundle in broker.bundles()] == [("second", 0)]


async def test_a_report_of_a_topic_made_anew_is_not_dated_by_the_ends_of_the_old_one() -> None:
    """Its offsets begin anew; by the old ends it would have been there long ago, and its `error` be taken for old."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 3
    await forwarding.forward(reports(0, 1, 2))
    broker.position = 3
    await forwarding.mark()

    broker.topic, broker.position, broker.end = Topic("second", 1), 0, 0
    forwarding.forwarder.reset(0, from_position=3, to_position=0)
    await forwarding.mark()
    broker.log += [None] * 100  # a second each
    said_at, broker.end = broker.time(), 1
    await forwarding.forward(reports(0, at=said_at))

    assert broker.bundles()[-1].beats[0].source_at == said_at


async def test_what_was_read_before_a_topic_was_made_anew_is_told_under_no_id_though_it_has_such_offsets() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.topic, broker.end = Topic("second", 1), 1
    broker.read_up_to = 2  # of the first topic; that it is gone nobody has noticed
    await forwarding.forward(reports(0))
    await forwarding.forward(reports(1))
    broker.read_up_to = 1  # the reader began anew
    await forwarding.forward(reports(0))

    assert [(bundle.topic_id, bundle.beats[0].offset) for bundle in broker.bundles()] == [("second", 0)]


async def test_a_batch_that_the_reader_knows_to_be_of_a_topic_no_more_is_ignored_without_asking() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 10
    combined = await forwarding.forward(reports(0, 1, is_gone=True))

    assert broker.bundles() == []
    assert combined.ignored == {Ignored.NOT_OURS: 2}


def assuming(broker: Broker, *, partitions: int = 1) -> Forwarding:
    broker.names = names = ConventionIndex("stf")
    broker.end = 10_000_000
    return Forwarding(Forwarder(names, partitions=partitions), broker, mark_interval_seconds=1.0)


def said(status: str, *numbers: int, first_offset: int = 0, partition: int = 0) -> Batch:
    values = [b'{"status": "%b", "producer": "p__%d", "queue_id": "q-%d"}' % (status.encode(), n, n) for n in numbers]
    return Batch(partition, [Record(first_offset + at, 1_000_000, value) for at, value in enumerate(values)])


async def test_what_is_assumed_of_a_job_goes_with_what_it_says_first() -> None:
    broker = Broker()
    forwarding = assuming(broker, partitions=3)
    await forwarding.forward(said("loading", *range(20)))
    await forwarding.forward(said("error", 3, 21, first_offset=20))
    bundles = [record for record in broker.log if isinstance(record, Bundle) and record.topic_id]
    told = [fact.key for bundle in bundles for fact in bundle.facts]
    assert sorted(told) == sorted(f"stf/q-{number}-p" for number in [*range(20), 21])
    for bundle in bundles:
        keys = {entry.key for entry in (*bundle.beats, *bundle.words)}
        assert {fact.key for fact in bundle.facts} <= keys
        assert len({partition_of(key, 3) for key in keys}) == 1
    assert not [record for record in broker.log if isinstance(record, Fact)]


async def test_what_is_assumed_of_a_job_that_said_nothing_that_counts_is_a_record_of_its_own() -> None:
    """What stood for the producer alone is gone, and says nothing of it."""
    broker = Broker()
    alone = Batch(0, [Record(0, 1_000_000, b'{"status": "loading", "producer_id": "p__1"}')])
    forwarding = assuming(broker)
    await forwarding.forward(alone)
    await forwarding.forward(said("loading", 1, first_offset=1))
    told = [(record.fact.key, record.fact.condition) for record in broker.log if isinstance(record, Fact)]
    assert told == [("stf/p--1", Condition.GONE)]


async def test_a_job_of_which_only_pongs_are_read_is_not_told_of() -> None:
    broker = Broker()
    await assuming(broker).forward(said("pong", 1))
    told = [record for record in broker.log if isinstance(record, Bundle) and (record.facts or record.topic_id)]
    assert told == [record for record in broker.log if isinstance(record, Fact)] == []
    assert broker.buried == []


async def test_a_bundle_that_is_too_large_is_divided_with_its_facts_each_before_what_its_job_says() -> None:
    broker = Broker()
    await assuming(broker).forward(said("loading", *range(10_000)))
    bundles = [record for record in broker.log if isinstance(record, Bundle) and record.topic_id]
    assert len(bundles) > 1
    for bundle in bundles:
        assert [fact.key for fact in bundle.facts] == [beat.key for beat in bundle.beats]
        (value,) = within_limit(bundle)
        assert len(value) <= RECORD_BYTES
    offsets = [beat.offset for bundle in bundles for beat in bundle.beats]
    assert offsets == list(range(10_000))


LOADER_ALONE, LOADER, CONSUMER = "stf/l--7", "stf/q-7-l", "stf/q-7-c"


def without_queue(*statuses: str, first_offset: int = 0, partition: int = 0) -> Batch:
    values = [b'{"status": "%b", "producer_id": "l__7"}' % status.encode() for status in statuses]
    return Batch(partition, [Record(first_offset + at, 1_000_000, value) for at, value in enumerate(values)])


def with_queue(*, first_offset: int) -> Batch:
    return Batch(0, [Record(first_offset, 1_000_000, b'{"status": "loading", "producer": "c__7", "queue_id": "q-7"}')])


def together(*batches: Batch) -> Batch:
    return Batch(0, [record for batch in batches for record in batch.records])


def told_of(record: object) -> Sequence[JobFact]:
    return [record.fact] if isinstance(record, Fact) else record.facts if isinstance(record, Bundle) else ()


def verdicts(log: Sequence[Any], partitions: int) -> dict[str, Verdict]:
    """Fold a log and let everybody fall silent."""
    folded = [
        Partition(number, partitions=partitions, policies=policy.parse(""), window_seconds=5.0, feed_gap_seconds=10.0)
        for number in range(partitions)
    ]
    for record in log:
        entries = (*record.beats, *record.words) if isinstance(record, Bundle) else ()
        for number in {partition_of(said.key, partitions) for said in (*entries, *told_of(record))}:
            folded[number].apply(record, 1000.0)
    for partition in folded:
        for second in range(1000):
            partition.apply(Mark("first", 1, ((0, 1000.0 + second),)), 1000.0 + second)
    return {key: Verdict(state.verdict) for partition in folded for key, state in partition.jobs.items()}


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("batches", [1, 3])
async def test_what_stood_for_a_producer_alone_is_told_to_be_gone_wherever_it_was_assumed(
    partitions: int, batches: int
) -> None:
    broker = Broker()
    forwarding = assuming(broker, partitions=partitions)
    parts = (without_queue("started"), with_queue(first_offset=1), without_queue("loading", first_offset=2))
    for batch in parts if batches == len(parts) else [together(*parts)]:
        await forwarding.forward(batch)
    told = verdicts(broker.log, partitions)
    assert told == {LOADER_ALONE: Verdict.GONE, LOADER: Verdict.STUCK, CONSUMER: Verdict.STUCK}


async def test_what_stood_for_a_producer_alone_is_gone_though_it_is_told_first_that_it_is() -> None:
    broker = Broker()
    forwarding = assuming(broker)
    await forwarding.mark()

    async def another_comes_first(_: float) -> Batch | None:
        await forwarding.forward(with_queue(first_offset=0))
        await forwarding.forward(without_queue("loading", partition=1))
        return None

    await forwarding.forward(without_queue("started", first_offset=1), another_comes_first)

    told = [fact for record in broker.log for fact in told_of(record) if fact.key == LOADER_ALONE]
    assert [fact.condition for fact in told] == [Condition.GONE, Condition.ACTIVE]
    assert verdicts(broker.log, 1)[LOADER_ALONE] is Verdict.GONE


async def test_a_producer_alone_that_says_its_last_is_found_though_its_queue_was_named_meanwhile() -> None:
    broker = Broker()
    forwarding = assuming(broker)
    await forwarding.forward(without_queue("started", "error"))
    await forwarding.forward(with_queue(first_offset=2))
    await forwarding.forward(without_queue("finished", first_offset=3))
    assert verdicts(broker.log, 1) == {LOADER_ALONE: Verdict.FAILED, CONSUMER: Verdict.STUCK}


class Backlog:
    """Batches that are there when they are asked for; `then` happens while the last of them is waited for."""

    def __init__(self, *batches: Batch, then: Callable[[], None] = lambda: None) -> None:
        self._batches = list(batches)
        self._then = then
        self.asked: list[float] = []

    async def following(self, seconds: float) -> Batch | None:
        self.asked.append(seconds)
        if self._batches:
            return self._batches.pop(0)
        self._then()
        return None


async def far_behind(broker: Broker, end: int = 100) -> Forwarding:
    """Give a forwarding that has learned of the end of the source at its last mark, and stands at its begin."""
    forwarding = forwarding_on(broker)
    broker.end = end
    await forwarding.mark()
    return forwarding


async def test_far_behind_batches_are_told_of_together_and_let_go_one_by_one() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    before, first, backlog = broker.appends, reports(0, 1, 2), Backlog(reports(3, 4), reports(5, 6))

    combined = await forwarding.forward(first, backlog.following)

    assert combined.folded == 7
    assert [[beat.offset for beat in bundle.beats] for bundle in broker.bundles()] == [[6]]
    assert broker.appends == before + 1
    assert first.records == ()
    assert len(backlog.asked) == 3
    assert backlog.asked == sorted(backlog.asked, reverse=True)
    assert 0 < backlog.asked[0] <= GATHER_SECONDS


async def test_near_the_end_nothing_is_waited_for() -> None:
    broker = Broker()
    forwarding = await far_behind(broker, end=7)  # four more are too few
    backlog = Backlog()

    await forwarding.forward(reports(0, 1, 2), backlog.following)

    assert backlog.asked == []
    assert len(broker.bundles()) == 1


async def test_where_no_end_is_known_nothing_is_waited_for() -> None:
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 1_000
    backlog = Backlog()

    await forwarding.forward(reports(0, 1, 2), backlog.following)

    assert backlog.asked == []


async def test_what_tells_of_many_jobs_waits_for_no_more() -> None:
    broker = Broker()
    forwarding = assuming(broker)
    await forwarding.mark()
    backlog = Backlog()

    await forwarding.forward(said("loading", *range(10_000)), backlog.following)

    assert backlog.asked == []


async def test_what_is_evidence_of_nothing_is_not_gathered_without_end() -> None:
    broker = Broker()
    forwarding = await far_behind(broker, end=10_000)
    backlog = Backlog(reports(2 * MOST_REJECTED))

    await forwarding.forward(reports(*range(MOST_REJECTED), producer="who"), backlog.following)

    assert backlog.asked == []
    assert len(broker.buried) == MOST_REJECTED


async def test_what_is_assumed_of_a_job_goes_with_its_own_partition_though_another_is_told_of_first() -> None:
    broker = Broker()
    forwarding = assuming(broker)
    await forwarding.mark()

    async def another_comes_first(_: float) -> Batch | None:
        await forwarding.forward(said("loading", 7, partition=1))
        return None

    await forwarding.forward(said("loading", 1, 2), another_comes_first)

    told = [[fact.key for fact in bundle.facts] for bundle in broker.bundles()]
    assert told == [["stf/q-7-p"], ["stf/q-1-p", "stf/q-2-p"]]
    assert not [record for record in broker.log if isinstance(record, Fact)]


async def test_what_is_assumed_of_a_job_is_told_though_its_report_is_ignored() -> None:
    broker = Broker()
    forwarding = assuming(broker)
    await forwarding.mark()
    batch = said("loading", 1, 2)

    def made_anew() -> None:
        broker.topic, broker.end, broker.position = Topic("second", 1), 1, 0
        forwarding.forwarder.reset(0, from_position=5, to_position=0)
        batch.is_gone = True

    await forwarding.forward(batch, Backlog(then=made_anew).following)

    assert broker.bundles() == []
    assert [record.fact.key for record in broker.log if isinstance(record, Fact)] == ["stf/q-1-p", "stf/q-2-p"]


async def test_a_batch_that_turns_out_to_be_of_a_topic_no_more_takes_those_before_it_along() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    backlog = Backlog(reports(3, 4, is_gone=True))

    combined = await forwarding.forward(reports(0, 1, 2), backlog.following)

    assert broker.bundles() == []
    assert combined.ignored == {Ignored.NOT_OURS: 5}


async def test_what_was_gathered_is_told_under_the_id_of_the_topic_that_is_read_then() -> None:
    """A mark found the topic made anew and grown past what is in hand: no broker can tell, and it has one id."""
    broker = Broker()
    forwarding = await far_behind(broker)

    def found() -> None:
        broker.topic = broker.cached = Topic("second", 1)
        forwarding.forwarder.topic_id = "second"

    await forwarding.forward(reports(0, 1, 2), Backlog(then=found).following)

    assert [bundle.topic_id for bundle in broker.bundles()] == ["second"]


async def test_what_was_gathered_of_a_topic_that_was_made_anew_meanwhile_is_told_under_no_id() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    batches = [reports(0, 1, 2), reports(3, 4)]

    def made_anew() -> None:
        broker.topic, broker.end, broker.position = Topic("second", 1), 1, 0
        forwarding.forwarder.reset(0, from_position=5, to_position=0)
        for batch in batches:
            batch.is_gone = True

    combined = await forwarding.forward(batches[0], Backlog(batches[1], then=made_anew).following)

    assert broker.bundles() == []
    assert combined.ignored == {Ignored.NOT_OURS: 5}


async def test_a_topic_is_asked_for_once_more_where_reading_began_anew_meanwhile() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)

    await forwarding.forward(reports(0, 1, 2), Backlog(then=forwarding.forwarder.assigned).following)

    assert [bundle.topic_id for bundle in broker.bundles()] == ["first"]


async def test_a_name_that_nobody_knew_is_tried_again_and_what_it_says_joins_what_was_gathered() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    names = forwarding.forwarder._combiner._names
    assert isinstance(names, JobIndex)
    known = names.facts()[0]

    def found() -> None:
        names.put(msgspec.structs.replace(known, key="stf/b", uid="v", producer_id="new"), now=2.0)

    broker.look = found
    backlog = Backlog(reports(3, producer="new"), reports(4))

    combined = await forwarding.forward(reports(0, 1, 2), backlog.following)

    assert [(beat.key, beat.offset) for beat in broker.bundles()[0].beats] == [("stf/a", 4), ("stf/b", 3)]
    assert (combined.folded, combined.rejected, broker.buried) == (5, [], [])


async def test_after_half_a_second_nothing_more_is_taken_though_it_is_there() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    broker.look = lambda: broker.log.extend([None] * 2)  # a second each
    backlog = Backlog(reports(1, producer="who"), reports(2), reports(3))

    await forwarding.forward(reports(0), backlog.following)

    assert [beat.offset for bundle in broker.bundles() for beat in bundle.beats] == [0]
    assert len(backlog.asked) == 1


async def test_a_name_that_nobody_knows_is_buried_and_the_rest_is_told() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)

    combined = await forwarding.forward(reports(0, 1), Backlog(reports(2, producer="who")).following)

    assert [reject.record.offset for reject in broker.buried] == [2]
    assert [beat.offset for beat in broker.bundles()[0].beats] == [1]
    assert (combined.folded, len(combined.rejected)) == (2, 1)


async def test_what_names_nobody_is_kept_while_the_jobs_cannot_be_listed_and_then_told() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    names = forwarding.forwarder._combiner._names
    assert isinstance(names, JobIndex)
    known, tries = names.facts()[0], 0

    def away_for_three_tries() -> Looked:
        nonlocal tries
        tries += 1
        assert (broker.bundles(), broker.buried) == ([], [])
        if tries <= 3:
            return Looked.AWAY
        names.put(msgspec.structs.replace(known, key="stf/b", uid="v", producer_id="new"), now=2.0)
        return Looked.LISTED

    broker.look = away_for_three_tries
    combined = await forwarding.forward(Batch(0, [*reports(0).records, *reports(1, producer="new").records]))

    assert broker.looked_for == ["new"] * 4
    assert [(beat.key, beat.offset) for beat in broker.bundles()[0].beats] == [("stf/a", 0), ("stf/b", 1)]
    assert (combined.folded, broker.buried) == (2, [])


async def test_what_waited_for_a_list_is_dated_not_later_than_when_it_was_read() -> None:
    """Its producer's clock is fast, and it waited for an hour: it must not outrank what is said in that hour."""
    broker = Broker()
    forwarding = forwarding_on(broker)
    broker.end = 10
    names = forwarding.forwarder._combiner._names
    assert isinstance(names, JobIndex)
    known, read_at = names.facts()[0], broker.time()

    def an_hour_later() -> None:
        broker.log += [None] * 3600  # a second each
        forwarding.forwarder.acknowledged(0, appended_at=broker.time(), sent_at=broker.clock())
        names.put(msgspec.structs.replace(known, key="stf/b", uid="v", producer_id="new"), now=2.0)

    broker.look = an_hour_later
    await forwarding.forward(reports(0, producer="new", at=read_at + 7200.0))

    assert broker.bundles()[0].beats[0].source_at <= read_at + 2.0


async def test_what_waits_for_a_list_is_ignored_once_its_topic_is_no_more() -> None:
    broker = Broker()
    forwarding = await far_behind(broker)
    batch = reports(0, 1, producer="who")

    def made_anew() -> Looked:
        batch.is_gone = True
        return Looked.AWAY

    broker.look = made_anew
    combined = await forwarding.forward(batch)

    assert (broker.looked_for, broker.bundles(), broker.buried) == (["who", "who"], [], [])
    assert combined.ignored == {Ignored.NOT_OURS: 2}
