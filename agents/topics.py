"""The topics as each Faust app sees them. Raw bytes everywhere: the encodings are the core's."""

from sf_healer import topics
from sf_healer.app import actuator, detector, settings
from sf_healer.transport import BatchLimits, batched_topic

#: A batch blocks the event loop while it is folded (about 1 µs a report, 10 µs an evidence record), and marks
#: wait meanwhile.
REPORTS_IN_A_BATCH = 5_000
EVIDENCE_IN_A_BATCH = 500

# ---- the detector's
reports = batched_topic(
    detector, settings.source_topic, limits=BatchLimits(max_records=REPORTS_IN_A_BATCH), partitions=None
)
evidence_log = batched_topic(detector, topics.EVIDENCE, limits=BatchLimits(max_records=EVIDENCE_IN_A_BATCH))
stop_commands = batched_topic(detector, settings.control_topic)
commands = detector.topic(topics.ACTIONS, key_type=bytes, value_type=bytes)
counts = detector.topic(topics.STEPS, key_type=bytes, value_type=bytes)
dead_letters = detector.topic(topics.DEAD_LETTERS, key_type=bytes, value_type=bytes)

# ---- the actuator's
healer_actions = actuator.topic(topics.ACTIONS, key_type=bytes, value_type=bytes)
steps = actuator.topic(topics.STEPS, key_type=bytes, value_type=bytes)
outcomes = actuator.topic(topics.OUTCOMES, key_type=bytes, value_type=bytes)
evidence = actuator.topic(topics.EVIDENCE, key_type=bytes, value_type=bytes)
pauses = actuator.topic(topics.CONTROL, key_type=bytes, value_type=bytes)
