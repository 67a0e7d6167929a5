"""What `kubectl describe job` shows of a restart: one Event for each thing, whoever works, and nothing waits for it."""

from __future__ import annotations

import time

import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from agents.job_events import JobEvents, events_of, sick
from sf_healer.adapters.cluster import Cluster
from sf_healer.core.admission import Reason
from sf_healer.core.commands import Grounds, Outcome, Pause, Result
from sf_healer.local.kube.api import Fault
from tests.cluster.test_actuator_restart import a_command, cluster, create, local, read, working
from tests.lab.api_proxy import ApiProxy

__all__ = ["cluster", "local"]

SECONDS = 40.0
SILENT = Grounds(condition="active", silence_seconds=312.0, threshold_seconds=300.0, detail="loading_stopped")


def told(cluster):
    """Give the Events that are there, oldest first, as reason, type, uid and message."""
    found = cluster._core.list_namespaced_event(cluster.namespace).items
    ours = [event for event in found if event.source.component == "sf-healer"]
    return [
        (event.reason, event.type, event.involved_object.uid, event.message)
        for event in sorted(ours, key=lambda event: int(event.metadata.resource_version))
    ]


def counted(result):
    return REGISTRY.get_sample_value("sf_healer_job_events_total", {"result": result}) or 0.0


async def test_a_restart_is_told_on_the_old_job_and_on_the_new_one(cluster):
    old = create(cluster)
    async with working(cluster) as desk:
        desk.audience.append(JobEvents(cluster))
        await desk.ask(a_command(old, evidence=SILENT))
        outcome = await desk.outcome()
        await desk.audience[0].close(SECONDS)
    stuck, healed = told(cluster)
    assert stuck == (
        "JobStuck",
        "Warning",
        old.fact.uid,
        "sf-healer: stuck, silent for 312 s of 300 s, loading_stopped",
    )
    assert healed[:3] == ("JobHealed", "Normal", read(cluster).fact.uid)
    assert healed[2] == outcome.new_uid
    assert f"attempt 1, replaces uid {old.fact.uid}" in healed[3]


async def test_a_job_refused_again_and_again_by_one_worker_after_another_has_one_event_for_the_reason(cluster):
    old = create(cluster)
    async with working(cluster) as desk:
        desk.audience.append(JobEvents(cluster))
        await desk.append([Pause(scope="*", reason="broker upgrade", at=time.time())])
        for silence in (312.0, 330.0, 350.0):
            asked = len(desk.outcomes)
            evidence = msgspec.structs.replace(SILENT, silence_seconds=silence)
            await desk.ask(a_command(old, evidence=evidence, decided_at=time.time(), id=f"c{silence}"))
            await desk.until(lambda before=asked: len(desk.outcomes) > before, "the refusal")
            await desk.audience[0].close(SECONDS)
            desk.audience[0] = JobEvents(cluster)  # the next worker remembers nothing
            desk.kill()
    assert {outcome.reason for outcome in desk.outcomes} == {Reason.PAUSED}
    stuck, refused = told(cluster)
    assert (stuck[0], stuck[2]) == ("JobStuck", old.fact.uid)
    assert refused[:3] == ("HealingRefused", "Warning", old.fact.uid)
    assert "refused (paused: *: broker upgrade)" in refused[3]
    assert "silent for 312 s" in refused[3], "the first one stays"


async def test_it_takes_no_right_but_to_create_events(local, local_cluster, tmp_path):
    old = create(local)
    with ApiProxy.before(local_cluster.kubeconfig) as proxy:
        through = Cluster.connect(
            namespace=local.namespace,
            kubeconfig=str(proxy.kubeconfig(local_cluster.kubeconfig, at=tmp_path / "kubeconfig")),
        )
        events = JobEvents(through)
        for number in range(3):
            events.ended(an_outcome(Result.FAILED, "no_pods", id=f"o{number}", key=old.fact.key, uid=old.fact.uid))
        await events.close(SECONDS)
        through.close()
        asked = {(request.method, request.path.partition("?")[0]) for request in proxy.requests}
    assert asked == {("POST", f"/api/v1/namespaces/{local.namespace}/events")}
    assert [event[0] for event in told(local)] == ["HealingFailed"] * 3


async def test_an_event_that_cannot_be_created_holds_nothing_up_and_is_counted_and_said(local, local_cluster):
    old = create(local)
    before = counted("forbidden")
    local_cluster.answer_next(Fault(status=403, method="POST", path="/events", times=1))
    with capture_logs() as lines:
        async with working(local) as desk:
            desk.audience.append(JobEvents(local))
            await desk.ask(a_command(old, evidence=SILENT))
            assert (await desk.outcome()).result is Result.RESTARTED
            await desk.audience[0].close(SECONDS)
    assert counted("forbidden") == before + 1
    (line,) = [line for line in lines if line["event"] == "event_not_emitted"]
    assert (line["job"], line["reason"], line["kind"]) == (old.fact.key, "JobStuck", "forbidden")
    assert [event[0] for event in told(local)] == ["JobHealed"]


# ---- which


def an_outcome(result, reason, **changes):
    known = {"id": "o1", "command_id": "c1", "key": "stf/a", "uid": "u1", "at": 1000.0, "verdict": "stuck"}
    return Outcome(**{**known, "result": result, "reason": reason, "evidence": SILENT, **changes})


@pytest.mark.parametrize(
    ("outcome", "events"),
    [
        (an_outcome(Result.RESTARTED, "verified", new_uid="u2"), [("JobHealed", "u2", False)]),
        (an_outcome(Result.FAILED, "no_pods", new_uid="u2"), [("HealingFailed", "u2", True)]),
        (an_outcome(Result.REFUSED, "forbidden"), [("JobStuck", "u1", True), ("HealingRefused", "u1", True)]),
        (an_outcome(Result.FAILED, "refused_by_api", final=False), []),
        (an_outcome(Result.REFUSED, "storm"), [("JobStuck", "u1", True), ("HealingRefused", "u1", True)]),
        (
            an_outcome(Result.REFUSED, "paused", verdict="failed"),
            [("JobFailed", "u1", True), ("HealingRefused", "u1", True)],
        ),
        (an_outcome(Result.REFUSED, "paused", verdict="requested"), [("HealingRefused", "u1", True)]),
        (an_outcome(Result.REFUSED, "idle"), [("HealingRefused", "u1", False)]),
        (an_outcome(Result.REFUSED, "in_flight"), []),
        (an_outcome(Result.REFUSED, "superseded"), []),
        (an_outcome(Result.WOULD_RESTART, "observe_mode"), []),
    ],
)
def test_an_outcome_is_told_on_the_incarnation_that_people_will_look_at(outcome, events):
    assert [(event.reason, event.uid, event.warns) for event in events_of(outcome)] == events


def test_a_restart_that_a_person_asked_for_says_nothing_of_a_sick_job():
    assert sick("stf/a", "u1", "requested", Grounds()) is None
