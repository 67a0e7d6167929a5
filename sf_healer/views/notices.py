"""What people are told unasked: an outcome in one line, and the notice that a webhook gets of it. Nothing here sends.

A notice holds what is on `healer-outcomes`, which has no env and no manifest. The text of an error that a Job or the
API server gave is in it as it came, so a chat that knows markup gets it escaped.
"""

from collections.abc import Set as AbstractSet

import msgspec

from sf_healer.core.actions import Cause
from sf_healer.core.admission import Fleet, Phase, Reason
from sf_healer.core.commands import Grounds, Outcome, Result
from sf_healer.settings import NotifyOn

SCHEMA_VERSION = 1

#: Refusals that stay until somebody does something; of the others time takes care, or a person wants them.
NEEDS_PERSON = frozenset({Reason.QUARANTINED, Reason.IDLE_UNKNOWN, Cause.FORBIDDEN, Cause.WOULD_BE_REFUSED})

#: Characters; a chat cuts or refuses longer ones (Slack: 40,000), and nobody reads them.
_LONGEST_TEXT = 2_000


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell; fields are those of the JSON that a webhook gets, times epoch seconds.

    `id` is the same when it is told twice, `on` what of SF_HEALER_NOTIFY_ON it falls under, the first is its kind.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: str
    at: float
    text: str
    job: str = ""
    needs_person: bool = False
    outcome: Outcome | None = None
    fleet: Fleet | None = None


class Telling(msgspec.Struct, frozen=True):
    """A notice, whom it concerns, and what makes it a repetition of another one."""

    notice: Notice
    on: AbstractSet[NotifyOn]
    same_as: tuple[str, ...]


def telling_of(outcome: Outcome) -> Telling | None:
    """Give what is to be told of an outcome, None where nobody needs to hear of it."""
    on = _kinds(outcome) if outcome.final or outcome.needs_person else ()
    if not on:
        return None
    kind = on[0]
    notice = Notice(
        id=outcome.id,
        kind=kind.value,
        at=outcome.at,
        text=f"{outcome.key}: {summarize(outcome)}{_what_to_do(outcome)}",
        job=outcome.key,
        needs_person=outcome.needs_person,
        outcome=outcome,
    )
    repeats = outcome.result is Result.REFUSED or kind is NotifyOn.QUARANTINED  # judged again and again
    same_as = (
        (outcome.key, kind.value, outcome.reason if kind is NotifyOn.REFUSED else "") if repeats else (outcome.id,)
    )
    return Telling(notice, frozenset(on), same_as)


def telling_of_storm(before: Phase, after: Phase, since: float, fleet: Fleet) -> Telling | None:
    """Give what is to be told of the fleet's phase, None where no storm began or ended; `since` is its beginning."""
    if before is Phase.CALM and after is not Phase.CALM:
        kind = "storm_begun"
        text = (
            f"storm: {fleet.unhealthy} of {fleet.base} Jobs turned unhealthy together, so the cause is elsewhere; "
            "nothing is restarted until it is over, but for canaries"
        )
    elif before is not Phase.CALM and after is Phase.CALM:
        kind, text = "storm_ended", "the storm is over: restarts go on"
    else:
        return None
    name = f"{kind}/{since!r}"
    notice = Notice(id=name, kind=kind, at=since, text=text, fleet=fleet)
    return Telling(notice, frozenset({NotifyOn.STORM}), (name,))


def describe(outcome: Outcome) -> str:
    """Say in one line what became of a command, and who says so."""
    return f"sf-healer: {summarize(outcome)}"


def summarize(outcome: Outcome) -> str:
    """Say what became of a command, with the numbers it rested on."""
    detail = f": {outcome.detail}" if outcome.detail else ""
    touched = outcome.result in {Result.RESTARTED, Result.FAILED}
    what = f"attempt {outcome.attempt}, replaces uid {outcome.uid}" if touched else f"uid {outcome.uid}"
    return f"{outcome.result} ({outcome.reason}{detail}); {what}; judged {judged(outcome.verdict, outcome.evidence)}"


def judged(verdict: str, numbers: Grounds) -> str:
    """Say in one line why a Job was judged as it was."""
    silence = (
        f", silent for {numbers.silence_seconds:.0f} s of {numbers.threshold_seconds:.0f} s"
        if numbers.silence_seconds is not None and numbers.threshold_seconds
        else ""
    )
    grounds = [verdict + silence, numbers.detail, numbers.group]
    return ", ".join(each for each in grounds if each)


def as_json(notice: Notice) -> bytes:
    """Write a notice for a program."""
    return msgspec.json.encode(notice)


def as_slack(notice: Notice) -> bytes:
    """Write a notice for a chat that takes Slack's incoming webhooks (Mattermost, Rocket.Chat and Teams' do too).

    Slack's rule: `&`, `<` and `>` are escaped, and then no text can name a channel, a person or a link.
    """
    text = "".join(character if character.isprintable() else " " for character in notice.text)[:_LONGEST_TEXT]
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escaped)
    return msgspec.json.encode({"text": f"sf-healer: {text}"})


def _kinds(outcome: Outcome) -> tuple[NotifyOn, ...]:
    """Say under what an outcome falls, the gravest first."""
    quarantined = (NotifyOn.QUARANTINED,) if outcome.quarantined else ()
    match outcome.result:
        case Result.RESTARTED:
            return (*quarantined, NotifyOn.RESTARTED)
        case Result.FAILED:
            return (*quarantined, NotifyOn.FAILED)
        case Result.WOULD_RESTART:
            return (NotifyOn.WOULD_RESTART,)
        case Result.REFUSED:
            lasts = outcome.needs_person or outcome.reason in NEEDS_PERSON
            return (*quarantined, NotifyOn.REFUSED) if lasts else ()


def _what_to_do(outcome: Outcome) -> str:
    name = outcome.key.partition("/")[2]
    if outcome.needs_person:
        return f". It waits for a person: sf-healer job {name}"
    if outcome.quarantined:
        return f". In quarantine; mend the cause, then: sf-healer resume --job {name}"
    return ""
