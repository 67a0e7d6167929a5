"""A Job, and what holds restarts back, as lines of (what, value): commands and pages say the same. Nothing here draws.

A line that belongs to the one above begins with two blanks.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sf_healer.core.verdicts import RESTARTABLE
from sf_healer.views.words import OUTCOMES

_NO_MORE_OUTCOMES = 5
_SAID = ("started", "loading", "error", "finished", "interrupted")

_GROUNDS_MOMENTS = (
    ("last_seen", "last seen"),
    ("base", "silence counts from"),
    ("unhealthy_at", "unhealthy since"),
    ("watermark", "watermark"),
    ("source_at", "report dated"),
)

Line = tuple[str, object]


def moment(at: float | None) -> str:
    """Write a time (epoch seconds) as UTC to the second; one that no calendar has, as reports may claim, as it is."""
    if at is None:
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f}"


def span(seconds: float | None) -> str:
    """Write a duration as kubectl does: two units at most."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= 2 * size or (whole >= size and unit != "m"):
            rest = whole % size // smaller_size
            return f"{whole // size}{unit}" + (f"{rest}{smaller}" if rest else "")
    return f"{whole}s"


def missing_notes(page: Mapping[str, Any]) -> list[str]:
    """Say what a list leaves out because a worker does not answer."""
    unreachable, missing = page.get("unreachable"), page.get("partitions_missing")
    notes = [f"no answer from {', '.join(unreachable)}"] if unreachable else []
    if missing:
        notes.append(f"not in this list: the Jobs of partitions {', '.join(map(str, missing))}")
    return notes


def pauses_of(page: Mapping[str, Any], valve: Mapping[str, Any] | None) -> list[Any]:
    """Give the pauses that hold for a Job; `valve` is what admission shows, None where it cannot be told."""
    scopes = {"*", f"job:{page['job']}", f"queue:{page['queue_id']}", f"target:{page['target']}"}
    return [] if valve is None else [pause for pause in valve["pauses"] if pause["scope"] in scopes]


def pause_in_words(pause: Mapping[str, Any]) -> str:
    """Say what is paused, until when, why and by whom."""
    until = f"until {moment(pause['until'])}" if pause["until"] else "until resumed"
    by = f" by {pause['by']}" if pause["by"] else ""
    return f"{pause['scope']} {until}: {pause['reason']}{by}"


def job_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Tell everything known of a Job: its page with `restarts`, its part of `/actions/`, and the `pauses` that hold."""
    yield "job", data["job"]
    yield from verdict_lines(data)
    yield from restart_lines(data)
    yield from policy_lines(data["policy"])
    yield from said_lines(data["said"])
    yield from incarnation_lines(data["incarnation"], running_since=data["pod_running_since"])


def verdict_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Tell the verdict, which rule gave it, and when it is looked at again."""
    why = data["why"]
    yield "verdict", f"{data['verdict']} ({why['rule']}: {why['explanation']})"
    if why["threshold_seconds"]:
        told = f"{span(why['silence_seconds'])} of {span(why['threshold_seconds'])}, since {moment(why['since'])}"
        yield "  counted", f"{told}, by the log as of {moment(why['watermark'])}"
    yield "  looks again", moment(why["looks_again_at"]) if why["looks_again_at"] else "when something happens"
    if data["group_found_idle_at"]:
        yield "  group found idle", moment(data["group_found_idle_at"])
    if data["cadence"]:
        yield "  cadence", _cadence(data["cadence"])


def restart_lines(data: Mapping[str, Any]) -> Iterator[Line]:
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
        yield "  last answer", f"{moment(outcome['at'])} {answer_of(outcome)}"
    for past in list(reversed(record.get("recent", [])))[:_NO_MORE_OUTCOMES]:
        yield "  restart before", f"{moment(past['at'])} {answer_of(past)}"
        yield "    because", f"{past['verdict']}: {grounds_in_short(past['evidence'])}"
    if (record.get("history") or {}).get("quarantined_at"):
        since = moment(record["history"]["quarantined_at"])
        yield "  quarantined", f"since {since}; `sf-healer resume --job {data['name']}` ends it"


def _cadence(learned: Mapping[str, Any]) -> str:
    if learned["p99_seconds"] is None:
        return f"{learned['intervals']} intervals, too few to go by"
    p99, threshold = learned["p99_seconds"], learned["threshold_seconds"]
    return f"99 of 100 of {learned['intervals']} intervals within {p99:.0f} s: silent after {threshold:.0f} s"


def answer_of(outcome: Mapping[str, Any]) -> str:
    """Tell how a command ended, in the words of who ended it where there are any."""
    detail = outcome.get("detail") or OUTCOMES.get(outcome["reason"], "")
    return f"{outcome['result']}, {outcome['reason']}" + (f": {detail}" if detail else "")


def policy_lines(policy: Mapping[str, Any] | None) -> Iterator[Line]:
    """Tell what is expected of the Job."""
    if policy is None:
        return
    yield "policy", policy["name"]
    for name, value in policy.items():
        if name != "name" and value is not None:
            yield f"  {name}", f"{value:g}" if isinstance(value, float) else str(value).lower()


def said_lines(said: Mapping[str, Any]) -> Iterator[Line]:
    """Tell what the Job has reported, and when by its own clock."""
    yield "said", ", ".join(kind for kind in _SAID if said[f"{kind}_at"]) or "nothing"
    for kind in _SAID:
        if said[f"{kind}_at"]:
            more = f": {said['error']}" if kind == "error" and said["error"] else ""
            yield f"  {kind}", f"{moment(said[f'{kind}_at'])}{more}"
    if said["records_written"] is not None:
        yield "  records written", f"{said['records_written']}, another number since {moment(said['progress_at'])}"


def incarnation_lines(fact: Mapping[str, Any] | None, *, running_since: float | None) -> Iterator[Line]:
    """Tell what the cluster shows of the Job."""
    if fact is None:
        return
    yield "incarnation", fact["uid"]
    yield "  created", moment(fact["created_at"])
    yield "  condition", fact["condition"]
    yield "  pod", f"{fact['pod']} {fact['pod_ip']}".strip()
    if running_since:
        yield "  pod seen running", moment(running_since)
    yield "  target", fact["target"] or "-"
    yield "  queue", fact["queue_id"] or "-"
    yield "  topic", fact["kafka_topic"] or "-"
    yield "  restarts", fact["attempt"]


def admission_lines(valve: Mapping[str, Any], *, wide: bool) -> Iterator[Line]:
    """Tell what admission sees and what holds restarts back; `wide`: with its limits."""
    fleet = valve["fleet"]
    yield "mode", "observe: nothing is touched" if valve["observe_only"] else "heal"
    since = f" since {moment(valve['phase_since'])}" if valve["phase_since"] else ""
    yield "admission", f"{valve['phase']}{since}"
    suspected = f", {fleet['suspected']} of them consumers that may be idle" if fleet["suspected"] else ""
    yield "  unhealthy", f"{fleet['unhealthy']} of {fleet['base']}{suspected}"
    missing = f", {fleet['partitions_not_counted']} partitions missing" if fleet["partitions_not_counted"] else ""
    yield "  counted", f"{moment(fleet['counted_at'])}{missing}"
    yield "  in flight", f"{len(valve['in_flight'])} of {valve['in_flight_limit']}"
    yield "  restarts allowed now", valve["restarts_allowed_now"]
    if (rollout := valve.get("rollout")) is not None:
        yield "  rollout of queue-manager", _rollout(rollout)
    for held in valve["held"]:
        yield "  held", f"{held['job']} ({held['verdict']}){': ' + held['group'] if held['group'] else ''}"
    for pause in valve["pauses"]:
        yield "  paused", pause_in_words(pause)
    if wide:
        for name, value in valve["limits"].items():
            yield f"  limit {name}", "as the mode says" if value is None else value


def policy_notes(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what is wrong with the policy files that the workers go by."""
    notes = [
        f"the policy file cannot be used ({file['refused']}): {file['version']} holds"
        for file in files
        if file["refused"]
    ]
    versions = {file["version"] for file in files}
    return [*notes, *([f"the workers go by {len(versions)} different policy files"] if len(versions) > 1 else [])]


def policy_file_lines(files: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """Tell by which policy files the workers go, and which of them are refused."""
    for file in files:
        yield "policy file", file["version"] if len(files) == 1 else f"{file['version']} at {file['workers']} workers"
        if file["refused"]:
            yield "  a change is refused", file["refused"]


def _rollout(seen: Mapping[str, Any]) -> str:
    if seen["in_the_way"] is None:
        return seen["phase"] or "none"
    return f"{seen['in_the_way']}: {'restarts are held' if seen['holds'] else 'a warning, nothing is held'}"


def grounds_lines(grounds: Mapping[str, Any]) -> Iterator[Line]:
    """Tell the numbers that a command rests on."""
    if grounds.get("threshold_seconds"):
        yield "silent for", _of_threshold(grounds)
    for name, what in _GROUNDS_MOMENTS:
        if grounds.get(name) is not None:
            yield what, moment(grounds[name])
    if grounds.get("source_offset", -1) >= 0:
        yield "report", f"{grounds.get('source_topic', '')}[{grounds['source_partition']}]@{grounds['source_offset']}"
    for name in ("condition", "detail", "group"):
        if grounds.get(name):
            yield name, grounds[name]


def grounds_in_short(grounds: Mapping[str, Any]) -> str:
    """Tell in one line what a command rests on."""
    told = [grounds.get("proof", "silence")]
    if grounds.get("threshold_seconds"):
        told.append(_of_threshold(grounds))
    if grounds.get("last_seen") is not None:
        told.append(f"last seen {moment(grounds['last_seen'])}")
    told += [grounds[name] for name in ("detail", "group") if grounds.get(name)]
    return ", ".join(told)


def _of_threshold(grounds: Mapping[str, Any]) -> str:
    return f"{span(grounds.get('silence_seconds'))} of {span(grounds['threshold_seconds'])}"
