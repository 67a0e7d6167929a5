"""`sf-healer unskip JOB`: watch a Job again that `skip` left alone."""

import click

from sf_healer.cli import ExitCode
from sf_healer.commands.scopes import dry_run_option
from sf_healer.commands.skip import annotate


@click.command()
@click.argument("job")
@dry_run_option
def command(*, job: str, dry_run: bool) -> ExitCode:
    """Remove the annotation that `skip` put on JOB (a name, or namespace/name)."""
    return annotate(job, None, dry_run=dry_run)
