"""The policies that hold in this process, for both apps; agents/policies.py exchanges them while it runs."""

import sys

from sf_healer.adapters import policy_file
from sf_healer.adapters.policy_file import PolicyFile
from sf_healer.app import settings
from sf_healer.core.policy import PolicyError
from sf_healer.settings import PREFIX


def _read() -> PolicyFile:
    path = policy_file.path_of(settings)
    try:
        return policy_file.read(path)
    except PolicyError as error:
        # `sf-healer worker` has looked before; started by Faust's own command we are the first to.
        sys.stderr.write(f"sf-healer: {PREFIX}POLICY_FILE: {path}: {error}\n")
        raise SystemExit(2) from None


current = _read()
