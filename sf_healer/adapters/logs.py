"""Logs: structlog in front, the standard library behind, so that Faust's own lines go the same way as ours.

One line an event: a constant name and keys. On a terminal for eyes, else one JSON object; always on stderr,
for stdout is data. Call `configure` once per process, and give `dict_config` to Faust, which sets up its own.
"""

import logging
import logging.config
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import stamina.instrumentation
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from sf_healer.settings import LogLevel

log = structlog.get_logger("sf_healer.retry")

# What these say at INFO is a line for every fetch, rebalance step or request.
_TALKATIVE = ("aiokafka", "httpx", "httpcore", "kubernetes", "urllib3", "asyncio")

# What these say at DEBUG is the messages themselves: passwords (SASL PLAIN), manifests, the env of Jobs.
_INDISCREET = ("aiokafka.conn", "faust.transport.drivers.aiokafka", "kubernetes.client.rest")

# These name each address asked, and that of a webhook is a secret: only warnings, also when debugging.
_NAMES_ADDRESSES = ("httpx", "httpcore")

# What tells of each try to reach a broker.
_EACH_TRY = ("sf_healer.retry", "aiokafka")

# A client library that cannot reach its broker says so hundreds of times a second, for as long as it is away.
REPEATED_SECONDS = 10.0
_OURS = ("sf_healer", "agents", "tables")
_REMEMBERED = 1000

# No local variables, which structlog would show by default: passwords and manifests are among them.
_TRACEBACK = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class Repeats(logging.Filter):
    """Lets a line of a library pass once in `REPEATED_SECONDS`; the next one tells how many it stands for.

    Lines are the same when logger, level and text are. None of ours is ever left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[tuple[str, int, str], tuple[float, int]] = {}  # when, and how often not since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown; counts it otherwise."""
        if record.name.partition(".")[0] in _OURS:
            return True
        line = (record.name, record.levelno, record.getMessage())
        shown_at, left_out = self._shown.get(line, (float("-inf"), 0))
        if 0.0 <= record.created - shown_at < REPEATED_SECONDS:
            self._shown[line] = shown_at, left_out + 1
            return False
        if len(self._shown) >= _REMEMBERED:
            self._shown.clear()
        self._shown[line] = record.created, 0
        if left_out:
            record.left_out = left_out
        return True


def configure(level: LogLevel = LogLevel.INFO, *, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library for this process."""
    logging.config.dictConfig(dict_config(level, stream=stream))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    stamina.instrumentation.set_on_retry_hooks([_log_retry, stamina.instrumentation.PrometheusOnRetryHook])


@contextmanager
def without_tries() -> Iterator[None]:
    """Leave out what tells of each try to reach a broker: a command that waits for one says once what came of them."""
    levels = {name: logging.getLogger(name).level for name in _EACH_TRY}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def dict_config(level: LogLevel = LogLevel.INFO, *, stream: TextIO | None = None) -> dict[str, Any]:
    """Give the standard library's configuration, for Faust's `logging_config` as well."""
    stream = stream or sys.stderr
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _SHARED,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_renderers(for_eyes=stream.isatty()),
                ],
            }
        },
        "filters": {"repeats": {"()": Repeats}},
        "handlers": {
            "stream": {
                "class": "logging.StreamHandler",
                "formatter": "lines",
                "filters": [] if level is LogLevel.DEBUG else ["repeats"],
                "stream": stream,
            }
        },
        "root": {"level": level.upper(), "handlers": ["stream"]},
        "loggers": {name: {"level": max(_number(level), logging.WARNING)} for name in _TALKATIVE}
        if level is not LogLevel.DEBUG
        else {
            **{name: {"level": logging.INFO} for name in _INDISCREET},
            **{name: {"level": logging.WARNING} for name in _NAMES_ADDRESSES},
        },
    }


def _renderers(*, for_eyes: bool) -> list[structlog.typing.Processor]:
    if for_eyes:
        return [
            structlog.dev.ConsoleRenderer(
                colors=not (os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return [_TRACEBACK, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    log.warning(
        "retrying",
        reason=str(details.caused_by),
        retry=details.retry_num,
        wait_seconds=round(details.wait_for, 2),
    )


def _number(level: LogLevel) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
