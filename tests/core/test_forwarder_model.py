"""What a worker may claim, against a model of the world that knows everything.

The forwarder runs with the order of things that its agent gives it (agents/forwarding.py). Whatever it waits for is a
question to the broker, which acts on it at some moment, answers at a later one, or fails, in any order; meanwhile
reports arrive, partitions move, workers die, the topic grows, loses its oldest records or is made anew.

The promise, for each evidence partition: up to its watermark everything that was ever appended to the source is on
the log, or lies in a stretch that is told as a feed gap, or was lost with a stretch too short to be anybody's silence.
And a report with a true timestamp keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agents.forwarding import IDENTITY_AGE_SECONDS, Addressed, Appended, Forwarding, Looked
from sf_healer.core import evidence
from sf_healer.core.evidence import Bundle, Mark
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import JobIndex
from sf_healer.core.marks import Ends
from sf_healer.core.partitioning import partition_of
from sf_healer.core.watermark import Watermark
from sf_healer.transport.ledger import Delivery as HandedOver
from sf_healer.transport.ledger import Ledger
from tests.core.strategies import FEED_GAP_SECONDS, T0, a_fact

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence

    from sf_healer.core.combine import Rejected
    from sf_healer.core.events import Report as Said

EVIDENCE_PARTITIONS = 2
EVIDENCE = range(EVIDENCE_PARTITIONS)
WORKERS = 2
MARK_INTERVAL_SECONDS = 1.0
#: Time goes by in steps that are exact as floats and as milliseconds.
STEP_SECONDS = 1 / 8
NEVER = float("inf")
KEYS = [
    next(f"stf/job-{n}" for n in range(start, 1000) if partition_of(f"stf/job-{n}", EVIDENCE_PARTITIONS) == partition)
    for partition, start in ((0, 0), (0, 100), (1, 200))
]


#: So many of them are known to a worker that starts; it learns of the others by a list, if one can be made.
KNOWN_AT_FIRST = 1

#: By how much the clock of each Job's producer is wrong, in seconds.
CLOCK_ERRORS = [0.0, 3600.0, -3600.0]


class Everyday(Enum):
    """What happens all the time."""

    REPORT = "a report arrives"
    POLL = "a worker polls"
    TAKE_BATCH = "a worker takes the next batch"
    BEGIN_MARK = "a worker begins a mark"
    ACT = "the broker acts"
    ANSWER = "an answer arrives"
    CLUSTER = "the cluster goes away, or comes back"


#: Most of life is waiting for answers.
EVERYDAY = [*Everyday, Everyday.ACT, Everyday.ANSWER, Everyday.ANSWER]


class Report(NamedTuple):
    """A record of the source; `at` is when it was appended, whatever its producer's clock says."""

    offset: int
    at: float
    key: str
    timestamp: int
    value: bytes


class Topic:
    """One incarnation of the source topic."""

    def __init__(self, topic_id: str, *, created_at: float, partitions: int) -> None:
        self.topic_id = topic_id
        self.created_at = created_at
        self.logs: list[list[Report]] = []
        self.starts: list[int] = []
        self.grown_at: list[float] = []
        self.stands_at: dict[int, int] = {}  # the high watermark of a partition that lacks replicas
        for _ in range(partitions):
            self.grow(created_at)

    def grow(self, at: float) -> None:
        self.logs.append([])
        self.starts.append(0)
        self.grown_at.append(at)

    @property
    def partitions(self) -> int:
        return len(self.logs)


class Identity(NamedTuple):
    topic_id: str
    partitions: int


class Question:
    """Something a worker waits for. The broker acts on its parts one by one; then the answer can arrive."""

    def __init__(self, parts: list[Callable[[], Any]], answer_of: Callable[[list[Any]], Any]) -> None:
        self._parts = parts
        self._answer_of = answer_of
        self._found: list[Any] = []
        self.error: KafkaError | None = None

    def __await__(self) -> Generator[Question, Any, Any]:
        return (yield self)

    @property
    def is_answered(self) -> bool:
        return self.error is not None or len(self._found) == len(self._parts)

    def act(self, *, parts: int) -> None:
        """Have the broker act on the next parts."""
        for _ in range(parts):
            if not self.is_answered:
                try:
                    self._found.append(self._parts[len(self._found)]())
                except KafkaError as error:
                    self.error = error

    def answer(self) -> Any:
        return self._answer_of(self._found)


class Pause(Question):
    """What a batch does that cannot be told yet."""

    def __init__(self) -> None:
        super().__init__([], lambda _: None)


class Running:
    """A coroutine of a worker and the question it waits for."""

    def __init__(self, coroutine: Coroutine[Question, Any, Any]) -> None:
        self._coroutine = coroutine
        self.question: Question | None = None
        self.is_over = False
        self._go_on(lambda: coroutine.send(None))

    def take_answer(self) -> None:
        """Go on with the answer; raises the KafkaError that it is, if nobody catches it."""
        assert self.question is not None
        if self.question.error is not None:
            self.fail(self.question.error)
            return
        answer = self.question.answer()
        self._go_on(lambda: self._coroutine.send(answer))

    def fail(self, error: KafkaError) -> None:
        """Have the question fail; raises the error, if nobody catches it."""
        self._go_on(lambda: self._coroutine.throw(error))

    def close(self) -> None:
        self._coroutine.close()

    def _go_on(self, step: Callable[[], Question]) -> None:
        self.question = None
        try:
            self.question = step()
        except StopIteration:
            self.is_over = True


class Delivery:
    """A batch in a worker's hands."""

    def __init__(self, topic: Topic, partition: int, records: list[Report], handed_over: HandedOver) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.handed_over = handed_over
        self.told = records  # what the model knows of it when it is let go

    @property
    def is_gone(self) -> bool:
        return self.handed_over.abandoned

    def let_go(self) -> None:
        self.records = []


class InHand:
    """The batches of a source partition that are forwarded together, and who does."""

    def __init__(self, first: Delivery) -> None:
        self.deliveries = [first]
        self.running: Running | None = None  # before it waits for anything

    @property
    def partition(self) -> int:
        return self.deliveries[0].partition

    @property
    def reports(self) -> list[tuple[Report, Topic]]:
        """What is in them, and of which topic: no reader can tell one that was made anew and has grown past it."""
        return [(report, delivery.topic) for delivery in self.deliveries for report in delivery.told]


class Tracked:
    """How far one assignment has read one source partition, and what of it is acknowledged."""

    def __init__(self, topic: Topic, position: int | None) -> None:
        self.topic = topic  # that the position is of; the reader does not know
        self.ledger = Ledger(position)  # None: nothing was ever committed
        self.confirmed = False


class Worker:
    """A process: its forwarding, its readers, and the ports between them and the model."""

    def __init__(self, model: Model, *, booted_at: float) -> None:
        self._model = model
        self._booted_at = booted_at
        self._identity: tuple[float, Identity] | None = None
        self.names = JobIndex()
        self._learn(KNOWN_AT_FIRST)
        self.forwarding = Forwarding(
            Forwarder(self.names, partitions=EVIDENCE_PARTITIONS),
            self,
            mark_interval_seconds=MARK_INTERVAL_SECONDS,
            far_behind_records=1,
        )
        self.tracked: dict[int, Tracked] = {}
        self.queue: list[Delivery] = []
        # By source partition, as agents/batches.py has it: those of several are forwarded side by side.
        self.in_hand: dict[int, InHand] = {}
        self.mark: Running | None = None
        self.resets: set[int] = set()
        self.told: set[int] = set()  # of the resets, with the claims that are under way

    def _learn(self, jobs: int) -> None:
        """Know the first so many Jobs."""
        for number, key in enumerate(KEYS[:jobs]):
            self.names.put(a_fact(key, uid=key, queue_id="", producer_id=f"p{number}"), now=T0)

    # ---- the ports of forwarding

    def clock(self) -> float:
        return self._model.now - self._booted_at

    async def pause(self, seconds: float) -> None:
        assert seconds > 0
        await Pause()

    def positions(self) -> dict[int, int]:
        reached = {number: each.ledger.acknowledged for number, each in self.tracked.items() if each.confirmed}
        return {number: at for number, at in reached.items() if at is not None}

    def handed_over(self, source_partition: int) -> int:
        return (self.tracked[source_partition].ledger.position or 0) if source_partition in self.tracked else 0

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        numbers = list(source_partitions)
        of_logs = await Question([lambda number=number: self._model.end(number) for number in numbers], list)
        readable = await Question([lambda number=number: self._model.readable(number) for number in numbers], list)
        return {number: Ends(*ends) for number, *ends in zip(numbers, of_logs, readable, strict=True)}

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        """Hear of the old topic's end, where it is not known yet that it was made anew."""

    async def identity(self, *, max_age_seconds: float) -> Identity:
        asked_at = self._model.now
        if self._identity is None or asked_at - self._identity[0] >= max_age_seconds:
            found = await Question([self._model.identity], lambda found: found[0])
            self._identity = asked_at, found
        return self._identity[1]

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        asked_at = self._model.now
        self._check_resets(records)

        def appended(record: Addressed) -> Appended:
            self._model.slowest_append = max(self._model.slowest_append, self._model.now - asked_at)
            return self._model.append(record, self.in_hand)

        return await Question([lambda record=record: appended(record) for record in records], list)

    def _check_resets(self, records: Sequence[Addressed]) -> None:
        """See that a reset is told with every mark until one is acknowledged, whatever is assigned meanwhile."""
        marks = [mark for record in records if isinstance(mark := evidence.decode(record.value), Mark)]
        assert all(self.resets <= set(mark.reset) for mark in marks)
        assert not marks or not self.resets or {record.partition for record in records} >= set(EVIDENCE)
        if marks:
            self.told = set(self.resets)

    async def bury(self, batch: Delivery, rejected: Sequence[Rejected]) -> None:
        raise AssertionError((batch, rejected))

    async def look_again(self, reports: Sequence[Said]) -> Looked:
        """Know all Jobs from when the cluster acts, if it is not away then; what it answers comes later, or never."""
        assert {report.producer for report in reports} <= {f"p{number}" for number in range(len(KEYS))}

        def listed() -> Looked:
            if self._model.cluster_is_away:
                return Looked.AWAY
            self._learn(len(KEYS))
            return Looked.LISTED

        return await Question([listed], lambda found: found[0])

    def take_assumed(self) -> list[Any]:
        return []

    # ---- what happens to a process

    def forward(self, delivery: Delivery) -> None:
        """Begin to forward a batch, and those behind it that are there when it asks for them."""
        in_hand = self.in_hand[delivery.partition] = InHand(delivery)

        def next_of_it() -> Delivery | None:
            last = in_hand.deliveries[-1]
            found = next((each for each in self.queue if each.partition == last.partition), None)
            if found is None or last.is_gone or found.handed_over.start != last.handed_over.end:
                return None
            self.queue.remove(found)
            in_hand.deliveries.append(found)
            return found

        async def following(_seconds: float) -> Delivery | None:
            return await Question([next_of_it], lambda found: found[0])

        in_hand.running = Running(self.forwarding.forward(delivery, following))

    def running(self) -> list[Running]:
        batches = [each.running for each in self.in_hand.values() if each.running is not None]
        return [*batches, *([] if self.mark is None else [self.mark])]

    def end(self) -> None:
        for each in self.running():
            each.close()


class Model(RuleBasedStateMachine):
    """The source, the evidence log, and workers that share the source's partitions."""

    partitions = 2

    @initialize()
    def begin(self) -> None:
        self.now = T0
        self.slowest_append = 0.0
        self.cluster_is_away = True
        self.topic = Topic("topic-1", created_at=T0, partitions=self.partitions)
        self.topics = [self.topic]
        self.committed: dict[int, tuple[Topic, int]] = {}
        # Offsets that will never be read, by topic id and source partition, with the seconds that were lost with them.
        self.lost: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        # Offsets that look as if they had been told, for a batch of the topic before was told under the new id.
        self.mistaken: dict[tuple[str, int], set[int]] = defaultdict(set)
        self.folded: list[set[tuple[str, int, int]]] = [set() for _ in EVIDENCE]
        self.highest: list[dict[tuple[str, int], int]] = [{} for _ in EVIDENCE]
        self.watermarks = [Watermark(feed_gap_seconds=FEED_GAP_SECONDS) for _ in EVIDENCE]
        self.workers = [Worker(self, booted_at=self.now) for _ in range(WORKERS)]
        self._assign(0)

    def teardown(self) -> None:
        for worker in getattr(self, "workers", []):
            worker.end()

    # ---- what the broker does

    def end(self, number: int) -> int:
        if number >= self.topic.partitions:
            raise UnknownTopicOrPartitionError
        return len(self.topic.logs[number])

    def readable(self, number: int) -> int:
        return min(self.end(number), self.topic.stands_at.get(number, self.end(number)))

    def identity(self) -> Identity:
        return Identity(self.topic.topic_id, self.topic.partitions)

    def append(self, record: Addressed, in_hand: dict[int, InHand]) -> Appended:
        entry = evidence.decode(record.value)
        if isinstance(entry, Bundle) and entry.beats:
            self._fold(record.partition, entry, in_hand[entry.source_partition])
        elif isinstance(entry, Mark):
            self._check_mark(record.partition, entry)
            self.watermarks[record.partition].apply(entry)
            self._check_watermark(record.partition)
        return Appended(record.partition, self.now)

    def _fold(self, number: int, bundle: Bundle, told: InHand) -> None:
        """Do what the fold does with offsets: what is not above all that was told before is passed over."""
        assert bundle.topic_id in {topic.topic_id for topic in self.topics}
        source = (bundle.topic_id, bundle.source_partition)
        known = self.highest[number].get(source, -1)
        strayed = [report for report, topic in told.reports if topic.topic_id != bundle.topic_id]
        if strayed and bundle.topic_id == self.topic.topic_id:  # made anew while they were in hand, and grown past them
            assert self.end(bundle.source_partition) > strayed[-1].offset
        for beat in bundle.beats:
            combined = [(report, topic) for report, topic in told.reports if report.key == beat.key]
            combined = [(report, topic) for report, topic in combined if report.offset <= beat.offset]
            last, topic_of_last = combined[-1]
            if topic_of_last.topic_id == bundle.topic_id:
                self._check_source_time(last, beat.source_at)
            mistaken = [report.offset for report, topic in combined if topic.topic_id != bundle.topic_id]
            self.mistaken[source] |= set(range(max(mistaken, default=-1) + 1))
            if beat.offset > known:
                self.highest[number][source] = max(self.highest[number].get(source, -1), beat.offset)
                self.folded[number] |= {(topic.topic_id, told.partition, report.offset) for report, topic in combined}

    # ---- the promise

    def _missing(self, number: int, topic: Topic, source: int, before: float) -> list[Report]:
        """List what was appended to a source partition before a moment and is not on an evidence partition."""
        log = topic.logs[source] if source < topic.partitions else []  # told under an id that is known to be old soon
        return [
            report
            for report in log
            if report.at < before
            and report.offset not in self.mistaken[topic.topic_id, source]
            and partition_of(report.key, EVIDENCE_PARTITIONS) == number
            and (topic.topic_id, source, report.offset) not in self.folded[number]
        ]

    def _check_mark(self, number: int, mark: Mark) -> None:
        topic = next(each for each in self.topics if each.topic_id == mark.topic_id)
        for source, w in mark.sources:
            lost = self.lost[topic.topic_id, source]
            missing = [each for each in self._missing(number, topic, source, w) if each.offset not in lost]
            assert not missing, f"source {source} is marked up to {w}: {missing} is not on the log"

    def _check_source_time(self, report: Report, source_at: float) -> None:
        """A true clock is believed, a wrong one bounded by what is known of when the record can have been written."""
        error = CLOCK_ERRORS[KEYS.index(report.key)]
        if error == 0.0:
            assert source_at == report.at
        elif error < 0.0:
            assert source_at <= report.at
        else:
            assert report.at <= source_at <= self.now + self.slowest_append

    def _check_watermark(self, number: int) -> None:
        watermark = self.watermarks[number]
        for topic in self.topics:
            for source in range(topic.partitions):
                missing = self._missing(number, topic, source, watermark.value)
                # A mark knows the topic by metadata of IDENTITY_AGE_SECONDS: what is younger nobody speaks for yet.
                known_from = topic.grown_at[source] + IDENTITY_AGE_SECONDS
                lost = self.lost[topic.topic_id, source]
                untold = [
                    each
                    for each in missing
                    if each.at > known_from and not self._may_be_missing(watermark, each, lost.get(each.offset))
                ]
                assert not untold, f"the watermark is {watermark.value}: {untold} is neither on the log nor in a gap"

    @staticmethod
    def _may_be_missing(watermark: Watermark, report: Report, lost_with_it: float | None) -> bool:
        """Say whether it lies in a gap, or was lost: with little else, or not long after the end of a gap."""
        late = 0.0 if lost_with_it is None else FEED_GAP_SECONDS
        if lost_with_it is not None and lost_with_it <= FEED_GAP_SECONDS:
            return True
        return any(report.at <= end + late for _, end in watermark.gaps.as_tuple())

    def _lose(self, topic: Topic, source: int, offsets: range) -> None:
        """Note what nobody can read any more; what a worker has in hand may still be told."""
        times = [report.at for report in topic.logs[source][offsets.start : offsets.stop]]
        self.lost[topic.topic_id, source] |= dict.fromkeys(offsets, max(times, default=0.0) - min(times, default=0.0))

    # ---- what happens

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(events=st.lists(st.tuples(st.sampled_from(EVERYDAY), st.integers(0, 7)), min_size=1, max_size=30))
    def life_goes_on(self, events: list[tuple[Everyday, int]]) -> None:
        """Have many small things happen between one another, none of them a fault."""
        for event, number in events:
            self.now += STEP_SECONDS * (number % 3)
            worker = self.workers[number % WORKERS]
            match event:
                case Everyday.REPORT:
                    self.a_report_arrives(number)
                case Everyday.POLL:
                    for source in sorted(worker.tracked):
                        self._poll(worker, source, most=1 + number)
                case Everyday.TAKE_BATCH:
                    self._take_batch(worker)
                case Everyday.BEGIN_MARK:
                    self._begin_mark(worker)
                case Everyday.ACT:
                    self._act(number)
                case Everyday.ANSWER:
                    self._answer(number)
                case Everyday.CLUSTER:
                    self.cluster_is_away = not self.cluster_is_away

    def a_report_arrives(self, number: int) -> None:
        source, key = number % self.topic.partitions, number % len(KEYS)
        log = self.topic.logs[source]
        value = b'{"status": "loading", "producer": "p%d"}' % key
        says = self.now + CLOCK_ERRORS[key]
        log.append(Report(len(log), self.now, KEYS[key], int(says * 1000), value))

    def _poll(self, worker: Worker, source: int, *, most: int) -> None:
        if source >= self.topic.partitions:
            return
        tracked = worker.tracked[source]
        start, end = self.topic.starts[source], self.end(source)
        position = tracked.ledger.position
        if position is None:
            tracked.ledger.begin_at(start)
            self._lose(self.topic, source, range(start))
        elif not start <= position <= end:
            worker.forwarding.forwarder.reset(source, from_position=position, to_position=start)
            worker.resets.add(source)
            worker.told.discard(source)
            self._lose(self.topic, source, range(position if tracked.topic is self.topic else 0, start))
            tracked.ledger = tracked.ledger.start_over(start)
        elif tracked.topic is not self.topic:  # made anew, and grown past the position: no broker can tell
            self._lose(self.topic, source, range(position))
        tracked.topic, tracked.confirmed = self.topic, True
        position = tracked.ledger.position
        records = self.topic.logs[source][position : min(position + most, self.readable(source))]
        if records:
            handed_over = tracked.ledger.deliver(position + len(records))
            worker.queue.append(Delivery(self.topic, source, records, handed_over))

    def _take_batch(self, worker: Worker) -> None:
        delivery = next((each for each in worker.queue if each.partition not in worker.in_hand), None)
        if delivery is not None:
            worker.queue.remove(delivery)
            worker.forward(delivery)
            self._look_after(worker)

    def _begin_mark(self, worker: Worker) -> None:
        if worker.mark is None:
            worker.mark = Running(worker.forwarding.mark())
            self._look_after(worker)

    def _look_after(self, worker: Worker) -> None:
        """Acknowledge batches that are done, and put away what is over."""
        for source, in_hand in list(worker.in_hand.items()):
            if in_hand.running is not None and in_hand.running.is_over:
                for delivery in worker.in_hand.pop(source).deliveries:
                    delivery.handed_over.acknowledged = True
        if worker.mark is not None and worker.mark.is_over:
            worker.mark = None
            worker.resets -= worker.told
            worker.told = set()

    def _act(self, number: int) -> None:
        """Have the broker act on a part of what is asked, or on all of it."""
        waiting = self._waiting()
        if waiting:
            _, running = waiting[number % len(waiting)]
            running.question.act(parts=1 + number)

    def _answer(self, number: int) -> None:
        """Have an answer arrive, if the broker has acted on everything."""
        answered = [(worker, running) for worker, running in self._waiting() if running.question.is_answered]
        if answered:
            self._tell(*answered[number % len(answered)])

    def _tell(self, worker: Worker, running: Running) -> None:
        self._go_on(worker, running, running.take_answer)

    def _go_on(self, worker: Worker, running: Running, step: Callable[[], None]) -> None:
        try:
            step()
        except KafkaError:
            self._is_broken_off(worker, running)
        self._look_after(worker)

    @precondition(lambda self: self._waiting())
    @rule(number=st.integers(0, 7))
    def a_question_fails(self, number: int) -> None:
        waiting = self._waiting()
        worker, running = waiting[number % len(waiting)]
        self._go_on(worker, running, lambda: running.fail(KafkaTimeoutError()))

    def _is_broken_off(self, worker: Worker, running: Running) -> None:
        """Have a mark be made again later, and a process end whose batch failed."""
        if running is worker.mark:
            worker.mark, worker.told = None, set()
        else:
            self._die(worker)

    @rule(source=st.integers(0, 3))
    def a_source_partition_lacks_replicas(self, source: int) -> None:
        """Have what it takes from now on be in its log, and be read by nobody."""
        self.topic.stands_at.setdefault(source % self.topic.partitions, self.end(source % self.topic.partitions))

    @precondition(lambda self: self.topic.stands_at)
    @rule()
    def the_replicas_are_back(self) -> None:
        self.topic.stands_at.clear()

    @rule(number=st.integers(0, WORKERS - 1), arriving=st.lists(st.integers(0, 3), min_size=1, max_size=4))
    def a_worker_is_undisturbed(self, number: int, arriving: list[int]) -> None:
        """Follow the feed for some seconds: what is in hand is forwarded, marks are made, offsets are committed."""
        for source in arriving:
            self.now += MARK_INTERVAL_SECONDS
            self.a_report_arrives(source)
            self._forward_all(self.workers[number])
            for _ in range(2):  # the one under way, and one of this second
                worker = self.workers[number]
                self._begin_mark(worker)
                self._finish(worker, worker.mark)
            self.a_worker_commits(number)

    @rule(number=st.integers(0, WORKERS - 1), arriving=st.lists(st.integers(0, 11), min_size=4, max_size=10))
    def a_worker_is_far_behind(self, number: int, arriving: list[int]) -> None:
        """Have much more arrive than it takes at a time, and it learn so; what it gathers of that is under way then."""
        for source in arriving:
            self.a_report_arrives(source)
        worker = self.workers[number]
        for source in list(worker.tracked):
            self._poll(worker, source, most=0)  # it polls all the time: of a topic made anew it does not mark unread
        for _ in range(2):  # the mark under way, and one that finds these ends
            self._begin_mark(worker)
            self._finish(worker, worker.mark)
            worker = self.workers[number]
        for most in (1, 2, 1):
            for source in list(worker.tracked):
                self._poll(worker, source, most=most)
        for _ in worker.tracked:
            self._take_batch(worker)

    @precondition(lambda self: any(worker.mark is not None for worker in self.workers))
    @rule(before=st.lists(st.integers(0, 7), max_size=3), meanwhile=st.lists(st.integers(0, 7), max_size=3))
    def an_answer_takes_its_time(self, before: list[int], meanwhile: list[int]) -> None:
        """Have the feed go on between what the broker finds for a mark and the moment the worker learns of it."""
        worker = next(worker for worker in self.workers if worker.mark is not None)
        mark = worker.mark
        for number in before:
            self.a_report_arrives(number)
        self._finish_batches(worker)
        self._poll_all(worker)
        if worker.mark is not mark:  # a batch waited for it
            return
        mark.question.act(parts=100)
        self.now += MARK_INTERVAL_SECONDS
        for number in meanwhile:
            self.a_report_arrives(number)
        self.now += MARK_INTERVAL_SECONDS
        self._forward_queue(worker)
        if worker.mark is mark and worker in self.workers:
            self._tell(worker, mark)

    def _forward_all(self, worker: Worker) -> None:
        self._finish_batches(worker)
        self._poll_all(worker)
        self._forward_queue(worker)

    def _poll_all(self, worker: Worker) -> None:
        for source in list(worker.tracked):
            self._poll(worker, source, most=100)

    def _forward_queue(self, worker: Worker) -> None:
        while worker.queue and worker in self.workers:
            self._take_batch(worker)
            self._finish_batches(worker)

    def _finish_batches(self, worker: Worker) -> None:
        for in_hand in list(worker.in_hand.values()):
            self._finish(worker, in_hand.running)

    def _finish(self, worker: Worker, running: Running | None) -> None:
        self.cluster_is_away = False  # else what waits for it would wait for ever
        while running is not None and running.question is not None and worker in self.workers:
            if isinstance(running.question, Pause):
                self._end_what_is_waited_for(worker)
            running.question.act(parts=100)
            self._tell(worker, running)

    def _end_what_is_waited_for(self, worker: Worker) -> None:
        """Have a worker's reset be told, or its group learn that a partition is no more."""
        if any(source >= self.topic.partitions for source in worker.tracked):
            self._assign(0)
        for source in list(worker.tracked):
            self._poll(worker, source, most=0)
        self._begin_mark(worker)
        self._finish(worker, worker.mark)

    @rule(number=st.integers(0, WORKERS - 1))
    def a_worker_is_killed(self, number: int) -> None:
        self._die(self.workers[number])

    @rule(number=st.integers(0, WORKERS - 1))
    def a_worker_commits(self, number: int) -> None:
        for source, tracked in self.workers[number].tracked.items():
            if tracked.confirmed and (position := tracked.ledger.to_commit) is not None:
                self.committed[source] = tracked.topic, position

    @rule(offset=st.integers(0, WORKERS - 1), committing=st.booleans())
    def the_group_rebalances(self, offset: int, committing: bool) -> None:  # noqa: FBT001
        if committing:
            for number in range(WORKERS):
                self.a_worker_commits(number)
        self._assign(offset)

    @rule()
    def the_topic_gets_a_partition(self) -> None:
        if self.topic.partitions < self.partitions + 2:
            self.topic.grow(self.now)

    def _die(self, worker: Worker) -> None:
        worker.end()
        self.workers[self.workers.index(worker)] = Worker(self, booted_at=self.now)
        self._assign(0)

    def _assign(self, offset: int) -> None:
        """Take every partition from everybody and hand them out anew, from what is committed on."""
        for number, worker in enumerate(self.workers):
            mine = [source for source in range(self.topic.partitions) if (source + offset) % WORKERS == number]
            worker.queue.clear()  # Faust empties its buffers; what the agent has in hand will be read again
            for tracked in worker.tracked.values():
                tracked.ledger.abandon()
            worker.tracked = {source: Tracked(*self.committed.get(source, (self.topic, None))) for source in mine}
            worker.forwarding.forwarder.assigned()

    def _waiting(self) -> list[tuple[Worker, Running]]:
        return [
            (worker, running) for worker in self.workers for running in worker.running() if running.question is not None
        ]


TestForwarder = Model.TestCase
TestForwarder.settings = settings(max_examples=150, stateful_step_count=40)


class ModelThatLosesRecords(Model):
    """The same where the source's oldest records are removed, and where the topic is deleted and made anew."""

    @rule(source=st.integers(0, 3), records=st.integers(1, 5))
    def retention_takes_the_oldest_records(self, source: int, records: int) -> None:
        source %= self.topic.partitions
        self.topic.starts[source] = min(self.topic.starts[source] + records, self.readable(source))

    @rule(partitions=st.integers(1, 3), reports=st.lists(st.integers(0, 7), max_size=8), forgotten=st.booleans())
    def the_topic_is_made_anew(self, partitions: int, reports: list[int], forgotten: bool) -> None:  # noqa: FBT001
        for source in range(self.topic.partitions):
            self._lose(self.topic, source, range(self.end(source)))
        self.topic = Topic(f"topic-{len(self.topics) + 1}", created_at=self.now, partitions=partitions)
        self.topics.append(self.topic)
        if forgotten:  # the broker deletes a topic's committed offsets with it, sooner or later
            self.committed.clear()
        for number in reports:
            self.a_report_arrives(number)


TestForwarderThatLosesRecords = ModelThatLosesRecords.TestCase
TestForwarderThatLosesRecords.settings = settings(max_examples=150, stateful_step_count=40)
