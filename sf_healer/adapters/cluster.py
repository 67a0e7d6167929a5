"""Kubernetes: the only module that imports its client. Reads, watches, deletes and creates Jobs.

Synchronous; callers use asyncio.to_thread. Every call ends within CALL_SECONDS, asks once, and gives
an expected failure back as an ApiFailure: whether and when to try again is the caller's decision. Manifests
stay the plain JSON that the API served, fields unknown to the client included. Nothing here judges a Job.
"""

import hashlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import urllib3.exceptions
import yaml
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_match_hostname import CertificateError

from sf_healer import __version__
from sf_healer.access import Access, Granted
from sf_healer.adapters import metrics
from sf_healer.adapters.failures import in_words
from sf_healer.adapters.unreached import why_unreached
from sf_healer.core.actions import CALL_SECONDS
from sf_healer.core.clocks import ClockBound
from sf_healer.core.facts import (
    JOB_NAME_LABELS,
    JobFact,
    LostPod,
    belongs_to,
    controller_uid,
    fact_from_manifest,
    gone,
    lost_pod,
    resource_version,
    with_pods,
)
from sf_healer.settings import PREFIX, SettingsError

if TYPE_CHECKING:
    from kubernetes import client, config
else:

    class _OnUse:
        """A module that is imported when something of it is asked for.

        Kubernetes' client takes 35 MiB and a fifth of a second; without a cluster, and in most commands, nobody asks.
        """

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    client, config = _OnUse("kubernetes.client"), _OnUse("kubernetes.config")

_PAGE = 500  # kubectl's own page size
_EVENT_MESSAGE_LIMIT = 1024  # characters; the API server refuses longer ones
_US = "sf-healer"
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

# The server ends a watch after this; client-go asks for 5 to 10 minutes.
_WATCH_SECONDS = 300
# The server sends a bookmark about once a minute: longer silence is a dead connection.
_WATCH_SILENCE_SECONDS = 90.0
_WATCH_RETRY_SECONDS = 1.0
_WATCH_BACKLOG = 1000  # events; a reader that lags makes the server wait, not us hold everything
_WATCH_LONGEST_RETRY_SECONDS = 30.0
_STOP_POLL_SECONDS = 0.2
_STOP_SECONDS = 5.0

_CLOCK_QUESTIONS = 4
_CLOCK_DOUBT_SECONDS = 0.3

# It is on in every cluster, and gives rights to kubelets alone.
_NODE_AUTHORIZER_LISTS_NOTHING = "node authorizer does not support user rule resolution"


def _expected() -> tuple[type[Exception], ...]:
    return (client.ApiException, urllib3.exceptions.HTTPError, msgspec.DecodeError)


Manifest = dict[str, Any]


class Failure(StrEnum):
    """Why a call to the API gave nothing."""

    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    ALREADY_EXISTS = "already_exists"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    THROTTLED = "throttled"
    SERVER = "server"
    TIMEOUT = "timeout"  # asked, no answer: a write may have happened
    BROKEN_OFF = "broken_off"  # asked, and the connection broke: a write may have happened
    UNREACHABLE = "unreachable"  # no connection, so nothing was asked
    GONE = "gone"  # 410: the version asked for is no longer kept; list again


#: Nobody answered.
NO_ANSWER = frozenset({Failure.UNREACHABLE, Failure.BROKEN_OFF, Failure.TIMEOUT})


class ApiFailure(msgspec.Struct, frozen=True):
    """A call that failed in a way one has to expect; status 0 means that there was no answer."""

    kind: Failure
    status: int
    message: str
    retry_after_seconds: float | None = None


class LiveJob(msgspec.Struct, frozen=True):
    """A Job as it is now."""

    fact: JobFact
    manifest: Manifest  # holds secrets in env: never log or show it
    lost: LostPod | None = None
    api_at: float = 0.0  # the API server's clock when it was read, to the second below; 0: it did not say


class PodInfo(msgspec.Struct, frozen=True):
    """A pod of one incarnation of a Job."""

    name: str
    phase: str
    ip: str
    deleting: bool
    owned: bool = True  # it goes with its Job; an orphan stays


class Kind(msgspec.Struct, frozen=True):
    """A kind of objects that the client has no method of its own for."""

    group: str
    version: str
    plural: str


PODS = Kind("", "v1", "pods")


class Listing(msgspec.Struct, frozen=True):
    """Every Job of the namespace joined with its pods, and where a watch goes on from."""

    facts: tuple[JobFact, ...]
    jobs_version: str
    pods_version: str
    at: float  # epoch seconds of our clock, just before the list was asked for
    pods: tuple[Manifest, ...] = ()  # only what joins need
    api_at: float = 0.0  # the API server's clock when it answered, to the second below; 0: it did not say


class Server(msgspec.Struct, frozen=True):
    """The API server, and its clock beside ours: it said `at` (epoch seconds, 0 if nothing) between the other two."""

    version: str
    asked_at: float
    at: float
    answered_at: float


class Rights(msgspec.Struct, frozen=True):
    """The rules that hold for us in the namespace; `gaps` says what the server could not list, if anything."""

    granted: tuple[Granted, ...]
    gaps: str = ""


class Change(msgspec.Struct, frozen=True):
    """A Job that is new, changed or gone; the fact is whole."""

    fact: JobFact


class Cluster:
    """One namespace of one cluster; safe to use from several threads."""

    def __init__(self, configuration: "client.Configuration", *, namespace: str) -> None:
        self.namespace = namespace
        self.url = str(configuration.host)
        self._client = client.ApiClient(configuration)
        self._client.user_agent = f"{_US}/{__version__}"  # its first part becomes the field manager of what we create
        self._client.rest_client.pool_manager.pool_classes_by_scheme = _POOLS
        self._batch = client.BatchV1Api(self._client)
        self._core = client.CoreV1Api(self._client)
        self._as_is = client.CustomObjectsApi(self._client)
        self._clock = ClockBound()

    @classmethod
    def connect(cls, *, namespace: str, kubeconfig: str | None = None) -> Self:
        """Prepare the client: from the kubeconfig given, else the pod's service account, else the user's own.

        Nothing is asked of the cluster yet. Raises SettingsError when there is no usable configuration.
        """
        # A configuration of our own. A copy of the client's default keeps refresh_api_key_hook, which puts
        # the token of whoever loaded it back on every call; the hook that the in-cluster loader sets here is
        # the one we want: it reads the rotated token again.
        configuration = client.Configuration()
        configuration.retries = False  # else urllib3 repeats calls and sleeps through Retry-After on its own
        configuration.keep_alive = True
        try:
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT_TOKEN.exists():
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # theirs
            else:
                config.load_kube_config(  # type: ignore[no-untyped-call]  # theirs
                    kubeconfig, client_configuration=configuration, persist_config=False
                )
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError) as problem:  # the last: it is no text
            raise SettingsError(f"{PREFIX}KUBECONFIG", f"no cluster to talk to: {problem}") from problem
        return cls(configuration, namespace=namespace)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # theirs

    def list_jobs(self) -> Listing | ApiFailure:
        """List all Jobs and their pods, each as of the version the listing names."""
        at = time.time()
        jobs = self._list(self._batch.list_namespaced_job)
        if isinstance(jobs, ApiFailure):
            return jobs
        pods = self._list(self._core.list_namespaced_pod, label_selector=JOB_NAME_LABELS[0])
        if isinstance(pods, ApiFailure):
            return pods
        slim = [_slim(pod) for pod in pods.items]
        by_job = _by_job(slim)
        return Listing(
            facts=tuple(fact_from_manifest(job, by_job.get(_uid(job), ())) for job in jobs.items),
            jobs_version=jobs.version,
            pods_version=pods.version,
            at=at,
            pods=tuple(slim),
            api_at=pods.api_at,  # the last answer: what the others took must not look like a clock that is behind
        )

    def watch(self, listing: Listing, stop: threading.Event) -> Iterator[Change | ApiFailure]:
        """Follow Jobs and pods from a listing on, until `stop` is set or the server forgot the version.

        A broken connection is made again from where it broke, and is yielded as the failure it was. After an
        ApiFailure GONE, the last thing yielded, list again. Changes of one Job come in the order of their
        resource_version, which is raised by one where Job and pod events overtook each other, so that no two
        different facts carry the same.
        """
        events: queue.Queue[_Event | ApiFailure] = queue.Queue(_WATCH_BACKLOG)
        followers = [
            _Follower(self._batch.list_namespaced_job, self.namespace, listing.jobs_version, events, None),
            _Follower(
                self._core.list_namespaced_pod,
                self.namespace,
                listing.pods_version,
                events,
                JOB_NAME_LABELS[0],
            ),
        ]
        inventory = _Inventory(listing)
        try:
            for follower in followers:
                follower.start()
            while not stop.is_set():
                try:
                    event = events.get(timeout=_STOP_POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(event, ApiFailure):
                    yield event
                    if event.kind is Failure.GONE:
                        return
                elif (fact := inventory.apply(event)) is not None:
                    yield Change(fact)
        finally:
            for follower in followers:
                follower.stop()

    def read_job(self, namespace: str, name: str) -> LiveJob | ApiFailure:
        """Read a Job and its pods as they are now."""
        served_at: list[float] = []
        manifest = _ask(self._batch.read_namespaced_job, name, namespace, served_at=served_at)
        if isinstance(manifest, ApiFailure):
            return manifest
        pods = self._pods(namespace, name)
        if isinstance(pods, ApiFailure):
            return pods
        fact = fact_from_manifest(manifest, pods)
        return LiveJob(fact, manifest, lost_pod(pods, fact.uid), served_at[0])

    def pods_of(self, namespace: str, job_name: str, uid: str) -> tuple[PodInfo, ...] | ApiFailure:
        """List the pods of one incarnation of a Job, those being deleted included, also after it is gone.

        Without a uid those of all incarnations.
        """
        pods = self._pods(namespace, job_name)
        if isinstance(pods, ApiFailure):
            return pods
        return tuple(_pod_info(pod) for pod in pods if belongs_to(pod, uid))

    def list_pods(self, label_selector: str) -> tuple[PodInfo, ...] | ApiFailure:
        """List the pods of the namespace that a selector meets, those being deleted included."""
        pods = self._list(self._core.list_namespaced_pod, label_selector=label_selector)
        return pods if isinstance(pods, ApiFailure) else tuple(_pod_info(pod) for pod in pods.items)

    def delete_job(self, namespace: str, name: str, uid: str, resource_version: str | None = None) -> ApiFailure | None:
        """Delete exactly this incarnation, its pods first; CONFLICT when another one has the name.

        Foreground: in the background the Job is gone at once while its pod still runs and meets the next one.
        """
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        answer = _ask(
            self._batch.delete_namespaced_job,
            name,
            namespace,
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Foreground",
                "preconditions": preconditions,
            },
        )
        return answer if isinstance(answer, ApiFailure) else None

    def create_job(self, namespace: str, manifest: Manifest) -> LiveJob | ApiFailure:
        """Create a Job; ALREADY_EXISTS also while an old one of that name is still being deleted.

        The manifest is sent as it is: the client's own method for Jobs raises for a field that it does not know,
        and a cluster newer than it has such fields in every Job.
        """
        create = self._as_is.create_namespaced_custom_object
        answer = _ask(create, "batch", "v1", namespace, "jobs", manifest, name="create_namespaced_job")
        return answer if isinstance(answer, ApiFailure) else LiveJob(fact_from_manifest(answer, ()), answer)

    def rehearse_create(self, namespace: str, manifest: Manifest) -> ApiFailure | None:
        """Ask what `create_job` would give, and create nothing (dryRun=All).

        Under the name of a Job that is there the answer is ALREADY_EXISTS, and by then validation and all of
        admission have let the manifest pass: the API server compares names last (apiserver's registry/store.go,
        create; registry/dryrun.go). An admission webhook that takes no dry run is answered for with INVALID, 400.
        """
        create = self._as_is.create_namespaced_custom_object
        place = ("batch", "v1", namespace, "jobs")
        answer = _ask(create, *place, manifest, dry_run="All", name="create_namespaced_job_dry_run")
        return answer if isinstance(answer, ApiFailure) else None

    def annotate_job(self, namespace: str, name: str, annotations: Mapping[str, str | None]) -> LiveJob | ApiFailure:
        """Set annotations of a Job, None removes one; for people: the healer's own rights do not include it."""
        answer = _ask(
            self._batch.patch_namespaced_job,
            name,
            namespace,
            body={"metadata": {"annotations": dict(annotations)}},
            _content_type="application/merge-patch+json",
        )
        return answer if isinstance(answer, ApiFailure) else LiveJob(fact_from_manifest(answer, ()), answer)

    def emit_event(
        self, key: str, uid: str, *, reason: str, message: str, once: str, type_: str = "Normal"
    ) -> ApiFailure | None:
        """Put an Event beside an incarnation of a Job for `kubectl describe`.

        With the same reason and `once` again it is no second Event, whatever the message says.
        """
        namespace, name = key.split("/", 1)
        digest = hashlib.sha256(repr((uid, type_, reason, once)).encode()).hexdigest()[:16]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = _ask(
            self._core.create_namespaced_event,
            namespace,
            body={
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{name}.{digest}", "namespace": namespace},
                "involvedObject": {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "namespace": namespace,
                    "name": name,
                    "uid": uid,
                },
                "reason": reason,
                "message": message[:_EVENT_MESSAGE_LIMIT],
                "type": type_,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
                "source": {"component": _US},
                "reportingComponent": _US,
                "reportingInstance": socket.gethostname(),
            },
        )
        if isinstance(answer, ApiFailure) and answer.kind is not Failure.ALREADY_EXISTS:
            return answer
        return None

    def list_objects(self, kind: Kind, labels: str = "", fields: str = "") -> list[Manifest] | ApiFailure:
        """List objects of a kind in the namespace; of the core group only pods."""
        place: tuple[str, ...] = (kind.group, kind.version, self.namespace, kind.plural)
        call: Callable[..., Any] = self._as_is.list_namespaced_custom_object
        if kind == PODS:
            call, place = self._core.list_namespaced_pod, (self.namespace,)
        answer = _ask(call, *place, label_selector=labels, field_selector=fields)
        return answer if isinstance(answer, ApiFailure) else answer["items"]

    def delete_pod(self, name: str, *, at_once: bool) -> ApiFailure | None:
        """Delete a pod, with its own grace period or none; for chaos experiments, never for healing."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions"} | ({"gracePeriodSeconds": 0} if at_once else {})
        answer = _ask(self._core.delete_namespaced_pod, name, self.namespace, body=body)
        return answer if isinstance(answer, ApiFailure) else None

    def read_object(self, kind: Kind, name: str) -> Manifest | ApiFailure:
        """Read an object as it is now."""
        read = self._as_is.get_namespaced_custom_object
        return _ask(read, kind.group, kind.version, self.namespace, kind.plural, name)

    def create_object(self, kind: Kind, manifest: Manifest) -> Manifest | ApiFailure:
        """Create an object; a field that its CRD does not know is refused, not dropped."""
        create = self._as_is.create_namespaced_custom_object
        place = (kind.group, kind.version, self.namespace, kind.plural)
        return _ask(create, *place, manifest, field_validation="Strict")

    def merge_object(self, kind: Kind, name: str, patch: Manifest) -> Manifest | ApiFailure:
        """Change some fields of an object (JSON merge patch)."""
        change = self._as_is.patch_namespaced_custom_object
        place = (kind.group, kind.version, self.namespace, kind.plural)
        return _ask(change, *place, name, patch, _content_type="application/merge-patch+json")

    def server(self) -> Server | ApiFailure:
        """Ask the server for its version and its time."""
        asked_at, served_at = time.time(), list[float]()
        answer = _ask(client.VersionApi(self._client).get_code, served_at=served_at)
        if isinstance(answer, ApiFailure):
            return answer
        return Server(str(answer["gitVersion"]), asked_at, served_at[0], time.time())

    def server_time(self) -> float:
        """Return what the server's clock shows now, epoch seconds, not too late and hardly too early; 0: unknown.

        It is told in whole seconds, so the first call asks several times, which takes a second or two. Later ones
        ask once, unless a clock was set.
        """
        for _ in range(_CLOCK_QUESTIONS):
            server = self.server()
            if isinstance(server, ApiFailure) or not server.at:
                return 0.0
            self._clock.note(server.at, asked_at=server.asked_at, answered_at=server.answered_at)
            if self._clock.doubt <= _CLOCK_DOUBT_SECONDS:
                break
            time.sleep(self._clock.best_asked_in(time.time()))
        return time.time() + self._clock.low

    def whoami(self) -> str | ApiFailure:
        """Ask who the server takes us for; NOT_FOUND from one older than 1.28."""
        answer = _ask(client.AuthenticationV1Api(self._client).create_self_subject_review, {})
        return answer if isinstance(answer, ApiFailure) else str(answer["status"]["userInfo"]["username"])

    def may(self, access: Access, *, everywhere: bool = False) -> bool | ApiFailure:
        """Ask whether we have a right in the namespace, or in all of them."""
        resource, _, subresource = access.resource.partition("/")
        asked = {"verb": access.verb, "group": access.group, "resource": resource, "subresource": subresource}
        body = {"spec": {"resourceAttributes": asked if everywhere else asked | {"namespace": self.namespace}}}
        answer = _ask(client.AuthorizationV1Api(self._client).create_self_subject_access_review, body)
        return answer if isinstance(answer, ApiFailure) else bool(answer["status"]["allowed"])

    def rights(self) -> Rights | ApiFailure:
        """List every rule that holds for us in the namespace, whoever gave it."""
        body = {"spec": {"namespace": self.namespace}}
        answer = _ask(client.AuthorizationV1Api(self._client).create_self_subject_rules_review, body)
        if isinstance(answer, ApiFailure):
            return answer
        status = answer["status"]
        granted = (
            Granted(
                groups=tuple(rule.get("apiGroups") or ()),
                resources=tuple(rule.get("resources") or ()),
                verbs=tuple(rule["verbs"]),
                names=tuple(rule.get("resourceNames") or ()),
            )
            for rule in status["resourceRules"] or ()
        )
        told = str(status.get("evaluationError") or "")
        return Rights(tuple(granted), gaps="" if told.strip("[]") == _NODE_AUTHORIZER_LISTS_NOTHING else told)

    def _pods(self, namespace: str, job_name: str) -> list[Manifest] | ApiFailure:
        answer = _ask(self._core.list_namespaced_pod, namespace, label_selector=f"{JOB_NAME_LABELS[0]}={job_name}")
        return answer if isinstance(answer, ApiFailure) else answer["items"]

    def _list(self, call: Callable[..., Any], **selectors: str) -> "_Collection | ApiFailure":
        items: list[Manifest] = []
        token = None
        served_at: list[float] = []
        while True:
            page = _ask(call, self.namespace, limit=_PAGE, _continue=token, served_at=served_at, **selectors)
            if isinstance(page, ApiFailure):
                return page
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return _Collection(items, page["metadata"]["resourceVersion"], served_at[-1])


class _NotConnected(urllib3.exceptions.HTTPError):
    """There was no connection: the address, the network, the server or TLS was at fault, and nothing was sent."""


@contextmanager
def _connecting(to: HTTPConnection) -> Iterator[None]:
    """Tell apart what goes wrong before anything is sent: urllib3 has the same errors for both.

    A connection that took all the time there is counts as none. urllib3 limits each address and each read of the
    handshake, not their sum nor the look-up of the name, and would send what its caller has given up by then.
    """
    where, began = f"{to.host}:{to.port}", time.monotonic()
    try:
        yield
    except (OSError, urllib3.exceptions.HTTPError, CertificateError) as problem:
        raise _NotConnected(why_unreached(problem, where)) from problem
    if to.timeout is not None and time.monotonic() - began >= to.timeout:
        raise _NotConnected(f"no connection to {where} within {to.timeout:g} s")


class _Connection(HTTPConnection):
    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Collection(msgspec.Struct):
    items: list[Manifest]
    version: str
    api_at: float


class _Event(msgspec.Struct, frozen=True):
    type: str  # ADDED, MODIFIED, DELETED
    object: Manifest


class _Inventory:
    """The join of the two watches: each Job's last fact, and the pods that belong to it."""

    def __init__(self, listing: Listing) -> None:
        self._facts = {fact.uid: fact for fact in listing.facts}
        self._pods = {uid: {_uid(pod): pod for pod in pods} for uid, pods in _by_job(listing.pods).items()}

    def apply(self, event: _Event) -> JobFact | None:
        """Take in one event; the Job's new fact, or None when nothing that a fact tells has changed."""
        return self._pod(event) if event.object.get("kind") == "Pod" else self._job(event)

    def _job(self, event: _Event) -> JobFact | None:
        uid = _uid(event.object)
        fact = fact_from_manifest(event.object, list(self._pods.get(uid, {}).values()))
        if event.type == "DELETED":
            known = self._facts.pop(uid, fact)
            return gone(fact, max(known.resource_version + 1, resource_version(event.object)))
        return self._moved(fact)

    def _pod(self, event: _Event) -> JobFact | None:
        job_uid = controller_uid(event.object)
        pods = self._pods.setdefault(job_uid, {})
        if event.type == "DELETED":
            pods.pop(_uid(event.object), None)
        else:
            pods[_uid(event.object)] = _slim(event.object)
        if not pods:
            del self._pods[job_uid]
        fact = self._facts.get(job_uid)
        if fact is None:
            return None  # its Job is foreign, gone, or will come and be joined then
        moved = msgspec.structs.replace(
            fact, resource_version=max(fact.resource_version, resource_version(event.object))
        )
        return self._moved(with_pods(moved, list(pods.values())))

    def _moved(self, fact: JobFact) -> JobFact | None:
        known = self._facts.get(fact.uid)
        if known is not None:
            seen = max(known.resource_version, fact.resource_version)
            unchanged = msgspec.structs.replace(known, resource_version=seen)
            if unchanged == msgspec.structs.replace(fact, resource_version=seen):
                self._facts[fact.uid] = unchanged
                return None
            if fact.resource_version <= known.resource_version:
                fact = msgspec.structs.replace(fact, resource_version=known.resource_version + 1)
        self._facts[fact.uid] = fact
        return fact


class _Follower:
    """One watch in a thread of its own, made again whenever it ends, from the last version seen."""

    def __init__(
        self,
        call: Callable[..., Any],
        namespace: str,
        version: str,
        events: "queue.Queue[_Event | ApiFailure]",
        selector: str | None,
    ) -> None:
        self._call = call
        self._namespace = namespace
        self._version = version
        self._events = events
        self._selector = selector
        self._ended = threading.Event()
        self._response: urllib3.HTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{call.__name__}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread: it may sit in a read, which only the end of its socket interrupts."""
        self._ended.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            _shut(self._response)
            self._thread.join(_STOP_POLL_SECONDS)

    def _run(self) -> None:
        retry_seconds = _WATCH_RETRY_SECONDS
        while not self._ended.is_set():
            began = time.monotonic()
            failure = self._follow()
            if self._ended.is_set():
                return
            if failure is None:
                retry_seconds = _WATCH_RETRY_SECONDS
                if time.monotonic() - began < _WATCH_RETRY_SECONDS:
                    self._ended.wait(_WATCH_RETRY_SECONDS)  # a server that ends every watch at once
                continue
            self._give(failure)
            if failure.kind is Failure.GONE:
                return
            self._ended.wait(failure.retry_after_seconds or retry_seconds)
            retry_seconds = min(2 * retry_seconds, _WATCH_LONGEST_RETRY_SECONDS)

    def _follow(self) -> ApiFailure | None:
        """Read one watch to its end; None when it ended as watches do."""
        try:
            self._response = self._call(
                self._namespace,
                watch=True,
                resource_version=self._version,
                allow_watch_bookmarks=True,
                timeout_seconds=_WATCH_SECONDS,
                label_selector=self._selector,
                _preload_content=False,
                _request_timeout=(CALL_SECONDS, _WATCH_SILENCE_SECONDS),
            )
            for line in self._response:
                failure = self._take(line)
                if failure is not None:
                    return failure
        except urllib3.exceptions.ReadTimeoutError:
            return None  # silent for longer than bookmarks are apart: connect again
        except _expected() as problem:
            return _failure(problem)
        finally:
            if self._response is not None:
                self._response.close()
                self._response = None
        return None

    def _take(self, line: bytes) -> ApiFailure | None:
        event = msgspec.json.decode(line, type=_Event)
        if event.type == "ERROR":
            return _failure_of_status(event.object.get("code", 0), event.object, {})
        self._version = event.object["metadata"]["resourceVersion"]
        if event.type != "BOOKMARK":
            self._give(event)
        return None

    def _give(self, event: "_Event | ApiFailure") -> None:
        while not self._ended.is_set():
            try:
                self._events.put(event, timeout=_STOP_POLL_SECONDS)
            except queue.Full:
                continue
            return


def _ask(
    call: Callable[..., Any], *args: Any, name: str = "", served_at: list[float] | None = None, **options: Any
) -> Manifest | ApiFailure:
    """Make one call and give its JSON back exactly as served; `served_at` takes the server's time of the answer.

    `name` is what the metric calls it, where that is not the name of the client's method.
    """
    began = time.monotonic()
    answer: Manifest | ApiFailure
    try:
        response = call(*args, **options, _preload_content=False, _request_timeout=CALL_SECONDS)
        answer = msgspec.json.decode(response.data, type=Manifest)
        if served_at is not None:
            served_at.append(_clock_of(response.headers.get("Date", "")))
    except _expected() as problem:
        answer = _failure(problem)
    result = answer.kind.value if isinstance(answer, ApiFailure) else "ok"
    metrics.CLUSTER_CALLS.labels(name or call.__name__, result).observe(time.monotonic() - began)
    return answer


def _clock_of(date: str) -> float:
    """Read the Date header of an answer; 0 where there is none that can be read."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0


def _failure(problem: Exception) -> ApiFailure:
    match problem:
        case client.ApiException(status=int(status)) if status:
            return _failure_of_status(status, _status_object(problem.body), problem.headers or {})
        case client.ApiException():
            return ApiFailure(Failure.BROKEN_OFF, 0, in_words(str(problem.reason)))
        case _NotConnected():
            return ApiFailure(Failure.UNREACHABLE, 0, str(problem))  # in words already
        case urllib3.exceptions.TimeoutError():
            return ApiFailure(Failure.TIMEOUT, 0, in_words(str(problem)))
        case msgspec.DecodeError():
            return ApiFailure(Failure.SERVER, 0, f"the answer is no JSON object: {problem}")
        case _:
            return ApiFailure(Failure.BROKEN_OFF, 0, in_words(str(problem)))


_UNPROCESSABLE = 422
_KINDS = {
    400: Failure.INVALID,
    401: Failure.FORBIDDEN,
    403: Failure.FORBIDDEN,
    404: Failure.NOT_FOUND,
    408: Failure.TIMEOUT,
    409: Failure.CONFLICT,
    410: Failure.GONE,
    _UNPROCESSABLE: Failure.INVALID,
    429: Failure.THROTTLED,
    504: Failure.TIMEOUT,
}
_FIRST_SERVER_STATUS = 500


def _failure_of_status(status: int, told: Mapping[str, Any], headers: Mapping[str, str]) -> ApiFailure:
    kind = _KINDS.get(status, Failure.SERVER if status >= _FIRST_SERVER_STATUS else Failure.INVALID)
    if kind is Failure.CONFLICT and told.get("reason") == "AlreadyExists":
        kind = Failure.ALREADY_EXISTS
    return ApiFailure(kind, status, _message(status, told), _retry_after(told, headers))


def _message(status: int, told: Mapping[str, Any]) -> str:
    causes = (told.get("details") or {}).get("causes")
    if status == _UNPROCESSABLE and causes:
        # The message about a field may quote it, secrets of env included; that of a policy names none, and is its own.
        return "; ".join(
            f"{cause['field']}: {cause.get('reason', '?')}" if cause.get("field") else str(cause.get("message", "?"))
            for cause in causes
        )
    return str(told.get("message") or f"HTTP status {status}")


def _retry_after(told: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    header = str(headers.get("Retry-After", ""))
    seconds = header if header.isdigit() else (told.get("details") or {}).get("retryAfterSeconds")
    return float(seconds) if seconds else None


def _status_object(body: str | None) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body or "", type=Manifest)
    except msgspec.DecodeError:
        return {"message": (body or "").strip()}


def _pod_info(pod: Manifest) -> PodInfo:
    return PodInfo(
        name=pod["metadata"]["name"],
        phase=pod.get("status", {}).get("phase", ""),
        ip=pod.get("status", {}).get("podIP", ""),
        deleting="deletionTimestamp" in pod["metadata"],
        owned=bool(pod["metadata"].get("ownerReferences")),
    )


def _slim(pod: Manifest) -> Manifest:
    """Keep of a pod what a fact is made from: a namespace has many, and a watch holds them all."""
    metadata, status = pod["metadata"], pod.get("status", {})
    kept = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "ownerReferences", "labels")
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "status": {name: status[name] for name in ("phase", "podIP") if name in status},
    }


def _by_job(pods: Iterator[Manifest] | list[Manifest] | tuple[Manifest, ...]) -> dict[str, list[Manifest]]:
    grouped: dict[str, list[Manifest]] = {}
    for pod in pods:
        grouped.setdefault(controller_uid(pod), []).append(pod)
    return grouped


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"]["uid"])


def _shut(response: urllib3.HTTPResponse | None) -> None:
    connection = getattr(response, "connection", None)
    opened = getattr(connection, "sock", None)
    if opened is not None:
        try:
            opened.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed meanwhile, which is what we want
