"""One Traefik on loopback, which reads its routes from the lab's API server as it does in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.traefik.installation import program

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 60.0


class Traefik:
    """A running Traefik with the entry points `web` and `websecure`; a context, ended by its process id.

    Services of type ExternalName are allowed: what answers in the lab are processes on loopback, which may be in no
    EndpointSlice.
    """

    def __init__(self, directory: Path, kubeconfig: Path, namespace: str) -> None:
        self.port, secure = free_ports(2)
        command = [
            *("env", f"KUBECONFIG={kubeconfig}", str(program())),
            f"--entrypoints.web.address={LOOPBACK}:{self.port}",
            f"--entrypoints.websecure.address={LOOPBACK}:{secure}",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=INFO",
        ]
        for provider in ("kubernetescrd", "kubernetesingress"):
            command += [
                f"--providers.{provider}=true",
                f"--providers.{provider}.namespaces={namespace}",
                f"--providers.{provider}.allowexternalnameservices=true",
            ]
        self._server = Server("traefik", command, log=directory / "traefik.log")

    def __enter__(self) -> Self:
        self._server.start_answering(self.port, seconds=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
