"""What kubelet, kube-proxy and Traefik do for queue-manager: Pods become processes, requests go where they are sent.

`Serving` runs a stand-in (queue_manager.py) for each Pod of `app: queue-manager`, with the arguments of its container,
and tells Prometheus of it as Kubernetes' service discovery would. `Client` sends requests through a Service, or through
the router: by the weights of the TraefikService while there is an IngressRoute, else to the Service of the old Ingress.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tests.lab.beside import Looking
from tests.lab.ports import LOOPBACK, free_ports, is_answering
from tests.lab.process import Server, stop_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.kube import ControlPlane

LOOK_SECONDS = 0.2
#: How long a process outlives its Pod, as the end of a real one takes: kube-proxy has heard of it by then.
LINGER_SECONDS = 2.0
REQUEST_SECONDS = 10.0
HASH = "rollouts-pod-template-hash"
PROGRAM = Path(__file__).with_name("queue_manager.py")
ROUTED_BY_INGRESS = "queue-manager-svc"
LOST = 0

Labels = dict[str, str]


class Pod(msgspec.Struct, frozen=True):
    """A Pod whose process answers; `ready` as Kubernetes has it."""

    name: str
    labels: Labels
    port: int
    ready: bool


class View(msgspec.Struct, frozen=True):
    """A namespace as kube-proxy and the router see it now."""

    pods: tuple[Pod, ...] = ()
    selectors: dict[str, Labels] = {}  # of Services by name
    weights: dict[str, int] | None = None  # of the router's Services; None: there is no IngressRoute


class Serving(Looking):
    """The processes behind all Pods of queue-manager, and what each namespace looks like."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        super().__init__("serving", every_seconds=LOOK_SECONDS)
        self._plane = plane
        self._directory = directory
        self.targets = directory / "targets.json"  # for file_sd_configs
        self.targets.write_text("[]")
        self._processes: dict[str, tuple[Server, int]] = {}  # by uid
        self._missed: dict[str, float] = {}
        self._views: dict[str, View] = {}

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        stop_together((server for server, _ in self._processes.values()), patience_seconds=5.0)

    def view(self, namespace: str) -> View:
        """Give what was seen of a namespace last."""
        return self._views.get(namespace, View())

    def look(self) -> None:
        """Look once; where the API server is too busy, what was seen stays."""
        with suppress(OSError):
            self._look()

    def _look(self) -> None:
        pods = self._items("/api/v1/pods?labelSelector=app%3Dqueue-manager")
        services = self._items("/api/v1/services")
        routed = {_namespace(each) for each in self._items("/apis/traefik.io/v1alpha1/ingressroutes")}
        weighted = {_namespace(each): each for each in self._items("/apis/traefik.io/v1alpha1/traefikservices")}
        self._keep_processes(pods)
        serving = [(pod, port) for pod in pods if (port := self._port_of(pod)) is not None]
        self._tell_prometheus(serving)
        self._views = {
            namespace: View(
                pods=tuple(_pod(pod, port) for pod, port in serving if _namespace(pod) == namespace),
                selectors={
                    each["metadata"]["name"]: each["spec"].get("selector") or {}
                    for each in services
                    if _namespace(each) == namespace
                },
                weights=_weights(weighted[namespace]) if namespace in routed & weighted.keys() else None,
            )
            for namespace in {_namespace(each) for each in services}
        }

    def _items(self, path: str) -> list[dict[str, Any]]:
        answer = self._plane.call("GET", path)
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status}")
        items: list[dict[str, Any]] = answer.body["items"]
        return items

    def _keep_processes(self, pods: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        alive = {pod["metadata"]["uid"]: pod for pod in pods}
        for uid, pod in alive.items():
            if uid not in self._processes:
                self._processes[uid] = self._start(pod)
        for uid, (server, _) in list(self._processes.items()):
            if uid not in alive and now - self._missed.setdefault(uid, now) > LINGER_SECONDS:
                server.stop(patience_seconds=1.0)
                del self._processes[uid]

    def _start(self, pod: dict[str, Any]) -> tuple[Server, int]:
        (port,) = free_ports(1)
        (container,) = pod["spec"]["containers"]
        name = pod["metadata"]["name"]
        command = [sys.executable, str(PROGRAM), "--port", str(port), *container.get("args", ())]
        server = Server(name, command, log=self._directory / f"{pod['metadata']['namespace']}-{name}.log")
        server.start()
        return server, port

    def _port_of(self, pod: dict[str, Any]) -> int | None:
        found = self._processes.get(pod["metadata"]["uid"])
        return found[1] if found is not None and is_answering(found[1]) else None

    def _tell_prometheus(self, serving: list[tuple[dict[str, Any], int]]) -> None:
        told = []
        for pod, port in serving:
            metadata, (container,) = pod["metadata"], pod["spec"]["containers"]
            labels = {
                "__meta_kubernetes_namespace": metadata["namespace"],
                "__meta_kubernetes_pod_name": metadata["name"],
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": container["ports"][0]["name"],
            }
            labels |= {f"__meta_kubernetes_pod_label_{sanitized(k)}": v for k, v in metadata["labels"].items()}
            told.append({"targets": [f"{LOOPBACK}:{port}"], "labels": labels})
        text = json.dumps(told, sort_keys=True)
        if text != self.targets.read_text():
            written = self.targets.with_suffix(".new")
            written.write_text(text)
            written.rename(self.targets)


class Sent(msgspec.Struct, frozen=True):
    """One request: when it was answered (monotonic seconds), by which version, and how; status 0: by nobody."""

    at: float
    version: str
    status: int


class Client:
    """Sends requests at a steady rate until it is ended."""

    def __init__(self, choose: Callable[[], Pod | None], *, a_second: float, at_once: int) -> None:
        self._choose = choose
        self._period = at_once / a_second
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="client") for _ in range(at_once)]
        self.sent: list[Sent] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + self._period
            self.sent.append(self._send())
            self._over.wait(max(0.0, due - time.monotonic()))

    def _send(self) -> Sent:
        pod = self._choose()
        if pod is None:
            return Sent(time.monotonic(), "", LOST)
        connection = http.client.HTTPConnection(LOOPBACK, pod.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("GET", "/queues/queues/list")
            status = connection.getresponse().status
        except OSError:
            status = LOST
        finally:
            connection.close()
        return Sent(time.monotonic(), pod.labels.get(HASH, ""), status)


class Router:
    """Chooses as Traefik's weighted round robin does, smoothly: of 20 requests at weight 10 exactly two go there."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._credit: dict[str, float] = {}

    def __call__(self) -> Pod | None:
        with self._lock:
            view = self._view()
            weights = view.weights or {ROUTED_BY_INGRESS: 1}
            return through(view, self._next(weights))

    def _next(self, weights: dict[str, int]) -> str:
        self._credit = {name: self._credit.get(name, 0.0) + weight for name, weight in weights.items() if weight}
        chosen = max(self._credit, key=lambda name: self._credit[name])
        self._credit[chosen] -= sum(weights.values())
        return chosen


def through(view: View, service: str) -> Pod | None:
    """Choose a ready Pod of a Service as kube-proxy does; None when it has none."""
    selector = view.selectors.get(service)
    if selector is None:
        return None
    behind = [pod for pod in view.pods if pod.ready and selector.items() <= pod.labels.items()]
    return behind[time.monotonic_ns() // 1000 % len(behind)] if behind else None


def sanitized(label: str) -> str:
    """Write a label of Kubernetes as Prometheus does."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _pod(pod: dict[str, Any], port: int) -> Pod:
    conditions = pod["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    leaves = "deletionTimestamp" in pod["metadata"]
    return Pod(pod["metadata"]["name"], pod["metadata"]["labels"], port, ready and not leaves)


def _weights(service: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each.get("weight", 1) for each in service["spec"]["weighted"]["services"]}


def _namespace(of: dict[str, Any]) -> str:
    return str(of["metadata"]["namespace"])
