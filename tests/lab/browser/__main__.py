"""The command line of the lab's browser, for `make lab`; Chromium is the machine's."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.browser import axe, install, missing, program

main = command_line.of_component(
    "Chromium and axe-core, for the tests of pages.",
    "Browser",
    install=install,
    where=lambda: f"{axe().parent}; Chromium: {program() or 'not installed'}",
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.browser")
