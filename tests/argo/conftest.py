"""A cluster that has the kinds of Argo Rollouts, Traefik, Gateway API and prometheus-operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab import argo, crds
from tests.lab.argo import installation
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kube import ControlPlane

PUBLISHED_SECONDS = 60.0
KINDS = {
    *("rollouts.argoproj.io", "analysistemplates.argoproj.io", "analysisruns.argoproj.io"),
    *("traefikservices.traefik.io", "ingressroutes.traefik.io", "httproutes.gateway.networking.k8s.io"),
    *("podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"),
}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Install the CRDs and make the platform's namespace; the CRDs are taken away again, with all that is of them."""
    assert argo.missing() is None
    given = [argument for path in (*installation.crds(), *crds.files()) for argument in ("-f", str(path))]
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", *given)
    control_plane.kubectl("wait", "--for=condition=Established", f"--timeout={PUBLISHED_SECONDS:g}s", *given)
    if control_plane.call("GET", "/api/v1/namespaces/stf").status == 404:
        control_plane.create_namespace("stf")

    def are_served() -> bool:
        return set(control_plane.kubectl("api-resources", "-o", "name").split()) >= KINDS

    until(are_served, "the kinds to be served", seconds=PUBLISHED_SECONDS)
    yield control_plane
    control_plane.kubectl("delete", "--ignore-not-found", *given)
