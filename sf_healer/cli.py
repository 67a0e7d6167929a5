"""The command `sf-healer`: the group, the exit codes, and how an error becomes one.

To add a command: write `sf_healer/commands/NAME.py` with a click command called `command`, and add one line
to COMMANDS. The module is imported when the command is called, so that `--help` stays fast; its own imports
may be as heavy as they need to be. A command

- prints data with `emit` (stdout) and talks with `say` (stderr);
- gets its settings from `settings_for_a_command`, before it connects anywhere;
- returns an ExitCode (None is OK), and lets SettingsError and ConnectionError pass: `run` turns them into
  codes. What a person did wrong is a click.UsageError, what went wrong otherwise a click.ClickException.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Any

import click
import msgspec
from click.shell_completion import CompletionItem

from sf_healer import __version__
from sf_healer.settings import LogLevel, Settings, SettingsError, load

# name -> what `sf-healer --help` says of it; the code is sf_healer/commands/NAME.py
COMMANDS: Mapping[str, str] = {
    "demo": "Show it: five Jobs on this machine, two of them sick.",
    "worker": "Run the healer.",
    "jobs": "List the Jobs with their verdicts.",
    "job": "Show everything known of one Job, and why it is, or is not, restarted.",
    "actions": "List restarts under way and lately.",
    "fleet": "Count the Jobs, and show what holds restarts back.",
    "pause": "Restart nothing in a scope, for a while or until resumed.",
    "resume": "End a pause; of one Job also its quarantine.",
    "restart": "Ask for the restart of a Job; admission applies.",
    "resolve": "Decide about a restart that waits for a person.",
    "skip": "Have a Job left alone, by its annotation.",
    "unskip": "Watch a Job again that was left alone.",
    "replay": "Run a capture through the decisions, without Kafka.",
    "policy": "Check a policy file, and see which policy each Job gets.",
    "doctor": "Check all that a worker needs: versions, Kafka, Kubernetes, rights, clocks.",
    "topics": "Show or create the topics sf-healer needs.",
    "settings": "Show the settings this environment makes.",
    "metrics": "List the metrics of a worker.",
    "log-events": "List the events of the logs.",
    "feed": "Send a capture to a broker, in its own time or faster.",
    "capture": "Record a topic as a capture.",
    "dead-letters": "Show what could not be read, and why.",
    "chaos": "Run chaos experiments, with Litmus or without, and check their files.",
    "completion": "Print the script that completes commands in bash, zsh or fish.",
}


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    ERROR = 1
    USAGE = 2  # a wrong argument or setting
    NO = 3  # the answer is no: sick Jobs found, truth does not hold, topics differ
    REFUSED = 4
    UNREACHABLE = 5  # no broker, cluster or worker
    INTERRUPTED = 130


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Name the commands, for completion."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sf_healer.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing them: click's own way takes seconds for a Tab."""
        named = [CompletionItem(name, help=told) for name, told in COMMANDS.items() if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode) + ".",
)
@click.version_option(__version__, prog_name="sf-healer", message="%(prog)s %(version)s")
def cli() -> None:
    """Find StreamForge Jobs that are stuck or failed, and restart them.

    Settings come from SF_HEALER_* (see `sf-healer settings`). Data goes to stdout, the rest to stderr.
    """


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(Output, case_sensitive=False),
    default=Output.TABLE,
    show_default=True,
    help="How to print.",
)


def emit(data: Any, output: Output, *, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print data to stdout: as it is in JSON or YAML, or its rows as a table."""
    data = msgspec.to_builtins(data)
    match output:
        case Output.JSON:
            import json  # noqa: PLC0415  not needed for --help

            click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        case Output.YAML:
            import yaml  # noqa: PLC0415  not needed for --help

            click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
        case Output.TABLE:
            _print_table(columns, rows)


def say(message: str) -> None:
    """Talk to the person at the terminal: stderr."""
    click.echo(message, err=True)


def settings_for_a_command() -> Settings:
    """Load the settings of this environment and let only warnings through to the terminal.

    Raises SettingsError.
    """
    from sf_healer.adapters import logs  # noqa: PLC0415  not needed for --help

    settings = load(os.environ)
    logs.configure(max(settings.log_level, LogLevel.WARNING, key=_SEVERITY.index))
    return settings


def run(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run one command and give its exit code; everything expected that went wrong is one line on stderr."""
    try:
        result = cli.main(args=arguments, prog_name="sf-healer", standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        return ExitCode(problem.exit_code)
    except SettingsError as problem:
        say(f"Error: {problem}")
        return ExitCode.USAGE
    except ConnectionError as problem:
        say(f"Error: {problem}")
        return ExitCode.UNREACHABLE
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted.")
        return ExitCode.INTERRUPTED
    return ExitCode(result or ExitCode.OK)


def main() -> None:
    """Be the console script."""
    sys.exit(run())


def terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal that may be drawn on."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def drawn(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """Draw a table for rich; a cell is text as it is, no markup."""
    from rich.table import Table  # noqa: PLC0415  not needed for --help
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # a name that is cut cannot be copied
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console  # noqa: PLC0415  not needed for --help

    table = drawn(columns, rows)
    if terminal(sys.stdout):
        Console().print(table)  # NO_COLOR is rich's own business
        return
    # In a pipe nothing is cut or wrapped: another program reads it.
    console = Console(width=_NO_WRAP_WIDTH)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


_NO_WRAP_WIDTH = 10_000
_SEVERITY = list(LogLevel)  # in the order of the enum
