"""`sf-healer policy check`: whether a policy file is right, and which policy each Job gets."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from sf_healer.adapters import policy_file
from sf_healer.captures import CaptureError
from sf_healer.cli import ExitCode, Output, emit, output_option, say
from sf_healer.core.cadence import longest_learned
from sf_healer.core.facts import JobFact
from sf_healer.core.policy import Limits, Match, Policy, PolicyBook, PolicyError, line_of_policy
from sf_healer.core.shadowing import shadowed
from sf_healer.replay import read_jobs

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_POLICY_COLUMNS = (
    "POLICY",
    "MATCHES",
    "EXPECTS",
    "SILENCE",
    "STARTUP",
    "NOT RUNNING",
    "ERROR GRACE",
    "STOP HOLD",
    "STALL",
    "ATTEMPTS",
)
_JOB_COLUMNS = ("JOB", "TARGET", "POLICY")


@click.group()
def command() -> None:
    """Ask about policy files."""


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--jobs",
    "jobs_file",
    type=_FILE,
    help="Show which policy each of these Jobs gets: `kubectl get jobs -o json`, or the Jobs of a capture.",
)
@output_option
def check(*, file: Path, jobs_file: Path | None, output: Output) -> ExitCode:
    """Check the policy FILE and print what it says; all faults are told with their lines, exit code 3.

    A policy that no Job can get, for those before it match all its Jobs, is a warning.
    """
    try:
        read = policy_file.read(file)
    except PolicyError as problem:
        for fault in problem.faults:
            say(f"{file}: {fault}")
        return ExitCode.NO
    book, warnings = read.book, list(_warnings(read.book, read.content.decode()))
    for warning in warnings:
        say(f"{file}: {warning}")
    if jobs_file is not None:
        try:
            jobs = [job.fact for job in read_jobs(jobs_file)]
        except CaptureError as problem:
            raise click.ClickException(str(problem)) from None
        _print_jobs(book, jobs, output)
    else:
        _print_policies(book, warnings, output)
    return ExitCode.OK


def _warnings(book: PolicyBook, text: str) -> Iterator[str]:
    for found in shadowed(book):
        takers = " and ".join(map(repr, found.by))
        match = "matches" if len(found.by) == 1 else "match"
        line = line_of_policy(found.place, text)
        yield f"line {line}: warning: policy {found.name!r} is never used: {takers}, before it, {match} all its Jobs"


def _print_policies(book: PolicyBook, warnings: list[str], output: Output) -> None:
    policies = book.policies()
    emit(
        {
            "policies": [
                msgspec.to_builtins(policy) | {"matches": msgspec.to_builtins(book.match_of(policy))}
                for policy in policies
            ],
            "admission": msgspec.to_builtins(book.limits),
            "warnings": warnings,
        },
        output,
        columns=_POLICY_COLUMNS,
        rows=(_policy_row(policy, book.match_of(policy), book.limits) for policy in policies),
    )
    if output is Output.TABLE:
        changed = _changed(book.limits)
        say(f"admission: {', '.join(changed)}" if changed else "admission: every limit as by default")


def _policy_row(policy: Policy, match: Match | None, limits: Limits) -> tuple[str, ...]:
    expects = [
        word
        for word, holds in (
            ("exempt", policy.exempt),
            ("reporting", policy.reporting),
            ("consumer", policy.consumer),
            ("silence not judged", not policy.judge_silence),
        )
        if holds
    ]
    return (
        policy.name,
        _words(match),
        ", ".join(expects) or "-",
        _silence(policy),
        f"{policy.startup_threshold_seconds:g}s",
        f"{policy.not_running_threshold_seconds:g}s",
        _grace(policy),
        f"{policy.stop_hold_seconds:g}s",
        f"{policy.stall_threshold_seconds:g}s" if policy.stall_threshold_seconds else "off",
        str(policy.attempts or limits.attempts),
    )


def _silence(policy: Policy) -> str:
    said = f"{policy.silence_threshold_seconds:g}s"
    if not policy.learn_cadence:
        return said
    return f"{said}, then learned: {policy.learn_floor_seconds:g}s to {longest_learned(policy):g}s"


def _grace(policy: Policy) -> str:
    is_learned = policy.learn_cadence and policy.grace_is_silence_threshold
    return f"{policy.error_grace_seconds:g}s{', then as learned' if is_learned else ''}"


def _words(match: Match | None) -> str:
    """Say what a policy matches: all kinds given must hold, of each kind any one."""
    if match is None:
        return "every other Job"
    kinds = [
        f"target {' or '.join(match.targets)}" if match.targets else "",
        f"name {' or '.join(match.names)}" if match.names else "",
        " and ".join(f"label {label}={value}" for label, value in match.labels.items()),
    ]
    return " and ".join(kind for kind in kinds if kind)


def _changed(limits: Limits) -> list[str]:
    """Name the limits that are not as by default."""
    default = Limits()
    return [
        f"{name} {_plain(getattr(limits, name))} (default {_plain(getattr(default, name))})"
        for name in limits.__struct_fields__
        if getattr(limits, name) != getattr(default, name)
    ]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _print_jobs(book: PolicyBook, jobs: list[JobFact], output: Output) -> None:
    rows = [{"job": job.key, "target": job.target, "policy": book.for_job(job).name} for job in jobs]
    emit(rows, output, columns=_JOB_COLUMNS, rows=(tuple(row.values()) for row in rows))
    used = {row["policy"] for row in rows}
    for policy in book.policies():
        if policy.name not in used:
            say(f"policy {policy.name} is that of none of these Jobs")
