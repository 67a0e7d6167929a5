"""The image without an engine: its install and start commands, run in a scratch directory as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sf_healer import __version__
from tests.image.dockerfile import REPOSITORY, Instruction, instructions, send_context
from tests.lab import checkers
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.process import Server
from tests.lab.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

BUILD, RUN = instructions()
#: Makes the user and its directories, as root: the one command that is not run here.
NOT_RUN = "RUN useradd "
INSTALL_SECONDS = 400.0
GREEN_SECONDS = 90.0
STOP_SECONDS = 30.0


def only(stage: list[Instruction], word: str) -> str:
    (found,) = [each.rest for each in stage if each.word == word]
    return found


def test_both_stages_stand_on_one_base_pinned_to_a_whole_version():
    bases = {stage[0].rest.partition(" AS ")[0] for stage in (BUILD, RUN)}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert f'org.opencontainers.image.base.name="docker.io/library/{base}"' in only(RUN, "LABEL")


def test_the_labels_name_the_release_and_the_licence():
    labels = dict(each.split("=", 1) for each in shlex.split(only(RUN, "LABEL")))
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_runs_as_a_user_with_a_number_so_that_kubernetes_can_see_that_it_is_not_root():
    assert only(RUN, "USER") == "10001:10001"
    assert only(RUN, "WORKDIR") == "/app"
    assert only(RUN, "VOLUME") == "/data"
    assert "SF_HEALER_DATA_DIR=/data" in only(RUN, "ENV")


@pytest.mark.image
def test_hadolint_has_nothing_to_say_and_would_say_it(tmp_path: Path):
    assert hadolint(REPOSITORY / "Dockerfile") == (0, "")
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python:latest\nRUN sudo pip install faust\n")
    status, told = hadolint(careless)
    assert status == 1
    assert "DL3007" in told


def hadolint(file: Path) -> tuple[int, str]:
    command = [str(checkers.program("hadolint")), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.image
@pytest.mark.timeout(600)
def test_the_commands_of_the_dockerfile_install_and_start_a_worker_that_its_health_check_likes(tmp_path: Path):
    container = Container(tmp_path)
    container.build()
    environment = container.environment()
    worker = Server("image", container.process(only(RUN, "CMD"), environment), log=tmp_path / "worker.log")
    asked = only(RUN, "HEALTHCHECK").partition("CMD ")[2]

    def is_healthy() -> bool:
        assert worker.is_alive, worker.log.read_text()
        check = container.process(asked, environment)
        return subprocess.run(check, capture_output=True, check=False, timeout=60).returncode == 0

    worker.start()
    try:  # nothing answers it: it waits, alive
        until(is_healthy, "the health check to succeed", seconds=GREEN_SECONDS)
        worker.wait_until(lambda: "not_ready" in worker.output(), seconds=GREEN_SECONDS)
        assert not any(container.places["/app"].iterdir()), "the root file system may be read only"
    finally:
        worker.stop(patience_seconds=STOP_SECONDS)
    assert subprocess.run(container.process(asked, environment), capture_output=True, check=False).returncode != 0


class Container:
    """Directories of ours in place of the image's: /venv, /data, /app, and the build's /src."""

    def __init__(self, directory: Path) -> None:
        self.places = {name: directory / name.strip("/") for name in ("/venv", "/data", "/app", "/src")}
        self.context = directory / "context"
        self.port, _ = free_ports(2)

    def build(self) -> None:
        """Run the instructions of the first stage; the second copies its /venv, which is where it is."""
        send_context(self.context)
        assert only(BUILD, "WORKDIR") == "/src"
        for place in ("/data", "/app", "/src"):
            self.places[place].mkdir()
        for each in BUILD[1:]:
            if each.word == "COPY":
                self._copy(each.rest)
            elif each.word == "RUN":
                self._run(each.rest)
            else:
                assert each.word == "WORKDIR", each
        assert only(RUN, "COPY") == "--from=build /venv /venv"
        assert f"RUN {only(RUN, 'RUN')}".startswith(NOT_RUN)

    def environment(self) -> dict[str, str]:
        """Give the second stage's ENV, and a port of ours."""
        told = dict(each.split("=", 1) for each in only(RUN, "ENV").split())
        path = self._local(told.pop("PATH")).replace("$PATH", os.environ["PATH"])
        told |= {"SF_HEALER_WEB_HOST": LOOPBACK, "SF_HEALER_WEB_PORT": str(self.port)}
        return {"PATH": path, **{name: self._local(value) for name, value in told.items()}}

    def process(self, command: str, environment: dict[str, str]) -> list[str]:
        """Compose a command in exec form as the container would start it, in WORKDIR."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        return ["env", "-i", "-C", str(self.places[only(RUN, "WORKDIR")]), *variables, *json.loads(command)]

    def _copy(self, arguments: str) -> None:
        *sources, to = arguments.split()
        for name in sources:
            source, target = self.context / name, self.places["/src"] / to
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)

    def _run(self, command: str) -> None:
        words = [self._local(word) for word in shlex.split(command)]
        words[0] = sys.executable if words[0] == "python" else words[0]
        done = subprocess.run(
            words, cwd=self.places["/src"], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _local(self, text: str) -> str:
        for name, place in self.places.items():
            text = re.sub(rf"(?<![\w/]){name}\b", str(place), text)
        return text
