"""The command line of the lab's CRDs, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.crds import install as write
from tests.lab.crds import installation
from tests.lab.crds import missing as missing_reason


@click.group()
def main() -> None:
    """The CRDs of Strimzi and prometheus-operator, for the tests of the manifests."""


@main.command()
def install() -> None:
    """Write them into the cache, unless they are there."""
    click.echo("CRDs ...")
    command_line.print_installed(write, installation.directory)


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main()
