"""What else arrives on `queue-events`: bytes that are no report, reports of nobody, odd fields. Pure."""

import json
import random
from collections.abc import Callable, Mapping

_DEPTH = 20_000  # deeper than any Python reads JSON: 3.12 and later go down to some 10,000
_HUGE_BYTES = 100_000
_NOBODY = "loader-ethusdt-api-trades-2024-06-01-nobody"

_BYTES: tuple[bytes, ...] = (
    b"",
    b"null",
    b"true",
    b"42",
    b"NaN",
    b"{",
    b"{}",
    b"[]",
    b'"loading"',
    b"\xff\xfe\x00\x01\x80",
    b"\xef\xbb\xbf{}",
    b"[" * _DEPTH,
    b'{"status": "loading", "message": "' + b"x" * _HUGE_BYTES,  # cut off in transit
    str({"queue_id": _NOBODY, "status": "loading", "finished": False, "error": None}).encode(),
)

_FIELDS: tuple[Mapping[str, object], ...] = (
    {"queue_id": _NOBODY, "producer": "arango-connector__nobody"},  # no status
    {"queue_id": _NOBODY, "producer": "arango-connector__nobody", "status": "loading", "event": "loading"},
    {"queue_id": _NOBODY, "producer": "arango-connector__nobody", "status": "error", "finished": True},
    {"queue_id": 7, "producer": ["arango-connector__nobody"], "status": "loading"},
    {"queue_id": _NOBODY, "status": {"is": "loading"}},
    {"queue_id": _NOBODY, "producer": "arango-connector__nobody", "status": "exploded"},
)


def garbage(random_source: random.Random) -> bytes:
    """Give a value that names no Job that exists."""
    if random_source.random() < len(_FIELDS) / (len(_FIELDS) + len(_BYTES)):
        return json.dumps(random_source.choice(_FIELDS)).encode()
    return random_source.choice(_BYTES)


_ODD: tuple[Callable[[dict[str, object]], object], ...] = (
    lambda fields: fields.update(sent_at="2025-09-06T03:27:26Z"),
    lambda fields: fields.update(sent_at=1_757_129_258_392.0),  # milliseconds
    lambda fields: fields.update(sent_at=-1.0),
    lambda fields: fields.update(sent_at=None),
    lambda fields: fields.update(sent_at=4e18),
    lambda fields: fields.update(status="exploded", event="exploded"),
    lambda fields: fields.update(status=None, event=None),
    lambda fields: fields.update(finished="no"),
    lambda fields: fields.update(records_written="many"),
)


def odd_report(random_source: random.Random, env: Mapping[str, str]) -> bytes:
    """Give a report of a real Job with one field gone wrong; whether it counts is the reader's choice."""
    fields: dict[str, object] = {
        "event": "loading",
        "queue_id": env["QUEUE_ID"],
        "producer": env["TELEMETRY_PRODUCER_ID"],
        "sent_at": 1.0,
        "status": "loading",
        "message": "odd",
        "finished": False,
        "records_written": 1,
    }
    random_source.choice(_ODD)(fields)
    return json.dumps(fields).encode()
