"""The shipped prober as it ships: its command, its files as kubelet mounts them, a shell and curl.

Only addresses are the test's, in a .curlrc; what it asks are stand-ins of queue-manager, what counts is Prometheus.
"""

from __future__ import annotations

import http.client
import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.argo.files import ARGO, build, documents
from tests.lab.argo.traffic import PROGRAM
from tests.lab.mount import Mount
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.prometheus.server import Prometheus
from tests.lab.waiting import until
from tests.manifests.built import Name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kube, pytest.mark.prometheus, pytest.mark.timeout(240)]

READY_SECONDS = 60.0
SEEN_SECONDS = 60.0
LIST = "/queues/queues/list"
OF_THE_LIST = f'http_requests_total{{endpoint="{LIST}"}}'
#: What each address of the overlay leads to.
PLACES = {
    "queue-manager-stable:8080": "stable",
    "queue-manager-canary:8080": "canary",
    "traefik.traefik.svc:80": "router",
}
FAULTS: dict[str, tuple[str, ...]] = {"stable": (), "canary": ("--fail", "0.5"), "router": ()}


class Asked:
    """The stand-ins of queue-manager that the prober asks, by what they are to it."""

    def __init__(self, directory: Path) -> None:
        self.ports = dict(zip(PLACES.values(), free_ports(len(PLACES)), strict=True))
        self.servers = {
            name: Server(
                name,
                [sys.executable, str(PROGRAM), "--port", str(port), *FAULTS[name]],
                log=directory / f"{name}.log",
            )
            for name, port in self.ports.items()
        }

    def scrapes(self) -> list[dict[str, Any]]:
        """Have Prometheus scrape each of them, labelled as a Pod of its own version."""
        return [
            {
                "job_name": name,
                "scrape_interval": "1s",
                "honor_labels": True,
                "static_configs": [
                    {
                        "targets": [f"{LOOPBACK}:{port}"],
                        "labels": {"namespace": "stf", "pod": name, "rollouts_pod_template_hash": name},
                    }
                ],
            }
            for name, port in self.ports.items()
        ]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path)
    with ExitStack() as running:
        for name, server in made.servers.items():
            running.callback(server.stop)
            server.start_answering(made.ports[name], seconds=READY_SECONDS)
        yield made


@pytest.fixture
def prometheus(asked: Asked, tmp_path: Path) -> Iterator[Prometheus]:
    groups = documents(ARGO / "base" / "adapter.yaml")[0]["spec"]["groups"]
    often = [each | {"interval": "1s"} for each in groups]
    with Prometheus(tmp_path / "prometheus", scrapes=asked.scrapes(), groups=often) as running:
        yield running


@pytest.fixture
def prober(asked: Asked, tmp_path: Path) -> Iterator[Server]:
    built = build("traefik")
    (container,) = built[Name("Deployment", "queue-manager-prober")]["spec"]["template"]["spec"]["containers"]
    (mounted,) = container["volumeMounts"]
    mount = Mount(tmp_path / "prober", built[Name("ConfigMap", "queue-manager-prober")]["data"])
    command = [word.replace(mounted["mountPath"], str(mount.directory)) for word in container["command"]]
    home = tmp_path / "home"
    home.mkdir()
    leads = (f'connect-to = "{place}:{LOOPBACK}:{asked.ports[name]}"' for place, name in PLACES.items())
    (home / ".curlrc").write_text("\n".join(leads))
    curl = shutil.which("curl")
    assert curl, "curl is part of the image, and needed here"
    assert "env" not in container
    environment = [f"HOME={home}", f"PATH={curl.rpartition('/')[0]}:/usr/bin:/bin"]
    server = Server("prober", ["env", "-i", *environment, *command], log=tmp_path / "prober.log")
    server.start()
    yield server
    server.stop()


def count(prometheus: Prometheus, query: str) -> dict[str, float]:
    """Give a sum by Pod."""
    return {each["metric"]["pod"]: float(each["value"][1]) for each in prometheus.ask(f"sum by (pod) ({query})")}


def test_a_quiet_control_plane_has_samples_of_each_version_and_failures_are_counted(
    asked: Asked, prometheus: Prometheus, prober: Server
):
    def have_samples() -> bool:
        found = count(prometheus, OF_THE_LIST)
        return found.keys() == asked.ports.keys() and min(found.values()) >= 4

    until(have_samples, f"samples of each\n{prober.tail()}", seconds=SEEN_SECONDS)
    failed = until(
        lambda: count(prometheus, 'queue_requests_total{status="error"}'), "errors to be told", seconds=SEEN_SECONDS
    )
    assert {name for name, number in failed.items() if number} == {"canary"}
    assert prober.output() == "", "an answer is an answer, whatever its status"


def test_it_only_ever_reads_and_goes_on_when_a_version_is_away(asked: Asked, prometheus: Prometheus, prober: Server):
    asked.servers["canary"].stop()
    before = count(prometheus, OF_THE_LIST).get("stable", 0.0)

    def goes_on() -> bool:
        return count(prometheus, OF_THE_LIST).get("stable", 0.0) >= before + 3

    until(goes_on, f"it to ask on\n{prober.tail()}", seconds=SEEN_SECONDS)
    assert prober.is_alive
    assert "curl: (7)" in prober.output(), "and says so"
    used = {each["metric"]["method"] for each in prometheus.ask("sum by (method) (http_requests_total)")}
    assert used == {"GET"}
    asks = {each["metric"]["endpoint"] for each in prometheus.ask("sum by (endpoint) (http_requests_total)")}
    assert asks - {"/metrics"} == {LIST}, "the scrapes ask for the other"


def test_a_write_would_be_seen(asked: Asked, prometheus: Prometheus):
    connection = http.client.HTTPConnection(LOOPBACK, asked.ports["stable"], timeout=10.0)
    connection.request("POST", LIST)
    assert connection.getresponse().status == 405
    connection.close()
    until(lambda: count(prometheus, 'http_requests_total{method="POST"}'), "it to be counted", seconds=SEEN_SECONDS)
