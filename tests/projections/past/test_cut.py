"""What `at` means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.past.cut import BadMoment, moment_of, shown, tails
from projections.position import encode
from tests.projections.past.conftest import BUCKET


@pytest.mark.parametrize(
    ("at", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T01:00:01+01:00", 1_000),
        ("1970-01-01T00:00:01", 1_000),
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.001001Z", 2),
        ("1969-12-31T23:59:59.9999Z", 0),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
        ("9999-12-31T23:59:59.999999-23:59", 253_402_387_140_000),
    ],
)
def test_a_time_is_the_first_millisecond_that_is_not_before_it(at: str, ms: int) -> None:
    """Kafka stamps milliseconds: what was stamped before the time is what was stamped before the next whole one."""
    assert moment_of(at) == ms


@pytest.mark.parametrize(
    "at",
    ["yesterday", "2026-13-01", "2026-11-22T02:00:00 01:00", "1700000000", "e30=e", "bm8", "-1", " ", "{}"],
)
def test_what_is_neither_is_refused(at: str) -> None:
    """Whatever is no time and no token is refused with what it may be."""
    with pytest.raises(BadMoment, match="RFC 3339"):
        moment_of(at)


def test_a_token_is_its_position() -> None:
    """A position token means the offsets in it."""
    assert moment_of(encode({"signals": {0: 7}})) == {"signals": {0: 7}}
    assert moment_of(encode({})) == {}


@given(ms=st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_time_that_we_show_is_understood(ms: int) -> None:
    """A time that an error proposes can be sent back."""
    assert moment_of(shown(ms)) == ms


@given(offset=st.integers(0, 10 * BUCKET))
def test_a_tail_is_smaller_than_a_bucket(offset: int) -> None:
    """What is read of a place begins where a bucket does, ends at the cut, and is less than a bucket."""
    for begin, end in tails({("signals", 0): offset}).values():
        assert end == offset
        assert begin % BUCKET == 0
        assert 0 < end - begin < BUCKET
