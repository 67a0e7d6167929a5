"""The command line of the lab's Traefik, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.traefik import TRAEFIK_VERSION, installation, missing

main = command_line.of_component(
    "Traefik, for the routes of argo/.",
    f"Traefik {TRAEFIK_VERSION}",
    install=installation.install,
    where=installation.directory,
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.traefik")
