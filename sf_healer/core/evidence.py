"""The evidence log: every record of `sf-healer-evidence`, as values and as bytes.

A record is a msgpack array `[schema version, [type tag, ...]]`; a bundle of many beats is of another version, for it
has them in columns (Beats), which are written and read without an object for each. Everything that moves the state of
a Job or of an evidence partition is one of these, except the policy file: the same log under the same policies gives
the same state and the same commands.
Append time is not in the record: it is the broker's (LogAppendTime), given beside it.
"""

import sys
from array import array
from enum import StrEnum
from math import nan
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sf_healer.core.commands import Outcome
from sf_healer.core.events import Kind
from sf_healer.core.facts import JobFact
from sf_healer.core.wire import FARTHEST_SECONDS, Count, Moment, Number, Offset, Seconds, other_version

SCHEMA_VERSION = 1
#: Of a bundle whose beats are columns. A worker that knows none must not pass over what they say.
COLUMNS_VERSION = 2
#: From so many beats on they are columns; a few are smaller, and folded faster, as they are.
COLUMNS_FROM = 16


class Beat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest `loading` of one Job in what was gathered of one source partition: a batch, or several."""

    key: str
    source_at: Moment  # Kafka's timestamp of the report, clamped (core/marks.py)
    offset: Offset  # of the newest `loading` combined into this beat
    records_written: Offset  # -1 unknown
    #: The newest source time as it was said, where the bounds have raised it (core/state.py); None: they have not.
    said_at: Moment | None = None


class Word(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest report of any other kind of one Job in what was gathered."""

    key: str
    kind: Kind
    source_at: Moment
    offset: Offset
    finished: bool
    detail: str
    #: The source time as it was said, where the bounds have moved it.
    said_at: Moment | None = None


class Bundle(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """What a batch of one source partition, or several, say of the Jobs of one evidence partition."""

    topic_id: str
    source_partition: Number
    beats: tuple[Beat, ...]
    words: tuple[Word, ...]
    #: What is assumed of the Jobs among them that were not named before (`identity = convention`); they come first. A
    #: record of its own for each would be most of what a new Job costs.
    facts: tuple[JobFact, ...] = ()

    @property
    def size(self) -> int:
        """How many beats and words there are."""
        return len(self.beats) + len(self.words)


class Columns(NamedTuple):
    """The beats of a bundle, field by field, each in the order of the keys."""

    source_at: NDArray[np.float64]
    offset: NDArray[np.int64]
    records_written: NDArray[np.int64]
    said_at: NDArray[np.float64] | None  # NaN where a beat has none; None: none of them has


class Beats(msgspec.Struct, frozen=True, array_like=True):
    """The beats of a bundle in columns: numbers of eight bytes, the lowest first. No key is there twice.

    What is no such record raises ValueError where it is read.
    """

    keys: list[str]
    source_at: bytes
    offset: bytes
    records_written: bytes
    said_at: bytes = b""  # NaN for None; empty: None for all

    @classmethod
    def of(cls, beats: "tuple[Beat, ...]") -> "Beats":
        """Put beats into columns."""
        said = [beat.said_at for beat in beats]
        has_said = said.count(None) < len(said)
        return cls(
            [beat.key for beat in beats],
            _bytes_of("d", [beat.source_at for beat in beats]),
            _bytes_of("q", [beat.offset for beat in beats]),
            _bytes_of("q", [beat.records_written for beat in beats]),
            _bytes_of("d", [nan if at is None else at for at in said]) if has_said else b"",
        )

    def columns(self) -> Columns:
        """Give the numbers."""
        return Columns(
            np.frombuffer(self.source_at, "<f8"),
            np.frombuffer(self.offset, "<i8"),
            np.frombuffer(self.records_written, "<i8"),
            np.frombuffer(self.said_at, "<f8") if self.said_at else None,
        )

    def beats(self, which: "list[int] | None" = None) -> "tuple[Beat, ...]":
        """Give beats as objects: those at these places, or all."""
        if which is None:
            which = list(range(len(self.keys)))
        keys, columns = self.keys, self.columns()
        source_at, offset, written = (column[which].tolist() for column in columns[:3])
        if columns.said_at is None:
            return tuple(map(Beat, map(keys.__getitem__, which), source_at, offset, written))
        said_at = [None if at != at else at for at in columns.said_at[which].tolist()]  # noqa: PLR0124  NaN
        return tuple(map(Beat, map(keys.__getitem__, which), source_at, offset, written, said_at))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def are_of_different_jobs(self) -> bool:
        """Whether no key is there twice."""
        return len(set(self.keys)) == len(self.keys)

    def check(self) -> None:
        """Hold the columns to what a Beat is held to; raises ValueError."""
        columns = self.columns()
        if not self.are_of_different_jobs:
            raise ValueError("a Job that is there twice")
        if any(column is not None and len(column) != len(self.keys) for column in columns):
            raise ValueError("columns of different lengths")
        if not (np.abs(columns.source_at) <= FARTHEST_SECONDS).all():
            raise ValueError("a source time that is none")
        if not (columns.offset >= -1).all() or not (columns.records_written >= -1).all():
            raise ValueError("an offset or a number of records below -1")
        if columns.said_at is not None and (np.abs(columns.said_at) > FARTHEST_SECONDS).any():
            raise ValueError("a time as said that is none")


def _bytes_of(typecode: str, numbers: list[float] | list[int]) -> bytes:
    column: array[Any] = array(typecode, numbers)
    if _SWAPPED:
        column.byteswap()
    return column.tobytes()


_SWAPPED = sys.byteorder == "big"  # columns have the lowest byte first, whoever writes them


class PackedBundle(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """A Bundle whose beats are columns."""

    topic_id: str
    source_partition: Number
    packed: Beats
    words: tuple[Word, ...]
    facts: tuple[JobFact, ...] = ()

    @property
    def size(self) -> int:
        """How many beats and words there are."""
        return len(self.packed) + len(self.words)

    def unpacked(self) -> Bundle:
        """Give the same with a Beat for each."""
        return Bundle(self.topic_id, self.source_partition, self.packed.beats(), self.words, self.facts)


class Mark(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """The claim that what the marked source partitions held up to a moment is on the log before this record.

    `sources` gives for each source partition the W up to which that holds: the broker's append time, in epoch
    seconds, of a record of this very evidence partition, acknowledged before the source's end was read.
    `reset` names source partitions whose offsets were out of range: what lay between is lost. `starts_over` names those
    among them whose offsets began anew, each with the source's end since: from there on nothing was told before.
    """

    topic_id: str
    partitions: Count
    sources: tuple[tuple[Number, Moment], ...]
    reset: tuple[Number, ...] = ()
    starts_over: tuple[tuple[Number, Offset], ...] = ()


class Fact(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """A Job as the cluster shows it.

    `api_at` is the API server's clock when this was put on the log, at the latest (epoch seconds, 0 where it is not
    known): the log's own time tells how far that clock is behind the broker's.
    """

    fact: JobFact
    api_at: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """All Jobs of this evidence partition at one list of the cluster: `(key, uid)`; the others are gone.

    `version` is the list's resourceVersion: a Job with a newer one was created after the list.
    """

    version: Offset
    jobs: tuple[tuple[str, str], ...]


class SnapshotPart(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """What a Snapshot says, of the keys behind `after` up to and with `up_to` only; None: no bound on that side.

    It has a tag of its own because a worker that knew no bounds would take every Job beyond them for gone; of an
    unknown tag it makes a dead letter and nothing else.
    """

    version: Offset
    jobs: tuple[tuple[str, str], ...]
    after: str | None
    up_to: str | None


class HoldCause(StrEnum):
    """Why Jobs are not judged for a while."""

    STOP_COMMAND = "stop_command"


class Hold(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """A stop command for the Job's queue was seen: no verdict of silence for the policy's hold.

    The rest says which record of `queue-control` told it (its Kafka timestamp in epoch seconds), so that one that is
    read again holds nobody again.
    """

    key: str
    cause: HoldCause
    source_partition: Number = -1
    offset: Offset = -1
    source_at: Moment = 0.0


class OutcomeSeen(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """What became of a command, as far as judging the Job again needs it (core/commands.py has the whole)."""

    key: str
    command_id: str
    uid: str
    result: str
    reason: str
    at: Moment
    retry_after: Seconds
    attempt: Count
    new_uid: str = ""
    final: bool = True
    quarantined: bool = False
    needs_person: bool = False
    detail: str = ""  # for people


Evidence = Bundle | Mark | Fact | Snapshot | SnapshotPart | Hold | OutcomeSeen


class UnknownSchema(Exception):  # noqa: N818  # raised as what it is: an unknown schema
    """A record of a version this code does not know: starting with it would fold it wrongly."""


_encode = msgspec.msgpack.Encoder().encode
_envelopes = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_bodies: msgspec.msgpack.Decoder[Evidence] = msgspec.msgpack.Decoder(Evidence)
_packed = msgspec.msgpack.Decoder(PackedBundle)


def encode(evidence: Evidence, *, columns_from: int = COLUMNS_FROM) -> bytes:
    """Encode one record for the log; a bundle of so many beats, each of another Job, has them in columns."""
    if type(evidence) is Bundle and len(evidence.beats) >= columns_from:
        topic_id, source_partition, beats, words, facts = msgspec.structs.astuple(evidence)
        packed = Beats.of(beats)
        if packed.are_of_different_jobs:
            return _encode((COLUMNS_VERSION, PackedBundle(topic_id, source_partition, packed, words, facts)))
    return _encode((SCHEMA_VERSION, evidence))


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode an outcome for the Job's evidence partition."""
    return encode(
        OutcomeSeen(
            outcome.key,
            outcome.command_id,
            outcome.uid,
            outcome.result,
            outcome.reason,
            outcome.at,
            outcome.retry_after,
            outcome.attempt,
            outcome.new_uid,
            outcome.final,
            outcome.quarantined,
            outcome.needs_person,
            outcome.detail,
        )
    )


def decode(value: bytes) -> Evidence:
    """Decode one record of the log.

    Raises UnknownSchema for another version, msgspec.DecodeError for bytes that are no record of ours.
    """
    found = decode_packed(value)
    return found.unpacked() if isinstance(found, PackedBundle) else found


def decode_packed(value: bytes) -> Evidence | PackedBundle:
    """Decode one record of the log, and leave columns as they are; raises as `decode`."""
    try:
        version, body = _envelopes.decode(value)
        if version == SCHEMA_VERSION:
            return _bodies.decode(body)
        if version == COLUMNS_VERSION:
            bundle = _packed.decode(body)
            bundle.packed.check()
            return bundle
    except (UnicodeDecodeError, RecursionError, ValueError) as error:  # msgspec passes these on as they are
        raise msgspec.DecodeError(str(error)) from error
    raise UnknownSchema(other_version("evidence", version, COLUMNS_VERSION))


#: Asks the broker for its time: an evidence record that says nothing (the first W of a partition).
EMPTY = encode(Bundle("", -1, (), ()))
