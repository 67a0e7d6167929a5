"""Which evidence partition a Job lives on: Kafka's murmur2, equal to the Java client's default partitioner.

The number is computed by us, never left to a client library: librdkafka's default hashes differently and
would put a Job's evidence and its table entry on different workers.
"""

from functools import lru_cache
from struct import unpack

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_MASK = 0xFFFFFFFF
#: The Jobs of a few batches: where a Job's reports go is kept with its name (core/combine.py).
_CACHED_JOBS = 20_000


def murmur2(data: bytes) -> int:
    """Hash as `org.apache.kafka.common.utils.Utils.murmur2` does, as an unsigned 32-bit number."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for word in unpack(f"<{length >> 2}I", data[:whole]):
        k = (word * _M) & _MASK
        k ^= k >> _R
        k = (k * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=_CACHED_JOBS)
def partition_of(key: str, partitions: int) -> int:
    """Return the evidence partition of the Job `namespace/name` among `partitions`."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
