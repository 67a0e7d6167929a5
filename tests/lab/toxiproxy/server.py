"""One toxiproxy on loopback, with a proxy for each address that is to be slowed."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Self

from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.toxiproxy.installation import program

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 60.0


class Toxiproxy:
    """A running server; a context, ended by its process id."""

    def __init__(self, directory: Path) -> None:
        (self._port,) = free_ports(1)
        command = [str(program()), "-host", LOOPBACK, "-port", str(self._port), "-seed", "1"]
        self._server = Server("toxiproxy", command, log=directory / "toxiproxy.log")
        self.url = f"http://{LOOPBACK}:{self._port}"

    def __enter__(self) -> Self:
        self._server.start_answering(self._port, seconds=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()

    def proxy(self, name: str, upstream: str, *, port: int = 0) -> int:
        """Put a proxy in front of an address, on a free port if none is told; gives its port."""
        port = port or free_ports(1)[0]
        proxy = {"name": name, "listen": f"{LOOPBACK}:{port}", "upstream": upstream, "enabled": True}
        self._call("POST", "/proxies", proxy)
        return port

    def toxics(self, name: str) -> list[str]:
        """Name what slows a proxy."""
        return [each["name"] for each in self._call("GET", f"/proxies/{name}")["toxics"]]

    def _call(self, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            found: dict[str, list[dict[str, str]]] = json.load(answer)
            return found
