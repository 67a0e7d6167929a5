"""Before a worker starts: is everything there that it needs? If not, say so and wait; never a crash loop.

While it waits, `/readyz` is red with the reasons and `/livez` green: restarting the process would mend nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
from aiohttp import web

from sf_healer import topics
from sf_healer.access import in_words, needed, rbac_command
from sf_healer.adapters import kafka
from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.adapters.threads import in_thread
from sf_healer.core import evidence
from sf_healer.rights import rights_of_role
from sf_healer.settings import PREFIX, Identity, Mode, Role, Settings, SettingsError

log = structlog.get_logger(__name__)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0
#: An API server where nobody may ask, or that cannot be asked, what we may do: then what we may not is refused later.
_DOES_NOT_SAY = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


async def wait(settings: Settings) -> None:
    """Return once the broker, the topics and the cluster are as a worker needs them.

    Raises SettingsError where the web views cannot be served, or where a file of the settings cannot be used.
    """
    problems = ["broker and cluster have not answered yet"]
    pause = FIRST_WAIT_SECONDS
    async with _serving(settings, problems):
        while True:
            problems[:] = await find_problems(settings)
            if not problems:
                return
            for problem in problems:
                log.error("not_ready", problem=problem, retry_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_WAIT_SECONDS)


async def find_problems(settings: Settings) -> list[str]:
    """List what keeps a worker from starting, each with what mends it."""
    on_kafka = await kafka_problems(settings) or await _clock_problems(settings)
    return [*on_kafka, *await in_thread(lambda: _cluster_problems(settings))]


async def kafka_problems(settings: Settings) -> list[str]:
    """List what is wrong with our way in, our rights and the topics; only reads."""
    try:
        async with kafka.admin(settings, patience_seconds=0.0) as admin:
            needed = rights_of_role(settings)
            if missing := await admin.missing_rights(needed):
                return [f"Kafka does not allow us {right}; all we need: {_kafka_user(settings)}" for right in missing]
            ours = {right.name for right in needed}
            specs = tuple(spec for spec in topics.specs(settings, await admin.broker_count()) if spec.name in ours)
            platform = _platform_topics(settings)
            found = await admin.describe([*(spec.name for spec in specs), *platform], without_configs=platform)
            statuses = topics.compare(specs, found, ",".join(settings.bootstrap_servers))
            return [
                *(f"the platform's topic {name} does not exist" for name in platform if name not in found),
                *(
                    f"topic {status.spec.name} does not exist: run `sf-healer topics --create`"
                    for status in statuses
                    if status.state is topics.State.MISSING
                ),
                *(f"topic {status.spec.name}: {told}" for status in statuses for told in status.differences),
            ]
    except (kafka.BrokerUnreachableError, kafka.BrokerRefusedError) as error:
        return [str(error)]


def _kafka_user(settings: Settings) -> str:
    return f"`sf-healer topics --kafka-user {settings.role}`"


async def _clock_problems(settings: Settings) -> list[str]:
    if settings.demo_accept_create_time or settings.mode is not Mode.HEAL:
        return []
    try:
        async with kafka.admin(settings, patience_seconds=0.0) as admin:
            if await admin.honours_log_append_time(topics.EVIDENCE, evidence.EMPTY):
                return []
    except (kafka.BrokerUnreachableError, kafka.BrokerRefusedError) as error:
        return [str(error)]
    problem = (
        f"the broker ignores message.timestamp.type=LogAppendTime of {topics.EVIDENCE}: verdicts would hang on "
        "the clocks of producers (SF_HEALER_DEMO_ACCEPT_CREATE_TIME=true accepts that, for a demo)"
    )
    return [problem]


def _platform_topics(settings: Settings) -> tuple[str, ...]:
    return () if settings.role is Role.ACTUATOR else (settings.source_topic, settings.control_topic)


def _cluster_problems(settings: Settings) -> list[str]:
    if settings.identity is not Identity.CLUSTER:
        return []
    try:
        cluster = Cluster.connect(namespace=settings.namespace, kubeconfig=settings.kubeconfig)
    except SettingsError as error:
        return [str(error)]
    try:
        return list(_missing_access(cluster, settings))
    finally:
        cluster.close()


def _missing_access(cluster: Cluster, settings: Settings) -> Iterator[str]:
    for need in needed(settings.role, settings.mode):
        if not need.required:
            continue
        may = cluster.may(need.access)
        if may is False:
            right = in_words([need.access])
            command = rbac_command(settings.role, settings.mode, namespace=settings.namespace)
            yield f"we may not {right} in namespace {settings.namespace} ({need.why}); all we need: `{command}`"
        elif isinstance(may, ApiFailure) and may.status not in _DOES_NOT_SAY:
            yield f"the cluster does not answer for the Jobs of namespace {settings.namespace}: {may.message}"
            return


@asynccontextmanager
async def _serving(settings: Settings, problems: list[str]) -> AsyncIterator[None]:
    """Answer the probes on the worker's own ports until the worker takes them."""

    async def readyz(_: web.Request) -> web.Response:
        return web.json_response({"ready": False, "problems": problems}, status=503)

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"alive": True, "problems": []})

    application = web.Application()
    application.add_routes([web.get("/readyz", readyz), web.get("/livez", livez)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        for port in _ports(settings):
            await _listen(runner, settings.web_host, port)
        yield
    finally:
        await runner.cleanup()


def _ports(settings: Settings) -> tuple[int, ...]:
    """List the ports of the views: with both apps in one process the actuator's is the next one."""
    port = settings.web_port
    return (port, port + 1) if settings.role is Role.ALL else (port,)


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{PREFIX}WEB_PORT", f"cannot listen on {host}:{port}: {reason}") from error
