"""A cluster small enough for a demo and quick tests: the Kubernetes API for Jobs, pods as local processes.

The real `kubernetes` client talks to it over HTTP on loopback. Behaviour is that of Kubernetes 1.36 as far as
sf_healer/local/kube goes, held by a suite that a real control plane passes as well
(tests/cluster/test_local_cluster.py). What is scaled: the back-off between retries of a Job, and the grace a
pod gets to end. What is missing: users and rights, and every kind but Job, Pod, Event and Namespace.

It runs in a thread with an event loop of its own: the worker under test has its own loop, and one that stalls
must not stall the cluster it talks to, nor the other way round. A process of its own would cost a second
interpreter and a protocol to look inside, and the pods are processes anyway.
"""

import asyncio
import json
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from aiohttp import web

from sf_healer.local.kube.api import EVERYTHING, Api, Fault
from sf_healer.local.kube.controller import JobController
from sf_healer.local.kube.kubelet import Kubelet, LocalPod
from sf_healer.local.kube.store import HISTORY, Store
from sf_healer.local.ports import LOOPBACK

LOADER = (sys.executable, "-m", "sf_healer.local.loader")

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_HANDLERS_STOP_SECONDS = 1.0

T = TypeVar("T")


class LocalCluster:
    """`with LocalCluster() as cluster: … cluster.kubeconfig`; safe to use from any thread.

    `command` is what every pod runs, with its container's env. `grace_limit_seconds` caps the time between
    SIGTERM and SIGKILL (30 s on Kubernetes), `backoff_seconds` is the wait before a Job's first retry (10 s
    there). `history` is how many changes of a kind a watch may lag before it is told 410. `rules` is what access
    reviews say may be done, as a Role has it; nothing is refused for it.
    """

    def __init__(
        self,
        *,
        namespaces: Sequence[str] = ("stf",),
        command: Sequence[str] = LOADER,
        grace_limit_seconds: float = 1.0,
        backoff_seconds: float = 0.5,
        bookmark_seconds: float = 5.0,
        history: int = HISTORY,
        most_processes: int = 32,
        rules: Sequence[Mapping[str, Sequence[str]]] = (EVERYTHING,),
    ) -> None:
        self._rules = rules
        self._namespaces = namespaces
        self._command = command
        self._grace_limit_seconds = grace_limit_seconds
        self._backoff_seconds = backoff_seconds
        self._bookmark_seconds = bookmark_seconds
        self._history = history
        self._most_processes = most_processes
        self._directory: Path | None = None
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """The address of the API server."""
        return f"http://{LOOPBACK}:{self._alive.port}"

    @property
    def kubeconfig(self) -> Path:
        """A file that points clients at this cluster; gone when it stops."""
        assert self._directory is not None, "the cluster was never started"
        return self._directory / "kubeconfig"

    def start(self) -> Self:
        """Start serving; raises what went wrong."""
        assert self._running is None, "the cluster is running already"
        directory = self._directory = Path(tempfile.mkdtemp(prefix="sf-healer-cluster-"))
        running = _Running(lambda: self._assemble(directory))
        running.start()
        self._running = running
        # JSON is YAML too
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self.url, self._namespaces[0])))
        self.kubeconfig.chmod(0o600)
        return self

    def stop(self) -> None:
        """End every pod's process, the server and all its watches."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
            shutil.rmtree(self.kubeconfig.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create_namespace(self, name: str | None = None) -> str:
        """Make a namespace, with a name of its own if none is given, and give its name."""
        chosen = name or f"test-{secrets.token_hex(4)}"
        self._alive.call(lambda parts: parts.api.create_namespace(chosen))
        return chosen

    def pods(self) -> tuple[LocalPod, ...]:
        """Give the pods that have a process now."""
        return self._alive.call(lambda parts: parts.kubelet.pods())

    def forget_history(self) -> None:
        """Answer every watch and continued list from before now with 410, as after a compaction of etcd."""
        self._alive.call(lambda parts: parts.store.forget_history())

    def withhold_pods(self, namespace: str, name: str) -> None:
        """Let the next Job created under this name get no pods (Kubernetes issue 142142)."""
        self._alive.call(lambda parts: parts.controller.withhold_pods(namespace, name))

    def lose_node_of(self, namespace: str, name: str) -> None:
        """Let the node of a running pod die; the pod is not evicted before somebody deletes it, and then stays."""
        self._alive.call(lambda parts: parts.kubelet.lose_node_of(namespace, name))

    def answer_next(self, fault: Fault) -> None:
        """Answer the next request that matches with a fault instead."""
        self._alive.call(lambda parts: parts.api.faults.append(fault))

    @property
    def _alive(self) -> "_Running":
        assert self._running is not None, "the cluster is not running"
        return self._running

    def _assemble(self, directory: Path) -> "_Parts":
        store = Store(history=self._history)
        kubelet = Kubelet(
            store,
            self._command,
            directory,
            grace_limit_seconds=self._grace_limit_seconds,
            most_processes=self._most_processes,
        )
        controller = JobController(store, backoff_seconds=self._backoff_seconds)
        api = Api(store, kubelet, bookmark_seconds=self._bookmark_seconds, rules=self._rules)
        for namespace in self._namespaces:
            api.create_namespace(namespace)
        return _Parts(store, kubelet, controller, api)


class _Parts:
    """What runs in the cluster's loop."""

    def __init__(self, store: Store, kubelet: Kubelet, controller: JobController, api: Api) -> None:
        self.store = store
        self.kubelet = kubelet
        self.controller = controller
        self.api = api


class _Running:
    """The cluster's thread and its event loop."""

    def __init__(self, assemble: Callable[[], _Parts]) -> None:
        self._assemble = assemble
        self._parts: _Parts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        # A daemon: an interpreter that forgets to stop us still ends, and takes the pods with it.
        self._thread = threading.Thread(target=self._run, name="local-cluster", daemon=True)
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(_START_SECONDS), "the local cluster did not start"
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_SECONDS)

    def call(self, ask: Callable[[_Parts], T]) -> T:
        """Do something in the loop, where all state belongs, and give its result."""
        assert self._loop is not None

        async def asked() -> T:
            assert self._parts is not None
            return ask(self._parts)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(_START_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:  # noqa: BLE001  # handed to whoever waits in start()
            self._problem = problem
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._parts = parts = self._assemble()
        runner = web.AppRunner(
            parts.api.application(),
            access_log=None,
            handler_cancellation=True,  # a watch whose client is gone ends at once
            shutdown_timeout=_HANDLERS_STOP_SECONDS,
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, LOOPBACK, 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stop.wait()
        finally:
            parts.kubelet.kill_all()
            parts.store.close()
            await runner.cleanup()


def _kubeconfig(url: str, namespace: str) -> dict[str, object]:
    name = "local"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": "none-needed"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
