"""Fifty Jobs of the platform, each with something of its own, so that a restart which loses anything shows.

The platform's launcher makes the manifests; a seed chooses what is added. Every addition is used several times.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from sf_healer.local import launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Manifest = dict[str, Any]

TARGETS = {
    "loader-producer": "api_candles_5m",
    "loader-ws": "ws_trades",
    "arango-connector": "api_trades",
    "arango-orderbook": "ws_depth",
    "graph-builder": "gnn_graph",
    "gnn-trainer": "gnn_train",
}
#: How long a pod takes to come up and to end, seconds: restarts must be caught in every step of theirs.
START_SECONDS = (0.0, 1.5)
STOP_SECONDS = (0.0, 3.0)
_ADDITIONS_EACH = 4


class Job(msgspec.Struct, frozen=True):
    """One Job, and how its process names itself."""

    name: str
    queue_id: str
    producer: str
    manifest: Manifest


def make(count: int, *, seed: int, namespace: str, owner: Mapping[str, str]) -> list[Job]:
    """Make Jobs of all targets; `owner` is an object of the namespace (apiVersion, kind, name, uid) that stays."""
    rng = random.Random(seed)
    additions = list(_ADDITIONS)
    targets = list(TARGETS.items())
    jobs = []
    for number in range(count):
        target, type_ = targets[number % len(targets)]
        # A short symbol: an Indexed Job's name has to leave room for the index (63 characters).
        queue = launcher.Queue.launch("ETH", type_, "2025-06-01", launcher.short_id(rng), until="2025-06-30")
        env = launcher.environment(queue, target)
        manifest = launcher.job_manifest(queue, target, env, namespace=namespace)
        chosen = {additions[number % len(additions)], *rng.sample(additions, _ADDITIONS_EACH)}
        for add in sorted(chosen, key=additions.index):
            add(manifest, rng)
        if number % 5 == 0:
            manifest["metadata"]["ownerReferences"] = [dict(owner)]
        pod = manifest["spec"]["template"].setdefault("metadata", {}).setdefault("annotations", {})
        pod["kubelab.io/start-delay"] = _milliseconds(rng, START_SECONDS)
        pod["kubelab.io/stop-delay"] = _milliseconds(rng, STOP_SECONDS)
        jobs.append(Job(manifest["metadata"]["name"], queue.id, env["TELEMETRY_PRODUCER_ID"], manifest))
    return jobs


def _milliseconds(rng: random.Random, span: tuple[float, float]) -> str:
    return f"{rng.uniform(*span) * 1000:.0f}ms"


# ---- what may be added


def _pod(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def _container(manifest: Manifest) -> Manifest:
    container: Manifest = _pod(manifest)["containers"][0]
    return container


def _labels(manifest: Manifest, rng: random.Random) -> None:
    manifest["metadata"]["labels"] = {
        "team": "data",
        "app.kubernetes.io/part-of": "streamforge",
        "n": str(rng.random()),
    }
    template = manifest["spec"]["template"].setdefault("metadata", {})
    template["labels"] = {"queue": "q1", "empty": ""}


def _annotations(manifest: Manifest, rng: random.Random) -> None:
    notes = {"note": 'kept: ü, "quotes", \n a line', "empty": "", "example.com/large": "x" * rng.randint(1, 20_000)}
    manifest["metadata"]["annotations"] = notes
    template = manifest["spec"]["template"].setdefault("metadata", {})
    template.setdefault("annotations", {})["prometheus.io/scrape"] = "true"


def _env(manifest: Manifest, rng: random.Random) -> None:
    secret = {"name": "credentials", "key": "password", "optional": True}
    _container(manifest)["env"] += [
        {"name": "EMPTY", "value": ""},
        {"name": "LARGE", "value": "y" * rng.randint(1, 30_000)},
        {"name": "EXPANDED", "value": "$(QUEUE_ID)/$$(not)"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": secret}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]
    _container(manifest)["envFrom"] = [{"prefix": "CM_", "configMapRef": {"name": "settings", "optional": True}}]


def _volumes(manifest: Manifest, _rng: random.Random) -> None:
    _pod(manifest)["volumes"] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
        {"name": "ca", "secret": {"secretName": "ca", "optional": True, "defaultMode": 0o400}},
        {"name": "told", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    _container(manifest)["volumeMounts"] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "ca", "mountPath": "/etc/ca", "readOnly": True},
        {"name": "told", "mountPath": "/etc/told"},
    ]


def _resources(manifest: Manifest, rng: random.Random) -> None:
    memory = f"{rng.randint(16, 64)}Mi"
    _container(manifest)["resources"] = {
        "requests": {"cpu": "10m", "memory": memory},
        "limits": {"cpu": "1500m", "memory": "1G"},
    }


def _not_suspended(manifest: Manifest, _rng: random.Random) -> None:
    manifest["spec"]["suspend"] = False


def _failure_policy(manifest: Manifest, _rng: random.Random) -> None:
    manifest["spec"]["podFailurePolicy"] = {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42, 43]}},
        ]
    }


def _indexed(manifest: Manifest, rng: random.Random) -> None:
    completions = rng.randint(2, 3)
    manifest["spec"] |= {
        "completionMode": "Indexed",
        "completions": completions,
        "parallelism": completions,  # equal: what Kubernetes calls an elastic indexed Job
        "backoffLimitPerIndex": 1,
        "maxFailedIndexes": 1,
        "successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]},
    }


def _work_queue(manifest: Manifest, _rng: random.Random) -> None:
    if "completions" not in manifest["spec"]:
        manifest["spec"]["parallelism"] = 2


def _limits(manifest: Manifest, rng: random.Random) -> None:
    # With a shorter one, a create that had no answer is a person's to decide (docs/decisions/0006).
    manifest["spec"]["ttlSecondsAfterFinished"] = rng.choice((900, 86_400))
    manifest["spec"]["activeDeadlineSeconds"] = 604_800
    manifest["spec"]["backoffLimit"] = 0


def _never_removed(manifest: Manifest, _rng: random.Random) -> None:
    del manifest["spec"]["ttlSecondsAfterFinished"]


def _replacement(manifest: Manifest, _rng: random.Random) -> None:
    manifest["spec"]["podReplacementPolicy"] = "Failed"


def _own_selector(manifest: Manifest, _rng: random.Random) -> None:
    own = {"mine": manifest["metadata"]["name"][-40:].strip("-")}
    manifest["spec"] |= {"manualSelector": True, "selector": {"matchLabels": own}}
    template = manifest["spec"]["template"].setdefault("metadata", {})
    # Without the Job's name on its pods nobody could tell whose they are (docs: a Job found by its own selector).
    job_name = {"batch.kubernetes.io/job-name": manifest["metadata"]["name"]}
    template["labels"] = template.get("labels", {}) | own | job_name


def _placement(manifest: Manifest, _rng: random.Random) -> None:
    terms = [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    _pod(manifest).update(
        {
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        }
    )


def _pod_details(manifest: Manifest, _rng: random.Random) -> None:
    _pod(manifest).update(
        {
            "initContainers": [{"name": "wait", "image": "registry.example/wait:1", "command": ["sh", "-c", "true"]}],
            "imagePullSecrets": [{"name": "registry"}],
            "terminationGracePeriodSeconds": 7,
            "automountServiceAccountToken": False,
            "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["kafka"]}],
            "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 2000},
        }
    )


def _probes(manifest: Manifest, _rng: random.Random) -> None:
    _container(manifest).update(
        {
            "ports": [{"name": "metrics", "containerPort": 8000}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 30},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    )


_ADDITIONS: tuple[Callable[[Manifest, random.Random], None], ...] = (
    _labels,
    _annotations,
    _env,
    _volumes,
    _resources,
    _not_suspended,
    _failure_policy,
    _indexed,
    _work_queue,
    _limits,
    _never_removed,
    _replacement,
    _own_selector,
    _placement,
    _pod_details,
    _probes,
)
