"""The command line of the lab's browser, for `make lab`."""

from __future__ import annotations

import click

from tests.lab import command_line
from tests.lab.browser import axe, program
from tests.lab.browser import install as fetch
from tests.lab.browser import missing as missing_reason


@click.group()
def main() -> None:
    """Chromium and axe-core, for the tests of pages."""


@main.command()
def install() -> None:
    """Fetch axe-core, unless it is there; Chromium is the machine's."""
    click.echo("Browser ...")
    command_line.print_installed(fetch, lambda: f"{axe().parent}; Chromium: {program() or 'not installed'}")


@main.command()
def missing() -> None:
    """Say what is missing; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


if __name__ == "__main__":
    main()
