"""The evidence log's records survive their own bytes, and foreign bytes are refused, never misread."""

import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sf_healer.core import evidence
from sf_healer.core.commands import Outcome, Result
from sf_healer.core.events import Kind
from sf_healer.core.evidence import (
    EMPTY,
    Bundle,
    Fact,
    Hold,
    HoldCause,
    Mark,
    OutcomeSeen,
    Snapshot,
    SnapshotPart,
    UnknownSchema,
    decode,
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
    value = msgspec.msgpack.encode((evidence.SCHEMA_VERSION + 1, ["z", "a later idea"]))
    with pytest.raises(UnknownSchema, match="version 2"):
        decode(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, ["z"]]),
        msgspec.msgpack.encode([1, ["b", TOPIC, 0, [["k", "late", 1, 1]], []]]),
        b"\x92\x01\x93\xa1s\x01\x91\x92\xa1\xff\xa1\xfe",  # a name that is not UTF-8
        b"\x92\x01" + b"\x91" * 100_000,  # nested without end
    ],
)
def test_bytes_that_are_no_record_are_refused_as_such(value):
    with pytest.raises(msgspec.DecodeError):
        decode(value)


@given(st.binary() | st.binary().map(lambda tail: b"\x92\x01" + tail))
@example(b"\x92\x01\x95\xa1b\xa1t\x00\x90\x90")
def test_any_bytes_are_a_record_or_refused(value):
    try:
        record = decode(value)
    except (msgspec.DecodeError, UnknownSchema):
        return
    assert decode(encode(record)) == record
