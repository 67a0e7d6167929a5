"""Pages draw what the JSON twins show, and nothing that a name, a message or a query could smuggle in."""

import itertools
import re
from html.parser import HTMLParser

import msgspec
import pytest

from sf_healer.core.actions import State
from sf_healer.views.actions import list_actions
from sf_healer.views.lines import clock, moment
from sf_healer.views.pages import assets, shell
from sf_healer.views.pages.actions import MOST_LISTED, draw_action, draw_actions
from sf_healer.views.pages.fleet import draw_fleet, draw_overview
from sf_healer.views.pages.job import draw_job
from sf_healer.views.pages.jobs import draw_jobs, silence_strip
from sf_healer.views.pages.markup import Html, element
from sf_healer.views.pages.negotiation import wants_page
from sf_healer.views.pages.shell import Frame, draw_problem
from sf_healer.views.selection import Selection, select
from sf_healer.views.words import STATES
from tests.core.shown import IDLE, SECRET, SICK, WELL, the_pages
from tests.core.strategies import T0

PAGES = {path: msgspec.json.decode(msgspec.json.encode(body)) for path, (_, body) in the_pages().items()}
(ACTION,) = [path for path in PAGES if re.fullmatch("/actions/.+/", path)]
FRAME = Frame(T0 + 60.0, "/?format=json")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"input", "link", "meta"}


def a_part(rows, asked=Selection(), **changes):  # noqa: B008  frozen
    part = msgspec.structs.asdict(select(rows, asked))
    return {**part, "first": 1, "before": None, "after": None, "unreachable": [], "partitions_missing": []} | changes


def an_overview(asked=Selection(), **changes):  # noqa: B008  frozen
    data = {"fleet": PAGES["/fleet/"], "jobs": a_part(PAGES["/jobs/"]["jobs"], asked), "restarts": PAGES["/actions/"]}
    return draw_overview(data | changes, asked, frame=FRAME)


class Reader(HTMLParser):
    """Reads a page as a browser would: elements in order, and the text in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def every_page():
    part = a_part(PAGES["/jobs/"]["jobs"], before="1:0.0:a", after="1:0.0:z", partitions_missing=[4], unreachable=["w"])
    place = {"number": 3, "topic": "t", "owner": None, "state": "nobody has it", "asked": "http://w"}
    return {
        "overview": an_overview(),
        "overview without restarts": an_overview(restarts={"error": "no worker owns the steps log right now"}),
        "jobs": draw_jobs(part, Selection(text="x"), frame=FRAME),
        "no jobs": draw_jobs(a_part([]), Selection(), frame=FRAME),
        "fleet": draw_fleet(PAGES["/fleet/"], frame=FRAME),
        "empty fleet": draw_fleet({"jobs": 0, "verdicts": {}, "partitions": []}, frame=FRAME),
        "job": draw_job(PAGES[f"/jobs/{SICK}/"], PAGES["/actions/"], frame=FRAME),
        "job alone": draw_job(PAGES[f"/jobs/{WELL}/"], {"error": "no worker owns the steps log"}, frame=FRAME),
        "actions": draw_actions(PAGES["/actions/"], frame=FRAME),
        "action": draw_action(PAGES[ACTION], frame=FRAME),
        "ended action": draw_action(an_ended_action(), frame=FRAME),
        "problem": draw_problem(503, {"error": "not now", "partition": place}, frame=FRAME),
    }


def an_ended_action(**changes):
    outcome = {
        "command_id": "c-1", "key": SICK, "uid": "u1", "result": "restarted", "reason": "verified", "at": T0 + 30.0,
        "new_uid": "u2", "attempt": 1, "detail": "", "verdict": "stuck", "policy": "loaders", "requested_by": "",
        "evidence": {"last_seen": T0, "silence_seconds": 44.0, "threshold_seconds": 40.0}, "final": True,
        "needs_person": False, "quarantined": False,
        "steps": [["admitted", T0 + 10.0], ["saved", T0 + 10.5], ["gone", T0 + 12.0], ["verifying", T0 + 13.0]],
    }  # fmt: skip
    return {"id": "c-1", "job": SICK, "action": None, "outcomes": [outcome | changes]}


# ---- what every page has


@pytest.mark.parametrize("name", every_page())
def test_every_page_is_well_formed_and_needs_nothing_that_its_own_policy_forbids(name):
    reader = Reader(every_page()[name])
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [attributes["src"] for attributes in reader.all("script")] == [assets.SCRIPT.path]
    for tag, attributes in reader.elements:
        assert tag != "style"
        assert "style" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        for address in (attributes.get("href"), attributes.get("src"), attributes.get("action")):
            assert address is None or address[0] in "/#", address
            assert address is None or not address.startswith("//")


@pytest.mark.parametrize("name", every_page())
def test_every_page_can_be_heard_and_walked_through_with_a_keyboard(name):
    reader = Reader(every_page()[name])
    assert reader.all("html") == [{"lang": "en"}]
    assert len(reader.all("h1")) == 1
    assert len(reader.all("table")) == len(reader.all("caption"))
    assert all("scope" in attributes for attributes in reader.all("th"))
    ids = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    assert all(attributes["aria-labelledby"] in ids for attributes in reader.all("section"))
    assert len(reader.all("label")) == len(reader.all("input")) + len(reader.all("select"))
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert all(later <= before + 1 for before, later in itertools.pairwise(levels))


@pytest.mark.parametrize("name", every_page())
def test_no_page_shows_the_value_of_a_jobs_env(name):
    assert SECRET not in every_page()[name]


@pytest.mark.parametrize("name", every_page())
def test_every_page_names_its_twin_in_json(name):
    assert {"href": "/?format=json"} in Reader(every_page()[name]).all("a")


def poisoned(value):
    """Put markup into every text of some data, but where the text is one of ours that something is chosen by."""
    ours = {"stuck", "healthy", "stranded", "error"}
    if isinstance(value, dict):
        return {key: poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return value + EVIL if isinstance(value, str) and value not in ours else value


def test_markup_in_any_text_of_the_data_is_shown_as_text():
    evil = {path: poisoned(page) for path, page in PAGES.items()}
    asked = Selection(text=EVIL, targets=(EVIL,), namespace=EVIL)
    part = a_part(PAGES["/jobs/"]["jobs"], unreachable=[EVIL], before=f"1:0.0:{EVIL}", after=f"1:0.0:{EVIL}")
    part["jobs"] = evil["/jobs/"]["jobs"]
    records = {key + EVIL: record for key, record in evil["/actions/"]["actions"].items()}
    restarts = {**evil["/actions/"], "actions": records}
    place = {"number": EVIL, "topic": EVIL, "owner": EVIL, "state": EVIL, "asked": EVIL}
    frame = Frame(T0 + 60.0, f"/?text={EVIL}&format=json")
    drawn = [
        draw_overview({"fleet": evil["/fleet/"], "jobs": part, "restarts": restarts}, asked, frame=frame),
        draw_jobs(part, asked, frame=frame),
        *(draw_job(evil[f"/jobs/{key}/"], restarts, frame=frame) for key in (SICK, WELL, IDLE)),
        draw_job(evil[f"/jobs/{SICK}/"], {"error": EVIL}, frame=frame),
        draw_actions(restarts, frame=frame),
        draw_action(evil[ACTION], frame=frame),
        draw_action(poisoned(an_ended_action(result=EVIL)), frame=frame),
        draw_problem(503, {"error": EVIL, "partition": place}, frame=frame),
    ]
    for page in drawn:
        reader = Reader(page)
        assert "alert(1)" in reader.text
        assert reader.open == []
        assert len(reader.all("script")) == 1
        assert reader.all("img") == []
        assert "<img" not in page


def test_text_is_escaped_in_elements_and_in_attributes_unless_it_is_html_already():
    assert element("p", EVIL, title=EVIL).count("<") == 2
    assert element("p", element("b", 1), None, Html("<i>x</i>")) == "<p><b>1</b><i>x</i></p>"
    assert element("input", disabled=True, checked=False, value=None, class_="a", data_live=True) == (
        '<input disabled class="a" data-live>'
    )


def test_a_time_that_no_calendar_has_is_shown_as_it_is():
    assert moment(1e12) == "1000000000000"
    assert moment(-1e12) == "-1000000000000"
    job = {**PAGES[f"/jobs/{SICK}/"], "last_loading_at": 1e12}
    job["said"] = {**job["said"], "error_at": 1e12, "error": "x"}
    assert "1000000000000: x" in Reader(draw_job(job, PAGES["/actions/"], frame=FRAME)).text


# ---- the dashboard


def test_the_dashboard_counts_tells_how_far_the_logs_are_read_and_what_holds_restarts_back():
    reader = Reader(an_overview())
    assert {"href": "/?verdict=stuck"} in reader.all("a")
    for told in (
        "3 Jobs",
        "The oldest watermark is 9s behind",
        "2 of 10 within 10m, 1 of them consumers that may be idle",
        f"target:loader until {moment(T0 + 51 + 600)}: [bold]maintenance by ann",
        "Jobs 1 to 3 of 3, the sick ones first",
        "under way: saved",
        "silence, 44s of 40s",
    ):
        assert told in reader.text
    assert reader.text.index(SICK) < reader.text.index(WELL)


def test_the_dashboard_says_which_jobs_and_which_restarts_it_cannot_tell():
    fleet = {**PAGES["/fleet/"], "unreachable": ["http://w2:6066"], "partitions_missing": [3, 4]}
    text = Reader(an_overview(fleet=fleet, restarts={"error": "no worker owns the steps log right now"})).text
    assert "no answer from http://w2:6066" in text
    assert "the Jobs of partitions 3, 4" in text
    assert "no worker owns the steps log right now" in text


def test_a_storm_and_pauses_cannot_be_overlooked():
    valve = {**PAGES["/actions/"]["admission"], "phase": "storm"}
    valve["pauses"] = [{**valve["pauses"][0], "scope": "*"}]
    reader = Reader(an_overview(restarts={**PAGES["/actions/"], "admission": valve}))
    assert "Careful: storm: too many Jobs turned unhealthy together" in reader.text
    assert "paused: all Jobs" in reader.text
    more = {"quarantined": [{"job": "stf/a"}], "waiting_for_a_person": [{"job": "stf/b"}, {"job": "stf/c"}]}
    text = Reader(an_overview(restarts={**PAGES["/actions/"], "admission": valve | more})).text
    assert "in quarantine: 1 Job; restarts that wait for a person: 2" in text
    calm = {**valve, "phase": "calm", "pauses": []}
    assert "Careful" not in Reader(an_overview(restarts={**PAGES["/actions/"], "admission": calm})).text


def test_messages_that_could_not_be_read_are_counted_with_what_shows_them():
    assert "dead-letters" not in an_overview()
    fleet = {**PAGES["/fleet/"], "dead_letters": {"not_json": 1750}}
    assert "1,750 messages could not be read (1,750 not_json)" in Reader(an_overview(fleet=fleet)).text
    restarts = {**PAGES["/actions/"], "dead_letters": {"not_a_pause": 1}}
    told = "1,751 messages could not be read (1,750 not_json, 1 not_a_pause)"
    assert told in Reader(an_overview(fleet=fleet, restarts=restarts)).text


def test_a_partition_without_a_watermark_is_said_to_judge_nothing():
    fleet = {**PAGES["/fleet/"], "partitions": [{**PAGES["/fleet/"]["partitions"][0], "watermark": None}]}
    assert "1 of 1 partitions have no watermark yet" in Reader(draw_fleet(fleet, frame=FRAME)).text


@pytest.mark.parametrize(
    ("silence", "heat"), [(0.0, 0), (19.9, 0), (20.0, 1), (32.0, 2), (39.9, 2), (40.0, 3), (9e9, 3)]
)
def test_the_strip_is_as_long_as_the_part_of_the_threshold_that_is_used_up_and_tells_it_in_numbers(silence, heat):
    reader = Reader(silence_strip(silence, 40.0))
    _, filled = reader.all("rect")
    assert filled["class"] == f"heat-{heat}"
    assert float(filled["width"]) == pytest.approx(min(1.0, silence / 40.0) * 60, abs=0.1)
    assert "of 40s" in reader.text
    assert ("over" in reader.text) == (silence >= 40.0), "not by its colour alone"


def test_where_no_silence_is_counted_no_strip_is_drawn():
    assert Reader(silence_strip(5.0, 0.0)).all("rect") == []


def test_of_sick_jobs_it_is_told_what_holds_them_back():
    rows, valve = PAGES["/jobs/"]["jobs"], PAGES["/actions/"]["admission"]
    sick = [row for row in rows if row["job"] == SICK]
    text = Reader(draw_jobs(a_part(rows), Selection(), frame=FRAME, valve=valve)).text
    assert "Held by" in text
    assert "under way" in text
    assert "asked for, no answer yet" in Reader(draw_jobs(a_part(sick), Selection(), frame=FRAME)).text
    storm = {**valve, "in_flight": [], "pauses": [], "restarts_held_by": {"reason": "storm", "until": T0 + 90.0}}
    text = Reader(draw_jobs(a_part(sick), Selection(), frame=FRAME, valve=storm)).text
    assert f"storm until {clock(T0 + 90.0)}" in text
    well = [row for row in rows if row["job"] == WELL]
    assert "Held by" not in draw_jobs(a_part(well), Selection(), frame=FRAME, valve=valve)


def test_the_parts_of_a_long_list_are_linked_with_the_filter_kept():
    part = a_part(PAGES["/jobs/"]["jobs"], total=500, first=101, before="1:0.0:stf/b", after="1:0.0:stf/z")
    reader = Reader(draw_jobs(part, Selection(verdicts=("healthy",), text="a b"), frame=FRAME))
    kept = "/jobs/?verdict=healthy&text=a+b"
    assert "Jobs 101 to 103 of 500" in reader.text
    linked = [attributes["href"] for attributes in reader.all("a")]
    assert kept in linked
    assert f"{kept}&before=1%3A0.0%3Astf%2Fb" in linked
    assert f"{kept}&after=1%3A0.0%3Astf%2Fz" in linked


def test_the_form_shows_what_was_asked_for():
    reader = Reader(draw_jobs(a_part([]), Selection(verdicts=("idle",), text='"x"', targets=("t",)), frame=FRAME))
    assert {attributes["name"]: attributes["value"] for attributes in reader.all("input")} == {
        "target": "t",
        "text": '"x"',
    }
    assert [attributes["value"] for attributes in reader.all("option") if "selected" in attributes] == ["idle", "name"]
    assert "No Job is like this" in reader.text


# ---- one Job, one restart


def test_a_job_is_shown_with_why_what_follows_and_its_restarts():
    reader = Reader(draw_job(PAGES[f"/jobs/{SICK}/"], PAGES["/actions/"], frame=FRAME))
    for told in (
        "stuck (loading_stopped: it sent `loading`",
        "50s of 40s",
        "under way: saved",
        "[bold]maintenance",
        "silence_threshold_seconds",
        "u-sick",
    ):
        assert told in reader.text
    assert {"href": ACTION} in reader.all("a")


def test_a_job_that_is_not_restarted_says_why_not_and_when_it_looks_again():
    text = Reader(draw_job(PAGES[f"/jobs/{IDLE}/"], PAGES["/actions/"], frame=FRAME)).text
    assert "refused, idle: its group is idle" in text
    assert f"looks again{moment(T0 + 51 + 40)}" in text


def test_a_restart_under_way_is_a_tree_of_its_steps_with_their_times_and_meanings():
    text = Reader(draw_action(PAGES[ACTION], frame=FRAME)).text
    assert "silent for44s of 40s" in text
    assert text.index("admitted") < text.index(STATES[State.ADMITTED]) < text.index(STATES[State.SAVED])
    assert "delete asked for at" in text


def test_a_restart_that_ended_says_how_and_how_long_each_step_took():
    text = Reader(draw_action(an_ended_action(), frame=FRAME)).text
    assert f"saved {moment(T0 + 10.5)} +0.5 s for 1.5 s" in text
    assert "restarted, verified: the new incarnation gave a sign of life" in text
    assert "attempt 1, new incarnation u2" in text


def test_a_restart_that_waits_for_a_person_says_so_first():
    action = {**PAGES[ACTION]["action"], "state": "stranded", "refusal": "quota exceeded"}
    text = Reader(draw_action({**PAGES[ACTION], "action": action}, frame=FRAME)).text
    assert text.index("waits for a person") < text.index("quota exceeded") < text.index(STATES[State.ADMITTED])
    listed = {SICK: {"recent": [], "action": action}}
    assert "waits for a person: stranded" in Reader(draw_actions({"actions": listed}, frame=FRAME)).text


def test_a_restart_that_a_person_asked_for_says_who():
    (asked,) = an_ended_action(verdict="requested", requested_by="ann@box")["outcomes"]
    assert "requested by ann@box" in Reader(draw_actions({"actions": {SICK: {"recent": [asked]}}}, frame=FRAME)).text
    action = {**PAGES[ACTION]["action"], "command": {**PAGES[ACTION]["action"]["command"], "requested_by": "bob@box"}}
    text = Reader(draw_actions({"actions": {SICK: {"recent": [], "action": action}}}, frame=FRAME)).text
    assert "stuck by bob@box" in text


def test_a_restart_is_listed_once_by_the_last_that_was_told_of_it():
    (first,) = an_ended_action()["outcomes"]
    early = {**first, "final": False, "needs_person": True, "reason": "delete_overdue", "at": T0 + 20.0}
    other = {**first, "command_id": "c-0", "at": T0}
    listed = list_actions({SICK: {"recent": [other, early, first]}})
    assert [(entry["id"], entry["reason"]) for entry in listed] == [("c-1", "verified"), ("c-0", "verified")]


def test_more_restarts_than_a_page_holds_are_said_to_be_left_out():
    (outcome,) = an_ended_action()["outcomes"]
    many = {f"stf/{n}": {"recent": [{**outcome, "command_id": f"c-{n}"}]} for n in range(MOST_LISTED + 3)}
    reader = Reader(draw_actions({"actions": many}, frame=FRAME))
    assert "3 older ones are in the JSON only" in reader.text
    assert len(reader.all("tr")) == MOST_LISTED + 1


def test_a_worker_without_jobs_links_to_none():
    frame = Frame(T0, "/actions/?format=json", has_jobs=False)
    for page in (draw_actions(PAGES["/actions/"], frame=frame), draw_action(PAGES[ACTION], frame=frame)):
        assert [a["href"] for a in Reader(page).all("a") if a["href"].startswith("/jobs/") or a["href"] == "/"] == []
        assert SICK in page


def test_what_cannot_be_told_right_now_is_told_with_the_state_of_its_partition():
    place = {"number": 3, "topic": "t", "owner": "http://w2", "state": "1,200 of 5,000 restored", "asked": "http://w1"}
    text = Reader(draw_problem(503, {"error": "it is recovering", "partition": place}, frame=FRAME)).text
    for told in ("This cannot be told right now", "it is recovering", "http://w2", "1,200 of 5,000 restored"):
        assert told in text
    assert "Nobody knows this" in draw_problem(404, {"error": "no Job"}, frame=FRAME)


# ---- page or JSON


@pytest.mark.parametrize(
    ("accept", "asked", "page"),
    [
        ("", None, False),
        ("*/*", None, False),
        ("application/json", None, False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None, True),
        ("text/html", None, True),
        ("TEXT/HTML ; q=0.5, application/json;q=0.4", None, True),
        ("text/html;q=0.4, application/json;q=0.5", None, False),
        ("application/json, text/html", None, False),
        ("text/html;q=0", None, False),
        ("text/html;q=much", None, False),
        ("text/*", None, False),
        ("text/html", "json", False),
        ("application/json", "html", True),
        ("text/html", "xml", False),
    ],
)
def test_the_page_goes_to_who_names_html_and_json_to_everybody_else(accept, asked, page):
    assert wants_page(accept, asked) is page


def test_what_pages_load_is_in_the_package_and_asks_nobody_else():
    assert set(assets.BY_NAME) == {"style.css", "refresh.js", "icon.svg"}
    for asset in assets.BY_NAME.values():
        assert asset.content
        assert re.findall(rb"(?:https?:)?//[a-z]", asset.content.replace(b"http://www.w3.org/2000/svg", b"")) == []
    assert b"innerHTML" not in assets.SCRIPT.content
    assert b"prefers-color-scheme: dark" in assets.STYLE.content
    policy = shell.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
