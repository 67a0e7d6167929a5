"""The topics of sf-healer: what each must be, and how one that exists differs.

A topic's rules are one row of `specs`. Pure: `adapters/kafka.py` asks the brokers and creates.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec

from sf_healer.settings import PREFIX, Settings

EVIDENCE = "sf-healer-evidence"
ACTIONS = "healer-actions"
STEPS = "sf-healer-steps"
OUTCOMES = "healer-outcomes"
CONTROL = "sf-healer-control"
DEAD_LETTERS = "sf-healer-dead-letters"
# Faust's rule: <app id>-<table>-changelog.
JOBS_CHANGELOG = "sf-healer-detector-jobs-changelog"
ACTIONS_CHANGELOG = "sf-healer-actuator-actions-changelog"

# The production overlay of the platform has three partitions for both of its topics.
_PLATFORM_PARTITIONS = 3
_REPLICAS_WANTED = 3
_MIN_INSYNC_WHERE_THREE = 2

# A segment in use is never compacted, and Kafka's default of 1 GiB would be read whole at every recovery.
_COMPACTED = {"cleanup.policy": "compact", "segment.bytes": str(64 * 1024 * 1024)}

# What Kafka's brokers take unless told otherwise, and ours have to: a step carries a whole manifest, a producer of ours
# up to 1,000,000 bytes (sf_healer/app.py). Said for each topic, for a broker may be set to take less.
_RECORDS_TAKEN = {"max.message.bytes": str(1024 * 1024 + 12)}

# More of these than we ask for is somebody's good reason, not a difference.
_AT_LEAST = frozenset({"retention.ms", "min.insync.replicas", "max.message.bytes"})
_TUNING = frozenset({"segment.bytes"})


class Owner(StrEnum):
    """Who makes a topic."""

    US = "sf-healer"
    PLATFORM = "platform"


class Spec(msgspec.Struct, frozen=True):
    """What a topic must be."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]
    owner: Owner = Owner.US


class Found(msgspec.Struct, frozen=True):
    """What a topic is; a broker that does not tell its configs leaves them empty."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


class State(StrEnum):
    """How a topic compares with its spec."""

    OK = "ok"
    MISSING = "missing"
    DIFFERENT = "different"


class Status(msgspec.Struct, frozen=True):
    """One topic of ours as it stands."""

    spec: Spec
    found: Found | None
    state: State
    differences: tuple[str, ...]


def specs(settings: Settings, brokers: int) -> tuple[Spec, ...]:
    """List every topic sf-healer needs for itself, on a cluster of that many brokers."""
    partitions = settings.partitions
    return tuple(
        _spec(settings, brokers, name, count, configs | _RECORDS_TAKEN)
        for name, count, configs in (
            (EVIDENCE, partitions, _kept(days=7) | _LOG_APPEND_TIME),
            (ACTIONS, 1, _kept(days=7) | _LOG_APPEND_TIME),
            (STEPS, 1, _kept(days=7) | _LOG_APPEND_TIME),
            (OUTCOMES, 1, _kept(days=90) | _LOG_APPEND_TIME),
            (CONTROL, 1, _COMPACTED),
            (DEAD_LETTERS, 1, _kept(days=30)),
            (JOBS_CHANGELOG, partitions, _COMPACTED),
            (ACTIONS_CHANGELOG, 1, _COMPACTED),
        )
    )


def platform_specs(settings: Settings, brokers: int) -> tuple[Spec, ...]:
    """Describe the platform's topics as its production overlay has them; for local use, never checked."""
    return tuple(
        msgspec.structs.replace(
            _spec(settings, brokers, name, _PLATFORM_PARTITIONS, _kept(days=7)), owner=Owner.PLATFORM
        )
        for name in (settings.source_topic, settings.control_topic)
    )


def kafka_topics(settings: Settings) -> str:
    """Write every topic of ours as Strimzi's operator takes it (KafkaTopic), for a cluster of three brokers."""
    return _KAFKA_TOPICS + "".join(_kafka_topic(spec) for spec in specs(settings, _REPLICAS_WANTED))


def _kafka_topic(spec: Spec) -> str:
    configs = "".join(f'    {name}: "{value}"\n' for name, value in spec.configs.items())
    return _KAFKA_TOPIC.format(
        name=spec.name, partitions=spec.partitions, replicas=spec.replication_factor, configs=configs
    )


_KAFKA_TOPICS = """\
# Every topic of sf-healer. partitions are never changed in place: Jobs would move (docs/deployment.md).
# Made by: sf-healer topics --kafka-topics
"""
_KAFKA_TOPIC = """\
---
apiVersion: kafka.strimzi.io/v1beta2 # kafka.strimzi.io/v1 from Strimzi 0.49 on; the rest is the same
kind: KafkaTopic
metadata:
  name: {name}
  labels:
    strimzi.io/cluster: k3 # StreamForge's
spec:
  partitions: {partitions}
  replicas: {replicas}
  config:
{configs}"""


def compare(wanted: tuple[Spec, ...], found: Mapping[str, Found], brokers: str = "BROKER") -> tuple[Status, ...]:
    """Set what is there beside what should be; `brokers` is the address that the fixing commands name."""
    return tuple(_status(spec, found.get(spec.name), brokers) for spec in wanted)


def present(wanted: tuple[Spec, ...], found: Mapping[str, Found]) -> tuple[Status, ...]:
    """Tell of topics that are not ours to shape only whether they are there."""
    return tuple(
        Status(
            spec=spec,
            found=found.get(spec.name),
            state=State.OK if spec.name in found else State.MISSING,
            differences=(),
        )
        for spec in wanted
    )


def differences(spec: Spec, found: Found, brokers: str = "BROKER") -> tuple[str, ...]:
    """Say in words how a topic differs from its spec, each with what mends it; nothing when it does not.

    More retention, in-sync or other replicas than asked for is no difference. A config that the broker does
    not tell cannot be compared.
    """
    return (
        *_partition_difference(spec, found, brokers),
        *_replication_difference(spec, found),
        *_config_differences(spec, found, brokers),
    )


def _status(spec: Spec, found: Found | None, brokers: str) -> Status:
    if found is None:
        return Status(spec=spec, found=None, state=State.MISSING, differences=())
    told = differences(spec, found, brokers)
    return Status(spec=spec, found=found, state=State.DIFFERENT if told else State.OK, differences=told)


def _partition_difference(spec: Spec, found: Found, brokers: str) -> Iterator[str]:
    if found.partitions == spec.partitions:
        return
    delete = f"kafka-topics.sh --bootstrap-server {brokers} --delete --topic {spec.name}"
    again = f"{delete}; sf-healer topics --create"
    fix = (
        f"{PREFIX}PARTITIONS={found.partitions} keeps its state; to start without state: {again}"
        if spec.name in {EVIDENCE, JOBS_CHANGELOG}
        else again
    )
    yield f"has {found.partitions} partitions instead of {spec.partitions}; fix: {fix}"


def _replication_difference(spec: Spec, found: Found) -> Iterator[str]:
    if found.replication_factor < spec.replication_factor:
        yield (
            f"has {found.replication_factor} replicas instead of {spec.replication_factor}; fix: "
            f"kafka-reassign-partitions.sh, or {PREFIX}REPLICATION_FACTOR={found.replication_factor}"
        )


def _config_differences(spec: Spec, found: Found, brokers: str) -> Iterator[str]:
    for name, wanted in spec.configs.items():
        value = found.configs.get(name)
        if value is not None and not _satisfies(name, value, wanted):
            yield (
                f"has {name}={value} instead of {wanted}; fix: kafka-configs.sh --bootstrap-server {brokers}"
                f" --alter --entity-type topics --entity-name {spec.name} --add-config {name}={wanted}"
            )


def _satisfies(name: str, value: str, wanted: str) -> bool:
    if name in _TUNING:
        return True
    if name in _AT_LEAST:
        return int(value) < 0 or int(value) >= int(wanted)  # a retention of -1 is for ever
    return value == wanted


def _spec(settings: Settings, brokers: int, name: str, partitions: int, configs: dict[str, str]) -> Spec:
    replicas = settings.replication_factor or min(_REPLICAS_WANTED, brokers)
    # Set also where it is 1: a cluster whose default is 2 would refuse every write to a single replica.
    in_sync = _MIN_INSYNC_WHERE_THREE if replicas >= _REPLICAS_WANTED else 1
    return Spec(
        name=name,
        partitions=partitions,
        replication_factor=replicas,
        configs=configs | {"min.insync.replicas": str(in_sync)},
    )


def _kept(*, days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * 24 * 60 * 60 * 1000)}


_LOG_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
