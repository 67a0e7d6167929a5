"""The dashboard at `/`, and the fleet alone: counts, watermarks, what holds restarts back, Jobs, the last restarts."""

from collections.abc import Iterable, Mapping
from typing import Any

from sf_healer.views.actions import list_actions
from sf_healer.views.lines import admission_lines, missing_notes, span
from sf_healer.views.pages.actions import actions_table
from sf_healer.views.pages.jobs import jobs_section, verdict_counts
from sf_healer.views.pages.markup import Child, Html, action_path, element, fragment, link, table
from sf_healer.views.pages.shell import Frame, described, draw, notice, section, time_of
from sf_healer.views.selection import Selection

_COLUMNS = ("Partition", "Jobs", "Watermark", "Last record", "Source partitions marked", "Feed gaps")
#: So many restarts are shown on the dashboard.
LAST = 10
#: More partitions than this are folded away behind one line.
_PARTITIONS_SHOWN = 12


def draw_overview(data: Mapping[str, Any], asked: Selection, *, frame: Frame) -> str:
    """Draw the dashboard; `data` is what the JSON twin shows."""
    sections = (
        _fleet_section(data["fleet"], now=frame.now),
        _admission_section(data["restarts"], now=frame.now),
        jobs_section(data["jobs"], asked, path="/", now=frame.now),
        _last_section(data["restarts"], now=frame.now),
    )
    return draw("Fleet", *sections, frame=frame)


def draw_fleet(data: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw the fleet alone."""
    return draw("Fleet in numbers", _fleet_section(data, now=frame.now), frame=frame)


def _fleet_section(fleet: Mapping[str, Any], *, now: float) -> Html:
    return section(
        "fleet",
        f"{fleet['jobs']:,} Jobs",
        notice(*missing_notes(fleet)),
        verdict_counts(fleet["verdicts"], path="/"),
        _watermarks(fleet["partitions"], now),
    )


def _watermarks(partitions: list[dict[str, Any]], now: float) -> Html:
    """Draw how far the log of each partition is read: without marks nothing is judged there."""
    if not partitions:
        return element("p", "No worker shows a partition.")
    marks = [row["watermark"] for row in partitions]
    if None in marks:
        told = f"{marks.count(None)} of {len(marks)} partitions have no watermark yet: nothing is judged in them."
    else:
        told = f"The oldest watermark is {span(max(0.0, now - min(marks)))} behind the clock of this worker."
    rows = table("How far the log of each partition is read", _COLUMNS, (_partition(row, now) for row in partitions))
    folded = element(
        "details", element("summary", f"{len(partitions)} partitions"), rows, id="partitions",
        open=len(partitions) <= _PARTITIONS_SHOWN,
    )  # fmt: skip
    return fragment(element("p", told), folded)


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
        described(list(admission_lines(valve, wide=False))),
        element("h3", "Under way") if valve["in_flight"] else None,
        element("ul", *in_flight) if valve["in_flight"] else None,
    )


def _last_section(restarts: Mapping[str, Any], *, now: float) -> Html:
    if "actions" not in restarts:
        return section("last", "Last restarts", element("p", "They cannot be told right now."))
    listed = list_actions(restarts["actions"])[:LAST]
    return section("last", "Last restarts", actions_table(listed, now=now), link("All that is remembered", "/actions/"))
