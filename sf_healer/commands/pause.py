"""`sf-healer pause`: restart nothing in a scope, for a while or until resumed."""

import time

import click

from sf_healer.cli import ExitCode, say
from sf_healer.commands.asking import as_sent, read_restarts, reason_option, send
from sf_healer.commands.options import seconds_of
from sf_healer.commands.reading import Worker, url_option, worker
from sf_healer.commands.scopes import dry_run_option, jobs_in_scope, scope_of, scope_options
from sf_healer.control import person, send_control
from sf_healer.core.commands import Pause
from sf_healer.views.lines import moment, span

#: A tick is on the steps log each second: what is told of it is older than this where it is read late.
_APART_SECONDS = 30.0


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
    seconds = None if duration is None else seconds_of(duration, option="--for")
    now, doubt = (time.time(), "") if seconds is None else _log_time(asked)
    until = None if seconds is None else now + seconds
    pause = Pause(scope=scope, reason=reason, by=person(), at=now, until=until)
    value = as_sent(pause)
    if dry_run:
        click.echo(value)
    else:
        send(send_control(settings, pause))
    ends = "until resumed" if until is None else f"until {moment(until)}"
    paused = f"{'would be paused' if dry_run else 'paused'}: {scope} {ends}"
    try:
        known = jobs_in_scope(asked, scope)
    except ConnectionError as problem:
        for line in filter(None, (paused, doubt, f"how many Jobs are in it cannot be told: {problem}")):
            say(line)
        return ExitCode.OK
    say(f"{paused}; {len(known)} known Jobs are in it")
    if doubt:
        say(doubt)
    if not known:
        say("Careful: nothing is held by that now. Capitals count; `sf-healer jobs -o wide` shows targets and queues")
    return ExitCode.OK


def _log_time(asked: Worker) -> tuple[float, str]:
    """Give the time of the steps log, by which a pause is over or not, and in words what is doubtful about it.

    Of the two the later one: a log that is read late looks like a clock that is behind, and no pause is to be shorter
    than was asked for.
    """
    here = time.time()
    try:
        at = read_restarts(asked)["admission"]["at"] or here
    except ConnectionError as problem:
        return here, f"the end is by the clock here, for that of the log cannot be told: {problem}"
    apart, doubt = span(abs(at - here)), ""
    if at - here > _APART_SECONDS:
        doubt = f"Careful: the clock here is {apart} behind that of the log, by which a pause ends"
    elif here - at > _APART_SECONDS:
        doubt = (
            f"Careful: the log, by whose clock a pause ends, is shown as it was {apart} ago: it is read late, or the "
            "clock here is ahead and the pause that much longer"
        )
    return max(at, here), doubt
