"""The rollouts controller as a process on loopback, with the account and the flags it would have in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.lab.argo.installation import controller, missing
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_SECONDS = 60.0


class Controller:
    """One controller; `flags` are those of argo/controller, `kubeconfig` that of its ServiceAccount."""

    def __init__(self, directory: Path, kubeconfig: Path, flags: Sequence[str]) -> None:
        if (reason := missing()) is not None:
            raise RuntimeError(reason)
        metrics, health = free_ports(2)
        self.address = f"{LOOPBACK}:{metrics}"
        self._port = metrics
        command = [
            *(str(controller()), f"--kubeconfig={kubeconfig}", "--leader-elect=false"),
            *(f"--metricsPort={metrics}", f"--healthzPort={health}", *flags),
        ]
        self._server = Server("rollouts-controller", command, log=directory / "rollouts-controller.log")

    def __enter__(self) -> Self:
        self._server.start_answering(self._port, seconds=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
