"""Consumer groups as admission must know them: whose a Job's group is, who lives in it, how far it is behind.

Reads only. Every failure (no rights, no broker, a broker that does not speak of groups) is an answer with
`unknown` set, never an exception and never a guess: a missing right must not look like a missing group. What
the facts mean is said in core/groups.py.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import BrokerResponseError, GroupAuthorizationFailedError, KafkaError, for_code

from sf_healer.adapters import kafka
from sf_healer.core.groups import Elsewhere, Group, GroupLook, Neighbours, address_of, candidates, own_group
from sf_healer.settings import Settings

#: The lists of all groups and topics are asked for at most this often, and a failure is remembered this long.
LISTS_SECONDS = 10.0
LOOK_LIMIT_SECONDS = 8.0
#: So many Jobs are looked at together; the others wait for their turn.
LOOKS_AT_ONCE = 4
_DEAD = "Dead"
_MISSING_RIGHT = "group {} may not be described: sf-healer needs the right DESCRIBE on groups"


class _UnknownError(Exception):
    """The question has no answer; the message says why."""


class _Lists(msgspec.Struct, frozen=True):
    groups: frozenset[str]
    partitions: dict[str, int]  # of each topic
    read_at: float


class _Clients(msgspec.Struct, frozen=True):
    admin: AIOKafkaAdminClient
    reader: AIOKafkaConsumer  # of end offsets; it has no group and is assigned nothing


class GroupReader:
    """Looks at the consumer groups of Jobs; one for a process, in one event loop. `close` it at the end."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._turn = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._opening = asyncio.Lock()
        self._open: AsyncExitStack | None = None
        self._clients: _Clients | None = None
        self._lists: _Lists | None = None
        self._failure: tuple[float, str] | None = None

    async def look(self, *, queue_id: str, topic: str, pod_ip: str, neighbours: Neighbours | None) -> GroupLook:
        """Look at the group of the Job of this queue, topic and pod; ends within LOOK_LIMIT_SECONDS of its turn."""
        async with self._turn:
            if self._failure is not None and self._clock() - self._failure[0] < LISTS_SECONDS:
                return GroupLook(unknown=self._failure[1])
            try:
                async with asyncio.timeout(LOOK_LIMIT_SECONDS):
                    return await self._look(queue_id, topic, pod_ip, neighbours)
            except _UnknownError as problem:
                return GroupLook(unknown=str(problem))
            except BrokerResponseError as problem:
                return GroupLook(unknown=f"{type(problem).__name__}: {kafka.in_words(problem)}")
            except (KafkaError, OSError) as problem:  # TimeoutError is an OSError
                told = kafka.in_words(problem)
                self._failure = (self._clock(), told)
                await self.close()
                return GroupLook(unknown=told)

    async def close(self) -> None:
        """Close the connections; a later look opens them again."""
        async with self._opening:
            opened, self._open, self._clients, self._lists = self._open, None, None, None
        if opened is not None:
            await opened.aclose()

    async def _look(self, queue_id: str, topic: str, pod_ip: str, neighbours: Neighbours | None) -> GroupLook:
        clients, lists = await self._asked()
        partitions = lists.partitions.get(topic, 0)
        if not partitions:
            raise _UnknownError(f"topic {topic or 'of an unknown name'} does not exist, or may not be described")
        names = candidates(lists.groups, queue_id)
        if not names:
            # A list leaves out what we may not see. Whoever may describe this name may see all groups.
            await self._described(clients, [f"{self._settings.namespace}-sf-healer-consumer-{queue_id}"])
            return GroupLook()
        group = own_group((await self._described(clients, names)).values(), pod_ip, neighbours)
        if group is None:
            return GroupLook()
        if isinstance(group, Elsewhere):
            return GroupLook(elsewhere=group.why)
        if isinstance(group, str):
            raise _UnknownError(group)
        places = [TopicPartition(topic, number) for number in range(partitions)]
        # Committed first: what arrives in between is lag that a working consumer will have dealt with next time.
        committed = await self._committed(clients, group.name, places)
        ends = await clients.reader.end_offsets(places)
        return GroupLook(
            group=group.name,
            members=len(group.hosts),
            committed=sum(committed.values()),
            lag=sum(max(0, ends[place] - committed[place]) for place in places),
        )

    async def _asked(self) -> tuple[_Clients, _Lists]:
        """Give the clients and the lists of groups and topics, not older than LISTS_SECONDS."""
        async with self._opening:
            if self._clients is None:
                self._open = AsyncExitStack()
                self._clients = await self._connected(self._open)
            if self._lists is None or self._clock() - self._lists.read_at >= LISTS_SECONDS:
                self._lists = await self._listed(self._clients.admin)
            return self._clients, self._lists

    async def _connected(self, stack: AsyncExitStack) -> _Clients:
        admin = kafka.admin_client(self._settings)
        stack.push_async_callback(admin.close)
        await admin.start()
        return _Clients(admin, await stack.enter_async_context(kafka.consumer(self._settings)))

    async def _listed(self, admin: AIOKafkaAdminClient) -> _Lists:
        groups = await admin.list_consumer_groups()
        topics = await admin.describe_topics()  # all: a question by name can make a broker create the topic
        return _Lists(
            frozenset(name for name, *_ in groups),
            {topic["topic"]: len(topic["partitions"]) for topic in topics if not topic["error_code"]},
            self._clock(),
        )

    async def _described(self, clients: _Clients, names: Collection[str]) -> dict[str, Group]:
        """Describe groups; one that died meanwhile is left out."""
        found: dict[str, Group] = {}
        for name in names:
            # One by one: aiokafka 0.14.0 reads an answer of version 3 as one of version 2, and loses its place
            # after the first group.
            try:
                (answer,) = await clients.admin.describe_consumer_groups([name])
            except GroupAuthorizationFailedError:  # its coordinator is not told either
                raise _UnknownError(_MISSING_RIGHT.format(name)) from None
            (group,) = answer.to_object()["groups"]
            if group["error_code"] == GroupAuthorizationFailedError.errno:
                raise _UnknownError(_MISSING_RIGHT.format(name))
            if group["error_code"]:
                raise for_code(group["error_code"])(f"group {name} was not described")
            if group["state"] != _DEAD:
                found[name] = Group(name, tuple(address_of(member["client_host"]) for member in group["members"]))
        return found

    async def _committed(
        self, clients: _Clients, group: str, places: list[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give what the group has committed; 0 where it has not, so that all of a partition is lag.

        A live consumer with auto-commit commits its position a few seconds after it joined, also where nothing
        was there to read.
        """
        told = await clients.admin.list_consumer_group_offsets(group, partitions=places)
        if any(place not in told for place in places):  # the client gives an empty answer for a refused one
            raise _UnknownError(f"the offsets of group {group} were not told")
        return {place: max(0, told[place].offset) for place in places}
