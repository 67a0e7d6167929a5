"""The command line of the lab's control plane, for people and for `make lab`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tests.lab import command_line
from tests.lab.kube import KUBERNETES_VERSION, ControlPlane, installation
from tests.lab.kube import missing as missing_reason
from tests.lab.waiting import NotInTime

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def main() -> None:
    """A real Kubernetes control plane on loopback, for the tests and for trying things by hand."""


@main.command()
def install() -> None:
    """Build the binary from Go modules, unless it is there."""
    click.echo(f"Kubernetes {KUBERNETES_VERSION} control plane (minutes when Go's build cache is empty) ...")
    command_line.print_installed(installation.install, installation.binary, done="built")


@main.command()
def missing() -> None:
    """Say what is missing to start a control plane; exit status 1 if anything is."""
    command_line.print_missing(missing_reason())


@main.command()
def lock() -> None:
    """Rewrite kubelab/go.mod and go.sum for the versions named in installation.py."""
    try:
        installation.lock()
    except RuntimeError as failure:
        raise click.ClickException(str(failure)) from failure


@main.command()
@command_line.directory_option
def up(directory: Path) -> None:
    """Start a control plane and print how to use kubectl with it."""
    try:
        plane = command_line.up(directory, lambda: ControlPlane.start(directory, outlives_us=True))
    except (RuntimeError, NotInTime) as failure:
        raise click.ClickException(str(failure)) from failure
    click.echo(f"export KUBECONFIG={plane.kubeconfig}")
    click.echo(f"alias kubectl='{installation.binary()} kubectl'")


main.add_command(command_line.down)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.kube")
