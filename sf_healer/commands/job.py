"""`sf-healer job NAME`: everything known of one Job, and why it is, or is not, restarted."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from sf_healer.commands.reading import (
    Reading,
    Table,
    job_key,
    moment,
    reading_option,
    show,
    span,
    url_option,
    watch,
    watch_option,
    worker,
)
from sf_healer.core.verdicts import RESTARTABLE
from sf_healer.views.words import OUTCOMES

_NO_MORE_OUTCOMES = 5
_SAID = ("started", "loading", "error", "finished", "interrupted")


@click.command()
@click.argument("job")
@reading_option
@watch_option
@url_option
def command(*, job: str, output: Reading, watching: bool, url: str | None) -> None:
    """Show everything known of JOB (a name, or namespace/name): what it said, why it is judged so, what follows."""
    asked, settings = worker(url)
    key = job_key(job, settings)

    def make() -> Table:
        page = asked.read_job(key)
        try:
            restarts = asked.read("/actions/")
            record, valve, notes = restarts["actions"].get(key), restarts["admission"], []
        except ConnectionError as problem:  # the detector answers for itself
            record, valve, notes = None, None, [str(problem)]
        pauses = _pauses_of(page, valve)
        data = {**page, "restarts": record, "pauses": pauses}
        return Table(data, ("WHAT", "VALUE"), list(_rows(data)), notes)

    if watching:
        watch(make, output)
    show(make(), output)


def _pauses_of(page: Mapping[str, Any], valve: Mapping[str, Any] | None) -> list[Any]:
    scopes = {"*", f"job:{page['job']}", f"queue:{page['queue_id']}", f"target:{page['target']}"}
    return [] if valve is None else [pause for pause in valve["pauses"] if pause["scope"] in scopes]


def _rows(data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    why = data["why"]
    yield "job", data["job"]
    yield "verdict", f"{data['verdict']} ({why['rule']}: {why['explanation']})"
    if why["threshold_seconds"]:
        told = f"{span(why['silence_seconds'])} of {span(why['threshold_seconds'])}, since {moment(why['since'])}"
        yield "  counted", f"{told}, by the log as of {moment(why['watermark'])}"
    yield "  looks again", moment(why["looks_again_at"]) if why["looks_again_at"] else "when something happens"
    if data["group_found_idle_at"]:
        yield "  group found idle", moment(data["group_found_idle_at"])
    if data["cadence"]:
        yield "  cadence", _cadence(data["cadence"])
    yield from _restart_rows(data)
    yield from _policy_rows(data["policy"])
    yield from _said_rows(data["said"])
    yield from _incarnation_rows(data)


def _restart_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Say what is done about it, and if nothing is, why not."""
    record = data["restarts"] or {}
    action, outcome = record.get("action"), data["last_outcome"]
    if action is not None:
        yield "restart", f"under way: {action['state']} since {moment(action['since'])}"
    elif data["command"] is not None:
        yield "restart", f"asked for; no answer yet, given up at {moment(data['command']['deadline'])}"
    elif data["verdict"] not in RESTARTABLE:
        yield "restart", "not needed"
    elif data["not_again_before"]:
        yield "restart", f"not again before {moment(data['not_again_before'])}"
    for pause in data["pauses"]:
        until = moment(pause["until"]) if pause["until"] else "resumed"
        yield "  paused", f"{pause['scope']} until {until}: {pause['reason']}"
    if outcome is not None:
        yield "  last answer", f"{moment(outcome['at'])} {_answer(outcome)}"
    for past in list(reversed(record.get("recent", [])))[:_NO_MORE_OUTCOMES]:
        yield "  restart before", f"{moment(past['at'])} {_answer(past)}"
    if (record.get("history") or {}).get("quarantined_at"):
        since = moment(record["history"]["quarantined_at"])
        yield "  quarantined", f"since {since}; `sf-healer resume --job {data['name']}` ends it"


def _cadence(learned: Mapping[str, Any]) -> str:
    if learned["p99_seconds"] is None:
        return f"{learned['intervals']} intervals, too few to go by"
    p99, threshold = learned["p99_seconds"], learned["threshold_seconds"]
    return f"99 of 100 of {learned['intervals']} intervals within {p99:.0f} s: silent after {threshold:.0f} s"


def _answer(outcome: Mapping[str, Any]) -> str:
    detail = outcome.get("detail") or OUTCOMES.get(outcome["reason"], "")
    return f"{outcome['result']}, {outcome['reason']}" + (f": {detail}" if detail else "")


def _policy_rows(policy: Mapping[str, Any] | None) -> Iterator[tuple[str, object]]:
    if policy is None:
        return
    yield "policy", policy["name"]
    for name, value in policy.items():
        if name != "name" and value is not None:
            yield f"  {name}", f"{value:g}" if isinstance(value, float) else str(value).lower()


def _said_rows(said: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "said", ", ".join(kind for kind in _SAID if said[f"{kind}_at"]) or "nothing"
    for kind in _SAID:
        if said[f"{kind}_at"]:
            more = f": {said['error']}" if kind == "error" and said["error"] else ""
            yield f"  {kind}", f"{moment(said[f'{kind}_at'])}{more}"
    if said["records_written"] is not None:
        yield "  records written", f"{said['records_written']}, another number since {moment(said['progress_at'])}"


def _incarnation_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    fact = data["incarnation"]
    if fact is None:
        return
    yield "incarnation", fact["uid"]
    yield "  created", moment(fact["created_at"])
    yield "  condition", fact["condition"]
    yield "  pod", f"{fact['pod']} {fact['pod_ip']}".strip()
    if data["pod_running_since"]:
        yield "  pod seen running", moment(data["pod_running_since"])
    yield "  target", fact["target"] or "-"
    yield "  queue", fact["queue_id"] or "-"
    yield "  topic", fact["kafka_topic"] or "-"
    yield "  restarts", fact["attempt"]
