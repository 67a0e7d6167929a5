"""The page for people: one table of Jobs, drawn on the server from the same rows as the JSON views.

Works without JavaScript and without a network: it refreshes itself by the browser's own means. Only draws.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sf_healer.core.verdicts import RESTARTABLE

REFRESH_SECONDS = 2
_SICK = RESTARTABLE
_COLUMNS = ("Job", "verdict", "rule", "silent for", "threshold", "restarts", "target")
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 1rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th, td { padding: .3rem .6rem .3rem 0; text-align: left; }
td:first-child { overflow-wrap: anywhere; }
.sick { color: light-dark(#a40000, #ff8a80); font-weight: 600; }
.well { color: light-dark(#1b5e20, #81c784); }
"""


def draw_jobs(rows: Sequence[Mapping[str, Any]], *, unreachable: Sequence[str], limit: int = 500) -> str:
    """Draw the table of Jobs, the sick ones first; at most `limit` rows, and says so when there are more."""
    ordered = sorted(rows, key=lambda row: (row["verdict"] not in _SICK, row["job"]))
    verdicts: dict[str, int] = {}
    for row in rows:
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "no Jobs yet"
    warning = f'<p class="sick">Not answering: {escape(", ".join(unreachable))}</p>' if unreachable else ""
    more = f"<p>{len(ordered) - limit} more in <a href='/jobs/'>/jobs/</a>.</p>" if len(ordered) > limit else ""
    head = "".join(f"<th scope=col>{column}</th>" for column in _COLUMNS)
    body = "".join(_row(row) for row in ordered[:limit])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content={REFRESH_SECONDS}>"
        f"<meta name=viewport content='width=device-width, initial-scale=1'><title>sf-healer</title>"
        f"<style>{_STYLE}</style><h1>sf-healer</h1><p>{escape(counts)}. JSON: <a href='/jobs/'>/jobs/</a>, "
        f"<a href='/actions/'>/actions/</a>, <a href='/fleet/'>/fleet/</a>, <a href='/metrics'>/metrics</a></p>"
        f"{warning}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</html>"
    )


def _row(row: Mapping[str, Any]) -> str:
    job, verdict = escape(str(row["job"])), escape(str(row["verdict"]))
    kind = "sick" if verdict in _SICK else "well" if verdict == "healthy" else ""
    cells = (
        f"<a href='/jobs/{job}/'>{job}</a>",
        f"<span class='{kind}'>{verdict}</span>",
        escape(str(row["rule"])),
        f"{row['silence_seconds']:.0f} s",
        f"{row['threshold_seconds']:.0f} s",
        str(row["attempt"]),
        escape(str(row["target"])),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
