"""The JSON records between sweeper, actuator, people and audit."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import steps
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Grounds,
    Outcome,
    Pause,
    Resolve,
    Result,
    Resume,
    Unreadable,
    Withdraw,
    command_id,
    decode_action,
    decode_control,
    decode_outcome,
    encode,
    outcome_id,
)


def a_command(**changes):
    known = {
        "id": command_id("stf/loader-a", "u1", "stuck", 100.5, 0),
        "key": "stf/loader-a",
        "namespace": "stf",
        "name": "loader-a",
        "uid": "u1",
        "verdict": "stuck",
        "evidence": Grounds(last_seen=100.5, silence_seconds=301.0, watermark=401.5, source_offset=7),
        "decided_at": 401.5,
        "expires_at": 461.5,
    }
    return Command(**{**known, **changes})


ACTIONS = [
    a_command(),
    Withdraw(id="c1", key="stf/loader-a", reason="sign of life"),
    Alive(key="stf/loader-a", uid="u2", at=500.0),
    Resolve(key="stf/loader-a", action_id="c1", decision=Decision.CREATE, by="ada"),
]


@pytest.mark.parametrize("record", ACTIONS, ids=lambda record: type(record).__name__)
def test_a_record_of_healer_actions_survives_its_own_bytes(record):
    assert decode_action(encode(record)) == record


@pytest.mark.parametrize(
    "record", [Pause(scope="*", reason="maintenance", until=9.0), Resume(scope="job:stf/a", by="ada")]
)
def test_a_control_record_survives_its_own_bytes(record):
    assert decode_control(encode(record)) == record


def test_an_outcome_survives_its_own_bytes():
    outcome = Outcome(
        id=outcome_id("c1", Result.RESTARTED, "verified"),
        command_id="c1",
        key="stf/a",
        uid="u1",
        result=Result.RESTARTED,
        reason="verified",
        at=1.5,
        steps=(("observe", 1.0), ("delete", 1.2)),
    )
    assert decode_outcome(encode(outcome)) == outcome


def test_a_command_says_its_kind_and_version_in_plain_json():
    document = json.loads(encode(a_command()))
    assert document["kind"] == "restart"
    assert document["schema_version"] == 1
    assert document["evidence"]["silence_seconds"] == 301.0


def test_the_same_judgement_is_the_same_command_on_every_worker():
    assert command_id("stf/a", "u1", "stuck", 100.0, 1) == command_id("stf/a", "u1", "stuck", 100, 1)
    assert command_id("stf/a", "u1", "stuck", 100.0, 1) == "e6f8ac96-979e-500d-a615-24f96aac0d08"


def test_any_difference_in_the_judgement_is_another_command():
    base = ("stf/a", "u1", "stuck", 100.0, 1)
    others = [("stf/b", *base[1:]), (base[0], "u2", *base[2:]), (*base[:2], "failed", 100.0, 1)]
    others += [(*base[:3], 100.25, 1), (*base[:4], 2)]
    assert len({command_id(*judgement) for judgement in [base, *others]}) == 6


@given(st.sampled_from(ACTIONS), st.data())
def test_reading_never_raises_whatever_became_of_a_record_on_its_way(record, data):
    """One that raised would be read again by every worker that comes back, for ever."""
    value = encode(record)
    at = data.draw(st.integers(0, len(value)))
    broken = value[:at] + data.draw(st.binary(max_size=3)) + value[data.draw(st.integers(at, len(value))) :]
    for decode in (decode_action, decode_control, decode_outcome, steps.decode):
        decode(broken)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "not_json"),
        (b"", "not_json"),
        (b"{'kind': 'restart'}", "not_json"),
        (b"[1]", "invalid"),
        (b"{}", "invalid"),
        (b'{"schema_version": "1", "kind": "restart"}', "invalid"),
        (b'{"schema_version": 2, "kind": "restart"}', "unknown_version"),
        (b'{"schema_version": 1, "kind": "explode"}', "unknown_kind"),
        (b'{"schema_version": 1, "kind": "restart"}', "invalid"),
        (b"[" * 100_000, "invalid"),
        (b'{"deep":' + b"[" * 100_000, "not_json"),
        (b'{"schema_version": 1, "kind": "withdraw", "id": "\xff", "key": "stf/a"}', "not_json"),
        (b'{"schema_version": 1, "kind": "pause", "scope": "*", "reason": "\xff"}', "not_json"),
        (b'{"schema_version": 1, "kind": "outcome", "id": "\xff"}', "not_json"),
        (b'{"schema_version": 1, "kind": "withdraw", "id": "c1", "key": "*"}', "invalid"),
        (b'{"schema_version": 1, "kind": "withdraw", "id": "c1", "key": "stf/a/b"}', "invalid"),
        (b'{"schema_version": 1, "kind": "alive", "key": "stf/a", "uid": "u", "at": 1e300}', "invalid"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(value, reason):
    for decode in (decode_action, decode_control, decode_outcome):
        answer = decode(value)
        assert isinstance(answer, Unreadable)
        assert answer.reason in {reason, "unknown_kind"}
        assert answer.detail


def test_a_control_record_is_no_action_and_an_action_no_control_record():
    assert decode_action(encode(Pause(scope="*", reason="x"))).reason == "unknown_kind"
    assert decode_control(encode(a_command())).reason == "unknown_kind"


def test_fields_of_a_later_minor_writer_are_ignored():
    document = json.loads(encode(a_command())) | {"new_field": 1}
    assert decode_action(json.dumps(document).encode()) == a_command()


@given(st.binary(max_size=200))
def test_no_bytes_raise(value):
    for decode in (decode_action, decode_control, decode_outcome):
        decode(value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "schema_version": st.just(1) | _json,
            "kind": st.sampled_from(["restart", "pause", "outcome"]) | _json,
        },
        optional={field: _json for field in Command.__struct_fields__ if field != "schema_version"},
    )
)
def test_no_json_raises(document):
    value = json.dumps(document).encode()
    for decode in (decode_action, decode_control, decode_outcome):
        decode(value)


@given(st.builds(Grounds), st.floats(-1e12, 1e12), st.text(max_size=20))
def test_any_command_survives_its_own_bytes(evidence, at, reason):
    command = a_command(evidence=evidence, decided_at=at, policy=reason)
    try:
        value = encode(command)
    except (UnicodeEncodeError, msgspec.ValidationError):  # lone surrogates never come from the API's UTF-8
        return
    assert decode_action(value) == command
