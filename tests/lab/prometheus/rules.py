"""Alert rules as promtool sees them: whether it reads them, and what fires in the cases of a file."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from tests.lab.prometheus.installation import program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Group = dict[str, Any]


def promtool(*arguments: str, directory: Path) -> None:
    """Run promtool in a directory; fails with what it says."""
    command = [str(program("promtool")), *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fired_in(cases: dict[str, Any], groups: Iterable[Group], *, directory: Path) -> set[str]:
    """See that every case comes out as it says; names the alerts that fire in one of them."""
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": [_without_words(group) for group in groups]}))
    (directory / "cases.yaml").write_text(yaml.safe_dump(cases | {"rule_files": ["rules.yaml"]}))
    promtool("check", "rules", "rules.yaml", directory=directory)
    promtool("test", "rules", "cases.yaml", directory=directory)
    return {case["alertname"] for test in cases["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}


def _without_words(group: Group) -> Group:
    """Leave the annotations out: a case would have to repeat them to the letter."""
    rules = [{key: value for key, value in rule.items() if key != "annotations"} for rule in group["rules"]]
    return group | {"rules": rules}
