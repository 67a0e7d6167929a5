"""The local cluster behaves as Kubernetes does, seen through the real client.

The suite runs against the lab's control plane as well: what holds there holds here, or it is no stand-in.
Pods of both are steered by the Job: kwok reads annotations, the local cluster's stub reads its env.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ProtocolError

from sf_healer.core.manifest import sanitize
from sf_healer.local.cluster import LocalCluster
from tests.lab.kube import installation
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 30.0
OTHER_UID = "00000000-dead-beef-0000-000000000000"
STUB = """
import os, select, signal, sys
wait = lambda name: select.select([], [], [], float(os.environ.get(name, "0")))
def end(*_):
    wait("STOP_DELAY")
    os._exit(143)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
if "OUTCOME" in os.environ:
    wait("RUN_FOR")
    sys.exit(os.environ["OUTCOME"] == "Failed")
while True:
    signal.pause()
"""


class Place(NamedTuple):
    """A cluster to test against, in a namespace of its own."""

    kubeconfig: Path
    namespace: str
    pods_are_real: bool


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(
        command=(sys.executable, "-I", "-S", "-c", STUB), grace_limit_seconds=5.0, backoff_seconds=0.1
    ) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("local", id="local"),
        pytest.param("control_plane", id="kube", marks=pytest.mark.kube),
    ]
)
def cluster_api(request: pytest.FixtureRequest) -> Place:
    running = request.getfixturevalue(request.param)
    return Place(running.kubeconfig, running.create_namespace(), isinstance(running, LocalCluster))


class Api:
    """The real client in one namespace, its answers as plain JSON."""

    def __init__(self, place: Place) -> None:
        configuration = client.Configuration()
        config.load_kube_config(str(place.kubeconfig), client_configuration=configuration)
        self.client = client.ApiClient(configuration)
        self.batch = client.BatchV1Api(self.client)
        self.core = client.CoreV1Api(self.client)
        self.namespace = place.namespace
        self.pods_are_real = place.pods_are_real

    def plain(self, answer: Any) -> Any:
        return self.client.sanitize_for_serialization(answer)

    def create(self, manifest: dict[str, Any], **options: Any) -> dict[str, Any]:
        return self.plain(self.batch.create_namespaced_job(self.namespace, manifest, **options))

    def read(self, name: str) -> dict[str, Any]:
        return self.plain(self.batch.read_namespaced_job(name, self.namespace))

    def delete(self, name: str, policy: str | None = "Foreground", **options: Any) -> Any:
        body = options | ({"propagationPolicy": policy} if policy else {})
        return self.batch.delete_namespaced_job(name, self.namespace, body=body)

    def patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return self.plain(self.batch.patch_namespaced_job(name, self.namespace, patch))

    def jobs(self, **options: Any) -> dict[str, Any]:
        return self.plain(self.batch.list_namespaced_job(self.namespace, **options))

    def pods(self, **options: Any) -> list[dict[str, Any]]:
        return self.plain(self.core.list_namespaced_pod(self.namespace, **options))["items"]

    def is_gone(self, name: str) -> bool:
        return name not in {job["metadata"]["name"] for job in self.jobs()["items"]}

    def running(self, job: dict[str, Any]) -> dict[str, Any]:
        """The Job's running pod, its process far enough to heed SIGTERM."""

        def look() -> dict[str, Any] | None:
            found = self.pods(label_selector=f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}")
            return next((pod for pod in found if pod["status"]["phase"] == "Running"), None)

        pod: dict[str, Any] = until(look, f"a running pod of {job['metadata']['name']}", seconds=SECONDS)
        if self.pods_are_real:
            until(lambda: "ready" in self.log(pod), "its process to be ready", seconds=SECONDS)
        return pod

    def log(self, pod: dict[str, Any]) -> str:
        return self.core.read_namespaced_pod_log(pod["metadata"]["name"], self.namespace)

    def with_condition(self, name: str, type_: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.read(name)
            found = {item["type"]: item for item in job["status"].get("conditions", ())}
            return job if found.get(type_, {}).get("status") == "True" else None

        return until(look, f"{name} to be {type_}", seconds=SECONDS)


@pytest.fixture
def api(cluster_api: Place) -> Iterator[Api]:
    made = Api(cluster_api)
    yield made
    made.client.close()


def manifest(name: str, *, outcome: str = "", run_for: float = 0.0, stop_delay: float = 0.0, **spec: Any) -> Any:
    env = {"STOP_DELAY": f"{stop_delay}", "RUN_FOR": f"{run_for}", "QUEUE_ID": "loader-x-P4nTkv"}
    annotations = {"kubelab.io/stop-delay": f"{stop_delay}s", "kubelab.io/run-for": f"{run_for}s"}
    if outcome:
        env["OUTCOME"] = annotations["kubelab.io/outcome"] = outcome
    container = {
        "name": "loader",
        "image": "registry.example/loader:1",
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
            **spec,
        },
    }


class Refusal(NamedTuple):
    status: int
    reason: str
    message: str


def refusal(call: Any, *arguments: Any, **options: Any) -> Refusal:
    with pytest.raises(ApiException) as caught:
        call(*arguments, **options)
    told = json.loads(caught.value.body or "{}")
    assert told["kind"] == "Status"
    assert told["code"] == caught.value.status
    return Refusal(caught.value.status, told.get("reason", ""), told["message"])


class Watching:
    """A watch in a thread; `events` grows as they come."""

    def __init__(self, api: Api, call: Any, **options: Any) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended = threading.Event()
        self._response = call(api.namespace, watch=True, _preload_content=False, **options)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(ProtocolError):  # the cluster ended before its watch
            for line in self._response:
                event = json.loads(line)
                self.events.append((event["type"], event["object"]))
            self.ended.set()

    def seen(self, *, of: str = "") -> list[str]:
        return [type_ for type_, item in self.events if not of or item["metadata"].get("name") == of]

    def wait_for(self, type_: str, name: str = "") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            return next(
                (
                    item
                    for seen, item in self.events
                    if seen == type_ and (not name or item["metadata"]["name"] == name)
                ),
                None,
            )

        return until(look, f"{type_} {name}", seconds=SECONDS)


# ------------------------------------------------------------------ creating


def kubectl(place: Place, *arguments: str) -> str:
    """Run the real kubectl, which asks the server first what there is."""
    command = [installation.binary(), "kubectl", f"--kubeconfig={place.kubeconfig}", f"--namespace={place.namespace}"]
    home = {**os.environ, "HOME": str(place.kubeconfig.parent)}  # it keeps what it was told
    done = subprocess.run(
        [*command, *arguments], env=home, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.kube
def test_kubectl_lists_annotates_and_deletes_jobs(cluster_api: Place, api: Api):
    made = api.create(manifest("loader-a"))
    pod = api.running(made)["metadata"]["name"]
    selector = "--selector=job-name=loader-a"
    assert kubectl(cluster_api, "get", "jobs", "--output=name").split() == ["job.batch/loader-a"]
    assert kubectl(cluster_api, "get", "job/loader-a", "--output=jsonpath={.metadata.uid}") == made["metadata"]["uid"]
    assert kubectl(cluster_api, "get", "pods", selector, "--output=name").split() == [f"pod/{pod}"]
    assert "loader-a" in kubectl(cluster_api, "get", "jobs")
    kubectl(cluster_api, "annotate", "job", "loader-a", "sf-healer.io/skip=true")
    assert api.read("loader-a")["metadata"]["annotations"]["sf-healer.io/skip"] == "true"
    kubectl(cluster_api, "delete", "job", "loader-a", "--cascade=foreground", "--timeout=20s")
    assert api.is_gone("loader-a")


def test_the_server_tells_its_version(api: Api):
    assert client.VersionApi(api.client).get_code().git_version.startswith("v1.")


def test_a_created_job_has_what_the_server_assigns(api: Api):
    job = api.create(manifest("one") | {"status": {"succeeded": 5}})
    metadata = job["metadata"]
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith(("Z", "+00:00"))
    assert "." not in metadata["creationTimestamp"]
    assert (metadata["namespace"], metadata["generation"]) == (api.namespace, 1)
    assert int(metadata["resourceVersion"]) > 0
    assert "finalizers" not in metadata
    assert metadata["managedFields"]
    assert "succeeded" not in job["status"]


def test_selector_and_labels_are_generated_and_shown_on_the_job(api: Api):
    job = api.create(manifest("one"))
    uid = job["metadata"]["uid"]
    labels = {
        "controller-uid": uid,
        "batch.kubernetes.io/controller-uid": uid,
        "job-name": "one",
        "batch.kubernetes.io/job-name": "one",
    }
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert job["spec"]["template"]["metadata"]["labels"] == labels
    assert api.read("one")["metadata"]["labels"] == labels


def test_labels_of_its_own_are_all_that_a_job_shows(api: Api):
    body = manifest("one")
    body["metadata"]["labels"] = {"app": "streamforge"}
    api.create(body)
    assert api.read("one")["metadata"]["labels"] == {"app": "streamforge"}


def test_defaults_are_filled_in(api: Api):
    spec = api.create(manifest("one"))["spec"]
    assert {name: spec[name] for name in ("parallelism", "completions", "suspend", "completionMode")} == {
        "parallelism": 1,
        "completions": 1,
        "suspend": False,
        "completionMode": "NonIndexed",
    }
    assert spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert (pod["terminationGracePeriodSeconds"], pod["dnsPolicy"]) == (30, "ClusterFirst")
    assert pod["containers"][0]["terminationMessagePath"] == "/dev/termination-log"


def test_a_taken_name_is_already_exists(api: Api):
    api.create(manifest("one"))
    told = refusal(api.create, manifest("one"))
    assert told == Refusal(409, "AlreadyExists", 'jobs.batch "one" already exists')


def test_what_is_not_there_is_not_found(api: Api):
    expected = Refusal(404, "NotFound", 'jobs.batch "none" not found')
    assert refusal(api.read, "none") == expected
    assert refusal(api.delete, "none") == expected


def test_a_namespace_that_is_not_there_is_not_found(api: Api):
    told = refusal(api.batch.create_namespaced_job, "nowhere", manifest("one"))
    assert told == Refusal(404, "NotFound", 'namespaces "nowhere" not found')


def test_a_job_as_it_was_read_is_refused_for_its_controllers_labels_and_selector(api: Api):
    api.create(manifest("one"))
    again = api.read("one")
    again["metadata"]["name"] = "two"
    again["metadata"].pop("resourceVersion")
    told = refusal(api.create, again)
    assert told[:2] == (422, "Invalid")
    assert "`selector` not auto-generated" in told.message
    assert "spec.template.metadata.labels" in told.message


def test_a_sanitized_job_is_accepted_and_gets_an_identity_of_its_own(api: Api):
    old = api.create(manifest("one"))
    again = sanitize(api.read("one"))
    again["metadata"]["name"] = "two"
    new = api.create(again)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"]["template"]["spec"] == old["spec"]["template"]["spec"]


def test_a_resource_version_is_refused_on_create(api: Api):
    body = manifest("one")
    body["metadata"]["resourceVersion"] = "7"
    told = refusal(api.create, body)
    assert told == Refusal(500, "", "resourceVersion should not be set on objects to be created")
    assert api.is_gone("one")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda body: body["metadata"].update(name="x" * 64), "spec.template.labels"),
        (lambda body: body["metadata"].update(name="No_Name"), "metadata.name"),
        (lambda body: body["spec"]["template"]["spec"].update(restartPolicy="Always"), "restartPolicy"),
        (lambda body: body["spec"]["template"]["spec"].update(containers=[]), "containers"),
        (lambda body: body["spec"]["template"]["spec"]["containers"][0].update(name="x" * 64), "name"),
    ],
    ids=[
        "a name of 64",
        "a name with capitals",
        "restart always",
        "no container",
        "a container's name of 64",
    ],
)
def test_a_manifest_that_cannot_be_is_invalid(api: Api, change: Any, field: str):
    body = manifest("one")
    change(body)
    told = refusal(api.create, body)
    assert told[:2] == (422, "Invalid")
    assert field in told.message


def test_a_dry_run_answers_and_changes_nothing(api: Api):
    made = api.create(manifest("dry"), dry_run="All")
    assert made["metadata"]["uid"]
    assert api.is_gone("dry")
    api.create(manifest("wet"))
    api.delete("wet", dryRun=["All"])
    assert "deletionTimestamp" not in api.read("wet")["metadata"]


# ------------------------------------------------------------------ running


def test_a_job_gets_one_pod_that_runs_and_belongs_to_it(api: Api):
    job = api.create(manifest("one"))
    pod = api.running(job)
    assert pod["metadata"]["name"].startswith("one-")
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", "one", job["metadata"]["uid"])
    assert owner["controller"]
    assert owner["blockOwnerDeletion"]
    assert pod["metadata"]["labels"]["job-name"] == "one"
    assert pod["status"]["podIP"]
    assert pod["spec"]["containers"][0]["env"] == job["spec"]["template"]["spec"]["containers"][0]["env"]

    def ready() -> bool:
        status = api.read("one")["status"]
        return (status.get("active"), status.get("ready")) == (1, 1)

    until(ready, "the Job to count its pod", seconds=SECONDS)
    assert api.read("one")["status"]["startTime"]
    assert len(api.pods()) == 1


def test_a_pod_that_succeeds_completes_its_job_and_stays(api: Api):
    job = api.create(manifest("one", outcome="Succeeded"))
    done = api.with_condition("one", "Complete")
    assert done["status"]["succeeded"] == 1
    assert done["status"]["completionTime"]
    assert "active" not in done["status"]
    (pod,) = api.pods(label_selector=f"controller-uid={job['metadata']['uid']}")
    assert pod["status"]["phase"] == "Succeeded"


def test_a_pod_that_fails_fails_a_job_without_retries(api: Api):
    api.create(manifest("one", outcome="Failed"))
    failed = api.with_condition("one", "Failed")
    (condition,) = [item for item in failed["status"]["conditions"] if item["type"] == "Failed"]
    assert condition["reason"] == "BackoffLimitExceeded"
    assert failed["status"]["failed"] == 1


def test_a_finished_job_goes_after_its_ttl_with_its_pods(api: Api):
    api.create(manifest("one", outcome="Succeeded", ttlSecondsAfterFinished=1))
    until(lambda: api.is_gone("one"), "the TTL", seconds=SECONDS)
    assert api.pods() == []


def test_a_suspended_job_has_no_pod_until_it_is_resumed(api: Api):
    job = api.create(manifest("one", suspend=True))
    assert "startTime" not in api.with_condition("one", "Suspended")["status"]
    assert api.pods() == []
    api.patch("one", {"spec": {"suspend": False}})
    api.running(job)
    api.patch("one", {"spec": {"suspend": True}})
    api.with_condition("one", "Suspended")
    until(lambda: not api.pods(), "its pod to go", seconds=SECONDS)


def test_a_deleted_pod_is_replaced(api: Api):
    job = api.create(manifest("one", backoffLimit=4))
    first = api.running(job)["metadata"]["name"]
    api.core.delete_namespaced_pod(first, api.namespace)
    until(lambda: first not in {pod["metadata"]["name"] for pod in api.pods()}, "it to go", seconds=SECONDS)
    assert api.running(job)["metadata"]["name"] != first


def test_a_job_managed_by_somebody_else_gets_no_pod(api: Api):
    api.create(manifest("theirs", managedBy="example.com/controller"))
    job = api.create(manifest("ours"))
    api.running(job)
    assert api.pods(label_selector="job-name=theirs") == []


# ------------------------------------------------------------------ deleting


def test_a_delete_that_means_another_uid_is_a_conflict(api: Api):
    job = api.create(manifest("one"))
    told = refusal(api.delete, "one", preconditions={"uid": OTHER_UID})
    assert told[:2] == (409, "Conflict")
    assert "the UID in the precondition" in told.message
    assert api.read("one")["metadata"]["uid"] == job["metadata"]["uid"]
    assert "deletionTimestamp" not in api.read("one")["metadata"]


def test_a_delete_that_means_an_older_version_is_a_conflict(api: Api):
    job = api.create(manifest("one"))
    api.patch("one", {"metadata": {"annotations": {"a": "b"}}})
    version = job["metadata"]["resourceVersion"]
    told = refusal(api.delete, "one", preconditions={"resourceVersion": version})
    assert told[:2] == (409, "Conflict")


def test_in_the_foreground_the_job_stays_until_its_pod_has_ended(api: Api):
    job = api.create(manifest("one", stop_delay=1.0))
    api.running(job)
    jobs = Watching(api, api.batch.list_namespaced_job, resource_version=api.jobs()["metadata"]["resourceVersion"])
    pods = Watching(api, api.core.list_namespaced_pod)

    api.delete("one", preconditions={"uid": job["metadata"]["uid"]})

    metadata = api.read("one")["metadata"]
    assert metadata["deletionTimestamp"]
    assert metadata["finalizers"] == ["foregroundDeletion"]
    assert metadata["generation"] == 2
    told = refusal(api.create, manifest("one"))
    assert told == Refusal(409, "AlreadyExists", 'object is being deleted: jobs.batch "one" already exists')
    jobs.wait_for("DELETED", "one")
    until(lambda: "DELETED" in pods.seen(), "the pod's end", seconds=SECONDS)
    assert jobs.seen(of="one")[-1] == "DELETED"
    assert pods.events[-1][1]["metadata"]["deletionTimestamp"]
    assert int(pods.events[-1][1]["metadata"]["resourceVersion"]) < int(
        jobs.events[-1][1]["metadata"]["resourceVersion"]
    )
    assert api.is_gone("one")
    assert api.pods() == []


def test_the_policy_may_stand_in_the_query_if_there_is_no_body(api: Api):
    body = manifest("one")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    api.create(body)
    api.batch.delete_namespaced_job("one", api.namespace, propagation_policy="Foreground")
    assert "orphan" not in api.read("one")["metadata"]["finalizers"]
    api.patch("one", {"metadata": {"finalizers": None}})


def test_options_in_the_query_beside_a_body_are_not_read(api: Api):
    job = api.create(manifest("one"))
    pod = api.running(job)["metadata"]["name"]
    options = {"preconditions": {"uid": job["metadata"]["uid"]}}
    api.batch.delete_namespaced_job("one", api.namespace, propagation_policy="Foreground", body=options)
    until(lambda: api.is_gone("one"), "its end", seconds=SECONDS)
    assert [left["metadata"]["name"] for left in api.pods()] == [pod], "orphaned, the default"
    api.core.delete_namespaced_pod(pod, api.namespace)


def test_a_second_delete_is_taken_and_changes_nothing(api: Api):
    job = api.create(manifest("one", stop_delay=1.0))
    api.running(job)
    api.delete("one")
    first = api.read("one")["metadata"]
    api.delete("one")
    second = api.read("one")["metadata"]
    assert (first["deletionTimestamp"], first["generation"]) == (
        second["deletionTimestamp"],
        second["generation"],
    )
    until(lambda: api.is_gone("one"), "its end", seconds=SECONDS)


def test_in_the_background_the_job_is_gone_at_once_and_its_pod_follows(api: Api):
    job = api.create(manifest("one", stop_delay=1.0))
    pod = api.running(job)["metadata"]["name"]
    api.delete("one", "Background")
    assert api.is_gone("one")
    assert [left["metadata"]["name"] for left in api.pods()] == [pod]
    until(lambda: not api.pods(), "its pod to follow", seconds=SECONDS)


def test_without_a_policy_the_pod_is_orphaned_and_runs_on(api: Api):
    job = api.create(manifest("one"))
    pod = api.running(job)["metadata"]["name"]
    api.delete("one", None)
    until(lambda: api.is_gone("one"), "the Job's end", seconds=SECONDS)
    (left,) = api.pods()
    assert (left["metadata"]["name"], left["status"]["phase"]) == (pod, "Running")
    assert "ownerReferences" not in left["metadata"]
    api.core.delete_namespaced_pod(pod, api.namespace)
    until(lambda: not api.pods(), "the pod's end", seconds=SECONDS)


def test_a_finalizer_of_somebody_else_holds_the_job(api: Api):
    body = manifest("one")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    api.create(body)
    api.delete("one")
    held = ["example.com/hold"]
    until(lambda: api.read("one")["metadata"]["finalizers"] == held, "its pod to go", seconds=SECONDS)
    api.patch("one", {"metadata": {"finalizers": None}})
    until(lambda: api.is_gone("one"), "its end", seconds=SECONDS)


def test_the_same_name_again_is_another_job_with_a_pod_of_its_own(api: Api):
    old = api.create(manifest("one"))
    api.running(old)
    again = sanitize(api.read("one"))
    api.delete("one", preconditions={"uid": old["metadata"]["uid"]})
    until(lambda: api.is_gone("one"), "the old one to go", seconds=SECONDS)
    new = api.create(again)
    pod = api.running(new)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert pod["metadata"]["labels"]["controller-uid"] == new["metadata"]["uid"]
    told = refusal(api.delete, "one", preconditions={"uid": old["metadata"]["uid"]})
    assert told[:2] == (409, "Conflict")


# ------------------------------------------------------------------ patching


def test_an_annotation_moves_the_version_and_not_the_generation(api: Api):
    before = api.create(manifest("one"))
    after = api.patch("one", {"metadata": {"annotations": {"sf-healer.io/skip": "true"}}})
    assert after["metadata"]["annotations"]["sf-healer.io/skip"] == "true"
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert after["metadata"]["generation"] == 1
    without = api.patch("one", {"metadata": {"annotations": {"sf-healer.io/skip": None}}})
    assert "sf-healer.io/skip" not in without["metadata"].get("annotations", {})


def test_the_pod_template_is_immutable(api: Api):
    body = manifest("one")
    api.create(body)
    container = copy.deepcopy(body["spec"]["template"]["spec"]["containers"][0]) | {"image": "other:2"}
    told = refusal(api.patch, "one", {"spec": {"template": {"spec": {"containers": [container]}}}})
    assert told[:2] == (422, "Invalid")
    assert "field is immutable" in told.message


def test_a_patch_of_an_older_version_is_a_conflict(api: Api):
    version = api.create(manifest("one"))["metadata"]["resourceVersion"]
    api.patch("one", {"metadata": {"annotations": {"a": "b"}}})
    patch = {"metadata": {"resourceVersion": version, "annotations": {"a": "c"}}}
    assert refusal(api.patch, "one", patch)[:2] == (409, "Conflict")


# ------------------------------------------------------------------ listing and watching


def test_a_list_has_a_version_and_pages(api: Api):
    for number in range(5):
        api.create(manifest(f"job-{number}", suspend=True))
    whole = api.jobs()
    assert int(whole["metadata"]["resourceVersion"]) > 0
    names: list[str] = []
    token = None
    while True:
        page = api.jobs(limit=2, _continue=token)
        assert len(page["items"]) <= 2
        names += [job["metadata"]["name"] for job in page["items"]]
        token = page["metadata"].get("continue")
        if not token:
            break
    assert names == [f"job-{number}" for number in range(5)]
    assert "items" in api.plain(api.batch.list_job_for_all_namespaces())


def test_selectors_choose(api: Api):
    for name, team in (("one", "a"), ("two", "b"), ("three", "")):
        body = manifest(name, suspend=True)
        body["metadata"]["labels"] = {"team": team} if team else {"other": "x"}
        api.create(body)

    def chosen(**options: str) -> set[str]:
        return {job["metadata"]["name"] for job in api.jobs(**options)["items"]}

    assert chosen(label_selector="team=a") == {"one"}
    assert chosen(label_selector="team!=a") == {"two", "three"}
    assert chosen(label_selector="team") == {"one", "two"}
    assert chosen(label_selector="!team") == {"three"}
    assert chosen(label_selector="team in (a, b),team!=b") == {"one"}
    assert chosen(label_selector="team notin (a)") == {"two", "three"}
    assert chosen(field_selector="metadata.name=two") == {"two"}
    assert chosen(field_selector="metadata.name!=two,status.successful=0") == {"one", "three"}
    assert refusal(api.jobs, label_selector="team in a")[:2] == (400, "BadRequest")
    assert refusal(api.jobs, field_selector="spec.suspend=true")[:2] == (400, "BadRequest")


def test_a_watch_from_a_lists_version_tells_a_whole_life(api: Api):
    version = api.jobs()["metadata"]["resourceVersion"]
    job = api.create(manifest("one"))
    watching = Watching(api, api.batch.list_namespaced_job, resource_version=version)
    api.running(job)
    api.delete("one")
    watching.wait_for("DELETED", "one")
    seen = watching.seen(of="one")
    assert (seen[0], seen[-1]) == ("ADDED", "DELETED")
    assert set(seen[1:-1]) == {"MODIFIED"}
    versions = [int(item["metadata"]["resourceVersion"]) for _, item in watching.events]
    assert versions == sorted(versions)
    assert versions[0] > int(version)


def test_a_watch_without_a_version_begins_with_what_there_is(api: Api):
    api.create(manifest("one", suspend=True))
    watching = Watching(api, api.batch.list_namespaced_job)
    watching.wait_for("ADDED", "one")


def test_a_watch_sees_an_object_come_into_its_selection_and_leave_it(api: Api):
    api.create(manifest("one", suspend=True))
    api.with_condition("one", "Suspended")
    version = api.jobs()["metadata"]["resourceVersion"]
    watching = Watching(api, api.batch.list_namespaced_job, resource_version=version, label_selector="team=a")
    api.patch("one", {"metadata": {"labels": {"team": "a"}}})
    watching.wait_for("ADDED", "one")
    api.patch("one", {"metadata": {"labels": {"team": "b"}}})
    watching.wait_for("DELETED", "one")


def test_a_watch_ends_when_its_time_is_over(api: Api):
    version = api.jobs()["metadata"]["resourceVersion"]
    watching = Watching(api, api.batch.list_namespaced_job, resource_version=version, timeout_seconds=1)
    assert watching.ended.wait(SECONDS)
    assert watching.events == []


def test_a_watch_may_ask_for_the_state_first(api: Api):
    api.create(manifest("one", suspend=True))
    watching = Watching(
        api,
        api.batch.list_namespaced_job,
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        allow_watch_bookmarks=True,
    )
    watching.wait_for("ADDED", "one")
    bookmark = watching.wait_for("BOOKMARK")
    assert bookmark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


# ------------------------------------------------------------------ the rest


def test_an_event_is_created_once(api: Api):
    event = {
        "metadata": {"name": "one.1"},
        "involvedObject": {"kind": "Job", "namespace": api.namespace, "name": "one"},
        "reason": "Restarted",
        "message": "silent for 312 s",
        "type": "Normal",
    }
    made = api.plain(api.core.create_namespaced_event(api.namespace, event))
    assert made["metadata"]["uid"]
    told = refusal(api.core.create_namespaced_event, api.namespace, event)
    assert told == Refusal(409, "AlreadyExists", 'events "one.1" already exists')
    listed = api.plain(api.core.list_namespaced_event(api.namespace, field_selector="metadata.name=one.1"))
    assert [item["reason"] for item in listed["items"]] == ["Restarted"]


def test_the_caller_may_ask_who_it_is_and_what_it_may(api: Api):
    who = client.AuthenticationV1Api(api.client).create_self_subject_review({})
    assert who.status.user_info.username
    attributes = {"verb": "delete", "group": "batch", "resource": "jobs", "namespace": api.namespace}
    asked = {"spec": {"resourceAttributes": attributes}}
    review = client.AuthorizationV1Api(api.client).create_self_subject_access_review(asked)
    assert review.status.allowed is True


def test_a_path_that_nobody_serves_is_not_found(api: Api):
    with pytest.raises(ApiException) as caught:
        client.CustomObjectsApi(api.client).list_cluster_custom_object("nobody.example", "v1", "things")
    assert caught.value.status == 404


# ---- rights


def test_reviews_say_what_they_are_told_to_say_and_nothing_is_refused_for_it():
    rules = [{"apiGroups": ["batch"], "resources": ["jobs", "jobs/status"], "verbs": ["get"]}]
    with LocalCluster(rules=rules) as running:
        place = Place(running.kubeconfig, running.create_namespace(), pods_are_real=True)
        api = Api(place)
        reviews = client.AuthorizationV1Api(api.client)

        def may(verb: str, resource: str, group: str = "batch", namespace: str = place.namespace) -> bool:
            main, _, sub = resource.partition("/")
            asked = {"group": group, "resource": main, "subresource": sub, "verb": verb, "namespace": namespace}
            body = {"spec": {"resourceAttributes": asked}}
            return bool(reviews.create_self_subject_access_review(body).status.allowed)

        assert may("get", "jobs")
        assert may("get", "jobs/status")
        assert not may("delete", "jobs")
        assert not may("get", "jobs", group="")
        assert not may("get", "jobs", namespace=""), "a Role holds in its namespace"
        told = reviews.create_self_subject_rules_review({"spec": {"namespace": place.namespace}})
        assert api.plain(told)["status"]["resourceRules"] == rules
        assert api.jobs()["items"] == []
        api.client.close()
