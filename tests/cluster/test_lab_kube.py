"""The lab's control plane does what our tests take for granted of it. Nothing of sf-healer is tested here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config

from tests.lab.kube import KUBERNETES_VERSION
from tests.lab.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kube import ControlPlane

pytestmark = pytest.mark.kube

JOB_RIGHTS = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
]


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    return control_plane.create_namespace()


def test_the_server_says_the_version_it_is(control_plane: ControlPlane) -> None:
    assert control_plane.call("GET", "/version").body["gitVersion"] == f"v{KUBERNETES_VERSION}"


def test_a_jobs_pod_runs(control_plane: ControlPlane, namespace: str) -> None:
    job = _create_job(control_plane, namespace, "loader")

    pod = _running_pod(control_plane, namespace, job)

    assert pod["status"]["podIP"].startswith("10.0.0.")


def test_a_foreground_delete_takes_the_pods_before_the_job(control_plane: ControlPlane, namespace: str) -> None:
    job = _create_job(control_plane, namespace, "loader", {"kubelab.io/stop-delay": "1s"})
    _running_pod(control_plane, namespace, job)

    answer = _delete_job(control_plane, namespace, "loader", uid=job["metadata"]["uid"])
    assert answer.status == 200

    terminating = control_plane.call("GET", _jobs(namespace, "loader"))
    assert terminating.body["metadata"]["finalizers"] == ["foregroundDeletion"]
    _wait_until_gone(control_plane, namespace, "loader")
    assert _pods(control_plane, namespace, job) == []


def test_a_delete_with_another_uid_is_a_conflict(control_plane: ControlPlane, namespace: str) -> None:
    _create_job(control_plane, namespace, "loader")

    answer = _delete_job(control_plane, namespace, "loader", uid="00000000-0000-0000-0000-000000000000")

    assert (answer.status, answer.body["reason"]) == (409, "Conflict")


def test_a_finished_job_is_removed_after_its_ttl(control_plane: ControlPlane, namespace: str) -> None:
    _create_job(control_plane, namespace, "loader", {"kubelab.io/outcome": "Succeeded"}, ttl_seconds=0)

    _wait_until_gone(control_plane, namespace, "loader")


def test_a_job_whose_pod_fails_is_failed(control_plane: ControlPlane, namespace: str) -> None:
    _create_job(control_plane, namespace, "loader", {"kubelab.io/outcome": "Failed"})

    until(lambda: _has_condition(control_plane, namespace, "loader", "Failed"), "the Job to fail", seconds=20)


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(
    control_plane: ControlPlane, namespace: str
) -> None:
    account = _connect(control_plane.service_account(namespace, "healer", JOB_RIGHTS))

    assert client.BatchV1Api(account).list_namespaced_job(namespace).items == []
    assert _refusal(client.BatchV1Api(account).list_namespaced_job, "kube-system") == 403
    assert _refusal(client.CoreV1Api(account).list_namespaced_secret, namespace) == 403
    assert _refusal(client.CoreV1Api(account).delete_namespaced_pod, "any", namespace) == 403


def test_a_clients_kubeconfig_is_the_service_accounts_and_not_the_admins(
    control_plane: ControlPlane, namespace: str
) -> None:
    account = _connect(control_plane.service_account(namespace, "healer", JOB_RIGHTS))

    review = client.AuthenticationV1Api(account).create_self_subject_review({})

    assert review.status.user_info.username == f"system:serviceaccount:{namespace}:healer"


def test_the_api_server_forgets_nothing_when_it_crashes_and_pods_go_on_to_run(
    control_plane: ControlPlane, namespace: str
) -> None:
    before = _create_job(control_plane, namespace, "before")
    control_plane.kill_apiserver()
    with pytest.raises(ConnectionRefusedError):
        control_plane.call("GET", "/version")

    control_plane.restart_apiserver()

    assert control_plane.call("GET", _jobs(namespace, "before")).body["metadata"]["uid"] == before["metadata"]["uid"]
    _running_pod(control_plane, namespace, _create_job(control_plane, namespace, "after"))


def test_kubectl_is_there_for_manifests(control_plane: ControlPlane, namespace: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}

    control_plane.kubectl("--namespace", namespace, "apply", "-f", "-", stdin=json.dumps(manifest))

    stored = control_plane.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/settings")
    assert stored.body["data"] == {"a": "b"}


def _create_job(
    plane: ControlPlane,
    namespace: str,
    name: str,
    annotations: dict[str, str] | None = None,
    ttl_seconds: int | None = None,
) -> dict[str, Any]:
    pod = {
        "metadata": {"annotations": annotations or {}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "loader", "image": "example/loader:1"}]},
    }
    spec = {"backoffLimit": 0, "template": pod}
    if ttl_seconds is not None:
        spec["ttlSecondsAfterFinished"] = ttl_seconds
    answer = plane.call("POST", _jobs(namespace), {"metadata": {"name": name}, "spec": spec})
    assert answer.status == 201, answer.body
    return answer.body


def _delete_job(plane: ControlPlane, namespace: str, name: str, *, uid: str) -> Any:
    options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
    return plane.call("DELETE", _jobs(namespace, name), options)


def _jobs(namespace: str, name: str = "") -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs{'/' if name else ''}{name}"


def _pods(plane: ControlPlane, namespace: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    answer = plane.call("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")
    return list(answer.body["items"])


def _running_pod(plane: ControlPlane, namespace: str, job: dict[str, Any]) -> dict[str, Any]:
    def running() -> dict[str, Any] | None:
        pods = _pods(plane, namespace, job)
        return next((pod for pod in pods if pod["status"]["phase"] == "Running"), None)

    found = until(running, "the Job's pod to run", seconds=30)
    assert found is not None
    return found


def _wait_until_gone(plane: ControlPlane, namespace: str, name: str) -> None:
    until(lambda: plane.call("GET", _jobs(namespace, name)).status == 404, f"{name} to be gone", seconds=20)


def _has_condition(plane: ControlPlane, namespace: str, name: str, kind: str) -> bool:
    conditions = plane.call("GET", _jobs(namespace, name)).body["status"].get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _connect(kubeconfig: Path) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig))


def _refusal(call: Any, *arguments: str) -> int:
    with pytest.raises(client.ApiException) as refused:
        call(*arguments)
    return int(refused.value.status)
