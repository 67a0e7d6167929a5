"""Reports as StreamForge's services send them: bytes for `queue-events`, deterministic. Pure.

What a service says is in services.py; here it is put into its dialect and into an order in time. Time and
randomness are arguments. Messages are unkeyed and have no headers.
"""

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from sf_healer.local.services import Dialect, Line, Service

# Three events of one ending came within about 0.1 s.
_BETWEEN_LAST_WORDS_SECONDS = (0.005, 0.045)
_STARTED_TO_OPENING_SECONDS = (0.1, 0.6)
_SEND_SECONDS = (0.001, 0.03)  # `sent_at` is taken before the send
_GAP_SPREAD = (0.5, 1.6)  # a consumer's gap varies with its data
_PING_SECONDS = (25.0, 90.0)
_PING_ON_ITS_WAY_SECONDS = 0.02
_MISFED_SECONDS = (0.5, 4.0)
_BAD_RECORD_CHANCE = 0.3  # of a gap
_SHARE_OF_GAP_UNTIL_BAD_RECORD = (0.2, 0.8)

Timed = tuple[float, bytes]  # seconds from the start of the process, value


class Story(StrEnum):
    """How the life of a process goes."""

    HEALTHY = "healthy"  # goes on to the end
    BAD_RECORDS = "bad_records"  # likewise, with an error for a record now and then
    MISFED = "misfed"  # an error for every record, never a `loading` after the first
    SILENCE = "silence"  # `loading` for a while, then nothing
    STARTED_ONLY = "started_only"  # `started`, then nothing (a pong where it is pinged)
    OPENING_ONLY = "opening_only"  # `started` and the first `loading`, then nothing
    MUTE = "mute"  # not a word, as most loaders are shipped
    FATAL = "fatal"
    FINISH = "finish"
    STOP = "stop"
    TERMINATE = "terminate"


_GO_ON = frozenset({Story.HEALTHY, Story.BAD_RECORDS})


class Process:
    """One process of a service: identity from its env, and the counter that its reports tell."""

    def __init__(self, service: Service, env: Mapping[str, str], *, booted_at: float = 0.0) -> None:
        """Begin; `booted_at` (epoch seconds) is the zero of the machine's monotonic clock."""
        self.service = service
        self.records = 0
        self._batch = 0
        self._env = env
        self._booted_at = booted_at

    def started(self, at: float) -> bytes:
        """Say the first word."""
        return self.say(self.service.started, at)

    def opening(self, at: float) -> bytes | None:
        """Say `loading` before any data is seen, where the service does."""
        return None if self.service.opening is None else self.say(self.service.opening, at)

    def loading(self, at: float) -> bytes | None:
        """Say `loading` after the next step of records; None from a service that never does."""
        if self.service.loading is None:
            return None
        self.records += self.service.step
        self._batch += 1
        return self.say(self.service.loading, at)

    def pong(self, at: float, ping_sent_at: float | None) -> bytes | None:
        """Answer a ping, where the service does (dialect D)."""
        if not self.service.answers_ping:
            return None
        fields = self._names() | {
            "producer": self._env["TELEMETRY_PRODUCER_ID"],
            "sent_at": at,
            "ping_ts": ping_sent_at,
            "ponged_at": at,
        }
        return _json({"event": "pong"} | fields)

    def say(self, line: Line, at: float) -> bytes:
        """Put one line into the service's dialect; `at` is epoch seconds of the process's own clock."""
        loss = round(1.1 / max(1, self._batch), 4)
        text = line.text.format(n=self.records, step=self.service.step, batch=self._batch, loss=loss)
        records = self.records if line.counts else line.records
        match self.service.dialect:
            case Dialect.MONOTONIC:
                return _json(self._monotonic(line, at, text, records))
            case Dialect.TELEMETRY_ID:
                return _json(self._telemetry_id(line, at, text))
            case Dialect.DOCS_EVENT:
                return _json(self._docs_event(line, at, text))
            case Dialect.DOCS_STATUS:
                return _json(self._docs_status(line, at, text, records))
            case Dialect.PYTHON_REPR:
                return str(self._repr(line, text)).encode()
            case Dialect.STATUS | Dialect.STATUS_WITHOUT_ARANGO | Dialect.STATUS_DUMMY:
                fields = self._status(line, at, text, records)
                if self.service.name == "gnn-trainer" and line is self.service.loading:
                    fields |= {"epoch": self._batch, "loss": loss}
                if self.service.name == "gnn-trainer" and line.kind == "finished":
                    fields["model_filename"] = f"{self._env.get('MODEL_OUTPUT', 'model')}.pt"
                return _json(fields)

    def _names(self) -> dict[str, object]:
        return {
            "queue_id": self._env["QUEUE_ID"],
            "symbol": self._env["SYMBOL"],
            "type": self._env["TYPE"],
        }

    def _status(self, line: Line, at: float, text: str, records: int) -> dict[str, object]:
        dummy = self.service.dialect is Dialect.STATUS_DUMMY
        fields: dict[str, object] = {"event": line.kind} | self._names()
        fields |= {"producer": self._env["TELEMETRY_PRODUCER_ID"], "sent_at": at, "status": line.kind}
        fields |= {"message": text, "finished": line.finished, "records_written": records}
        if dummy:
            fields["time_range"] = self._env.get("TIME_RANGE")
        # The others read KAFKA_USER_CONSUMER or KAFKA_USER_PRODUCER, which the launcher does not set.
        fields |= {
            "kafka": self._env["KAFKA_BOOTSTRAP_SERVERS"],
            "kafka_user": self._env["KAFKA_USER"] if dummy else None,
            "kafka_topic": self._env["KAFKA_TOPIC"],
        }
        if dummy:
            fields["k8s_namespace"] = self._env.get("K8S_NAMESPACE")
        if self.service.dialect is not Dialect.STATUS_WITHOUT_ARANGO:
            fields |= {"arango_url": self._env["ARANGO_URL"], "arango_db": self._env["ARANGO_DB"]}
        if dummy:
            fields |= {"loader_image": None, "consumer_image": None}
        elif self.service.dialect is Dialect.STATUS:
            fields["collection_name"] = self._env["COLLECTION_NAME"]
        return fields | _error(line)

    def _monotonic(self, line: Line, at: float, text: str, records: int) -> dict[str, object]:
        return {
            "producer_id": self._env["TELEMETRY_PRODUCER_ID"],
            "timestamp": round(at - self._booted_at, 3),
            "status": line.kind,
            "message": text,
            "finished": line.finished,
            "records_written": records,
        } | _error(line)

    def _telemetry_id(self, line: Line, at: float, text: str) -> dict[str, object]:
        producer = self._env["TELEMETRY_PRODUCER_ID"]
        return {
            "queue_id": self._env["QUEUE_ID"],
            "telemetry_id": producer,
            "status": line.kind,
            "message": text,
            "timestamp": at,
            "producer": producer,
            "finished": line.finished,
        }

    def _docs_event(self, line: Line, at: float, text: str) -> dict[str, object]:
        payload: dict[str, object] = {}
        if line.kind == "started":
            payload = {"service_version": "v1.2.0"}
        elif line.kind == "loading":
            payload = {"progress": round(min(1.0, self.records / 1e5), 3), "details": text}
        elif line.kind == "error":
            payload = {"reason": text, "code": 500}
        moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "queue_id": self._env["QUEUE_ID"],
            "event": line.kind,
            "timestamp": moment,
            "payload": payload,
        }

    def _docs_status(self, line: Line, at: float, text: str, records: int) -> dict[str, object]:
        return {
            "queue_id": self._env["QUEUE_ID"],
            "producer": self._env["TELEMETRY_PRODUCER_ID"],
            "symbol": self._env["SYMBOL"],
            "type": self._env["TYPE"],
            "status": line.kind,
            "message": text,
            "records_written": records,
            "finished": line.finished,
            "timestamp": at,
        }

    def _repr(self, line: Line, text: str) -> dict[str, object]:
        return {
            "queue_id": self._env["QUEUE_ID"],
            "status": line.kind,
            "message": text,
            "finished": line.finished,
            "error_message": line.error_message,
        }


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """When things happen in a life; seconds count from the start of the process, `epoch` is that moment."""

    epoch: float
    turn_seconds: float  # the story takes its turn: the silence begins, the stop command comes …
    until_seconds: float  # nothing is told from here on
    gap_seconds: float | None = None  # between two `loading`; None: the service's usual one


def life(
    process: Process, story: Story, random_source: random.Random, course: Course, *, pinged: bool = False
) -> Iterator[Timed]:
    """Tell a whole life: (seconds from the start of the process, value), in the order of arrival."""
    words = list(_words(process, story, random_source, course))
    if pinged:
        words += _pongs(process, random_source, course)
    arrivals = [(at + random_source.uniform(*_SEND_SECONDS), value) for at, value in words]
    yield from sorted(arrival for arrival in arrivals if arrival[0] < course.until_seconds)


def ending(service: Service, story: Story) -> tuple[Line, ...]:
    """Give the last words that a story ends with; none where it ends in silence or not at all."""
    return {
        Story.FATAL: service.fatal,
        Story.FINISH: service.finish,
        Story.STOP: service.stop,
        Story.TERMINATE: service.terminate,
    }.get(story, ())


def last_words(process: Process, story: Story, random_source: random.Random, course: Course) -> Iterator[Timed]:
    """Say the lines of an ending one right after the other, the first at the turn."""
    at = course.turn_seconds
    for line in ending(process.service, story):
        yield at, process.say(line, course.epoch + at)
        at += random_source.uniform(*_BETWEEN_LAST_WORDS_SECONDS)


def _words(process: Process, story: Story, random_source: random.Random, course: Course) -> Iterator[Timed]:
    if story is Story.MUTE:
        return
    yield 0.0, process.started(course.epoch)
    if story is Story.STARTED_ONLY:
        return
    at = random_source.uniform(*_STARTED_TO_OPENING_SECONDS)
    if (opening := process.opening(course.epoch + at)) is not None:
        yield at, opening
    if story is Story.OPENING_ONLY:
        return
    if story is Story.MISFED:
        yield from _misfed(process, random_source, course, at)
        return
    yield from _work(process, story, random_source, course, at)
    yield from last_words(process, story, random_source, course)


def _work(process: Process, story: Story, random_source: random.Random, course: Course, at: float) -> Iterator[Timed]:
    service = process.service
    gap = service.gap_seconds if course.gap_seconds is None else course.gap_seconds
    until = course.until_seconds if story in _GO_ON else course.turn_seconds
    while True:
        pause = gap if service.steady else gap * random_source.uniform(*_GAP_SPREAD)
        if at + pause >= until:
            return
        if story is Story.BAD_RECORDS and random_source.random() < _BAD_RECORD_CHANCE:
            wrong = at + pause * random_source.uniform(*_SHARE_OF_GAP_UNTIL_BAD_RECORD)
            yield wrong, process.say(random_source.choice(service.bad_record), course.epoch + wrong)
        at += pause
        value = process.loading(course.epoch + at)
        if value is None:
            return
        yield at, value


def _misfed(process: Process, random_source: random.Random, course: Course, at: float) -> Iterator[Timed]:
    """Report each record as broken, as arango-candles does with what loader-api-candles publishes."""
    line = Line("error", process.service.bad_record[-1].text, error_message="'timestamp'")
    at += course.turn_seconds
    while at < course.until_seconds:
        yield at, process.say(line, course.epoch + at)
        at += random_source.uniform(*_MISFED_SECONDS)


def _pongs(process: Process, random_source: random.Random, course: Course) -> Iterator[Timed]:
    at = random_source.uniform(*_PING_SECONDS)
    while at < course.until_seconds:
        moment = course.epoch + at
        if (value := process.pong(moment, moment - _PING_ON_ITS_WAY_SECONDS)) is not None:
            yield at, value
        at += random_source.uniform(*_PING_SECONDS)


def _error(line: Line) -> dict[str, object]:
    return {} if line.error_message is None else {"error_message": line.error_message}


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields).encode()
