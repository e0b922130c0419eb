"""Quantiles within the stated error, merged by adding."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from projections.histogram import RELATIVE_ERROR, SMALLEST, bucket_of, quantile

VALUES = st.lists(st.floats(0, 1e300, allow_nan=False), min_size=1, max_size=200)


@given(VALUES, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_its_error(values: list[float], q: float) -> None:
    """The quantile differs from the sample's value of that rank by 1 % at most; the smallest are zero."""
    exact = sorted(values)[int(q * (len(values) - 1))]
    found = quantile(Counter(map(bucket_of, values)), q)
    assert found is not None
    assert abs(found - exact) <= max(RELATIVE_ERROR * exact * 1.0001, SMALLEST * 1.02)


@given(VALUES, VALUES)
def test_histograms_merge_by_adding(one: list[float], other: list[float]) -> None:
    """Buckets of two samples, added, are the buckets of both together."""
    apart = Counter(map(bucket_of, one)) + Counter(map(bucket_of, other))
    assert apart == Counter(map(bucket_of, one + other))


def test_no_values_have_no_quantile() -> None:
    """Where nothing was counted there is no quantile, rather than a zero."""
    assert quantile({}, 0.5) is None


def test_the_largest_float_has_a_bucket() -> None:
    """Even the largest finite value is counted, and its quantile is a number."""
    found = quantile({bucket_of(1.7e308): 1}, 0.5)
    assert found is not None
    assert 0.9e300 < found < 1.1e300
