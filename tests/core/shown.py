"""What a worker shows of a small fleet: one Job well, one being restarted, one found idle; for pages and commands."""

from typing import Any

from sf_healer.core.actuator import Actuator, shown
from sf_healer.core.commands import Pause
from sf_healer.core.groups import GroupLook
from sf_healer.core.partition import Partition
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts, GroupLooked, Resulted, StepResult, What
from sf_healer.views.actions import build_action
from sf_healer.views.admission import build_admission
from sf_healer.views.jobs import build_fleet, build_job, build_row
from tests.core.strategies import Driver, an_outcome

SICK, WELL, IDLE = "stf/sick", "stf/well", "stf/idle"
SECRET = "hunter2"


def build_jobs(partitions: list[Partition]) -> list[dict[str, Any]]:
    """Build the rows of all Jobs of some partitions, in order of name."""
    rows = [build_row(partition, state) for partition in partitions for state in partition.jobs.values()]
    return sorted(rows, key=lambda row: row["job"])


def the_pages() -> dict[str, tuple[int, object]]:
    """Let one Job be well, one be restarted, one be found idle, and show that as a worker would."""
    driver = Driver()
    driver.fact(key=WELL, queue_id="q-well")
    driver.fact(key=SICK, uid="u-sick")
    driver.fact(key=IDLE, uid="u-idle", target="consumer", queue_id="q-idle")
    driver.run(1)
    for key in (WELL, SICK, IDLE):
        driver.loading(key=key)
    driver.run(30)
    driver.loading(key=WELL)
    driver.run(20)
    commands = {command.key: command for command in driver.effects()}
    actuator = Actuator(worker="w", limits=Limits(), observe_only=False)
    now = driver.now
    counts = FleetCounts(partition=0, partitions=1, at=now, base=10, unhealthy=2, sick=2, suspected=1)
    offset = apply(actuator, [counts, commands[SICK], commands[IDLE]], now)
    container = {"name": "c", "env": [{"name": "KAFKA_PASSWORD", "value": SECRET}]}
    manifest = {"spec": {"template": {"spec": {"containers": [container]}}}}
    found = StepResult(What.FOUND, uid="u-sick", resource_version="5", manifest=manifest)
    action = actuator.jobs[SICK].action
    look = GroupLook(group="g", members=1, committed=5)
    later = [
        Resulted(key=SICK, action_id=action.id, seq=action.seq, step=action.call.step, result=found),
        GroupLooked(key=IDLE, command_id=commands[IDLE].id, seq=0, look=look),
        Pause(scope="target:loader", reason="[bold]maintenance", by="ann", until=now + 600.0),
    ]
    apply(actuator, later, now, offset=offset)
    driver.apply(an_outcome(commands[IDLE].id, "u-idle", key=IDLE, at=now, reason="idle", detail="its group is idle"))
    partitions = [driver.partition]
    pages: dict[str, tuple[int, object]] = {
        f"/jobs/{key}/": (200, build_job(driver.partition, driver.state(key))) for key in (SICK, WELL, IDLE)
    }
    jobs = {"jobs": build_jobs(partitions), "unreachable": [], "partitions_missing": []}
    fleet = {**build_fleet(partitions), "unreachable": [], "partitions_missing": []}
    actions = {"actions": {key: shown(record) for key, record in actuator.jobs.items()}}
    return pages | {
        "/jobs/": (200, jobs),
        "/fleet/": (200, fleet),
        "/actions/": (200, {**actions, "admission": build_admission(actuator)}),
        f"/actions/{action.id}/": (200, build_action(actuator, action.id)),
    }


def apply(actuator, records, at, *, offset=0):
    """Apply records and what they send; returns the next offset."""
    waiting = list(records)
    while waiting:
        effects = actuator.apply(waiting.pop(0), offset, at)
        waiting = [*effects.sends, *waiting]
        offset += 1
    return offset
