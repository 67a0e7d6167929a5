"""The files of argo/: strict, none forgotten, and of one mind about names, labels, ports and steps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.argo.files import ARGO, FILES, OVERLAYS, PLATFORM, Object, build, composed, documents
from tests.manifests.built import Name, Strict

if TYPE_CHECKING:
    from pathlib import Path

KUSTOMIZATIONS = [path for path in FILES if path.name == "kustomization.yaml"]
TEMPLATES = {path.stem.removeprefix("analysis-"): documents(path)[0] for path in ARGO.glob("base/analysis-*.yaml")}
ROLLOUT = documents(ARGO / "base" / "rollout.yaml")[0]
CANARY: dict[str, Any] = ROLLOUT["spec"]["strategy"]["canary"]
HASH_LABEL = "rollouts_pod_template_hash"
#: What queue-manager exports, and the labels of each (tests/lab/argo/queue_manager.py has the same).
EXPORTED = {
    "http_request_duration_seconds_bucket": {"endpoint", "le"},
    "http_request_duration_seconds_count": {"endpoint"},
    "http_requests_total": {"method", "endpoint", "http_status"},
}
FROM_TARGET = {"namespace", "pod", HASH_LABEL}
#: Of Argo Rollouts v1.9.1, controller/metrics/prommetrics.go; the end to end test sees them exported.
OF_THE_CONTROLLER = {
    "rollout_info": {"namespace", "name", "strategy", "traffic_router", "phase"},
    "rollout_events_total": {"namespace", "name", "type", "reason"},
}


def shown(path: Path) -> str:
    return str(path.relative_to(ARGO))


def kustomization(path: Path) -> Object:
    content: Object = yaml.load(path.read_text(), Loader=Strict)  # a safe loader
    return content


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_file_is_yaml_in_which_no_key_stands_twice(path: Path):
    assert all({"apiVersion", "kind"} <= each.keys() for each in documents(path))
    for patch in kustomization(path).get("patches", []) if path in KUSTOMIZATIONS else []:
        assert yaml.load(patch["patch"], Loader=Strict)  # a safe loader


def test_every_file_is_part_of_an_overlay_or_of_what_the_controller_gets():
    reached: set[Path] = set()
    for start in (ARGO, ARGO / "migration", *(ARGO / "overlays").iterdir()):
        reached |= _reached_from(start)
    for component in ("controller", "controller/gateway-api", "components/own-counter"):
        reached |= _reached_from(ARGO / component)
    assert {shown(path) for path in FILES} == {shown(path) for path in reached}


def _reached_from(directory: Path) -> set[Path]:
    file = (directory / "kustomization.yaml").resolve()
    content, found = kustomization(file), {file}
    for name in (*content.get("resources", []), *content.get("components", [])):
        path = (directory / name).resolve()
        found |= _reached_from(path) if path.is_dir() else {path}
    return found


def test_the_steps_are_those_that_were_asked_for():
    weights = [step["setWeight"] for step in CANARY["steps"] if "setWeight" in step]
    assert weights == [10, 25, 50, 100]
    kinds = [next(iter(step)) for step in CANARY["steps"]]
    assert kinds[:2] == ["setWeight", "analysis"], "first it must be seen at all"
    assert kinds[-2:] == ["analysis", "setWeight"], "the last word before 100 is the gate's"
    assert all({"duration"} <= step["pause"].keys() for step in CANARY["steps"] if "pause" in step), "none for ever"
    assert CANARY["analysis"]["startingStep"] == kinds.index("analysis") + 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_argument_of_a_template_is_given_or_has_a_default(name: str):
    template = TEMPLATES[name]
    declared = {each["name"]: each for each in template["spec"]["args"]}
    used = set(re.findall(r"{{args\.([\w-]+)}}", (ARGO / "base" / f"analysis-{name}.yaml").read_text()))
    assert used == declared.keys(), "each is used, and each that is used is declared"
    runs = [step["analysis"] for step in CANARY["steps"] if "analysis" in step] + [CANARY["analysis"]]
    (run,) = [each for each in runs if each["templates"] == [{"templateName": template["metadata"]["name"]}]]
    given = {each["name"] for each in run["args"]}
    assert given == {name for name, each in declared.items() if "value" not in each}
    assert all(set(re.findall(r"(canary|stable)-hash", each["name"])) or "value" in each for each in declared.values())


def test_the_gate_asks_what_the_background_asks_with_the_same_limits():
    slo, gate = (TEMPLATES[name]["spec"] for name in ("slo", "gate"))
    limits = [{each["name"]: each.get("value") for each in spec["args"]} for spec in (slo, gate)]
    shared = limits[0].keys() - {"interval"}
    assert {name: limits[1][name] for name in shared} == {name: limits[0][name] for name in shared}
    asked = [{each["name"]: each["provider"] for each in spec["metrics"]} for spec in (slo, gate)]
    assert asked[1].keys() - asked[0].keys() == {"samples"}
    assert asked[0].items() <= asked[1].items()


def test_the_gate_and_the_wait_for_traffic_have_no_way_to_be_inconclusive():
    for name in ("traffic", "gate"):
        for metric in TEMPLATES[name]["spec"]["metrics"]:
            assert "failureCondition" not in metric
            assert "initialDelay" not in metric, "a run may end before a delayed metric begins (issue 1360)"
            assert {"count", "interval"} <= metric.keys()


def test_the_rollout_refers_to_the_platforms_deployment_and_takes_its_pods_over():
    deployment, service = documents(PLATFORM)
    assert ROLLOUT["spec"]["workloadRef"]["name"] == deployment["metadata"]["name"]
    assert ROLLOUT["spec"]["workloadRef"]["scaleDown"] == "onsuccess"
    assert "template" not in ROLLOUT["spec"]
    assert ROLLOUT["spec"]["selector"] == deployment["spec"]["selector"]
    ours = documents(ARGO / "base" / "services.yaml")
    assert {each["metadata"]["name"] for each in ours} == {CANARY["stableService"], CANARY["canaryService"]}
    assert service["metadata"]["name"] not in {each["metadata"]["name"] for each in ours}, "one in use is not touched"
    for each in ours:
        assert each["spec"]["selector"] == service["spec"]["selector"], "nobody loses a Pod before the hash is in it"
        assert {port["port"] for port in each["spec"]["ports"]} == {port["port"] for port in service["spec"]["ports"]}


def test_pods_are_scraped_at_a_port_that_they_have_and_told_apart_by_hash():
    (monitor,) = documents(ARGO / "base" / "pod-monitor.yaml")
    deployment = documents(PLATFORM)[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert monitor["spec"]["selector"] == deployment["spec"]["selector"]
    labels = {re.sub(r"\W", "_", each) for each in monitor["spec"]["podTargetLabels"]}
    assert HASH_LABEL in labels
    assert labels == {HASH_LABEL, *(re.sub(r"\W", "_", each) for each in CANARY["stableMetadata"]["labels"])}


def test_a_query_counts_on_metrics_that_exist_and_their_labels():
    groups = [group for name in ("adapter", "recording-rules") for group in _groups(name)]
    recorded: dict[str, set[str]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        _counts_on(rule["expr"], EXPORTED | recorded)
        by = re.search(r"by \(([^)]*)\)", rule["expr"])
        labels = {each.strip() for each in by[1].split(",")} if by else {"namespace", HASH_LABEL}
        recorded.setdefault(rule["record"], labels | set(rule.get("labels", {})))
    for template in TEMPLATES.values():
        for metric in template["spec"]["metrics"]:
            query = metric["provider"]["prometheus"]["query"]
            _counts_on(query, EXPORTED | recorded)
            assert query.count('namespace="{{args.namespace}}"') == query.count(HASH_LABEL), "of one namespace only"
    for rule in (rule for group in _groups("alerts") for rule in group["rules"]):
        _counts_on(rule["expr"], EXPORTED | OF_THE_CONTROLLER)


def _groups(name: str) -> list[Object]:
    (rules,) = documents(ARGO / "base" / f"{name}.yaml")
    groups: list[Object] = rules["spec"]["groups"]
    return groups


def _counts_on(query: str, known: dict[str, set[str]]) -> None:
    used = re.findall(r"\b((?:http|queue|rollout)_[a-z0-9_:]+)(?:{([^}]*(?:{{[^}]*}}[^}]*)*)})?", query)
    used = [
        (name, selector) for name, selector in used if name in known or ":" in name or not name.startswith("rollouts_")
    ]
    assert used, query
    for name, selector in used:
        assert name in known, name
        assert set(re.findall(r'([a-z_]+)(?:=~|!~|!=|=)"', selector)) <= known[name] | FROM_TARGET, (name, selector)


def test_the_prober_reads_and_asks_for_what_the_analysis_counts():
    config, prober = documents(ARGO / "base" / "synthetic.yaml")
    assert "curl" in config["data"]["probe.sh"]
    assert not re.search(r"--request|-X|--data|-d |POST|PUT|DELETE", config["data"]["probe.sh"])
    for overlay in ("traefik", "nginx"):
        urls = build_config(overlay)["urls"].split("\n")
        paths = {re.sub(r"https?://[^/]+", "", line.split()[0]) for line in urls if line}
        assert all(re.fullmatch(r"(/queues)+/.*", path) for path in paths), paths
    (container,) = prober["spec"]["template"]["spec"]["containers"]
    assert re.search(r":\d+\.\d+\.\d+$", container["image"])
    assert prober["spec"]["template"]["metadata"]["labels"]["app"] != "queue-manager", "no Service sends requests to it"


def build_config(overlay: str) -> dict[str, str]:
    """Give the prober's files without kustomize: the overlay's patch, else those of the base."""
    content = kustomization(ARGO / "overlays" / overlay / "kustomization.yaml")
    for patch in content["patches"]:
        if patch["target"]["kind"] == "ConfigMap":
            patched: dict[str, str] = yaml.safe_load(patch["patch"])["data"]
            return patched
    data: dict[str, str] = documents(ARGO / "base" / "synthetic.yaml")[0]["data"]
    return data


def test_what_is_told_has_a_trigger_a_template_and_a_service():
    (told,) = documents(ARGO / "controller" / "notifications.yaml")
    data = told["data"]
    prefix = "notifications.argoproj.io/subscribe."
    subscribed = [key.removeprefix(prefix) for key in ROLLOUT["metadata"]["annotations"] if key.startswith(prefix)]
    assert {each.rpartition(".")[2] for each in subscribed} == {"streamforge"}
    assert {f"trigger.{each.rpartition('.')[0]}" for each in subscribed} == {
        k for k in data if k.startswith("trigger.")
    }
    assert "service.webhook.streamforge" in data
    for key in data:
        if key.startswith("trigger."):
            (sends,) = yaml.safe_load(data[key])
            assert all(f"template.{each}" in data for each in sends["send"])


def test_the_page_names_every_overlay_template_alert_and_argument():
    page = (ARGO / "README.md").read_text()
    for overlay in OVERLAYS:
        assert f"argo/overlays/{overlay}" in page
    for template in TEMPLATES.values():
        assert f"`{template['metadata']['name']}`" in page
        for argument in template["spec"]["args"]:
            assert f"`{argument['name']}`" in page
    for rule in (rule for group in _groups("alerts") for rule in group["rules"]):
        name = rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"argo/README.md#{name.lower()}"
        section = page.partition(f"\n### {name}\n")[2].partition("\n#")[0]
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in section, f"{name}: {part}"


# ------------------------------------------------------------------ what kustomize makes of it


@pytest.mark.kube
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_the_base_with_a_router(overlay: str):
    built = build(overlay)
    routers = {
        "traefik": {"traefik": {"weightedTraefikServiceName": "queue-manager"}},
        "nginx": {"nginx": {"stableIngress": "queue-manager-stable"}},
        "gateway-api": {"plugins": {"argoproj-labs/gatewayAPI": {"httpRoute": "queue-manager", "namespace": "stf"}}},
        "replica-weighted": None,
    }
    rollout = built[Name("Rollout", "queue-manager")]
    canary = rollout["spec"]["strategy"]["canary"]
    assert canary.get("trafficRouting") == routers[overlay]
    assert canary["steps"] == CANARY["steps"]
    assert rollout["spec"]["replicas"] == (10 if overlay == "replica-weighted" else 1)
    assert all(each["metadata"]["namespace"] == "stf" for each in built.values())
    kinds = {name.kind for name in built}
    assert kinds - {"TraefikService", "IngressRoute", "HTTPRoute", "Ingress"} == {
        *("Rollout", "Service", "AnalysisTemplate", "PodMonitor", "PrometheusRule", "ConfigMap", "Deployment"),
    }
    for kind in ("PodMonitor", "PrometheusRule"):
        assert all(e["metadata"]["labels"]["release"] == "prometheus" for n, e in built.items() if n.kind == kind)


@pytest.mark.kube
def test_a_router_sends_to_both_services_and_no_weight_stands_in_git():
    traefik = build("traefik")
    services = traefik[Name("TraefikService", "queue-manager")]["spec"]["weighted"]["services"]
    assert [each["name"] for each in services] == [CANARY["stableService"], CANARY["canaryService"]]
    assert all(each.keys() == {"name", "port"} for each in services)
    (route,) = traefik[Name("IngressRoute", "queue-manager")]["spec"]["routes"]
    assert route["services"] == [{"kind": "TraefikService", "name": "queue-manager"}]
    (rule,) = build("gateway-api")[Name("HTTPRoute", "queue-manager")]["spec"]["rules"]
    assert [each["name"] for each in rule["backendRefs"]] == [CANARY["stableService"], CANARY["canaryService"]]
    assert not any("weight" in each for each in rule["backendRefs"])


@pytest.mark.kube
def test_with_its_own_counter_the_adapter_goes_and_nothing_else(tmp_path: Path):
    text = "resources: [ARGO/overlays/traefik]\ncomponents: [ARGO/components/own-counter]\n"
    assert build("traefik").keys() - composed(text, tmp_path).keys() == {
        Name("PrometheusRule", "queue-manager-adapter")
    }
