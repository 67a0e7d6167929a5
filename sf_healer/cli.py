"""The command `sf-healer`: the group, the exit codes, and how an error becomes one.

To add a command: write `sf_healer/commands/NAME.py` with a click command called `command`, and add one line
to COMMANDS. The module is imported when the command is called, so that `--help` stays fast; its own imports
may be as heavy as they need to be. A command

- prints data with `emit` (stdout) and talks with `say` (stderr), a line at a time: both escape what would do more
  to a terminal than be read;
- gets its settings from `settings_for_a_command`, before it connects anywhere;
- returns an ExitCode (None is OK), and lets SettingsError and ConnectionError pass: `run` turns them into
  codes. What a person did wrong is a click.UsageError, what went wrong otherwise a click.ClickException.
"""

import errno
import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from click.shell_completion import CompletionItem

from sf_healer import __version__
from sf_healer.core.wire import printable
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
    "skip": "Annotate a Job so that it is never restarted.",
    "unskip": "Remove that annotation.",
    "replay": "Run a capture through the decisions, without Kafka.",
    "policy": "Check a policy file, and see which policy each Job gets.",
    "doctor": "Check all that a worker needs: versions, Kafka, Kubernetes, rights, clocks.",
    "topics": "Show or create the topics sf-healer needs.",
    "settings": "Show the settings this environment makes.",
    "verdicts": "List the verdicts and the rules behind them.",
    "metrics": "List the metrics of a worker.",
    "log-events": "List the events of the logs.",
    "feed": "Send a capture to a broker, at its recorded pace or faster.",
    "capture": "Record a topic as a capture.",
    "outcomes": "Show the outcome of every command, refusals included (reads Kafka).",
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


class Fit(NamedTuple):
    """How a table is made to fit a terminal: what must stay whole, and what may be left out, the first first."""

    whole: frozenset[str] = frozenset()  # columns whose cells are never wrapped: a name must be copied in one piece
    droppable: tuple[str, ...] = ()


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; a word that is none is answered with the nearest ones."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(nearest(args[0], COMMANDS))
            ctx.fail(f"No such command {args[0]!r}{'; ' if hint else '.'}{hint}")
        return super().resolve_command(ctx, args)

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
    default=Output.TABLE.value,  # by its value, as it is written: click would show an enum's own name
    show_default=True,
    help="How to print.",
)


def emit(
    data: Any,
    output: Output,
    *,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    fit: Fit = Fit(),  # noqa: B008  frozen
) -> None:
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
            _print_table(columns, [tuple(map(str, row)) for row in rows], fit)


def say(line: str) -> None:
    """Talk to the person at the terminal, in one line: stderr."""
    click.echo(printable(line), err=True)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Give the known words, at most three, that a mistyped one is likely to mean.

    Those that have it in them come first, and those that it begins with: a Pod is named after its Job.
    """
    import difflib  # noqa: PLC0415  not needed for --help

    by_case = {each.casefold(): each for each in known}
    asked = word.casefold()
    near = [each for each in by_case if asked in each or asked.startswith(f"{each}-")]
    near = sorted(near, key=len)[:_MOST_HINTS] or difflib.get_close_matches(asked, by_case, n=_MOST_HINTS)
    return [by_case[each] for each in near]


def did_you_mean(words: Sequence[str]) -> str:
    """Ask whether one of these was meant; nothing where there is none."""
    if not words:
        return ""
    *others, last = words
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


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
        problem.message = _printable_lines(problem.message)
        problem.show()
        return ExitCode(problem.exit_code)
    except SettingsError as problem:
        click.echo(_printable_lines(f"Error: {problem}"), err=True)
        return ExitCode.USAGE
    except ConnectionError as problem:
        say(f"Error: {problem}")
        return ExitCode.UNREACHABLE
    except OSError as problem:
        if problem.errno not in _NOT_WRITTEN:
            raise
        _drop_unwritten()
        say(f"Error: not everything could be written: {problem}")
        return ExitCode.ERROR
    except (Exception, KeyboardInterrupt) as problem:
        if not _was_interrupted(problem):
            raise
        say("Interrupted.")
        return ExitCode.INTERRUPTED
    return ExitCode(result or ExitCode.OK)


def _printable_lines(message: str) -> str:
    """Escape what an error quotes; one of a parser has lines."""
    return "\n".join(map(printable, message.split("\n")))


def _was_interrupted(problem: BaseException) -> bool:
    """Return whether it was Ctrl-C; pydantic, while it builds a validator, makes of it a SchemaError that ends so."""
    return isinstance(problem, click.Abort | KeyboardInterrupt) or str(problem).rstrip().endswith("KeyboardInterrupt:")


def _drop_unwritten() -> None:
    """Drop what stdout cannot write: Python would try again at its end, and end with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run as the console script; a stream closed before start-up is replaced by /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  for as long as the process lives
    # numpy's linear algebra, which nobody here asks for, would start a thread for each core of the node
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run())


def terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal that may be drawn on."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def kept_columns(
    columns: Sequence[str], rows: Sequence[Sequence[object]], fit: Fit, width: int
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Leave out columns that may be, until the others fit into the width with a word of each cell on a line."""
    for name in fit.droppable:
        if least_width(columns, rows, fit) <= width or name not in columns:
            continue
        number = columns.index(name)
        columns = [*columns[:number], *columns[number + 1 :]]
        rows = [[*row[:number], *row[number + 1 :]] for row in rows]
    return columns, rows


def least_width(columns: Sequence[str], rows: Sequence[Sequence[object]], fit: Fit) -> int:
    """Say how narrow a table can be drawn, in characters: words and what must be whole are not broken."""
    return sum(_least_widths(columns, rows, fit.whole)) + len(columns) - 1


def _least_widths(columns: Sequence[str], rows: Sequence[Sequence[object]], whole: AbstractSet[str]) -> list[int]:
    cells = [[str(row[number]) for row in rows] for number in range(len(columns))]
    pieces = [
        [name, *(piece for cell in told for piece in ([cell] if name in whole else cell.split()))]
        for name, told in zip(columns, cells, strict=True)
    ]
    return [max(map(len, each)) for each in pieces]


def drawn(columns: Sequence[str], rows: Iterable[Sequence[object]], *, fit: Fit = Fit(), is_tight: bool = False) -> Any:  # noqa: B008  frozen
    """Draw a table for rich; a cell is text as it is, no markup. `is_tight`: with one blank between columns."""
    from rich.table import Table  # noqa: PLC0415  not needed for --help
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=is_tight)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in fit.whole)  # a name that is cut cannot be copied
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return table


def drawn_for(width: int, columns: Sequence[str], rows: Sequence[Sequence[object]], fit: Fit) -> tuple[Any, int]:
    """Draw a table for a terminal of that width; gives also the width it needs, should that be more."""
    if not fit.whole:
        return drawn(columns, rows), width
    in_words, in_whole = (_least_widths(columns, rows, whole) for whole in (fit.whole, frozenset(columns)))
    is_tight = sum(in_whole) + 2 * (len(columns) - 1) > width
    # Where room is short, columns of sentences give way, and those of single words stay as they are.
    of_words = {name for name, least, most in zip(columns, in_words, in_whole, strict=True) if least == most}
    table = drawn(columns, rows, fit=Fit(fit.whole | of_words), is_tight=is_tight)
    return table, max(width, least_width(columns, rows, fit))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], fit: Fit) -> None:
    from rich.console import Console  # noqa: PLC0415  not needed for --help

    if terminal(sys.stdout):
        table, width = drawn_for(Console().width, columns, rows, fit)
        Console(width=width).print(table)  # NO_COLOR is rich's own business
        return
    # In a pipe nothing is cut or wrapped: another program reads it.
    console = Console(width=_NO_WRAP_WIDTH)
    with console.capture() as captured:
        console.print(drawn(columns, rows))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


#: The disk behind stdout, or behind a file, is full or broken. A reader that has gone is click's business.
_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_NO_WRAP_WIDTH = 10_000
_MOST_HINTS = 3
_SEVERITY = list(LogLevel)  # in the order of the enum
