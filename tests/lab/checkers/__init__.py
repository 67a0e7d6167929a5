"""Programs that check what no engine here runs: the Compose Specification's own validator, and hadolint."""

from tests.lab.checkers.installation import directory, install, missing, program

__all__ = ["directory", "install", "missing", "program"]
