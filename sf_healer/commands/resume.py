"""`sf-healer resume`: end a pause; of one Job also its quarantine."""

import time
from collections.abc import Mapping
from typing import Any

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import as_sent, read_restarts, send
from sf_healer.commands.reading import Worker, url_option, worker
from sf_healer.commands.scopes import dry_run_option, scope_of, scope_options
from sf_healer.control import person, send_control
from sf_healer.core.commands import Resume
from sf_healer.views.lines import moment
from sf_healer.views.requests import Resumption, resumption

#: A tick is on the steps log each second: a worker that shows none for so long does not know what is paused.
_LATE_SECONDS = 30.0


@click.command()
@scope_options
@click.option("--reason", default="", metavar="TEXT", help="Why.")
@dry_run_option
@url_option
def command(
    *,
    all_jobs: bool,
    job: str | None,
    queue: str | None,
    target: str | None,
    reason: str,
    dry_run: bool,
    url: str | None,
) -> ExitCode:
    """End the pause of a scope; --all ends the pause of all Jobs, not those of single queues or targets.

    With --job it also ends the quarantine of that Job, and its attempts count from zero. What is still paused is told.
    Exit code 4 where nothing was paused, as far as a worker knows; the end is sent all the same, for a pause that is on
    its way to it.
    """
    asked, settings = worker(url)
    scope = scope_of(settings, all_jobs=all_jobs, job=job, queue=queue, target=target)
    try:
        ends, follows = _what_follows(asked, scope)
    except ConnectionError as problem:
        ends, follows = True, [f"whether it was paused, and what still is, cannot be told: {problem}"]
    resume = Resume(scope=scope, reason=reason, by=person(), at=time.time())
    value = as_sent(resume)
    if dry_run:
        click.echo(value)
    else:
        send(send_control(settings, resume))
    if ends:
        say(f"{'would be resumed' if dry_run else 'resumed'}: {scope}")
    for line in follows:
        say(line)
    return ExitCode.OK if ends else ExitCode.REFUSED


def _what_follows(asked: Worker, scope: str) -> Resumption:
    """Ask a worker what the end of a pause ends; raises ConnectionError where nobody tells, or not as it is now."""
    restarts = read_restarts(asked)
    at = restarts["admission"]["at"]
    if at is None or time.time() - at > _LATE_SECONDS:
        raise ConnectionError(f"{asked.url} shows {'nothing yet' if at is None else f'it as it was at {moment(at)}'}")
    if not scope.startswith("job:"):
        return resumption(scope, None, None, restarts)
    job = scope.removeprefix("job:")
    return resumption(scope, job, _page_of(asked, job), restarts)


def _page_of(asked: Worker, job: str) -> Mapping[str, Any] | None:
    try:
        page: Mapping[str, Any] = asked.read_job(job)
    except (ConnectionError, click.ClickException):  # a Job that is gone may still be paused
        return None
    return page
