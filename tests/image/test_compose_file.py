"""docker-compose.yml as docker compose's own library reads it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.image.dockerfile import REPOSITORY
from tests.lab import checkers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.image

COMPOSE = REPOSITORY / "docker-compose.yml"
ALWAYS = {"kafka", "topics", "detector", "actuator"}
PROFILES = {"observability": {"kafka-ui", "prometheus", "grafana"}, "three-brokers": {"kafka-2", "kafka-3"}}


def read(file: Path, *, profiles: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(checkers.program("compose-spec")), "--format", "json", str(file)]
    environment = {**os.environ, "COMPOSE_PROFILES": profiles}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_it_is_taken_and_has_the_services_and_profiles_that_it_says():
    done = read(COMPOSE, profiles="observability,three-brokers")
    assert done.returncode == 0, done.stdout + done.stderr
    services = json.loads(done.stdout)["services"]
    assert services.keys() == ALWAYS.union(*PROFILES.values())
    for profile, names in PROFILES.items():
        assert {name for name, each in services.items() if each.get("profiles") == [profile]} == names
    waited_for = {name for each in services.values() for name in each.get("depends_on", {})}
    assert waited_for <= services.keys()
    assert services["detector"]["environment"]["SF_HEALER_MODE"] == "observe", "what is merged in is there"


@pytest.mark.parametrize(("right", "wrong"), [("healthcheck:", "healthchek:"), ("required: false", "required: no-")])
def test_a_slip_would_be_found(tmp_path: Path, right: str, wrong: str):
    text = COMPOSE.read_text()
    assert right in text
    (tmp_path / "docker-compose.yml").write_text(text.replace(right, wrong, 1))
    assert read(tmp_path / "docker-compose.yml", profiles="three-brokers").returncode != 0
