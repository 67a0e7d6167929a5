"""What the lab's command lines share: setting up, what is missing, servers that stay until another shell ends them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import click
import msgspec

from tests.lab.process import Recorded, end_recorded

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = "processes.json"

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    required=True,
    help="Where data, logs and the processes' ids are kept.",
)


class Started(Protocol):
    """Something whose processes can be written down."""

    def recorded(self) -> tuple[Recorded, ...]:
        """Give the processes."""


StartedT = TypeVar("StartedT", bound=Started)


def up(directory: Path, start: Callable[[], StartedT]) -> StartedT:
    """Start servers that outlive this command, and write their ids into the directory."""
    record = directory / RECORD
    if record.exists():
        raise click.ClickException(f"{record} is there: run `down --dir {directory}` first")
    started = start()
    record.write_bytes(msgspec.json.encode(started.recorded()))
    return started


@click.command()
@directory_option
def down(directory: Path) -> None:
    """End the servers that `up` started in this directory; the data stays."""
    record = directory / RECORD
    if not record.exists():
        raise click.ClickException(f"nothing is up in {directory}")
    end_recorded(msgspec.json.decode(record.read_bytes(), type=list[Recorded]))
    record.unlink()


def of_component(
    summary: str,
    name: str,
    *,
    install: Callable[[], bool],
    where: Callable[[], object],
    missing: Callable[[], str | None],
    done: str = "installed in",
) -> click.Group:
    """Make the command line of a component that has nothing to start: `install` and `missing`."""
    group = click.Group(help=summary)

    @group.command("install")
    def _install() -> None:
        """Set it up in the lab's cache, unless it is there."""
        click.echo(f"{name} ...")
        print_installed(install, where, done=done)

    @group.command("missing")
    def _missing() -> None:
        """Say what is missing; exit status 1 if anything is."""
        print_missing(missing())

    return group


def print_installed(install: Callable[[], bool], where: Callable[[], object], *, done: str = "installed in") -> None:
    """Set a component up unless it is there, and print where it is; `install` says whether it had to be made."""
    try:
        built = install()
    except RuntimeError as failure:
        raise click.ClickException(str(failure)) from failure
    click.echo(f"{done if built else 'is there:'} {where()}")


def print_missing(reason: str | None) -> None:
    """Print why a component cannot be used and exit with 1, or say that nothing is missing."""
    click.echo(reason or "nothing is missing")
    if reason is not None:
        raise click.exceptions.Exit(1)
