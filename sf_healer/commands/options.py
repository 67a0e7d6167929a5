"""Options that several commands have, and what their values mean."""

from collections.abc import Callable

import click
import msgspec

from sf_healer.commands.shared import F
from sf_healer.control import parse_duration
from sf_healer.settings import Settings, bootstrap_servers

bootstrap_option = click.option("--bootstrap", metavar="HOST:PORT,...", help="Brokers; default: SF_HEALER_BROKER_URL.")


def topic_option(told: str) -> Callable[[F], F]:
    """Ask for a topic in the place of that of the settings."""
    return click.option("--topic", help=f"{told}; default: SF_HEALER_SOURCE_TOPIC.", callback=_named)


def _named(_context: click.Context, _option: click.Parameter, topic: str | None) -> str | None:
    if topic is not None and not topic.strip():
        raise click.BadParameter("it has no name")
    return topic


#: Of what lies on a topic.
since_option = click.option(
    "--since", default="24h", show_default=True, metavar="DURATION", help="Of the last 90s, 30m, 12h, 2d, …."
)


def with_bootstrap(settings: Settings, bootstrap: str | None) -> Settings:
    """Point the settings at the brokers of the command line, if it names some."""
    if bootstrap is None:
        return settings
    try:
        servers = bootstrap_servers(bootstrap)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--bootstrap") from problem
    return msgspec.structs.replace(settings, broker_url=f"kafka://{','.join(servers)}")


def seconds_of(duration: str, *, option: str) -> float:
    """Read the duration that an option was given; raises click.BadParameter."""
    try:
        return parse_duration(duration)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint=option) from None
