"""What people are told of an outcome: to whom it matters, in which words, and that no chat takes a text for markup."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.admission import Fleet, Phase, Reason
from sf_healer.core.commands import Grounds, Outcome, Result
from sf_healer.settings import NotifyOn
from sf_healer.views.notices import as_json, as_slack, describe, telling_of, telling_of_storm
from tests.core.outcomes import RESTARTED

FLEET = Fleet(base=100, unhealthy=45, sick=45, as_of=1000.0)


def outcome(result: Result, reason: str, **changes: object) -> Outcome:
    return msgspec.structs.replace(RESTARTED, result=result, reason=reason, **changes)


@pytest.mark.parametrize(
    ("told", "kind", "on"),
    [
        (RESTARTED, "restarted", {NotifyOn.RESTARTED}),
        (outcome(Result.FAILED, "no_pods"), "failed", {NotifyOn.FAILED}),
        (outcome(Result.FAILED, "no_pods", quarantined=True), "quarantined", {NotifyOn.QUARANTINED, NotifyOn.FAILED}),
        (
            outcome(Result.REFUSED, Reason.QUARANTINED, quarantined=True),
            "quarantined",
            {NotifyOn.QUARANTINED, NotifyOn.REFUSED},
        ),
        (outcome(Result.REFUSED, Reason.IDLE_UNKNOWN), "refused", {NotifyOn.REFUSED}),
        (outcome(Result.REFUSED, "forbidden"), "refused", {NotifyOn.REFUSED}),
        (outcome(Result.REFUSED, "would_be_refused"), "refused", {NotifyOn.REFUSED}),
        (outcome(Result.WOULD_RESTART, "observe_mode"), "would_restart", {NotifyOn.WOULD_RESTART}),
    ],
)
def test_an_outcome_is_told_as_the_gravest_that_it_is(told, kind, on):
    telling = telling_of(told)
    assert (telling.notice.kind, set(telling.on)) == (kind, on)
    assert (telling.notice.id, telling.notice.job, telling.notice.at) == ("o1", "stf/a", 1000.0)


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.QUARANTINED, Reason.IDLE_UNKNOWN}))
def test_a_refusal_that_passes_by_itself_or_that_a_person_wanted_is_not_told(reason):
    assert telling_of(outcome(Result.REFUSED, reason)) is None


def test_an_outcome_that_another_one_follows_is_told_only_if_a_person_is_needed():
    assert telling_of(outcome(Result.FAILED, "refused_by_api", final=False)) is None
    assert telling_of(outcome(Result.FAILED, "delete_overdue", final=False, needs_person=True)) is not None


def test_a_refusal_of_the_same_job_for_the_same_reason_is_a_repetition_and_a_restart_never_is():
    first = telling_of(outcome(Result.REFUSED, Reason.QUARANTINED, quarantined=True, id="o1"))
    again = telling_of(outcome(Result.REFUSED, Reason.QUARANTINED, quarantined=True, id="o2"))
    failed = telling_of(outcome(Result.FAILED, "no_pods", quarantined=True, id="o0"))
    assert first.same_as == again.same_as == failed.same_as
    assert telling_of(RESTARTED).same_as != telling_of(msgspec.structs.replace(RESTARTED, id="o2")).same_as


def test_the_line_has_the_numbers_it_rests_on_and_what_a_person_can_do():
    judged = "judged stuck, silent for 312 s of 300 s, loading_stopped"
    assert telling_of(RESTARTED).notice.text == (f"stf/a: restarted (verified); attempt 1, replaces uid u1; {judged}")
    stranded = outcome(Result.FAILED, "create_uncertain", needs_person=True, final=False)
    assert telling_of(stranded).notice.text.endswith(f"{judged}. It waits for a person: sf-healer job a")
    tried_out = outcome(Result.FAILED, "no_pods", quarantined=True)
    assert telling_of(tried_out).notice.text.endswith("then: sf-healer resume --job a")


def test_a_refusal_is_described_as_one_that_touched_nothing():
    assert describe(outcome(Result.REFUSED, "paused", detail="*: maintenance", attempt=0)) == (
        "sf-healer: refused (paused: *: maintenance); uid u1; judged stuck, silent for 312 s of 300 s, loading_stopped"
    )


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (Phase.CALM, Phase.STORM, "storm_begun"),
        (Phase.PROBING, Phase.CALM, "storm_ended"),
        (Phase.STORM, Phase.CALM, "storm_ended"),
        (Phase.STORM, Phase.PROBING, None),
        (Phase.PROBING, Phase.STORM, None),
        (Phase.CALM, Phase.CALM, None),
    ],
)
def test_a_storm_is_told_when_it_begins_and_when_it_ends(before, after, kind):
    telling = telling_of_storm(before, after, 1000.0, FLEET)
    assert (telling and telling.notice.kind) == kind
    if kind == "storm_begun":
        assert "45 of 100 Jobs" in telling.notice.text
        assert telling.on == {NotifyOn.STORM}


def test_the_json_has_the_outcome_as_the_audit_has_it():
    told = msgspec.json.decode(as_json(telling_of(RESTARTED).notice))
    assert (told["schema_version"], told["kind"], told["job"], told["needs_person"]) == (1, "restarted", "stf/a", False)
    assert msgspec.convert(told["outcome"], Outcome) == RESTARTED
    assert told["fleet"] is None
    storm = msgspec.json.decode(as_json(telling_of_storm(Phase.CALM, Phase.STORM, 1000.0, FLEET).notice))
    assert (storm["outcome"], storm["fleet"]["unhealthy"]) == (None, 45)


def test_slack_takes_nothing_in_an_error_for_a_channel_a_person_or_a_link():
    hostile = Grounds(detail="<!channel> <@U1> <https://evil.example|click> &lt;\n*bold*\x1b[31m")
    text = msgspec.json.decode(as_slack(telling_of(msgspec.structs.replace(RESTARTED, evidence=hostile)).notice))[
        "text"
    ]
    assert "<" not in text
    assert ">" not in text
    assert "&lt;!channel&gt;" in text
    assert "&amp;lt;" in text
    assert "\n" not in text
    assert "\x1b" not in text


@given(st.text(max_size=5_000), st.text(max_size=50))
def test_whatever_a_job_says_the_payloads_are_json_and_not_endless(detail, reason):
    hostile = msgspec.structs.replace(RESTARTED, reason=reason, detail=detail)
    notice = telling_of(hostile).notice
    assert msgspec.json.decode(as_json(notice))["outcome"]["detail"] == detail
    text = msgspec.json.decode(as_slack(notice))["text"]
    assert len(text) < 11_000
    assert text.isprintable()
