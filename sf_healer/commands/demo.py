"""`sf-healer demo`: the main job shown on this machine."""

import signal
from pathlib import Path

import click

from sf_healer.cli import ExitCode
from sf_healer.commands.shared import refuse_special


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, to look around; Ctrl-C ends it.")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write there what `sf-healer` in another shell needs to ask this demo; removed at the end.",
)
def command(*, keep: bool, env_file: Path | None) -> ExitCode:
    """Start a small broker and cluster, five Jobs and the worker, and watch two sick Jobs healed.

    Exit status 0 if exactly those two were restarted and are well again, 3 if not.
    """
    from sf_healer import demo  # noqa: PLC0415  only where the embedded broker is installed
    from sf_healer.local.broker import BrokerFailed, BrokerNotInstalled  # noqa: PLC0415

    if env_file is not None:
        refuse_special(env_file)
        if not demo.may_replace(env_file):
            raise click.UsageError(f"{env_file} exists, and no demo wrote it")
    # Also where a shell started us with SIGINT ignored, and for a plain `kill`: everything we started must end.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        return ExitCode.OK if demo.run(keep=keep, env_file=env_file) else ExitCode.NO
    except (demo.DemoFailed, BrokerFailed, BrokerNotInstalled) as failed:
        raise click.ClickException(str(failed)) from None
