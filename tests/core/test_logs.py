"""Logs: one way for structlog, the standard library and Faust; lines of JSON unless eyes are there."""

import io
import json
import os
import subprocess
import sys

import structlog
from structlog.testing import capture_logs

from sf_healer.adapters import logs

SECONDS = 60.0


def logged(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: logging is global."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from sf_healer.adapters import logs\nfrom sf_healer.settings import LogLevel\n{code}",
        ],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_our_lines_and_those_of_libraries_look_the_same():
    done = logged(
        "import logging, structlog\n"
        "logs.configure()\n"
        "structlog.get_logger('ours').info('job_stuck', job='stf/a', silence_seconds=312.5)\n"
        "logging.getLogger('faust.app').warning('[^-App]: %s', 'rebalanced')\n"
    )
    assert done.stdout == ""
    ours, theirs = lines(done)
    assert (ours["event"], ours["job"], ours["silence_seconds"]) == ("job_stuck", "stf/a", 312.5)
    assert (theirs["event"], theirs["logger"], theirs["level"]) == (
        "[^-App]: rebalanced",
        "faust.app",
        "warning",
    )
    assert {"timestamp", "level", "logger", "event"} <= ours.keys() & theirs.keys()


SAID_AGAIN = """
import logging, structlog
logs.configure(LogLevel.{level})
for moment in (0.0, 1.0, 9.9, 10.0, 12.0):
    for logger, node in (("aiokafka", 1), ("aiokafka", 2)):
        record = logging.makeLogRecord(
            dict(name=logger, levelno=logging.ERROR, levelname="ERROR", msg="no way to %s", args=(node,))
        )
        record.created = 1_000.0 + moment
        logging.getLogger(logger).handle(record)
    structlog.get_logger("agents.marks").info("ours")
"""


def test_a_library_that_repeats_itself_is_heard_once_in_ten_seconds_with_how_often_it_was():
    said = lines(logged(SAID_AGAIN.format(level="INFO")))
    theirs = [(line["event"], line.get("left_out")) for line in said if line["logger"] == "aiokafka"]
    assert theirs == [("no way to 1", None), ("no way to 2", None), ("no way to 1", 2), ("no way to 2", 2)]
    assert sum(line["event"] == "ours" for line in said) == 5


def test_who_debugs_hears_every_repetition():
    assert len(lines(logged(SAID_AGAIN.format(level="DEBUG")))) == 15


def test_an_exception_is_one_line_of_json():
    (line,) = lines(
        logged(
            "import structlog\n"
            "logs.configure()\n"
            "try:\n  1 / 0\nexcept ZeroDivisionError:\n  structlog.get_logger().exception('broken')\n"
        )
    )
    assert line["event"] == "broken"
    assert "ZeroDivisionError" in json.dumps(line["exception"])


FAILS_WITH_A_PASSWORD_IN_HAND = """\
import structlog
from sf_healer.settings import Settings
def log_in(password, settings):
  return password / settings
word = 'hunter' + '2'  # in two, for Python 3.13 shows a line of the code, which is told to nobody in production
try:
  log_in(word, Settings(sasl_username='healer', sasl_password=word))
except TypeError:
  structlog.get_logger().exception('broken')
"""


def test_an_exception_tells_where_it_came_from_and_nothing_of_what_was_in_hand():
    (line,) = lines(logged("logs.configure()\n" + FAILS_WITH_A_PASSWORD_IN_HAND))
    assert [frame["name"] for frame in line["exception"][0]["frames"]] == ["<module>", "log_in"]
    assert "hunter2" not in json.dumps(line)


def test_an_exception_on_a_terminal_tells_nothing_of_what_was_in_hand_either():
    terminal = "import io\nclass Terminal(io.StringIO):\n  isatty = lambda self: True\nstream = Terminal()\n"
    shown = logged(
        terminal + "logs.configure(stream=stream)\n" + FAILS_WITH_A_PASSWORD_IN_HAND + "print(stream.getvalue())\n",
        NO_COLOR="1",
    ).stdout
    assert "log_in" in shown
    assert "TypeError" in shown
    assert "hunter2" not in shown


def test_what_goes_over_the_wire_is_not_logged_even_when_debugging():
    """Requests hold passwords (PLAIN) and manifests, answers of the API hold the env of Jobs."""
    done = logged(
        "import logging\n"
        "logs.configure(LogLevel.DEBUG)\n"
        "for name in ('aiokafka.conn', 'kubernetes.client.rest', 'faust.transport.drivers.aiokafka'):\n"
        "  logging.getLogger(name).debug('hunter2')\n"
        "  logging.getLogger(name).info('connected')\n"
    )
    assert [line["event"] for line in lines(done)] == ["connected"] * 3


def test_the_address_of_a_webhook_is_not_logged_even_when_debugging():
    done = logged(
        "import asyncio, http.server, logging, threading\n"
        "from sf_healer.adapters.http import NotDeliveredError, Webhook\n"
        "from sf_healer.settings import Settings\n"
        "logs.configure(LogLevel.DEBUG)\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
        "server.RequestHandlerClass.log_message = lambda *_: None\n"
        "threading.Thread(target=server.handle_request, daemon=True).start()\n"
        "webhook = Webhook(Settings(notify_url=f'http://127.0.0.1:{server.server_port}/hunter2'))\n"
        "try:\n  asyncio.run(webhook.post(b'{}'))\n"
        "except NotDeliveredError as error:\n  print(error)\n"
    )
    assert done.stdout == "the webhook answered 501\n"
    assert "hunter2" not in done.stderr


def test_talkative_libraries_are_heard_only_when_debugging():
    code = (
        "import logging\n"
        "logs.configure(LogLevel.{level})\n"
        "logging.getLogger('aiokafka.consumer').info('fetched')\n"
        "logging.getLogger('aiokafka.consumer').warning('lost')\n"
    )
    assert [line["event"] for line in lines(logged(code.format(level="INFO")))] == ["lost"]
    assert [line["event"] for line in lines(logged(code.format(level="DEBUG")))] == ["fetched", "lost"]


def test_the_level_holds_for_all():
    done = logged(
        "import logging, structlog\n"
        "logs.configure(LogLevel.ERROR)\n"
        "structlog.get_logger('ours').warning('no')\n"
        "logging.getLogger('theirs').warning('no')\n"
        "structlog.get_logger('ours').error('yes')\n"
    )
    assert [line["event"] for line in lines(done)] == ["yes"]


def test_faust_sets_up_logging_again_with_the_same_configuration():
    done = logged(
        "import logging, structlog\n"
        "from mode.utils.logging import setup_logging\n"
        "logs.configure()\n"
        "setup_logging(loglevel='INFO', logging_config=logs.dict_config())\n"
        "structlog.get_logger('ours').info('one')\n"
        "logging.getLogger('faust').info('two')\n"
    )
    assert [line["event"] for line in lines(done)] == ["one", "two"]


def test_on_a_terminal_lines_are_for_eyes_and_no_color_is_honoured():
    code = (
        "import io, structlog\n"
        "class Terminal(io.StringIO):\n  isatty = lambda self: True\n"
        "stream = Terminal()\n"
        "logs.configure(stream=stream)\n"
        "structlog.get_logger('ours').info('job_stuck', job='stf/a')\n"
        "print(stream.getvalue(), end='')\n"
    )
    plain = logged(code, NO_COLOR="1").stdout
    assert "job_stuck" in plain
    assert "job=stf/a" in plain
    assert "\x1b[" not in plain
    assert "\x1b[" in logged(code, TERM="xterm").stdout
    assert "\x1b[" not in logged(code, TERM="dumb").stdout


def test_a_retry_is_one_line_with_its_reason_and_no_arguments():
    (line,) = lines(
        logged(
            "import stamina\n"
            "logs.configure()\n"
            "tries = []\n"
            "@stamina.retry(on=OSError, wait_initial=0.01, wait_jitter=0)\n"
            "def reach(password):\n"
            "  tries.append(1)\n"
            "  if len(tries) == 1: raise OSError('refused')\n"
            "reach('hunter2')\n"
        )
    )
    assert (line["event"], line["reason"], line["retry"]) == ("retrying", "refused", 1)
    assert "hunter2" not in json.dumps(line)


def test_a_logger_used_under_the_log_of_one_command_is_heard_under_that_of_the_next():
    """Of this process, where tests run commands. Cached with the first, it said nothing to whoever listened later."""
    log = structlog.get_logger("told")
    logs.configure(stream=io.StringIO())
    log.warning("first")
    logs.configure(stream=io.StringIO())
    with capture_logs() as lines:
        log.warning("second")
    assert [line["event"] for line in lines] == ["second"]
