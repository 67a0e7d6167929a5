"""The command line of the lab's Kafka, for people and for `make lab`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tests.lab import command_line
from tests.lab.kafka import LONG_LIVED, VERSION, KafkaCluster
from tests.lab.kafka import install as install_version
from tests.lab.kafka import missing as missing_reason
from tests.lab.kafka.classes import archive
from tests.lab.kafka.installation import archive_of, installed_at

if TYPE_CHECKING:
    from pathlib import Path

BROKERS_OF_MODE = {"single": 1, "three": 3}
version_option = click.option("--version", default=VERSION, show_default=True)


@click.group()
def main() -> None:
    """Real Apache Kafka on loopback, for the tests that want it and for trying things by hand."""


@main.command()
@version_option
def install(version: str) -> None:
    """Fetch the jars from Maven Central and load their classes once, unless they are there."""
    click.echo(f"Apache Kafka {version} ...")
    command_line.print_installed(lambda: install_version(version), lambda: installed_at(version))
    command_line.print_installed(lambda: archive(version), lambda: archive_of(version))


@main.command()
@version_option
def missing(version: str) -> None:
    """Say what is missing to start brokers; exit status 1 if anything is."""
    command_line.print_missing(missing_reason(version))


@main.command()
@click.argument("mode", type=click.Choice(list(BROKERS_OF_MODE)), default="single")
@click.option("--user", "users", multiple=True, metavar="NAME=PASSWORD", help="Listen for this user too, with TLS.")
@command_line.directory_option
@version_option
def up(mode: str, users: tuple[str, ...], directory: Path, version: str) -> None:
    """Start one broker or three and print their addresses; with users, those of the listeners for them as well."""
    try:
        cluster = command_line.up(
            directory,
            lambda: KafkaCluster.start(
                brokers=BROKERS_OF_MODE[mode],
                directory=directory,
                users=dict(user.split("=", 1) for user in users),
                version=version,
                outlives_us=True,
                java_options=LONG_LIVED,
            ),
        )
    except RuntimeError as failure:
        raise click.ClickException(str(failure)) from failure
    click.echo(cluster.bootstrap)
    if users:
        click.echo(f"SASL_SSL, SCRAM-SHA-512: {cluster.secure_bootstrap} (CA: {cluster.ca_file})")


main.add_command(command_line.down)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.kafka")
