"""The lab.toml of a stage: what stands for what the shipped engines name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.lab.kube.installation import binary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROMETHEUS = "http://prometheus-prometheus.monitoring.svc:9090"
HEALER = "http://sf-healer.kafka.svc:6066"
DESTINATIONS = ("k3-kafka-bootstrap.kafka.svc.cluster.local|9093", "k3-kafka-brokers.kafka.svc.cluster.local|9093")


def write(
    directory: Path,
    *,
    prometheus: str,
    healer: str,
    namespaces: Mapping[str, str],
    kubeconfig: Path,
    toxiproxy: str = "",
    proxies: tuple[str, ...] = (),
) -> Path:
    """Write it, with the kubectl that it names beside it; `proxies` are those that every way to Kafka goes through."""
    kubectl = directory / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {binary()} kubectl --cache-dir={directory} "$@"\n')
    kubectl.chmod(0o755)
    tables = {
        "addresses": {PROMETHEUS: prometheus, HEALER: healer},
        "namespaces": namespaces,
        "cluster": {"kubeconfig": str(kubeconfig), "kubectl": [str(kubectl)]},
    }
    if toxiproxy:
        tables |= {"toxiproxy": {"url": toxiproxy}, "toxiproxy.proxies": dict.fromkeys(DESTINATIONS, proxies)}
    lines = [
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()))
    ]
    file = directory / "lab.toml"
    file.write_text("\n".join(lines) + "\n")
    return file
