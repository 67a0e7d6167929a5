"""A dead letter's headers: what is known of a record that could not be used, as it is written and read again.

The value is the record as it came, or its beginning. agents/dead_letters.py sends letters, `sf-healer dead-letters`
shows them.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from sf_healer.core.wire import printable

#: Of a value more than this tells a person no more.
SHOWN_BYTES = 400
#: Whoever may write to the topic may name a reason as long as he likes.
_LONGEST_TEXT = 200


class Header(StrEnum):
    """The names of the headers; numbers are written in digits."""

    REASON = "sf-healer-reason"
    DETAIL = "sf-healer-detail"
    SOURCE_TOPIC = "sf-healer-source-topic"
    SOURCE_PARTITION = "sf-healer-source-partition"
    SOURCE_OFFSET = "sf-healer-source-offset"
    ORIGINAL_SIZE = "sf-healer-original-size"
    SHA256 = "sf-healer-sha256"


class DeadLetter(msgspec.Struct, frozen=True):
    """A letter as a person reads it; what its headers do not tell is empty or None. `at` in epoch seconds."""

    at: float
    reason: str
    source_topic: str
    source_partition: int | None
    source_offset: int | None
    detail: str
    original_size: int | None  # bytes
    sha256: str
    value: str | None  # the beginning of it, as text; None: the record had none


def read(at: float, headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> DeadLetter:
    """Read a letter, whoever wrote it: nothing in it is trusted, and it is no longer than a person reads."""
    told = {name: shown(content or b"", most=_LONGEST_TEXT) for name, content in headers}
    return DeadLetter(
        at=at,
        reason=told.get(Header.REASON, ""),
        source_topic=told.get(Header.SOURCE_TOPIC, ""),
        source_partition=_number(told.get(Header.SOURCE_PARTITION, "")),
        source_offset=_number(told.get(Header.SOURCE_OFFSET, "")),
        detail=told.get(Header.DETAIL, ""),
        original_size=_number(told.get(Header.ORIGINAL_SIZE, "")),
        sha256=told.get(Header.SHA256, ""),
        value=None if value is None else shown(value, most=SHOWN_BYTES),
    )


def shown(content: bytes, *, most: int) -> str:
    """Give the beginning of some bytes as text in one line that moves no terminal's cursor."""
    text, more = content[:most].decode(errors="replace"), ""
    if len(content) > most:
        text, more = text.rstrip("\N{REPLACEMENT CHARACTER}"), "…"  # a character may have been cut in two
    return printable(text) + more


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None
