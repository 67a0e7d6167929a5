"""A model of the Kubernetes API with the Job controller and the kubelet behind it: batch/v1 Jobs and their pods.

Modelled: uids, one resourceVersion for all, creationTimestamp in whole seconds of the API server's clock,
preconditions, foreground deletion, AlreadyExists while a namesake is still being deleted, back-off of pods,
backoffLimit, TTL, suspend, list and watch (late, and broken now and then), pods that do not come for minutes
(kubernetes #142142) or do not go, nodes that die with their pods. Answers that get lost and calls that arrive late
are made in `Client`.
"""

import copy
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sf_healer.adapters.cluster import ApiFailure, Failure, Listing, LiveJob, PodInfo
from sf_healer.core.facts import ACTION_ID_ANNOTATION, JobFact, fact_from_manifest, gone, lost_pod
from tests.simulation.clock import Process, Scheduler
from tests.simulation.truth import Incarnation, MadeBy

Manifest = dict[str, Any]

NAMESPACE = "stf"
BACKOFF_LIMIT = 2
BACKOFF_SECONDS = 10.0
_CONTROLLER_SECONDS = (0.1, 1.0)
#: Of the creates that are refused: so many for a namesake that is gone a moment later.
_NAMESAKE_SHARE = 0.3
_SCHEDULE_SECONDS = (0.5, 4.0)
#: A node is taken for dead 50 s after its last word, its pods are evicted 300 s later, and some day it is back.
_TAKEN_FOR_DEAD_SECONDS = (40.0, 60.0)
_EVICTED_SECONDS = 300.0
_AWAY_SECONDS = (400.0, 1500.0)
_EVICTION_GRACE_SECONDS = 30.0


class Pod:
    """A pod, and the process in it."""

    def __init__(self, name: str, address: str, manifest: Manifest) -> None:
        self.name = name
        self.address = address
        self.manifest = manifest
        self.process: Any = None  # a Loader
        self.is_leaving = False
        self.is_on_dead_node = False
        self.lost_since: float | None = None  # since when the API shows it

    @property
    def phase(self) -> str:
        phase: str = self.manifest["status"]["phase"]
        return phase

    @property
    def is_active(self) -> bool:
        return not self.is_leaving and self.phase in {"Pending", "Running"}


class Job:
    """A Job as the API server has it."""

    def __init__(self, name: str, manifest: Manifest, truth: Incarnation) -> None:
        self.name = name
        self.manifest = manifest
        self.truth = truth
        self.pods: list[Pod] = []
        self.failures = 0
        self.overlooked = False
        self.fact: JobFact | None = None

    @property
    def uid(self) -> str:
        return self.truth.uid

    @property
    def version(self) -> int:
        return int(self.manifest["metadata"]["resourceVersion"])

    @property
    def is_leaving(self) -> bool:
        return "deletionTimestamp" in self.manifest["metadata"]

    @property
    def ended(self) -> str:
        for condition in self.manifest.get("status", {}).get("conditions", ()):
            if condition["status"] == "True" and condition["type"] in {"Complete", "Failed"}:
                return str(condition["type"])
        return ""

    def addresses(self) -> set[str]:
        """Return the addresses of its pods."""
        return {pod.manifest["status"]["podIP"] for pod in self.pods if "podIP" in pod.manifest["status"]}

    @property
    def suspended(self) -> bool:
        return self.manifest["spec"].get("suspend") is True


class Watch:
    """One worker's watch: changes come late, and none any more once it is broken."""

    def __init__(self, process: Process, deliver: Callable[[JobFact | None], None]) -> None:
        self.process = process
        self.deliver = deliver
        self.broken = False


class Kube:
    """The cluster."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        *,
        start_pod: Callable[[Job, Pod], Any],
        ttl_seconds: float,
        clock_offset: float = 0.0,
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.all: list[Incarnation] = []
        self.version = 1000
        self.clock_offset = clock_offset
        self.chance_overlooked = 0.0
        self.chance_pending_long = 0.0
        self.chance_lingering = 0.0
        self.chance_create_refused = 0.0
        self.chance_done_at_last = 0.0
        self.policy_since = self.policy_until = float("-inf")  # of one that refuses what the healer creates
        self.ttl_seconds = ttl_seconds
        self.on_deleted: Callable[[Incarnation], None] = lambda _truth: None
        self.on_created: Callable[[Job], None] = lambda _job: None
        self._scheduler = scheduler
        self._rng = rng
        self._start_pod = start_pod
        self._watches: list[Watch] = []
        self._pods = 0
        self._uids = 0
        #: Pods of Jobs that are gone, by Job name and uid: background deletion leaves them for a while.
        self._orphans: dict[tuple[str, str], list[Pod]] = {}

    # ---- the API

    def get(self, name: str) -> Job | None:
        return self.jobs.get(name)

    def live(self, job: Job) -> LiveJob:
        lost = lost_pod([pod.manifest for pod in job.pods], job.uid)
        return LiveJob(self._fact(job), copy.deepcopy(job.manifest), lost, self._scheduler.now + self.clock_offset)

    def create(self, manifest: Manifest, made_by: MadeBy) -> Job | ApiFailure:
        refused = self.rehearse(manifest)
        if refused is not None:
            return refused
        name = manifest["metadata"]["name"]
        created = copy.deepcopy(manifest)
        self._uids += 1
        self.version += 1
        uid = f"uid-{self._uids}"
        now = self._scheduler.now
        created["metadata"] |= {
            "uid": uid,
            "resourceVersion": str(self.version),
            "creationTimestamp": _timestamp(now + self.clock_offset),
            "generation": 1,
        }
        created["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        created["status"] = {}
        job = Job(name, created, _incarnation(created, uid, now, made_by))
        job.truth.conditions.append((now, "suspended" if job.suspended else "active"))
        self.jobs[name] = job
        self.all.append(job.truth)
        self._changed(job)
        self.on_created(job)
        job.overlooked = self._rng.random() < self.chance_overlooked
        delay = self._rng.choice((90.0, 300.0)) if job.overlooked else self._rng.uniform(*_CONTROLLER_SECONDS)
        self._scheduler.after(delay, self._reconcile, job)
        return job

    def rehearse(self, manifest: Manifest) -> ApiFailure | None:
        """Say what a create is refused for; whether the name is free is asked last."""
        name, metadata = manifest["metadata"]["name"], manifest["metadata"]
        if "uid" in metadata or "resourceVersion" in metadata or "selector" in manifest["spec"]:
            return ApiFailure(Failure.INVALID, 422, "fields that only the server may set")
        if name in self.jobs:
            return ApiFailure(Failure.ALREADY_EXISTS, 409, f'jobs.batch "{name}" already exists')
        return None

    def policy(self) -> ApiFailure | None:
        """Say what the policy of now has against manifests that are older than it; the platform writes new ones."""
        is_in_force = self._scheduler.now < self.policy_until
        return ApiFailure(Failure.INVALID, 422, "denied by an admission policy") if is_in_force else None

    def delete(
        self, name: str, *, uid: str = "", version: str = "", by: str, foreground: bool = True
    ) -> Job | ApiFailure:
        job = self.jobs.get(name)
        if job is None:
            return ApiFailure(Failure.NOT_FOUND, 404, f'jobs.batch "{name}" not found')
        if (uid and job.uid != uid) or (version and str(job.version) != version):
            return ApiFailure(Failure.CONFLICT, 409, "precondition failed")
        if job.is_leaving:
            return job
        now = self._scheduler.now
        job.truth.deletion_asked = now
        job.truth.removed_by = by
        if not foreground:
            self._orphans[name, job.uid] = list(job.pods)
            for pod in list(job.pods):
                self._evict(job, pod)
            self._remove(job)
            return job
        job.manifest["metadata"] |= {
            "deletionTimestamp": _timestamp(now + self.clock_offset),
            "finalizers": ["foregroundDeletion"],
        }
        job.truth.conditions.append((now, "deleting"))
        self._bump(job)
        for pod in list(job.pods):
            self._evict(job, pod)
        self._collect(job)
        return job

    def patch(self, job: Job, change: Callable[[Manifest], None]) -> None:
        """Change a Job, as a person or a controller does."""
        was_suspended = job.suspended
        change(job.manifest)
        self._bump(job)
        now = self._scheduler.now
        if job.suspended and not was_suspended:
            job.truth.conditions.append((now, "suspended"))
            for pod in list(job.pods):
                self._evict(job, pod)
        elif was_suspended and not job.suspended:
            job.truth.conditions.append((now, "active"))
            self._scheduler.after(self._rng.uniform(*_CONTROLLER_SECONDS), self._reconcile, job)

    def listed(self) -> tuple[tuple[JobFact, ...], int]:
        return tuple(self._fact(job) for job in self.jobs.values()), self.version

    def watch(self, watch: Watch) -> None:
        self._watches = [each for each in self._watches if each.process.alive and not each.broken]
        self._watches.append(watch)

    def break_watches(self, of: Process | None = None) -> None:
        """End all watches, or those of one process: the version they follow is no longer kept."""
        broken = [watch for watch in self._watches if of in {None, watch.process}]
        for watch in broken:
            watch.broken = True
            self._scheduler.after(self._rng.uniform(0.1, 30.0), watch.deliver, None, owner=watch.process)
        self._watches = [watch for watch in self._watches if not watch.broken]

    def pods_of(self, name: str, uid: str) -> list[Pod]:
        """Give the pods of one incarnation, or of all."""
        job = self.jobs.get(name)
        pods = list(job.pods) if job is not None and uid in {"", job.uid} else []
        left = (each for (of, by), each in self._orphans.items() if of == name and uid in {"", by})
        return pods + [pod for each in left for pod in each]

    # ---- the controllers

    def end_pod(self, job: Job, pod: Pod, *, succeeded: bool) -> None:
        """The process in a pod has ended by itself."""
        if pod not in job.pods or pod.phase != "Running" or pod.is_on_dead_node:
            return
        pod.manifest["status"]["phase"] = "Succeeded" if succeeded else "Failed"
        self._stopped_running(job)
        self._bump_pod(job, pod)
        self._scheduler.after(self._rng.uniform(*_CONTROLLER_SECONDS), self._account, job, succeeded)

    def done_at_last(self, name: str) -> None:
        """A Job that was given up may come to its end after all, right after a delete of it that gave no answer."""
        job = self.jobs.get(name)
        if job is None or job.is_leaving or not self.chance_done_at_last:
            return
        if self._rng.random() < self.chance_done_at_last:
            for pod in list(job.pods):
                if pod.process is not None:
                    pod.process.kill()
                self.end_pod(job, pod, succeeded=True)

    def _reconcile(self, job: Job) -> None:
        """Make the pod of an active Job."""
        if self.jobs.get(job.name) is not job or job.is_leaving or job.suspended or job.ended:
            return
        if any(pod.is_active for pod in job.pods):
            return
        self._pods += 1
        pod = Pod(
            f"{job.name}-{self._pods}",
            f"10.0.{self._pods // 250}.{self._pods % 250}",
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{job.name}-{self._pods}",
                    "creationTimestamp": _timestamp(self._scheduler.now + self.clock_offset),
                    "labels": {"batch.kubernetes.io/controller-uid": job.uid, "job-name": job.name},
                },
                "status": {"phase": "Pending"},
            },
        )
        job.pods.append(pod)
        self._bump_pod(job, pod)
        long = self._rng.random() < self.chance_pending_long
        delay = self._rng.uniform(200.0, 900.0) if long else self._rng.uniform(*_SCHEDULE_SECONDS)
        self._scheduler.after(delay, self._run, job, pod)

    def _run(self, job: Job, pod: Pod) -> None:
        if pod not in job.pods or pod.is_leaving or pod.phase != "Pending":
            return
        pod.manifest["status"] |= {"phase": "Running", "podIP": pod.address}
        job.truth.running.append((self._scheduler.now, None))
        job.truth.drained_since = None  # that was the pod before
        self._bump_pod(job, pod)
        pod.process = self._start_pod(job, pod)

    def _account(self, job: Job, succeeded: bool) -> None:  # noqa: FBT001  an event's payload
        """Count an ended pod, as the Job controller does."""
        if self.jobs.get(job.name) is not job or job.is_leaving or job.ended:
            return
        if succeeded:
            self._finish(job, "Complete")
            return
        job.failures += 1
        if job.failures > BACKOFF_LIMIT:
            self._finish(job, "Failed")
        else:
            self._scheduler.after(BACKOFF_SECONDS * 2.0 ** (job.failures - 1), self._reconcile, job)

    def _finish(self, job: Job, kind: str) -> None:
        job.manifest["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        job.truth.conditions.append((self._scheduler.now, kind.lower()))
        self._bump(job)
        self._scheduler.after(self.ttl_seconds, self._expire, job)

    def _expire(self, job: Job) -> None:
        if self.jobs.get(job.name) is job and not job.is_leaving:
            self.delete(job.name, uid=job.uid, by="ttl", foreground=False)

    def _evict(self, job: Job, pod: Pod) -> None:
        """Delete a pod: its process gets SIGTERM, and is gone some time later."""
        if pod.is_leaving:
            return
        self._leave(job, pod)
        if pod.is_on_dead_node:
            return  # its kubelet hears of that when it is back
        if pod.process is not None:
            pod.process.terminate()
        lingers = self._rng.random() < self.chance_lingering
        grace = self._rng.uniform(310.0, 500.0) if lingers else self._rng.uniform(0.1, 8.0)
        self._scheduler.after(grace if pod.phase == "Running" else 0.1, self._remove_pod, job, pod)

    def _leave(self, job: Job, pod: Pod) -> None:
        pod.is_leaving = True
        pod.lost_since = self._scheduler.now
        at = pod.lost_since + self.clock_offset + (_EVICTION_GRACE_SECONDS if pod.phase == "Running" else 0.0)
        pod.manifest["metadata"]["deletionTimestamp"] = _timestamp(at)
        self._stopped_running(job)

    # ---- a node that dies

    def lose_node(self, job: Job, pod: Pod) -> None:
        """Let the node of a running pod die: nobody hears of the pod any more, and Kubernetes acts on that in time."""
        pod.is_on_dead_node = True
        pod.process.kill()
        dead_after = self._rng.uniform(*_TAKEN_FOR_DEAD_SECONDS)
        self._scheduler.after(dead_after, self._mark_not_ready, job, pod)
        self._scheduler.after(dead_after + _EVICTED_SECONDS, self._evict_from_dead_node, job, pod)
        self._scheduler.after(dead_after + self._rng.uniform(*_AWAY_SECONDS), self._remove_pod, job, pod)

    def _mark_not_ready(self, job: Job, pod: Pod) -> None:
        if pod not in job.pods or pod.is_leaving:
            return
        pod.lost_since = self._scheduler.now
        since = _timestamp(pod.lost_since + self.clock_offset)
        pod.manifest["status"]["conditions"] = [
            {"type": "Ready", "status": "False", "lastTransitionTime": since},
            {"type": "ContainersReady", "status": "True"},
        ]
        self._bump_pod(job, pod)

    def _evict_from_dead_node(self, job: Job, pod: Pod) -> None:
        if pod not in job.pods or pod.is_leaving:
            return
        self._leave(job, pod)
        self._bump_pod(job, pod)
        self._scheduler.after(self._rng.uniform(*_CONTROLLER_SECONDS), self._reconcile, job)

    def _remove_pod(self, job: Job, pod: Pod) -> None:
        if pod.process is not None:
            pod.process.kill()
        orphans = self._orphans.get((job.name, job.uid))
        if orphans is not None and pod in orphans:
            orphans.remove(pod)
        if pod in job.pods:
            job.pods.remove(pod)
            self._stopped_running(job)
            if self.jobs.get(job.name) is job:
                self._bump(job)  # its status counts its pods
        if job.is_leaving:
            self._collect(job)

    def _collect(self, job: Job) -> None:
        if not job.pods and self.jobs.get(job.name) is job:
            self._scheduler.after(self._rng.uniform(0.02, 0.5), self._remove, job)

    def _remove(self, job: Job) -> None:
        if self.jobs.get(job.name) is not job:
            return
        del self.jobs[job.name]
        self.version += 1
        now = self._scheduler.now
        job.truth.gone = now
        job.truth.conditions.append((now, "gone"))
        self._stopped_running(job)
        self._tell(gone(self._fact(job), self.version))
        self.on_deleted(job.truth)

    def _stopped_running(self, job: Job) -> None:
        running = job.truth.running
        if (
            running
            and running[-1][1] is None
            and not any(pod.phase == "Running" and not (pod.is_leaving and pod.is_on_dead_node) for pod in job.pods)
        ):
            running[-1] = (running[-1][0], self._scheduler.now)

    # ---- telling

    def _bump(self, job: Job) -> None:
        self.version += 1
        job.manifest["metadata"]["resourceVersion"] = str(self.version)
        self._changed(job)

    def _bump_pod(self, job: Job, pod: Pod) -> None:
        """A pod changed; the Job's status, and so its version, follows."""
        self.version += 1
        pod.manifest["metadata"]["resourceVersion"] = str(self.version)
        self._bump(job)

    def _fact(self, job: Job) -> JobFact:
        if job.fact is None:
            job.fact = fact_from_manifest(job.manifest, [pod.manifest for pod in job.pods])
        return job.fact

    def _changed(self, job: Job) -> None:
        job.fact = None
        self._tell(self._fact(job))

    def _tell(self, fact: JobFact) -> None:
        for watch in self._watches:
            if not watch.broken:
                self._scheduler.after(self._rng.uniform(0.005, 0.3), _deliver, watch, fact, owner=watch.process)


def _deliver(watch: Watch, fact: JobFact) -> None:
    watch.deliver(fact)


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _incarnation(manifest: Manifest, uid: str, now: float, made_by: MadeBy) -> Incarnation:
    env = {item["name"]: item["value"] for item in manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
    producer, queue_id = env.get("TELEMETRY_PRODUCER_ID", ""), env.get("QUEUE_ID", "")
    annotations = manifest["metadata"].get("annotations", {})
    return Incarnation(
        key=f"{NAMESPACE}/{manifest['metadata']['name']}",
        uid=uid,
        created=now,
        made_by=made_by if not annotations.get(ACTION_ID_ANNOTATION) else MadeBy.HEALER,
        target=producer.rpartition("__")[0],
        queue_id=queue_id,
        managed=bool(producer and queue_id),
        spec=env.get("SPEC", ""),
        said=[],
        running=[],
        conditions=[],
        skip_since=now if annotations.get("sf-healer.io/skip") == "true" else None,
        managed_by=manifest["spec"].get("managedBy", ""),
    )


class Client:
    """What one process calls: the interface of adapters/cluster.py, with calls that fail in every known way.

    `answer_seconds` is how long the answer of the last call takes: the caller waits for it.
    """

    def __init__(self, kube: Kube, scheduler: Scheduler, rng: random.Random, *, chance: float) -> None:
        self.answer_seconds = 0.0
        self.chance = chance
        self.down_until = 0.0
        self.before_delete: Callable[[str, str], None] = lambda _name, _uid: None
        self.before_create: Callable[[str, Manifest], None] = lambda _name, _manifest: None
        self._kube = kube
        self._scheduler = scheduler
        self._rng = rng

    def list_jobs(self) -> Listing | ApiFailure:
        failure = self._fault()
        if failure is not None:
            return failure
        facts, version = self._kube.listed()
        now = self._scheduler.now
        return Listing(facts, str(version), str(version), now, api_at=float(int(now + self._kube.clock_offset)))

    def read_job(self, _namespace: str, name: str) -> LiveJob | ApiFailure:
        failure = self._fault()
        if failure is not None:
            return failure
        job = self._kube.get(name)
        if job is None:
            return ApiFailure(Failure.NOT_FOUND, 404, f'jobs.batch "{name}" not found')
        return self._kube.live(job)

    def pods_of(self, _namespace: str, job_name: str, uid: str) -> tuple[PodInfo, ...] | ApiFailure:
        failure = self._fault()
        if failure is not None:
            return failure
        return tuple(PodInfo(pod.name, pod.phase, "", pod.is_leaving) for pod in self._kube.pods_of(job_name, uid))

    def delete_job(
        self, _namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> ApiFailure | None:
        def call() -> ApiFailure | None:
            job = self._kube.get(name)
            would = job is not None and not job.is_leaving
            if would and job is not None and uid in {"", job.uid} and resource_version in {None, str(job.version)}:
                self.before_delete(name, job.uid)
            answer = self._kube.delete(name, uid=uid, version=resource_version or "", by="healer")
            return answer if isinstance(answer, ApiFailure) else None

        failed: ApiFailure | None = self._write(call)
        if failed is not None and failed.kind in {Failure.TIMEOUT, Failure.SERVER}:
            self._kube.done_at_last(name)
        return failed

    def rehearse_create(self, _namespace: str, manifest: Manifest) -> ApiFailure | None:
        return self._fault() or self._kube.policy() or self._kube.rehearse(manifest)

    def create_job(self, _namespace: str, manifest: Manifest) -> LiveJob | ApiFailure:
        def call() -> LiveJob | ApiFailure:
            denied = self._kube.policy()
            if denied is not None:
                return denied
            name, chance = manifest["metadata"]["name"], self._kube.chance_create_refused
            drawn = self._rng.random()
            if drawn < _NAMESAKE_SHARE * chance:  # of one that came and went meanwhile
                return ApiFailure(Failure.ALREADY_EXISTS, 409, "object is being deleted: it already exists")
            if drawn < chance:
                return ApiFailure(Failure.INVALID, 422, "admission webhook denied the request")
            if self._kube.get(name) is None:
                self.before_create(name, manifest)
            job = self._kube.create(manifest, MadeBy.HEALER)
            return job if isinstance(job, ApiFailure) else self._kube.live(job)

        made: LiveJob | ApiFailure = self._write(call)
        return made

    # ---- how calls fail

    def _fault(self) -> ApiFailure | None:
        """Fail before the server has done anything, or not."""
        self.answer_seconds = self._rng.uniform(0.002, 0.05)
        if self._scheduler.now < self.down_until:
            return ApiFailure(Failure.UNREACHABLE, 0, "connection refused")
        if self._rng.random() >= self.chance:
            return None
        return self._rng.choice(
            (
                ApiFailure(Failure.THROTTLED, 429, "too many requests", self._rng.choice((1.0, 5.0, None))),
                ApiFailure(Failure.SERVER, 500, "etcdserver: leader changed"),
                ApiFailure(Failure.SERVER, 503, "service unavailable"),
                self._silent(),
            )
        )

    def _silent(self) -> ApiFailure:
        self.answer_seconds = self._rng.choice((3.0, 9.0, 12.0))  # the caller's own limit is 10 s
        return ApiFailure(Failure.TIMEOUT, 0, "read timed out")

    def _write(self, call: Callable[[], Any]) -> Any:
        """A write fails before, or its answer is lost, or it is done after we gave up."""
        roll = self._rng.random()
        if roll < self.chance and self._scheduler.now >= self.down_until:
            if roll < self.chance / 2:
                call()
            else:
                self._scheduler.after(self._rng.uniform(0.5, 40.0), call)
            silent = self._silent()
            return silent if self._rng.random() < 0.7 else ApiFailure(Failure.SERVER, 500, "unknown")
        failure = self._fault()
        return call() if failure is None else failure
