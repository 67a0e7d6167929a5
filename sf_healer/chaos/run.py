"""Runs one engine over two ports: who asks probes, and who injects the fault. Asks at once what is due at once."""

import asyncio
import time
from typing import Protocol

from sf_healer.chaos.experiment import Abort, Answer, Ask, Experiment, Inject, Observation, Order, Saw, State
from sf_healer.chaos.litmus import ChaosEngine, Probe, seconds
from sf_healer.chaos.record import Record


class InjectionError(Exception):
    """The fault could not be injected; the verdict is Error."""


class Questions(Protocol):
    """Asks a probe once. What cannot be asked is an Answer with Saw.TROUBLE, never an exception."""

    async def ask(self, probe: Probe) -> Answer:
        """Ask."""


class Fault(Protocol):
    """Injects the fault of an engine."""

    async def inject(self, engine: ChaosEngine) -> dict[str, str]:
        """Hold the fault for its duration, take it back, and give what was measured; raises InjectionError.

        Cancelled, it takes the fault back before it ends.
        """


async def run(engine: ChaosEngine, questions: Questions, fault: Fault) -> Record:
    """Run an engine to its end; the fault is taken back whatever happens."""
    began_at, began = time.time(), time.monotonic()
    course = _Course(Experiment(engine), questions, fault, began)
    try:
        await course.to_the_end()
    finally:
        await course.clean_up()
    experiment = course.experiment
    return Record(
        engine=engine,
        told=experiment.told(),
        observations=tuple(Observation(each.at, each.probe, each.held, each.words) for each in experiment.observations),
        began=began_at,
        seconds=time.monotonic() - began,
        trouble=experiment.trouble,
        measured=course.measured,
    )


class _Course:
    """An experiment with its tasks; times count from its beginning."""

    def __init__(self, experiment: Experiment, questions: Questions, fault: Fault, began: float) -> None:
        self.experiment = experiment
        self.measured: dict[str, str] = {}
        self._questions = questions
        self._fault = fault
        self._began = began
        self._asking: set[asyncio.Task[None]] = set()
        self._injecting: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def to_the_end(self) -> None:
        """Follow the orders until it is over."""
        while True:
            self._moved.clear()
            for order in self.experiment.step(self._now()):
                self._follow(order)
            if self.experiment.is_over:
                return
            at = self.experiment.next_at
            wait = None if at is None else max(0.0, at - self._now())
            try:
                async with asyncio.timeout(wait):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def clean_up(self) -> None:
        """End every task; an injector that is cancelled takes its fault back."""
        tasks = [*self._asking, *([self._injecting] if self._injecting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, order: Order) -> None:
        match order:
            case Ask(probe):
                task = asyncio.create_task(self._ask(probe))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            case Inject():
                self._injecting = asyncio.create_task(self._inject())
            case Abort():
                assert self._injecting is not None
                self._injecting.cancel()

    async def _ask(self, probe: Probe) -> None:
        limit, began = seconds(probe.run_properties.probe_timeout), time.monotonic()
        try:
            async with asyncio.timeout(limit):
                answer = await self._questions.ask(probe)
        except TimeoutError:
            answer = Answer(Saw.NOTHING, f"no answer within {probe.run_properties.probe_timeout}")
        took = time.monotonic() - began
        self.experiment.answered(probe.name, Answer(answer.saw, answer.text, took), self._now())
        self._moved.set()

    async def _inject(self) -> None:
        trouble = ""
        try:
            self.measured = await self._fault.inject(self.experiment.engine)
        except InjectionError as problem:
            trouble = str(problem) or "the fault could not be injected"
        except asyncio.CancelledError:
            if self.experiment.state is not State.ABORTING:
                raise
        self.experiment.injected(self._now(), trouble)
        self._moved.set()
