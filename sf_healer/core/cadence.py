"""How often a Job reports while it is well, learned from itself: a histogram, its p99, and the thresholds it gives.

Off by default (policy `learn_cadence`). An interval is between two beats, as they were said or as the evidence log has
them, whichever is longer: a backlog is read faster than it was said, and a producer may send seldom what it says often.
A batch holds one beat of a Job, so short ones are seen too long, which errs towards patience as well.
"""

import math

from sf_healer.core.policy import Policy

#: Buckets grow by a fourth root of two, 19 %: an interval is taken for up to that much longer than it was.
_PER_OCTAVE = 4
_LAST_BUCKET = 30 * _PER_OCTAVE  # 34 years: longer than any threshold may be
#: In this place older versions counted all intervals above 3,444 s, and nobody knows how long those were. It stays what
#: it was, and every histogram reaches up to it, for they may come back; what is longer has its place behind it.
_UNKNOWN = 12 * _PER_OCTAVE
#: Before this many intervals a Job's p99 says nothing, and the policy's threshold holds.
LEAST_SAMPLES = 100
#: Beyond this many, all counts are halved: what a Job did long ago fades.
_MOST_SAMPLES = 2000
_SHARE = 0.99
_FACTOR = 1.5


def learn(counts: list[int] | None, interval_seconds: float) -> list[int]:
    """Count one interval in which a Job was well; returns the histogram, which begins with the first."""
    counts = counts or [0] * (_UNKNOWN + 1)
    bucket = math.ceil(_PER_OCTAVE * math.log2(interval_seconds)) if interval_seconds > 1.0 else 0
    if bucket >= _UNKNOWN:
        bucket = _make_place(counts, bucket)
    counts[bucket] += 1
    if sum(counts) > _MOST_SAMPLES:
        counts = [count // 2 for count in counts]
    return counts


def _make_place(counts: list[int], bucket: int) -> int:
    """Give the place of a bucket behind the unknown, one of which it stands for from now on."""
    place = min(bucket, _LAST_BUCKET) + 1
    counts.extend([0] * (place + 1 - len(counts)))
    counts[_UNKNOWN] -= counts[_UNKNOWN] > 0
    return place


def p99_seconds(counts: list[int] | None) -> float | None:
    """Give what 99 of 100 intervals do not exceed, rounded up to a bucket.

    None before there are enough; infinite where it is one whose length nobody knows.
    """
    if not counts:
        return None
    total = sum(counts)
    if total < LEAST_SAMPLES:
        return None
    seen, enough = 0, _SHARE * total
    for place, count in enumerate(counts):
        if place != _UNKNOWN:
            seen += count
            if seen >= enough:
                return float(2.0 ** ((place - (place > _UNKNOWN)) / _PER_OCTAVE))
    return math.inf


def silence_threshold(counts: list[int] | None, policy: Policy) -> float:
    """Give the silence threshold of a Job: the policy's, or its own once that has been learned."""
    p99 = p99_seconds(counts) if policy.learn_cadence else None
    if p99 is None:
        return policy.silence_threshold_seconds
    return min(max(_FACTOR * p99, policy.learn_floor_seconds), longest_learned(policy))


def longest_learned(policy: Policy) -> float:
    """Give the longest silence threshold that is learned: a silence that the policy itself allows makes nobody sick."""
    return max(policy.learn_ceiling_seconds, policy.silence_threshold_seconds)


def error_grace(counts: list[int] | None, policy: Policy) -> float:
    """Give the error grace of a Job: the policy's, or its silence threshold where that is what it goes by."""
    if policy.learn_cadence and policy.grace_is_silence_threshold:
        return silence_threshold(counts, policy)
    return policy.error_grace_seconds
