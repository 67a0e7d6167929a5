"""A run in time that is only counted: who is asked when, what stops it, and which verdict it comes to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.chaos import litmus
from sf_healer.chaos.experiment import Abort, Answer, Ask, Experiment, Held, Inject, Saw, State, judge
from sf_healer.chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

DURATION = 60.0
Script = "Callable[[str, float], Answer]"
ONE, ZERO = Answer(Saw.VALUE, "1"), Answer(Saw.VALUE, "0")


def probe(name: str, mode: str, **run: Any) -> dict[str, Any]:
    """Make a promProbe that holds on 1."""
    return {
        "name": name,
        "type": "promProbe",
        "mode": mode,
        "promProbe/inputs": {
            "endpoint": "http://prometheus",
            "query": "sum(up) or vector(-1)",
            "comparator": {"criteria": "==", "value": "1"},
        },
        "runProperties": {"probeTimeout": "5s", "interval": "2s"} | run,
    }


def engine(*probes: dict[str, Any]) -> litmus.ChaosEngine:
    document = {
        "apiVersion": litmus.API_VERSION,
        "kind": "ChaosEngine",
        "metadata": {"name": "trial"},
        "spec": {
            "engineState": "active",
            "chaosServiceAccount": "sf-chaos",
            "experiments": [
                {
                    "name": "pod-delete",
                    "spec": {
                        "components": {"env": [{"name": "TOTAL_CHAOS_DURATION", "value": f"{DURATION:g}"}]},
                        "probe": list(probes),
                    },
                }
            ],
        },
    }
    found = litmus.parse(copy.deepcopy(document))
    assert isinstance(found, litmus.ChaosEngine)
    return found


class World:
    """Answers by a script, at once or after a while; the fault takes as long as it is told to."""

    def __init__(self, *probes: dict[str, Any], script: Callable[[str, float], Answer] = lambda *_: ONE) -> None:
        self.run = Experiment(engine(*probes))
        self.script = script
        self.log: list[tuple[float, str]] = []
        self.injecting_until: float | None = None
        self.fault_trouble = ""
        self.now = 0.0

    def play(self) -> Verdict:
        for _ in range(10_000):
            if self.run.state is State.OVER:
                return self.run.told().verdict
            orders = self.run.step(self.now)
            for order in orders:
                self._follow(order)
            if not orders and self.run.state is not State.OVER:
                self._wait()
        raise AssertionError("it does not end")

    def _follow(self, order: Any) -> None:
        match order:
            case Ask(asked):
                self.log.append((self.now, asked.name))
                answer = self.script(asked.name, self.now)
                self.run.answered(asked.name, answer, self.now + answer.took_seconds)
            case Inject():
                self.log.append((self.now, "INJECT"))
                self.injecting_until = self.now + DURATION
                if self.fault_trouble:
                    self.injecting_until = self.now + 1
            case Abort():
                self.log.append((self.now, "ABORT"))
                self.injecting_until = self.now + 1

    def _wait(self) -> None:
        times = [each for each in (self.run.next_at, self.injecting_until) if each is not None]
        self.now = max(self.now, min(times))
        if self.injecting_until is not None and self.injecting_until <= self.now:
            self.log.append((self.now, "OVER"))
            self.injecting_until = None
            self.run.injected(self.now, self.fault_trouble)

    def asked(self, name: str) -> list[float]:
        return [at for at, logged in self.log if logged == name]

    def verdicts(self) -> dict[str, str]:
        return {each.name: each.verdict for each in self.run.told().probes}


SOT = probe("sot", "SOT", stopOnFailure=True)
EOT = probe("eot", "EOT", attempt=3)
ALWAYS = probe("always", "Continuous", probePollingInterval="5s")
DURING = probe("during", "OnChaos", probePollingInterval="10s")
EDGE = probe("edge", "Edge", stopOnFailure=True)


def test_a_run_goes_before_meanwhile_and_after_in_the_order_of_the_file():
    world = World(EOT, ALWAYS, SOT, DURING, EDGE)
    assert world.play() is Verdict.PASS
    assert world.asked("INJECT") == [0.0]
    assert world.asked("sot") == [0.0]
    assert world.asked("eot") == [DURATION]
    assert world.asked("edge") == [0.0, DURATION]
    assert world.asked("always") == [5.0 * n for n in range(12)]
    assert world.asked("during") == [10.0 * n for n in range(6)]
    assert set(world.verdicts().values()) == {"Passed"}
    assert world.run.told().success_percentage == "100"


def test_a_steady_state_that_is_not_there_stops_the_run_before_the_fault():
    world = World(SOT, ALWAYS, DURING, EOT, script=lambda name, _: ZERO if name == "sot" else ONE)
    assert world.play() is Verdict.STOPPED
    assert not world.asked("INJECT")
    assert world.verdicts() == {"sot": "Failed", "always": "N/A", "during": "N/A", "eot": "N/A"}
    assert world.run.told().success_percentage == "0"


def test_without_stop_on_failure_the_fault_goes_in_all_the_same_as_with_litmus():
    world = World(probe("sot", "SOT"), ALWAYS, EOT, script=lambda name, _: ZERO if name == "sot" else ONE)
    assert world.play() is Verdict.FAIL
    assert world.asked("INJECT")
    assert world.verdicts() == {"sot": "Failed", "always": "Passed", "eot": "Passed"}
    assert world.run.told().success_percentage == "66"


def test_what_comes_true_in_time_holds_and_attempts_are_an_interval_apart():
    world = World(SOT, ALWAYS, EOT, script=lambda name, at: ZERO if name == "eot" and at < DURATION + 4 else ONE)
    assert world.play() is Verdict.PASS
    assert world.asked("eot") == [DURATION, DURATION + 2, DURATION + 4]


def test_what_comes_true_too_late_does_not_hold():
    world = World(SOT, ALWAYS, EOT, script=lambda name, at: ZERO if name == "eot" and at < DURATION + 6 else ONE)
    assert world.play() is Verdict.FAIL
    assert world.run.told().phase == "Completed_With_Probe_Failure"
    assert len(world.asked("eot")) == 3


@pytest.mark.parametrize("name", ["always", "during"])
def test_one_lapse_while_the_fault_holds_fails_the_run_and_is_not_asked_again(name: str):
    lapse = (20.0, 25.0)
    world = World(
        SOT, ALWAYS, DURING, EOT, script=lambda who, at: ZERO if who == name and lapse[0] <= at < lapse[1] else ONE
    )
    assert world.play() is Verdict.FAIL
    assert max(world.asked(name)) == 20.0
    assert world.asked("eot"), "what comes after is asked: the record is whole"


def test_a_guard_that_fails_takes_the_fault_back_and_nothing_more_is_asked():
    guard = probe("guard", "OnChaos", probePollingInterval="5s", stopOnFailure=True)
    world = World(SOT, ALWAYS, guard, EOT, script=lambda who, at: ZERO if who == "guard" and at >= 15 else ONE)
    assert world.play() is Verdict.STOPPED
    assert world.asked("ABORT") == [15.0]
    assert not world.asked("eot")
    assert world.verdicts()["guard"] == "Failed"


def test_a_question_that_cannot_be_asked_is_an_error_and_no_answer():
    world = World(SOT, ALWAYS, EOT, script=lambda who, _: Answer(Saw.TROUBLE, "two rows") if who == "eot" else ONE)
    assert world.play() is Verdict.ERROR
    assert "eot: two rows" in world.run.trouble
    assert world.verdicts()["eot"] == "N/A"


def test_a_fault_that_could_not_be_injected_is_an_error_whatever_the_probes_say():
    world = World(SOT, ALWAYS, DURING, EOT)
    world.fault_trouble = "no such Pod"
    assert world.play() is Verdict.ERROR
    assert not world.asked("eot")


def test_a_probe_that_was_never_asked_is_no_pass():
    late = probe("late", "OnChaos", probePollingInterval="5s", initialDelay="2m")
    world = World(SOT, ALWAYS, late, EOT)
    assert world.play() is Verdict.FAIL
    assert not world.asked("late")
    assert world.verdicts()["late"] == "N/A"


def test_a_delay_is_waited_for_and_taken_from_nothing_else():
    world = World(probe("sot", "SOT", initialDelay="7s", stopOnFailure=True), ALWAYS, EOT)
    assert world.play() is Verdict.PASS
    assert world.asked("sot") == [7.0]
    assert world.asked("INJECT") == [7.0]


def test_attempts_that_have_begun_when_the_fault_ends_are_finished():
    patient = probe("patient", "Continuous", probePollingInterval="5s", attempt=5)
    world = World(SOT, patient, EOT, script=lambda who, at: ZERO if who == "patient" and 55 <= at < 62 else ONE)
    assert world.play() is Verdict.PASS
    assert max(world.asked("patient")) >= 62


def test_an_answer_that_comes_too_late_does_not_hold():
    slow = Answer(Saw.VALUE, "1", took_seconds=5.0)
    (asked,) = engine(probe("slow", "EOT")).experiment.spec.probe
    assert judge(asked, slow)[0] is Held.NO
    assert judge(asked, ONE) == (Held.YES, "1 == 1")


def test_a_resource_is_judged_by_whether_it_is_there():
    told = probe("pod", "EOT") | {
        "type": "k8sProbe",
        "k8sProbe/inputs": {"version": "v1", "resource": "pods", "operation": "absent"},
    }
    del told["promProbe/inputs"]
    (asked,) = engine(told).experiment.spec.probe
    assert judge(asked, Answer(Saw.NOTHING))[0] is Held.YES
    assert judge(asked, Answer(Saw.THERE))[0] is Held.NO


MODES = {"sot": SOT, "eot": EOT, "always": ALWAYS, "during": DURING, "edge": EDGE}


@given(
    st.permutations(sorted(MODES)),
    st.dictionaries(st.sampled_from(sorted(MODES)), st.floats(0, DURATION + 10), max_size=3),
)
def test_every_run_ends_and_only_one_in_which_all_held_is_a_pass(order: list[str], fails_from: dict[str, float]):
    world = World(
        *(MODES[name] for name in order),
        script=lambda who, at: ZERO if at >= fails_from.get(who, 10_000) else ONE,
    )
    verdict = world.play()
    held = all(each.held is Held.YES for each in world.run.observations)
    assert (verdict is Verdict.PASS) is held
    assert (verdict is Verdict.PASS) is (set(world.verdicts().values()) == {"Passed"})
    if not world.asked("INJECT"):
        assert verdict is Verdict.STOPPED
