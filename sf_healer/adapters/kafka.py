"""Kafka as the administrator sees it: reach it, describe and create topics, try what it honours.

The data path of the worker belongs to Faust and `sf_healer.transport`; `feed` and `capture` take their plain
producer and consumer from here. Every call has a timeout; a broker that cannot be reached is a
BrokerUnreachableError that says why.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import stamina
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from sf_healer.adapters import failures, permissions
from sf_healer.adapters.login import Login, follow
from sf_healer.adapters.unreached import is_refused
from sf_healer.rights import Operation, Right
from sf_healer.settings import PREFIX, Settings
from sf_healer.topics import Found, Spec

REQUEST_TIMEOUT_SECONDS = 10.0
# How long a command waits for a broker that does not answer, before it says so.
COMMAND_PATIENCE_SECONDS = 10.0

_CLIENT_ID = "sf-healer"
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1
_BROKERS_ASKED = 10  # with one of three dead, all of them the dead one: 1 in 59,049
_PROBE_AGE_SECONDS = 60.0
_MS = 1000
_LASTING = (
    ssl.SSLCertVerificationError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    IllegalSaslStateError,
)


class BrokerUnreachableError(ConnectionError):
    """No broker answered, or it turned us away; `lasting` says that trying again will not help."""

    def __init__(self, servers: str, reason: str, *, lasting: bool = False) -> None:
        super().__init__(f"Kafka at {servers}: {reason}")
        self.reason = reason
        self.lasting = lasting


class BrokerRefusedError(RuntimeError):
    """The broker answered and declined; the message is its own reason."""


class _LeaderlessError(BrokerRefusedError):
    """A topic exists that nobody can write to yet."""


class _UnheardError(BrokerRefusedError):
    """A topic was created, and the broker that was asked has not heard of it yet."""


def client_security(settings: Settings) -> dict[str, Any]:
    """Give what an aiokafka client needs to get in now; raises as `Login.options`."""
    return Login(settings).options()


async def wait_for_broker(settings: Settings, *, patience_seconds: float | None = COMMAND_PATIENCE_SECONDS) -> None:
    """Return once a broker lets us in; with no limit of patience, keep trying with a backoff for ever.

    Raises BrokerUnreachableError when patience ends, or at once when trying again will not help.
    """
    async for attempt in stamina.retry_context(
        on=_worth_another_try,
        attempts=1 if patience_seconds == 0 else None,
        timeout=patience_seconds or None,
        wait_initial=_FIRST_WAIT_SECONDS,
        wait_max=_LONGEST_WAIT_SECONDS,
    ):
        with attempt:
            await _knock(settings)


@asynccontextmanager
async def admin(
    settings: Settings, *, patience_seconds: float | None = COMMAND_PATIENCE_SECONDS
) -> AsyncIterator["Admin"]:
    """Open the administration of a cluster.

    Raises BrokerUnreachableError, also when the broker goes away within, and BrokerRefusedError for a request
    that it declined.
    """
    await wait_for_broker(settings, patience_seconds=patience_seconds)
    client = admin_client(settings)
    try:
        await client.start()
        yield Admin(client, settings)
    except (KafkaError, TimeoutError) as problem:
        if isinstance(problem, BrokerResponseError) and not isinstance(problem, RequestTimedOutError):
            raise BrokerRefusedError(f"Kafka at {_servers(settings)}: {in_words(problem)}") from problem
        raise BrokerUnreachableError(_servers(settings), in_words(problem)) from problem
    finally:
        await client.close()


class Admin:
    """The administration of one cluster; made by `admin`."""

    def __init__(self, client: AIOKafkaAdminClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._created: set[str] = set()  # and not described since

    async def broker_count(self) -> int:
        """Count the brokers that the cluster knows now."""
        return len((await _of_any_broker(self._client.describe_cluster))["brokers"])

    async def missing_rights(self, wanted: Collection[Right]) -> list[str]:
        """Say which of the rights the broker does not give us, one line a resource."""
        # The first question about a group makes a new cluster create the topic of its offsets.
        async for attempt in stamina.retry_context(
            on=GroupCoordinatorNotAvailableError, attempts=None, timeout=REQUEST_TIMEOUT_SECONDS, wait_max=1.0
        ):
            with attempt:
                lines: list[str] = await _of_any_broker(partial(permissions.missing_rights, self._client, wanted))
        return lines

    async def topic_rights(self, names: Collection[str]) -> dict[str, frozenset[Operation]]:
        """Give what the broker lets us do with each topic."""
        allowed: dict[str, frozenset[Operation]] = await _of_any_broker(
            partial(permissions.topic_rights, self._client, names)
        )
        return allowed

    async def describe(self, names: Collection[str], *, without_configs: Collection[str] = ()) -> dict[str, Found]:
        """Describe those of the topics that exist; a broker that keeps its configs to itself tells none.

        Raises BrokerRefusedError for a topic that we may not see: it may exist. Configs need a right of their own.
        """
        async for attempt in stamina.retry_context(
            on=_UnheardError, attempts=None, timeout=REQUEST_TIMEOUT_SECONDS, wait_max=_POLL_SECONDS
        ):
            with attempt:
                found = await self._describe(names, without_configs)
        self._created -= found.keys()
        return found

    async def _describe(self, names: Collection[str], without_configs: Collection[str]) -> dict[str, Found]:
        # All topics: a question by name makes a broker with auto-creation create what we ask for.
        listed = {topic["topic"]: topic for topic in await _of_any_broker(self._client.describe_topics)}
        present = [name for name in names if name in listed]
        unheard = self._created & set(names) - set(present)
        if unheard:
            raise _UnheardError(f"a broker does not know {', '.join(sorted(unheard))}, which were created just now")
        await self._check_seen([name for name in names if name not in listed])
        configs = await self._configs([name for name in present if name not in without_configs])
        return {
            name: Found(
                name=name,
                partitions=len(listed[name]["partitions"]),
                replication_factor=min(
                    (len(partition["replicas"]) for partition in listed[name]["partitions"]), default=0
                ),
                configs=configs.get(name, {}),
            )
            for name in present
        }

    async def create(self, specs: Collection[Spec]) -> None:
        """Create topics and wait until each has its leaders; one that appeared meanwhile is left as it is.

        Raises BrokerRefusedError with the broker's reason for the first that it declined.
        """
        wanted = [
            NewTopic(
                name=spec.name,
                num_partitions=spec.partitions,
                replication_factor=spec.replication_factor,
                topic_configs=spec.configs,
            )
            for spec in specs
        ]
        create = partial(self._client.create_topics, wanted, timeout_ms=int(REQUEST_TIMEOUT_SECONDS * _MS))
        answer = await _of_any_broker(create)
        for name, code, *told in answer.topic_errors:
            if code in {TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno}:
                raise BrokerRefusedError(f"topic {name} was not created: {_missing_acl(Operation.CREATE)}")
            if code not in {0, TopicAlreadyExistsError.errno}:
                reason = (told[0] if told else None) or for_code(code).description
                raise BrokerRefusedError(f"topic {name} was not created: {reason}")
        names = {spec.name for spec in specs}
        await self._led(names)
        self._created |= names

    async def honours_log_append_time(self, topic: str, value: bytes, *, partition: int = 0) -> bool:
        """Write one record dated a minute back and tell whether the broker put its own time on it.

        The record stays in the topic: give a value that its readers know how to pass over.
        """
        dated = time.time() - _PROBE_AGE_SECONDS
        async with producer(self._settings) as sender:
            sent = await sender.send_and_wait(topic, value, partition=partition, timestamp_ms=int(dated * _MS))
        async with consumer(self._settings) as reader:
            place = TopicPartition(topic, partition)
            reader.assign([place])
            reader.seek(place, sent.offset)
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                record = await reader.getone()
        return bool(record.timestamp / _MS > dated + _PROBE_AGE_SECONDS / 2)

    async def _check_seen(self, names: Collection[str]) -> None:
        """Tell a topic that is not there from one that we may not see; a list leaves out both."""
        allowed = await self.topic_rights(names)
        for name in names:
            if Operation.DESCRIBE not in allowed.get(name, (Operation.DESCRIBE,)):
                raise BrokerRefusedError(f"topic {name} may not be seen: {_missing_acl(Operation.DESCRIBE)}")

    async def _configs(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        try:
            answers = await _of_any_broker(partial(self._client.describe_configs, resources))
        except IncompatibleBrokerVersion:
            return {}
        found: dict[str, dict[str, str]] = {}
        for answer in answers:
            for code, message, _kind, name, entries in answer.resources:
                if code == TopicAuthorizationFailedError.errno:
                    acl = _missing_acl(Operation.DESCRIBE_CONFIGS)
                    raise BrokerRefusedError(f"the configs of topic {name} may not be seen: {acl}")
                if code == UnknownTopicOrPartitionError.errno and name in self._created:
                    raise _UnheardError(f"a broker does not know {name}, which was created just now")
                if code:
                    raise BrokerRefusedError(f"topic {name}: {message or for_code(code).description}")
                found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return found

    async def _led(self, names: set[str]) -> None:
        async for attempt in stamina.retry_context(
            on=_LeaderlessError, attempts=None, timeout=REQUEST_TIMEOUT_SECONDS, wait_max=_POLL_SECONDS
        ):
            with attempt:
                waiting = names - _with_leaders(await _of_any_broker(self._client.describe_topics))
                if waiting:
                    raise _LeaderlessError(f"no leader yet for {', '.join(sorted(waiting))}")


async def _of_any_broker(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until a broker answers that is there.

    The client picks one at random, and a broker that has died is among them until the controller misses it.
    """
    async for attempt in stamina.retry_context(
        on=(NodeNotReadyError, KafkaConnectionError),
        attempts=_BROKERS_ASKED,
        timeout=REQUEST_TIMEOUT_SECONDS,
        wait_initial=_POLL_SECONDS,
        wait_max=_FIRST_WAIT_SECONDS,
    ):
        with attempt:
            return await ask()
    raise AssertionError("the last attempt returns or raises")


@asynccontextmanager
async def producer(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Open a plain producer that waits for all in-sync replicas.

    Raises BrokerRefusedError where a topic may not be written.
    """
    made = AIOKafkaProducer(**client_options(settings), acks="all", **options)
    follow(made.client, Login(settings))
    async with made as opened:
        with _right_to(Operation.WRITE):
            yield opened


@asynccontextmanager
async def consumer(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a plain consumer without a group; the caller assigns and seeks.

    Raises BrokerRefusedError where a topic may not be read.
    """
    made = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False, group_id=None, **options)
    follow(made._client, Login(settings))  # noqa: SLF001  it has no public name
    async with made as opened:
        with _right_to(Operation.READ):
            yield opened


def admin_client(settings: Settings) -> AIOKafkaAdminClient:
    """Make an administrator's client; the caller starts and closes it."""
    made = AIOKafkaAdminClient(**client_options(settings))
    follow(made._client, Login(settings))  # noqa: SLF001  it has no public name
    return made


@contextmanager
def _right_to(operation: Operation) -> Iterator[None]:
    """Say which right is missing: Kafka names the topic and not the operation."""
    try:
        yield
    except TopicAuthorizationFailedError as problem:
        raise BrokerRefusedError(f"topic {_named(problem)} may not be used: {_missing_acl(operation)}") from problem


def _named(problem: TopicAuthorizationFailedError) -> str:
    """Give the topics that aiokafka puts into its error, as a name or as several."""
    told = problem.args[0] if problem.args else "?"
    return told if isinstance(told, str) or not isinstance(told, Iterable) else ", ".join(sorted(map(str, told)))


def _missing_acl(operation: Operation) -> str:
    return f"no ACL gives us {operation.value}; `sf-healer topics --kafka-user` shows what we need"


async def _knock(settings: Settings) -> None:
    """Open one connection and close it: a client only logs why it cannot get in, this raises it."""
    reasons: list[Exception] = []
    for server in settings.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            connection = await create_conn(
                host.strip("[]"),
                int(port),
                client_id=_CLIENT_ID,
                request_timeout_ms=int(REQUEST_TIMEOUT_SECONDS * _MS),
                **client_security(settings),
            )
            try:
                # Before a login a broker answers what it can do, and nothing else.
                await connection.send(MetadataRequest([]))
            finally:
                connection.close()
        except (OSError, KafkaError, TimeoutError) as problem:
            reasons.append(problem)
        else:
            return
    raise BrokerUnreachableError(
        _servers(settings),
        "; ".join(dict.fromkeys(map(in_words, reasons))),
        lasting=all(isinstance(reason, _LASTING) for reason in reasons),
    )


def _worth_another_try(problem: Exception) -> bool:
    return isinstance(problem, BrokerUnreachableError) and not problem.lasting


def in_words(problem: Exception) -> str:
    """Put a client's exception into words that name the setting to look at."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({problem.verify_message}); see {PREFIX}CA_FILE"
    if isinstance(problem, ssl.SSLError):
        return f"TLS failed ({problem.reason}); see {PREFIX}CA_FILE and the listener's protocol"
    told = str(problem.args[0]) if isinstance(problem, KafkaError) and problem.args else str(problem)
    if isinstance(problem, SaslAuthenticationFailed):
        return f"{told}; see {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD"
    if isinstance(problem, UnsupportedSaslMechanismError):
        return f"it does not offer this SASL mechanism; see {PREFIX}SASL_MECHANISM"
    if isinstance(problem, OSError) and is_refused(problem):
        return "connection refused"
    if isinstance(problem, TimeoutError):
        return f"no answer in {REQUEST_TIMEOUT_SECONDS:g} s"
    if isinstance(problem, KafkaConnectionError | ConnectionResetError):
        return f"it closed the connection; does its listener want TLS or SASL ({PREFIX}CA_FILE, {PREFIX}SASL_*)?"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    return failures.in_words(told) or type(problem).__name__


def _with_leaders(topics: list[Mapping[str, Any]]) -> set[str]:
    return {
        topic["topic"]
        for topic in topics
        if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


def client_options(settings: Settings) -> dict[str, Any]:
    """Give what every aiokafka client of ours is made with; raises as `client_security` does."""
    return {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": _CLIENT_ID,
        "request_timeout_ms": int(REQUEST_TIMEOUT_SECONDS * _MS),
        **client_security(settings),
    }


def _servers(settings: Settings) -> str:
    return ",".join(settings.bootstrap_servers)
