"""The Grafana dashboard: well formed, counting on metrics that exist, and answered by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from sf_healer.commands import metrics
from tests.lab import prometheus
from tests.lab.kube import installation
from tests.lab.ports import free_ports
from tests.lab.process import Server
from tests.lab.waiting import NotInTime, until

if TYPE_CHECKING:
    from collections.abc import Iterator

OBSERVABILITY = Path(__file__).parents[2] / "manifests" / "observability"
DASHBOARD: dict[str, Any] = json.loads((OBSERVABILITY / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
COLUMNS = 24
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s"}
#: Not ours: of prometheus_client's own collectors, and labels that Prometheus itself puts on.
FOREIGN = {"process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
LABELS_OF_PROMETHEUS = {"instance", "job", "le"}
#: What a worker shows that has just healed two Jobs; the other panels may be empty where all is well.
NEVER_EMPTY = {
    "Workers", "Oldest watermark", "Partitions judged", "Fleet is seen as", "Wait for a person", "Pauses",
    "Age of the watermark", "Up since", "Since the last sweep", "Jobs by verdict", "Verdicts that changed", "Commands",
    "Outcomes", "Restarts under way", "Reports", "Records of the source, by fate", "Time of one batch of evidence",
    "Calls to Kubernetes, 99 of 100 within", "Processor", "Memory", "Evidence", "Policies",
    "Since the steps log was read",
}  # fmt: skip
PATIENCE_SECONDS = 150.0


class Query(NamedTuple):
    """One query of a panel, as Prometheus gets it."""

    panel: str
    expression: str
    legend: str

    def __str__(self) -> str:
        return f"{self.panel}: {self.legend}"


def queries() -> Iterator[Query]:
    for panel in DRAWN:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield Query(panel["title"], expression, target["legendFormat"])


QUERIES = list(queries())


def test_panels_have_ids_and_titles_of_their_own():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert {panel["type"] for panel in PANELS} == {"row", "stat", "timeseries"}
    assert all(panel["description"].endswith(".") for panel in DRAWN), "a panel says what it means"


def test_no_panel_lies_on_another_or_beside_the_grid():
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        return {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}

    assert all(0 <= x < COLUMNS for panel in PANELS for x, _ in cells(panel))
    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), f"{one['title']} and {other['title']}"


def test_the_source_of_the_data_is_a_variable_everywhere():
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    for panel in DRAWN:
        assert panel["datasource"] == wanted
        assert [target["datasource"] for target in panel["targets"]] == [wanted] * len(panel["targets"])
        ids = [target["refId"] for target in panel["targets"]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_query_counts_on_metrics_that_exist_and_their_labels(query: Query):
    known = _series()
    used = re.findall(r"\b((?:sf_healer|process)_[a-z_]+)", query.expression)
    assert used
    assert set(used) <= known.keys() | FOREIGN
    labels = set().union(*(known.get(name, set()) for name in used)) | LABELS_OF_PROMETHEUS
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query.expression)
    named = {label.strip() for group in grouped for label in group.split(",")}
    named |= set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=|!=|=~|!~)", query.expression))
    named |= set(re.findall(r"{{([a-z_]+)}}", query.legend))
    assert named <= labels


def test_every_metric_that_an_alert_rests_on_is_drawn():
    rules = yaml.safe_load((OBSERVABILITY / "prometheus-rules.yaml").read_text())
    alerts = " ".join(rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])
    drawn = " ".join(query.expression for query in QUERIES)
    missing = {name for name in re.findall(r"sf_healer_[a-z_]+", alerts) if name not in drawn}
    assert missing == set()


def test_the_manifests_name_files_that_are_there():
    kustomization = yaml.safe_load((OBSERVABILITY / "kustomization.yaml").read_text())
    named = [*kustomization["resources"]]
    named += [name.partition("=")[2] for each in kustomization["configMapGenerator"] for name in each["files"]]
    there = {path.name for path in OBSERVABILITY.iterdir()} - {"kustomization.yaml"}
    assert set(named) == there


@pytest.mark.kube
def test_kubectl_makes_a_configmap_of_the_dashboard_that_grafana_finds():
    command = [str(installation.binary()), "kubectl", "kustomize", str(OBSERVABILITY)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (config,) = [each for each in yaml.safe_load_all(made) if each["kind"] == "ConfigMap"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["sf-healer.json"]) == DASHBOARD


@pytest.mark.prometheus
@pytest.mark.embedded
@pytest.mark.timeout(600)
def test_a_real_prometheus_answers_every_query_about_a_real_worker(tmp_path: Path):
    with _healed(tmp_path) as address, _scraping(tmp_path, address) as url:

        def with_data() -> set[str]:
            return {query.panel for query in QUERIES if _ask(url, query.expression)}

        with suppress(NotInTime):
            until(lambda: with_data() >= NEVER_EMPTY, "every panel that cannot be empty to have data", seconds=60)
        assert NEVER_EMPTY - with_data() == set()


def _series() -> dict[str, set[str]]:
    """Give the names of all series of ours with their labels; a histogram has three."""
    found: dict[str, set[str]] = {}
    for each in metrics.described():
        suffixes = ("_bucket", "_count", "_sum") if each.type == "histogram" else ("",)
        found |= {f"{each.name}{suffix}": set(each.labels) for suffix in suffixes}
    return found


@contextmanager
def _healed(directory: Path) -> Iterator[str]:
    """Keep the demo up once it has healed its two Jobs; gives the worker's address."""
    env_file, log = directory / "demo.env", directory / "demo.log"
    program = str(Path(sys.executable).with_name("sf-healer"))
    demo = Server("demo", [program, "demo", "--keep", "--env-file", str(env_file)], log=log)
    demo.start()
    try:
        demo.wait_until(lambda: "Staying up" in log.read_text(), seconds=PATIENCE_SECONDS)
        (port,) = re.findall(r"SF_HEALER_WEB_PORT=(\d+)", env_file.read_text())
        yield f"127.0.0.1:{port}"
    finally:
        demo.stop(patience_seconds=40.0)


@contextmanager
def _scraping(directory: Path, worker: str) -> Iterator[str]:
    """Let a Prometheus scrape one worker each second; gives its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    scrape = {"job_name": "sf-healer", "static_configs": [{"targets": [worker]}]}
    wanted = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(wanted))
    options = {
        "config.file": directory / "prometheus.yml",
        "storage.tsdb.path": directory / "prometheus",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [str(prometheus.program("prometheus")), *(f"--{name}={value}" for name, value in options.items())]
    server = Server("prometheus", command, log=directory / "prometheus.log")

    def has_scraped() -> bool:
        try:
            return any(each["value"][1] == "1" for each in _ask(url, "up"))
        except OSError:
            return False

    server.start()
    try:
        server.wait_until(has_scraped, seconds=60.0)
        yield url
    finally:
        server.stop()


def _ask(url: str, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus for the value now; fails on a query that it does not understand."""
    asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            told = json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        if refused.code == 503:  # it is starting
            return []
        pytest.fail(f"{expression}\n{refused.read().decode()}")
    assert told["status"] == "success", told
    assert told["data"]["resultType"] == "vector"
    return told["data"]["result"]
