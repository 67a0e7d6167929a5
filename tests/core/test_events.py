"""What the platform's services say, in every dialect, and what is no report at all."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sf_healer.core.events import (
    DETAIL_CHARACTERS,
    IDENTITY_CHARACTERS,
    Kind,
    Malformed,
    MalformedReason,
    Report,
    decode,
)
from tests.lab.captures import generate_capture

QUEUE = "loader-opusdt-api-candles-5m-2025-06-01-8q9xSR"
PRODUCER = "arango-connector__8q9xSR"


def message(**fields):
    return json.dumps(fields).encode()


def event_status(status, **changes):
    """Write a message as the arango services do (dialect A)."""
    known = {
        "event": status,
        "queue_id": QUEUE,
        "symbol": "OPUSDT",
        "type": "api_candles_5m",
        "producer": PRODUCER,
        "sent_at": 1757129258.392596,
        "status": status,
        "message": "Consumer started, processing data.",
        "finished": False,
        "records_written": 100,
        "kafka": "k3-kafka-bootstrap.kafka:9093",
        "kafka_user": None,
        "kafka_topic": QUEUE,
        "arango_url": "http://arango.example:8529",
        "arango_db": "streamforge",
        "collection_name": "opusdt_candles_5m_2025_06_01",
    }
    return message(**{**known, **changes})


WELL_FORMED = {
    "A: a consumer's progress": (
        event_status("loading"),
        Report(Kind.LOADING, PRODUCER, QUEUE, records_written=100),
    ),
    "A: a trainer's epoch whose loss became NaN": (
        event_status("loading", epoch=3, loss=float("nan")),
        Report(Kind.LOADING, PRODUCER, QUEUE, records_written=100),
    ),
    "A: a consumer's bad record": (
        event_status("error", records_written=0, message="JSON decode error", error_message="Expecting value"),
        Report(Kind.ERROR, PRODUCER, QUEUE, records_written=0, detail="Expecting value"),
    ),
    "A: loader-producer has no error_message": (
        event_status("error", finished=True, message="boom"),
        Report(Kind.ERROR, PRODUCER, QUEUE, finished=True, records_written=100, detail="boom"),
    ),
    "A2: a websocket loader without ArangoDB's names": (
        message(event="started", queue_id=QUEUE, producer="loader-ws__8q9xSR", status="started", finished=False),
        Report(Kind.STARTED, "loader-ws__8q9xSR", QUEUE),
    ),
    "A3: the dummy's end": (
        event_status("finished", finished=True, records_written=999, time_range=None, k8s_namespace="stf"),
        Report(Kind.FINISHED, PRODUCER, QUEUE, finished=True, records_written=999),
    ),
    "B: no queue id, a monotonic clock": (
        message(
            producer_id="loader-producer__8q9xSR",
            timestamp=8123.456,
            status="loading",
            message="",
            finished=False,
            records_written=1000,
        ),
        Report(Kind.LOADING, "loader-producer__8q9xSR", records_written=1000),
    ),
    "C: the visualizer's telemetry_id, which wins over nothing": (
        message(
            queue_id=QUEUE,
            telemetry_id="visualizer__8q9xSR",
            status="started",
            message="up",
            timestamp=1757129258.4,
            producer="visualizer__8q9xSR",
            finished=False,
        ),
        Report(Kind.STARTED, "visualizer__8q9xSR", QUEUE),
    ),
    "C: telemetry_id alone": (
        message(queue_id=QUEUE, telemetry_id="visualizer__8q9xSR", status="finished", finished=True),
        Report(Kind.FINISHED, "visualizer__8q9xSR", QUEUE, finished=True),
    ),
    "D: a pong has no status": (
        message(event="pong", queue_id=QUEUE, producer=PRODUCER, sent_at=1.0, ping_ts=None, ponged_at=2.0),
        Report(Kind.PONG, PRODUCER, QUEUE),
    ),
    "Docs-1: event, ISO time, a payload, no producer": (
        message(
            queue_id="loader-ws-btcusdt-1672531200",
            event="error",
            timestamp="2023-01-01T00:00:00Z",
            payload={"reason": "refused", "code": 7},
        ),
        Report(Kind.ERROR, queue_id="loader-ws-btcusdt-1672531200", detail='{"reason": "refused", "code": 7}'),
    ),
    "Docs-2": (
        message(
            queue_id=QUEUE,
            producer=PRODUCER,
            symbol="BTCUSDT",
            type="api_trades",
            status="interrupted",
            message="",
            records_written=5,
            finished=True,
            timestamp=1757129258.0,
        ),
        Report(Kind.INTERRUPTED, PRODUCER, QUEUE, finished=True, records_written=5),
    ),
}


@pytest.mark.parametrize(("value", "report"), WELL_FORMED.values(), ids=WELL_FORMED)
def test_every_dialect_of_the_platform_is_a_report(value, report):
    assert decode(value) == report


def test_every_recorded_message_is_a_report_of_its_kind(captures_dir):
    lines = (captures_dir / "dialects.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert samples
    for sample in samples:
        value = base64.b64decode(sample["value_b64"])
        report = decode(value)
        if sample["dialect"] == "python-repr":  # no service sends it
            assert report.reason is MalformedReason.NOT_JSON
            continue
        assert_says(value, sample["kind"])


def test_every_made_up_message_is_a_report_of_its_kind():
    met = set()
    for line in generate_capture(0, with_garbage=False).lines:
        value = base64.b64decode(line["value_b64"])
        said = json.loads(value)
        kind = said.get("status") or said["event"]
        assert_says(value, kind)
        met.add(kind)
    assert met == {kind.name.lower() for kind in Kind}


def assert_says(value: bytes, kind: str) -> None:
    report = decode(value)
    said = json.loads(value)
    assert isinstance(report, Report), said
    assert report.kind.name.lower() == kind, said
    assert report.finished is (said.get("finished") is True), said
    identity = said.get("producer") or said.get("producer_id") or said.get("telemetry_id") or ""
    assert (report.producer, report.queue_id) == (identity, said.get("queue_id", "")), said


NO_REPORT = {
    "no value": (None, MalformedReason.NULL),
    "empty": (b"", MalformedReason.NOT_JSON),
    "a Python repr": (str({"status": "loading", "queue_id": QUEUE}).encode(), MalformedReason.NOT_JSON),
    "cut off": (event_status("loading")[:-1], MalformedReason.NOT_JSON),
    "latin-1": ('{"status": "loading", "queue_id": "é"}'.encode("latin-1"), MalformedReason.NOT_UTF8),
    "UTF-16": ('{"status": "loading", "queue_id": "q"}'.encode("utf-16"), MalformedReason.NOT_UTF8),
    "nested without end": (b"[" * 200_000, MalformedReason.TOO_DEEP),
    "a number longer than Python reads": (b'{"status": ' + b"9" * 5000 + b"}", MalformedReason.WRONG_TYPE),
    "a list": (b"[]", MalformedReason.NOT_OBJECT),
    "a string": (b'"loading"', MalformedReason.NOT_OBJECT),
    "status is a list": (event_status(["loading"]), MalformedReason.WRONG_TYPE),
    "status is a number": (message(status=7, queue_id=QUEUE), MalformedReason.WRONG_TYPE),
    "producer is a number": (event_status("loading", producer=12), MalformedReason.WRONG_TYPE),
    "queue_id is an object": (event_status("loading", queue_id={"id": 1}), MalformedReason.WRONG_TYPE),
    "no status and no event": (message(queue_id=QUEUE, producer=PRODUCER), MalformedReason.NO_STATUS),
    "status and event are null": (
        message(status=None, event=None, queue_id=QUEUE),
        MalformedReason.NO_STATUS,
    ),
    "status and event are empty": (message(status="", event="", queue_id=QUEUE), MalformedReason.NO_STATUS),
    "an unknown status": (event_status("running"), MalformedReason.UNKNOWN_STATUS),
    "a status in capitals": (event_status("LOADING"), MalformedReason.UNKNOWN_STATUS),
    "nobody": (message(status="loading"), MalformedReason.NO_IDENTITY),
    "an error of nobody": (message(status="error", producer=None, queue_id=""), MalformedReason.NO_IDENTITY),
    "half a surrogate pair as producer": (
        b'{"status": "loading", "producer": "\\ud800"}',
        MalformedReason.NOT_UTF8,
    ),
    "a producer too long to name anything": (
        event_status("loading", producer="x" * (IDENTITY_CHARACTERS + 1)),
        MalformedReason.IDENTITY_TOO_LONG,
    ),
    "a queue id too long to name anything": (
        event_status("loading", queue_id="x" * (IDENTITY_CHARACTERS + 1)),
        MalformedReason.IDENTITY_TOO_LONG,
    ),
}


@pytest.mark.parametrize(("value", "reason"), NO_REPORT.values(), ids=NO_REPORT)
def test_what_is_no_report_is_malformed_with_a_reason(value, reason):
    malformed = decode(value)
    assert isinstance(malformed, Malformed)
    assert malformed.reason is reason


def test_an_identity_as_long_as_allowed_is_taken():
    longest = "x" * IDENTITY_CHARACTERS
    assert decode(event_status("loading", producer=longest)).producer == longest


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("sent_at", "yesterday"),
        ("finished", "yes"),
        ("records_written", "many"),
        ("kafka", {}),
        ("message", None),
    ],
)
def test_an_odd_value_in_another_field_does_not_cost_a_sign_of_life(field, odd):
    report = decode(event_status("loading", **{field: odd}))
    assert (report.kind, report.producer, report.queue_id) == (Kind.LOADING, PRODUCER, QUEUE)


@pytest.mark.parametrize("senseless", [-5, 1.5, True, "7", None, 2**62, 10**30])
def test_a_senseless_count_is_no_count(senseless):
    assert decode(event_status("loading", records_written=senseless)).records_written == -1


@pytest.mark.parametrize("status", ["started", "loading", "error", "finished"])
@pytest.mark.parametrize("field", ["epoch", "records_written"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_of_more_digits_than_python_reads_costs_its_field(status, field, sign):
    known = event_status(status, error_message="boom", records_written=None)
    report = decode(known[:-1] + f', "{field}": {sign}{"9" * 5000}}}'.encode())
    assert report == decode(known)
    assert (report.kind, report.records_written) == (Kind[status.upper()], -1)


def test_such_an_integer_is_no_identity_and_an_error_that_shows_one_can_be_read():
    digits = b"9" * 5000
    for field in (b"producer", b"queue_id", b"status"):
        message = b'{"event": "error", "queue_id": "q", "' + field + b'": ' + digits + b"}"
        assert decode(message).reason is MalformedReason.WRONG_TYPE
    shown = decode(b'{"status": "error", "queue_id": "q", "payload": [' + digits + b", " + b"7" * 640 + b"]}").detail
    assert shown.startswith("[Infinity, 777")


@pytest.mark.parametrize("odd", ["true", 1, None, []])
def test_only_true_means_finished(odd):
    assert decode(event_status("error", finished=odd)).finished is False


def test_status_decides_over_event():
    assert decode(message(status="finished", event="loading", queue_id=QUEUE)).kind is Kind.FINISHED


def test_the_text_of_an_error_is_cut_and_safe_to_encode():
    report = decode(event_status("error", error_message="\ud800" + "x" * 1000))
    assert len(report.detail) == DETAIL_CHARACTERS
    assert report.detail.encode()


def test_an_error_may_say_nothing():
    assert decode(message(status="error", queue_id=QUEUE)).detail == ""


@pytest.mark.parametrize("depth", range(900, 1000))
def test_an_error_with_a_payload_nested_almost_too_deep_is_still_an_error(depth):
    payload = b"[" * depth + b"]" * depth
    said = decode(b'{"status": "error", "queue_id": "q", "payload": ' + payload + b"}")
    assert said.kind is Kind.ERROR if isinstance(said, Report) else said.reason is MalformedReason.TOO_DEEP


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [
    "status",
    "event",
    "producer",
    "producer_id",
    "telemetry_id",
    "queue_id",
    "finished",
    "records_written",
    "error_message",
    "message",
    "payload",
]
MESSAGES = st.dictionaries(
    st.sampled_from(FIELDS),
    JSON_VALUES | st.sampled_from([kind.name.lower() for kind in Kind]),
)


@given(st.binary())
@example(b"\xef\xbb\xbf{}")
def test_decoding_never_raises_on_any_bytes(value):
    assert isinstance(decode(value), Report | Malformed)


@given(MESSAGES)
def test_decoding_never_raises_on_any_object_and_gives_what_can_be_encoded(fields):
    decoded = decode(json.dumps(fields).encode())
    if isinstance(decoded, Malformed):
        decoded.detail.encode()
        return
    assert decoded.producer or decoded.queue_id
    for text in (decoded.producer, decoded.queue_id, decoded.detail):
        text.encode()
    assert -1 <= decoded.records_written < 2**62
    assert decoded.detail == "" or decoded.kind is Kind.ERROR


@given(MESSAGES)
def test_a_field_that_nobody_reads_changes_nothing(fields):
    odd = {**fields, "loss": float("nan"), "sent_at": "x", "kafka_user": [None]}
    assert decode(json.dumps(odd).encode()) == decode(json.dumps(fields).encode())
