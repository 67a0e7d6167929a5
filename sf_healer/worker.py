"""The composition root: importing this module registers every agent, table and page on the two Faust apps.

Explicit imports, no autodiscovery: Faust's hides a module that fails to import, and the worker would start and
heal nothing. `faust -A sf_healer.worker:detector worker` works, and so does `:actuator`.
"""

import asyncio
import gc
import signal
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import faust
import structlog
from faust.worker import Worker
from mode import Service, ServiceT

import agents.actuator
import agents.control
import agents.inventory
import agents.policies
import agents.sweeper
import agents.telemetry
import agents.web
import tables.actions
import tables.jobs
import tables.policies
from sf_healer import preflight
from sf_healer.adapters import logs
from sf_healer.adapters.threads import leave
from sf_healer.app import actuator, detector
from sf_healer.settings import Role, Settings

__all__ = ["REGISTERED", "actuator", "detector", "run"]

#: Each of these registers itself when it is imported. Named here, so that no tool takes an import for unused.
REGISTERED: tuple[ModuleType, ...] = (
    agents.actuator,
    agents.control,
    agents.inventory,
    agents.policies,
    agents.sweeper,
    agents.telemetry,
    agents.web,
    tables.actions,
    tables.jobs,
    tables.policies,
)

log = structlog.get_logger(__name__)

CRASHED = 1

#: A stop takes a second or two, but not while the broker is away: then nothing that is waited for comes.
STOP_LIMIT_SECONDS = 8.0

#: So many new objects make Python look for cycles, which are few here. A fetch brings 12,000 records that live for
#: milliseconds; at the usual 700 they are walked over and over, which costs three times what reading them does.
OBJECTS_BEFORE_COLLECTION = 50_000


def _end_at_once() -> None:
    """End the process from beside its event loop; what it has not acknowledged is read again."""
    log.critical("stop_hangs")
    leave(CRASHED)


class _Together(Service):
    """Starts and stops services at the same time.

    Faust would have one app join its group and recover its tables before the next begins to listen: after a crash
    each join takes up to a session timeout, and the probes of the second would be refused meanwhile.
    """

    def __init__(
        self, services: Iterable[ServiceT], *, stop_limit_seconds: float = STOP_LIMIT_SECONDS, **options: Any
    ) -> None:
        self._services = tuple(services)
        self._stop_limit_seconds = stop_limit_seconds
        super().__init__(**options)

    async def on_start(self) -> None:
        await asyncio.gather(*(service.maybe_start() for service in self._services))

    async def on_stop(self) -> None:
        # Faust waits for ever for a consumer thread that crashed, as it does when the broker has gone away.
        limit = threading.Timer(self._stop_limit_seconds, _end_at_once)
        limit.daemon = True
        limit.start()
        await asyncio.gather(*(service.stop() for service in self._services))


class _Worker(Worker):
    """Faust's worker without its own logging: adapters/logs.py has set it up, for our logs and Faust's alike."""

    def __init__(self, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self.spinner = None  # it writes to stdout, even where nothing turns

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        """Start the apps side by side."""
        return [_Together(super().on_init_dependencies(), beacon=self.beacon)]

    def _setup_logging(self) -> None:
        pass


def apps_for(role: Role) -> tuple[faust.App, ...]:
    """Return the apps that a role runs; the first is the one Faust takes for the worker's own."""
    return {Role.ALL: (detector, actuator), Role.DETECTOR: (detector,), Role.ACTUATOR: (actuator,)}[role]


def run(settings: Settings) -> int:
    """Run the worker until it is told to stop; returns the exit status: 0 stopped, 1 crashed on purpose."""
    logs.configure(settings.log_level)
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    if not asyncio.run(_may_start(settings)):
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


async def _may_start(settings: Settings) -> bool:
    """Wait until everything is there that a worker needs; False: we were told to stop meanwhile."""
    waiting = asyncio.ensure_future(preflight.wait(settings))
    loop = asyncio.get_running_loop()
    for told in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(told, waiting.cancel)
    try:
        await waiting
    except asyncio.CancelledError:
        log.info("stopped_while_waiting")
        return False
    return True
