"""A worker follows the policy of a mounted ConfigMap: kubelet swaps it, and what follows is another decision.

Nothing restarts, and a content that cannot be used changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer import topics
from sf_healer.core import commands
from sf_healer.core.commands import Command
from tests.broker.brokers import BROKERS, with_topics
from tests.lab.mount import Mount
from tests.lab.waiting import until, until_async
from tests.lab.worker import Worker, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

FILE = "policy.toml"
JOB = "loader-btcusdt-api-trades-2025-06-01-mount1-arango-connector"
SEEN_SECONDS = 60.0
#: Two looks five seconds apart, and a busy machine.
FOLLOWED_SECONDS = 60.0
COMMAND_SECONDS = 60.0


def policy(silence_seconds: int, *, attempts: int) -> str:
    return f"""\
[defaults]
reporting = true
silence_threshold_seconds = {silence_seconds}
startup_threshold_seconds = 900

[admission]
attempts = {attempts}
"""


LONG, SHORT, BAD = policy(600, attempts=2), policy(3, attempts=5), policy(3, attempts=0)
HALF = SHORT[: SHORT.index("attempts")] + "attempts"


@pytest.fixture(params=BROKERS)
def bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    with with_topics(request) as bootstrap:
        yield bootstrap


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path / "etc", {FILE: LONG})


@pytest.fixture
def worker(bootstrap: str, mount: Mount, tmp_path: Path) -> Iterator[Worker]:
    with Worker(
        "follows",
        tmp_path,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=mount / FILE,
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
    ) as made:
        yield made.wait_until_ready()


def told(worker: Worker, *arguments: str) -> str:
    """Give what a command of `sf-healer` prints beside this worker."""
    done = worker.healer(*arguments, "--url", f"http://127.0.0.1:{worker.port}", seconds=COMMAND_SECONDS)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def job(worker: Worker) -> dict[str, Any]:
    answer = worker.get(f"/jobs/stf/{JOB}/")
    return answer.body if answer is not None and answer.status == 200 else {}


def policy_files(worker: Worker) -> list[dict[str, Any]]:
    answer = worker.get("/fleet/")
    assert answer is not None, worker.tail()
    return answer.body["policies"]


def attempts(worker: Worker) -> int:
    return worker.admission()["limits"]["attempts"]


async def commanded(bootstrap: str) -> list[Command]:
    found = [commands.decode_action(each.value) for each in await records_of(bootstrap, topics.ACTIONS)]
    return [each for each in found if isinstance(each, Command)]


async def test_what_is_mounted_anew_decides_from_then_on_and_nothing_restarts(
    worker: Worker, mount: Mount, bootstrap: str
):
    pid, named = worker.server.pid, {"queue_id": JOB.removesuffix("-arango-connector")}
    report = json.dumps(named | {"producer": "arango-connector__mount1", "status": "loading"}).encode()
    await send(bootstrap, [report])
    await until_async(lambda: asyncio.to_thread(job, worker), "the Job to be known", seconds=SEEN_SECONDS)
    assert job(worker)["why"]["threshold_seconds"] == 600
    assert attempts(worker) == 2
    ((_, first),) = [name for name in worker.metrics() if name[0] == "sf_healer_policy_version"]

    mount.publish({FILE: SHORT})

    async def is_commanded() -> list[Command]:
        return await commanded(bootstrap)

    (command, *_) = await until_async(is_commanded, "the Job to be commanded", seconds=FOLLOWED_SECONDS)
    assert command.evidence.threshold_seconds == 3
    assert job(worker)["verdict"] == "stuck"
    assert "silence_threshold_seconds 3 " in told(worker, "job", JOB)
    page = worker.get(f"/jobs/stf/{JOB}/", accept="text/html")
    assert page is not None
    assert "of 3s, since" in " ".join(page.body.split())
    await until_async(
        lambda: asyncio.to_thread(lambda: attempts(worker) == 5), "the limits to follow", seconds=SEEN_SECONDS
    )
    samples = worker.metrics()
    assert samples["sf_healer_policy_changes_total", ""] == 1
    assert samples["sf_healer_policy_version", first] == 0
    assert worker.server.is_alive
    assert worker.server.pid == pid
    assert worker.log.read_text().count("worker_starts") == 1


@pytest.mark.parametrize("bootstrap", BROKERS[:1], indirect=True)  # twenty seconds each, and no broker has a part in it
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param({FILE: BAD}, "attempts is not 1 to 8", id="a limit that cannot be"),
        pytest.param({FILE: HALF}, "line ", id="half a file"),
        pytest.param({"other.toml": SHORT}, "cannot be read: No such file or directory", id="the key is gone"),
    ],
)
async def test_what_cannot_be_used_is_told_in_words_and_counted_and_the_policy_before_holds(
    worker: Worker, mount: Mount, bootstrap: str, content: dict[str, str], reason: str
):
    pid, (before,) = worker.server.pid, policy_files(worker)
    assert before == {"version": before["version"], "refused": "", "workers": 1}
    mount.publish(content)

    def is_refused() -> str:
        (file,) = policy_files(worker)
        assert file["version"] == before["version"]
        return file["refused"]

    why = await asyncio.to_thread(until, is_refused, "the content to be refused", seconds=FOLLOWED_SECONDS)
    assert reason in why
    assert f"a change is refused {why}" in told(worker, "fleet")
    samples = worker.metrics()
    assert samples["sf_healer_policy_refused", ""] == 1
    assert samples["sf_healer_policy_version", before["version"]] == 1
    assert samples["sf_healer_policy_changes_total", ""] == 0
    assert attempts(worker) == 2
    mount.publish({FILE: SHORT})
    await asyncio.to_thread(until, lambda: attempts(worker) == 5, "a good one to be taken", seconds=FOLLOWED_SECONDS)
    assert policy_files(worker)[0]["refused"] == ""
    assert worker.metrics()["sf_healer_policy_refused", ""] == 0
    assert worker.server.pid == pid
