"""From a command to the new Job, beside what the API server itself takes to delete a Job and create it again.

A real kube-apiserver, controller-manager and scheduler, with kwok in the kubelet's place; pods come up and end at once.
The floor does what a restart does and nothing else, over one connection that stays open: delete in the foreground if
the uid is still that, hear of its end by a watch, create. sf-healer's time is from the broker's time of the command on
`healer-actions` to the watch's event of the new Job: reading the command, admission, every step put on the log before
it is taken and after it, the manifest read and kept, a look whether the pods are gone. One Job at a time.
"""

import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.engines.healer import make_topics
from benchmarks.laboratory import Laboratory
from benchmarks.results import Recreations
from benchmarks.sources import PARTITIONS, make_topic
from sf_healer import topics
from sf_healer.core import commands
from sf_healer.core.commands import Command
from sf_healer.local.launcher import Queue, environment, job_manifest, short_id
from tests.lab.kube import ControlPlane
from tests.lab.kube.rules import RULES
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, drop_topics, records_of
from tests.scenarios.chronicle import Chronicle
from tests.scenarios.restarts import POLICY

JOBS = 30
TARGET, KIND = "loader-producer", "api_candles_5m"
_SOURCE = "queue-events-of-recreations"
_SEED = 7
_SECONDS = 60.0


class _Job(msgspec.Struct):
    name: str
    queue_id: str
    producer: str
    manifest: dict[str, Any]

    def says(self, status: str) -> bytes:
        told = {"queue_id": self.queue_id, "producer": self.producer, "status": status, "finished": status == "error"}
        return json.dumps(told).encode()


class _Watch(Chronicle):
    """What the API server says has happened to the Jobs, with the moment each event came, and a way to ask it."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        super().__init__(kubeconfig, namespace)
        self._awaited: dict[tuple[str, str], asyncio.Future[float]] = {}
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    def take(self, resource: str, type_: str, found: dict[str, Any]) -> None:
        super().take(resource, type_, found)
        name = found["metadata"].get("name")  # a bookmark has none
        if resource == "jobs" and (event := self._awaited.pop((type_, name), None)):
            event.set_result(time.time())

    def next(self, type_: str, name: str) -> asyncio.Future[float]:
        """Give when the next event of this type comes for a Job (epoch seconds)."""
        self._awaited[type_, name] = event = asyncio.get_running_loop().create_future()
        return event

    async def create(self, manifest: dict[str, Any]) -> None:
        async with self._session.post(self._jobs, json=manifest) as answer:
            answer.raise_for_status()

    async def delete(self, name: str, uid: str) -> None:
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        async with self._session.delete(f"{self._jobs}/{name}", json=options) as answer:
            answer.raise_for_status()

    async def until_it_runs(self, name: str) -> str:
        """Return the uid of a Job's incarnation that has a running pod."""

        async def runs() -> bool:
            life = self.current(name)
            return life is not None and bool(self.running.get(life.uid))

        await until_async(runs, f"{name} to run", seconds=_SECONDS)
        life = self.current(name)
        assert life is not None
        return life.uid


def measure(lab: Laboratory) -> Recreations:
    """Recreate some Jobs by hand, then let sf-healer restart as many; seconds each."""
    with (
        tempfile.TemporaryDirectory(prefix="sf-healer-recreations-") as name,
        ControlPlane.start(Path(name) / "plane") as plane,
    ):
        asyncio.run(drop_topics(lab.bootstrap, [_SOURCE]))
        asyncio.run(make_topic(lab.bootstrap, _SOURCE, PARTITIONS))
        asyncio.run(make_topics(lab.bootstrap, _SOURCE))
        namespace = plane.create_namespace()
        policy = Path(name) / "policy.toml"
        policy.write_text(POLICY)
        worker = Worker(
            "worker",
            Path(name),
            bootstrap=lab.bootstrap,
            source_topic=_SOURCE,
            mode="heal",
            namespace=namespace,
            kubeconfig=plane.service_account(namespace, "healer", RULES),
            policy_file=policy,
        )
        by_hand, created = asyncio.run(_recreate(lab.bootstrap, plane, namespace, worker))
        commanded = asyncio.run(_commanded(lab.bootstrap))
        asyncio.run(drop_topics(lab.bootstrap, [_SOURCE]))
    ours = [at - commanded[job] for job, at in created.items()]
    return Recreations(by_hand=sorted(by_hand), ours=sorted(ours))


async def _recreate(
    bootstrap: str, plane: ControlPlane, namespace: str, worker: Worker
) -> tuple[list[float], dict[str, float]]:
    jobs = _jobs(namespace)
    async with (
        _Watch(plane.kubeconfig, namespace) as watch,
        AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer,
    ):
        for job in jobs:
            await watch.create(job.manifest)
        by_hand = [await _by_hand(watch, job) for job in jobs]
        created = {}
        with worker:
            await asyncio.to_thread(worker.wait_until_ready)
            for job in jobs:
                await watch.until_it_runs(job.name)
                new = watch.next("ADDED", job.name)
                await producer.send_and_wait(_SOURCE, job.says("error"))
                async with asyncio.timeout(_SECONDS):
                    created[f"{namespace}/{job.name}"] = await new
                await watch.until_it_runs(job.name)
                await producer.send_and_wait(_SOURCE, job.says("loading"))  # else the next one is held back
    return by_hand, created


async def _by_hand(watch: _Watch, job: _Job) -> float:
    uid = await watch.until_it_runs(job.name)
    gone = watch.next("DELETED", job.name)
    began = time.time()
    await watch.delete(job.name, uid)
    await gone
    await watch.create(job.manifest)
    return time.time() - began


async def _commanded(bootstrap: str) -> dict[str, float]:
    """Tell when the command for each Job was appended (epoch seconds)."""
    found = {}
    for record in await records_of(bootstrap, topics.ACTIONS):
        effect = commands.decode_action(record.value)
        if isinstance(effect, Command):
            found[effect.key] = record.timestamp / 1000
    return found


def _jobs(namespace: str) -> list[_Job]:
    rng = random.Random(_SEED)  # not for secrets
    made = []
    for _ in range(JOBS):
        queue = Queue.launch("BTCUSDT", KIND, "2025-06-01", short_id(rng))
        env = environment(queue, TARGET)
        manifest = job_manifest(queue, TARGET, env, namespace=namespace)
        at_once = {"kubelab.io/start-delay": "0ms", "kubelab.io/stop-delay": "0ms"}
        manifest["spec"]["template"]["metadata"] = {"annotations": at_once}
        made.append(_Job(manifest["metadata"]["name"], queue.id, env["TELEMETRY_PRODUCER_ID"], manifest))
    return made
