"""`sf-healer chaos submit` as the CronJob runs it: its arguments, its account, an API server, verdicts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sf_healer.cli import ExitCode
from tests.chaos.engines import ENGINE_FILES, LITMUS, documents, engines_of
from tests.lab import litmus as lab_litmus
from tests.lab.api_proxy import ApiProxy, Asks, Fault, Harm
from tests.lab.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.kube import ControlPlane

PROGRAM = str(Path(sys.executable).with_name("sf-healer"))
LOADER, CONNECTOR = "loader-btc-2026-01-01-a1b2-loader-producer", "loader-btc-2026-01-01-a1b2-arango-connector"
(CRONJOB,) = documents(LITMUS / "schedule" / "cronjob.yaml")
SECONDS = 120.0
ENGINES_AT = f"/apis/{lab_litmus.GROUP}/{lab_litmus.VERSION}/namespaces/litmus/chaosengines"


def test_check_is_content_with_every_file_and_names_what_is_wrong_with_a_broken_one(tmp_path: Path):
    def check(*files: Path) -> subprocess.CompletedProcess[str]:
        command = [PROGRAM, "chaos", "check", *map(str, files)]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)

    assert check(*ENGINE_FILES).returncode == ExitCode.OK
    text = ENGINE_FILES[0].read_text().replace("stopOnFailure: true", "stopOnFailure: false")
    (tmp_path / "broken.yaml").write_text(text)
    done = check(tmp_path / "broken.yaml")
    assert done.returncode == ExitCode.NO
    assert "stops-before-it-starts" in done.stderr
    (tmp_path / "strange.yaml").write_text(text.replace("probeTimeout: 5s", "probeTimeout: 5"))
    assert "Expected `str`, got `int`" in check(tmp_path / "strange.yaml").stderr


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    made = Stage(control_plane)
    made.set_up()
    yield made
    made.take_down()


@pytest.mark.kube
@pytest.mark.timeout(600)
class TestSubmit:
    def test_the_cronjobs_own_arguments_end_well_when_every_verdict_is_pass(self, stage: Stage):
        (container,) = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        arguments = [each.replace("/engines", str(LITMUS / "engines")) for each in container["args"]]
        with stage.operator(lambda _: "Pass") as operator:
            done = stage.run(container["command"], arguments)
        assert done.returncode == ExitCode.OK, done.stderr
        files = [Path(each) for each in arguments if each.endswith(".yaml")]
        wanted = [engine.metadata.name for file in files for engine in engines_of(file)]
        assert [_plain(each) for each in operator.seen] == wanted
        assert not operator.overlapped
        assert "PICKED-" not in str(operator.seen)
        pods = {each["metadata"]["name"]: _names(each) for each in operator.seen if "pods" in each["spec"]["selectors"]}
        hit = {_without_moment(name): names for name, names in pods.items()}
        assert hit["pod-delete-loader"].startswith(LOADER)
        assert hit["pod-delete-arango-connector"].startswith(CONNECTOR)
        assert hit["kafka-broker-failure"] == "k3-knp-1"
        assert len({hit[f"exhaust-loader-{n}"].rpartition("-")[0] for n in range(1, 6)}) == 1

    def test_a_verdict_that_is_not_pass_ends_the_run_and_names_the_probes(self, stage: Stage):
        with stage.operator(lambda name: "Fail" if name == "pod-delete-loader" else "Pass") as operator:
            done = stage.submit("network-latency-healer", "pod-delete-loader", "pod-delete-arango-connector")
        assert done.returncode == ExitCode.NO
        assert [_plain(each) for each in operator.seen] == ["network-latency-healer", "pod-delete-loader"]
        assert "healer-restarts-nothing (EOT): Failed" in done.stderr

    def test_nothing_is_submitted_while_another_engine_has_not_ended(self, stage: Stage):
        (engine,) = documents(LITMUS / "engines" / "network-latency-healer.yaml")
        assert stage.plane.call("POST", ENGINES_AT, engine).status == 201
        done = stage.submit("pod-delete-loader")
        assert done.returncode == ExitCode.REFUSED
        assert "network-latency-healer in litmus have not ended" in done.stderr
        assert len(stage.plane.call("GET", ENGINES_AT).body["items"]) == 1

    def test_an_engine_of_a_run_that_is_ended_is_told_to_stop(self, stage: Stage):
        with stage.operator(lambda _: None) as operator:
            process = stage.begin("pod-delete-loader")
            until(lambda: bool(operator.seen), "the engine to be there", seconds=SECONDS)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
            assert process.returncode == ExitCode.INTERRUPTED
            (engine,) = operator.engines()
            assert engine["spec"]["engineState"] == "stop"

    def test_an_engine_that_does_not_end_in_time_is_told_to_stop_and_is_no_pass(self, stage: Stage, tmp_path: Path):
        (engine,) = documents(LITMUS / "engines" / "pod-delete-loader.yaml")
        for setting in engine["spec"]["experiments"][0]["spec"]["components"]["env"]:
            setting["value"] = "10" if setting["value"] == "60" else setting["value"]
        (tmp_path / "short.yaml").write_text(yaml.safe_dump(engine))
        with stage.operator(lambda _: None) as operator:
            done = stage.run([PROGRAM], ["chaos", "submit", str(tmp_path / "short.yaml"), "--patience-seconds", "0"])
            (left,) = operator.engines()
        assert done.returncode == ExitCode.NO
        assert left["spec"]["engineState"] == "stop"

    def test_an_engine_of_which_nobody_said_that_it_was_made_is_told_to_stop(self, stage: Stage, tmp_path: Path):
        with stage.operator(lambda _: None) as operator, ApiProxy.before(stage.kubeconfig) as proxy:
            kubeconfig = proxy.kubeconfig(stage.kubeconfig, at=tmp_path / "kubeconfig")
            proxy.harm_next(Asks.OTHER, Fault(Harm.RESET_ANSWER_LOST))
            done = stage.run([PROGRAM], stage.arguments("network-latency-healer"), kubeconfig=kubeconfig)
            (left,) = operator.engines()
        assert done.returncode == ExitCode.UNREACHABLE
        assert left["spec"]["engineState"] == "stop"

    def test_the_same_seed_picks_the_same_and_a_dry_run_sends_nothing(self, stage: Stage):
        one, other = (stage.submit("kafka-broker-failure", "--seed", "7", "--dry-run") for _ in range(2))
        assert (one.returncode, other.returncode) == (ExitCode.OK, ExitCode.OK), one.stderr
        picked = [yaml.safe_load(each.stdout)["spec"]["selectors"] for each in (one, other)]
        assert picked[0] == picked[1] == {"pods": [{"namespace": "kafka", "names": "k3-knp-1"}]}
        assert stage.plane.call("GET", ENGINES_AT).body["items"] == []

    def test_the_api_server_refuses_what_litmus_would_drop_silently(self, stage: Stage):
        (engine,) = documents(LITMUS / "engines" / "pod-delete-loader.yaml")
        engine["spec"]["annotationCheck"] = "false"
        answer = stage.plane.call("POST", f"{ENGINES_AT}?fieldValidation=Strict", engine)
        assert "unknown field" in answer.body["message"]


class Stage:
    """Litmus' kinds, our rights, two Jobs and a broker; the account of the CronJob."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self._crds = yaml.safe_dump_all(lab_litmus.crds())

    def set_up(self) -> None:
        for name in ("litmus", "stf", "kafka"):
            if self.plane.call("GET", f"/api/v1/namespaces/{name}").status == 404:
                self.plane.create_namespace(name)
        self.plane.kubectl("apply", "-f", "-", stdin=self._crds)
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", "-", stdin=self._crds)
        until(lambda: self.plane.call("GET", ENGINES_AT).status == 200, "the kinds to be served", seconds=SECONDS)
        self.plane.kubectl("apply", "-f", str(LITMUS / "rbac.yaml"))
        self.plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(_world()))
        self.kubeconfig = self.plane.kubeconfig_of("litmus", "sf-chaos-schedule")
        until(self._is_ready, "the Jobs and the broker to run, and the rights to hold", seconds=SECONDS)

    def _is_ready(self) -> bool:
        picked = self.submit("pod-delete-loader", "pod-delete-arango-connector", "kafka-broker-failure", "--dry-run")
        return picked.returncode == 0

    def take_down(self) -> None:
        self.plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(_world()))
        self.plane.kubectl("delete", "--ignore-not-found", "-f", str(LITMUS / "rbac.yaml"))
        self.plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=self._crds)

    def operator(self, answer: Callable[[str], str | None]) -> lab_litmus.Operator:
        self.forget()
        return lab_litmus.Operator(self.plane, "litmus", answer)

    def forget(self) -> None:
        for kind in ("chaosengines", "chaosresults"):
            self.plane.kubectl("-n", "litmus", "delete", kind, "--all")

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run([PROGRAM], self.arguments(*arguments))

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [PROGRAM, *self.arguments(*arguments)]
        return subprocess.Popen(command, env=self._env(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(
        self, command: list[str], arguments: list[str], *, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        program = [PROGRAM if each == "sf-healer" else each for each in command]
        return subprocess.run(
            [*program, *arguments],
            env=self._env(kubeconfig),
            capture_output=True,
            text=True,
            timeout=SECONDS * 2,
            check=False,
        )

    def arguments(self, *arguments: str) -> list[str]:
        files = {path.stem: str(path) for path in ENGINE_FILES}
        return ["chaos", "submit", *(files.get(each, each) for each in arguments)]

    def _env(self, kubeconfig: Path | None = None) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "SF_HEALER_KUBECONFIG": str(kubeconfig or self.kubeconfig)}


@pytest.fixture(autouse=True)
def _no_engines_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stage" in request.fixturenames:
        request.getfixturevalue("stage").forget()


def _plain(engine: dict[str, Any]) -> str:
    return _without_moment(engine["metadata"]["name"])


def _without_moment(name: str) -> str:
    return name.rpartition("-")[0]


def _names(engine: dict[str, Any]) -> str:
    (pods,) = engine["spec"]["selectors"]["pods"]
    return str(pods["names"])


def _world() -> list[dict[str, Any]]:
    """Two Jobs of StreamForge and a broker of Strimzi, as far as they are looked at."""
    context = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "main",
        "image": "example:1",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {"restartPolicy": "Never", "securityContext": context, "containers": [container]}
    jobs = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": "stf"},
            "spec": {"backoffLimit": 4, "template": {"spec": pod}},
        }
        for name in (LOADER, CONNECTOR)
    ]
    labels = {"strimzi.io/cluster": "k3", "strimzi.io/broker-role": "true"}
    broker = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "k3-knp-1", "namespace": "kafka", "labels": labels},
        "spec": pod,
    }
    return [*jobs, broker]
