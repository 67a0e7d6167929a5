"""The dashboard at `/`, and the fleet alone: counts, watermarks, what holds restarts back, Jobs, the last restarts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sf_healer.core.admission import Phase
from sf_healer.core.commands import ALL_JOBS
from sf_healer.views.actions import list_actions
from sf_healer.views.lines import admission_lines, all_dead_letters, missing_notes, number_of, policy_notes, span
from sf_healer.views.pages.actions import actions_table
from sf_healer.views.pages.jobs import jobs_section, verdict_counts
from sf_healer.views.pages.markup import Child, Html, action_path, element, link, table
from sf_healer.views.pages.shell import Frame, dead_letters, described, draw, notice, section, time_of
from sf_healer.views.selection import Selection
from sf_healer.views.words import PHASES

_COLUMNS = ("Partition", "Jobs", "Watermark", "Last record", "Source partitions marked", "Feed gaps")
#: So many restarts are shown on the dashboard.
LAST = 10


def draw_overview(data: Mapping[str, Any], asked: Selection, *, frame: Frame) -> str:
    """Draw the dashboard; `data` is what the JSON twin shows."""
    sections = (
        _fleet_section(data["fleet"], all_dead_letters(data["fleet"], data["restarts"]), now=frame.now),
        _admission_section(data["restarts"], now=frame.now),
        jobs_section(data["jobs"], asked, path="/", now=frame.now, valve=data["restarts"].get("admission")),
        _last_section(data["restarts"], now=frame.now),
        _watermarks_section(data["fleet"], now=frame.now),
    )
    return draw("Fleet", *sections, frame=frame)


def draw_fleet(data: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw the fleet alone."""
    sections = (_fleet_section(data, all_dead_letters(data), now=frame.now), _watermarks_section(data, now=frame.now))
    return draw("Fleet in numbers", *sections, frame=frame)


def _fleet_section(fleet: Mapping[str, Any], letters: Mapping[str, int], *, now: float) -> Html:
    return section(
        "fleet",
        f"{fleet['jobs']:,} Jobs",
        notice(*missing_notes(fleet), *policy_notes(fleet.get("policies", ()))),
        dead_letters(letters),
        verdict_counts(fleet["verdicts"], path="/"),
        element("p", _in_short(fleet["partitions"], now), " ", element("a", "By partition", href="#watermarks")),
    )


def _in_short(partitions: list[dict[str, Any]], now: float) -> str:
    """Say how far the logs are read: without marks nothing is judged."""
    marks = [row["watermark"] for row in partitions]
    if None in marks:
        return f"{marks.count(None)} of {len(marks)} partitions have no watermark yet: nothing is judged in them."
    if not marks:
        return "No worker shows a partition."
    return f"The oldest watermark is {span(max(0.0, now - min(marks)))} behind the clock of this worker."


def _watermarks_section(fleet: Mapping[str, Any], *, now: float) -> Html:
    rows = (_partition(row, now) for row in fleet["partitions"])
    return section("watermarks", "Watermarks", table("How far the log of each partition is read", _COLUMNS, rows))


def _partition(row: Mapping[str, Any], now: float) -> Iterable[Child]:
    return (
        row["partition"],
        f"{row['jobs']:,}",
        time_of(row["watermark"], now),
        time_of(row["last_append_at"] or None, now),
        f"{len(row['marked'])} of {row['source_partitions']}",
        row["feed_gaps"],
    )


def _admission_section(restarts: Mapping[str, Any], *, now: float) -> Html:
    valve = restarts.get("admission")
    if valve is None:
        return section("admission", "What holds restarts back", notice(str(restarts.get("error", "not known"))))
    in_flight = (element("li", link(each["job"], action_path(each["action"])), " since ", time_of(each["since"], now))
                 for each in valve["in_flight"])  # fmt: skip
    return section(
        "admission",
        "What holds restarts back",
        notice(*_held_back(valve)),
        described(list(admission_lines(valve, wide=False))),
        element("h3", "Under way") if valve["in_flight"] else None,
        element("ul", *in_flight) if valve["in_flight"] else None,
    )


def _held_back(valve: Mapping[str, Any]) -> Iterator[str]:
    """Give what a person must not overlook."""
    if valve["phase"] != Phase.CALM:
        yield f"{valve['phase']}: {PHASES.get(valve['phase'], 'restarts are held back')}"
    rollout = valve.get("rollout")  # None also of a worker that knows nothing of it
    if rollout is not None and rollout["in_the_way"]:
        yield rollout["in_the_way"] + ("" if rollout["holds"] else " (a warning, nothing is held)")
    for pause in valve["pauses"]:
        yield f"paused: {'all Jobs' if pause['scope'] == ALL_JOBS else pause['scope']}"
    # A worker of before tells neither.
    if quarantined := valve.get("quarantined"):
        yield f"in quarantine: {number_of(len(quarantined), 'Job')}"
    if waiting := valve.get("waiting_for_a_person"):
        yield f"restarts that wait for a person: {len(waiting)}"


def _last_section(restarts: Mapping[str, Any], *, now: float) -> Html:
    if "actions" not in restarts:
        return section("last", "Last restarts", element("p", "They cannot be told right now."))
    listed = list_actions(restarts["actions"])[:LAST]
    more = element("p", link("All that is remembered", "/actions/"))
    return section("last", "Last restarts", actions_table(listed, now=now), more)
