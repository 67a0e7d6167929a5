"""A Kafka that wants TLS, a login and ACLs: what works with the shipped users, and how it is said what does not.

One broker for the module. Its users have exactly the ACLs of manifests/kafka.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import secrets
import time
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer

from sf_healer import preflight, topics
from sf_healer.adapters import kafka
from sf_healer.adapters.groups import GroupReader
from sf_healer.rights import DATA_TOPICS, DETECTOR_GROUP, Purpose, rights_of_role
from sf_healer.settings import Identity, Role, Settings
from tests.broker.scram import PLATFORM, Job, Secured, name_of
from tests.lab.kafka import Acl, allow, forbid
from tests.lab.kafka.security import Authority
from tests.lab.waiting import until, until_async
from tests.lab.worker import records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sf_healer.core.groups import GroupLook
    from tests.lab.worker import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ALL = name_of(Purpose.ALL)
#: Between two looks of a worker that waits lie at most 15 s, and a look takes seconds on a busy machine.
SAID_SECONDS = 60.0
READY_SECONDS = 120.0
SEEN_SECONDS = 60.0
#: Python alone takes two on a busy machine; what a command waits for is its --wait-seconds.
COMMAND_SECONDS = 30.0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured.start(tmp_path_factory.mktemp("kafka-secured")) as started:
        asyncio.run(started.prepare())
        yield started


def until_said(worker: Worker, *words: str) -> str:
    """Wait until /readyz says one thing, with these words in it; a worker that says it is alive."""
    pid = worker.server.pid

    def said() -> str:
        assert worker.server.is_alive, worker.tail()
        answer = worker.get("/readyz")
        if answer is None or answer.status != 503:
            return ""
        told = "\n".join(answer.body["problems"])
        return told if all(word in told for word in words) else ""

    told = until(said, f"/readyz to say {words}\n{worker.tail()}", seconds=SAID_SECONDS)
    assert worker.server.pid == pid
    return told


async def until_verdict(worker: Worker, job: Job, verdict: str, bootstrap: str, *says: str) -> None:
    async def is_so() -> bool:
        await send(bootstrap, [job.says(status) for status in says])
        row = (await asyncio.to_thread(worker.jobs)).get(job.key)
        return row is not None and row["verdict"] == verdict

    await until_async(is_so, f"{job.key} to be {verdict}\n{worker.tail()}", seconds=SEEN_SECONDS)


# ------------------------------------------------------------------ with the right secret and the shipped ACLs


async def test_a_worker_does_all_of_its_work_with_the_least_rights(secured: Secured, tmp_path: Path):
    """And so do the commands: a capture is fed and recorded, a pause reaches the worker, the Jobs are listed."""
    job, plain = Job(), secured.cluster.bootstrap
    worker = secured.worker("least", tmp_path, **secured.login(ALL))
    with worker:
        await asyncio.to_thread(worker.wait_until_ready, READY_SECONDS)
        written = tmp_path / "capture.jsonl"
        value = base64.b64encode(job.says("loading")).decode()
        written.write_text(json.dumps({"at": 1.0, "partition": 0, "value_b64": value}) + "\n")
        fed = await command(secured, tmp_path, PLATFORM, "feed", str(written))
        assert fed.returncode == 0, fed.stderr
        await until_verdict(worker, job, "healthy", plain, "loading")
        await until_verdict(worker, job, "stuck", plain)

        recorded = tmp_path / "recorded.jsonl"
        people = name_of(Purpose.PEOPLE)
        capturing = ["capture", str(recorded), "--since-seconds", "300", "--limit", "1"]
        assert (await command(secured, tmp_path, people, *capturing)).returncode == 0
        assert json.loads(recorded.read_text())["value_b64"] == value
        paused = await command(secured, tmp_path, people, "pause", "--all", "--reason", "looking", "--for", "1h")
        assert paused.returncode == 0, paused.stderr

        async def is_paused() -> bool:
            told = await asyncio.to_thread(worker.get, "/actions/")
            return told is not None and "looking" in json.dumps(told.body)

        await until_async(is_paused, "the pause to arrive", seconds=SEEN_SECONDS)
        assert (await command(secured, tmp_path, people, "resume", "--all")).returncode == 0
        listed = await asyncio.to_thread(
            secured.command, tmp_path, "jobs", "-o", "json", "--url", f"http://127.0.0.1:{worker.port}"
        )
        assert {row["job"]: row["verdict"] for row in json.loads(listed.stdout)["jobs"]}[job.key] == "stuck"
        assert worker.server.is_alive, worker.tail()
    for topic in (topics.EVIDENCE, topics.ACTIONS, topics.STEPS, topics.OUTCOMES, topics.JOBS_CHANGELOG):
        assert await records_of(plain, topic), f"nothing is on {topic}"
    assert "authorization" not in worker.log.read_text().lower()


async def test_topics_are_made_by_the_user_for_it(secured: Secured, tmp_path: Path):
    asked = await command(secured, tmp_path, name_of(Purpose.TOPICS), "topics", "--create", "-o", "json")
    assert asked.returncode == 0, asked.stderr
    assert {row["state"] for row in json.loads(asked.stdout)} == {"ok"}


async def command(secured: Secured, directory: Path, user: str, *arguments: str, **settings: str):
    login = secured.login(user) | settings
    return await asyncio.to_thread(secured.command, directory, *arguments, **login)


# ------------------------------------------------------------------ with a wrong one


def test_a_worker_says_what_is_wrong_with_its_way_in_and_goes_on_when_that_is_mended(secured: Secured, tmp_path: Path):
    """A wrong CA, then a wrong password, then a missing ACL: one process, that ends for none of them."""
    files = secured.login_by_files(ALL, tmp_path / "mounted")
    ca_file, password_file = tmp_path / "mounted" / "ca.crt", tmp_path / "mounted" / "password"
    right_ca, right_password = ca_file.read_text(), password_file.read_text()
    ca_file.write_text(Authority(tmp_path, "stranger").certificate.read_text())
    password_file.write_text("wrong")
    missing = Acl("topic", topics.STEPS, "literal", "Write")
    bootstrap = secured.cluster.bootstrap
    asyncio.run(forbid(bootstrap, ALL, [missing]))
    worker = secured.worker("mended", tmp_path, **files)
    try:
        with worker:
            told = until_said(worker, "its certificate is not trusted", "SF_HEALER_CA_FILE")
            assert len(told.splitlines()) == 1
            ca_file.write_text(right_ca)
            told = until_said(worker, "Authentication failed", "SF_HEALER_SASL_PASSWORD")
            assert len(told.splitlines()) == 1
            password_file.write_text(right_password)
            told = until_said(worker, "Kafka does not allow us Write on topic sf-healer-steps", "--kafka-user all")
            assert len(told.splitlines()) == 1
            assert worker.get("/livez").status == 200
            asyncio.run(allow(bootstrap, ALL, [missing]))
            worker.wait_until_ready(READY_SECONDS)
    finally:
        asyncio.run(allow(bootstrap, ALL, [missing]))
    log = worker.log.read_text()
    assert "Traceback" not in log.partition("worker_starts")[0]
    assert right_password not in log


@pytest.mark.parametrize("wrong", ["password", "CA"])
@pytest.mark.parametrize("arguments", [("topics",), ("feed", "CAPTURE"), ("capture", "RECORDED"), ("resume", "--all")])
async def test_a_command_says_in_one_line_that_it_is_not_let_in(
    secured: Secured, tmp_path: Path, wrong: str, arguments: tuple[str, ...]
):
    (tmp_path / "capture.jsonl").write_text("")
    files = {"CAPTURE": str(tmp_path / "capture.jsonl"), "RECORDED": str(tmp_path / "recorded.jsonl")}
    login = (
        {"sasl_password": "hunter2"}
        if wrong == "password"
        else {"ca_file": str(Authority(tmp_path, "stranger").certificate)}
    )
    began = time.monotonic()
    done = await command(secured, tmp_path, ALL, *(files.get(word, word) for word in arguments), **login)
    assert time.monotonic() - began < COMMAND_SECONDS
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: Kafka at {secured.cluster.secure_bootstrap}: ")
    assert ("SF_HEALER_SASL_PASSWORD" if wrong == "password" else "SF_HEALER_CA_FILE") in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("user", "arguments", "told"),
    [
        (PLATFORM, ("topics",), "topic sf-healer-evidence may not be seen: no ACL gives us Describe"),
        (name_of(Purpose.PEOPLE), ("feed", "CAPTURE"), "topic queue-events may not be used: no ACL gives us Write"),
        (PLATFORM, ("capture", "RECORDED"), "topic queue-events may not be used: no ACL gives us Read"),
        (ALL, ("pause", "--all", "--reason", "x"), "topic sf-healer-control may not be used: no ACL gives us Write"),
        (
            name_of(Purpose.TOPICS),
            ("resume", "--all"),
            "topic sf-healer-control may not be used: no ACL gives us Write",
        ),
    ],
)
async def test_a_command_names_the_topic_and_the_operation_of_a_missing_acl(
    secured: Secured, tmp_path: Path, user: str, arguments: tuple[str, ...], told: str
):
    line = json.dumps({"at": 1.0, "partition": 0, "value_b64": base64.b64encode(b"{}").decode()})
    (tmp_path / "capture.jsonl").write_text(line + "\n")
    files = {"CAPTURE": str(tmp_path / "capture.jsonl"), "RECORDED": str(tmp_path / "recorded.jsonl")}
    began = time.monotonic()
    words = (files.get(word, word) for word in arguments)
    # What was there before is asked for: a topic that nobody writes would be waited on.
    since = ("--since-seconds", "3600") if "capture" in arguments else ()
    done = await command(secured, tmp_path, user, *words, *since)
    assert time.monotonic() - began < COMMAND_SECONDS
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # aiokafka warns of each partition first
    assert last.startswith("Error: ")
    assert told in last
    assert "--kafka-user" in last


# ------------------------------------------------------------------ each right for itself


RIGHTS = [
    pytest.param(
        role, Acl(right.resource.value, right.name, "literal", operation.value), id=f"{role}-{right.name}-{operation}"
    )
    for role in (Role.DETECTOR, Role.ACTUATOR)
    for right in rights_of_role(Settings(role=role))
    for operation in right.operations
]


def settings_of(secured: Secured, role: Role) -> Settings:
    return Settings(
        broker_url=f"kafka://{secured.cluster.secure_bootstrap}",
        identity=Identity.CONVENTION,
        role=role,
        **secured.login(name_of(Purpose(role.value))),
    )


@pytest.mark.parametrize("role", [Role.ALL, Role.DETECTOR, Role.ACTUATOR])
async def test_with_its_shipped_rights_a_role_may_start(secured: Secured, role: Role):
    assert await preflight.find_problems(settings_of(secured, role)) == []


@pytest.mark.parametrize(("role", "acl"), RIGHTS)
async def test_without_any_one_of_its_rights_a_role_does_not_start_and_names_it(secured: Secured, role: Role, acl: Acl):
    settings, user, plain = settings_of(secured, role), name_of(Purpose(role.value)), secured.cluster.bootstrap
    await forbid(plain, user, [acl])
    try:

        async def named() -> bool:  # a broker learns of an ACL a moment after its controller
            told = await preflight.find_problems(settings)
            if len(told) != 1:
                return False
            lacking, _, where = told[0].removeprefix("Kafka does not allow us ").partition(" on ")
            # Without Describe, which Read and Write include, a topic is not seen: then all is missed.
            return acl.operation in lacking.split(" and ") and where.startswith(f"{acl.type} {acl.name} (")

        await until_async(named, f"{acl} to be missed", seconds=SEEN_SECONDS)
    finally:
        await allow(plain, user, [acl])

    async def is_well() -> bool:
        return await preflight.find_problems(settings) == []

    await until_async(is_well, f"{acl} to be back", seconds=SEEN_SECONDS)


@pytest.mark.parametrize(
    "acl",
    [Acl("topic", "queue-events", "literal", "Read"), Acl("group", DETECTOR_GROUP, "literal", "Read")],
    ids=str,
)
def test_a_worker_that_can_no_longer_read_ends_and_the_next_one_says_what_it_lacks(
    secured: Secured, tmp_path: Path, acl: Acl
):
    worker, bootstrap = secured.worker("robbed", tmp_path, **secured.login(ALL)), secured.cluster.bootstrap
    with worker:
        worker.wait_until_ready(READY_SECONDS)
        asyncio.run(forbid(bootstrap, ALL, [acl]))
        try:
            until(lambda: not worker.server.is_alive, "it to end", seconds=SEEN_SECONDS)
            told = worker.tail(200)
            assert "AuthorizationFailedError" in told
            assert acl.name in told
            worker.start()
            until_said(worker, f"Kafka does not allow us {acl.operation} ", f"on {acl.type} {acl.name}")
        finally:
            asyncio.run(allow(bootstrap, ALL, [acl]))
        worker.wait_until_ready(READY_SECONDS)


def test_a_worker_that_can_no_longer_write_says_what_it_lacks_and_goes_on_when_it_has_it_again(
    secured: Secured, tmp_path: Path
):
    """With nothing to send but marks it stays and says so; with evidence in hand it ends, and the next one says so."""
    acl, bootstrap = Acl("topic", topics.EVIDENCE, "literal", "Write"), secured.cluster.bootstrap
    worker = secured.worker("robbed", tmp_path, feed_gap_seconds=3, **secured.login(ALL))
    with worker:
        worker.wait_until_ready(READY_SECONDS)
        asyncio.run(forbid(bootstrap, ALL, [acl]))

        def said() -> bool:
            if not worker.server.is_alive:
                assert "AuthorizationFailedError" in worker.tail(200)
                worker.start()
            answer = worker.get("/readyz")
            wanted = "Kafka does not allow us Write on topic sf-healer-evidence"
            return answer is not None and any(problem.startswith(wanted) for problem in answer.body["problems"])

        try:
            until(said, f"/readyz to name the right\n{worker.tail()}", seconds=SAID_SECONDS)
        finally:
            asyncio.run(allow(bootstrap, ALL, [acl]))
        until(lambda: worker.server.is_alive or worker.start(), "it to run", seconds=SAID_SECONDS)
        worker.wait_until_ready(READY_SECONDS)


# ------------------------------------------------------------------ the roles apart


async def test_detector_and_actuator_work_as_users_of_their_own(secured: Secured, tmp_path: Path):
    job, plain = Job(), secured.cluster.bootstrap
    sides = {
        role: secured.worker(role, tmp_path / role, role=role, **secured.login(name_of(Purpose(role))))
        for role in ("detector", "actuator")
    }
    with sides["detector"] as detector, sides["actuator"] as actuator:
        await asyncio.to_thread(detector.wait_until_ready, READY_SECONDS)
        await asyncio.to_thread(actuator.wait_until_ready, READY_SECONDS)
        await until_verdict(detector, job, "healthy", plain, "loading")
        await until_verdict(detector, job, "stuck", plain)

        async def is_answered() -> bool:
            return any(record.key == job.key.encode() for record in await records_of(plain, topics.OUTCOMES))

        await until_async(is_answered, "the actuator to answer the detector's command", seconds=SEEN_SECONDS)


async def test_the_detector_cannot_read_the_log_that_holds_manifests(secured: Secured):
    settings = settings_of(secured, Role.DETECTOR)

    async def read(topic: str) -> None:
        async with kafka.consumer(settings) as reader:
            place = kafka.TopicPartition(topic, 0)
            reader.assign([place])
            reader.seek(place, 0)
            async with asyncio.timeout(SEEN_SECONDS):
                await reader.getone()

    with pytest.raises(kafka.BrokerRefusedError, match=r"sf-healer-steps may not be used: no ACL gives us Read"):
        await read(topics.STEPS)


async def test_the_actuator_sees_the_group_of_a_silent_consumer_and_without_the_right_says_so(secured: Secured):
    plain, user = secured.cluster.bootstrap, name_of(Purpose.ACTUATOR)
    topic = f"loader-btcusdt-api-trades-2025-06-01-{secrets.token_hex(3)}"
    async with kafka.admin(Settings(broker_url=f"kafka://{plain}")) as admin:
        await admin.create([topics.Spec(topic, 1, 1, {})])
    reader = GroupReader(settings_of(secured, Role.ACTUATOR), clock=itertools.count(0.0, 100.0).__next__)
    groups = Acl("group", "*", "literal", "Describe")
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=plain, group_id=f"arango-trades-consumer-{topic}", auto_offset_reset="earliest"
    ):

        async def look() -> GroupLook:
            return await reader.look(queue_id=topic, topic=topic, pod_ip="127.0.0.1", neighbours=None)

        async def seen() -> bool:
            found = await look()
            return (found.members, found.lag, found.unknown) == (1, 0, "")

        await until_async(seen, "the group to be seen", seconds=SEEN_SECONDS)
        await forbid(plain, user, [groups])
        try:

            async def unknown() -> bool:
                return "needs the right DESCRIBE on groups" in (await look()).unknown

            await until_async(unknown, "the missing right to be told", seconds=SEEN_SECONDS)
        finally:
            await allow(plain, user, [groups])
        data_topics = Acl("topic", DATA_TOPICS, "prefix", "Describe")
        await forbid(plain, user, [data_topics])
        try:

            async def not_described() -> bool:
                return "may not be described" in (await look()).unknown

            await until_async(not_described, "the topic not to be seen", seconds=SEEN_SECONDS)
        finally:
            await allow(plain, user, [data_topics])
    await reader.close()
