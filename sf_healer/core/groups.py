"""Is a silent consumer idle? What its own consumer group shows, and the one function that decides.

The platform's consumers report every 100 records and never end, so one whose topic is drained looks exactly
like one that hangs. Its data consumer group tells them apart. Nothing is asked here: adapters/groups.py brings
the facts, a record of the steps log carries them, and core/actuator.py acts on what they say.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from sf_healer.core.wire import Count, Offset

#: The platform names the group of a data consumer `<service>-consumer-<QUEUE_ID>`; the service is not the target.
_GROUP_INFIX = "-consumer-"


class Idle(StrEnum):
    """Whether a silent consumer has nothing to do, as its own consumer group shows."""

    NOT_ASKED = "not_asked"  # no consumer, or not silent
    TO_ASK = "to_ask"
    BUSY = "busy"  # it has work and does none, or is not in its group: nothing excuses the silence
    IDLE = "idle"
    UNKNOWN = "unknown"


class Group(msgspec.Struct, frozen=True):
    """A consumer group as its coordinator describes it; `hosts` are its live members' addresses."""

    name: str
    hosts: tuple[str, ...] = ()


class GroupLook(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one look at a Job's own group showed.

    `committed` is the sum of the group's committed offsets on the Job's topic, `lag` what lies beyond them, in
    records. `unknown` says why there is no answer; then the numbers mean nothing.
    """

    group: str = ""  # "": the queue has none
    members: Count = 0
    committed: Offset = 0
    lag: Offset = 0
    unknown: str = ""


def candidates(names: Iterable[str], queue_id: str) -> tuple[str, ...]:
    """Give the groups that may be a queue's data consumers, sorted."""
    suffix = f"{_GROUP_INFIX}{queue_id}"
    return tuple(sorted(name for name in names if queue_id and name.endswith(suffix) and name != suffix))


def own_group(groups: Iterable[Group], pod_ip: str) -> Group | str | None:
    """Choose the group of the Job whose pod has this address; a text says why none can be chosen.

    One group of the queue is its own. Of several it is the one with a live member at the pod's address: all
    consumers of a queue share its id.
    """
    known = tuple(groups)
    if len(known) <= 1:
        return known[0] if known else None
    here = [group for group in known if pod_ip and pod_ip in group.hosts]
    if len(here) == 1:
        return here[0]
    names = ", ".join(group.name for group in (here or known))
    where = f"{'several have' if here else 'none has'} a live member at {pod_ip or 'an unknown address'}"
    return f"which group is its own cannot be told ({where}: {names})"


def is_idle(before: GroupLook | None, look: GroupLook) -> Idle:
    """Decide from this look and an earlier one of the same wait.

    TO_ASK: there is lag, and a second look must show whether the group works on it.
    """
    if look.unknown:
        return Idle.UNKNOWN
    if not look.members:
        return Idle.BUSY
    if not look.lag:
        return Idle.IDLE
    if before is None or before.unknown or before.group != look.group:
        return Idle.TO_ASK
    return Idle.IDLE if look.committed > before.committed else Idle.BUSY


def describe(before: GroupLook | None, look: GroupLook) -> str:
    """Say in words what the looks showed."""
    if look.unknown:
        return f"its consumer group cannot be judged: {look.unknown}"
    if not look.group:
        return "its queue has no consumer group"
    if not look.members:
        return f"its group {look.group} has no live member"
    members = f"its group {look.group} has {look.members} live member{'s' if look.members > 1 else ''}"
    if not look.lag:
        return f"{members} and no lag"
    if before is None or before.group != look.group:
        return f"{members} and {look.lag} records of lag"
    moved = look.committed - before.committed
    return f"{members}, {look.lag} records of lag, and committed {moved or 'none'} between two looks"
