"""The rollouts controller with its own manifests and our component: the account and the flags it has in a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from tests.argo.files import composed, documents
from tests.argo.scenario import commands
from tests.lab.argo import installation
from tests.lab.argo.controller import Controller
from tests.manifests.built import Name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane

NAMESPACE = "argo-rollouts"


@contextmanager
def controlled(plane: ControlPlane, at: Path, webhook_url: str) -> Iterator[Controller]:
    """Apply it to a cluster with the CRDs and run the process; whoever listens at `webhook_url` is told."""
    upstream = at / "controller"
    upstream.mkdir()
    (upstream / "upstream").symlink_to(installation.manifests())
    text = f"namespace: {NAMESPACE}\nresources: [upstream/base, upstream/role]\ncomponents: [ARGO/controller]\n"
    built = composed(text, upstream)
    (container,) = built[Name("Deployment", "argo-rollouts")]["spec"]["template"]["spec"]["containers"]
    for name in list(built):  # its Pod would be kwok's; the process is ours
        if name.kind == "Deployment":
            del built[name]
    if plane.call("GET", f"/api/v1/namespaces/{NAMESPACE}").status == 404:
        plane.create_namespace(NAMESPACE)
    binding = documents(installation.manifests() / "cluster-install" / "argo-rollouts-clusterrolebinding.yaml")[0]
    binding["subjects"][0]["namespace"] = NAMESPACE
    applied = yaml.safe_dump_all([*built.values(), binding])
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=applied)
    try:
        for words in commands("The controller"):
            plane.kubectl(*[word.replace("…", webhook_url) for word in words])
        kubeconfig = plane.kubeconfig_of(NAMESPACE, "argo-rollouts")
        with Controller(at, kubeconfig, container["args"]) as controller:
            yield controller
    finally:
        plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=applied)
