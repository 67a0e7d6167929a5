"""`sf-healer chaos run` on a real control plane: a Pod is killed, the Job controller replaces it, the probes see it.

Prometheus and the healer's page are a small server here: what they would say is the test's to choose.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.parse
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from sf_healer.chaos import litmus
from sf_healer.chaos.bindings import Bindings, BindingsError, ClusterBinding, read
from sf_healer.chaos.experiment import Saw
from sf_healer.chaos.questions import LabQuestions
from sf_healer.cli import ExitCode
from tests.chaos import lab_file
from tests.chaos.engines import LITMUS, documents
from tests.lab.beside import Served
from tests.lab.waiting import until
from tests.lab.worker import SF_HEALER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane

JOB = "loader-btc-2026-01-01-a1b2-loader-producer"
SECONDS = 120.0
#: Longer than the Job controller waits before its next Pod (10 s).
INTERVAL = "15"


class Pages(Served):
    """A Prometheus and a worker in one server: a value for each query that has a word in it."""

    def __init__(self) -> None:
        self.values = {"calm": "1", "watermark": "2", "build_info": "0"}
        self.rows = 1
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                at = urllib.parse.urlsplit(self.path)
                body = pages.answer(urllib.parse.parse_qs(at.query).get("query", [""])[0])
                self.send_response(200 if at.path in ("/livez", "/api/v1/query") else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)

    def answer(self, query: str) -> bytes:
        value = next((value for word, value in self.values.items() if word in query), "0")
        result = [{"metric": {}, "value": [0, value]}] * self.rows
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages() as found:
        yield found


def asked(name: str) -> litmus.Probe:
    (engine,) = [litmus.parse(each) for each in documents(LITMUS / "engines" / "pod-delete-loader.yaml")]
    assert isinstance(engine, litmus.ChaosEngine)
    return next(each for each in engine.experiment.spec.probe if each.name == name)


def bindings(pages: Pages) -> Bindings:
    return Bindings({lab_file.PROMETHEUS: pages.address, lab_file.HEALER: pages.address})


async def test_a_query_has_one_row_or_is_an_error_as_with_litmus(pages: Pages):
    questions = LabQuestions(bindings(pages))
    answer = await questions.ask(asked("fleet-is-calm"))
    assert (answer.saw, answer.text) == (Saw.VALUE, "1")
    for rows in (0, 2):
        pages.rows = rows
        assert (await questions.ask(asked("fleet-is-calm"))).saw is Saw.TROUBLE


async def test_a_page_that_nobody_serves_is_no_error_but_no_answer(pages: Pages):
    assert (await LabQuestions(bindings(pages)).ask(asked("healer-lives"))).text == "200"
    nobody = Bindings({lab_file.HEALER: "http://127.0.0.1:9"})
    assert (await LabQuestions(nobody).ask(asked("healer-lives"))).saw is Saw.NOTHING


@pytest.mark.parametrize("command", ["reboot", "kubectl delete pods", "echo x | wc -l", "echo get"])
async def test_no_command_but_kubectl_get_is_run(command: str, tmp_path: Path):
    probe = asked("one-pod-runs")
    assert probe.command is not None
    other = msgspec.structs.replace(probe, command=msgspec.structs.replace(probe.command, command=command))
    marker = tmp_path / "ran"
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tmp_path / "kubectl").chmod(0o755)
    questions = LabQuestions(Bindings(cluster=ClusterBinding(kubectl=(str(tmp_path / "kubectl"),))))
    assert (await questions.ask(other)).saw is Saw.TROUBLE
    assert not marker.exists()


def test_bindings_are_read_strictly_and_replace_whole_beginnings(tmp_path: Path):
    file = tmp_path / "lab.toml"
    file.write_text(
        '[addresses]\n"http://a:1" = "http://b:2"\n[namespaces]\nstf = "lab"\n[cluster]\nkubeconfig = "k"\n'
    )
    found = read(file)
    assert found.url("http://a:1/livez") == "http://b:2/livez"
    assert found.url("http://a:10/livez") == "http://a:10/livez"
    assert (found.namespace("stf"), found.namespace("kafka")) == ("lab", "kafka")
    assert found.cluster.kubeconfig == str(tmp_path / "k")
    file.write_text("[adresses]\n")
    with pytest.raises(BindingsError, match="adresses"):
        read(file)


@pytest.mark.kube
@pytest.mark.timeout(600)
class TestRunHere:
    def test_one_killed_pod_is_the_job_controllers_business(self, stage: Stage):
        before = stage.pods()
        done = stage.run()
        assert done.returncode == ExitCode.OK, done.stderr
        assert not before & stage.pods(), "it was killed"
        result = stage.result()
        assert result["status"]["experimentStatus"]["verdict"] == "Pass"
        (suite,) = ET.parse(stage.records / "junit.xml").getroot().iter("testsuite")
        assert (suite.attrib["errors"], suite.attrib["failures"]) == ("0", "0")
        (page,) = stage.records.glob("*.md")
        assert f"Measured: killed {before.pop()}" in page.read_text()

    def test_a_healer_that_restarts_though_it_should_not_fails_the_hypothesis(self, stage: Stage):
        stage.pages.values["outcomes_total"] = "0"
        engine = stage.engine()
        done = stage.run(then=lambda: stage.pages.values.update(outcomes_total="1"), engine=engine)
        assert done.returncode == ExitCode.NO
        assert "healer-restarts-nothing (EOT): Failed. 1 == 0" in done.stderr
        assert stage.result()["status"]["experimentStatus"]["verdict"] == "Fail"

    def test_without_a_healer_nothing_is_killed(self, stage: Stage):
        stage.pages.values = {"calm": "-1"}
        before = stage.pods()
        done = stage.run()
        assert done.returncode == ExitCode.NO
        assert before == stage.pods()
        assert stage.result()["status"]["experimentStatus"]["verdict"] == "Stopped"


class Stage:
    """A Job on the control plane in a namespace of its own, and pages that say what the test wants."""

    def __init__(self, plane: ControlPlane, pages: Pages, directory: Path) -> None:
        self.plane, self.pages, self.directory = plane, pages, directory
        self.records = directory / "records"
        self.namespace = plane.create_namespace()
        container = {"name": "main", "image": "example:1"}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        job = {"metadata": {"name": JOB}, "spec": {"backoffLimit": 4, "template": template}}
        assert plane.call("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", job).status == 201
        until(lambda: bool(self.pods()), "the Job's Pod to run", seconds=SECONDS)
        self.bindings = lab_file.write(
            directory,
            prometheus=pages.address,
            healer=pages.address,
            namespaces={"stf": self.namespace},
            kubeconfig=plane.kubeconfig,
        )

    def pods(self) -> set[str]:
        found = self.plane.call("GET", f"/api/v1/namespaces/{self.namespace}/pods").body["items"]
        running = [each for each in found if each["status"].get("phase") == "Running"]
        return {each["metadata"]["name"] for each in running if "deletionTimestamp" not in each["metadata"]}

    def engine(self) -> Path:
        """Give the shipped engine with a shorter interval; what is asked is what is shipped."""
        (engine,) = documents(LITMUS / "engines" / "pod-delete-loader.yaml")
        for setting in engine["spec"]["experiments"][0]["spec"]["components"]["env"]:
            setting["value"] = INTERVAL if setting["value"] == "60" else setting["value"]
        file = self.directory / "engine.yaml"
        file.write_text(yaml.safe_dump(engine))
        return file

    def run(self, *, then: Any = None, engine: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it; `then` is called when the Pod was killed."""
        before = self.pods()
        command = [
            *SF_HEALER,
            "chaos",
            "run",
            str(engine or self.engine()),
            "--bindings",
            str(self.bindings),
        ]
        process = subprocess.Popen(
            [*command, "--records", str(self.records), "--seed", "1"],
            env={"PATH": os.environ["PATH"]},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            if then is not None:
                until(lambda: not before & self.pods(), "the Pod to be killed", seconds=SECONDS)
                then()
            out, err = process.communicate(timeout=SECONDS * 2)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def result(self) -> dict[str, Any]:
        (file,) = self.records.glob("*.json")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


@pytest.fixture
def stage(control_plane: ControlPlane, pages: Pages, tmp_path: Path) -> Stage:
    return Stage(control_plane, pages, tmp_path)
