"""Kafka: does it answer, may we do what our role needs, are the topics as they must be, and what time is it there."""

import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition

from sf_healer import dead_letters, topics
from sf_healer.adapters import kafka
from sf_healer.checks.clocks import Clock, seen
from sf_healer.checks.findings import About, Finding, State
from sf_healer.core.evidence import EMPTY
from sf_healer.past import NoTopicError
from sf_healer.rights import Operation, Purpose, Right, rights
from sf_healer.settings import PREFIX, Role, Settings, SettingsError
from sf_healer.topics import DEAD_LETTERS, EVIDENCE, Found, Spec, Status

_HARMLESS = frozenset({Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS})
_LOG_APPEND_TIME = 1
_MIN_IN_SYNC = "min.insync.replicas"
_LATELY_SECONDS = 3600.0
_MS = 1000
#: The first record to a broker also waits for a connection and a login; the second tells the time.
_RECORDS_TO_A_BROKER = 2


class Looked(msgspec.Struct, frozen=True):
    """What was found, and the clocks of the brokers that tell theirs."""

    findings: list[Finding]
    clocks: list[Clock] = []


async def check(settings: Settings) -> Looked:
    """Look at the brokers; where all is well a few empty records are written to the evidence, and passed over there."""
    looked = Looked([], [])
    try:
        async with kafka.admin(settings, patience_seconds=0.0) as admin:
            await _look(admin, settings, looked)
    except SettingsError as problem:
        looked.findings.append(Finding(About.BROKER, State.WRONG, str(problem)))
    except kafka.BrokerUnreachableError as problem:
        state = State.WRONG if problem.lasting else State.UNREACHABLE
        looked.findings.append(Finding(About.BROKER, state, str(problem), "sf-healer settings"))
    except kafka.BrokerRefusedError as problem:
        looked.findings.append(Finding(About.BROKER, State.WRONG, str(problem), _user(settings)))
    return looked


async def _look(admin: kafka.Admin, settings: Settings, looked: Looked) -> None:
    brokers = await admin.broker_count()
    servers = ",".join(settings.bootstrap_servers)
    looked.findings.append(Finding(About.BROKER, State.OK, f"{servers} answers; brokers there: {brokers}"))
    wanted = rights(settings, Purpose(settings.role.value))
    allowed = [finding async for finding in _allowed(admin, wanted, settings)]
    looked.findings.extend(allowed)
    every = (*topics.specs(settings, brokers), *topics.platform_specs(settings, brokers))
    may = await admin.topic_rights([spec.name for spec in every])
    if settings.logs_in:  # else we are nobody, and what we may is said of everybody
        looked.findings.extend(_too_much({spec.name: may[spec.name] for spec in every}, wanted, settings))
    if any(finding.state is State.WRONG for finding in allowed):
        return  # what may not be seen would only be said again
    ours = {right.name for right in wanted}
    specs = tuple(spec for spec in topics.specs(settings, brokers) if spec.name in ours)
    platform = tuple(
        spec
        for spec in topics.platform_specs(settings, brokers)
        if settings.role is not Role.ACTUATOR  # it reads none of them
    )
    names = [spec.name for spec in platform]
    hidden = [name for name in names if Operation.DESCRIBE_CONFIGS not in may[name]]  # no role needs it there
    found = await admin.describe([*(spec.name for spec in specs), *names], without_configs=hidden)
    statuses = (*topics.compare(specs, found, servers), *topics.present(platform, found))
    looked.findings.extend(finding for status in statuses for finding in _topic(status))
    if settings.source_topic in found:
        looked.findings.extend(_with_one_away(found[settings.source_topic]))
    if DEAD_LETTERS in found:
        looked.findings.append(await _buried(settings))
    if EVIDENCE in found:
        await _times(admin, settings, looked)


async def _allowed(admin: kafka.Admin, wanted: Iterable[Right], settings: Settings) -> AsyncIterator[Finding]:
    for right in wanted:
        named = f"{right.resource} {right.name}"
        if not await admin.missing_rights([right]):
            what = f"may {', '.join(right.operations)} {named}: {right.why}"
            yield Finding(About.ACLS, State.OK, what)
            continue
        state = State.WRONG if right.required else State.UNKNOWN
        what = f"may not {' or not '.join(right.operations)} {named}: {right.why}"
        yield Finding(About.ACLS, state, what, _user(settings))


def _too_much(
    may: Mapping[str, Collection[Operation]], wanted: Iterable[Right], settings: Settings
) -> Iterator[Finding]:
    """Say what may be done with topics beyond the needs; to see one and its configs does no harm."""
    needed = {right.name: {*right.operations, *_HARMLESS} for right in wanted}
    found = False
    for name, operations in may.items():
        spare = [each for each in Operation if each in operations and each not in needed.get(name, _HARMLESS)]
        if spare:
            found = True
            yield Finding(About.ACLS, State.TOO_MUCH, f"may {', '.join(spare)} topic {name}", _user(settings))
    if not found:
        yield Finding(About.ACLS, State.OK, "nothing beyond that is allowed with these topics")


def _user(settings: Settings) -> str:
    return f"sf-healer topics --kafka-user {settings.role}, and apply what it prints"


def _topic(status: Status) -> Iterator[Finding]:
    name = status.spec.name
    if status.found is None:
        fix = "sf-healer topics --create"
        if status.spec.owner is topics.Owner.PLATFORM:
            fix = "the platform makes it; on a broker of your own: sf-healer topics --create-platform"
        yield Finding(About.TOPICS, State.WRONG, f"{name} does not exist", fix)
    elif status.differences:
        for difference in status.differences:
            what, _, fix = difference.partition("; fix: ")
            yield Finding(About.TOPICS, State.WRONG, f"{name} {what}", fix)
    else:
        yield Finding(About.TOPICS, State.OK, f"{name}: {_shape(status.spec, status.found)}")


def _with_one_away(source: Found) -> Iterator[Finding]:
    """Warn where one broker that is away leaves reports that nobody can read (docs/decisions/0029)."""
    in_sync = int(source.configs.get(_MIN_IN_SYNC, "1"))
    if 1 < source.replication_factor <= in_sync:
        what = (
            f"{source.name} has replicas={source.replication_factor} and {_MIN_IN_SYNC}={in_sync}: while one is away, "
            "what producers with acks=1 send cannot be read, and nobody is judged"
        )
        yield Finding(About.TOPICS, State.WARNING, what, f"more replicas, or {_MIN_IN_SYNC}={in_sync - 1}")


def _shape(spec: Spec, found: Found) -> str:
    told = [f"{name}={found.configs[name]}" for name in spec.configs if name in found.configs]
    return ", ".join([f"partitions={found.partitions}", f"replicas={found.replication_factor}", *told])


async def _buried(settings: Settings) -> Finding:
    """Say how many records of late could not be read or named: to count them, Write on their topic is enough."""
    try:
        count = await dead_letters.count(settings, since_seconds=_LATELY_SECONDS)
    except NoTopicError:  # it was there a moment ago
        return Finding(About.TOPICS, State.WRONG, f"{DEAD_LETTERS} does not exist", "sf-healer topics --create")
    if not count:
        return Finding(About.TOPICS, State.OK, "no dead letters in the last hour")
    lately = f"{count:,} dead letter{'' if count == 1 else 's'} in the last hour"
    follows = "a report that cannot be read or named counts as silence, such a command or pause is not followed"
    return Finding(About.TOPICS, State.WARNING, f"{lately}: {follows}", "sf-healer dead-letters --since 1h")


async def _times(admin: kafka.Admin, settings: Settings, looked: Looked) -> None:
    """Say whether the broker dates records itself, as silence is measured by it, and what time it is there."""
    if not await admin.honours_log_append_time(EVIDENCE, EMPTY):
        setting = f"{PREFIX}DEMO_ACCEPT_CREATE_TIME"
        state = State.OK if settings.demo_accept_create_time else State.WRONG
        what = f"the broker ignores message.timestamp.type=LogAppendTime of {EVIDENCE}: producers date its records"
        looked.findings.append(Finding(About.TOPICS, state, what, f"{setting}=true accepts that, for a demo"))
        return
    looked.findings.append(Finding(About.TOPICS, State.OK, f"the broker dates the records of {EVIDENCE} itself"))
    async with kafka.producer(settings) as sender:
        partitions = await sender.partitions_for(EVIDENCE)
        leaders = {sender.client.cluster.leader_for_partition(TopicPartition(EVIDENCE, at)): at for at in partitions}
        for broker, partition in sorted(leaders.items()):
            looked.clocks.extend(await _clock(sender, broker, partition))


async def _clock(sender: AIOKafkaProducer, broker: int, partition: int) -> list[Clock]:
    for _ in range(_RECORDS_TO_A_BROKER):
        asked_at = time.time()
        sent = await sender.send_and_wait(EVIDENCE, EMPTY, partition=partition)
        answered_at = time.time()
    if sent.timestamp_type != _LOG_APPEND_TIME:
        return []
    at = sent.timestamp / _MS
    name = f"broker {broker}"
    return [seen(name, at, asked_at=asked_at, answered_at=answered_at, resolution_seconds=1 / _MS)]
