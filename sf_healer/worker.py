"""The composition root: importing this module registers every agent, table and page on the two Faust apps.

Explicit imports, no autodiscovery: Faust's hides a module that fails to import, and the worker would start and
heal nothing. `faust -A sf_healer.worker:detector worker` works, and so does `:actuator`.
"""

import asyncio
from types import ModuleType

import faust
import structlog
from faust.worker import Worker

import agents.actuator
import agents.control
import agents.inventory
import agents.sweeper
import agents.telemetry
import agents.web
import tables.actions
import tables.jobs
from sf_healer import preflight
from sf_healer.adapters import logs
from sf_healer.app import actuator, detector
from sf_healer.settings import Role, Settings

__all__ = ["REGISTERED", "actuator", "detector", "run"]

#: Each of these registers itself when it is imported. Named here, so that no tool takes an import for unused.
REGISTERED: tuple[ModuleType, ...] = (
    agents.actuator,
    agents.control,
    agents.inventory,
    agents.sweeper,
    agents.telemetry,
    agents.web,
    tables.actions,
    tables.jobs,
)

log = structlog.get_logger(__name__)

CRASHED = 1


class _Worker(Worker):
    """Faust's worker without its own logging: adapters/logs.py has set it up, for our logs and Faust's alike."""

    def _setup_logging(self) -> None:
        pass


def apps_for(role: Role) -> tuple[faust.App, ...]:
    """Return the apps that a role runs; the first is the one Faust takes for the worker's own."""
    return {Role.ALL: (detector, actuator), Role.DETECTOR: (detector,), Role.ACTUATOR: (actuator,)}[role]


def run(settings: Settings) -> int:
    """Run the worker until it is told to stop; returns the exit status: 0 stopped, 1 crashed on purpose."""
    logs.configure(settings.log_level)
    try:
        asyncio.run(preflight.wait(settings))
    except KeyboardInterrupt:
        return 0
    apps = apps_for(settings.role)
    for app in apps:
        app.in_worker = True
    log.info("worker_starts", role=settings.role, mode=settings.mode, apps=[app.conf.id for app in apps])
    # The first app reports readiness, the others are services beside it, in one process and one event loop.
    worker = _Worker(apps[0], *apps[1:], quiet=True, redirect_stdouts=False)
    try:
        worker.execute_from_commandline()  # ends by raising, always
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except Exception:
        log.exception("worker_crashed")
        return CRASHED
