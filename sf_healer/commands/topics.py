"""`sf-healer topics`: the topics sf-healer needs, as they are and as they should be."""

import asyncio
from typing import Any

import click

from sf_healer.adapters import kafka
from sf_healer.cli import ExitCode, Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.shared import NumberRange, markdown_option
from sf_healer.formats import markdown
from sf_healer.rights import Purpose, kafka_user
from sf_healer.settings import Settings
from sf_healer.topics import Owner, State, Status, compare, kafka_topics, platform_specs, present, specs


@click.command()
@click.option("--create", is_flag=True, help="Create those of ours that are missing.")
@click.option("--create-platform", is_flag=True, help="Create the platform's topics too; for a broker of your own.")
@click.option(
    "--wait-seconds",
    type=NumberRange(min=0),
    default=kafka.COMMAND_PATIENCE_SECONDS,
    show_default=True,
    metavar="S",
    help="Wait up to S seconds for a broker that does not answer.",
)
@click.option(
    "--kafka-user",
    "purpose",
    type=click.Choice(Purpose, case_sensitive=False),
    help="Print the Kafka user with the least rights for this, as Strimzi takes it, and do nothing else.",
)
@click.option(
    "--kafka-topics",
    "only_manifests",
    is_flag=True,
    help="Print every topic of ours as Strimzi takes it, and do nothing else.",
)
@markdown_option("docs/topics.md")
@output_option
def command(
    *,
    create: bool,
    create_platform: bool,
    wait_seconds: float,
    purpose: Purpose | None,
    only_manifests: bool,
    as_markdown: bool,
    output: Output,
) -> ExitCode:
    """Show the topics; exit code 3 when one is missing or differs. Nothing that exists is changed."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return ExitCode.OK
    settings = settings_for_a_command()
    if purpose is not None:
        click.echo(kafka_user(settings, purpose), nl=False)
        return ExitCode.OK
    if only_manifests:
        click.echo(kafka_topics(settings), nl=False)
        return ExitCode.OK
    try:
        statuses = asyncio.run(
            _look(settings, create=create, create_platform=create_platform, wait_seconds=wait_seconds)
        )
    except kafka.BrokerRefusedError as refused:
        raise click.ClickException(str(refused)) from refused
    emit(
        [_plain(status) for status in statuses],
        output,
        columns=("TOPIC", "STATE", "PARTITIONS", "REPLICAS"),
        rows=[_row(status) for status in statuses],
    )
    if output is Output.TABLE:  # the other forms carry the notes; a table would break their commands apart
        for status in statuses:
            for note in _notes(status):
                say(f"{status.spec.name} {note}")
    return ExitCode.OK if all(status.state is State.OK for status in statuses) else ExitCode.NO


async def _look(settings: Settings, *, create: bool, create_platform: bool, wait_seconds: float) -> tuple[Status, ...]:
    async with kafka.admin(settings, patience_seconds=wait_seconds) as admin:
        brokers = await admin.broker_count()
        ours, platform = specs(settings, brokers), platform_specs(settings, brokers)
        found = await admin.describe(
            [spec.name for spec in (*ours, *platform)], without_configs=[spec.name for spec in platform]
        )
        wanted = (ours if create else ()) + (platform if create_platform else ())
        missing = [spec for spec in wanted if spec.name not in found]
        if missing:
            await admin.create(missing)
            found |= await admin.describe([spec.name for spec in missing])
    return compare(ours, found, ",".join(settings.bootstrap_servers)) + present(platform, found)


def _plain(status: Status) -> dict[str, Any]:
    return {
        "topic": status.spec.name,
        "state": status.state.value,
        "partitions": status.found and status.found.partitions,
        "replication_factor": status.found and status.found.replication_factor,
        "notes": _notes(status),
    }


def _row(status: Status) -> tuple[object, ...]:
    plain = _plain(status)
    return (
        plain["topic"],
        plain["state"],
        plain["partitions"] or "",
        plain["replication_factor"] or "",
    )


def _notes(status: Status) -> list[str]:
    if status.state is not State.MISSING:
        return list(status.differences)
    if status.spec.owner is Owner.PLATFORM:
        return ["is missing, and the platform's to make; fix: sf-healer topics --create-platform"]
    return ["is missing; fix: sf-healer topics --create"]
