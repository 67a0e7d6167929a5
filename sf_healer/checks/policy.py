"""Can the policy file be used, as it is now: by a worker that would be started, and by those that follow it."""

from collections.abc import Iterator

from sf_healer.adapters import policy_file
from sf_healer.checks.findings import About, Finding, State
from sf_healer.core.policy import PolicyError
from sf_healer.settings import PREFIX, Settings


def check(settings: Settings) -> Iterator[Finding]:
    """Read the file as a worker does."""
    path = policy_file.path_of(settings)
    try:
        file = policy_file.read(path)
    except PolicyError as error:
        fix = f"mend the file of {PREFIX}POLICY_FILE, and look with `sf-healer policy check {path}`"
        yield Finding(About.POLICY, State.WRONG, f"{path}: {error}", fix)
    else:
        what = f"{path}, version {file.version}, {len(file.book.policies())} policies"
        yield Finding(About.POLICY, State.OK, what)
