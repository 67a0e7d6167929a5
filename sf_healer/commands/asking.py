"""What the commands by which people act have in common: they look first, send a request once, and tell its answer."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import click

from sf_healer.adapters import logs
from sf_healer.adapters.kafka import BrokerRefusedError, BrokerUnreachableError
from sf_healer.cli import ExitCode, say
from sf_healer.commands.reading import Worker
from sf_healer.control import Answer, RequestRefusedError, send_action
from sf_healer.core.commands import (
    ActionRecord,
    Command,
    ControlRecord,
    Outcome,
    Resolve,
    Result,
    Unreadable,
    decode_action,
    decode_control,
    encode,
)
from sf_healer.settings import Settings
from sf_healer.views.words import explained

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def reason_option(told: str) -> Callable[[F], F]:
    """Ask for the reason of what a person does: others read it at night."""
    return click.option("--reason", required=True, metavar="TEXT", help=told, callback=_said)


def _said(_context: click.Context, _option: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("it is empty; say why")
    return reason.strip()


def read_restarts(asked: Worker) -> Mapping[str, Any]:
    """Read what the actuator knows of restarts and of what holds them back.

    Raises ConnectionError where nobody tells: what a person wants to do may be done all the same.
    """
    try:
        page: Mapping[str, Any] = asked.read("/actions/")
    except click.ClickException as problem:
        raise ConnectionError(problem.message) from problem
    if page["admission"] is None:
        raise ConnectionError(f"{asked.url} does not see what admission sees")
    return page


def as_sent(request: ActionRecord | ControlRecord) -> bytes:
    """Give the bytes of a request as workers read it; raises click.UsageError for one that they would not take.

    Called before anything is sent: what cannot be read is a dead letter, and whoever sent it believes that it holds.
    """
    try:
        value = encode(request)
    except UnicodeEncodeError as problem:
        raise click.UsageError(f"{problem.object!r} is no text in UTF-8") from None
    read = decode_control(value) if isinstance(request, ControlRecord) else decode_action(value)
    if isinstance(read, Unreadable):
        raise click.UsageError(f"no worker would take that: {read.detail}")
    return value


def ask(settings: Settings, request: Command | Resolve, *, wait_seconds: float) -> Answer:
    """Send a request and wait so long for what becomes of it; raises as `send`."""
    return send(send_action(settings, request, wait_seconds=wait_seconds))


def send(sending: Coroutine[Any, Any, T]) -> T:
    """Send what a person asks for; raises ClickException where it cannot be sent, ConnectionError without a broker."""
    try:
        with logs.without_tries():
            return asyncio.run(sending)
    except (RequestRefusedError, BrokerRefusedError) as problem:
        raise click.ClickException(str(problem)) from None
    except BrokerUnreachableError as problem:
        raise ConnectionError(f"{problem}; `sf-healer doctor` looks further") from None


def told(
    answer: Answer,
    key: str,
    *,
    wait_seconds: float,
    sent: str,
    code_of: Callable[[Result], ExitCode],
    words: Callable[[Outcome], str],
) -> ExitCode:
    """Say what became of a request about a Job, each outcome in `words`; `sent` says that it is safe."""
    for outcome in answer.outcomes:
        say(words(outcome))
    if answer.over:
        return code_of(answer.outcomes[-1].result)
    if not wait_seconds:
        say(f"{sent}; `sf-healer job {key}` shows what becomes of it")
        return ExitCode.OK
    say(f"no answer within {wait_seconds:g} s; `sf-healer job {key}` shows what becomes of it")
    return ExitCode.ERROR


def in_words(outcome: Outcome) -> str:
    """Say what became of a request, in one line."""
    detail = explained(outcome.reason, outcome.detail)
    more = "" if outcome.final else " (not over yet)"
    again = f"; ask again in {outcome.retry_after:.0f} s" if outcome.retry_after else ""
    return f"{outcome.result}, {outcome.reason}: {detail}{again}{more}"
