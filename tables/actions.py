"""The `actions` table: every restart under way and the ledger of admission, durable in its changelog.

The table is what survives; `current` is what the agent works on: the core's Actuator for the one partition of
the steps log, recreated whenever that partition is assigned and dropped when it is revoked.
Manifests are in here, and they hold secrets: the core's `shown` is the only way out, for the views too.
"""

import os
import socket
import uuid
from typing import Any, cast

import structlog
from faust.types import TP

from sf_healer import topics
from sf_healer.app import actuator as app
from sf_healer.app import settings
from sf_healer.core.actuator import Actuator
from sf_healer.settings import Mode
from sf_healer.views.actions import build_action, build_actions
from sf_healer.views.admission import build_admission
from tables import durable, policies

log = structlog.get_logger(__name__)

STEPS_LOG = TP(topics.STEPS, 0)

actions = durable.ordered_table(
    app, "actions", partitions=1, help="Restarts under way and their past: namespace/name to its record."
)

#: Names this process on the log; another one after every start, for what an earlier one began is not ours.
WORKER = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

current: Actuator | None = None


async def store(key: bytes, value: bytes | None) -> None:
    """Write one key; returns when the changelog has it. Call within an event of the steps log."""
    await durable.write(actions, {key: value})


def owns_log() -> bool:
    """Return whether the steps log is assigned to this worker right now, as far as it knows."""
    return not app.rebalancing and STEPS_LOG in app.assignor.assigned_actives()


def nobody_owns_log() -> bool:
    """Say whether the group divided other topics of this app and left the steps log out, as far as this worker knows.

    Faust's assignor leaves out a topic that is missing at that moment. All our topics here have one partition and go to
    one worker, so whoever has another one and not the log knows; the rest go by what the group was told.
    """
    mine = app.assignor.assigned_actives()
    if mine:
        return STEPS_LOG not in mine
    group = cast("Any", app.assignor).external_topics_metadata()  # of Faust's own assignor; its interface lacks it
    held = [names for names in group.values() if names]
    return bool(held) and not any(STEPS_LOG.partition in each.get(STEPS_LOG.topic, ()) for each in held)


def shown_jobs(*, job: str = "", last: int = 0) -> dict[str, dict[str, object]] | None:
    """Give the record of every Job with a restart under way or lately, as it may be shown.

    `job`: only that of this Job; `last`: only those of so many Jobs, whose restarts are the newest.
    None where another worker owns the log.
    """
    return None if current is None else build_actions(current, job=job, last=last)


def shown_action(action_id: str) -> dict[str, Any] | None:
    """Give one restart by its id, as it may be shown; None where it is not known, or another worker owns the log."""
    return None if current is None else build_action(current, action_id)


def shown_admission() -> dict[str, Any] | None:
    """Give what holds restarts back; None where another worker owns the log."""
    return None if current is None else build_admission(current)


@app.on_partitions_revoked.connect  # type: ignore[arg-type]  # it asks for a name that it never passes by
async def drop_revoked(_app: Any, revoked: set[TP], **_: Any) -> None:
    """Forget the hot state when the log is no longer ours."""
    global current  # noqa: PLW0603  one log, one state
    if STEPS_LOG in revoked and current is not None:
        current = None
        log.info("steps_log_dropped")


@actions.on_recover
async def rebuild() -> None:
    """Rebuild the hot state when the log was assigned; the table is recovered when this is called."""
    global current  # noqa: PLW0603  one log, one state
    if STEPS_LOG not in app.assignor.assigned_actives():
        current = None
        return
    if current is not None:
        return
    ends = await app.consumer.highwaters(STEPS_LOG)
    restored = Actuator(worker=WORKER, limits=policies.current.book.limits, observe_only=settings.mode is Mode.OBSERVE)
    restored.restore(list(actions.store_of(STEPS_LOG.partition).items()), log_end=ends.get(STEPS_LOG))
    current = restored
    log.info("steps_log_taken_over", worker=WORKER, open_actions=len(restored.open_actions()))
