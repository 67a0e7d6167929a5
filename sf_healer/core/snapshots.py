"""All Jobs of an evidence partition as records that a broker takes, however many there are.

The keys there can be are cut into stretches without a gap and without overlap, the first open to the left, the last
to the right. A stretch tells all of its own keys and of no other, so one that is lost, late or told twice is as
harmless as a whole snapshot would be.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sf_healer.core.evidence import Snapshot, SnapshotPart
from sf_healer.core.facts import JobFact

#: A record is cut before it grows beyond this: a quarter of what producers and brokers take as they come.
SNAPSHOT_BYTES = 256 * 1024
#: What msgpack adds to an entry at most: the head of its array and of two strings.
_ENTRY_HEAD_BYTES = 1 + 5 + 5
#: Envelope, tag, version, the head of the entries, and the heads of two bounds.
_RECORD_HEAD_BYTES = 64


class Stretch(NamedTuple):
    """The Jobs whose keys lie behind `after` up to and with `up_to`; None: no bound on that side."""

    facts: Sequence[JobFact]
    after: str | None
    up_to: str | None

    def record(self, version: int, present: tuple[tuple[str, str], ...]) -> Snapshot | SnapshotPart:
        """Say which of its Jobs, `(key, uid)`, a list of resourceVersion `version` held; the others are gone."""
        if self.after is None and self.up_to is None:
            return Snapshot(version, present)  # which workers of older versions read too
        return SnapshotPart(version, present, self.after, self.up_to)


def stretches(facts: Sequence[JobFact], *, limit_bytes: int = SNAPSHOT_BYTES) -> Iterator[Stretch]:
    """Cut facts, sorted by key and one for each key, so that the record of each stretch is within the limit.

    One Job that needs more than that has a stretch to itself. There is one stretch at least, of no Jobs if need be.
    """
    after: str | None = None
    first = 0
    size = _RECORD_HEAD_BYTES
    for number, fact in enumerate(facts):
        key_bytes = len(fact.key.encode())
        # The key once more: any Job may become the bound of its stretch, and of the next.
        entry = _ENTRY_HEAD_BYTES + key_bytes + len(fact.uid.encode())
        if number > first and size + entry + key_bytes > limit_bytes:
            up_to = facts[number - 1].key
            yield Stretch(facts[first:number], after, up_to)
            after, first = up_to, number
            size = _RECORD_HEAD_BYTES + len(up_to.encode())
        size += entry
    yield Stretch(facts[first:], after, None)
