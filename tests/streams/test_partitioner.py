"""Keys land in the partition that Kafka's own clients choose."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from streams.producing.partitioner import murmur2, partition_for


@given(st.binary(max_size=300))
def test_the_hash_equals_aiokafkas(data: bytes) -> None:
    """Every byte string hashes as in aiokafka, whose hash is tested against Java's."""
    assert murmur2(data) == reference(data)


def test_published_values() -> None:
    """The hashes equal those in the tests of Apache Kafka (UtilsTest.testMurmur2), as unsigned numbers."""
    published = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {k: murmur2(k) for k in published} == {k: v & 0xFFFFFFFF for k, v in published.items()}


@given(st.binary(min_size=1, max_size=64), st.integers(min_value=1, max_value=1024))
def test_the_partition_equals_aiokafkas(key: bytes, count: int) -> None:
    """Any key and any partition count give aiokafka's default partition, remembered or not."""
    partitions = list(range(count))
    expected = DefaultPartitioner()(key, partitions, partitions)
    assert partition_for(key, count) == partition_for(key, count) == expected
