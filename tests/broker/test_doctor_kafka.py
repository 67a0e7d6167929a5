"""What `sf-healer doctor` says of Kafka: brokers, topics, ACLs, and whose clock dates records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from sf_healer import preflight, topics
from sf_healer.checks import kafka
from sf_healer.checks.findings import About, Finding, State
from sf_healer.checks.kafka import _buried
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.rights import DATA_TOPICS, Purpose, rights
from sf_healer.settings import Identity, Role, Settings
from tests.broker.scram import Secured, name_of
from tests.lab.kafka import Acl, allow, forbid
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.waiting import until_async
from tests.lab.worker import drop_topics, make_topics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

pytestmark = pytest.mark.timeout(240)

SEEN_SECONDS = 60.0
ROLES = [Role.ALL, Role.DETECTOR, Role.ACTUATOR]


def settings_for(bootstrap: str, **others: Any) -> Settings:
    return Settings(broker_url=f"kafka://{bootstrap}", identity=Identity.CONVENTION, **others)


def said(findings: Iterable[Finding], state: State, about: About | None = None) -> list[str]:
    return [each.what for each in findings if each.state is state and about in {None, each.about}]


# ------------------------------------------------------------------ brokers and topics


@pytest.fixture
async def kafka_topics(kafka_single: KafkaCluster) -> AsyncIterator[str]:
    await make_topics(kafka_single.bootstrap)
    yield kafka_single.bootstrap
    await drop_topics(kafka_single.bootstrap)


@pytest.mark.parametrize("role", ROLES)
async def test_with_its_topics_as_they_should_be_all_is_well_for_a_role(kafka_topics: str, role: Role):
    looked = await kafka.check(settings_for(kafka_topics, role=role))

    assert {finding.state for finding in looked.findings} == {State.OK}, looked.findings
    assert said(looked.findings, State.OK, About.BROKER) == [f"{kafka_topics} answers; brokers there: 1"]
    listed = {line.partition(":")[0] for line in said(looked.findings, State.OK, About.TOPICS) if ":" in line}
    wanted = {right.name for right in rights(Settings(), Purpose(role.value)) if right.resource == "topic"}
    assert listed == wanted - {DATA_TOPICS}
    (evidence,) = [line for line in said(looked.findings, State.OK) if line.startswith(f"{topics.EVIDENCE}:")]
    assert evidence.startswith(f"{topics.EVIDENCE}: partitions=6, replicas=1, ")
    assert "message.timestamp.type=LogAppendTime" in evidence


async def test_each_broker_tells_its_time(kafka_topics: str):
    looked = await kafka.check(settings_for(kafka_topics))
    (clock,) = looked.clocks
    assert clock.name == "broker 0"
    assert clock.low <= 0 <= clock.high, "it is the clock of this machine"
    assert clock.high - clock.low < 5.0


async def test_what_is_wrong_with_a_topic_is_said_with_what_mends_it(kafka_topics: str):
    await drop_topics(kafka_topics, [topics.DEAD_LETTERS, "queue-control"])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_topics)
    await admin.start()
    wrong = {"message.timestamp.type": "CreateTime", "retention.ms": "1000"}
    longer = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}  # that is no fault
    for name, configs in ((topics.EVIDENCE, wrong), (topics.OUTCOMES, longer)):
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    await admin.create_partitions({topics.STEPS: NewPartitions(total_count=2)})
    await admin.close()

    async def are_told() -> list[Finding]:  # a broker learns of a change a moment after its controller
        looked = await kafka.check(settings_for(kafka_topics))
        found = [finding for finding in looked.findings if finding.state is not State.OK]
        return found if len(found) >= 6 else []

    findings = await until_async(are_told, "all to be said", seconds=SEEN_SECONDS)

    fixes = {finding.what: finding.fix for finding in findings}
    assert {finding.state for finding in findings} == {State.WRONG}
    alter = f"kafka-configs.sh --bootstrap-server {kafka_topics} --alter --entity-type topics --entity-name "
    assert fixes == {
        f"{topics.DEAD_LETTERS} does not exist": "sf-healer topics --create",
        "queue-control does not exist": (
            "the platform makes it; on a broker of your own: sf-healer topics --create-platform"
        ),
        f"{topics.EVIDENCE} has message.timestamp.type=CreateTime instead of LogAppendTime": (
            f"{alter}{topics.EVIDENCE} --add-config message.timestamp.type=LogAppendTime"
        ),
        f"{topics.EVIDENCE} has retention.ms=1000 instead of 604800000": (
            f"{alter}{topics.EVIDENCE} --add-config retention.ms=604800000"
        ),
        f"{topics.STEPS} has 2 partitions instead of 1": (
            f"kafka-topics.sh --bootstrap-server {kafka_topics} --delete --topic {topics.STEPS}; "
            "sf-healer topics --create"
        ),
        f"the broker ignores message.timestamp.type=LogAppendTime of {topics.EVIDENCE}: producers date its records": (
            "SF_HEALER_DEMO_ACCEPT_CREATE_TIME=true accepts that, for a demo"
        ),
    }


async def test_a_topic_that_takes_smaller_records_keeps_a_worker_from_starting_and_is_told_with_what_mends_it(
    kafka_topics: str,
):
    """Reports, steps and tables alike: each would end the worker at the first large record, again and again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_topics)
    await admin.start()
    small = (topics.EVIDENCE, topics.STEPS, topics.ACTIONS_CHANGELOG)
    for name in small:
        configs = {**_configs_of(kafka_topics, name), "max.message.bytes": "300000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    await admin.close()

    async def are_told() -> list[str]:
        found = await preflight.kafka_problems(settings_for(kafka_topics))
        return found if len(found) >= len(small) else []

    problems = await until_async(are_told, "all to be said", seconds=SEEN_SECONDS)
    looked = await kafka.check(settings_for(kafka_topics))

    alter = f"kafka-configs.sh --bootstrap-server {kafka_topics} --alter --entity-type topics --entity-name "
    told = "has max.message.bytes=300000 instead of 1048588"
    assert problems == [
        f"topic {name}: {told}; fix: {alter}{name} --add-config max.message.bytes=1048588" for name in small
    ]
    assert said(looked.findings, State.WRONG) == [f"{name} {told}" for name in small]


def _configs_of(bootstrap: str, name: str) -> dict[str, str]:
    return next(spec.configs for spec in topics.specs(settings_for(bootstrap), 1) if spec.name == name)


async def test_reports_that_cannot_be_read_while_one_broker_is_away_are_warned_of(kafka_three: KafkaCluster):
    await drop_topics(kafka_three.bootstrap)  # those that others have left
    configs = {"min.insync.replicas": "2"}
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_three.bootstrap)
    await admin.start()
    await admin.create_topics(
        [NewTopic("queue-events", 1, 2, topic_configs=configs), NewTopic("queue-control", 1, 3, topic_configs=configs)]
    )
    await admin.close()

    async def are_told() -> list[Finding]:
        looked = await kafka.check(settings_for(kafka_three.bootstrap, role=Role.DETECTOR))
        return [finding for finding in looked.findings if finding.state is State.WARNING]

    [finding] = await until_async(are_told, "the warning", seconds=SEEN_SECONDS)

    await drop_topics(kafka_three.bootstrap, ["queue-events", "queue-control"])
    assert finding.what == (
        "queue-events has replicas=2 and min.insync.replicas=2: while one is away, what producers with acks=1 send "
        "cannot be read, and nobody is judged"
    )
    assert finding.fix == "more replicas, or min.insync.replicas=1"


@pytest.mark.embedded
async def test_a_broker_that_ignores_log_append_time_is_wrong_unless_that_is_accepted():
    with EmbeddedBroker() as broker:
        await make_topics(broker.bootstrap)
        looked = await kafka.check(settings_for(broker.bootstrap))
        (wrong,) = [finding for finding in looked.findings if finding.state is not State.OK]
        assert wrong.state is State.WRONG
        assert "ignores message.timestamp.type=LogAppendTime" in wrong.what
        assert looked.clocks == [], "its records are dated by us"
        looked = await kafka.check(settings_for(broker.bootstrap, demo_accept_create_time=True))
        assert {finding.state for finding in looked.findings} == {State.OK}


@pytest.mark.embedded
async def test_dead_letters_whose_topic_goes_away_between_two_looks_are_a_finding():
    with EmbeddedBroker() as broker:
        assert await _buried(settings_for(broker.bootstrap)) == Finding(
            About.TOPICS, State.WRONG, "sf-healer-dead-letters does not exist", "sf-healer topics --create"
        )


async def test_no_broker_is_unreachable():
    looked = await kafka.check(settings_for(f"{LOOPBACK}:{free_ports(1)[0]}"))
    (finding,) = looked.findings
    assert (finding.about, finding.state) == (About.BROKER, State.UNREACHABLE)
    assert "connection refused" in finding.what


# ------------------------------------------------------------------ ACLs


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured.start(tmp_path_factory.mktemp("kafka-secured")) as started:
        asyncio.run(started.prepare())
        yield started


def as_role(secured: Secured, role: Role, **others: Any) -> Settings:
    login = secured.login(name_of(Purpose(role.value)))
    return settings_for(secured.cluster.secure_bootstrap, role=role, **(login | others))


@pytest.mark.kafka
@pytest.mark.parametrize("role", ROLES)
async def test_with_its_shipped_acls_all_is_well_for_a_role(secured: Secured, role: Role):
    findings = (await kafka.check(as_role(secured, role))).findings
    assert {finding.state for finding in findings} == {State.OK}, findings
    assert "nothing beyond that is allowed with these topics" in said(findings, State.OK, About.ACLS)


@pytest.mark.kafka
async def test_a_missing_acl_is_wrong_and_one_that_is_only_good_to_have_is_unknown(secured: Secured):
    lacking = [Acl("topic", topics.ACTIONS, "literal", "Read"), Acl("group", "*", "literal", "Describe")]
    user, plain = name_of(Purpose.ACTUATOR), secured.cluster.bootstrap
    await forbid(plain, user, lacking)
    try:

        async def are_said() -> bool:
            findings = (await kafka.check(as_role(secured, Role.ACTUATOR))).findings
            (wrong, unknown) = (said(findings, state, About.ACLS) for state in (State.WRONG, State.UNKNOWN))
            return (
                len(wrong) == len(unknown) == 1
                and wrong[0].startswith("may not Read")
                and f" topic {topics.ACTIONS}: commands" in wrong[0]
                and unknown[0].startswith("may not Describe group *: ")
            )

        await until_async(are_said, "both to be said", seconds=SEEN_SECONDS)
    finally:
        await allow(plain, user, lacking)


@pytest.mark.kafka
async def test_an_acl_more_than_the_role_needs_is_too_much(secured: Secured):
    extra = [Acl("topic", topics.STEPS, "literal", "Read"), Acl("topic", "queue-events", "literal", "Delete")]
    user, plain = name_of(Purpose.DETECTOR), secured.cluster.bootstrap
    await allow(plain, user, extra)
    expected = [f"may Read topic {topics.STEPS}", "may Delete topic queue-events"]
    try:

        async def are_said() -> bool:
            return said((await kafka.check(as_role(secured, Role.DETECTOR))).findings, State.TOO_MUCH) == expected

        await until_async(are_said, "both to be said", seconds=SEEN_SECONDS)
    finally:
        await forbid(plain, user, extra)


@pytest.mark.kafka
async def test_a_wrong_password_is_wrong_and_not_unreachable(secured: Secured, tmp_path: Path):
    (finding,) = (await kafka.check(as_role(secured, Role.ALL, sasl_password="wrong"))).findings
    assert (finding.about, finding.state) == (About.BROKER, State.WRONG)
    assert "SF_HEALER_SASL_PASSWORD" in finding.what
    (finding,) = (await kafka.check(as_role(secured, Role.ALL, ca_file=str(tmp_path / "none")))).findings
    assert (finding.about, finding.state) == (About.BROKER, State.WRONG)
    assert "CA_FILE" in finding.what
