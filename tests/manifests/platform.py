"""The lab's control plane with what StreamForge has: namespaces, Pod Security, the operators' kinds."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.lab.waiting import until
from tests.manifests.built import MANIFESTS, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.kube import ControlPlane

WORKERS, JOBS = "kafka", "stf"
KINDS = ("kafkatopics.kafka.strimzi.io", "kafkausers.kafka.strimzi.io")
KINDS += ("podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com")
AVAILABLE_SECONDS = 90.0


class Platform:
    """A control plane that takes our manifests."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def make_namespaces(self) -> None:
        """Make the namespaces that are not there; that of the workers enforces `restricted`."""
        for name in (WORKERS, JOBS):
            if self.plane.call("GET", f"/api/v1/namespaces/{name}").status == 404:
                self.plane.create_namespace(name)
        enforced = "pod-security.kubernetes.io/enforce=restricted"
        self.plane.kubectl("label", "--overwrite", "namespace", WORKERS, enforced)

    def knows_every_kind(self) -> bool:
        """Say whether the API server serves the operators' kinds."""
        return set(KINDS) <= set(self.plane.kubectl("api-resources", "-o", "name").split())

    @contextmanager
    def applied(self, overlay: str) -> Iterator[list[str]]:
        """Apply an overlay as its users do; gives what kubectl says of each object. Taken away at the end."""
        directory = str(MANIFESTS / "overlays" / overlay)
        try:
            yield self.plane.kubectl("apply", "--server-side", "-k", directory).splitlines()
        finally:
            self.plane.kubectl("delete", "--ignore-not-found", "-k", directory)

    def wait_until_available(self, overlay: str) -> None:
        """Return when every Deployment has all of its Pods: admission has let them in."""
        for name, deployment in of_kind(overlay, "Deployment").items():
            wanted = deployment["spec"]["replicas"]
            place = f"/apis/apps/v1/namespaces/{WORKERS}/deployments/{name}"

            def has_all(place: str = place, wanted: int = wanted) -> bool:
                return self.read(place)["status"].get("availableReplicas") == wanted

            until(has_all, f"{name} to have its Pods", seconds=AVAILABLE_SECONDS)

    def read(self, path: str) -> dict[str, Any]:
        """Read an object or a list as the API server has it."""
        answer = self.plane.call("GET", path)
        assert answer.status == 200, (path, answer)
        return answer.body
