"""Faults as data: which of them a seed has, and how often. Each seed draws a subset (swarm testing), for faults that
are always all on hide what a few of them do together."""

import random

import msgspec


class Faults(msgspec.Struct, kw_only=True):
    """Rates are per hour, chances per occasion, all 0 where a seed does not have the fault."""

    # -- workers
    kills: float = 0.0
    death_at_a_point: float = 0.0  # chance, at each send, store and commit
    stops: float = 0.0  # SIGSTOP for up to two minutes
    stop_at_a_point: float = 0.0  # chance of one, at each send, store and commit
    rebalances: float = 0.0
    all_down: float = 0.0
    crash_loop: float = 0.0  # one and the same worker is killed again and again, in the calm as well
    disk_lost: float = 0.0  # chance at a restart
    slow_batches: float = 0.0  # seconds for each batch
    # -- broker
    outages: float = 0.0
    latency_seconds: float = 0.0  # a slow network: each way takes up to so much longer
    clock_steps: float = 0.0
    clock_leaps: float = 0.0  # one record is hours ahead
    leader_skew_seconds: float = 0.0
    retention: float = 0.0
    topic_anew: float = 0.0
    disks_lost: float = 0.0  # a source partition's offsets start over
    evidence_lost: float = 0.0  # an evidence partition's offsets start over
    too_few_replicas: float = 0.0  # what a source partition takes cannot be read for a while, and some of it is lost
    partition_added: float = 0.0
    control_records: float = 0.0
    backlog_seconds: float = 0.0  # how long the platform ran before the healer came
    # -- telemetry
    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 5.0
    garbage: float = 0.0
    telemetry_outages: float = 0.0
    mirror_stops: float = 0.0  # reports come up to hours late, dated as they were said
    producer_skew_seconds: float = 0.0
    producer_clock_steps: float = 0.0
    storms: float = 0.0
    # -- cluster
    api_chance: float = 0.0
    api_outages: float = 0.0
    api_outages_of_one: float = 0.0  # one worker cannot reach it, the others can
    watch_breaks: float = 0.0
    create_refused: float = 0.0
    admission_policies: float = 0.0  # each refuses creates for a while
    overlooked: float = 0.0
    pending_long: float = 0.0
    lingering: float = 0.0
    dead_nodes: float = 0.0
    done_at_last: float = 0.0  # chance, when a delete of a Job has given no answer
    api_skew_seconds: float = 0.0
    # -- people and the platform
    pauses: float = 0.0
    skips: float = 0.0
    suspends: float = 0.0
    removals: float = 0.0
    replacements: float = 0.0
    namesakes: float = 0.0  # chance, when a Job of the healer's is gone
    stop_commands: float = 0.0
    policy_changes: float = 0.0  # each worker follows in its own time


_FULL = {
    "kills": (1.0, 8.0),
    "death_at_a_point": (0.0002, 0.003),
    "stops": (1.0, 6.0),
    "stop_at_a_point": (0.0002, 0.003),
    "rebalances": (1.0, 6.0),
    "all_down": (0.5, 1.5),
    "disk_lost": (0.3, 1.0),
    "slow_batches": (0.5, 8.0),
    "outages": (0.5, 3.0),
    "latency_seconds": (0.02, 0.25),
    "clock_steps": (0.5, 2.0),
    "clock_leaps": (0.5, 2.0),
    "leader_skew_seconds": (0.05, 1.0),
    "retention": (0.5, 2.0),
    "topic_anew": (0.5, 1.0),
    "disks_lost": (0.5, 2.0),
    "evidence_lost": (0.5, 2.0),
    "too_few_replicas": (0.5, 4.0),
    "partition_added": (0.5, 1.0),
    "control_records": (5.0, 60.0),
    "backlog_seconds": (300.0, 3600.0),
    "drop": (0.001, 0.05),
    "duplicate": (0.01, 0.2),
    "delay": (0.01, 0.2),
    "delay_seconds": (1.0, 40.0),  # then a producer gives up
    "garbage": (5.0, 60.0),
    "telemetry_outages": (0.5, 2.0),
    "mirror_stops": (0.5, 2.0),
    "producer_skew_seconds": (0.5, 120.0),
    "producer_clock_steps": (0.5, 4.0),
    "storms": (0.5, 1.5),
    "api_chance": (0.02, 0.3),
    "api_outages": (0.5, 3.0),
    "api_outages_of_one": (0.5, 3.0),
    "watch_breaks": (1.0, 6.0),
    "create_refused": (0.05, 0.5),
    "admission_policies": (0.3, 1.5),
    "overlooked": (0.05, 0.4),
    "pending_long": (0.05, 0.3),
    "lingering": (0.05, 0.3),
    "dead_nodes": (1.0, 6.0),
    "done_at_last": (0.1, 0.5),
    "api_skew_seconds": (0.1, 2.0),
    "pauses": (0.5, 4.0),
    "skips": (0.5, 2.0),
    "suspends": (0.5, 2.0),
    "removals": (0.5, 2.0),
    "replacements": (0.5, 2.0),
    "namesakes": (0.1, 0.5),
    "stop_commands": (0.5, 4.0),
    "policy_changes": (0.5, 4.0),
}
#: Each fault is in a seed with this chance.
_SHARE = 0.35


def draw(seed: int) -> Faults:
    """Draw the faults of a seed; each from a stream of its own, so that a fault more changes no other."""
    share = random.Random(f"{seed}/share").choice((0.0, 0.15, _SHARE, _SHARE, 0.6))
    drawn = {name: random.Random(f"{seed}/{name}") for name in _FULL}
    return Faults(**{name: rng.uniform(*_FULL[name]) for name, rng in drawn.items() if rng.random() < share})
