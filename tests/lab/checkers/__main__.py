"""The command line of the lab's checkers, for `make lab`."""

from __future__ import annotations

from tests.lab import command_line
from tests.lab.checkers import directory, install, missing

main = command_line.of_component(
    "The Compose validator and hadolint, for the tests of docker-compose.yml and the Dockerfile.",
    "checkers",
    install=install,
    where=directory,
    missing=missing,
)

if __name__ == "__main__":
    main(prog_name="python -m tests.lab.checkers")
