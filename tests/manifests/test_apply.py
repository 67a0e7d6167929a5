"""Every overlay on a real API server, with the CRDs of Strimzi and prometheus-operator and Pod Security enforced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sf_healer.access import DANGEROUS, EVERYBODYS, Access, needed
from sf_healer.checks import kubernetes
from sf_healer.checks.findings import State
from sf_healer.settings import Mode, Role, Settings
from tests.lab.waiting import until
from tests.manifests.built import HEALS, OVERLAYS, build, of_kind
from tests.manifests.platform import JOBS, WORKERS

if TYPE_CHECKING:
    from tests.manifests.platform import Platform

pytestmark = [pytest.mark.kube, pytest.mark.crds, pytest.mark.timeout(300)]

REVIEWS = "/apis/authorization.k8s.io/v1"
KNOWN_SECONDS = 30.0
#: What is asked of the whole cluster: all that is dangerous, and our own rights, which hold in one namespace.
ASKED = (*DANGEROUS, *(need.access for need in needed(Role.ALL, Mode.HEAL)), Access("", "nodes", "list"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_taken_whole_and_its_pods_are_let_in(platform: Platform, overlay: str):
    with platform.applied(overlay) as told:
        assert len(told) == len(build(overlay))
        assert all(line.endswith(" serverside-applied") for line in told)
        platform.wait_until_available(overlay)
        pods = platform.read(f"/api/v1/namespaces/{WORKERS}/pods")["items"]
        assert len(pods) == sum(each["spec"]["replicas"] for each in of_kind(overlay, "Deployment").values())


def test_pod_security_is_really_enforced_there(platform: Platform):
    pod = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "plain", "image": "plain:1"}]}}
    answer = platform.plane.call("POST", f"/api/v1/namespaces/{WORKERS}/pods", pod)
    assert answer.status == 403
    assert 'violates PodSecurity "restricted' in answer.body["message"]


def test_a_field_that_strimzi_does_not_know_is_refused_so_the_schemas_are_at_work(platform: Platform):
    topic = of_kind("heal", "KafkaTopic")["healer-actions"]
    wrong = topic | {"spec": topic["spec"] | {"partitions": "one"}}
    path = f"/apis/kafka.strimzi.io/v1/namespaces/{WORKERS}/kafkatopics?fieldValidation=Strict"
    assert platform.plane.call("POST", path, wrong).status == 422
    unknown = topic | {"spec": topic["spec"] | {"retention": "7d"}}
    assert "unknown field" in platform.plane.call("POST", path, unknown).body["message"]


@pytest.mark.parametrize(
    ("overlay", "role"),
    [
        ("strimzi-v1beta2", Role.ALL),
        ("heal", Role.ALL),
        ("heal-split", Role.DETECTOR),
        ("heal-split", Role.ACTUATOR),
    ],
)
def test_a_shipped_account_may_do_what_it_must_and_nothing_else_anywhere(platform: Platform, overlay: str, role: Role):
    mode = Mode.HEAL if overlay in HEALS else Mode.OBSERVE
    with platform.applied(overlay):
        name = "sf-healer" if role is Role.ALL else f"sf-healer-{role}"
        kubeconfig = platform.plane.kubeconfig_of(WORKERS, name)
        token = _token(platform, name)
        told = Settings(role=role, mode=mode, namespace=JOBS, kubeconfig=str(kubeconfig))

        def all_is_well() -> bool:  # the authorizer learns of a new Role by a watch
            return {finding.state for finding in kubernetes.check(told).findings} == {State.OK}

        until(all_is_well, f"doctor to be content: {kubernetes.check(told).findings}", seconds=KNOWN_SECONDS)
        for namespace in (WORKERS, "default", "kube-system"):
            assert _rules(platform, token, namespace) <= EVERYBODYS, namespace
        for access in ASKED:
            assert not _may(platform, token, access, namespace=""), f"{access} in all namespaces"
            assert not _may(platform, token, access, namespace=WORKERS), access


def test_to_apply_what_observes_takes_the_right_to_heal_away(platform: Platform):
    with platform.applied("heal"), platform.applied("strimzi-v1"):
        kubeconfig = platform.plane.kubeconfig_of(WORKERS, "sf-healer")
        told = Settings(role=Role.ALL, mode=Mode.OBSERVE, namespace=JOBS, kubeconfig=str(kubeconfig))

        def nothing_is_too_much() -> bool:
            return {finding.state for finding in kubernetes.check(told).findings} == {State.OK}

        until(nothing_is_too_much, "the rights to observe alone", seconds=KNOWN_SECONDS)


def _token(platform: Platform, account: str) -> str:
    path = f"/api/v1/namespaces/{WORKERS}/serviceaccounts/{account}/token"
    answer = platform.plane.call("POST", path, {"spec": {}})
    assert answer.status == 201, answer
    return str(answer.body["status"]["token"])


def _rules(platform: Platform, token: str, namespace: str) -> set[Access]:
    asked = {"spec": {"namespace": namespace}}
    answer = platform.plane.call("POST", f"{REVIEWS}/selfsubjectrulesreviews", asked, token=token)
    assert answer.status == 201, answer
    return {
        Access(group, resource, verb)
        for rule in answer.body["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _may(platform: Platform, token: str, access: Access, *, namespace: str) -> bool:
    resource, _, subresource = access.resource.partition("/")
    asked = {"verb": access.verb, "group": access.group, "resource": resource, "subresource": subresource}
    body = {"spec": {"resourceAttributes": asked | {"namespace": namespace}}}
    answer = platform.plane.call("POST", f"{REVIEWS}/selfsubjectaccessreviews", body, token=token)
    assert answer.status == 201, answer
    return bool(answer.body["status"]["allowed"])
