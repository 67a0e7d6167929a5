"""The command line of the lab's toxiproxy, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.toxiproxy import directory, install, missing

main = command_line.of_component(
    "Toxiproxy, for the chaos experiments that make the network slow.",
    "toxiproxy",
    install=install,
    where=directory,
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.toxiproxy")
