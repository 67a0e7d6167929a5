"""Does a worker answer that it is alive and does its part, where commands would ask it."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sf_healer.adapters.http import NobodyListensError, WorkerUnreachableError, get_answer
from sf_healer.checks.findings import About, Finding, State

_OTHER = "--url or SF_HEALER_URL names another"


class Address(msgspec.Struct, frozen=True):
    """Where a worker is to be asked; `named` by a person, or else where the settings would put one."""

    url: str
    named: bool


#: Page, and the field of its answer that says yes.
_PAGES = (("/livez", "alive"), ("/readyz", "ready"))


def check(address: Address) -> Iterator[Finding]:
    """Ask the worker; blocks for as long as its answers take, a few seconds for one that hangs."""
    url = address.url
    try:
        answers = [(field, get_answer(f"{url}{page}")) for page, field in _PAGES]
    except NobodyListensError as problem:
        what, fix = f"no worker at {url}: {problem}", f"sf-healer worker starts one; {_OTHER}"
        yield Finding(About.WORKER, State.UNREACHABLE if address.named else State.WARNING, what, fix)
    except WorkerUnreachableError as problem:
        what = f"a worker hangs or ends: it takes a connection, and {problem}"
        fix = f"sf-healer worker, started again (its probe of /livez does that in Kubernetes); {_OTHER}"
        yield Finding(About.WORKER, State.UNREACHABLE, what, fix)
    else:
        yield _finding(address, answers)


def _finding(address: Address, answers: Sequence[tuple[str, tuple[int, Any]]]) -> Finding:
    url, problems = address.url, list[str]()
    for field, (status, told) in answers:
        if not isinstance(told, dict) or field not in told:
            what = f"who answers at {url} is no worker of sf-healer (status {status})"
            state = State.WRONG if address.named else State.WARNING
            return Finding(About.WORKER, state, what, f"sf-healer settings shows the port; {_OTHER}")
        if not told[field]:
            problems += [f"not {field}: {problem}" for problem in told.get("problems") or ["it does not say why"]]
    if not problems:
        return Finding(About.WORKER, State.OK, f"{url} is alive and ready")
    fix = f"sf-healer fleet --url {url}, and its log; what each means: docs/runbook.md"
    return Finding(About.WORKER, State.WRONG, f"{url} is {'; '.join(dict.fromkeys(problems))}", fix)
