"""Times as people type them."""

from __future__ import annotations

import time

import pytest

from schemas.errors import ConfigurationError
from streams.cli.times import parse_duration, parse_expiry, parse_since


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5d", 129_600), ("0h", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    """A number with its unit; nothing at all is plain 0."""
    assert parse_duration(text, "--overlap") == seconds


@pytest.mark.parametrize("text", ["", "10", "d", "-1d", "1w", "1 d", "1d ", "1e3s", "2026-01-01"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, with the option that it was given to."""
    with pytest.raises(ConfigurationError, match="--overlap"):
        parse_duration(text, "--overlap")


def test_before_and_after_now() -> None:
    """`--since` counts back, `--expires` ahead; a time is a time for both, without a zone UTC."""
    now = time.time()
    assert parse_since("10m") == pytest.approx(now - 600, abs=5)
    assert parse_expiry("90d") == pytest.approx(now + 90 * 86_400, abs=5)
    for parse in (parse_since, parse_expiry):
        assert parse(None) is None
        assert parse("1970-01-02") == 86_400
        assert parse("1970-01-01T01:00:10+01:00") == 10


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "24:00"])
def test_what_is_no_time(text: str) -> None:
    """It is refused, with the option and examples."""
    with pytest.raises(ConfigurationError, match="--expires") as told:
        parse_expiry(text)
    assert "90s" in told.value.hint
