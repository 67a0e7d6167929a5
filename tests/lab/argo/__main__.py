"""The command line of the lab's Argo Rollouts, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.argo import ARGO_ROLLOUTS_VERSION, installation, missing

main = command_line.of_component(
    "The rollouts controller, its rules as a program, and CRDs, for the tests of argo/.",
    f"Argo Rollouts {ARGO_ROLLOUTS_VERSION} (minutes when Go's build cache is empty)",
    install=installation.install,
    where=installation.directory,
    missing=missing,
    done="built",
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.argo")
