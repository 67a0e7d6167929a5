"""`sf-healer doctor`: is everything as a worker with these settings needs it, and if not, what mends it."""

import asyncio
import re
from collections.abc import Collection

import click
import msgspec

from sf_healer.access import Account, rbac
from sf_healer.checks.examination import examine
from sf_healer.checks.findings import Finding, State
from sf_healer.checks.worker import Address
from sf_healer.cli import ExitCode, Output, emit, output_option, say, settings_for_a_command
from sf_healer.commands.reading import Worker, url_option
from sf_healer.settings import DNS_LABEL, Role, Settings

_WRONG = frozenset({State.WRONG, State.TOO_MUCH})
#: What Kubernetes takes for the name of a ServiceAccount (RFC 1123); that of a namespace is a label.
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_FAULTS = _WRONG | {State.UNREACHABLE}


class _AccountType(click.ParamType):
    name = "account"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Account:
        namespace, slash, name = value.partition("/")
        if not (re.fullmatch(DNS_LABEL, namespace) and slash and _SUBDOMAIN.fullmatch(name)):
            self.fail(f"{value!r} is no NAMESPACE/NAME of Kubernetes", param, ctx)
        return Account(namespace, name)


@click.command()
@click.option("--role", type=click.Choice(Role, case_sensitive=False), help="Of this role; default: SF_HEALER_ROLE.")
@click.option(
    "--rbac",
    "only_rbac",
    is_flag=True,
    help="Print ServiceAccount, Role and RoleBinding with the least rights, and do nothing else.",
)
@click.option(
    "--account",
    type=_AccountType(),
    metavar="NAMESPACE/NAME",
    help="With --rbac: the ServiceAccount, where it is not the role's own in the namespace of the Jobs.",
)
@output_option
@url_option
def command(
    *, role: Role | None, only_rbac: bool, account: Account | None, output: Output, url: str | None
) -> ExitCode:
    """Check versions, policy file, brokers, ACLs, topics, cluster, RBAC, clocks and a worker, each with what mends it.

    Run it as the worker runs: its settings, its Kafka user, its ServiceAccount. Exit code 0: no fault, though there may
    be warnings; 3: something is wrong, or we may do more than we need; 5: a broker, the cluster or the worker does not
    answer. That there is no worker yet is a warning, unless --url names one. Nothing is changed, but that a few empty
    records on the evidence show whose clock dates them.
    """
    settings = settings_for_a_command()
    if role is not None:
        settings = msgspec.structs.replace(settings, role=role)
    if only_rbac:
        click.echo(rbac(settings.role, settings.mode, namespace=settings.namespace, account=account), nl=False)
        return ExitCode.OK
    if account is not None:
        raise click.UsageError("--account goes with --rbac")
    running = Address(Worker(url, settings).url, named=url is not None)
    findings = asyncio.run(examine(settings, running))
    emit(
        findings,
        output,
        columns=("STATE", "ABOUT", "WHAT"),
        rows=[(finding.state, finding.about, finding.what) for finding in findings],
    )
    if output is Output.TABLE:  # the other forms carry the commands; a table would break them apart
        _say_fixes(settings, findings)
    return _verdict({finding.state for finding in findings})


def _say_fixes(settings: Settings, findings: Collection[Finding]) -> None:
    """Say each command once, with all that it mends."""
    mends: dict[str, list[str]] = {}
    for finding in findings:
        if finding.state is not State.OK and finding.fix:
            mends.setdefault(finding.fix, []).append(f"{finding.about}: {finding.what}")
    for fix, mended in mends.items():
        say("")
        for line in mended:
            say(line)
        say(f"  fix: {fix}")
    if not {finding.state for finding in findings} & _FAULTS:
        if mends:
            say("")
        well = "no fault, but what is said above" if mends else "all is well"
        say(f"{well} for role = {settings.role}, mode = {settings.mode}")


def _verdict(states: Collection[State]) -> ExitCode:
    if State.UNREACHABLE in states:
        return ExitCode.UNREACHABLE
    return ExitCode.NO if _WRONG & set(states) else ExitCode.OK
