"""One canary of the end to end test: a namespace, what its versions do, and how the shipped files are made quick.

Nothing but kustomize patches changes the shipped files: durations, the address of Prometheus, the namespace.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from tests.argo.files import ARGO, PLATFORM, Object, composed, documents
from tests.manifests.built import Name

if TYPE_CHECKING:
    from pathlib import Path

TRAFFIC_STEP = 1
PAUSE = "4s"
#: Argument by template: `interval` alone is quicker; limits, samples and windows are the shipped ones.
INTERVALS = {"queue-manager-traffic": "1s", "queue-manager-slo": "1s", "queue-manager-gate": "2s"}


class Scenario(msgspec.Struct, frozen=True):
    """What is tried: the arguments of the stand-ins, whether anybody asks, and patches to the Rollout."""

    name: str
    canary: tuple[str, ...] = ()
    stable: tuple[str, ...] = ()
    asked: bool = True
    without_the_wait: bool = False  # the traffic step left out, as when a person promotes past it

    @property
    def namespace(self) -> str:
        """Give the namespace it has for itself."""
        return f"canary-{self.name}"


def platform(scenario: Scenario) -> list[Object]:
    """Give queue-manager as it is before argo/, in the scenario's namespace."""
    made = documents(PLATFORM)
    for each in made:
        each["metadata"]["namespace"] = scenario.namespace
    template = made[0]["spec"]["template"]
    template["metadata"]["annotations"] = {"kubelab.io/start-delay": "3s"}  # ready when the process is, not before
    template["spec"]["containers"][0]["args"] = list(scenario.stable)
    return made


def canary_of(scenario: Scenario) -> Object:
    """Give the patch to the Deployment that starts the canary."""
    container = {"name": "queue-manager", "image": "queue-manager:1.1.0", "args": list(scenario.canary)}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


def made_quick(scenario: Scenario, prometheus: str, at: Path, *, base: str) -> Path:
    """Write a kustomization of `base` (a directory of argo/) for this scenario; gives its directory."""
    directory = at / scenario.name / base
    directory.mkdir(parents=True)
    shipped = composed(f"resources: [ARGO/{base}]\n", directory)
    patches = [{"target": {"kind": "Rollout"}, "patch": yaml.safe_dump(_rollout(shipped, scenario))}]
    for name, interval in INTERVALS.items():
        given = [each["name"] for each in shipped[Name("AnalysisTemplate", name)]["spec"]["args"]]
        values = {"interval": interval, "prometheus": prometheus, "namespace": scenario.namespace}
        patch = [_replace(f"/spec/args/{given.index(key)}/value", value) for key, value in values.items()]
        target = {"kind": "AnalysisTemplate", "name": name}
        patches.append({"target": target, "patch": yaml.safe_dump(patch)})
    monitor = [_replace("/spec/podMetricsEndpoints/0/interval", "1s")]
    patches.append({"target": {"kind": "PodMonitor"}, "patch": yaml.safe_dump(monitor)})
    for name in ("queue-manager-adapter", "queue-manager-canary"):
        often = [_replace("/spec/groups/0/interval", "1s")]
        patches.append({"target": {"kind": "PrometheusRule", "name": name}, "patch": yaml.safe_dump(often)})
    content = {"namespace": scenario.namespace, "patches": patches}
    composed(f"resources: [ARGO/{base}]\n{yaml.safe_dump(content)}", directory)
    return directory


def _rollout(shipped: dict[Name, Object], scenario: Scenario) -> list[Object]:
    canary = shipped[Name("Rollout", "queue-manager")]["spec"]["strategy"]["canary"]
    patch = [_replace("/spec/minReadySeconds", 1)]
    patch += [_replace(f"/spec/strategy/canary/{name}DelaySeconds", 5) for name in ("scaleDown", "abortScaleDown")]
    for number, step in enumerate(canary["steps"]):
        if "pause" in step:
            patch.append(_replace(f"/spec/strategy/canary/steps/{number}/pause/duration", PAUSE))
    if scenario.without_the_wait:
        assert "analysis" in canary["steps"][TRAFFIC_STEP]
        patch.append({"op": "remove", "path": f"/spec/strategy/canary/steps/{TRAFFIC_STEP}"})
    return patch


def _replace(path: str, value: Any) -> Object:
    return {"op": "replace", "path": path, "value": value}


def scrape_config(monitor: Object, targets: Path) -> Object:
    """Write what prometheus-operator makes of a PodMonitor, with targets from a file instead of the API server.

    In its order (v0.93.0, pkg/prometheus/promcfg.go): labels of the Pod, `endpoint`, then the monitor's relabelings.
    """
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    discovered = "__meta_kubernetes_pod_"
    rules: list[Object] = [
        {"action": "keep", "source_labels": [f"{discovered}label_{_label(key)}"], "regex": value}
        for key, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    rules += [
        {"action": "keep", "source_labels": [f"{discovered}container_port_name"], "regex": endpoint["port"]},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{discovered}container_name"], "target_label": "container"},
        {"source_labels": [f"{discovered}name"], "target_label": "pod"},
    ]
    for each in monitor["spec"]["podTargetLabels"]:
        source = [f"{discovered}label_{_label(each)}"]
        rules.append({"source_labels": source, "regex": "(.+)", "target_label": _label(each), "replacement": "$1"})
    rules.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    return {
        "job_name": "podMonitor/queue-manager/0",
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["interval"],
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
        "relabel_configs": rules + endpoint.get("relabelings", []),
    }


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name)


def commands(heading: str) -> list[list[str]]:
    """Give the kubectl commands of a section of the page, in order, as words."""
    page = (ARGO / "README.md").read_text()
    section = re.split(r"\n#+ ", page.partition(f"# {heading}\n")[2])[0]
    found = re.findall(r"`(kubectl [^`]+)`", section.replace("\n   ", " "))
    assert found, heading
    return [shlex.split(each)[1:] for each in found]
