"""`sf-healer pause`: restart nothing in a scope, for a while or until resumed."""

import time

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import reason_option, send
from sf_healer.commands.options import seconds_of
from sf_healer.commands.reading import url_option, worker
from sf_healer.commands.scopes import dry_run_option, jobs_in_scope, scope_of, scope_options
from sf_healer.control import person, send_control
from sf_healer.core.commands import Pause, encode
from sf_healer.views.lines import moment


@click.command()
@scope_options
@reason_option("Why; it is shown with every refusal.")
@click.option("--for", "duration", metavar="DURATION", help="End by itself after 90s, 30m, 1h30m, 2d, ….")
@dry_run_option
@url_option
def command(
    *,
    all_jobs: bool,
    job: str | None,
    queue: str | None,
    target: str | None,
    reason: str,
    duration: str | None,
    dry_run: bool,
    url: str | None,
) -> ExitCode:
    """Restart nothing in a scope until `sf-healer resume` with the same scope, or until --for is over.

    What has been deleted already is put back all the same; what has not been touched yet is refused.
    """
    asked, settings = worker(url)
    scope = scope_of(settings, all_jobs=all_jobs, job=job, queue=queue, target=target)
    now = time.time()
    until = None if duration is None else now + seconds_of(duration, option="--for")
    pause = Pause(scope=scope, reason=reason, by=person(), at=now, until=until)
    if dry_run:
        click.echo(encode(pause))
    else:
        send(send_control(settings, pause))
    ends = "until resumed" if until is None else f"until {moment(until)}"
    paused = f"{'would be paused' if dry_run else 'paused'}: {scope} {ends}"
    try:
        known = jobs_in_scope(asked, scope)
    except ConnectionError as problem:
        say(f"{paused}\nhow many Jobs are in it cannot be told: {problem}")
        return ExitCode.OK
    say(f"{paused}; {len(known)} known Jobs are in it")
    if not known:
        say("Careful: nothing is held by that now. Capitals count; `sf-healer jobs -o wide` shows targets and queues")
    return ExitCode.OK
