"""Looks at queue-manager's Rollout, and puts what it shows on the steps log: never decides anything.

Knows nothing of Faust; agents/actuator.py calls `tell` while the log is ours. What was told last is read from the fold
of the log, so the worker that takes the log over goes on where the last one stopped.
"""

from collections.abc import Awaitable, Callable, Iterable

import structlog

from sf_healer.adapters import metrics
from sf_healer.adapters.cluster import ApiFailure, Cluster, Failure, Kind
from sf_healer.adapters.threads import in_thread
from sf_healer.core.actuator import Actuator
from sf_healer.core.rollouts import NAME, NO_ROLLOUT, STALE_AFTER_SECONDS, RolloutView, view
from sf_healer.core.steps import RolloutSeen, StepsRecord

log = structlog.get_logger(__name__)

LOOK_SECONDS = 10.0
ROLLOUTS = Kind("argoproj.io", "v1alpha1", "rollouts")
#: What goes on is told again so often, that one lost look makes nobody forget it.
_AGAIN_SECONDS = STALE_AFTER_SECONDS / 3
#: No Rollout of that name, no Argo Rollouts in the cluster, or no right to look: then it holds nothing.
_NONE = frozenset({Failure.NOT_FOUND, Failure.FORBIDDEN})


async def tell(
    actuator: Actuator, cluster: Cluster, append: Callable[[Iterable[StepsRecord]], Awaitable[None]]
) -> None:
    """Look once, and append a record if there is something new, or something that goes on."""
    answer = await in_thread(lambda: cluster.read_object(ROLLOUTS, NAME))
    if isinstance(answer, ApiFailure) and answer.kind not in _NONE:
        metrics.CLUSTER_FAILURES.labels(kind=answer.kind).inc()
        return  # not known now: what was seen last holds until it is stale
    seen = NO_ROLLOUT if isinstance(answer, ApiFailure) else view(answer)
    ledger = actuator.ledger
    if seen != ledger.rollout:
        _log(ledger.rollout, seen)
    elif not seen.progressing or actuator.now - ledger.rollout_at < _AGAIN_SECONDS:
        return
    await append([RolloutSeen(view=seen)])


def _log(before: RolloutView, seen: RolloutView) -> None:
    log.info(
        "rollout_seen",
        rollout=NAME,
        before=before.phase,
        phase=seen.phase,
        progressing=seen.progressing,
        aborted=bool(seen.aborted_at),
        message=seen.message,
    )
