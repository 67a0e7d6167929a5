"""A run over its two ports, and what is kept of it: ChaosResult, JUnit, the page."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from sf_healer.chaos import litmus, verdict
from sf_healer.chaos.experiment import Answer, Saw
from sf_healer.chaos.record import chaos_result, junit, page
from sf_healer.chaos.run import InjectionError, run
from sf_healer.chaos.verdict import Verdict
from tests.chaos.test_experiment import ONE, ZERO, engine, probe

if TYPE_CHECKING:
    from sf_healer.chaos.record import Record

QUICK = {"interval": "1ms", "probeTimeout": "20s"}
SOT = probe("sot", "SOT", stopOnFailure=True, **QUICK)
ALWAYS = probe("always", "Continuous", probePollingInterval="1ms", **QUICK)
GUARD = probe("guard", "Continuous", probePollingInterval="1ms", stopOnFailure=True, **QUICK)
EOT = probe("eot", "EOT", **QUICK)
MOMENTS = 3


class Bench:
    """Both ports: the fault holds until a probe was asked some times meanwhile; answers come from a table."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.holds = False
        self.began = asyncio.Event()
        self.taken_back = False
        self.refuses = ""
        self._asked_meanwhile = 0
        self._enough = asyncio.Event()

    async def ask(self, probe: litmus.Probe) -> Answer:
        if self.holds:
            self._asked_meanwhile += 1
            if self._asked_meanwhile >= MOMENTS or probe.name in self.answers:
                self._enough.set()
        broken = self.answers.get(probe.name)
        return broken if broken is not None and (self.holds or self.taken_back or probe.name == "sot") else ONE

    async def inject(self, engine: litmus.ChaosEngine) -> dict[str, str]:
        assert engine.metadata.name == "trial"
        if self.refuses:
            raise InjectionError(self.refuses)
        self.holds = True
        self.began.set()
        try:
            if "guard" in self.answers:
                await asyncio.Event().wait()  # until it is cancelled
            await self._enough.wait()
        finally:
            self.holds, self.taken_back = False, True
        return {"killed": "pod-1"}


async def played(bench: Bench, *probes: dict[str, object]) -> Record:
    return await asyncio.wait_for(run(engine(*probes), bench, bench), 60)


async def test_a_run_that_holds_passes_and_says_what_was_measured():
    bench = Bench()
    record = await played(bench, SOT, ALWAYS, EOT)
    assert record.told.verdict is Verdict.PASS
    assert bench.taken_back
    assert record.measured == {"killed": "pod-1"}
    assert {each.probe for each in record.observations} == {"sot", "always", "eot"}


async def test_a_guard_that_fails_has_the_fault_taken_back_at_once():
    bench = Bench(guard=ZERO)
    record = await played(bench, SOT, GUARD, EOT)
    assert record.told.verdict is Verdict.STOPPED
    assert bench.taken_back


async def test_a_fault_that_is_refused_is_an_error_with_its_reason():
    bench = Bench()
    bench.refuses = "the Pod is gone"
    record = await played(bench, SOT, ALWAYS, EOT)
    assert (record.told.verdict, record.trouble) == (Verdict.ERROR, "the Pod is gone")


async def test_a_run_that_is_cancelled_takes_its_fault_back():
    bench = Bench(guard=ONE)
    task = asyncio.create_task(run(engine(SOT, ALWAYS, EOT), bench, bench))
    await asyncio.wait_for(bench.began.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.taken_back


async def test_a_question_that_hangs_is_no_answer():
    class Hanging(Bench):
        async def ask(self, probe: litmus.Probe) -> Answer:
            if probe.name == "sot":
                await asyncio.Event().wait()
            return ONE

    record = await played(
        Hanging(), SOT | {"runProperties": {**SOT["runProperties"], "probeTimeout": "50ms"}}, ALWAYS, EOT
    )
    assert record.told.verdict is Verdict.STOPPED
    assert "no answer within 50ms" in record.told.probes[0].description


@pytest.fixture(params=[{}, {"eot": ZERO}, {"eot": Answer(Saw.TROUBLE, "two rows")}, {"sot": ZERO}, {"always": ZERO}])
async def record(request: pytest.FixtureRequest) -> Record:
    return await played(Bench(**request.param), SOT, ALWAYS, EOT)


async def test_the_chaos_result_reads_as_what_it_was_written_from(record: Record):
    written = json.loads(json.dumps(chaos_result(record)))
    assert verdict.told(written) == record.told
    assert written["metadata"]["name"] == "trial-pod-delete"
    runs = written["status"]["history"]
    assert sum(runs.values()) == (record.told.verdict is not Verdict.ERROR)


async def test_junit_has_a_case_for_each_probe_and_is_red_unless_it_is_a_pass(record: Record):
    (suite,) = ET.fromstring(junit([record])).iter("testsuite")
    cases = list(suite.iter("testcase"))
    assert len(cases) == len(record.told.probes) + 1 == int(suite.attrib["tests"])
    red = [each for each in cases if each.find("failure") is not None or each.find("error") is not None]
    assert bool(red) is (record.told.verdict is not Verdict.PASS)
    assert int(suite.attrib["errors"]) + int(suite.attrib["failures"]) == len(red)


async def test_the_page_tells_verdict_probes_and_what_they_saw(record: Record):
    text = page(record)
    assert text.startswith(f"# trial: {record.told.verdict.value}\n")
    for each in record.told.probes:
        assert f"| {each.name} | {each.mode} | {each.verdict} |" in text
    assert "TOTAL_CHAOS_DURATION 60" in text
    if record.told.verdict is Verdict.FAIL:
        assert "0 == 1" in text
