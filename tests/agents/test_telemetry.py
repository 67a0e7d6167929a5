"""Reports in, evidence out: to the Job's partition, dead letters whole, nothing acknowledged before it is safe."""

import asyncio
import hashlib
import itertools
import json
from types import SimpleNamespace

import msgspec
import pytest
import structlog
from aiokafka.errors import KafkaTimeoutError, NotEnoughReplicasError
from faust.types import TP

from agents import inventory, telemetry
from agents.dead_letters import DETAIL_CHARACTERS, dead_letter
from agents.forwarding import Forwarding
from sf_healer.adapters import metrics
from sf_healer.app import PRODUCE_BATCH_BYTES, settings
from sf_healer.core.combine import Ignored, Rejected
from sf_healer.core.events import Kind, Report
from sf_healer.core.evidence import EMPTY, Bundle, Mark
from sf_healer.core.forwarder import Forwarder
from sf_healer.core.identity import ConventionIndex
from sf_healer.core.marks import Ends
from sf_healer.core.partitioning import partition_of
from sf_healer.topics import DEAD_LETTERS, EVIDENCE
from sf_healer.transport import OffsetReset, TopicIdentity
from tables.jobs import hot, new_partition
from tests.agents.recording import BROKER_EPOCH, TOPIC_ID, Driven, edges, is_acknowledged, reports
from tests.core.strategies import a_fact, a_state, a_well_state
from tests.lab.waiting import until_async

SHORT = "P4nTkv"
QUEUE = f"loader-btcusdt-api-candles-5m-2025-06-01-{SHORT}"
JOB = f"stf/{QUEUE.lower()}-loader-producer"
CONSUMER = f"stf/{QUEUE.lower()}-arango-connector"
STRANGER = json.dumps({"status": "loading", "queue_id": "q-of-nobody", "producer": "loader__nobody"}).encode()
LOADING = json.dumps({"status": "loading", "queue_id": QUEUE, "producer": f"loader-producer__{SHORT}"}).encode()

#: As the platform's services send them (docs/reports.md); all but the last two are the loader's.
DIALECTS = {
    "A, status and event": {
        "event": "loading",
        "queue_id": QUEUE,
        "producer": f"loader-producer__{SHORT}",
        "sent_at": 1.0,
        "status": "loading",
        "message": "",
        "finished": False,
        "records_written": 7,
    },
    "B, no queue, monotonic clock": {
        "status": "loading",
        "producer": f"loader-producer__{SHORT}",
        "sent_at": 912345.6,
        "records_written": 7,
    },
    "C, telemetry_id": {"telemetry_id": f"loader-producer__{SHORT}", "queue_id": QUEUE, "status": "loading"},
    "producer_id": {"producer_id": f"loader-producer__{SHORT}", "queue_id": QUEUE, "event": "loading"},
    "other case": {"status": "loading", "producer": f"LOADER-PRODUCER__{SHORT.lower()}"},
    "odd loss": {"status": "loading", "producer": f"loader-producer__{SHORT}", "loss": float("nan")},
}


@pytest.fixture
def edge():
    with edges() as around:
        for key, target, uid in ((JOB, "loader-producer", "u1"), (CONSUMER, "arango-connector", "u2")):
            fact = a_fact(key, uid=uid, target=target, queue_id=QUEUE, producer_id=f"{target}__{SHORT}")
            around.names.put(fact, now=BROKER_EPOCH)
        yield around


@pytest.fixture
async def agent(edge):
    inventory.first_list.set()
    async with telemetry.telemetry.test_context() as driven:
        yield Driven(driven)


def says(status: str, **fields: object) -> bytes:
    named = {"status": status, "queue_id": QUEUE, "producer": f"loader-producer__{SHORT}"}
    return json.dumps({**named, **fields}).encode()


def dead_letters(edge) -> list[str]:
    return [record.headers["sf-healer-reason"].decode() for record in edge.producer.to(DEAD_LETTERS)]


def count(counter, **labels: str) -> float:
    return (counter.labels(**labels) if labels else counter)._value.get()


# ------------------------------------------------------------------ routing


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_every_dialect_reaches_the_partition_of_its_job(edge, agent, dialect):
    await agent.take(reports([json.dumps(dialect).encode()], partition=2, first_offset=40))
    ((partition, bundle),) = edge.producer.evidence()
    assert partition == partition_of(JOB, settings.partitions)
    assert (bundle.topic_id, bundle.source_partition, bundle.words) == (TOPIC_ID, 2, ())
    assert [(beat.key, beat.offset, beat.source_at) for beat in bundle.beats] == [(JOB, 40, BROKER_EPOCH)]


async def test_a_report_of_a_queue_alone_is_a_sign_of_life_of_each_of_its_jobs(edge, agent):
    await agent.take(reports([json.dumps({"status": "loading", "queue_id": QUEUE}).encode()]))
    found = {beat.key: partition for partition, bundle in edge.producer.evidence() for beat in bundle.beats}
    assert found == {key: partition_of(key, settings.partitions) for key in (JOB, CONSUMER)}


@pytest.fixture
def by_convention(edge, monkeypatch):
    monkeypatch.setattr(inventory, "names", names := ConventionIndex(settings.namespace))
    monkeypatch.setattr(telemetry, "forwarder", forwarder := Forwarder(names, partitions=settings.partitions))
    monkeypatch.setattr(telemetry, "forwarding", Forwarding(forwarder, telemetry._Faust(), mark_interval_seconds=1.0))


def assume(key: str, producer: str, queue_id: str) -> None:
    """Have a Job stored that a worker before assumed."""
    fact = a_fact(key, uid="", created_at=0.0, resource_version=0, queue_id=queue_id, producer_id=producer)
    hot.setdefault(0, new_partition(0)).restore_jobs([a_state(key=key, fact=fact)])


async def test_a_worker_that_starts_knows_the_queue_of_a_loader_that_names_none(edge, by_convention, agent):
    assume(CONSUMER, f"arango-connector__{SHORT}", QUEUE)
    assume(JOB, f"loader-producer__{SHORT}", QUEUE)
    await agent.take(reports([json.dumps(DIALECTS["B, no queue, monotonic clock"]).encode()]))
    ((_, bundle),) = edge.producer.evidence()
    assert [(beat.key, bundle.facts) for beat in bundle.beats] == [(JOB, ())]


async def test_the_jobs_of_a_partition_are_learnt_of_once_and_again_when_it_is_rebuilt(edge, by_convention):
    def known() -> tuple[str, ...]:
        return inventory.names.resolve(Report(Kind.LOADING, "", QUEUE)).keys

    assume(CONSUMER, f"arango-connector__{SHORT}", QUEUE)
    await asyncio.gather(inventory.remember_stored(), inventory.remember_stored())
    assume(JOB, f"loader-producer__{SHORT}", QUEUE)
    await inventory.remember_stored()
    assert known() == (CONSUMER,)
    states = hot.pop(0).jobs.values()
    hot[0] = new_partition(0)
    hot[0].restore_jobs(states)
    await inventory.remember_stored()
    assert known() == (CONSUMER, JOB)


async def test_the_jobs_of_a_partition_that_are_at_rest_are_learnt_of_and_stay_so(edge, by_convention):
    producer = f"arango-connector__{SHORT}"
    fact = a_fact(CONSUMER, uid="", created_at=0.0, resource_version=0, queue_id=QUEUE, producer_id=producer)
    partition = hot.setdefault(0, new_partition(0))
    partition.restore_jobs([a_well_state(CONSUMER, fact=fact)])
    await inventory.remember_stored()
    assert inventory.names.resolve(Report(Kind.LOADING, "", QUEUE)).keys == (CONSUMER,)
    assert partition.jobs.at_rest == 1


async def test_a_batch_of_many_reports_is_one_record_an_evidence_partition_with_every_kind(edge, agent):
    values = [says("loading", records_written=n) for n in range(50)]
    await agent.take(reports([*values, says("error", error_message="no data"), says("finished", finished=True)]))
    ((_, bundle),) = edge.producer.evidence()
    assert [(beat.offset, beat.records_written) for beat in bundle.beats] == [(49, 49)]
    assert [(word.kind, word.offset, word.detail) for word in bundle.words] == [
        (Kind.ERROR, 50, "no data"),
        (Kind.FINISHED, 51, ""),
    ]


async def test_reports_are_counted_by_kind_and_a_pong_is_no_evidence(edge, agent):
    before = {kind: count(metrics.REPORTS, kind=kind) for kind in ("loading", "pong")}
    await agent.take(reports([says("loading"), says("loading"), says("pong")]))
    assert count(metrics.REPORTS, kind="loading") == before["loading"] + 2
    assert count(metrics.REPORTS, kind="pong") == before["pong"] + 1
    await agent.take(reports([says("pong")], first_offset=3))
    assert len(edge.producer.telling()) == 1


def fates() -> dict[str, float]:
    ignored = {reason: count(metrics.SOURCE_RECORDS_IGNORED, reason=reason) for reason in Ignored}
    return {
        "in": count(metrics.SOURCE_RECORDS),
        "folded": count(metrics.SOURCE_RECORDS_FOLDED),
        "dead": count(metrics.SOURCE_RECORDS_DEAD_LETTERED),
        **ignored,
    }


async def test_what_comes_in_is_folded_dead_lettered_or_ignored_and_counted_again_when_it_comes_again(edge, agent):
    before = fates()
    several = json.dumps({"status": "error", "queue_id": QUEUE}).encode()
    hostile = reports([LOADING, b"{", says("pong"), several, STRANGER, says("error"), None])
    for _ in range(2):
        await agent.take(hostile)
    after = fates()
    counted = {fate: after[fate] - before[fate] for fate in after}
    assert counted == {"in": 14, "folded": 4, "dead": 6, "pong": 2, "several_jobs": 2, "not_ours": 0}
    assert len(edge.producer.to(DEAD_LETTERS)) == 6


async def test_reports_of_a_topic_that_is_gone_are_counted_as_ignored(edge, agent):
    before = fates()
    edge.consumer.ends = {TP("queue-events", 0): 5}
    await agent.take(reports([LOADING, LOADING], first_offset=7))
    after = fates()
    assert {fate: after[fate] - before[fate] for fate in after if after[fate] != before[fate]} == {
        "in": 2,
        "not_ours": 2,
    }
    assert edge.producer.telling() == []


async def test_nothing_is_named_before_the_jobs_are_listed(edge):
    async with telemetry.telemetry.test_context() as driven:
        agent = Driven(driven)
        event = await agent.put(reports([LOADING]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert edge.producer.sent == []
        inventory.first_list.set()
        await until_async(lambda: settled(event), "the batch to be acknowledged", seconds=5)
    assert len(edge.producer.telling()) == 1


async def settled(event) -> bool:
    return is_acknowledged(event)


# ------------------------------------------------------------------ dead letters

BAD = {
    "null": (None, "null"),
    "empty": (b"", "not_json"),
    "broken JSON": (b'{"status": "loading"', "not_json"),
    "a Python repr": (str({"status": "loading", "finished": False}).encode(), "not_json"),
    "not utf-8": (b"\xff\xfe\x00\x01", "not_utf8"),
    "too deep": (b"[" * 200_000, "too_deep"),
    "a list": (b"[]", "not_object"),
    "a wrong type": (json.dumps({"status": {"is": "loading"}, "queue_id": QUEUE}).encode(), "wrong_type"),
    "no status": (json.dumps({"queue_id": QUEUE}).encode(), "no_status"),
    "an unknown status": (says("exploded"), "unknown_status"),
    "no identity": (json.dumps({"status": "loading"}).encode(), "no_identity"),
    "a name too long": (json.dumps({"status": "loading", "queue_id": "q" * 5000}).encode(), "identity_too_long"),
    "an unknown producer": (STRANGER, "unresolved_unknown_producer"),
    "an unknown queue": (b'{"status": "loading", "queue_id": "q-of-nobody"}', "unresolved_unknown_queue"),
}


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD)
async def test_what_is_no_report_is_buried_whole_with_where_it_came_from(edge, agent, value, reason):
    before = count(metrics.DEAD_LETTERS, reason=reason)
    await agent.take(reports([LOADING, value], partition=1, first_offset=7))
    (letter,) = edge.producer.to(DEAD_LETTERS)
    original = value or b""
    assert letter.value == (None if value is None else original[: 64 * 1024])
    told = {name: text for name, text in letter.headers.items() if name != "sf-healer-detail"}
    assert told == {
        "sf-healer-reason": reason.encode(),
        "sf-healer-source-topic": b"queue-events",
        "sf-healer-source-partition": b"1",
        "sf-healer-source-offset": b"8",
        "sf-healer-original-size": str(len(original)).encode(),
        "sf-healer-sha256": hashlib.sha256(original).hexdigest().encode(),
    }
    assert count(metrics.DEAD_LETTERS, reason=reason) == before + 1
    assert [beat.key for _, bundle in edge.producer.evidence() for beat in bundle.beats] == [JOB]


async def test_a_dead_letter_says_what_of_it_is_wrong(edge, agent):
    await agent.take(reports([b'{"status": "exploded", "queue_id": "q"}', None]))
    strange, null = edge.producer.to(DEAD_LETTERS)
    assert strange.headers["sf-healer-detail"] == b"exploded"
    assert "sf-healer-detail" not in null.headers, "there is nothing to say beyond the reason"


async def test_a_message_of_the_brokers_size_limit_is_cut_and_says_what_it_was(edge, agent):
    huge = b'{"status": "exploded", "message": "' + b"x" * 1_000_000 + b'"}'
    await agent.take(reports([huge]))
    (letter,) = edge.producer.to(DEAD_LETTERS)
    assert letter.value == huge[: 64 * 1024]
    assert letter.headers["sf-healer-original-size"] == str(len(huge)).encode()
    assert letter.headers["sf-healer-sha256"] == hashlib.sha256(huge).hexdigest().encode()


def test_the_detail_of_a_dead_letter_is_cut_however_much_it_quotes():
    reject = Rejected(SimpleNamespace(offset=7, value=b"x" * 1_000_000), "not_evidence", "x" * 1_000_000)
    letter = dead_letter(None, "t", 0, reject)
    assert letter.headers["sf-healer-detail"] == b"x" * DETAIL_CHARACTERS
    assert sum(map(len, letter.headers.values())) < 1_000


async def test_a_report_of_the_brokers_size_limit_is_a_report(edge, agent):
    await agent.take(reports([says("error", error_message="x" * 1_000_000)]))
    ((_, bundle),) = edge.producer.evidence()
    assert bundle.words[0].detail == "x" * 200
    assert edge.producer.to(DEAD_LETTERS) == []


async def test_a_batch_of_nothing_but_garbage_is_acknowledged_when_it_is_buried(edge, agent):
    await agent.take(reports([value for value, _ in BAD.values()]))
    assert dead_letters(edge) == [reason for _, reason in BAD.values()]
    assert edge.producer.telling() == []


# ------------------------------------------------------------------ unknown names


class Lister:
    """Makes the lists that reports ask for, and counts them; some fail, the rest bring these Jobs."""

    def __init__(self, edge, facts=(), *, failures=0):
        self._looks = inventory._inventory.looks
        self._looks._wake = self._list
        self._edge = edge
        self._facts = facts
        self._failures = failures
        self.asked = 0

    def _list(self):
        self.asked += 1
        self._looks.begin()
        if self.asked <= self._failures:
            assert self._edge.producer.telling() == self._edge.producer.to(DEAD_LETTERS) == []
            self._looks.failed()
            return
        for fact in self._facts:
            self._edge.names.put(fact, now=BROKER_EPOCH)
        self._looks.listed()


async def test_an_unknown_name_asks_for_one_fresh_list_and_is_then_buried_once(edge, agent):
    lister = Lister(edge)
    await agent.take(reports([STRANGER, LOADING, STRANGER]))
    await agent.take(reports([STRANGER], first_offset=3))  # not another list: it is a stranger
    assert lister.asked == 1
    assert dead_letters(edge) == ["unresolved_unknown_producer"] * 3
    assert [record.headers["sf-healer-source-offset"] for record in edge.producer.to(DEAD_LETTERS)] == [
        b"0",
        b"2",
        b"3",
    ]
    assert len(edge.producer.telling()) == 1


async def test_a_job_that_the_fresh_list_shows_is_named_and_nothing_is_buried(edge, agent):
    new = a_fact("stf/new", uid="u9", queue_id="q-of-nobody", producer_id="loader__nobody")
    Lister(edge, [new])
    await agent.take(reports([STRANGER]))
    assert edge.producer.to(DEAD_LETTERS) == []
    assert [beat.key for _, bundle in edge.producer.evidence() for beat in bundle.beats] == ["stf/new"]


async def test_while_the_jobs_cannot_be_listed_a_batch_that_names_nobody_is_kept_whole(edge, agent):
    new = a_fact("stf/new", uid="u9", queue_id="q-of-nobody", producer_id="loader__nobody")
    lister = Lister(edge, [new], failures=3)
    await agent.take(reports([LOADING, STRANGER]))
    assert lister.asked == 4
    assert edge.producer.to(DEAD_LETTERS) == []
    assert {beat.key for _, bundle in edge.producer.evidence() for beat in bundle.beats} == {JOB, "stf/new"}


async def test_garbage_asks_for_no_list(edge, agent):
    lister = Lister(edge)
    await agent.take(reports([b"{", None]))
    assert lister.asked == 0


# ------------------------------------------------------------------ acknowledgement


async def test_a_batch_is_acknowledged_only_after_the_broker_has_acknowledged_all_of_it(edge, agent):
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    edge.producer.holding = True
    event = await agent.put(reports([LOADING, b"{"]))
    await until_async(lambda: has_sent(edge, EVIDENCE), "the evidence to be sent", seconds=5)
    assert not await acknowledged_soon(event)
    edge.producer.release()
    edge.producer.holding = True
    await until_async(lambda: has_sent(edge, DEAD_LETTERS), "the dead letter to be sent", seconds=5)
    assert not await acknowledged_soon(event)
    edge.producer.release()
    await until_async(lambda: settled(event), "the batch to be acknowledged", seconds=5)


async def acknowledged_soon(event) -> bool:
    """Let everything run that can without the broker."""
    for _ in range(20):
        await asyncio.sleep(0)
    return is_acknowledged(event)


async def has_sent(edge, topic) -> bool:
    return bool(edge.producer.telling() if topic == EVIDENCE else edge.producer.to(topic))


@pytest.mark.parametrize("topic", [EVIDENCE, DEAD_LETTERS])
async def test_a_send_that_fails_makes_the_agent_raise_and_the_batch_is_not_acknowledged(edge, agent, topic):
    edge.producer.refuse = lambda record: NotEnoughReplicasError() if record.topic == topic else None
    event = await agent.put(reports([LOADING, b"{"]))
    with pytest.raises(NotEnoughReplicasError):
        await agent.take(reports([LOADING], first_offset=2))
    assert not is_acknowledged(event)


async def test_a_source_partition_does_not_wait_for_the_acknowledgements_of_another(edge, agent):
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    edge.producer.holding = True
    first = await agent.put(reports([LOADING], partition=0))
    second = await agent.put(reports([LOADING], partition=1))
    await until_async(lambda: has_told(edge, 2), "the evidence of both to be sent", seconds=5)
    assert sorted(bundle.source_partition for _, bundle in edge.producer.evidence()) == [0, 1]
    assert not await acknowledged_soon(first)
    assert not await acknowledged_soon(second)
    edge.producer.release()
    for event in (first, second):
        await until_async(lambda event=event: settled(event), "the batch to be acknowledged", seconds=5)


async def test_a_broker_that_refuses_one_partitions_evidence_ends_the_work_on_all_others(edge, agent):
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    edge.producer.holding = True
    held = await agent.put(reports([LOADING], partition=0))
    await until_async(lambda: has_told(edge, 1), "the evidence to be sent", seconds=5)
    edge.producer.holding = False
    edge.producer.refuse = lambda _: NotEnoughReplicasError()
    with pytest.raises(NotEnoughReplicasError):
        await agent.take(reports([LOADING], partition=1))
    assert not await acknowledged_soon(held)


async def has_told(edge, records: int) -> bool:
    return len(edge.producer.telling()) == records


async def test_the_next_batch_waits_for_the_acknowledgement_of_the_one_before(edge, agent):
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    edge.producer.holding = True
    await agent.put(reports([LOADING]))
    second = await agent.put(reports([LOADING], first_offset=1))
    await until_async(lambda: has_sent(edge, EVIDENCE), "the evidence to be sent", seconds=5)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(edge.producer.telling()) == 1
    edge.producer.release()
    await until_async(lambda: settled(second), "the second batch to be acknowledged", seconds=5)
    assert [bundle.beats[0].offset for _, bundle in edge.producer.evidence()] == [0, 1]


async def test_far_behind_batches_are_told_of_together_and_acknowledged_together(edge, agent, monkeypatch):
    monkeypatch.setattr(telemetry.forwarding, "_far_behind_records", 3)
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    standing_at(edge, p0=1)
    ending_at(edge, p0=6)  # three more than the first two batches
    await telemetry.forwarding.mark()
    edge.producer.sent.clear()
    before = fates()
    edge.producer.holding = True
    batches = [reports([LOADING], first_offset=at) for at in (1, 2, 3)]
    first, second, third = [await agent.put(batch) for batch in batches]
    await until_async(lambda: has_told(edge, 1), "the evidence to be sent", seconds=5)
    assert not any([await acknowledged_soon(event) for event in (first, second, third)])
    edge.producer.release()
    for event in (first, second, third):
        await until_async(lambda event=event: settled(event), "the batch to be acknowledged", seconds=5)
    ((_, bundle),) = edge.producer.evidence()
    assert [beat.offset for beat in bundle.beats] == [3]
    assert fates()["in"] - before["in"] == fates()["folded"] - before["folded"] == 3


async def test_each_record_of_batches_told_of_together_is_counted_once(edge, agent, monkeypatch):
    monkeypatch.setattr(telemetry.forwarding, "_far_behind_records", 3)
    await agent.take(reports([says("pong")]))  # the broker's time is asked for once
    standing_at(edge, p0=1)
    ending_at(edge, p0=10)
    await telemetry.forwarding.mark()
    edge.producer.sent.clear()
    before = fates()
    batches = [
        reports([LOADING, b"{"], first_offset=1),
        reports([says("pong"), STRANGER], first_offset=3),
        reports([LOADING], first_offset=6),  # behind a gap: by itself
    ]
    events = [await agent.put(batch) for batch in batches]
    for event in events:
        await until_async(lambda event=event: settled(event), "the batch to be acknowledged", seconds=5)
    assert [bundle.beats[0].offset for _, bundle in edge.producer.evidence()] == [1, 6]
    after = fates()
    counted = {fate: after[fate] - before[fate] for fate in after}
    assert counted == {"in": 5, "folded": 2, "dead": 2, "pong": 1, "several_jobs": 0, "not_ours": 0}
    assert sorted(dead_letters(edge)) == ["not_json", "unresolved_unknown_producer"]


async def test_a_batch_in_which_thousands_of_jobs_fail_at_once_fits_the_brokers_limit(edge, agent):
    """All of one partition, each with the longest text there can be: more than one record holds."""
    partition = partition_of(JOB, settings.partitions)
    shorts = [f"X{number:05d}" for number in range(20_000)]
    keys = [key for key in (f"stf/job-{short.lower()}" for short in shorts) if partition_of(key, 6) == partition][:3000]
    values = []
    for key in keys:
        producer = f"loader__{key.rpartition('-')[2]}"
        edge.names.put(a_fact(key, uid=key, queue_id="", producer_id=producer), now=BROKER_EPOCH)
        values.append(json.dumps({"status": "error", "producer": producer, "error_message": "\u0416" * 200}).encode())
    await agent.take(reports([*values, LOADING]))
    sent = edge.producer.telling()
    assert max(len(record.value) for record in sent) <= PRODUCE_BATCH_BYTES
    bundles = [bundle for _, bundle in edge.producer.evidence()]
    assert len(bundles) > 1
    assert {word.key for bundle in bundles for word in bundle.words} == set(keys)
    offsets = [[*(beat.offset for beat in bundle.beats), *(word.offset for word in bundle.words)] for bundle in bundles]
    for earlier, later in itertools.pairwise(offsets):
        assert max(earlier) < min(later), "a record of lower offsets after one of higher would be passed over"


# ------------------------------------------------------------------ marks


def standing_at(edge, **places: int) -> None:
    edge.consumer.places = {TP("queue-events", int(name[1:])): at for name, at in places.items()}


def ending_at(edge, **ends: int) -> None:
    edge.consumer.ends = {TP("queue-events", int(name[1:])): at for name, at in ends.items()}


def marks(edge) -> list[tuple[int, Mark]]:
    return [(partition, entry) for partition, entry in edge.producer.evidence() if isinstance(entry, Mark)]


async def test_a_mark_claims_the_brokers_time_of_what_was_sent_before_the_ends_were_read(edge):
    standing_at(edge, p0=5, p2=0)
    ending_at(edge, p0=5, p2=0)
    assert await telemetry.forwarding.mark() == 6
    asked = [record for record in edge.producer.to(EVIDENCE) if record.value == EMPTY]
    assert sorted(record.partition for record in asked) == list(range(6))
    assert edge.consumer.asked == ["identity", "log ends", "ends"]
    at = {record.partition: record.at for record in asked}
    assert {partition: mark.sources for partition, mark in marks(edge)} == {
        partition: ((0, pytest.approx(at[partition], abs=0.001)), (2, pytest.approx(at[partition], abs=0.001)))
        for partition in range(6)
    }
    assert {(mark.topic_id, mark.partitions) for _, mark in marks(edge)} == {(TOPIC_ID, 3)}


async def test_no_mark_is_claimed_while_something_in_the_log_cannot_be_read(edge):
    edge.consumer.unreplicated = {TP("queue-events", 0): 12}
    standing_at(edge, p0=5)
    ending_at(edge, p0=5)
    assert await telemetry.forwarding.mark() == 0
    standing_at(edge, p0=7)
    ending_at(edge, p0=7)
    edge.consumer.unreplicated = {}
    with structlog.testing.capture_logs() as lines:
        assert await telemetry.forwarding.mark() == 6
    assert {mark.reset for _, mark in marks(edge)} == {(0,)}
    assert [(line["partition"], line["lost"]) for line in lines if line["event"] == "tail_lost"] == [(0, 10)]


async def test_no_mark_is_claimed_before_everything_up_to_the_end_is_acknowledged(edge):
    standing_at(edge, p0=5)
    ending_at(edge, p0=9)
    assert await telemetry.forwarding.mark() == 0
    standing_at(edge, p0=8)
    assert await telemetry.forwarding.mark() == 0
    first_w = edge.producer.to(EVIDENCE)[0].at
    ending_at(edge, p0=50)  # the feed goes on: the end of back then is what counts
    standing_at(edge, p0=9)
    assert await telemetry.forwarding.mark() == 6
    assert marks(edge)[0][1].sources[0][1] <= first_w + 1.0


async def test_a_mark_that_was_not_acknowledged_is_claimed_by_no_one(edge):
    standing_at(edge, p0=5)
    ending_at(edge, p0=5)
    edge.producer.refuse = lambda record: KafkaTimeoutError() if record.value != EMPTY else None
    with pytest.raises(KafkaTimeoutError):
        await telemetry.forwarding.mark()


async def test_without_source_partitions_nothing_is_marked_and_nobody_asked(edge):
    assert await telemetry.forwarding.mark() == 0
    assert (edge.producer.sent, edge.consumer.asked) == ([], [])


async def test_only_the_source_topic_is_marked(edge):
    edge.consumer.places = {TP("queue-control", 0): 3, TP(EVIDENCE, 0): 3}
    assert await telemetry.forwarding.mark() == 0


async def test_a_reset_of_the_source_is_told_until_a_mark_with_it_is_acknowledged(edge):
    standing_at(edge, p0=5, p1=0)
    ending_at(edge, p0=5, p1=0)
    telemetry._note_reset(OffsetReset(TP("queue-events", 0), 100, 400))
    edge.producer.refuse = lambda record: KafkaTimeoutError() if record.value != EMPTY else None
    with pytest.raises(KafkaTimeoutError):
        await telemetry.forwarding.mark()
    edge.producer.refuse = lambda _: None
    ending_at(edge, p0=6, p1=0)
    standing_at(edge, p0=6, p1=0)
    edge.producer.sent.clear()
    await telemetry.forwarding.mark()
    assert {mark.reset for _, mark in marks(edge)} == {(0,)}
    ending_at(edge, p0=7, p1=0)
    standing_at(edge, p0=7, p1=0)
    edge.producer.sent.clear()
    await telemetry.forwarding.mark()
    assert {mark.reset for _, mark in marks(edge)} == {()}


async def test_a_topic_made_anew_is_marked_and_reported_under_its_new_id(edge, agent):
    await agent.take(reports([LOADING]))
    telemetry._note_reset(OffsetReset(TP("queue-events", 0), 100, 0))
    edge.consumer.identity = TopicIdentity("topic-2", 4)
    standing_at(edge, p0=0)
    await telemetry.forwarding.mark()
    await agent.take(reports([LOADING]))
    assert [bundle.topic_id for _, bundle in edge.producer.evidence() if isinstance(bundle, Bundle)] == [
        TOPIC_ID,
        "topic-2",
    ]
    edge.producer.sent.clear()
    standing_at(edge, p0=1)
    ending_at(edge, p0=1)
    await telemetry.forwarding.mark()
    assert {(mark.topic_id, mark.partitions) for _, mark in marks(edge)} == {("topic-2", 4)}


def test_a_future_timestamp_is_clamped_once_ends_are_known(edge):
    forwarder = telemetry.forwarder
    forwarder.topic_id = TOPIC_ID
    forwarder.acknowledged(0, appended_at=BROKER_EPOCH, sent_at=100.0)
    forwarder.note_ends({0: Ends(10, 10)}, {0: BROKER_EPOCH}, now=100.5)
    future = reports([LOADING]).records[0]
    future = msgspec.structs.replace(future, timestamp=int((BROKER_EPOCH + 86_400) * 1000), offset=3)
    forwarder.gather([future], gathered := forwarder.begin(), 0, now=200.0)
    (bundle,) = forwarder.combined(gathered, 0).bundles.values()
    assert bundle.beats[0].source_at == BROKER_EPOCH + 0.5


@pytest.mark.parametrize("marked", [False, True], ids=["first batch", "following live"])
async def test_a_report_from_the_future_is_dated_no_later_than_it_was_read(edge, agent, marked):
    """Else an `error` dated half an hour ahead would outlive every `loading` after it, and a Job that is well die."""
    if marked:
        standing_at(edge, p0=3)
        ending_at(edge, p0=3)
        await telemetry.forwarding.mark()
        edge.producer.sent.clear()
        ending_at(edge, p0=5)
    ahead = reports([LOADING, says("error")], first_offset=3)
    ahead.records[:] = [
        msgspec.structs.replace(record, timestamp=record.timestamp + 1_800_000) for record in ahead.records
    ]
    await agent.take(ahead)
    bundle = edge.producer.evidence()[-1][1]
    for entry in (*bundle.beats, *bundle.words):
        assert abs(entry.source_at - BROKER_EPOCH) < 10.0
