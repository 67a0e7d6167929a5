"""The command line of the lab's Argo Rollouts, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.argo import ARGO_ROLLOUTS_VERSION, installation
from tests.lab.argo import missing as missing_reason


@click.group()
def main() -> None:
    """The rollouts controller, its rules as a program, and CRDs, for the tests of argo/."""


@main.command()
def install() -> None:
    """Build them from Go modules, unless they are there."""
    click.echo(f"Argo Rollouts {ARGO_ROLLOUTS_VERSION} (minutes when Go's build cache is empty) ...")
    command_line.print_installed(installation.install, installation.directory, done="built")


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main(prog_name="python -m tests.lab.argo")
