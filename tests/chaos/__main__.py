"""`make chaos`: every trial, or those that are named, and what became of them; `--list` names them."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import click

from tests.chaos.game_day import TRIALS, line, summary
from tests.chaos.stage import Stage
from tests.chaos.trials import play
from tests.lab.kube import ControlPlane

RECORDS = Path("build/chaos")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Name the trials.")
def main(*, names: tuple[str, ...], listing: bool) -> None:
    """Run trials one after the other on one stage; exit code 1 unless each came to its verdict."""
    if listing:
        click.echo("\n".join(each.name for each in TRIALS))
        return
    chosen = [each for each in TRIALS if not names or any(name in each.name for name in names)]
    if not chosen:
        raise click.UsageError("no trial has such a name")
    shutil.rmtree(RECORDS, ignore_errors=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sf-healer-chaos-") as directory:
        at = Path(directory)
        with ControlPlane.start(at / "control-plane") as plane, Stage(plane, at / "stage") as stage:
            click.echo(f"the stage stands after {time.monotonic() - began:.0f} s")
            done = []
            for trial in chosen:
                done.append(play(trial, stage, RECORDS))
                click.echo(line(done[-1]))
    text = summary(done, time.monotonic() - began)
    (RECORDS / "summary.md").write_text(text)
    click.echo(text)
    raise SystemExit(not all(each.is_right for each in done))


if __name__ == "__main__":
    main(prog_name="python -m tests.chaos")
