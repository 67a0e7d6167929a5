"""Logs: structlog in front, the standard library behind, so that Faust's own lines go the same way as ours.

One line an event: a constant name and keys. On a terminal for eyes, else one JSON object; always on stderr,
for stdout is data. Call `configure` once per process, and give `dict_config` to Faust, which sets up its own.
"""

import logging
import logging.config
import os
import sys
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

# No local variables, which structlog would show by default: passwords and manifests are among them.
_TRACEBACK = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


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
        "handlers": {"stream": {"class": "logging.StreamHandler", "formatter": "lines", "stream": stream}},
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
