"""Times as people type them: `10m`, `90d`, or RFC 3339."""

from __future__ import annotations

import re
import time

from schemas.envelope import parse_time
from schemas.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EXAMPLES = "90s, 10m, 2h, 1d, or 2026-11-21T10:00:00Z"


def parse_duration(text: str, option: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `1d` or `0`. Raises ConfigurationError naming the option."""
    found = _duration(text)
    if found is None:
        raise ConfigurationError(f"{option} {text}: not a duration", hint="90s, 10m, 2h, 1d, or 0")
    return found


def parse_since(text: str | None) -> float | None:
    """Seconds since 1970 of `10m` (that long ago) or of an RFC 3339 time. Raises ConfigurationError."""
    return None if text is None else _moment(text, "--since", -1)


def parse_expiry(text: str | None) -> float | None:
    """Seconds since 1970 of `90d` (from now on) or of an RFC 3339 time. Raises ConfigurationError."""
    return None if text is None else _moment(text, "--expires", 1)


def _duration(text: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])|0", text)
    if match is None:
        return None
    return float(match[1]) * _UNITS[match[2]] if match[1] else 0.0


def _moment(text: str, option: str, sign: int) -> float:
    duration = _duration(text)
    if duration is not None:
        return time.time() + sign * duration
    try:
        return parse_time(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text}: not a time", hint=_EXAMPLES) from None
