"""`sf-healer completion`: the script that lets a shell complete our commands and options; click writes it."""

import click
from click.shell_completion import get_completion_class

from sf_healer.cli import cli

#: The shells that click knows.
SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "sf-healer"
#: What click looks for to be asked, made of the program's name (click's own rule).
_VARIABLE = "_SF_HEALER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(*, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    bash: eval "$(sf-healer completion bash)" in ~/.bashrc. docs/operations.md has the others.
    """
    completion = get_completion_class(shell)
    assert completion is not None  # click has these three
    click.echo(completion(cli, {}, _PROGRAM, _VARIABLE).source())
