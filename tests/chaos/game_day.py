"""The trials of a game day, in order, and the table that is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.stage import FLEET
from tests.chaos.trials import BACK_OFF_PATIENCE_SECONDS, Healer, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.trials import Played

POD_DELETE = "pod-delete-loader"
LATENCY = "network-latency-healer"
BROKER = "kafka-broker-failure"
EXHAUST = "exhaust-loader"
OUTAGE = "network-latency-fleet"
CONNECTOR = "pod-delete-arango-connector"
#: There is no queue-manager on the stage: the fleet's way is slowed, and with it every report.
PLATFORM_LATENCY = "network-latency-queue-manager"

#: In which a broker that came back is in sync; the engine gives it 180 s.
REPLICAS_SECONDS = 120.0
#: In which a storm is over that a minute's silence of everybody made; the engine gives it 900 s.
CALM_SECONDS = 300.0
#: Who is off will not answer, however long it is asked.
UNANSWERED_SECONDS = 10.0
UNWATCHED = ("watermark-moves", "healer-lives")
UNHEALED = ("pod-runs-again", "replaces-that-incarnation", "healed-once")

#: On every push.
QUICK = (
    Trial(POD_DELETE),
    Trial(LATENCY),
    Trial(BROKER, patience=REPLICAS_SECONDS),
)
#: The negative controls, and what exhausts a Job: the Job controller's back-off of five minutes stays as it is.
SLOW = (
    Trial(POD_DELETE, Healer.OFF, UNWATCHED, patience=UNANSWERED_SECONDS),
    Trial(POD_DELETE, Healer.NO_POD_IS_A_FAILURE, shows=("same-incarnation", "healer-restarts-nothing")),
    Trial(LATENCY, Healer.OFF, UNWATCHED, patience=UNANSWERED_SECONDS),
    Trial(BROKER, Healer.OFF, UNWATCHED, patience=UNANSWERED_SECONDS),
    Trial(EXHAUST, patience=BACK_OFF_PATIENCE_SECONDS),
    Trial(EXHAUST, Healer.OFF, (*UNWATCHED, *UNHEALED), strikes=5, patience=BACK_OFF_PATIENCE_SECONDS),
    Trial(CONNECTOR),
    Trial(PLATFORM_LATENCY, slow=FLEET),
    Trial(PLATFORM_LATENCY, Healer.OFF, UNWATCHED, slow=FLEET, patience=UNANSWERED_SECONDS),
    Trial(OUTAGE, slow=FLEET, patience=CALM_SECONDS),
    Trial(OUTAGE, Healer.EVERY_SILENCE_FOR_ITSELF, ("storm-was-seen", "few-restarts"), slow=FLEET),
    Trial(EXHAUST, Healer.WATCHING, UNHEALED, patience=BACK_OFF_PATIENCE_SECONDS),
)
TRIALS = QUICK + SLOW


def line(played: Played) -> str:
    """Tell a trial in a line."""
    right = "as it must be" if played.is_right else f"WRONG, {played.trial.expected} expected"
    why = f"; not held: {', '.join(played.failed)}" if played.failed else ""
    what = f"{played.trial.engine}, healer {played.trial.healer}"
    return f"{what}: {played.verdict}, {right}, {played.seconds:.0f} s{why}"


def summary(done: Sequence[Played], seconds: float) -> str:
    """Give the table of a game day; Markdown."""
    rows = [
        f"| {each.trial.engine} | {each.trial.healer} | {each.verdict} | {each.trial.expected} | {each.seconds:.0f} | "
        f"{', '.join(each.failed)} |"
        for each in done
    ]
    right = sum(each.is_right for each in done)
    head = ["| engine | healer | verdict | expected | seconds | not held |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", f"{right} of {len(done)} as expected, {seconds:.0f} s in all."]) + "\n"
