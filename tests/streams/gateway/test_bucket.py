"""Token buckets that lend: the rate is kept in the long run, exactly, whatever is taken at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.gateway.bucket import Bucket


@given(
    rate=st.floats(0.5, 5_000),
    burst_s=st.floats(1, 10),
    sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=200),
    start=st.floats(0, 1e7),
)
def test_who_waits_whole_seconds_gets_the_rate(
    rate: float, burst_s: float, sizes: list[int], start: float
) -> None:
    """A client that takes until it is refused, then waits as Retry-After says, loses nothing and gains a burst."""
    burst = max(1.0, rate * burst_s)
    bucket = Bucket(rate, burst, start)
    elapsed, taken = 0.0, 0
    for size in sizes:
        elapsed += math.ceil(bucket.wait_s(start + elapsed))
        assert bucket.wait_s(start + elapsed) == 0, "it waited as long as it was told"
        bucket.take(size, start + elapsed)
        taken += size
    left = bucket.left(start + elapsed)
    assert taken == pytest.approx(burst + rate * elapsed - left, abs=1e-3), "nothing overflowed"
    assert -left <= max(sizes), "the debt is at most one request"


def test_a_rested_bucket_holds_its_burst_and_no_more() -> None:
    """However long nobody takes anything."""
    bucket = Bucket(10, 25, 0)
    assert bucket.left(1e9) == 25
    bucket.take(25, 1e9)
    assert bucket.wait_s(1e9) == 0, "nothing left is no debt"
    bucket.take(5, 1e9)
    assert bucket.wait_s(1e9) == pytest.approx(0.5)
    assert bucket.left(1e9 + 1) == 5


def test_a_changed_rate_counts_from_now_on() -> None:
    """What was owed stays owed, and is paid at the new rate; what was saved is cut at the new burst."""
    bucket = Bucket(10, 10, 0)
    bucket.take(30, 0)
    bucket.change(100, 500, 1)
    assert bucket.left(1) == -10
    assert bucket.wait_s(1) == pytest.approx(0.1)
    bucket.change(1, 2, 100)
    assert bucket.left(100) == 2
