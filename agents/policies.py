"""Follows the policy file while the worker runs: whatever holds policies gets those that are in it now.

The sweeper's partitions judge their Jobs anew. The actuator is told which limits the file asks for, and says so on
its log: they hold once they are read back from there, so that what it decides stays a fold of that log. A file that
cannot be used changes nothing; it is told in the log, by a metric and on `/fleet/`.
"""

import asyncio

import faust
import structlog

import tables.actions
import tables.policies
from sf_healer.adapters import metrics, policy_file
from sf_healer.adapters.policy_file import PolicyFile
from sf_healer.adapters.threads import in_thread
from sf_healer.app import actuator, detector
from tables.jobs import hot

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 5.0
#: A file on a disk that hangs is a file that cannot be read.
LOOK_LIMIT_SECONDS = 10.0


class _Watch:
    """One watch in a process, though two apps may run in it: the first that starts keeps it."""

    kept = False


def _begin(app: faust.App) -> None:
    @app.task  # type: ignore[untyped-decorator]  # Faust's
    async def watch_policies() -> None:
        await watch(app)


for _app in (detector, actuator):
    _begin(_app)


async def watch(app: faust.App) -> None:
    """Look at the file again and again and let everything follow, until the app stops."""
    if _Watch.kept:
        return
    _Watch.kept = True
    try:
        while not app.should_stop:
            await app.sleep(LOOK_EVERY_SECONDS)
            await look()
            await follow()
    finally:
        _Watch.kept = False


async def look() -> None:
    """See whether the file holds other policies than those that hold here."""
    known = tables.policies.current
    try:
        async with asyncio.timeout(LOOK_LIMIT_SECONDS):
            found = await in_thread(lambda: policy_file.look(known))
    except TimeoutError:
        found = policy_file.unreadable(known, f"cannot be read: no answer within {LOOK_LIMIT_SECONDS:g} s")
    tables.policies.current = found
    _tell(known, found)


async def follow() -> None:
    """Let everything that holds policies have those that hold; what is assigned later begins with them."""
    book = tables.policies.current.book
    if tables.actions.current is not None:
        tables.actions.current.ask_for(book.limits)
    for partition in [each for each in hot.values() if each.policies is not book]:
        for _ in partition.change_policies(book):
            await asyncio.sleep(0)
            if hot.get(partition.number) is not partition:
                break  # revoked: its new owner judges by its own
        else:
            log.info("policies_followed", partition=partition.number, jobs=len(partition.jobs))


def _tell(known: PolicyFile, found: PolicyFile) -> None:
    if found.version != known.version:
        metrics.POLICY_CHANGES.inc()
        policies = [policy.name for policy in found.book.policies()]
        log.info("policy_changed", file=str(found.path), before=known.version, version=found.version, policies=policies)
    if found.refused and found.refused != known.refused:
        metrics.POLICY_REFUSALS.inc()
        log.error("policy_refused", file=str(found.path), version=known.version, reason=found.refused)
    elif known.refused and not found.refused:
        log.info("policy_accepted", file=str(found.path), version=found.version)
    show(found)


def show(file: PolicyFile) -> None:
    """Show as metrics which policies hold."""
    metrics.POLICY_REFUSED.set(bool(file.refused))
    metrics.POLICY_VERSION.clear()
    metrics.POLICY_VERSION.labels(version=file.version).set(1)


def told() -> dict[str, str]:
    """Tell which policies hold here, and why what is in the file does not ("": it does)."""
    return {"version": tables.policies.current.version, "refused": tables.policies.current.refused}


show(tables.policies.current)
