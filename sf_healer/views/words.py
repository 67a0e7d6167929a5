"""Rules, refusals and causes in words, one sentence each: pages, commands and docs/operations.md say the same."""

from collections.abc import Mapping

from sf_healer.core.actions import Cause, State
from sf_healer.core.admission import Phase, Reason
from sf_healer.core.events import MalformedReason
from sf_healer.core.identity import UnresolvedReason
from sf_healer.core.verdicts import Rule, Verdict

VERDICTS: Mapping[str, str] = {
    Verdict.STUCK: "it spoke, and then fell silent for longer than its threshold",
    Verdict.NEVER_STARTED: "its pod runs, and it has said nothing for longer than its startup threshold",
    Verdict.FAILED: "its own `error` stands unanswered, or Kubernetes calls the Job Failed",
    Verdict.STALLED: "it reports, and gets no further",
    Verdict.HEALTHY: "it reports, and its silence is within the threshold",
    Verdict.IDLE: "a silent consumer whose consumer group has nothing to do, or slowly does it",
    Verdict.STARTING: "its pod, or its first report, is not overdue yet",
    Verdict.HELD: "its queue was told to stop a moment ago",
    Verdict.NOT_RUNNING: "the Job is active, and no pod of it has run for too long",
    Verdict.MUTE: "its silence proves nothing, or is not judged",
    Verdict.COMPLETED: "it has done its work",
    Verdict.STOPPED: "a user stopped it",
    Verdict.SUSPENDED: "`spec.suspend` is set",
    Verdict.EXEMPT: "its annotation, its policy or another controller says to leave it alone",
    Verdict.FOREIGN: "it is not a Job of the platform",
    Verdict.GONE: "the cluster does not have it any more",
    Verdict.UNKNOWN: "reports name it, and the cluster has not shown it yet",
}

RULES: Mapping[str, str] = {
    Rule.NO_FACT: "reports name it, and the cluster has not shown it yet",
    Rule.NOT_MANAGED: "its first container lacks QUEUE_ID or TELEMETRY_PRODUCER_ID: not a Job of the platform",
    Rule.ABSENT: "the cluster does not have it any more, or is deleting it",
    Rule.SKIP_ANNOTATION: "the annotation sf-healer.io/skip says to leave it alone",
    Rule.MANAGED_BY_ANOTHER: "spec.managedBy names another controller",
    Rule.EXEMPT_BY_POLICY: "its policy says exempt",
    Rule.JOB_SUSPENDED: "the Job is suspended",
    Rule.INTERRUPTED: "it said `interrupted`: a user stopped it",
    Rule.FINISHED: "it said `finished`",
    Rule.ERROR_THEN_FINISHED: "it said `error` and, right with it, `finished`",
    Rule.JOB_FAILED: "Kubernetes calls the Job Failed",
    Rule.JOB_COMPLETE: "Kubernetes calls the Job Complete, and no `error` was its last word",
    Rule.ERROR_FINAL: "it said `error` with finished: true",
    Rule.ERROR_AND_POD_ENDED: "it said `error`, and its pod has ended",
    Rule.ERROR_GRACE_OVER: "it said `error`, and no sign of life followed within the grace, or there is none",
    Rule.STOP_COMMAND: "a stop command went to its queue: it is left alone for a while",
    Rule.POD_NOT_RUNNING: "the Job is active, and no pod of it runs",
    Rule.LOADING_STOPPED: "it sent `loading` and then nothing for longer than its threshold",
    Rule.STARTED_ONLY: "it said `started` and then nothing for longer than its threshold",
    Rule.NO_REPORT: "its pod runs, and it has not reported at all",
    Rule.NOT_DECLARED: "its target was never seen to send `loading` and is not declared to: silence proves nothing",
    Rule.SILENCE_NOT_JUDGED: "its policy does not judge silence",
    Rule.NO_PROGRESS: "it sends `loading`, and the records written stand still",
    Rule.REPORTS: "it reports",
    Rule.GROUP_IDLE: "it is silent because its consumer group has nothing to do, or slowly does it",
}

_IF_IT_FAILS_AGAIN = (
    "Nothing at first. If it fails again: `sf-healer job NAME` shows its last words, `kubectl logs` the rest."
)

#: What a person does about a Job that a rule speaks of.
TO_DO: Mapping[str, str] = {
    Rule.NO_FACT: "Nothing at first. If it lasts: is it of this cluster? Can Jobs be listed (`sf-healer doctor`)?",
    Rule.NOT_MANAGED: "Nothing. If it should be watched, its first container needs both variables.",
    Rule.ABSENT: "Nothing. If sf-healer deleted it, `sf-healer actions --open` shows what it waits for.",
    Rule.SKIP_ANNOTATION: "`sf-healer unskip NAME` once it is to be watched again.",
    Rule.MANAGED_BY_ANOTHER: "Ask that controller.",
    Rule.EXEMPT_BY_POLICY: "Nothing. If it should be watched, change the policy that `sf-healer job NAME` names.",
    Rule.JOB_SUSPENDED: "Nothing. It is judged again once it is resumed.",
    Rule.INTERRUPTED: "Nothing. `sf-healer restart NAME --even-if-ended --reason TEXT` runs it again.",
    Rule.FINISHED: "Nothing. `sf-healer restart NAME --even-if-ended --reason TEXT` runs it again.",
    Rule.ERROR_THEN_FINISHED: _IF_IT_FAILS_AGAIN,
    Rule.JOB_FAILED: _IF_IT_FAILS_AGAIN,
    Rule.JOB_COMPLETE: "Nothing. `sf-healer restart NAME --even-if-ended --reason TEXT` runs it again.",
    Rule.ERROR_FINAL: _IF_IT_FAILS_AGAIN,
    Rule.ERROR_AND_POD_ENDED: _IF_IT_FAILS_AGAIN,
    Rule.ERROR_GRACE_OVER: f"{_IF_IT_FAILS_AGAIN} If it was well: a longer `error_grace_seconds`.",
    Rule.STOP_COMMAND: "Nothing. It is judged again after `stop_hold_seconds`.",
    Rule.POD_NOT_RUNNING: "While `starting`, nothing. Otherwise `kubectl describe` it and its pod: image, quota, node, "
    "volume. A restart would wait for the same.",
    Rule.LOADING_STOPPED: "Nothing at first. If it is well and only slow: a longer `silence_threshold_seconds`, "
    "or `learn_cadence`.",
    Rule.STARTED_ONLY: "Nothing at first. If it is well and only slow: a longer `silence_threshold_seconds`.",
    Rule.NO_REPORT: "While `starting`, nothing. If it comes back: does its pod reach Kafka (`kubectl logs`)? If it is "
    "only slow: a longer `startup_threshold_seconds`.",
    Rule.NOT_DECLARED: "If its target does report, say so in a policy: `reporting = true`.",
    Rule.SILENCE_NOT_JUDGED: "Nothing. Its policy says `judge_silence = false`.",
    Rule.NO_PROGRESS: "Nothing at first. If it comes back, look at what it reads from and writes to.",
    Rule.REPORTS: "Nothing.",
    Rule.GROUP_IDLE: "Nothing.",
}

REASONS: Mapping[str, str] = {
    Reason.EXPIRED: "the command was not followed within 60 s; the Job is judged again",
    Reason.PAUSED: "a person paused it: `sf-healer resume` with the same scope ends that",
    Reason.DUPLICATE: "a restart of this Job is under way, or this command was followed already",
    Reason.EXEMPT: "skip annotation, spec.managedBy of another controller, suspended, or not a Job of the platform",
    Reason.SUPERSEDED: "meanwhile the Job spoke, ended, changed, lost its pod, or another one has its name",
    Reason.IDLE: "a silent consumer whose own group lives and has no lag, or moves on",
    Reason.IDLE_UNKNOWN: "a silent consumer whose group cannot be judged; see idle_unknown_acts",
    Reason.ASKING: "too many consumers wait for a look at their groups; it comes again",
    Reason.QUARANTINED: "all attempts are used up: none until it was well for an hour, or `sf-healer resume --job`",
    Reason.BACKOFF: "it was restarted just now; the pause doubles with each attempt",
    Reason.PLATFORM_ROLLOUT: "a new version of queue-manager is being tried, or was taken back within ten minutes",
    Reason.CREATES_REFUSED: "the API refuses a Job that was deleted: no other is till it is back, for an hour at most",
    Reason.COUNTS: "the fleet has not been counted since this Job turned sick, or a worker is missing",
    Reason.STORM: "too many Jobs turned unhealthy together: the cause is elsewhere; canaries follow",
    Reason.RATE: "the restarts of this minute are used up",
    Reason.IN_FLIGHT: "as many restarts are under way as are allowed; more with each that works",
}

CAUSES: Mapping[str, str] = {
    Cause.VERIFIED: "the new incarnation gave a sign of life",
    Cause.COMPLETED: "the new incarnation is Complete already",
    Cause.OBSERVE_MODE: "mode = observe: it would have been restarted",
    Cause.NO_SIGN_OF_LIFE: "the new incarnation said nothing within its startup threshold",
    Cause.NO_PODS: "Kubernetes made no pod for the new Job, twice",
    Cause.JOB_FAILED: "the new incarnation failed",
    Cause.VANISHED: "somebody else deleted the new incarnation",
    Cause.NAMESAKE: "somebody else made a Job of this name meanwhile; it was left alone",
    Cause.FORBIDDEN: "the API refused before anything was touched; see the rights of the actuator; asked again",
    Cause.WOULD_BE_REFUSED: "the API would not take the Job again, so it was not touched; mend the policy; asked again",
    Cause.REFUSED_BY_API: "the API refused the new Job; what was there is put back without our marks",
    Cause.DELETE_OVERDUE: "the delete takes longer than its limit; it goes on, and asks for a person",
    Cause.CREATE_OVERDUE: "the Job is gone for longer than a create may take; it goes on, and asks for a person",
    Cause.CREATE_UNCERTAIN: "whether the create happened cannot be told; the manifest is kept for a person",
    Cause.ABANDONED: "a person closed it, or the Job exists again",
}

#: What each state of a restart means: the steps of an action are the states it entered.
STATES: Mapping[str, str] = {
    State.ADMITTED: "admission let it pass; the Job is read next",
    State.SAVED: "the Job is as it was judged, and its manifest is kept; the delete is next",
    State.RECHECKING: "the delete may have happened; a look tells",
    State.DELETING: "the delete was accepted; Job or pods are still there",
    State.GONE: "Job and pods are gone; the create is next",
    State.UNSURE: "the create may have happened; a look tells",
    State.VERIFYING: "the new incarnation exists; its sign of life is waited for",
    State.RESTORING: "the create was refused; what was there is put back",
    State.STRANDED: "a person must decide; the manifest is kept",
    State.DONE: "it has ended",
}

PHASES: Mapping[str, str] = {
    Phase.CALM: "restarts go on as the budget lets them",
    Phase.STORM: "too many Jobs turned unhealthy together, and nothing is restarted",
    Phase.PROBING: "after a storm one restart is tried, then more with each that works",
}

#: Why a record is in the dead letters.
DEAD_LETTERS: Mapping[str, str] = {
    MalformedReason.NULL: "the record has no value",
    MalformedReason.NOT_UTF8: "the record is no text",
    MalformedReason.NOT_JSON: "the text is no JSON",
    MalformedReason.TOO_DEEP: "the JSON is nested too deeply",
    MalformedReason.NOT_OBJECT: "the JSON is no object",
    MalformedReason.WRONG_TYPE: "a field is of another type than reports have",
    MalformedReason.NO_STATUS: "the report has no status: it may be of another kind of message",
    MalformedReason.UNKNOWN_STATUS: "the report's status is no word that is known: a new dialect needs a new release",
    MalformedReason.NO_IDENTITY: "the report names neither a producer nor a queue",
    MalformedReason.IDENTITY_TOO_LONG: "the report's producer or queue is longer than any name can be",
    f"unresolved_{UnresolvedReason.UNKNOWN_PRODUCER}": "no Job in the cluster has this producer: deleted, or elsewhere",
    f"unresolved_{UnresolvedReason.UNKNOWN_QUEUE}": "no Job in the cluster has this queue: deleted, or elsewhere",
    "not_evidence": "a record of `sf-healer-evidence` that sf-healer did not write",
    "not_a_command": "a record of `healer-actions` that is none",
    "not_a_pause": "a record of `sf-healer-control` that is none",
}

#: Of an outcome's reason, which is a refusal or a cause.
OUTCOMES: Mapping[str, str] = {**REASONS, **CAUSES}


def explained(reason: str, detail: str | None) -> str:
    """Explain an outcome in the words of who told it, else by its reason; "" where neither says anything."""
    return detail or OUTCOMES.get(reason, "")
