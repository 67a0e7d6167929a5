"""The evidence partition of a Job must be the one that any Java client would choose for the same key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.partitioning import murmur2, partition_of

# From Apache Kafka's own UtilsTest.testMurmur2, where they are signed 32-bit numbers.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("data", "signed"), JAVA.items())
def test_murmur2_gives_the_numbers_of_the_java_client(data, signed):
    assert murmur2(data) == signed & 0xFFFFFFFF


def test_murmur2_of_nothing_is_the_hash_of_the_seed():
    # Computed from the published algorithm by hand: h = seed; h ^= h >> 13; h *= m; h ^= h >> 15.
    h = 0x9747B28C
    h ^= h >> 13
    h = (h * 0x5BD1E995) & 0xFFFFFFFF
    assert murmur2(b"") == h ^ (h >> 15)


@pytest.mark.parametrize(
    ("key", "partitions", "partition"),
    [("21", 10, (-973932308 & 0x7FFFFFFF) % 10), ("abc", 6, 479470107 % 6), ("foobar", 1, 0)],
)
def test_a_key_goes_where_the_default_partitioner_puts_it(key, partitions, partition):
    assert partition_of(key, partitions) == partition


@given(st.binary())
def test_the_hash_is_an_unsigned_32_bit_number(data):
    assert 0 <= murmur2(data) <= 0xFFFFFFFF


@given(st.text(), st.integers(1, 1000))
def test_every_key_has_a_partition(key, partitions):
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    assert 0 <= partition_of(key, partitions) < partitions
