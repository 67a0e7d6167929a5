"""The topics on a broker: asked, compared, created; the same on the embedded broker and on Apache Kafka."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.settings import Settings, SettingsError
from sf_healer.topics import Spec, State

WAIT_SECONDS = 20.0
COMMAND_SECONDS = 60.0
OURS = [spec.name for spec in topics.specs(Settings(), 1)]
PLATFORM = [spec.name for spec in topics.platform_specs(Settings(), 1)]


@pytest.fixture
async def settings(bootstrap: str) -> AsyncIterator[Settings]:
    """Settings for a broker that has none of our topics."""
    settings = settings_for(bootstrap)
    await delete_topics(settings, [*OURS, *PLATFORM])
    yield settings
    await delete_topics(settings, [*OURS, *PLATFORM])


def settings_for(bootstrap: str, **others: object) -> Settings:
    return Settings(broker_url=f"kafka://{bootstrap}", **others)


async def delete_topics(settings: Settings, names: list[str]) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=list(settings.bootstrap_servers))
    await client.start()
    try:
        there = set(names) & set(await client.list_topics())
        if there:
            await client.delete_topics(sorted(there))
        async with asyncio.timeout(WAIT_SECONDS):
            # A broker gives no event of its own.
            while set(names) & set(await client.list_topics()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await client.close()


async def test_topics_that_were_created_are_as_they_should_be(settings):
    async with kafka.admin(settings) as admin:
        wanted = topics.specs(settings, await admin.broker_count())
        assert await admin.describe(OURS) == {}
        await admin.create(wanted)
        statuses = topics.compare(wanted, await admin.describe(OURS))
    assert [(status.spec.name, status.state, status.differences) for status in statuses] == [
        (spec.name, State.OK, ()) for spec in wanted
    ]


async def test_creating_again_changes_nothing(settings):
    async with kafka.admin(settings) as admin:
        wanted = topics.specs(settings, 1)
        await admin.create(wanted)
        before = await admin.describe(OURS)
        await admin.create(wanted)
        assert await admin.describe(OURS) == before


async def test_asking_for_a_topic_does_not_create_it(settings):
    async with kafka.admin(settings) as admin:
        assert await admin.describe(["sf-healer-nobody-made-this"]) == {}
        assert await admin.describe(["sf-healer-nobody-made-this"]) == {}


async def test_a_topic_made_otherwise_is_told_apart(settings):
    wrong = Spec(topics.ACTIONS, 2, 1, {"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"})
    async with kafka.admin(settings) as admin:
        await admin.create([wrong])
        (status,) = topics.compare((spec_of(topics.ACTIONS, settings),), await admin.describe([wrong.name]))
    assert status.state is State.DIFFERENT
    told = "\n".join(status.differences)
    assert "has 2 partitions instead of 1" in told
    assert "cleanup.policy=compact" in told
    assert "message.timestamp.type=CreateTime" in told


async def test_one_broker_is_counted_as_one(settings):
    async with kafka.admin(settings) as admin:
        assert await admin.broker_count() == 1


async def test_the_commands_show_create_and_find_the_same(settings):
    missing = await command(settings, "topics", "-o", "json")
    assert missing.returncode == 3
    assert {row["state"] for row in json.loads(missing.stdout)} == {"missing"}

    created = await command(settings, "topics", "--create", "--create-platform", "-o", "json")
    assert created.returncode == 0, created.stderr
    rows = json.loads(created.stdout)
    assert {row["topic"] for row in rows} == {*OURS, *PLATFORM}
    assert {row["state"] for row in rows} == {"ok"}

    other = await command(settings, "topics", SF_HEALER_PARTITIONS="3")
    assert other.returncode == 3
    assert other.stdout.splitlines()[0].split() == ["TOPIC", "STATE", "PARTITIONS", "REPLICAS"]
    assert [line.split(" ", 1)[0] for line in other.stderr.splitlines()] == [
        topics.EVIDENCE,
        topics.JOBS_CHANGELOG,
    ]
    assert other.stderr.count("SF_HEALER_PARTITIONS=6") == 2


# ------------------------------------------------------------------ what the brokers do not do alike


@pytest.mark.embedded
async def test_the_embedded_broker_does_not_honour_log_append_time(broker):
    assert await honours(settings_for(broker.bootstrap), topics.EVIDENCE) is False


@pytest.mark.kafka
async def test_kafka_honours_log_append_time_where_it_is_asked_for(kafka_single):
    settings = settings_for(kafka_single.bootstrap)
    await delete_topics(settings, OURS)
    assert await honours(settings, topics.EVIDENCE) is True
    assert await honours(settings, topics.DEAD_LETTERS) is False
    await delete_topics(settings, OURS)


@pytest.mark.kafka
async def test_what_kafka_declines_is_told_in_its_words(kafka_single):
    settings = settings_for(kafka_single.bootstrap, replication_factor=3)
    async with kafka.admin(settings) as admin:
        with pytest.raises(kafka.BrokerRefusedError, match=r"healer-actions was not created: .*replication"):
            await admin.create([spec_of(topics.ACTIONS, settings)])


@pytest.mark.kafka
async def test_three_brokers_get_three_replicas(kafka_three):
    settings = settings_for(kafka_three.bootstrap)
    await delete_topics(settings, OURS)
    async with kafka.admin(settings) as admin:
        wanted = topics.specs(settings, await admin.broker_count())
        await admin.create(wanted)
        found = await admin.describe(OURS)
        assert {topic.replication_factor for topic in found.values()} == {3}
        assert {topic.configs["min.insync.replicas"] for topic in found.values()} == {"2"}
        assert {status.state for status in topics.compare(wanted, found)} == {State.OK}
    await delete_topics(settings, OURS)


@pytest.mark.embedded
async def test_a_broker_that_has_not_heard_of_a_topic_just_created_is_asked_again(broker, monkeypatch):
    settings = settings_for(broker.bootstrap)
    await delete_topics(settings, OURS)
    async with kafka.admin(settings) as admin:
        wanted = topics.specs(settings, await admin.broker_count())
        await admin.create(wanted)
        describe_topics, asked = admin._client.describe_topics, 0

        async def late():
            nonlocal asked
            asked += 1
            return [] if asked == 1 else await describe_topics()

        monkeypatch.setattr(admin._client, "describe_topics", late)
        assert set(await admin.describe(OURS)) == set(OURS)
        await delete_topics(settings, OURS)
        assert await admin.describe(OURS) == {}, "and of one that is gone again nobody is asked twice"


@pytest.mark.kafka
async def test_a_dead_broker_of_three_is_no_reason_to_give_up(kafka_three):
    kafka_three.kill(0)
    async with kafka.admin(settings_for(kafka_three.bootstrap)) as admin:
        assert await admin.describe(["nobody"]) == {}


# ------------------------------------------------------------------ no way in


async def test_nobody_at_the_address_is_told_after_the_patience_asked_for(monkeypatch):
    knock, knocks = kafka._knock, []

    async def counted(settings: Settings) -> None:
        knocks.append(settings)
        await knock(settings)

    monkeypatch.setattr(kafka, "_knock", counted)
    with pytest.raises(kafka.BrokerUnreachableError, match=r"127\.0\.0\.1:1: connection refused") as caught:
        await kafka.wait_for_broker(settings_for("127.0.0.1:1"), patience_seconds=0.0)
    assert len(knocks) == 1, "without patience nobody tries again"
    assert not caught.value.lasting


async def test_a_broker_that_comes_late_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    waiting = asyncio.create_task(kafka.wait_for_broker(settings_for(f"127.0.0.1:{port}"), patience_seconds=None))
    handled = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        handled.set()

    async with await asyncio.start_server(hang_up, "127.0.0.1", port), asyncio.timeout(WAIT_SECONDS):
        await handled.wait()
    assert not waiting.done()
    waiting.cancel()


async def test_a_server_that_is_silent_is_told_as_silent(monkeypatch):
    monkeypatch.setattr(kafka, "REQUEST_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = settings_for(f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(kafka.BrokerUnreachableError, match=r"no answer in 0\.3 s"):
            await kafka.wait_for_broker(settings, patience_seconds=0.0)


@pytest.mark.kafka
async def test_a_frozen_broker_is_unreachable_in_the_middle_of_an_administration(kafka_single, monkeypatch):
    monkeypatch.setattr(kafka, "REQUEST_TIMEOUT_SECONDS", 1.0)

    async def freeze_and_ask() -> None:
        async with kafka.admin(settings_for(kafka_single.bootstrap)) as admin:
            kafka_single.pause(0)
            await admin.broker_count()

    with pytest.raises(kafka.BrokerUnreachableError):
        await freeze_and_ask()


@pytest.mark.kafka
async def test_tls_on_a_listener_without_it_names_the_settings_to_look_at(kafka_single):
    settings = settings_for(kafka_single.bootstrap, sasl_username="healer", sasl_password="secret")
    with pytest.raises(kafka.BrokerUnreachableError, match="SF_HEALER_") as caught:
        await kafka.wait_for_broker(settings, patience_seconds=0.0)
    assert "secret" not in str(caught.value)


async def test_a_command_says_in_one_line_that_there_is_no_broker():
    done = await command(settings_for("127.0.0.1:1"), "topics", "--wait-seconds", "0")
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "Error: Kafka at 127.0.0.1:1: connection refused"


# ------------------------------------------------------------------ the way in


def test_without_tls_or_login_a_client_needs_only_the_protocol():
    assert kafka.client_security(Settings()) == {"security_protocol": "PLAINTEXT"}


def test_a_login_always_goes_over_tls():
    security = kafka.client_security(Settings(sasl_username="healer", sasl_password="secret"))
    context = security.pop("ssl_context")
    assert context.check_hostname
    assert security == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "healer",
        "sasl_plain_password": "secret",
    }


def test_a_ca_file_without_a_certificate_is_a_wrong_setting(tmp_path):
    ca_file = tmp_path / "ca.crt"
    ca_file.write_text("no certificate")
    with pytest.raises(SettingsError, match="SF_HEALER_CA_FILE: holds no PEM certificate"):
        kafka.client_security(Settings(ca_file=str(ca_file)))


def spec_of(name: str, settings: Settings) -> Spec:
    return next(spec for spec in topics.specs(settings, 1) if spec.name == name)


async def honours(settings: Settings, topic: str) -> bool:
    async with kafka.admin(settings) as admin:
        await admin.create([spec_of(topic, settings)])
        return await admin.honours_log_append_time(topic, b"probe")


async def command(settings: Settings, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "from sf_healer.cli import main; main()", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "SF_HEALER_BROKER_URL": settings.broker_url,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
