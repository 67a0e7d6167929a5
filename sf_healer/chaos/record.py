"""What is kept of a run: a ChaosResult as Litmus would write it, a JUnit suite, and a page as of a game day."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sf_healer.chaos import lints, litmus
from sf_healer.chaos.experiment import Held, Observation
from sf_healer.chaos.verdict import Told, Verdict, result_name

_ASKED_SHOWN = 3  # of the observations of a probe: the first ones that did not hold


class Record(msgspec.Struct, frozen=True):
    """A run that is over. `began` is epoch seconds, observations count from it; `measured` is the injector's word."""

    engine: litmus.ChaosEngine
    told: Told
    observations: tuple[Observation, ...]
    began: float
    seconds: float
    trouble: str = ""
    measured: dict[str, str] = {}


def chaos_result(record: Record) -> dict[str, Any]:
    """Give the ChaosResult."""
    experiment = record.engine.experiment.name
    passed, stopped = record.told.verdict is Verdict.PASS, record.told.verdict is Verdict.STOPPED
    status: dict[str, Any] = {
        "experimentStatus": {
            "phase": record.told.phase,
            "verdict": record.told.verdict.value,
            "probeSuccessPercentage": record.told.success_percentage,
        },
        "probeStatuses": [
            {
                "name": each.name,
                "type": each.type,
                "mode": each.mode,
                "status": {"verdict": each.verdict, "description": each.description},
            }
            for each in record.told.probes
        ],
        "history": {
            "passedRuns": int(passed),
            "failedRuns": int(record.told.verdict is Verdict.FAIL),
            "stoppedRuns": int(stopped),
        },
    }
    if record.trouble:
        status["experimentStatus"]["errorOutput"] = {"errorCode": "SF_HEALER", "reason": record.trouble}
    name = record.engine.metadata.name
    return {
        "apiVersion": litmus.API_VERSION,
        "kind": "ChaosResult",
        "metadata": {"name": result_name(name, experiment), "annotations": dict(record.engine.metadata.annotations)},
        "spec": {"engine": name, "experiment": experiment},
        "status": status,
    }


def junit(records: Sequence[Record]) -> str:
    """Give one suite for each engine, one case for each probe, as CI servers read it."""
    root = ET.Element("testsuites", name="chaos")
    for record in records:
        wrong = [each for each in record.told.probes if each.verdict != "Passed"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=record.engine.metadata.name,
            tests=str(len(record.told.probes) + 1),
            failures=str(sum(each.verdict == "Failed" for each in wrong)),
            skipped=str(sum(each.verdict != "Failed" for each in wrong)),
            errors=str(int(record.told.verdict is not Verdict.PASS)),
            time=f"{record.seconds:.1f}",
        )
        # A run can be no Pass with no probe that failed: the fault could not be injected.
        whole = ET.SubElement(suite, "testcase", classname=record.engine.metadata.name, name="verdict")
        if record.told.verdict is not Verdict.PASS:
            ET.SubElement(whole, "error", message=record.trouble or record.told.verdict.value)
        for each in record.told.probes:
            case = ET.SubElement(
                suite, "testcase", classname=record.engine.metadata.name, name=f"{each.mode} {each.name}"
            )
            if each.verdict == "Failed":
                ET.SubElement(case, "failure", message=each.description)
            elif each.verdict != "Passed":
                ET.SubElement(case, "skipped", message=each.description or "not asked")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def page(record: Record) -> str:
    """Tell the run as one would of a game day: hypothesis, steady state, injection, observations, verdict; Markdown."""
    told = record.engine.metadata.annotations
    lines = [f"# {record.engine.metadata.name}: {record.told.verdict.value}", ""]
    for title, annotation in (("Hypothesis", lints.HYPOTHESIS), ("Steady state", lints.STEADY_STATE)):
        lines += [f"**{title}.** {told.get(annotation, 'not told').strip()}", ""]
    settings = ", ".join(f"{name} {value}" for name, value in sorted(record.engine.settings.items()))
    measured = "".join(f" Measured: {name} {value}." for name, value in record.measured.items())
    lines += [f"**Injection.** {record.engine.experiment.name}: {settings}.{measured}", ""]
    lines += ["| probe | when | verdict | asked | seen |", "|---|---|---|---|---|"]
    asked = _by_probe(record.observations)
    for each in record.told.probes:
        of_it = asked.get(each.name, [])
        bad = [f"{seen.at:.1f} s: {seen.words}" for seen in of_it if seen.held is not Held.YES][:_ASKED_SHOWN]
        seen = "; ".join(bad) or (of_it[-1].words if of_it else "")
        seen = seen.replace("|", "\\|")
        lines.append(f"| {each.name} | {each.mode} | {each.verdict} | {len(of_it)} | {seen} |")
    lines += ["", f"**Verdict.** {record.told.verdict.value} after {record.seconds:.0f} s."]
    return "\n".join([*lines, *([f"{record.trouble}"] if record.trouble else [])]) + "\n"


def _by_probe(observations: Sequence[Observation]) -> Mapping[str, list[Observation]]:
    found: dict[str, list[Observation]] = {}
    for each in observations:
        found.setdefault(each.probe, []).append(each)
    return found
