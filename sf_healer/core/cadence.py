"""How often a Job reports while it is well, learned from itself: a histogram, its p99, and the threshold it gives.

Off by default (policy `learn_cadence`). An interval is between two beats, as they were said or as the evidence log has
them, whichever is longer: a backlog is read faster than it was said, and a producer may send seldom what it says often.
A batch holds one beat of a Job, so short ones are seen too long, which errs towards patience as well.
"""

import math
from itertools import accumulate

from sf_healer.core.policy import Policy

#: Buckets grow by a fourth root of two, 19 %: an interval is taken for up to that much longer than it was.
_PER_OCTAVE = 4
_BUCKETS = 12 * _PER_OCTAVE + 1  # 1 s to 4,096 s
#: Before this many intervals a Job's p99 says nothing, and the policy's threshold holds.
LEAST_SAMPLES = 100
#: Beyond this many, all counts are halved: what a Job did long ago fades.
_MOST_SAMPLES = 2000
_SHARE = 0.99
_FACTOR = 1.5


def learn(counts: list[int] | None, interval_seconds: float) -> list[int]:
    """Count one interval in which a Job was well; returns the histogram, which begins with the first."""
    counts = counts or [0] * _BUCKETS
    bucket = math.ceil(_PER_OCTAVE * math.log2(interval_seconds)) if interval_seconds > 1.0 else 0
    counts[min(bucket, _BUCKETS - 1)] += 1
    if sum(counts) > _MOST_SAMPLES:
        counts = [count // 2 for count in counts]
    return counts


def p99_seconds(counts: list[int] | None) -> float | None:
    """Give what 99 of 100 intervals do not exceed, rounded up to a bucket; None before there are enough."""
    if not counts:
        return None
    total = sum(counts)
    if total < LEAST_SAMPLES:
        return None
    upto = accumulate(counts)
    bucket = next(bucket for bucket, seen in enumerate(upto) if seen >= _SHARE * total)
    return float(2.0 ** (bucket / _PER_OCTAVE))


def silence_threshold(counts: list[int] | None, policy: Policy) -> float:
    """Give the silence threshold of a Job: the policy's, or its own once that has been learned."""
    p99 = p99_seconds(counts) if policy.learn_cadence else None
    if p99 is None:
        return policy.silence_threshold_seconds
    return min(max(_FACTOR * p99, policy.learn_floor_seconds), policy.learn_ceiling_seconds)
