"""Which Jobs a pause or its end is for: the options, and how many Jobs that is."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from sf_healer.commands.reading import Worker, job_key
from sf_healer.core.commands import ALL_JOBS
from sf_healer.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")


def scope_options(command: F) -> F:
    """Add the options that name a scope; exactly one of them is to be given."""
    for option in (
        click.option("--all", "all_jobs", is_flag=True, help="All Jobs."),
        click.option("--target", metavar="NAME", help="The Jobs of one target."),
        click.option("--queue", metavar="ID", help="The Jobs of one queue."),
        click.option("--job", metavar="JOB", help="One Job: a name, or namespace/name."),
    ):
        command = option(command)
    return command


def scope_of(settings: Settings, *, all_jobs: bool, job: str | None, queue: str | None, target: str | None) -> str:
    """Give the one scope that was named, as core/commands.py writes it; raises click.UsageError."""
    scopes = [
        *([ALL_JOBS] if all_jobs else []),
        *([f"job:{job_key(job, settings)}"] if job else []),
        *([f"queue:{queue}"] if queue else []),
        *([f"target:{target}"] if target else []),
    ]
    if len(scopes) != 1:
        raise click.UsageError("give exactly one of --job, --queue, --target, --all")
    return scopes[0]


def jobs_in_scope(worker: Worker, scope: str) -> list[str]:
    """Name the Jobs a worker knows in a scope; raises ConnectionError where nobody tells."""
    try:
        page = worker.read("/jobs/")
    except click.ClickException as problem:
        raise ConnectionError(problem.message) from problem
    return [row["job"] for row in page["jobs"] if _is_in(row, scope)]


def _is_in(row: Mapping[str, Any], scope: str) -> bool:
    return scope in {ALL_JOBS, f"job:{row['job']}", f"queue:{row['queue_id']}", f"target:{row['target']}"}
