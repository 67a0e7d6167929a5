"""A snapshot in parts: the parts tell what the whole would, of each key once, and each alone tells nothing false."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.evidence import SCHEMA_VERSION, Fact, Snapshot, SnapshotPart, decode, encode
from sf_healer.core.facts import Condition, JobFact
from sf_healer.core.snapshots import SNAPSHOT_BYTES, stretches
from tests.core.strategies import T0, a_fact, a_partition

VERSION = 15
KEYS = st.text(min_size=1, max_size=6)
LIMITS = st.integers(64, 400)


def a_job(key: str, uid: str = "u1", resource_version: int = 10) -> JobFact:
    return a_fact(key, uid=uid, resource_version=resource_version)


def parts_of(facts: list[JobFact], limit_bytes: int, version: int = VERSION) -> list[Snapshot | SnapshotPart]:
    ordered = sorted(facts, key=lambda fact: fact.key)
    return [
        stretch.record(version, tuple((fact.key, fact.uid) for fact in stretch.facts))
        for stretch in stretches(ordered, limit_bytes=limit_bytes)
    ]


def bounds_of(part: Snapshot | SnapshotPart) -> tuple[str | None, str | None]:
    return (part.after, part.up_to) if isinstance(part, SnapshotPart) else (None, None)


def holds(part: Snapshot | SnapshotPart, key: str) -> bool:
    after, up_to = bounds_of(part)
    return (after is None or key > after) and (up_to is None or key <= up_to)


def a_known(facts: list[JobFact]):
    partition = a_partition()
    partition.restore(None, [])
    for fact in facts:
        partition.apply(Fact(fact), T0)
    partition.take()
    return partition


def folded(facts: list[JobFact], records) -> dict[str, bytes]:
    partition = a_known(facts)
    for record in records:
        partition.apply(decode(encode(record)), T0 + 1)
    return {key: msgspec.msgpack.encode(state) for key, state in partition.jobs.items()}


@given(st.sets(KEYS, max_size=30), KEYS, LIMITS)
def test_every_key_there_can_be_lies_in_one_part_and_no_other(keys, any_key, limit):
    parts = parts_of([a_job(key) for key in keys], limit)
    bounds = [bounds_of(part) for part in parts]
    assert bounds[0][0] is None
    assert bounds[-1][1] is None
    assert [up_to for _, up_to in bounds[:-1]] == [after for after, _ in bounds[1:]]
    for key in [*keys, any_key, ""]:
        assert sum(holds(part, key) for part in parts) == 1
    for part in parts:
        assert all(holds(part, key) for key, _ in part.jobs), "a part names Jobs of its own keys only"
    assert [key for part in parts for key, _ in part.jobs] == sorted(keys)


@given(st.dictionaries(KEYS, st.tuples(st.integers(1, 3), st.integers(5, 25)), max_size=20), st.data(), LIMITS)
def test_the_parts_folded_come_to_what_the_whole_folded_does(known, data, limit):
    facts = [a_job(key, f"u{uid}", version) for key, (uid, version) in known.items()]
    listed = data.draw(st.dictionaries(st.one_of(KEYS, st.sampled_from(sorted(known) or ["x"])), st.integers(1, 3)))
    present = [a_job(key, f"u{uid}") for key, uid in listed.items()]
    whole = Snapshot(VERSION, tuple((fact.key, fact.uid) for fact in present))
    parts = data.draw(st.permutations(parts_of(present, limit)))
    again = data.draw(st.lists(st.sampled_from(parts), max_size=3))
    assert folded(facts, [*parts, *again]) == folded(facts, [whole])


@given(st.sets(KEYS, min_size=1, max_size=30), LIMITS, st.data())
def test_a_crash_between_two_parts_takes_nobody_away_who_is_listed(keys, limit, data):
    facts = [a_job(key) for key in keys]
    parts = parts_of(facts, limit)
    told = parts[: data.draw(st.integers(0, len(parts)))]
    assert folded(facts, told) == folded(facts, [])


def test_each_part_of_a_large_partition_is_within_the_limit_and_none_is_wasted():
    facts = [a_job(f"stf/loader-é-{number:06d}", f"0e2c5f4b-8a17-4f0e-9a0a-{number:012d}") for number in range(30_000)]
    sizes = [len(encode(part)) for part in parts_of(facts, SNAPSHOT_BYTES)]
    assert max(sizes) <= SNAPSHOT_BYTES
    assert min(sizes[:-1]) > 0.7 * SNAPSHOT_BYTES


@given(st.sets(KEYS, max_size=30), st.integers(200, 400))
def test_no_part_is_over_the_limit_where_a_single_job_is_not(keys, limit):
    assert all(len(encode(part)) <= limit for part in parts_of([a_job(key) for key in keys], limit))


def test_a_job_too_large_for_the_limit_is_told_alone():
    parts = parts_of([a_job("a"), a_job("b" * 500), a_job("c")], 200)
    assert [[key for key, _ in part.jobs] for part in parts] == [["a"], ["b" * 500], ["c"]]


def test_what_fits_into_one_record_is_told_as_workers_of_older_versions_read_it():
    assert parts_of([], 200) == [Snapshot(VERSION, ())]
    assert parts_of([a_job("a")], 200) == [Snapshot(VERSION, (("a", "u1"),))]
    assert decode(msgspec.msgpack.encode((SCHEMA_VERSION, ("s", 17, [["a", "u1"]])))) == Snapshot(17, (("a", "u1"),))


def test_a_worker_that_knows_no_parts_refuses_one_and_takes_nobody_for_gone():
    class OldSnapshot(msgspec.Struct, frozen=True, array_like=True, tag="s"):
        version: int
        jobs: tuple[tuple[str, str], ...]

    class OldMark(msgspec.Struct, frozen=True, array_like=True, tag="m"):
        topic_id: str

    body = encode(SnapshotPart(15, (("b", "u1"),), "a", "b"))
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(body, type=tuple[int, OldSnapshot | OldMark])


def test_a_part_takes_no_job_away_that_is_newer_than_its_list():
    partition = a_known([a_job("b", resource_version=VERSION + 1), a_job("c"), a_job("d")])
    partition.apply(SnapshotPart(VERSION, (), "a", "c"), T0 + 1)
    gone = {key for key, state in partition.jobs.items() if state.fact.condition is Condition.GONE}
    assert gone == {"c"}


def test_a_job_that_comes_between_two_parts_is_looked_at_by_the_next():
    partition = a_known([a_job("a"), a_job("z")])
    partition.apply(SnapshotPart(VERSION, (("a", "u1"),), None, "c"), T0 + 1)
    partition.apply(Fact(a_job("m")), T0 + 1)
    partition.apply(SnapshotPart(VERSION, (), "c", None), T0 + 1)
    gone = {key for key, state in partition.jobs.items() if state.fact.condition is Condition.GONE}
    assert gone == {"m", "z"}
