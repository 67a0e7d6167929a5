"""The alerts of litmus/ and the queries of its probes, as promtool sees them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.engines import ENGINES, LITMUS, documents
from tests.lab.prometheus.rules import fired_in, promtool

CASES = Path(__file__).parent / "alerts_test.yaml"
(RULES,) = documents(LITMUS / "prometheus-rules.yaml")
GROUPS: list[dict[str, Any]] = RULES["spec"]["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"]]
RUNBOOK = (LITMUS.parent / "docs" / "runbook.md").read_text()


@pytest.mark.prometheus
def test_every_alert_fires_when_it_should_and_not_before(tmp_path: Path):
    cases = yaml.safe_load(CASES.read_text())
    assert fired_in(cases, GROUPS, directory=tmp_path) == {rule["alert"] for rule in ALERTS}


@pytest.mark.prometheus
def test_prometheus_reads_the_alerts_and_every_query_of_a_probe(tmp_path: Path):
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    queries = [
        {"record": f"probe:{number}", "expr": probe.prometheus.query}
        for number, probe in enumerate(probe for engine in ENGINES for probe in engine.experiment.spec.probe)
        if probe.prometheus is not None
    ]
    assert queries
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": queries}]}))
    promtool("check", "rules", "--lint=none", "alerts.yaml", "queries.yaml", directory=tmp_path)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]):
    name = rule["alert"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = RUNBOOK.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in section, f"{name}: {part}"
    assert re.findall(r"^## (Chaos\w+)$", RUNBOOK, re.MULTILINE) == [each["alert"] for each in ALERTS]
