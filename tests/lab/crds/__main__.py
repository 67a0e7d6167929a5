"""The command line of the lab's CRDs, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.crds import install, installation, missing

main = command_line.of_component(
    "The CRDs of Strimzi and prometheus-operator, for the tests of the manifests.",
    "CRDs",
    install=install,
    where=installation.directory,
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.crds")
