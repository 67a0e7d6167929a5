"""Where fifty Jobs are restarted while everything that can go wrong does: real API server, three real brokers, workers.

The API server stands behind a proxy that knows what went through. A seed chooses Jobs and moments; STORY_SEED=N plays a
story again (the machine's own timing is not in it).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tests.lab.worker import Worker
from tests.scenarios import jobs as fifty
from tests.scenarios.audit import replaced_empty
from tests.scenarios.chronicle import Chronicle
from tests.scenarios.restarts import POLICY, Story, Trap, telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from tests.lab.api_proxy import ApiProxy
    from tests.lab.kafka import KafkaCluster
    from tests.lab.kube import ControlPlane
    from tests.scenarios.jobs import Job

JOBS = 50
#: Admission starts with one restart at a time and doubles with each that worked: after these all go at once.
AT_ONCE_AFTER = 6
#: A killed worker is missed after this; Kafka's own least of 6 s would only make the test longer.
SESSION_SECONDS = 3.0
HEARTBEAT_SECONDS = 0.5


class Ground(msgspec.Struct):
    """Where a story plays."""

    kafka: KafkaCluster
    control_plane: ControlPlane
    proxy: ApiProxy
    namespace: str
    kubeconfig: Path  # of the workers: their own rights, through the proxy
    directory: Path
    seed: int

    def worker(self, name: str, *, session_seconds: float = SESSION_SECONDS, **settings: Any) -> Worker:
        policy = self.directory / "policy.toml"
        policy.write_text(POLICY)
        return Worker(
            name,
            self.directory,
            bootstrap=self.kafka.bootstrap,
            mode="heal",
            namespace=self.namespace,
            kubeconfig=self.kubeconfig,
            policy_file=policy,
            mark_interval_seconds=1.0,
            sweep_window_seconds=1.0,
            broker_session_timeout_seconds=session_seconds,
            broker_heartbeat_seconds=HEARTBEAT_SECONDS,
            **settings,
        )

    def create(self) -> list[Job]:
        owner = {"metadata": {"name": "owner"}}
        made = self._call("POST", f"/api/v1/namespaces/{self.namespace}/configmaps", owner)
        named = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": made["metadata"]["uid"]}
        made_jobs = fifty.make(JOBS, seed=self.seed, namespace=self.namespace, owner=named)
        for job in made_jobs:
            self._call("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", job.manifest)
        return made_jobs

    def remove(self) -> None:
        self._call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.control_plane.call(method, path, body)
        assert answer.status in {200, 201}, answer
        return answer.body


@asynccontextmanager
async def played(ground: Ground) -> AsyncIterator[Story]:
    """Play a story from the first report; ends with the audit."""
    async with Chronicle(ground.control_plane.kubeconfig, ground.namespace) as chronicle:
        jobs = await asyncio.to_thread(ground.create)
        async with telling(ground.kafka.bootstrap, chronicle, jobs) as story:
            ground.proxy.watch_for = story.killer.see_request
            yield story
            faults = await story.faults()
    assert not faults, "\n".join(faults)


@contextmanager
def running(*workers: Worker) -> Iterator[None]:
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        for worker in workers:
            worker.stop()


async def kill_at_each(ground: Ground, traps: Sequence[Trap], tell: Callable[[str], None]) -> None:
    """Restart fifty Jobs, again as often as it takes, and kill the actuator at each trap."""
    began = time.monotonic()
    tell(f"seed {ground.seed}, {len(traps)} kills")
    async with played(ground) as story:
        detector, actuator = ground.worker("detector", role="detector"), ground.worker("actuator", role="actuator")
        with running(detector, actuator):
            await asyncio.to_thread(detector.wait_until_ready)
            await asyncio.to_thread(actuator.wait_until_ready)
            await story.fail_all()
            await story.until_restarted(AT_ONCE_AFTER)
            for number, trap in enumerate(traps):
                await story.kill_at(trap, actuator)
                actuator.start()
                if number % 10 == 9:
                    tell(f"{number + 1} kills and {story.restarts()} restarts in {time.monotonic() - began:.0f} s")
            await story.finish([detector, actuator])
        tell(summary(story, time.monotonic() - began))
        assert len(story.killer.kills) == len(traps)


def summary(story: Story, seconds: float) -> str:
    empty = f", {count} overlooked by the Job controller" if (count := replaced_empty(story.chronicle)) else ""
    return f"{len(story.killer.kills)} kills, {JOBS} Jobs, {story.restarts()} restarts{empty}, {seconds:.0f} s"
