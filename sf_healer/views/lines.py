"""A Job, and what holds restarts back, as lines of (what, value): commands and pages say the same. Nothing here draws.

A line that belongs to the one above begins with two blanks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sf_healer.core.actions import Cause
from sf_healer.core.admission import Reason
from sf_healer.core.cadence import LEAST_SAMPLES
from sf_healer.core.verdicts import RESTARTABLE, Rule, Verdict
from sf_healer.views.actions import waits_for_a_person
from sf_healer.views.holding import Holding
from sf_healer.views.words import explained

_NO_MORE_OUTCOMES = 5
_SAID = ("started", "loading", "error", "finished", "interrupted")

_GROUNDS_MOMENTS = (
    ("last_seen", "last seen"),
    ("base", "silence counts from"),
    ("unhealthy_at", "unhealthy since"),
    ("watermark", "watermark"),
    ("source_at", "report dated"),
)

#: What holds a restart back, where its reason is not the word for it.
_HELD: Mapping[str, str] = {
    Holding.ASKED: "asked for, no answer yet",
    Holding.UNDER_WAY: "under way",
    Holding.ASKED_AGAIN: "asked for again",
    Holding.WAITS_FOR_A_PERSON: "waits for a person",
    Reason.PLATFORM_ROLLOUT: "rollout",
    Cause.OBSERVE_MODE: "mode = observe",
}
#: Jobs that are so judged are left alone for good.
_NEVER = frozenset({Verdict.EXEMPT, Verdict.FOREIGN})
_EXEMPT_BY: Mapping[str, str] = {Rule.SKIP_ANNOTATION: "annotation sf-healer.io/skip"}
#: What happens at the time that is told of a hold; by itself the Job is asked for again.
_AT_ITS_END: Mapping[str, str] = {
    Holding.ASKED_AGAIN: " at",
    Reason.PAUSED: " until",
    Reason.BACKOFF: " until",
    Reason.PLATFORM_ROLLOUT: " until",
    Reason.STORM: " until",
    Reason.RATE: "; the next at",
}
#: Within so long before or after now the time of day tells which day it is.
_SAME_DAY_SECONDS = 12 * 3600.0

Line = tuple[str, object]


def moment(at: float | None) -> str:
    """Write a time (epoch seconds) as UTC to the second; one that no calendar has, as reports may claim, as it is."""
    if at is None:
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f}"


def clock(at: float, now: float | None = None) -> str:
    """Write a time as `moment` does, and without its day where it is so near to `now` that nobody would ask for it."""
    told = moment(at)
    return told.rpartition(" ")[2] if now is None or abs(at - now) <= _SAME_DAY_SECONDS else told


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


def number_of(count: int, what: str) -> str:
    """Write how many there are: 1 Job, 2 Jobs."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def missing_notes(page: Mapping[str, Any]) -> list[str]:
    """Say what a list leaves out because a worker does not answer."""
    unreachable, missing = page.get("unreachable"), page.get("partitions_missing")
    notes = [f"no answer from {', '.join(unreachable)}"] if unreachable else []
    if missing:
        notes.append(f"not in this list: the Jobs of partitions {', '.join(map(str, missing))}")
    return notes


def in_short(held: Mapping[str, Any] | None, now: float | None) -> str:
    """Say what holds the restart of a Job back in a few words, and until when; "-" where nothing is known to."""
    if held is None:
        return "-"
    reason, until = held["reason"], held["until"]
    told = _HELD.get(reason, str(reason).replace("_", " "))
    if until is None or reason == Holding.ASKED:
        return told
    return f"{told}{_AT_ITS_END.get(reason, '; asked for again at')} {clock(until, now)}"


def of_all_in_short(held: Mapping[str, Any], now: float | None) -> str:
    """Say what holds the restarts of all Jobs back."""
    reason, until = held["reason"], held["until"]
    if reason == Reason.PAUSED:
        return f"paused: {held['detail']} until {'resumed' if until is None else clock(until, now)}"
    if reason == Reason.PLATFORM_ROLLOUT:
        return f"rollout of queue-manager{'' if until is None else f' until {clock(until, now)}'}"
    if reason == Reason.STORM and until is not None:
        return f"storm; a first canary at {clock(until, now)}"
    told = in_short(held, now)
    return f"{told}: {held['detail']}" if until is None and held["detail"] else told


def pause_in_words(pause: Mapping[str, Any]) -> str:
    """Say what is paused, until when, why, by whom and since when."""
    until = f"until {moment(pause['until'])}" if pause["until"] else "until resumed"
    by = f" by {pause['by']}" if pause.get("by") else ""
    since = f", since {moment(pause['at'])}" if pause.get("at") else ""
    return f"{pause['scope']} {until}: {pause['reason']}{by}{since}"


def job_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Tell everything known of a Job: its page with `restarts`, its part of `/actions/`, `pauses` and `held_by`."""
    yield "job", data["job"]
    yield from verdict_lines(data)
    yield from restart_lines(data)
    yield from policy_lines(data["policy"], is_exempt=data["verdict"] == Verdict.EXEMPT)
    yield from said_lines(data["said"])
    yield from incarnation_lines(data["incarnation"], running_since=data["pod_running_since"])


def verdict_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Tell the verdict, which rule gave it, and when it is looked at again."""
    why = data["why"]
    yield "verdict", f"{data['verdict']} ({why['rule']}: {why['explanation']})"
    if why["threshold_seconds"]:
        told = f"{span(why['silence_seconds'])} of {span(why['threshold_seconds'])}, since {moment(why['since'])}"
        yield "  counted", f"{told}, by the log as of {moment(why['watermark'])}"
    yield "  looks again", moment(why["looks_again_at"]) if why["looks_again_at"] else _waits_for(data)
    if data["group_found_idle_at"]:
        yield "  group found idle", moment(data["group_found_idle_at"])
    if data["cadence"]:
        yield "  cadence", _cadence(data["cadence"])


def _waits_for(data: Mapping[str, Any]) -> str:
    """Say what a Job waits for whose verdict no passing of time changes."""
    if data["verdict"] not in RESTARTABLE:
        return "when it reports, or the cluster shows a change"
    if data["command"] is not None:
        return f"when its restart is answered, at the latest {moment(data['command']['deadline'])}, or when it reports"
    again = _not_again_before(data)
    return "when it reports" if again is None else f"{moment(again)}, or when it reports"


def _not_again_before(data: Mapping[str, Any]) -> float | None:
    """Give the time until which the Job is not asked for again; None where that is over."""
    again, now = data["not_again_before"], data["why"]["watermark"]
    return again if again and (now is None or again > now) else None


def restart_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Say what is done about it, and if nothing is, why not."""
    record = data["restarts"] or {}
    action, outcome = record.get("action"), data["last_outcome"]
    yield "restart", _restart(data, action)
    again = _not_again_before(data)
    if again is not None and action is None and data["verdict"] in RESTARTABLE:
        yield "  not again before", moment(again)
    for pause in data["pauses"]:
        yield "  paused", pause_in_words(pause)
    if outcome is not None:
        yield "  last answer", f"{moment(outcome['at'])} {answer_of(outcome)}"
    for past in list(reversed(record.get("recent", [])))[:_NO_MORE_OUTCOMES]:
        yield "  restart before", f"{moment(past['at'])} {answer_of(past)}"
        yield "    because", f"{verdict_of(past)}: {grounds_in_short(past['evidence'])}"
    if (record.get("history") or {}).get("quarantined_at"):
        since = moment(record["history"]["quarantined_at"])
        yield "  quarantined", f"since {since}; `sf-healer resume --job {data['name']}` ends it"


def _restart(data: Mapping[str, Any], action: Mapping[str, Any] | None) -> str:
    why, held = data["why"], data["held_by"]
    if action is not None:
        waits = "waits for a person" if waits_for_a_person(action) else "under way"
        return f"{waits}: {action['state']} since {moment(action['since'])}"
    if data["verdict"] in _NEVER:
        return f"never: {data['verdict']} ({_EXEMPT_BY.get(why['rule'], why['explanation'])})"
    if data["verdict"] not in RESTARTABLE:
        return "not needed"
    if held is not None and held["reason"] != Holding.ASKED:
        told = explained(held["reason"], held["detail"])
        return f"no: {in_short(held, why['watermark'])}" + (f" ({told})" if told else "")
    if data["command"] is not None:
        return f"asked for; no answer yet, given up at {moment(data['command']['deadline'])}"
    return "not asked for yet"


def _cadence(learned: Mapping[str, Any]) -> str:
    p99, threshold = learned["p99_seconds"], learned["threshold_seconds"]
    if p99 is None and learned["intervals"] < LEAST_SAMPLES:
        return f"{learned['intervals']} intervals, too few to go by"
    if p99 is None:
        return f"{learned['intervals']} intervals, nobody knows how long all were: silent after {threshold:.0f} s"
    return f"99 of 100 of {learned['intervals']} intervals within {p99:.0f} s: silent after {threshold:.0f} s"


def answer_of(outcome: Mapping[str, Any]) -> str:
    """Tell how a command ended, in the words of who ended it where there are any."""
    return f"{outcome['result']}, {why_of(outcome)}"


def why_of(outcome: Mapping[str, Any]) -> str:
    """Tell why a command ended as it did."""
    told = explained(outcome["reason"], outcome.get("detail"))
    return f"{outcome['reason']}: {told}" if told else str(outcome["reason"])


def beside_of(outcome: Mapping[str, Any]) -> list[str]:
    """Tell what else became of a restart; a worker of before tells less."""
    more = {
        f"attempt {outcome['attempt']}": outcome["attempt"],
        "waits for a person": outcome.get("needs_person"),
        "quarantined": outcome.get("quarantined"),
        f"new incarnation {outcome.get('new_uid')}": outcome.get("new_uid"),
    }
    return [told for told, holds in more.items() if holds]


def verdict_of(command: Mapping[str, Any]) -> str:
    """Give the verdict of a command or its outcome, and who asked for the restart where it was a person."""
    return f"{command['verdict']} by {command['requested_by']}" if command.get("requested_by") else command["verdict"]


def policy_lines(policy: Mapping[str, Any] | None, *, is_exempt: bool = False) -> Iterator[Line]:
    """Tell what is expected of the Job; `is_exempt` also where it is not the policy that says so."""
    if policy is None:
        return
    yield "policy", policy["name"]
    for name, value in policy.items():
        if name == "exempt" and is_exempt and not value:
            yield f"  {name}", "false, and the Job is exempt all the same"
        elif name != "name" and value is not None:
            yield f"  {name}", f"{value:g}" if isinstance(value, float) else str(value).lower()


def said_lines(said: Mapping[str, Any]) -> Iterator[Line]:
    """Tell what the Job has reported, and when by its own clock."""
    yield "said", ", ".join(kind for kind in _SAID if said[f"{kind}_at"]) or "nothing"
    for kind in _SAID:
        if said[f"{kind}_at"]:
            yield f"  {kind}", f"{moment(said[f'{kind}_at'])}{_of_the_error(said) if kind == 'error' else ''}"
    if said["records_written"] is not None:
        yield "  records written", f"{said['records_written']}, another number since {moment(said['progress_at'])}"


def _of_the_error(said: Mapping[str, Any]) -> str:
    told = f": {said['error']}" if said["error"] else ""
    return f"{told} (its group was found idle after it)" if said.get("error_excused") else told


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
    within = f"within {span(valve['limits']['storm_window_seconds'])}"
    suspected = f", {fleet['suspected']} of them consumers that may be idle" if fleet["suspected"] else ""
    yield "  sick now", fleet["sick"]
    yield "  turned unhealthy", f"{fleet['unhealthy']} of {fleet['base']} {within}{suspected}"
    missing = fleet["partitions_not_counted"]
    yield "  counted", moment(fleet["counted_at"]) + (f", {number_of(missing, 'partition')} missing" if missing else "")
    yield "  in flight", f"{len(valve['in_flight'])} of {valve['in_flight_limit']}"
    yield "  restarts allowed now", _allowed(valve)
    if (rollout := valve.get("rollout")) is not None:
        yield "  rollout of queue-manager", _rollout(rollout)
    for held in valve["held"]:
        yield "  held", f"{held['job']} ({held['verdict']}){': ' + held['group'] if held['group'] else ''}"
    for pause in valve["pauses"]:
        yield "  paused", pause_in_words(pause)
    if quarantined := valve.get("quarantined"):
        yield "  in quarantine", f"{len(quarantined)}; `sf-healer jobs --sick` shows which, and what holds others"
    if waiting := valve.get("waiting_for_a_person"):
        yield "  wait for a person", f"{len(waiting)}; `sf-healer actions --open` shows which"
    if wide:
        for name, value in valve["limits"].items():
            yield f"  limit {name}", "as the mode says" if value is None else value


def _allowed(valve: Mapping[str, Any]) -> str:
    """Say how many restarts may begin now, and why none may."""
    allowed, by = int(valve["restarts_allowed_now"]), valve.get("restarts_held_by")
    if by is not None:
        return f"{allowed} ({of_all_in_short(by, valve['at'])})"
    return f"{allowed} (mode = observe: told, and not done)" if valve["observe_only"] else str(allowed)


def policy_notes(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what is wrong with the policy files that the workers go by."""
    notes = [
        f"the policy file cannot be used ({file['refused']}): {file['version']} holds"
        for file in files
        if file["refused"]
    ]
    versions = {file["version"] for file in files}
    return [*notes, *([f"the workers go by {len(versions)} different policy files"] if len(versions) > 1 else [])]


def all_dead_letters(*pages: Mapping[str, Any]) -> dict[str, int]:
    """Add up the dead letters that pages tell, the most first; one of an older worker tells none."""
    letters = sum((Counter(page.get("dead_letters", {})) for page in pages), Counter[str]())
    return dict(letters.most_common())


def dead_letters_in_short(letters: Mapping[str, int]) -> str:
    """Say how many dead letters there are of each reason, the most first."""
    return ", ".join(f"{letters[reason]:,} {reason}" for reason in sorted(letters, key=lambda it: (-letters[it], it)))


def dead_letter_lines(letters: Mapping[str, int]) -> Iterator[Line]:
    """Tell how many messages could not be read, or named, and what shows them."""
    if letters:
        in_short = f"{sum(letters.values()):,} since the workers started ({dead_letters_in_short(letters)})"
        yield "dead letters", f"{in_short}; `sf-healer dead-letters` shows them"


def policy_file_lines(files: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """Tell by which policy files the workers go, and which of them are refused."""
    for file in files:
        yield (
            "policy file",
            file["version"] if len(files) == 1 else f"{file['version']} at {number_of(file['workers'], 'worker')}",
        )
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
