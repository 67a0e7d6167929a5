"""A worker to which nothing is brought any more, although its broker answers, ends itself so that it is restarted."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from sf_healer.local.broker import EmbeddedBroker
from sf_healer.topics import EVIDENCE
from tests.broker.starving_proxy import StarvingProxy
from tests.lab.process import Server
from tests.lab.quick import QUICK_HEARTBEAT_SECONDS
from tests.lab.waiting import until
from tests.lab.worker import Worker, make_topics, send

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

SECONDS = 60.0
#: The worker as it is, but for a minute that is shorter.
QUICK = (
    "import sf_healer.core.progress as progress; progress.STALLED_AFTER_SECONDS = 6.0; "
    "from sf_healer.cli import main; main()"
)
REPORT = {"status": "loading", "queue_id": "loader-a-P4nTkv", "producer": "loader-ws__P4nTkv"}


def test_a_worker_that_nothing_is_brought_to_any_more_says_so_and_ends_with_1(tmp_path: Path):
    with StarvingProxy() as proxy, EmbeddedBroker(advertised=proxy.address) as broker:
        proxy.forward_to(broker.bootstrap)
        asyncio.run(make_topics(proxy.address))
        worker = Worker(
            "starved",
            tmp_path,
            bootstrap=proxy.address,
            identity="convention",
            mark_interval_seconds=0.2,
            broker_session_timeout_seconds=3,
            broker_heartbeat_seconds=QUICK_HEARTBEAT_SECONDS,
        )
        *environment, _healer, command = worker.command("worker")
        worker.server = Server("starved", [*environment, sys.executable, "-c", QUICK, command], log=worker.log)
        with worker:
            worker.wait_until_ready()
            asyncio.run(send(proxy.address, [json.dumps(REPORT).encode()]))
            until(worker.jobs, "the report to be folded", seconds=SECONDS)
            alive = worker.get("/livez")
            assert alive is not None
            assert alive.status == 200
            proxy.starve()
            until(lambda: not worker.server.is_alive, "the worker to end", seconds=SECONDS)
        assert worker.server._child is not None
        assert worker.server._child.returncode == 1, worker.tail()
    # Python itself may have a word, too, about what a process that ends on purpose leaves undone.
    events = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    stalled = [event for event in events if event["event"] == "stalled"]
    assert stalled, worker.tail()
    assert any(EVIDENCE in problem for problem in stalled[0]["problems"])
