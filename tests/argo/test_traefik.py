"""Traefik itself routes by the shipped TraefikService and IngressRoute: what the end to end test only plays.

Services lead to stand-ins on loopback by ExternalName; the weights are written as the rollouts controller writes them.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.argo.files import build
from tests.lab.argo.traffic import PROGRAM
from tests.lab.beside import Looking
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.traefik import Traefik
from tests.lab.waiting import until
from tests.manifests.built import Name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane

pytestmark = [
    pytest.mark.kube,
    pytest.mark.argo,
    pytest.mark.traefik,
    pytest.mark.timeout(300),
]

HOST = "queue-manager.stf.example"
PATH = "/queues/queues/list"
OLD, STABLE, CANARY = "queue-manager-svc", "queue-manager-stable", "queue-manager-canary"
REQUESTS = 100
SECONDS = 60.0


class Routed:
    """A namespace with the shipped routes, Traefik before it, and a stand-in behind each of its Services."""

    def __init__(self, plane: ControlPlane, at: Path) -> None:
        self.plane, self.at = plane, at
        self.namespace = plane.create_namespace()
        self.ports = dict(zip((OLD, STABLE, CANARY), free_ports(3), strict=True))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, port in self.ports.items():
            server = Server(name, [sys.executable, str(PROGRAM), "--port", str(port)], log=self.at / f"{name}.log")
            self._stack.callback(server.stop)
            server.start_answering(port, seconds=SECONDS)
            self._apply({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            })  # fmt: skip
        self._apply({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "queue-manager"},
            "spec": {"rules": [{"host": HOST, "http": {"paths": [self._ingress_path()]}}]},
        })  # fmt: skip
        self.traefik = self._stack.enter_context(Traefik(self.at, self.plane.kubeconfig, self.namespace))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.plane.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def _ingress_path(self) -> dict[str, object]:
        service = {"name": OLD, "port": {"number": self.ports[OLD]}}
        return {"path": "/", "pathType": "Prefix", "backend": {"service": service}}

    def _apply(self, document: dict[str, object]) -> None:
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(document))

    def apply_routes(self) -> None:
        """Apply the shipped TraefikService and IngressRoute; of them only the namespace and the ports are ours."""
        shipped = build("traefik")
        for name in (Name("TraefikService", "queue-manager"), Name("IngressRoute", "queue-manager")):
            document = json.loads(json.dumps(shipped[name]))
            document["metadata"]["namespace"] = self.namespace
            if name.kind == "TraefikService":
                for service in document["spec"]["weighted"]["services"]:
                    service["port"] = self.ports[service["name"]]
            self._apply(document)

    def weigh(self, canary: int | None) -> None:
        """Write the weights as the rollouts controller does; None: as applied, without any."""
        services = [{"name": name, "port": self.ports[name]} for name in (STABLE, CANARY)]
        if canary is not None:
            for service, weight in zip(services, (100 - canary, canary), strict=True):
                service["weight"] = weight
        patch = json.dumps({"spec": {"weighted": {"services": services}}})
        command = ("patch", "traefikservice", "queue-manager", "--type=merge", "-p", patch)
        self.plane.kubectl("-n", self.namespace, *command)

    def answered(self) -> Counter[str]:
        """Give how many requests each stand-in has answered."""
        return Counter({name: _requests(port) for name, port in self.ports.items()})

    def shares(self) -> dict[str, float]:
        """Send some requests, and give the share of each stand-in in per cent."""
        before = self.answered()
        statuses = Counter(self.ask() for _ in range(REQUESTS))
        got = self.answered() - before
        assert statuses == {200: REQUESTS}
        return {name: 100 * count / got.total() for name, count in got.items()}

    def ask(self, host: str = HOST) -> int:
        """Send one request through Traefik, and give its status; 0: nobody answered."""
        connection = http.client.HTTPConnection(LOOPBACK, self.traefik.port, timeout=10.0)
        try:
            connection.request("GET", PATH, headers={"Host": host})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


def _requests(port: int) -> int:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10.0)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    asked = [each.value for each in samples if each.name == "http_requests_total" and each.labels["endpoint"] == PATH]
    return int(sum(asked))


class Asking(Looking):
    """Somebody who asks all the time while it is a context, and keeps every status."""

    def __init__(self, routed: Routed) -> None:
        super().__init__("asking", every_seconds=0.02)
        self.statuses: Counter[int] = Counter()
        self._routed = routed

    def look(self) -> None:
        """Ask once."""
        self.statuses[self._routed.ask()] += 1


@pytest.fixture(scope="module")
def routed(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with Routed(cluster, tmp_path_factory.mktemp("routed")) as routed:
        until(lambda: routed.ask() == 200, "the Ingress to be served", seconds=SECONDS)
        yield routed


def test_traefik_goes_by_the_weights_of_the_controller_and_loses_no_request_on_the_way(routed: Routed) -> None:
    assert routed.shares() == {OLD: 100.0}, "the Ingress, before argo/"
    with Asking(routed) as asking:
        routed.apply_routes()
        until(lambda: OLD not in routed.shares(), "the IngressRoute to come before the Ingress", seconds=SECONDS)
        assert _are(routed.shares(), {STABLE: 50.0, CANARY: 50.0}), "without weights: half to each"
        for canary in (0, 10, 25, 50, 100, 0):
            routed.weigh(canary)
            wanted = {name: share for name, share in ((STABLE, 100.0 - canary), (CANARY, float(canary))) if share}
            until(lambda wanted=wanted: _are(routed.shares(), wanted), f"{canary} % to the canary", seconds=SECONDS)
        routed.plane.kubectl("-n", routed.namespace, "delete", "ingressroute", "queue-manager")
        until(lambda: routed.shares() == {OLD: 100.0}, "the Ingress to serve again", seconds=SECONDS)
    assert set(asking.statuses) == {200}, asking.statuses
    assert asking.statuses.total() > 100


def test_other_hosts_are_not_routed(routed: Routed) -> None:
    assert routed.ask("other.example") == 404


def _are(shares: dict[str, float], wanted: dict[str, float]) -> bool:
    """Compare shares; who asks beside us moves them a little."""
    return shares.keys() == wanted.keys() and all(abs(shares[name] - share) < 2.0 for name, share in wanted.items())
