"""What a check gives: lines that say how something is, and what mends it."""

from enum import StrEnum

import msgspec


class State(StrEnum):
    """How something is."""

    OK = "ok"
    WRONG = "wrong"
    TOO_MUCH = "too-much"  # we may do what we need not
    WARNING = "warning"  # worth a look, and no fault
    UNKNOWN = "unknown"  # nobody tells; no fault found
    UNREACHABLE = "unreachable"


class About(StrEnum):
    """What a finding is about, in the order in which they are shown."""

    VERSIONS = "versions"
    POLICY = "policy"
    BROKER = "broker"
    ACLS = "acls"
    TOPICS = "topics"
    CLUSTER = "cluster"
    RBAC = "rbac"
    CLOCKS = "clocks"
    WORKER = "worker"


class Finding(msgspec.Struct, frozen=True):
    """One line; `fix` is a command, or where there is none what to do."""

    about: About
    state: State
    what: str
    fix: str = ""
