"""The cluster: does it answer, may we do what our role needs, and may we do what it does not need.

Asked of the API server itself: SelfSubjectAccessReview for single rights, whoever gives them; SelfSubjectRulesReview
for what nobody thought of. A webhook or a cloud's own rules are in no list, so what would be dangerous is asked singly.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

import msgspec

from sf_healer.access import ANY, Access, Account, Need, covers, in_words, needed, not_needed, rbac_command, spare
from sf_healer.adapters.cluster import NO_ANSWER, ApiFailure, Cluster, Server
from sf_healer.checks.clocks import Clock, seen
from sf_healer.checks.findings import About, Finding, State
from sf_healer.settings import Identity, Settings, SettingsError

#: The first that labels pods with batch.kubernetes.io/job-name, by which we find them.
OLDEST_MINOR = 27
_VERSION = re.compile(r"v1\.(\d+)\.")
_SERVICE_ACCOUNT = "system:serviceaccount:"
_EVERYTHING = Access(ANY, ANY, ANY)
#: Date is told to the second.
_DATE_RESOLUTION_SECONDS = 1.0


class Looked(msgspec.Struct, frozen=True):
    """What was found, and the API server's clock where it said one."""

    findings: list[Finding]
    clock: Clock | None = None


def check(settings: Settings) -> Looked:
    """Look at the cluster; blocks for as long as its answers take."""
    if settings.identity is not Identity.CLUSTER:
        return Looked([Finding(About.CLUSTER, State.OK, f"is not used: identity = {settings.identity}")])
    try:
        cluster = Cluster.connect(namespace=settings.namespace, kubeconfig=settings.kubeconfig)
    except SettingsError as problem:
        return Looked([Finding(About.CLUSTER, State.WRONG, str(problem), "kubectl config view, kubectl auth whoami")])
    try:
        return _look(cluster, settings)
    finally:
        cluster.close()


def _look(cluster: Cluster, settings: Settings) -> Looked:
    server, user = cluster.server(), cluster.whoami()
    if isinstance(server, ApiFailure):
        return Looked([_no_answer(server, cluster.url)])
    who = user if isinstance(user, str) else ""
    fixes = _Fixes.of(settings, who)
    needs = needed(settings.role, settings.mode)
    findings = [_version(server, who), *_missing(cluster, needs, fixes), *_too_much(cluster, settings, needs, fixes)]
    return Looked(findings, _clock(server))


def _no_answer(failure: ApiFailure, url: str) -> Finding:
    if failure.kind in NO_ANSWER:
        what = f"the API server at {url} does not answer: {failure.message}"
        return Finding(About.CLUSTER, State.UNREACHABLE, what, "kubectl version")
    what = f"the API server does not let us in: {failure.message}"
    return Finding(About.CLUSTER, State.WRONG, what, "kubectl auth whoami")


def _version(server: Server, who: str) -> Finding:
    what = f"Kubernetes {server.version} answers{f'; for it we are {who}' if who else ''}"
    found = _VERSION.match(server.version)
    if found is None or int(found[1]) >= OLDEST_MINOR:
        return Finding(About.CLUSTER, State.OK, what)
    return Finding(About.CLUSTER, State.WRONG, f"{what}; pods are found by a label that 1.{OLDEST_MINOR} brought")


def _clock(server: Server) -> Clock | None:
    if not server.at:
        return None
    return seen(
        "the API server",
        server.at,
        asked_at=server.asked_at,
        answered_at=server.answered_at,
        resolution_seconds=_DATE_RESOLUTION_SECONDS,
    )


class _Fixes(msgspec.Struct, frozen=True):
    """The commands that mend rights."""

    give: str
    find: str
    where: str

    @classmethod
    def of(cls, settings: Settings, who: str) -> "_Fixes":
        account, grepped = None, who or "OUR_USER"
        if who.startswith(_SERVICE_ACCOUNT):
            grepped = who.removeprefix(_SERVICE_ACCOUNT).replace(":", "/")
            account = Account(*grepped.split("/"))
        give = rbac_command(settings.role, settings.mode, namespace=settings.namespace, account=account)
        return cls(
            give=f"{give} | kubectl apply -f -",
            find=f"kubectl get rolebindings,clusterrolebindings -A -o wide | grep {grepped}",
            where=f"in namespace {settings.namespace}",
        )


def _missing(cluster: Cluster, needs: Iterable[Need], fixes: _Fixes) -> Iterator[Finding]:
    for need in needs:
        may, right = cluster.may(need.access), f"{in_words([need.access])} {fixes.where}"
        if isinstance(may, ApiFailure):
            what = f"whether we may {right} cannot be asked: {may.message}"
            yield Finding(About.RBAC, State.WRONG, what, "kubectl describe clusterrolebinding system:basic-user")
        elif may:
            yield Finding(About.RBAC, State.OK, f"may {right}: {need.why}")
        else:
            yield Finding(About.RBAC, State.WRONG, f"may not {right}: {need.why}", fixes.give)


def _too_much(cluster: Cluster, settings: Settings, needs: Collection[Need], fixes: _Fixes) -> Iterator[Finding]:
    rights = cluster.rights()
    listed = [] if isinstance(rights, ApiFailure) else list(spare(needs, rights.granted))
    if (_EVERYTHING, ()) in listed:
        yield Finding(About.RBAC, State.TOO_MUCH, f"may do everything {fixes.where}", fixes.find)
        return
    asked = not_needed(settings.role, settings.mode)
    wide = [access for access, names in listed if not names]
    unlisted = [access for access in asked if not any(covers(each, access) for each in wide)]
    single = [access for access in unlisted if cluster.may(access) is True]
    everywhere = [need.access for need in needs if cluster.may(need.access, everywhere=True) is True]
    findings = [
        *_lines(listed, fixes.where, f"{fixes.give}; what is left comes from elsewhere: {fixes.find}"),
        *_lines([(access, ()) for access in single], f"{fixes.where}, by no rule that is listed", fixes.find),
        *_lines([(access, ()) for access in everywhere], "in all namespaces", fixes.find),
    ]
    yield from findings
    if isinstance(rights, ApiFailure) or rights.gaps:
        told = rights.message if isinstance(rights, ApiFailure) else rights.gaps
        what = f"not all of our rights are listed ({told}); {len(asked)} dangerous ones were asked singly"
        yield Finding(About.RBAC, State.UNKNOWN, what)
    elif not findings:
        yield Finding(About.RBAC, State.OK, f"nothing beyond that is allowed {fixes.where}")


def _lines(spare: Iterable[tuple[Access, tuple[str, ...]]], where: str, fix: str) -> Iterator[Finding]:
    def kind(each: tuple[Access, tuple[str, ...]]) -> tuple[str, str, tuple[str, ...]]:
        return each[0].group, each[0].resource, each[1]

    for (*_, names), found in groupby(sorted(spare, key=lambda each: (kind(each), each)), kind):
        named = f" called {', '.join(names)}" if names else ""
        may = in_words([access for access, _ in found])
        yield Finding(About.RBAC, State.TOO_MUCH, f"may {may}{named} {where}", fix)
