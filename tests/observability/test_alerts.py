"""The alert rules: promtool's verdict on each, metrics that exist, and a heading of the runbook for everyone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sf_healer.commands import metrics
from tests.lab.prometheus.rules import fired_in, promtool

REPOSITORY = Path(__file__).parents[2]
CASES = Path(__file__).parent / "alerts_test.yaml"
RULES: dict[str, Any] = yaml.safe_load((REPOSITORY / "manifests/observability/prometheus-rules.yaml").read_text())
ALERTS = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
RUNBOOK = (REPOSITORY / "docs" / "runbook.md").read_text()


def named(rule: dict[str, Any]) -> str:
    return rule["alert"]


@pytest.mark.prometheus
def test_every_alert_fires_when_it_should_and_not_before(tmp_path):
    cases = yaml.safe_load(CASES.read_text())
    assert fired_in(cases, _groups(), directory=tmp_path) == {named(rule) for rule in ALERTS}


@pytest.mark.prometheus
def test_the_words_of_the_alerts_are_templates_that_prometheus_reads(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": _groups()}))
    promtool("check", "rules", "rules.yaml", directory=tmp_path)


@pytest.mark.parametrize("rule", ALERTS, ids=named)
def test_an_alert_counts_on_metrics_that_exist_and_their_labels(rule):
    known = {each.name: set(each.labels) for each in metrics.described()}
    used = re.findall(r"(sf_healer_[a-z_]+)(\{([a-z_]+)=)?", rule["expr"])
    assert used
    for name, _, label in used:
        assert name in known, f"{named(rule)} asks for {name}"
        assert not label or label in known[name], f"{name} has no label {label}"


@pytest.mark.parametrize("rule", ALERTS, ids=named)
def test_an_alert_says_what_it_means_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{named(rule).lower()}"
    section = RUNBOOK.partition(f"\n## {named(rule)}\n")[2].partition("\n## ")[0]
    assert section, f"docs/runbook.md has no heading for {named(rule)}"
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in section, f"{named(rule)}: {part}"


def test_the_runbook_has_no_heading_for_an_alert_that_is_gone():
    assert re.findall(r"^## (SfHealer\w+)$", RUNBOOK, re.MULTILINE) == [named(rule) for rule in ALERTS]


def _groups() -> list[dict[str, Any]]:
    return RULES["spec"]["groups"]
