"""`sf-healer replay`: what would have been decided over a recorded topic, and how that compares with the truth."""

import math
import sys
from collections import Counter
from pathlib import Path

import click
import msgspec

from sf_healer.backtest import Change, Difference, Restarts, differences, restarts
from sf_healer.captures import LATEST_SECONDS, CaptureError, read_file
from sf_healer.cli import ExitCode, Output, emit, say
from sf_healer.commands.shared import NumberRange, read_policies
from sf_healer.core.policy import LARGEST_NUMBER, PolicyBook
from sf_healer.replay import LONGEST_PAUSE_SECONDS, Decision, Replay, Score, percentile, read_jobs, read_truth, score
from sf_healer.views.lines import moment, number_of

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_WITHOUT_JOBS = (
    "without --jobs a Job is known by its reports alone: none is never_started, and names go by convention, without "
    "labels; `kubectl get jobs -n NAMESPACE -o json` gives the Jobs"
)
_COLUMNS = ("AT", "JOB", "VERDICT", "DECISION", "REASON", "ATTEMPT", "SILENCE", "THRESHOLD")
_DIFFERENT_COLUMNS = ("CHANGE", "SECONDS", *_COLUMNS)


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--jobs",
    "jobs_file",
    type=_FILE,
    help="The Jobs there were: `kubectl get jobs -o json`, or those of a capture; without it reports name their own.",
)
@click.option("--policy", "policy_file", type=_FILE, help="Policies to decide by, instead of the shipped ones.")
@click.option(
    "--against", "against_file", type=_FILE, help="Policies to compare with: print only the decisions that differ."
)
@click.option(
    "--silence-threshold",
    type=NumberRange(min=0, min_open=True, max=LARGEST_NUMBER),
    metavar="S",
    help="Let --policy call every Job silent after S seconds; --against stays as it is.",
)
@click.option("--truth", "truth_file", type=_FILE, help="Score against this; exit status 3 if it does not hold.")
@click.option(
    "--since",
    type=NumberRange(min=0, max=LATEST_SECONDS),
    metavar="S",
    help="When the capture begins, if before its first record, epoch seconds; default: the truth's start.",
)
@click.option(
    "--until",
    type=NumberRange(min=0, max=LATEST_SECONDS),
    metavar="S",
    help="Last moment for a verdict, epoch seconds; default: the truth's end.",
)
@click.option("-o", "--output", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
def command(
    *,
    file: Path,
    jobs_file: Path | None,
    policy_file: Path | None,
    against_file: Path | None,
    silence_threshold: float | None,
    truth_file: Path | None,
    since: float | None,
    until: float | None,
    output: str,
) -> ExitCode:
    """Run a capture through the decisions, in virtual time, without Kafka or a cluster.

    A restart is taken to succeed. One line per change of decision or reason of a Job; with --against one per
    decision that only one of the two makes, or makes at another time (exit status 0: it is a question).
    """
    _refuse_unless_readable(file, twice=against_file is not None)

    def replay(policies: PolicyBook) -> Replay:
        end = math.inf if until is None else until
        begin = math.inf if since is None else since
        lines = read_file(file, since=begin, until=end, longest_pause_seconds=LONGEST_PAUSE_SECONDS)
        return Replay(lines, jobs, policies, since=begin, until=end)

    asked = read_policies(policy_file)
    if silence_threshold is not None:
        asked = asked.with_silence_threshold(silence_threshold)

    named, against = _named(policy_file, silence_threshold), _named(against_file, None)
    old: list[Decision] = []
    try:
        jobs = None if jobs_file is None else read_jobs(jobs_file)
        truth = read_truth(truth_file) if truth_file else None
        if truth is not None:
            since = truth.capture_start if since is None else since
            until = truth.capture_end if until is None else until
        run = replay(asked)
        if against_file is None:
            decisions = _print(run, output)
            end = [_counts(run, f"{len(decisions)} decisions")]
        else:
            decisions, old = list(run.decisions()), list(replay(read_policies(against_file)).decisions())
            found = differences(decisions, old)
            _print_differences(found, output)
            counts = _counts(run, _counted(found), f"{len(decisions)} decisions by {named}", f"{len(old)} by {against}")
            end = [counts, _in_words(restarts(decisions, old), named, against)]
    except CaptureError as error:
        raise click.ClickException(str(error)) from None
    _say_end([*(end if output == "table" else []), *_left_out(run)], knows_jobs=jobs_file is not None)
    if truth is None:
        return ExitCode.OK
    if against_file is not None:
        _say_score(score(old, truth, run.jobs), against)
    return _say_score(score(decisions, truth, run.jobs), named)


def _refuse_unless_readable(file: Path, *, twice: bool) -> None:
    if twice and not file.is_file():
        raise click.UsageError(f"{file} is no regular file: --against reads the capture twice")


def _say_end(lines: list[str], *, knows_jobs: bool) -> None:
    for line in lines:
        say(line)
    if not knows_jobs:
        say(_WITHOUT_JOBS)


def _left_out(run: Replay) -> list[str]:
    told = []
    if run.lines_dated_ahead:
        lines, are = number_of(run.lines_dated_ahead, "line"), "is" if run.lines_dated_ahead == 1 else "are"
        told.append(f"{lines} {are} dated ahead of later ones, and taken to have arrived with those")
    if run.lines_left_out:
        lines, are = number_of(run.lines_left_out, "line"), "is" if run.lines_left_out == 1 else "are"
        told.append(f"{lines} {are} dated after the end ({moment(run.until)}) and left out")
    if run.left_out:
        jobs, are = number_of(run.left_out, "Job"), "is" if run.left_out == 1 else "are"
        told.append(f"{jobs} had ended before the capture begins ({moment(run.began)}) and {are} left out")
    return told


def _named(policy_file: Path | None, silence_threshold: float | None) -> str:
    """Name the policies that were used."""
    name = "the shipped policies" if policy_file is None else str(policy_file)
    return name if silence_threshold is None else f"{name} with --silence-threshold {silence_threshold:g}"


def _counted(found: list[Difference]) -> str:
    kinds = Counter(difference.change for difference in found)
    told = ", ".join(f"{kinds[change]} {change}" for change in Change if kinds[change])
    return f"{len(found)} differences" + (f" ({told})" if told else "")


def _in_words(found: Restarts, named: str, against: str) -> str:
    """Say what a person asks a back-test for."""
    when = "earlier" if found.median_seconds < 0 else "later"
    median = f", the median {abs(found.median_seconds):.1f} s {when}" if found.median_seconds else ""
    both = (
        f"{found.both} by both: {found.earlier} earlier, {found.later} later{median}" if found.both else "none by both"
    )
    more = f"{found.more} Job{'' if found.more == 1 else 's'} more"
    return f"{more}, {found.fewer} fewer would be restarted by {named} than by {against}; {both}"


def _counts(run: Replay, *told: str) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.rejected.items()))
    rejected = f"{sum(run.rejected.values())} rejected" + (f" ({reasons})" if reasons else "")
    return ", ".join([f"{run.reports} reports", rejected, *told])


def _print_differences(found: list[Difference], output: str) -> None:
    if output == "jsonl":
        for difference in found:
            click.echo(msgspec.json.encode(difference).decode())
        return
    if found:
        emit(found, Output.TABLE, columns=_DIFFERENT_COLUMNS, rows=map(_different_row, found))


def _different_row(difference: Difference) -> tuple[str, ...]:
    decision = difference.new or difference.old
    assert decision is not None
    moved = f"{difference.seconds:+.1f}s" if difference.seconds else "-"
    return (difference.change, moved, *_row(decision))


def _print(run: Replay, output: str) -> list[Decision]:
    decisions: list[Decision] = []
    if output == "jsonl":
        for decision in run.decisions():
            decisions.append(decision)
            sys.stdout.write(msgspec.json.encode(decision).decode() + "\n")
        sys.stdout.flush()
        return decisions
    decisions.extend(run.decisions())
    emit(decisions, Output.TABLE, columns=_COLUMNS, rows=map(_row, decisions))
    return decisions


def _row(decision: Decision) -> tuple[str, ...]:
    return (
        moment(decision.at),
        decision.job,
        decision.verdict,
        decision.decision,
        decision.reason,
        str(decision.attempt),
        _seconds(decision.evidence.get("silence_seconds")),
        _seconds(decision.evidence.get("threshold_seconds")),
    )


def _seconds(value: float | str | None) -> str:
    return f"{value:.1f}s" if isinstance(value, int | float) else "-"


def _say_score(result: Score, policies: str) -> ExitCode:
    """Say how well these policies decide."""
    say(f"by {policies}:")
    for problem in result.wrong:
        say(f"WRONG  {problem}")
    for problem in result.soft:
        say(f"soft   {problem}")
    for problem in result.untold:
        say(f"not in the truth, not scored: {problem}")
    for verdict, findings in sorted(result.verdicts.items()):
        precision, recall = _share(findings.precision), _share(findings.recall)
        say(
            f"{verdict}: precision {precision} ({findings.found_rightly} of {findings.found} found)  "
            f"recall {recall} ({findings.found_rightly} of {findings.sick} sick){_delays(findings.delay_seconds)}"
        )
    say(f"{result.right} of {result.jobs} firm Jobs as the truth says: {'holds' if result.holds else 'DOES NOT HOLD'}")
    return ExitCode.OK if result.holds else ExitCode.NO


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _delays(delays: list[float]) -> str:
    if not delays:
        return ""
    median, p99 = percentile(delays, 0.5), percentile(delays, 0.99)
    return f"  delay min {min(delays):.1f}s  median {median:.1f}s  p99 {p99:.1f}s"
