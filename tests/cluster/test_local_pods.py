"""What only the local cluster has: pods that are processes, and knobs that make it misbehave on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from sf_healer.core.manifest import sanitize
from sf_healer.local.cluster import LocalCluster
from sf_healer.local.kube.api import Fault
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 60.0
NAMESPACE = "stf"
TELLS_ITS_ENV = """
import json, os, signal
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps(dict(os.environ)), flush=True)
if "EXIT" in os.environ:
    raise SystemExit(int(os.environ["EXIT"]))
while True:
    signal.pause()
"""
COMMAND = (sys.executable, "-I", "-S", "-c", TELLS_ITS_ENV)


class Cluster:
    """A local cluster and the real client of it."""

    def __init__(self, local: LocalCluster) -> None:
        self.local = local
        configuration = client.Configuration()
        configuration.retries = False
        config.load_kube_config(str(local.kubeconfig), client_configuration=configuration)
        self.client = client.ApiClient(configuration)
        self.batch = client.BatchV1Api(self.client)
        self.core = client.CoreV1Api(self.client)

    def create(self, name: str, env: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        container = {
            "name": "loader",
            "image": "registry.example/loader:1",
            "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        }
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        body = {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template, **spec}}
        return self.plain(self.batch.create_namespaced_job(NAMESPACE, body))

    def plain(self, answer: Any) -> Any:
        return self.client.sanitize_for_serialization(answer)

    def read(self, name: str) -> dict[str, Any]:
        return self.plain(self.batch.read_namespaced_job(name, NAMESPACE))

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.plain(self.core.list_namespaced_pod(NAMESPACE, label_selector=f"job-name={name}"))["items"]

    def running(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            return next((pod for pod in self.pods(name) if pod["status"]["phase"] == "Running"), None)

        return until(look, f"a running pod of {name}", seconds=SECONDS)

    def told(self, pod: dict[str, Any]) -> dict[str, str]:
        """The env that the pod's process has."""

        def look() -> str:
            return self.core.read_namespaced_pod_log(pod["metadata"]["name"], NAMESPACE)

        return json.loads(until(look, "the process to tell", seconds=SECONDS))

    def pid(self, pod: dict[str, Any]) -> int:
        (found,) = [local.pid for local in self.local.pods() if local.name == pod["metadata"]["name"]]
        return found

    def recreate(self, name: str) -> dict[str, Any]:
        again = sanitize(self.read(name))
        self.delete(name)
        return self.plain(self.batch.create_namespaced_job(NAMESPACE, again))

    def delete(self, name: str) -> None:
        self.batch.delete_namespaced_job(name, NAMESPACE, body={"propagationPolicy": "Foreground"})
        until(lambda: self.is_gone(name), f"{name} to go", seconds=SECONDS)

    def is_gone(self, name: str) -> bool:
        return name not in {job.metadata.name for job in self.batch.list_namespaced_job(NAMESPACE).items}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with LocalCluster(command=COMMAND, grace_limit_seconds=0.3, backoff_seconds=0.05, most_processes=3) as local:
        made = Cluster(local)
        yield made
        made.client.close()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# ------------------------------------------------------------------ processes


def test_a_pod_is_a_process_in_a_session_of_its_own_with_the_containers_env(cluster: Cluster):
    cluster.create("one", {"QUEUE_ID": "loader-x-P4nTkv"})
    pod = cluster.running("one")
    pid = cluster.pid(pod)
    assert os.getsid(pid) == pid
    assert pod["status"]["podIP"] == "127.0.0.1"
    env = cluster.told(pod)
    assert env["QUEUE_ID"] == "loader-x-P4nTkv"
    assert env["SF_LOCAL_INCARNATION"] == "1"
    assert "PYTEST_CURRENT_TEST" not in env, "the starter's own env is not handed on"


def test_a_job_made_again_under_its_name_is_the_next_incarnation(cluster: Cluster):
    cluster.create("one")
    cluster.running("one")
    cluster.recreate("one")
    assert cluster.told(cluster.running("one"))["SF_LOCAL_INCARNATION"] == "2"
    cluster.create("other")
    assert cluster.told(cluster.running("other"))["SF_LOCAL_INCARNATION"] == "1"


def test_a_retry_within_one_job_is_no_new_incarnation(cluster: Cluster):
    cluster.create("one", {"EXIT": "3"}, backoffLimit=2)

    def failed() -> bool:
        return any(item["type"] == "Failed" for item in cluster.read("one")["status"].get("conditions", ()))

    until(failed, "three failures", seconds=SECONDS)
    pods = cluster.pods("one")
    assert len(pods) == 3
    assert {cluster.told(pod)["SF_LOCAL_INCARNATION"] for pod in pods} == {"1"}
    codes = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods]
    assert codes == [3, 3, 3]


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(cluster: Cluster):
    cluster.create("one", {"STUBBORN": "yes"})
    pod = cluster.running("one")
    cluster.told(pod)  # it ignores SIGTERM by now
    pid = cluster.pid(pod)
    began = time.monotonic()
    cluster.delete("one")
    assert time.monotonic() - began >= 0.3
    assert not is_alive(pid)


def test_a_process_that_dies_fails_its_job(cluster: Cluster):
    cluster.create("one")
    os.kill(cluster.pid(cluster.running("one")), signal.SIGKILL)
    until(lambda: cluster.read("one")["status"].get("failed"), "the Job to fail", seconds=SECONDS)
    (pod,) = cluster.pods("one")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 128 + signal.SIGKILL


def test_a_pod_can_be_pending_for_ever_and_is_deleted_all_the_same(cluster: Cluster):
    cluster.create("one", {"SF_LOCAL_PENDING_SECONDS": "inf"})
    (pod,) = until(lambda: cluster.pods("one"), "a pod", seconds=SECONDS)
    assert pod["status"]["phase"] == "Pending"
    assert cluster.local.pods() == ()
    cluster.delete("one")


def test_a_pod_can_be_pending_for_a_while(cluster: Cluster):
    cluster.create("one", {"SF_LOCAL_PENDING_SECONDS": "0.2"})
    cluster.running("one")


def test_pods_beyond_the_most_processes_wait_their_turn(cluster: Cluster):
    for number in range(4):
        cluster.create(f"job-{number}")
    until(lambda: len(cluster.local.pods()) == 3, "three processes", seconds=SECONDS)
    waiting = next(
        name for name in ("job-0", "job-1", "job-2", "job-3") if cluster.pods(name)[0]["status"]["phase"] == "Pending"
    )
    cluster.delete(next(local.job for local in cluster.local.pods()))
    cluster.running(waiting)


# ------------------------------------------------------------------ its own end


def test_stopping_leaves_no_process_and_ends_watches_at_once():
    local = LocalCluster(command=COMMAND, grace_limit_seconds=0.3).start()
    cluster = Cluster(local)
    cluster.create("one", {"STUBBORN": "yes"})
    pid = cluster.pid(cluster.running("one"))
    watch = cluster.batch.list_namespaced_job(NAMESPACE, watch=True, _preload_content=False)
    reader = threading.Thread(target=lambda: list(watch), daemon=True)
    reader.start()
    kubeconfig = local.kubeconfig
    began = time.monotonic()
    local.stop()
    reader.join(SECONDS)
    assert not reader.is_alive()
    assert time.monotonic() - began < 5.0
    assert not is_alive(pid)
    assert not kubeconfig.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "local-cluster"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_its_pods_end_with_the_process_that_runs_it(how: signal.Signals, tmp_path: Path):
    code = f"""
        import sys, threading
        from kubernetes import client, config
        from sf_healer.local.cluster import LocalCluster
        with LocalCluster(command={COMMAND!r}, grace_limit_seconds=0.3) as local:
            config.load_kube_config(str(local.kubeconfig))
            container = {{"name": "c", "image": "i", "env": [{{"name": "STUBBORN", "value": "yes"}}]}}
            template = {{"spec": {{"restartPolicy": "Never", "containers": [container]}}}}
            body = {{"metadata": {{"name": "one"}}, "spec": {{"template": template}}}}
            client.BatchV1Api().create_namespaced_job("stf", body)
            while not local.pods():
                threading.Event().wait(0.01)
            print(local.pods()[0].pid, flush=True)
            threading.Event().wait()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"TMPDIR": str(tmp_path)},  # it may not get to tidy up
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert is_alive(pid)
        starter.send_signal(how)
    until(lambda: not is_alive(pid), "the pod to end", seconds=SECONDS)


async def test_it_answers_while_the_loop_of_its_user_is_blocked(cluster: Cluster):
    # The call below blocks this coroutine's loop until the answer is there.
    assert cluster.create("one")["metadata"]["name"] == "one"


# ------------------------------------------------------------------ misbehaving on purpose


def test_a_fault_is_answered_as_often_as_asked_and_then_no_more(cluster: Cluster):
    cluster.local.answer_next(Fault(status=429, method="GET", path="/jobs", times=2, retry_after_seconds=3))
    cluster.create("one")
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            cluster.read("one")
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "3")
    assert cluster.read("one")


def test_a_request_can_be_done_and_its_answer_lost(cluster: Cluster):
    cluster.local.answer_next(Fault(status=0, method="POST"))
    with pytest.raises(Exception, match="Connection"):
        cluster.create("one")
    assert cluster.read("one")


def test_an_answer_can_come_late(cluster: Cluster):
    cluster.create("one")
    cluster.local.answer_next(Fault(status=503, delay_seconds=0.3))
    began = time.monotonic()
    with pytest.raises(ApiException):
        cluster.read("one")
    assert time.monotonic() - began >= 0.3


def test_pods_can_be_withheld_from_a_job_made_again_under_its_name(cluster: Cluster):
    cluster.create("one")
    cluster.running("one")
    cluster.local.withhold_pods(NAMESPACE, "one")
    cluster.recreate("one")
    until(lambda: "startTime" in cluster.read("one")["status"], "the controller's look", seconds=SECONDS)
    assert cluster.pods("one") == []
    cluster.recreate("one")
    cluster.running("one")


def test_forgotten_history_is_gone_for_running_watches_new_ones_and_continued_lists(cluster: Cluster):
    for name in ("one", "two"):
        cluster.create(name, suspend=True)
    page = cluster.batch.list_namespaced_job(NAMESPACE, limit=1)
    version = page.metadata.resource_version
    watch = cluster.batch.list_namespaced_job(NAMESPACE, watch=True, resource_version=version, _preload_content=False)
    cluster.local.forget_history()
    *_, last = (json.loads(line) for line in watch)
    assert (last["type"], last["object"]["code"], last["object"]["reason"]) == ("ERROR", 410, "Expired")
    again = cluster.batch.list_namespaced_job(NAMESPACE, watch=True, resource_version=version, _preload_content=False)
    assert json.loads(next(iter(again)))["object"]["code"] == 410
    with pytest.raises(ApiException) as caught:
        cluster.batch.list_namespaced_job(NAMESPACE, limit=1, _continue=page.metadata._continue)
    assert caught.value.status == 410


def test_history_beyond_its_length_is_gone():
    with LocalCluster(command=COMMAND, history=5) as local:
        cluster = Cluster(local)
        cluster.create("one", suspend=True)
        version = cluster.read("one")["metadata"]["resourceVersion"]
        for number in range(8):
            patch = {"metadata": {"annotations": {"n": str(number)}}}
            cluster.batch.patch_namespaced_job("one", NAMESPACE, patch)
        watch = cluster.batch.list_namespaced_job(
            NAMESPACE, watch=True, resource_version=version, _preload_content=False
        )
        assert json.loads(next(iter(watch)))["object"]["code"] == 410


def test_bookmarks_come_at_their_interval_and_before_the_end_to_those_who_ask():
    with LocalCluster(command=COMMAND, bookmark_seconds=0.2) as local:
        cluster = Cluster(local)
        version = cluster.batch.list_namespaced_job(NAMESPACE).metadata.resource_version
        cluster.core.create_namespaced_event(
            NAMESPACE,
            {"metadata": {"name": "e"}, "involvedObject": {"kind": "Job", "name": "x", "namespace": NAMESPACE}},
        )
        options = {"watch": True, "resource_version": version, "timeout_seconds": 1, "_preload_content": False}
        asked = cluster.batch.list_namespaced_job(NAMESPACE, allow_watch_bookmarks=True, **options)
        events = [json.loads(line) for line in asked]
        assert {event["type"] for event in events} == {"BOOKMARK"}
        assert len(events) >= 3
        assert int(events[-1]["object"]["metadata"]["resourceVersion"]) > int(version)
        assert list(cluster.batch.list_namespaced_job(NAMESPACE, **options)) == []
