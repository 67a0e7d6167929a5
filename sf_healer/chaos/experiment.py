"""One run of an engine as a table of states and moves: before, meanwhile, after, over. No I/O and no clock.

The caller asks probes, injects and aborts as it is told by `step`, and says what came of it (`answered`, `injected`);
time is an argument, in seconds of any clock that never goes back. The rules are litmus-go 3.31's (pkg/probe/probe.go,
pkg/result/chaosresult.go), with two differences: no pause after an attempt that held, and a probe that was never asked
is no Pass.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from sf_healer.chaos.comparators import holds
from sf_healer.chaos.litmus import ChaosEngine, ComparedAs, Mode, Operation, Probe, seconds
from sf_healer.chaos.verdict import ProbeTold, Told, Verdict


class Saw(StrEnum):
    """What asking gave."""

    VALUE = "value"  # a number, a status, a text: to be compared
    THERE = "there"  # k8sProbe: something meets the selectors
    NOTHING = "nothing"  # k8sProbe: nothing does; httpProbe: nobody answers
    TROUBLE = "trouble"  # the question itself failed: an Error, no answer


class Answer(msgspec.Struct, frozen=True):
    """What came of one attempt, and how long it took."""

    saw: Saw
    text: str = ""
    took_seconds: float = 0.0


class Ask(msgspec.Struct, frozen=True):
    """Ask a probe once, now, and say `answered`."""

    probe: Probe


class Inject(msgspec.Struct, frozen=True):
    """Begin the fault, and say `injected` when it has ended."""


class Abort(msgspec.Struct, frozen=True):
    """End the fault early, and say `injected` when it has ended."""


Order = Ask | Inject | Abort


class State(StrEnum):
    """Where a run is."""

    BEFORE = "before"
    MEANWHILE = "meanwhile"
    ABORTING = "aborting"
    SETTLING = "settling"  # the fault is over, OnChaos probes are asked until their time is
    AFTER = "after"
    OVER = "over"


class Held(StrEnum):
    """What one attempt means."""

    YES = "yes"
    NO = "no"
    ERROR = "error"


class Observation(msgspec.Struct, frozen=True):
    """One attempt, for the record."""

    at: float
    probe: str
    held: Held
    words: str


def judge(probe: Probe, answer: Answer) -> tuple[Held, str]:
    """Say what an answer means, with words. An attempt that held too late did not."""
    if answer.saw is Saw.TROUBLE:
        return Held.ERROR, answer.text
    held, words = _compared(probe, answer)
    limit = probe.run_properties.probe_timeout
    if held and answer.took_seconds >= seconds(limit) and probe.http is None:
        return Held.NO, f"answered after {answer.took_seconds:.1f} s, {limit} at most"
    return (Held.YES if held else Held.NO), words


def _compared(probe: Probe, answer: Answer) -> tuple[bool, str]:
    if probe.kubernetes is not None:
        wanted = Saw.THERE if probe.kubernetes.operation is Operation.PRESENT else Saw.NOTHING
        return answer.saw is wanted, f"{answer.saw}, wanted {probe.kubernetes.operation}. {answer.text}".rstrip(". ")
    if answer.saw is not Saw.VALUE:
        return False, answer.text or "no answer"
    compared_as, criteria, expected = ComparedAs.INT, "", ""
    if probe.http is not None:
        criteria, expected = probe.http.method.get.criteria, probe.http.method.get.response_code
    elif probe.prometheus is not None:
        told = probe.prometheus.comparator
        compared_as, criteria, expected = ComparedAs.FLOAT, told.criteria, told.value
    elif probe.command is not None:
        said = probe.command.comparator
        compared_as, criteria, expected = said.type or ComparedAs.STRING, said.criteria, said.value
    actual = answer.text.strip()
    return holds(compared_as, actual, criteria, expected), f"{actual} {criteria} {expected}"


class _Course(msgspec.Struct):
    """How far a probe has come in what it is asked now."""

    probe: Probe
    due: float
    until: float | None = None  # not asked after it; None: until it is ended
    attempt: int = 0
    asked: bool = False
    done: bool = False
    once: bool = True  # SOT, EOT, Edge: over when it held
    held: Held | None = None
    words: str = ""

    @property
    def idle(self) -> bool:
        """Return whether it is between two questions; attempts that have begun are finished."""
        return not self.asked and not self.done and self.attempt == 0


class Experiment:
    """A run of one engine; `told` is its verdict when it is over."""

    def __init__(self, engine: ChaosEngine) -> None:
        self.engine = engine
        self.state = State.BEFORE
        self.observations: list[Observation] = []
        self.trouble = ""
        self._probes = engine.experiment.spec.probe
        self._duration = float(engine.settings["TOTAL_CHAOS_DURATION"])
        self._queue = [each for each in self._probes if each.mode in (Mode.SOT, Mode.EDGE, Mode.CONTINUOUS)]
        self._now: _Course | None = None  # of the probes that are asked one after the other
        self._beside: dict[str, _Course] = {}  # of those asked again and again
        self._ended: dict[str, list[_Course]] = {}
        self._stopped_by = ""

    @property
    def is_over(self) -> bool:
        """Return whether there is nothing more to do."""
        return self.state is State.OVER

    @property
    def next_at(self) -> float | None:
        """Say when `step` has something to do at the latest, None when only an answer can move it."""
        times = [each.due for each in self._courses() if not each.asked and not each.done]
        times += [each.until for each in self._beside.values() if each.until is not None and each.idle]
        return min(times, default=None)

    def step(self, now: float) -> list[Order]:
        """Give everything that is to be done now."""
        orders: list[Order] = []
        while (more := list(self._move(now))) or self._advance(now):
            orders += more
        return orders

    def answered(self, name: str, answer: Answer, now: float) -> None:
        """Take the answer to an attempt; `step` goes on from it."""
        course = next((each for each in self._courses() if each.asked and each.probe.name == name), None)
        if course is None:  # the run was over before the answer came
            return
        course.asked, course.attempt = False, course.attempt + 1
        course.held, course.words = judge(course.probe, answer)
        self.observations.append(Observation(now, name, course.held, course.words))
        told = course.probe.run_properties
        if course.held is Held.YES:
            course.attempt = 0
            course.done = course.once
            course.due = now + seconds(told.probe_polling_interval or "0s")
        elif course.attempt >= told.attempt:
            course.done = True
        else:
            course.due = now + seconds(told.interval)

    def injected(self, now: float, trouble: str = "") -> None:
        """Take the end of the fault; `trouble` says why it could not be injected."""
        self.trouble = self.trouble or trouble
        for course in self._beside.values():
            if course.probe.mode is Mode.CONTINUOUS or trouble:
                course.until = now
        if self.state is State.ABORTING or trouble:
            self._over()
        else:
            self.state = State.SETTLING

    def told(self) -> Told:
        """Give the verdict: Pass only if the fault was injected and every probe held to the end."""
        probes = tuple(self._probe_told(each) for each in self._probes)
        percentage = str(sum(each.verdict == "Passed" for each in probes) * 100 // max(1, len(probes)))
        if self.state is not State.OVER:
            return Told(Verdict.AWAITED, "Running", "Awaited", probes)
        if self._stopped_by:
            return Told(Verdict.STOPPED, "Stopped", percentage, probes)
        if self.trouble:
            return Told(Verdict.ERROR, "Error", "0", probes)
        if any(each.verdict != "Passed" for each in probes):
            return Told(Verdict.FAIL, "Completed_With_Probe_Failure", percentage, probes)
        return Told(Verdict.PASS, "Completed", "100", probes)

    # ------------------------------------------------------------------ moves

    def _courses(self) -> list[_Course]:
        return [*([self._now] if self._now else []), *self._beside.values()]

    def _move(self, now: float) -> Iterator[Order]:
        """Ask what is due, and order an abort once."""
        for course in self._courses():
            if course.idle and course.until is not None and now >= course.until:
                course.done = True
            if not course.asked and not course.done and course.due <= now:
                course.asked = True
                yield Ask(course.probe)
        if self.state in (State.BEFORE, State.MEANWHILE) and (guard := self._guard_that_failed()):
            self._stopped_by = guard
            if self.state is State.MEANWHILE:
                self.state = State.ABORTING
                yield Abort()
            else:
                self._over()
        if self.state is State.BEFORE and self._now is None and not self._queue:
            self.state = State.MEANWHILE
            for probe in self._probes:
                if probe.mode is Mode.ON_CHAOS:
                    self._beside[probe.name] = _course(probe, now, until=now + self._duration, once=False)
            yield Inject()

    def _advance(self, now: float) -> bool:
        """Go on to the next probe or state without a word to the caller; say whether anything changed."""
        if self._now is not None and self._now.done:
            self._end(self._now)
            self._now = None
            return True
        if self._now is None and self._queue and self.state in (State.BEFORE, State.AFTER):
            probe = self._queue.pop(0)
            if probe.mode is Mode.CONTINUOUS:
                self._beside[probe.name] = _course(probe, now, until=None, once=False)
            else:
                self._now = _course(probe, now, until=None, once=True)
            return True
        if self.state is State.SETTLING and all(each.done for each in self._beside.values()):
            self._end_all()
            if self.state is State.SETTLING:
                self.state = State.AFTER
                self._queue = [each for each in self._probes if each.mode in (Mode.EOT, Mode.EDGE)]
            return True
        if self.state is State.AFTER and self._now is None and not self._queue:
            self.state = State.OVER
            return True
        return False

    def _guard_that_failed(self) -> str:
        return next(
            (
                each.probe.name
                for each in self._beside.values()
                if each.done and each.held is Held.NO and each.probe.run_properties.stop_on_failure
            ),
            "",
        )

    def _over(self) -> None:
        self.state, self._queue, self._now = State.OVER, [], None
        self._end_all()

    def _end_all(self) -> None:
        ended, self._beside = list(self._beside.values()), {}
        for course in ended:
            self._end(course)

    def _end(self, course: _Course) -> None:
        """Write a probe's part down; an Error, or a failure that stops, ends the run."""
        self._ended.setdefault(course.probe.name, []).append(course)
        if course.held is Held.ERROR:
            self.trouble = self.trouble or f"{course.probe.name}: {course.words}"
        elif course.held is Held.NO and course.probe.run_properties.stop_on_failure:
            self._stopped_by = self._stopped_by or course.probe.name
        if (self.trouble or self._stopped_by) and self.state is not State.OVER:
            self._over()

    def _probe_told(self, probe: Probe) -> ProbeTold:
        parts = self._ended.get(probe.name, [])
        wanted = 2 if probe.mode is Mode.EDGE else 1
        if any(part.held is Held.NO for part in parts):
            verdict = "Failed"
        elif any(part.held is Held.ERROR for part in parts):
            verdict = "N/A"
        elif len(parts) < wanted or any(part.held is None for part in parts):
            verdict = "N/A" if self.state is State.OVER else "Awaited"
        else:
            verdict = "Passed"
        words = next((part.words for part in parts if part.held is not Held.YES and part.words), "")
        return ProbeTold(
            probe.name, probe.type.value, probe.mode.value, verdict, words or (parts[-1].words if parts else "")
        )


def _course(probe: Probe, now: float, *, until: float | None, once: bool) -> _Course:
    delay = seconds(probe.run_properties.initial_delay or "0s")
    return _Course(probe, now + delay, until, once=once)
