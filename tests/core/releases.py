"""What a release leaves behind on Kafka and makes of what comes next: a story told to its code, as text for a fixture.

    python -m tests.core.releases > tests/core/fixtures/0.1.0.json

Written with the code of the release itself, once, before it is tagged; tests/core/test_releases.py has every later
code take over from there. The story has a Job of every verdict, a restart between its delete and its create, commands
that are held and refused, a pause and a quarantine.
"""

import base64
import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from sf_healer import __version__
from sf_healer.core import changelog, commands, evidence, steps
from sf_healer.core.actuator import Actuator
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Grounds,
    Pause,
    ProofKind,
    Resolve,
    Resume,
    Unreadable,
    Withdraw,
)
from sf_healer.core.events import Kind
from sf_healer.core.evidence import Bundle, Evidence, Fact, Hold, HoldCause, Mark, OutcomeSeen, Snapshot, SnapshotPart
from sf_healer.core.facts import Condition, JobFact, PodState
from sf_healer.core.groups import GroupLook
from sf_healer.core.partition import Partition
from sf_healer.core.policy import Limits, PolicyBook, parse
from sf_healer.core.steps import (
    Admitted,
    Announced,
    FleetCounts,
    GroupLooked,
    Resulted,
    Seen,
    Settled,
    Step,
    StepResult,
    StepsRecord,
    Tick,
    What,
)
from tests.core.strategies import FEED_GAP_SECONDS, POLICY, T0, TOPIC, WINDOW_SECONDS, a_beat, a_bundle, a_fact, a_word

Record = tuple[float, bytes]  # append time, value

OTHER_WORKER = "w-old"


def text(value: bytes) -> str:
    """Write bytes as text."""
    return base64.b64encode(value).decode()


def octets(value: str) -> bytes:
    """Read bytes written as text."""
    return base64.b64decode(value)


# ---- the detector


def a_partition(policies: PolicyBook) -> Partition:
    """Make the partition that the story is told to."""
    return Partition(
        0, partitions=1, policies=policies, window_seconds=WINDOW_SECONDS, feed_gap_seconds=FEED_GAP_SECONDS
    )


class _Log:
    """An evidence log that is written as time passes, with a mark every five seconds."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = T0
        self._offsets = itertools.count()

    def say(self, *entries: Evidence) -> None:
        self.records += [(self.now, evidence.encode(entry)) for entry in entries]

    def run(self, seconds: int, *, loading: Iterable[str] = ()) -> None:
        """Let time pass; these Jobs report every ten seconds."""
        for _ in range(seconds):
            self.now += 1
            if self.now % 5 == 0:
                self.say(Mark(TOPIC, 1, ((0, self.now),)))
            if self.now % 10 == 0:
                for name in loading:
                    self.loading(name)

    def loading(self, name: str) -> None:
        offset = next(self._offsets)
        self.say(a_bundle(a_beat(self.now, key=f"stf/{name}", offset=offset, records_written=offset)))

    def word(self, name: str, kind: Kind, *, finished: bool = False) -> None:
        word = a_word(kind, self.now, key=f"stf/{name}", offset=next(self._offsets), finished=finished, detail="told")
        self.say(a_bundle(word))

    def fact(self, name: str, **changes: object) -> JobFact:
        known = {"uid": f"u-{name}", "queue_id": f"loader-{name}", "kafka_topic": f"loader-{name}"}
        fact = a_fact(f"stf/{name}", **{**known, "created_at": self.now, **changes})
        self.say(Fact(fact))
        return fact


_WELL = ("well", "learner", "stepper", "restarted", "waits")


def _before() -> _Log:
    """Tell what the release has seen and stored."""
    log = _Log()
    log.run(1)
    for name in ("well", "stuck", "failed", "grace", "finished", "stopped", "told", "restarted", "waits", "gone"):
        log.fact(name, labels={"team": "data"})
    log.fact("stepper", target="stepper")
    log.fact("learner", target="learner")
    log.fact("idle", target="consumer")
    log.fact("mute", target="unheard-of")
    log.fact("quiet", target="visualizer")
    log.fact("off", target="off")
    log.fact("skip", skip=True)
    log.fact("kueue", managed_by="kueue.x-k8s.io/multikueue")
    log.fact("suspended", condition=Condition.SUSPENDED, pod=PodState.NONE)
    log.fact("foreign", managed=False)
    log.fact("pending", pod=PodState.NONE)
    log.fact("lost", condition=Condition.FAILED, pod=PodState.ENDED)
    log.fact("silent-from-the-start")
    for name in ("well", "stuck", "failed", "grace", "finished", "told", "restarted", "waits", "idle", "stepper"):
        log.word(name, Kind.STARTED)
        log.loading(name)
    for _ in range(11):  # enough for a cadence
        for _ in range(10):
            log.run(1)
            log.loading("learner")
        for name in _WELL:
            log.loading(name)
    log.word("failed", Kind.ERROR, finished=True)
    log.word("grace", Kind.ERROR)
    log.word("finished", Kind.FINISHED)
    log.word("stopped", Kind.STARTED)
    log.word("stopped", Kind.INTERRUPTED)
    log.loading("nobody-knows")
    log.run(12, loading=_WELL)
    log.say(Hold("stf/told", HoldCause.STOP_COMMAND, 0, 7, log.now))
    log.say(_outcome("idle", "refused", "idle", log.now))
    log.say(_outcome("stuck", "refused", "rate", log.now, retry_after=120.0))
    log.say(_outcome("restarted", "restarted", "verified", log.now, new_uid="u-restarted-2", attempt=1))
    log.fact("restarted", uid="u-restarted-2", attempt=1, action_id="a-1", resource_version=20)
    log.loading("restarted")
    log.run(30, loading=_WELL)
    log.now += 60  # nothing is read for a minute
    log.run(3, loading=_WELL)
    return log


def _outcome(name: str, result: str, reason: str, at: float, **more: object) -> OutcomeSeen:
    known: dict[str, Any] = {"retry_after": 0.0, "attempt": 0, **more}
    return OutcomeSeen(f"stf/{name}", f"c-{name}", f"u-{name}", result, reason, at, **known)


def _after(log: _Log) -> list[Record]:
    """Tell what comes after it, up to verdicts of every kind."""
    begin = len(log.records)
    log.run(10, loading=_WELL)
    log.loading("stuck")
    log.fact("pending", created_at=T0, resource_version=40)
    log.loading("failed")
    log.run(100, loading=("well", "learner"))
    log.fact("gone", condition=Condition.DELETING, resource_version=41)
    log.run(100, loading=("well",))
    return log.records[begin:]


def state_of(partition: Partition, log: Iterable[Record]) -> dict[bytes, bytes]:
    """Fold a log and give what the changelog then holds."""
    table: dict[bytes, bytes] = {}
    for offset, (at, value) in enumerate(log):
        partition.apply(evidence.decode(value), at)
        for key, written in changelog.writes_of(0, partition.take(), offset).items():
            if written is None:
                table.pop(key, None)
            else:
                table[key] = written
    return table


def judged(policies: PolicyBook, table: dict[bytes, bytes], rest: Iterable[Record]) -> dict[str, Any]:
    """Take over from a stored state and say what comes of the rest of the log."""
    partition = a_partition(policies)
    partition.restore(changelog.meta_of(table.get(changelog.meta_key(0))), changelog.states_of(sorted(table.items())))
    at_once = {key: state.verdict for key, state in sorted(partition.jobs.items())}
    effects: list[Any] = []
    for at, value in rest:
        partition.apply(evidence.decode(value), at)
        effects += [json.loads(commands.encode(effect)) for effect in partition.take().effects]
    verdicts = {key: state.verdict for key, state in sorted(partition.jobs.items())}
    counts = msgspec.structs.asdict(partition.counts())
    return {"verdicts_at_once": at_once, "effects": effects, "verdicts": verdicts, "counts": counts}


# ---- the actuator


def _command(name: str, now: float, **changes: Any) -> Command:
    known: dict[str, Any] = {
        "id": f"c-{name}-{now:.0f}",
        "key": f"stf/{name}",
        "namespace": "stf",
        "name": name,
        "uid": f"u-{name}",
        "verdict": "stuck",
        "evidence": Grounds(proof=ProofKind.SILENCE, silence_seconds=41.0, threshold_seconds=40.0, unhealthy_at=now),
        "decided_at": now,
        "expires_at": now + 60.0,
        "policy": "loaders",
        "target": "loader",
        "queue_id": f"loader-{name}",
        "kafka_topic": f"loader-{name}",
    }
    return Command(**{**known, **changes})


class _Steps:
    """A steps log with the actuator that reads it; what it sends comes back."""

    def __init__(self) -> None:
        self.actuator = Actuator(worker=OTHER_WORKER, limits=Limits(), observe_only=False)
        self.now = T0
        self.records: list[Record] = []
        self.table: dict[bytes, bytes] = {}
        self.tasks: list[Any] = []

    def put(self, *records: StepsRecord) -> None:
        waiting = list(records)
        while waiting:
            record = waiting.pop(0)
            self.records.append((self.now, steps.encode(record)))
            effects = self.actuator.apply(record, len(self.records) - 1, self.now)
            waiting += effects.sends
            self.tasks += effects.tasks
            if effects.write is not None:
                key, value = effects.write
                if value is None:
                    self.table.pop(key, None)
                else:
                    self.table[key] = value

    def counts(self) -> None:
        self.put(FleetCounts(partition=0, partitions=1, at=self.now, base=100, unhealthy=1, sick=1))

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.put(Tick(worker=OTHER_WORKER))

    def answer(self, result: StepResult) -> None:
        for _ in range(60):
            if not self.tasks:
                self.tick()
        action, step = self.tasks[0].action, self.tasks.pop(0).step
        self.put(Resulted(key=action.command.key, action_id=action.id, seq=action.seq, step=step, result=result))


def _found(name: str) -> StepResult:
    manifest: dict[str, object] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "stf"},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "TOKEN", "value": "x"}]}]}}},
    }
    return StepResult(What.FOUND, uid=f"u-{name}", resource_version="5", manifest=manifest)


def _acted() -> _Steps:
    """Tell what the release has done: some restarts are over, one is half way, one command is held."""
    log = _Steps()
    log.counts()
    log.put(_command("poor", log.now))  # its like is not accepted: quarantine
    for result in (_found("poor"), StepResult(What.DONE), StepResult(What.ABSENT)):
        log.answer(result)
    log.answer(StepResult(What.REFUSED, status=422, message="invalid"))
    log.answer(StepResult(What.DONE, uid="u-poor-2"))
    log.tasks.clear()
    log.tick(60.0)
    log.counts()
    log.put(_command("done", log.now))
    for result in (_found("done"), StepResult(What.DONE), StepResult(What.ABSENT)):
        log.answer(result)
    log.answer(StepResult(What.DONE, uid="u-done-2"))
    log.put(Alive(key="stf/done", uid="u-done-2", at=log.now))
    log.tasks.clear()
    log.tick(30.0)
    log.put(Pause(scope="queue:loader-paused", reason="maintenance", by="ann", at=log.now))
    log.counts()
    log.put(_command("half", log.now))
    for result in (_found("half"), StepResult(What.DONE)):
        log.answer(result)
    log.put(_command("asked", log.now, consumer=True, target="consumer"))
    log.put(
        GroupLooked(
            key="stf/asked",
            command_id=f"c-asked-{log.now:.0f}",
            seq=0,
            look=GroupLook(group="x-consumer-loader-asked", members=1, committed=5, lag=7),
        )
    )
    log.tasks.clear()
    return log


def _goes_on(log: _Steps) -> list[Record]:
    """Tell what comes next: the restart is seen through, the rest is answered."""
    at, rest = log.now, []

    def put(*records: StepsRecord, seconds: float = 1.0) -> None:
        nonlocal at
        at += seconds
        rest.extend((at, steps.encode(record)) for record in records)

    def counts() -> FleetCounts:
        return FleetCounts(partition=0, partitions=1, at=at, base=100, unhealthy=1, sick=1)

    half = log.actuator.open_actions()["stf/half"]
    put(Tick(worker="w-new"), seconds=20.0)
    look, create = half.seq + 1, half.seq + 2
    known = {"key": "stf/half", "action_id": half.id}
    if half.call is not None:  # announced before, and never answered
        put(Resulted(**known, seq=half.seq, step=half.call.step, result=StepResult(What.UNKNOWN)))
    put(Announced(**known, seq=look, step=Step.LOOK, worker="w-new"))
    put(Resulted(**known, seq=look, step=Step.LOOK, result=StepResult(What.ABSENT)))
    put(Announced(**known, seq=create, step=Step.CREATE, worker="w-new"))
    put(Resulted(**known, seq=create, step=Step.CREATE, result=StepResult(What.DONE, uid="u-half-2")))
    put(Seen(fact=a_fact("stf/half", uid="u-half-2", action_id=half.id)))
    put(Alive(key="stf/half", uid="u-half-2", at=at))
    put(Settled(key="stf/half", action_id=half.id, repaired=True))
    asked = next(iter(log.actuator.ledger.held))
    moved = GroupLook(group="x-consumer-loader-asked", members=1, committed=9, lag=3)
    put(GroupLooked(key="stf/asked", command_id=asked.id, seq=1, look=moved))
    put(counts(), _command("paused", at))
    put(_command("poor", at, uid="u-poor-2"))
    put(_command("taken-back", at), Withdraw(id=f"c-taken-back-{at:.0f}", key="stf/taken-back", reason="reports"))
    put(Resume(scope="queue:loader-paused", by="ann", at=at), Resume(scope="job:stf/poor", by="ann", at=at))
    put(counts(), _command("poor", at + 1, uid="u-poor-2"))
    put(Resolve(key="stf/half", action_id=half.id, decision=Decision.ABANDON, by="ann", at=at))
    put(Admitted(command=_command("nobody", at), observe_only=False))
    put(Tick(worker="w-new"), seconds=100.0)
    return rest


def acted(table: dict[bytes, bytes], first_offset: int, rest: Iterable[Record]) -> dict[str, Any]:
    """Take over from a stored state and say what comes of the rest of the log."""
    actuator = Actuator(worker="w-new", limits=Limits(), observe_only=False)
    actuator.restore(sorted(table.items()))
    at_once = {key: action.state for key, action in sorted(actuator.open_actions().items())}
    outcomes: list[Any] = []
    tasks: list[tuple[str, str]] = []
    for offset, (at, value) in enumerate(rest, start=first_offset):
        record = steps.decode(value)
        assert not isinstance(record, Unreadable), record
        effects = actuator.apply(record, offset, at)
        outcomes += [json.loads(commands.encode(outcome)) for outcome in effects.outcomes]
        tasks += [(task.action.command.key, task.step) for task in effects.tasks]
    ledger = actuator.ledger
    return {
        "open_at_once": at_once,
        "outcomes": outcomes,
        "tasks": [list(task) for task in tasks],
        "open": {key: [action.state, action.seq] for key, action in sorted(actuator.open_actions().items())},
        "attempts": {key: len(record.history.attempts) for key, record in sorted(actuator.jobs.items())},
        "ledger": {
            "tokens": ledger.tokens,
            "window": ledger.window,
            "phase": ledger.phase,
            "slots": [slot.key for slot in ledger.slots],
            "held": [command.key for command in ledger.held],
            "pauses": sorted(ledger.pauses),
        },
    }


# ---- the fixture


def written() -> dict[str, Any]:
    """Tell both stories to the code that is imported, and give all that it left and made of them."""
    policies = parse(POLICY)
    log = _before()
    jobs = state_of(a_partition(policies), log.records)
    evidence_rest = _after(log)
    steps_log = _acted()
    steps_rest = _goes_on(steps_log)
    kinds = {type(evidence.decode(value)) for _, value in log.records}
    assert {Bundle, Fact, Hold, Mark, OutcomeSeen, Snapshot, SnapshotPart} >= kinds
    return {
        "release": __version__,
        "policy": POLICY,
        "jobs": {text(key): text(value) for key, value in jobs.items()},
        "evidence": [[at, text(value)] for at, value in evidence_rest],
        "judged": judged(policies, jobs, evidence_rest),
        "actions": {text(key): text(value) for key, value in steps_log.table.items()},
        "steps_offset": len(steps_log.records),
        "steps": [[at, value.decode()] for at, value in steps_rest],
        "acted": acted(steps_log.table, len(steps_log.records), steps_rest),
    }


if __name__ == "__main__":
    json.dump(written(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
