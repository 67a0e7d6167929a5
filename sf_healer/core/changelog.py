"""How state lies in the changelogs of our tables, and how it is read back. Pure; bytes in, bytes out.

Every value is a msgpack array that begins `[schema version, offset of the newest record of the log in it]`. A
worker that was paused may wake up and write once more after another has taken its partition over: its record
is the last on the changelog and older than what the other wrote. So recovery keeps the highest offset.
The offsets of the evidence log may begin anew: then how often they did stands above them (docs/decisions/0030).
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from sf_healer.core.common import share_texts
from sf_healer.core.partition import Changes, Meta
from sf_healer.core.remembered import Remembered, recalled
from sf_healer.core.state import JobState
from sf_healer.core.wire import other_version

SCHEMA_VERSION = 2
#: Of an evidence partition's own state once its log has begun anew. A release that knows no epochs must not go on from
#: it: all that it wrote would lose against what is stored.
EPOCH_VERSION = 3
_OFFSET_BITS = 48
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
_states = msgspec.msgpack.Decoder(Remembered)
_plain_states = msgspec.msgpack.Decoder(tuple[int, int, JobState])
_metas = msgspec.msgpack.Decoder(Meta)


def offset_of(value: bytes | None) -> int:
    """Return the offset that a value was written at, its log's epoch above it; -1 for none."""
    return -1 if value is None else _heads.decode(value).offset


class InOrder:
    """Which records of a changelog are to be applied, as they come, to what a store holds already."""

    def __init__(self, stored: Callable[[bytes], bytes | None] | None) -> None:
        """Take how a key is looked up in the store; None where the store is empty."""
        self._stored = stored
        self._newest: dict[bytes, int] = {}

    def newest(self, records: Iterable[tuple[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
        """Give what the next records of the changelog come to: keys to values, None for a key that is dropped.

        A record counts if it is at least as new as what is known of its key. A tombstone has no offset, and
        always counts: a key is dropped long after its last change.
        """
        newest, stored, decode = self._newest, self._stored, _heads.decode
        changes: dict[bytes, bytes | None] = {}
        for key, value in records:
            if value is None:
                newest[key] = -1
                changes[key] = None
                continue
            offset = decode(value).offset
            known = newest.get(key)
            if known is None:
                known = -1 if stored is None else offset_of(stored(key))
            if offset >= known:
                newest[key] = offset
                changes[key] = value
            else:
                newest[key] = known
        return changes


def persisted_after(known: int | None, written: int, count: int = 1) -> int | None:
    """Return from which changelog offset a recovery may go on, once `count` records of ours lie from `written` on.

    It moves only where our records are the very next ones: a hole means that another worker has written meanwhile,
    and what it wrote is not in this store yet.
    """
    return written + count - 1 if written == (-1 if known is None else known) + 1 else known


# ---- the `jobs` table


def writes_of(partition: int, changes: Changes, offset: int) -> dict[bytes, bytes | None]:
    """Give what an evidence partition's changes come to, in the order to write it; None removes a key.

    `offset` is that of the newest evidence in it, in the log that the changes are of.
    """
    place = (changes.log_epoch << _OFFSET_BITS) + offset
    writes: dict[bytes, bytes | None] = {
        key.encode(): _encode((SCHEMA_VERSION, place, state)) for key, state in changes.jobs.items()
    }
    writes.update({key.encode(): None for key in changes.forgotten})
    if changes.meta is not None:
        version = EPOCH_VERSION if changes.log_epoch else SCHEMA_VERSION
        writes[meta_key(partition)] = _encode((version, place, changes.meta))
    return writes


def meta_key(partition: int) -> bytes:
    """Name the key under which an evidence partition's own state is stored."""
    return _META_KEY % partition


def meta_of(value: bytes | None) -> Meta | None:
    """Read an evidence partition's own state as stored; raises UnknownVersion."""
    return None if value is None else _decode(_metas, value, newest=EPOCH_VERSION)


def states_of(items: Iterable[tuple[bytes, bytes]]) -> list[JobState]:
    """Read the Jobs among the stored items of one evidence partition; raises UnknownVersion."""
    return [share_texts(_state_of(value)) for key, value in items if not key.startswith(b"\x00")]


def _state_of(value: bytes) -> JobState:
    try:
        version, _, state = _plain_states.decode(value)
    except msgspec.DecodeError:  # with a field that is seldom set, or of another version
        return recalled(_decode(_states, value))
    return state if version == SCHEMA_VERSION else recalled(_decode(_states, value))


def _decode(decoder: "msgspec.msgpack.Decoder[T]", value: bytes, *, newest: int = SCHEMA_VERSION) -> T:
    version, _, body = _envelopes.decode(value)
    if not SCHEMA_VERSION <= version <= newest:
        raise UnknownVersion(other_version("jobs table", version, newest))
    return decoder.decode(body)
