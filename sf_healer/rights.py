"""What each kind of Kafka user of ours may do, as data: the least that works, and what each right is for.

The manifests in manifests/kafka are made from it, a worker asks its broker for exactly this before it starts, and tests
run one with exactly this. Pure: adapters/permissions.py asks the broker.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from sf_healer import topics
from sf_healer.settings import Role, Settings

#: The ids of the two Faust apps (sf_healer/app.py), and so the names of their consumer groups.
DETECTOR_GROUP = "sf-healer-detector"
ACTUATOR_GROUP = "sf-healer-actuator"
ANY = "*"
#: What the names of StreamForge's data topics begin with: each is that of its queue (queue-manager, naming.py).
DATA_TOPICS = "loader-"


class Purpose(StrEnum):
    """What a user is for; the first three are the roles of a worker."""

    ALL = "all"
    DETECTOR = "detector"
    ACTUATOR = "actuator"
    TOPICS = "topics"  # `sf-healer topics --create`
    PEOPLE = "people"  # pause, resume, restart, capture, dead-letters


class Resource(StrEnum):
    """What a right is on."""

    TOPIC = "topic"
    GROUP = "group"


class Operation(StrEnum):
    """What may be done; Kafka's own names. Read and Write each include Describe."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    DELETE = "Delete"  # this and what follows nobody of ours needs
    ALTER = "Alter"
    ALTER_CONFIGS = "AlterConfigs"


class Pattern(StrEnum):
    """Which resources a name stands for; Strimzi's own words."""

    LITERAL = "literal"
    PREFIX = "prefix"


class Right(msgspec.Struct, frozen=True):
    """Some operations on one resource by its name, or on all whose names begin so; `*` is all of a kind."""

    resource: Resource
    name: str
    operations: tuple[Operation, ...]
    why: str
    required: bool = True  # a worker does not start without it
    pattern: Pattern = Pattern.LITERAL


def rights(settings: Settings, purpose: Purpose) -> tuple[Right, ...]:
    """List the rights that a purpose needs, one for each resource."""
    return tuple(_united(_PURPOSES[purpose](settings)))


def rights_of_role(settings: Settings) -> tuple[Right, ...]:
    """List the rights that a worker with these settings does not start without."""
    needed = rights(settings, Purpose(settings.role.value))
    return tuple(right for right in needed if right.required)


def kafka_user(settings: Settings, purpose: Purpose) -> str:
    """Write the user as Strimzi's operator takes it (KafkaUser), with what each right is for."""
    name = "sf-healer" if purpose is Purpose.ALL else f"sf-healer-{purpose}"
    return _USER.format(purpose=purpose, what=_WHAT[purpose], name=name) + "".join(
        f"      # {right.why}\n"
        f'      - resource: {{type: {right.resource}, name: "{right.name}", patternType: {right.pattern}}}\n'
        f"        operations: [{', '.join(right.operations)}]\n"
        for right in rights(settings, purpose)
    )


_USER = """\
# {what}
# Made by: sf-healer topics --kafka-user {purpose}
apiVersion: kafka.strimzi.io/v1beta2 # kafka.strimzi.io/v1 from Strimzi 0.49 on; the rest is the same
kind: KafkaUser
metadata:
  name: {name}
  labels:
    strimzi.io/cluster: k3 # StreamForge's
spec:
  authentication:
    type: scram-sha-512
  authorization:
    type: simple
    acls:
"""
_WHAT = {
    Purpose.ALL: "The least a worker with role = all needs.",
    Purpose.DETECTOR: "The least a worker with role = detector needs. It cannot read manifests.",
    Purpose.ACTUATOR: "The least a worker with role = actuator needs.",
    Purpose.TOPICS: "The least that `sf-healer topics --create` needs; no worker does.",
    Purpose.PEOPLE: "The least that `sf-healer pause`, `resume`, `restart`, `capture` and `dead-letters` need.",
}


def _detector(settings: Settings) -> Iterator[Right]:
    yield _topic(settings.source_topic, Operation.READ, why="reports")
    yield _topic(settings.control_topic, Operation.READ, why="stop commands")
    yield _topic(topics.EVIDENCE, Operation.READ, Operation.WRITE, why="evidence and marks", ours=True)
    yield _topic(topics.ACTIONS, Operation.WRITE, why="commands to the actuator", ours=True)
    yield _topic(topics.STEPS, Operation.WRITE, why="counts and facts", ours=True)
    yield _topic(topics.DEAD_LETTERS, Operation.WRITE, why="what cannot be read or named", ours=True)
    yield _topic(topics.JOBS_CHANGELOG, Operation.READ, Operation.WRITE, why="the table of Jobs", ours=True)
    yield Right(Resource.GROUP, DETECTOR_GROUP, (Operation.READ,), "the detector's consumer group")


def _actuator(settings: Settings) -> Iterator[Right]:
    del settings  # its topics have fixed names
    yield _topic(topics.ACTIONS, Operation.READ, why="commands of the sweeper and of people", ours=True)
    yield _topic(topics.CONTROL, Operation.READ, why="pauses", ours=True)
    yield _topic(topics.STEPS, Operation.READ, Operation.WRITE, why="the write-ahead log, with manifests", ours=True)
    yield _topic(topics.OUTCOMES, Operation.WRITE, why="the audit", ours=True)
    yield _topic(topics.DEAD_LETTERS, Operation.WRITE, why="what cannot be read or named", ours=True)
    yield _topic(
        topics.EVIDENCE,
        Operation.READ,
        Operation.WRITE,
        why="outcomes are evidence; in heal mode one record is read back, to see whose clock dates it",
        ours=True,
    )
    yield _topic(
        topics.ACTIONS_CHANGELOG, Operation.READ, Operation.WRITE, why="the table of actions, with manifests", ours=True
    )
    yield Right(Resource.GROUP, ACTUATOR_GROUP, (Operation.READ,), "the actuator's consumer group")
    idle = "is a silent consumer idle; without it that is unknown, and idle_unknown_acts decides"
    yield Right(Resource.GROUP, ANY, (Operation.DESCRIBE,), idle, required=False)
    yield Right(Resource.TOPIC, DATA_TOPICS, (Operation.DESCRIBE,), idle, required=False, pattern=Pattern.PREFIX)


def _all(settings: Settings) -> Iterator[Right]:
    yield from _detector(settings)
    yield from _actuator(settings)


def _topics(settings: Settings) -> Iterator[Right]:
    for spec in topics.specs(settings, 1):
        yield _topic(spec.name, Operation.CREATE, Operation.DESCRIBE, why="made and compared", ours=True)
    for name in (settings.source_topic, settings.control_topic):
        yield _topic(name, Operation.DESCRIBE, why="is it there")


def _people(settings: Settings) -> Iterator[Right]:
    yield _topic(topics.CONTROL, Operation.WRITE, why="pause, resume")
    yield _topic(topics.ACTIONS, Operation.WRITE, why="restart")
    yield _topic(topics.OUTCOMES, Operation.READ, why="what became of a restart")
    yield _topic(settings.source_topic, Operation.READ, why="capture")
    yield _topic(topics.DEAD_LETTERS, Operation.READ, why="dead-letters")


_PURPOSES = {
    Purpose.ALL: _all,
    Purpose.DETECTOR: _detector,
    Purpose.ACTUATOR: _actuator,
    Purpose.TOPICS: _topics,
    Purpose.PEOPLE: _people,
}
assert {role.value for role in Role} <= {purpose.value for purpose in Purpose}


def _topic(name: str, *operations: Operation, why: str, ours: bool = False) -> Right:
    # The settings of ours are compared with what they must be; those of the platform's are not our business.
    return Right(Resource.TOPIC, name, (*operations, Operation.DESCRIBE_CONFIGS) if ours else operations, why)


def _united(rights: Iterable[Right]) -> Iterator[Right]:
    """Give one right for each resource, with the operations of all."""
    by_resource: dict[tuple[Resource, str], list[Right]] = {}
    for right in rights:
        by_resource.setdefault((right.resource, right.name), []).append(right)
    for (resource, name), found in by_resource.items():
        wanted = {operation for right in found for operation in right.operations}
        yield Right(
            resource,
            name,
            tuple(operation for operation in Operation if operation in wanted),
            "; ".join(dict.fromkeys(right.why for right in found)),
            required=any(right.required for right in found),
            pattern=found[0].pattern,
        )
