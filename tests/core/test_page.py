"""The page draws what the rows say, the sick ones first, and nothing that a name could smuggle in."""

from sf_healer.views.page import draw_jobs


def a_row(job: str, verdict: str = "healthy") -> dict[str, object]:
    return {
        "job": job,
        "verdict": verdict,
        "rule": "reports",
        "silence_seconds": 1.26,
        "threshold_seconds": 300.0,
        "attempt": 0,
        "target": "loader-ws",
    }


def test_the_sick_jobs_stand_first():
    page = draw_jobs([a_row("stf/a"), a_row("stf/z", "stuck")], unreachable=[])
    assert page.index("stf/z") < page.index("stf/a")
    assert "1 healthy, 1 stuck" in page


def test_a_name_cannot_put_markup_into_the_page():
    page = draw_jobs([a_row("stf/<script>alert(1)</script>")], unreachable=["<b>"])
    assert "<script>" not in page
    assert "<b>" not in page


def test_what_is_left_out_is_said():
    assert "2 more" in draw_jobs([a_row(f"stf/{number}") for number in range(5)], unreachable=[], limit=3)
