"""What each role needs of Kubernetes, as data: the least that works, and what each right is for.

The manifests in manifests/rbac and the table in docs/security.md are made from it, a worker asks the API server for
exactly this before it starts, `sf-healer doctor` also for what is too much, and tests run workers with exactly this.
Pure: adapters/cluster.py asks. Of Kafka's side sf_healer/rights.py says the same.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby, product

import msgspec

from sf_healer.settings import Mode, Role

CORE = ""
BATCH = "batch"
ARGO = "argoproj.io"
RBAC = "rbac.authorization.k8s.io"
ANY = "*"


class Access(msgspec.Struct, frozen=True, order=True):
    """One verb on one kind of resource, `pods/exec` for a subresource; `*` is any."""

    group: str
    resource: str
    verb: str


class Need(msgspec.Struct, frozen=True):
    """A right that a role needs in the namespace of the Jobs."""

    access: Access
    why: str
    required: bool = True  # a worker does not start without it


class Granted(msgspec.Struct, frozen=True):
    """One rule that holds for us, as the API server lists it; with `names` only for resources called so."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


class Account(msgspec.Struct, frozen=True):
    """A ServiceAccount."""

    namespace: str
    name: str


# adapters/cluster.py: list_jobs, watch
_DETECTOR = (
    Need(Access(BATCH, "jobs", "list"), "which Jobs there are"),
    Need(Access(BATCH, "jobs", "watch"), "what becomes of them"),
    Need(Access(CORE, "pods", "list"), "which Jobs have a pod that runs"),
    Need(Access(CORE, "pods", "watch"), "what becomes of the pods"),
)
# adapters/cluster.py: read_job, pods_of
_ACTUATOR = (
    Need(Access(BATCH, "jobs", "get"), "the Job as it is, before and after each step"),
    Need(Access(CORE, "pods", "list"), "are the old pods gone, does the new one run"),
)
# agents/rollout.py; of a cluster without Argo Rollouts the rule speaks of nothing
_ROLLOUT = (Need(Access(ARGO, "rollouts", "get"), "is a new queue-manager being tried", required=False),)
# adapters/cluster.py: delete_job, create_job, emit_event
_HANDS = (
    Need(Access(BATCH, "jobs", "delete"), "the sick incarnation, by its uid"),
    Need(Access(BATCH, "jobs", "create"), "the new incarnation, under the same name"),
    Need(Access(CORE, "events", "create"), "the Event that tells of it, for kubectl describe", required=False),
)

#: What every authenticated user has by default (ClusterRole system:basic-user); we ask by it what else we have.
EVERYBODYS = frozenset(
    Access(group, resource, "create")
    for group, resource in (
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    )
)

#: What no role of ours may have, asked one by one: a list of rules does not hold those of a webhook or a cloud.
DANGEROUS = tuple(
    Access(group, resource, verb)
    for group, resource, verbs in (
        (CORE, "secrets", "get list watch create update patch delete"),
        (CORE, "pods", "create update patch delete deletecollection"),
        (CORE, "pods/exec", "create get"),
        (CORE, "pods/attach", "create get"),
        (CORE, "pods/portforward", "create get"),
        (CORE, "pods/ephemeralcontainers", "update patch"),
        (CORE, "pods/eviction", "create"),
        (CORE, "pods/log", "get"),
        (CORE, "serviceaccounts", "create impersonate"),
        (CORE, "serviceaccounts/token", "create"),
        (BATCH, "jobs", "update patch deletecollection"),
        (BATCH, "jobs/status", "update patch"),
        (BATCH, "cronjobs", "create update patch"),
        ("apps", "deployments", "create update patch delete"),
        (RBAC, "roles", "create update patch bind escalate"),
        (RBAC, "rolebindings", "create update patch"),
    )
    for verb in verbs.split()
)


def needed(role: Role, mode: Mode) -> tuple[Need, ...]:
    """List what a role needs; `observe` touches nothing, so it may not either."""
    wanted: list[Need] = []
    if role is not Role.ACTUATOR:
        wanted += _DETECTOR
    if role is not Role.DETECTOR:
        wanted += _ACTUATOR + _ROLLOUT + (_HANDS if mode is Mode.HEAL else ())
    return tuple(_united(wanted))


def not_needed(role: Role, mode: Mode) -> tuple[Access, ...]:
    """List what is asked for one by one because this role must not have it: the dangerous, and the other roles'."""
    ours = _accesses(role, mode)
    others = [need.access for need in needed(Role.ALL, Mode.HEAL) if need.access not in ours]
    return (*others, *DANGEROUS)


def spare(needs: Collection[Need], granted: Iterable[Granted]) -> tuple[tuple[Access, tuple[str, ...]], ...]:
    """List what the rules give beyond the needs, each with the names it is limited to; sorted, each once."""
    fair = {need.access for need in needs} | EVERYBODYS
    found = {
        (access, rule.names)
        for rule in granted
        for access in (Access(*each) for each in product(rule.groups, rule.resources, rule.verbs))
        if access not in fair
    }
    return tuple(sorted(found))


def covers(wide: Access, access: Access) -> bool:
    """Return whether a right with `*` in it is one of these."""
    pairs = ((wide.group, access.group), (wide.resource, access.resource), (wide.verb, access.verb))
    return all(of in {ANY, is_} for of, is_ in pairs)


def in_words(accesses: Collection[Access]) -> str:
    """Say what may be done with one kind of resource: `get, list secrets`, `delete jobs.batch`."""
    ((group, resource),) = {(access.group, access.resource) for access in accesses}
    verbs = ", ".join(dict.fromkeys(access.verb for access in accesses))
    kind, slash, subresource = resource.partition("/")
    return f"{verbs} {kind}{f'.{group}' if group else ''}{slash}{subresource}"


def account_of(role: Role, namespace: str) -> Account:
    """Name the ServiceAccount of a role as the manifests do."""
    return Account(namespace, _named(role))


def rbac(role: Role, mode: Mode, *, namespace: str, account: Account | None = None) -> str:
    """Write ServiceAccount, Role and RoleBinding of a role, with what each right is for.

    `namespace` is that of the Jobs; `account` may live in another.
    """
    account = account or account_of(role, namespace)
    return _RBAC.format(
        role=role,
        mode=_with_mode(role, mode),
        command=rbac_command(role, mode, namespace=namespace, account=account),
        name=_named(role),
        namespace=namespace,
        account=account.name,
        account_namespace=account.namespace,
        rules="".join(_rules(needed(role, mode))),
    )


def markdown() -> str:
    """Write the table of docs/security.md: every right, who needs it, and what for."""
    rows = ""
    for need in needed(Role.ALL, Mode.HEAL):
        who = [role for role in (Role.DETECTOR, Role.ACTUATOR) if need.access in _accesses(role, Mode.HEAL)]
        only = "" if need.access in _accesses(Role.ALL, Mode.OBSERVE) else ", only to heal"
        rows += f"| `{in_words([need.access])}` | {', '.join(who)}{only} | {need.why} |\n"
    return f"| right | who needs it | what for |\n|---|---|---|\n{rows}"


def rbac_command(role: Role, mode: Mode, *, namespace: str, account: Account | None = None) -> str:
    """Write the command that prints what `rbac` gives."""
    command = f"SF_HEALER_NAMESPACE={namespace} SF_HEALER_MODE={mode} sf-healer doctor --rbac --role {role}"
    if account is None or account == account_of(role, namespace):
        return command
    return f"{command} --account {account.namespace}/{account.name}"


_RBAC = """\
# The least a worker with role = {role} needs in the namespace of the Jobs{mode}.
# Made by: {command}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {account}
  namespace: {account_namespace}
  labels:
    app.kubernetes.io/name: sf-healer
    app.kubernetes.io/component: {role}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app.kubernetes.io/name: sf-healer
    app.kubernetes.io/component: {role}
rules:
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app.kubernetes.io/name: sf-healer
    app.kubernetes.io/component: {role}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {name}
subjects:
  - kind: ServiceAccount
    name: {account}
    namespace: {account_namespace}
"""


def _accesses(role: Role, mode: Mode) -> set[Access]:
    return {need.access for need in needed(role, mode)}


def _rules(needs: Iterable[Need]) -> Iterator[str]:
    def kind(need: Need) -> tuple[str, str]:
        return need.access.group, need.access.resource

    for (group, resource), of_kind in groupby(sorted(needs, key=kind, reverse=True), kind):
        yield f'  - apiGroups: ["{group}"]\n    resources: [{resource}]\n    verbs:\n'
        for need in of_kind:
            yield f"      - {need.access.verb} # {need.why}\n"


def _with_mode(role: Role, mode: Mode) -> str:
    if needed(role, Mode.HEAL) == needed(role, Mode.OBSERVE):
        return ""
    return f", with mode = {mode}{' (nothing may be touched)' if mode is Mode.OBSERVE else ''}"


def _named(role: Role) -> str:
    return "sf-healer" if role is Role.ALL else f"sf-healer-{role}"


def _united(needs: Iterable[Need]) -> Iterator[Need]:
    """Give each right once, with all it is for."""
    by_access: dict[Access, list[Need]] = {}
    for need in needs:
        by_access.setdefault(need.access, []).append(need)
    for access, found in by_access.items():
        yield Need(access, "; ".join(need.why for need in found), required=any(need.required for need in found))
