"""What people are told before they have a Job restarted: how it is judged, what speaks against it, what it costs.

Read from a worker's pages; nothing here draws, and nothing here asks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sf_healer.core.admission import History, quarantine_ends_at, recent_attempts
from sf_healer.core.policy import Limits
from sf_healer.core.verdicts import Rule, Verdict
from sf_healer.views.lines import moment, span
from sf_healer.views.words import RULES

#: A Job that is one of these has come to its end, and somebody meant it to.
ENDED = frozenset({Verdict.COMPLETED, Verdict.STOPPED})


class Attempts(NamedTuple):
    """How many restarts of a Job count now, and how many may before it is in quarantine."""

    used: int
    allowed: int
    window_seconds: float
    quarantined: bool


def objection_to(page: Mapping[str, Any]) -> str:
    """Say what speaks against a restart of a Job as it is judged, and what is to be done about that; "": nothing."""
    job, said, fact = page["job"], page["said"], page["incarnation"]
    match page["rule"]:
        case Rule.FINISHED:
            return f"it has finished at {moment(said['finished_at'])}; --even-if-ended runs it again"
        case Rule.JOB_COMPLETE:
            return "Kubernetes calls the Job Complete; --even-if-ended runs it again"
        case Rule.INTERRUPTED:
            return f"it was stopped by its user at {moment(said['interrupted_at'])}; --even-if-ended runs it again"
        case Rule.SKIP_ANNOTATION:
            return f"{RULES[Rule.SKIP_ANNOTATION]}; `sf-healer unskip {job}` takes that back"
        case Rule.MANAGED_BY_ANOTHER:
            return f"{RULES[Rule.MANAGED_BY_ANOTHER]}, {fact['managed_by']}: ask that one"
        case Rule.EXEMPT_BY_POLICY:
            return f"its policy {page['policy']['name']} says exempt; take that out of the policy file first"
        case Rule.JOB_SUSPENDED:
            resume = f"kubectl --namespace {page['namespace']} patch job {page['name']}"
            return f"""it is suspended; `{resume} --patch '{{"spec":{{"suspend":false}}}}'` lets it go on"""
        case Rule.NOT_MANAGED:
            return f"it is no Job of the platform: {RULES[Rule.NOT_MANAGED].partition(':')[0]}"
    return ""


def verdict_in_words(page: Mapping[str, Any]) -> str:
    """Say how a Job is judged, and how long ago it sent its last `loading`, by the log."""
    last, watermark = page["last_loading_at"], page["why"]["watermark"]
    known = last is not None and watermark is not None
    loading = f"last `loading` {span(max(watermark - last, 0.0))} ago" if known else "no `loading` yet"
    return f"{page['job']} is {page['verdict']}: {page['why']['explanation']}; {loading}"


def attempts_of(page: Mapping[str, Any], restarts: Mapping[str, Any]) -> Attempts:
    """Count the restarts of a Job; `restarts` is what `/actions/` shows, with what admission sees."""
    valve = restarts["admission"]
    known = (restarts["actions"].get(page["job"]) or {}).get("history") or {}
    history = History(
        attempts=tuple(known.get("attempts", ())),
        ended_at=known.get("ended_at", 0.0),
        quarantined_at=known.get("quarantined_at", 0.0),
        sick_at=known.get("sick_at", 0.0),
    )
    limits, now = msgspec.convert(valve["limits"], Limits), valve["at"] or 0.0
    own = (page["policy"] or {}).get("attempts")
    if own:
        limits = msgspec.structs.replace(limits, attempts=own)
    return Attempts(
        used=len(recent_attempts(history, limits, now)),
        allowed=limits.attempts,
        window_seconds=limits.attempts_window_seconds,
        quarantined=quarantine_ends_at(history, limits, now) > 0.0,
    )


def attempts_in_words(attempts: Attempts) -> str:
    """Say which attempt a restart would be that a person asks for, and what follows from that."""
    this, within = attempts.used + 1, f"within {span(attempts.window_seconds)}"
    if attempts.quarantined:
        passes = "it is in quarantine, which does not hold for what people ask for"
        return f"{passes}; this is attempt {this}, and {attempts.allowed} are allowed {within}"
    told = f"this is attempt {this} of {attempts.allowed} {within}"
    if this < attempts.allowed:
        return f"{told}; those that people ask for count too"
    return f"{told}: after this one it is in quarantine when it falls sick again"
