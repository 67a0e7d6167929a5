"""What every overlay comes to, held against the code: settings, files, ports, labels, topics, rights."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sf_healer import __version__, settings, topics
from sf_healer.access import Access, needed
from sf_healer.rights import Purpose, rights
from sf_healer.settings import Mode, Role, Settings
from sf_healer.worker import STOP_LIMIT_SECONDS
from tests.lab.kafka import Acl, acls_of
from tests.manifests.built import HEALS, MANIFESTS, OVERLAYS, build, kustomize, of_kind, settings_of, text_of

pytestmark = pytest.mark.kube

EVERY = [
    (overlay, role) for overlay in OVERLAYS for role in Role if overlay.endswith("-split") == (role is not Role.ALL)
]
LABELS = {
    "app.kubernetes.io/name": "sf-healer",
    "app.kubernetes.io/instance": "sf-healer",
    "app.kubernetes.io/part-of": "streamforge",
}
#: Of an overlay's kinds; a new one is looked at here first. No ClusterRole, no Secret.
KINDS = {
    *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"),
    *("Role", "RoleBinding", "KafkaTopic", "KafkaUser", "PodMonitor", "PrometheusRule"),
}
#: What Strimzi writes: into the Secret of a KafkaUser with scram-sha-512, and into that of the cluster's CA.
USER_KEYS = {"password", "sasl.jaas.config"}
CA_SECRET, CA_KEYS = "k3-cluster-ca-cert", {"ca.crt", "ca.p12", "ca.password"}


def name_of(role: Role) -> str:
    return "sf-healer" if role is Role.ALL else f"sf-healer-{role}"


def mode_of(overlay: str) -> Mode:
    return Mode.HEAL if overlay in HEALS else Mode.OBSERVE


def pod_of(overlay: str, role: Role) -> dict[str, Any]:
    template: dict[str, Any] = of_kind(overlay, "Deployment")[name_of(role)]["spec"]["template"]
    return template


def container_of(overlay: str, role: Role) -> dict[str, Any]:
    (container,) = pod_of(overlay, role)["spec"]["containers"]
    return container


def loaded(overlay: str, role: Role, directory: Path) -> Settings:
    """Read the settings as the container would, with its files at a place of ours."""
    told = settings_of(overlay, name_of(role))
    for name, value in told.items():
        if name.endswith("_FILE"):
            (directory / Path(value).name).touch()
            told[name] = str(directory / Path(value).name)
    told["SF_HEALER_WEB_ADVERTISED_URL"] = told["SF_HEALER_WEB_ADVERTISED_URL"].replace("$(POD_IP)", "10.0.0.1")
    return settings.load({name: value for name, value in told.items() if name.startswith("SF_HEALER_")})


def test_the_overlays_are_those_that_are_documented():
    assert set(OVERLAYS) == {"strimzi-v1", "strimzi-v1beta2", "heal", "heal-split"}
    page = (MANIFESTS.parent / "docs" / "deployment.md").read_text()
    assert all(f"manifests/overlays/{overlay}`" in page for overlay in OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_known_kinds_in_known_namespaces_with_the_recommended_labels(overlay: str):
    for name, each in build(overlay).items():
        assert name.kind in KINDS, name
        wanted = "stf" if name.kind in {"Role", "RoleBinding"} else "kafka"
        assert each["metadata"]["namespace"] == wanted, name
        assert LABELS.items() <= each["metadata"]["labels"].items(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_speaks_one_version_of_strimzis_api(overlay: str):
    used = {each["apiVersion"] for name, each in build(overlay).items() if name.kind.startswith("Kafka")}
    assert used == {"kafka.strimzi.io/v1beta2" if overlay == "strimzi-v1beta2" else "kafka.strimzi.io/v1"}


def test_heal_is_strimzi_v1_but_for_the_mode_and_the_rights():
    # The name of a ConfigMap ends with a hash of its content.
    plain = [re.sub(r"(sf-healer-settings)-\w+", r"\1", text_of(each)) for each in ("strimzi-v1", "heal")]
    observes, acts = (set(text.splitlines()) for text in plain)
    assert observes - acts == {"  SF_HEALER_MODE: observe"}
    assert acts - observes == {"  SF_HEALER_MODE: heal", "  - create", "  - delete", "  - events"}


def composed(text: str, at: Path) -> dict[str, dict[str, Any]]:
    """Build a kustomization of somebody's own, written as if it lay beside ours; gives objects by kind/name."""
    there = os.path.relpath(MANIFESTS, at.resolve())
    text = text.replace("../../components", f"{there}/components").replace("../strimzi", f"{there}/overlays/strimzi")
    (at / "kustomization.yaml").write_text(text)
    listed = yaml.safe_load_all(kustomize(at))
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in listed}


def test_the_overlay_of_ones_own_that_the_page_shows_heals_with_an_older_strimzi(tmp_path: Path):
    page = (MANIFESTS.parent / "docs" / "deployment.md").read_text()
    built = composed(page.partition("```yaml\n")[2].partition("```")[0], tmp_path)
    assert built["KafkaUser/sf-healer"]["apiVersion"] == "kafka.strimzi.io/v1beta2"
    assert {"delete", "create"} <= set(built["Role/sf-healer"]["rules"][0]["verbs"])
    (container,) = built["Deployment/sf-healer"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/sf-healer:{__version__}"


def test_the_roles_apart_may_observe_too(tmp_path: Path):
    text = "resources: [../strimzi-v1beta2]\ncomponents: [../../components/split-roles]\n"
    built = composed(text, tmp_path)
    deployed = {name for name in built if name.startswith("Deployment/")}
    assert deployed == {"Deployment/sf-healer-detector", "Deployment/sf-healer-actuator"}
    for role in (Role.DETECTOR, Role.ACTUATOR):
        assert _accesses(built[f"Role/{name_of(role)}"]) == {need.access for need in needed(role, Mode.OBSERVE)}


# ------------------------------------------------------------------ the worker


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_every_setting_there_is_one_and_says_what_this_overlay_is_for(overlay: str, role: Role, tmp_path: Path):
    told = loaded(overlay, role, tmp_path)
    assert (told.role, told.mode, told.namespace) == (role, mode_of(overlay), "stf")
    assert (told.web_host, told.data_dir) == ("0.0.0.0", "/data")
    assert told.logs_in, "it logs in"
    assert told.web_advertised_url == f"http://10.0.0.1:{told.web_port}"
    assert told.sasl_username in of_kind(overlay, "KafkaUser")
    assert not told.demo_accept_create_time


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_every_file_that_is_named_is_mounted_from_something_that_has_it(overlay: str, role: Role):
    volumes = {each["name"]: each for each in pod_of(overlay, role)["spec"]["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container_of(overlay, role)["volumeMounts"]}
    told = settings_of(overlay, name_of(role))
    for name, value in told.items():
        if name.endswith("_FILE"):
            assert Path(value).name in _keys(overlay, mounts[str(Path(value).parent)]), name
    assert not any("subPath" in each for each in container_of(overlay, role)["volumeMounts"])
    user = mounts[str(Path(told["SF_HEALER_SASL_PASSWORD_FILE"]).parent)]["secret"]["secretName"]
    assert user == told["SF_HEALER_SASL_USERNAME"] == name_of(role)
    for writable in (told["SF_HEALER_DATA_DIR"], "/tmp"):
        assert "emptyDir" in mounts[writable], "everything else is read only"


def _keys(overlay: str, volume: dict[str, Any]) -> set[str]:
    if "configMap" in volume:
        return set(of_kind(overlay, "ConfigMap")[volume["configMap"]["name"]]["data"])
    secret = volume["secret"]["secretName"]
    return CA_KEYS if secret == CA_SECRET else USER_KEYS if secret in of_kind(overlay, "KafkaUser") else set()


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_the_ports_are_those_that_the_worker_listens_on(overlay: str, role: Role, tmp_path: Path):
    port = loaded(overlay, role, tmp_path).web_port
    container = container_of(overlay, role)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == ({"web": port, "web-actuator": port + 1} if role is Role.ALL else {"web": port})
    probes = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"web"}
    assert [probe["path"] for probe in probes.values()] == ["/livez", "/livez", "/readyz"]
    (served,) = of_kind(overlay, "Service")[name_of(role)]["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port, "web")
    (scraped,) = of_kind(overlay, "PodMonitor")["sf-healer"]["spec"]["podMetricsEndpoints"]
    assert (scraped["port"], scraped["path"]) == ("web", "/metrics")


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_every_selector_meets_the_pods_of_its_role_and_no_others(overlay: str, role: Role):
    name, labels = name_of(role), pod_of(overlay, role)["metadata"]["labels"]
    deployment = of_kind(overlay, "Deployment")[name]["spec"]
    (spread,) = pod_of(overlay, role)["spec"]["topologySpreadConstraints"]
    own = [
        deployment["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
        of_kind(overlay, "Service")[name]["spec"]["selector"],
        of_kind(overlay, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"],
    ]
    assert own == [{"app.kubernetes.io/name": "sf-healer", "app.kubernetes.io/component": role.value}] * len(own)
    of_all = [
        of_kind(overlay, "PodMonitor")["sf-healer"]["spec"]["selector"]["matchLabels"],
        of_kind(overlay, "NetworkPolicy")["sf-healer"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in (*own, *of_all))


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_the_network_lets_through_what_a_worker_needs(overlay: str, role: Role, tmp_path: Path):
    told, spec = loaded(overlay, role, tmp_path), of_kind(overlay, "NetworkPolicy")["sf-healer"]["spec"]
    (server,) = told.bootstrap_servers
    brokers = {each["metadata"]["labels"]["strimzi.io/cluster"] for each in of_kind(overlay, "KafkaTopic").values()}
    to = {port: rule.get("to") for rule in spec["egress"] for port in _ports(rule)}
    assert to.keys() == {53, 443, 6443, told.web_port, told.web_port + 1, int(server.rpartition(":")[2])}
    (broker,) = to[int(server.rpartition(":")[2])]
    assert {broker["podSelector"]["matchLabels"]["strimzi.io/cluster"]} == brokers
    assert server.startswith(f"{broker['podSelector']['matchLabels']['strimzi.io/name']}-bootstrap.kafka.svc:")
    scrape, others = spec["ingress"]
    assert _ports(scrape) == [told.web_port]
    assert _ports(others) == [told.web_port, told.web_port + 1]


def _ports(rule: dict[str, Any]) -> list[int]:
    return sorted({each["port"] for each in rule["ports"]})


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_a_worker_is_given_longer_than_it_takes_to_stop(overlay: str, role: Role):
    told, *waits = container_of(overlay, role)["lifecycle"]["preStop"]["exec"]["command"]
    assert told == "sleep"
    grace = pod_of(overlay, role)["spec"]["terminationGracePeriodSeconds"]
    assert grace >= sum(map(int, waits)) + STOP_LIMIT_SECONDS + 10


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_the_image_is_the_release_and_no_link_of_a_service_looks_like_a_setting(overlay: str, role: Role):
    assert container_of(overlay, role)["image"] == f"sf-healer:{__version__}"
    assert pod_of(overlay, role)["spec"]["enableServiceLinks"] is False
    assert container_of(overlay, role)["securityContext"]["readOnlyRootFilesystem"] is True


# ------------------------------------------------------------------ rights and topics


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_topics_are_those_that_a_worker_with_these_settings_wants(overlay: str, tmp_path: Path):
    role = Role.DETECTOR if overlay == "heal-split" else Role.ALL
    wanted = {each.name: each for each in topics.specs(loaded(overlay, role, tmp_path), 3)}
    found = of_kind(overlay, "KafkaTopic")
    assert found.keys() == wanted.keys()
    for name, spec in wanted.items():
        told = found[name]["spec"]
        assert (told["partitions"], told["replicas"]) == (spec.partitions, spec.replication_factor)
        assert told["config"] == spec.configs
        assert spec.configs["min.insync.replicas"] == "2"


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_a_workers_account_may_do_what_its_role_needs_in_the_jobs_namespace_alone(overlay: str, role: Role):
    name = pod_of(overlay, role)["spec"]["serviceAccountName"]
    assert name in of_kind(overlay, "ServiceAccount")
    binding = of_kind(overlay, "RoleBinding")[name]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "kafka"}]
    found = _accesses(of_kind(overlay, "Role")[binding["roleRef"]["name"]])
    assert found == {need.access for need in needed(role, mode_of(overlay))}


def _accesses(role: dict[str, Any]) -> set[Access]:
    return {
        Access(group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("overlay", "role"), EVERY)
def test_a_workers_kafka_user_has_the_acls_of_its_role(overlay: str, role: Role, tmp_path: Path):
    user = of_kind(overlay, "KafkaUser")[name_of(role)]
    wanted = {
        Acl(right.resource.value, right.name, right.pattern.value, operation.value)
        for right in rights(loaded(overlay, role, tmp_path), Purpose(role.value))
        for operation in right.operations
    }
    assert set(acls_of(user)) == wanted
    assert user["spec"]["authentication"] == {"type": "scram-sha-512"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_has_an_account_or_a_kafka_user_that_no_worker_or_person_takes(overlay: str):
    roles = {name_of(role) for of, role in EVERY if of == overlay}
    assert of_kind(overlay, "Deployment").keys() == roles
    for kind in ("ServiceAccount", "Role", "RoleBinding", "Service", "PodDisruptionBudget"):
        assert of_kind(overlay, kind).keys() == roles, kind
    assert of_kind(overlay, "KafkaUser").keys() == roles | {"sf-healer-people"}
