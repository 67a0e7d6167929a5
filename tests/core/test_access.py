"""Our rights in Kubernetes: the manifests say what the code does, and no more is asked for than is used."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.access import (
    ANY,
    BATCH,
    CORE,
    DANGEROUS,
    EVERYBODYS,
    Access,
    Account,
    Granted,
    Need,
    covers,
    in_words,
    markdown,
    needed,
    not_needed,
    rbac,
    rbac_command,
    spare,
)
from sf_healer.settings import Mode, Role

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "manifests" / "rbac"
#: Each shipped directory, and what it is for; a detector touches nothing in either mode.
SHIPPED = {
    "all": (Role.ALL, Mode.HEAL),
    "all-observe": (Role.ALL, Mode.OBSERVE),
    "detector": (Role.DETECTOR, Mode.HEAL),
    "actuator": (Role.ACTUATOR, Mode.HEAL),
    "actuator-observe": (Role.ACTUATOR, Mode.OBSERVE),
}
EVERY = [(role, mode) for role in Role for mode in Mode]


def accesses(role: Role, mode: Mode) -> set[Access]:
    return {need.access for need in needed(role, mode)}


def rules_of(role: dict) -> list[Access]:
    """Give the rules of a Role, each verb on each resource by itself."""
    return [
        Access(group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


# ------------------------------------------------------------------ the shipped manifests


def test_every_shipped_directory_is_known_here():
    assert {path.name for path in MANIFESTS.iterdir()} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_manifest_is_what_the_code_writes(name: str):
    role, mode = SHIPPED[name]
    shipped = (MANIFESTS / name / "rbac.yaml").read_text()
    assert shipped == rbac(role, mode, namespace="stf"), f"run: {rbac_command(role, mode, namespace='stf')}"
    assert yaml.safe_load((MANIFESTS / name / "kustomization.yaml").read_text())["resources"] == ["rbac.yaml"]


@pytest.mark.parametrize(("role", "mode"), EVERY)
def test_the_manifest_gives_each_right_of_the_role_once_and_nothing_else(role: Role, mode: Mode):
    account, rights, binding = yaml.safe_load_all(rbac(role, mode, namespace="stf"))
    found = rules_of(rights)
    assert sorted(found) == sorted(accesses(role, mode))
    assert (account["kind"], rights["kind"], binding["kind"]) == ("ServiceAccount", "Role", "RoleBinding")
    assert all(set(rule) == {"apiGroups", "resources", "verbs"} for rule in rights["rules"])
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": rights["metadata"]["name"],
    }
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"]}
    ]
    assert {each["metadata"]["namespace"] for each in (account, rights, binding)} == {"stf"}


def test_an_account_may_live_in_another_namespace_than_the_jobs():
    account, rights, binding = yaml.safe_load_all(
        rbac(Role.ACTUATOR, Mode.HEAL, namespace="jobs", account=Account("kafka", "healer"))
    )
    assert (account["metadata"]["namespace"], account["metadata"]["name"]) == ("kafka", "healer")
    assert rights["metadata"]["namespace"] == binding["metadata"]["namespace"] == "jobs"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "healer", "namespace": "kafka"}]


def test_the_command_that_makes_a_manifest_is_said_in_it():
    account = Account("kafka", "healer")
    command = rbac_command(Role.ACTUATOR, Mode.HEAL, namespace="jobs", account=account)
    assert command == (
        "SF_HEALER_NAMESPACE=jobs SF_HEALER_MODE=heal sf-healer doctor --rbac --role actuator --account kafka/healer"
    )
    assert command in rbac(Role.ACTUATOR, Mode.HEAL, namespace="jobs", account=account)


def test_the_page_on_security_has_the_table_that_the_code_writes_and_names_every_manifest():
    page = (REPOSITORY / "docs" / "security.md").read_text()
    assert markdown() in page
    assert all(f"`manifests/rbac/{name}`" in page for name in SHIPPED)


# ------------------------------------------------------------------ what a role may do


@pytest.mark.parametrize(("role", "mode"), [(Role.DETECTOR, Mode.HEAL), *((role, Mode.OBSERVE) for role in Role)])
def test_who_need_not_touch_anything_may_only_read(role: Role, mode: Mode):
    assert {access.verb for access in accesses(role, mode)} <= {"get", "list", "watch"}


@pytest.mark.parametrize("mode", Mode)
def test_the_role_all_has_the_rights_of_both_others_and_no_more(mode: Mode):
    assert accesses(Role.ALL, mode) == accesses(Role.DETECTOR, mode) | accesses(Role.ACTUATOR, mode)


@pytest.mark.parametrize(("role", "mode"), EVERY)
def test_nothing_that_is_needed_is_dangerous_or_any(role: Role, mode: Mode):
    ours = accesses(role, mode)
    assert not ours & set(DANGEROUS)
    assert not ours & set(not_needed(role, mode))
    assert not any(ANY in (access.group, access.resource, access.verb) for access in ours)
    assert accesses(Role.ALL, Mode.HEAL) <= ours | set(not_needed(role, mode)), "the rights of the others are asked for"


# ------------------------------------------------------------------ what is too much

words = st.sampled_from(["get", "list", "jobs", "pods", "pods/exec", "secrets", ANY, BATCH, CORE])
some_access = st.builds(Access, words, words, words)
some_rule = st.builds(
    Granted,
    groups=st.lists(words, min_size=1, max_size=2).map(tuple),
    resources=st.lists(words, min_size=1, max_size=2).map(tuple),
    verbs=st.lists(words, min_size=1, max_size=2).map(tuple),
    names=st.lists(st.sampled_from(["one", "two"]), max_size=2).map(tuple),
)


def rule_of(access: Access, *names: str) -> Granted:
    return Granted((access.group,), (access.resource,), (access.verb,), names)


@pytest.mark.parametrize(("role", "mode"), EVERY)
def test_what_the_role_needs_and_everybody_has_is_not_too_much(role: Role, mode: Mode):
    granted = [rule_of(access) for access in accesses(role, mode) | EVERYBODYS]
    assert spare(needed(role, mode), granted) == ()


@given(st.lists(some_access, unique=True), st.lists(some_rule))
def test_every_right_of_every_rule_is_needed_or_too_much(needs: list[Access], granted: list[Granted]):
    found = spare([Need(access, "") for access in needs], granted)
    too_much = {access for access, _ in found}
    assert not too_much & set(needs)
    for rule in granted:
        for each in (Access(g, r, v) for g in rule.groups for r in rule.resources for v in rule.verbs):
            assert each in needs or (each, rule.names) in found
    assert list(found) == sorted(set(found))


def test_a_right_limited_to_names_is_too_much_with_its_names():
    secret = Access(CORE, "secrets", "get")
    found = spare(needed(Role.ALL, Mode.HEAL), [rule_of(secret, "kafka-password")])
    assert found == ((secret, ("kafka-password",)),)


@given(some_access, some_access)
def test_a_right_covers_itself_and_whatever_its_stars_stand_for(wide: Access, access: Access):
    pairs = zip((wide.group, wide.resource, wide.verb), (access.group, access.resource, access.verb), strict=True)
    assert covers(wide, access) == all(one in (ANY, other) for one, other in pairs)
    assert covers(access, access)
    assert covers(Access(ANY, ANY, ANY), access)


def test_rights_are_told_as_kubectl_writes_them():
    jobs = [Access(BATCH, "jobs", "get"), Access(BATCH, "jobs", "list")]
    assert in_words(jobs) == "get, list jobs.batch"
    assert in_words([Access(CORE, "pods/exec", "create")]) == "create pods/exec"
    assert in_words([Access(BATCH, "jobs/status", "patch")]) == "patch jobs.batch/status"
