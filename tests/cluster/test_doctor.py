"""What `sf-healer doctor` says of our rights, asked of a real API server: green with exactly the shipped ones.

And red without any single one of them, with what gives it; and that there is too much, with where to look.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.access import Access, in_words, needed, rbac
from sf_healer.checks import kubernetes
from sf_healer.checks.findings import About, State
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.settings import Mode, Role, Settings
from tests.lab.kube.rules import RULES, Rules, rules_of
from tests.lab.ports import LOOPBACK, free_ports
from tests.lab.waiting import until
from tests.lab.worker import Worker, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sf_healer.checks.findings import Finding
    from tests.lab.kube import ControlPlane

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]

MANIFESTS = Path(__file__).parents[2] / "manifests" / "rbac"
COMMAND_SECONDS = 120.0
SEEN_SECONDS = 30.0
EVERY = [(role, mode) for role in Role for mode in Mode]
EACH_RIGHT = [(role, mode, need.access) for role, mode in EVERY for need in needed(role, mode)]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    return control_plane.create_namespace()


def account_with(plane: ControlPlane, namespace: str, rules: Rules) -> Path:
    """Make a ServiceAccount with these rules; what it is called says nothing."""
    account_with.made += 1
    return plane.service_account(namespace, f"account-{account_with.made}", rules)


account_with.made = 0


def settings_of(role: Role, mode: Mode, namespace: str, kubeconfig: Path) -> Settings:
    return Settings(role=role, mode=mode, namespace=namespace, kubeconfig=str(kubeconfig))


def findings_of(settings: Settings) -> list[Finding]:
    return kubernetes.check(settings).findings


def said(findings: Iterable[Finding], state: State) -> list[str]:
    return [finding.what for finding in findings if finding.state is state]


# ------------------------------------------------------------------ exactly what a role needs


@pytest.mark.parametrize(("role", "mode"), EVERY)
def test_with_exactly_the_shipped_rights_all_is_well(control_plane: ControlPlane, role: Role, mode: Mode):
    namespace = control_plane.create_namespace()
    control_plane.kubectl("apply", "-f", "-", stdin=rbac(role, mode, namespace=namespace))
    name = "sf-healer" if role is Role.ALL else f"sf-healer-{role}"
    rights = rules_of(need.access for need in needed(role, mode))
    kubeconfig = control_plane.kubeconfig_of(namespace, name, rights)

    looked = kubernetes.check(settings_of(role, mode, namespace, kubeconfig))

    assert {finding.state for finding in looked.findings} == {State.OK}, looked.findings
    told = said(looked.findings, State.OK)
    assert f"system:serviceaccount:{namespace}:{name}" in told[0]
    assert [line for line in told if line.startswith("may ")] == [
        f"may {in_words([need.access])} in namespace {namespace}: {need.why}" for need in needed(role, mode)
    ]
    assert told[-1] == f"nothing beyond that is allowed in namespace {namespace}"
    assert looked.clock is not None
    assert looked.clock.low <= 0 <= looked.clock.high, "it is the clock of this machine"


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.iterdir()))
def test_each_shipped_directory_is_taken_by_kubectl_as_it_is(control_plane: ControlPlane, name: str):
    if control_plane.call("GET", "/api/v1/namespaces/stf").status == 404:
        control_plane.create_namespace("stf")
    # Both ways; what is tried changes nothing.
    for taken in (["-k", str(MANIFESTS / name)], ["-f", str(MANIFESTS / name / "rbac.yaml")]):
        told = control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-o", "name", *taken)
        kinds = [line.partition("/")[0] for line in told.splitlines()]
        assert sorted(kinds) == [
            "role.rbac.authorization.k8s.io",
            "rolebinding.rbac.authorization.k8s.io",
            "serviceaccount",
        ]


@pytest.mark.parametrize(("role", "mode", "lacking"), EACH_RIGHT)
def test_without_any_one_right_it_is_named_with_what_gives_it(
    control_plane: ControlPlane, namespace: str, role: Role, mode: Mode, lacking: Access
):
    others = [need.access for need in needed(role, mode) if need.access != lacking]
    kubeconfig = account_with(control_plane, namespace, rules_of(others))

    findings = findings_of(settings_of(role, mode, namespace, kubeconfig))

    (wrong,) = [finding for finding in findings if finding.state is not State.OK]
    assert wrong.state is State.WRONG
    assert wrong.what.startswith(f"may not {in_words([lacking])} in namespace {namespace}: ")
    assert f"SF_HEALER_MODE={mode} sf-healer doctor --rbac --role {role} --account {namespace}/account-" in wrong.fix
    assert wrong.fix.endswith(" | kubectl apply -f -")


# ------------------------------------------------------------------ more than a role needs

EXTRA = {
    "get secrets": {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    "delete pods": {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]},
    "create pods/exec": {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
    "patch jobs.batch": {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["patch"]},
    "patch jobs.batch/status": {"apiGroups": ["batch"], "resources": ["jobs/status"], "verbs": ["patch"]},
    "* jobs.batch": {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
    "get *": {"apiGroups": [""], "resources": ["*"], "verbs": ["get"]},
    "get configmaps": {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    "list, patch rollouts.argoproj.io": {
        "apiGroups": ["argoproj.io"],
        "resources": ["rollouts"],
        "verbs": ["list", "patch"],
    },
}


@pytest.mark.parametrize("extra", EXTRA)
def test_one_rule_more_is_too_much(control_plane: ControlPlane, namespace: str, extra: str):
    rules = [*RULES, EXTRA[extra]]
    kubeconfig = account_with(control_plane, namespace, rules)

    findings = findings_of(settings_of(Role.ALL, Mode.HEAL, namespace, kubeconfig))

    assert said(findings, State.TOO_MUCH) == [f"may {extra} in namespace {namespace}"]
    assert not said(findings, State.WRONG)
    (found,) = [finding for finding in findings if finding.state is State.TOO_MUCH]
    listed = control_plane.kubectl("get", "rolebindings,clusterrolebindings", "-A", "-o", "wide")
    account = found.fix.rpartition("grep ")[2]
    assert [line for line in listed.splitlines() if account in line], "the command finds who gives it"


def test_a_right_on_one_named_secret_is_too_much_and_names_it(control_plane: ControlPlane, namespace: str):
    rules = rules_of(need.access for need in needed(Role.DETECTOR, Mode.HEAL))
    extra = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["password"]}
    made = account_with(control_plane, namespace, rules)
    name = made.name.removesuffix(".kubeconfig").removeprefix(f"{namespace}-")
    grant(control_plane, namespace, name, "Role", [extra])
    settings = settings_of(Role.DETECTOR, Mode.HEAL, namespace, made)

    expected = [f"may get secrets called password in namespace {namespace}"]
    until(lambda: said(findings_of(settings), State.TOO_MUCH) == expected, "the secret", seconds=SEEN_SECONDS)


def test_rights_of_a_cluster_role_are_too_much_in_all_other_namespaces(control_plane: ControlPlane, namespace: str):
    made = account_with(control_plane, namespace, [])
    name = made.name.removesuffix(".kubeconfig").removeprefix(f"{namespace}-")
    needs = needed(Role.DETECTOR, Mode.HEAL)
    grant(control_plane, namespace, name, "ClusterRole", rules_of(need.access for need in needs))
    settings = settings_of(Role.DETECTOR, Mode.HEAL, namespace, made)
    until(lambda: not said(findings_of(settings), State.WRONG), "the rights", seconds=SEEN_SECONDS)

    findings = findings_of(settings)

    assert said(findings, State.TOO_MUCH) == [
        "may list, watch pods in all namespaces",
        "may list, watch jobs.batch in all namespaces",
    ]


def test_a_detector_with_the_rights_of_all_has_too_much(control_plane: ControlPlane, namespace: str):
    kubeconfig = account_with(control_plane, namespace, RULES)
    assert said(findings_of(settings_of(Role.DETECTOR, Mode.HEAL, namespace, kubeconfig)), State.TOO_MUCH) == [
        f"may create events in namespace {namespace}",
        f"may get rollouts.argoproj.io in namespace {namespace}",
        f"may create, delete, get jobs.batch in namespace {namespace}",
    ]


def test_who_only_observes_need_not_be_able_to_touch_anything(control_plane: ControlPlane, namespace: str):
    kubeconfig = account_with(control_plane, namespace, RULES)
    assert said(findings_of(settings_of(Role.ALL, Mode.OBSERVE, namespace, kubeconfig)), State.TOO_MUCH) == [
        f"may create events in namespace {namespace}",
        f"may create, delete jobs.batch in namespace {namespace}",
    ]


def test_an_administrator_may_do_everything_and_that_is_one_line(control_plane: ControlPlane, namespace: str):
    findings = findings_of(settings_of(Role.ALL, Mode.HEAL, namespace, control_plane.kubeconfig))
    assert said(findings, State.TOO_MUCH) == [f"may do everything in namespace {namespace}"]


def grant(plane: ControlPlane, namespace: str, account: str, kind: str, rules: Rules) -> None:
    """Bind one role more to a ServiceAccount, of the namespace or of the cluster."""
    name = f"{namespace}-{account}-more"
    where = RBAC if kind == "ClusterRole" else f"{RBAC}/namespaces/{namespace}"
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    role = {"metadata": {"name": name}, "rules": rules}
    binding = {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}
    for path, body in ((f"{kind.lower()}s", role), (f"{kind.lower()}bindings", binding)):
        answer = plane.call("POST", f"{where}/{path}", body)
        assert answer.status == 201, answer.body


# ------------------------------------------------------------------ nobody to ask


def test_a_token_that_is_not_known_is_wrong_and_not_unreachable(control_plane: ControlPlane, tmp_path: Path):
    content = json.loads(control_plane.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": "no-such-token"}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(content))

    (finding,) = findings_of(settings_of(Role.ALL, Mode.HEAL, "stf", kubeconfig))

    assert (finding.about, finding.state) == (About.CLUSTER, State.WRONG)
    assert finding.what == "the API server does not let us in: Unauthorized"


def test_an_api_server_that_is_away_is_unreachable(control_plane: ControlPlane, namespace: str):
    control_plane.kill_apiserver()

    (finding,) = findings_of(settings_of(Role.ALL, Mode.HEAL, namespace, control_plane.kubeconfig))

    assert (finding.about, finding.state) == (About.CLUSTER, State.UNREACHABLE)


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.bootstrap


async def test_the_command_says_all_is_well_and_else_ends_with_three(
    control_plane: ControlPlane, bootstrap: str, tmp_path: Path
):
    await make_topics(bootstrap)
    namespace = control_plane.create_namespace()
    needs = [need.access for need in needed(Role.ACTUATOR, Mode.HEAL)]
    settings = {"mode": "heal", "demo_accept_create_time": "true", "namespace": namespace}
    well = control_plane.service_account(namespace, "well", rules_of(needs))
    lacks = control_plane.service_account(namespace, "lacks", rules_of(needs[1:]))

    asked = Worker("well", tmp_path, bootstrap=bootstrap, kubeconfig=well, **settings)
    done = run(asked, "doctor", "--role", "actuator")
    assert done.returncode == 0, done
    assert done.stderr.endswith("no fault, but what is said above for role = actuator, mode = heal\n")
    (warning,) = [line for line in done.stdout.splitlines()[1:] if line.split()[0] != "ok"]
    assert warning.split()[:4] == ["warning", "worker", "no", "worker"]

    asked = Worker("lacks", tmp_path, bootstrap=bootstrap, kubeconfig=lacks, **settings)
    done = run(asked, "doctor", "--role", "actuator", "-o", "json")
    assert done.returncode == 3, done
    (wrong,) = [line for line in json.loads(done.stdout) if line["state"] not in {"ok", "warning"}]
    assert wrong["what"].startswith(f"may not {in_words([needs[0]])}")
    # What is printed as the fix, done: then all is well.
    printed = run(asked, "doctor", "--role", "actuator", "--rbac", "--account", f"{namespace}/lacks")
    control_plane.kubectl("apply", "-f", "-", stdin=printed.stdout)
    until(lambda: run(asked, "doctor", "--role", "actuator").returncode == 0, "the fix", seconds=COMMAND_SECONDS)


def test_without_a_broker_the_command_ends_with_five_and_says_the_rest_all_the_same(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
):
    nobody = f"{LOOPBACK}:{free_ports(1)[0]}"
    asked = Worker("alone", tmp_path, bootstrap=nobody, kubeconfig=control_plane.kubeconfig, namespace=namespace)

    done = run(asked, "doctor", "-o", "json")

    assert done.returncode == 5, done
    states = {(line["about"], line["state"]) for line in json.loads(done.stdout)}
    assert {("broker", "unreachable"), ("cluster", "ok"), ("rbac", "too-much"), ("clocks", "ok")} <= states


def run(asked: Worker, *arguments: str) -> subprocess.CompletedProcess[str]:
    line: Any = asked.command(*arguments)
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
