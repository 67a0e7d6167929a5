"""The command line of the lab's Prometheus, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.prometheus import install as unpack
from tests.lab.prometheus import missing as missing_reason
from tests.lab.prometheus import program


@click.group()
def main() -> None:
    """Prometheus and promtool, for the tests of alert rules and dashboards."""


@main.command()
def install() -> None:
    """Fetch Debian's package and unpack it, unless it is there."""
    click.echo("Prometheus ...")
    command_line.print_installed(unpack, lambda: program("prometheus").parent)


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main()
