"""The broker of the simulated world: logs, sends that may be lost half way, cursors that read, groups that rebalance.

Modelled: LogAppendTime by clocks that differ and step, acks=all (an answered send is durable), one request in
flight for each producer and partition (order kept), retries until the request times out, retention, a topic made
anew, control records (offsets without a record), committed offsets, eager rebalances, session timeouts, zombies
(whose fetches and sends the broker still takes, and whose commits it does not).
"""

import random
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from aiokafka.errors import KafkaTimeoutError
from faust.types import TP

from sf_healer.transport import Batch
from sf_healer.transport.ledger import Ledger
from tests.simulation.clock import Life, Process, Scheduler

Place = tuple[str, int]  # topic, partition

Share = dict[Place, "Committed | None"]

REQUEST_TIMEOUT_SECONDS = 30.0
_LATENCY_SECONDS = (0.001, 0.020)
_FETCH_SECONDS = (0.002, 0.060)


class Record:
    """One record; `landed` is the world's time of its append, which no one in the world can read."""

    __slots__ = ("key", "landed", "offset", "timestamp", "value")

    def __init__(self, offset: int, timestamp: int, key: bytes | None, value: bytes | None, landed: float) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.value = value
        self.landed = landed


class Log:
    """One partition."""

    def __init__(self, topic: str, partition: int, *, topic_id: str = "", skew: float = 0.0) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_id = topic_id
        self.skew = skew  # of its leader's clock
        self.records: list[Record] = []
        self._offsets: list[int] = []
        self.start = 0
        self.end = 0
        #: Where the high watermark stands while too few replicas are there; None while it follows the end.
        self.stands_at: int | None = None

    @property
    def readable(self) -> int:
        """Up to where it can be read."""
        return self.end if self.stands_at is None else self.stands_at

    def cut(self, end: int) -> None:
        """Lose what is not below an offset: another leader never had it."""
        kept = bisect_left(self._offsets, end)
        del self.records[kept:], self._offsets[kept:]
        self.end = end

    def append(self, timestamp: int, key: bytes | None, value: bytes | None, landed: float) -> Record:
        record = Record(self.end, timestamp, key, value, landed)
        self.records.append(record)
        self._offsets.append(self.end)
        self.end += 1
        return record

    def skip(self, offsets: int) -> None:
        """Use offsets up without a record, as control records and aborted transactions do."""
        self.end += offsets

    def read(self, position: int, limit: int) -> tuple[Sequence[Record], int]:
        """Return records from a position on, and where reading goes on."""
        first = bisect_left(self._offsets, position)
        readable = len(self.records) if self.stands_at is None else bisect_left(self._offsets, self.stands_at)
        found = self.records[first : min(first + limit, readable)]
        if first + len(found) >= readable:
            return found, self.readable
        return found, self._offsets[first + len(found)]

    def from_offset(self, offset: int) -> Sequence[Record]:
        """Return all records from an offset on."""
        return self.records[bisect_left(self._offsets, offset) :]


class Outgoing(NamedTuple):
    """One record to send."""

    place: Place
    value: bytes | None
    key: bytes | None = None


class _Request:
    """Sends of one call: answered when all are appended."""

    __slots__ = ("appended", "failed", "future", "missing", "process", "until")

    def __init__(self, process: Process, count: int, until: float) -> None:
        self.process = process
        self.future = process.create_future()
        self.appended: list[Record | None] = [None] * count
        self.missing = count
        self.failed = False
        self.until = until


class Broker:
    """All logs, and the way to them."""

    def __init__(self, scheduler: Scheduler, rng: random.Random) -> None:
        self._scheduler = scheduler
        self._rng = rng
        self.logs: dict[Place, Log] = {}
        self.topic_ids: dict[str, str] = {}
        self.down_until = 0.0
        self.latency_seconds = 0.0
        self.clock_offset = 0.0
        #: How far ahead a leader's clock is for the next record of its partition only, in seconds.
        self.leaps: dict[Place, float] = {}
        self.listeners: dict[str, Callable[[Log, Record, Process | None], None]] = {}
        #: Called at each append of a process: a fault may kill it there, before it has the answer.
        self.at_append: Callable[[Process], None] = lambda _process: None
        #: Called when a topic made anew is read from a position of the old one: what lies before is not read.
        self.passed_over: Callable[[Place, int], None] = lambda _place, _offset: None
        self._readers: dict[Place, list[Reader]] = {}
        self._last_arrival: dict[tuple[str, Place], float] = {}

    # ---- topics

    def create(self, topic: str, partitions: int, *, skew_seconds: float = 0.0) -> None:
        """Create a topic, or make it anew."""
        generation = int(self.topic_ids.get(topic, f"{topic}-0").rpartition("-")[2]) + 1
        self.topic_ids[topic] = f"{topic}-{generation}"
        for place in [place for place in self.logs if place[0] == topic]:
            del self.logs[place]
        for _ in range(partitions):
            self.add_partition(topic, skew_seconds=skew_seconds)

    def add_partition(self, topic: str, *, skew_seconds: float = 0.0) -> None:
        partition = self.partitions_of(topic)
        skew = self._rng.uniform(-skew_seconds, skew_seconds)
        self.logs[topic, partition] = Log(topic, partition, topic_id=self.topic_ids[topic], skew=skew)

    def start_over(self, place: Place) -> None:
        """Lose a partition's records: its offsets begin anew, and the topic's id is what it was."""
        log = self.logs[place]
        self.logs[place] = Log(log.topic, log.partition, topic_id=log.topic_id, skew=log.skew)
        self.ring(place)

    def partitions_of(self, topic: str) -> int:
        return sum(1 for place in self.logs if place[0] == topic)

    def time_of(self, log: Log) -> float:
        """Return the clock of a partition's leader, epoch seconds."""
        return self._scheduler.now + self.clock_offset + log.skew

    @property
    def is_down(self) -> bool:
        return self._scheduler.now < self.down_until

    # ---- writing

    def put(
        self,
        place: Place,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        process: Process | None = None,
    ) -> Record:
        """Append a record now; without a timestamp the broker's clock gives it."""
        log = self.logs[place]
        stamp = round((self.time_of(log) + self.leaps.pop(place, 0.0)) * 1000) if timestamp is None else timestamp
        record = log.append(stamp, key, value, self._scheduler.now)
        listener = self.listeners.get(place[0])
        if listener is not None:
            listener(log, record, process)
        self.ring(place)
        return record

    def skip(self, place: Place, offsets: int) -> None:
        self.logs[place].skip(offsets)
        self.ring(place)

    async def send(self, process: Process, entries: Sequence[Outgoing]) -> list[Record]:
        """Send records; returns when all are durable. Raises KafkaTimeoutError when the broker stays away."""
        if not entries:
            return []
        request = self.post(process, entries)
        return await request.future  # type: ignore[no-any-return]

    def post(self, process: Process, entries: Sequence[Outgoing]) -> _Request:
        """Put records on their way."""
        now = self._scheduler.now
        request = _Request(process, len(entries), now + REQUEST_TIMEOUT_SECONDS)
        for number, entry in enumerate(entries):
            lane = (process.name, entry.place)
            arrival = max(now, self.down_until) + self.one_way_seconds()
            arrival = max(arrival, self._last_arrival.get(lane, 0.0) + 1e-6)
            if arrival < request.until:
                self._last_arrival[lane] = arrival
            self._scheduler.at(min(arrival, request.until), self._arrive, request, number, entry)
        return request

    def _arrive(self, request: _Request, number: int, entry: Outgoing) -> None:
        now, process = self._scheduler.now, request.process
        if request.failed or process.lost_on_the_way:
            return
        if now >= request.until or (self.is_down and self.down_until >= request.until):
            request.failed = True
            error = KafkaTimeoutError(f"no answer for {REQUEST_TIMEOUT_SECONDS:g} s")
            self._scheduler.at(request.until, process.fail, request.future, error, owner=process)
            return
        if self.is_down:
            self._scheduler.at(self.down_until + self.one_way_seconds(), self._arrive, request, number, entry)
            return
        request.appended[number] = self.put(entry.place, entry.value, key=entry.key, process=process)
        request.missing -= 1
        if request.missing == 0:
            self._scheduler.after(
                self.one_way_seconds(), process.answer, request.future, request.appended, owner=process
            )
        if process.alive:
            self.at_append(process)

    # ---- reading

    def listen(self, reader: "Reader", places: Iterable[Place]) -> None:
        for readers in self._readers.values():
            if reader in readers:
                readers.remove(reader)
        for place in places:
            self._readers.setdefault(place, []).append(reader)

    def ring(self, place: Place) -> None:
        """Wake who waits for something to read."""
        for reader in self._readers.get(place, ()):
            reader.ring()

    def ring_all(self) -> None:
        for place in list(self._readers):
            self.ring(place)

    def fetch_seconds(self) -> float:
        return self._rng.uniform(*_FETCH_SECONDS) + self._rng.uniform(0.0, self.latency_seconds)

    def one_way_seconds(self) -> float:
        return self._rng.uniform(*_LATENCY_SECONDS) + self._rng.uniform(0.0, self.latency_seconds)


class Committed(NamedTuple):
    """Up to where a group has read a partition, and of which topic of that name it was."""

    offset: int
    topic_id: str


class Cursor:
    """Where an agent stands in one partition."""

    __slots__ = ("confirmed", "ledger", "place", "topic_id")

    def __init__(self, place: Place, committed: "Committed | None") -> None:
        self.place = place
        self.ledger = Ledger(None if committed is None else committed.offset)
        self.topic_id = "" if committed is None else committed.topic_id  # nobody in the world can read it
        self.confirmed = False


class Taken(Batch):
    """A batch in an agent's hands."""

    __slots__ = ()

    def acknowledge(self) -> None:
        """Let the position move past the batch, if it is still the one of this assignment."""
        assert self._delivery is not None
        assert self._on_let_go is not None
        self._delivery.acknowledged = True
        self._on_let_go()


class Reader:
    """What one agent reads: of each partition of one topic that is assigned to its process, one batch at a time."""

    def __init__(self, broker: Broker, process: Process, topic: str, *, limit: int) -> None:
        self.topic = topic
        self.limit = limit
        self.on_reset: Callable[[int, int, int], None] = lambda _partition, _before, _after: None
        self._broker = broker
        self._process = process
        self._cursors: list[Cursor] = []
        self._turn = 0
        self._bell: object = None  # a future while the agent waits

    def assign(self, positions: Share) -> None:
        """Read these partitions from these positions on (None: the earliest record)."""
        for cursor in self._cursors:
            cursor.ledger.abandon()
        self._cursors = [Cursor(place, position) for place, position in sorted(positions.items())]
        self._broker.listen(self, positions)
        self.ring()

    def positions(self, *, acknowledged: bool = True) -> dict[int, int]:
        """Return up to where each partition is handed over and acknowledged; or, wrongly, only handed over."""
        found = {
            cursor.place[1]: cursor.ledger.acknowledged if acknowledged else cursor.ledger.position
            for cursor in self._cursors
            if cursor.confirmed
        }
        return {partition: position for partition, position in found.items() if position is not None}

    def handed_over(self, partition: int) -> int:
        """Tell up to where a partition was handed over; 0 if it is not ours."""
        return self.positions(acknowledged=False).get(partition, 0)

    def in_flight(self) -> bool:
        """Say whether the agent has something that it has not acknowledged."""
        return any(cursor.ledger.acknowledged != cursor.ledger.position for cursor in self._cursors)

    def to_commit(self) -> dict[Place, Committed]:
        return {
            cursor.place: Committed(offset, cursor.topic_id)
            for cursor in self._cursors
            if (offset := cursor.ledger.to_commit) is not None
        }

    def ring(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            scheduler, process = self._process.scheduler, self._process
            scheduler.after(self._broker.fetch_seconds(), process.answer, bell, None, owner=process)

    async def take(self) -> Taken:
        """Wait for the next batch."""
        while True:
            taken = None if self._broker.is_down else self._next()
            if taken is not None:
                return taken
            bell = self._process.create_future()
            self._bell = bell
            await bell

    async def batches(self) -> AsyncIterator[Taken]:
        """Give one batch after the other, for ever."""
        while True:
            yield await self.take()

    def _next(self) -> Taken | None:
        for _ in range(len(self._cursors)):
            self._turn = (self._turn + 1) % len(self._cursors)
            cursor = self._cursors[self._turn]
            log = self._broker.logs.get(cursor.place)
            if log is None or cursor.ledger.in_flight:
                continue
            start = self._check(cursor, log)
            if start >= log.readable:
                continue
            records, end = log.read(start, self.limit)
            if records:
                return self._taken(cursor, records, start, end)
            cursor.ledger.pass_over(end)  # nothing but control records
        return None

    def _taken(self, cursor: Cursor, records: list[Record], start: int, end: int) -> Taken:
        return Taken(
            TP(*cursor.place),
            records,
            start_position=start,
            next_position=end,
            size_bytes=sum(len(record.value or b"") for record in records),
            log_end=self._broker.logs[cursor.place].end,
            delivery=cursor.ledger.deliver(end),
            on_let_go=self.ring,
        )

    def _check(self, cursor: Cursor, log: Log) -> int:
        """Find the position in the log, or start over where it is gone; returns it."""
        ledger = cursor.ledger
        if ledger.position is None:
            ledger.begin_at(log.start)
        elif not log.start <= ledger.position <= log.end:
            self.on_reset(cursor.place[1], ledger.position, log.start)
            cursor.ledger = ledger = ledger.start_over(log.start)
        elif cursor.topic_id not in {"", log.topic_id}:
            self._broker.passed_over(cursor.place, ledger.position)  # nothing tells the reader
        assert ledger.position is not None
        cursor.topic_id = log.topic_id
        cursor.confirmed = True
        return ledger.position


class Member(Protocol):
    """A consumer of a group: one app of one process."""

    process: Process

    def revoke(self) -> None:
        """Give everything back; commit what is acknowledged."""

    def assign(self, generation: int, positions: Share) -> None:
        """Take these partitions, from these positions on."""


class Group:
    """A consumer group and its coordinator: eager rebalances."""

    def __init__(
        self,
        scheduler: Scheduler,
        broker: Broker,
        rng: random.Random,
        topics: Sequence[str],
        *,
        session_seconds: float,
        heartbeat_seconds: float,
        rebalance_seconds: float,
    ) -> None:
        self.generation = 0
        self.committed: dict[Place, Committed] = {}
        self.owners: dict[Place, Member] = {}
        self._scheduler = scheduler
        self._broker = broker
        self._rng = rng
        self._topics = topics
        self._session_seconds = session_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._rebalance_seconds = rebalance_seconds
        self._members: list[Member] = []
        self._joined: list[Member] | None = None  # while a rebalance is on
        self._round = 0

    # ---- what members do

    def join(self, member: Member) -> None:
        """A new member, or one that was thrown out, wants in."""
        if not member.process.alive:
            return
        if member not in self._members:
            self._members.append(member)
        if self._joined is None:
            self.rebalance()
        self._has_joined(member)

    def commit(self, member: Member, generation: int, offsets: dict[Place, Committed]) -> None:
        """Commit, unless the group has gone on without this member."""
        if generation == self.generation and member in self._members and not self._broker.is_down:
            for place, offset in offsets.items():
                if self.owners.get(place) is member and place in self._broker.logs:
                    self.committed[place] = offset

    # ---- what happens to members

    def member_died(self, member: Member) -> None:
        self._scheduler.after(self._session_seconds, self._expel, member)

    def member_stopped(self, member: Member) -> None:
        self._scheduler.after(self._session_seconds, self._expel_if_stopped, member, self._scheduler.now)

    def member_went_on(self, member: Member) -> None:
        """It hears from the coordinator with its next heartbeat, and acts as before until then."""
        self._scheduler.after(self._heartbeat(), self._heard, member, owner=member.process)

    def rebalance(self) -> None:
        """Ask everybody to give back what they have and to join again."""
        self._round += 1
        self._joined = []
        for member in self._members:
            self._scheduler.after(self._heartbeat(), self._heard, member, owner=None)
        self._scheduler.after(self._rebalance_seconds, self._give_up_waiting, self._round)

    # ---- the coordinator

    def _heartbeat(self) -> float:
        return self._rng.uniform(0.02, self._heartbeat_seconds)

    def _heard(self, member: Member) -> None:
        """Let a member learn from a heartbeat what it has to do; a stopped one has none."""
        process = member.process
        if process.life is not Life.RUNNING or self._broker.is_down:
            if process.alive and self._broker.is_down and process.life is Life.RUNNING:
                later = self._broker.down_until - self._scheduler.now + self._heartbeat()
                self._scheduler.after(later, self._heard, member)
            return
        expelled = member not in self._members
        called = self._joined is not None and member not in self._joined
        if expelled or called:
            process.do(member.revoke, ())
            self.join(member)

    def _has_joined(self, member: Member) -> None:
        assert self._joined is not None
        if member not in self._joined:
            self._joined.append(member)
        if all(each in self._joined for each in self._members):
            self._scheduler.after(self._rng.uniform(0.05, 0.5), self._complete, self._round)

    def _give_up_waiting(self, number: int) -> None:
        if number == self._round and self._joined is not None:
            self._members = [member for member in self._members if member in self._joined]
            self._complete(number)

    def _complete(self, number: int) -> None:
        if number != self._round or self._joined is None:
            return
        if not all(each in self._joined for each in self._members):
            return  # somebody came in meanwhile
        members = [member for member in self._joined if member in self._members and member.process.alive]
        self._joined = None
        self.generation += 1
        self.owners = {}
        shares: dict[int, Share] = {index: {} for index in range(len(members))}
        for topic in self._topics:
            first = self._rng.randrange(len(members)) if members else 0
            for partition in range(self._broker.partitions_of(topic)):
                if members:
                    index = (first + partition) % len(members)
                    place = (topic, partition)
                    self.owners[place] = members[index]
                    shares[index][place] = self.committed.get(place)
        for index, member in enumerate(members):
            delay = self._rng.uniform(0.01, 0.3)
            self._scheduler.after(delay, self._hand_out, member, self.generation, shares[index], owner=member.process)

    def _hand_out(self, member: Member, generation: int, share: Share) -> None:
        if generation == self.generation and self._joined is None:
            member.assign(generation, share)

    def _expel(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self.rebalance()
            if not self._members:
                self._joined = None
            elif all(each in (self._joined or []) for each in self._members):
                self._complete(self._round)

    def _expel_if_stopped(self, member: Member, since: float) -> None:
        if member.process.stopped_at == since and member.process.life is Life.STOPPED:
            self._expel(member)
