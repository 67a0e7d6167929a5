"""What happens to a test whose component is not here: tried with pytest itself, on an empty cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSER_TEST = "tests/browser/test_pages_in_a_browser.py::test_nothing_is_wider_than_a_phone"
CAPTURES_TEST = "tests/core/test_events.py::test_every_recorded_message_is_a_report_of_its_kind"
LAB_TEST = "tests/cluster/test_lab_kube.py::test_kubectl_is_there_for_manifests"


@pytest.mark.parametrize(
    ("in_ci", "closing_line", "status"),
    [("", "1 skipped", pytest.ExitCode.OK), ("true", "1 error", pytest.ExitCode.TESTS_FAILED)],
)
def test_a_missing_component_skips_with_the_reason_but_fails_in_ci(
    tmp_path: Path, in_ci: str, closing_line: str, status: pytest.ExitCode
) -> None:
    done = _pytest(LAB_TEST, cache=tmp_path, in_ci=in_ci)

    assert done.returncode == status, done.stdout
    assert "the Kubernetes 1.36.3 control plane is not built: run `make lab`" in done.stdout
    assert closing_line in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("in_ci", "closing_line"), [("", "1 skipped"), ("true", "1 error")])
def test_a_missing_browser_skips_with_the_reason_but_fails_in_ci(tmp_path: Path, in_ci: str, closing_line: str) -> None:
    done = _pytest(BROWSER_TEST, cache=tmp_path, in_ci=in_ci)

    assert "axe-core is not there: run `make lab`" in done.stdout or "Chromium is not installed" in done.stdout
    assert closing_line in done.stdout.splitlines()[-1]


def test_a_missing_component_matters_only_to_the_tests_that_are_selected(tmp_path: Path) -> None:
    done = _pytest(LAB_TEST, "-m", "not kafka and not kube", cache=tmp_path, in_ci="true")

    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert "1 deselected" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("in_ci", ["", "true"])
def test_captures_that_are_named_and_not_there_are_no_reason_to_skip(tmp_path: Path, in_ci: str) -> None:
    done = _pytest(CAPTURES_TEST, cache=tmp_path, in_ci=in_ci, SF_HEALER_CAPTURES=str(tmp_path / "nothing"))

    assert "SF_HEALER_CAPTURES: " in done.stdout
    assert "1 error" in done.stdout.splitlines()[-1]


def _pytest(*arguments: str, cache: Path, in_ci: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SF_HEALER_LAB_CACHE": str(cache), "CI": in_ci, **more}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
