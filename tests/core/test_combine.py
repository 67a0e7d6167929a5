"""A batch of reports becomes few records that say the same."""

import itertools
import json
from functools import partial
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.combine import Combiner, Gathered, Ignored
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Beat, Fact, Word, decode, encode
from sf_healer.core.identity import JobIndex
from sf_healer.core.marks import Ends, SourceMarks
from sf_healer.core.partitioning import partition_of
from tests.core.strategies import FEED_GAP_SECONDS, T0, TOPIC, a_fact, a_mark, a_partition

JOBS = ("stf/one", "stf/two", "stf/three")
FACTS = tuple(
    a_fact(key, producer_id=f"loader__{number}", queue_id="shared" if number else "alone")
    for number, key in enumerate(JOBS)
)


class Record(NamedTuple):
    offset: int
    timestamp: int
    value: bytes | None


def says(status, seconds, *, offset=0, producer="loader__0", queue_id="", **fields):
    message = {"status": status, "producer": producer, "queue_id": queue_id, **fields}
    return Record(offset, int((T0 + seconds) * 1000), json.dumps(message).encode())


def combine(*records, partitions=1, marks=None):
    index = JobIndex()
    for fact in FACTS:
        index.put(fact, now=T0)
    combiner = Combiner(index, partitions)
    return combiner.combine(records, topic_id=TOPIC, source_partition=3, marks=marks or SourceMarks())


def test_a_thousand_reports_of_one_job_are_one_beat():
    combined = combine(*(says("loading", n / 1000, offset=n, records_written=n) for n in range(1000)))
    (bundle,) = combined.bundles.values()
    assert bundle.beats == (Beat("stf/one", T0 + 0.999, 999, 999),)
    assert bundle.words == ()
    assert (bundle.topic_id, bundle.source_partition) == (TOPIC, 3)
    assert combined.reports[Kind.LOADING] == 1000


def test_every_kind_is_kept_never_only_the_last_status():
    combined = combine(
        says("started", 0, offset=0),
        says("loading", 1, offset=1),
        says("error", 2, offset=2, error_message="boom", finished=True),
        says("finished", 3, offset=3, finished=True),
        says("interrupted", 4, offset=4),
    )
    (bundle,) = combined.bundles.values()
    assert bundle.beats == (Beat("stf/one", T0 + 1, 1, -1),)
    assert bundle.words == (
        Word("stf/one", Kind.STARTED, T0, 0, finished=False, detail=""),
        Word("stf/one", Kind.ERROR, T0 + 2, 2, finished=True, detail="boom"),
        Word("stf/one", Kind.FINISHED, T0 + 3, 3, finished=True, detail=""),
        Word("stf/one", Kind.INTERRUPTED, T0 + 4, 4, finished=False, detail=""),
    )


def test_a_producers_clock_that_steps_back_within_a_batch_takes_no_sign_of_life_back():
    """An `error` at 5 is answered by the `loading` at 6, whatever the clock said of the one after it."""
    combined = combine(
        says("error", 5, offset=0),
        says("loading", 6, offset=1, records_written=7),
        says("loading", 4, offset=2, records_written=8),
        says("error", 3, offset=3, error_message="older"),
    )
    (bundle,) = combined.bundles.values()
    assert bundle.beats == (Beat("stf/one", T0 + 6, 2, 7),)
    (error,) = bundle.words
    assert (error.source_at, error.detail) == (T0 + 5, "")


def test_the_offset_is_that_of_the_last_report_so_that_nothing_new_looks_redelivered():
    combined = combine(says("started", 5, offset=10), says("started", 4, offset=20))
    (bundle,) = combined.bundles.values()
    assert [(word.source_at, word.offset) for word in bundle.words] == [(T0 + 5, 20)]


def test_of_two_errors_of_one_moment_the_final_one_is_kept():
    for order in ((True, False), (False, True)):
        combined = combine(*(says("error", 1, offset=n, finished=last) for n, last in enumerate(order)))
        (bundle,) = combined.bundles.values()
        assert [word.finished for word in bundle.words] == [True]


def test_a_count_that_is_not_told_leaves_the_one_before():
    combined = combine(says("loading", 1, offset=0, records_written=5), says("loading", 2, offset=1))
    (bundle,) = combined.bundles.values()
    assert bundle.beats == (Beat("stf/one", T0 + 2, 1, 5),)


def test_a_pong_is_counted_and_is_no_sign_of_life():
    combined = combine(says("pong", 1))
    assert combined.bundles == {}
    assert combined.rejected == []
    assert combined.reports[Kind.PONG] == 1


def test_a_report_of_a_whole_queue_is_a_sign_of_life_for_each_job_and_an_end_for_none():
    shared = {"producer": "", "queue_id": "shared"}
    combined = combine(
        says("started", 0, offset=0, **shared),
        says("loading", 1, offset=1, **shared),
        says("error", 2, offset=2, **shared),
        says("finished", 3, offset=3, **shared),
        says("interrupted", 4, offset=4, **shared),
    )
    (bundle,) = combined.bundles.values()
    assert {beat.key for beat in bundle.beats} == {"stf/two", "stf/three"}
    assert {(word.key, word.kind) for word in bundle.words} == {
        ("stf/two", Kind.STARTED),
        ("stf/three", Kind.STARTED),
    }
    assert sum(combined.reports) == 5


def test_a_report_of_a_queue_of_one_job_is_that_jobs_word():
    combined = combine(says("error", 2, producer="", queue_id="alone"))
    (bundle,) = combined.bundles.values()
    assert [(word.key, word.kind) for word in bundle.words] == [("stf/one", Kind.ERROR)]


def test_what_is_no_report_or_of_nobody_is_rejected_with_its_reason():
    odd = Record(7, 0, b"{'status': 'loading'}")
    stranger = says("loading", 1, offset=8, producer="stranger__x")
    null = Record(9, 0, None)
    combined = combine(odd, stranger, null)
    assert [(reject.record, reject.reason) for reject in combined.rejected] == [
        (odd, "not_json"),
        (stranger, "unresolved_unknown_producer"),
        (null, "null"),
    ]
    assert combined.rejected[1].report.producer == "stranger__x"
    assert combined.bundles == {}
    assert sum(combined.reports) == 0


def test_each_record_of_a_batch_is_folded_rejected_or_ignored_and_only_one_of_these():
    combined = combine(
        says("loading", 0, offset=0),
        says("pong", 1, offset=1),
        says("error", 2, offset=2, producer="", queue_id="shared"),
        says("started", 3, offset=3, producer="", queue_id="shared"),
        says("loading", 4, offset=4, producer="stranger__9"),
        Record(5, 0, b"{"),
        says("loading", 6, offset=6),
    )
    assert combined.folded == 3
    assert [reject.record.offset for reject in combined.rejected] == [4, 5]
    assert combined.ignored == {Ignored.PONG: 1, Ignored.SEVERAL_JOBS: 1}


def test_each_evidence_partition_gets_one_bundle_with_its_own_jobs():
    records = [says("loading", n, offset=n, producer=f"loader__{n}") for n in range(3)]
    combined = combine(*records, says("started", 4, offset=4), partitions=6)
    assert list(combined.bundles) == sorted(combined.bundles)
    for number, bundle in combined.bundles.items():
        for said in (*bundle.beats, *bundle.words):
            assert partition_of(said.key, 6) == number
    assert sum(len(bundle.beats) for bundle in combined.bundles.values()) == 3


def test_source_times_are_clamped_by_the_polls_around_each_offset():
    marks = SourceMarks()
    marks.note(Ends(10, 10), {0: T0}, not_before=T0, not_after=T0 + 1)
    marks.note(Ends(20, 20), {0: T0 + 5}, not_before=T0 + 5, not_after=T0 + 6)
    fast, slow = 3600, -3600
    records = [
        says("started", fast, offset=9),
        says("error", slow, offset=10),
        says("finished", fast, offset=19),
        says("interrupted", slow, offset=20),
    ]
    (bundle,) = combine(*records, marks=marks).bundles.values()
    assert [word.source_at - T0 for word in bundle.words] == [1, 0, 6, 5]
    assert [word.said_at - T0 for word in bundle.words] == [fast, slow, fast, slow]


@pytest.mark.parametrize("own_first", [True, False])
def test_of_two_errors_that_one_mark_raised_the_later_said_is_the_newer_and_keeps_its_own_times(own_first):
    """The other is the last word of the incarnation before, an hour late: it makes no error final."""
    marks = SourceMarks()
    marks.note(Ends(10, 10), {0: T0}, not_before=T0 + 1, not_after=T0 + 2)
    own = partial(says, "error", 0.98, error_message="own")
    before = partial(says, "error", -3600, error_message="before", finished=True)
    first, second = (own, before) if own_first else (before, own)
    (bundle,) = combine(first(offset=10), second(offset=11), marks=marks).bundles.values()
    assert bundle.words == (
        Word("stf/one", Kind.ERROR, T0 + 1, 11, finished=False, detail="own", said_at=pytest.approx(T0 + 0.98)),
    )


def test_a_record_without_a_timestamp_has_no_time_of_its_own():
    (bundle,) = combine(says("loading", -T0 - 0.001)).bundles.values()
    assert bundle.beats[0].source_at == 0.0


@pytest.mark.parametrize("kind", ["loading", "error"])
def test_a_record_dated_before_all_time_makes_evidence_that_can_be_read(kind):
    """Any client may send any timestamp of 64 bits; what cannot be read again is lost with its whole bundle."""
    (bundle,) = combine(says(kind, -(2.0**63) / 1000)).bundles.values()
    assert decode(encode(bundle)) == bundle


# ---- cut into batches anywhere

REPORTS = st.lists(
    st.tuples(
        st.sampled_from(["started", "loading", "error", "finished", "interrupted", "pong", "nonsense"]),
        st.integers(1, 60),
        st.sampled_from(["loader__0", "loader__1", ""]),
        st.booleans(),
        st.sampled_from([None, 5]),
    ),
    max_size=30,
    # Of two reports of one moment the later in the log counts. What that is, a clock that steps back as well
    # makes a matter of how the log was cut: one bundle has one offset for the newest and the last.
    unique_by=lambda report: report[1],
)


@given(REPORTS, st.sets(st.integers(1, 29)), st.integers(0, 200))
def test_a_log_cut_into_any_batches_gives_the_same_judgement_as_one_by_one(reports, cuts, silence):
    records = _records(reports)
    singly = _judgements([[record] for record in records], silence)
    batches = _cut(records, cuts)
    assert _judgements(batches, silence) == singly


def _records(reports):
    return [
        says(
            status,
            seconds,
            offset=n,
            producer=producer,
            queue_id="" if producer else "shared",
            finished=last,
            records_written=count,
        )
        for n, (status, seconds, producer, last, count) in enumerate(reports)
    ]


def _cut(records, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
    return [records[start:end] for start, end in itertools.pairwise(edges)]


def _bundles(gathered):
    return {
        (entry.key, getattr(entry, "kind", Kind.LOADING)): entry
        for bundle in gathered.combined(TOPIC, 3).bundles.values()
        for entry in (*bundle.beats, *bundle.words)
    }


@given(REPORTS, st.sets(st.integers(1, 29)))
def test_batches_gathered_one_behind_the_other_come_to_what_one_batch_of_all_comes_to(reports, cuts):
    records = _records(reports)
    at_once, in_pieces = (_gather(batches) for batches in ([records], _cut(records, cuts)))
    assert _bundles(at_once) == _bundles(in_pieces)
    assert (at_once.reports, at_once.ignored, at_once.rejected) == (
        in_pieces.reports,
        in_pieces.ignored,
        in_pieces.rejected,
    )


@given(REPORTS, st.sets(st.integers(1, 29)), st.sets(st.sampled_from(range(len(FACTS)))))
def test_reports_tried_again_once_their_jobs_are_known_come_to_what_they_come_to_if_known_before(reports, cuts, late):
    """But for names of which another Job was known when they were first read."""
    records = _records([report for report in reports if report[2]])
    expected = _gather([records])
    index = JobIndex()
    combiner = Combiner(index, 1)
    gathered = combiner.begin()
    for number, fact in enumerate(FACTS):
        if number not in late:
            index.put(fact, now=T0)
    for batch in _cut(records, cuts):
        combiner.gather(batch, gathered, marks=SourceMarks())
    for number in late:
        index.put(FACTS[number], now=T0)
    combiner.gather_unresolved(gathered, marks=SourceMarks())
    assert _bundles(gathered) == _bundles(expected)
    assert (gathered.reports, gathered.ignored) == (expected.reports, expected.ignored)
    assert gathered.unresolved() == expected.unresolved() == []


def _gather(batches):
    index = JobIndex()
    for fact in FACTS:
        index.put(fact, now=T0)
    combiner = Combiner(index, 1)
    gathered = combiner.begin()
    for batch in batches:
        combiner.gather(batch, gathered, marks=SourceMarks())
    return gathered


def _joined(join, *entries):
    """Give the bundle of entries of one partition, which has to be the same in both orders."""
    found = []
    for order in (entries, entries[::-1]):
        gathered = Combiner(JobIndex(), 1).begin()
        for entry in order:
            join(gathered, 0, entry)
        found += gathered.combined(TOPIC, 3).bundles.values()
    one, other = found
    assert one == other
    return one


def test_of_two_beats_joined_in_any_order_the_higher_offset_stands_and_the_newer_number_of_records():
    """Else what was tried again would lower the offset, and a redelivered report count as new."""
    older, newer = Beat("stf/one", T0 + 1, 7, 5), Beat("stf/one", T0 + 2, 4, 6)
    assert _joined(Gathered.beat, older, newer).beats == (Beat("stf/one", T0 + 2, 7, 6),)


def test_of_two_beats_of_one_moment_joined_in_any_order_the_records_of_the_higher_offset_count():
    lower, higher = Beat("stf/one", T0 + 1, 3, 100), Beat("stf/one", T0 + 1, 9, 200)
    assert _joined(Gathered.beat, lower, higher).beats == (higher,)


def test_of_two_words_joined_in_any_order_the_higher_offset_stands_and_the_newer_word():
    older = Word("stf/one", Kind.ERROR, T0 + 1, 7, finished=True, detail="older")
    newer = Word("stf/one", Kind.ERROR, T0 + 2, 4, finished=False, detail="newer")
    expected = Word("stf/one", Kind.ERROR, T0 + 2, 7, finished=False, detail="newer")
    assert _joined(Gathered.word, older, newer).words == (expected,)


def _judgements(batches, silence):
    """Fold batches that were appended at one moment, and judge when the watermark is `silence` past it."""
    partition = a_partition()
    at = T0 + 61
    partition.apply(a_mark(T0 - FEED_GAP_SECONDS), T0)
    for fact in FACTS:
        partition.apply(Fact(fact), T0 + 1)
    for batch in batches:
        for bundle in combine(*batch).bundles.values():
            partition.apply(bundle, at)
    for seconds in range(0, silence + 11, 5):  # two windows at least: whoever is sick has been swept
        partition.apply(a_mark(at + seconds), at + seconds)
    found = {}
    for key in JOBS:
        state = partition.jobs[key]
        judgement = partition.judgement(state)
        found[key] = (judgement, state.verdict, state.error_detail)
    return found


@pytest.mark.parametrize("first", ["error", "loading"])
def test_the_order_within_a_source_partition_decides_where_a_wrong_clock_leaves_none(first):
    """A clock an hour ahead is clamped to one moment for all reports of a batch."""
    second = {"error": "loading", "loading": "error"}[first]
    records = [says(first, 3600, offset=0), says(second, 3601, offset=1)]
    for batches in ([records], [[record] for record in records]):
        judgement, *_ = _judgements(batches, 30)["stf/one"]
        assert judgement.verdict == ("failed" if second == "error" else "healthy")


def test_what_a_name_meant_is_forgotten_when_another_job_takes_it():
    index = JobIndex()
    index.put(a_fact("stf/old", producer_id="loader__0", queue_id="queue", uid="u1"), now=T0)
    combiner = Combiner(index, 1)

    def named():
        report = says("loading", 0, producer="loader__0", queue_id="queue")
        combined = combiner.combine([report], topic_id=TOPIC, source_partition=3, marks=SourceMarks())
        return [beat.key for bundle in combined.bundles.values() for beat in bundle.beats]

    assert named() == named() == ["stf/old"]
    index.put(a_fact("stf/new", producer_id="loader__0", queue_id="queue", uid="u2"), now=T0)
    assert named() == ["stf/new", "stf/old"]  # two Jobs of one name are both told of a sign of life
    index.put(a_fact("stf/old", producer_id="loader__other", queue_id="queue", uid="u1", resource_version=11), now=T0)
    assert named() == ["stf/new"]


def test_a_sign_of_life_of_a_job_named_before_is_the_same_beat_as_its_first():
    first, second = (says("loading", 5, offset=offset, queue_id="alone", records_written=7) for offset in (0, 1))
    (fresh,) = combine(first).bundles.values()
    (warm,) = combine(says("loading", 1, queue_id="alone"), second).bundles.values()
    assert [beat.source_at for beat in fresh.beats] == [beat.source_at for beat in warm.beats] == [T0 + 5]
    assert [beat.records_written for beat in (*fresh.beats, *warm.beats)] == [7, 7]


@pytest.mark.parametrize("field", [b"event", b"telemetry_id", b"message", b"finished"])
@pytest.mark.parametrize("odd", [b'"\xff"', b"9" * 5000, b"[]"], ids=["no UTF-8", "huge", "another type"])
def test_what_is_broken_where_no_sign_of_life_is_read_counts_the_same_before_and_after_a_job_was_named(field, odd):
    broken = b'{"%s": %s, "status": "loading", "producer": "loader__0", "queue_id": "alone"}' % (field, odd)
    well = says("loading", 1, offset=1, queue_id="alone")
    combined = combine(Record(0, 0, broken), well, Record(2, 0, broken))
    assert combined.folded == 3
    assert combined.rejected == []


@pytest.mark.parametrize("records_written", [-5, 2**62, 2**63])
def test_a_senseless_number_of_records_is_none_for_a_job_named_before_too(records_written):
    records = (says("loading", n, offset=n, queue_id="alone", records_written=records_written) for n in range(2))
    (bundle,) = combine(*records).bundles.values()
    assert [beat.records_written for beat in bundle.beats] == [-1]
