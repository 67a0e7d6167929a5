"""Every metric of sf-healer: name, help, labels. Agents import and count; nothing is computed here.

Labels are closed sets, mostly the core's enums (kinds, reasons, states), and partitions of our topics: never
a Job, pod, uid or queue, which would grow without bound.
"""

import platform

from prometheus_client import Counter, Gauge, Histogram, Info

from sf_healer import __version__, topics
from sf_healer.core.actions import Cause
from sf_healer.core.admission import Reason
from sf_healer.core.commands import Result
from sf_healer.core.verdicts import Verdict

_SWEEP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

BUILD = Info("sf_healer_build", "Version of sf-healer and of the Python that runs it.")
BUILD.info({"version": __version__, "python": platform.python_version()})

# --- reports in: records = folded + dead_lettered + ignored, at every scrape; what is read again counts again

SOURCE_RECORDS = Counter(
    "sf_healer_source_records", "Records of the source topic dealt with: folded, dead-lettered or ignored."
)
SOURCE_RECORDS_FOLDED = Counter(
    "sf_healer_source_records_folded", "Records of the source topic whose reports are on the evidence log."
)
SOURCE_RECORDS_DEAD_LETTERED = Counter(
    "sf_healer_source_records_dead_lettered", "Records of the source topic that are in the dead letters."
)
SOURCE_RECORDS_IGNORED = Counter(
    "sf_healer_source_records_ignored",
    "Records of the source topic that are evidence of nothing, by reason (pong, several_jobs, not_ours).",
    ["reason"],
)
REPORTS = Counter("sf_healer_reports", "Reports read, by kind.", ["kind"])
DEAD_LETTERS = Counter("sf_healer_dead_letters", "Messages that could not be decoded or named, by reason.", ["reason"])
CONTROL_COMMANDS = Counter(
    "sf_healer_control_commands", "Records read from the platform's control topic, by kind.", ["kind"]
)

# --- evidence, marks, watermark

EVIDENCE_RECORDS = Counter("sf_healer_evidence_records", "Bundles of reports put on the evidence log.")
EVIDENCE_ENTRIES = Counter(
    "sf_healer_evidence_entries", "What bundles tell of single Jobs: one entry a Job, kind and batch."
)
EVIDENCE_ENTRIES_FOLDED = Counter(
    "sf_healer_evidence_entries_folded", "Entries of bundles that were folded into the state of their Job."
)
EVIDENCE_ENTRIES_PASSED_OVER = Counter(
    "sf_healer_evidence_entries_passed_over", "Entries of bundles that had been folded before: they came again."
)
MARKS = Counter("sf_healer_marks", "Marks sent: proofs of how far the source was read.")
MARK_FAILURES = Counter("sf_healer_mark_failures", "Times the end of the source could not be asked for.")
WATERMARK = Gauge(
    "sf_healer_watermark_timestamp_seconds", "The watermark; its age is time() minus this.", ["partition"]
)
FEED_GAPS = Counter(
    "sf_healer_feed_gaps", "Times the feed was interrupted; silence in a gap is nobody's.", ["partition"]
)

# --- the process itself

EVENT_LOOP_PAUSES = Histogram(
    "sf_healer_event_loop_pause_seconds",
    "How late the event loop came to what was due, looked at 20 times a second: probes and heartbeats wait as long.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)

# --- tables

RESTORED_RECORDS = Counter("sf_healer_restored_records", "Changelog records read to restore a table.", ["table"])
RESTORE_REMAINING = Gauge(
    "sf_healer_restore_remaining_records",
    "Changelog records a table still has to read; 0 when it is restored.",
    ["table"],
)

# --- Jobs, sweeps, verdicts

JOBS = Gauge("sf_healer_jobs", "Jobs of the partitions this worker owns, by verdict.", ["partition", "verdict"])
VERDICTS = Counter("sf_healer_verdicts", "Judgements that changed a Job's verdict, by the new one.", ["verdict"])
SWEPT_JOBS = Counter("sf_healer_swept_jobs", "Jobs looked at by sweeps.")
SWEEP_SECONDS = Histogram(
    "sf_healer_sweep_seconds",
    "Time one batch of evidence took, from being read to its state and commands being safe.",
    buckets=_SWEEP_BUCKETS,
)
UNANSWERED_SINCE = Gauge(
    "sf_healer_unanswered_command_timestamp_seconds",
    "Since when the Job that waits longest for the outcome of a command does, epoch seconds; 0: none does.",
    ["partition"],
)
LAST_SWEEP = Gauge(
    "sf_healer_last_sweep_timestamp_seconds",
    "When the watermark last moved and was swept, epoch seconds.",
    ["partition"],
)


def forget_partition(number: int) -> None:
    """Show nothing more of an evidence partition that another worker has now: its Jobs would be counted twice."""
    for gauge in (WATERMARK, JOBS, UNANSWERED_SINCE, LAST_SWEEP):
        gauge.remove_by_labels({"partition": str(number)})


# --- commands, admission, actuator

COMMANDS = Counter("sf_healer_commands", "Records sent to the actuator, by kind.", ["kind"])
UNREADABLE_RECORDS = Counter(
    "sf_healer_unreadable_records",
    "Records that the actuator could not read and passed over, by topic; commands and pauses go to the dead letters.",
    ["topic"],
)
REFUSALS = Counter("sf_healer_refusals", "Commands not followed, by reason.", ["reason"])
GROUP_LOOKS = Counter(
    "sf_healer_group_looks", "Looks at the consumer groups of silent consumers, by result (seen, unknown).", ["result"]
)
STEPS = Counter("sf_healer_steps", "Steps of the actuator's protocol, by step and result.", ["step", "result"])
OUTCOMES = Counter("sf_healer_outcomes", "What became of commands, by result.", ["result"])
NOTIFICATIONS = Counter(
    "sf_healer_notifications",
    "Notifications, by what became of them: delivered; lost are refused (by the receiver), unanswered, queue_full, "
    "stopped (with the worker) and fault.",
    ["result"],
)
JOB_EVENTS = Counter(
    "sf_healer_job_events",
    "Kubernetes Events about Jobs, by result: created, the failure's kind, queue_full, stopped or fault.",
    ["result"],
)

STEPS_READ = Gauge(
    "sf_healer_steps_read_timestamp_seconds",
    "When this worker last read a record of the steps log, epoch seconds; 0: never. One worker at a time reads it, and "
    "has a tick a second to read: of all workers the newest counts.",
)
# Only on the worker that reads the steps log; 0 and no phase on the others.
ACTIONS_IN_FLIGHT = Gauge("sf_healer_actions_in_flight", "Restarts under way, as the limit of those at once counts.")
ACTIONS_WAITING = Gauge(
    "sf_healer_actions_waiting_for_a_person",
    "Restarts that go on by themselves no more, take too long, or are refused.",
)
ADMISSION_PHASE = Gauge(
    "sf_healer_admission_phase", "1 for how the fleet is seen: calm, storm (nothing is restarted), probing.", ["phase"]
)
PAUSES = Gauge("sf_healer_pauses", "Pauses that hold now.")

# --- policies

POLICY_REFUSED = Gauge(
    "sf_healer_policy_refused", "1 while the policy file holds what cannot be used; then the last good one holds."
)
POLICY_REFUSALS = Counter(
    "sf_healer_policy_refusals", "Times the policy file came to hold what cannot be used, each reason anew."
)
POLICY_VERSION = Gauge(
    "sf_healer_policy_version",
    "1 for the policies that hold, named by their content; all workers need the same.",
    ["version"],
)
POLICY_CHANGES = Counter("sf_healer_policy_changes", "Times other policies were taken from the file since the start.")

# --- the cluster

CLUSTER_CALLS = Histogram(
    "sf_healer_cluster_call_seconds",
    "Calls to the Kubernetes API, by call and result (ok, or the failure's kind).",
    ["call", "result"],
    buckets=_CALL_BUCKETS,
)
CLUSTER_FAILURES = Counter(
    "sf_healer_cluster_failures", "Lists that failed and watches that broke, by the failure's kind.", ["kind"]
)
SOURCE_PARTITIONS_WAITING = Gauge(
    "sf_healer_source_partitions_waiting",
    "Source partitions that wait for a list of the Jobs, for a report names one that nobody knows.",
)
LOOKS_FAILED = Counter(
    "sf_healer_looks_failed",
    "Times a source partition went on waiting, with all marks, as the Jobs could not be listed for it.",
)


def counted(counter: Counter, label: str) -> dict[str, int]:
    """Give what a counter of one label has counted since the start, without the labels that never came."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    totals = {sample.labels[label]: int(sample.value) for sample in samples if sample.name.endswith("_total")}
    return {name: total for name, total in totals.items() if total}


def _begin_at_zero() -> None:
    """Show what has not happened yet: a series that begins with its first event has no increase to show for it."""
    for verdict in Verdict:
        VERDICTS.labels(verdict)
    for result in Result:
        OUTCOMES.labels(result)
    for reason in (*Reason, Cause.FORBIDDEN, Cause.WOULD_BE_REFUSED):
        REFUSALS.labels(reason)
    for topic in (topics.ACTIONS, topics.CONTROL, topics.STEPS):
        UNREADABLE_RECORDS.labels(topic)


_begin_at_zero()
