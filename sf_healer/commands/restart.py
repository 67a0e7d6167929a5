"""`sf-healer restart JOB`: ask for a restart; admission answers as to any other."""

import time
from collections.abc import Mapping
from typing import Any

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import as_sent, ask, in_words, read_restarts, reason_option, told
from sf_healer.commands.reading import job_key, url_option, worker
from sf_healer.commands.scopes import dry_run_option
from sf_healer.commands.shared import NumberRange
from sf_healer.control import RequestRefusedError, person, restart_of
from sf_healer.core.commands import Result
from sf_healer.views.requests import attempts_in_words, attempts_of, verdict_in_words

_ANSWERS = {
    Result.RESTARTED: ExitCode.OK,
    Result.FAILED: ExitCode.ERROR,
    Result.REFUSED: ExitCode.REFUSED,
    Result.WOULD_RESTART: ExitCode.REFUSED,
}


@click.command()
@click.argument("job")
@reason_option("Why; it is kept with the restart.")
@click.option(
    "--wait",
    "wait_seconds",
    type=NumberRange(min=0),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Wait up to S seconds for the outcome; 0 returns once the request is acknowledged.",
)
@click.option(
    "--even-if-ended", is_flag=True, help="Run a Job again that has finished, or that its user stopped or is stopping."
)
@dry_run_option
@url_option
def command(
    *, job: str, reason: str, wait_seconds: float, even_if_ended: bool, dry_run: bool, url: str | None
) -> ExitCode:
    """Have JOB (a name, or namespace/name) deleted and created again; it need not be sick.

    How it is judged and how many attempts it has used is told first. A Job that has ended, or was just told to stop, is
    refused without --even-if-ended; one that is suspended, exempt or gone always. Admission applies, but for the
    quarantine and the back-off of the Job itself. Exit code 4 when it is refused, or when mode = observe touches
    nothing; 1 when the restart failed, or no answer came in time.
    """
    asked, settings = worker(url)
    page = asked.read_job(job_key(job, settings))
    try:
        restarts, problem = read_restarts(asked), ""
    except ConnectionError as untold:  # the detector answers for itself
        restarts, problem = None, str(untold)
    try:
        request = restart_of(page, reason=reason, by=person(), now=_log_time(restarts), even_if_ended=even_if_ended)
    except RequestRefusedError as refused:
        say(str(refused))
        return ExitCode.REFUSED
    say(verdict_in_words(page))
    if restarts is None:
        say(f"how many attempts it has used cannot be told: {problem}")
    else:
        say(attempts_in_words(attempts_of(request.key, page, restarts)))
    value = as_sent(request)
    if dry_run:
        click.echo(value)
        say(f"would be asked for: a restart of {request.key}, uid {request.uid}")
        return ExitCode.OK
    answer = ask(settings, request, wait_seconds=wait_seconds)
    return told(
        answer,
        request.key,
        wait_seconds=wait_seconds,
        sent="asked for",
        code_of=_ANSWERS.__getitem__,
        words=in_words,
    )


def _log_time(restarts: Mapping[str, Any] | None) -> float:
    """Give the time of the steps log, by which a request is expired or not; else this machine's."""
    at: float | None = restarts["admission"]["at"] if restarts is not None else None
    return at or time.time()
