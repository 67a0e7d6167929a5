"""Our own logs with hostile records among good ones: what is read is folded, stored and shown, whatever it says.

Who may write these topics can do harm enough with good records; here is seen to it that no record, hostile or broken
on its way, ends every worker that reads it.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import msgspec

from sf_healer.core import commands, evidence, steps
from sf_healer.core.actuator import Actuator, shown
from sf_healer.core.changelog import meta_key, meta_of, states_of, writes_of
from sf_healer.core.commands import Alive, Command, Decision, Grounds, Pause, Resolve, Resume, Unreadable, Withdraw
from sf_healer.core.evidence import Fact, Hold, HoldCause, Snapshot, SnapshotPart, UnknownSchema
from sf_healer.core.groups import GroupLook
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts, GroupLooked, LimitsChanged, Resulted, Seen, StepResult, Tick, What
from sf_healer.views.admission import build_admission
from sf_healer.views.jobs import build_fleet, build_job
from sf_healer.views.notices import describe
from tests.core.shown import build_jobs
from tests.core.strategies import JOB, T0, WORD_KINDS, a_beat, a_bundle, a_fact, a_mark, a_partition, a_word, an_outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sf_healer.core.actuator import Effects
    from sf_healer.core.partition import Partition

_SHOWN_EVERY = 100
_KEYS = (JOB, "stf/b", "stf/c")
_NUMBERS = (-1, 0, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 1e300, -1e300, 1.5, T0, T0 + 1e9)
_OTHERS = ("", "x" * 5000, "\x00", "a/b/c", "*", "job:stf/a", "stf/a", "stuck", "found", None, True, [], {})
_MSGPACK_ONLY = (float("nan"), float("inf"), -float("inf"), b"\xff")
_JSON_ONLY = (10**30, -(10**30))


class _Saboteur:
    """Breaks some of the records that pass."""

    def __init__(
        self, rng: random.Random, load: Callable[[bytes], Any], dump: Callable[[Any], bytes], odd: Any
    ) -> None:
        self._rng, self._load, self._dump = rng, load, dump
        self._odd = (*_NUMBERS, *_OTHERS, *odd)

    def pass_on(self, value: bytes) -> bytes:
        roll = self._rng.random()
        if roll < 0.6:
            return value
        if roll < 0.7:
            broken = bytearray(value)
            broken[self._rng.randrange(len(broken))] ^= 1 << self._rng.randrange(8)
            return bytes(broken)
        tree = self._load(value)
        while True:
            tree = self._sabotage(tree)
            if self._rng.random() < 0.7:
                return self._dump(tree)

    def _sabotage(self, tree: Any) -> Any:
        """Put something odd in the place of a part, as a rule one deep inside."""
        if tree and isinstance(tree, list | dict) and self._rng.random() < 0.9:
            place = self._rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
            tree[place] = self._sabotage(tree[place])
            return tree
        return self._rng.choice(self._odd)


# ---- the evidence log


def fold_hostile_evidence(seed: str, records: int) -> int:
    """Fold so many records; returns how many were evidence."""
    rng = random.Random(seed)
    saboteur = _Saboteur(rng, msgspec.msgpack.decode, msgspec.msgpack.encode, _MSGPACK_ONLY)
    partition, table, now, folded = a_partition(), {}, T0, 0
    partition.restore(None, [])
    for offset in range(records):
        now += rng.random() * 5
        try:
            record = evidence.decode(saboteur.pass_on(evidence.encode(_some_evidence(rng, now))))
        except (msgspec.DecodeError, UnknownSchema):
            continue
        folded += 1
        partition.apply(record, now)
        table |= writes_of(0, partition.take(), offset)
        if offset % _SHOWN_EVERY == 0:
            _show(partition)
            partition = _restored({key: value for key, value in table.items() if value is not None})
    return folded


def _some_evidence(rng: random.Random, now: float) -> evidence.Evidence:
    key, offset = rng.choice(_KEYS), rng.randrange(1000)
    options: tuple[Callable[[], evidence.Evidence], ...] = (
        lambda: a_bundle(
            a_beat(now, key=key, offset=offset), a_word(rng.choice(WORD_KINDS), now, key=key, offset=offset)
        ),
        lambda: a_mark(now),
        lambda: Fact(a_fact(key, uid=f"u{offset % 3}", resource_version=offset)),
        lambda: Snapshot(offset, ((JOB, "u1"),)),
        lambda: SnapshotPart(offset, ((JOB, "u1"),), None, JOB),
        lambda: Hold(key, HoldCause.STOP_COMMAND, 0, offset, now),
        lambda: an_outcome("c1", at=now, key=key),
    )
    return rng.choice(options)()


def _show(partition: Partition) -> None:
    build_jobs([partition])
    for state in partition.jobs.values():
        msgspec.json.encode(build_job(partition, state))
    msgspec.json.encode(build_fleet([partition]))
    partition.counts()


def _restored(table: dict[bytes, bytes]) -> Partition:
    """Begin anew from what is stored, as the next worker does."""
    partition = a_partition()
    partition.restore(meta_of(table.get(meta_key(0))), states_of(table.items()))
    return partition


# ---- the steps log


def read_hostile_steps(seed: str, records: int) -> int:
    """Read so many records, those that follow from them included; returns how many could be read."""
    rng = random.Random(seed)
    saboteur = _Saboteur(rng, json.loads, lambda tree: json.dumps(tree).encode(), _JSON_ONLY)
    actuator, table, log, now, read = _actuator({}), {}, [], T0, 0
    for offset in range(records):
        now += rng.random() * 3
        own = log.pop(0) if log and rng.random() < 0.7 else steps.encode(_some_step(rng, now))
        record = steps.decode(saboteur.pass_on(own))
        if isinstance(record, Unreadable):
            continue
        read += 1
        effects = actuator.apply(record, offset, now)
        log += [steps.encode(sent) for sent in effects.sends] + _results(rng, effects)
        for outcome in effects.outcomes:
            commands.encode(outcome), evidence.encode_outcome(outcome), describe(outcome)
        if effects.write is not None:
            key, value = effects.write
            table[key] = value
        if offset % _SHOWN_EVERY == 0:
            build_admission(actuator)
            for kept in actuator.jobs.values():
                shown(kept)
            actuator = _actuator({key: value for key, value in table.items() if value is not None})
    return read


def _actuator(table: dict[bytes, bytes]) -> Actuator:
    made = Actuator(worker="w1", limits=Limits(), observe_only=False)
    made.restore(table.items())
    return made


def _some_step(rng: random.Random, now: float) -> steps.StepsRecord:
    key, command = rng.choice(_KEYS), f"c{rng.randrange(3)}"
    counts = FleetCounts(partition=0, partitions=1, at=now, base=9, unhealthy=1, sick=1)
    options: tuple[Callable[[], steps.StepsRecord], ...] = (
        lambda: _a_command(rng, key, command, now),
        lambda: _a_command(rng, key, command, now),
        lambda: counts,
        lambda: counts,
        lambda: Withdraw(id=command, key=key),
        lambda: Alive(key=key, uid="u2", at=now),
        lambda: Pause(scope=rng.choice(("*", f"job:{key}")), reason="x", until=now + 5.0),
        lambda: Resume(scope="*"),
        lambda: steps.StillSick(key=key, at=now),
        lambda: Resolve(key=key, action_id=command, decision=rng.choice(list(Decision))),
        lambda: GroupLooked(key=key, command_id=command, seq=0, look=GroupLook(group="g", members=1)),
        lambda: Seen(fact=a_fact(key)),
        lambda: LimitsChanged(
            limits=Limits(rate_per_minute=rng.choice((0.0, 6.0)), in_flight=rng.randrange(4)), worker="w2"
        ),
        lambda: Tick(worker="w1"),
        lambda: Tick(worker="w1"),
    )
    return rng.choice(options)()


def _a_command(rng: random.Random, key: str, command: str, now: float) -> Command:
    namespace, _, name = key.partition("/")
    return Command(
        id=command,
        key=key,
        namespace=namespace,
        name=name,
        uid=rng.choice(("u1", "u2")),
        verdict=rng.choice(("stuck", "failed")),
        evidence=Grounds(unhealthy_at=now),
        decided_at=now,
        expires_at=now + 60.0,
        consumer=rng.random() < 0.3,
    )


def _results(rng: random.Random, effects: Effects) -> list[bytes]:
    """Answer the steps that are taken as a cluster might, and as none would."""
    answers = []
    for task in effects.tasks:
        what = rng.choice(list(What))
        manifest: dict[str, object] | None = {"metadata": {"name": "a"}, "spec": {}} if what is What.FOUND else None
        result = StepResult(what, uid=rng.choice(("u1", "u2", "u9")), manifest=manifest)
        action = task.action
        resulted = Resulted(key=action.command.key, action_id=action.id, seq=action.seq, step=task.step, result=result)
        answers.append(steps.encode(resulted))
    return answers
