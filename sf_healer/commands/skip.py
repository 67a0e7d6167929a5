"""`sf-healer skip JOB` and `unskip JOB`: have a Job left alone for good, by its annotation."""

import click

from sf_healer.adapters.cluster import NO_ANSWER, ApiFailure, Cluster, Failure
from sf_healer.cli import ExitCode, say, settings_for_a_command
from sf_healer.commands.reading import job_key
from sf_healer.commands.scopes import dry_run_option
from sf_healer.core.facts import SKIP_ANNOTATION


@click.command()
@click.argument("job")
@dry_run_option
def command(*, job: str, dry_run: bool) -> ExitCode:
    """Annotate JOB (a name, or namespace/name) so that it is never restarted; `unskip` takes that back.

    Done with your own rights to the cluster, which need `patch` on Jobs; sf-healer itself has no such right.
    """
    return annotate(job, "true", dry_run=dry_run)


def annotate(job: str, value: str | None, *, dry_run: bool) -> ExitCode:
    """Set the annotation, or remove it (None), and say what happened."""
    settings = settings_for_a_command()
    namespace, _, name = job_key(job, settings).partition("/")
    change = f"{SKIP_ANNOTATION}={value}" if value is not None else f"{SKIP_ANNOTATION}-"
    if dry_run:
        click.echo(f"kubectl --namespace {namespace} annotate job {name} --overwrite {change}")
        return ExitCode.OK
    cluster = Cluster.connect(namespace=settings.namespace, kubeconfig=settings.kubeconfig)
    answer = cluster.annotate_job(namespace, name, {SKIP_ANNOTATION: value})
    if not isinstance(answer, ApiFailure):
        say(f"{namespace}/{name} is {'left alone' if answer.fact.skip else 'watched'} from now on")
        return ExitCode.OK
    if answer.kind is Failure.UNREACHABLE:
        raise ConnectionError(f"the cluster was not reached: {answer.message}; nothing was changed")
    if answer.kind in NO_ANSWER:
        look = f"`kubectl --namespace {namespace} get job {name} -o yaml` tells what it did"
        raise ConnectionError(f"the cluster was asked and did not answer; {look}")
    if answer.kind is Failure.FORBIDDEN:
        say(answer.message)
        say(f"it takes the right to patch Jobs in {namespace}")
        return ExitCode.REFUSED
    raise click.ClickException(f"{namespace}/{name}: {answer.message}")
