"""Reading a worker's pages for people: where the worker is, watching, and how times and ages are written.

Shared by the commands that ask a worker before they print or send something. Any worker answers for all.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote

import click
import msgspec

from sf_healer.adapters.http import (
    WorkerRefusedError,
    WorkerSilentError,
    WorkerUnreachableError,
    get_json,
    is_address,
)
from sf_healer.cli import (
    Fit,
    Output,
    did_you_mean,
    drawn_for,
    emit,
    kept_columns,
    nearest,
    say,
    settings_for_a_command,
    terminal,
)
from sf_healer.commands import pages
from sf_healer.core.wire import printable
from sf_healer.settings import PREFIX, Settings, address_of

URL_VARIABLE = f"{PREFIX}URL"
WATCH_SECONDS = 2.0
_LONGEST_NAME = 253  # characters, of anything in Kubernetes
_NOT_THERE = 404
_NOT_YET = 503
_SHAPES: Mapping[str, type[msgspec.Struct]] = {
    "/jobs/": pages.Jobs,
    "/fleet/": pages.Fleet,
    "/actions/": pages.Actions,
}
_STEPS = frozenset({".", ".."})  # of a path, and no names
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104  where to ask, not to listen


class Reading(StrEnum):
    """How a page is printed; `wide` is a table with more columns."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def output(self) -> Output:
        """The form without regard to columns."""
        return Output.TABLE if self is Reading.WIDE else Output(self.value)


url_option = click.option(
    "--url",
    envvar=URL_VARIABLE,
    show_envvar=True,
    metavar="URL",
    help="URL of any worker; default: the address in this environment's settings.",
)
reading_option = click.option(
    "-o",
    "--output",
    type=click.Choice(Reading, case_sensitive=False),
    default=Reading.TABLE.value,
    show_default=True,
    help="How to print.",
)
watch_option = click.option(
    "-w", "--watch", "watching", is_flag=True, help="Print again whenever it changes, until Ctrl-C."
)


class Worker:
    """A worker that answers over HTTP."""

    def __init__(self, url: str | None, settings: Settings) -> None:
        """Take the given address, else that of the settings; raises click.BadParameter for what is no http address."""
        if url is not None and not url.startswith(("http://", "https://")):
            raise click.BadParameter(f"{url!r} does not begin with http:// or https://", param_hint="--url")
        if url is not None and not is_address(url):
            raise click.BadParameter(f"{url!r} is no address", param_hint="--url")
        self.url = (url or _url_of(settings)).rstrip("/")

    def read(self, page: str) -> Any:
        """Read a page of `_SHAPES` as JSON.

        Raises ConnectionError when no worker answers or none can yet, click.ClickException with the worker's own
        words when it declines, and where what answers is no worker.
        """
        try:
            told = get_json(f"{self.url}{page}")
        except (WorkerUnreachableError, WorkerRefusedError) as problem:
            raise self._told(problem) from problem
        return self._checked(told, _SHAPES[page.partition("?")[0]])

    def _checked(self, told: Any, shape: type[msgspec.Struct]) -> Any:
        """Give what was told, as it is, where it is a page of that shape."""
        try:
            msgspec.convert(told, shape)
        except msgspec.ValidationError as problem:
            what = f"{self.url} answers, and is no worker of sf-healer of this version ({problem})"
            raise click.ClickException(what) from None
        return told

    def _told(self, problem: WorkerUnreachableError | WorkerRefusedError) -> ConnectionError | click.ClickException:
        """Say what went wrong, and what to do about it."""
        match problem:
            case WorkerSilentError():
                return ConnectionError(
                    f"{problem}: something listens there, and it may hang: look at its log, and at {self.url}/livez"
                )
            case WorkerUnreachableError():
                return ConnectionError(f"{problem}; name a worker with --url or {URL_VARIABLE}")
            case WorkerRefusedError():
                return (
                    ConnectionError(str(problem)) if problem.status == _NOT_YET else click.ClickException(str(problem))
                )

    def read_job(self, key: str) -> Any:
        """Read the page of a Job; raises as `read`, and click.ClickException when nobody knows the Job."""
        parts = key.split("/")
        # No object of Kubernetes has such a name. Steps lead to another page, quoted or not.
        if not _STEPS.isdisjoint(parts) or max(map(len, parts)) > _LONGEST_NAME:
            raise self._unknown(key)
        try:
            told = get_json(f"{self.url}/jobs/{'/'.join(_quoted(part) for part in parts)}/")
        except WorkerRefusedError as problem:
            if problem.status == _NOT_THERE:
                raise self._unknown(key) from None
            raise self._told(problem) from problem
        except WorkerUnreachableError as problem:
            raise self._told(problem) from problem
        page = self._checked(told, pages.Job)
        if page["job"] != key:  # whatever became of the address on its way
            raise self._unknown(key)
        return page

    def _unknown(self, key: str) -> click.ClickException:
        return click.ClickException(f"no Job {key} is known; {hint_for(key, self.job_names() or ())}")

    def job_names(self) -> list[str] | None:
        """Name the Jobs that are known, as namespace/name; None where that cannot be told."""
        try:
            return [row["job"] for row in self.read("/jobs/")["jobs"]]
        except (ConnectionError, click.ClickException):
            return None


def worker(url: str | None) -> tuple[Worker, Settings]:
    """Give the worker to ask and the settings of this environment; raises SettingsError, click.BadParameter."""
    settings = settings_for_a_command()
    return Worker(url, settings), settings


def hint_for(key: str, known: Sequence[str]) -> str:
    """Say which Jobs may have been meant by a key that nobody knows, and how to find them."""
    namespace, _, name = key.partition("/")
    others = {each.partition("/")[2]: each for each in known}
    near = [each if others[each].startswith(f"{namespace}/") else others[each] for each in nearest(name, list(others))]
    return " ".join(filter(None, (did_you_mean(near), "`sf-healer jobs` lists those that are")))


def job_key(job: str, settings: Settings) -> str:
    """Complete a Job's name with the namespace of the settings; raises click.BadParameter."""
    namespace, _, name = job.rpartition("/")
    if not name or "/" in namespace:
        raise click.BadParameter(f"{job!r} is neither NAME nor NAMESPACE/NAME", param_hint="JOB")
    return f"{namespace or settings.namespace}/{name}"


def _quoted(part: str) -> str:
    return quote(part, safe="", errors="surrogateescape")  # what the terminal gave may be no text


class Table(NamedTuple):
    """Data, how it is drawn as a table, and what is to be said of it on stderr."""

    data: Any
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()
    fit: Fit = Fit()
    namespace: str = ""  # that of the settings, which completes a name that has none


#: The column of Jobs' names, in every table that has one.
JOB_COLUMN = "JOB"


def for_a_person(table: Table, width: int) -> Table:
    """Make a table fit a terminal: the namespace is told once, what is least needed is left out; both are noted."""
    rows = _without_namespace(table)
    columns, narrow = kept_columns(table.columns, rows, table.fit, width)
    dropped = [name for name in table.columns if name not in columns]
    notes = [] if rows is table.rows else [f"all in namespace {table.namespace}"]
    notes += [f"a wider terminal shows {', '.join(dropped)} too"] if dropped else []
    return table._replace(columns=columns, rows=narrow, notes=[*(["; ".join(notes)] if notes else []), *table.notes])


def _without_namespace(table: Table) -> Sequence[Sequence[object]]:
    """Take the namespace out of the Jobs' names where all are of that of the settings: copied, they name the same."""
    if JOB_COLUMN not in table.columns:
        return table.rows
    number = table.columns.index(JOB_COLUMN)
    if {str(row[number]).partition("/")[0] for row in table.rows} != {table.namespace}:
        return table.rows
    return [(*row[:number], str(row[number]).partition("/")[2], *row[number + 1 :]) for row in table.rows]


def show(table: Table, reading: Reading) -> None:
    """Print a table or its data, and its notes."""
    if reading.output is Output.TABLE and terminal(sys.stdout):
        table = for_a_person(table, _terminal_width())
    emit(table.data, reading.output, columns=table.columns, rows=table.rows, fit=table.fit)
    for note in table.notes:
        say(note)


def watch(make: Callable[[], Table], reading: Reading) -> None:
    """Show a table again whenever it changes, until Ctrl-C; a worker that goes away later is waited for."""
    table = make()
    if reading.output is Output.TABLE and terminal(sys.stdout):
        _watch_on_terminal(make, table)
    show(table, reading)
    while True:
        time.sleep(WATCH_SECONDS)
        newer = _again(make, table)
        if (newer.rows, newer.notes) != (table.rows, table.notes):
            click.echo()
            show(newer, reading)
        table = newer


def _watch_on_terminal(make: Callable[[], Table], table: Table) -> None:
    from rich.console import Group  # noqa: PLC0415  only when drawn
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def picture(table: Table) -> Group:
        width = _terminal_width()
        shown = for_a_person(table, width)
        drawn, _ = drawn_for(width, shown.columns, shown.rows, shown.fit)
        return Group(drawn, *(Text(printable(note), style="yellow") for note in shown.notes))

    with Live(picture(table), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            table = _again(make, table)
            live.update(picture(table), refresh=True)


def _terminal_width() -> int:
    from rich.console import Console  # noqa: PLC0415  only when drawn

    return Console().width


def _again(make: Callable[[], Table], last: Table) -> Table:
    try:
        return make()
    except (ConnectionError, click.ClickException) as problem:
        told = problem.message if isinstance(problem, click.ClickException) else str(problem)
        return last._replace(notes=[f"as it was last told; {told}"])


def _url_of(settings: Settings) -> str:
    if settings.web_advertised_url:
        return settings.web_advertised_url
    return address_of(_ANY_ADDRESS.get(settings.web_host, settings.web_host), settings.web_port)
