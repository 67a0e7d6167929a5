"""Which Job a report speaks of: exact names first, never a Job that the index does not hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core import identity
from sf_healer.core.events import Kind, Report
from sf_healer.core.facts import Condition, PodState, gone
from sf_healer.core.identity import (
    LAST_WORDS_SECONDS,
    REMEMBER_GONE_SECONDS,
    ConventionIndex,
    JobIndex,
    Resolved,
    Unresolved,
    UnresolvedReason,
    order_of,
    sanitize,
    target_of,
)
from tests.core.strategies import T0, a_fact, facts

QUEUE = "loader-btcusdt-api-candles-5m-2025-06-01-P4nTkv"
NAME = "loader-btcusdt-api-candles-5m-2025-06-01-p4ntkv"
LOADER = f"stf/{NAME}-loader-producer"
CONSUMER = f"stf/{NAME}-arango-connector"


def a_job(key, producer_id, queue_id=QUEUE, **changes):
    return a_fact(key, producer_id=producer_id, queue_id=queue_id, target=target_of(producer_id), **changes)


def an_index(*facts, now=T0):
    index = JobIndex()
    for fact in facts:
        index.put(fact, now=now)
    return index


PIPELINE = (a_job(LOADER, "loader-producer__P4nTkv"), a_job(CONSUMER, "arango-connector__P4nTkv"))


def says(producer="", queue_id="", kind=Kind.LOADING):
    return Report(kind, producer, queue_id)


# ---- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (QUEUE, NAME),
        ("api_candles_5m", "api-candles-5m"),
        ("BTC.USDT", "btc-usdt"),
        ("--x--", "x"),
        ("_é_", ""),
        ("", ""),
    ],
)
def test_names_are_sanitized_as_the_platforms_launcher_does(text, name):
    assert sanitize(text) == name


@pytest.mark.parametrize(
    ("producer", "target"),
    [
        ("arango-connector__P4nTkv", "arango-connector"),
        ("a__b__c", "a__b"),
        ("consumer-x", ""),
        ("__x", ""),
        ("", ""),
    ],
)
def test_the_target_is_what_stands_before_the_last_two_underscores(producer, target):
    assert target_of(producer) == target


# ---- resolving with a cluster


def test_a_producer_id_names_its_job_and_the_queue_id_is_not_needed():
    index = an_index(*PIPELINE)
    assert index.resolve(says("loader-producer__P4nTkv", QUEUE)) == Resolved((LOADER,))
    assert index.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))


def test_a_producer_id_in_other_letters_names_its_job_if_that_is_unique():
    index = an_index(*PIPELINE)
    assert index.resolve(says("LOADER-producer__p4ntkv")) == Resolved((LOADER,))


def test_a_producer_id_in_other_letters_names_nobody_where_two_ids_differ_in_letters_only():
    twin = a_job("stf/other", "loader-producer__p4NTkv", queue_id="other")
    index = an_index(*PIPELINE, twin)
    assert index.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))
    assert index.resolve(says("loader-producer__p4NTkv")) == Resolved(("stf/other",))
    assert index.resolve(says("loader-producer__p4ntkv")) == Unresolved(UnresolvedReason.UNKNOWN_PRODUCER)


def test_two_jobs_with_one_producer_id_are_told_apart_by_the_queue_id():
    twin = a_job("stf/twin", "loader-producer__P4nTkv", queue_id="other-queue")
    index = an_index(*PIPELINE, twin)
    assert index.resolve(says("loader-producer__P4nTkv", "other-queue")) == Resolved(("stf/twin",))
    assert index.resolve(says("loader-producer__P4nTkv", "OTHER-queue")) == Resolved(("stf/twin",))


def test_two_jobs_with_one_producer_id_share_a_report_that_fits_both():
    twin = a_job("stf/twin", "loader-producer__P4nTkv")
    index = an_index(*PIPELINE, twin)
    both = Resolved(tuple(sorted((LOADER, "stf/twin"))), shared=True)
    assert index.resolve(says("loader-producer__P4nTkv", QUEUE)) == both
    assert index.resolve(says("loader-producer__P4nTkv", "no such queue")) == both


def test_a_report_with_a_queue_alone_speaks_for_every_job_of_it():
    index = an_index(*PIPELINE)
    everybody = Resolved(tuple(sorted((LOADER, CONSUMER))), shared=True)
    assert index.resolve(says(queue_id=QUEUE)) == everybody
    assert index.resolve(says(queue_id=QUEUE.upper())) == everybody


def test_a_report_with_a_queue_of_one_job_speaks_for_that_job():
    index = an_index(PIPELINE[0])
    assert index.resolve(says(queue_id=QUEUE)) == Resolved((LOADER,), shared=False)


def test_a_queue_in_other_letters_names_nobody_where_two_queues_differ_in_letters_only():
    index = an_index(a_job("stf/a", "x__1", queue_id="Queue"), a_job("stf/b", "x__2", queue_id="qUEUE"))
    assert index.resolve(says(queue_id="queue")) == Unresolved(UnresolvedReason.UNKNOWN_QUEUE)
    assert index.resolve(says(queue_id="qUEUE")) == Resolved(("stf/b",))


def test_the_naming_rule_selects_a_job_that_the_index_holds():
    """A service that reports under another short id than its env says, as an image run by hand does."""
    index = an_index(*PIPELINE)
    assert index.resolve(says("arango-connector__other", QUEUE)) == Resolved((CONSUMER,))


@pytest.mark.parametrize(
    "report",
    [
        says("arango-connector__other", "no such queue"),
        says("arango-connector__other"),
        says("graph-builder__P4nTkv", QUEUE),  # the rule gives a name that no Job has
        says("stranger", QUEUE),
    ],
)
def test_a_report_of_nobody_is_unresolved(report):
    assert an_index(*PIPELINE).resolve(report) == Unresolved(UnresolvedReason.UNKNOWN_PRODUCER)


def test_a_queue_of_nobody_is_unresolved():
    assert an_index(*PIPELINE).resolve(says(queue_id="none")) == Unresolved(UnresolvedReason.UNKNOWN_QUEUE)


def test_a_foreign_job_is_known_but_never_named():
    index = an_index(a_fact("stf/foreign", managed=False, producer_id="", queue_id=""))
    assert len(index) == 1
    assert index.resolve(says("stranger", "")) == Unresolved(UnresolvedReason.UNKNOWN_PRODUCER)
    assert index.resolve(says("", "stranger")) == Unresolved(UnresolvedReason.UNKNOWN_QUEUE)


def test_an_answer_is_given_anew_when_a_job_appears_or_changes_its_names():
    index = an_index()
    assert isinstance(index.resolve(says("loader-producer__P4nTkv")), Unresolved)
    index.put(PIPELINE[0], now=T0)
    assert index.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))
    index.put(a_job(LOADER, "loader-producer__ZZZZZZ", resource_version=11), now=T0)
    assert isinstance(index.resolve(says("loader-producer__P4nTkv")), Unresolved)
    assert index.resolve(says("loader-producer__ZZZZZZ")) == Resolved((LOADER,))


def test_what_becomes_of_a_job_under_its_names_leaves_the_names_that_are_kept_alone():
    index = an_index(*PIPELINE)
    version, answer = index.version, index.resolve(says("loader-producer__P4nTkv"))
    known = index.get(LOADER)
    index.put(msgspec.structs.replace(known, resource_version=90, pod=PodState.ENDED), now=T0)
    index.put(msgspec.structs.replace(known, resource_version=91, uid="u2", created_at=T0 + 60), now=T0)
    index.put(gone(index.get(LOADER), 92), now=T0)
    index.put(a_fact("stf/foreign", managed=False), now=T0)
    assert index.version == version
    assert index.resolve(says("loader-producer__P4nTkv")) is answer
    assert index.is_gone(LOADER)


PUTS = st.lists(
    st.tuples(
        st.sampled_from(["stf/q-loader", "stf/b", "stf/c"]),
        st.sampled_from(["loader__A", "loader__a", "other__B"]),
        st.sampled_from(["q", "Q", "r", ""]),
        st.booleans(),
        st.sampled_from([Condition.ACTIVE, Condition.GONE]),
        st.integers(0, 2000),
    ),
    max_size=12,
)


@given(PUTS)
def test_names_that_are_kept_mean_what_they_mean_to_who_looks_afresh(puts):
    asked = [
        says(producer, queue) for producer in ("loader__A", "LOADER__a", "other__B", "") for queue in ("q", "r", "")
    ]
    index, now = JobIndex(), T0
    for number, (key, producer, queue, managed, condition, seconds) in enumerate(puts):
        names = {"producer_id": producer, "queue_id": queue, "managed": managed, "condition": condition}
        index.put(a_fact(key, resource_version=number, **names), now=now)
        now += seconds
        index.forget_gone(now=now)
        fresh = JobIndex()
        for fact in index.facts():
            fresh.put(fact, now=index._gone_at.get(fact.key, now))
        fresh.forget_gone(now=now)
        assert [index.resolve(report) for report in asked] == [fresh.resolve(report) for report in asked]


def test_answers_are_remembered_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(identity, "_CACHED_NAMES", 5)
    index = an_index(*PIPELINE)
    for number in range(20):
        index.resolve(says(f"stranger-{number}"))
    assert len(index._resolved) <= 5
    assert index.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))


def test_naming_a_stranger_does_not_look_at_every_queue():
    """A flood of strangers must not cost (reports x queues): nothing is scanned."""

    class Queues(dict):
        def __iter__(self):
            raise AssertionError("all queues were looked at")

    index = an_index(*PIPELINE)
    index._by_queue._keys = Queues(index._by_queue._keys)
    assert isinstance(index.resolve(says("stranger__x", "stranger")), Unresolved)


# ---- Jobs that come, change and go


def test_an_older_fact_of_the_same_job_is_ignored():
    index = an_index(a_job(LOADER, "new__1", resource_version=20))
    index.put(a_job(LOADER, "old__1", resource_version=19), now=T0)
    assert index.get(LOADER).producer_id == "new__1"
    assert isinstance(index.resolve(says("old__1")), Unresolved)


def test_a_job_that_is_gone_is_remembered_for_its_last_words_and_then_forgotten():
    index = an_index(*PIPELINE)
    index.put(gone(PIPELINE[0], 20), now=T0)
    assert index.is_gone(LOADER)
    assert not index.is_gone(CONSUMER)
    index.forget_gone(now=T0 + REMEMBER_GONE_SECONDS)
    assert index.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))
    index.forget_gone(now=T0 + REMEMBER_GONE_SECONDS + 1)
    assert isinstance(index.resolve(says("loader-producer__P4nTkv")), Unresolved)
    assert index.get(LOADER) is None
    assert [fact.key for fact in index.facts()] == [CONSUMER]


RETRY = f"{LOADER}-retry"
SHARED = says("loader-producer__P4nTkv", QUEUE)


def test_a_job_that_is_gone_shares_its_name_with_the_one_in_its_place_no_longer_than_it_may_say_last_words():
    index = an_index(PIPELINE[0], a_job(RETRY, "loader-producer__P4nTkv", uid="u2", created_at=T0 + 10))
    assert index.resolve(SHARED).shared
    index.put(gone(PIPELINE[0], 20), now=T0 + 20)
    index.forget_gone(now=T0 + 20 + LAST_WORDS_SECONDS)
    assert index.resolve(SHARED) == Resolved((LOADER, RETRY), shared=True)
    version = index.version
    index.forget_gone(now=T0 + 20 + LAST_WORDS_SECONDS + 1)
    assert index.version != version
    assert index.resolve(SHARED) == index.resolve(says("loader-producer__P4nTkv")) == Resolved((RETRY,))
    version = index.version
    index.forget_gone(now=T0 + 20 + LAST_WORDS_SECONDS + 2)
    assert index.version == version


def test_of_two_jobs_of_one_name_that_are_both_gone_neither_stands_back():
    index = an_index(PIPELINE[0], a_job(RETRY, "loader-producer__P4nTkv", uid="u2", created_at=T0 + 10))
    for job in index.facts():
        index.put(gone(job, 20), now=T0)
    index.forget_gone(now=T0 + LAST_WORDS_SECONDS + 1)
    assert index.resolve(SHARED) == Resolved((LOADER, RETRY), shared=True)


def test_a_job_that_comes_back_shares_its_name_again():
    index = an_index(PIPELINE[0], a_job(RETRY, "loader-producer__P4nTkv", uid="u2", created_at=T0 + 10))
    index.put(gone(PIPELINE[0], 20), now=T0)
    index.forget_gone(now=T0 + LAST_WORDS_SECONDS + 1)
    assert not index.resolve(SHARED).shared
    index.put(a_job(LOADER, "loader-producer__P4nTkv", uid="u3", created_at=T0 + 200), now=T0 + 200)
    assert index.resolve(SHARED) == Resolved((LOADER, RETRY), shared=True)
    index.forget_gone(now=T0 + 900)
    assert index.resolve(SHARED).shared


def test_a_name_that_is_not_shared_means_what_it_did_when_its_job_has_said_its_last_words():
    index = an_index(*PIPELINE)
    index.put(gone(PIPELINE[0], 20), now=T0)
    version = index.version
    index.forget_gone(now=T0 + LAST_WORDS_SECONDS + 1)
    assert index.version == version
    assert index.resolve(SHARED) == Resolved((LOADER,))


def test_being_told_again_that_a_job_is_gone_does_not_keep_it_longer():
    index = an_index(PIPELINE[0])
    for seconds in (0, 800):
        index.put(gone(PIPELINE[0], 20 + seconds), now=T0 + seconds)
    index.forget_gone(now=T0 + REMEMBER_GONE_SECONDS + 1)
    assert len(index) == 0


def test_a_job_that_comes_back_is_not_forgotten():
    index = an_index(PIPELINE[0])
    index.put(gone(PIPELINE[0], 20), now=T0)
    index.put(a_job(LOADER, "loader-producer__P4nTkv", uid="u2", created_at=T0 + 60), now=T0 + 60)
    index.forget_gone(now=T0 + 10 * REMEMBER_GONE_SECONDS)
    assert not index.is_gone(LOADER)
    assert index.get(LOADER).uid == "u2"


def test_a_late_word_of_deletion_does_not_take_the_new_incarnation_away():
    index = an_index(a_job(LOADER, "loader-producer__P4nTkv", uid="u2", created_at=T0 + 60))
    index.put(gone(PIPELINE[0], 99), now=T0 + 61)
    assert not index.is_gone(LOADER)


def test_a_list_takes_the_jobs_that_it_does_not_hold_for_gone():
    index = an_index(*PIPELINE)
    index.mark_absent({CONSUMER}, 15, now=T0)
    assert index.is_gone(LOADER)
    assert not index.is_gone(CONSUMER)


def test_a_list_says_nothing_of_a_job_that_was_created_after_it():
    index = an_index(a_job(LOADER, "loader-producer__P4nTkv", resource_version=16))
    index.mark_absent(set(), 15, now=T0)
    assert not index.is_gone(LOADER)


def test_of_two_jobs_made_within_one_second_the_resource_version_tells_the_later():
    older = a_fact(uid="z", resource_version=5)
    newer = a_fact(uid="a", resource_version=6)
    assert order_of(older) < order_of(newer)
    assert order_of(newer) < order_of(a_fact(created_at=T0 + 1, resource_version=1))


AHEAD = a_fact(uid="ahead", created_at=T0 + 3600, resource_version=100)
AFTER = a_fact(uid="after", created_at=T0 + 2, resource_version=200)


def test_an_incarnation_dated_before_the_one_that_is_gone_takes_its_place_for_good():
    """The clock of the API server was ahead when the one before was made."""
    index = an_index(AHEAD, gone(AHEAD, 150), AFTER)
    later = a_fact(uid="after", created_at=T0 + 2, resource_version=210, skip=True)
    index.put(later, now=T0 + 5)
    index.put(AHEAD, now=T0 + 6)  # late
    known = index.get(AFTER.key)
    assert (known.uid, known.resource_version, known.skip) == ("after", 210, True)
    assert not index.is_gone(AFTER.key)


def test_an_incarnation_dated_before_one_that_is_there_is_late():
    assert an_index(AHEAD, AFTER).get(AHEAD.key).uid == "ahead"


def test_a_list_that_holds_another_incarnation_shows_that_the_one_known_is_gone():
    index = an_index(AHEAD)
    index.put_listed(a_fact(uid="late", created_at=T0 + 2, resource_version=90), 95, now=T0)  # a list of before
    assert index.get(AHEAD.key).uid == "ahead"
    assert not index.is_gone(AHEAD.key)
    index.put_listed(AFTER, 205, now=T0)
    assert index.get(AHEAD.key).uid == "after"
    assert not index.is_gone(AHEAD.key)


@given(st.lists(facts(), max_size=8).flatmap(lambda known: st.tuples(st.just(known), st.permutations(known))))
def test_the_index_is_the_same_in_whatever_order_facts_come(orders):
    given_order, other_order = (an_index(*order) for order in orders)
    key = a_fact().key
    # Facts that are equal in order are told apart by nobody; the API never serves two such.
    assert order_or_none(given_order.get(key)) == order_or_none(other_order.get(key))


def order_or_none(fact):
    return None if fact is None else order_of(fact)


NAMES = st.sampled_from(["", "a__x", "A__x", "b__x", "q", "Q", "stranger"])


@given(
    st.lists(st.tuples(st.sampled_from("123"), NAMES, NAMES, st.booleans(), st.integers(1, 30)), max_size=12),
    st.lists(st.tuples(NAMES, NAMES), max_size=6),
)
def test_a_report_names_only_jobs_of_the_index_that_have_its_name(puts, reports):
    index = JobIndex()
    for job, producer_id, queue_id, managed, version in puts:
        fact = a_job(f"stf/{job}", producer_id, queue_id, managed=managed, resource_version=version)
        index.put(fact, now=T0)
    for producer, queue_id in reports:
        resolution = index.resolve(says(producer, queue_id))
        if isinstance(resolution, Unresolved):
            continue
        assert resolution.shared is (len(resolution.keys) > 1)
        for key in resolution.keys:
            fact = index.get(key)
            assert fact.managed
            same_producer = producer and fact.producer_id.lower() == producer.lower()
            assert same_producer or fact.queue_id.lower() == queue_id.lower()


# ---- by the naming rule alone, without a cluster

ALONE = "stf/loader-producer--p4ntkv"


def conditions(*indexes, known=()):
    """Fold all that is assumed, in order of the facts, and say what each Job is by that."""
    newest = dict(known)
    for fact in (fact for names in indexes for fact in names.take_new()):
        if fact.key not in newest or order_of(fact) >= order_of(newest[fact.key]):
            newest[fact.key] = fact
    return newest


def there(newest):
    return {key for key, fact in newest.items() if fact.condition is Condition.ACTIVE}


def test_without_a_cluster_the_name_is_made_from_queue_and_target():
    names = ConventionIndex("stf")
    assert names.resolve(says("arango-connector__P4nTkv", QUEUE)) == Resolved((CONSUMER,))
    assert names.resolve(says("consumer-x", QUEUE)) == Resolved((f"stf/{NAME}",))
    assert names.resolve(says("something odd")) == Resolved(("stf/something-odd",))
    assert names.resolve(says("..")) == Resolved(("stf/unnamed",))


NAMING = [kind for kind in Kind if kind is not Kind.PONG]


@pytest.mark.parametrize("report", [("loader-producer__P4nTkv", QUEUE), ("loader-producer__P4nTkv",), ("", QUEUE)])
def test_without_a_cluster_a_pong_makes_no_job_known(report):
    names = ConventionIndex("stf")
    names.resolve(says(*report, kind=Kind.PONG))
    assert names.take_new() == []
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    names.resolve(says(*report, kind=Kind.PONG))
    assert there(conditions(names)) == {CONSUMER}


def test_without_a_cluster_a_dialect_without_queue_is_joined_by_its_short_id():
    names = ConventionIndex("stf")
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    assert names.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))


def test_without_a_cluster_producers_whose_queue_is_not_known_are_a_job_each():
    names = ConventionIndex("stf")
    assert names.resolve(says("loader-producer__P4nTkv")) == Resolved((ALONE,))
    assert names.resolve(says("loader-producer__other")) == Resolved(("stf/loader-producer--other",))
    assert there(conditions(names)) == {ALONE, "stf/loader-producer--other"}


def test_without_a_cluster_what_stood_for_a_producer_alone_is_gone_once_it_speaks_under_its_queue():
    names = ConventionIndex("stf")
    names.resolve(says("loader-producer__P4nTkv", kind=Kind.STARTED))
    version = names.version
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    known = conditions(names)
    assert there(known) == {ALONE, CONSUMER}
    assert names.resolve(says("loader-producer__P4nTkv")) == Resolved((LOADER,))
    assert names.version != version
    known = conditions(names, known=known)
    assert (there(known), known[ALONE].condition) == ({LOADER, CONSUMER}, Condition.GONE)
    assert known[LOADER].queue_id == known[LOADER].kafka_topic == QUEUE
    assert names.resolve(says("loader-producer__P4nTkv", kind=Kind.ERROR)) == Resolved((LOADER,))
    assert names.take_new() == []


def test_without_a_cluster_a_job_that_says_its_last_before_it_is_alive_again_says_it_under_one_name():
    """An `error` of one Job and a `finished` of another would be no failure, and who is silent now be nobody's loss."""
    names = ConventionIndex("stf")
    names.resolve(says("loader-producer__P4nTkv"))
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    for kind in (Kind.ERROR, Kind.FINISHED, Kind.INTERRUPTED):
        assert names.resolve(says("loader-producer__P4nTkv", kind=kind)) == Resolved((ALONE,))
    assert there(conditions(names)) == {ALONE, CONSUMER}


def test_without_a_cluster_a_producer_that_names_its_queue_itself_stands_alone_no_more():
    names = ConventionIndex("stf")
    names.resolve(says("loader-producer__P4nTkv"))
    assert names.resolve(says("loader-producer__P4nTkv", QUEUE, Kind.ERROR)) == Resolved((LOADER,))
    assert there(conditions(names)) == {LOADER}


def test_without_a_cluster_a_producer_that_names_a_queue_of_which_its_short_id_does_not_tell_goes_on_to_stand_alone():
    names = ConventionIndex("stf")
    for _ in range(2):
        assert names.resolve(says("loader-producer__other")) == Resolved(("stf/loader-producer--other",))
        assert names.resolve(says("loader-producer__other", QUEUE)) == Resolved((LOADER,))
    assert there(conditions(names)) == {"stf/loader-producer--other", LOADER}


def test_without_a_cluster_what_the_worker_before_assumed_of_a_producer_alone_is_gone():
    before, after = ConventionIndex("stf"), ConventionIndex("stf")
    before.resolve(says("loader-producer__P4nTkv"))
    after.resolve(says("arango-connector__P4nTkv", QUEUE))
    after.resolve(says("loader-producer__P4nTkv"))
    assert there(conditions(before, after)) == {LOADER, CONSUMER}
    after.resolve(says("loader-producer__P4nTkv"))
    assert after.take_new() == []


def test_without_a_cluster_a_job_called_as_a_producer_is_not_gone_for_it():
    names = ConventionIndex("stf")
    namesake = names.resolve(says("consumer", "loader-producer--p4ntkv"))
    assert namesake == Resolved((ALONE,))
    names.resolve(says("loader-producer__P4nTkv"))
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    names.resolve(says("loader-producer__P4nTkv"))
    assert there(conditions(names)) == {ALONE, LOADER, CONSUMER}


def test_without_a_cluster_a_producer_called_as_its_queue_is_one_job_before_and_after():
    names = ConventionIndex("stf")
    reports = [says("c"), says("consumer__c", "c"), says("c")]
    assert [names.resolve(report).keys for report in reports] == [("stf/c",), ("stf/c-consumer",), ("stf/c",)]
    assert there(conditions(names)) == {"stf/c", "stf/c-consumer"}


#: One queue for each short id, and how its name ends with it.
QUEUES = {"a": "q-a", "b": "q-x_b", "c": "c", "d": "q-d", "e": "other"}
REPORTS = st.builds(
    lambda target, short_id, names, kind: says(
        "" if names == "queue" else f"{target}__{short_id}" if target else short_id,
        "" if names == "producer" else QUEUES[short_id],
        kind,
    ),
    st.sampled_from(["loader", "consumer", ""]),
    st.sampled_from([*QUEUES]),
    st.sampled_from(["producer", "queue", "both"]),
    st.sampled_from([*Kind]),
)


@given(st.lists(REPORTS))
def test_without_a_cluster_it_makes_no_difference_when_a_dialect_with_one_name_is_heard_first(reports):
    names, asked_before = ConventionIndex("stf"), ConventionIndex("stf")
    asked_before.resolve(says("somebody__else"))
    asked_before.resolve(says(queue_id="somebody"))
    asked_before.take_new()
    assert [names.resolve(report) for report in reports] == [asked_before.resolve(report) for report in reports]
    assert names.take_new() == asked_before.take_new()


@given(st.lists(REPORTS), st.lists(REPORTS))
def test_without_a_cluster_a_worker_that_learns_of_the_jobs_stored_names_them_as_the_one_before(said, later):
    said, later = ([each for each in reports if each.producer not in QUEUES] for reports in (said, later))
    before, after = ConventionIndex("stf"), ConventionIndex("stf")
    for report in said:
        before.resolve(report)
    for fact in conditions(before).values():
        after.remember(fact)
    assert after.take_new() == []
    assert [after.resolve(report) for report in later] == [before.resolve(report) for report in later]
    assert after.take_new() == before.take_new()


@pytest.mark.parametrize("fact", [PIPELINE[0], gone(msgspec.structs.replace(PIPELINE[0], uid=""), 11)])
def test_without_a_cluster_jobs_that_are_gone_or_were_of_a_cluster_are_not_learnt_of(fact):
    names = ConventionIndex("stf")
    names.remember(fact)
    assert names.resolve(says(queue_id=QUEUE)) == Resolved((f"stf/{NAME}",))


@given(st.lists(REPORTS))
def test_without_a_cluster_every_job_that_is_named_is_there(reports):
    names, known = ConventionIndex("stf"), {}
    for report in reports:
        resolution = names.resolve(report)
        known = conditions(names, known=known)
        assert bool(resolution.keys) is (report.kind is not Kind.PONG)
        assert set(resolution.keys) <= there(known)


#: Loaders name no queue, consumers do; of the last queue no short id tells.
SPOKEN = st.lists(st.tuples(st.sampled_from(["loader", "consumer"]), st.sampled_from([*QUEUES])))


@given(st.lists(SPOKEN, max_size=3), st.permutations([*QUEUES]))
def test_without_a_cluster_the_same_jobs_are_there_in_the_end_whoever_is_heard_first_by_whichever_worker(lives, order):
    def speak(names, target, short_id):
        return names.resolve(says(f"{target}__{short_id}", QUEUES[short_id] if target == "consumer" else ""))

    known = {}
    for spoken in [*lives, []]:
        names = ConventionIndex("stf")
        for target, short_id in spoken:
            speak(names, target, short_id)
        known = conditions(names, known=known)
    for target in ("consumer", "loader"):
        for short_id in order:
            speak(names, target, short_id)
    joined = {"stf/q-a-loader", "stf/q-x-b-loader", "stf/c-loader", "stf/q-d-loader", "stf/loader--e"}
    consumers = {key.replace("loader", "consumer") for key in joined} - {"stf/consumer--e"} | {"stf/other-consumer"}
    assert there(conditions(names, known=known)) == joined | consumers


def test_without_a_cluster_a_queue_of_nobody_stands_for_a_job_itself():
    names = ConventionIndex("stf")
    for kind in NAMING:
        assert names.resolve(says(queue_id=QUEUE, kind=kind)) == Resolved((f"stf/{NAME}",))
    assert there(conditions(names)) == {f"stf/{NAME}"}


@pytest.mark.parametrize("is_asked_before", [True, False])
def test_without_a_cluster_a_report_with_a_queue_alone_is_a_sign_of_life_of_all_its_jobs_and_else_of_none(
    is_asked_before,
):
    names = ConventionIndex("stf")
    if is_asked_before:
        names.resolve(says(queue_id="other"))
    for producer in ("arango-connector__P4nTkv", "visualizer__by-hand"):
        names.resolve(says(producer, QUEUE))
    names.resolve(says("loader-producer__P4nTkv"))
    names.resolve(says("stranger__Zzzzzz", QUEUE + "-2"))
    everybody = Resolved((CONSUMER, LOADER, f"stf/{NAME}-visualizer"), shared=True)
    assert [names.resolve(says(queue_id=QUEUE, kind=kind)) for kind in NAMING] == [everybody] * len(NAMING)
    assert f"stf/{NAME}" not in there(conditions(names))


def test_without_a_cluster_a_report_with_a_queue_alone_does_not_say_that_its_only_job_known_is_its_only_one():
    names = ConventionIndex("stf")
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    assert names.resolve(says(queue_id=QUEUE, kind=Kind.ERROR)) == Resolved((CONSUMER,), shared=True)


@pytest.mark.parametrize("kind", NAMING)
def test_without_a_cluster_a_queue_that_stood_for_a_job_itself_goes_on_to(kind):
    names = ConventionIndex("stf")
    names.resolve(says(queue_id=QUEUE))
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    itself, everybody = Resolved((f"stf/{NAME}",)), Resolved((f"stf/{NAME}", CONSUMER), shared=True)
    is_life = kind in {Kind.STARTED, Kind.LOADING}
    assert names.resolve(says(queue_id=QUEUE, kind=kind)) == (everybody if is_life else itself)


def test_without_a_cluster_a_job_is_assumed_once_to_be_there_and_to_run():
    names = ConventionIndex("stf")
    names.resolve(says("arango-connector__P4nTkv", QUEUE))
    names.resolve(says("arango-connector__P4nTkv", QUEUE, Kind.ERROR))
    (fact,) = names.take_new()
    assert (fact.key, fact.target, fact.queue_id) == (CONSUMER, "arango-connector", QUEUE)
    assert (fact.managed, fact.pod, fact.condition) == (True, PodState.RUNNING, Condition.ACTIVE)
    assert (fact.created_at, fact.uid) == (0.0, "")
    assert names.take_new() == []


@given(st.text(max_size=20), st.text(max_size=20))
def test_without_a_cluster_every_report_has_a_job_with_a_name_that_kubernetes_allows(producer, queue_id):
    (key,) = ConventionIndex("stf").resolve(says(producer, queue_id)).keys
    namespace, _, name = key.partition("/")
    assert namespace == "stf"
    assert name
    assert sanitize(name) == name
