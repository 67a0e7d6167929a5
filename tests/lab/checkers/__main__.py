"""The command line of the lab's checkers, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.checkers import directory
from tests.lab.checkers import install as build
from tests.lab.checkers import missing as missing_reason


@click.group()
def main() -> None:
    """The Compose validator and hadolint, for the tests of docker-compose.yml and the Dockerfile."""


@main.command()
def install() -> None:
    """Fetch and build them, unless they are there."""
    click.echo("checkers ...")
    command_line.print_installed(build, directory)


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main()
