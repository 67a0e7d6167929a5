"""What people see: everything has words, and admission says what holds restarts back."""

import json

import msgspec
import pytest

from sf_healer.core.actions import Cause, State
from sf_healer.core.actuator import Actuator
from sf_healer.core.admission import Phase, Reason
from sf_healer.core.commands import Command, Grounds, Pause
from sf_healer.core.events import Kind
from sf_healer.core.policy import Limits
from sf_healer.core.steps import FleetCounts
from sf_healer.core.verdicts import Rule
from sf_healer.views import words
from sf_healer.views.admission import build_admission
from sf_healer.views.jobs import build_job
from sf_healer.views.lines import policy_file_lines, policy_notes, said_lines
from tests.core.strategies import Driver, an_outcome

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("enum", "said"),
    [(Rule, words.RULES), (Reason, words.REASONS), (Cause, words.CAUSES), (State, words.STATES), (Phase, words.PHASES)],
)
def test_every_rule_refusal_cause_state_and_phase_has_its_sentence(enum, said):
    assert set(said) == set(enum)
    assert all(said.values())
    assert len(words.OUTCOMES) == len(Reason) + len(Cause)


def a_command(name, **changes):
    known = {"id": f"c-{name}", "key": f"stf/{name}", "namespace": "stf", "name": name, "uid": "u", "verdict": "stuck"}
    known |= {"evidence": Grounds(unhealthy_at=NOW), "decided_at": NOW, "expires_at": NOW + 60.0}
    return Command(**{**known, **changes})


def test_admission_is_shown_with_what_is_held_paused_and_under_way():
    actuator = Actuator(worker="w", limits=Limits(), observe_only=False)
    records = [
        FleetCounts(partition=0, partitions=1, at=NOW, base=10, unhealthy=1, sick=1, suspected=1),
        Pause(scope="queue:q9", reason="maintenance", by="ann", until=NOW + 60.0),
        Pause(scope="queue:q8", reason="over", until=NOW - 1.0),
        a_command("a"),
        a_command("b", consumer=True, kafka_topic="q", queue_id="q"),
    ]
    for offset, record in enumerate(records):
        actuator.apply(record, offset, NOW)
    shown = build_admission(actuator)
    assert json.loads(msgspec.json.encode(shown)) == msgspec.to_builtins(shown)
    assert (shown["phase"], shown["observe_only"], shown["in_flight_limit"]) == ("calm", False, 1)
    assert [each["job"] for each in shown["in_flight"]] == ["stf/a"]
    assert (shown["restarts_allowed_now"], shown["restarts_held_by"]["reason"]) == (0, "in_flight")
    assert shown["restarts_left_by_the_rate"] == 2.0
    assert [(each["job"], each["group"]) for each in shown["held"]] == [("stf/b", "")]
    pause = {"scope": "queue:q9", "reason": "maintenance", "by": "ann", "at": 0.0, "until": NOW + 60.0}
    assert shown["pauses"] == [pause]
    assert shown["fleet"]["counted_at"] == NOW
    assert shown["limits"]["in_flight"] == 8


def test_admission_that_has_seen_nothing_says_so():
    shown = build_admission(Actuator(worker="w", limits=Limits(), observe_only=True))
    assert (shown["at"], shown["phase_since"], shown["fleet"]["counted_at"]) == (None, None, None)
    assert shown["fleet"]["partitions_not_counted"] == 1


def test_a_job_says_why_it_is_not_restarted():
    driver = Driver()
    driver.fact(target="consumer")
    driver.run(1)
    driver.loading()
    driver.run(50)
    (command,) = driver.effects()
    driver.apply(an_outcome(command.id, at=driver.now, reason="idle", detail="its group g has no lag"))
    shown = build_job(driver.partition, driver.state())
    assert (shown["verdict"], shown["why"]["explanation"]) == ("idle", words.RULES[Rule.GROUP_IDLE])
    assert (shown["last_outcome"]["reason"], shown["last_outcome"]["detail"]) == ("idle", "its group g has no lag")
    assert shown["group_found_idle_at"] == driver.now
    assert shown["why"]["looks_again_at"] == driver.now + 40


def test_an_error_that_a_look_at_the_group_excused_is_told_as_such():
    driver = Driver()
    driver.fact(target="consumer")
    driver.run(1)
    driver.loading()
    driver.says(Kind.ERROR)
    driver.run(50)
    (command,) = driver.effects()
    assert not build_job(driver.partition, driver.state())["said"]["error_excused"]
    driver.apply(an_outcome(command.id, at=driver.now, reason="idle", detail="its group g has no lag"))
    said = build_job(driver.partition, driver.state())["said"]
    assert said["error_excused"]
    assert "(its group was found idle after it)" in dict(said_lines(said))["  error"]
    driver.says(Kind.ERROR)
    assert not build_job(driver.partition, driver.state())["said"]["error_excused"]


# ---- the policy files that the workers go by

ONE = {"version": "1a2b", "refused": "", "workers": 2}
OTHER = {"version": "3c4d", "refused": "line 2: not TOML", "workers": 1}


def test_one_policy_file_at_all_workers_is_a_line_and_no_matter():
    assert list(policy_file_lines([ONE])) == [("policy file", "1a2b")]
    assert policy_notes([ONE]) == []


def test_policy_files_that_differ_or_are_refused_are_told():
    assert list(policy_file_lines([ONE, OTHER])) == [
        ("policy file", "1a2b at 2 workers"),
        ("policy file", "3c4d at 1 worker"),
        ("  a change is refused", "line 2: not TOML"),
    ]
    assert policy_notes([ONE, OTHER]) == [
        "the policy file cannot be used (line 2: not TOML): 3c4d holds",
        "the workers go by 2 different policy files",
    ]
