"""Where the shipped engines are run for real: everything that they ask and everything that they hit, on this machine.

Real: kube-apiserver, Job controller and scheduler; three brokers; the healer; Prometheus with the shipped alerts;
toxiproxy. Played: Pods are processes (tests/lab/kube/pod_processes.py); the healer's way to Kafka and that of the fleet
lead through a proxy for each broker, which a listener of their own advertises. Each of the two is slowed by itself.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from sf_healer.local import launcher, loader
from sf_healer.settings import Mode
from tests.chaos import lab_file
from tests.lab.kafka import KafkaCluster
from tests.lab.kube.pod_processes import BrokerPods, JobPods
from tests.lab.kube.rules import RULES
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.prometheus.server import Prometheus
from tests.lab.toxiproxy import Toxiproxy
from tests.lab.waiting import until
from tests.lab.worker import SF_HEALER, Worker, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.builds import Fault
    from tests.lab.kube import ControlPlane

Manifest = dict[str, Any]

ALERTS = Path(__file__).parents[2] / "manifests" / "observability" / "prometheus-rules.yaml"
#: As Strimzi labels the brokers of StreamForge's cluster.
BROKER_LABELS = {"strimzi.io/cluster": "k3", "strimzi.io/kind": "Kafka", "strimzi.io/broker-role": "true"}
JOBS = {"loader-producer": "api_candles_5m", "loader-ws": "ws_trades", "arango-connector": "api_trades"}
JOBS_EACH = 2
#: Whose way to Kafka can be slowed.
HEALER, FLEET = WAYS = ("healer", "fleet")
REPORT_SECONDS = 1.0
#: A tenth of the shipped thresholds. Longer than the ~10 s in which a lost broker is missed and loaders say nothing.
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 30
startup_threshold_seconds = 60
not_running_threshold_seconds = 60
error_grace_seconds = 6

[admission]
storm_window_seconds = 60
storm_canary_after_seconds = 60
"""
#: Longer than the 9 s in which a cluster misses a broker, as in production.
SESSION_SECONDS = 12.0
#: As long as a broker needs to be missed, and then some.
BROKER_AWAY_SECONDS = 15.0
BROKER_HEAP = "256m"
SCRAPE_SECONDS = 1
SETTLED_SECONDS = 240.0
#: What holds before an experiment begins; with it no probe is asked of a Prometheus that has seen nothing yet.
SETTLED = {
    "max(sf_healer_admission_phase{phase='calm'})": 1.0,
    "sum(sf_healer_actions_in_flight)": 0.0,
    "sum(increase(sf_healer_outcomes_total[5m]))": 0.0,
    "max(time() - max by (partition) (sf_healer_watermark_timestamp_seconds > 0)) < bool 20": 1.0,
    "max(kafka_brokers)": 3.0,
    "sum(kafka_topic_partition_under_replicated_partition)": 0.0,
    "count(sum(increase(kafka_topic_partition_current_offset[1m])))": 1.0,
    "count(sum(kafka_consumergroup_lag{consumergroup=~'sf-healer-.*'}))": 1.0,
}


class Stage:
    """The stage, set up once; a healer and a Prometheus are new for each experiment: no query sees the one before.

    Each Job reports every `report_seconds`.
    """

    def __init__(self, plane: ControlPlane, directory: Path, *, report_seconds: float = REPORT_SECONDS) -> None:
        self.plane, self.directory = plane, directory
        self._report_seconds = report_seconds
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _set_up(self, stack: ExitStack) -> None:
        plane, directory = self.plane, self.directory
        free = free_ports(3 * len(WAYS))
        ports = {way: free[3 * number : 3 * number + 3] for number, way in enumerate(WAYS)}
        self.kafka = stack.enter_context(
            KafkaCluster.start(brokers=3, directory=directory / "kafka", heap=BROKER_HEAP, behind=ports)
        )
        self.toxiproxy = stack.enter_context(Toxiproxy(directory))
        self.proxies = {way: tuple(f"{way}-broker-{index}" for index in range(3)) for way in WAYS}
        for way, names in self.proxies.items():
            for name, address, port in zip(names, self.kafka.listens_behind(way), ports[way], strict=True):
                self.toxiproxy.proxy(name, address, port=port)
        asyncio.run(make_topics(self.kafka.bootstrap))
        self.namespace, self.brokers_namespace = plane.create_namespace(), plane.create_namespace()
        for namespace in (self.namespace, self.brokers_namespace):
            stack.callback(plane.call, "DELETE", f"/api/v1/namespaces/{namespace}")
        self._kubeconfig = plane.service_account(self.namespace, "healer", RULES)
        command = (sys.executable, "-m", "sf_healer.local.loader")
        self.jobs = stack.enter_context(JobPods(plane, self.namespace, command, directory / "pods"))
        self.brokers = stack.enter_context(
            BrokerPods(
                plane,
                self.brokers_namespace,
                self.kafka,
                name="k3-knp",
                labels=BROKER_LABELS,
                name_label="strimzi.io/pod-name",
                away_seconds=BROKER_AWAY_SECONDS,
            )
        )
        self._exporter = self._start_exporter(stack)
        self._manifests = self._make_jobs()
        self._renew_jobs()
        until(self._is_staffed, "a process for each Pod", seconds=SETTLED_SECONDS)

    def _start_exporter(self, stack: ExitStack) -> int:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "tests.lab.kafka.exporter", "--bootstrap", self.kafka.bootstrap]
        exporter = Server("exporter", [*command, "--port", str(port)], log=self.directory / "exporter.log")
        exporter.start()
        stack.callback(exporter.kill)
        return port

    def _make_jobs(self) -> dict[str, Manifest]:
        """Make the Jobs of the stage, by name; the names are the same every time."""
        chance = random.Random(1)
        made = {}
        for target, type_ in list(JOBS.items()) * JOBS_EACH:
            queue = launcher.Queue.launch("ETH", type_, "2026-01-01", launcher.short_id(chance))
            extra = {loader.CADENCE: str(self._report_seconds)}
            env = launcher.environment(queue, target, bootstrap=self.kafka.bootstrap_behind(FLEET), extra=extra)
            manifest = launcher.job_manifest(queue, target, env, namespace=self.namespace)
            made[manifest["metadata"]["name"]] = manifest
        return made

    def _renew_jobs(self) -> None:
        """Make again what is not there, and what failed for good while no healer was there."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        for name, manifest in self._manifests.items():
            found = self.plane.call("GET", f"{path}/{name}")
            if found.status == 200 and _has_failed(found.body):
                self.plane.call("DELETE", f"{path}/{name}?propagationPolicy=Foreground")
                until(partial(self._is_gone, f"{path}/{name}"), f"{name} to be gone", seconds=SETTLED_SECONDS)
                found = self.plane.call("GET", f"{path}/{name}")
            if found.status == 404:
                answer = self.plane.call("POST", path, manifest)
                assert answer.status == 201, answer

    def _is_gone(self, path: str) -> bool:
        return self.plane.call("GET", path).status == 404

    def _is_staffed(self) -> bool:
        return len(self.jobs.pids()) == len(JOBS) * JOBS_EACH and self.brokers.are_all_up()

    # ------------------------------------------------------------------ one experiment

    @contextmanager
    def played(
        self, name: str, *, fault: Fault | None = None, mode: Mode = Mode.HEAL, slow: str = HEALER
    ) -> Iterator[Scene]:
        """Start a healer, a Prometheus that scrapes it, and wait until all is as it should be before an experiment.

        `slow`: whose way to Kafka a latency is put in.
        """
        self._renew_jobs()
        until(self._is_staffed, "a process for each Pod", seconds=SETTLED_SECONDS)
        program = SF_HEALER if fault is None else (sys.executable, "-m", "tests.chaos.builds", fault.value)
        at = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        with self._healer(program, mode) as healer, self._prometheus(at, healer) as prometheus:
            scene = Scene(self, at, healer, prometheus, self.proxies[slow])
            scene.settle()
            yield scene

    @contextmanager
    def _healer(self, program: tuple[str, ...], mode: Mode) -> Iterator[Worker]:
        policy = self.directory / "policy.toml"
        policy.write_text(POLICY)
        healer = Worker(
            "healer",  # one name and one directory: it comes back to its partitions at once
            self.directory,
            bootstrap=self.kafka.bootstrap_behind(HEALER),
            program=program,
            mode=mode.value,
            namespace=self.namespace,
            kubeconfig=self._kubeconfig,
            policy_file=policy,
            sweep_window_seconds=1.0,
            broker_session_timeout_seconds=SESSION_SECONDS,
        )
        with healer:
            healer.wait_until_ready(SETTLED_SECONDS)
            yield healer

    def _prometheus(self, at: Path, healer: Worker) -> Prometheus:
        targets = {"sf-healer": healer.port, "kafka-exporter": self._exporter}
        scrapes = [
            {
                "job_name": name,
                "scrape_interval": f"{SCRAPE_SECONDS}s",
                "scrape_timeout": f"{SCRAPE_SECONDS}s",
                "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}],
            }
            for name, port in targets.items()
        ]
        groups = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
        return Prometheus(at / "prometheus", scrapes=scrapes, groups=groups)


def _has_failed(job: Manifest) -> bool:
    return any(each["type"] == "Failed" and each["status"] == "True" for each in job["status"].get("conditions", ()))


class Scene:
    """One experiment's healer and Prometheus, and the bindings for `sf-healer chaos run`."""

    def __init__(
        self, stage: Stage, at: Path, healer: Worker, prometheus: Prometheus, proxies: tuple[str, ...]
    ) -> None:
        self.stage, self.at, self.healer, self.prometheus, self._proxies = stage, at, healer, prometheus, proxies
        self._strikes_before = len(self._killed())

    def settle(self) -> None:
        """Wait until all is calm and Prometheus has seen it."""
        until(self.healer.has_counted, "every partition to be counted", seconds=SETTLED_SECONDS)
        deadline = time.monotonic() + SETTLED_SECONDS
        for query, wanted in SETTLED.items():
            left = max(1.0, deadline - time.monotonic())
            until(partial(self._holds, query, wanted), query, seconds=left)

    def strikes(self) -> int:
        """Count what the experiment has hit by now: Pods killed, or proxies slowed."""
        slowed = sum(bool(self.stage.toxiproxy.toxics(name)) for name in self._proxies)
        return len(self._killed()) - self._strikes_before + slowed

    def bindings(self) -> Path:
        """Write lab.toml."""
        return lab_file.write(
            self.at,
            prometheus=self.prometheus.url,
            healer=f"http://{LOOPBACK}:{self.healer.port}",
            namespaces={"stf": self.stage.namespace, "kafka": self.stage.brokers_namespace},
            kubeconfig=self.stage.plane.kubeconfig,
            toxiproxy=self.stage.toxiproxy.url,
            proxies=self._proxies,
        )

    def _killed(self) -> list[str]:
        return [*self.stage.jobs.killed, *self.stage.brokers.killed]

    def _holds(self, query: str, wanted: float) -> bool:
        rows = self.prometheus.ask(query)
        return len(rows) == 1 and float(rows[0]["value"][1]) == wanted
