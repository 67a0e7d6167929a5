"""The evidence log's records survive their own bytes, and foreign bytes are refused, never misread."""

import math
import struct

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sf_healer.core.commands import Outcome, Result
from sf_healer.core.events import Kind
from sf_healer.core.evidence import (
    COLUMNS_FROM,
    COLUMNS_VERSION,
    EMPTY,
    SCHEMA_VERSION,
    Beats,
    Bundle,
    Fact,
    Hold,
    HoldCause,
    Mark,
    OutcomeSeen,
    PackedBundle,
    Snapshot,
    SnapshotPart,
    UnknownSchema,
    decode,
    decode_packed,
    encode,
    encode_outcome,
)
from tests.core.strategies import JOB, T0, TOPIC, a_beat, a_bundle, a_fact, a_word, beats, facts, words

RECORDS = [
    a_bundle(a_beat(T0), a_word(Kind.ERROR, T0 + 1, finished=True, detail="told"), partition=2),
    Mark(TOPIC, 3, ((0, T0), (2, T0 + 0.5)), (1,), ((1, 17),)),
    Fact(a_fact(labels={"team": "data"}, attempt=2, action_id="c1")),
    Snapshot(17, ((JOB, "u1"),)),
    SnapshotPart(17, ((JOB, "u1"),), None, JOB),
    Hold(JOB, HoldCause.STOP_COMMAND),
    OutcomeSeen(JOB, "c1", "u1", "restarted", "verified", T0, 0.0, 1, "u2"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_own_bytes(record):
    assert decode(encode(record)) == record


@given(st.lists(beats(), max_size=3), st.lists(words(), max_size=3), facts())
def test_any_bundle_and_any_fact_survive_their_own_bytes(said, told, fact):
    bundle = Bundle(TOPIC, 0, tuple(said), tuple(told))
    assert decode(encode(bundle)) == bundle
    assert decode(encode(Fact(fact))) == Fact(fact)


def test_the_empty_record_says_nothing_of_anybody():
    assert decode(EMPTY) == Bundle("", -1, (), ())


def test_an_outcome_is_put_on_the_log_with_what_judging_again_needs():
    outcome = Outcome(
        id="o1",
        command_id="c1",
        key=JOB,
        uid="u1",
        result=Result.REFUSED,
        reason="quarantined",
        at=T0,
        retry_after=900.0,
        new_uid="u2",
        attempt=3,
        final=False,
        needs_person=True,
        quarantined=True,
    )
    assert decode(encode_outcome(outcome)) == OutcomeSeen(
        key=JOB,
        command_id="c1",
        uid="u1",
        result="refused",
        reason="quarantined",
        at=T0,
        retry_after=900.0,
        attempt=3,
        new_uid="u2",
        final=False,
        quarantined=True,
        needs_person=True,
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e13])
def test_a_time_that_cannot_be_calculated_with_makes_a_record_none_of_ours(odd):
    """A watermark of it would sweep for ever, and a state of it never be stored."""
    for record in (
        Mark(TOPIC, 1, ((0, odd),)),
        a_bundle(a_beat(odd)),
        a_bundle(a_word(Kind.ERROR, odd)),
        Fact(a_fact(created_at=odd)),
        Hold(JOB, HoldCause.STOP_COMMAND, 0, 1, odd),
    ):
        with pytest.raises(msgspec.DecodeError):
            decode(encode(record))


@pytest.mark.parametrize("record", [Mark(TOPIC, 1, ((2**64 - 1, T0),)), a_bundle(a_beat(T0, offset=2**64 - 1))])
def test_a_number_too_large_to_be_one_of_ours_makes_a_record_none_of_ours(record):
    with pytest.raises(msgspec.DecodeError):
        decode(encode(record))


def test_a_record_of_another_schema_version_stops_the_worker():
    value = msgspec.msgpack.encode((COLUMNS_VERSION + 1, ["z", "a later idea"]))
    with pytest.raises(UnknownSchema, match="version 3"):
        decode(value)


# ---- beats in columns


def version_of(value):
    return msgspec.msgpack.decode(value)[0]


def columns(*numbers, typecode="d"):
    return struct.pack(f"<{len(numbers)}{typecode}", *numbers)


def a_packed(**changes):
    """Make a record of two beats in columns."""
    known = {
        "keys": [JOB, "stf/b"],
        "source_at": columns(T0, T0 + 0.5),
        "offset": columns(7, -1, typecode="q"),
        "records_written": columns(-1, 2**63 - 1, typecode="q"),
    }
    packed = PackedBundle(TOPIC, 0, Beats(**{**known, **changes}), ())
    return msgspec.msgpack.encode((COLUMNS_VERSION, packed))


@given(st.lists(beats(), max_size=4), st.lists(words(), max_size=3), st.lists(facts(), max_size=2), st.integers(0, 4))
def test_any_bundle_survives_its_own_bytes_in_columns_or_without(said, told, assumed, columns_from):
    bundle = Bundle(TOPIC, 3, tuple(said), tuple(told), tuple(assumed))
    value = encode(bundle, columns_from=columns_from)
    of_different_jobs = len({beat.key for beat in said}) == len(said)
    in_columns = len(said) >= columns_from and of_different_jobs
    assert version_of(value) == (COLUMNS_VERSION if in_columns else SCHEMA_VERSION)
    assert decode(value) == bundle
    packed = decode_packed(value)
    assert isinstance(packed, PackedBundle) == in_columns
    assert packed.size == bundle.size == len(said) + len(told)


@given(st.lists(beats(), min_size=1, max_size=6), st.data())
def test_the_beats_at_any_places_are_given_as_they_were(said, data):
    which = data.draw(st.lists(st.sampled_from(range(len(said)))))
    assert Beats.of(tuple(said)).beats(which) == tuple(said[place] for place in which)


def test_beats_are_in_columns_if_there_are_enough_of_them():
    few = a_bundle(*(a_beat(T0, key=f"stf/{number}") for number in range(COLUMNS_FROM - 1)))
    enough = a_bundle(*few.beats, a_beat(T0))
    assert version_of(encode(few)) == SCHEMA_VERSION
    assert version_of(encode(enough)) == COLUMNS_VERSION
    assert version_of(EMPTY) == SCHEMA_VERSION


def test_columns_in_which_a_job_is_there_twice_are_no_record():
    beats = Beats.of((a_beat(T0), a_beat(T0 + 1)))
    with pytest.raises(msgspec.DecodeError, match="there twice"):
        decode(msgspec.msgpack.encode((COLUMNS_VERSION, PackedBundle(TOPIC, 0, beats, ()))))


def test_times_as_said_take_no_place_where_no_beat_has_one():
    without, with_one = (
        a_bundle(a_beat(T0), a_beat(T0, key="stf/other", said_at=said_at)) for said_at in (None, T0 - 9)
    )
    assert decode_packed(encode(without, columns_from=1)).packed.said_at == b""
    value = encode(with_one, columns_from=1)
    assert len(decode_packed(value).packed.said_at) == 16
    assert [beat.said_at for beat in decode(value).beats] == [None, T0 - 9]


def test_columns_have_the_lowest_byte_first_and_their_order_is_that_of_the_keys():
    assert decode(a_packed(said_at=columns(math.nan, 0.0))).beats == (
        a_beat(T0, offset=7, records_written=-1),
        a_beat(T0 + 0.5, key="stf/b", offset=-1, records_written=2**63 - 1, said_at=0.0),
    )
    assert encode(decode(a_packed()), columns_from=1) == a_packed()


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": [JOB]},
        {"keys": [JOB, "stf/b", "stf/c"]},
        {"keys": []},
        {"keys": [JOB, 1]},
        {"keys": [JOB, None]},
        {"source_at": b""},
        {"source_at": columns(T0)},
        {"source_at": columns(T0, T0, T0)},
        {"source_at": columns(T0, T0)[:-1]},
        {"source_at": "a text"},
        {"source_at": columns(T0, math.nan)},
        {"source_at": columns(math.inf, T0)},
        {"source_at": columns(-math.inf, T0)},
        {"source_at": columns(T0, 1e13)},
        {"source_at": columns(T0, -1e13)},
        {"offset": columns(1, typecode="q")},
        {"offset": columns(1, 2, typecode="q") + b"\x00"},
        {"offset": columns(1, -2, typecode="q")},
        {"offset": columns(-(2**63), 1, typecode="q")},
        {"records_written": b""},
        {"records_written": columns(1, -2, typecode="q")},
        {"records_written": columns(1, 2, typecode="i")},
        {"said_at": columns(T0)},
        {"said_at": columns(T0, T0, T0)},
        {"said_at": b"\x00"},
        {"said_at": columns(math.nan, math.inf)},
        {"said_at": columns(-math.inf, math.nan)},
        {"said_at": columns(T0, 1e13)},
    ],
)
def test_columns_that_are_none_make_a_record_none_of_ours(changes):
    for read in (decode, decode_packed):
        with pytest.raises(msgspec.DecodeError):
            read(a_packed(**changes))


def test_only_a_bundle_is_of_the_version_with_columns():
    for record in RECORDS[1:]:
        with pytest.raises(msgspec.DecodeError):
            decode(msgspec.msgpack.encode((COLUMNS_VERSION, record)))
    with pytest.raises(msgspec.DecodeError):
        decode(msgspec.msgpack.encode((SCHEMA_VERSION, msgspec.Raw(msgspec.msgpack.encode(a_packed()[2:])))))


def test_a_bundle_that_was_written_before_there_were_columns_is_read_as_it_was():
    beats = [[f"stf/{number}", T0, number, 1] for number in range(2 * COLUMNS_FROM)]
    beats[1] += [T0 - 60]
    value = msgspec.msgpack.encode([1, ["b", TOPIC, 2, beats, [[JOB, Kind.ERROR.value, T0 + 1, 99, True, "told"]]]])
    said = [a_beat(T0, key=f"stf/{number}", offset=number) for number in range(2 * COLUMNS_FROM)]
    said[1] = msgspec.structs.replace(said[1], said_at=T0 - 60)
    bundle = a_bundle(*said, a_word(Kind.ERROR, T0 + 1, offset=99, finished=True, detail="told"), partition=2)
    assert decode(value) == decode_packed(value) == bundle


# ---- what is no record


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, ["z"]]),
        msgspec.msgpack.encode([2, ["z"]]),
        msgspec.msgpack.encode([2, ["b", TOPIC, 0, [["k", T0, 1, 1]], []]]),
        msgspec.msgpack.encode([1, ["b", TOPIC, 0, [["k", "late", 1, 1]], []]]),
        b"\x92\x01\x93\xa1s\x01\x91\x92\xa1\xff\xa1\xfe",  # a name that is not UTF-8
        b"\x92\x01" + b"\x91" * 100_000,  # nested without end
        b"\x92\x02" + b"\x91" * 100_000,
    ],
)
def test_bytes_that_are_no_record_are_refused_as_such(value):
    with pytest.raises(msgspec.DecodeError):
        decode(value)


def packed_of_any_bytes():
    """Records of columns whose bytes are any, or are as many as they should be."""

    def of(keys):
        column = st.binary(min_size=8 * len(keys), max_size=8 * len(keys))
        return st.builds(Beats, st.just(keys), column, column, column, st.just(b"") | column | st.binary())

    packed = st.lists(st.text(max_size=3), max_size=3).flatmap(of)
    return packed.map(lambda said: msgspec.msgpack.encode((COLUMNS_VERSION, PackedBundle(TOPIC, 0, said, ()))))


@given(st.binary() | st.binary().map(lambda tail: b"\x92\x01" + tail) | packed_of_any_bytes())
@example(b"\x92\x01\x95\xa1b\xa1t\x00\x90\x90")
@example(b"\x92\x02\x95\xa1b\xa1t\x00\x94\x90\xc4\x00\xc4\x00\xc4\x00\x90")
def test_any_bytes_are_a_record_or_refused(value):
    try:
        record = decode(value)
    except (msgspec.DecodeError, UnknownSchema):
        return
    assert decode(encode(record)) == record
