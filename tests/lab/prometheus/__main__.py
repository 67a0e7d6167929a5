"""The command line of the lab's Prometheus, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.prometheus import install, missing, program

main = command_line.of_component(
    "Prometheus and promtool, for the tests of alert rules and dashboards.",
    "Prometheus",
    install=install,
    where=lambda: program("prometheus").parent,
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.prometheus")
