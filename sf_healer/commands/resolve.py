"""`sf-healer resolve JOB…`: decide about restarts that stopped half way and ask for a person."""

import time

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import as_sent, ask, in_words, told
from sf_healer.commands.reading import Worker, job_key, url_option, worker
from sf_healer.commands.scopes import dry_run_option
from sf_healer.commands.shared import NumberRange
from sf_healer.control import RequestRefusedError, person, resolve_of
from sf_healer.core.commands import Decision, Result
from sf_healer.settings import Settings

#: What a decision is meant to end with.
_MEANT = {Decision.CREATE: Result.RESTARTED, Decision.ABANDON: Result.FAILED}


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--create", "decision", flag_value="create", help="Create the Job again from the manifest that was kept.")
@click.option(
    "--abandon",
    "decision",
    flag_value="abandon",
    help="Close the restart and forget the manifest. What there is now stays, and if that is nothing, nothing comes.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=NumberRange(min=0),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Wait up to S seconds for the outcome of each; 0 returns once the request is acknowledged.",
)
@dry_run_option
@url_option
def command(
    *, jobs: tuple[str, ...], decision: str | None, wait_seconds: float, dry_run: bool, url: str | None
) -> ExitCode:
    """Decide about the restart of each JOB (a name, or namespace/name) that waits for a person.

    `sf-healer actions --open` shows which do. Look first whether the Job has run to its end meanwhile: --create has it
    run again. Exit code 4 where there is nothing to decide, 1 when a Job was created and gave no sign of life, or when
    no answer came in time.
    """
    if decision is None:
        raise click.UsageError("give --create or --abandon")
    asked, settings = worker(url)
    decided = Decision(decision)
    keys = [job_key(job, settings) for job in jobs]  # all of them before the first is decided
    codes = [_resolve(asked, settings, key, decided, wait_seconds=wait_seconds, dry_run=dry_run) for key in keys]
    return max(codes)


def _resolve(
    asked: Worker, settings: Settings, key: str, decision: Decision, *, wait_seconds: float, dry_run: bool
) -> ExitCode:
    record = asked.read("/actions/")["actions"].get(key)
    try:
        resolve = resolve_of(key, record, decision, by=person(), now=time.time())
    except RequestRefusedError as problem:
        say(str(problem))
        return ExitCode.REFUSED
    value = as_sent(resolve)
    if dry_run:
        click.echo(value)
        say(f"would be decided: {decision} {key}")
        return ExitCode.OK
    answer = ask(settings, resolve, wait_seconds=wait_seconds)
    return told(
        answer,
        key,
        wait_seconds=wait_seconds,
        sent="decided",
        code_of=lambda result: ExitCode.OK if result is _MEANT[decision] else ExitCode.ERROR,
        words=lambda outcome: f"{key}: {in_words(outcome)}",
    )
