"""What people are told where they have a Job restarted or end a pause: what speaks against it, what follows from it.

Read from a worker's pages; nothing here draws, and nothing here asks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sf_healer.core.admission import History, quarantine_ends_at, recent_attempts
from sf_healer.core.policy import Limits
from sf_healer.core.verdicts import Rule, Verdict
from sf_healer.views.holding import pauses_of
from sf_healer.views.lines import moment, pause_in_words, span
from sf_healer.views.words import RULES

#: A Job that is one of these has come to its end, or was just told to, and somebody meant it to.
ENDED = frozenset({Verdict.COMPLETED, Verdict.STOPPED, Verdict.HELD})


class Attempts(NamedTuple):
    """How many restarts of a Job count now, and how many may before it is in quarantine."""

    used: int
    allowed: int
    window_seconds: float
    quarantined: bool


class Resumption(NamedTuple):
    """Whether the end of a pause ends anything, and what there is to say of it."""

    ends: bool
    told: list[str]


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
        case Rule.STOP_COMMAND:
            told, held_until = moment(page["why"]["since"]), moment(page["why"]["looks_again_at"])
            stopping = f"its queue was told to stop at {told}, and until {held_until} it may be stopping"
            return f"{stopping}; --even-if-ended restarts it all the same"
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


def attempts_of(job: str, page: Mapping[str, Any] | None, restarts: Mapping[str, Any]) -> Attempts:
    """Count the restarts of a Job; `restarts` is what `/actions/` shows, with what admission sees.

    Its page says what its policy allows; without one it is what holds for any Job.
    """
    valve = restarts["admission"]
    known = (restarts["actions"].get(job) or {}).get("history") or {}
    history = History(
        attempts=tuple(known.get("attempts", ())),
        ended_at=known.get("ended_at", 0.0),
        quarantined_at=known.get("quarantined_at", 0.0),
        sick_at=known.get("sick_at", 0.0),
    )
    limits, now = msgspec.convert(valve["limits"], Limits), valve["at"] or 0.0
    own = ((page or {}).get("policy") or {}).get("attempts")
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
        are = "is" if attempts.allowed == 1 else "are"
        return f"{passes}; this is attempt {this}, and {attempts.allowed} {are} allowed {within}"
    told = f"this is attempt {this} of {attempts.allowed} {within}"
    if this < attempts.allowed:
        return f"{told}; those that people ask for count too"
    return f"{told}: after this one it is in quarantine when it falls sick again"


def resumption(scope: str, job: str | None, page: Mapping[str, Any] | None, restarts: Mapping[str, Any]) -> Resumption:
    """Say what the end of a pause of this scope ends; `job` is the one Job it is of, `page` what is known of it."""
    valve = restarts["admission"]
    fresh = [] if job is None else _fresh_attempts(attempts_of(job, page, restarts), page)
    if not fresh and all(pause["scope"] != scope for pause in valve["pauses"]):
        return Resumption(ends=False, told=_nothing_paused(scope, valve))
    pauses = valve["pauses"] if page is None else pauses_of(page, valve)
    left = [f"still paused: {pause_in_words(pause)}" for pause in pauses if pause["scope"] != scope]
    return Resumption(ends=True, told=[*fresh, *left])


def _nothing_paused(scope: str, valve: Mapping[str, Any]) -> list[str]:
    asked_for = f"nothing was paused: {scope}; as of {moment(valve['at'])}"
    if not valve["pauses"]:
        return [f"{asked_for} no pause holds"]
    return [f"{asked_for} these pauses hold:", *(f"  {pause_in_words(pause)}" for pause in valve["pauses"])]


def _fresh_attempts(attempts: Attempts, page: Mapping[str, Any] | None) -> list[str]:
    """Say what follows where the attempts of a Job are forgotten, and its quarantine with them."""
    told = []
    if attempts.quarantined:
        again = (page or {}).get("not_again_before")
        when = f": not again before {moment(again)}, and only" if again else ", and it is restarted only"
        told.append(f"its quarantine ends{when} if it is still sick")
    if attempts.used or attempts.quarantined:
        so_far = f" after {page['attempt']}" if page else ""
        first = f"the next is 1 of {attempts.allowed} within {span(attempts.window_seconds)}"
        told.append(
            f"its attempts count from zero: {first}; "
            f"ATTEMPT of `sf-healer actions` numbers all its restarts and goes on{so_far}"
        )
    return told
