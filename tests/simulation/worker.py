"""A worker of the simulated world: the real logic, with the ports of a process that can die at each of them.

Everything decided here is decided by sf_healer.core and the Faust-free halves of the agents (forwarding, folding,
census, journal); this module only does what Faust and the tables do: hand out batches, keep the store and its
changelog, call what is to be called at a rebalance.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiokafka.errors import KafkaError

from agents import folding
from agents.batches import Inbox, side_by_side
from agents.census import Census
from agents.forwarding import Addressed, Appended, Forwarding, Looked, SourceBatch
from agents.journal import Journal, copy_of_command, copy_of_pause
from agents.looking import Looks
from sf_healer import topics
from sf_healer.adapters.cluster import ApiFailure
from sf_healer.core import commands, evidence, steps, stop_commands
from sf_healer.core.actuator import Actuator
from sf_healer.core.changelog import InOrder, meta_key, meta_of, persisted_after, states_of, writes_of
from sf_healer.core.combine import Rejected
from sf_healer.core.commands import Command, Outcome
from sf_healer.core.events import Report
from sf_healer.core.facts import JobFact
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.groups import GroupLook, Neighbours, neighbours_of
from sf_healer.core.identity import JobIndex
from sf_healer.core.marks import Ends
from sf_healer.core.partition import Changes, Effect, Partition
from sf_healer.core.partitioning import partition_of
from sf_healer.core.policy import PolicyBook
from sf_healer.core.steps import FleetCounts, StepsRecord, Tick
from sf_healer.core.watermark import Advance
from tests.simulation.clock import Process, Scheduler
from tests.simulation.kafka import Broker, Group, Outgoing, Place, Reader, Record, Share, Taken
from tests.simulation.kube import Client, Kube, Watch
from tests.simulation.loaders import SOURCE

CONTROL = "queue-control"
ACTIONS_CHANGELOG = "actions-changelog"
JOBS_CHANGELOG = "jobs-changelog"
#: From how many beats on they are columns, by how often a worker was started: so few Jobs seldom say more at once.
_COLUMNS_FROM = (1, 3)
_EVIDENCE_LIMIT = 100
#: So little that a snapshot of two Jobs or three needs several records.
_SNAPSHOT_BYTES = 200
_LIST_RETRY_SECONDS = 2.0


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How the workers of one world are set."""

    partitions: int
    mark_interval_seconds: float
    window_seconds: float
    feed_gap_seconds: float
    commit_seconds: float
    counts_seconds: float
    tick_seconds: float
    reports_in_a_batch: int


class Pieces(msgspec.Struct, frozen=True):
    """The pieces under test; a mutant replaces one."""

    forwarder: type[Forwarder] = Forwarder
    partition: type[Partition] = Partition
    actuator: type[Actuator] = Actuator
    census: type[Census] = Census
    client: type[Client] = Client
    marks_what_is_acknowledged: bool = True
    awaits_evidence: bool = True
    awaits_changelog: bool = True
    awaits_steps: bool = True


_LOOK_AT_POLICIES_SECONDS = 10.0
_POLICIES_ON_THEIR_WAY_SECONDS = 60.0


class Identity(NamedTuple):
    topic_id: str
    partitions: int


class Surroundings(msgspec.Struct, kw_only=True):
    """What all workers share."""

    scheduler: Scheduler
    broker: Broker
    kube: Kube
    detectors: Group
    actuators: Group
    setup: Setup
    policies: PolicyBook  # what is in the file now; a worker goes by what it has read of it
    policies_change: bool = False
    pieces: Pieces
    watch: Any  # the oracle's ear, see Ear
    look: Callable[[str, str, Neighbours | None], GroupLook]  # at the group of a queue's pod of this address
    observe_only: bool = False


class Disk:
    """What survives a process: per changelog partition the store, and up to where it holds the changelog."""

    def __init__(self) -> None:
        self.stores: dict[Place, dict[bytes, bytes]] = {}
        self.persisted: dict[Place, int | None] = {}

    def store(self, place: Place) -> dict[bytes, bytes]:
        return self.stores.setdefault(place, {})


class App:
    """What a Faust app does: membership, assignment, recovery of its table, commits."""

    changelog: str
    table_topic: str  # the topic whose partitions the table follows

    def __init__(self, worker: "Worker", group: Group, readers: Sequence[Reader]) -> None:
        self.worker = worker
        self.process = worker.process
        self.group = group
        self.readers = {reader.topic: reader for reader in readers}
        self.generation = -1
        self.rebalancing = True
        self.in_recovery = False
        self.assigned: set[Place] = set()
        self._epoch = 0

    # ---- the group

    def revoke(self) -> None:
        self.commit()
        self.rebalancing = True
        self._epoch += 1
        self.assigned = set()
        for reader in self.readers.values():
            reader.assign({})
        self.drop()

    def assign(self, generation: int, positions: Share) -> None:
        self.generation = generation
        self._epoch += 1
        self.assigned = set(positions)
        self.in_recovery = True
        self.process.spawn(self._recover(self._epoch, positions))

    def commit(self) -> None:
        for reader in self.readers.values():
            self.group.commit(self, self.generation, reader.to_commit())

    async def _recover(self, epoch: int, positions: Share) -> None:
        """Read the changelogs of what is assigned, up to their ends as they are now; then go on."""
        world, disk = self.worker.world, self.worker.disk
        places = [(self.changelog, place[1]) for place in sorted(positions) if place[0] == self.table_topic]
        ends = {place: world.broker.logs[place].end for place in places}
        await self.process.sleep(self.worker.rng.uniform(0.05, 2.0))
        if epoch != self._epoch:
            return
        for place in places:
            persisted = disk.persisted.get(place)
            if persisted is not None and persisted >= world.broker.logs[place].end:
                persisted = None
            store = disk.store(place)
            order = InOrder(store.get)
            for record in world.broker.logs[place].from_offset(0 if persisted is None else persisted + 1):
                if record.offset >= ends[place]:
                    break
                assert record.key is not None
                for key, value in order.newest([(record.key, record.value)]).items():
                    if value is None:
                        store.pop(key, None)
                    else:
                        store[key] = value
                disk.persisted[place] = record.offset
        self.rebuild({place[1] for place in positions if place[0] == self.table_topic})
        self.begin()
        self.in_recovery = self.rebalancing = False
        for topic, reader in self.readers.items():
            reader.assign({place: at for place, at in positions.items() if place[0] == topic})

    async def write(self, partition: int, writes: Mapping[bytes, bytes | None]) -> None:
        """Write the table: the changelog first, then the store, as tables/durable.py does."""
        place = (self.changelog, partition)
        records = [Outgoing(place, value, key) for key, value in writes.items()]
        appended = await self.worker.send(records, awaited=self.worker.world.pieces.awaits_changelog)
        store, persisted = self.worker.disk.store(place), self.worker.disk.persisted
        for (key, value), record in zip(writes.items(), appended, strict=True):
            if value is None:
                store.pop(key, None)
            else:
                store[key] = value
            persisted[place] = persisted_after(persisted.get(place), record.offset)

    def begin(self) -> None:
        """Reading is about to begin at the assigned positions."""

    def drop(self) -> None:
        raise NotImplementedError

    def rebuild(self, owned: set[int]) -> None:
        raise NotImplementedError


class Detector(App):
    """telemetry, inventory, sweeper, control; the table `jobs`."""

    changelog = JOBS_CHANGELOG
    table_topic = topics.EVIDENCE

    def __init__(self, worker: "Worker") -> None:
        world, process = worker.world, worker.process
        self.source = Reader(world.broker, process, SOURCE, limit=world.setup.reports_in_a_batch)
        self.evidence = Reader(world.broker, process, topics.EVIDENCE, limit=_EVIDENCE_LIMIT)
        self.control = Reader(world.broker, process, CONTROL, limit=_EVIDENCE_LIMIT)
        super().__init__(worker, world.detectors, (self.source, self.evidence, self.control))
        setup = world.setup
        self.partitions: dict[int, Partition] = {}
        self.index = JobIndex()
        self.census = world.pieces.census(
            self.index, _CensusPorts(self), partitions=setup.partitions, snapshot_bytes=_SNAPSHOT_BYTES
        )
        self.forwarding = Forwarding(
            world.pieces.forwarder(self.index, partitions=setup.partitions),
            self,
            mark_interval_seconds=setup.mark_interval_seconds,
            far_behind_records=1,  # any backlog is gathered
            columns_from=_COLUMNS_FROM[int(process.name.rpartition(".")[2]) % len(_COLUMNS_FROM)],
        )
        self.source.on_reset = self._on_reset
        self._changed = process.create_future()
        self.looks = Looks(self.index, clock=self.clock, wake=lambda: process.answer(self._changed, None))
        self._first_list = process.create_future()
        self._identity: tuple[float, Identity] | None = None

    def start(self) -> None:
        for loop in (self._census_loop, self._telemetry, self._sweeper, self._control, self._marks, self._counts):
            self.process.spawn(loop())
        self.group.join(self)

    # ---- agents

    async def _telemetry(self) -> None:
        await self._first_list
        await side_by_side(self.source.batches(), self._forward, partition_of=lambda batch: batch.partition)

    async def _forward(self, batch: Taken, inbox: Inbox[Taken]) -> None:
        taken = [batch]

        async def following(seconds: float) -> Taken | None:
            found = await inbox.next_within(seconds, wanted=lambda each: each.follows(taken[-1]))
            if found is not None:
                taken.append(found)
                await self._is_slow()
            return found

        await self._is_slow()
        await self.worker.point()
        await self.forwarding.forward(batch, following)
        for each in taken:
            await self.worker.point()
            each.acknowledge()

    async def _is_slow(self) -> None:
        if self.worker.slow_batch_seconds:
            await self.process.sleep(self.worker.slow_batch_seconds)

    async def _sweeper(self) -> None:
        while True:
            batch = await self.evidence.take()
            partition = self.partitions.get(batch.partition)
            changes = await folding.fold(batch, self)
            if partition is None or changes is None:
                continue
            self.worker.world.watch.folded(self.worker, changes)
            await self.worker.point()
            batch.acknowledge()

    async def _control(self) -> None:
        await self._first_list
        while True:
            batch = await self.control.take()
            for record in batch.records:
                kind, queue_id = stop_commands.read(record.value)
                if kind is stop_commands.ControlKind.STOP:
                    await self.append(
                        [
                            Addressed(
                                partition_of(key, self.worker.world.setup.partitions),
                                evidence.encode(stop_commands.hold(key, batch.partition, record)),
                            )
                            for key in stop_commands.jobs_to_hold(queue_id, self.index.facts())
                        ]
                    )
            batch.acknowledge()

    async def _marks(self) -> None:
        interval = self.worker.world.setup.mark_interval_seconds
        while True:
            await self.process.sleep(interval)
            if self.rebalancing or self.in_recovery:
                continue
            try:
                await self.forwarding.mark()
            except KafkaError:
                continue

    async def _counts(self) -> None:
        while True:
            await self.process.sleep(self.worker.world.setup.counts_seconds)
            if self.rebalancing or self.in_recovery:
                continue
            await self.worker.send(
                [Outgoing((topics.STEPS, 0), steps.encode(self._counts_of(each))) for each in self.partitions.values()]
            )

    def _counts_of(self, partition: Partition) -> FleetCounts:
        counts = partition.counts()
        return FleetCounts(
            partition=counts.partition,
            partitions=self.worker.world.setup.partitions,
            at=counts.at,
            base=counts.base,
            unhealthy=counts.unhealthy,
            sick=counts.sick,
            suspected=counts.suspected,
        )

    async def _census_loop(self) -> None:
        """List, tell, watch; begin again when the watch ends."""
        world, process = self.worker.world, self.process
        is_asked_for = False
        while True:
            # Before the list: a watch goes on from the list's own version, however long its answer takes.
            self._changes: list[JobFact | None] = []
            self._changed = process.create_future()
            watch = Watch(process, self._deliver)
            world.kube.watch(watch)
            if not await self._list(only_changes=is_asked_for):
                watch.broken, is_asked_for = True, False
                await process.sleep(_LIST_RETRY_SECONDS)
                continue
            try:
                is_asked_for = await self._follow()
                watch.broken = True
            except KafkaError:
                watch.broken, is_asked_for = True, False
                self.census.forget_told()
                await process.sleep(_LIST_RETRY_SECONDS)

    async def _follow(self) -> bool:
        """Take in changes until the watch breaks, or a report asks for a fresh list: then True."""
        while True:
            await self.census.tell_owned()
            self.index.forget_gone(now=self.worker.wall_clock())
            while self._changes:
                fact = self._changes.pop(0)
                if fact is None:
                    return False
                await self.census.take_change(fact, now=self.worker.wall_clock())
            if self.looks.is_due():
                return True
            waiter = self._changed = self.process.create_future()
            self.process.scheduler.after(
                self.worker.world.setup.mark_interval_seconds, self.process.answer, waiter, None, owner=self.process
            )
            await waiter

    def _deliver(self, fact: JobFact | None) -> None:
        self._changes.append(fact)
        self.process.answer(self._changed, None)

    async def _list(self, *, only_changes: bool) -> bool:
        client = self.worker.client
        self.looks.begin()
        listing = client.list_jobs()
        await self.process.sleep(min(client.answer_seconds, 10.0))
        if isinstance(listing, ApiFailure):
            self.looks.failed()
            return False
        version, now = int(listing.jobs_version), self.worker.wall_clock()
        await self.census.take_listing(
            listing.facts, version, now=now, api_at=listing.api_at, only_changes=only_changes
        )
        self.looks.listed()
        if not self._first_list.done():
            self._first_list.set_result(None)
        return True

    # ---- ports of forwarding, folding and the census

    def clock(self) -> float:
        return self.process.scheduler.now

    async def pause(self, seconds: float) -> None:
        await self.process.sleep(seconds)

    def positions(self) -> dict[int, int]:
        return self.source.positions(acknowledged=self.worker.world.pieces.marks_what_is_acknowledged)

    def handed_over(self, source_partition: int) -> int:
        return self.source.handed_over(source_partition)

    async def ends(self, source_partitions: Iterable[int]) -> dict[int, Ends]:
        broker = self.worker.world.broker
        wanted = list(source_partitions)
        await self.worker.round_trip()
        logs = {number: broker.logs[SOURCE, number] for number in wanted if (SOURCE, number) in broker.logs}
        of_logs = {number: log.end for number, log in logs.items()}
        await self.process.sleep(broker.one_way_seconds())
        if len(logs) < len(wanted):
            raise KafkaError("no such partition")
        return {number: Ends(of_logs[number], log.readable) for number, log in logs.items()}  # that is asked second

    def tail_lost(self, source_partition: int, *, offsets: int) -> None:
        self.worker.world.watch.tail_found_lost(source_partition, offsets)

    async def identity(self, *, max_age_seconds: float) -> Identity:
        now = self.process.scheduler.now
        if self._identity is not None and now - self._identity[0] <= max_age_seconds:
            return self._identity[1]
        await self.worker.round_trip()
        broker = self.worker.world.broker
        self._identity = now, Identity(broker.topic_ids[SOURCE], broker.partitions_of(SOURCE))
        return self._identity[1]

    async def append(self, records: Sequence[Addressed]) -> list[Appended]:
        if not self.worker.world.pieces.awaits_evidence:
            records = await self._throw_bundles(records)
        sent = await self.worker.send(
            [Outgoing((topics.EVIDENCE, record.partition), record.value) for record in records]
        )
        return [
            Appended(record.partition, appended.timestamp / 1000)
            for record, appended in zip(records, sent, strict=True)
        ]

    async def _throw_bundles(self, records: Sequence[Addressed]) -> list[Addressed]:
        """Send what reports said without waiting for it; return the rest (the mutant)."""
        said = [record for record in records if record.value != evidence.EMPTY]
        thrown = [record for record in said if isinstance(evidence.decode(record.value), evidence.Bundle)]
        await self.worker.send(
            [Outgoing((topics.EVIDENCE, each.partition), each.value) for each in thrown], awaited=False
        )
        return [record for record in records if record not in thrown]

    async def bury(self, batch: SourceBatch | folding.EvidenceBatch, rejected: Sequence[Rejected] | Rejected) -> None:
        reasons = [rejected] if isinstance(rejected, Rejected) else rejected
        self.worker.world.watch.buried(batch, reasons)
        await self.worker.send([Outgoing((topics.DEAD_LETTERS, 0), reject.reason.encode()) for reject in reasons])

    async def look_again(self, reports: Sequence[Report]) -> Looked:
        return await self.looks.look(reports)

    def take_assumed(self) -> list[JobFact]:
        return []

    def hot(self, number: int) -> Partition | None:
        return self.partitions.get(number)

    async def command(self, effects: Sequence[Effect]) -> None:
        await self.worker.point()
        await self.worker.send(
            [
                Outgoing((topics.ACTIONS, 0), commands.encode(self._with_neighbours(effect)), effect.key.encode())
                for effect in effects
            ]
        )

    def _with_neighbours(self, effect: Effect) -> Effect:
        """Do as agents/inventory.py."""
        if not isinstance(effect, Command) or not effect.consumer or not self._first_list.done():
            return effect
        queue = self.index.of_queue(effect.queue_id)
        found = neighbours_of(effect.key, queue, lambda fact: self.worker.policies.for_job(fact).consumer)
        return msgspec.structs.replace(effect, neighbours=found)

    async def store(self, number: int, changes: Changes, offset: int) -> None:
        await self.worker.point()
        writes = writes_of(number, changes, offset)
        if writes:
            await self.write(number, writes)

    def advanced(self, partition: Partition, advance: Advance) -> None:
        self.worker.world.watch.advanced(self.worker, partition, advance)

    def began_anew(self, partition: Partition) -> None:
        del partition
        self.census.forget_told()

    # ---- the table

    def begin(self) -> None:
        self.forwarding.forwarder.assigned()

    def drop(self) -> None:
        self.partitions.clear()

    def rebuild(self, owned: set[int]) -> None:
        world = self.worker.world
        for number in owned - self.partitions.keys():
            store = self.worker.disk.store((self.changelog, number))
            partition = world.pieces.partition(
                number,
                partitions=world.setup.partitions,
                policies=self.worker.policies,
                window_seconds=world.setup.window_seconds,
                feed_gap_seconds=world.setup.feed_gap_seconds,
            )
            partition.restore(meta_of(store.get(meta_key(number))), states_of(store.items()))
            self.partitions[number] = partition

    def _on_reset(self, partition: int, before: int, after: int) -> None:
        self.forwarding.forwarder.reset(partition, from_position=before, to_position=after)


class _CensusPorts:
    """The census's ports on a detector."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def clock(self) -> float:
        return self._detector.clock()

    def owned(self) -> set[int]:
        return set(self._detector.partitions)

    async def append(self, records: Sequence[Addressed]) -> None:
        await self._detector.append(records)


class Actions(App):
    """The actuator; the table `actions`."""

    changelog = ACTIONS_CHANGELOG
    table_topic = topics.STEPS

    def __init__(self, worker: "Worker") -> None:
        world, process = worker.world, worker.process
        self.steps = Reader(world.broker, process, topics.STEPS, limit=1)
        self.commands = Reader(world.broker, process, topics.ACTIONS, limit=1)
        self.pauses = Reader(world.broker, process, topics.CONTROL, limit=1)
        super().__init__(worker, world.actuators, (self.steps, self.commands, self.pauses))
        self.current: Actuator | None = None
        self.journal: Journal | None = None
        self._unread_ticks = 0
        self._tick = steps.encode(Tick(worker=worker.process.name))

    def start(self) -> None:
        for loop in (self._read, self._copy_commands, self._copy_pauses, self._ticks):
            self.process.spawn(loop())
        self.group.join(self)

    # ---- agents

    async def _read(self) -> None:
        while True:
            taken = await self.steps.take()
            journal = self._journal()
            record = taken.records[0]
            if journal is None or not await journal.read(record.value, record.offset, record.timestamp / 1000):
                continue
            self.worker.world.watch.read(self.worker, journal.actuator, record)
            await self.worker.point()
            if record.value == self._tick:
                self._unread_ticks = max(0, self._unread_ticks - 1)
            taken.acknowledge()

    async def _copy_commands(self) -> None:
        while True:
            await self._copy(taken := await self.commands.take(), copy_of_command(taken.records[0].value))

    async def _copy_pauses(self) -> None:
        while True:
            taken = await self.pauses.take()
            await self._copy(taken, copy_of_pause(taken.records[0].key, taken.records[0].value))

    async def _copy(self, taken: Taken, copy: bytes | None) -> None:
        if copy is not None:
            await self.worker.send([Outgoing((topics.STEPS, 0), copy)])
            await self.worker.point()
        taken.acknowledge()

    async def _ticks(self) -> None:
        while True:
            busy = self.current is not None and (self.current.open_actions() or self.current.ledger.slots)
            await self.process.sleep(1.0 if busy else self.worker.world.setup.tick_seconds)
            if self.rebalancing or self.in_recovery or self.current is None or self._unread_ticks >= 3:
                continue
            self._unread_ticks += 1
            await self.worker.send([Outgoing((topics.STEPS, 0), self._tick)])

    def _journal(self) -> Journal | None:
        if self.current is None:
            self.journal = None
        elif self.journal is None or self.journal.actuator is not self.current:
            client: Any = self.worker.client  # the adapter's interface
            self.journal = Journal(
                self.current,
                client,
                _JournalPorts(self),
                groups=self.worker,
                clock=lambda: self.process.scheduler.now,
                in_thread=self.worker.in_thread,
            )
            self._unread_ticks = 0
        return self.journal

    # ---- the table

    def drop(self) -> None:
        self.current = None

    def rebuild(self, owned: set[int]) -> None:
        self.current = None
        if not owned:
            return
        world = self.worker.world
        store = self.worker.disk.store((self.changelog, 0))
        actuator = world.pieces.actuator(
            worker=self.process.name,
            limits=self.worker.policies.limits,
            observe_only=world.observe_only,
        )
        actuator.restore(list(store.items()), log_end=world.broker.logs[topics.STEPS, 0].end)
        self.current = actuator

    def owns_log(self) -> bool:
        return not self.rebalancing and (topics.STEPS, 0) in self.assigned


class _JournalPorts:
    """The journal's ports on an app."""

    def __init__(self, app: Actions) -> None:
        self._app = app
        self._worker = app.worker

    async def append(self, records: Iterable[StepsRecord]) -> None:
        await self._worker.point()
        await self._worker.send(
            [Outgoing((topics.STEPS, 0), steps.encode(record)) for record in records],
            awaited=self._worker.world.pieces.awaits_steps,
        )

    async def publish(self, outcomes: Iterable[Outcome]) -> None:
        partitions = self._worker.world.setup.partitions
        records = []
        for outcome in outcomes:
            records.append(Outgoing((topics.OUTCOMES, 0), commands.encode(outcome), outcome.key.encode()))
            place = (topics.EVIDENCE, partition_of(outcome.key, partitions))
            records.append(Outgoing(place, evidence.encode_outcome(outcome)))
        await self._worker.send(records)

    async def store(self, key: bytes, value: bytes | None) -> None:
        await self._worker.point()
        await self._app.write(0, {key: value})

    def owns_log(self) -> bool:
        return self._app.owns_log()

    def is_current(self, actuator: Actuator) -> bool:
        return self._app.current is actuator

    def crash(self, error: BaseException) -> None:
        self._worker.process.crash(error)


class Worker:
    """One process with both apps, and how it touches the world."""

    def __init__(
        self, world: Surroundings, process: Process, disk: Disk, client: Client, rng: random.Random, *, wall_skew: float
    ) -> None:
        self.world = world
        self.process = process
        self.disk = disk
        self.client = client
        self.rng = rng
        self.chance_of_death = self.chance_of_stop = 0.0  # at each point
        self.slow_batch_seconds = 0.0  # a worker that cannot keep up
        self.on_death: Callable[[Worker], None] = Worker.die
        self.on_stop: Callable[[Worker], None] = lambda worker: worker.process.stop()
        self.policies = world.policies
        self._wall_skew = wall_skew
        self.detector = Detector(self)
        self.actions = Actions(self)

    def start(self) -> None:
        self.detector.start()
        self.actions.start()
        self.process.spawn(self._commits())
        self.world.watch.follows(self)
        if self.world.policies_change:
            self.process.spawn(self._follow_policies())

    async def _follow_policies(self) -> None:
        """Do as agents/policies.py; the file is written here up to a minute after it was elsewhere."""
        while True:
            await self.process.sleep(_LOOK_AT_POLICIES_SECONDS)
            if self.policies is not self.world.policies:
                await self.process.sleep(self.rng.uniform(0.0, _POLICIES_ON_THEIR_WAY_SECONDS))
                self.policies = self.world.policies
                self.world.watch.follows(self)
            if self.actions.current is not None:
                self.actions.current.ask_for(self.policies.limits)
            for partition in [each for each in self.detector.partitions.values() if each.policies is not self.policies]:
                for _ in partition.change_policies(self.policies):
                    await self.process.sleep(0.0)

    def wall_clock(self) -> float:
        return self.process.scheduler.now + self._wall_skew

    def die(self) -> None:
        """End as under SIGKILL; what was on its way may or may not have left the machine."""
        self.process.lost_on_the_way = self.rng.random() < 0.5
        self.process.kill()

    async def point(self) -> None:
        """A moment between two steps, at which the process may die or be suspended."""
        if self.chance_of_death and self.rng.random() < self.chance_of_death:
            self.on_death(self)
            await self.process.never()
        if self.chance_of_stop and self.rng.random() < self.chance_of_stop:
            self.on_stop(self)
            await self.process.sleep(0.0)

    async def send(self, records: Sequence[Outgoing], *, awaited: bool = True) -> list[Record]:
        """Send, as agents/sending.py does; `awaited` False is the mutant that does not wait for the broker."""
        if awaited:
            return await self.world.broker.send(self.process, records)
        return self._throw(records)

    def _throw(self, records: Sequence[Outgoing]) -> list[Record]:
        """Buffer records and go on at once; they leave the process a little later, if it lives."""
        broker, now = self.world.broker, self.process.scheduler.now
        if records:
            self.process.call_later(self.rng.uniform(0.05, 5.0), self._post, list(records))
        made_up = []
        for entry in records:
            log = broker.logs[entry.place]
            made_up.append(Record(log.end, round(broker.time_of(log) * 1000), entry.key, entry.value, now))
        return made_up

    def _post(self, records: list[Outgoing]) -> None:
        self.world.broker.post(self.process, records)

    async def round_trip(self) -> None:
        """Ask the broker something; raises KafkaError when it is away."""
        broker = self.world.broker
        if broker.is_down:
            await self.process.sleep(10.0)
            if broker.is_down:
                raise KafkaError("the broker is away")
        await self.process.sleep(broker.one_way_seconds())

    async def in_thread(self, call: Any) -> Any:
        """Run a call to the cluster: it takes its time on the way there and back."""
        await self.process.sleep(self.rng.uniform(0.001, 0.05))
        self.client.answer_seconds = 0.0
        result = call()
        await self.process.sleep(self.client.answer_seconds)
        return result

    async def look(self, *, queue_id: str, topic: str, pod_ip: str, neighbours: Neighbours | None) -> GroupLook:
        """Look at a consumer group, as adapters/groups.py does."""
        assert queue_id == topic
        await self.process.sleep(self.rng.uniform(0.01, 0.5))
        if self.world.broker.is_down:
            return GroupLook(unknown="the broker is away")
        return self.world.look(queue_id, pod_ip, neighbours)

    async def _commits(self) -> None:
        while True:
            await self.process.sleep(self.world.setup.commit_seconds)
            self.detector.commit()
            self.actions.commit()
