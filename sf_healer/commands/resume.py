"""`sf-healer resume`: end a pause; of one Job also its quarantine."""

import asyncio
import time

import click

from sf_healer.adapters.kafka import BrokerRefusedError
from sf_healer.cli import ExitCode, say, settings_for_a_command
from sf_healer.commands.scopes import dry_run_option, scope_of, scope_options
from sf_healer.control import RequestRefusedError, person, send_control
from sf_healer.core.commands import Resume, encode


@click.command()
@scope_options
@click.option("--reason", default="", metavar="TEXT", help="Why.")
@dry_run_option
def command(
    *, all_jobs: bool, job: str | None, queue: str | None, target: str | None, reason: str, dry_run: bool
) -> ExitCode:
    """End the pause of a scope; --all ends the pause of all Jobs, not those of single queues or targets.

    With --job it also ends the quarantine of that Job.
    """
    settings = settings_for_a_command()
    scope = scope_of(settings, all_jobs=all_jobs, job=job, queue=queue, target=target)
    resume = Resume(scope=scope, reason=reason, by=person(), at=time.time())
    if dry_run:
        click.echo(encode(resume))
        say(f"would be resumed: {scope}")
        return ExitCode.OK
    try:
        asyncio.run(send_control(settings, resume))
    except (RequestRefusedError, BrokerRefusedError) as problem:
        raise click.ClickException(str(problem)) from None
    say(f"resumed: {scope}")
    return ExitCode.OK
