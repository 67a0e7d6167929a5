"""A real API server with the CRDs takes every overlay; what becomes of a canary when it is applied again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.argo.files import ARGO, OVERLAYS, build, composed
from tests.lab.argo import installation
from tests.manifests.built import Name, kustomize

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kube import ControlPlane

pytestmark = [pytest.mark.kube, pytest.mark.crds, pytest.mark.argo, pytest.mark.timeout(300)]

TRAEFIK_SERVICE = "/apis/traefik.io/v1alpha1/namespaces/stf/traefikservices/queue-manager"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_taken_whole_with_no_unknown_field(cluster: ControlPlane, overlay: str):
    directory = str(ARGO / "overlays" / overlay)
    try:
        told = cluster.kubectl("apply", "--server-side", "--validate=strict", "-k", directory).splitlines()
        assert len(told) == len(build(overlay))
        assert all(line.endswith(" serverside-applied") for line in told)
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", directory)


def test_an_unknown_field_is_refused_so_the_schemas_are_at_work(cluster: ControlPlane):
    rollout = build("traefik")[Name("Rollout", "queue-manager")]
    path = "/apis/argoproj.io/v1alpha1/namespaces/stf/rollouts?fieldValidation=Strict"
    wrong = rollout | {"spec": rollout["spec"] | {"progressDeadlineAbrot": True}}
    answer = cluster.call("POST", path, wrong)
    assert answer.status == 400
    assert "unknown field" in answer.body["message"]
    wrong = rollout | {"spec": rollout["spec"] | {"minReadySeconds": "15s"}}
    assert cluster.call("POST", path, wrong).status == 422


def test_applied_again_by_the_server_the_weights_of_a_canary_stay_and_by_the_client_they_do_not(cluster: ControlPlane):
    def weights() -> list[Any]:
        services = cluster.call("GET", TRAEFIK_SERVICE).body["spec"]["weighted"]["services"]
        return [each.get("weight") for each in services]

    directory = str(ARGO)
    try:
        cluster.kubectl("apply", "-k", directory)
        service = cluster.call("GET", TRAEFIK_SERVICE).body
        for each, weight in zip(service["spec"]["weighted"]["services"], (75, 25), strict=True):
            each["weight"] = weight
        assert cluster.call("PUT", TRAEFIK_SERVICE, service).status == 200, "as the controller does it"
        with pytest.raises(RuntimeError, match="conflict"):
            cluster.kubectl("apply", "--server-side", "-k", directory)
        assert weights() == [75, 25]
        cluster.kubectl("apply", "-k", directory)
        assert weights() == [None, None], "so the page warns of it"
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", directory)


def test_the_controller_is_taken_with_our_component(cluster: ControlPlane, tmp_path: Path):
    text = _with_upstream(tmp_path, "ARGO/controller", "ARGO/controller/gateway-api")
    built = composed(text, tmp_path)
    (container,) = built[Name("Deployment", "argo-rollouts")]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"quay.io/argoproj/argo-rollouts:v{installation.ARGO_ROLLOUTS_VERSION}"
    assert "--traefik-api-group=traefik.io" in container["args"]
    data = built[Name("ConfigMap", "argo-rollouts-config")]["data"]
    assert "argoproj-labs/gatewayAPI" in data["trafficRouterPlugins"]
    cluster.create_namespace("argo-rollouts") if cluster.call(
        "GET", "/api/v1/namespaces/argo-rollouts"
    ).status == 404 else None
    told = cluster.kubectl(
        "apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", stdin=kustomize(tmp_path)
    )
    assert len(told.splitlines()) == len(built)


def _with_upstream(at: Path, *components: str) -> str:
    """Write a kustomization of the controller's own manifests, without its CRDs, and our components."""
    (at / "upstream").symlink_to(installation.manifests())
    return (
        f"namespace: argo-rollouts\nresources: [upstream/base, upstream/role]\ncomponents: [{', '.join(components)}]\n"
    )
