"""The cluster adapter: the same against the local cluster and the real control plane, then broken answers."""

import base64
import datetime as dt
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.config import incluster_config

from sf_healer.adapters import cluster as adapter
from sf_healer.adapters.cluster import ApiFailure, Change, Cluster, Failure, Listing, LiveJob
from sf_healer.core.facts import Condition, JobFact, PodState, fact_from_manifest
from sf_healer.settings import SettingsError
from tests.cluster.small import must

WAIT_SECONDS = 30.0
NEVER = "00000000-0000-0000-0000-000000000000"
ENV = {
    "QUEUE_ID": "loader-btcusdt-P4nTkv",
    "TELEMETRY_PRODUCER_ID": "loader-ws__P4nTkv",
    "KAFKA_PASSWORD": "hunter2",
}


def job_manifest(name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """A Job as the platform's launcher makes it; its pod runs until it is deleted."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "loader",
                            "image": "registry.example/loader:1",
                            "env": [{"name": key, "value": value} for key, value in ENV.items()],
                        }
                    ],
                },
            },
        },
    }


class Watching:
    """A watch read in a thread, and what it has shown so far."""

    def __init__(self, cluster: Cluster, listing: Listing | None = None) -> None:
        self.seen: list[Change | ApiFailure] = []
        self.ended = False
        self._news = threading.Condition()
        self._stop = threading.Event()
        start = listing or must(cluster.list_jobs())
        self._thread = threading.Thread(target=self._read, args=(cluster.watch(start, self._stop),))

    def _read(self, changes: Iterator[Change | ApiFailure]) -> None:
        for change in changes:
            with self._news:
                self.seen.append(change)
                self._news.notify_all()
        with self._news:
            self.ended = True
            self._news.notify_all()

    def facts(self, name: str) -> list[JobFact]:
        return [
            change.fact for change in self.seen if isinstance(change, Change) and change.fact.key.endswith(f"/{name}")
        ]

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(condition, WAIT_SECONDS), f"never came; seen: {self.seen}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        threading.Event().wait(0.02)
    return found


def running(cluster: Cluster, name: str) -> LiveJob:
    def look() -> LiveJob | None:
        live = must(cluster.read_job(cluster.namespace, name))
        return live if live.fact.pod is PodState.RUNNING else None

    return until(look, f"a running pod of {name}")


# ------------------------------------------------------------------ against a cluster


class Place(NamedTuple):
    """A cluster to test against: where a client finds it, in a namespace of its own."""

    kubeconfig: Path
    namespace: str


@pytest.fixture(params=["local_cluster", pytest.param("control_plane", marks=pytest.mark.kube)])
def place(request: pytest.FixtureRequest) -> Place:
    plane = request.getfixturevalue(request.param)
    return Place(plane.kubeconfig, plane.create_namespace())


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    connected = Cluster.connect(namespace=place.namespace, kubeconfig=str(place.kubeconfig))
    yield connected
    connected.close()


def test_a_created_job_is_listed_with_its_running_pod(cluster):
    created = must(cluster.create_job(cluster.namespace, job_manifest("one")))
    live = running(cluster, "one")
    (fact,) = must(cluster.list_jobs()).facts
    # Only its version may have moved: the Job's status counts ready pods a moment later.
    assert fact == msgspec.structs.replace(live.fact, resource_version=fact.resource_version)
    assert (fact.key, fact.uid, fact.target, fact.managed) == (
        f"{cluster.namespace}/one",
        created.fact.uid,
        "loader-ws",
        True,
    )
    assert fact.pod_ip
    assert fact.condition is Condition.ACTIVE
    (pod,) = must(cluster.pods_of(cluster.namespace, "one", fact.uid))
    assert (pod.phase, pod.ip, pod.deleting) == ("Running", fact.pod_ip, False)
    assert must(cluster.pods_of(cluster.namespace, "one", NEVER)) == ()


def test_a_watch_tells_the_whole_life_of_a_job_in_order(cluster):
    with Watching(cluster) as watching:
        live = must(cluster.create_job(cluster.namespace, job_manifest("one")))
        watching.wait_for(lambda: watching.facts("one") and watching.facts("one")[-1].pod is PodState.RUNNING)
        assert cluster.delete_job(cluster.namespace, "one", live.fact.uid) is None
        watching.wait_for(lambda: watching.facts("one")[-1].condition is Condition.GONE)
        facts = watching.facts("one")
    conditions = [fact.condition for fact in facts]
    assert conditions == sorted(conditions, key=[Condition.ACTIVE, Condition.DELETING, Condition.GONE].index)
    assert {Condition.ACTIVE, Condition.DELETING, Condition.GONE} == set(conditions)
    versions = [fact.resource_version for fact in facts]
    assert versions == sorted(set(versions))
    assert {fact.uid for fact in facts} == {live.fact.uid}


def test_a_watch_ends_soon_after_it_is_told_to_although_nothing_happens(cluster):
    began = time.monotonic()
    with Watching(cluster):
        pass
    assert time.monotonic() - began < 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-")]


def test_a_listing_says_what_the_clock_of_the_api_server_shows(cluster):
    before = time.time()
    listing = must(cluster.list_jobs())
    assert before - 1 <= listing.api_at <= time.time()  # one machine, one clock; a Date header has whole seconds


def test_the_clock_of_the_api_server_is_known_to_a_fraction_of_the_second_it_is_told_in(cluster):
    before = time.time()
    shown = cluster.server_time()
    assert before - 0.5 <= shown <= time.time()  # one machine, one clock


def test_a_watch_from_an_old_listing_misses_nothing(cluster):
    listing = must(cluster.list_jobs())
    live = must(cluster.create_job(cluster.namespace, job_manifest("one")))
    running(cluster, "one")
    cluster.delete_job(cluster.namespace, "one", live.fact.uid)
    until(
        lambda: isinstance(cluster.read_job(cluster.namespace, "one"), ApiFailure),
        "the end of the deleted Job",
    )
    with Watching(cluster, listing) as watching:
        watching.wait_for(lambda: watching.facts("one") and watching.facts("one")[-1].condition is Condition.GONE)


def test_a_watch_tells_the_end_of_the_old_incarnation_before_the_new_one(cluster):
    old = must(cluster.create_job(cluster.namespace, job_manifest("one")))
    running(cluster, "one")
    with Watching(cluster) as watching:
        cluster.delete_job(cluster.namespace, "one", old.fact.uid)
        until(lambda: isinstance(cluster.read_job(cluster.namespace, "one"), ApiFailure), "the old one's end")
        new = must(cluster.create_job(cluster.namespace, job_manifest("one", {"sf-healer.io/attempt": "1"})))
        watching.wait_for(
            lambda: [
                fact for fact in watching.facts("one") if fact.uid == new.fact.uid and fact.pod is PodState.RUNNING
            ]
        )
        facts = watching.facts("one")
    first_of_new = next(index for index, fact in enumerate(facts) if fact.uid == new.fact.uid)
    assert facts[first_of_new - 1].condition is Condition.GONE
    assert {fact.attempt for fact in facts[first_of_new:]} == {1}


def test_only_the_incarnation_meant_is_deleted(cluster):
    live = must(cluster.create_job(cluster.namespace, job_manifest("one")))
    wrong = cluster.delete_job(cluster.namespace, "one", NEVER)
    assert isinstance(wrong, ApiFailure)
    assert (wrong.kind, wrong.status) == (Failure.CONFLICT, 409)
    stale = cluster.delete_job(cluster.namespace, "one", live.fact.uid, resource_version="1")
    assert isinstance(stale, ApiFailure)
    assert stale.kind is Failure.CONFLICT
    assert must(cluster.read_job(cluster.namespace, "one")).fact.condition is Condition.ACTIVE


def test_a_deleted_job_goes_only_after_its_pods(cluster):
    live = must(cluster.create_job(cluster.namespace, job_manifest("one")))
    running(cluster, "one")
    assert cluster.delete_job(cluster.namespace, "one", live.fact.uid) is None
    until(lambda: isinstance(cluster.read_job(cluster.namespace, "one"), ApiFailure), "the Job's end")
    assert must(cluster.pods_of(cluster.namespace, "one", live.fact.uid)) == ()
    gone = cluster.delete_job(cluster.namespace, "one", live.fact.uid)
    assert isinstance(gone, ApiFailure)
    assert (gone.kind, gone.status) == (Failure.NOT_FOUND, 404)


def test_a_name_in_use_is_told_apart_from_other_conflicts(cluster):
    must(cluster.create_job(cluster.namespace, job_manifest("one")))
    again = cluster.create_job(cluster.namespace, job_manifest("one"))
    assert isinstance(again, ApiFailure)
    assert (again.kind, again.status) == (Failure.ALREADY_EXISTS, 409)


def test_an_invalid_manifest_is_refused_by_field_and_never_quoted(cluster):
    manifest = job_manifest("one")
    manifest["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    refused = cluster.create_job(cluster.namespace, manifest)
    assert isinstance(refused, ApiFailure)
    assert (refused.kind, refused.status) == (Failure.INVALID, 422)
    assert "restartPolicy" in refused.message
    assert "hunter2" not in refused.message


def test_a_create_that_is_only_rehearsed_answers_as_one_would_and_changes_nothing(cluster, place):
    """Under a name in use: last of all, so what admission says of it comes first."""
    assert cluster.rehearse_create(cluster.namespace, job_manifest("one")) is None
    assert isinstance(cluster.read_job(cluster.namespace, "one"), ApiFailure)
    must(cluster.create_job(cluster.namespace, job_manifest("one", {"whose": "theirs"})))
    before = must(cluster.read_job(cluster.namespace, "one")).manifest["metadata"]
    named = cluster.rehearse_create(cluster.namespace, job_manifest("one"))
    assert (named.kind, named.status) == (Failure.ALREADY_EXISTS, 409)
    invalid = job_manifest("one")
    invalid["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    refused = cluster.rehearse_create(cluster.namespace, invalid)
    assert (refused.kind, refused.status) == (Failure.INVALID, 422)
    after = must(cluster.read_job(cluster.namespace, "one")).manifest["metadata"]
    assert (after["uid"], after["annotations"]) == (before["uid"], before["annotations"])


def test_a_manifest_is_given_back_as_the_server_has_it(cluster, place):
    must(cluster.create_job(cluster.namespace, job_manifest("one", {"team": "αβ"})))
    live = must(cluster.read_job(cluster.namespace, "one"))
    assert live.manifest["metadata"]["annotations"] == {"team": "αβ"}
    assert live.manifest["kind"] == "Job"
    assert live.manifest["metadata"]["uid"] == live.fact.uid
    env = live.manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {entry["name"]: entry["value"] for entry in env} == ENV


def test_an_annotation_is_set_and_taken_away_and_the_others_stay(cluster):
    must(cluster.create_job(cluster.namespace, job_manifest("skipped", {"note": "kept"})))
    set_ = must(cluster.annotate_job(cluster.namespace, "skipped", {"sf-healer.io/skip": "true"}))
    assert set_.fact.skip
    assert set_.manifest["metadata"]["annotations"]["note"] == "kept"
    taken = must(cluster.annotate_job(cluster.namespace, "skipped", {"sf-healer.io/skip": None}))
    assert not taken.fact.skip
    assert taken.manifest["metadata"]["annotations"]["note"] == "kept"
    assert cluster.annotate_job(cluster.namespace, "nobody", {"a": "b"}).kind is Failure.NOT_FOUND


def test_the_same_event_again_is_no_second_event(cluster):
    job = must(cluster.create_job(cluster.namespace, job_manifest("one"))).fact
    for silent in (312, 340):
        told = {"reason": "JobStuck", "message": f"silent for {silent} s, threshold 300 s", "once": "stuck"}
        assert cluster.emit_event(job.key, job.uid, **told) is None
    assert cluster.emit_event(job.key, job.uid, reason="JobHealed", message="x" * 5000, once="o1") is None
    events = cluster._core.list_namespaced_event(cluster.namespace).items
    found = {each.reason: each.message for each in events if each.source.component == "sf-healer"}
    assert len(found) == len([each for each in events if each.source.component == "sf-healer"])
    assert found == {"JobStuck": "silent for 312 s, threshold 300 s", "JobHealed": "x" * 1024}


# ------------------------------------------------------------------ only one of them can


def test_a_watch_that_the_server_has_forgotten_ends_and_a_new_list_goes_on(local_cluster):
    namespace = local_cluster.create_namespace()
    cluster = Cluster.connect(namespace=namespace, kubeconfig=str(local_cluster.kubeconfig))
    listing = must(cluster.list_jobs())
    must(cluster.create_job(namespace, job_manifest("one")))
    local_cluster.forget_history()
    with Watching(cluster, listing) as watching:
        watching.wait_for(lambda: watching.ended)
        last = watching.seen[-1]
        assert isinstance(last, ApiFailure)
        assert (last.kind, last.status) == (Failure.GONE, 410)
    with Watching(cluster) as watching:
        must(cluster.create_job(namespace, job_manifest("two")))
        watching.wait_for(lambda: watching.facts("two"))


@pytest.mark.kube
def test_the_events_of_a_job_are_what_kubectl_shows(control_plane):
    namespace = control_plane.create_namespace()
    cluster = Cluster.connect(namespace=namespace, kubeconfig=str(control_plane.kubeconfig))
    job = must(cluster.create_job(namespace, job_manifest("one"))).fact
    for _ in range(2):
        told = {"reason": "JobStuck", "message": "silent for 312 s", "once": "stuck"}
        cluster.emit_event(job.key, job.uid, **told, type_="Warning")
    items = json.loads(control_plane.kubectl("get", "events", "-n", namespace, "-o", "json"))["items"]
    (event,) = (item for item in items if item["reason"] == "JobStuck")
    assert event["involvedObject"]["uid"] == job.uid
    assert event["type"] == "Warning"
    assert event["source"]["component"] == "sf-healer"


@pytest.mark.kube
def test_a_service_account_is_held_to_its_rights(control_plane):
    namespace = control_plane.create_namespace()
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]
    kubeconfig = control_plane.service_account(namespace, "detector", rules)
    # An admin client in the same process must not lend its token.
    Cluster.connect(namespace=namespace, kubeconfig=str(control_plane.kubeconfig)).list_jobs()
    detector = Cluster.connect(namespace=namespace, kubeconfig=str(kubeconfig))
    assert isinstance(detector.list_jobs(), Listing)
    refused = detector.create_job(namespace, job_manifest("one"))
    assert isinstance(refused, ApiFailure)
    assert (refused.kind, refused.status) == (Failure.FORBIDDEN, 403)
    other = Cluster.connect(namespace="kube-system", kubeconfig=str(kubeconfig)).list_jobs()
    assert isinstance(other, ApiFailure)
    assert other.kind is Failure.FORBIDDEN


@pytest.mark.kube
def test_a_pod_uses_its_service_account_and_reads_the_rotated_token_again(control_plane, tmp_path, monkeypatch):
    namespace = control_plane.create_namespace()
    read_jobs = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]}]
    user = yaml.safe_load(control_plane.service_account(namespace, "detector", read_jobs).read_text())
    place, trust = user["clusters"][0]["cluster"], tmp_path / "ca.crt"
    trust.write_bytes(
        Path(place["certificate-authority"]).read_bytes()
        if "certificate-authority" in place
        else base64.b64decode(place["certificate-authority-data"])
    )
    token = tmp_path / "token"
    token.write_text("expired")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", urlsplit(control_plane.server_url).hostname)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(urlsplit(control_plane.server_url).port))
    monkeypatch.setattr(adapter, "_SERVICE_ACCOUNT_TOKEN", token)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(trust))
    # The client reads the file again after a minute; here after none.
    at_once = SimpleNamespace(datetime=dt.datetime, timedelta=lambda **_: dt.timedelta(0))
    monkeypatch.setattr(incluster_config, "datetime", at_once)

    cluster = Cluster.connect(namespace=namespace)
    before = cluster.read_job(namespace, "one")
    token.write_text(user["users"][0]["user"]["token"])
    after = cluster.read_job(namespace, "one")

    assert isinstance(before, ApiFailure)
    assert isinstance(after, ApiFailure)
    assert (before.status, after.status) == (401, 404)


@pytest.mark.kube
def test_after_the_api_server_was_killed_a_watch_goes_on_or_asks_for_a_new_list(control_plane):
    namespace = control_plane.create_namespace()
    cluster = Cluster.connect(namespace=namespace, kubeconfig=str(control_plane.kubeconfig))
    with Watching(cluster) as watching:
        must(cluster.create_job(namespace, job_manifest("before")))
        watching.wait_for(lambda: watching.facts("before"))
        control_plane.kill_apiserver()
        watching.wait_for(lambda: [seen for seen in watching.seen if isinstance(seen, ApiFailure)])
        down = cluster.list_jobs()
        assert isinstance(down, ApiFailure)
        assert (down.kind, down.status) == (Failure.UNREACHABLE, 0)
        control_plane.restart_apiserver()
        until(lambda: isinstance(cluster.list_jobs(), Listing), "the API server's return")
        must(cluster.create_job(namespace, job_manifest("after")))
        # A restarted API server may have forgotten the version of a quiet watch.
        watching.wait_for(lambda: watching.ended or watching.facts("after"))
        if watching.ended:
            last = watching.seen[-1]
            assert isinstance(last, ApiFailure)
            assert last.kind is Failure.GONE
            assert f"{namespace}/after" in [fact.key for fact in must(cluster.list_jobs()).facts]


@pytest.mark.kube
def test_a_frozen_api_server_is_a_timeout(control_plane, monkeypatch):
    monkeypatch.setattr(adapter, "CALL_SECONDS", 0.5)
    cluster = Cluster.connect(namespace=control_plane.create_namespace(), kubeconfig=str(control_plane.kubeconfig))
    must(cluster.list_jobs())
    control_plane.pause_apiserver()
    answer = cluster.list_jobs()
    control_plane.resume_apiserver()
    assert isinstance(answer, ApiFailure)
    assert (answer.kind, answer.status) == (Failure.TIMEOUT, 0)


# ------------------------------------------------------------------ broken answers, from a scripted server


class Scripted(ThreadingHTTPServer):
    """Answers what `answer(path)` writes to the handler; the edge, not our code."""

    daemon_threads = True

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            def do_POST(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        super().__init__(("127.0.0.1", 0), Handler)


@contextmanager
def scripted(tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Cluster]:
    server = Scripted(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Cluster.connect(
            namespace="stf", kubeconfig=kubeconfig_for(tmp_path, f"http://127.0.0.1:{server.server_port}")
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig_for(tmp_path: Path, url: str) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)


def reply(handler: BaseHTTPRequestHandler, status: int, body: str, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def status_object(reason: str, message: str, **details: Any) -> str:
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details})


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (429, "{}", {"Retry-After": "7"}, ApiFailure(Failure.THROTTLED, 429, "HTTP status 429", 7.0)),
        (
            429,
            status_object("TooManyRequests", "slow down", retryAfterSeconds=3),
            {},
            ApiFailure(Failure.THROTTLED, 429, "slow down", 3.0),
        ),
        (
            503,
            "overloaded\n",
            {"Retry-After": "1"},
            ApiFailure(Failure.SERVER, 503, "overloaded", 1.0),
        ),
        (500, "", {}, ApiFailure(Failure.SERVER, 500, "HTTP status 500")),
        (
            504,
            status_object("Timeout", "etcd is slow"),
            {},
            ApiFailure(Failure.TIMEOUT, 504, "etcd is slow"),
        ),
        (
            401,
            status_object("Unauthorized", "Unauthorized"),
            {},
            ApiFailure(Failure.FORBIDDEN, 401, "Unauthorized"),
        ),
        (
            410,
            status_object("Expired", "too old"),
            {},
            ApiFailure(Failure.GONE, 410, "too old"),
        ),
        (418, "{}", {}, ApiFailure(Failure.INVALID, 418, "HTTP status 418")),
        (
            503,
            "",
            {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"},
            ApiFailure(Failure.SERVER, 503, "HTTP status 503"),
        ),
    ],
)
def test_a_failed_call_is_a_value_at_once(tmp_path, status, body, headers, expected):
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(handler, status, body, headers)

    with scripted(tmp_path, answer) as cluster:
        began = time.monotonic()
        assert cluster.read_job("stf", "one") == expected
        assert time.monotonic() - began < 1
    assert len(asked) == 1


def test_a_manifest_is_sent_as_it_is_with_fields_and_values_that_only_a_newer_cluster_knows(tmp_path):
    """A cluster newer than the client sets such fields in every Job: whoever drops or refuses them loses the Job."""
    manifest = job_manifest("one")
    manifest["metadata"]["brandNew"] = {"x": 1}
    manifest["spec"] |= {"brandNew": [1, {"deep": None}], "completionMode": "BrandNew", "backoffLimit": "as it was"}
    manifest["spec"]["template"]["spec"] |= {"brandNew": 0.5, "tolerations": []}
    manifest["spec"]["template"]["spec"]["containers"][0] |= {"brandNew": False, "args": ["", "ü"]}
    sent = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        sent.append((handler.path, json.loads(body)))
        served = json.loads(body)
        served["metadata"] |= {"namespace": "stf", "uid": "u1", "resourceVersion": "7"}
        served["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        reply(handler, 201, json.dumps(served))

    with scripted(tmp_path, answer) as cluster:
        made = must(cluster.create_job("stf", manifest))
    assert sent == [("/apis/batch/v1/namespaces/stf/jobs", manifest)]
    assert made.fact.uid == "u1"


def test_an_answer_that_is_no_json_is_a_server_failure(tmp_path):
    with scripted(tmp_path, lambda handler: reply(handler, 200, "<html>login</html>")) as cluster:
        failure = cluster.read_job("stf", "one")
    assert isinstance(failure, ApiFailure)
    assert failure.kind is Failure.SERVER


def test_a_connection_that_breaks_off_is_a_value(tmp_path):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"kind":')
        handler.close_connection = True

    with scripted(tmp_path, answer) as cluster:
        failure = cluster.read_job("stf", "one")
    assert isinstance(failure, ApiFailure)
    assert failure.kind is Failure.BROKEN_OFF


@contextmanager
def crude(take: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port, hand each connection to `take`, and close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    take(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def hear(connection: socket.socket) -> None:
    connection.recv(65536)


def hear_and_say_nothing(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://nobody.invalid"])
def test_nobody_at_the_address_is_unreachable(tmp_path, url):
    cluster = Cluster.connect(namespace="stf", kubeconfig=kubeconfig_for(tmp_path, url))
    failure = cluster.list_jobs()
    assert isinstance(failure, ApiFailure)
    assert (failure.kind, failure.status) == (Failure.UNREACHABLE, 0)


@pytest.mark.parametrize("take", [hear, hear_and_say_nothing])
def test_a_load_balancer_with_no_server_behind_it_is_unreachable_for_tls_never_stood(tmp_path, monkeypatch, take):
    monkeypatch.setattr(adapter, "CALL_SECONDS", 0.3)
    with crude(take) as port:
        cluster = Cluster.connect(namespace="stf", kubeconfig=kubeconfig_for(tmp_path, f"https://127.0.0.1:{port}"))
        failure = cluster.create_job("stf", job_manifest("one"))
    assert isinstance(failure, ApiFailure)
    assert (failure.kind, failure.status) == (Failure.UNREACHABLE, 0)


@pytest.mark.parametrize(("take", "expected"), [(hear, Failure.BROKEN_OFF), (hear_and_say_nothing, Failure.TIMEOUT)])
def test_a_request_that_was_heard_and_not_answered_is_never_called_unreachable(tmp_path, monkeypatch, take, expected):
    monkeypatch.setattr(adapter, "CALL_SECONDS", 0.3)
    with crude(take) as port:
        cluster = Cluster.connect(namespace="stf", kubeconfig=kubeconfig_for(tmp_path, f"http://127.0.0.1:{port}"))
        failure = cluster.create_job("stf", job_manifest("one"))
    assert isinstance(failure, ApiFailure)
    assert (failure.kind, failure.status) == (expected, 0)


@contextmanager
def deaf() -> Iterator[tuple[str, int]]:
    """Listen at an address where nobody accepts, until connecting to it takes as long as it may."""
    with ExitStack() as open_, socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        for _ in range(4):
            waiting = open_.enter_context(socket.socket())
            waiting.settimeout(0.0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_a_call_whose_connection_took_all_its_time_is_not_sent(tmp_path, monkeypatch):
    """A name may have several addresses, each of which may take as long: by then nobody awaits the answer."""
    monkeypatch.setattr(adapter, "CALL_SECONDS", 0.3)
    heard: queue.Queue[bytes] = queue.Queue()
    with deaf() as first, crude(lambda connection: heard.put(connection.recv(65536))) as port:
        known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (first, ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
        cluster = Cluster.connect(namespace="stf", kubeconfig=kubeconfig_for(tmp_path, "http://api.example"))
        failure = cluster.create_job("stf", job_manifest("one"))
        assert heard.get(timeout=10.0) == b""
    assert isinstance(failure, ApiFailure)
    assert (failure.kind, failure.status) == (Failure.UNREACHABLE, 0)
    assert failure.message == "no connection to api.example:80 within 0.3 s"


@pytest.mark.kube
def test_a_server_that_shows_another_certificate_than_wanted_is_unreachable(control_plane, tmp_path):
    cluster = Cluster.connect(namespace="stf", kubeconfig=kubeconfig_for(tmp_path, control_plane.server_url))
    failure = cluster.list_jobs()
    assert isinstance(failure, ApiFailure)
    assert failure.kind is Failure.UNREACHABLE
    assert "certificate" in failure.message


def test_a_list_is_read_page_by_page(tmp_path):
    pages = {
        None: {"items": [listed("a")], "metadata": {"resourceVersion": "9", "continue": "more"}},
        "more": {"items": [listed("b")], "metadata": {"resourceVersion": "9"}},
    }

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "/pods" in handler.path:
            reply(handler, 200, json.dumps({"items": [], "metadata": {"resourceVersion": "10"}}))
        else:
            reply(handler, 200, json.dumps(pages["more" if "continue=more" in handler.path else None]))

    with scripted(tmp_path, answer) as cluster:
        listing = must(cluster.list_jobs())
    assert [fact.key for fact in listing.facts] == ["stf/a", "stf/b"]
    assert (listing.jobs_version, listing.pods_version) == ("9", "10")


def test_a_list_that_took_long_does_not_make_the_clock_of_the_api_server_look_behind(tmp_path):
    """By how far it may be behind, so much later an `error` of a new incarnation begins to count."""
    began = int(time.time())

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seconds = 40 if "/pods" in handler.path else 20 if "continue=more" in handler.path else 0
        more = {} if seconds else {"continue": "more"}
        handler.date_time_string = lambda: formatdate(began + seconds, usegmt=True)
        reply(handler, 200, json.dumps({"items": [], "metadata": {"resourceVersion": "9"} | more}))

    with scripted(tmp_path, answer) as cluster:
        assert must(cluster.list_jobs()).api_at == began + 40


def test_a_forgotten_version_ends_the_watch_whether_told_at_once_or_within(tmp_path):
    error = {
        "type": "ERROR",
        "object": {"kind": "Status", "code": 410, "message": "too old resource version"},
    }

    def at_once(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 410, status_object("Expired", "too old resource version"))

    def within(handler: BaseHTTPRequestHandler) -> None:
        stream(handler, [error] if "/pods" in handler.path else [])

    for answer in (at_once, within):
        with scripted(tmp_path, answer) as cluster, Watching(cluster, empty_listing()) as watching:
            watching.wait_for(lambda w=watching: w.ended)
            assert watching.seen[-1] == ApiFailure(Failure.GONE, 410, "too old resource version")


def test_a_watch_is_made_again_from_the_last_version_seen_bookmarks_included(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "_WATCH_RETRY_SECONDS", 0.01)
    asked: list[str] = []
    again = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "/pods" in handler.path:
            stream(handler, [])
            return
        asked.append(handler.path)
        if len(asked) == 1:
            stream(handler, [event("ADDED", "a", "11"), bookmark("15")])
        else:
            again.set()
            stream(handler, [])

    with scripted(tmp_path, answer) as cluster, Watching(cluster, empty_listing()) as watching:
        watching.wait_for(lambda: watching.facts("a"))
        assert again.wait(WAIT_SECONDS)
    assert "resourceVersion=9&" in asked[0] + "&"
    assert "resourceVersion=15&" in asked[1] + "&"


def test_a_silent_watch_is_connected_again_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "_WATCH_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(adapter, "_WATCH_SILENCE_SECONDS", 0.1)
    release, again, asked = threading.Event(), threading.Event(), []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if len(asked) > 2:
            again.set()
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        release.wait(WAIT_SECONDS)

    with scripted(tmp_path, answer) as cluster, Watching(cluster, empty_listing()) as watching:
        assert again.wait(WAIT_SECONDS)
        assert watching.seen == []
        release.set()


def test_a_throttled_watch_waits_as_long_as_it_was_told(tmp_path):
    asked: list[float] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "/jobs" in handler.path:
            asked.append(time.monotonic())
        reply(handler, 429, "{}", {"Retry-After": "1"})

    with scripted(tmp_path, answer) as cluster, Watching(cluster, empty_listing()) as watching:
        watching.wait_for(lambda: len(asked) >= 2)
    assert 0.9 <= asked[1] - asked[0] < 3
    assert watching.seen[0] == ApiFailure(Failure.THROTTLED, 429, "HTTP status 429", 1.0)


# ------------------------------------------------------------------ the join of the two watches


def job_event(version: int, *, failed: bool) -> adapter._Event:
    status = {"conditions": [{"type": "Failed", "status": "True"}]} if failed else {}
    job = listed("a") | {"kind": "Job", "status": status}
    job["metadata"]["resourceVersion"] = str(version)
    return adapter._Event("MODIFIED", job)


def pod_event(version: int, phase: str | None, *, name: str = "p", leaving: bool = False) -> adapter._Event:
    metadata: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "ownerReferences": [{"kind": "Job", "uid": "uid-a", "controller": True}],
    }
    if leaving:
        metadata["deletionTimestamp"] = "2025-09-01T10:00:00Z"
    pod = {"kind": "Pod", "metadata": metadata, "status": {"phase": phase or "Failed"}}
    return adapter._Event("DELETED" if phase is None else "MODIFIED", pod)


@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(st.sampled_from(["Pending", "Running", "Failed", None]), max_size=5),
    st.randoms(use_true_random=False),
)
def test_however_the_two_watches_overtake_each_other_the_last_fact_is_the_same(failed, phases, random):
    versions = list(range(10, 10 + len(failed) + len(phases)))
    random.shuffle(versions)
    jobs = [
        job_event(version, failed=state) for version, state in zip(sorted(versions[: len(failed)]), failed, strict=True)
    ]
    pods = [pod_event(version, phase) for version, phase in zip(sorted(versions[len(failed) :]), phases, strict=True)]
    wanted = fact_from_manifest(jobs[-1].object, [pods[-1].object] if pods and pods[-1].type != "DELETED" else [])
    inventory, facts = adapter._Inventory(empty_listing()), []
    while jobs or pods:
        event = (jobs if not pods or (jobs and random.random() < 0.5) else pods).pop(0)
        facts += filter(None, [inventory.apply(event)])
    told = [fact.resource_version for fact in facts]
    assert told == sorted(set(told))
    assert msgspec.structs.replace(facts[-1], resource_version=0) == msgspec.structs.replace(wanted, resource_version=0)


def test_an_event_that_changes_nothing_a_fact_tells_is_no_change():
    inventory = adapter._Inventory(empty_listing())
    assert inventory.apply(job_event(10, failed=False)) is not None
    assert inventory.apply(job_event(11, failed=False)) is None
    later = inventory.apply(job_event(12, failed=True))
    assert later is not None
    assert later.resource_version == 12


def test_a_pod_that_is_seen_before_its_job_is_joined_when_the_job_comes():
    inventory = adapter._Inventory(empty_listing())
    assert inventory.apply(pod_event(11, "Running")) is None
    fact = inventory.apply(job_event(10, failed=False))
    assert fact is not None
    assert (fact.pod, fact.resource_version) == (PodState.RUNNING, 11)


def test_a_pod_that_is_evicted_no_longer_runs_and_the_one_in_its_place_does():
    inventory = adapter._Inventory(empty_listing())
    inventory.apply(job_event(10, failed=False))
    events = [
        pod_event(11, "Running", name="old"),
        pod_event(12, "Running", name="old", leaving=True),  # for as long as its kubelet is away
        pod_event(13, "Pending", name="new"),
        pod_event(14, "Running", name="new"),
    ]
    facts = list(filter(None, map(inventory.apply, events)))
    assert [fact.pod for fact in facts] == [PodState.RUNNING, PodState.PENDING, PodState.RUNNING]


def test_of_a_pod_only_what_a_fact_is_made_from_is_kept():
    """A namespace has tens of thousands of pods, and most of what the API serves of one is of no use here."""
    served = pod_event(11, "Running", leaving=True).object
    served["metadata"] |= {"managedFields": [{}], "annotations": {"a": "b"}}
    served |= {"spec": {"containers": [{}]}}
    served["status"] |= {"conditions": [{}], "containerStatuses": [{}]}
    slim = adapter._slim(served)
    assert set(slim) == {"metadata", "status"}
    assert set(slim["metadata"]) == {"name", "uid", "resourceVersion", "ownerReferences", "deletionTimestamp"}
    assert set(slim["status"]) == {"phase"}


def test_a_pod_that_outlives_its_job_brings_nothing_back():
    inventory = adapter._Inventory(empty_listing())
    inventory.apply(job_event(10, failed=False))
    gone = inventory.apply(adapter._Event("DELETED", job_event(11, failed=False).object))
    assert gone is not None
    assert gone.condition is Condition.GONE
    assert inventory.apply(pod_event(12, "Running")) is None
    assert inventory.apply(pod_event(13, None)) is None


def test_a_pod_of_the_old_incarnation_is_not_joined_with_the_new_one():
    inventory = adapter._Inventory(empty_listing())
    old = pod_event(10, "Running")
    old.object["metadata"]["ownerReferences"][0]["uid"] = "uid-old"
    assert inventory.apply(old) is None
    fact = inventory.apply(job_event(11, failed=False))
    assert fact is not None
    assert fact.pod is PodState.NONE


def test_a_job_that_is_deleted_without_having_been_seen_is_gone():
    gone = adapter._Inventory(empty_listing()).apply(adapter._Event("DELETED", job_event(11, failed=False).object))
    assert gone is not None
    assert (gone.condition, gone.uid) == (Condition.GONE, "uid-a")


# ------------------------------------------------------------------ configuration


def test_no_kubeconfig_at_all_is_a_setting_to_set(tmp_path):
    with pytest.raises(SettingsError, match="SF_HEALER_KUBECONFIG"):
        Cluster.connect(namespace="stf", kubeconfig=str(tmp_path / "none"))


def test_a_broken_kubeconfig_is_a_setting_to_set(tmp_path):
    broken = tmp_path / "kubeconfig"
    broken.write_text("a: [")
    with pytest.raises(SettingsError, match="SF_HEALER_KUBECONFIG"):
        Cluster.connect(namespace="stf", kubeconfig=str(broken))


def listed(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "stf", "uid": f"uid-{name}", "resourceVersion": "5"}}


def event(kind: str, name: str, version: str) -> dict[str, Any]:
    job = listed(name)
    job["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": {"kind": "Job", **job}}


def bookmark(version: str) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"kind": "Job", "metadata": {"resourceVersion": version}}}


def empty_listing() -> Listing:
    return Listing(facts=(), jobs_version="9", pods_version="9", at=0.0)


def stream(handler: BaseHTTPRequestHandler, events: list[dict[str, Any]]) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for one in events:
        line = json.dumps(one).encode() + b"\n"
        handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")
