"""The audit finds what it is there for: every way to lose a Job, or to restart it once too often."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sf_healer.core.commands import Outcome, Result
from tests.scenarios import audit
from tests.scenarios.audit import Told
from tests.scenarios.chronicle import History

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = "6d1a5f0e-7c0e-5b53-9d0c-0d6c1d3c3f01"


def a_job(name: str, uid: str, *, marked: bool = False) -> dict[str, Any]:
    marks = {"sf-healer.io/action-id": COMMAND, "sf-healer.io/replaces-uid": f"{name}-1", "sf-healer.io/attempt": "1"}
    return {
        "metadata": {
            "name": name,
            "uid": uid,
            "resourceVersion": uid,
            "generation": 1,
            "creationTimestamp": uid,
            "labels": {"team": "data", "controller-uid": uid},
            "annotations": {"note": "kept"} | (marks if marked else {}),
        },
        "spec": {"suspend": False, "selector": {"uid": uid}, "template": {"env": [{"name": "A", "value": ""}]}},
        "status": {"active": 1},
    }


def a_pod(job: str, uid: str) -> dict[str, Any]:
    owner = {"controller": True, "name": job, "uid": uid}
    return {"metadata": {"uid": f"pod of {uid}", "ownerReferences": [owner]}, "status": {"phase": "Running"}}


class Case:
    """One Job that failed and was restarted as it should be, to be spoilt."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = [
            ("jobs", "ADDED", a_job("a", "a-1")),
            ("pods", "ADDED", a_pod("a", "a-1")),
            ("pods", "DELETED", a_pod("a", "a-1")),
            ("jobs", "DELETED", a_job("a", "a-1")),
            ("jobs", "ADDED", a_job("a", "a-2", marked=True)),
            ("pods", "ADDED", a_pod("a", "a-2")),
        ]
        self.listed = {"a": a_job("a", "a-2", marked=True)}
        self.outcome = Outcome(
            id="o1",
            command_id=COMMAND,
            key="stf/a",
            uid="a-1",
            result=Result.RESTARTED,
            reason="verified",
            at=1.0,
            new_uid="a-2",
        )
        self.told = Told({"a": ["a-1"]}, {"a-1": {"o1": self.outcome}}, {"a-1": {COMMAND}})

    def faults(self) -> list[str]:
        history = History()
        for resource, type_, found in self.events:
            history.take(resource, type_, copy.deepcopy(found))
        return audit.faults(history, self.told, self.listed)

    def retell(self, **changes: Any) -> None:
        self.told.finals["a-1"]["o1"] = msgspec.structs.replace(self.outcome, **changes)


def test_a_job_that_was_restarted_once_and_is_as_it_was_has_no_fault():
    assert Case().faults() == []


def _restarted_again(case: Case) -> None:
    case.events += [("jobs", "DELETED", a_job("a", "a-2")), ("jobs", "ADDED", a_job("a", "a-3", marked=True))]
    case.listed["a"] = a_job("a", "a-3", marked=True)


def _lost(case: Case) -> None:
    del case.listed["a"]


def _never_restarted(case: Case) -> None:
    del case.events[2:]
    case.listed["a"] = a_job("a", "a-1")


def _a_label_less(case: Case) -> None:
    del case.events[4][2]["metadata"]["labels"]["team"]
    del case.listed["a"]["metadata"]["labels"]["team"]


def _an_annotation_less(case: Case) -> None:
    del case.events[4][2]["metadata"]["annotations"]["note"]
    del case.listed["a"]["metadata"]["annotations"]["note"]


def _another_value(case: Case) -> None:
    for manifest in (case.events[4][2], case.listed["a"]):
        manifest["spec"]["template"]["env"][0]["value"] = "x"


def _a_field_less(case: Case) -> None:
    del case.events[4][2]["spec"]["suspend"]
    del case.listed["a"]["spec"]["suspend"]


def _changed_later(case: Case) -> None:
    case.listed["a"]["spec"]["suspend"] = True


def _told_twice(case: Case) -> None:
    case.told.finals["a-1"]["o2"] = case.outcome


def _never_told(case: Case) -> None:
    del case.told.finals["a-1"]


def _failed(case: Case) -> None:
    case.retell(result=Result.FAILED, reason="namesake")


def _told_of_another(case: Case) -> None:
    case.retell(new_uid="a-9")


def _made_by_another(case: Case) -> None:
    case.retell(command_id="another")
    case.told.deleted_by["a-1"] = {"another"}


def _deleted_by_two(case: Case) -> None:
    case.told.deleted_by["a-1"].add("another")


def _side_by_side(case: Case) -> None:
    del case.events[2]


def _one_too_many(case: Case) -> None:
    case.listed["b"] = a_job("b", "b-1")


@pytest.mark.parametrize(
    "spoil",
    [
        _restarted_again,
        _lost,
        _never_restarted,
        _a_label_less,
        _an_annotation_less,
        _another_value,
        _a_field_less,
        _changed_later,
        _told_twice,
        _never_told,
        _failed,
        _told_of_another,
        _made_by_another,
        _deleted_by_two,
        _side_by_side,
        _one_too_many,
    ],
)
def test_whatever_is_not_as_it_must_be_is_found(spoil: Callable[[Case], None]):
    case = Case()
    spoil(case)
    assert case.faults()


def test_a_job_that_the_api_refused_and_was_put_back_without_marks_is_as_it_must_be():
    case = Case()
    case.events[4] = ("jobs", "ADDED", a_job("a", "a-2"))
    case.listed["a"] = a_job("a", "a-2")
    case.retell(result=Result.FAILED, reason="refused_by_api")
    assert case.faults() == []


def test_an_empty_job_that_its_action_made_again_is_no_second_restart():
    case = Case()
    case.events[-1:] = [
        ("jobs", "DELETED", a_job("a", "a-2", marked=True)),
        ("jobs", "ADDED", a_job("a", "a-3", marked=True)),
    ]
    for manifest in (case.events[-1][2], case.listed["a"]):
        manifest["metadata"]["annotations"]["sf-healer.io/action-id"] = f"{COMMAND}-1"
    case.listed["a"] = case.events[-1][2]
    case.retell(new_uid="a-3")
    assert case.faults() == []
    case.events.insert(-2, ("pods", "ADDED", a_pod("a", "a-2")))
    assert case.faults() != []
