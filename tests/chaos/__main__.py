"""A game day: `make chaos` plays every trial, or those that are named; `make chaos-soak` plays on for half an hour.

The soak takes the quick engines with the healer as it is, in an order that a seed chooses, while each Job reports fifty
times a second.
"""

from __future__ import annotations

import random
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sf_healer.chaos.verdict import Verdict
from tests.chaos.game_day import QUICK, TRIALS, line, summary
from tests.chaos.stage import REPORT_SECONDS, Stage
from tests.chaos.trials import play
from tests.lab.kube import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.chaos.trials import Trial

SOAK_REPORT_SECONDS = 0.02


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Name the trials.")
@click.option("--soak-minutes", type=float, help="Play on for so long, under load.")
@click.option("--seed", type=int, help="The order of a soak; printed by every one.")
@click.option("--records", type=click.Path(path_type=Path), default=Path("build/chaos"), show_default=True)
def main(*, names: tuple[str, ...], listing: bool, soak_minutes: float | None, seed: int | None, records: Path) -> None:
    """Play trials one after the other on one stage; exit code 1 unless each came to its verdict."""
    if listing:
        click.echo("\n".join(each.name for each in TRIALS))
    elif soak_minutes is not None:
        seed = secrets.randbelow(2**32) if seed is None else seed
        click.echo(f"seed {seed}")
        _play(_again_and_again(soak_minutes * 60, seed), records, report_seconds=SOAK_REPORT_SECONDS)
    else:
        chosen = [each for name in names or ("",) for each in TRIALS if name in each.name]
        if not chosen:
            raise click.UsageError("no trial has such a name")
        _play(chosen, records, report_seconds=REPORT_SECONDS)


def _again_and_again(seconds: float, seed: int) -> Iterator[Trial]:
    """Give trials until so long after the first: all kinds, each time in another order."""
    over_at = time.monotonic() + seconds
    chance = random.Random(seed)
    kinds = [trial for trial in QUICK if trial.expected is Verdict.PASS]
    while time.monotonic() < over_at:
        chance.shuffle(kinds)
        yield from kinds


def _play(trials: Iterable[Trial], records: Path, *, report_seconds: float) -> None:
    shutil.rmtree(records, ignore_errors=True)
    began = time.monotonic()
    done = []
    with _stage(report_seconds) as stage:
        click.echo(f"the stage stands after {time.monotonic() - began:.0f} s")
        for number, trial in enumerate(trials, 1):
            done.append(play(trial, stage, records / f"{number:02d}-{trial.name}"))
            click.echo(line(done[-1]))
    text = summary(done, time.monotonic() - began)
    (records / "summary.md").write_text(text)
    click.echo(text)
    raise SystemExit(not all(each.is_right for each in done))


@contextmanager
def _stage(report_seconds: float) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sf-healer-chaos-") as directory:
        at = Path(directory)
        with (
            ControlPlane.start(at / "control-plane") as plane,
            Stage(plane, at / "stage", report_seconds=report_seconds) as stage,
        ):
            yield stage


if __name__ == "__main__":
    main(prog_name="python -m tests.chaos")
