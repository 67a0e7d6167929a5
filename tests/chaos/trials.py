"""What is tried on the stage: each shipped engine with the healer as it is, and with one that must not pass.

An engine is changed in its times alone: how long the fault holds, how long an EOT probe may take to come true, and how
long a question may take.
"""

from __future__ import annotations

import os
import subprocess
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from sf_healer.chaos import litmus
from sf_healer.chaos.verdict import Verdict
from sf_healer.settings import Mode
from tests.chaos.builds import Fault
from tests.chaos.engines import LITMUS, documents
from tests.chaos.stage import HEALER
from tests.lab.waiting import until
from tests.lab.worker import SF_HEALER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.stage import Scene, Stage

TIMES = ("TOTAL_CHAOS_DURATION", "CHAOS_INTERVAL")
SCALE = 3.0
LONGEST_SECONDS = 40.0
#: Where nothing but a broker that starts or a lag that drains is waited for.
PATIENCE_SECONDS = 40.0
#: The Job controller waits 80 s before its fourth retry: LONGEST_SECONDS, and the rest within this.
BACK_OFF_PATIENCE_SECONDS = 60.0
#: How long one question may take. The shipped 5 s are a network's; here a busy machine has to start a kubectl.
ANSWER = "30s"
RUN_SECONDS = 900.0


class Healer(StrEnum):
    """Which healer an experiment meets."""

    AS_IT_IS = "as it is"
    OFF = "killed when the fault is there"
    WATCHING = "mode observe"
    NO_POD_IS_A_FAILURE = "no pod is a failure"
    EVERY_SILENCE_FOR_ITSELF = "every silence for itself"


FAULTS = {
    Healer.NO_POD_IS_A_FAILURE: Fault.NO_POD_IS_A_FAILURE,
    Healer.EVERY_SILENCE_FOR_ITSELF: Fault.EVERY_SILENCE_FOR_ITSELF,
}


class Trial(msgspec.Struct, frozen=True):
    """One engine file and one healer.

    `shows` names probes that must not hold of it; `strikes` is how often the file hits before a healer that is OFF goes
    off.
    """

    engine: str
    healer: Healer = Healer.AS_IT_IS
    shows: tuple[str, ...] = ()
    strikes: int = 1
    patience: float = PATIENCE_SECONDS
    slow: str = HEALER  # whose way to Kafka a latency is put in

    @property
    def name(self) -> str:
        """Give a name for files and tests."""
        return f"{self.engine}-{self.healer.replace(' ', '-')}"

    @property
    def expected(self) -> Verdict:
        """Give the verdict that the file must come to."""
        return Verdict.PASS if self.healer is Healer.AS_IT_IS else Verdict.FAIL


class Played(msgspec.Struct, frozen=True):
    """What became of a trial; `said` is what `sf-healer chaos run` wrote to standard error."""

    trial: Trial
    verdicts: tuple[Verdict, ...]
    failed: tuple[str, ...]  # probes of the last engine
    seconds: float
    said: str

    @property
    def verdict(self) -> Verdict:
        """Give the verdict of the file: that of its last engine that was run."""
        return self.verdicts[-1]

    @property
    def is_right(self) -> bool:
        """Say whether it came out as it must, and for the reason it must."""
        return self.verdict is self.trial.expected and set(self.trial.shows) <= set(self.failed)


def quicker(document: dict[str, Any], patience: float) -> dict[str, Any]:
    """Give an engine with shorter times; what is asked, and held against what, is what is shipped."""
    (experiment,) = document["spec"]["experiments"]
    for setting in experiment["spec"]["components"]["env"]:
        if setting["name"] in TIMES:
            setting["value"] = f"{min(float(setting['value']) / SCALE, LONGEST_SECONDS):.0f}"
    for probe in experiment["spec"]["probe"]:
        run = probe["runProperties"]
        run["probeTimeout"] = ANSWER
        most = max(1, int(patience / litmus.seconds(run["interval"])))
        run["attempt"] = min(run.get("attempt", 1), most)
    return document


def play(trial: Trial, stage: Stage, records: Path) -> Played:
    """Run a trial to its end; `records` is a directory of its own."""
    fault, mode = FAULTS.get(trial.healer), Mode.OBSERVE if trial.healer is Healer.WATCHING else Mode.HEAL
    with stage.played(trial.name, fault=fault, mode=mode, slow=trial.slow) as scene:
        began = time.monotonic()
        file = scene.at / f"{trial.engine}.yaml"
        engines = documents(LITMUS / "engines" / file.name)
        file.write_text(yaml.safe_dump_all([quicker(each, trial.patience) for each in engines]))
        said = _run(trial, scene, file, records)
    told = [msgspec.json.decode(each.read_bytes()) for each in _in_order(records)]
    assert told, said
    probes = told[-1]["status"]["probeStatuses"]
    return Played(
        trial,
        tuple(Verdict(each["status"]["experimentStatus"]["verdict"]) for each in told),
        tuple(each["name"] for each in probes if each["status"]["verdict"] == "Failed"),
        time.monotonic() - began,
        said,
    )


def _run(trial: Trial, scene: Scene, file: Path, records: Path) -> str:
    command = [*SF_HEALER, "chaos", "run", str(file), "--bindings", str(scene.bindings())]
    process = subprocess.Popen(
        [*command, "--records", str(records), "--seed", "1"],
        env={"PATH": os.environ["PATH"]},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        if trial.healer is Healer.OFF:
            until(
                lambda: scene.strikes() >= trial.strikes or process.poll() is not None, "the fault", seconds=RUN_SECONDS
            )
            scene.healer.server.kill()
        _, said = process.communicate(timeout=RUN_SECONDS)
    finally:
        process.kill()
        process.wait()
    return said


def _in_order(records: Path) -> list[Path]:
    return sorted(records.glob("*.json"), key=lambda file: file.stat().st_mtime)
