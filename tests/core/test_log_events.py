"""The page about log events is the table, and the table is the code: every log call of ours is in it, and no other."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import msgspec
import pytest

from sf_healer.adapters.log_events import EVENTS, Level
from sf_healer.cli import ExitCode, run
from sf_healer.commands.log_events import markdown

ROOT = Path(__file__).parents[2]
SOURCES = [path for room in ("sf_healer", "agents", "tables") for path in sorted((ROOT / room).rglob("*.py"))]
TABLE = {event.name: event for event in EVENTS}
LEVELS = {level.value: level for level in Level} | {"exception": Level.ERROR, "warn": Level.WARNING}
METHODS = {*LEVELS, "log", "msg", "fatal", "dev", "bind", "new", "ainfo", "awarning", "aerror", "adebug"}


class Call(msgspec.Struct, frozen=True):
    """One log call; `level` is None where it is computed."""

    where: str
    level: Level | None
    event: str
    fields: tuple[str, ...]


def is_logger(node: ast.expr) -> bool:
    """Say whether an expression is a logger: `log`, `self.log`, `structlog.get_logger(…)`, `logging.getLogger(…)`."""
    match node:
        case ast.Name(id=name):
            return name in {"log", "logger", "LOG", "LOGGER"}
        case ast.Attribute(attr=name):
            return name in {"log", "logger", "_log", "_logger"}
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in {"get_logger", "getLogger"}
    return False


def log_calls(source: str, name: str) -> list[Call | str]:
    """Find every use of a logger in a source; what cannot be checked is told as a text."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found: list[Call | str] = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and node.attr in METHODS and is_logger(node.value)):
            continue
        where = f"{name}:{node.lineno}"
        call = called.get(id(node))
        found.append(f"{where}: a method of a logger that is not called" if call is None else _read(call, node, where))
    return found


def _read(call: ast.Call, method: ast.Attribute, where: str) -> Call | str:
    computed = method.attr == "log"
    if not computed and method.attr not in LEVELS:
        return f"{where}: .{method.attr} is no level"
    arguments = call.args[1:] if computed else call.args
    match arguments:
        case [ast.Constant(value=str(event))]:
            pass
        case _:
            return f"{where}: the event is not one constant string"
    if any(keyword.arg is None for keyword in call.keywords):
        return f"{where}: fields that are not written out"
    fields = tuple(keyword.arg for keyword in call.keywords if keyword.arg)
    return Call(where, None if computed else LEVELS[method.attr], event, fields)


def faults(found: list[Call | str]) -> list[str]:
    """Say what of the calls is not as the table has it."""
    told = [each for each in found if isinstance(each, str)]
    for call in found:
        if isinstance(call, str):
            continue
        event = TABLE.get(call.event)
        if event is None:
            told.append(f"{call.where}: {call.event!r} is not in the table")
        elif set(call.fields) != set(event.fields):
            told.append(f"{call.where}: {call.event!r} has fields {call.fields}, the table {event.fields}")
        elif call.level is None and len(event.levels) < 2:
            told.append(f"{call.where}: {call.event!r} has a computed level, the table one")
        elif call.level is not None and call.level not in event.levels:
            told.append(f"{call.where}: {call.event!r} is {call.level}, the table says {event.levels}")
    return told


@functools.cache
def all_calls() -> list[Call | str]:
    """Find what our own code logs."""
    return [call for path in SOURCES for call in log_calls(path.read_text(), str(path.relative_to(ROOT)))]


def test_every_log_call_names_an_event_of_the_table_with_its_fields_and_level():
    assert len(all_calls()) > 30, "the walk must find them"
    assert faults(all_calls()) == []


def test_every_event_of_the_table_is_written_somewhere():
    assert {event.name for event in EVENTS} == {call.event for call in all_calls() if isinstance(call, Call)}


def hidden_loggers(source: str) -> list[str]:
    """Find loggers that are neither called `log` nor used where they are made: the walk would not see their calls."""
    nodes = list(ast.walk(ast.parse(source)))
    seen = {id(node.value) for node in nodes if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "log"}
    seen |= {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    return [
        ast.unparse(node) for node in nodes if isinstance(node, ast.Call) and is_logger(node) and id(node) not in seen
    ]


def test_no_logger_hides_from_the_walk():
    assert {str(path): found for path in SOURCES if (found := hidden_loggers(path.read_text()))} == {}
    assert hidden_loggers("talk = structlog.get_logger(__name__)") == ["structlog.get_logger(__name__)"]
    assert hidden_loggers("use(logging.getLogger())") == ["logging.getLogger()"]
    assert hidden_loggers("log = structlog.get_logger(__name__)\nstructlog.get_logger().info('x')") == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("log.info('never_heard_of')", "is not in the table"),
        ("log.info(event)", "is not one constant string"),
        ("log.info(f'restored {n}')", "is not one constant string"),
        ("log.info('restored %d', n)", "is not one constant string"),
        ("log.info('restored', **numbers)", "not written out"),
        ("log.info('restored', records=1)", "has fields"),
        ("log.error('restored', records=1, seconds=2)", "the table says"),
        ("log.log(level, 'restored', records=1, seconds=2)", "computed level"),
        ("say = log.info", "not called"),
        ("self.log.dev('Rebalanced again')", "is no level"),
        ("self.log.info('Restored %d', 1)", "is not one constant string"),
        ("structlog.get_logger().info(event)", "is not one constant string"),
        ("log.bind(job=key).info('restored')", "is no level"),
    ],
)
def test_the_walk_finds_what_is_wrong(source, told):
    assert any(told in fault for fault in faults(log_calls(source, "x.py"))), faults(log_calls(source, "x.py"))


def test_the_walk_takes_what_is_right():
    source = "log.info('restored', seconds=2, records=1)\nlog.exception('worker_crashed')"
    assert faults(log_calls(source, "x.py")) == []
    assert len(log_calls(source, "x.py")) == 2


def test_the_page_about_log_events_is_the_table():
    page = ROOT / "docs" / "log-events.md"
    assert page.read_text() == markdown(), "run: sf-healer log-events --markdown > docs/log-events.md"


def test_every_event_is_named_once_and_explained_in_sentences():
    assert len(TABLE) == len(EVENTS)
    for event in EVENTS:
        assert event.when.endswith("."), event.name
        assert event.do.endswith("."), event.name
        assert "|" not in event.when + event.do, event.name


def test_the_command_lists_them(capsys):
    assert run(["log-events", "-o", "json"]) == ExitCode.OK
    told = msgspec.json.decode(capsys.readouterr().out)
    assert [each["name"] for each in told] == [event.name for event in EVENTS]
