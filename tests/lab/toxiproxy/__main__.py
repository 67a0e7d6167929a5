"""The command line of the toxiproxy lab, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.toxiproxy import directory
from tests.lab.toxiproxy import install as build
from tests.lab.toxiproxy import missing as missing_reason


@click.group()
def main() -> None:
    """Toxiproxy, for the chaos experiments that make the network slow."""


@main.command()
def install() -> None:
    """Build it, unless it is there."""
    click.echo("toxiproxy ...")
    command_line.print_installed(build, directory)


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main()
