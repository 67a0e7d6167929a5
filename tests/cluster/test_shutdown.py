"""A worker that is told to end does so within ten seconds, and whatever it has begun is on the log for the next one."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sf_healer.core import steps
from sf_healer.core.steps import Announced, Step
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.topics import STEPS
from sf_healer.worker import CRASHED
from tests.cluster.small import connected
from tests.cluster.test_actuator_worker import (
    a_worker,
    check,
    create_jobs,
    create_topics,
    stage,
)
from tests.lab.api_proxy import ApiProxy, Asks, Fault, Harm, Weather
from tests.lab.waiting import until
from tests.lab.worker import records_of

if TYPE_CHECKING:
    from pathlib import Path

    from sf_healer.local.cluster import LocalCluster
    from tests.lab.worker import Worker

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]

JOBS = 6
ENDED_SECONDS = 10.0
LATE_SECONDS = 4.0
#: Each write reaches the API server long after it was sent, also when its sender is gone by then.
SLOW_WRITES = Weather(
    chance=1.0,
    faults={asks: {Fault(Harm.LATE, seconds=LATE_SECONDS): 1.0} for asks in (Asks.DELETE, Asks.CREATE)},
)
STEP_OF = {Asks.DELETE: {Step.DELETE}, Asks.CREATE: {Step.CREATE, Step.RESTORE}}


@pytest.mark.parametrize("asks", [Asks.DELETE, Asks.CREATE])
async def test_a_worker_told_to_end_while_its_calls_are_under_way_leaves_none_that_is_not_on_the_log(
    tmp_path: Path, local_cluster: LocalCluster, asks: Asks
):
    with (
        EmbeddedBroker() as broker,
        ApiProxy.before(local_cluster.kubeconfig) as proxy,
        connected(local_cluster) as cluster,
    ):
        olds = await asyncio.to_thread(create_jobs, cluster, JOBS)
        worker = a_worker(
            "ended",
            tmp_path,
            broker.bootstrap,
            cluster,
            proxy.kubeconfig(local_cluster.kubeconfig, at=tmp_path / "through-the-proxy"),
            broker_session_timeout_seconds=3,
            broker_heartbeat_seconds=0.5,
            demo_accept_create_time="true",
        )
        await create_topics(worker)
        async with stage(broker.bootstrap) as played:
            with worker:
                await asyncio.to_thread(worker.wait_until_ready)
                proxy.change_weather(SLOW_WRITES)
                for old in olds:
                    await played.ask(old)
                await asyncio.to_thread(until, lambda: under_way(proxy, asks), f"a {asks} under way", seconds=60.0)
                assert await asyncio.to_thread(ended_within, worker) < ENDED_SECONDS
                told_at = time.time()
                await every_write_is_announced(broker.bootstrap, proxy)
                assert not [each for each in writes(proxy) if each.at > told_at]
                proxy.change_weather(Weather())
                worker.start()
                await played.until_restarted(olds, worker)
        check(cluster, olds, played.outcomes)


async def test_a_worker_told_to_end_while_its_broker_is_away_does_so_within_ten_seconds(
    tmp_path: Path, local_cluster: LocalCluster
):
    with ExitStack() as stack:
        broker, cluster = EmbeddedBroker(), stack.enter_context(connected(local_cluster))
        with broker:
            worker = a_worker(
                "alone",
                tmp_path,
                broker.bootstrap,
                cluster,
                local_cluster.kubeconfig,
                broker_session_timeout_seconds=3,
                broker_heartbeat_seconds=0.5,
                demo_accept_create_time="true",
            )
            await create_topics(worker)
            stack.enter_context(worker)
            await asyncio.to_thread(worker.wait_until_ready)
        await asyncio.to_thread(until_said, worker, "Unable connect to node", seconds=60.0)
        # Nothing is acknowledged any more, so it says that it could not end in order.
        assert await asyncio.to_thread(ended_within, worker, status=CRASHED) < ENDED_SECONDS
        assert "stop_hangs" in worker.log.read_text()


def until_said(worker: Worker, told: str, *, seconds: float) -> None:
    until(lambda: told in worker.log.read_text(), f"the log to say {told}", seconds=seconds)


def under_way(proxy: ApiProxy, asks: Asks) -> bool:
    return any(request.asks is asks and not request.status for request in list(proxy.requests))


def ended_within(worker: Worker, *, status: int = 0) -> float:
    """Tell a worker to end; give how long it took."""
    child = worker.server._child
    assert child is not None
    began_at = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(ENDED_SECONDS * 2) == status, worker.tail()
    return time.monotonic() - began_at


def writes(proxy: ApiProxy):
    return [request for request in list(proxy.requests) if request.asks in STEP_OF]


async def every_write_is_announced(bootstrap: str, proxy: ApiProxy) -> None:
    """See that each call that reached the API was announced before, and no announcement stands for two."""
    log = [(steps.decode(record.value), record.timestamp / 1000) for record in await records_of(bootstrap, STEPS)]
    announced = [(record, at) for record, at in log if isinstance(record, Announced)]
    for asks, of_step in STEP_OF.items():
        calls = sorted(request.at for request in writes(proxy) if request.asks is asks)
        said = sorted(at for record, at in announced if record.step in of_step)
        assert len(said) >= len(calls), (asks, said, calls)
        assert all(earlier <= later for earlier, later in zip(said, calls, strict=False)), (asks, said, calls)
