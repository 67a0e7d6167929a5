"""How the actuator's agent carries out what the core says: in which order, and what a crash leaves behind."""

import asyncio
import itertools
import threading

import msgspec
import pytest
from aiokafka.errors import MessageSizeTooLargeError
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from agents import journal as journal_module
from agents.actuator import show
from agents.journal import Journal, copy_of_command, copy_of_pause, in_thread
from sf_healer import topics
from sf_healer.adapters import metrics
from sf_healer.control import RequestRefusedError, resolve_of
from sf_healer.core import commands, steps
from sf_healer.core.actions import State
from sf_healer.core.actuator import Actuator, shown
from sf_healer.core.admission import Phase
from sf_healer.core.commands import Alive, Command, Decision, Grounds, Outcome, Pause, Result, Resume
from sf_healer.core.evidence import UnknownSchema
from sf_healer.core.groups import GroupLook, Neighbours
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts, Resulted, Step, StepResult, Tick, What
from sf_healer.views.actions import waits_for_a_person
from sf_healer.views.admission import build_admission
from sf_healer.views.notices import describe

START = 1_000_000.0
COUNTS = FleetCounts(partition=0, partitions=1, at=START, base=9, unhealthy=1, sick=1)
COMMAND = Command(
    id="c1",
    key="stf/a",
    namespace="stf",
    name="a",
    uid="u1",
    verdict="stuck",
    evidence=Grounds(unhealthy_at=START, silence_seconds=301.4, threshold_seconds=300.0, detail="no report"),
    decided_at=START,
    expires_at=START + 60.0,
)


class Memory:
    """The broker, the table and the process in memory; says in which order things happened."""

    def __init__(self):
        self.log = []
        self.table = {}
        self.outcomes = []
        self.deeds = []
        self.crashes = []
        self.owner = True
        self.now = START
        self.current = None
        self.appended = asyncio.Event()

    async def append(self, records):
        for record in records:
            self.deeds.append(type(record).__name__)
            self.log.append((steps.encode(record), self.now))
        self.appended.set()

    async def publish(self, outcomes):
        for outcome in outcomes:
            self.deeds.append("Outcome")
            self.outcomes.append(outcome)

    async def store(self, key, value):
        self.deeds.append("store")
        self.table.pop(key, None) if value is None else self.table.update({key: value})

    def owns_log(self):
        return self.owner

    def is_current(self, actuator):
        return self.current is None or self.current is actuator

    def crash(self, error):
        self.crashes.append(error)


def a_journal(ports, *, observe_only=True, cluster=None, **options):
    actuator = Actuator(worker="w1", limits=Limits(), observe_only=observe_only)
    actuator.restore(ports.table.items())
    return Journal(actuator, cluster, ports, **options)


async def drain(journal, ports, *, start=0):
    """Read the log to its end, waiting for the calls under way."""
    position = start
    while True:
        while position < len(ports.log):
            value, at = ports.log[position]
            await journal.read(value, position, at)
            position += 1
        if not journal._calls:
            return position
        ports.appended.clear()
        await asyncio.wait(journal._calls, timeout=5.0)


async def test_a_command_is_followed_by_reading_back_what_was_sent():
    ports = Memory()
    await ports.append([COUNTS, COMMAND])
    await drain(a_journal(ports), ports)
    kinds = [type(steps.decode(value)).__name__ for value, _ in ports.log]
    assert kinds == ["FleetCounts", "Command", "Admitted", "Announced", "Resulted", "Settled"]
    assert [outcome.result for outcome in ports.outcomes] == [Result.WOULD_RESTART]


async def test_a_result_names_the_record_that_opened_its_action():
    ports = Memory()
    await ports.append([COUNTS, COMMAND])
    await drain(a_journal(ports), ports)
    records = [steps.decode(value) for value, _ in ports.log]
    kinds = [type(record).__name__ for record in records]
    assert records[kinds.index("Resulted")].opened == kinds.index("Admitted")


async def test_what_became_of_a_command_is_one_line_of_the_log():
    ports = Memory()
    await ports.append([COUNTS, COMMAND])
    with capture_logs() as lines:
        await drain(a_journal(ports), ports)
    (line,) = [line for line in lines if line["event"] == "outcome"]
    assert (line["command"], line["job"], line["result"]) == ("c1", "stf/a", "would_restart")
    assert (line["verdict"], line["silence_seconds"], line["threshold_seconds"]) == ("stuck", 301.4, 300.0)
    assert line["steps"] == {"admitted": 0.0, "done": 0.0}


async def test_what_a_record_caused_is_sent_before_the_table_is_written():
    ports = Memory()
    await ports.append([COUNTS, COMMAND])
    ports.deeds.clear()
    await drain(a_journal(ports), ports)
    assert ports.deeds[:6] == ["store", "Admitted", "store", "Announced", "store", "store"]
    assert ports.deeds[6:] == ["Resulted", "Outcome", "Settled", "store", "store"]


async def test_a_record_whose_sends_fail_is_not_stored_and_not_acknowledged():
    ports = Memory()
    journal = a_journal(ports)
    await ports.append([COUNTS, COMMAND])
    await journal.read(*numbered(ports, 0))

    async def refuse(_records):
        raise ConnectionError("not acknowledged")

    ports.append = refuse
    before = dict(ports.table)
    with pytest.raises(ConnectionError):
        await journal.read(*numbered(ports, 1))
    assert ports.table == before


def numbered(ports, offset):
    value, at = ports.log[offset]
    return value, offset, at


async def test_a_record_read_after_the_log_was_lost_is_not_stored_and_not_acknowledged():
    ports = Memory()
    journal = a_journal(ports)
    await ports.append([COUNTS])
    ports.current = object()
    assert await journal.read(*numbered(ports, 0)) is False
    assert not ports.table


async def test_a_result_that_cannot_be_sent_ends_the_process():
    ports = Memory()
    journal = a_journal(ports)
    await ports.append([COUNTS, COMMAND])
    for offset in range(3):
        await journal.read(*numbered(ports, offset))
    append = ports.append

    async def refuse(records):
        records = list(records)
        if any(isinstance(record, Resulted) for record in records):
            raise ConnectionError("not acknowledged")
        await append(records)

    ports.append = refuse
    await journal.read(*numbered(ports, 3))
    await asyncio.wait(journal._calls, timeout=5.0)
    await asyncio.sleep(0)
    assert [type(error) for error in ports.crashes] == [ConnectionError]


async def test_a_crash_after_any_record_leaves_what_the_next_worker_needs():
    for crash_at in range(6):
        ports = Memory()
        await ports.append([COUNTS, COMMAND])
        first = a_journal(ports)
        for offset in range(min(crash_at, len(ports.log))):
            await first.read(*numbered(ports, offset))
        for call in first._calls:
            call.cancel()
        second = a_journal(ports)
        second.actuator.worker = "w2"
        position = await drain(second, ports)
        while not ports.outcomes:
            ports.now += 1.0
            await ports.append([Tick(worker="w2")])
            position = await drain(second, ports, start=position)
        assert [outcome.result for outcome in ports.outcomes] == [Result.WOULD_RESTART], crash_at


async def test_a_record_that_cannot_be_read_is_passed_over():
    ports = Memory()
    assert await a_journal(ports).read(b"{'not': json}", 0, START)
    assert await a_journal(ports).read(None, 1, START)


async def test_a_record_of_a_later_version_is_not_passed_over():
    later = msgspec.json.encode({"schema_version": 2, "kind": "tick"})
    with pytest.raises(UnknownSchema):
        await a_journal(Memory()).read(later, 0, START)
    with pytest.raises(UnknownSchema):
        copy_of_command(later)
    with pytest.raises(UnknownSchema):
        copy_of_pause(b"*", later)


def test_commands_and_pauses_are_copied_as_they_are():
    for record in (COMMAND, Alive(key="stf/a", uid="u2", at=1.0)):
        value = commands.encode(record)
        assert copy_of_command(value) == value
        assert steps.decode(value) == record
    value = commands.encode(Pause(scope="*", reason="maintenance"))
    assert copy_of_pause(b"*", value) == value
    assert steps.decode(value) == Pause(scope="*", reason="maintenance")


async def test_what_is_no_command_is_not_copied_and_counted_by_the_topic_it_was_on():
    def counted():
        return metrics.counted(metrics.UNREADABLE_RECORDS, "topic")

    before, sent = counted(), metrics.counted(metrics.COMMANDS, "kind")
    assert copy_of_command(b"garbage") is None
    assert copy_of_command(commands.encode(Pause(scope="*", reason="x"))) is None
    assert copy_of_pause(b"*", b"garbage") is None
    assert copy_of_pause(None, None) is None
    assert await a_journal(Memory()).read(b"garbage", 0, START)
    assert {topic: count - before.get(topic, 0) for topic, count in counted().items()} == {
        topics.ACTIONS: 2,
        topics.CONTROL: 2,
        topics.STEPS: 1,
    }
    assert metrics.counted(metrics.COMMANDS, "kind") == sent, "those are what the sweeper sent"


def test_a_pause_removed_from_its_topic_is_resumed():
    assert steps.decode(copy_of_pause(b"queue:q1", None)) == Resume(scope="queue:q1", reason="removed from the topic")


def test_an_outcome_is_described_with_its_numbers():
    outcome = Outcome(
        id="o",
        command_id="c1",
        key="stf/a",
        uid="u1",
        result=Result.FAILED,
        reason="no_pods",
        at=START,
        attempt=2,
        verdict="stuck",
        detail="for 60 s",
        evidence=COMMAND.evidence,
    )
    assert describe(outcome) == (
        "sf-healer: failed (no_pods: for 60 s); attempt 2, replaces uid u1; "
        "judged stuck, silent for 301 s of 300 s, no report"
    )


# ---- consumer groups

NEIGHBOURS = Neighbours(consumers=1, addresses=("10.0.0.2",))
CONSUMER = msgspec.structs.replace(
    COMMAND, consumer=True, kafka_topic="q1", queue_id="q1", pod_ip="10.0.0.1", neighbours=NEIGHBOURS
)


class Groups:
    """Consumer groups that answer what a test says, when it says."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.may_answer = asyncio.Event()

    async def look(self, **question):
        self.asked.append(question)
        await self.may_answer.wait()
        return self.answer


async def test_a_group_is_looked_at_beside_the_log_and_decides_only_by_what_is_read_back():
    ports, groups = Memory(), Groups(GroupLook(group="g", members=1))
    journal = a_journal(ports, groups=groups)
    await ports.append([COUNTS, CONSUMER])
    assert await journal.read(*numbered(ports, 0))
    assert await journal.read(*numbered(ports, 1))  # returns although the group has not answered
    assert len(ports.log) == 2
    groups.may_answer.set()
    await drain(journal, ports, start=2)
    assert groups.asked == [{"queue_id": "q1", "topic": "q1", "pod_ip": "10.0.0.1", "neighbours": NEIGHBOURS}]
    assert [type(steps.decode(value)).__name__ for value, _ in ports.log] == ["FleetCounts", "Command", "GroupLooked"]
    assert [(outcome.result, outcome.reason) for outcome in ports.outcomes] == [(Result.REFUSED, "idle")]
    assert "its group g has 1 live member and no lag" in describe(ports.outcomes[0])


async def test_the_log_alone_decides_again_what_a_group_showed():
    ports = Memory()
    await ports.append([COUNTS, CONSUMER])
    groups = Groups(GroupLook(group="g", members=1))
    groups.may_answer.set()
    await drain(a_journal(ports, groups=groups), ports)
    again = Memory()
    again.log = list(ports.log)
    otherwise = Groups(GroupLook(group="g"))
    otherwise.may_answer.set()
    await drain(a_journal(again, groups=otherwise), again)
    assert again.outcomes == ports.outcomes


async def test_where_nobody_looks_at_groups_they_are_unknown():
    ports = Memory()
    await ports.append([COUNTS, CONSUMER])
    await drain(a_journal(ports, observe_only=False), ports)
    assert [outcome.reason for outcome in ports.outcomes] == ["idle_unknown"]


# ---- a log that takes no large records


def taking(ports, most_bytes):
    """Have the broker refuse what is larger, as one does whose topic says so (max.message.bytes)."""
    append = ports.append

    async def refuse(records):
        records = list(records)
        if any(len(steps.encode(record)) > most_bytes for record in records):
            raise MessageSizeTooLargeError
        await append(records)

    ports.append = refuse


def with_manifests_of(sizes):
    """Answer each look with the next Job, whose manifest has so many bytes."""
    left = iter(sizes)

    async def look(_call):
        return StepResult(What.FOUND, uid="u1", resource_version="7", manifest={"spec": "x" * next(left)})

    return look


async def test_a_job_whose_manifest_the_broker_does_not_take_is_refused_and_the_others_are_healed():
    ports = Memory()
    taking(ports, 300_000)
    other = msgspec.structs.replace(COMMAND, id="c2", key="stf/b", name="b")
    journal = a_journal(ports, in_thread=with_manifests_of([500_000, 1_000]))
    await ports.append([COUNTS, COMMAND])
    with capture_logs() as lines:
        end = await drain(journal, ports)
        await ports.append([other])
        await drain(journal, ports, start=end)
    refused, healed = ports.outcomes
    assert (refused.key, refused.result, refused.reason, refused.attempt) == ("stf/a", "refused", "forbidden", 0)
    assert refused.detail == "its manifest of 500011 bytes is too large for the steps log"
    assert (healed.key, healed.result) == ("stf/b", "would_restart")
    assert not ports.crashes
    assert [line["job"] for line in lines if line["event"] == "manifest_not_kept"] == ["stf/a"]


async def test_a_small_record_that_the_broker_does_not_take_still_ends_the_process():
    ports = Memory()
    journal = a_journal(ports)
    await ports.append([COUNTS, COMMAND])
    for offset in range(3):
        await journal.read(*numbered(ports, offset))
    taking(ports, 10)
    await journal.read(*numbered(ports, 3))
    await asyncio.wait(journal._calls, timeout=5.0)
    await asyncio.sleep(0)
    assert [type(error) for error in ports.crashes] == [MessageSizeTooLargeError]


# ---- the fence


class Touchy:
    """A cluster that must not be called."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was called")


async def announced(journal, ports, step):
    """Put an action at the point where `step` is due, and have it announced: that is the last of the log then."""
    await ports.append([COUNTS, COMMAND])
    for offset in range(3):
        await journal.read(*numbered(ports, offset))
    key, record = "stf/a", journal.actuator.jobs["stf/a"]
    state = {Step.DELETE: "saved", Step.CREATE: "gone"}[step]
    action = msgspec.structs.replace(
        record.action, state=type(record.action.state)(state), seq=1, manifest={"metadata": {}}
    )
    journal.actuator.jobs[key] = msgspec.structs.replace(record, action=action)
    await ports.append([Tick(worker="w1")])
    await journal.read(*numbered(ports, len(ports.log) - 1))


async def read_last(journal, ports):
    """Read the last record of the log; returns what calls came to."""
    await journal.read(*numbered(ports, len(ports.log) - 1))
    await asyncio.wait(journal._calls, timeout=5.0)
    return [record for value, _ in ports.log if isinstance(record := steps.decode(value), Resulted)]


async def announce(journal, ports, step):
    """Put an action at the point where `step` is announced, and read the announcement."""
    await announced(journal, ports, step)
    return await read_last(journal, ports)


@pytest.mark.parametrize("step", [Step.DELETE, Step.CREATE])
async def test_a_worker_that_no_longer_owns_the_log_touches_nothing(step):
    ports = Memory()
    journal = a_journal(ports, observe_only=False, cluster=Touchy())
    ports.owner = False
    [resulted] = await announce(journal, ports, step)
    assert resulted.result.what is What.LATER
    assert not ports.crashes


@pytest.mark.parametrize("step", [Step.DELETE, Step.CREATE])
async def test_a_worker_that_was_paused_after_it_read_the_announcement_touches_nothing(step):
    ports, now = Memory(), 0.0

    async def paused_before(call):
        nonlocal now
        now += journal_module.FENCE_SECONDS + 0.1
        return call()

    journal = a_journal(ports, observe_only=False, cluster=Touchy(), clock=lambda: now, in_thread=paused_before)
    [resulted] = await announce(journal, ports, step)
    assert resulted.result.what is What.LATER


@pytest.mark.parametrize("step", [Step.DELETE, Step.CREATE])
async def test_a_worker_that_was_paused_before_it_read_the_announcement_touches_nothing(step):
    ports, now = Memory(), 0.0
    journal = a_journal(ports, observe_only=False, cluster=Touchy(), clock=lambda: now)
    await announced(journal, ports, step)
    now += journal_module.FENCE_SECONDS + 0.1
    [resulted] = await read_last(journal, ports)
    assert resulted.result.what is What.LATER


async def test_of_an_announcement_that_was_sent_twice_the_first_may_be_read_so_the_first_time_counts():
    ports, now = Memory(), 0.0
    journal = a_journal(ports, observe_only=False, cluster=Touchy(), clock=lambda: now)
    await announced(journal, ports, Step.DELETE)
    first = len(ports.log) - 1
    now += journal_module.FENCE_SECONDS + 0.1
    ports.now += 20.0
    await ports.append([Tick(worker="w1")])
    await journal.read(*numbered(ports, len(ports.log) - 1))
    assert ports.log[first][0] == ports.log[-1][0]
    [resulted] = await read_last(journal, ports)
    assert resulted.result.what is What.LATER


@pytest.mark.parametrize("step", [Step.DELETE, Step.CREATE])
async def test_what_a_worker_announced_before_it_got_the_log_anew_is_late(step):
    ports = Memory()
    before, anew = (a_journal(ports, observe_only=False, cluster=Touchy()) for _ in range(2))
    await announced(before, ports, step)
    anew.actuator.jobs["stf/a"] = before.actuator.jobs["stf/a"]
    [resulted] = await read_last(anew, ports)
    assert resulted.result.what is What.LATER


async def test_a_call_that_gives_no_answer_in_time_has_an_unknown_result(monkeypatch):
    monkeypatch.setattr(journal_module, "CALL_SECONDS", 0.05)
    never = threading.Event()

    class Silent:
        def delete_job(self, *_):
            never.wait(5.0)

    ports = Memory()
    [resulted] = await announce(a_journal(ports, observe_only=False, cluster=Silent()), ports, Step.DELETE)
    never.set()
    assert resulted.result == StepResult(What.UNKNOWN, message="no answer within 0.05 s")


async def test_a_programming_error_in_a_call_ends_the_process():
    class Broken:
        def delete_job(self, *_):
            raise KeyError("metadata")

    ports = Memory()
    assert not await announce(a_journal(ports, observe_only=False, cluster=Broken()), ports, Step.DELETE)
    await asyncio.sleep(0)
    assert [type(error) for error in ports.crashes] == [KeyError]


async def test_calls_do_not_wait_for_each_other():
    barrier = threading.Barrier(40, timeout=60.0)  # nobody passes it before the last one comes
    passed = await asyncio.gather(*(in_thread(barrier.wait) for _ in range(40)))
    assert sorted(passed) == list(range(40))


# ---- what is shown


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, False),
        ({"state": State.STRANDED}, True),
        ({"state": State.DELETING, "overdue": True}, True),
        ({"state": State.RESTORING, "refusal": "quota exceeded"}, True),
    ],
)
def test_metric_page_and_command_call_the_same_restarts_those_that_wait_for_a_person(changes, waits):
    """The alert sends people to `fleet` and `actions --open`."""
    actuator = a_journal(Memory()).actuator
    records = [COUNTS, COMMAND]
    for offset in itertools.count():
        if not records:
            break
        records += actuator.apply(records.pop(0), offset, START + 1).sends
    ((key, record),) = actuator.jobs.items()
    record = msgspec.structs.replace(record, action=msgspec.structs.replace(record.action, **changes))
    actuator.jobs[key] = record
    show(actuator)
    assert sample("sf_healer_actions_waiting_for_a_person") == waits
    assert sample("sf_healer_actions_in_flight") == (not waits)
    assert [each["job"] for each in build_admission(actuator)["waiting_for_a_person"]] == [key] * waits
    action = shown(record)["action"]
    assert waits_for_a_person(action) is waits
    if waits:
        assert resolve_of(key, {"action": action}, Decision.ABANDON, by="ann", now=START)
    else:
        with pytest.raises(RequestRefusedError):
            resolve_of(key, {"action": action}, Decision.ABANDON, by="ann", now=START)
    show(None)


def test_what_is_under_way_and_what_holds_restarts_back_are_metrics_of_the_worker_that_reads_the_log():
    actuator = a_journal(Memory()).actuator
    records = [COUNTS, Pause(scope="target:x", reason="no", by="me", at=START), COMMAND]
    for offset in itertools.count():
        if not records:
            break
        records += actuator.apply(records.pop(0), offset, START + 1).sends
    show(actuator)
    assert sample("sf_healer_actions_in_flight") == 1
    assert sample("sf_healer_actions_waiting_for_a_person") == 0
    assert sample("sf_healer_pauses") == 1
    assert {phase: sample("sf_healer_admission_phase", phase=phase) for phase in Phase} == {
        Phase.CALM: 1.0,
        Phase.STORM: 0.0,
        Phase.PROBING: 0.0,
    }
    show(None)
    assert sample("sf_healer_actions_in_flight") == sample("sf_healer_pauses") == 0
    assert sample("sf_healer_admission_phase", phase="calm") is None
