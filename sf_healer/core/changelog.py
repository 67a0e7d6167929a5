"""How state lies in the changelogs of our tables, and how it is read back. Pure; bytes in, bytes out.

Every value is a msgpack array that begins `[schema version, offset of the newest record of the log in it]`. A
worker that was paused may wake up and write once more after another has taken its partition over: its record
is the last on the changelog and older than what the other wrote. So recovery keeps the highest offset.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from sf_healer.core.partition import Changes, Meta
from sf_healer.core.partitioning import partition_of
from sf_healer.core.state import JobState

SCHEMA_VERSION = 1
_META_KEY = b"\x00partition/%d"  # no Job's key begins with a NUL

T = TypeVar("T")


class UnknownVersion(Exception):  # noqa: N818  # raised as what it is
    """A value of a version this code does not know: starting with it would read it wrongly."""


class _Head(msgspec.Struct, array_like=True):
    version: int
    offset: int


_encode = msgspec.msgpack.Encoder().encode
_heads = msgspec.msgpack.Decoder(_Head)
_envelopes = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
_states = msgspec.msgpack.Decoder(JobState)
_metas = msgspec.msgpack.Decoder(Meta)


def offset_of(value: bytes | None) -> int:
    """Return the offset that a value was written at; -1 for none."""
    return -1 if value is None else _heads.decode(value).offset


class InOrder:
    """Which records of a changelog are to be applied, as they come, to what a store holds already."""

    def __init__(self, stored: Callable[[bytes], bytes | None]) -> None:
        self._stored = stored
        self._newest: dict[bytes, int] = {}

    def counts(self, key: bytes, value: bytes | None) -> bool:
        """Say whether the next record is at least as new as what is known of its key.

        A tombstone has no offset, and always counts: a key is dropped long after its last change.
        """
        if key not in self._newest:
            self._newest[key] = offset_of(self._stored(key))
        offset = offset_of(value)
        if value is not None and offset < self._newest[key]:
            return False
        self._newest[key] = offset
        return True


def persisted_after(known: int | None, written: int) -> int | None:
    """Return from which changelog offset a recovery may go on, once a record of ours lies at `written`.

    It moves only where our record is the very next one: a hole means that another worker has written meanwhile,
    and what it wrote is not in this store yet.
    """
    return written if written == (-1 if known is None else known) + 1 else known


# ---- the `jobs` table


def writes_of(partition: int, changes: Changes, offset: int) -> dict[bytes, bytes | None]:
    """Give what an evidence partition's changes come to, in the order to write it; None removes a key.

    `offset` is that of the newest evidence in it.
    """
    writes: dict[bytes, bytes | None] = {
        key.encode(): _encode((SCHEMA_VERSION, offset, state)) for key, state in changes.jobs.items()
    }
    writes.update({key.encode(): None for key in changes.forgotten})
    if changes.meta is not None:
        writes[_META_KEY % partition] = _encode((SCHEMA_VERSION, offset, changes.meta))
    return writes


class Stored(msgspec.Struct):
    """What is stored of one evidence partition."""

    meta: Meta | None = None
    states: list[JobState] = []


def stored_of(items: Iterable[tuple[bytes, bytes]], wanted: set[int], partitions: int) -> dict[int, Stored]:
    """Read the wanted evidence partitions out of a store, which may hold others; raises UnknownVersion."""
    found = {number: Stored(states=[]) for number in sorted(wanted)}
    for number, key, value in _addressed(items, partitions):
        if number not in found:
            continue
        if key.startswith(b"\x00"):
            found[number].meta = _decode(_metas, value)
        else:
            found[number].states.append(_decode(_states, value))
    return found


def _addressed(items: Iterable[tuple[bytes, bytes]], partitions: int) -> Iterator[tuple[int, bytes, bytes]]:
    for key, value in items:
        of_partition = key.startswith(b"\x00")
        yield int(key.rpartition(b"/")[2]) if of_partition else partition_of(key.decode(), partitions), key, value


def _decode(decoder: "msgspec.msgpack.Decoder[T]", value: bytes) -> T:
    version, _, body = _envelopes.decode(value)
    if version != SCHEMA_VERSION:
        raise UnknownVersion(f"jobs table of schema version {version}; this worker knows {SCHEMA_VERSION}")
    return decoder.decode(body)
