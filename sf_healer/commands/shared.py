"""What several commands need: the policies of a person, and the reading of a worker's views."""

from pathlib import Path

from sf_healer.adapters import policy_file
from sf_healer.core.policy import PolicyBook, PolicyError
from sf_healer.settings import SettingsError


def read_policies(file: Path | None, *, setting: str = "--policy") -> PolicyBook:
    """Read a policy file, the shipped one without; raises SettingsError that names where it was set."""
    path = file or policy_file.SHIPPED_POLICY
    try:
        return policy_file.read(path).book
    except PolicyError as error:
        raise SettingsError(setting, f"{path}: {error}") from None
