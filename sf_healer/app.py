"""The two Faust applications, built from the settings; nothing is registered on them here.

Two fixed ids because one group with different subscriptions splits the evidence from its changelog (tried);
agents, tables and pages register themselves when sf_healer/worker.py imports them.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import faust
import structlog
from aiokafka.errors import InvalidSessionTimeoutError
from faust.web.drivers.aiohttp import Web
from yarl import URL

from sf_healer.adapters.login import Login
from sf_healer.settings import PREFIX, Role, SettingsError, Stores, address_of, load
from sf_healer.transport import BatchTableManager, join_error, name_client
from sf_healer.transport.login import credentials

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: acks=all is awaited this long; then the process ends on purpose, and the record is read again.
SEND_TIMEOUT_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 40.0
LOOK_EVERY_SECONDS = 5.0
#: A topic that was away when partitions were assigned is left out until the clients hear of it; Kafka's five minutes
#: would be as long without an actuator. One small request each time, and a rebalance only where a topic came or went.
METADATA_AGE_SECONDS = 10.0
#: As fast as 8 MiB, and half the memory (measured: docs/decisions/0005).
FETCH_BYTES = 2 * 1024 * 1024
#: Below a broker's own message.max.bytes of 1 MiB plus its overhead.
PRODUCE_BATCH_BYTES = 1_000_000


def _or_exit(read: Callable[[], T]) -> T:
    try:
        return read()
    except SettingsError as error:
        sys.stderr.write(f"sf-healer: {error}\n")
        raise SystemExit(2) from None


settings = _or_exit(lambda: load(os.environ))
_credentials = _or_exit(lambda: credentials(Login(settings)))


class _Web(Web):
    """Faust's web server without the page that it has at `/`: that address is ours."""

    production_blueprints = ()


class _App(faust.App):
    """A Faust app whose data directory may lie in a directory that is not there yet."""

    def _new_web(self) -> Web:
        return _Web(self)

    def _create_directories(self) -> None:
        Path(settings.data_dir).mkdir(parents=True, exist_ok=True)
        super()._create_directories()
        name_client(self)

    @faust.Service.task  # an app.task would begin only once the group is joined
    async def _say_why_not_joined(self) -> None:
        told = None
        while not self.should_stop:
            await self.sleep(LOOK_EVERY_SECONDS)
            reason = turned_away(self)
            if reason is not None and reason != told:
                log.error("group_not_joined", app=self.conf.id, reason=reason)
            told = reason


def turned_away(app: faust.App) -> str | None:
    """Say why the consumer group does not let an app in, which waiting will not mend; None if it does."""
    error = join_error(app)
    if isinstance(error, InvalidSessionTimeoutError):
        seconds = settings.broker_session_timeout_seconds
        return f"the broker does not allow {PREFIX}BROKER_SESSION_TIMEOUT_SECONDS={seconds:g} (Kafka's least is 6)"
    return None if error is None else f"the consumer group {app.conf.id} turns us away: {error}"


def _app(name: str, *, partitions: int, port_offset: int) -> faust.App:
    port = settings.web_port + port_offset
    advertised = settings.web_advertised_url or address_of(settings.web_host, settings.web_port)
    return _App(
        name,
        broker=[URL(f"batch://{server}") for server in settings.bootstrap_servers],
        broker_credentials=_credentials,
        # -- state
        TableManager=BatchTableManager,
        store="memory://" if settings.stores is Stores.MEMORY else "rocksdb://?driver=rocksdict",
        datadir=Path(settings.data_dir) / name,
        table_standby_replicas=0,  # standby keys would sit in the same store as ours, with frozen times
        topic_partitions=partitions,
        topic_allow_declare=False,  # `sf-healer topics --create` makes them, with the right timestamps
        topic_disable_leader=True,
        # -- consuming
        broker_check_crcs=False,  # TCP checks, and the broker has checked them
        broker_commit_interval=0.5,
        broker_max_poll_records=20_000,
        broker_session_timeout=settings.broker_session_timeout_seconds,
        broker_heartbeat_interval=settings.broker_heartbeat_seconds,
        broker_request_timeout=max(REQUEST_TIMEOUT_SECONDS, settings.broker_session_timeout_seconds),
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_metadata_max_age_ms=int(METADATA_AGE_SECONDS * 1000),
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,  # what is in flight is read again; waiting has hung rebalances (faust #402)
        stream_buffer_maxsize=64,
        # -- producing
        producer_acks=-1,
        producer_linger=0.0,  # seconds; a batch is one bundle already
        producer_max_batch_size=PRODUCE_BATCH_BYTES,
        producer_max_request_size=PRODUCE_BATCH_BYTES,
        producer_request_timeout=SEND_TIMEOUT_SECONDS,
        # -- failing
        agent_supervisor="mode.supervisors:CrashingSupervisor",  # an exception ends the process, not an offset
        processing_guarantee="at_least_once",  # exactly-once is known to break; every fold is a join instead
        # -- web
        web_bind=settings.web_host,
        web_host=settings.web_host,
        web_port=port,
        canonical_url=URL(advertised).with_port((URL(advertised).port or settings.web_port) + port_offset),
        web_tables_enabled=False,  # Faust's own endpoints would show manifests, and those hold secrets
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_router_enabled=False,
        loghandlers=[],
        worker_redirect_stdouts=False,
    )


detector = _app("sf-healer-detector", partitions=settings.partitions, port_offset=0)
#: With `role = actuator` there is no detector beside it, and it takes the web port itself.
actuator = _app("sf-healer-actuator", partitions=1, port_offset=0 if settings.role is Role.ACTUATOR else 1)
