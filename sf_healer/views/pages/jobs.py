"""The table of Jobs: a form that filters, a strip of silence for each Job, and the parts of a long list."""

from collections.abc import Iterable, Mapping
from typing import Any

from sf_healer.core.verdicts import RESTARTABLE, Verdict
from sf_healer.views.holding import held_by
from sf_healer.views.lines import in_short, missing_notes, span
from sf_healer.views.pages.markup import Child, Html, element, fragment, job_path, link, table, verdict_mark
from sf_healer.views.pages.shell import Frame, draw, notice, section, time_of
from sf_healer.views.selection import SICK, Order, Place, Selection

_COLUMNS = ("Job", "Verdict", "Silence of its threshold", "Why", "Last loading", "Restarts", "Target")
_SICK_COLUMNS = (*_COLUMNS, "Held by")
#: From this part of its threshold on, a silence is drawn warmer.
_HEAT = (0.5, 0.8, 1.0)
_STRIP_WIDTH = 60


def draw_jobs(
    data: Mapping[str, Any], asked: Selection, *, frame: Frame, valve: Mapping[str, Any] | None = None
) -> str:
    """Draw the table of Jobs as a page of its own; `data` is what the JSON twin shows of a part."""
    return draw("Jobs", jobs_section(data, asked, path="/jobs/", now=frame.now, valve=valve), frame=frame)


def jobs_section(
    data: Mapping[str, Any], asked: Selection, *, path: str, now: float, valve: Mapping[str, Any] | None
) -> Html:
    """Draw one part of the list, below the form that asks for another; the form is not refreshed under the hand.

    `valve` is what admission shows; without it of a sick Job the last answer is told.
    """
    notes = notice(*missing_notes(data))
    # Only the sick are held by anything.
    columns = _SICK_COLUMNS if any(row["verdict"] in RESTARTABLE for row in data["jobs"]) else _COLUMNS
    cells = (_row(row, now, valve)[: len(columns)] for row in data["jobs"])
    rows = table(_caption(data), columns, cells, class_="stack")
    shown = element("div", notes, rows if data["jobs"] else element("p", _nothing(asked)), id="listed", data_live=True)
    paging = element("div", _paging(data, asked, path), id="parts", data_live=True)
    return section("jobs", "Jobs", _form(asked, path), shown, paging, live=False)


def silence_strip(silence_seconds: float, threshold_seconds: float) -> Html:
    """Draw how much of its threshold a silence has used up; the numbers stand beside it."""
    if threshold_seconds <= 0.0:
        return element("span", "not counted", class_="quiet")
    used = max(0.0, silence_seconds / threshold_seconds)
    heat = sum(used >= limit for limit in _HEAT)
    ground = element("rect", class_="ground", width=_STRIP_WIDTH, height=8, rx=2)
    filled = element("rect", class_=f"heat-{heat}", width=f"{min(1.0, used) * _STRIP_WIDTH:.1f}", height=8, rx=2)
    picture = element(
        "svg", ground, filled, class_="strip", viewBox=f"0 0 {_STRIP_WIDTH} 8", preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip
    over = element("strong", " over") if used >= 1.0 else None
    return element("span", picture, f"{span(silence_seconds)} of {span(threshold_seconds)}", over, class_="silence")


def _row(row: Mapping[str, Any], now: float, valve: Mapping[str, Any] | None) -> tuple[Child, ...]:
    return (
        link(row["job"], job_path(row["job"])),
        verdict_mark(row["verdict"]),
        silence_strip(row["silence_seconds"], row["threshold_seconds"]),
        row["rule"],
        time_of(row["last_loading_at"], now) if row["last_loading_at"] is not None else "never",
        row["attempt"],
        row["target"],
        in_short(held_by(row, valve), now),
    )


def _caption(data: Mapping[str, Any]) -> str:
    first, count, total = data["first"], len(data["jobs"]), data["total"]
    return f"Jobs {first:,} to {first + count - 1:,} of {total:,}, the sick ones first" if count else "No Jobs"


def _nothing(asked: Selection) -> str:
    return "No Job is like this." if asked.query() else "No Job is known yet."


def _form(asked: Selection, path: str) -> Html:
    chosen = asked.verdicts[-1] if asked.verdicts else ""
    states = [("", "any"), (SICK, "sick: to be restarted"), *((verdict, verdict) for verdict in Verdict)]
    orders = [(Order.NAME, "name"), (Order.SILENCE, "silence, the longest first")]
    return element(
        "form",
        _choice("verdict", "Verdict", states, chosen),
        _field("target", "Target", asked.targets[-1] if asked.targets else ""),
        _field("text", "Job, target or queue has", asked.text),
        _choice("order", "In order of", orders, asked.order),
        element("button", "Show", type="submit"),
        link("Show all", path) if asked.query() else None,
        method="get",
        action=path,
        role="search",
        aria_label="Filter Jobs",
    )


def _choice(name: str, label: str, options: Iterable[tuple[str, str]], chosen: str) -> Html:
    drawn = (element("option", told, value=value, selected=value == chosen) for value, told in options)
    return element("label", label, element("select", *drawn, name=name))


def _field(name: str, label: str, value: str) -> Html:
    return element("label", label, element("input", type="search", name=name, value=value, autocomplete="off"))


def _paging(data: Mapping[str, Any], asked: Selection, path: str) -> Html | None:
    before, after = data["before"], data["after"]
    if before is None and after is None:
        return None
    steps = [("First", asked.query(after=None, before=None), before is not None)]
    if before is not None:
        steps.append(("Previous", asked.query(after=None, before=Place.read(before)), True))
    if after is not None:
        steps.append(("Next", asked.query(after=Place.read(after), before=None), True))
    links = (element("li", link(told, path, query)) for told, query, is_there in steps if is_there)
    return element("nav", element("ul", *links), class_="paging", aria_label="Parts of the list")


def verdict_counts(verdicts: Mapping[str, int], *, path: str) -> Html:
    """Draw how many Jobs there are of each verdict, the sick first, each with the way to them."""
    ordered = sorted(verdicts.items(), key=lambda item: (item[0] not in RESTARTABLE, -item[1], item[0]))
    counts = (
        element("li", link(fragment(element("strong", f"{count:,}"), " ", verdict_mark(verdict)), path, _of(verdict)))
        for verdict, count in ordered
    )
    return element("ul", *counts, class_="counts") if verdicts else element("p", "No Job is known yet.")


def _of(verdict: str) -> list[tuple[str, str]]:
    return Selection(verdicts=(verdict,)).query()
