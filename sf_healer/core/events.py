"""What a worker of the platform says: one message of `queue-events` becomes a Report or a Malformed.

Here lives every dialect of the platform's telemetry (docs/reports.md names them) and nothing else: which Job
a report belongs to is identity's question, what follows from it is state's.

Rules:
- `status` decides the kind; a dialect without it (`pong`, the documented form) uses `event`.
- The producer is `producer`, else `producer_id`, else `telemetry_id`: all hold the Job's telemetry id.
- The payload's own clock is never read: one service sends a monotonic one. Kafka's timestamp is used instead.
- Python writes NaN and Infinity into JSON (a trainer's loss does become NaN), so they are accepted.
- What does not name a status and at least one identity is Malformed, with a reason that a metric can count.
"""

import json
from enum import IntEnum, StrEnum

import msgspec


class Kind(IntEnum):
    """What a report says; the numbers are on the evidence log and must not change."""

    STARTED = 0
    LOADING = 1
    ERROR = 2
    FINISHED = 3
    INTERRUPTED = 4
    PONG = 5


class MalformedReason(StrEnum):
    """Why a message is not a report."""

    NULL = "null"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    NOT_OBJECT = "not_object"
    WRONG_TYPE = "wrong_type"
    NO_STATUS = "no_status"
    UNKNOWN_STATUS = "unknown_status"
    NO_IDENTITY = "no_identity"
    IDENTITY_TOO_LONG = "identity_too_long"


class Report(msgspec.Struct, frozen=True, gc=False):
    """One report of one worker.

    `records_written` is -1 where the message gives none or a senseless one; it is not monotonic across kinds.
    `detail` is the text of an `error`, cut to DETAIL_CHARACTERS; empty for every other kind.
    """

    kind: Kind
    producer: str = ""
    queue_id: str = ""
    finished: bool = False
    records_written: int = -1
    detail: str = ""


class Malformed(msgspec.Struct, frozen=True):
    """A message that is no report; `detail` is for a person."""

    reason: MalformedReason
    detail: str = ""


# A Kubernetes object name has at most 253 characters; a queue id has no limit in the platform's code, but
# one that is longer than this cannot be the name of anything.
IDENTITY_CHARACTERS = 512
DETAIL_CHARACTERS = 200
RECORDS_WRITTEN_LIMIT = 2**62

_KINDS = {kind.name.lower(): kind for kind in Kind}


class Message(msgspec.Struct, gc=False):
    """The fields of all dialects that mean something here; msgspec skips the others, making no objects."""

    status: str = ""
    event: str = ""
    producer: str = ""
    producer_id: str = ""
    telemetry_id: str = ""
    queue_id: str = ""
    finished: bool = False
    records_written: int = -1


class Sign(msgspec.Struct, gc=False):
    """The fields that a sign of life needs: half of a Message's, for they are most of what is read."""

    status: str = ""
    producer: str = ""
    queue_id: str = ""
    records_written: int = -1


#: Python's parser refuses a text for the digits of one number in it: for more than 4,300 by default, never for so many.
_MOST_DIGITS = 640

#: Read what the services send. Refuse (UNREADABLE) much that `decode` still understands.
read = msgspec.json.Decoder(Message).decode
read_sign = msgspec.json.Decoder(Sign).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)

#: The `status` of a sign of life, by far the most of all reports.
SIGN_OF_LIFE = Kind.LOADING.name.lower()


def decode(value: bytes | None) -> Report | Malformed:
    """Decode one message value; never raises.

    The typed decoder takes what the services send; whatever it refuses is looked at again field by field, so
    that an odd value in a field nobody reads (a string as time, NaN as loss) does not cost a sign of life.
    """
    if value is None:
        return Malformed(MalformedReason.NULL)
    try:
        wire = read(value)
    except UNREADABLE:
        return _sign_in(value) or _decode_leniently(value)
    kind = _KINDS.get(wire.status or wire.event)
    producer = wire.producer or wire.producer_id or wire.telemetry_id
    if (
        kind is None
        or kind is Kind.ERROR
        or not (producer or wire.queue_id)
        or len(producer) > IDENTITY_CHARACTERS
        or len(wire.queue_id) > IDENTITY_CHARACTERS
    ):
        return _decode_leniently(value)
    return Report(kind, producer, wire.queue_id, wire.finished, sensible(wire.records_written))


def _integer(digits: str) -> int | float:
    """Read an integer; one that is longer than any that means something is as good as infinite, and costs its field."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


_read_any = json.JSONDecoder(parse_int=_integer).decode


def _decode_leniently(value: bytes) -> Report | Malformed:
    try:
        message = _read_any(value.decode())  # json.loads would take bytes for UTF-16 or UTF-32 too
    except UnicodeDecodeError as error:
        return Malformed(MalformedReason.NOT_UTF8, str(error))
    except RecursionError:
        return Malformed(MalformedReason.TOO_DEEP)
    except ValueError as error:
        return Malformed(MalformedReason.NOT_JSON, str(error)[:DETAIL_CHARACTERS])
    if not isinstance(message, dict):
        return Malformed(MalformedReason.NOT_OBJECT, type(message).__name__)
    return _report_from(message)


def _sign_in(value: bytes) -> Report | None:
    """Find a sign of life in a message that is broken only where a sign of life is not read.

    For a Job that was named before nothing else is read (core/combine.py): the same message has to count for a new one.
    """
    try:
        sign = read_sign(value)
    except UNREADABLE:
        return None
    return report_of(sign) if sign.status == SIGN_OF_LIFE else None


def report_of(sign: Sign) -> Report | None:
    """Give what `decode` gives for a sign of life that names both its producer and its queue; None for any other."""
    if not (0 < len(sign.producer) <= IDENTITY_CHARACTERS and 0 < len(sign.queue_id) <= IDENTITY_CHARACTERS):
        return None
    return Report(Kind.LOADING, sign.producer, sign.queue_id, records_written=sensible(sign.records_written))


def _report_from(message: dict[str, object]) -> Report | Malformed:
    status = message.get("status") or message.get("event")
    if status is None or status == "":
        return Malformed(MalformedReason.NO_STATUS)
    if not isinstance(status, str):
        return Malformed(MalformedReason.WRONG_TYPE, f"status is {type(status).__name__}")
    kind = _KINDS.get(status)
    if kind is None:
        return Malformed(MalformedReason.UNKNOWN_STATUS, _printable(status))
    producer = message.get("producer") or message.get("producer_id") or message.get("telemetry_id") or ""
    queue_id = message.get("queue_id") or ""
    if not isinstance(producer, str) or not isinstance(queue_id, str):
        odd = "queue_id" if isinstance(producer, str) else "producer"
        return Malformed(MalformedReason.WRONG_TYPE, f"{odd} is no string")
    if not (producer or queue_id):
        return Malformed(MalformedReason.NO_IDENTITY)
    if len(producer) > IDENTITY_CHARACTERS or len(queue_id) > IDENTITY_CHARACTERS:
        return Malformed(MalformedReason.IDENTITY_TOO_LONG, f"{max(len(producer), len(queue_id))} characters")
    if not (_encodable(producer) and _encodable(queue_id)):
        return Malformed(MalformedReason.NOT_UTF8, "an identity holds half a surrogate pair")
    return Report(
        kind,
        producer,
        queue_id,
        message.get("finished") is True,
        sensible(message.get("records_written")),
        _detail(message) if kind is Kind.ERROR else "",
    )


def sensible(records_written: object) -> int:
    """Give a number of records as it counts: -1 for none and for one that cannot be."""
    if type(records_written) is int and 0 <= records_written < RECORDS_WRITTEN_LIMIT:
        return records_written
    return -1


def _detail(message: dict[str, object]) -> str:
    """Say what an `error` reported: `error_message` where there is one, else `message`, else the payload."""
    for field in ("error_message", "message", "payload"):
        text = message.get(field)
        if text:
            return _printable(text if isinstance(text, str) else _as_json(text))
    return ""


def _as_json(payload: object) -> str:
    try:
        return json.dumps(payload)
    except RecursionError:  # the encoder stands a few frames deeper than the decoder that could still read it
        return "(nested too deep to show)"


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:DETAIL_CHARACTERS]


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
