"""`sf-healer worker`: run the agents until told to stop."""

import os
from pathlib import Path

import click

from sf_healer.adapters.threads import leave
from sf_healer.commands.shared import read_policies
from sf_healer.settings import PREFIX, Role, load


@click.command()
@click.option("--role", type=click.Choice(Role, case_sensitive=False), help="Which apps; default: SF_HEALER_ROLE.")
def command(role: Role | None) -> None:
    """Run the healer: detector and actuator, or one of them.

    A wrong setting or policy ends it before it connects anywhere. A broker, topic or cluster that is missing
    does not: it says so, answers /readyz with the reasons, and tries again.
    """
    if role is not None:
        os.environ[f"{PREFIX}ROLE"] = role.value
    settings = load(os.environ)
    read_policies(Path(settings.policy_file) if settings.policy_file else None, setting=f"{PREFIX}POLICY_FILE")
    from sf_healer import worker  # noqa: PLC0415  registers the agents, so only with settings that hold

    leave(worker.run(settings))
