"""Whole captures of `queue-events` made up from a seed, with the Jobs behind them and the truth about each.

The file format is that of recorded captures: lines in arrival order, the inventory, and for every Job the
verdict and the window in which its first restart must be asked for (null: never). With them the tests need nothing
from outside the repository.
"""

import base64
import gzip
import json
import random
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sf_healer.local import launcher
from sf_healer.local.reports import Course, Process, Story, life
from sf_healer.local.services import CONSUMERS, SERVICES, Dialect
from tests.lab.garbage import garbage, odd_report

DURATION_SECONDS = 2400.0
THRESHOLD_SECONDS = 300.0
STARTUP_SECONDS = 600.0
SLACK_SECONDS = 120.0  # from the earliest moment the rule is met to the latest that still passes
PARTITIONS = 3

_EPOCH = 1_750_000_000.0
_EPOCH_SPREAD_SECONDS = 10_000_000.0
_CREATED_SECONDS = (0.0, 250.0)  # from the start of the capture
_CREATED_TO_STARTED_SECONDS = (3.0, 90.0)
_TURN_SECONDS = (150.0, 1000.0)  # from the start of the process
_PACES_SECONDS = (6.0, 25.0, 60.0)  # between two `loading` of a consumer; spread, still under 100
_LATE_CHANCE, _LATE_SECONDS = 0.02, (5.0, 40.0)  # up to aiokafka's request timeout
_TWICE_CHANCE, _TWICE_SECONDS = 0.02, (0.05, 2.0)
_GARBAGE_SHARE = 0.08
_ODD_CHANCE = 0.01
_MICROSECONDS = 6

_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "OPUSDT", "IDUSDT", "WUSDT", "1INCHUSDT")

_LOADERS = ("loader-api-candles", "loader-api-trades", "loader-producer", "loader-ws-orderbook")
_WS = ("loader-ws-orderbook", "loader-ws-trades", "loader-ws-candles")
_DOCS = ("docs-1", "docs-2")
_ALL_CONSUMERS = tuple(sorted(CONSUMERS))


class Capture(NamedTuple):
    """Lines in arrival order, the inventory, and the truth; all of them JSON."""

    lines: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    truth: dict[str, Any]


class Scene(msgspec.Struct, frozen=True):
    """A kind of life and what has to be said of it."""

    verdict: str
    story: Story
    services: Sequence[str]
    why: str
    pinged: bool = False
    firm: bool = True


SCENES = (
    Scene("healthy", Story.HEALTHY, _ALL_CONSUMERS, "consumer with a steady flow"),
    Scene("healthy", Story.HEALTHY, (*_LOADERS, *_WS), "loader with a steady flow"),
    Scene("healthy", Story.HEALTHY, ("dummy-service",), "loading every 10 s and pongs", pinged=True),
    Scene("healthy", Story.HEALTHY, ("gnn-trainer",), "epochs, minutes apart"),
    Scene("healthy", Story.HEALTHY, _DOCS, "docs dialect, steady"),
    Scene("healthy", Story.BAD_RECORDS, _ALL_CONSUMERS, "errors for single records, loading goes on"),
    Scene("stuck", Story.SILENCE, _ALL_CONSUMERS, "loading, then silent for good"),
    Scene("stuck", Story.SILENCE, (*_LOADERS, *_WS), "loading, then silent for good"),
    Scene("stuck", Story.SILENCE, ("dummy-service",), "pongs go on after its loading died", pinged=True),
    Scene("stuck", Story.SILENCE, _DOCS, "docs dialect, loading then silent"),
    Scene("stuck", Story.STARTED_ONLY, ("loader-producer",), "started, then no data: no loading at all"),
    Scene(
        "stuck",
        Story.STARTED_ONLY,
        ("dummy-service",),
        "only pongs: a sign of life?",
        pinged=True,
        firm=False,
    ),
    Scene("stuck", Story.OPENING_ONLY, (*_ALL_CONSUMERS, *_WS), "the first loading, then silent"),
    Scene("stuck", Story.MISFED, ("arango-candles",), "an error a record: stuck or failed?", firm=False),
    Scene("never_started", Story.MUTE, (*_LOADERS, *_WS), "as shipped it never says a word"),
    Scene("failed", Story.FATAL, ("loader-api-candles", "loader-api-trades", *_WS), "a bare error, then silent"),
    Scene("failed", Story.FATAL, (*_ALL_CONSUMERS, "loader-producer"), "an error and finished right after it"),
    Scene("failed", Story.FATAL, ("dummy-service",), "an error with finished=true"),
    Scene("failed", Story.FATAL, _DOCS, "docs dialect: error, then silent"),
    Scene("interrupted", Story.STOP, _ALL_CONSUMERS, "interrupted, interrupted, finished"),
    Scene("interrupted", Story.STOP, ("loader-api-candles", *_WS), "interrupted twice, no finished"),
    Scene("interrupted", Story.STOP, ("loader-producer",), "interrupted twice, both finished=true"),
    Scene("interrupted", Story.STOP, ("dummy-service",), "interrupted, then finished"),
    Scene("interrupted", Story.STOP, _DOCS, "docs dialect"),
    Scene("completed", Story.FINISH, (*_LOADERS, *_WS), "finished; the process may stay up"),
    Scene("completed", Story.FINISH, ("dummy-service", "gnn-trainer"), "finished"),
    Scene("completed", Story.TERMINATE, ("visualizer",), "started, then finished on SIGTERM"),
    Scene("completed", Story.FINISH, _DOCS, "docs dialect"),
)

# Two Jobs that share a queue id: one that is well must not hide one that is not, nor be restarted for it.
PAIRS = (
    (Scene("stuck", Story.SILENCE, _LOADERS, "silent beside a healthy one"), SCENES[0]),
    (SCENES[1], Scene("stuck", Story.SILENCE, _ALL_CONSUMERS, "silent beside a healthy one")),
    (SCENES[1], SCENES[0]),
)

_PERTURBED = frozenset({Story.HEALTHY, Story.SILENCE})  # where a late or doubled line changes nobody's fate
_ALARMS = frozenset({"stuck", "failed", "never_started"})


def generate_capture(
    seed: int,
    *,
    copies: int = 1,
    scenes: Sequence[Scene] = SCENES,
    pairs: Sequence[tuple[Scene, Scene]] = PAIRS,
    with_garbage: bool = True,
) -> Capture:
    """Make a capture of 40 minutes: `copies` Jobs of every scene, and of every pair, in one namespace."""
    cast = _Cast(random.Random(seed))  # the point is that it repeats
    for _ in range(copies):
        for scene in scenes:
            cast.queue(scene)
        for pair in pairs:
            cast.queue(*pair)
    if with_garbage:
        cast.throw_garbage()
    return cast.capture()


def write_capture(directory: Path, name: str, capture: Capture) -> Path:
    """Write NAME.jsonl.gz, NAME.jobs.json and NAME.truth.json; give the first."""
    lines = directory / f"{name}.jsonl.gz"
    with gzip.open(lines, "wt", encoding="ascii") as file:
        file.writelines(json.dumps(line) + "\n" for line in capture.lines)
    (directory / f"{name}.jobs.json").write_text(json.dumps(capture.jobs, indent=1))
    (directory / f"{name}.truth.json").write_text(json.dumps(capture.truth, indent=1))
    return lines


class _Arrival(NamedTuple):
    at: float
    value: bytes


class _Cast:
    """The Jobs of a capture as they are added, and what they have said."""

    def __init__(self, random_source: random.Random) -> None:
        self._random = random_source
        self._start = round(_EPOCH + random_source.uniform(0, _EPOCH_SPREAD_SECONDS))
        self._end = self._start + DURATION_SECONDS
        self._arrivals: list[_Arrival] = []
        self._jobs: list[dict[str, Any]] = []
        self._truth: dict[str, dict[str, Any]] = {}
        self._well: list[dict[str, str]] = []  # env of Jobs that no odd message can harm

    def queue(self, *scenes: Scene) -> None:
        """Launch one pipeline with a Job for each scene."""
        services = [SERVICES[self._random.choice(scene.services)] for scene in scenes]
        queue = self._name([service.target for service in services], services[0].type_)
        created = self._start + self._random.uniform(*_CREATED_SECONDS)
        for scene, service in zip(scenes, services, strict=True):
            env = launcher.environment(queue, service.target, type_=service.type_)
            self._live(scene, Process(service, env, booted_at=self._start - 912_000), env, created)
            created += self._random.uniform(0.1, 0.5)

    def throw_garbage(self) -> None:
        """Mix in what no decoder can read or no inventory knows, and odd fields where they cannot harm."""
        for _ in range(round(len(self._arrivals) * _GARBAGE_SHARE)):
            at = self._random.uniform(self._start, self._end)
            self._arrivals.append(_Arrival(at, garbage(self._random)))
        if self._well:
            for _ in range(round(len(self._arrivals) * _ODD_CHANCE)):
                at = self._random.uniform(self._start + 400, self._end)
                self._arrivals.append(_Arrival(at, odd_report(self._random, self._random.choice(self._well))))

    def capture(self) -> Capture:
        """Put everything into arrival order, spread over the partitions."""
        lines = [
            {
                "at": round(arrival.at, _MICROSECONDS),
                "partition": self._random.randrange(PARTITIONS),
                "key": None,
                "value_b64": base64.b64encode(arrival.value).decode(),
            }
            for arrival in sorted(self._arrivals)
        ]
        jobs = sorted(self._jobs, key=lambda job: job["created_at"])
        truth = {
            "threshold_seconds": THRESHOLD_SECONDS,
            "startup_seconds": STARTUP_SECONDS,
            "capture_start": float(self._start),
            "capture_end": self._end,
            "slack_seconds": SLACK_SECONDS,
            "jobs": self._truth,
        }
        return Capture(lines, jobs, truth)

    def _name(self, targets: Sequence[str], type_: str) -> launcher.Queue:
        day = f"2025-{self._random.randint(1, 8):02}-{self._random.randint(1, 28):02}"
        while True:
            short = launcher.short_id(self._random)
            queue = launcher.Queue.launch(self._random.choice(_SYMBOLS), type_, day, short, until="2025-09-01")
            names = [launcher.job_name(queue.id, target) for target in targets]
            if max(map(len, names)) <= launcher.LONGEST_JOB_NAME and self._truth.keys().isdisjoint(names):
                return queue

    def _live(self, scene: Scene, process: Process, env: dict[str, str], created: float) -> None:
        service = process.service
        epoch = created + self._random.uniform(*_CREATED_TO_STARTED_SECONDS)
        course = Course(
            epoch=epoch,
            turn_seconds=self._random.uniform(*_TURN_SECONDS),
            until_seconds=self._end - epoch,
            gap_seconds=self._random.choice(_PACES_SECONDS) if service.name in CONSUMERS else None,
        )
        told = life(process, scene.story, self._random, course, pinged=scene.pinged)
        arrivals = [_Arrival(epoch + at, value) for at, value in told]
        if scene.story in _PERTURBED:
            arrivals = sorted(self._perturbed(arrivals))
        name = launcher.job_name(env["QUEUE_ID"], service.target)
        self._arrivals += arrivals
        self._jobs.append(
            {
                "name": name,
                "namespace": launcher.NAMESPACE,
                "uid": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
                "created_at": round(created, 3),
                "env": env,
            }
        )
        self._truth[name] = _truth(scene, arrivals, round(created, 3)) | {
            "service": service.name,
            "events": len(arrivals),
        }
        if scene.story is Story.HEALTHY and service.dialect is Dialect.STATUS:
            self._well.append(env)

    def _perturbed(self, arrivals: Sequence[_Arrival]) -> Iterator[_Arrival]:
        for arrival in arrivals:
            at = arrival.at
            if self._random.random() < _LATE_CHANCE:
                at += self._random.uniform(*_LATE_SECONDS)
            yield _Arrival(min(at, self._end), arrival.value)
            if self._random.random() < _TWICE_CHANCE:
                at += self._random.uniform(*_TWICE_SECONDS)
                yield _Arrival(min(at, self._end), arrival.value)


def _truth(scene: Scene, arrivals: Sequence[_Arrival], created: float) -> dict[str, Any]:
    """Say when the rule is met at the earliest, and when it must have been noticed at the latest."""
    window: tuple[float | None, float | None] = (None, None)
    if scene.verdict == "never_started":
        window = (created + STARTUP_SECONDS, created + STARTUP_SECONDS + SLACK_SECONDS)
    elif scene.verdict == "failed":
        first_error = next(arrival.at for arrival in arrivals if b'"error"' in arrival.value)
        window = (first_error, arrivals[-1].at + THRESHOLD_SECONDS + SLACK_SECONDS)
    elif scene.verdict == "stuck":
        window = _stuck(scene, arrivals, created)
    not_before, not_after = (None if at is None else round(at, 3) for at in window)
    assert (not_before is not None) is (scene.verdict in _ALARMS)
    return {
        "verdict": scene.verdict,
        "not_before": not_before,
        "not_after": not_after,
        "firm": scene.firm,
        "why": scene.why,
    }


def _stuck(scene: Scene, arrivals: Sequence[_Arrival], created: float) -> tuple[float, float]:
    """Silence counts from the last sign of life; a start that comes to nothing has the startup time too."""
    signs = [at for at, value in arrivals if b'"loading"' in value or b'"started"' in value]
    due = signs[-1] + THRESHOLD_SECONDS
    latest = due if scene.story is Story.SILENCE else max(due, created + STARTUP_SECONDS)
    if scene.story is Story.MISFED:  # stuck since its only `loading`, or failed with its first error
        first_error = next(at for at, value in arrivals if b'"error"' in value)
        latest = max(latest, first_error + THRESHOLD_SECONDS)
        due = min(due, first_error)
    return due, latest + SLACK_SECONDS
