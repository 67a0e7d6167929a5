"""One world from a seed: everything in its place, faults for a while, then calm, then the reckoning."""

import random
from collections import defaultdict, deque
from collections.abc import Callable

import msgspec

from sf_healer import topics
from sf_healer.core import commands, groups
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import Decision, Pause, Resolve, Resume
from sf_healer.core.events import Kind
from sf_healer.core.groups import Elsewhere, GroupLook, Neighbours, own_group
from sf_healer.core.manifest import sanitize
from sf_healer.core.partition import Partition
from sf_healer.core.policy import PolicyBook, parse
from tests.simulation import faults as faults_module
from tests.simulation.clock import Life, Process, Scheduler
from tests.simulation.faults import Faults
from tests.simulation.kafka import Broker, Group, Log, Place, Record
from tests.simulation.kube import BACKOFF_LIMIT, NAMESPACE, Job, Kube, Manifest, Pod
from tests.simulation.loaders import CONSUMERS, CURED, SOURCE, STORIES, Loader, Story, Telemetry, Weather
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.reckoning import reckon
from tests.simulation.truth import Incarnation, MadeBy
from tests.simulation.worker import (
    ACTIONS_CHANGELOG,
    CONTROL,
    JOBS_CHANGELOG,
    Detector,
    Disk,
    Pieces,
    Setup,
    Surroundings,
    Worker,
)

EPOCH = 1_750_000_000.0
SECONDS = 7200.0
CALM_SECONDS = 2000.0
JOBS = 10
_TRACE_KEPT = 4000
#: A worker in a crash loop comes to rest so long before the end: its state is looked at as well.
_REST_SECONDS = 150.0

POLICY = """
[defaults]
silence_threshold_seconds = 300
startup_threshold_seconds = 400
not_running_threshold_seconds = 400
error_grace_seconds = 60
stop_hold_seconds = 120

[[policy]]
name = "arango-connector"
targets = ["arango-connector"]
reporting = true
consumer = true

[[policy]]
name = "loader-producer"
targets = ["loader-producer"]
reporting = true

[[policy]]
name = "visualizer"
targets = ["visualizer"]
judge_silence = false
"""
#: What a person makes of it, and takes back again.
OTHER_POLICIES = (
    POLICY,
    # -- patient: a longer checkpoint, fewer restarts
    POLICY.replace("= 300", "= 700").replace("= 400", "= 900").replace("= 60", "= 150").replace("= 120", "= 240")
    + "[admission]\nrate_per_minute = 2\nrate_burst = 1\nin_flight = 2\n",
    # -- impatient: a checkpoint that divides no other, and every `error` of some is a failure
    POLICY.replace("= 300", "= 170")
    .replace("= 400", "= 230")
    .replace("= 60", "= 20")
    .replace("= 120", "= 50")
    .replace('["loader-producer"]\n', '["loader-producer"]\nerror_grace_seconds = 0\n')
    + "[admission]\nrate_per_minute = 20\nrate_burst = 6\n",
    # -- hands off
    POLICY + "[admission]\nrate_per_minute = 0\n",
)
#: So many of those who end a pause make it again at once.
_SECOND_THOUGHTS = 0.3
#: So many of the namesakes are being deleted already when anybody else sees them.
_PASSING_NAMESAKES = 0.5
_TARGETS = ("loader-producer", "loader-producer", "arango-connector", "arango-connector", "odd-target", "visualizer")


#: Workers that are away for a minute or two find a partition that has lost so many with fewer again.
_MANY_RECORDS = 300


class Result(msgspec.Struct):
    """What became of a seed."""

    seed: int
    violation: Violation | None
    trace: list[str]
    counts: dict[str, int]
    faults: Faults
    seconds: float


class World:
    """Builds and runs one world."""

    def __init__(
        self,
        seed: int,
        *,
        pieces: Pieces | None = None,
        tracing: bool = False,
        faults: Faults | None = None,
        ignored: frozenset[str] = frozenset(),
        seconds: float = SECONDS,
    ) -> None:
        self.seed = seed
        self.tracing = tracing
        self.seconds = seconds
        self.scheduler = Scheduler(EPOCH)
        self.faults = faults_module.draw(seed) if faults is None else faults
        self.policies: PolicyBook = parse(POLICY)
        self.all_policies = [self.policies]  # that were, are or may be
        if self.faults.policy_changes:
            self.all_policies += [parse(text) for text in OTHER_POLICIES]
        self.lines: deque[str] = deque(maxlen=_TRACE_KEPT)
        self.calm = False
        self.calm_since = 0.0
        self._paused: dict[str, None] = {}
        self._manifests: dict[str, Manifest] = {}  # as a person has them in a file, by uid
        self._api_down_until = 0.0
        self._events = self.rng("events")
        self._stories = self.rng("stories")
        self._crashes = self.rng("crashes")
        self._second_thoughts = self.rng("second thoughts")
        self._names = 0
        self._loaders = 0
        self._met: set[str] = set()  # consumer groups that have had a member
        self._starts = 0
        setup = self._setup(self.rng("setup"))
        self.setup = setup
        self.broker = self._broker(self.rng("topics"))
        self.weather = Weather()
        self.telemetry = Telemetry(self.scheduler, self.broker, self.rng("network"), self.weather)
        self.kube = Kube(
            self.scheduler,
            self.rng("kube"),
            start_pod=self._start_pod,
            ttl_seconds=self.rng("ttl").choice((30.0, 300.0, 900.0, 3600.0)),
            clock_offset=self.rng("api clock").uniform(-1.0, 1.0) * self.faults.api_skew_seconds,
        )
        self.oracle = Oracle(
            self.scheduler,
            self.broker,
            self.kube,
            self.policies,
            partitions=setup.partitions,
            mark_interval_seconds=setup.mark_interval_seconds,
            feed_gap_seconds=setup.feed_gap_seconds,
        )
        self.oracle.ignored = ignored
        self.oracle.trace = self.trace if tracing else None
        self.broker.latency_seconds = self.faults.latency_seconds
        self.broker.passed_over = self.oracle.passed_over
        self.broker.at_append = self._appended
        self.telemetry.landed = self.oracle.landed
        self.kube.on_deleted = self._job_gone
        self.kube.on_created = self._job_made
        pieces = pieces or Pieces()
        self.surroundings = Surroundings(
            scheduler=self.scheduler,
            broker=self.broker,
            kube=self.kube,
            detectors=self._group((SOURCE, topics.EVIDENCE, CONTROL)),
            actuators=self._group((topics.STEPS, topics.ACTIONS, topics.CONTROL)),
            setup=setup,
            policies=self.policies,
            policies_change=bool(self.faults.policy_changes),
            pieces=pieces,
            watch=self.oracle,
            look=self._look,
        )
        self.workers: dict[str, Worker | None] = {}
        self._disks: dict[str, Disk] = {}
        self.evidence_lost: dict[int, list[list[Record]]] = defaultdict(list)
        self.lost_under_a_paused_one: set[int] = set()  # evidence partitions

    def rng(self, name: str) -> random.Random:
        """A stream of its own for each part: a draw more in one changes no other."""
        return random.Random(f"{self.seed}/{name}")

    # ---- running

    def run(self) -> Result:
        """Run the world to its end, or to the first rule broken."""
        violation = None
        try:
            self._begin()
            self.scheduler.run(EPOCH + self.seconds - CALM_SECONDS)
            self._become_calm()
            self.scheduler.run(EPOCH + self.seconds)
            reckon(self)
        except Violation as found:
            violation = found
            self.trace("oracle", str(found))
        finally:
            for worker in self.workers.values():
                if worker is not None:
                    worker.process.kill()
        counts = dict(sorted(self.oracle.counts.items()))
        return Result(self.seed, violation, list(self.lines), counts, self.faults, self.scheduler.now - EPOCH)

    def trace(self, who: str, *what: object) -> None:
        if self.tracing:
            self.lines.append(f"{self.scheduler.now - EPOCH:10.3f}  {who:<10} " + " ".join(str(each) for each in what))

    # ---- the parts

    def _setup(self, rng: random.Random) -> Setup:
        mark = rng.choice((5.0, 5.0, 10.0))
        return Setup(
            partitions=rng.choice((1, 2, 3)),
            mark_interval_seconds=mark,
            window_seconds=rng.choice((5.0, 10.0)),
            feed_gap_seconds=4.0 * mark,
            commit_seconds=rng.choice((2.0, 5.0, 10.0)),
            counts_seconds=5.0,
            tick_seconds=5.0,
            # Few in a batch that takes its time: a worker that stays hours behind.
            reports_in_a_batch=rng.choice((4, 200)) if self.faults.slow_batches else 200,
        )

    def _broker(self, rng: random.Random) -> Broker:
        broker = Broker(self.scheduler, self.rng("broker"))
        skew = self.faults.leader_skew_seconds
        broker.create(SOURCE, rng.choice((1, 2, 3)))
        broker.create(topics.EVIDENCE, self.setup.partitions, skew_seconds=skew)
        broker.create(JOBS_CHANGELOG, self.setup.partitions)
        for topic in (topics.STEPS, topics.ACTIONS, topics.OUTCOMES, topics.CONTROL, topics.DEAD_LETTERS, CONTROL):
            broker.create(topic, 1, skew_seconds=skew)
        broker.create(ACTIONS_CHANGELOG, 1)
        return broker

    def _group(self, names: tuple[str, ...]) -> Group:
        return Group(
            self.scheduler,
            self.broker,
            self.rng(f"group {names[0]}"),
            names,
            session_seconds=15.0,
            heartbeat_seconds=3.0,
            rebalance_seconds=30.0,
        )

    def _begin(self) -> None:
        faults = self.faults
        self.weather.drop, self.weather.duplicate = faults.drop, faults.duplicate
        self.weather.delay, self.weather.delay_seconds = faults.delay, faults.delay_seconds
        self.kube.chance_overlooked, self.kube.chance_pending_long = faults.overlooked, faults.pending_long
        self.kube.chance_lingering, self.kube.chance_create_refused = faults.lingering, faults.create_refused
        self.kube.chance_done_at_last = faults.done_at_last
        for _ in range(JOBS):
            self._after(0.0, 30.0, self._new_job)
        head_start = min(faults.backlog_seconds, (self.seconds - CALM_SECONDS) / 2)
        for number in range(self.rng("workers").choice((1, 2, 2, 3))):
            name = f"w{number}"
            self._disks[name] = Disk()
            self.workers[name] = None
            self.scheduler.after(head_start + self._events.uniform(0.0, 20.0), self._start_worker, name)
        for rate, what in (
            (faults.kills, self._kill),
            (faults.stops, self._stop),
            (faults.rebalances, self._rebalance),
            (faults.all_down, self._all_down),
            (faults.outages, self._outage),
            (faults.clock_steps, self._clock_step),
            (faults.clock_leaps, self._clock_leap),
            (faults.retention, self._retention),
            (faults.topic_anew, self._topic_anew),
            (faults.disks_lost, self._lose_a_disk),
            (faults.evidence_lost, self._lose_evidence),
            (faults.too_few_replicas, self._too_few_replicas),
            (faults.partition_added, self._partition_added),
            (faults.control_records, self._control_records),
            (faults.garbage, self._garbage),
            (faults.telemetry_outages, self._telemetry_outage),
            (faults.mirror_stops, self._stop_mirror),
            (faults.producer_clock_steps, self._producer_clock_step),
            (faults.storms, self._storm),
            (faults.api_outages, self._api_outage),
            (faults.admission_policies, self._admission_policy),
            (faults.api_outages_of_one, self._api_outage_of_one),
            (faults.watch_breaks, self._watch_breaks),
            (faults.dead_nodes, self._lose_node),
            (faults.pauses, self._pause),
            (faults.skips, self._skip),
            (faults.suspends, self._suspend),
            (faults.removals, self._remove_a_job),
            (faults.replacements, self._replace_a_job),
            (faults.stop_commands, self._stop_command),
            (faults.policy_changes, self._change_policies),
        ):
            if rate:
                self._again(rate, what)
        if faults.crash_loop:
            self.scheduler.after(head_start + 3600.0 / faults.crash_loop, self._crash_loop)

    def _again(self, rate: float, what: Callable[[], None]) -> None:
        """Let something happen at random moments, `rate` times an hour, until it is calm."""

        def happen() -> None:
            if not self.calm:
                what()
                self._again(rate, what)

        self.scheduler.after(self._events.expovariate(rate / 3600.0), happen)

    def _after(self, low: float, high: float, what: Callable[..., None], *args: object) -> None:
        self.scheduler.after(self._events.uniform(low, high), what, *args)

    def _become_calm(self) -> None:
        """No more faults: what is broken is mended, and has to prove itself."""
        self.calm = True
        self.calm_since = self.scheduler.now
        self.trace("world", "calm")
        self.weather.drop = self.weather.duplicate = self.weather.delay = 0.0
        self.weather.quiet_until = 0.0
        self.telemetry.start_mirror()
        kube = self.kube
        kube.chance_overlooked = kube.chance_pending_long = kube.chance_lingering = kube.chance_create_refused = 0.0
        kube.chance_done_at_last = 0.0
        kube.policy_until = self.scheduler.now
        if self.broker.is_down:
            self.broker.down_until = self.scheduler.now
            self.oracle.outage(0.0)
            self.broker.ring_all()
        for log in self.broker.logs.values():
            self._replicated(log, 1.0)
        for name, worker in self.workers.items():
            if worker is None:
                self._start_worker(name)
                continue
            self.broker.latency_seconds = 0.0
            worker.chance_of_death = worker.chance_of_stop = worker.slow_batch_seconds = 0.0
            worker.client.chance = 0.0
            worker.client.down_until = 0.0
            self._go_on(worker)
        for scope in list(self._paused):
            self._resume(scope)
        self._resolve_all()

    # ---- workers

    def _start_worker(self, name: str) -> None:
        if self.workers[name] is not None:
            return
        self._starts += 1
        process = Process(self.scheduler, f"{name}.{self._starts}", self._process_failed)  # type: ignore[abstract]  # of a loop it is what is used
        if self._crashes.random() < self.faults.disk_lost:
            self._disks[name] = Disk()
        chance = 0.0 if self.calm else self.faults.api_chance
        rng = self.rng(f"worker {self._starts}")
        client = self.surroundings.pieces.client(self.kube, self.scheduler, rng, chance=chance)
        client.before_delete = self.oracle.before_delete
        client.before_create = self.oracle.before_create
        client.down_until = self._api_down_until
        skew = rng.uniform(-2.0, 2.0)
        worker = Worker(self.surroundings, process, self._disks[name], client, rng, wall_skew=skew)
        worker.chance_of_death = 0.0 if self.calm else self.faults.death_at_a_point
        worker.slow_batch_seconds = 0.0 if self.calm else self.faults.slow_batches
        worker.on_death = self._died
        worker.chance_of_stop = 0.0 if self.calm else self.faults.stop_at_a_point
        worker.on_stop = self._stopped
        self.workers[name] = worker
        self.trace(process.name, "starts")
        worker.start()

    def _worker_of(self, process: Process) -> str | None:
        return next((name for name, each in self.workers.items() if each and each.process is process), None)

    def _process_failed(self, process: Process, error: BaseException) -> None:
        """A process ends on purpose because of the broker; anything else is a fault of the code."""
        name = self._worker_of(process)
        if name is None:
            return
        if type(error).__name__ in {"KafkaTimeoutError", "KafkaError"}:
            self.oracle.counts["ended on purpose"] += 1
            self._end(name, restart_after=(1.0, 10.0))
            return
        raise error

    def _end(self, name: str, *, restart_after: tuple[float, float]) -> None:
        worker = self.workers[name]
        if worker is None:
            return
        self.trace(worker.process.name, "is killed")
        if worker.process.alive:
            worker.die()
        self.surroundings.detectors.member_died(worker.detector)
        self.surroundings.actuators.member_died(worker.actions)
        self.workers[name] = None
        self._after(*restart_after, self._start_worker, name)

    def _died(self, worker: Worker) -> None:
        """A worker dies between two of its own steps."""
        self.oracle.counts["deaths at a point"] += 1
        name = self._worker_of(worker.process)
        if name is not None:
            self._end(name, restart_after=(0.5, 20.0))

    def _appended(self, process: Process) -> None:
        """A record of a process is durable, and the process does not know it yet: it may die here."""
        name = self._worker_of(process)
        worker = self.workers[name] if name is not None else None
        if worker is not None and self._crashes.random() < worker.chance_of_death:
            self._died(worker)

    def _kill(self) -> None:
        name = self._events.choice(list(self.workers))
        self._end(name, restart_after=(0.5, 40.0))

    def _crash_loop(self) -> None:
        """Kill the first worker again and again, whatever the others do."""
        if self.scheduler.now < EPOCH + self.seconds - _REST_SECONDS:
            self._end("w0", restart_after=(0.5, 2.0))
            self.scheduler.after(3600.0 / self.faults.crash_loop, self._crash_loop)

    def _stop(self) -> None:
        worker = self._events.choice(list(self.workers.values()))
        if worker is not None and worker.process.life is Life.RUNNING:
            self._stopped(worker)

    def _stopped(self, worker: Worker) -> None:
        self.trace(worker.process.name, "is stopped")
        worker.process.stop()
        self.surroundings.detectors.member_stopped(worker.detector)
        self.surroundings.actuators.member_stopped(worker.actions)
        self._after(1.0, 120.0, self._go_on, worker)

    def _go_on(self, worker: Worker) -> None:
        if worker.process.life is Life.STOPPED:
            self.trace(worker.process.name, "goes on")
            worker.process.go_on()
            self.surroundings.detectors.member_went_on(worker.detector)
            self.surroundings.actuators.member_went_on(worker.actions)

    def _rebalance(self) -> None:
        self._events.choice((self.surroundings.detectors, self.surroundings.actuators)).rebalance()

    def _all_down(self) -> None:
        seconds = self._events.choice((60.0, 600.0, 3600.0))
        for name in self.workers:
            self._end(name, restart_after=(seconds, seconds + 30.0))

    # ---- broker

    def _outage(self) -> None:
        seconds = self._events.choice((5.0, 20.0, 60.0, 600.0)) * self._events.uniform(0.5, 1.0)
        self.broker.down_until = self.scheduler.now + seconds
        self.oracle.outage(seconds)
        self.trace("broker", f"is away for {seconds:.1f} s")
        self.scheduler.after(seconds, self._outage_over)

    def _outage_over(self) -> None:
        if not self.broker.is_down:
            self.broker.ring_all()

    def _clock_step(self) -> None:
        step = self._events.choice((-1.0, 1.0)) * self._events.choice((0.5, 8.0, 60.0))
        self.broker.clock_offset += step
        self.oracle.clock_stepped()
        self.trace("broker", f"clock steps by {step:.1f} s")

    def _clock_leap(self) -> None:
        """A leader appends one record of the evidence log by a clock that is far ahead, and is right again."""
        place = topics.EVIDENCE, self._events.randrange(self.setup.partitions)
        self.broker.leaps[place] = ahead = self._events.choice((300.0, 7200.0))
        self.trace("broker", f"one record of {place} is {ahead:g} s ahead")

    def _retention(self) -> None:
        place = self._a_source()
        log = self.broker.logs[place]
        keep = self._events.choice((0, 0, 3, 30))
        log.start = max(log.start, log.readable - keep)
        self.oracle.lost(place)
        self.trace("broker", f"retention of {place} now begins at {log.start}")

    def _topic_anew(self) -> None:
        self.broker.create(SOURCE, self._events.choice((1, 2, 3)))
        group = self.surroundings.detectors  # Kafka forgets what was committed in a topic that is gone
        group.committed = {place: at for place, at in group.committed.items() if place[0] != SOURCE}
        self.oracle.topic_made_anew()
        self.trace("broker", f"{SOURCE} is made anew with {self.broker.partitions_of(SOURCE)} partitions")
        self._after(1.0, 60.0, self.surroundings.detectors.rebalance)

    def _lose_a_disk(self) -> None:
        """A source partition loses its records, under a reader who notices: long before it has as many again."""
        place = self._a_source()
        if self.broker.logs[place].end < _MANY_RECORDS or not any(self.workers.values()):
            return
        self.broker.start_over(place)
        self.oracle.started_over(place)
        self.trace("broker", f"{place} starts over")

    def _lose_evidence(self) -> None:
        """An evidence partition loses its records when all of them are folded; what is stored of them is not lost."""
        place = topics.EVIDENCE, self._events.randrange(self.setup.partitions)
        log, owner = self.broker.logs[place], self.surroundings.detectors.owners.get(place)
        is_folded = isinstance(owner, Detector) and owner.evidence.positions().get(place[1]) == log.end
        if log.end < _MANY_RECORDS or not is_folded:
            return
        self.evidence_lost[place[1]].append(log.records)
        if any(worker is not None and worker.process.life is Life.STOPPED for worker in self.workers.values()):
            self.lost_under_a_paused_one.add(place[1])
        self.broker.start_over(place)
        self.trace("broker", f"{place} starts over")

    def _too_few_replicas(self) -> None:
        """A source partition goes on for producers with acks=1, and stands still for whoever reads."""
        log = self.broker.logs[self._a_source()]
        if log.stands_at is not None:
            return
        log.stands_at = log.end
        seconds = self._events.choice((15.0, 120.0, 900.0)) * self._events.uniform(0.5, 1.0)
        kept = self._events.choice((1.0, 1.0, self._events.random()))
        self.trace("broker", f"{log.topic} {log.partition} cannot be read from {log.end} on for {seconds:.1f} s")
        self.scheduler.after(seconds, self._replicated, log, kept)

    def _replicated(self, log: Log, kept: float) -> None:
        """It can be read again; what is not kept of it is lost with its leader."""
        if log.stands_at is None:
            return
        place, stood_at, end = (log.topic, log.partition), log.stands_at, log.end
        log.stands_at = None
        if self.broker.logs.get(place) is not log:
            return
        if kept < 1.0:
            log.cut(stood_at + int((end - stood_at) * kept))
            self.oracle.tail_lost(place, log.end)
        self.trace("broker", f"{place} can be read up to its end again, which is {log.end} and was {end}")
        self.broker.ring(place)

    def _partition_added(self) -> None:
        if self.broker.partitions_of(SOURCE) < 5:
            self.broker.add_partition(SOURCE)
            self.trace("broker", "a source partition is added")
            self._after(1.0, 60.0, self.surroundings.detectors.rebalance)

    def _control_records(self) -> None:
        place = self._events.choice((self._a_source(), (topics.EVIDENCE, 0)))
        self.broker.skip(place, self._events.choice((1, 1, 2, 50)))

    def _a_source(self) -> Place:
        return SOURCE, self._events.randrange(self.broker.partitions_of(SOURCE))

    # ---- telemetry

    def _garbage(self) -> None:
        value = self._events.choice(
            (b"", b"{", b"\xff\xfe", b"{'status': 'loading'}", b'{"status": "loading"}', b"[1]", b'{"status": 7}')
        )
        stranger = b'{"status": "loading", "producer": "nobody__%d", "queue_id": "loader-x"}' % self._events.randrange(
            5
        )
        shown = self._events.choice((value, stranger, None))
        timestamp = self._events.choice((0, round(self.scheduler.now * 1000), 4_000_000_000_000))
        self.broker.put(self._a_source(), shown, timestamp=timestamp)

    def _telemetry_outage(self) -> None:
        seconds = self._events.uniform(30.0, 900.0)
        self.weather.quiet_until = self.scheduler.now + seconds
        self.trace("network", f"no report lands for {seconds:.1f} s")

    def _stop_mirror(self) -> None:
        seconds = self._events.choice((120.0, 900.0, 3600.0)) * self._events.uniform(0.5, 1.0)
        self.weather.mirror_seconds = self._events.choice((0.002, 0.02, 0.4))
        self.telemetry.stop_mirror(seconds)
        self.trace("network", f"no report is carried over for {seconds:.1f} s")

    def _producer_clock_step(self) -> None:
        loader = self._a_loader()
        if loader is not None:
            loader.clock_skew += self._events.choice((-1.0, 1.0)) * self._events.choice((0.5, 5.0, 60.0))
            self.trace("platform", f"the clock of {loader.producer_id} is off by {loader.clock_skew:.1f} s")

    def _storm(self) -> None:
        """Something that many Jobs need breaks: they fall silent together."""
        share = self._events.choice((0.5, 0.7, 1.0))
        self.trace("platform", f"a storm: {share:.0%} of the Jobs fall silent")
        for job in list(self.kube.jobs.values()):
            for pod in job.pods:
                if pod.process is not None and self._events.random() < share and not pod.process.over:
                    pod.process.over = True

    def _a_loader(self) -> Loader | None:
        loaders = [pod.process for job in self.kube.jobs.values() for pod in job.pods if pod.process is not None]
        return self._events.choice(loaders) if loaders else None

    # ---- cluster

    def _api_outage(self) -> None:
        seconds = self._events.choice((10.0, 60.0, 300.0)) * self._events.uniform(0.5, 1.0)
        self._api_down_until = self.scheduler.now + seconds
        self.trace("kube", f"the API is away for {seconds:.1f} s")
        self.kube.break_watches()
        for worker in self.workers.values():
            if worker is not None:
                worker.client.down_until = max(worker.client.down_until, self._api_down_until)

    def _api_outage_of_one(self) -> None:
        """Cut one worker off from the API, until it is started anew at the latest."""
        worker = self.workers[self._events.choice(sorted(self.workers))]
        seconds = self._events.choice((10.0, 60.0, 300.0, 1200.0)) * self._events.uniform(0.5, 1.0)
        if worker is None:
            return
        worker.client.down_until = max(worker.client.down_until, self.scheduler.now + seconds)
        self.trace("kube", f"the API is away for {worker.process.name} for {seconds:.1f} s")
        self.kube.break_watches(worker.process)

    def _admission_policy(self) -> None:
        """Refuse for a while what the healer creates, as a new policy would that old manifests do not meet."""
        kube, now = self.kube, self.scheduler.now
        if now >= kube.policy_until:
            kube.policy_since = now
        kube.policy_until = now + self._events.choice((60.0, 600.0, 1800.0)) * self._events.uniform(0.5, 1.0)
        self.trace("kube", f"a policy refuses creates until {kube.policy_until:.1f}")

    def _watch_breaks(self) -> None:
        self.kube.break_watches()

    # ---- people and the platform

    def _pause(self) -> None:
        job = self._a_job()
        if job is None:
            return
        scope = self._events.choice(
            ("*", f"job:{job.truth.key}", f"queue:{job.truth.queue_id}", f"target:{job.truth.target}")
        )
        self._pause_scope(scope, self._events.choice((None, self.scheduler.now + 300.0)))
        self._after(30.0, 900.0, self._resume, scope)

    def _pause_scope(self, scope: str, until: float | None) -> None:
        pause = Pause(scope=scope, reason="a person says so", at=self.scheduler.now, until=until)
        self.broker.put((topics.CONTROL, 0), commands.encode(pause), key=scope.encode())
        self._paused[scope] = None
        self.trace("person", "pauses", scope, until)

    def _resume(self, scope: str) -> None:
        if scope not in self._paused:
            return
        del self._paused[scope]
        value = commands.encode(Resume(scope=scope)) if self._events.random() < 0.5 else None
        self.broker.put((topics.CONTROL, 0), value, key=scope.encode())
        self.trace("person", "resumes", scope)
        if not self.calm and self._second_thoughts.random() < _SECOND_THOUGHTS:
            self._pause_scope(scope, None)
            self.scheduler.after(self._second_thoughts.uniform(30.0, 900.0), self._resume, scope)

    def _lose_node(self) -> None:
        job = self._a_job()
        running = [pod for pod in job.pods if pod.phase == "Running" and pod.is_active] if job is not None else []
        for pod in running:
            assert job is not None
            if not pod.is_on_dead_node:
                self.trace("kube", "loses the node of", pod.name)
                self.kube.lose_node(job, pod)

    def _skip(self) -> None:
        job = self._a_job()
        if job is None:
            return
        if job.truth.skip_since is None:
            job.truth.skip_since = self.scheduler.now
            self.kube.patch(job, lambda manifest: _annotate(manifest, "sf-healer.io/skip", "true"))
            self.trace("person", "annotates", job.name)
        else:
            job.truth.skip_since = None
            self.kube.patch(job, lambda manifest: _annotate(manifest, "sf-healer.io/skip", "false"))

    def _suspend(self) -> None:
        job = self._a_job()
        if job is None or job.ended or job.is_leaving:
            return
        suspended = not job.suspended
        self.trace("person", "suspends" if suspended else "goes on with", job.name)
        self.kube.patch(job, lambda manifest: manifest["spec"].__setitem__("suspend", suspended))

    def _remove_a_job(self) -> None:
        job = self._a_job()
        if job is not None:
            self.trace("person", "deletes", job.name, job.uid)
            self.kube.delete(job.name, by="person", foreground=self._events.random() < 0.5)

    def _replace_a_job(self) -> None:
        """Delete and create under the same name, as a person does who has grown impatient."""
        job = self._a_job()
        if job is None:
            return
        self.trace("person", "replaces", job.name, job.uid)
        manifest = self._manifests[job.uid]
        self.kube.delete(job.name, by="person", foreground=False)
        self._after(0.0, 3.0, self._create_if_free, manifest)

    def _create_if_free(self, manifest: Manifest) -> None:
        if self.kube.get(manifest["metadata"]["name"]) is None:
            self.kube.create(manifest, MadeBy.PERSON)

    def _put_namesake(self, manifest: Manifest, passing: bool) -> None:  # noqa: FBT001  an event's payload
        name = manifest["metadata"]["name"]
        if self.kube.get(name) is None:
            job = self.kube.create(manifest, MadeBy.PERSON)
            if passing and isinstance(job, Job):
                self.trace("person", "takes away again", name, job.uid)
                self.kube.delete(name, uid=job.uid, by="person")

    def _job_made(self, job: Job) -> None:
        self._manifests[job.uid] = plain(job.manifest)
        self.oracle.created(job)

    def _job_gone(self, truth: Incarnation) -> None:
        """The platform may put a namesake in the place of a Job that the healer deleted, and take it away again."""
        self.trace("kube", truth.key, truth.uid, "is gone, removed by", truth.removed_by)
        if truth.removed_by == "healer" and not self.calm and self._events.random() < self.faults.namesakes:
            passing = self._events.random() < _PASSING_NAMESAKES
            self._after(0.0, 0.1 if passing else 2.0, self._put_namesake, self._manifests[truth.uid], passing)
        if truth.removed_by in {"ttl", "person"} and not self.calm:
            self._after(10.0, 200.0, self._new_job)

    def _stop_command(self) -> None:
        job = self._a_job()
        if job is None:
            return
        queue = job.truth.queue_id
        self.trace("person", "stops the queue", queue)
        self.broker.put((CONTROL, 0), f'{{"queue_id": "{queue}", "command": "stop", "sent_at": 1.0}}'.encode())
        reached = [
            pod.process
            for each in self.kube.jobs.values()
            if each.truth.queue_id == queue
            for pod in each.pods
            if pod.process is not None
        ]
        if reached:
            self._after(0.05, 2.0, self._events.choice(reached).told_to_stop)

    def _change_policies(self) -> None:
        self.policies = self.surroundings.policies = self._events.choice(self.all_policies)
        self.oracle.policies = self.policies
        self.trace("person", "writes policies of number", self.all_policies.index(self.policies))

    def _resolve_all(self) -> None:
        """A person looks after what asked for one, for as long as the world lasts."""
        for name, worker in self.workers.items():
            actuator = worker.actions.current if worker is not None else None
            if actuator is None:
                continue
            for key, action in actuator.open_actions().items():
                if action.state == "stranded":
                    decision = Decision.CREATE if self.kube.get(key.rpartition("/")[2]) is None else Decision.ABANDON
                    resolve = Resolve(key=key, action_id=action.id, decision=decision, by=name)
                    self.trace("person", "resolves", key, decision)
                    self.broker.put((topics.ACTIONS, 0), commands.encode(resolve), key=key.encode())
        self.scheduler.after(30.0, self._resolve_all)

    def _a_job(self) -> Job | None:
        return self._events.choice(list(self.kube.jobs.values())) if self.kube.jobs else None

    def _new_job(self) -> None:
        if len(self.kube.jobs) >= JOBS + 4:
            return
        self._names += 1
        rng = self._stories
        target = rng.choice(_TARGETS)
        queue = f"loader-btc-{self._names // 2}"
        short = f"Ab{self._names // 2}"
        foreign = rng.random() < 0.07
        manifest = job_manifest(
            f"{queue}-{target}-{self._names}",
            {}
            if foreign
            else {"QUEUE_ID": queue, "KAFKA_TOPIC": queue, "TELEMETRY_PRODUCER_ID": f"{target}__{short}x{self._names}"},
            managed_by="kueue.x-k8s.io/multikueue" if rng.random() < 0.04 else "",
        )
        self.kube.create(manifest, MadeBy.PLATFORM)

    def _start_pod(self, job: Job, pod: Pod) -> Loader:
        """The kubelet starts a process: draw its story."""
        truth, rng = job.truth, self._stories
        self._loaders += 1
        stories = STORIES.get(truth.target, STORIES["loader-producer"])
        if truth.made_by is MadeBy.HEALER and rng.random() < 0.75:
            stories = CURED
        story = rng.choices(list(stories), weights=list(stories.values()))[0]
        self.trace("platform", truth.key, truth.uid, "runs:", story)
        policy = self.oracle.policy(truth)
        return Loader(
            self.scheduler,
            self.telemetry,
            rng,
            truth,
            producer_id=env_of(job.manifest).get("TELEMETRY_PRODUCER_ID", "stranger"),
            story=story,
            turn_seconds=rng.expovariate(1 / 1500.0),
            threshold_seconds=policy.silence_threshold_seconds,
            clock_skew=rng.uniform(-1.0, 1.0) * self.faults.producer_skew_seconds,
            exit_pod=lambda code: self.kube.end_pod(job, pod, succeeded=code == 0),
            number=self._loaders,
        )

    def _look(self, queue_id: str, pod_ip: str, neighbours: Neighbours | None) -> GroupLook:
        """Show the consumer group of a Job: a drained one has no lag, a stuck one does nothing about it.

        One that says nothing at all hangs before it has joined its group.
        """
        jobs = {
            f"{job.name}-consumer-{queue_id}": job
            for job in self.kube.jobs.values()
            if job.truth.queue_id == queue_id and job.truth.target in CONSUMERS
        }
        described = [groups.Group(name, _members(job)) for name, job in jobs.items()]
        found = own_group([group for group in described if self._has_met(group)], pod_ip, neighbours)
        if isinstance(found, str):
            return GroupLook(unknown=found)
        if isinstance(found, Elsewhere):
            return GroupLook(elsewhere=found.why)
        if found is None:
            return GroupLook()
        truth = jobs[found.name].truth
        done = sum(1 for each in truth.said if each.kind is Kind.LOADING)
        lag = 0 if truth.drained_since is not None else 7
        return GroupLook(group=found.name, members=len(found.hosts), committed=done, lag=lag)

    def _has_met(self, group: groups.Group) -> bool:
        """Say whether a group has ever had a member: till then nobody has heard of it."""
        if group.hosts:
            self._met.add(group.name)
        return group.name in self._met

    # ---- for the reckoning

    @property
    def checkpoint_seconds(self) -> float:
        """The longest that a last-seen may be rounded to, by any policies that held."""
        return max(each.checkpoint_seconds for each in self.all_policies)

    def reference(self, number: int) -> Partition:
        """Make an evidence partition that has folded nothing yet."""
        return Partition(
            number,
            partitions=self.setup.partitions,
            policies=self.policies,
            window_seconds=self.setup.window_seconds,
            feed_gap_seconds=self.setup.feed_gap_seconds,
        )

    def reference_actuator(self) -> Actuator:
        return Actuator(worker="reference", limits=self.all_policies[0].limits, observe_only=False)


def env_of(manifest: Manifest) -> dict[str, str]:
    """Return the env of a Job's container."""
    return {item["name"]: item["value"] for item in manifest["spec"]["template"]["spec"]["containers"][0]["env"]}


def plain(manifest: Manifest) -> Manifest:
    """Return a manifest as its author wrote it: without what the server and the healer added."""
    written: Manifest = sanitize(manifest)
    written["metadata"].pop("annotations", None)
    return written


def job_manifest(name: str, env: dict[str, str], *, managed_by: str = "") -> Manifest:
    """Give a Job as the platform creates it, as far as anybody looks at it here."""
    entries = [{"name": key, "value": value} for key, value in ({"SPEC": name} | env).items()]
    spec: Manifest = {
        "backoffLimit": BACKOFF_LIMIT,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "env": entries}]}},
    }
    if managed_by:
        spec["managedBy"] = managed_by
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def _annotate(manifest: Manifest, name: str, value: str) -> None:
    manifest["metadata"].setdefault("annotations", {})[name] = value


def _members(job: Job) -> tuple[str, ...]:
    """Give the addresses of a Job's pods whose process is a member of its consumer group."""
    alive = [pod for pod in job.pods if pod.phase == "Running" and pod.process is not None and pod.process.running]
    return tuple(pod.address for pod in alive if pod.process.story is not Story.MUTE)
