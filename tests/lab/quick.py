"""For clients of the embedded broker: a group is joined in a second or two, a record seen in milliseconds."""

QUICK_SESSION_TIMEOUT_SECONDS = 1.0
QUICK_HEARTBEAT_SECONDS = 0.2
QUICK_FETCH_MAX_WAIT_SECONDS = 0.02
