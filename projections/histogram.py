"""Quantiles from counts in logarithmic buckets: merged by adding, with a stated relative error.

Source: DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019), with unbounded buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

RELATIVE_ERROR = 0.01
"""A quantile lies within 1 % of the sample's value of that rank, for values above SMALLEST."""
SMALLEST = 1e-6
"""Values up to this count as zero: a millionth of the unit (of a millisecond: a nanosecond)."""
LARGEST = 1e300
"""Values above count as this one, so that a bucket's middle is still a number."""
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
_ZERO = math.ceil(math.log(SMALLEST) / _LOG_GAMMA)


def bucket_of(value: float) -> int:
    """The bucket of a value, at least 0: bucket i holds (g^(i-1), g^i], g = 1.01 / 0.99."""
    return _ZERO if value <= SMALLEST else math.ceil(math.log(min(value, LARGEST)) / _LOG_GAMMA)


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The value of rank q (0..1, lower of two) among the counted ones; None where there are none."""
    total = sum(counts.values())
    if not total:
        return None
    rank, passed = q * (total - 1), 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed > rank:
            break
    return 0.0 if bucket <= _ZERO else math.exp((bucket - 1) * _LOG_GAMMA) * 2 * _GAMMA / (_GAMMA + 1)
