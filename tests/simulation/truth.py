"""What really happened in the simulated world: known to the oracle alone, never to the code under test."""

from enum import StrEnum

import msgspec

from sf_healer.core.events import Kind


class Said(msgspec.Struct, gc=False):
    """One report of one process; `landed` is when the source log had it, None while or if it has not."""

    kind: Kind
    emitted: float
    finished: bool = False
    clock: float = 0.0  # what the producer's own clock said
    landed: float | None = None
    partition: int = -1
    offset: int = -1
    #: Dead-lettered, gone with the source's retention, or of a clock so slow that it looks like the last word of the
    #: incarnation before and nobody followed the source live: it may have become evidence, or not.
    doubtful: bool = False
    buried: bool = False  # dead-lettered: nobody will ever take the silence before it out


class MadeBy(StrEnum):
    PLATFORM = "platform"
    PERSON = "person"
    HEALER = "healer"


class Incarnation(msgspec.Struct, eq=False):
    """One Job of one uid, from its creation to its end."""

    key: str
    uid: str
    created: float
    made_by: MadeBy
    target: str
    queue_id: str
    managed: bool
    spec: str  # what must be the same after a restart
    said: list[Said] = []
    #: When a pod ran, (since, until or None).
    running: list[tuple[float, float | None]] = []
    #: The Job's own condition, (since, what).
    conditions: list[tuple[float, str]] = []
    gone: float | None = None
    deletion_asked: float | None = None
    removed_by: str = ""  # platform, person, ttl, healer
    skip_since: float | None = None
    managed_by: str = ""
    drained_since: float | None = None  # a consumer that has nothing to do

    def condition_at(self, at: float) -> str:
        """Return what Kubernetes said of the Job at a moment."""
        found = "none"
        for since, what in self.conditions:
            if since > at:
                break
            found = what
        return found
