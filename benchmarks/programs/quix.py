"""The same with Quix Streams: repartition by Job, fold into a store with a changelog; no look at silence.

`python quix.py BOOTSTRAP TOPIC REPORTS APPLICATION STATE`. Default settings, at least once.
"""

import sys
from typing import Any

from marks import mark
from quixstreams import Application, State

BOOTSTRAP, TOPIC, REPORTS, APPLICATION, STATE = sys.argv[1:]
seen = {"read": 0, "folded": 0}
application = Application(
    broker_address=BOOTSTRAP,
    consumer_group=APPLICATION,
    auto_offset_reset="earliest",
    state_dir=STATE,
    processing_guarantee="at-least-once",
    loglevel="WARNING",
)


def read(report: dict[str, Any]) -> dict[str, Any]:
    """Note when the first report was read."""
    if not seen["read"]:
        mark("first")
    seen["read"] += 1
    return report


def key_of(report: dict[str, Any]) -> str:
    """Name the Job."""
    return report["queue_id"] + "/" + report["producer"].split("__", 1)[0]


def fold(report: dict[str, Any], state: State) -> dict[str, Any]:
    """Fold a report into what is known of its Job."""
    moment = report["sent_at"]
    job = state.get("job") or {"last_loading": moment, "status": report["status"], "reports": 0, "started": moment}
    if moment >= job["last_loading"]:
        job["last_loading"], job["status"] = moment, report["status"]
    job["reports"] += 1
    state.set("job", job)
    seen["folded"] += 1
    if seen["folded"] == int(REPORTS):
        mark("last")
        application.stop()
    return job


reports = application.topic(TOPIC, value_deserializer="json")
application.dataframe(reports).apply(read).group_by(key_of, name="job").apply(fold, stateful=True)
application.run()
