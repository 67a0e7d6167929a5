"""Every event that a log of ours can have: its levels, its fields, when it is written, what to do.

docs/log-events.md is made from it (`sf-healer log-events --markdown`), and a test walks the code: a log call names
an event of this table by a literal, with exactly its fields and one of its levels. Nothing is logged here.
"""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How loud."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogEvent(msgspec.Struct, frozen=True):
    """One event; of several levels the louder one says that a person should look."""

    name: str
    levels: tuple[Level, ...]
    fields: tuple[str, ...]
    when: str
    do: str


class Section(msgspec.Struct, frozen=True):
    """Events about one thing."""

    title: str
    events: tuple[LogEvent, ...]


NOTHING = "Nothing."


def _event(name: str, levels: Level | tuple[Level, ...], fields: str, when: str, do: str = NOTHING) -> LogEvent:
    return LogEvent(name, levels if isinstance(levels, tuple) else (levels,), tuple(fields.split()), when, do)


SECTIONS: tuple[Section, ...] = (
    Section(
        "Decisions",
        (
            _event(
                "restart_decided",
                Level.WARNING,
                "job command uid verdict detail silence_seconds threshold_seconds last_seen watermark source_partition "
                "source_offset policy attempt target queue expires_at",
                "The detector finds a Job stuck or failed and asks the actuator to restart it. One line for each "
                "command, with all that it rests on; `command` is in every line about it.",
                "Look for the `outcome` of the same `command`; `sf-healer job NAME` says the same in words.",
            ),
            _event(
                "restart_withdrawn",
                Level.INFO,
                "job command reason",
                "The detector takes a command back: the Job is not sick any more. `reason` is the rule that says so.",
            ),
            _event(
                "restarted_job_spoke",
                Level.INFO,
                "job uid at",
                "A Job that was created again gives its first sign of life, at `at` on the evidence log.",
            ),
            _event(
                "feed_gap",
                Level.INFO,
                "partition until",
                "The watermark jumped: what lies in between is nobody's silence.",
                "If they come again and again: docs/runbook.md, SfHealerFeedGaps.",
            ),
            _event(
                "evidence_began_anew",
                Level.WARNING,
                "partition",
                "The evidence log ends before what was folded of it: it was deleted and created again, or has lost its "
                "tail. What was on it and not read yet is lost, which counts as a feed gap for every Job.",
                "If nobody made it anew: the brokers' disks, `min.insync.replicas`, `unclean.leader.election.enable`.",
            ),
        ),
    ),
    Section(
        "Actions",
        (
            _event(
                "outcome",
                (Level.INFO, Level.WARNING),
                "job command result reason detail verdict silence_seconds threshold_seconds group policy uid new_uid "
                "attempt requested_by final needs_person quarantined retry_after_seconds steps",
                "What became of a command: restarted, refused, failed or, in observe mode, would_restart. One line for "
                "each, the same as on `healer-outcomes`; `steps` are the seconds from the admission to each state. A "
                "warning when the attempt failed or a person is needed.",
                "`needs_person`: docs/operations.md, A restart that waits for a person. What `reason` means stands "
                "there too.",
            ),
            _event(
                "step_taken",
                Level.INFO,
                "job action step result message",
                "A call of the restart protocol was answered, or was not within 10 s; what follows is decided from it.",
            ),
            _event(
                "manifest_not_kept",
                Level.WARNING,
                "job action error",
                "The steps log does not take the Job's manifest, so the Job is refused and not touched; others go on. "
                "`error` is the producer's or the broker's.",
                "`sf-healer doctor`: does a topic take less than it should (`max.message.bytes`)? Else make the Job "
                "smaller.",
            ),
            _event(
                "group_looked_at",
                Level.INFO,
                "job command look group members committed lag unknown elsewhere",
                "The consumer group of a silent consumer was looked at; `unknown` says why there is no answer, "
                "`elsewhere` why the Job is a member of none.",
                "If `unknown` speaks of rights: manifests/kafka has the two that are missing.",
            ),
            _event(
                "rollout_seen",
                Level.INFO,
                "rollout before phase progressing aborted message",
                "The Argo Rollout of queue-manager is seen in another way; while it progresses, and for ten minutes "
                "after an abort, restarts are held.",
                "argo/README.md; `platform_rollout` in the policy.",
            ),
            _event(
                "fleet_moved",
                (Level.INFO, Level.WARNING),
                "before phase base unhealthy suspected",
                "The fleet is seen in another way: calm, storm (nothing is restarted), or probing (canaries). A "
                "warning unless it is calm again.",
                "docs/runbook.md, SfHealerStorm.",
            ),
            _event(
                "limits_changed",
                Level.INFO,
                "worker limits",
                "From here on admission goes by other limits: those in the policy file of the worker that reads the "
                "steps log. `limits` are the ones that changed.",
            ),
            _event(
                "notification_lost",
                Level.WARNING,
                "kind job id reason",
                "A notification was not delivered: the webhook gave no answer or a bad one, too many wait "
                "(`queue_full`), or the worker stopped. Restarts go on. The outcome is on `healer-outcomes`.",
                "Try the webhook with curl; `sf_healer_notifications_total` has the reasons.",
            ),
            _event(
                "event_not_emitted",
                Level.INFO,
                "job reason kind error",
                "The Kubernetes Event `reason` about a Job could not be created. The restart does not depend on it.",
                "`forbidden`: give the actuator `create events` (manifests/rbac).",
            ),
            _event(
                "steps_log_taken_over",
                Level.INFO,
                "worker open_actions",
                "This worker reads the steps log from now on, and goes on with what is under way.",
            ),
            _event("steps_log_dropped", Level.INFO, "", "Another worker reads the steps log from now on."),
            _event(
                "command_unreadable",
                Level.ERROR,
                "reason detail",
                "A record of `healer-actions` or `sf-healer-control` is none, or is larger than any (`too_large`); it "
                "goes to the dead letters.",
                "Find who wrote it: only the detector and people should have the right.",
            ),
            _event(
                "steps_record_unreadable",
                Level.ERROR,
                "offset reason detail",
                "A record of the steps log is none, and is passed over.",
                "Find who wrote it: only workers should have the right (docs/security.md).",
            ),
            _event(
                "call_crashed",
                Level.CRITICAL,
                "error",
                "A call beside the steps log raised what nobody expects, or its result could not be sent. The process "
                "ends, and the next one goes on.",
                "A Kafka error: look at the brokers. Anything else is a fault of ours: report it.",
            ),
        ),
    ),
    Section(
        "Reports and the cluster",
        (
            _event(
                "mark_failed",
                Level.WARNING,
                "error",
                "The broker did not say how far the source reaches; no verdict is reached until it does.",
                "If it goes on: the brokers, and `sf-healer doctor`.",
            ),
            _event(
                "no_marks",
                Level.ERROR,
                "reason",
                "No marks are made, and this is what the broker lacks (the way in, a right, a topic).",
                "Mend what `reason` names; `sf-healer doctor` has the command.",
            ),
            _event(
                "offset_reset",
                Level.WARNING,
                "partition lost",
                "Records of the source were deleted before they were read. It counts as a feed gap.",
                "Lengthen the retention of the source topic beyond the time that workers are away.",
            ),
            _event(
                "tail_lost",
                Level.WARNING,
                "partition lost",
                "The source ends so many records before where it ended: its leader died with what it alone had. It "
                "counts as a feed gap.",
                "More replicas than min.insync.replicas, or producers with acks=all.",
            ),
            _event(
                "jobs_listed",
                Level.INFO,
                "jobs version",
                "All Jobs of the namespace were listed; a watch goes on from there.",
            ),
            _event(
                "list_failed",
                Level.WARNING,
                "kind error retry_seconds",
                "The Jobs could not be listed. Reports are judged by what was known before.",
                "`forbidden`: manifests/rbac. Otherwise the API server.",
            ),
            _event(
                "reports_wait",
                Level.WARNING,
                "partitions kind error",
                "Reports name a Job that nobody knows, and the Jobs cannot be listed: so many source partitions wait, "
                "and nobody is judged meanwhile.",
                "As for `list_failed`.",
            ),
            _event(
                "reports_go_on",
                Level.INFO,
                "",
                "The Jobs are listed again: the reports that waited for it are told.",
            ),
            _event(
                "watch_broken",
                Level.INFO,
                "kind error",
                "A watch of Jobs or pods broke, which they do every now and then; a list follows.",
            ),
            _event(
                "facts_not_sent",
                Level.WARNING,
                "error",
                "What is known of the Jobs could not be put on the evidence log; everything is told again.",
                "If it goes on: the brokers.",
            ),
        ),
    ),
    Section(
        "The worker",
        (
            _event("worker_starts", Level.INFO, "role mode apps", "All that a worker needs is there, and it begins."),
            _event(
                "not_ready",
                Level.ERROR,
                "problem retry_seconds",
                "Something is missing before the start; the worker waits and looks again. One line a problem.",
                "Do what `problem` says.",
            ),
            _event("stopped_while_waiting", Level.INFO, "", "It was told to stop before it began."),
            _event(
                "group_not_joined",
                Level.ERROR,
                "app reason",
                "The consumer group turns this worker away, and waiting will not mend it.",
                "Do what `reason` says.",
            ),
            _event(
                "stalled",
                Level.CRITICAL,
                "app problems",
                "Something with work to do has stood still for a minute. The process ends; a new one is started.",
                "If it comes back: the brokers, then CPU limits; the `problems` say what stood still.",
            ),
            _event(
                "stop_hangs",
                Level.CRITICAL,
                "",
                "A stop took longer than 8 s, as it does while the broker is away, and the process ends with 1. "
                "What it had in hand is read again.",
            ),
            _event(
                "worker_crashed",
                Level.ERROR,
                "",
                "The worker ended by an error, in `exception`. Nothing is lost: its offsets stayed.",
                "If it comes back, report it with the line.",
            ),
            _event(
                "peer_unreachable",
                Level.INFO,
                "peer error",
                "Another worker did not answer for a page; the page says which Jobs are missing.",
                "If it goes on: WEB_ADVERTISED_URL, NetworkPolicy.",
            ),
            _event(
                "kafka_login_changed",
                Level.INFO,
                "user",
                "The files of the login or the CA hold something new; the next connection uses it.",
            ),
            _event(
                "kafka_login_unreadable",
                Level.WARNING,
                "reason",
                "A file of the login or the CA cannot be used now; what was in it before is.",
                "Mend the Secret before the next start: then it is a wrong setting.",
            ),
            _event(
                "policy_changed",
                Level.INFO,
                "file before version policies",
                "The policy file holds other policies, and they hold from now on; `version` names the content.",
            ),
            _event(
                "policies_followed",
                Level.INFO,
                "partition jobs",
                "All Jobs of an evidence partition are judged anew, by the policies that hold now.",
            ),
            _event(
                "policy_refused",
                Level.ERROR,
                "file version reason",
                "The policy file cannot be used as it is now; the policies that held, of `version`, still do.",
                "Mend the file (`sf-healer policy check`): no worker can be started with it. docs/runbook.md, "
                "SfHealerPolicyRefused.",
            ),
            _event(
                "policy_accepted",
                Level.INFO,
                "file version",
                "What was wrong with the policy file is not any more.",
            ),
            _event(
                "retrying",
                Level.WARNING,
                "reason retry wait_seconds",
                "A call failed and is tried again.",
                "If it goes on: what `reason` names.",
            ),
        ),
    ),
    Section(
        "Tables and the transport",
        (
            _event("restore_begins", Level.INFO, "records", "Tables are restored from this many changelog records."),
            _event(
                "restore_progress",
                Level.INFO,
                "records remaining seconds_left",
                "How far a restore is; `seconds_left` is null while nothing has come.",
            ),
            _event("restored", Level.INFO, "records seconds", "The tables are restored."),
            _event("rebalanced_while_restoring", Level.DEBUG, "", "Partitions moved meanwhile: it begins anew."),
            _event(
                "store_dropped",
                Level.WARNING,
                "table partition path error",
                "What the disk held of a table's partition was corrupted, and was thrown away: it is read again from "
                "the changelog, which has all of it.",
                "Again and again on one node: its disk, or its memory.",
            ),
            _event(
                "store_ahead",
                Level.CRITICAL,
                "topic partition persisted end",
                "The disk holds more of a changelog than the broker has: the topic was made anew, or has lost its end. "
                "The worker ends, for what it lacks may be a Job that is deleted and not made again.",
                "docs/operations.md, A changelog that lost what a worker has.",
            ),
            _event(
                "partition_rebuilt",
                Level.INFO,
                "partition jobs",
                "This worker judges the Jobs of an evidence partition from now on.",
            ),
            _event(
                "partition_dropped",
                Level.INFO,
                "partition",
                "It does not any more.",
                "Without a `partition_rebuilt` elsewhere: docs/runbook.md, SfHealerPartitionUnowned.",
            ),
            _event(
                "position_lost",
                Level.WARNING,
                "topic partition from_position to_position",
                "The broker no longer has the record that comes next, and reading goes on behind the gap.",
                "A changelog: nothing. Any other: retention is shorter than workers are away, or the topic was "
                "recreated.",
            ),
            _event(
                "reading_again",
                Level.INFO,
                "topic partition position",
                "A fetch was overtaken by a seek; what it brought is read again.",
            ),
            _event("revoked_meanwhile", Level.INFO, "topic partition", "It went to another worker instead."),
            _event(
                "left_as_former_self",
                Level.INFO,
                "group members",
                "After a crash this worker took its former self out of the group, instead of waiting for it to expire.",
            ),
            _event(
                "former_self_not_found",
                Level.WARNING,
                "group error",
                "It could not; the broker forgets the former self after the session timeout.",
            ),
        ),
    ),
)

EVENTS: tuple[LogEvent, ...] = tuple(event for section in SECTIONS for event in section.events)
