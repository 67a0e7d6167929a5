"""A real Prometheus on loopback, told what to scrape and which rules to keep."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import yaml

from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.prometheus.installation import missing, program

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 60.0
REQUEST_SECONDS = 10.0


class Prometheus:
    """One Prometheus with its data in a directory; `scrapes` are scrape_configs, `groups` are groups of rules."""

    def __init__(self, directory: Path, *, scrapes: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
        if (reason := missing()) is not None:
            raise RuntimeError(reason)
        (port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{port}"
        directory.mkdir(parents=True, exist_ok=True)
        config = {"rule_files": ["rules.yaml"], "scrape_configs": scrapes}
        (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = [
            *(str(program("prometheus")), f"--config.file={directory / 'prometheus.yaml'}"),
            *(f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"),
        ]
        self._server = Server("prometheus", command, log=directory / "prometheus.log")

    def __enter__(self) -> Self:
        self._server.start()
        self._server.wait_until(self._is_ready, seconds=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Evaluate a query now; gives the samples: [{"metric": {...}, "value": [time, "1"]}]."""
        return self._get("/api/v1/query?" + urllib.parse.urlencode({"query": query}))["data"]["result"]

    def targets(self) -> list[dict[str, Any]]:
        """List what is scraped, with labels and health."""
        return self._get("/api/v1/targets")["data"]["activeTargets"]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=REQUEST_SECONDS) as answer:
            return json.load(answer)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=REQUEST_SECONDS):
                return True
        except (urllib.error.URLError, OSError):
            return False
