"""What every page has around its sections: head, navigation, the time it was drawn; and the pages that say no.

Pages work without JavaScript. With it `static/refresh.js` fetches the page again and puts in place every element
that has `data-live` and an id.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sf_healer import __version__
from sf_healer.views.lines import Line, dead_letters_in_short, moment, number_of, span
from sf_healer.views.pages.assets import ICON, SCRIPT, STYLE
from sf_healer.views.pages.markup import NOTHING, Child, Html, element, link, words

#: Nothing is loaded from elsewhere, nothing inline is run or styled: what a name smuggles in would still do nothing.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


class Frame(msgspec.Struct, frozen=True):
    """What a page needs to know beside its data."""

    now: float  # epoch seconds by the worker's clock: for ages only, nothing is judged by it
    json_address: str  # of this page's JSON twin
    has_jobs: bool = True  # False: this worker answers for restarts only


def draw(title: str, *sections: Child, frame: Frame) -> str:
    """Draw a page."""
    pages = [("Fleet and Jobs", "/"), ("Actions", "/actions/")] if frame.has_jobs else [("Actions", "/actions/")]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · sf-healer"),
        element("link", rel="icon", href=ICON.path),
        element("link", rel="stylesheet", href=STYLE.path),
        element("script", src=SCRIPT.path, defer=True),
    )
    body = element(
        "body",
        element("a", "Skip to the content", class_="skip", href="#main"),
        element(
            "header",
            element("span", "sf-healer", class_="brand"),
            element(
                "nav",
                element("ul", *(element("li", link(name, path)) for name, path in pages)),
                aria_label="Pages",
            ),
            element("p", id="refreshing", role="status"),
        ),
        element("main", element("h1", title), *sections, id="main"),
        element(
            "footer",
            element("p", "As of ", time_of(frame.now), f" · sf-healer {__version__}", id="drawn", data_live=True),
            element("p", words("The same", element("a", "as JSON", href=frame.json_address))),
        ),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def section(name: str, heading: str, *children: Child, live: bool = True) -> Html:
    """Draw a section with its heading; a live one is refreshed in place."""
    return element(
        "section",
        element("h2", heading, id=f"{name}-heading"),
        *children,
        id=name,
        aria_labelledby=f"{name}-heading",
        data_live=live,
    )


def notice(*lines: str) -> Html:
    """Warn of what a page leaves out; nothing where it leaves nothing out."""
    return element("p", element("strong", "Careful: "), "; ".join(lines), class_="notice") if lines else NOTHING


def dead_letters(letters: Mapping[str, int]) -> Html:
    """Say how many messages could not be read, and what shows them; nothing where there are none."""
    if not letters:
        return NOTHING
    counted = f"{number_of(sum(letters.values()), 'message')} could not be read ({dead_letters_in_short(letters)})"
    told = f"{counted} since the workers started; "
    return element("p", told, element("code", "sf-healer dead-letters"), " shows them.")


def time_of(at: float | None, now: float | None = None) -> Html:
    """Write a time, and how long ago it was or how far it is where `now` is given."""
    if at is None:
        return Html("-")
    told = element("time", moment(at), datetime=moment(at).replace(" ", "T"))
    if now is None:
        return told
    age = f"{span(now - at)} ago" if now >= at else f"in {span(at - now)}"
    return words(told, element("span", f"({age})", class_="age"))


def described(lines: Sequence[Line]) -> Html:
    """Draw lines of (what, value) as a list of terms; those that begin with two blanks belong to the one above."""
    return element("dl", *(_term(what, value) for what, value in lines))


def _term(what: str, value: object) -> Html:
    below = "sub" if what.startswith(" ") else None
    return element("div", element("dt", what.strip()), element("dd", str(value)), class_=below)


def draw_problem(status: int, problem: Mapping[str, Any], *, frame: Frame) -> str:
    """Draw why there is nothing to show: 503 where another moment or worker may know more, 404 where none does."""
    titles = {400: "This question is not understood", 404: "Nobody knows this", 503: "This cannot be told right now"}
    place = problem.get("partition")
    state = section("partition", "State of the partition", described(_partition_lines(place))) if place else NOTHING
    again = "It comes back by itself; this page asks again." if status == 503 else ""  # noqa: PLR2004
    return draw(
        titles.get(status, f"Error {status}"),
        element(
            "div",
            element("p", str(problem.get("error", "")), class_="problem"),
            element("p", again) if again else None,
            state,
            id="problem",
            data_live=True,
        ),
        frame=frame,
    )


def _partition_lines(place: Mapping[str, Any]) -> list[Line]:
    lines: list[Line] = [("partition", place["number"]), ("of", place["topic"])]
    lines.append(("owner", place["owner"] or "nobody: the workers of the group are agreeing who has it"))
    lines.append(("state", place["state"]))
    lines.append(("asked", place["asked"]))
    return lines
