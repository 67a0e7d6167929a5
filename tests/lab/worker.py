"""sf-healer workers as the processes a user runs, for tests against a real or embedded broker.

Nothing here looks inside a worker: it is asked over its web views and judged by its exit status and log.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.lab.ports import free_ports, is_answering
from tests.lab.process import Server
from tests.lab.waiting import until

READY_SECONDS = 90.0
STOP_SECONDS = 20.0
GET_SECONDS = 10.0
# A worker that is killed is missed after the session timeout; a test does not wait Kafka's usual 45 s.
SESSION_TIMEOUT_SECONDS = 10.0
HEARTBEAT_SECONDS = 2.0


class Answer(msgspec.Struct, frozen=True):
    """What a view answered."""

    status: int
    body: Any


class Worker:
    """One `sf-healer worker`; `settings` are SF_HEALER_* without the prefix."""

    def __init__(self, name: str, directory: Path, *, bootstrap: str, **settings: object) -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, _ = _two_neighbours()
        self.environment = {
            "SF_HEALER_BROKER_URL": f"kafka://{bootstrap}",
            "SF_HEALER_WEB_PORT": str(self.port),
            "SF_HEALER_DATA_DIR": str(self.directory / "data"),
            "SF_HEALER_BROKER_SESSION_TIMEOUT_SECONDS": str(SESSION_TIMEOUT_SECONDS),
            "SF_HEALER_BROKER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            **{f"SF_HEALER_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self.log = self.directory / "worker.log"
        self.server = Server(name, self.command("worker"), log=self.log)

    def command(self, *arguments: str) -> list[str]:
        """Compose the command line of `sf-healer` in this worker's environment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SF_HEALER_")}
        variables = [f"{name}={value}" for name, value in (inherited | self.environment).items()]
        return ["env", "-i", *variables, str(Path(sys.executable).with_name("sf-healer")), *arguments]

    def start(self) -> Self:
        """Start the process; it may not be ready yet."""
        self.server.start()
        return self

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Self:
        """Return once /readyz is green; fails with the end of the log when the process has ended."""
        until(self._is_ready, f"{self.server.name} to be ready\n{self.tail()}", seconds=seconds)
        return self

    def get(self, path: str) -> Answer | None:
        """Ask a view; None when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=GET_SECONDS) as answer:
                return Answer(answer.status, _body(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, _body(error.read()))
        except OSError:
            return None

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Give the rows of /jobs/ by Job; empty while nobody listens."""
        answer = self.get("/jobs/")
        return {} if answer is None or answer.status != 200 else {row["job"]: row for row in answer.body["jobs"]}

    def stop(self) -> None:
        """End the process politely, within STOP_SECONDS."""
        self.server.stop(patience_seconds=STOP_SECONDS)

    def tail(self, lines: int = 40) -> str:
        """Give the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        assert self.server.is_alive, f"{self.server.name} has ended:\n{self.tail()}"
        answer = self.get("/readyz")
        return answer is not None and answer.status == 200


def _two_neighbours() -> tuple[int, int]:
    """Choose a free port whose successor is free too: the actuator listens there."""
    while True:
        (port,) = free_ports(1)
        if not is_answering(port + 1):
            return port, port + 1


def _body(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return content.decode(errors="replace")
