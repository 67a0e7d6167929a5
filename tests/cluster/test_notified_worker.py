"""The real worker on a broker and a cluster: it heals while its webhook hangs, and tells the one that does not."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.cluster.small import connected
from tests.cluster.test_actuator_worker import (
    a_worker,
    broker,
    create_jobs,
    create_topics,
    stage,
)
from tests.lab.receiver import Receiver
from tests.lab.waiting import until_async

__all__ = ["broker"]

SECONDS = 60.0
QUICK = {"broker_session_timeout_seconds": 3, "broker_heartbeat_seconds": 0.5, "demo_accept_create_time": "true"}


async def soon(condition, worker) -> None:
    async def holds() -> bool:
        return bool(await asyncio.to_thread(condition))

    await until_async(holds, f"both to be told\n{worker.tail()}", seconds=SECONDS)


def replaced(receiver: Receiver) -> list[str]:
    """Give the incarnations that a receiver was told were restarted, in order."""
    told = [msgspec.json.decode(body) for body in receiver.bodies]
    assert {each["kind"] for each in told} <= {"restarted"}
    return [each["outcome"]["uid"] for each in told]


@pytest.mark.embedded
@pytest.mark.timeout(240)
async def test_a_worker_heals_while_its_webhook_hangs_and_tells_a_new_one_from_the_same_file(
    tmp_path, broker, local_cluster
):
    url = tmp_path / "url"
    with connected(local_cluster) as cluster, Receiver() as hanging, Receiver() as well:
        hanging._answers = [hanging.hang]
        url.write_text(hanging.url)
        first, second = await asyncio.to_thread(create_jobs, cluster, 2)
        options = {**QUICK, "notify_url_file": url, "log_level": "debug"}
        worker = a_worker("one", tmp_path, broker.bootstrap, cluster, local_cluster.kubeconfig, **options)
        await create_topics(worker)
        async with stage(broker.bootstrap) as played:
            with worker:
                await asyncio.to_thread(worker.wait_until_ready)
                await played.until_restarted([first], worker)
                await soon(lambda: hanging.bodies, worker)
                await played.until_restarted([second], worker)
                assert hanging.answered == 0
                url.write_text(well.url)
                await soon(lambda: second.fact.uid in replaced(well), worker)
                await soon(lambda: worker.metrics()["sf_healer_job_events_total", "created"] == 4, worker)
                delivered = ("sf_healer_notifications_total", "delivered")
                await soon(lambda: worker.metrics()[delivered] == len(well.bodies), worker)
    # The first may have been given up before the second Job was restarted, on a machine that is that slow.
    assert replaced(well) in ([first.fact.uid, second.fact.uid], [second.fact.uid])
    log = worker.log.read_text()
    assert "hunter2" not in log, "neither the webhook's address nor the Jobs' password"
    assert "retrying" in log
