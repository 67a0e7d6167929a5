"""Which Jobs a query asks for: filters, order, and the parts of a long list, over one worker or several."""

import random

import pytest

from sf_healer.core.verdicts import RESTARTABLE
from sf_healer.views.selection import SICK, Order, Part, Place, Selection, SelectionError, merge, select


def a_row(job, verdict="healthy", **changes):
    known = {"job": job, "namespace": "stf", "verdict": verdict, "target": "loader", "queue_id": "q-1"}
    return {**known, "last_seen_at": 1000.0, **changes}


def jobs(part):
    return [row["job"] for row in part.jobs]


MIXED = [
    a_row("stf/a", target="consumer"),
    a_row("stf/b", "stuck", queue_id="q-2"),
    a_row("other/c", "failed", namespace="other"),
    a_row("stf/d", "completed"),
]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ([], {"stf/a", "stf/b", "other/c", "stf/d"}),
        ([("verdict", "stuck")], {"stf/b"}),
        ([("verdict", "stuck"), ("verdict", "completed")], {"stf/b", "stf/d"}),
        ([("verdict", SICK)], {"stf/b", "other/c"}),
        ([("target", "consumer")], {"stf/a"}),
        ([("queue", "q-2")], {"stf/b"}),
        ([("namespace", "other")], {"other/c"}),
        ([("text", "TF/A")], {"stf/a"}),
        ([("text", "Q-2")], {"stf/b"}),
        ([("text", "consum")], {"stf/a"}),
        ([("verdict", ""), ("target", " "), ("text", "")], {"stf/a", "stf/b", "other/c", "stf/d"}),
        ([("verdict", SICK), ("target", "consumer")], set()),
    ],
)
def test_jobs_are_filtered_by_what_the_query_says(query, wanted):
    assert set(jobs(select(MIXED, Selection.of(query)))) == wanted


def test_the_sick_come_first_and_then_the_name_decides():
    assert jobs(select(MIXED, Selection())) == ["other/c", "stf/b", "stf/a", "stf/d"]


def test_in_order_of_silence_whoever_was_not_heard_comes_before_whoever_was_long_ago():
    rows = [
        a_row("stf/new", last_seen_at=50.0),
        a_row("stf/old", last_seen_at=5.0),
        a_row("stf/never", last_seen_at=None),
        a_row("stf/sick", "stuck", last_seen_at=49.0),
    ]
    assert jobs(select(rows, Selection(order=Order.SILENCE))) == ["stf/sick", "stf/never", "stf/old", "stf/new"]


@pytest.mark.parametrize(
    "query",
    [
        [("verdict", "ill")],
        [("order", "size")],
        [("rows", "0")],
        [("rows", "-1")],
        [("rows", "²")],
        [("rows", "9" * 5000)],
        [("rows", "1001")],
        [("after", "x")],
        [("before", "1:y:stf/a")],
        [("after", "9" * 5000 + ":0:a")],
    ],
)
def test_a_query_that_means_nothing_is_refused_with_the_part_that_does_not(query):
    with pytest.raises(SelectionError):
        Selection.of(query)


@pytest.mark.parametrize("order", Order)
def test_a_query_can_be_written_and_read_again(order):
    asked = Selection(
        verdicts=("stuck", SICK),
        targets=("a&b=c",),
        queues=("q",),
        namespace="stf",
        text="<script>",
        order=order,
        rows=7,
        after=Place(is_well=True, last_seen_at=1.25, job="stf/a:b"),
    )
    assert Selection.of(asked.query()) == asked
    assert Selection.of(Selection().query()) == Selection()


def a_fleet(count, seed=7):
    chance = random.Random(seed)
    verdicts = ["healthy", "stuck", "failed", "idle"]
    return [
        a_row(f"stf/j{n:04}", chance.choice(verdicts), last_seen_at=chance.choice([None, 1.0, 2.5]))
        for n in range(count)
    ]


def part_of(workers, asked):
    return merge([select(rows, asked) for rows in workers], asked)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("workers", [1, 3])
def test_going_on_and_on_shows_every_job_once_in_order_and_going_back_shows_the_same_parts(order, workers):
    fleet = a_fleet(107)
    shares = [fleet[number::workers] for number in range(workers)]
    asked = Selection(order=order, rows=20)
    whole = sorted(fleet, key=asked.place_of)
    forward, part = [], part_of(shares, asked)
    while part.jobs:
        assert part.total == 107
        assert part.ahead == sum(len(each) for each in forward)
        forward.append(jobs(part))
        part = part_of(shares, Selection(order=order, rows=20, after=asked.place_of(part.jobs[-1])))
    assert [job for each in forward for job in each] == [row["job"] for row in whole]
    assert [row["verdict"] in RESTARTABLE for row in whole] == sorted(
        (r["verdict"] in RESTARTABLE for r in whole), reverse=True
    )

    back = part_of(shares, Selection(order=order, rows=20, before=asked.place_of(whole[100])))
    assert jobs(back) == [row["job"] for row in whole[80:100]]
    assert back.ahead - len(back.jobs) == 80


def test_a_job_that_comes_or_goes_between_two_parts_makes_no_other_be_left_out():
    fleet = a_fleet(60)
    asked = Selection(rows=20)
    first = select(fleet, asked)
    gone = {first.jobs[3]["job"]}
    later = [row for row in fleet if row["job"] not in gone] + [a_row("stf/a-new", "stuck")]
    second = select(later, Selection(rows=20, after=asked.place_of(first.jobs[-1])))
    whole = [row["job"] for row in sorted(fleet, key=asked.place_of)]
    assert jobs(second) == whole[20:40]


def test_a_job_that_two_workers_show_for_a_moment_is_shown_once():
    asked = Selection(rows=10)
    row = a_row("stf/a")
    assert jobs(merge([Part([row], 1, 0), Part([dict(row)], 1, 0)], asked)) == ["stf/a"]
