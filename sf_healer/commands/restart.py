"""`sf-healer restart JOB`: ask for a restart; admission answers as to any other."""

import time
from typing import Any

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import ask, in_words, told
from sf_healer.commands.reading import Worker, job_key, url_option, worker
from sf_healer.commands.scopes import dry_run_option
from sf_healer.control import RequestRefusedError, person, restart_of
from sf_healer.core.commands import Result, encode

_ANSWERS = {
    Result.RESTARTED: ExitCode.OK,
    Result.FAILED: ExitCode.ERROR,
    Result.REFUSED: ExitCode.REFUSED,
    Result.WOULD_RESTART: ExitCode.REFUSED,
}


@click.command()
@click.argument("job")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept with the restart.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Wait so long for the answer; 0: only until the request is safe.",
)
@dry_run_option
@url_option
def command(*, job: str, reason: str, wait_seconds: float, dry_run: bool, url: str | None) -> ExitCode:
    """Have JOB (a name, or namespace/name) deleted and created again, whatever its verdict.

    Admission applies, but for the quarantine and the back-off of the Job itself. Exit code 4 when it is refused, or
    when mode = observe touches nothing; 1 when the restart failed, or no answer came in time.
    """
    asked, settings = worker(url)
    page = asked.read_job(job_key(job, settings))
    try:
        request = restart_of(page, reason=reason, by=person(), now=_log_time(asked))
    except RequestRefusedError as problem:
        say(str(problem))
        return ExitCode.REFUSED
    if dry_run:
        click.echo(encode(request))
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


def _log_time(asked: Worker) -> float:
    """Give the time of the steps log, by which a request is expired or not; else this machine's."""
    try:
        valve: dict[str, Any] | None = asked.read("/actions/")["admission"]
    except ConnectionError:
        valve = None
    return (valve or {}).get("at") or time.time()
