"""The checks of `sf-healer doctor` where a real cluster cannot be brought to it: webhooks, clocks, old servers.

A stand-in answers in the API server's place; what a real one says is in tests/cluster/test_doctor.py.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer import preflight
from sf_healer.access import Access, Account, in_words, needed, rbac
from sf_healer.checks import clocks, kubernetes, policy, versions, worker
from sf_healer.checks.clocks import HERE, LIMIT_SECONDS, Clock
from sf_healer.checks.findings import About, Finding, State
from sf_healer.cli import ExitCode, run
from sf_healer.settings import Identity, Mode, Role, Settings
from tests.lab.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ALL = {need.access for need in needed(Role.ALL, Mode.HEAL)}
EVERY = [(role, mode) for role in Role for mode in Mode]


class Answers(msgspec.Struct):
    """How the stand-in answers."""

    allows: Callable[[Access], bool] = ALL.__contains__
    everywhere: Callable[[Access], bool] = frozenset[Access]().__contains__
    rules: list[dict[str, Any]] = []
    gaps: str = ""
    version: str = "v1.36.3"
    ahead_seconds: float = 0.0
    reviews_status: int = 201
    subject_status: int = 201

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Give status and body."""
        if path == "/version/":
            return 200, {"gitVersion": self.version}
        if path.endswith("/selfsubjectreviews"):
            return self.subject_status, {"status": {"userInfo": {"username": "somebody"}}, "message": "no such path"}
        if self.reviews_status != 201:
            return self.reviews_status, {"message": "nobody may ask"}
        if path.endswith("/selfsubjectrulesreviews"):
            told = {"evaluationError": self.gaps} if self.gaps else {}
            return 201, {"status": {"resourceRules": self.rules, "incomplete": bool(self.gaps), **told}}
        attributes = asked["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (attributes["resource"], attributes["subresource"])))
        access = Access(attributes["group"], resource, attributes["verb"])
        allowed = self.allows(access) if attributes.get("namespace") else self.everywhere(access)
        return 201, {"status": {"allowed": allowed}}


@contextmanager
def standing_in(answers: Answers, directory: Path) -> Iterator[Path]:
    """Serve these answers, and give the kubeconfig of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            status, body = answers.answer(self.path, json.loads(self.rfile.read(length) or b"{}"))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  the library's name

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int((timestamp or time.time()) + answers.ahead_seconds))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {"token": "t"}}]
        content = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"}
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(json.dumps(content))
        yield kubeconfig
        server.shutdown()


def look(answers: Answers, directory: Path, role: Role = Role.ALL, mode: Mode = Mode.HEAL) -> kubernetes.Looked:
    with standing_in(answers, directory) as kubeconfig:
        return kubernetes.check(Settings(kubeconfig=str(kubeconfig), role=role, mode=mode))


def said(findings: list[Finding], state: State) -> list[str]:
    return [finding.what for finding in findings if finding.state is state]


# ------------------------------------------------------------------ rights that no list shows


def test_a_dangerous_right_that_no_rule_gives_is_found_by_asking_for_it(tmp_path: Path):
    secrets = Access("", "secrets", "get")
    looked = look(Answers(allows=lambda access: access in ALL | {secrets}), tmp_path)
    assert said(looked.findings, State.TOO_MUCH) == ["may get secrets in namespace stf, by no rule that is listed"]


def test_the_rights_of_the_other_role_are_asked_for_too(tmp_path: Path):
    looked = look(Answers(), tmp_path, role=Role.DETECTOR)
    assert said(looked.findings, State.TOO_MUCH) == [
        "may create events in namespace stf, by no rule that is listed",
        "may get rollouts.argoproj.io in namespace stf, by no rule that is listed",
        "may create, delete, get jobs.batch in namespace stf, by no rule that is listed",
    ]


def test_a_right_that_a_rule_shows_is_said_once(tmp_path: Path):
    pods = Access("", "pods", "delete")
    rule = {"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}
    looked = look(Answers(allows=lambda access: access in ALL | {pods}, rules=[rule]), tmp_path)
    assert said(looked.findings, State.TOO_MUCH) == ["may delete pods in namespace stf"]


def test_an_incomplete_list_is_said_and_no_fault(tmp_path: Path):
    looked = look(Answers(gaps="webhook authorizer does not support user rule resolution"), tmp_path)
    (unknown,) = said(looked.findings, State.UNKNOWN)
    assert "webhook authorizer does not support user rule resolution" in unknown
    assert {finding.state for finding in looked.findings} == {State.OK, State.UNKNOWN}


def test_that_the_authorizer_of_kubelets_lists_nothing_is_no_news(tmp_path: Path):
    looked = look(Answers(gaps="node authorizer does not support user rule resolution"), tmp_path)
    assert {finding.state for finding in looked.findings} == {State.OK}


def test_where_nobody_may_ask_what_he_may_do_that_is_wrong_and_the_worker_starts_all_the_same(tmp_path: Path):
    answers = Answers(reviews_status=403)
    looked = look(answers, tmp_path)
    wrong = [finding for finding in looked.findings if finding.state is State.WRONG]
    assert len(wrong) == len(ALL)
    assert all("cannot be asked: nobody may ask" in finding.what for finding in wrong)
    assert {finding.fix for finding in wrong} == {"kubectl describe clusterrolebinding system:basic-user"}
    with standing_in(answers, tmp_path) as kubeconfig:
        assert preflight._cluster_problems(Settings(kubeconfig=str(kubeconfig), mode=Mode.HEAL)) == []


# ------------------------------------------------------------------ servers


def test_a_server_too_old_to_label_pods_is_wrong(tmp_path: Path):
    (wrong,) = said(look(Answers(version="v1.26.15+k3s1"), tmp_path).findings, State.WRONG)
    assert wrong.startswith("Kubernetes v1.26.15+k3s1 answers")
    assert said(look(Answers(version="v1.27.0"), tmp_path).findings, State.WRONG) == []


def test_a_server_that_does_not_say_who_we_are_is_asked_all_the_rest(tmp_path: Path):
    looked = look(Answers(subject_status=404), tmp_path)
    assert {finding.state for finding in looked.findings} == {State.OK}
    assert looked.findings[0].what == "Kubernetes v1.36.3 answers"


def test_without_a_cluster_to_talk_to_it_is_not_asked(tmp_path: Path):
    (finding,) = kubernetes.check(Settings(identity=Identity.CONVENTION)).findings
    assert (finding.about, finding.state) == (About.CLUSTER, State.OK)
    (finding,) = kubernetes.check(Settings(kubeconfig=str(tmp_path / "missing"))).findings
    assert (finding.about, finding.state) == (About.CLUSTER, State.WRONG)


def test_a_server_that_is_away_is_told_in_words_with_its_address(tmp_path: Path):
    with standing_in(Answers(), tmp_path) as kubeconfig:
        pass
    url = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    (finding,) = kubernetes.check(Settings(kubeconfig=str(kubeconfig))).findings
    assert finding.state is State.UNREACHABLE
    assert finding.what == f"the API server at {url} does not answer: nothing listens at {url.removeprefix('http://')}"


# ------------------------------------------------------------------ a worker that starts


@pytest.mark.parametrize(("role", "mode"), EVERY)
def test_a_worker_starts_with_what_its_role_needs(tmp_path: Path, role: Role, mode: Mode):
    ours = {need.access for need in needed(role, mode)}
    with standing_in(Answers(allows=ours.__contains__), tmp_path) as kubeconfig:
        assert preflight._cluster_problems(Settings(kubeconfig=str(kubeconfig), role=role, mode=mode)) == []


@pytest.mark.parametrize(
    ("role", "mode", "lacking"), [(role, mode, need) for role, mode in EVERY for need in needed(role, mode)]
)
def test_a_worker_does_not_start_without_a_right_that_it_cannot_do_without(
    tmp_path: Path, role: Role, mode: Mode, lacking: Any
):
    ours = {need.access for need in needed(role, mode)} - {lacking.access}
    with standing_in(Answers(allows=ours.__contains__), tmp_path) as kubeconfig:
        problems = preflight._cluster_problems(Settings(kubeconfig=str(kubeconfig), role=role, mode=mode))
    if not lacking.required:
        assert problems == [], "an Event is a courtesy, and not every platform has Argo Rollouts"
        return
    (problem,) = problems
    assert problem.startswith(f"we may not {in_words([lacking.access])} in namespace stf ({lacking.why}); ")
    assert f"SF_HEALER_MODE={mode} sf-healer doctor --rbac --role {role}`" in problem


# ------------------------------------------------------------------ clocks


@pytest.mark.parametrize("ahead_seconds", [-3600, -5, 5, 3600])
def test_an_api_server_whose_clock_is_off_is_wrong(tmp_path: Path, ahead_seconds: int):
    clock = look(Answers(ahead_seconds=ahead_seconds), tmp_path).clock
    assert clock is not None
    assert clock.low <= ahead_seconds <= clock.high
    (finding,) = clocks.compare([HERE, clock])
    assert finding.state is State.WRONG
    assert ("ahead of" if ahead_seconds > 0 else "behind") in finding.what
    assert finding.fix


def test_an_api_server_whose_clock_is_right_is_well(tmp_path: Path):
    clock = look(Answers(), tmp_path).clock
    assert clock is not None
    assert [finding.state for finding in clocks.compare([HERE, clock])] == [State.OK]


seconds = st.floats(-1e6, 1e6)


@given(theirs=seconds, asked=seconds, trip=st.floats(0, 100), when=st.floats(0, 1), resolution=st.floats(0.001, 1))
def test_the_bounds_of_a_clock_hold_however_long_the_answer_took(theirs, asked, trip, when, resolution):
    true_at = asked + trip * when + theirs  # their clock when they answered
    told = true_at // resolution * resolution
    clock = clocks.seen("theirs", told, asked_at=asked, answered_at=asked + trip, resolution_seconds=resolution)
    assert clock.low - 1e-6 <= theirs <= clock.high + 1e-6


@given(st.lists(st.tuples(seconds, st.floats(0, 10)), min_size=2, max_size=4))
def test_clocks_are_wrong_only_if_they_are_certainly_apart(drawn):
    known = [Clock(f"clock {number}", low, low + width) for number, (low, width) in enumerate(drawn)]
    findings = iter(clocks.compare(known))
    for at, one in enumerate(known):
        for other in known[at + 1 :]:
            apart = max(other.low - one.high, one.low - other.high)
            assert (next(findings).state is State.WRONG) == (apart > LIMIT_SECONDS)
    assert list(findings) == []


# ------------------------------------------------------------------ versions


def test_a_library_of_another_version_than_its_inside_was_used_of_is_wrong(monkeypatch: pytest.MonkeyPatch):
    assert {finding.state for finding in versions.check()} == {State.OK}
    real = versions.metadata.version
    monkeypatch.setattr(versions.metadata, "version", lambda name: "0.13.0" if name == "aiokafka" else real(name))
    (wrong,) = [finding for finding in versions.check() if finding.state is not State.OK]
    assert (wrong.state, wrong.fix) == (State.WRONG, "pip install aiokafka==0.14.0")


# ------------------------------------------------------------------ the command


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Settings of an environment where neither a broker nor a cluster is."""
    port, web_port = free_ports(2)
    monkeypatch.setenv("SF_HEALER_BROKER_URL", f"kafka://127.0.0.1:{port}")
    monkeypatch.setenv("SF_HEALER_WEB_PORT", str(web_port))
    monkeypatch.delenv("SF_HEALER_URL", raising=False)
    (tmp_path / "kubeconfig").write_text("{}")
    monkeypatch.setenv("SF_HEALER_KUBECONFIG", str(tmp_path / "kubeconfig"))
    return f"127.0.0.1:{port}"


def test_what_is_wrong_is_said_below_the_table_with_what_mends_it(nowhere: str, capsys: pytest.CaptureFixture[str]):
    assert run(["doctor"]) is ExitCode.UNREACHABLE
    told = capsys.readouterr()
    states = [tuple(line.split()[:2]) for line in told.out.splitlines()[1:]]
    rest = [("ok", "policy"), ("unreachable", "broker"), ("wrong", "cluster"), ("warning", "worker")]
    assert states == [("ok", "versions")] * 3 + rest
    assert f"broker: Kafka at {nowhere}: connection refused\n  fix: sf-healer settings\n" in told.err
    assert "  fix: kubectl config view, kubectl auth whoami\n" in told.err


def test_the_role_is_that_of_the_option_else_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SF_HEALER_ROLE", "detector")
    monkeypatch.setenv("SF_HEALER_MODE", "heal")
    assert run(["doctor", "--rbac"]) is ExitCode.OK
    assert capsys.readouterr().out == rbac(Role.DETECTOR, Mode.HEAL, namespace="stf")
    assert run(["doctor", "--rbac", "--role", "actuator", "--account", "kafka/healer"]) is ExitCode.OK
    expected = rbac(Role.ACTUATOR, Mode.HEAL, namespace="stf", account=Account("kafka", "healer"))
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("wrong", [["--account", "kafka/healer"], ["--rbac", "--account", "healer"]])
def test_an_account_is_for_a_manifest_and_has_a_namespace(wrong: list[str]):
    assert run(["doctor", *wrong]) is ExitCode.USAGE


# ------------------------------------------------------------------ a worker that runs


class Health:
    """A worker's two answers, from a server of its own."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, Any]] = {
            "/livez": (200, {"alive": True, "problems": []}),
            "/readyz": (200, {"ready": True, "problems": []}),
        }
        health = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, told = health.pages.get(self.path, (404, {"error": "no such page"}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(told).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def health() -> Iterator[Health]:
    served = Health()
    threading.Thread(target=served.server.serve_forever, args=(0.05,), daemon=True).start()
    yield served
    served.server.shutdown()
    served.server.server_close()


def asked(url: str, *, named: bool = True) -> Finding:
    (finding,) = worker.check(worker.Address(url, named))
    return finding


def test_a_worker_that_does_its_part_is_well(health: Health):
    assert (asked(health.url).state, asked(health.url).what) == (State.OK, f"{health.url} is alive and ready")


def test_a_worker_that_is_not_ready_says_why(health: Health):
    health.pages["/readyz"] = (503, {"ready": False, "problems": ["partition 3 recovers", "no marks"]})
    finding = asked(health.url, named=False)
    assert finding.state is State.WRONG
    assert finding.what == f"{health.url} is not ready: partition 3 recovers; not ready: no marks"
    assert f"sf-healer fleet --url {health.url}" in finding.fix


def test_a_worker_that_hangs_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "get_answer", partial(worker.get_answer, timeout_seconds=0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a process that is stopped: the kernel still listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        finding = asked(url, named=False)
    assert finding.state is State.UNREACHABLE
    assert f"{url}/livez gave no answer in 0.2 s" in finding.what


@pytest.mark.parametrize(("named", "state"), [(True, State.UNREACHABLE), (False, State.WARNING)])
def test_where_nobody_listens_that_is_a_fault_only_of_an_address_that_was_named(named: bool, state: State):  # noqa: FBT001
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    finding = asked(url, named=named)
    assert (finding.state, finding.what) == (
        state,
        f"no worker at {url}: nothing listens at {url.removeprefix('http://')}",
    )
    assert "SF_HEALER_URL" in finding.fix


@pytest.mark.parametrize(("named", "state"), [(True, State.WRONG), (False, State.WARNING)])
def test_somebody_else_at_the_address_is_no_worker(health: Health, named: bool, state: State):  # noqa: FBT001
    health.pages.clear()
    finding = asked(health.url, named=named)
    assert (finding.state, finding.what) == (
        state,
        f"who answers at {health.url} is no worker of sf-healer (status 404)",
    )


def test_the_command_asks_the_worker_that_is_named(nowhere: str, health: Health, capsys: pytest.CaptureFixture[str]):
    health.pages["/livez"] = (503, {"alive": False, "problems": ["the sweeper has not turned for 70 s"]})
    assert run(["doctor", "--url", health.url, "-o", "json"]) is ExitCode.UNREACHABLE
    *_, told = json.loads(capsys.readouterr().out)
    assert (told["about"], told["state"]) == ("worker", "wrong")
    assert "not alive: the sweeper has not turned for 70 s" in told["what"]


# ---- the policy file


def test_a_policy_file_that_can_be_used_is_well_and_the_shipped_one_is(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("[admission]\nattempts = 2\n")
    for settings in (Settings(), Settings(policy_file=str(file))):
        (finding,) = policy.check(settings)
        assert (finding.about, finding.state) == (About.POLICY, State.OK)
        assert "version " in finding.what


@pytest.mark.parametrize("text", ["[admission]\nattempts = 0\n", None], ids=["wrong", "not there"])
def test_a_policy_file_that_cannot_be_used_is_told_with_what_mends_it(tmp_path, text):
    file = tmp_path / "policy.toml"
    if text is not None:
        file.write_text(text)
    (finding,) = policy.check(Settings(policy_file=str(file)))
    assert finding.state is State.WRONG
    assert ("line 2: " if text else "No such file") in finding.what
    assert f"sf-healer policy check {file}" in finding.fix
