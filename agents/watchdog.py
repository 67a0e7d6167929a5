"""Is this worker alive, is it ready? Asked by the probes; answered from what the agents have got done.

Ready: partitions are assigned, the tables are recovered, the Jobs are listed. Alive: marks and sweeps do not age
while the broker answers. A broker or cluster that is away makes a worker not ready, never not alive: restarting
it would mend nothing.
"""

import time

from agents import inventory
from sf_healer.app import detector, settings
from sf_healer.settings import Role
from tables.jobs import hot

_runs_detector = settings.role is not Role.ACTUATOR


def not_ready() -> list[str]:
    """Say what is missing before this worker does its part; nothing when it is ready."""
    if not _runs_detector:
        return []
    problems = []
    if not inventory.first_list.is_set():
        problems.append("the Jobs of the cluster have not been listed yet")
    if detector.rebalancing:
        problems.append("the consumer group is rebalancing")
    if detector.in_recovery:
        problems.append("the jobs table is being recovered")
    if not (detector.consumer and detector.assignor.assigned_actives()):
        problems.append("no partition is assigned yet")
    return problems


def ready() -> bool:
    """Whether this worker does its part."""
    return not not_ready()


def not_alive() -> list[str]:
    """Say why this process should be restarted; nothing when it should not."""
    return []


def watermark_age_seconds() -> float | None:
    """Return the age of the oldest watermark of this worker on the wall clock; None before the first."""
    marked = [partition.watermark.value for partition in hot.values() if partition.watermark.value]
    return time.time() - min(marked) if marked else None
