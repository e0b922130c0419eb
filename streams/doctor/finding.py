"""One line of the doctor's report."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do where it is not well."""

    check: str
    level: Level
    says: str
    do: str = ""
