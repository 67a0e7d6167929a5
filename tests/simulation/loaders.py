"""The platform's workers: what the process in a pod says, and when; and what the network does to its reports.

Simpler than sf_healer/local/reports.py, which has every field of every dialect: here is what decides, in the
dialects that differ in what decides (docs/reports.md).
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from sf_healer.core.events import Kind
from tests.simulation.clock import Scheduler
from tests.simulation.kafka import Broker, Place
from tests.simulation.truth import Incarnation, Said

SOURCE = "queue-events"
_GAP_SECONDS = (15.0, 75.0)
_RIGHT_AFTER_SECONDS = (0.003, 0.4)


class Story(StrEnum):
    HEALTHY = "healthy"
    SLOW = "slow"  # pauses just below the threshold
    PAUSES = "pauses"  # falls silent for longer than the threshold, and comes back
    SILENT = "silent"  # falls silent for good
    STARTED_ONLY = "started_only"
    MUTE = "mute"
    ERROR = "error"  # `error` and nothing more; the process stays
    ERROR_AND_EXIT = "error_and_exit"  # exits with 0 after it: the Job becomes Complete
    ERROR_FINAL = "error_final"  # `error` with finished: true, then `finished`
    FATAL = "fatal"  # `error`, then `finished` right after it
    CRASH = "crash"  # exits with 1, with an `error` or without one
    BAD_RECORDS = "bad_records"  # an `error` now and then, and goes on
    FINISH = "finish"
    FINISH_AND_EXIT = "finish_and_exit"
    DRAINED = "drained"  # a consumer with nothing to do: silent for good, and well
    DRAINED_AFTER_ERROR = "drained_after_error"  # the same, and its last word is of a bad record


_COMMON = {
    Story.HEALTHY: 40,
    Story.SLOW: 8,
    Story.PAUSES: 4,
    Story.SILENT: 12,
    Story.STARTED_ONLY: 3,
    Story.MUTE: 2,
    Story.ERROR: 5,
    Story.ERROR_AND_EXIT: 3,
    Story.ERROR_FINAL: 3,
    Story.FATAL: 3,
    Story.CRASH: 3,
    Story.FINISH: 6,
    Story.FINISH_AND_EXIT: 4,
}
CONSUMERS = {"arango-connector"}
STORIES = {
    "arango-connector": _COMMON | {Story.BAD_RECORDS: 12, Story.DRAINED: 3, Story.DRAINED_AFTER_ERROR: 6},
    "loader-producer": _COMMON,
    "visualizer": {Story.STARTED_ONLY: 10, Story.ERROR: 2, Story.FINISH: 2},
    "odd-target": _COMMON,
}
CURED = {Story.HEALTHY: 10, Story.SLOW: 2, Story.FINISH_AND_EXIT: 1}


class Weather(msgspec.Struct):
    """What happens to reports on their way."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 20.0
    quiet_until: float = 0.0  # no report of anybody lands: a total telemetry outage
    mirror_until: float = 0.0  # what carries the reports over from the platform's own broker stands still
    mirror_seconds: float = 0.0  # what it takes for each report when it catches up, at most


class Telemetry:
    """The way from a producer to the source topic."""

    def __init__(self, scheduler: Scheduler, broker: Broker, rng: random.Random, weather: Weather) -> None:
        self.weather = weather
        #: Where each report of the current topic is, for the oracle.
        self.landed: Callable[[Incarnation, Said, Place], None] = lambda _truth, _said, _place: None
        self._scheduler = scheduler
        self._broker = broker
        self._rng = rng
        self._last: dict[tuple[int, int], float] = {}
        self._mirrored: dict[int, deque[_Report]] = defaultdict(deque)  # by partition, what is still to be carried over

    def send(self, sender: int, truth: Incarnation, said: Said, value: bytes, clock: float) -> None:
        """Put a report on its way; `clock` is the producer's own time."""
        rng, weather = self._rng, self.weather
        partition = rng.randrange(self._broker.partitions_of(SOURCE))
        delay = rng.uniform(0.002, 0.15)
        if rng.random() < weather.delay:
            delay = rng.uniform(0.2, weather.delay_seconds)
        lost = rng.random() < weather.drop or self._scheduler.now < weather.quiet_until
        again = rng.random() < weather.duplicate
        if lost:
            return
        arrival = self._scheduler.now + delay
        if self._broker.is_down:
            arrival = self._broker.down_until + delay
            if arrival - self._scheduler.now > 40.0:
                return  # aiokafka's request timeout: the services swallow it
        lane = (sender, partition)  # one request in flight: a producer's records keep their order
        arrival = self._last[lane] = max(arrival, self._last.get(lane, 0.0) + 1e-4)
        report = _Report(truth, said, value, partition, round(clock * 1000))
        self._scheduler.at(arrival, self._arrive, report)
        if again:
            later = arrival + rng.uniform(0.01, 2.0)
            self._last[lane] = later
            self._scheduler.at(later, self._arrive, report)

    def stop_mirror(self, seconds: float) -> None:
        """Let nothing through for so long; then all of it, each partition in its order and at its own pace."""
        self.weather.mirror_until = max(self.weather.mirror_until, self._scheduler.now + seconds)

    def start_mirror(self) -> None:
        """Let reports through again."""
        self.weather.mirror_until = self._scheduler.now

    def _arrive(self, report: "_Report") -> None:
        waiting = self._mirrored[report.partition]
        if not waiting and self._scheduler.now >= self.weather.mirror_until:
            self._land(report)
            return
        waiting.append(report)
        if len(waiting) == 1:
            self._carry(report.partition)

    def _carry(self, partition: int) -> None:
        """Carry the reports over that wait, one after the other, while there are any."""
        waiting, now = self._mirrored[partition], self._scheduler.now
        away_until = max(self.weather.mirror_until, self._broker.down_until)
        if now >= away_until:
            self._land(waiting.popleft())
        if waiting:
            # While it stands still it is looked after now and then, for it may go on before its time.
            pause = self._rng.uniform(0.0, self.weather.mirror_seconds) if now >= away_until else 10.0
            self._scheduler.after(pause, self._carry, partition)

    def _land(self, report: "_Report") -> None:
        said = report.said
        place = (SOURCE, min(report.partition, self._broker.partitions_of(SOURCE) - 1))
        record = self._broker.put(place, report.value, timestamp=report.timestamp)
        if said.landed is None:
            said.landed, said.partition, said.offset = self._scheduler.now, place[1], record.offset
            self.landed(report.truth, said, place)


class _Report(NamedTuple):
    """A report on its way."""

    truth: Incarnation
    said: Said
    value: bytes
    partition: int
    timestamp: int


class Loader:
    """One process of one pod."""

    def __init__(
        self,
        scheduler: Scheduler,
        telemetry: Telemetry,
        rng: random.Random,
        truth: Incarnation,
        *,
        producer_id: str,
        story: Story,
        turn_seconds: float,
        threshold_seconds: float,
        clock_skew: float,
        exit_pod: Callable[[int], None],
        number: int,
    ) -> None:
        self.story = story
        self.clock_skew = clock_skew
        self.running = True
        self._scheduler = scheduler
        self._telemetry = telemetry
        self._rng = rng
        self._truth = truth
        self.producer_id = producer_id
        self._threshold = threshold_seconds
        self._exit_pod = exit_pod
        self._number = number
        self._records = 0
        self._base_gap = rng.uniform(*_GAP_SECONDS)
        self._turn = scheduler.now + turn_seconds
        self._paused = False
        self.over = False
        self._begin()

    # ---- what others do to it

    def terminate(self) -> None:
        """SIGTERM: some services say `finished` then, some nothing; none works on."""
        if self.running and not self.over and self._rng.random() < 0.25:
            self._say(Kind.FINISHED, finished=True)
        self.over = True

    def kill(self) -> None:
        self.running = False
        self.over = True

    def told_to_stop(self) -> None:
        """A stop command of the platform reached it."""
        if not self.running or self.over:
            return
        self.over = True
        self._say(Kind.INTERRUPTED, finished=True)
        if self._rng.random() < 0.5:
            self._later(_RIGHT_AFTER_SECONDS, self._say, Kind.INTERRUPTED)
        if self._rng.random() < 0.5:
            self._later(_RIGHT_AFTER_SECONDS, self._say_finished)
        if self._rng.random() < 0.5:
            self._later((1.0, 3.0), self._exit, 0)

    # ---- its life

    def _begin(self) -> None:
        if self.story is Story.MUTE:
            return
        self._say(Kind.STARTED)
        if self.story is not Story.STARTED_ONLY:
            self._later((0.1, 0.9), self._work)

    def _work(self) -> None:
        if self.over or not self.running:
            return
        if self._scheduler.now >= self._turn and self.story not in {Story.HEALTHY, Story.SLOW, Story.BAD_RECORDS}:
            self._take_turn()
            return
        self._records += 100
        self._say(Kind.LOADING)
        gap = self._base_gap * self._rng.uniform(0.5, 1.6)
        if self.story is Story.SLOW and self._rng.random() < 0.3:
            gap = self._threshold * self._rng.uniform(0.6, 0.93)
        if self.story is Story.BAD_RECORDS and self._rng.random() < 0.4:
            self._later((0.1, min(gap, 40.0)), self._bad_record)
        self._later((gap, gap), self._work)

    def _bad_record(self) -> None:
        if not self.over and self.running:
            self._say(Kind.ERROR)

    def _take_turn(self) -> None:
        story = self.story
        if story is Story.PAUSES:
            self.story = Story.HEALTHY
            pause = self._threshold * self._rng.uniform(1.05, 2.5)
            self._later((pause, pause), self._work)
            return
        self.over = True
        if story in {Story.DRAINED, Story.DRAINED_AFTER_ERROR}:
            self._truth.drained_since = self._scheduler.now
        if story in {Story.ERROR, Story.ERROR_AND_EXIT, Story.FATAL, Story.DRAINED_AFTER_ERROR}:
            self._say(Kind.ERROR)
        if story is Story.ERROR_FINAL:
            self._say(Kind.ERROR, finished=True)
        if story is Story.CRASH and self._rng.random() < 0.5:
            self._say(Kind.ERROR)
        if story in {Story.FATAL, Story.ERROR_FINAL}:
            self._later(_RIGHT_AFTER_SECONDS, self._say_finished)
        if story in {Story.FINISH, Story.FINISH_AND_EXIT}:
            self._say(Kind.FINISHED, finished=True)
        if story in {Story.ERROR_AND_EXIT, Story.FINISH_AND_EXIT}:
            self._later((0.1, 2.0), self._exit, 0)
        if story is Story.CRASH:
            self._later((0.1, 2.0), self._exit, 1)

    def _exit(self, code: int) -> None:
        if self.running:
            self.running = False
            self._exit_pod(code)

    def _say_finished(self) -> None:
        self._say(Kind.FINISHED, finished=True)

    def _say(self, kind: Kind, *, finished: bool = False) -> None:
        if not self.running:
            return
        clock = self._scheduler.now + self.clock_skew
        said = Said(kind, self._scheduler.now, finished, clock)
        self._truth.said.append(said)
        queue_id = "" if self._number % 5 == 4 else self._truth.queue_id  # dialect B names no queue
        value = report(kind, self.producer_id, queue_id, finished=finished, records=self._records)
        self._telemetry.send(self._number, self._truth, said, value, clock)

    def _later(self, seconds: tuple[float, float], call: Callable[..., None], *args: object) -> None:
        self._scheduler.after(self._rng.uniform(*seconds), call, *args)


def report(kind: Kind, producer: str, queue_id: str, *, finished: bool, records: int) -> bytes:
    """Give a message as the services send it, without the fields that nobody reads."""
    name = kind.name.lower()
    queue = f'"queue_id": "{queue_id}", ' if queue_id else ""
    error = ', "error_message": "it broke"' if kind is Kind.ERROR else ""
    return (
        f'{{"event": "{name}", {queue}"producer": "{producer}", "status": "{name}", "message": "…", '
        f'"finished": {"true" if finished else "false"}, "records_written": {records}{error}}}'
    ).encode()
