"""How Jobs lie in the changelog: nothing is lost on the way, little is written, and what is equal is kept once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.changelog import (
    EPOCH_VERSION,
    SCHEMA_VERSION,
    InOrder,
    UnknownVersion,
    meta_key,
    meta_of,
    offset_of,
    persisted_after,
    states_of,
    writes_of,
)
from sf_healer.core.common import share_times
from sf_healer.core.facts import Condition, PodState, share_fact
from sf_healer.core.partition import Changes, Meta
from sf_healer.core.remembered import Remembered, remembered
from sf_healer.core.state import NEVER, JobState
from tests.core.strategies import JOB, T0, a_fact, a_state, an_outcome

OTHER = "stf/job-other"


def changes(*states, forgotten=(), meta=None):
    return Changes({state.key: remembered(state) for state in states}, tuple(forgotten), meta, (), (), 0)


def written(*states, offset=7):
    return writes_of(0, changes(*states), offset)


def and_back(*states):
    return states_of(written(*states).items())


times = st.sampled_from([NEVER, T0, T0 + 0.125, T0 + 300])


@st.composite
def any_states(draw):
    fields = {field.name: field.type for field in msgspec.structs.fields(Remembered)}
    state = JobState(JOB)
    for name, kind in fields.items():
        if kind is float:
            setattr(state, name, draw(times))
        elif kind is int:
            setattr(state, name, draw(st.integers(-1, 3)))
        elif kind is bool:
            setattr(state, name, draw(st.booleans()))
    state.fact = draw(
        st.none()
        | st.builds(
            a_fact,
            st.sampled_from([JOB, OTHER]),
            labels=st.dictionaries(st.sampled_from(["team", "stage"]), st.text(max_size=3)),
            kafka_topic=st.sampled_from(["loader-q-AbCdEf", ""]),
            condition=st.sampled_from(Condition),
            pod=st.sampled_from(PodState),
            created_at=times,
        )
    )
    state.outcome = draw(st.none() | st.just(an_outcome("c1", at=T0)))
    state.cadence = draw(st.none() | st.lists(st.integers(0, 3), max_size=2))
    state.hold_places = draw(st.sampled_from([(), ((0, 5, T0),)]))
    state.verdict = draw(st.sampled_from(["unknown", "healthy"]))
    return state


@given(any_states())
def test_a_state_that_is_written_and_read_is_the_same(state):
    assert and_back(state) == [state]


def test_only_what_is_not_at_its_default_is_written():
    (value,) = written(JobState(JOB)).values()
    assert msgspec.msgpack.decode(value) == [SCHEMA_VERSION, 7, {"k": JOB}]
    assert offset_of(value) == 7


def test_no_two_fields_have_one_name_on_the_wire():
    names = [field.encode_name for field in msgspec.structs.fields(Remembered)]
    assert len(set(names)) == len(names)


def test_what_jobs_have_in_common_is_kept_once():
    one, two = (
        a_state(key=key, fact=a_fact(key), running_at=T0 + 1, seen_at=T0 + 1, loading_at=T0 + 30)
        for key in (JOB, OTHER)
    )
    first, second = and_back(one, two)
    share_times((first, second))
    assert first.fact.key is first.key
    assert first.fact.target is second.fact.target
    assert first.fact.labels is second.fact.labels
    assert first.fact.kafka_topic is first.fact.queue_id
    assert first.loading_at is second.loading_at
    assert first.running_at is first.seen_at
    assert first.error_at is second.error_at is NEVER


def test_the_fact_of_another_name_keeps_it():
    assert share_fact(a_fact(OTHER), JOB) == a_fact(OTHER)


def test_a_forgotten_job_is_a_tombstone_and_the_partitions_own_state_comes_last():
    meta = Meta(6, T0, "topic", 3, {0: T0}, (), (), T0)
    writes = writes_of(4, changes(a_state(), forgotten=[OTHER], meta=meta), 7)
    assert list(writes) == [JOB.encode(), OTHER.encode(), meta_key(4)]
    assert writes[OTHER.encode()] is None
    assert meta_of(writes[meta_key(4)]) == meta
    assert meta_of(None) is None
    assert [state.key for state in states_of((key, value) for key, value in writes.items() if value)] == [JOB]


def test_a_value_of_another_version_is_refused():
    value = msgspec.msgpack.encode([SCHEMA_VERSION - 1, 7, [JOB]])
    with pytest.raises(UnknownVersion, match=f"version {SCHEMA_VERSION - 1}"):
        states_of([(JOB.encode(), value)])


# ---- logs that begin anew


def of_epoch(epoch, *states, meta=None, offset=7):
    return writes_of(0, msgspec.structs.replace(changes(*states, meta=meta), log_epoch=epoch), offset)


EPOCHS, OFFSETS = st.integers(0, 1_000), st.integers(0, 2**47)


@given(st.tuples(EPOCHS, OFFSETS), st.tuples(EPOCHS, OFFSETS), any_states())
def test_of_two_records_the_one_of_the_later_log_counts_and_of_one_log_the_later_one(first, second, state):
    """As both may be the last one on the changelog: a worker that was paused may write late."""
    (older, newer) = (of_epoch(epoch, state, offset=at) for epoch, at in sorted((first, second)))
    ((key, value),) = newer.items()
    assert InOrder(None).newest([*older.items(), (key, value)]) == newer
    assert InOrder(None).newest([(key, value), *older.items()]) == (newer if older != newer else older)
    assert InOrder(older.get).newest(newer.items()) == newer
    assert InOrder(newer.get).newest(older.items()) == ({} if older != newer else older)
    assert states_of(newer.items()) == [state]


META = Meta(6, T0, "topic", 3, {0: T0}, (), (), T0)


def test_what_is_stored_of_a_log_that_never_began_anew_is_as_it_ever_was():
    writes = of_epoch(0, JobState(JOB), meta=META)
    assert msgspec.msgpack.decode(writes[JOB.encode()]) == [SCHEMA_VERSION, 7, {"k": JOB}]
    assert msgspec.msgpack.decode(writes[meta_key(0)])[:2] == [SCHEMA_VERSION, 7]


def test_a_release_that_knows_no_epochs_is_refused_the_state_of_a_log_that_began_anew():
    """It would go by offsets alone, and all that it stores would lose; it reads of a later version and ends."""
    value = of_epoch(1, meta=META)[meta_key(0)]
    assert msgspec.msgpack.decode(value)[0] == EPOCH_VERSION == SCHEMA_VERSION + 1
    assert meta_of(value) == META
    later = msgspec.msgpack.encode([EPOCH_VERSION + 1, *msgspec.msgpack.decode(value)[1:]])
    with pytest.raises(UnknownVersion, match="a later release wrote it"):
        meta_of(later)


# ---- which records count


def a_value(offset):
    return msgspec.msgpack.encode([SCHEMA_VERSION, offset, {}])


LOGS = st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.none() | st.integers(0, 5)), max_size=30)


@given(LOGS, st.dictionaries(st.sampled_from([b"a", b"b"]), st.integers(0, 5)), st.data())
def test_a_changelog_in_pieces_comes_to_what_it_comes_to_record_by_record(log, before, data):
    stored = {key: a_value(offset) for key, offset in before.items()}
    wanted = dict(stored)
    newest = dict(before)
    for key, offset in log:
        if offset is None:
            wanted.pop(key, None)
            newest[key] = -1
        elif offset >= newest.get(key, -1):
            wanted[key] = a_value(offset)
            newest[key] = offset
    order, rest = InOrder(stored.get if stored else None), list(log)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        records = [(key, None if offset is None else a_value(offset)) for key, offset in piece]
        for key, value in order.newest(records).items():
            if value is None:
                stored.pop(key, None)
            else:
                stored[key] = value
    assert stored == wanted


@pytest.mark.parametrize(
    ("known", "written", "count", "then"),
    [(None, 0, 3, 2), (2, 3, 1, 3), (2, 3, 4, 6), (2, 4, 4, 2), (None, 1, 2, None)],
)
def test_a_recovery_goes_on_behind_our_records_only_where_nobody_wrote_before_them(known, written, count, then):
    assert persisted_after(known, written, count) == then
