"""The topics as each Faust app sees them. Raw bytes everywhere: the encodings are the core's."""

import faust
from faust.types import TopicT

from sf_healer import topics
from sf_healer.app import actuator, detector, settings
from sf_healer.transport import BatchLimits, batched_topic

#: A batch blocks the event loop while it is folded (about 1 µs a report, 10 µs an evidence record), and marks
#: wait meanwhile.
REPORTS_IN_A_BATCH = 5_000
EVIDENCE_IN_A_BATCH = 500
#: A record that tells of new Jobs is some 200 KB: two full fetches of each partition in hand would take 40 MB more.
EVIDENCE_BYTES_IN_A_BATCH = 512 * 1024


def _raw(app: faust.App, name: str) -> TopicT:
    """Declare a topic of bytes: Faust would take the values for JSON, and one that is none would end the worker."""
    return app.topic(name, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)


# ---- the detector's
reports = batched_topic(
    detector, settings.source_topic, limits=BatchLimits(max_records=REPORTS_IN_A_BATCH), partitions=None
)
evidence_log = batched_topic(
    detector,
    topics.EVIDENCE,
    limits=BatchLimits(max_records=EVIDENCE_IN_A_BATCH, max_bytes=EVIDENCE_BYTES_IN_A_BATCH),
)
stop_commands = batched_topic(detector, settings.control_topic)
commands = _raw(detector, topics.ACTIONS)
steps_of_detector = _raw(detector, topics.STEPS)
dead_letters = _raw(detector, topics.DEAD_LETTERS)

# ---- the actuator's
healer_actions = _raw(actuator, topics.ACTIONS)
steps = _raw(actuator, topics.STEPS)
outcomes = _raw(actuator, topics.OUTCOMES)
dead_letters_of_actuator = _raw(actuator, topics.DEAD_LETTERS)
evidence = _raw(actuator, topics.EVIDENCE)
pauses = _raw(actuator, topics.CONTROL)
