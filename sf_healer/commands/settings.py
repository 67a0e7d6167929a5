"""`sf-healer settings`: what a process in this environment would use, secrets masked."""

import os

import click

from sf_healer.cli import Output, emit, output_option
from sf_healer.commands.shared import markdown_option
from sf_healer.settings import FIELDS, load, markdown


@click.command()
@output_option
@markdown_option("docs/settings.md")
def command(*, output: Output, as_markdown: bool) -> None:
    """Show the settings this environment makes; a wrong one is named, with exit code 2."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    shown = load(os.environ).shown()
    given = {field.name: "environment" if os.environ.get(field.name) else "default" for field in FIELDS}
    emit(
        {name: {"value": value, "from": given[name]} for name, value in shown.items()},
        output,
        columns=("SETTING", "VALUE", "FROM"),
        rows=((name, "" if value is None else value, given[name]) for name, value in shown.items()),
    )
