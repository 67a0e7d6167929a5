"""What people ask of sf-healer, as records on its topics: pauses and their ends, restarts, decisions.

Composed here and sent with acks=all; what becomes of them is decided by the actuator like everything else
(core/admission.py). Nothing here touches the cluster.
"""

import asyncio
import getpass
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from sf_healer import topics
from sf_healer.adapters import kafka
from sf_healer.core import commands
from sf_healer.core.actions import State
from sf_healer.core.commands import (
    REQUESTED_VERDICT,
    Command,
    ControlRecord,
    Decision,
    Grounds,
    Outcome,
    ProofKind,
    ProofOfLife,
    Resolve,
    command_id,
    decode_outcome,
)
from sf_healer.core.policy import LARGEST_NUMBER
from sf_healer.settings import Settings
from sf_healer.views.actions import waits_for_a_person
from sf_healer.views.requests import ENDED, objection_to

#: How long a request is good; admission holds it no longer than this.
REQUEST_EXPIRES_SECONDS = 60.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class RequestRefusedError(RuntimeError):
    """A request that cannot be made; the message says why."""


class Answer(NamedTuple):
    """What was told of a request within the time given: its outcomes, the last one final if `over`."""

    outcomes: tuple[Outcome, ...]
    over: bool


def parse_duration(text: str) -> float:
    """Read "90s", "30m", "1h30m", "2d", "1w" as seconds; raises ValueError that shows the form."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration such as 90s, 30m, 1h30m, 2d or 1w")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        raise ValueError(f"{text!r} is over at once")
    if seconds > LARGEST_NUMBER:
        raise ValueError(f"{text!r} is more than {LARGEST_NUMBER / _UNITS['d']:,.0f} days")
    return seconds


def person() -> str:
    """Name who asks, for the record: user and machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def restart_of(
    page: Mapping[str, Any],
    *,
    reason: str,
    by: str,
    now: float,
    even_if_ended: bool = False,
    expires_seconds: float = REQUEST_EXPIRES_SECONDS,
) -> Command:
    """Compose the command that restarts a Job as its page at a worker shows it.

    `now` is the time of the steps log, epoch seconds. Raises RequestRefusedError for a Job that is not there, that may
    not be touched, that has ended or was just told to stop: to run it again has to be meant.
    """
    fact, policy = page["incarnation"], page["policy"]  # the policy is known where the Job is
    if fact is None or fact["condition"] in {"gone", "deleting"}:
        raise RequestRefusedError(f"Job {page['job']} is gone, or is being deleted")
    objection = "" if even_if_ended and page["verdict"] in ENDED else objection_to(page)
    if objection:
        raise RequestRefusedError(f"{page['job']}: {objection}")
    return Command(
        id=command_id(page["job"], fact["uid"], REQUESTED_VERDICT, now, fact["attempt"]),
        key=page["job"],
        namespace=page["namespace"],
        name=page["name"],
        uid=fact["uid"],
        verdict=REQUESTED_VERDICT,
        evidence=Grounds(proof=ProofKind.REQUEST, condition=fact["condition"], detail=reason),
        decided_at=now,
        expires_at=now + expires_seconds,
        policy=policy["name"],
        attempt=fact["attempt"],
        target=fact["target"],
        queue_id=fact["queue_id"],
        startup_seconds=policy["startup_threshold_seconds"],
        proof_of_life=ProofOfLife.TELEMETRY if policy["reporting"] else ProofOfLife.POD,
        requested_by=by,
    )


def resolve_of(key: str, record: Mapping[str, Any] | None, decision: Decision, *, by: str, now: float) -> Resolve:
    """Compose a decision about the restart of a Job that asks for a person, as the Job's record at a worker shows it.

    Raises RequestRefusedError where there is nothing to decide, or not this.
    """
    action = (record or {}).get("action")
    if action is None:
        raise RequestRefusedError(f"no restart of {key} is open; `sf-healer actions --open` lists those that are")
    stranded = action["state"] == State.STRANDED
    if not waits_for_a_person(action):
        raise RequestRefusedError(
            f"the restart of {key} goes on by itself ({action['state']}): there is nothing to decide"
        )
    if decision is Decision.CREATE and not stranded:
        raise RequestRefusedError(
            f"the restart of {key} has not given up yet ({action['state']}): it creates the Job by itself when it can"
        )
    return Resolve(key=key, action_id=action["command"]["id"], decision=decision, by=by, at=now)


async def send_control(settings: Settings, record: ControlRecord) -> None:
    """Put a pause or its end on its topic; returns when all in-sync replicas have it.

    Raises ConnectionError, kafka.BrokerRefusedError, RequestRefusedError when the topic is missing.
    """
    async with kafka.admin(settings) as admin:
        await _check_topics(admin, topics.CONTROL)
        await _send(settings, topics.CONTROL, record.scope, commands.encode(record))


async def send_action(settings: Settings, record: Command | Resolve, *, wait_seconds: float) -> Answer:
    """Put a restart or a decision on its topic and wait for what becomes of it; raises as `send_control`."""
    command = record.id if isinstance(record, Command) else record.action_id
    async with kafka.admin(settings) as admin:
        await _check_topics(admin, topics.ACTIONS, topics.OUTCOMES)
        async with kafka.consumer(settings) as reader:
            place = TopicPartition(topics.OUTCOMES, 0)
            reader.assign([place])
            end = (await reader.end_offsets([place]))[place]
            reader.seek(place, end)
            await _send(settings, topics.ACTIONS, record.key, commands.encode(record))
            return await _outcomes_of(reader, command, wait_seconds)


async def _outcomes_of(reader: AIOKafkaConsumer, command: str, wait_seconds: float) -> Answer:
    found: list[Outcome] = []
    deadline = time.monotonic() + wait_seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                message = await reader.getone()
        except TimeoutError:
            break
        outcome = decode_outcome(message.value)
        if isinstance(outcome, Outcome) and outcome.command_id == command:
            found.append(outcome)
            if outcome.final:
                return Answer(tuple(found), over=True)
    return Answer(tuple(found), over=False)


async def _check_topics(admin: kafka.Admin, *names: str) -> None:
    """See that topics are there: a broker that makes them on first use would make them wrong."""
    found = await admin.describe(names, without_configs=names)
    for name in names:
        if name not in found:
            raise RequestRefusedError(f"topic {name} does not exist; `sf-healer topics --create` makes it")


async def _send(settings: Settings, topic: str, key: str, value: bytes) -> None:
    async with kafka.producer(settings) as producer:
        await producer.send_and_wait(topic, value, key=key.encode(), partition=0)
