"""`sf-healer replay`: what would have been decided over a recorded topic, and how that compares with the truth."""

import sys
from pathlib import Path
from statistics import median

import click
import msgspec

from sf_healer.captures import CaptureError, read_file
from sf_healer.cli import ExitCode, Output, emit, say
from sf_healer.commands.shared import read_policies
from sf_healer.replay import Decision, Replay, Score, read_jobs, read_truth, score

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_COLUMNS = ("AT", "JOB", "VERDICT", "DECISION", "REASON", "ATTEMPT", "SILENCE", "THRESHOLD")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--jobs", "jobs_file", type=_FILE, help="The Jobs there were; without it reports name their own.")
@click.option("--policy", "policy_file", type=_FILE, help="Policies to decide by, instead of the shipped ones.")
@click.option("--truth", "truth_file", type=_FILE, help="Score against this; exit status 3 if it does not hold.")
@click.option("--until", type=float, help="Last moment for a verdict, epoch seconds; default: the truth's end.")
@click.option("-o", "--output", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
def command(
    *,
    file: Path,
    jobs_file: Path | None,
    policy_file: Path | None,
    truth_file: Path | None,
    until: float | None,
    output: str,
) -> ExitCode:
    """Run a capture through the decisions, in virtual time, without Kafka or a cluster.

    A restart is taken to succeed. One line per change of decision or reason of a Job.
    """
    try:
        truth = read_truth(truth_file) if truth_file else None
        if until is None and truth is not None:
            until = truth.capture_end
        run = Replay(
            read_file(file),
            read_jobs(jobs_file) if jobs_file else None,
            read_policies(policy_file),
            until=until,
        )
        decisions = _print(run, output)
    except CaptureError as error:
        raise click.ClickException(str(error)) from None
    if output == "table":
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.rejected.items()))
        rejected = f"{sum(run.rejected.values())} rejected" + (f" ({reasons})" if reasons else "")
        say(f"{run.reports} reports, {rejected}, {len(decisions)} decisions")
    if truth is None:
        return ExitCode.OK
    result = score(decisions, truth)
    _say_score(result)
    return ExitCode.OK if result.holds else ExitCode.NO


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
        f"{decision.at:.3f}",
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


def _say_score(result: Score) -> None:
    for problem in result.wrong:
        say(f"WRONG  {problem}")
    for problem in result.soft:
        say(f"soft   {problem}")
    for verdict, delays in sorted(result.delays.items()):
        delays.sort()
        p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
        say(f"delay  {verdict}: min {delays[0]:.1f}s  median {median(delays):.1f}s  p99 {p99:.1f}s  n={len(delays)}")
    say(f"{result.right} of {result.jobs} firm Jobs as the truth says: {'holds' if result.holds else 'DOES NOT HOLD'}")
