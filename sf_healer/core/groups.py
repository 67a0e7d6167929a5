"""Is a silent consumer idle? What its own consumer group shows, and the one function that decides.

The platform's consumers report every 100 records and never end, so one whose topic is drained looks exactly
like one that hangs. Its data consumer group tells them apart. Nothing is asked here: adapters/groups.py brings
the facts, a record of the steps log carries them, and core/actuator.py acts on what they say.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from ipaddress import ip_address

import msgspec

from sf_healer.core.facts import JobFact
from sf_healer.core.wire import Count, Offset

#: A command names the addresses of so many other Jobs of a queue at most: it is a record, and many may be held.
MOST_NEIGHBOURS = 64

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


class Neighbours(msgspec.Struct, frozen=True, omit_defaults=True):
    """The other Jobs of a Job's queue: how many of them are consumers, and the addresses of the pods of them all."""

    consumers: Count = 0
    addresses: tuple[str, ...] = ()


class Elsewhere(msgspec.Struct, frozen=True):
    """A Job is a member of no group of its queue, and this is how we know."""

    why: str


class GroupLook(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one look at a Job's own group showed.

    `committed` is the sum of the group's committed offsets on the Job's topic, `lag` what lies beyond them, in
    records. `unknown` says why there is no answer, `elsewhere` why the Job is in no group; then the numbers mean
    nothing.
    """

    group: str = ""  # "": the queue has none, or the Job is in none of them
    members: Count = 0
    committed: Offset = 0
    lag: Offset = 0
    unknown: str = ""
    elsewhere: str = ""


def address_of(client_host: str) -> str:
    """Write a member's address as Kubernetes writes a pod's; a broker says `/10.0.0.1`, and IPv6 with all its zeros."""
    host = client_host.removeprefix("/")
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return host  # a name


def candidates(names: Iterable[str], queue_id: str) -> tuple[str, ...]:
    """Give the groups that may be a queue's data consumers, sorted."""
    suffix = f"{_GROUP_INFIX}{queue_id}"
    return tuple(sorted(name for name in names if queue_id and name.endswith(suffix) and name != suffix))


def neighbours_of(key: str, queue: Iterable[JobFact], is_consumer: Callable[[JobFact], bool]) -> Neighbours | None:
    """Say where the other Jobs of a Job's queue run, and how many may have groups there; None if they are too many."""
    others = [fact for fact in queue if fact.key != key]
    if len(others) > MOST_NEIGHBOURS:
        return None
    return Neighbours(
        consumers=sum(map(is_consumer, others)), addresses=tuple(sorted({fact.pod_ip for fact in others} - {""}))
    )


def own_group(groups: Iterable[Group], pod_ip: str, neighbours: Neighbours | None) -> Group | Elsewhere | str | None:
    """Choose the group of the Job whose pod has this address; a text says why none can be chosen, None: there is none.

    All consumers of a queue share its id, so it is the one with a live member at the pod's address. Where no group has
    one, those are left out that live at addresses of the queue's other Jobs: if no other is alive, the Job is a member
    of none. A broker may know members by other addresses than the cluster does (a NAT, names): then the only group
    is that of the only consumer, and of several nothing is known.
    """
    known = tuple(groups)
    alive = [group for group in known if group.hosts]
    if not alive:
        return (
            known[0] if len(known) == 1 else Elsewhere(f"none of {_named(known)} has a live member") if known else None
        )
    here = [group for group in alive if pod_ip and pod_ip in group.hosts]
    elsewhere = frozenset(() if neighbours is None else neighbours.addresses)
    strangers = [group for group in alive if not elsewhere.issuperset(group.hosts)]
    if pod_ip and not here and not strangers:
        return Elsewhere(f"all live members of {_named(alive)} are at addresses of other Jobs of the queue")
    # Without a cluster nobody knows of either, and nothing can be touched.
    is_only_consumer = not pod_ip if neighbours is None else not neighbours.consumers
    if len(known) == 1 and is_only_consumer:
        return known[0]
    if len(here) == 1 and pod_ip not in elsewhere:
        return here[0]
    return f"which group is its own cannot be told: {_why_untold(here, strangers, pod_ip)}"


def _why_untold(here: Sequence[Group], strangers: Sequence[Group], pod_ip: str) -> str:
    if len(here) == 1:
        return f"other Jobs of the queue have the address {pod_ip} too"
    if here:
        return f"{_named(here)} have a live member at {pod_ip}"
    if not pod_ip:
        return "the address of its own pod is not known"
    return f"{_named(strangers)} has live members of which nobody knows whose they are, and none is at {pod_ip}"


def _named(groups: Iterable[Group]) -> str:
    return ", ".join(group.name for group in groups)


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
    if look.elsewhere:
        return f"it is in no consumer group: {look.elsewhere}"
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
