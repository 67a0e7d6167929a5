"""The page of one Job: what it is judged to be and why, what is done about it and why not, what it said."""

from collections.abc import Mapping
from typing import Any

from sf_healer.core.verdicts import Verdict
from sf_healer.views.actions import list_actions
from sf_healer.views.holding import held_by, pauses_of
from sf_healer.views.lines import incarnation_lines, policy_lines, restart_lines, said_lines, verdict_lines
from sf_healer.views.pages.actions import actions_table
from sf_healer.views.pages.jobs import silence_strip
from sf_healer.views.pages.markup import Html, element, fragment, verdict_mark
from sf_healer.views.pages.shell import Frame, described, draw, notice, section


def draw_job(data: Mapping[str, Any], restarts: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw a Job; `data` is what its JSON twin shows, `restarts` what `/actions/?job=` does, or its error."""
    why = data["why"]
    record, valve = restarts.get("actions", {}).get(data["job"]), restarts.get("admission")
    whole = {**data, "restarts": record, "pauses": pauses_of(data, valve), "held_by": held_by(data, valve)}
    expected = list(policy_lines(data["policy"], is_exempt=data["verdict"] == Verdict.EXEMPT))
    return draw(
        data["job"],
        section(
            "why",
            "Why",
            element("p", verdict_mark(data["verdict"]), f": {why['explanation']}"),
            element("p", silence_strip(why["silence_seconds"], why["threshold_seconds"])),
            described(list(verdict_lines(whole))),
        ),
        section(
            "restart",
            "What is done about it",
            notice(str(restarts["error"])) if "error" in restarts else None,
            described(list(restart_lines(whole))),
            _attempts(data["job"], record, frame.now),
        ),
        section("said", "What it said", described(list(said_lines(data["said"])))),
        section(
            "cluster",
            "What the cluster shows",
            described(list(incarnation_lines(data["incarnation"], running_since=data["pod_running_since"])))
            if data["incarnation"] is not None
            else element("p", "Not seen in the cluster yet."),
        ),
        section("policy", "What is expected of it", described(expected)),
        frame=frame,
    )


def _attempts(job: str, record: Mapping[str, Any] | None, now: float) -> Html | None:
    if record is None:
        return None
    attempts = (record.get("history") or {}).get("attempts", [])
    told = f"Restarts remembered: {len(attempts)}."
    listed = actions_table(list_actions({job: record}), now=now)
    return fragment(element("h3", "Its restarts"), element("p", told), listed)
