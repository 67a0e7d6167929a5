"""What several commands need: the policies of a person, and the reading of a worker's views."""

from pathlib import Path

from sf_healer.core import policy
from sf_healer.settings import SettingsError

SHIPPED_POLICY = Path(policy.__file__).parent.parent / "policy.toml"


def read_policies(file: Path | None, *, setting: str = "--policy") -> policy.PolicyBook:
    """Read a policy file, the shipped one without; raises SettingsError that names where it was set."""
    path = file or SHIPPED_POLICY
    try:
        return policy.parse(path.read_text())
    except (policy.PolicyError, OSError, UnicodeDecodeError) as error:
        raise SettingsError(setting, f"{path}: {error}") from None
