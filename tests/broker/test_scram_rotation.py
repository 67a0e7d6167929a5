"""Secrets exchanged under a running worker: a new password, a new CA; it goes on, and says so while it cannot.

The broker closes every connection a few seconds after its login (connections.max.reauth.ms; aiokafka does not log in
again on an open one), so that all of them are made anew all the time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sf_healer.rights import Purpose
from tests.broker.scram import Job, Secured, name_of
from tests.lab.waiting import until, until_async
from tests.lab.worker import send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.worker import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

USER = name_of(Purpose.ALL)
LOGIN_LASTS_MS = "5000"
READY_SECONDS = 120.0
SEEN_SECONDS = 90.0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("kafka-rotating")
    with Secured.start(directory, connections_max_reauth_ms=LOGIN_LASTS_MS) as started:
        asyncio.run(started.prepare())
        yield started


async def does_its_work(worker: Worker, secured: Secured) -> None:
    """Return once a Job that the worker has never heard of is judged."""
    job = Job()

    async def is_healthy() -> bool:
        assert worker.server.is_alive, worker.tail()
        await send(secured.cluster.bootstrap, [job.says("loading")])
        row = (await asyncio.to_thread(worker.jobs)).get(job.key)
        return row is not None and row["verdict"] == "healthy"

    await until_async(is_healthy, f"{job.key} to be healthy\n{worker.tail()}", seconds=SEEN_SECONDS)


async def test_a_worker_goes_on_with_a_new_password_and_a_new_ca_from_its_files(secured: Secured, tmp_path: Path):
    mounted = tmp_path / "mounted"
    # Red soon: refused for 30 s, a worker ends on purpose.
    worker = secured.worker("rotating", tmp_path, feed_gap_seconds=3, **secured.login_by_files(USER, mounted))
    with worker:
        await asyncio.to_thread(worker.wait_until_ready, READY_SECONDS)
        pid = worker.server.pid
        await does_its_work(worker, secured)

        # The broker is first, and the worker is not let in until its file has the new password too.
        await asyncio.to_thread(secured.cluster.set_password, USER, "a-new-password")
        await asyncio.to_thread(until_not_ready, worker, "Authentication failed", "SF_HEALER_SASL_PASSWORD")
        assert worker.get("/livez").status == 200
        (mounted / "password").write_text("a-new-password\n")
        await asyncio.to_thread(worker.wait_until_ready, READY_SECONDS)
        await does_its_work(worker, secured)

        # As a CA is exchanged: clients trust both first, then the brokers get new certificates, then the old one goes.
        old = secured.cluster.ca_file.read_text()
        secured.cluster.renew_certificates()
        new = secured.cluster.ca_file.read_text()
        (mounted / "ca.crt").write_text(old + new)
        await asyncio.to_thread(secured.cluster.reload_certificates)
        await does_its_work(worker, secured)
        (mounted / "ca.crt").write_text(new)
        await does_its_work(worker, secured)
        assert worker.server.pid == pid
    told = worker.log.read_text()
    assert "kafka_login_changed" in told
    assert "a-new-password" not in told
    assert secured.passwords[USER] not in told


def until_not_ready(worker: Worker, *words: str) -> None:
    def said() -> bool:
        assert worker.server.is_alive, worker.tail()
        answer = worker.get("/readyz")
        if answer is None or answer.status != 503:
            return False
        return all(word in "\n".join(answer.body["problems"]) for word in words)

    until(said, f"/readyz to say {words}, it says {worker.get('/readyz')}\n{worker.tail()}", seconds=SEEN_SECONDS)
