"""What a step of a restart means when the API is away, when it heard us and did not answer, and what a look counts."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import msgspec
import pytest

from agents.cluster_steps import take
from sf_healer.adapters.cluster import Cluster
from sf_healer.core.actions import Action, State
from sf_healer.core.commands import Command, Grounds
from sf_healer.core.facts import Loss
from sf_healer.core.steps import Step, StepResult, What
from tests.lab.beside import Served, answer_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = {"metadata": {"name": "a", "namespace": "stf"}, "spec": {"template": {"spec": {}}}}
COMMAND = Command(
    id="c1",
    key="stf/a",
    namespace="stf",
    name="a",
    uid="u1",
    verdict="stuck",
    evidence=Grounds(),
    decided_at=1000.0,
    expires_at=1060.0,
)
ACTION = Action(
    command=COMMAND, observe_only=False, state=State.GONE, since=1000.0, due_at=1000.0, uid="u1", manifest=MANIFEST
)


def cluster_at(port: int, directory: Path) -> Cluster:
    kubeconfig = directory / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps(content))
    return Cluster.connect(namespace="stf", kubeconfig=str(kubeconfig))


@contextmanager
def hears_and_hangs_up() -> Iterator[int]:
    """Listen on a port, read each request and answer none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("step", Step)
def test_with_nobody_to_ask_nothing_has_happened_and_the_step_is_taken_later(tmp_path, step):
    result = take(cluster_at(1, tmp_path), ACTION, step)
    assert result.what is What.LATER
    assert "nothing listens at" in result.message


@pytest.mark.parametrize("step", Step)
def test_of_a_request_that_was_heard_and_not_answered_the_result_is_unknown(tmp_path, step):
    with hears_and_hangs_up() as port:
        assert take(cluster_at(port, tmp_path), ACTION, step).what is What.UNKNOWN


class Refuses(Served):
    """An API that answers every request with this status."""

    def __init__(self, status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer_json(self, {"code": status, "message": "no"}, status)

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_DELETE(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


@pytest.mark.parametrize("step", Step)
def test_an_api_that_does_not_know_who_asks_has_done_nothing_and_the_step_is_taken_later(tmp_path, step):
    """A 401 comes while an API server starts, or a token is rotated. Then nobody was judged, and no Job."""
    with Refuses(401) as api:
        assert take(cluster_at(api.port, tmp_path), ACTION, step).what is What.LATER
    with Refuses(403) as api:
        assert take(cluster_at(api.port, tmp_path), ACTION, step).what is What.REFUSED


JOB = {
    "metadata": {"name": "a", "namespace": "stf", "uid": "u1", "resourceVersion": "7"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "env": [
                            {"name": "QUEUE_ID", "value": "q"},
                            {"name": "TELEMETRY_PRODUCER_ID", "value": "arango-connector__q"},
                        ]
                    }
                ]
            }
        }
    },
}
NO_ROOM = (
    'jobs.batch "a" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: {used}, limited: {limited}'
)


class Rehearses(Served):
    """An API with this Job, that answers a create which is only tried with this; another write makes it fail."""

    def __init__(self, status: int, told: dict[str, object]) -> None:
        self.rehearsed: list[dict[str, object]] = []
        rehearsed = self.rehearsed

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pods = self.path.partition("?")[0].endswith("/pods")
                answer_json(self, {"metadata": {}, "items": []} if pods else JOB)

            def do_POST(self) -> None:
                assert "dryRun=All" in self.path.partition("?")[2].split("&")
                rehearsed.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer_json(self, {"code": status, **told}, status)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


def observed(directory: Path, status: int, told: dict[str, object], **options: bool) -> tuple[StepResult, int]:
    """Observe the Job of such an API; returns what came of it, and how often a create was tried."""
    action = msgspec.structs.replace(ACTION, state=State.ADMITTED, manifest=None)
    with Rehearses(status, told) as api:
        result = take(cluster_at(api.port, directory), action, Step.OBSERVE, **options)
    return result, len(api.rehearsed)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (409, {"reason": "AlreadyExists", "message": "already there"}),  # after all of admission
        (201, JOB),  # it has just gone
        (403, {"message": NO_ROOM.format(used="count/jobs.batch=5", limited="count/jobs.batch=5")}),
        (400, {"message": 'admission webhook "w.example" does not support dry run'}),
    ],
)
def test_a_job_that_the_api_would_take_again_is_found_as_it_is(tmp_path, status, told):
    result, tries = observed(tmp_path, status, told)
    assert (result.what, result.refusal, result.uid, tries) == (What.FOUND, "", "u1", 1)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (403, {"message": "denied by a policy"}),
        (403, {"message": NO_ROOM.format(used="count/jobs.batch=6", limited="count/jobs.batch=5")}),
        (403, {"message": NO_ROOM.format(used="count/jobs.batch=2,x=9", limited="count/jobs.batch=2,x=8")}),
        (422, {"message": "metadata.annotations: Too long"}),
        (404, {"message": "the namespace is gone"}),
        (400, {"message": "strict decoding error"}),
    ],
)
def test_what_the_api_would_say_to_the_new_job_is_known_before_the_old_one_is_deleted(tmp_path, status, told):
    result, _ = observed(tmp_path, status, told)
    assert (result.what, result.refusal) == (What.FOUND, told["message"])


@pytest.mark.parametrize(
    ("status", "what"),
    [(500, What.UNKNOWN), (503, What.UNKNOWN), (504, What.UNKNOWN), (429, What.LATER), (401, What.LATER)],
)
def test_an_unclear_answer_about_the_new_job_is_one_to_the_look(tmp_path, status, what):
    result, _ = observed(tmp_path, status, {"message": "no"})
    assert (result.what, result.manifest) == (what, None)


def test_a_worker_that_only_observes_asks_for_no_create(tmp_path):
    result, tries = observed(tmp_path, 403, {"message": "no rights"}, observe_only=True)
    assert (result.what, result.refusal, tries) == (What.FOUND, "", 0)


def a_pod(name: str, job_uid: str, *, is_orphan: bool) -> dict[str, object]:
    labels = {"batch.kubernetes.io/job-name": "a", "batch.kubernetes.io/controller-uid": job_uid}
    metadata: dict[str, object] = {"name": name, "labels": labels}
    if not is_orphan:
        metadata["ownerReferences"] = [{"kind": "Job", "name": "a", "uid": job_uid, "controller": True}]
    return {"metadata": metadata, "status": {"phase": "Running"}}


class OnlyPods(Served):
    """An API with no Job, or this one, and these pods."""

    def __init__(self, *pods: dict[str, object], job: dict[str, object] | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.partition("?")[0].endswith("/pods"):
                    answer_json(self, {"metadata": {}, "items": pods})
                elif job is not None:
                    answer_json(self, job)
                else:
                    answer_json(self, {"code": 404}, 404)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(NOW if timestamp is None else timestamp, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


@pytest.mark.parametrize(
    ("state", "pods"),
    [
        (State.DELETING, 1),  # those of the Job that was deleted
        (State.UNSURE, 2),  # nobody knows which Job was there; what somebody left running for good holds nothing up
    ],
)
def test_a_look_where_there_is_no_job_counts_the_pods_that_a_new_one_has_to_wait_for(tmp_path, state, pods):
    left = [
        a_pod("of-the-first", "u1", is_orphan=False),
        a_pod("of-one-nobody-knew", "u2", is_orphan=False),
        a_pod("of-one-long-ago", "u0", is_orphan=True),
    ]
    with OnlyPods(*left) as api:
        result = take(cluster_at(api.port, tmp_path), msgspec.structs.replace(ACTION, state=state), Step.LOOK)
    assert (result.what, result.pods) == (What.ABSENT, pods)


NOW = 1_800_000_600.0  # by the API server's clock
A_JOB: dict[str, object] = {
    "metadata": {"name": "a", "namespace": "stf", "uid": "u1", "resourceVersion": "7"},
    "spec": {"template": {"spec": {}}},
}


def of_its_node(since: str) -> dict[str, object]:
    """Give a pod whose node does not answer since then, in the words of the node controller."""
    pod = a_pod("p", "u1", is_orphan=False)
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": since}
    return pod | {"status": {"phase": "Running", "conditions": [ready, {"type": "ContainersReady", "status": "True"}]}}


def evicted(by: str) -> dict[str, object]:
    pod = a_pod("p", "u1", is_orphan=False)
    return pod | {"metadata": {**pod["metadata"], "deletionTimestamp": by}}  # type: ignore[dict-item]  # JSON


@pytest.mark.parametrize(
    ("pods", "loss", "seconds"),
    [
        ([], Loss.NONE, 0.0),
        ([a_pod("p", "u1", is_orphan=False)], Loss.NONE, 0.0),
        ([of_its_node("2027-01-15T08:05:00Z")], Loss.NODE_GONE, 300.0),
        ([evicted("2027-01-15T08:09:00Z"), a_pod("q", "u1", is_orphan=False)], Loss.BEING_DELETED, 60.0),
        ([evicted("2027-01-15T08:10:20Z")], Loss.BEING_DELETED, 0.0),  # its grace is not over
    ],
)
def test_a_look_at_a_job_tells_of_a_lost_pod_and_since_how_long_by_the_clock_of_the_cluster(
    tmp_path, pods, loss, seconds
):
    with OnlyPods(*pods, job=A_JOB) as api:
        result = take(cluster_at(api.port, tmp_path), ACTION, Step.OBSERVE)
    assert (result.what, result.loss, result.lost_seconds) == (What.FOUND, loss, seconds)
