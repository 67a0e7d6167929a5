"""What holds restarts back is said with its reason and its time: of all Jobs in `fleet`, of one in `jobs` and `job`."""

import itertools

import msgspec
import pytest

from sf_healer.core.actions import Cause
from sf_healer.core.actuator import Actuator, JobRecord
from sf_healer.core.admission import History, Reason
from sf_healer.core.commands import Command, Grounds, Pause
from sf_healer.core.policy import Limits
from sf_healer.core.rollouts import AFTER_ABORT_SECONDS, RolloutView
from sf_healer.core.steps import FleetCounts, RolloutSeen
from sf_healer.core.verdicts import Rule, Verdict
from sf_healer.views.admission import build_admission
from sf_healer.views.holding import Holding, held, held_by
from sf_healer.views.jobs import build_job, build_row
from sf_healer.views.lines import admission_lines, clock, in_short, job_lines, moment
from tests.core.strategies import Driver, an_outcome

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40Z
COUNTED = FleetCounts(partition=0, partitions=1, at=NOW, base=10, unhealthy=1, sick=1)
MANY_SICK = FleetCounts(partition=0, partitions=1, at=NOW, base=10, unhealthy=8, sick=8)
ROW = {"job": "stf/a", "verdict": "stuck", "queue_id": "q1", "target": "loader", "held_by": None}


def a_command(name="b"):
    known = {"id": f"c-{name}", "key": f"stf/{name}", "namespace": "stf", "name": name, "uid": "u", "verdict": "stuck"}
    return Command(**known, evidence=Grounds(unhealthy_at=NOW), decided_at=NOW, expires_at=NOW + 60.0)


def an_actuator(*records, observe_only=False, at=NOW):
    actuator = Actuator(worker="w", limits=Limits(), observe_only=observe_only)
    for offset, record in enumerate(records):
        actuator.apply(record, offset, at)
    return actuator


def told(*records, **more):
    return dict(admission_lines(build_admission(an_actuator(*records, **more)), wide=False))


# ---- all Jobs


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([COUNTED], "1"),
        ([MANY_SICK], "0 (storm; a first canary at 15:16:40Z)"),
        ([COUNTED, Pause(scope="*", reason="upgrade", until=NOW + 60.0)], "0 (paused: * until 15:07:40Z)"),
        ([COUNTED, Pause(scope="*", reason="upgrade")], "0 (paused: * until resumed)"),
        ([COUNTED, Pause(scope="*", reason="x", until=NOW + 86400.0)], "0 (paused: * until 2025-06-16 15:06:40Z)"),
        ([COUNTED, Pause(scope="queue:q1", reason="upgrade")], "1"),
        ([], "0 (counts: 1 partition is not counted)"),
        ([COUNTED, a_command()], "0 (in flight: 1 of 1 under way)"),
        ([COUNTED, RolloutSeen(view=RolloutView(progressing=True))], "0 (rollout of queue-manager)"),
        (
            [COUNTED, RolloutSeen(view=RolloutView(aborted_at=NOW - AFTER_ABORT_SECONDS + 60.0))],
            "0 (rollout of queue-manager until 15:07:40Z)",
        ),
    ],
)
def test_the_restarts_allowed_now_are_whole_and_none_while_something_holds_all_back(records, line):
    assert told(*records)["  restarts allowed now"] == line


def test_a_rate_of_none_promises_no_restart():
    actuator = Actuator(worker="w", limits=Limits(rate_per_minute=0.0, rate_burst=1), observe_only=False)
    actuator.apply(COUNTED, 0, NOW)
    actuator.ledger = msgspec.structs.replace(actuator.ledger, tokens=0.0)
    lines = dict(admission_lines(build_admission(actuator), wide=False))
    assert lines["  restarts allowed now"] == "0 (rate: rate_per_minute = 0: none at all)"


def test_in_observe_mode_what_is_allowed_is_told_and_not_done():
    assert told(COUNTED, observe_only=True)["  restarts allowed now"] == "1 (mode = observe: told, and not done)"


def test_what_a_worker_of_before_tells_is_made_whole():
    valve = build_admission(an_actuator(COUNTED)) | {"restarts_allowed_now": 2.9}
    del valve["restarts_held_by"], valve["quarantined"], valve["waiting_for_a_person"]
    assert dict(admission_lines(valve, wide=False))["  restarts allowed now"] == "2"
    assert held_by(ROW | {"held_by": held("backoff", until=NOW)}, valve) == held("backoff", until=NOW)


def quarantined(actuator, key, at):
    actuator.jobs[key] = JobRecord(history=History(attempts=(at,), quarantined_at=at, sick_at=at))


def test_jobs_in_quarantine_are_counted_with_the_command_that_shows_them():
    actuator = an_actuator(COUNTED)
    quarantined(actuator, "stf/a", NOW - 60.0)
    quarantined(actuator, "stf/over", NOW - 2.0 * Limits().healthy_period_seconds)
    valve = build_admission(actuator)
    ends_at = NOW - 60.0 + Limits().healthy_period_seconds
    assert valve["quarantined"] == [{"job": "stf/a", "since": NOW - 60.0, "ends_at": ends_at}]
    line = dict(admission_lines(valve, wide=False))["  in quarantine"]
    assert line.startswith("1; `sf-healer jobs --sick`")
    assert "  in quarantine" not in told(COUNTED)


def test_restarts_that_wait_for_a_person_are_counted_with_the_command_that_shows_them():
    valve = build_admission(an_actuator(COUNTED)) | {"waiting_for_a_person": [{"job": "stf/a"}, {"job": "stf/b"}]}
    assert dict(admission_lines(valve, wide=False))["  wait for a person"].startswith("2; `sf-healer actions --open`")


# ---- one Job

CALM = build_admission(an_actuator(COUNTED))
STORM = build_admission(an_actuator(MANY_SICK))
PAUSE = {"scope": "target:loader", "reason": "x", "by": "ann", "at": NOW, "until": NOW + 60.0}


@pytest.mark.parametrize(
    ("own", "valve", "cell"),
    [
        (None, CALM, "-"),
        (None, None, "-"),
        (held(Holding.ASKED, until=NOW), CALM, "asked for, no answer yet"),
        (held("backoff", until=NOW + 20.0), CALM, "backoff until 15:07:00Z"),
        (held("backoff", until=NOW + 20.0), None, "backoff until 15:07:00Z"),
        (held("expired", until=NOW + 20.0), CALM, "expired; asked for again at 15:07:00Z"),
        (held("idle_unknown"), CALM, "idle unknown"),
        (held(Cause.OBSERVE_MODE), CALM, "mode = observe"),
        (None, STORM, "storm until 15:16:40Z"),
        (held("rate", until=NOW), STORM, "storm until 15:16:40Z"),
        (held("backoff", until=NOW + 20.0), STORM, "backoff until 15:07:00Z"),
        (held("storm", until=NOW + 20.0), CALM, "asked for again at 15:07:00Z"),
        (held("paused", until=NOW + 20.0), CALM, "asked for again at 15:07:00Z"),
        (held("storm"), STORM | {"pauses": [PAUSE]}, "paused until 15:07:40Z"),
        (None, CALM | {"pauses": [PAUSE, PAUSE | {"scope": "*", "until": None}]}, "paused"),
        (None, CALM | {"pauses": [PAUSE | {"scope": "target:other"}]}, "-"),
        (held("backoff"), CALM | {"quarantined": [{"job": "stf/a"}]}, "quarantined"),
        (None, CALM | {"quarantined": [{"job": "stf/other"}]}, "-"),
        (held(Holding.ASKED), CALM | {"in_flight": [{"job": "stf/a"}]}, "under way"),
        (None, CALM | {"waiting_for_a_person": [{"job": "stf/a"}]}, "waits for a person"),
    ],
)
def test_what_holds_a_sick_job_back_is_said_with_its_end(own, valve, cell):
    assert in_short(held_by(ROW | {"held_by": own}, valve), NOW) == cell


@pytest.mark.parametrize("reason", [*Reason, *Holding])
def test_whatever_the_last_answer_was_something_is_said_of_it(reason):
    for until, valve in itertools.product((None, NOW), (None, CALM, STORM)):
        assert in_short(held_by(ROW | {"held_by": held(reason, until=until)}, valve), NOW) not in {"", "-"}


def test_a_job_that_is_well_is_held_by_nothing():
    assert held_by(ROW | {"verdict": "healthy"}, STORM) is None


def test_a_time_of_another_day_is_written_with_its_day():
    assert clock(NOW + 60.0, NOW) == "15:07:40Z"
    assert clock(NOW + 86_400.0, NOW) == "2025-06-16 15:06:40Z"


def a_sick_job(**fact):
    """Let a Job fall silent; gives its driver, and the command for it."""
    driver = Driver()
    driver.fact(**fact)
    driver.run(1)
    driver.loading()
    driver.run(50)
    (command,) = driver.effects()
    return driver, command


def lines_of(driver, valve=None, **restarts):
    page = build_job(driver.partition, driver.state())
    more = {"restarts": restarts or None, "pauses": [], "held_by": held_by(page, valve)}
    return dict(job_lines({**page, **more}))


def test_the_row_of_a_sick_job_has_the_last_answer_and_until_when_it_holds():
    driver, command = a_sick_job()
    row = build_row(driver.partition, driver.state())
    assert row["held_by"] == held(Holding.ASKED, until=driver.state().command_deadline)
    driver.apply(
        an_outcome(command.id, at=driver.now, reason="backoff", retry_after=60.0, detail="60 s after attempt 3")
    )
    row = build_row(driver.partition, driver.state())
    assert row["held_by"] == held("backoff", until=driver.state().retry_at, detail="60 s after attempt 3")
    driver.loading()
    assert build_row(driver.partition, driver.state())["held_by"] is None


@pytest.mark.parametrize(
    ("valve", "line"),
    [
        (None, "no: storm until "),
        (CALM, "no: asked for again at "),
        (STORM, "no: storm until "),
        (CALM | {"pauses": [PAUSE | {"scope": "*"}]}, "no: paused until "),
    ],
)
def test_a_job_says_what_holds_its_restart_back_before_when_it_is_asked_for_again(valve, line):
    driver, command = a_sick_job()
    driver.apply(an_outcome(command.id, at=driver.now, reason="storm", retry_after=60.0))
    lines = lines_of(driver, valve)
    assert lines["restart"].startswith(line)
    assert lines["  not again before"] == moment(driver.state().retry_at)
    assert list(lines).index("restart") < list(lines).index("  not again before")


def test_a_job_in_quarantine_says_so_and_what_ends_it():
    driver, command = a_sick_job()
    driver.apply(an_outcome(command.id, at=driver.now, reason="backoff", retry_after=60.0))
    lines = lines_of(driver, CALM | {"quarantined": [{"job": driver.state().key}]})
    assert lines["restart"].startswith("no: quarantined (all attempts are used up: none until it was well for an hour")


def test_a_job_says_what_it_waits_for():
    driver, command = a_sick_job()
    deadline = moment(driver.state().command_deadline)
    assert (
        lines_of(driver)["  looks again"]
        == f"when its restart is answered, at the latest {deadline}, or when it reports"
    )
    driver.apply(an_outcome(command.id, at=driver.now, reason="backoff", retry_after=60.0))
    assert lines_of(driver)["  looks again"] == f"{moment(driver.state().retry_at)}, or when it reports"


def test_a_restart_that_waits_for_a_person_is_not_called_under_way():
    driver, _ = a_sick_job()
    action = {"state": "stranded", "overdue": False, "refusal": "", "since": NOW}
    assert lines_of(driver, action=action)["restart"] == f"waits for a person: stranded since {moment(NOW)}"


def test_a_job_that_is_skipped_is_never_restarted_and_its_policy_does_not_deny_it():
    driver = Driver()
    driver.fact(skip=True)
    driver.run(1)
    lines = lines_of(driver)
    assert lines["verdict"].startswith(Verdict.EXEMPT)
    assert Rule.SKIP_ANNOTATION in lines["verdict"]
    assert lines["restart"] == "never: exempt (annotation sf-healer.io/skip)"
    assert lines["  exempt"] == "false, and the Job is exempt all the same"


def test_a_pause_says_who_paused_the_job():
    driver, _ = a_sick_job()
    page = build_job(driver.partition, driver.state())
    lines = dict(job_lines({**page, "restarts": None, "pauses": [PAUSE], "held_by": None}))
    assert lines["  paused"] == f"target:loader until {moment(NOW + 60.0)}: x by ann, since {moment(NOW)}"
