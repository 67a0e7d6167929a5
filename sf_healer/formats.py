"""The topics and the records that others may read or write, described for docs/topics.md. Pure.

A row or a field that is missing here fails a test: what is written here is held against sf_healer/topics.py,
sf_healer/rights.py and the types of core/commands.py.
"""

import hashlib
import re
import typing
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple

import msgspec

from sf_healer import topics
from sf_healer.core import commands
from sf_healer.core.commands import (
    Alive,
    Command,
    Decision,
    Grounds,
    Outcome,
    Pause,
    ProofKind,
    Resolve,
    Result,
    Resume,
    Withdraw,
)
from sf_healer.core.dead_letters import Header
from sf_healer.core.events import Malformed, decode
from sf_healer.core.groups import Neighbours
from sf_healer.core.verdicts import Rule, Verdict
from sf_healer.rights import Operation, Purpose, rights
from sf_healer.settings import PREFIX, Settings
from sf_healer.topics import Owner, Spec, platform_specs, specs


class Use(NamedTuple):
    """What lies on a topic."""

    key: str
    value: str


#: By the topic's name with default settings.
USES: Mapping[str, Use] = {
    topics.EVIDENCE: Use(
        "none: the partition is murmur2 of `namespace/name`, as Kafka's default partitioner computes it",
        "msgpack `[schema version, [type, …]]`: bundles of reports (of version 2 where they are columns), marks, "
        "facts and snapshots of Jobs, outcomes",
    ),
    topics.ACTIONS: Use("`namespace/name`", "JSON: `restart`, `withdraw`, `alive`, `resolve`"),
    topics.STEPS: Use(
        "`namespace/name`, or none",
        "JSON: commands as they were copied, steps and their results, counts, ticks. **Manifests, with secrets**",
    ),
    topics.OUTCOMES: Use("`namespace/name`", "JSON: `outcome`"),
    topics.CONTROL: Use("the scope", "JSON: `pause`, `resume`"),
    topics.DEAD_LETTERS: Use("`topic/partition/offset` of the record", "the record as it came, 64 KiB at most"),
    topics.JOBS_CHANGELOG: Use(
        "`namespace/name`; `\\0partition/N` for the partition's own state",
        "msgpack `[schema version, offset of the newest evidence in it, state]`",
    ),
    topics.ACTIONS_CHANGELOG: Use(
        f"`namespace/name`; `{commands.ALL_JOBS}` for the ledger of admission",
        "msgpack, as above with the offset of the steps log. **Manifests, with secrets**",
    ),
    "queue-events": Use("none", "[reports](reports.md) of StreamForge's services"),
    "queue-control": Use("StreamForge's", 'JSON; a stop command has `"command": "stop"` and `queue_id`'),
}

#: Fields that several records have.
_COMMON = {"schema_version": "of the record; another one is not read"}
_JOB = {"key": "the Job, `namespace/name`"}
_ASKED = {"by": "who asks, as user@machine", "at": "when it was asked, epoch seconds"}

FIELDS: Mapping[type[msgspec.Struct], Mapping[str, str]] = {
    Command: _COMMON
    | {
        "id": "the same judgement has the same id, whoever makes it (UUID version 5)",
        **_JOB,
        "namespace": "of the Job",
        "name": "of the Job",
        "uid": "the incarnation that was judged: no other is touched",
        "verdict": f"[verdict](verdicts.md), or `{commands.REQUESTED_VERDICT}` by a person",
        "evidence": "the numbers behind it, see *evidence*",
        "decided_at": "watermark at the decision (where a person asked, time of the steps log), epoch seconds",
        "expires_at": "after that it is refused as `expired`, epoch seconds",
        "policy": "name of the Job's policy",
        "attempt": "restarts of the Job before this one",
        "target": "of the Job",
        "queue_id": "of the Job",
        "startup_seconds": "in which the new incarnation has to give its first sign of life",
        "proof_of_life": "`telemetry`: a report; `pod`: a running pod, for its target may be mute",
        "requested_by": "who asked, as user@machine; empty where the sweeper decided",
        "attempts": "restarts before quarantine, for this Job; 0: as `[admission]` says",
        "consumer": "its consumer group is looked at before a restart",
        "kafka_topic": "the consumer's data topic",
        "pod_ip": "address of the Job's pod, to tell its group from others",
        "neighbours": "the other Jobs of its queue, see *neighbours*; null: nobody knows",
    },
    Withdraw: _COMMON
    | {"id": "of the command that is taken back", **_JOB, "reason": "the [rule](verdicts.md) that holds now"},
    Alive: _COMMON | _JOB | {"uid": "the incarnation that has spoken", "at": "when, epoch seconds of the evidence log"},
    Resolve: _COMMON
    | _JOB
    | {"action_id": "id of the command whose restart asks for a person", "decision": "what to do about it"}
    | _ASKED,
    Outcome: _COMMON
    | {
        "id": "the same outcome has the same id, also when it is published again after a crash",
        "command_id": "of the command it answers",
        **_JOB,
        "uid": "the incarnation that was judged",
        "result": "what became of the command",
        "reason": "[refusal](operations.md#what-a-refusal-means) or [end](operations.md#how-a-restart-ends), in a word",
        "at": "epoch seconds of the steps log",
        "retry_after": "seconds until the Job is asked about again; 0: not set",
        "new_uid": "the incarnation that was created",
        "attempt": "the number of the restart that this was; 0: nothing was touched",
        "detail": "more in words",
        "verdict": "of the command",
        "policy": "of the command",
        "evidence": "of the command, see *evidence*",
        "requested_by": "of the command",
        "final": "false: more outcomes follow for this command",
        "needs_person": "nothing more happens by itself",
        "quarantined": "the Job is in quarantine",
        "steps": "the states that the restart entered, each `[name, epoch seconds]`",
    },
    Grounds: {
        "proof": "what kind of fact it rests on",
        "last_seen": "last sign of life, epoch seconds of the evidence log",
        "base": "from when silence counts: last seen, or the end of a feed gap",
        "silence_seconds": "the silence that counts",
        "threshold_seconds": "what it was held against",
        "watermark": "up to where the log was complete, epoch seconds",
        "unhealthy_at": "when the Job turned sick; stays while it is asked for again",
        "source_at": "Kafka's timestamp of the report that decided, epoch seconds",
        "source_topic": "of that report",
        "source_partition": "of that report; -1: none",
        "source_offset": "of that report; -1: none",
        "condition": "the Job's condition as it was judged",
        "pod_ended": "it rests on this that the pod had ended",
        "detail": "the report's own words, or a person's reason",
        "group": "what the consumer group of a silent consumer showed",
        "grace_over": "it failed because no sign of life followed its `error`",
    },
    Neighbours: {"consumers": "how many of them are consumers", "addresses": "of their pods"},
    Pause: _COMMON
    | {
        "scope": "`*`, `job:namespace/name`, `queue:ID` or `target:NAME`",
        "reason": "in words",
        **_ASKED,
        "until": "epoch seconds; null: until resumed",
    },
    Resume: _COMMON
    | {
        "scope": "that of the pause",
        "reason": "in words",
        **_ASKED,
        "quarantine_only": "of one Job: end its quarantine and leave pauses as they are",
    },
}

#: A dead letter's headers; numbers are digits, empty ones are left out.
HEADERS: Mapping[Header, str] = {
    Header.REASON: "[why](reports.md#dead-letters), in a word",
    Header.DETAIL: "more in words, 500 characters at most",
    Header.SOURCE_TOPIC: "where the record came from",
    Header.SOURCE_PARTITION: "its partition there",
    Header.SOURCE_OFFSET: "its offset there",
    Header.ORIGINAL_SIZE: "bytes of its value before it was cut",
    Header.SHA256: "of its whole value, hexadecimal",
}

_KEY = "stf/loader-ethusdt-api-trades-2025-06-01-2qgfzu-loader-ws"
_QUEUE = "loader-ethusdt-api-trades-2025-06-01-2QGfZu"
_UID, _NEW_UID = "0b9f6c1e-6d3f-4f0e-9a55-0d7f3a1c2e44", "5d2f1c9a-7a0c-4b58-8a6e-2f1d0c9b8a77"
_PERSON, _AT = "ops@laptop", 1_764_554_400.0
_GROUNDS = Grounds(
    proof=ProofKind.SILENCE,
    last_seen=_AT - 301.5,
    base=_AT - 301.5,
    silence_seconds=301.5,
    threshold_seconds=300.0,
    watermark=_AT,
    unhealthy_at=_AT,
    source_at=_AT - 301.75,
    source_topic="queue-events",
    source_partition=1,
    source_offset=81_733,
)
_COMMAND = Command(
    id=commands.command_id(_KEY, _UID, Verdict.STUCK, _AT - 301.5, 0),
    key=_KEY,
    namespace=_KEY.partition("/")[0],
    name=_KEY.partition("/")[2],
    uid=_UID,
    verdict=Verdict.STUCK,
    evidence=_GROUNDS,
    decided_at=_AT,
    expires_at=_AT + 60.0,
    policy="loaders",
    target="loader-ws",
    queue_id=_QUEUE,
    kafka_topic=_QUEUE,
    pod_ip="10.42.3.17",
)

#: A state and when it was entered, which the formatter would break into four lines.
_PAIR = re.compile(r'\[\s+("\w+"),\s+([\d.]+)\s+\]')

Example = Command | Withdraw | Alive | Resolve | Outcome | Pause | Resume

#: One record of each kind, as the encoders write it.
EXAMPLES: tuple[Example, ...] = (
    _COMMAND,
    Withdraw(id=_COMMAND.id, key=_KEY, reason=Rule.REPORTS),
    Alive(key=_KEY, uid=_NEW_UID, at=_AT + 14.25),
    Resolve(key=_KEY, action_id=_COMMAND.id, decision=Decision.CREATE, by=_PERSON, at=_AT + 900.0),
    Outcome(
        id=commands.outcome_id(_COMMAND.id, Result.RESTARTED, "verified"),
        command_id=_COMMAND.id,
        key=_KEY,
        uid=_UID,
        result=Result.RESTARTED,
        reason="verified",
        at=_AT + 14.5,
        new_uid=_NEW_UID,
        attempt=1,
        verdict=Verdict.STUCK,
        policy="loaders",
        evidence=_GROUNDS,
        steps=(
            ("admitted", _AT + 0.5),
            ("saved", _AT + 0.75),
            ("deleting", _AT + 1.0),
            ("gone", _AT + 2.5),
            ("verifying", _AT + 2.75),
            ("done", _AT + 14.5),
        ),
    ),
    Pause(scope=f"queue:{_QUEUE}", reason="being looked into", by=_PERSON, at=_AT, until=_AT + 3600.0),
    Resume(scope=f"queue:{_QUEUE}", reason="mended", by=_PERSON, at=_AT + 1800.0),
)
#: A record that nobody could read: where it lay, and its value.
EXAMPLE_LETTER = ("queue-events", 1, 81_734, b'{"status": "exploded", "producer": "loader-ws__2QGfZu"}')

_INTRODUCTION = """# Topics and their records

Generated by `sf-healer topics --markdown`; tests compare it with the code. `sf-healer topics` compares brokers
with it. Names are those of the default settings. Where there are three brokers, replicas are three with
`min.insync.replicas=2`.

Writers and readers are the Kafka users of [security](security.md): `detector` and `actuator` are the roles of a worker,
`people` is who runs commands. Every record of ours has a schema version; a reader that does not know it says so and
stops there ([Upgrade](deployment.md#upgrade-and-roll-back)). What is not described by its fields below is sf-healer's
own and may change.
"""


def markdown() -> str:
    """Write the page docs/topics.md."""
    return "".join((_INTRODUCTION, *_topic_tables(), *_records(), _dead_letters()))


def _topic_tables() -> Iterator[str]:
    settings = Settings()
    for title, found in (
        ("Topics of sf-healer", specs(settings, brokers=3)),
        ("Topics of StreamForge", platform_specs(settings, brokers=3)),
    ):
        yield f"\n## {title}\n\n| topic | partitions | cleanup | retention | timestamps | written by | read by |\n"
        yield "|---|---|---|---|---|---|---|\n"
        yield from map(_topic_row, found)
        yield "\n| topic | key | value |\n|---|---|---|\n"
        yield from (f"| `{spec.name}` | {USES[spec.name].key} | {USES[spec.name].value} |\n" for spec in found)
    yield "\nStreamForge's partitions and retention are those of its production overlay; nobody checks them here.\n"


def _topic_row(spec: Spec) -> str:
    retention = spec.configs.get("retention.ms")
    days = "for ever" if retention is None else f"{int(retention) // (24 * 60 * 60 * 1000)} days"
    partitions = str(spec.partitions)
    if spec.name in {topics.EVIDENCE, topics.JOBS_CHANGELOG}:
        partitions += f" (`{PREFIX}PARTITIONS`)"
    stamped = spec.configs.get("message.timestamp.type", "CreateTime, the broker's default")
    writers, readers = (_users(spec, operation) for operation in (Operation.WRITE, Operation.READ))
    cleanup = spec.configs["cleanup.policy"]
    return f"| `{spec.name}` | {partitions} | {cleanup} | {days} | {stamped} | {writers} | {readers} |\n"


def _users(spec: Spec, operation: Operation) -> str:
    settings = Settings()
    found = [
        f"`{purpose}`"
        for purpose in (Purpose.DETECTOR, Purpose.ACTUATOR, Purpose.PEOPLE)
        for right in rights(settings, purpose)
        if right.name == spec.name and operation in right.operations
    ]
    if spec.owner is Owner.PLATFORM and operation is Operation.WRITE:
        found = ["StreamForge"]
    return ", ".join(found) or "nobody of ours"


def _records() -> Iterator[str]:
    for topic, kinds in (
        (topics.ACTIONS, (Command, Withdraw, Alive, Resolve)),
        (topics.OUTCOMES, (Outcome,)),
        (topics.CONTROL, (Pause, Resume)),
    ):
        yield f"\n## Records of {topic}\n"
        for kind in kinds:
            yield f"\n### {kind.__struct_config__.tag}\n\n{_first_line(kind)}\n\n"
            yield _fields(kind)
            yield _as_json(next(example for example in EXAMPLES if type(example) is kind))
    yield "\n## Parts of records\n\nA field that has its default is left out.\n"
    for name, part in (("evidence", Grounds), ("neighbours", Neighbours)):
        yield f"\n### {name}\n\n{_fields(part)}"


def _first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _fields(kind: type[msgspec.Struct]) -> str:
    hints = typing.get_type_hints(kind, include_extras=True)
    tag = kind.__struct_config__.tag
    rows = [f'| `kind` | text | required | `"{tag}"` |\n'] if tag else []
    for field in msgspec.structs.fields(kind):
        default = "required" if field.required else f"`{_written(field.default)}`"
        if field.name == "evidence" and not field.required:
            default = "`{}`"
        rows.append(f"| `{field.name}` | {_type(hints[field.name])} | {default} | {FIELDS[kind][field.name]} |\n")
    return "| field | type | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _type(hint: Any) -> str:
    """Say in JSON's words what a field holds."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _type(typing.get_args(hint)[0])
    if origin in {UnionType, typing.Union}:
        return " or ".join(_type(each) for each in typing.get_args(hint))
    if origin is tuple:
        return "array"
    if issubclass(hint, StrEnum):
        return "one of " + ", ".join(f"`{each}`" for each in hint)
    if issubclass(hint, msgspec.Struct):
        return "object"
    return {str: "text", bool: "true or false", int: "integer", float: "number", NoneType: "null"}[hint]


def _written(default: object) -> str:
    return msgspec.json.encode(default).decode()


def _as_json(record: Example) -> str:
    written = msgspec.json.format(commands.encode(record), indent=2).decode()
    written = _PAIR.sub(r"[\1, \2]", written)
    return f"\n```json\n{written}\n```\n"


def _dead_letters() -> str:
    topic, partition, offset, value = EXAMPLE_LETTER
    malformed = decode(value)
    assert isinstance(malformed, Malformed)
    headers = {
        Header.REASON: malformed.reason,
        Header.DETAIL: malformed.detail,
        Header.SOURCE_TOPIC: topic,
        Header.SOURCE_PARTITION: partition,
        Header.SOURCE_OFFSET: offset,
        Header.ORIGINAL_SIZE: len(value),
        Header.SHA256: hashlib.sha256(value).hexdigest(),
    }
    example = "\n".join(f"{header}: {told}" for header, told in headers.items())
    rows = "".join(f"| `{header}` | {meaning} |\n" for header, meaning in HEADERS.items())
    return f"""
## Records of {topics.DEAD_LETTERS}

The value is the record as it came, or its first 64 KiB; what is known of it stands in the headers. Numbers are digits,
and a header that would be empty is left out. `sf-healer dead-letters` shows them.

| header | meaning |
|---|---|
{rows}
```
key      {topic}/{partition}/{offset}
{example}
value    {value.decode()}
```
"""
