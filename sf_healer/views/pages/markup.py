"""HTML that cannot be broken by what it shows: every text is escaped unless it is `Html` already.

Job names, messages and evidence come from outside; `element` is the only place that makes HTML of them.
"""

from collections.abc import Iterable
from html import escape
from typing import Final
from urllib.parse import quote, urlencode

from sf_healer.core.verdicts import RESTARTABLE


class Html(str):
    """Text that is HTML already. Made by `element` and `fragment`, of constants and of nothing else."""

    __slots__ = ()


Child = Html | str | int | float | None
NOTHING: Final = Html()
#: They have no end tag (HTML Living Standard, "void elements").
_VOID = frozenset({"input", "link", "meta"})


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Make an element: children and attributes are escaped, an attribute that is None or False is left out.

    An attribute is written `class_` or `aria_label` where Python does not let it be written as it is.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{fragment(*children)}</{name}>")


def fragment(*children: Child) -> Html:
    """Put children one after the other."""
    return Html("".join(_child(child) for child in children))


def words(*children: Child) -> Html:
    """Put children one after the other, with a blank between them."""
    return Html(" ".join(_child(child) for child in children if child not in {None, ""}))


def _child(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Html) else escape(str(child), quote=True)


def _attribute(key: str, value: str | float | bool | None) -> str:  # noqa: FBT001  an attribute may be bare
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'


def table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[Child]], *, class_: str | None = None) -> Html:
    """Draw a table; the first cell of a row is its heading."""
    titles = tuple(columns)
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    drawn = (_table_row(titles, list(row)) for row in rows)
    inner = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *drawn), class_=class_
    )
    # A wide table scrolls by itself, so that the page does not; whoever has only a keyboard must reach it.
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _table_row(titles: tuple[str, ...], cells: list[Child]) -> Html:
    first, *others = cells
    # On a phone a row stands as a block, below no heading: the style sheet then writes the title before each cell.
    told = (element("td", cell, data_title=title) for title, cell in zip(titles[1:], others, strict=True))
    return element("tr", element("th", first, scope="row"), *told)


def link(text: Child, path: str, query: Iterable[tuple[str, str]] = (), **attributes: str | None) -> Html:
    """Link to a page of ours; `path` is quoted already where it must be."""
    asked = urlencode(list(query))
    return element("a", text, href=path + (f"?{asked}" if asked else ""), **attributes)


def job_path(key: str) -> str:
    """Give the path of a Job's page."""
    return f"/jobs/{quote(key, safe='/')}/"


def action_path(action_id: str) -> str:
    """Give the path of an action's page."""
    return f"/actions/{quote(action_id, safe='')}/"


def verdict_mark(verdict: str) -> Html:
    """Draw a verdict; a sign tells the sick from the well where colours do not."""
    kind, sign = ("sick", "▲ ") if verdict in RESTARTABLE else ("well", "● ") if verdict == "healthy" else ("other", "")
    return element("span", element("span", sign, aria_hidden="true") if sign else None, verdict, class_=kind)
