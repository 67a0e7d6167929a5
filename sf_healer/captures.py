"""Captures as files: a topic's records as lines of JSON. The one reader of `feed` and `replay`; nothing connects.

One line is one record in order of arrival: {"at": epoch seconds, "partition": n, "key": text or null,
"value_b64": base64 or null}; where the record has headers, also "headers": [[name, base64 or null], …]. Other fields
are passed over, and so are blank lines; headers of another shape are none. Nothing here decodes a report: what is
malformed stays exactly as malformed.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import msgspec

_DAY_SECONDS = 86_400.0
_GZIP = b"\x1f\x8b"
#: The year 9999. Above it lie milliseconds taken for seconds, of any date there can be.
LATEST_SECONDS = 253_402_300_799
Seconds = Annotated[float, msgspec.Meta(ge=0, le=LATEST_SECONDS)]


class CaptureError(ValueError):
    """A capture that cannot be read or sent; the message names the line."""


class _Bare(msgspec.Struct, frozen=True):
    """One record without its headers."""

    at: Seconds
    partition: Annotated[int, msgspec.Meta(ge=0)] = 0
    key: str | None = None
    value: bytes | None = msgspec.field(name="value_b64", default=None)  # msgspec writes bytes as base64


class Line(_Bare, frozen=True):
    """One record of a capture."""

    headers: tuple[tuple[str, bytes | None], ...] | msgspec.UnsetType = (
        msgspec.UNSET
    )  # not written where there are none


def read(source: Iterable[bytes]) -> Iterator[Line]:
    """Read the lines of a capture; raises CaptureError at the first that is none, and where an archive breaks off."""
    return (line for _, line in _numbered(source))


def _numbered(source: Iterable[bytes]) -> Iterator[tuple[int, Line]]:
    number = 0
    try:
        for text in source:
            number += 1
            if text.strip():
                yield number, _line(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:  # msgspec passes the last two on
        raise CaptureError(f"line {number} is no record of a capture: {problem}") from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise CaptureError(f"the file cannot be read after line {number}: {problem}") from problem


def _line(text: bytes) -> Line:
    """Decode a record; whoever else writes captures may have headers of his own."""
    try:
        return _DECODER.decode(text)
    except (msgspec.ValidationError, UnicodeDecodeError):
        bare = _BARE_DECODER.decode(text)
        return Line(bare.at, bare.partition, bare.key, bare.value)


def read_file(
    path: Path, *, since: float = math.inf, until: float = math.inf, longest_pause_seconds: float = math.inf
) -> Iterator[Line]:
    """Read a capture file, plain or gzip; raises CaptureError that names file and line.

    Refused is also a longer pause: after `since` (epoch seconds), before a line, or before `until`; lines dated after
    that are no matter.
    """
    try:
        with path.open("rb") as raw, decompressed(raw) as source:
            yield from _without_pause(_numbered(source), since, until, longest_pause_seconds)
    except (CaptureError, OSError) as problem:
        raise CaptureError(f"{path}: {problem}") from problem


def _without_pause(
    lines: Iterable[tuple[int, Line]], since: float, until: float, longest_seconds: float
) -> Iterator[Line]:
    newest, newest_number = since, 0  # no line yet
    for number, line in lines:
        if line.at <= until:
            if line.at - newest > longest_seconds:
                pause = _in_days(line.at - newest, longest_seconds)
                before = f"line {newest_number}" if newest_number else f"the beginning ({since:.0f})"
                raise CaptureError(f"line {number} is dated {line.at:.0f}, {pause} after {before}")
            if not newest_number or line.at >= newest:
                newest, newest_number = line.at, number
        yield line
    if until != math.inf and until - newest > longest_seconds:
        pause = _in_days(until - newest, longest_seconds)
        what = f"line {newest_number}, the newest, is dated" if newest_number else "the beginning is"
        raise CaptureError(f"{what} {newest:.0f}, {pause} before {until:.0f}")


def _in_days(seconds: float, most_seconds: float) -> str:
    return f"{seconds / _DAY_SECONDS:,.1f} days (at most {most_seconds / _DAY_SECONDS:g})"


@contextmanager
def decompressed(raw: IO[bytes]) -> Iterator[Iterable[bytes]]:
    """Give the lines of an open file, whether it is compressed or not; its name says nothing about that."""
    with io.BufferedReader(raw) as buffered:  # type: ignore[type-var]  # a file is a raw stream to another buffer
        if buffered.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
            with gzip.GzipFile(fileobj=buffered) as lines:
                yield lines
        else:
            yield buffered


def written(line: Line) -> bytes:
    """Give a record as the line that `read` reads."""
    return _ENCODER.encode(line) + b"\n"


_DECODER = msgspec.json.Decoder(Line)
_BARE_DECODER = msgspec.json.Decoder(_Bare)
_ENCODER = msgspec.json.Encoder()
